//! Datagrams: from socket to socket, and what becomes of those that have nowhere to go.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use demi_drivers::rdma::{Rdma, RdmaConfig};
use demi_drivers::transport::{DatagramId, DatagramOptions, ListenOptions, Protocol};
use demi_drivers::{Buf, Pool, PoolConfig, Transport};

use crate::support::{Cable, Ip, machine_has_rdma, pattern};

/// Payload that a packet of the cable's devices takes, whose interfaces have an MTU of 1500.
fn longest(ip: Ip) -> usize {
    match ip {
        Ip::V4 => 1024 - 16,
        Ip::V6 => 1024 - 40,
    }
}

fn bind(end: &mut Rdma, address: SocketAddr) -> io::Result<(DatagramId, SocketAddr)> {
    let socket = end.bind_datagram(address, &DatagramOptions::default())?;
    let address = end.datagram_addr(socket)?;
    Ok((socket, address))
}

fn at(ip: Ip, end: usize) -> SocketAddr {
    SocketAddr::new(ip.of(end), 0)
}

fn changed(mut options: DatagramOptions, change: impl FnOnce(&mut DatagramOptions)) -> DatagramOptions {
    change(&mut options);
    options
}

fn counter(end: &Rdma, name: &str) -> u64 {
    end.counters().into_iter().find(|(one, _)| one == name).map(|(_, value)| value).unwrap()
}

#[track_caller]
fn send(
    cable: &mut Cable,
    end: usize,
    socket: DatagramId,
    bytes: &[u8],
    to: Option<SocketAddr>,
) -> io::Result<()> {
    let mut buf = Some(cable.ends[end].pool().copy_from_slice(bytes).unwrap());
    cable.wait(|ends, cx| ends[end].poll_send_to(cx, socket, &mut buf, to))
}

#[track_caller]
fn receive(cable: &mut Cable, end: usize, socket: DatagramId) -> io::Result<(Vec<u8>, SocketAddr)> {
    let (buf, from) = cable.wait(|ends, cx| ends[end].poll_recv_from(cx, socket))?;
    Ok((buf.to_vec(), from))
}

/// Whether a datagram has come.
fn is_empty(end: &mut Rdma, socket: DatagramId) -> bool {
    end.poll_peek_from(&mut Context::from_waker(Waker::noop()), socket).is_pending()
}

#[test]
fn datagrams_of_every_length_go_there_and_back() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    for ip in [Ip::V4, Ip::V6] {
        let (one, from) = bind(&mut cable.ends[0], at(ip, 0)).unwrap();
        let (other, to) = bind(&mut cable.ends[1], at(ip, 1)).unwrap();
        for len in [0, 1, 63, 64, 200, longest(ip)] {
            let bytes = pattern(len, len);
            send(&mut cable, 0, one, &bytes, Some(to)).unwrap();
            assert_eq!(receive(&mut cable, 1, other).unwrap(), (bytes.clone(), from), "{len} bytes");
            send(&mut cable, 1, other, &bytes, Some(from)).unwrap();
            assert_eq!(receive(&mut cable, 0, one).unwrap(), (bytes, to), "{len} bytes back");
        }
        cable.ends[0].close_datagram(one);
        cable.ends[1].close_datagram(other);
    }
    cable.settle();
    for end in &cable.ends {
        assert_eq!((counter(end, "RdmaUdpInErrors"), counter(end, "RdmaUdpNoPorts")), (0, 0));
        assert_eq!((counter(end, "RdmaUdpInDatagrams"), counter(end, "RdmaUdpUnresolved")), (12, 0));
    }
}

#[test]
fn what_does_not_fit_a_packet_is_an_error_that_says_how_much_does() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    // Before the peer is known, and after.
    for round in 0..2 {
        let error = send(&mut cable, 0, one, &pattern(0, longest(Ip::V4) + 1), Some(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(&longest(Ip::V4).to_string()), "{error}");
        send(&mut cable, 0, one, b"fits", Some(to)).unwrap();
        assert_eq!(receive(&mut cable, 1, other).unwrap().0, b"fits", "round {round}");
    }
}

