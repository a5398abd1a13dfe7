//! Sends a file (or standard input) over one TCP connection and waits until the peer has all of it.
//!
//! ```text
//! cargo run --release --example send -- --to 127.0.0.1:9000 FILE
//! ```

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Parser;
use demi::net::TcpStream;

/// Sends a file over TCP.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// Where to send it.
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddr,
    /// Seconds after which a peer that answers nothing is given up. When left out, the device's own time, which is many
    /// minutes.
    #[arg(long, value_name = "SECONDS")]
    dead_after: Option<u64>,
    /// The file; standard input when left out.
    file: Option<PathBuf>,
}

/// Bytes read from the file at once: they go out as one zero-copy buffer.
const CHUNK: usize = 64 * 1024;

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut input: Box<dyn Read> = match &args.file {
        Some(path) => Box::new(File::open(path).map_err(|error| anyhow!("{}: {error}", path.display()))?),
        None => Box::new(std::io::stdin()),
    };
    let mut stream = TcpStream::connect(args.to).await?;
    stream.set_user_timeout(args.dead_after.map(Duration::from_secs))?;
    let (start, mut sent) = (Instant::now(), 0u64);
    loop {
        let mut buf = stream.alloc(CHUNK).await?;
        let count = input.read(&mut buf.tail_mut()[..CHUNK])?;
        if count == 0 {
            break;
        }
        buf.grow(count);
        stream.push(buf.freeze()).await?;
        sent += count as u64;
    }
    stream.shutdown().await?;
    stream.drained().await?;
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("sent {sent} bytes in {seconds:.3} s ({:.3} Gbit/s)", sent as f64 * 8e-9 / seconds);
    Ok(())
}
