//! Finding each other: listeners, refusals, addresses, limits.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::task::Poll;

use demi_drivers::rdma::{Rdma, RdmaConfig};
use demi_drivers::transport::{ListenOptions, StreamOptions};
use demi_drivers::{PoolConfig, Transport};

use crate::support::{Cable, Faults, Ip, machine_has_rdma};

#[test]
fn a_device_knows_its_addresses_and_networks() {
    if !machine_has_rdma() {
        return;
    }
    let cable = Cable::new();
    for end in 0..2 {
        let own = cable.ends[end].addresses();
        assert!(own.contains(&Ip::V4.of(end)) && own.contains(&Ip::V6.of(end)), "{own:?}");
        assert!(!own.contains(&Ip::V4.of(1 - end)), "{own:?}");
        assert_eq!(cable.ends[end].reach(Ip::V4.of(end)), Some(32));
        assert_eq!(cable.ends[end].reach(Ip::V4.of(1 - end)), Some(24));
        assert_eq!(cable.ends[end].reach("127.0.0.1".parse().unwrap()), None);
    }
    assert_eq!(cable.ends[0].name(), "rdma:rxe0");
}

#[test]
fn a_device_that_is_not_there_is_said_with_those_that_are() {
    if !machine_has_rdma() {
        return;
    }
    let error = Rdma::open(&RdmaConfig::new("mlx5_9")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("rxe0") && error.to_string().contains("rxe1"), "{error}");
}

#[test]
fn a_listener_at_all_addresses_hears_each_of_the_devices() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    for ip in [Ip::V4, Ip::V6] {
        let listener = cable.ends[1].listen(ip.any(), &ListenOptions::default()).unwrap();
        let port = cable.ends[1].listener_addr(listener).unwrap().port();
        assert_ne!(port, 0);
        let (one, other) = cable.connect(listener, SocketAddr::new(ip.of(1), port));
        cable.write_all(0, one, b"hello");
        assert_eq!(cable.read_exact(1, other, 5), b"hello");
        cable.ends[0].abort(one);
        cable.ends[1].abort(other);
        cable.ends[1].close_listener(listener);
    }
    cable.settle();
}

#[test]
fn connections_within_one_device_work_as_well() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (listener, address) = cable.listen(Ip::V4, 0);
    let one = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
    cable.wait(|ends, cx| ends[0].poll_connect(cx, one)).unwrap();
    let (other, _) = cable.wait(|ends, cx| ends[0].poll_accept(cx, listener)).unwrap();
    cable.write_all(0, one, b"to myself");
    assert_eq!(cable.read_exact(0, other, 9), b"to myself");
}

#[test]
fn nobody_listening_is_a_refusal() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    for ip in [Ip::V4, Ip::V6] {
        let address = SocketAddr::new(ip.of(1), 9);
        let stream = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
        let error = cable.wait(|ends, cx| ends[0].poll_connect(cx, stream)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        cable.ends[0].close(stream);
    }
    assert_eq!(cable.ends[0].usage().streams, 0);
}

#[test]
fn nobody_at_an_address_is_an_error() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let stream =
        cable.ends[0].connect("10.77.0.9:7".parse().unwrap(), None, &StreamOptions::default()).unwrap();
    let error = cable.wait(|ends, cx| ends[0].poll_connect(cx, stream)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::TimedOut), "{error}");
}

#[test]
fn a_full_backlog_refuses() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let mut options = ListenOptions::default();
    options.backlog = 1;
    let listener = cable.ends[1].listen(SocketAddr::new(Ip::V4.of(1), 0), &options).unwrap();
    let address = cable.ends[1].listener_addr(listener).unwrap();
    let first = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
    cable.wait(|ends, cx| ends[0].poll_connect(cx, first)).unwrap();
    let second = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
    let error = cable.wait(|ends, cx| ends[0].poll_connect(cx, second)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(error.to_string().contains("backlog"), "{error}");
    cable.wait(|ends, cx| ends[1].poll_accept(cx, listener)).unwrap();
}

