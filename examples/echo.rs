//! An echo server, TCP and UDP on one port, without a copy: what comes in goes out of the same memory.
//!
//! ```text
//! cargo run --release --example echo -- --listen 127.0.0.1:7000
//! nc 127.0.0.1 7000
//! ```
//!
//! Any device serves: `DEMI_DEVICE=tap:demi0 DEMI_ADDRESS=10.0.0.2/24 echo --listen 10.0.0.2:7000`.
//! On ctrl-C it stops accepting, lets the connections it has finish for `--grace` seconds, and exits. `kill -USR1` makes it
//! print what it holds: connections, descriptors, packet buffers.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use clap::Parser;
use demi::net::{KeepAlive, TcpListener, TcpStream, UdpSocket};
use demi::signal::{Signal, SignalKind, ctrl_c, signal};
use demi::task::JoinSet;
use futures::future::{Either, select};

/// Echo server, TCP and UDP on one port.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7000")]
    listen: SocketAddr,
    /// Seconds that open connections get to finish after ctrl-C.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    grace: u64,
    /// Seconds after which a client that answers nothing is given up: by its system's silence if it owes us an
    /// acknowledgement, else by asking it. When left out, the device's own time, which is many minutes.
    #[arg(long, value_name = "SECONDS")]
    dead_after: Option<u64>,
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let dead_after = args.dead_after.map(Duration::from_secs);
    let listener = TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;
    let datagrams = match UdpSocket::bind(address).await {
        // Not every device carries datagrams.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            eprintln!("no datagrams: {error}");
            None
        }
        datagrams => Some(datagrams?),
    };
    let asked = signal(SignalKind::user_defined1())?;
    println!("listening on {address} ({})", listener.device());

    let udp = datagrams.map(|datagrams| demi::spawn(echo_datagrams(datagrams)));
    demi::spawn(tell_usage(asked));
    let mut connections = JoinSet::new();
    let mut ctrl_c = pin!(ctrl_c());
    loop {
        match select(ctrl_c.as_mut(), pin!(listener.accept())).await {
            Either::Left((signal, _)) => break signal?,
            Either::Right((Ok((stream, _peer)), _)) => {
                connections.spawn(echo(stream, dead_after));
                while connections.try_join_next().is_some() {}
            }
            // A connection that died in the queue, or no descriptor left: the next accept says whether it lasts.
            Either::Right((Err(error), _)) => {
                eprintln!("accept: {error}");
                demi::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }

    while connections.try_join_next().is_some() {}
    eprintln!("draining {} connections", connections.len());
    drop(listener);
    if let Some(udp) = udp {
        udp.abort();
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if demi::time::timeout(Duration::from_secs(args.grace), drained).await.is_err() {
        eprintln!("{} connections did not finish", connections.len());
    }
    Ok(())
}

/// Echoes until the peer closes its side, then closes ours. Errors end this connection only.
async fn echo(mut stream: TcpStream, dead_after: Option<Duration>) {
    let _ = stream.set_nodelay(true);
    if let Some(limit) = dead_after {
        let (idle, interval) = (limit / 2, limit / 4);
        let _ = stream.set_user_timeout(Some(limit));
        let _ = stream.set_keepalive(Some(KeepAlive { idle, interval, probes: 2 }));
    }
    while let Ok(Some(buf)) = stream.pop().await {
        if stream.push(buf).await.is_err() {
            break;
        }
    }
}

/// Echoes each datagram to its sender.
async fn echo_datagrams(socket: UdpSocket) {
    loop {
        match socket.pop_from().await {
            // The peer is gone, or its network is: nothing to do about one datagram.
            Ok((buf, peer)) => drop(socket.push_to(buf, peer).await),
            Err(error) => eprintln!("udp: {error}"),
        }
    }
}

/// Prints what the program holds, each time it is asked to.
async fn tell_usage(mut asked: Signal) {
    while asked.recv().await.is_some() {
        eprintln!("{}", demi::usage());
    }
}
