//! Sockets over `rdma:`, a runtime at each end of a cable, in a guest whose kernel has the devices: `cargo xtask test --tier rdma`.
#![cfg(feature = "rdma")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use demi::net::{TcpListener, TcpStream, UdpSocket, rdma};
use demi::{Config, Runtime};

const SERVER: &str = "10.77.0.2:0";

/// Whether this is a guest with `rxe0` and `rxe1` at the ends of a cable; says `SKIP` if not.
fn machine_has_rdma() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with RDMA: cargo xtask test --tier rdma");
    }
    ours
}

fn runtime(device: &str, idle: &str) -> Runtime {
    let config = Config::new().device(device).idle(idle).log("off");
    Runtime::new(config.pool_slots(1024).pool_large_slots(16).huge_pages(false)).unwrap()
}

async fn echo(mut stream: TcpStream) {
    while let Ok(Some(buf)) = stream.pop().await {
        if stream.push(buf).await.is_err() {
            break;
        }
    }
}

/// Some clients in a row, each of which sends, and gets back what it has sent.
fn serve(idle: &'static str, clients: u32) {
    let (told, address) = mpsc::channel::<SocketAddr>();
    let server = std::thread::spawn(move || {
        runtime("rdma:rxe1", idle).block_on(async move {
            let listener = TcpListener::bind(SERVER).await.unwrap();
            assert_eq!(listener.device(), "rdma:rxe1");
            told.send(listener.local_addr().unwrap()).unwrap();
            for _ in 0..clients {
                let (stream, _) = listener.accept().await.unwrap();
                echo(stream).await;
            }
        });
    });
    let address = address.recv().unwrap();
    runtime("rdma:rxe0", idle).block_on(async move {
        for client in 0..clients {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for size in [1, 100, 3000, 50_000] {
                let bytes: Vec<u8> = (0..size).map(|at: usize| (at as u32 * 31 + client) as u8).collect();
                stream.write_all(&bytes).await.unwrap();
                let mut back = vec![0; size];
                stream.read_exact(&mut back).await.unwrap();
                assert!(back == bytes, "client {client}, {size} bytes");
            }
            stream.shutdown().await.unwrap();
            assert!(stream.pop().await.unwrap().is_none());
        }
    });
    server.join().unwrap();
}

#[test]
fn a_server_that_parks_hears_its_clients() {
    if machine_has_rdma() {
        serve("park", 3);
    }
}

#[test]
fn a_server_that_spins_a_while_before_it_parks_hears_its_clients() {
    if machine_has_rdma() {
        serve("adaptive", 3);
    }
}

#[test]
fn a_server_whose_second_device_it_is_sleeps_and_hears_its_clients() {
    if !machine_has_rdma() {
        return;
    }
    let (told, address) = mpsc::channel::<SocketAddr>();
    let server = std::thread::spawn(move || {
        runtime("posix;rdma:rxe1", "park").block_on(async move {
            let listener = TcpListener::bind(SERVER).await.unwrap();
            assert_eq!(listener.device(), "rdma:rxe1");
            told.send(listener.local_addr().unwrap()).unwrap();
            for _ in 0..3 {
                let (stream, _) = listener.accept().await.unwrap();
                echo(stream).await;
            }
            demi::metrics()
        })
    });
    let address = address.recv().unwrap();
    runtime("rdma:rxe0", "park").block_on(async move {
        for client in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            for _ in 0..5 {
                // Long enough for both to be asleep.
                demi::time::sleep(Duration::from_millis(100)).await;
                stream.write_all(&[client; 3000]).await.unwrap();
                let mut back = [0; 3000];
                stream.read_exact(&mut back).await.unwrap();
                assert_eq!(back, [client; 3000]);
            }
            stream.shutdown().await.unwrap();
            assert!(stream.pop().await.unwrap().is_none());
        }
    });
    let metrics = server.join().unwrap();
    assert!(metrics.turns < 2000, "a server that sleeps turns when something happens: {metrics:?}");
}

