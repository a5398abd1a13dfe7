//! How connections come about: addresses, the backlog, refusals, what a handle is worth, options and what is known of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use demi_drivers::transport::{
    CongestionControl, DatagramOptions, ListenOptions, Protocol, StreamOptions, TcpState,
};

use crate::shapes::{
    V4, V6, accept, bind, drains_once_the_peer_reads, listen, pair, pop, pop_exactly, push, read, write_all,
};
use crate::support::{self, descriptors};
use crate::{Limits, Open};

suite![
    a_refused_connection_names_the_address,
    connects_from_a_given_address,
    the_backlog_holds_connections_until_they_are_accepted,
    an_address_in_use_is_refused_by_name,
    stale_handles_are_not_connected,
    five_hundred_connections_leave_nothing_behind,
    a_connection_we_opened_waits_for_a_peer_that_reads_late,
    options_are_taken_and_reported,
    the_listing_has_every_socket_and_what_waits_in_it,
    who_says_nothing_is_accepted_after_who_does,
    tcp_info_describes_the_connection,
];

fn a_refused_connection_names_the_address(open: Open) {
    let mut net = open(Limits::default());
    let vacant = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    let stream = net.transport.connect(vacant, None, &StreamOptions::default()).unwrap();
    let error = net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(&vacant.to_string()), "{error}");
    assert_eq!(push(&mut net, stream, b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    net.transport.close(stream);
    net.settle();
}

fn connects_from_a_given_address(open: Open) {
    let mut net = open(Limits::default());
    let listener = TcpListener::bind(V4).unwrap();
    let from: SocketAddr = "127.0.0.77:0".parse().unwrap();
    let address = listener.local_addr().unwrap();
    let stream = net.transport.connect(address, Some(from), &StreamOptions::default()).unwrap();
    net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap();
    let (_peer, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip(), from.ip());
    assert_eq!(net.transport.local_addr(stream).unwrap(), seen);
    // TEST-NET-3 (RFC 5737) is nobody's, this machine's neither.
    let nowhere: SocketAddr = "203.0.113.1:0".parse().unwrap();
    let error = net.transport.connect(address, Some(nowhere), &StreamOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("203.0.113.1"), "{error}");
    net.transport.close(stream);
    net.settle();
}

fn the_backlog_holds_connections_until_they_are_accepted(open: Open) {
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let mut peers: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&[index as u8]).unwrap();
    }
    net.turn();
    let mut seen: Vec<u8> = Vec::new();
    for _ in 0..50 {
        let stream = accept(&mut net, listener);
        seen.extend(pop_exactly(&mut net, stream, 1));
        net.transport.close(stream);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    // Connections that nobody accepts are reset with the listener.
    let mut forgotten = TcpStream::connect(address).unwrap();
    net.turn();
    net.transport.close_listener(listener);
    net.settle();
    assert_eq!(forgotten.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn an_address_in_use_is_refused_by_name(open: Open) {
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let error = net.transport.listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let (datagram, address) = bind(&mut net, V4);
    let error = net.transport.bind_datagram(address, &DatagramOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    net.transport.close_datagram(datagram);
    net.transport.close_listener(listener);
    net.settle();
}

fn stale_handles_are_not_connected(open: Open) {
    let mut net = open(Limits::default());
    let (stream, _peer) = pair(&mut net);
    let (listener, _) = listen(&mut net, V4);
    let (datagram, _) = bind(&mut net, V4);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    net.settle();
    // Newcomers take the positions; the old handles must not find them.
    let (_other, _other_peer) = pair(&mut net);
    let (_other_listener, _) = listen(&mut net, V4);
    let _other_datagram = bind(&mut net, V4);
    let gone = ErrorKind::NotConnected;
    assert_eq!(pop(&mut net, stream).unwrap_err().kind(), gone);
    assert_eq!(read(&mut net, stream, 1).unwrap_err().kind(), gone);
    assert_eq!(push(&mut net, stream, b"x").unwrap_err().kind(), gone);
    assert_eq!(write_all(&mut net, stream, b"x").unwrap_err().kind(), gone);
    assert_eq!(net.transport.shutdown(stream, Shutdown::Both).unwrap_err().kind(), gone);
    assert_eq!(net.transport.local_addr(stream).unwrap_err().kind(), gone);
    assert_eq!(net.transport.take_error(stream).unwrap_err().kind(), gone);
    assert_eq!(net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap_err().kind(), gone);
    assert_eq!(net.transport.listener_addr(listener).unwrap_err().kind(), gone);
    assert_eq!(net.wait(|t, cx| t.poll_recv_from(cx, datagram)).unwrap_err().kind(), gone);
    assert_eq!(net.transport.datagram_addr(datagram).unwrap_err().kind(), gone);
    // Giving up twice harms nobody.
    net.transport.close(stream);
    net.transport.abort(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    let usage = net.transport.usage();
    assert_eq!((usage.streams, usage.listeners, usage.datagrams), (1, 1, 1));
}

fn five_hundred_connections_leave_nothing_behind(open: Open) {
    let _alone = support::alone();
    let before = descriptors();
    let mut net = open(Limits::default());
    let idle = descriptors();
    let (listener, address) = listen(&mut net, V4);
    let mut connections = Vec::new();
    for _ in 0..500 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(b"hello").unwrap();
        let stream = accept(&mut net, listener);
        assert_eq!(pop_exactly(&mut net, stream, 5), b"hello");
        push(&mut net, stream, b"hello").unwrap();
        connections.push((stream, peer));
    }
    assert_eq!(net.transport.usage().streams, 500);
    assert_eq!(net.transport.usage().descriptors, 501);
    net.turn();
    for (index, (stream, mut peer)) in connections.into_iter().enumerate() {
        let mut back = [0; 5];
        peer.read_exact(&mut back).unwrap();
        match index % 3 {
            0 => net.transport.close(stream),
            1 => net.transport.abort(stream),
            _ => {
                drop(peer);
                assert_eq!(pop(&mut net, stream).unwrap(), None);
                net.transport.close(stream);
            }
        }
    }
    net.transport.close_listener(listener);
    net.settle();
    // What an earlier test had open may be gone by now; none of ours may be left.
    assert!(descriptors() <= idle, "{} of {idle}", descriptors());
    drop(net);
    assert!(descriptors() <= before, "{} of {before}", descriptors());
}

fn a_connection_we_opened_waits_for_a_peer_that_reads_late(open: Open) {
    let mut net = open(Limits::default());
    let listener = TcpListener::bind(V4).unwrap();
    let remote = listener.local_addr().unwrap();
    let stream = net.transport.connect(remote, None, &StreamOptions::default()).unwrap();
    net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap();
    let (peer, _) = listener.accept().unwrap();
    drains_once_the_peer_reads(net, stream, peer);
}

fn options_are_taken_and_reported(open: Open) {
    let mut net = open(Limits::default());
    let mut listen_options = ListenOptions::default();
    listen_options.stream.nodelay = true;
    listen_options.stream.syn_retries = Some(3);
    let listener = net.transport.listen(V4.parse().unwrap(), &listen_options).unwrap();
    let peer = TcpStream::connect(net.transport.listener_addr(listener).unwrap()).unwrap();
    let stream = accept(&mut net, listener);
    let mut options = net.transport.stream_options(stream).unwrap();
    assert!(options.nodelay, "accepted connections start with the listener's options");
    options.nodelay = false;
    options.ttl = Some(12);
    options.tos = 0x10;
    options.keepalive = Some(Default::default());
    options.user_timeout = Some(Duration::from_secs(3));
    options.fin_wait_2 = Some(Duration::from_secs(7));
    options.syn_retries = Some(5);
    net.transport.set_stream_options(stream, &options).unwrap();
    assert_eq!(net.transport.stream_options(stream).unwrap(), options);
    options.fin_wait_2 = Some(Duration::ZERO);
    net.transport.set_stream_options(stream, &options).unwrap();
    for (wait, retries) in [(Some(Duration::from_secs(121)), Some(5)), (Some(Duration::ZERO), Some(128))] {
        let mut wrong = options.clone();
        (wrong.fin_wait_2, wrong.syn_retries) = (wait, retries);
        let error = net.transport.set_stream_options(stream, &wrong).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    options.congestion = Some(CongestionControl::None);
    let error = net.transport.set_stream_options(stream, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let (datagram, _) = bind(&mut net, V6);
    let mut options = net.transport.datagram_options(datagram).unwrap();
    options.broadcast = true;
    options.ttl = Some(3);
    net.transport.set_datagram_options(datagram, &options).unwrap();
    assert_eq!(net.transport.datagram_options(datagram).unwrap(), options);
    drop(peer);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    net.settle();
}

fn who_says_nothing_is_accepted_after_who_does(open: Open) {
    let mut net = open(Limits::default());
    let mut options = ListenOptions::default();
    options.defer_accept = Some(Duration::from_secs(60));
    let listener = net.transport.listen(V4.parse().unwrap(), &options).unwrap();
    let address = net.transport.listener_addr(listener).unwrap();
    let mute = TcpStream::connect(address).unwrap();
    let mut talker = TcpStream::connect(address).unwrap();
    talker.write_all(b"first").unwrap();
    let stream = accept(&mut net, listener);
    assert_eq!(pop_exactly(&mut net, stream, 5), b"first");
    drop(mute);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.settle();
}

fn the_listing_has_every_socket_and_what_waits_in_it(open: Open) {
    let mut net = open(Limits::default());
    assert!(net.transport.sockets().is_empty());
    let (listener, address) = listen(&mut net, V4);
    let mut peer = TcpStream::connect(address).unwrap();
    let stream = accept(&mut net, listener);
    let (datagram, udp) = bind(&mut net, V6);
    peer.write_all(&[7; 1000]).unwrap();
    let ours = net.transport.sockets();
    assert_eq!(ours.len(), 3, "{ours:?}");
    let one = |protocol, state| {
        let found = ours.iter().find(|entry| (entry.protocol, entry.state) == (protocol, state));
        found.unwrap_or_else(|| panic!("{protocol:?} {state:?} in {ours:?}"))
    };
    let entry = one(Protocol::Tcp, TcpState::Listen);
    assert_eq!((entry.local, entry.remote, entry.recv_queue, entry.send_queue), (address, None, 0, 1024));
    let entry = one(Protocol::Tcp, TcpState::Established);
    assert_eq!((entry.local, entry.remote), (address, Some(peer.local_addr().unwrap())));
    assert_eq!((entry.recv_queue, entry.send_queue, entry.orphan), (1000, 0, false));
    assert!(entry.congestion.is_some() && entry.info.is_some(), "{entry:?}");
    let entry = one(Protocol::Udp, TcpState::Closed);
    assert_eq!((entry.local, entry.remote, entry.recv_queue), (udp, None, 0));
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    drop(peer);
    net.settle();
    assert!(net.transport.sockets().is_empty());
}

fn tcp_info_describes_the_connection(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(&[7; 1000]).unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 1000).len(), 1000);
    let info = net.transport.tcp_info(stream).unwrap();
    assert_eq!(info.state, TcpState::Established);
    assert_eq!((info.bytes_received, info.unread_bytes), (1000, 0));
    assert!(info.send_mss_bytes > 0 && info.cwnd_bytes > 0 && info.rto_us > 0, "{info:?}");
    assert!(net.transport.take_error(stream).unwrap().is_none());
    net.transport.close(stream);
    net.settle();
}
