//! UDP between two whole stacks, and within one: resolution, both IP versions, errors, bounds.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::{Hosts, bind, config, once, recv, send};
use demi_drivers::transport::{DatagramOptions, Transport};
use demi_drivers::wire::{Wire, WireConfig, WireEnd};
use demi_drivers::{Capabilities, Device, Instant, Pool, PoolConfig, RxFrame, TxQueue};
use demi_netstack::{Limits, Stack, StackConfig};

fn wires() -> [WireConfig; 4] {
    [
        WireConfig::default(),
        WireConfig { checksum_offload: true, ..WireConfig::default() },
        WireConfig { lossless_memory: true, ..WireConfig::default() },
        WireConfig { mtu: 9000, ..WireConfig::default() },
    ]
}

#[test]
fn a_datagram_and_its_reply_cross_on_both_ip_versions_and_every_offload() {
    for wire in wires() {
        for (server, client) in [("10.0.0.2:7", "0.0.0.0:0"), ("[fd00::2]:7", "[::]:0")] {
            let mut hosts = Hosts::new(wire.clone());
            let there = bind(&mut hosts.hosts[1], server);
            let here = bind(&mut hosts.hosts[0], client);
            for len in [0, 1, 64, 1400] {
                let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
                send(&mut hosts.hosts[0], here, &bytes, Some(server)).unwrap();
                hosts.settle();
                let (received, from) = recv(&mut hosts.hosts[1], there).expect("a datagram").unwrap();
                assert_eq!(received, bytes, "{wire:?}");
                send(&mut hosts.hosts[1], there, &received, Some(&from.to_string())).unwrap();
                hosts.settle();
                let (echoed, from) = recv(&mut hosts.hosts[0], here).expect("its echo").unwrap();
                assert_eq!((echoed, from.to_string()), (bytes, server.to_owned()));
            }
            assert_eq!(hosts.hosts[0].stats().link.out_solicits, 1, "asked once");
            assert_eq!(hosts.hosts[1].stats().link.out_solicits, 0, "learnt from being asked");
        }
    }
}

/// A device that takes frames of so many parts only, and holds the stack to it.
struct Narrow {
    inner: WireEnd,
    capabilities: Capabilities,
}

impl Device for Narrow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        self.inner.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> std::io::Result<usize> {
        self.inner.rx_burst(now, into, max)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> std::io::Result<usize> {
        for frame in queue.iter() {
            assert!(frame.parts().len() <= self.capabilities.max_parts, "{} parts", frame.parts().len());
        }
        self.inner.tx_burst(now, queue)
    }
}

#[test]
fn a_payload_that_others_look_at_goes_out_behind_a_header_slot_or_copied() {
    for max_parts in [1, 2, 16] {
        let mut ends = Wire::new(1, WireConfig::default()).unwrap();
        let there = Stack::new(Box::new(ends.pop().unwrap()), config(2)).unwrap();
        let inner = ends.pop().unwrap();
        let mut capabilities = inner.capabilities().clone();
        capabilities.max_parts = max_parts;
        let here = Stack::new(Box::new(Narrow { inner, capabilities }), config(1)).unwrap();
        let mut hosts = Hosts { hosts: [here, there], now: Instant::ZERO };
        let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
        let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
        let kept = hosts.hosts[0].pool().copy_from_slice(b"kept and sent, odd").unwrap();
        for _ in 0..3 {
            let mut sent = Some(kept.slice(1, 15));
            let to = Some("10.0.0.2:7".parse().unwrap());
            once(|cx| hosts.hosts[0].poll_send_to(cx, here, &mut sent, to)).unwrap().unwrap();
        }
        hosts.settle();
        for _ in 0..3 {
            assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, b"ept and sent, o");
        }
        assert_eq!(&kept[..], b"kept and sent, odd");
    }
}

