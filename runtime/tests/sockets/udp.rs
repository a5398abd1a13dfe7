//! UDP: datagrams one by one, in bursts, among many tasks.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::rc::Rc;

use demi::io::Interest;
use demi::net::UdpSocket;
use std::time::Duration;

use super::support::{on_each, on_kernel, pattern, poll_once};

async fn bound() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

#[test]
fn datagrams_go_and_come_with_their_addresses() {
    on_each(|| async {
        let (one, two) = (bound().await, bound().await);
        for message in [&b"short"[..], &[7; 1400], b""] {
            assert_eq!(one.send_to(message, two.local_addr().unwrap()).await.unwrap(), message.len());
            let (buf, peer) = two.pop_from().await.unwrap();
            assert_eq!((&buf[..], peer), (message, one.local_addr().unwrap()));
            two.push_to(buf, peer).await.unwrap();
            let mut back = vec![0; 65_536];
            let (count, peer) = one.recv_from(&mut back).await.unwrap();
            assert_eq!((&back[..count], peer), (message, two.local_addr().unwrap()));
        }
    });
}

#[test]
fn a_long_datagram_comes_whole() {
    on_kernel(|| async {
        let (one, two) = (bound().await, bound().await);
        one.send_to(&pattern(60_000), two.local_addr().unwrap()).await.unwrap();
        assert!(two.pop_from().await.unwrap().0[..] == pattern(60_000));
    });
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    on_each(|| async {
        let (one, two, stranger) = (bound().await, bound().await, bound().await);
        assert_eq!(one.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
        one.connect(two.local_addr().unwrap()).await.unwrap();
        assert_eq!(one.peer_addr().unwrap(), two.local_addr().unwrap());
        stranger.send_to(b"who are you?", one.local_addr().unwrap()).await.unwrap();
        two.send_to(b"me", one.local_addr().unwrap()).await.unwrap();
        let mut dst = [0; 32];
        assert_eq!(one.recv(&mut dst).await.unwrap(), 2);
        two.send_to(b"again", one.local_addr().unwrap()).await.unwrap();
        assert_eq!(&one.pop().await.unwrap()[..], b"again");
        one.send(b"you").await.unwrap();
        assert_eq!(two.recv_from(&mut dst).await.unwrap(), (3, one.local_addr().unwrap()));
        let error = two.send(b"to whom?").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotConnected) || error.raw_os_error().is_some(), "{error}");
    });
}

#[test]
fn peeking_leaves_the_datagram_and_a_short_read_drops_its_rest() {
    on_each(|| async {
        let (one, two) = (bound().await, bound().await);
        let addr = one.local_addr().unwrap();
        two.send_to(b"first", addr).await.unwrap();
        two.send_to(b"second", addr).await.unwrap();
        let mut dst = [0; 2];
        for _ in 0..2 {
            assert_eq!(one.peek(&mut dst).await.unwrap(), 2);
            assert_eq!(one.peek_from(&mut dst).await.unwrap(), (2, two.local_addr().unwrap()));
            assert_eq!(&dst, b"fi");
        }
        assert_eq!(one.recv(&mut dst).await.unwrap(), 2);
        assert_eq!(&one.pop_from().await.unwrap().0[..], b"second");
    });
}

#[test]
fn what_would_wait_says_so() {
    on_each(|| async {
        let (one, two) = (bound().await, bound().await);
        let mut dst = [0; 8];
        assert_eq!(one.try_recv(&mut dst).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(one.try_peek_from(&mut dst).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(poll_once(one.readable()).is_none());
        let ready = one.ready(Interest::READABLE | Interest::WRITABLE).await.unwrap();
        assert!(ready.is_writable() && !ready.is_readable());
        two.writable().await.unwrap();
        two.try_send_to(b"x", one.local_addr().unwrap()).unwrap();
        one.readable().await.unwrap();
        assert_eq!(one.try_recv_from(&mut dst).unwrap(), (1, two.local_addr().unwrap()));
    });
}

#[test]
fn bursts_are_received_and_sent_whole() {
    on_each(|| async {
        let (relay, peer) = (bound().await, bound().await);
        let addr = relay.local_addr().unwrap();
        let mut sent: VecDeque<_> =
            (0..20_u8).map(|n| (demi::io::copy_of(&[n; 100]).unwrap(), addr)).collect();
        peer.send_many(&mut sent).await.unwrap();
        assert!(sent.is_empty());
        let mut burst = VecDeque::new();
        let mut received = 0;
        while received < 20 {
            let count = relay.recv_many(&mut burst, 8).await.unwrap();
            assert!((1..=8).contains(&count) && burst.len() == count);
            received += count;
            relay.send_many(&mut burst).await.unwrap();
        }
        for n in 0..20_u8 {
            assert_eq!(&peer.pop_from().await.unwrap().0[..], &[n; 100], "in order on loopback");
        }
        assert_eq!(relay.recv_many(&mut burst, 0).await.unwrap(), 0);
    });
}

#[test]
fn many_tasks_share_one_socket() {
    on_each(|| async {
        let server = Rc::new(bound().await);
        let addr = server.local_addr().unwrap();
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let server = server.clone();
                demi::spawn(async move {
                    let (buf, peer) = server.pop_from().await.unwrap();
                    server.push_to(buf, peer).await.unwrap();
                })
            })
            .collect();
        demi::task::yield_now().await;
        let client = bound().await;
        client.connect(addr).await.unwrap();
        for n in 0..8_u8 {
            client.send(&[n]).await.unwrap();
            let mut dst = [0; 4];
            assert_eq!(client.recv(&mut dst).await.unwrap(), 1);
            assert_eq!(dst[0], n);
        }
        for worker in workers {
            worker.await.unwrap();
        }
    });
}

