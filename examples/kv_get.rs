//! GET out of a server's memory: reads small values of the example `kv` by one-sided READs over RDMA, while the server does something
//! else, and asks for the others.
//!
//! ```text
//! DEMI_DEVICE=rdma:rxe1 cargo run --release --features rdma --example kv -- --listen 10.77.0.2:6379 --published 65536
//! DEMI_DEVICE=rdma:rxe0 cargo run --release --features rdma --example kv_get -- --addr 10.77.0.2:6379 greeting
//! ```

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use demi_examples::kv::client::{Client, Source};

/// Reads keys of the example `kv` over RDMA, out of the server's memory where they are there.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: rdma:rxe0, …")]
struct Args {
    /// Address and port of the server.
    #[arg(long, value_name = "ADDR:PORT")]
    addr: SocketAddr,
    /// How often each key is read; its last value is printed.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// The keys. Their values go to standard output, a line each, and what is not there as (nil).
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut client = Client::connect(args.addr).await?;
    client.find_region().await.with_context(|| format!("REGION of {}", args.addr))?;
    let (mut by_memory, mut by_server) = (0u64, 0u64);
    let mut output = std::io::stdout().lock();
    for key in &args.keys {
        let mut value = None;
        for _ in 0..args.count {
            let source;
            (value, source) = client.get(key.as_bytes()).await?;
            match source {
                Source::Memory => by_memory += 1,
                Source::Server => by_server += 1,
            }
        }
        output.write_all(value.as_deref().unwrap_or(b"(nil)"))?;
        output.write_all(b"\n")?;
    }
    eprintln!("{by_memory} one-sided, {by_server} by the server, {} READs made again", client.torn());
    Ok(())
}
