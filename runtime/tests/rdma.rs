//! Sockets over `rdma:`, a runtime at each end of a cable, in a guest whose kernel has the devices: `cargo xtask test --tier rdma`.
#![cfg(feature = "rdma")]

use std::net::SocketAddr;
use std::sync::mpsc;

use demi::net::{TcpListener, TcpStream, rdma};
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