#[test]
fn a_port_nobody_has_is_connection_refused() {
    on_each(|| async {
        // A socket of the standard library's: it is closed when it is dropped, not when the loop comes round.
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let socket = bound().await;
        socket.connect(free).await.unwrap();
        socket.send(b"anybody?").await.unwrap();
        let error = socket.recv(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_cannot_be_sent_or_bound_is_an_error() {
    on_each(|| async {
        let socket = bound().await;
        let addr = socket.local_addr().unwrap();
        let error = socket.send_to(&vec![0; 65_528], addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "longer than UDP's length field tells");
        let error = socket.send_to(&vec![0; 65_508], addr).await.unwrap_err();
        let says_so = error.kind() == ErrorKind::InvalidInput || error.raw_os_error() == Some(90);
        assert!(says_so, "longer than IPv4's, which is InvalidInput or EMSGSIZE: {error:?}");
        let error = UdpSocket::bind(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    });
}

#[test]
fn options_are_put_in_force_and_read_back() {
    on_each(|| async {
        let socket = bound().await;
        assert!(!socket.broadcast().unwrap());
        socket.set_broadcast(true).unwrap();
        socket.set_ttl(7).unwrap();
        assert!(!socket.dont_fragment().unwrap());
        socket.set_dont_fragment(true).unwrap();
        assert!(socket.dont_fragment().unwrap());
        assert!(socket.broadcast().unwrap());
        assert_eq!(socket.ttl().unwrap(), 7);
        assert_eq!(socket.set_tos(256).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

/// How long something that may not come is waited for.
const WAIT: Duration = Duration::from_millis(300);

#[test]
fn groups_of_the_kernel_are_joined_and_left() {
    on_kernel(|| async {
        let group = std::net::Ipv4Addr::new(239, 255, 77, 1);
        let here = std::net::Ipv4Addr::LOCALHOST;
        let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        assert!(sender.multicast_loop_v4().unwrap());
        assert_eq!(sender.multicast_ttl_v4().unwrap(), 1);
        sender.set_multicast_ttl_v4(0).unwrap();
        assert_eq!(sender.set_multicast_ttl_v4(256).unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut bytes = [0; 16];
        let (one, two) = (std::net::Ipv4Addr::new(127, 0, 0, 1), std::net::Ipv4Addr::new(127, 0, 0, 2));
        for (source, hears) in [(None, true), (Some(one), true), (Some(two), false)] {
            match source {
                None => socket.join_multicast_v4(group, here).unwrap(),
                Some(source) => socket.join_ssm_v4(source, group, here).unwrap(),
            }
            sender.send_to(b"to all", (group, port)).await.unwrap();
            let heard = demi::time::timeout(WAIT, socket.recv_from(&mut bytes)).await;
            assert_eq!(heard.is_ok(), hears, "{source:?}");
            match source {
                None => socket.leave_multicast_v4(group, here).unwrap(),
                Some(source) => socket.leave_ssm_v4(source, group, here).unwrap(),
            }
        }
        let error = socket.leave_multicast_v4(group, here).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable, "{error}");
        assert!(error.to_string().contains("239.255.77.1"), "{error}");
        sender.set_multicast_loop_v4(false).unwrap();
        assert!(!sender.multicast_loop_v4().unwrap());
        let six = UdpSocket::bind("[::]:0").await.unwrap();
        let group = "ff11::77".parse().unwrap();
        six.join_multicast_v6(&group, 1).unwrap();
        six.leave_multicast_v6(&group, 1).unwrap();
        six.join_ssm_v6(&"fd00::9".parse().unwrap(), &"ff31::77".parse().unwrap(), 1).unwrap();
        six.leave_ssm_v6(&"fd00::9".parse().unwrap(), &"ff31::77".parse().unwrap(), 1).unwrap();
        six.set_multicast_hops_v6(3).unwrap();
        six.set_multicast_loop_v6(false).unwrap();
        assert_eq!((six.multicast_hops_v6().unwrap(), six.multicast_loop_v6().unwrap()), (3, false));
    });
}