#[test]
fn a_port_is_one_sockets() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, address) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    assert_ne!(address.port(), 0);
    let (_, another) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    assert_ne!(address, another);
    let in_use = |end: &mut Rdma, address| bind(end, address).unwrap_err().kind();
    assert_eq!(in_use(&mut cable.ends[0], address), ErrorKind::AddrInUse);
    let everywhere = SocketAddr::new("0.0.0.0".parse().unwrap(), address.port());
    assert_eq!(in_use(&mut cable.ends[0], everywhere), ErrorKind::AddrInUse);
    // Another program's is as much in use, and a listener's of connections is another one.
    let mut config = RdmaConfig::new("rxe0");
    config.pool = PoolConfig { slots: 256, large_slots: 0, huge_pages: false, ..PoolConfig::default() };
    let mut stranger = Rdma::open(&config).unwrap();
    assert_eq!(in_use(&mut stranger, address), ErrorKind::AddrInUse);
    cable.ends[0].listen(address, &ListenOptions::default()).unwrap();
    cable.ends[0].close_datagram(one);
    bind(&mut cable.ends[0], address).unwrap();
    assert_eq!(bind(&mut cable.ends[0], at(Ip::V4, 1)).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    let shared = changed(DatagramOptions::default(), |options| options.reuse_port = true);
    let error = cable.ends[0].bind_datagram(at(Ip::V4, 0), &shared).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_connected_socket_hears_that_nobody_is_there() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    cable.ends[1].close_datagram(other);
    cable.ends[0].connect_datagram(one, Some(to)).unwrap();
    send(&mut cable, 0, one, b"anybody?", None).unwrap();
    assert_eq!(receive(&mut cable, 0, one).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(counter(&cable.ends[0], "RdmaUdpUnresolved"), 1);
    // One that is not connected has nobody to hear it of.
    let (unconnected, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    send(&mut cable, 0, unconnected, b"anybody?", Some(to)).unwrap();
    assert!(is_empty(&mut cable.ends[0], unconnected));
    // Once somebody is there it is found: what nobody heard is not believed for long.
    let (other, again) = bind(&mut cable.ends[1], to).unwrap();
    assert_eq!(to, again);
    let mut buf = None;
    let (bytes, _) = cable.wait(|ends, cx| {
        // Refusals that are still believed come first.
        buf = buf.take().or_else(|| ends[0].pool().copy_from_slice(b"now?"));
        let _ = ends[0].poll_send_to(cx, one, &mut buf, None);
        match ends[1].poll_recv_from(cx, other) {
            Poll::Ready(datagram) => Poll::Ready(datagram.unwrap()),
            Poll::Pending => Poll::Pending,
        }
    });
    assert_eq!(&bytes[..], b"now?");
}

#[test]
fn an_address_that_nobody_has_is_unreachable() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    cable.ends[0].connect_datagram(one, Some("10.77.0.99:7".parse().unwrap())).unwrap();
    for _ in 0..100 {
        send(&mut cable, 0, one, b"anybody?", None).unwrap();
    }
    assert_eq!(receive(&mut cable, 0, one).unwrap_err().kind(), ErrorKind::HostUnreachable);
    assert_eq!(counter(&cable.ends[0], "RdmaUdpUnresolved"), 100, "what waited, and what had no room to");
    let error = cable.ends[0].connect_datagram(one, Some("224.0.0.1:7".parse().unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, from) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (stranger, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    assert_eq!(cable.ends[1].datagram_peer(other).unwrap_err().kind(), ErrorKind::NotConnected);
    send(&mut cable, 0, stranger, b"before", Some(to)).unwrap();
    cable.wait(|ends, cx| ends[1].poll_datagram_readable(cx, other)).unwrap();
    cable.ends[1].connect_datagram(other, Some(from)).unwrap();
    assert_eq!(cable.ends[1].datagram_peer(other).unwrap(), from);
    assert!(is_empty(&mut cable.ends[1], other), "it came before, and from another");
    send(&mut cable, 0, stranger, b"after", Some(to)).unwrap();
    send(&mut cable, 0, one, b"peer", Some(to)).unwrap();
    let peeked = cable.wait(|ends, cx| ends[1].poll_peek_from(cx, other)).unwrap();
    assert_eq!((&peeked.0[..], peeked.1), (&b"peer"[..], from));
    drop(peeked);
    assert_eq!(receive(&mut cable, 1, other).unwrap(), (b"peer".to_vec(), from));
    assert_eq!(counter(&cable.ends[1], "RdmaUdpNoPorts"), 1);
    cable.ends[1].connect_datagram(other, None).unwrap();
    send(&mut cable, 0, stranger, b"at last", Some(to)).unwrap();
    assert_eq!(receive(&mut cable, 1, other).unwrap().0, b"at last");
    let nowhere = send(&mut cable, 1, other, b"?", None).unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::NotConnected);
}

#[test]
fn a_socket_of_all_addresses_hears_both_versions() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (other, bound) = bind(&mut cable.ends[1], "[::]:0".parse().unwrap()).unwrap();
    for ip in [Ip::V4, Ip::V6] {
        let (one, from) = bind(&mut cable.ends[0], at(ip, 0)).unwrap();
        send(&mut cable, 0, one, b"hello", Some(SocketAddr::new(ip.of(1), bound.port()))).unwrap();
        let (bytes, seen) = receive(&mut cable, 1, other).unwrap();
        assert_eq!(
            (&bytes[..], seen.ip().to_canonical(), seen.port()),
            (&b"hello"[..], ip.of(0), from.port())
        );
        assert!(seen.is_ipv6());
        // As it was seen, it is answered.
        send(&mut cable, 1, other, b"you too", Some(seen)).unwrap();
        let back = receive(&mut cable, 0, one).unwrap();
        assert_eq!(back, (b"you too".to_vec(), SocketAddr::new(ip.of(1), bound.port())));
    }
    let listed = cable.ends[1].sockets();
    let entry = listed.iter().find(|entry| entry.protocol == Protocol::Udp).unwrap();
    assert_eq!(entry.local, bound);
}

#[test]
fn a_device_reaches_itself() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    for ip in [Ip::V4, Ip::V6] {
        let (one, from) = bind(&mut cable.ends[0], at(ip, 0)).unwrap();
        let (other, to) = bind(&mut cable.ends[0], at(ip, 0)).unwrap();
        send(&mut cable, 0, one, b"neighbour", Some(to)).unwrap();
        assert_eq!(receive(&mut cable, 0, other).unwrap(), (b"neighbour".to_vec(), from));
        send(&mut cable, 0, one, b"self", Some(from)).unwrap();
        assert_eq!(receive(&mut cable, 0, one).unwrap(), (b"self".to_vec(), from));
    }
}

