//! Ourselves: two stacks on the two ends of a wire in memory, under one runtime, through the public sockets.
//!
//! One executor drives both hosts, as one thread drives both of any peer here: a turn of its loop polls both stacks, runs
//! whoever was woken, and flushes both. `demi` moves owned buffers (`push`, `pop`), `demi read/write` copies into and out
//! of the caller's memory.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Instant;

use demi::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use demi::{Buf, Config, Runtime};
use demi_drivers::wire::{Wire, WireConfig};
use demi_drivers::{Device, PoolConfig, Transport};
use demi_netstack::{Limits, Stack, StackConfig};

use super::{BULK_BYTES, ECHO_BYTES, Echo, Protocol};
use crate::kit::Run;

/// How payload crosses the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// `push` and `pop` of owned buffers.
    Owned,
    /// `write_all` and `read`.
    Copied,
}

impl Style {
    /// What the peer is called.
    pub fn name(self) -> &'static str {
        match self {
            Style::Owned => "demi",
            Style::Copied => "demi read/write",
        }
    }
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const PORT: u16 = 7000;
/// Connections of one server port: fewer than a client has ports.
const PER_PORT: usize = 25_000;
/// Server ports of the connection bench: TIME_WAIT holds each pair of ports for a minute.
const CONNECT_PORTS: u16 = 200;
/// Echoes under way at a time in [`echo_at_once`].
pub const AT_ONCE: usize = 32;

/// A runtime with both hosts.
fn hosts(checksums: bool, sockets: usize) -> Runtime {
    let pool = PoolConfig { slots: 8192 + 2 * sockets, ..PoolConfig::default() };
    let wire = WireConfig { pool, ring_frames: 1024, lossless_memory: !checksums, ..WireConfig::default() };
    let ends = Wire::new(1, wire).expect("memory for a wire");
    joined(ends.into_iter().map(|end| Box::new(end) as Box<dyn Device>))
}

/// A runtime with both hosts, on two devices that are joined.
fn joined(devices: impl IntoIterator<Item = Box<dyn Device>>) -> Runtime {
    let transports = devices.into_iter().zip([CLIENT, SERVER]).map(|(device, address)| {
        let config = StackConfig {
            addresses: vec![format!("{address}/24").parse().expect("an address")],
            secret: [7; 16],
            limits: Limits { rx_burst: 256, ..Limits::default() },
            ..StackConfig::default()
        };
        Box::new(Stack::new(device, config).expect("a stack")) as Box<dyn Transport>
    });
    let config = Config::default().idle("spin").seed(1u64);
    Runtime::builder().config(config).transports(transports.collect()).build().expect("a runtime")
}

fn at(host: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(host, port)
}

/// A connection from the client's address: both hosts are ours, so only that tells who calls whom.
async fn connect(port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(at(CLIENT, 0)).expect("our address");
    let stream = socket.connect(at(SERVER, port)).await.expect("the server listens");
    stream.set_nodelay(true).expect("an open stream");
    stream
}

/// A run of echoes.
pub fn echo(case: Echo, style: Style) -> Run {
    let runtime = hosts(case.checksums, case.pairs);
    match case.protocol {
        Protocol::Tcp => tcp_echo(runtime, case, style),
        Protocol::Udp => udp_echo(runtime, case, style),
    }
}

/// A run of echoes over two devices that are joined, in place of a wire in memory.
pub fn echo_over(devices: [Box<dyn Device>; 2], case: Echo, style: Style) -> Run {
    let runtime = joined(devices);
    match case.protocol {
        Protocol::Tcp => tcp_echo(runtime, case, style),
        Protocol::Udp => udp_echo(runtime, case, style),
    }
}

/// Accepts for ever; each stream is echoed by a task of its own.
async fn serve_tcp(listener: TcpListener, style: Style) {
    while let Ok((mut stream, _)) = listener.accept().await {
        demi::spawn(async move {
            match style {
                Style::Owned => {
                    while let Ok(Some(buf)) = stream.pop().await {
                        if stream.push(buf).await.is_err() {
                            break;
                        }
                    }
                }
                Style::Copied => {
                    let mut buffer = [0; ECHO_BYTES];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..count]).await.is_err() {
                            break;
                        }
                    }
                }
            }
        });
    }
}

fn tcp_echo(runtime: Runtime, case: Echo, style: Style) -> Run {
    let streams = open_pairs(&runtime, case.pairs, style);
    Box::new(move |operations| {
        let streams = streams.clone();
        runtime.block_on(async move {
            let (mut open, mut next) = streams.take();
            let mut bytes = [7; ECHO_BYTES];
            let mut payload = Some(request().await);
            let start = Instant::now();
            for _ in 0..operations {
                let stream = &mut open[next];
                next = if next + 1 == case.pairs { 0 } else { next + 1 };
                match style {
                    Style::Owned => {
                        let request = payload.take().expect("the last reply");
                        stream.push(request).await.expect("an open stream");
                        payload = stream.pop().await.expect("an open stream");
                        assert_eq!(payload.as_ref().map(|reply| reply.len()), Some(ECHO_BYTES));
                    }
                    Style::Copied => {
                        stream.write_all(&bytes).await.expect("an open stream");
                        let count = stream.read(&mut bytes).await.expect("an open stream");
                        assert_eq!(count, ECHO_BYTES);
                    }
                }
            }
            let elapsed = start.elapsed();
            streams.set((open, next));
            elapsed
        })
    })
}

