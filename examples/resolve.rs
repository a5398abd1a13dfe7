//! Looks names up as `TcpStream::connect("name:port")` does, and with a port connects to them.
//!
//! ```text
//! cargo run --release --example resolve -- localhost example.com
//! cargo run --release --example resolve -- --connect 80 example.com
//! DEMI_DEVICE=tap:demi0 DEMI_ADDRESS=dhcp cargo run --release --example resolve -- example.com
//! ```

use anyhow::bail;
use clap::Parser;
use demi::net::{TcpStream, lookup_host};
use demi::time::Instant;

/// Looks names up.
#[derive(Parser)]
#[command(
    after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …; name servers by DEMI_DNS, \
                  else by the device's network, else by /etc/resolv.conf"
)]
struct Args {
    /// The names, without ports.
    #[arg(required = true)]
    names: Vec<String>,
    /// Connect to this port of each, and tell which address answered first.
    #[arg(long, value_name = "PORT")]
    connect: Option<u16>,
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // All at once: each lookup is a task.
    let lookups = args.names.into_iter().map(|name| demi::spawn(look_up(name, args.connect)));
    let mut failed = 0;
    for lookup in lookups.collect::<Vec<_>>() {
        if let Err(error) = lookup.await? {
            eprintln!("{error}");
            failed += 1;
        }
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} not found, or not reached"),
    }
}

async fn look_up(name: String, port: Option<u16>) -> std::io::Result<()> {
    let start = Instant::now();
    let addresses: Vec<_> =
        lookup_host((name.as_str(), 0)).await?.map(|address| address.ip().to_string()).collect();
    println!("{name}: {} ({:.1} ms)", addresses.join(" "), start.elapsed().as_secs_f64() * 1e3);
    if let Some(port) = port {
        let start = Instant::now();
        let stream = TcpStream::connect((name.as_str(), port)).await?;
        let took_ms = start.elapsed().as_secs_f64() * 1e3;
        println!("{name}: connected to {} ({took_ms:.1} ms)", stream.peer_addr()?);
    }
    Ok(())
}
