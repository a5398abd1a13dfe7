//! A UDP relay: each client that writes to `--listen` gets a port of its own towards `--to`, and the answers back, as a
//! TURN server or a NAT would do. Datagrams are passed on without a copy.
//!
//! ```text
//! cargo run --release --example relay -- --listen 127.0.0.1:7001 --to 127.0.0.1:7000
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use demi::net::UdpSocket;
use futures::future::{Either, select};

/// UDP relay.
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// Address and port that clients write to.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7001")]
    listen: SocketAddr,
    /// Where their datagrams go.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7000")]
    to: SocketAddr,
    /// Seconds of silence after which a client is forgotten.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle: u64,
    /// Clients at most; datagrams of others are dropped.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
}

/// The upstream socket of each client.
type Clients = Rc<RefCell<HashMap<SocketAddr, Rc<UdpSocket>>>>;

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let front = Rc::new(UdpSocket::bind(args.listen).await?);
    println!("listening on {} ({})", front.local_addr()?, front.device());
    let clients = Clients::default();
    let mut ctrl_c = pin!(demi::signal::ctrl_c());
    loop {
        let (buf, client) = match select(ctrl_c.as_mut(), pin!(front.pop_from())).await {
            Either::Left((signal, _)) => return Ok(signal?),
            Either::Right((Ok(datagram), _)) => datagram,
            Either::Right((Err(error), _)) => {
                eprintln!("receiving: {error}");
                continue;
            }
        };
        let known = clients.borrow().get(&client).cloned();
        let upstream = match known {
            Some(upstream) => upstream,
            None if clients.borrow().len() >= args.clients => continue,
            None => match open(args.to).await {
                Ok(upstream) => {
                    let upstream = Rc::new(upstream);
                    clients.borrow_mut().insert(client, upstream.clone());
                    demi::spawn(answers(
                        front.clone(),
                        upstream.clone(),
                        client,
                        clients.clone(),
                        Duration::from_secs(args.idle),
                    ));
                    upstream
                }
                Err(error) => {
                    eprintln!("a socket for {client}: {error}");
                    continue;
                }
            },
        };
        // UDP promises nothing, and neither do we: a datagram that cannot be sent is dropped.
        let _ = upstream.push(buf).await;
    }
}

/// A socket of its own towards `to`.
async fn open(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Passes what comes from upstream back to `client`, until nothing has come for `idle`.
async fn answers(
    front: Rc<UdpSocket>,
    upstream: Rc<UdpSocket>,
    client: SocketAddr,
    clients: Clients,
    idle: Duration,
) {
    // A refused datagram (nobody listens upstream yet) does not end the client's path.
    while let Ok(received) = demi::time::timeout(idle, upstream.pop()).await {
        if let Ok(buf) = received {
            let _ = front.push_to(buf, client).await;
        }
    }
    clients.borrow_mut().remove(&client);
}