#[test]
fn more_than_the_adapter_takes_waits_and_all_of_it_is_sent() {
    if !machine_has_rdma() {
        return;
    }
    const COUNT: usize = 1000;
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    // Once it is known where to.
    send(&mut cable, 0, one, b"first", Some(to)).unwrap();
    receive(&mut cable, 1, other).unwrap();
    let mut buf: Option<Buf> = None;
    let (mut sent, mut waited, mut received) = (0, false, 0);
    cable.wait(|ends, cx| {
        while sent < COUNT {
            buf = buf.take().or_else(|| ends[0].pool().copy_from_slice(&pattern(sent, 100)));
            if buf.is_none() || ends[0].poll_send_to(cx, one, &mut buf, Some(to)).is_pending() {
                waited = true;
                break;
            }
            sent += 1;
        }
        while let Poll::Ready(datagram) = ends[1].poll_recv_from(cx, other) {
            assert_eq!(datagram.unwrap().0.len(), 100);
            received += 1;
        }
        let done = sent == COUNT && ends[0].usage().in_flight == 0;
        if done { Poll::Ready(()) } else { Poll::Pending }
    });
    assert!(waited, "the queue took {COUNT} at once");
    assert_eq!(counter(&cable.ends[0], "RdmaUdpOutDatagrams"), COUNT as u64 + 1);
    assert!(received > 0 && received <= COUNT, "{received}");
}

