//! UDP sockets over `rdma:`, a runtime at each end of a cable, in a guest whose kernel has the devices: `cargo xtask test --tier rdma`.
#![cfg(feature = "rdma")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::mpsc;

use demi::net::UdpSocket;
use demi::{Config, Runtime};

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

/// A server that answers each datagram with itself, and a client. Nothing is lost on that cable.
fn echo(idle: &'static str) {
    let (told, address) = mpsc::channel::<SocketAddr>();
    let server = std::thread::spawn(move || {
        runtime("rdma:rxe1", idle).block_on(async move {
            let socket = UdpSocket::bind("10.77.0.2:0").await.unwrap();
            assert_eq!(socket.device(), "rdma:rxe1");
            told.send(socket.local_addr().unwrap()).unwrap();
            loop {
                let (buf, from) = socket.pop_from().await.unwrap();
                let is_last = &buf[..] == b"bye";
                socket.push_to(buf, from).await.unwrap();
                if is_last {
                    // It is handed to the adapter by the turn that follows.
                    demi::time::sleep(std::time::Duration::from_millis(100)).await;
                    return;
                }
            }
        });
    });
    let address = address.recv().unwrap();
    runtime("rdma:rxe0", idle).block_on(async move {
        let socket = UdpSocket::bind("10.77.0.1:0").await.unwrap();
        socket.connect(address).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), address);
        for size in [0, 1, 100, 1008] {
            let bytes: Vec<u8> = (0..size).map(|at: usize| (at * 31) as u8).collect();
            assert_eq!(socket.send(&bytes).await.unwrap(), size);
            let mut back = vec![0; 2000];
            assert_eq!(socket.recv(&mut back).await.unwrap(), size);
            assert!(back[..size] == bytes, "{size} bytes");
        }
        let error = socket.send(&[0; 1009]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        socket.send(b"bye").await.unwrap();
        let mut back = [0; 8];
        assert_eq!(socket.recv(&mut back).await.unwrap(), 3);
    });
    server.join().unwrap();
}

#[test]
fn a_server_that_parks_answers() {
    if machine_has_rdma() {
        echo("park");
    }
}

#[test]
fn a_server_that_spins_a_while_before_it_parks_answers() {
    if machine_has_rdma() {
        echo("adaptive");
    }
}

#[test]
fn a_client_hears_that_nobody_listens() {
    if !machine_has_rdma() {
        return;
    }
    runtime("rdma:rxe0", "park").block_on(async {
        let socket = UdpSocket::bind("10.77.0.1:0").await.unwrap();
        socket.connect("10.77.0.1:9").await.unwrap();
        socket.send(b"anybody?").await.unwrap();
        let error = socket.recv(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    });
}
