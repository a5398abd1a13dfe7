//! A relay. For UDP, each client that writes to `--listen` gets a port of its own towards `--to`, and the answers back, as a TURN
//! server or a NAT would do. For TCP (`--tcp`), each connection gets one of its own. Bytes are passed on without a copy.
//!
//! ```text
//! cargo run --release --example relay -- --listen 127.0.0.1:7001 --to 127.0.0.1:7000
//! ```
//!
//! The two sides may be of different devices: `--from` names the address that the side towards `--to` comes from, and the device that has
//! it carries that side. So a program that knows TCP alone reaches a server over RDMA; of a buffer that changes devices there is
//! one copy, into memory that the other one can send from.
//!
//! ```text
//! DEMI_DEVICE='posix;rdma:rxe0' cargo run --release --features rdma --example relay -- \
//!     --tcp --listen 127.0.0.1:6380 --from 10.77.0.1 --to 10.77.0.2:6379
//! redis-benchmark -p 6380 -t set,get
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use demi::net::{ReadHalf, TcpListener, TcpSocket, TcpStream, UdpSocket, WriteHalf};
use demi::task::JoinSet;
use demi::time::{sleep, timeout};
use futures::future::{Either, select, try_join};

/// Relay for UDP, or for TCP.
#[derive(Parser)]
#[command(
    after_help = "The devices are chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …, or several: posix;rdma:rxe0"
)]
struct Args {
    /// Relays TCP connections instead of UDP datagrams.
    #[arg(long)]
    tcp: bool,
    /// Address and port that clients reach.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7001")]
    listen: SocketAddr,
    /// Where what they send goes.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7000")]
    to: SocketAddr,
    /// An address of this machine that it goes from, over the device that has it; when left out, the way there decides.
    #[arg(long, value_name = "ADDR")]
    from: Option<IpAddr>,
    /// Seconds of silence after which a client of UDP is forgotten.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    idle: u64,
    /// Clients at most; datagrams of others are dropped, and their connections closed as they come.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
}

impl Args {
    /// Where the side towards `--to` comes from.
    fn local(&self) -> SocketAddr {
        let any = || match self.to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        (self.from.unwrap_or_else(any), 0).into()
    }
}

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match args.tcp {
        true => streams(&args).await,
        false => datagrams(&args).await,
    }
}

/// Relays connections until ctrl-C.
async fn streams(args: &Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen).await?;
    println!("listening on {} ({})", listener.local_addr()?, listener.device());
    let mut clients = JoinSet::new();
    let mut ctrl_c = pin!(demi::signal::ctrl_c());
    loop {
        match select(ctrl_c.as_mut(), pin!(listener.accept())).await {
            Either::Left((signal, _)) => return Ok(signal?),
            Either::Right((Ok((client, peer)), _)) => {
                while clients.try_join_next().is_some() {}
                if clients.len() < args.clients {
                    clients.spawn(relay(client, peer, args.local(), args.to));
                }
            }
            Either::Right((Err(error), _)) => {
                eprintln!("accept: {error}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Relays one connection: each side's end is the other's, and so is what breaks it.
async fn relay(mut client: TcpStream, peer: SocketAddr, local: SocketAddr, to: SocketAddr) {
    let mut server = match connect(local, to).await {
        Ok(server) => server,
        Err(error) => {
            eprintln!("for {peer}: {error}");
            return client.abort();
        }
    };
    // What one side sent at once does not wait here.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    if try_join(pass_on(from_client, to_server), pass_on(from_server, to_client)).await.is_err() {
        client.abort();
        server.abort();
    }
}

async fn connect(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind(local)?;
    socket.connect(to).await
}

/// Passes on what comes, and its end.
async fn pass_on(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    while let Some(buf) = from.pop().await? {
        to.push(buf).await?;
    }
    to.shutdown().await
}

/// The socket towards `--to` of each client.
type Clients = Rc<RefCell<HashMap<SocketAddr, Rc<UdpSocket>>>>;

/// Relays datagrams until ctrl-C.
async fn datagrams(args: &Args) -> anyhow::Result<()> {
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
            None => match open(args.local(), args.to).await {
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
async fn open(local: SocketAddr, to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local).await?;
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
    while let Ok(received) = timeout(idle, upstream.pop()).await {
        if let Ok(buf) = received {
            let _ = front.push_to(buf, client).await;
        }
    }
    clients.borrow_mut().remove(&client);
}