#[test]
fn a_handshake_that_its_peer_gives_up_leaves_the_backlog_within_its_time() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::with(|config| config.connect_timeout = std::time::Duration::from_secs(3));
    let mut options = ListenOptions::default();
    options.backlog = 1;
    let listener = cable.ends[1].listen(SocketAddr::new(Ip::V4.of(1), 0), &options).unwrap();
    let address = cable.ends[1].listener_addr(listener).unwrap();
    for _ in 0..3 {
        let lost = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
        cable.wait(|ends, _| match ends[1].usage().streams {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        });
        let cut = Faults::new("loss 100%");
        cable.ends[0].abort(lost);
        // Whether it had become a connection by then, or not.
        cable.wait(|ends, cx| {
            if let Poll::Ready(Ok((stream, _))) = ends[1].poll_accept(cx, listener) {
                ends[1].abort(stream);
            }
            if ends[1].usage().streams == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        drop(cut);
    }
    let (one, other) = cable.connect(listener, address);
    cable.write_all(0, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
}

/// An address that an interface has for as long as this lives.
struct Address(&'static str);

impl Address {
    fn add(what: &'static str) -> Address {
        ip(&format!("addr add {what}"));
        Address(what)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        ip(&format!("addr del {}", self.0));
    }
}

fn ip(line: &str) {
    let status = std::process::Command::new("ip").args(line.split(' ')).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "ip {line}: {status:?}");
}

#[test]
fn an_address_that_the_interface_is_given_later_is_listened_at() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let address: SocketAddr = "10.78.0.2:7440".parse().unwrap();
    let error = cable.ends[1].listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
    let given = Address::add("10.78.0.2/24 dev cable1");
    // The adapter hears of it a moment later.
    let listener = cable.wait(|ends, _| match ends[1].listen(address, &ListenOptions::default()) {
        Ok(listener) => Poll::Ready(listener),
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => Poll::Pending,
        Err(error) => panic!("{error}"),
    });
    assert!(cable.ends[1].addresses().contains(&address.ip()));
    assert_eq!(cable.ends[1].reach("10.78.0.9".parse().unwrap()), Some(24));
    cable.ends[1].close_listener(listener);
    // At all addresses means those that there are when it begins.
    let listener = cable.ends[1].listen(Ip::V4.any(), &ListenOptions::default()).unwrap();
    let port = cable.ends[1].listener_addr(listener).unwrap().port();
    let one =
        cable.ends[1].connect(SocketAddr::new(address.ip(), port), None, &StreamOptions::default()).unwrap();
    cable.wait(|ends, cx| ends[1].poll_connect(cx, one)).unwrap();
    let (other, from) = cable.wait(|ends, cx| ends[1].poll_accept(cx, listener)).unwrap();
    assert_eq!(from.ip(), address.ip());
    cable.write_all(1, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
    cable.ends[1].abort(one);
    cable.ends[1].abort(other);
    cable.ends[1].close_listener(listener);
    cable.settle();
    drop(given);
    let gone = cable.ends[1].listen(Ip::V4.any(), &ListenOptions::default()).unwrap();
    assert!(!cable.ends[1].addresses().contains(&address.ip()), "looked for anew");
    cable.ends[1].close_listener(gone);
}

#[test]
fn an_address_in_use_and_one_of_another_device_are_refused() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (_listener, address) = cable.listen(Ip::V4, 1);
    let error = cable.ends[1].listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    for foreign in [Ip::V4.of(0), "192.0.2.1".parse().unwrap()] {
        let error = cable.ends[1].listen(SocketAddr::new(foreign, 0), &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
    }
}

#[test]
fn sockets_are_limited_to_what_is_configured() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::with(|config| config.max_sockets = 2);
    let (listener, address) = cable.listen(Ip::V4, 1);
    let _pair = cable.connect(listener, address);
    let error = cable.ends[1].listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
}

#[test]
fn a_pool_that_is_too_small_says_so() {
    if !machine_has_rdma() {
        return;
    }
    let mut config = RdmaConfig::new("rxe0");
    config.pool = PoolConfig::small(1);
    let error = Rdma::open(&config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