/// Opens `pairs` connections, each with a task at its server's end; and says whose turn it is.
fn open_pairs(runtime: &Runtime, pairs: usize, style: Style) -> Rc<Cell<(Vec<TcpStream>, usize)>> {
    runtime.block_on(async {
        let mut streams = Vec::with_capacity(pairs);
        for index in 0..pairs {
            let port = PORT + u16::try_from(index / PER_PORT).expect("few server ports");
            if index % PER_PORT == 0 {
                let listener = TcpListener::bind(at(SERVER, port)).await.expect("a free port");
                demi::spawn(serve_tcp(listener, style));
            }
            streams.push(connect(port).await);
        }
        Rc::new(Cell::new((streams, 0)))
    })
}

/// A run of echoes over `pairs` connections, [`AT_ONCE`] of them under way at a time, each over another connection, in their turns.
pub fn echo_at_once(pairs: usize) -> Run {
    assert!(pairs.is_multiple_of(AT_ONCE), "{pairs} connections in rounds of {AT_ONCE}");
    let runtime = hosts(true, 0);
    let streams = open_pairs(&runtime, pairs, Style::Owned);
    Box::new(move |operations| {
        let streams = streams.clone();
        runtime.block_on(async move {
            let (mut open, mut next) = streams.take();
            let mut payloads = Vec::with_capacity(AT_ONCE);
            for _ in 0..AT_ONCE {
                payloads.push(request().await);
            }
            let start = Instant::now();
            for _ in 0..operations.div_ceil(AT_ONCE as u64) {
                let round = &mut open[next..next + AT_ONCE];
                next = if next + AT_ONCE == pairs { 0 } else { next + AT_ONCE };
                for stream in round.iter_mut() {
                    let request = payloads.pop().expect("a reply of the last round");
                    stream.push(request).await.expect("an open stream");
                }
                for stream in round {
                    payloads.push(stream.pop().await.expect("an open stream").expect("a reply"));
                }
            }
            let elapsed = start.elapsed();
            streams.set((open, next));
            elapsed
        })
    })
}

/// A run of echoes of `bytes` over one connection: written and read back at the same time, since what is long fits nowhere whole.
pub fn payload(bytes: usize) -> Run {
    let runtime = hosts(true, 1);
    let stream = runtime.block_on(async {
        let listener = TcpListener::bind(at(SERVER, PORT)).await.expect("a free port");
        demi::spawn(serve_tcp(listener, Style::Owned));
        Rc::new(Cell::new(Some(connect(PORT).await)))
    });
    Box::new(move |operations| {
        let kept = stream.clone();
        runtime.block_on(async move {
            let mut stream = kept.take().expect("the last run put it back");
            let (request, mut reply) = (vec![7; bytes], vec![0; bytes]);
            let start = Instant::now();
            for _ in 0..operations {
                let (mut reader, mut writer) = stream.split();
                let mut write = pin!(writer.write_all(&request));
                let mut read = pin!(reader.read_exact(&mut reply));
                let mut written = false;
                poll_fn(|cx| {
                    if !written {
                        written =
                            write.as_mut().poll(cx).map(|done| done.expect("an open stream")).is_ready();
                    }
                    read.as_mut().poll(cx).map(|done| done.expect("an open stream"))
                })
                .await;
            }
            let elapsed = start.elapsed();
            assert_eq!(reply, request);
            kept.set(Some(stream));
            elapsed
        })
    })
}

/// A request's payload, in the runtime's memory.
async fn request() -> Buf {
    let mut payload = demi::alloc(ECHO_BYTES).await.expect("a free slot");
    payload.put_slice(&[7; ECHO_BYTES]);
    payload.freeze()
}

