//! The datapath in its steady state asks the allocator for nothing: what is sent, received, waited for and woken lies in memory
//! that was there before.
//!
//! Two hosts on a wire in memory, through the public API, while time stands: what comes round every some seconds, such as asking a
//! neighbour whether it is still there, is no part of the path. The allocator counts; a case runs until tables and queues have their
//! size, and then so many operations more, of which none may be counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use demi::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use demi::{Config, Runtime};
use demi_drivers::wire::{Wire, WireConfig};
use demi_drivers::{Device, PoolConfig, Transport};
use demi_netstack::tcp::TcpConfig;
use demi_netstack::{Stack, StackConfig};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends frees what no test looks at any more.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count();
        // SAFETY: `memory` came from `alloc` or `realloc` here, that is from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count();
        // SAFETY: as in `dealloc`; the caller promises that `new` is not zero and does not overflow.
        unsafe { System.realloc(memory, layout, new) }
    }
}

fn calls() -> u64 {
    CALLS.with(Cell::get)
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const PORT: u16 = 7;
const WARM_UP: usize = 2_000;
const OPERATIONS: usize = 5_000;

/// A runtime with both hosts.
fn hosts() -> Runtime {
    let pool = PoolConfig { slots: 4096, ..PoolConfig::default() };
    let wire = WireConfig { pool, ..WireConfig::default() };
    let ends = Wire::new(1, wire).unwrap();
    // Buffers of the size they begin with: one that grows takes its queue with it, now and then.
    let tcp = TcpConfig::default();
    let tcp = TcpConfig { moderate_recv_buffer: false, send_buffer_max_bytes: tcp.send_buffer_bytes, ..tcp };
    let transports = ends.into_iter().zip([CLIENT, SERVER]).map(|(end, address)| {
        let config = StackConfig {
            addresses: vec![format!("{address}/24").parse().unwrap()],
            secret: [7; 16],
            tcp: tcp.clone(),
            ..StackConfig::default()
        };
        Box::new(Stack::new(Box::new(end) as Box<dyn Device>, config).unwrap()) as Box<dyn Transport>
    });
    let config = Config::default().idle("spin").seed(1u64);
    Runtime::builder().config(config).transports(transports.collect()).start_paused(true).build().unwrap()
}

/// Runs `operation` until everything has its size; answers what the allocator was asked for after that.
async fn steady(mut operation: impl AsyncFnMut()) -> u64 {
    for _ in 0..WARM_UP {
        operation().await;
    }
    let before = calls();
    for _ in 0..OPERATIONS {
        operation().await;
    }
    calls() - before
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::new(SERVER, PORT)).await.unwrap();
    let accepted = demi::spawn(async move { listener.accept().await.unwrap().0 });
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(CLIENT, 0)).unwrap();
    let client = socket.connect(SocketAddr::new(SERVER, PORT)).await.unwrap();
    client.set_nodelay(true).unwrap();
    (client, accepted.await.unwrap())
}

async fn datagrams() -> (UdpSocket, UdpSocket) {
    let server = UdpSocket::bind(SocketAddr::new(SERVER, PORT)).await.unwrap();
    (UdpSocket::bind(SocketAddr::new(CLIENT, 0)).await.unwrap(), server)
}

#[test]
fn the_allocator_is_counted() {
    let before = calls();
    drop(vec![0u8; 1000]);
    assert_eq!(calls() - before, 2);
}

#[test]
fn a_tcp_echo_of_buffers_allocates_nothing() {
    let asked = hosts().block_on(async {
        let (mut client, mut server) = pair().await;
        demi::spawn(async move {
            while let Some(buf) = server.pop().await.unwrap() {
                server.push(buf).await.unwrap();
            }
        });
        let mut request = Some(demi::alloc(64).await.unwrap());
        request.as_mut().unwrap().put_slice(&[7; 64]);
        let mut message = request.map(|request| request.freeze());
        steady(async || {
            client.push(message.take().unwrap()).await.unwrap();
            message = client.pop().await.unwrap();
        })
        .await
    });
    assert_eq!(asked, 0);
}

#[test]
fn a_tcp_echo_by_read_and_write_allocates_nothing_with_a_limit_on_its_time_either() {
    let asked = hosts().block_on(async {
        let (mut client, mut server) = pair().await;
        demi::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(count @ 1..) = server.read(&mut buffer).await {
                server.write_all(&buffer[..count]).await.unwrap();
            }
        });
        let mut bytes = [7; 64];
        steady(async || {
            client.write_all(&bytes).await.unwrap();
            let answer = client.read_exact(&mut bytes);
            demi::time::timeout(Duration::from_secs(5), answer).await.unwrap().unwrap();
        })
        .await
    });
    assert_eq!(asked, 0);
}

#[test]
fn a_long_transfer_allocates_nothing() {
    const CHUNK: usize = 16 * 1024;
    let asked = hosts().block_on(async {
        let (mut client, mut server) = pair().await;
        let mut chunk = demi::alloc(CHUNK).await.unwrap();
        chunk.put_slice(&vec![7; CHUNK]);
        let chunk = chunk.freeze();
        demi::spawn(async move {
            loop {
                client.push(chunk.clone()).await.unwrap();
            }
        });
        steady(async || {
            let mut left = CHUNK;
            while left > 0 {
                left -= server.pop_max(left).await.unwrap().unwrap().len();
            }
        })
        .await
    });
    assert_eq!(asked, 0);
}

#[test]
fn a_udp_echo_allocates_nothing() {
    for copied in [false, true] {
        let asked = hosts().block_on(async {
            let (client, server) = datagrams().await;
            let to = SocketAddr::new(SERVER, PORT);
            demi::spawn(async move {
                loop {
                    let (buf, from) = server.pop_from().await.unwrap();
                    server.push_to(buf, from).await.unwrap();
                }
            });
            let mut bytes = [7; 64];
            let mut message = Some(client.alloc(64).await.unwrap());
            message.as_mut().unwrap().put_slice(&bytes);
            let mut message = message.map(|message| message.freeze());
            steady(async || {
                if copied {
                    client.send_to(&bytes, to).await.unwrap();
                    assert_eq!(client.recv_from(&mut bytes).await.unwrap(), (64, to));
                } else {
                    client.push_to(message.take().unwrap(), to).await.unwrap();
                    message = Some(client.pop_from().await.unwrap().0);
                }
            })
            .await
        });
        assert_eq!(asked, 0, "copied: {copied}");
    }
}

#[test]
fn tasks_timers_and_yields_allocate_nothing_once_they_are_there() {
    let asked = hosts().block_on(async {
        let (wakes, mut woken) = demi::sync::mpsc::channel::<u64>(16);
        demi::spawn(async move {
            let mut number = 0;
            while wakes.send(number).await.is_ok() {
                number += 1;
            }
        });
        steady(async || {
            woken.recv().await.unwrap();
            demi::task::yield_now().await;
            // Longer than it takes: the timer is set, and taken back.
            let slow = demi::time::timeout(Duration::from_secs(60), demi::task::yield_now());
            slow.await.unwrap();
        })
        .await
    });
    assert_eq!(asked, 0);
}