#[test]
fn a_dual_stack_socket_hears_ipv4_in_mapped_form_unless_it_asked_not_to() {
    let mut hosts = Hosts::new(WireConfig::default());
    let there = bind(&mut hosts.hosts[1], "[::]:7");
    let here = bind(&mut hosts.hosts[0], "10.0.0.1:99");
    send(&mut hosts.hosts[0], here, b"four", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    let (bytes, from) = recv(&mut hosts.hosts[1], there).unwrap().unwrap();
    assert_eq!((bytes, from.to_string()), (b"four".to_vec(), "[::ffff:10.0.0.1]:99".to_owned()));
    send(&mut hosts.hosts[1], there, b"back", Some("[::ffff:10.0.0.1]:99")).unwrap();
    hosts.settle();
    assert_eq!(recv(&mut hosts.hosts[0], here).unwrap().unwrap().1.to_string(), "10.0.0.2:7");

    let mut options = DatagramOptions::default();
    options.only_v6 = true;
    hosts.hosts[1].bind_datagram("[::]:8".parse().unwrap(), &options).unwrap();
    bind(&mut hosts.hosts[1], "0.0.0.0:8");
}

#[test]
fn a_port_where_nobody_listens_refuses_connected_sockets() {
    for (server, client) in [("10.0.0.2:7", "0.0.0.0:0"), ("[fd00::2]:7", "[::]:0")] {
        let mut hosts = Hosts::new(WireConfig::default());
        let connected = bind(&mut hosts.hosts[0], client);
        let loose = bind(&mut hosts.hosts[0], client);
        hosts.hosts[0].connect_datagram(connected, Some(server.parse().unwrap())).unwrap();
        assert_eq!(hosts.hosts[0].datagram_peer(connected).unwrap().to_string(), server);
        send(&mut hosts.hosts[0], connected, b"anyone?", None).unwrap();
        send(&mut hosts.hosts[0], loose, b"anyone?", Some(server)).unwrap();
        hosts.settle();
        let error = recv(&mut hosts.hosts[0], connected).expect("an error").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(recv(&mut hosts.hosts[0], connected).is_none(), "told once");
        assert!(recv(&mut hosts.hosts[0], loose).is_none(), "not connected, not told");
        let stats = hosts.hosts[1].stats();
        let version = if server.starts_with('[') { stats.v6 } else { stats.v4 };
        assert_eq!((version.udp.no_ports, version.icmp.out_dest_unreachs), (2, 2));
    }
}

#[test]
fn errors_for_a_flood_are_limited() {
    let mut hosts = Hosts::new(WireConfig::default());
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    for _ in 0..20 {
        for _ in 0..50 {
            send(&mut hosts.hosts[0], here, b"anyone?", Some("10.0.0.2:7")).unwrap();
        }
        hosts.settle();
    }
    let icmp = hosts.hosts[1].stats().v4.icmp;
    assert_eq!(icmp.out_dest_unreachs + icmp.out_rate_limited, 1000);
    assert!(icmp.out_dest_unreachs <= 50, "{} errors in no time", icmp.out_dest_unreachs);
}

#[test]
fn a_connected_socket_hears_its_peer_only() {
    let mut hosts = Hosts::new(WireConfig::default());
    let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    hosts.hosts[1].connect_datagram(there, Some("10.0.0.1:1000".parse().unwrap())).unwrap();
    let peer = bind(&mut hosts.hosts[0], "10.0.0.1:1000");
    let stranger = bind(&mut hosts.hosts[0], "10.0.0.1:1001");
    send(&mut hosts.hosts[0], stranger, b"stranger", Some("10.0.0.2:7")).unwrap();
    send(&mut hosts.hosts[0], peer, b"peer", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, b"peer");
    assert!(recv(&mut hosts.hosts[1], there).is_none());
    hosts.hosts[1].connect_datagram(there, None).unwrap();
    send(&mut hosts.hosts[0], stranger, b"stranger", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, b"stranger");
}

#[test]
fn a_connected_socket_may_send_elsewhere_and_back() {
    let mut hosts = Hosts::new(WireConfig::default());
    let peer = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    let own = bind(&mut hosts.hosts[0], "10.0.0.1:9");
    hosts.hosts[0].connect_datagram(here, Some("10.0.0.2:7".parse().unwrap())).unwrap();
    for round in 0..3u8 {
        send(&mut hosts.hosts[0], here, &[round], None).unwrap();
        send(&mut hosts.hosts[0], here, &[round + 100], Some("10.0.0.1:9")).unwrap();
    }
    hosts.settle();
    for round in 0..3u8 {
        assert_eq!(recv(&mut hosts.hosts[1], peer).unwrap().unwrap().0, [round]);
        assert_eq!(recv(&mut hosts.hosts[0], own).unwrap().unwrap().0, [round + 100]);
    }
}

#[test]
fn packets_to_our_own_addresses_stay_here() {
    for (server, client) in
        [("10.0.0.1:7", "10.0.0.1:8"), ("127.0.0.1:7", "0.0.0.0:8"), ("[::1]:7", "[::]:8")]
    {
        let mut hosts = Hosts::new(WireConfig::default());
        let host = &mut hosts.hosts[0];
        let there = bind(host, server);
        let here = bind(host, client);
        send(host, here, b"myself", Some(server)).unwrap();
        assert_eq!(host.deadline(), Some(hosts.now), "there is something to do at once");
        hosts.settle();
        let (bytes, from) = recv(&mut hosts.hosts[0], there).unwrap().unwrap();
        assert_eq!((&bytes[..], from.port()), (&b"myself"[..], 8));
        assert_eq!(hosts.hosts[0].stats().link.out_frames, 0);
        let closed = server.replace(":7", ":9");
        hosts.hosts[0].connect_datagram(here, Some(closed.parse().unwrap())).unwrap();
        send(&mut hosts.hosts[0], here, b"nobody", None).unwrap();
        hosts.settle();
        let error = recv(&mut hosts.hosts[0], here).expect("an error").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{server}");
    }
}

#[test]
fn a_broadcast_needs_the_option_and_reaches_every_socket() {
    let mut hosts = Hosts::new(WireConfig::default());
    let sockets = ["0.0.0.0:7", "[::]:8"].map(|local| bind(&mut hosts.hosts[1], local));
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    let refused = send(&mut hosts.hosts[0], here, b"all", Some("10.0.0.255:7")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    let mut options = DatagramOptions::default();
    options.broadcast = true;
    hosts.hosts[0].set_datagram_options(here, &options).unwrap();
    send(&mut hosts.hosts[0], here, b"all", Some("10.0.0.255:7")).unwrap();
    send(&mut hosts.hosts[0], here, b"all", Some("255.255.255.255:8")).unwrap();
    send(&mut hosts.hosts[0], here, b"all", Some("255.255.255.255:9")).unwrap();
    hosts.settle();
    for socket in sockets {
        assert_eq!(recv(&mut hosts.hosts[1], socket).unwrap().unwrap().0, b"all");
    }
    assert_eq!(hosts.hosts[1].stats().v4.icmp.out_msgs, 0, "a broadcast is never answered by an error");
}

#[test]
fn a_full_receive_buffer_drops_and_counts_and_gives_its_memory_back() {
    let mut hosts = Hosts::new(WireConfig::default());
    let mut options = DatagramOptions::default();
    options.recv_buffer_bytes = Some(4000);
    let there = hosts.hosts[1].bind_datagram("10.0.0.2:7".parse().unwrap(), &options).unwrap();
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    for number in 0..50u8 {
        send(&mut hosts.hosts[0], here, &[number; 32], Some("10.0.0.2:7")).unwrap();
        hosts.settle();
    }
    let udp = hosts.hosts[1].stats().v4.udp;
    assert_eq!((udp.in_datagrams, udp.rcvbuf_errors), (5, 45), "each counts with its slot");
    assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, [0; 32], "the oldest stay");
    hosts.hosts[1].close_datagram(there);
    assert_eq!(hosts.hosts[1].pool().stats().slots_out, 0);
    assert_eq!(hosts.hosts[1].usage().datagrams, 0);
}

#[test]
fn all_sockets_together_hold_no_more_than_the_limit() {
    let limited =
        StackConfig { limits: Limits { udp_datagrams: Some(10), ..Limits::default() }, ..config(2) };
    let mut hosts = Hosts::with(WireConfig::default(), [config(1), limited]);
    let ports: Vec<_> = (1..=5).map(|port| bind(&mut hosts.hosts[1], &format!("10.0.0.2:{port}"))).collect();
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    for port in 1..=5 {
        for _ in 0..4 {
            send(&mut hosts.hosts[0], here, b"x", Some(&format!("10.0.0.2:{port}"))).unwrap();
        }
    }
    hosts.settle();
    let udp = hosts.hosts[1].stats().v4.udp;
    assert_eq!((udp.in_datagrams, udp.mem_errors), (10, 10));
    let received: usize =
        ports.iter().map(|port| std::iter::from_fn(|| recv(&mut hosts.hosts[1], *port)).count()).sum();
    assert_eq!(received, 10);
}

#[test]
fn a_neighbour_that_does_not_exist_is_reported_to_connected_sockets() {
    for (nobody, client) in [("10.0.0.77:7", "0.0.0.0:0"), ("[fd00::77]:7", "[::]:0")] {
        let mut hosts = Hosts::new(WireConfig::default());
        let here = bind(&mut hosts.hosts[0], client);
        hosts.hosts[0].connect_datagram(here, Some(nobody.parse().unwrap())).unwrap();
        for _ in 0..100 {
            send(&mut hosts.hosts[0], here, b"hello?", None).unwrap();
        }
        hosts.pass(Duration::from_secs(2));
        assert!(recv(&mut hosts.hosts[0], here).is_none(), "still asking");
        hosts.pass(Duration::from_secs(3));
        let error = recv(&mut hosts.hosts[0], here).expect("an error").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        let link = hosts.hosts[0].stats().link;
        assert_eq!((link.out_solicits, link.neighbor_failures, link.neighbor_queue_drops), (3, 1, 36));
        assert_eq!(hosts.hosts[0].pool().stats().slots_out, 0, "nothing is left waiting");
    }
}

#[test]
fn what_waits_for_an_address_goes_out_in_order_once_it_is_known() {
    let mut hosts = Hosts::new(WireConfig::default());
    let there = bind(&mut hosts.hosts[1], "[fd00::2]:7");
    let here = bind(&mut hosts.hosts[0], "[::]:0");
    let kept = hosts.hosts[0].pool().copy_from_slice(b"shared").unwrap();
    for number in 0..10u8 {
        send(&mut hosts.hosts[0], here, &[number], Some("[fd00::2]:7")).unwrap();
    }
    let (mut shared, to) = (Some(kept.clone()), Some("[fd00::2]:7".parse().unwrap()));
    once(|cx| hosts.hosts[0].poll_send_to(cx, here, &mut shared, to)).unwrap().unwrap();
    hosts.settle();
    for number in 0..10u8 {
        assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, [number]);
    }
    assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, b"shared");
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_full_transmit_queue_makes_senders_wait_and_wakes_them() {
    let small = StackConfig { limits: Limits { tx_queue_frames: 4, ..Limits::default() }, ..config(1) };
    let mut hosts = Hosts::with(WireConfig::default(), [small, config(2)]);
    let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    send(&mut hosts.hosts[0], here, b"resolve", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    let sent =
        (0..10).take_while(|_| send(&mut hosts.hosts[0], here, b"x", Some("10.0.0.2:7")).is_ok()).count();
    assert_eq!(sent, 4);
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut buf = hosts.hosts[0].pool().copy_from_slice(b"waits");
    let to = Some("10.0.0.2:7".parse().unwrap());
    let mut cx = Context::from_waker(&waker);
    assert!(hosts.hosts[0].poll_send_to(&mut cx, here, &mut buf, to).is_pending());
    assert!(hosts.hosts[0].poll_datagram_writable(&mut cx, here).is_pending());
    assert!(buf.is_some(), "it stays the caller's");
    hosts.settle();
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(hosts.hosts[0].poll_send_to(&mut cx, here, &mut buf, to).is_ready());
    hosts.settle();
    assert_eq!(std::iter::from_fn(|| recv(&mut hosts.hosts[1], there)).count(), 6);
}

#[test]
fn a_received_datagram_wakes_its_reader() {
    let mut hosts = Hosts::new(WireConfig::default());
    let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(hosts.hosts[1].poll_datagram_readable(&mut cx, there).is_pending());
    send(&mut hosts.hosts[0], here, b"x", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    assert!(hosts.hosts[1].poll_datagram_readable(&mut cx, there).is_ready());
    let (peeked, from) = once(|cx| hosts.hosts[1].poll_peek_from(cx, there)).unwrap().unwrap();
    let (bytes, again) = recv(&mut hosts.hosts[1], there).unwrap().unwrap();
    assert_eq!((&peeked[..], from), (&bytes[..], again));
}

#[test]
fn misuse_is_refused_with_a_reason() {
    let mut hosts = Hosts::new(WireConfig::default());
    let host = &mut hosts.hosts[0];
    let options = DatagramOptions::default();
    let taken = bind(host, "0.0.0.0:7");
    let mut refused = |local: &str| host.bind_datagram(local.parse().unwrap(), &options).unwrap_err();
    assert_eq!(refused("10.0.0.1:7").kind(), ErrorKind::AddrInUse);
    let error = refused("10.0.0.9:7");
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("10.0.0.9"), "{error}");
    assert_eq!(send(host, taken, b"x", None).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(
        send(host, taken, b"x", Some("192.0.2.1:7")).unwrap_err().kind(),
        ErrorKind::NetworkUnreachable
    );
    assert_eq!(send(host, taken, b"x", Some("10.0.0.2:0")).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(send(host, taken, b"x", Some("[fd00::2]:7")).unwrap_err().kind(), ErrorKind::InvalidInput);
    let error = send(host, taken, &[0; 65_508], Some("10.0.0.2:7")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("65507"), "{error}");
    host.close_datagram(taken);
    assert_eq!(send(host, taken, b"x", Some("10.0.0.2:7")).unwrap_err().kind(), ErrorKind::NotConnected);
    let again = bind(host, "0.0.0.0:7");
    assert_ne!(taken, again, "a closed socket's handle is nobody else's");
    assert_eq!(host.datagram_addr(taken).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn ephemeral_ports_differ_between_hosts_with_different_secrets() {
    let mut hosts = Hosts::new(WireConfig::default());
    let mut ports = |host: usize| -> Vec<u16> {
        (0..8)
            .map(|_| {
                let socket = bind(&mut hosts.hosts[host], "0.0.0.0:0");
                hosts.hosts[host].datagram_addr(socket).unwrap().port()
            })
            .collect()
    };
    let (a, b) = (ports(0), ports(1));
    assert_ne!(a, b);
    assert!(a.iter().chain(&b).all(|port| (32768..=60999).contains(port)), "{a:?} {b:?}");
}

/// A device that is unplugged after some bursts.
struct Unplugged(WireEnd, u32);

impl Device for Unplugged {
    fn name(&self) -> &str {
        "unplugged"
    }

    fn capabilities(&self) -> &Capabilities {
        self.0.capabilities()
    }

    fn pool(&self) -> &Pool {
        self.0.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> std::io::Result<usize> {
        if self.1 == 0 {
            return Err(std::io::Error::new(ErrorKind::BrokenPipe, "the cable is out"));
        }
        self.1 -= 1;
        self.0.rx_burst(now, into, max)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> std::io::Result<usize> {
        self.0.tx_burst(now, queue)
    }
}

#[test]
fn a_device_that_goes_away_ends_its_sockets_with_its_error() {
    let end = Wire::new(1, WireConfig::default()).unwrap().pop().unwrap();
    let mut host = Stack::new(Box::new(Unplugged(end, 3)), config(2)).unwrap();
    let socket = bind(&mut host, "0.0.0.0:7");
    for _ in 0..3 {
        host.poll(Instant::ZERO).unwrap();
        assert!(recv(&mut host, socket).is_none());
    }
    let error = host.poll(Instant::ZERO).unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::BrokenPipe, "the cable is out".to_owned()));
    assert_eq!(recv(&mut host, socket).unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
    let options = DatagramOptions::default();
    let refused = host.bind_datagram("0.0.0.0:8".parse().unwrap(), &options).unwrap_err();
    assert_eq!(refused.to_string(), "the cable is out");
    assert_eq!(host.flush(Instant::ZERO).unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn what_a_device_has_no_room_for_is_told_with_what_the_stack_has_counted() {
    let pools = vec![PoolConfig::small(64), PoolConfig::small(16)];
    let mut hosts = Hosts::new(WireConfig { ring_frames: 20, end_pools: pools, ..WireConfig::default() });
    let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    send(&mut hosts.hosts[0], here, b"first", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    assert!(recv(&mut hosts.hosts[1], there).is_some());
    let counted = |hosts: &Hosts, host: usize, name: &str| {
        hosts.hosts[host].counters().into_iter().find(|(of, _)| of == name).map(|(_, count)| count)
    };
    assert_eq!(counted(&hosts, 1, "DemiRxDropped"), Some(0));
    for _ in 0..30 {
        send(&mut hosts.hosts[0], here, b"more than it has slots for", Some("10.0.0.2:7")).unwrap();
    }
    let now = hosts.now;
    hosts.hosts[0].flush(now).unwrap();
    assert_eq!(counted(&hosts, 1, "DemiRxDropped"), Some(30 - 16), "no slot");
    assert_eq!(counted(&hosts, 0, "DemiTxFull"), Some(0));
    hosts.settle();
    let received = std::iter::from_fn(|| recv(&mut hosts.hosts[1], there)).count();
    assert_eq!(received, 8, "half of the pool may wait in sockets");
}