#[test]
fn a_socket_that_nobody_reads_drops_what_it_has_no_room_for() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let options = changed(DatagramOptions::default(), |options| options.recv_buffer_bytes = Some(4000));
    let other = cable.ends[1].bind_datagram(at(Ip::V4, 1), &options).unwrap();
    let to = cable.ends[1].datagram_addr(other).unwrap();
    for _ in 0..20 {
        send(&mut cable, 0, one, &[1; 200], Some(to)).unwrap();
    }
    cable.wait(|ends, _| match counter(&ends[1], "RdmaUdpRcvbufErrors") {
        16 => Poll::Ready(()),
        _ => Poll::Pending,
    });
    for _ in 0..4 {
        assert_eq!(receive(&mut cable, 1, other).unwrap().0, [1; 200]);
    }
    assert!(is_empty(&mut cable.ends[1], other));
}

#[test]
fn bytes_of_any_pool_and_of_several_views_are_sent() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    let elsewhere = Pool::new(&PoolConfig::small(8)).unwrap();
    let own = cable.ends[0].pool().copy_from_slice(&pattern(7, 300)).unwrap();
    for buf in [elsewhere.copy_from_slice(&pattern(7, 300)).unwrap(), own.clone(), own] {
        let mut buf = Some(buf);
        cable.wait(|ends, cx| ends[0].poll_send_to(cx, one, &mut buf, Some(to))).unwrap();
        assert_eq!(receive(&mut cable, 1, other).unwrap().0, pattern(7, 300));
    }
    cable.settle();
    assert_eq!(elsewhere.stats().slots_out, 0);
}

#[test]
fn a_server_that_is_started_again_is_found_again() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, from) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    send(&mut cable, 0, one, b"first", Some(to)).unwrap();
    receive(&mut cable, 1, other).unwrap();
    let mut config = RdmaConfig::new("rxe1");
    config.pool = PoolConfig { slots: 1024, large_slots: 0, huge_pages: false, ..PoolConfig::default() };
    cable.ends[1].close_datagram(other);
    cable.ends[1] = Rdma::open(&config).unwrap();
    let (other, _) = bind(&mut cable.ends[1], to).unwrap();
    let mut buf = None;
    let seen = cable.wait(|ends, cx| {
        buf = buf.take().or_else(|| ends[0].pool().copy_from_slice(b"again"));
        let _ = ends[0].poll_send_to(cx, one, &mut buf, Some(to));
        ends[1].poll_recv_from(cx, other)
    });
    assert_eq!(seen.map(|(bytes, from)| (bytes.to_vec(), from)).unwrap(), (b"again".to_vec(), from));
}

#[test]
fn what_is_closed_is_not_heard_of_again_and_holds_nothing() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let (other, to) = bind(&mut cable.ends[1], at(Ip::V4, 1)).unwrap();
    for _ in 0..5 {
        send(&mut cable, 0, one, b"unread", Some(to)).unwrap();
    }
    cable.wait(|ends, _| match counter(&ends[1], "RdmaUdpInDatagrams") {
        5 => Poll::Ready(()),
        _ => Poll::Pending,
    });
    cable.ends[1].close_datagram(other);
    send(&mut cable, 0, one, b"late", Some(to)).unwrap();
    // Nobody has the port any more, which the sender may have heard by now.
    cable.wait(|ends, _| {
        match counter(&ends[1], "RdmaUdpNoPorts") + counter(&ends[0], "RdmaUdpUnresolved") {
            1 => Poll::Ready(()),
            _ => Poll::Pending,
        }
    });
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(
        matches!(cable.ends[1].poll_recv_from(cx, other), Poll::Ready(Err(error)) if error.kind() == ErrorKind::NotConnected)
    );
    assert_eq!(cable.ends[1].datagram_addr(other).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(cable.ends[1].usage().datagrams, 0);
    assert_eq!(cable.ends[0].usage().datagrams, 1);
}

#[test]
fn what_the_device_decides_is_not_changed() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, _) = bind(&mut cable.ends[0], at(Ip::V4, 0)).unwrap();
    let options = cable.ends[0].datagram_options(one).unwrap();
    assert_eq!(options.recv_buffer_bytes, Some(212_992));
    let hops = changed(options.clone(), |options| options.ttl = Some(3));
    let error = cable.ends[0].set_datagram_options(one, &hops).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let room = changed(options, |options| options.recv_buffer_bytes = Some(10_000));
    cable.ends[0].set_datagram_options(one, &room).unwrap();
    assert_eq!(cable.ends[0].datagram_options(one).unwrap().recv_buffer_bytes, Some(10_000));
}