fn udp_echo(runtime: Runtime, case: Echo, style: Style) -> Run {
    let sockets = runtime.block_on(async {
        let mut sockets = Vec::with_capacity(case.pairs);
        for index in 0..case.pairs {
            let port = PORT + u16::try_from(index).expect("fewer pairs than ports");
            let server = UdpSocket::bind(at(SERVER, port)).await.expect("a free port");
            demi::spawn(async move {
                match style {
                    Style::Owned => {
                        while let Ok((request, remote)) = server.pop_from().await {
                            server.push_to(request, remote).await.expect("room for a datagram");
                        }
                    }
                    Style::Copied => {
                        let mut buffer = [0; ECHO_BYTES];
                        while let Ok((count, remote)) = server.recv_from(&mut buffer).await {
                            server.send_to(&buffer[..count], remote).await.expect("room for a datagram");
                        }
                    }
                }
            });
            let client = UdpSocket::bind(at(CLIENT, port)).await.expect("a free port");
            client.connect(at(SERVER, port)).await.expect("an address in our network");
            sockets.push(client);
        }
        Rc::new((sockets, Cell::new(0)))
    });
    Box::new(move |operations| {
        let sockets = sockets.clone();
        runtime.block_on(async move {
            let (sockets, next) = &*sockets;
            let mut bytes = [7; ECHO_BYTES];
            let mut payload = request().await;
            let start = Instant::now();
            for _ in 0..operations {
                let socket = &sockets[next.get()];
                next.set(if next.get() + 1 == case.pairs { 0 } else { next.get() + 1 });
                match style {
                    Style::Owned => {
                        socket.push(payload).await.expect("room for a datagram");
                        payload = socket.pop_from().await.expect("the reply").0;
                        assert_eq!(payload.len(), ECHO_BYTES);
                    }
                    Style::Copied => {
                        socket.send(&bytes).await.expect("room for a datagram");
                        assert_eq!(socket.recv(&mut bytes).await.expect("the reply"), ECHO_BYTES);
                    }
                }
            }
            start.elapsed()
        })
    })
}

/// A run of transfers of [`BULK_BYTES`] over one connection. Timestamps leave 1448 bytes of payload a segment.
pub fn bulk(checksums: bool, style: Style) -> Run {
    let runtime = hosts(checksums, 1);
    let (client, server) = runtime.block_on(async {
        let listener = TcpListener::bind(at(SERVER, PORT)).await.expect("a free port");
        let accepted = demi::spawn(async move { listener.accept().await.expect("a client").0 });
        let client = connect(PORT).await;
        let server = accepted.await.expect("a task that does not panic");
        (Rc::new(Cell::new(Some(client))), Rc::new(Cell::new(Some(server))))
    });
    Box::new(move |operations| {
        let (client, server) = (client.clone(), server.clone());
        runtime.block_on(async move {
            let start = Instant::now();
            let sender = demi::spawn(async move {
                let mut stream = client.take().expect("the last run put it back");
                let chunk = vec![7; BULK_BYTES as usize];
                let mut whole = demi::alloc(chunk.len()).await.expect("a large slot");
                whole.put_slice(&chunk);
                let whole = whole.freeze();
                for _ in 0..operations {
                    match style {
                        Style::Owned => stream.push(whole.clone()).await.expect("an open stream"),
                        Style::Copied => stream.write_all(&chunk).await.expect("an open stream"),
                    }
                }
                client.set(Some(stream));
            });
            let mut stream = server.take().expect("the last run put it back");
            let mut into = vec![0; BULK_BYTES as usize];
            let mut left = operations * BULK_BYTES;
            while left > 0 {
                let count = match style {
                    Style::Owned => stream.pop().await.expect("an open stream").map_or(0, |buf| buf.len()),
                    Style::Copied => stream.read(&mut into).await.expect("an open stream"),
                };
                assert!(count > 0, "the stream goes on");
                left -= count as u64;
            }
            sender.await.expect("a task that does not panic");
            let elapsed = start.elapsed();
            server.set(Some(stream));
            elapsed
        })
    })
}

/// Opens `pairs` connections, both ends of each here, and lets them be idle: each client's end in a list, each server's in a task that
/// waits to read. Answers what keeps them open.
pub fn idle(pairs: usize) -> Box<dyn std::any::Any> {
    let runtime = hosts(true, 0);
    let streams = runtime.block_on(async {
        let mut streams = Vec::with_capacity(pairs);
        for index in 0..pairs {
            let port = PORT + u16::try_from(index / PER_PORT).expect("few server ports");
            if index % PER_PORT == 0 {
                let listener = TcpListener::bind(at(SERVER, port)).await.expect("a free port");
                demi::spawn(serve_tcp(listener, Style::Owned));
            }
            streams.push(connect(port).await);
        }
        streams
    });
    Box::new((streams, runtime))
}

/// A run of connections opened and closed by the client, TIME_WAIT kept.
pub fn connections(checksums: bool) -> Run {
    let runtime = hosts(checksums, 1);
    runtime.block_on(async {
        for port in PORT..PORT + CONNECT_PORTS {
            let listener = TcpListener::bind(at(SERVER, port)).await.expect("a free port");
            demi::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    // The client closes first; then this end does.
                    assert!(stream.pop().await.expect("an orderly close").is_none());
                }
            });
        }
    });
    let mut port = 0;
    Box::new(move |operations| {
        let first = port;
        port = (port + operations % u64::from(CONNECT_PORTS)) % u64::from(CONNECT_PORTS);
        runtime.block_on(async move {
            let start = Instant::now();
            for number in 0..operations {
                let port = PORT + ((first + number) % u64::from(CONNECT_PORTS)) as u16;
                let mut stream = connect(port).await;
                stream.shutdown().await.expect("an open stream");
                assert!(stream.pop().await.expect("an orderly close").is_none());
            }
            start.elapsed()
        })
    })
}