#[test]
fn a_program_on_two_cores_serves_with_both_and_sleeps_between() {
    if !machine_has_rdma() {
        return;
    }
    static OVER: AtomicBool = AtomicBool::new(false);
    let (told, tells) = mpsc::channel::<()>();
    let address: SocketAddr = "10.77.0.2:7400".parse().unwrap();
    let server = std::thread::spawn(move || {
        let told = Mutex::new(told);
        let config = Config::new().device("rdma:rxe1").cores("0-1").idle("park").log("off");
        let config = config.pool_slots(1024).pool_large_slots(16).huge_pages(false);
        demi::run(config, move || {
            let told = told.lock().unwrap().clone();
            async move {
                let listener = TcpListener::bind(address).await.unwrap();
                let socket = UdpSocket::bind(address).await.unwrap();
                told.send(()).unwrap();
                let datagrams = demi::spawn(async move {
                    while let Ok((buf, from)) = socket.pop_from().await {
                        socket.push_to(buf, from).await.unwrap();
                    }
                });
                let mut served = 0;
                while !OVER.load(Ordering::Relaxed) {
                    let wait = Duration::from_millis(200);
                    if let Ok(accepted) = demi::time::timeout(wait, listener.accept()).await {
                        served += 1;
                        demi::spawn(echo(accepted.unwrap().0));
                    }
                }
                datagrams.abort();
                served
            }
        })
    });
    (0..2).for_each(|_| tells.recv().unwrap());
    runtime("rdma:rxe0", "park").block_on(async move {
        let mut streams = Vec::new();
        for number in 0..8u8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[number; 5000]).await.unwrap();
            streams.push(stream);
        }
        for round in 0..3u8 {
            for (number, stream) in streams.iter_mut().enumerate() {
                let mut back = [0; 5000];
                stream.read_exact(&mut back).await.unwrap();
                assert_eq!(back, [number as u8 + round; 5000]);
                stream.write_all(&[number as u8 + round + 1; 5000]).await.unwrap();
            }
            // Long enough for both to be asleep.
            demi::time::sleep(Duration::from_millis(100)).await;
        }
        let socket = UdpSocket::bind("10.77.0.1:0").await.unwrap();
        for number in 0..10u8 {
            let buf = demi::alloc(100).await.map(|mut buf| {
                buf.put_slice(&[number; 100]);
                buf.freeze()
            });
            socket.push_to(buf.unwrap(), address).await.unwrap();
            let (back, from) = socket.pop_from().await.unwrap();
            assert_eq!((&back[..], from), (&[number; 100][..], address));
        }
    });
    OVER.store(true, Ordering::Relaxed);
    assert_eq!(server.join().unwrap().unwrap(), [4, 4]);
}

#[test]
fn keys_of_the_configuration_reach_the_device() {
    if !machine_has_rdma() {
        return;
    }
    let config = || Config::new().device("rdma:rxe0").log("off").pool_slots(1024).huge_pages(false);
    let refused = |config: Config| Runtime::new(config).err().map(|error| error.to_string());
    // Each of these is told by what the device says to it.
    let paging = refused(config().rdma_on_demand(true)).expect("rxe of this kernel pages nothing in");
    assert!(paging.contains("on_demand"), "{paging}");
    assert_eq!(refused(config().rdma_trust_peers(true).rdma_inline_bytes(0).rdma_requests(64)), None);
    // Two credits, and messages of a small slot: the third has to wait for the reader.
    let (told, address) = mpsc::channel::<SocketAddr>();
    let (done, wait) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let config = config().device("rdma:rxe1").rdma_credits(2).rdma_receives(64);
        Runtime::new(config).unwrap().block_on(async move {
            let listener = TcpListener::bind(SERVER).await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            while wait.try_recv().is_err() {
                demi::time::sleep(Duration::from_millis(10)).await;
            }
            let mut read = vec![0; 10 * 1500];
            stream.read_exact(&mut read).await.unwrap();
            assert!(stream.pop().await.unwrap().is_none());
        });
    });
    let address = address.recv().unwrap();
    Runtime::new(config()).unwrap().block_on(async move {
        let count = |name: &str| demi::net::counters().get(name);
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..10 {
            stream.write_all(&[1; 1500]).await.unwrap();
            demi::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((count("RdmaCreditStalls"), count("RdmaOutOctets")), (1, 3000));
        done.send(()).unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.pop().await.unwrap().is_none());
    });
    server.join().unwrap();
}

#[test]
fn a_peers_memory_is_read_and_changed_while_it_sleeps() {
    if !machine_has_rdma() {
        return;
    }
    let (told, address) = mpsc::channel::<SocketAddr>();
    let server = std::thread::spawn(move || {
        runtime("rdma:rxe1", "park").block_on(async move {
            let region = rdma::register(4096, rdma::Access::ALL).unwrap();
            region.write_at(100, b"answer").unwrap();
            let listener = TcpListener::bind(SERVER).await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&region.key().to_bytes()).await.unwrap();
            // Nothing is sent to this side: it learns of all that by looking, when the other is done.
            assert!(stream.pop().await.unwrap().is_none());
            assert_eq!(region.load(8).unwrap(), 30);
            let mut written = [0; 1000];
            region.read_at(2000, &mut written).unwrap();
            assert_eq!(written, [7; 1000]);
        });
    });
    let address = address.recv().unwrap();
    runtime("rdma:rxe0", "park").block_on(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut key = [0; rdma::RegionKey::BYTES];
        stream.read_exact(&mut key).await.unwrap();
        let key = rdma::RegionKey::from_bytes(&key).unwrap();
        let peer = rdma::peer(&stream).unwrap();
        assert_eq!(&peer.read(&key, 100, 6).await.unwrap()[..], b"answer");
        // Bytes of no pool of the device's are copied into one.
        let elsewhere = demi_drivers::Pool::new(&demi_drivers::PoolConfig::small(8)).unwrap();
        peer.write(&key, 2000, elsewhere.copy_from_slice(&[7; 1000]).unwrap()).await.unwrap();
        for round in 0..10 {
            assert_eq!(peer.fetch_add(&key, 8, 3).await.unwrap(), round * 3);
        }
        stream.shutdown().await.unwrap();
        assert!(stream.pop().await.unwrap().is_none());
    });
    server.join().unwrap();
}
