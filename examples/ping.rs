//! Measures the round trip to an echo server, over TCP or UDP, from this program's memory to the other's and back.
//!
//! ```text
//! cargo run --release --example ping -- --to 127.0.0.1:7000 --count 10000 --interval-us 0
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use clap::Parser;
use demi::net::{TcpStream, UdpSocket};
use demi::time::{Instant, sleep, timeout};

/// Round-trip time to an echo server.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// The echo server.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7000")]
    to: SocketAddr,
    /// Address and port to use on this side.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Use UDP instead of TCP.
    #[arg(long)]
    udp: bool,
    /// Messages to send.
    #[arg(long, value_name = "N", default_value_t = 5)]
    count: u64,
    /// Bytes of each message.
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(8..=65_507))]
    size: u32,
    /// Microseconds between messages.
    #[arg(long, value_name = "US", default_value_t = 100_000)]
    interval_us: u64,
    /// Milliseconds to wait for each answer.
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    timeout_ms: u64,
    /// Print only the summary.
    #[arg(long, short)]
    quiet: bool,
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut peer = Peer::connect(&args).await?;
    let (mut sent, mut times) = (0u64, Vec::new());
    let mut message = vec![0u8; args.size as usize];
    while sent < args.count {
        message[..8].copy_from_slice(&sent.to_be_bytes());
        sent += 1;
        let start = Instant::now();
        match timeout(Duration::from_millis(args.timeout_ms), peer.round_trip(&message)).await {
            Ok(answer) => {
                answer?;
                let took = start.elapsed();
                times.push(took);
                if !args.quiet {
                    println!("{} bytes from {}: seq={sent} time={:.1} µs", args.size, args.to, micros(took));
                }
            }
            // A lost datagram is a result; a TCP stream that answers nothing for this long is broken.
            Err(_) if args.udp => println!("no answer from {}: seq={sent}", args.to),
            Err(_) => bail!("no answer from {} within {} ms", args.to, args.timeout_ms),
        }
        if args.interval_us > 0 && sent < args.count {
            sleep(Duration::from_micros(args.interval_us)).await;
        }
    }
    times.sort_unstable();
    let lost = sent - times.len() as u64;
    println!("{sent} sent, {} answered, {:.1} % loss", times.len(), 100.0 * lost as f64 / sent.max(1) as f64);
    if let (Some(min), Some(max)) = (times.first(), times.last()) {
        let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize]);
        let (min, max) = (micros(*min), micros(*max));
        println!(
            "min {min:.1} p50 {:.1} p99 {:.1} p99.9 {:.1} max {max:.1} µs",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
    if times.is_empty() { bail!("no answer at all") } else { Ok(()) }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

enum Peer {
    Tcp { stream: TcpStream, answer: Vec<u8> },
    Udp { socket: UdpSocket, answer: Vec<u8> },
}

impl Peer {
    async fn connect(args: &Args) -> anyhow::Result<Peer> {
        let answer = vec![0; args.size as usize];
        if args.udp {
            let any = if args.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let local = match args.listen {
                Some(local) => local,
                None => any.parse()?,
            };
            let socket = UdpSocket::bind(local).await?;
            socket.connect(args.to).await?;
            return Ok(Peer::Udp { socket, answer });
        }
        let stream = match args.listen {
            None => TcpStream::connect(args.to).await?,
            Some(local) => {
                let socket = match local {
                    SocketAddr::V4(_) => demi::net::TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => demi::net::TcpSocket::new_v6()?,
                };
                socket.bind(local)?;
                socket.connect(args.to).await?
            }
        };
        stream.set_nodelay(true)?;
        Ok(Peer::Tcp { stream, answer })
    }

    /// Sends `message` and waits for the same bytes. Not cancel safe over TCP: give the connection up after a timeout.
    async fn round_trip(&mut self, message: &[u8]) -> anyhow::Result<()> {
        match self {
            Peer::Tcp { stream, answer } => {
                stream.write_all(message).await?;
                stream.read_exact(answer).await?;
                if answer != message {
                    bail!("the answer differs from what was sent: is that an echo server?");
                }
            }
            Peer::Udp { socket, answer } => {
                socket.send(message).await?;
                // Late answers to earlier messages are passed over.
                while socket.recv(answer).await? != message.len() || answer != message {}
            }
        }
        Ok(())
    }
}
