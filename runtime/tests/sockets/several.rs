//! Several transports in one runtime: an address says which of them carries a socket.

use std::io::ErrorKind;

use demi::net::{TcpListener, TcpStream, UdpSocket};
use demi::{Config, Runtime};

fn runtime(devices: &[&str]) -> Runtime {
    let config =
        Config::new().device(devices.join(";").as_str()).address("10.77.0.2/24,fd77::2/64").log("off");
    Runtime::new(config.pool_slots(1024).pool_large_slots(8).huge_pages(false)).unwrap()
}

/// Accepts what connects to the listener, and answers the two addresses that `client` sees.
async fn ends(listener: &TcpListener, client: &TcpStream) -> [String; 2] {
    let (server, from) = listener.accept().await.unwrap();
    assert_eq!(server.peer_addr().unwrap(), from);
    assert_eq!(from, client.local_addr().unwrap());
    [client.local_addr().unwrap().ip().to_string(), client.peer_addr().unwrap().ip().to_string()]
}

#[test]
fn the_stack_carries_its_own_addresses_and_the_kernel_loopback() {
    for devices in [["wire", "posix"], ["posix", "wire"], ["wire", "auto"]] {
        runtime(&devices).block_on(async {
            for (address, stacks) in [("10.77.0.2", true), ("fd77::2", true), ("127.0.0.1", false)] {
                let listener = TcpListener::bind((address, 0)).await.unwrap();
                assert_eq!(listener.device().starts_with("wire"), stacks, "{}", listener.device());
                let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                assert_eq!(ends(&listener, &client).await, [address, address], "{devices:?}");
                let socket = UdpSocket::bind((address, 0)).await.unwrap();
                let to = socket.local_addr().unwrap();
                let anywhere =
                    UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await.unwrap();
                anywhere.send_to(b"hello", to).await.unwrap();
                let (count, from) = socket.recv_from(&mut [0; 10]).await.unwrap();
                assert_eq!((count, from.ip().to_string().as_str()), (5, address), "{devices:?}");
            }
        });
    }
}

#[test]
fn a_listener_on_no_address_in_particular_hears_all_of_them() {
    for devices in [["wire", "posix"], ["posix", "wire"]] {
        runtime(&devices).block_on(async {
            let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
            assert!(listener.device().contains("wire") && listener.device().contains("posix"));
            let port = listener.local_addr().unwrap().port();
            for address in ["10.77.0.2", "127.0.0.1", "10.77.0.2"] {
                let client = TcpStream::connect((address, port)).await.unwrap();
                assert_eq!(ends(&listener, &client).await, [address, address], "{devices:?}");
            }
        });
    }
}

#[test]
fn an_address_that_none_has_is_an_error_that_names_it_and_them() {
    // With the kernel among them, it is the kernel that says so: its addresses are its own business.
    for (devices, names) in [(["wire", "posix"], false), (["wire", "wire"], true)] {
        runtime(&devices).block_on(async {
            let bound = TcpListener::bind("192.0.2.77:7000").await.unwrap_err();
            let socket = UdpSocket::bind("192.0.2.77:7000").await.unwrap_err();
            for error in [bound, socket] {
                let text = error.to_string();
                assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{devices:?}: {text}");
                assert!(text.contains("192.0.2.77"), "{devices:?}: {text}");
                assert_eq!(text.contains("wire"), names, "{devices:?}: {text}");
            }
        });
    }
    runtime(&["wire", "wire"]).block_on(async {
        let error = TcpStream::connect("192.0.2.77:7000").await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{text}");
        assert!(text.contains("192.0.2.77") && text.contains("gateway"), "{text}");
        let error =
            UdpSocket::bind("0.0.0.0:0").await.unwrap().send_to(b"x", "192.0.2.77:7").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NetworkUnreachable, "{error}");
    });
}
