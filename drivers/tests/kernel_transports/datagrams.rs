//! UDP sockets.

use std::io::ErrorKind;
use std::net::UdpSocket;

use crate::shapes::{V4, V6, bind};
use crate::support::patterned;
use crate::{Limits, Open};

suite![
    datagrams_are_echoed_over_both_families,
    a_connected_datagram_socket_hears_its_peer_only,
    a_refused_datagram_is_reported,
    peeking_at_a_datagram_leaves_it,
    datagrams_of_any_size_arrive_whole,
];

fn datagrams_are_echoed_over_both_families(open: Open) {
    for address in [V4, V6] {
        let mut net = open(Limits::default());
        let (socket, here) = bind(&mut net, address);
        let peer = UdpSocket::bind(address).unwrap();
        for round in 0..100_u8 {
            peer.send_to(&[round; 100], here).unwrap();
            let (buf, from) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
            assert_eq!((&buf[..], from), (&[round; 100][..], peer.local_addr().unwrap()));
            let mut buf = Some(buf);
            net.wait(|t, cx| t.poll_send_to(cx, socket, &mut buf, Some(from))).unwrap();
            assert!(buf.is_none(), "a sent view is the transport's");
            net.turn();
            let mut back = [0; 200];
            assert_eq!(peer.recv_from(&mut back).unwrap(), (100, here));
            assert_eq!(back[..100], [round; 100]);
        }
        peer.send_to(b"", here).unwrap();
        let (empty, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
        assert_eq!(empty.len(), 0);
        net.transport.close_datagram(socket);
        net.settle();
    }
}

fn a_connected_datagram_socket_hears_its_peer_only(open: Open) {
    let mut net = open(Limits::default());
    let (socket, here) = bind(&mut net, V4);
    let (friend, stranger) = (UdpSocket::bind(V4).unwrap(), UdpSocket::bind(V4).unwrap());
    assert_eq!(net.transport.datagram_peer(socket).unwrap_err().kind(), ErrorKind::NotConnected);
    net.transport.connect_datagram(socket, Some(friend.local_addr().unwrap())).unwrap();
    assert_eq!(net.transport.datagram_peer(socket).unwrap(), friend.local_addr().unwrap());
    stranger.send_to(b"spam", here).unwrap();
    friend.send_to(b"hello", here).unwrap();
    let (buf, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
    assert_eq!(&buf[..], b"hello");
    let mut buf = Some(buf);
    net.wait(|t, cx| t.poll_send_to(cx, socket, &mut buf, None)).unwrap();
    net.turn();
    let mut back = [0; 10];
    assert_eq!(friend.recv(&mut back).unwrap(), 5);
    net.transport.connect_datagram(socket, None).unwrap();
    assert_eq!(net.transport.datagram_peer(socket).unwrap_err().kind(), ErrorKind::NotConnected);
    stranger.send_to(b"welcome", here).unwrap();
    let (buf, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
    assert_eq!(&buf[..], b"welcome");
    net.transport.close_datagram(socket);
    net.settle();
}

fn a_refused_datagram_is_reported(open: Open) {
    let mut net = open(Limits::default());
    let (socket, _) = bind(&mut net, V4);
    let vacant = UdpSocket::bind(V4).unwrap().local_addr().unwrap();
    net.transport.connect_datagram(socket, Some(vacant)).unwrap();
    let mut buf = net.transport.pool().copy_from_slice(b"anybody?");
    net.wait(|t, cx| t.poll_send_to(cx, socket, &mut buf, None)).unwrap();
    let error = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // The socket lives on.
    let friend = UdpSocket::bind(vacant).unwrap();
    friend.send_to(b"here I am", net.transport.datagram_addr(socket).unwrap()).unwrap();
    assert_eq!(&net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap().0[..], b"here I am");
    net.transport.close_datagram(socket);
    net.settle();
}

fn peeking_at_a_datagram_leaves_it(open: Open) {
    let mut net = open(Limits::default());
    let (socket, here) = bind(&mut net, V4);
    let peer = UdpSocket::bind(V4).unwrap();
    let flag = net.flag();
    assert!(net.poll_with(&flag, |t, cx| t.poll_datagram_readable(cx, socket)).is_pending());
    peer.send_to(b"one", here).unwrap();
    peer.send_to(b"two", here).unwrap();
    net.wait(|t, cx| t.poll_datagram_readable(cx, socket)).unwrap();
    net.wait(|t, cx| t.poll_datagram_writable(cx, socket)).unwrap();
    for _ in 0..3 {
        let (shown, from) = net.wait(|t, cx| t.poll_peek_from(cx, socket)).unwrap();
        assert_eq!((&shown[..], from), (&b"one"[..], peer.local_addr().unwrap()));
    }
    assert_eq!(&net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap().0[..], b"one");
    assert_eq!(&net.wait(|t, cx| t.poll_peek_from(cx, socket)).unwrap().0[..], b"two");
    assert_eq!(&net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap().0[..], b"two");
    net.transport.close_datagram(socket);
    net.settle();
}

fn datagrams_of_any_size_arrive_whole(open: Open) {
    let mut net = open(Limits::default());
    let (socket, here) = bind(&mut net, V4);
    let peer = UdpSocket::bind(V4).unwrap();
    let small = net.transport.pool().small_capacity();
    for len in [1, 1472, small - 45, small - 44, small - 1, small, small + 1, 9000, 65_507] {
        let sent = patterned(len);
        peer.send_to(&sent, here).unwrap();
        let (shown, _) = net.wait(|t, cx| t.poll_peek_from(cx, socket)).unwrap();
        assert!(shown[..] == sent[..], "{len} bytes shown whole, not {}", shown.len());
        let (got, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
        assert!(got[..] == sent[..], "{len} bytes arrive whole, not {}", got.len());
        let mut got = Some(got);
        let to = Some(peer.local_addr().unwrap());
        net.wait(|t, cx| t.poll_send_to(cx, socket, &mut got, to)).unwrap();
        net.turn();
        let mut back = vec![0; 1 << 16];
        assert_eq!(peer.recv(&mut back).unwrap(), len);
    }
    let mut too_long = net.transport.pool().copy_from_slice(&patterned(65_508));
    let to = Some(peer.local_addr().unwrap());
    let error = net.wait(|t, cx| t.poll_send_to(cx, socket, &mut too_long, to)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    net.transport.close_datagram(socket);
    net.settle();
}
