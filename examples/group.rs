//! Talks in a multicast group: prints what others say there and, if told to, says something every now and then.
//!
//! ```text
//! cargo run --example group -- --group 239.1.2.3:5000 --say hello
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Parser;
use demi::net::UdpSocket;
use demi::time::timeout;

/// A voice in a multicast group.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// The group and its port.
    #[arg(long, value_name = "GROUP:PORT", default_value = "239.1.2.3:5000")]
    group: SocketAddr,
    /// Listen to this sender alone.
    #[arg(long, value_name = "ADDR")]
    source: Option<IpAddr>,
    /// What to say; nothing, unless told to.
    #[arg(long, value_name = "TEXT")]
    say: Option<String>,
    /// Milliseconds between two times that it is said.
    #[arg(long, value_name = "MS", default_value_t = 200)]
    every_ms: u64,
    /// Ends after it has heard so much; 0: never.
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let any = if args.group.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind(SocketAddr::new(any.parse()?, args.group.port())).await?;
    let any = std::net::Ipv4Addr::UNSPECIFIED;
    match (args.group.ip(), args.source) {
        (IpAddr::V4(group), None) => socket.join_multicast_v4(group, any)?,
        (IpAddr::V6(group), None) => socket.join_multicast_v6(&group, 0)?,
        (IpAddr::V4(group), Some(IpAddr::V4(source))) => socket.join_ssm_v4(source, group, any)?,
        (IpAddr::V6(group), Some(IpAddr::V6(source))) => socket.join_ssm_v6(&source, &group, 0)?,
        (group, Some(source)) => anyhow::bail!("{group} and {source} are of two IP versions"),
    }
    // What others say, and not our own voice.
    socket.set_multicast_loop_v4(false)?;
    if args.group.is_ipv6() {
        socket.set_multicast_loop_v6(false)?;
    }
    println!("listening on {} ({})", args.group, socket.device());
    let mut bytes = vec![0; 65_536];
    let mut heard = 0;
    while args.count == 0 || heard < args.count {
        if let Some(text) = &args.say {
            // A line, as other programs expect it.
            socket.send_to(format!("{text}\n").as_bytes(), args.group).await?;
        }
        let pause = Duration::from_millis(args.every_ms);
        while let Ok(received) = timeout(pause, socket.recv_from(&mut bytes)).await {
            let (count, from) = received?;
            println!("{from}: {}", String::from_utf8_lossy(&bytes[..count]).trim_end());
            heard += 1;
            if heard == args.count {
                break;
            }
        }
    }
    Ok(())
}
