//! Servers on several cores: the `main` of one core, unchanged.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::two_cores;
use demi::net;

/// How server and client tell each other of themselves.
#[derive(Clone, Default)]
struct Signs {
    /// Cores that have their sockets.
    up: Arc<AtomicUsize>,
    /// The client has all its answers.
    done: Arc<AtomicBool>,
}

impl Signs {
    /// Tells of this core's sockets, and waits until the client is done.
    async fn serve(self) {
        self.up.fetch_add(1, Ordering::Release);
        while !self.done.load(Ordering::Acquire) {
            demi::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Serves until told to end; answers how many requests each core had.
fn serve<F, Fut>(
    device: &str,
    server: F,
    client: impl FnOnce(std::net::SocketAddr) + Send + 'static,
) -> Option<Vec<usize>>
where
    F: Fn(std::net::SocketAddr, Signs) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = usize> + 'static,
{
    let config = two_cores(device)?;
    // A port that is free now; with SO_REUSEPORT nobody else gets it while the server's sockets hold it.
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let signs = Signs::default();
    let thread = {
        let signs = signs.clone();
        std::thread::spawn(move || {
            while signs.up.load(Ordering::Acquire) < 2 {
                std::thread::yield_now();
            }
            client(at);
            signs.done.store(true, Ordering::Release);
        })
    };
    let served = demi::run(config, move || server(at, signs.clone())).unwrap();
    thread.join().unwrap();
    Some(served)
}

const KERNEL: &[&str] = if cfg!(feature = "uring") { &["posix", "uring"] } else { &["posix"] };

#[test]
fn tcp_connections_are_spread_over_the_cores() {
    for device in KERNEL {
        let server = |at, signs: Signs| async move {
            let listener = net::TcpListener::bind(at).await.unwrap();
            let served = std::rc::Rc::new(std::cell::Cell::new(0));
            let accept = demi::spawn({
                let served = served.clone();
                async move {
                    loop {
                        let (mut stream, _) = listener.accept().await.unwrap();
                        let served = served.clone();
                        demi::spawn(async move {
                            while let Ok(Some(buf)) = stream.pop().await {
                                served.set(served.get() + 1);
                                stream.push(buf).await.unwrap();
                            }
                        });
                    }
                }
            });
            signs.serve().await;
            accept.abort();
            served.get()
        };
        let client = |at| {
            for request in 0..64u8 {
                let mut stream = TcpStream::connect(at).unwrap();
                stream.write_all(&[request; 8]).unwrap();
                let mut answer = [0; 8];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(answer, [request; 8]);
            }
        };
        let Some(served) = serve(device, server, client) else { return };
        assert_eq!(served.iter().sum::<usize>(), 64, "{device}: {served:?}");
        assert!(served.iter().all(|served| *served > 0), "{device}: {served:?}");
    }
}

#[test]
fn datagrams_are_spread_over_the_cores() {
    for device in KERNEL {
        let server = |at, signs: Signs| async move {
            let socket = net::UdpSocket::bind(at).await.unwrap();
            let served = std::rc::Rc::new(std::cell::Cell::new(0));
            let echo = demi::spawn({
                let served = served.clone();
                async move {
                    loop {
                        let (buf, peer) = socket.pop_from().await.unwrap();
                        served.set(served.get() + 1);
                        socket.push_to(buf, peer).await.unwrap();
                    }
                }
            });
            signs.serve().await;
            echo.abort();
            served.get()
        };
        let client = |at| {
            for request in 0..64u8 {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.send_to(&[request], at).unwrap();
                let mut answer = [0];
                assert_eq!(socket.recv(&mut answer).unwrap(), 1);
                assert_eq!(answer, [request]);
            }
        };
        let Some(served) = serve(device, server, client) else { return };
        assert_eq!(served.iter().sum::<usize>(), 64, "{device}: {served:?}");
        assert!(served.iter().all(|served| *served > 0), "{device}: {served:?}");
    }
}

#[test]
fn a_port_that_is_chosen_is_the_cores_own() {
    let Some(config) = two_cores("posix") else { return };
    let bound = Arc::new(AtomicUsize::new(0));
    let ports = demi::run(config, move || {
        let bound = Arc::clone(&bound);
        async move {
            let listener = net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // Both hold theirs until both have one.
            bound.fetch_add(1, Ordering::AcqRel);
            while bound.load(Ordering::Acquire) < 2 {
                demi::task::yield_now().await;
            }
            (listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port())
        }
    })
    .unwrap();
    assert!(ports[0].0 != ports[1].0 && ports[0].1 != ports[1].1, "{ports:?}");
}
