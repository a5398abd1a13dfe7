//! TCP through whole stacks: resolution, both IP versions, offloads, loopback, errors from below.

mod common;

use std::io::{ErrorKind, IoSlice};
use std::net::Shutdown;
use std::time::Duration;

use common::{Bench, Hosts, config, once};
use demi_drivers::transport::{ListenOptions, ListenerId, StreamId, StreamOptions, Transport};
use demi_drivers::wire::{LinkConfig, WireConfig};
use demi_netstack::wire::{ethernet, icmpv4, ipv4, protocol};
use demi_netstack::{Limits, Stack, StackConfig};

fn listen(host: &mut Stack, local: &str) -> ListenerId {
    host.listen(local.parse().unwrap(), &ListenOptions::default()).unwrap()
}

fn connect(host: &mut Stack, remote: &str) -> StreamId {
    host.connect(remote.parse().unwrap(), None, &StreamOptions::default()).unwrap()
}

fn accept(host: &mut Stack, listener: ListenerId) -> Option<StreamId> {
    once(|cx| host.poll_accept(cx, listener)).map(|accepted| accepted.unwrap().0)
}

fn write(host: &mut Stack, stream: StreamId, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    once(|cx| host.poll_write(cx, stream, &[IoSlice::new(bytes)])).map_or(0, |written| written.unwrap())
}

/// What can be read now, and whether the peer has ended.
fn read(host: &mut Stack, stream: StreamId) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    while let Some(popped) = once(|cx| host.poll_pop(cx, stream, usize::MAX)) {
        match popped.unwrap() {
            Some(buf) => all.extend_from_slice(&buf),
            None => return (all, true),
        }
    }
    (all, false)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Sends `len` bytes from host 0 to host `to`, which sends them back; answers how long that took.
fn echo(hosts: &mut Hosts, server: &str, to: usize, len: usize) -> Duration {
    let start = hosts.now;
    let listener = listen(&mut hosts.hosts[to], server);
    let client = connect(&mut hosts.hosts[0], server);
    let (sent, mut written, mut echoed) = (bytes(len), 0, Vec::new());
    let mut accepted = None;
    let mut backlog: Vec<u8> = Vec::new();
    let mut shut = (false, false);
    for _ in 0..1_000_000 {
        accepted = accepted.or_else(|| accept(&mut hosts.hosts[to], listener));
        if once(|cx| hosts.hosts[0].poll_connect(cx, client)).is_some() {
            written += write(&mut hosts.hosts[0], client, &sent[written..]);
            if written == len && !shut.0 {
                hosts.hosts[0].shutdown(client, Shutdown::Write).unwrap();
                shut.0 = true;
            }
        }
        if let Some(server) = accepted {
            let (received, ended) = read(&mut hosts.hosts[to], server);
            backlog.extend_from_slice(&received);
            let taken = write(&mut hosts.hosts[to], server, &backlog);
            backlog.drain(..taken);
            if ended && backlog.is_empty() && !shut.1 {
                hosts.hosts[to].shutdown(server, Shutdown::Write).unwrap();
                shut.1 = true;
            }
        }
        let (received, ended) = read(&mut hosts.hosts[0], client);
        echoed.extend_from_slice(&received);
        if ended {
            break;
        }
        if hosts.turn() == 0 {
            let next = hosts.hosts.iter().filter_map(|host| host.deadline()).min();
            hosts.now = next.expect("something is under way").max(hosts.now);
        }
    }
    assert!(echoed == sent, "{} of {len} bytes came back", echoed.len());
    hosts.hosts[0].close(client);
    hosts.hosts[to].close(accepted.unwrap());
    hosts.hosts[to].close_listener(listener);
    hosts.now - start
}

fn assert_nothing_left(hosts: &mut Hosts) {
    hosts.pass(Duration::from_secs(200));
    for host in &hosts.hosts {
        let usage = host.usage();
        assert_eq!(
            (usage.streams, usage.listeners, usage.closing, usage.time_wait),
            (0, 0, 0, 0),
            "{host:?}"
        );
        assert_eq!(host.pool().stats().slots_out, 0, "{host:?}");
    }
}

#[test]
fn a_stream_crosses_whole_on_both_ip_versions_and_every_offload() {
    for wire in [
        WireConfig::default(),
        WireConfig { checksum_offload: true, ..WireConfig::default() },
        WireConfig { checksum_offload: true, tso_max_bytes: 65_000, ..WireConfig::default() },
        WireConfig { lossless_memory: true, ..WireConfig::default() },
        WireConfig { mtu: 1280, ..WireConfig::default() },
    ] {
        for server in ["10.0.0.2:80", "[fd00::2]:80"] {
            let mut hosts = Hosts::new(wire.clone());
            echo(&mut hosts, server, 1, 300_000);
            assert_eq!(hosts.hosts[0].stats().tcp_in_csum_errors, 0, "{wire:?}");
            assert_nothing_left(&mut hosts);
        }
    }
}

#[test]
fn a_stream_survives_a_bad_network() {
    for server in ["10.0.0.2:80", "[fd00::2]:80"] {
        let link = LinkConfig {
            delay: Duration::from_millis(2),
            jitter: Duration::from_millis(1),
            loss: 0.02,
            duplicate: 0.02,
            corrupt: 0.02,
            reorder: 0.02,
            reorder_delay: Duration::from_millis(3),
            ..LinkConfig::default()
        };
        let mut hosts = Hosts::new(WireConfig { link, ..WireConfig::default() });
        echo(&mut hosts, server, 1, 200_000);
        let stats = hosts.hosts.iter().map(|host| host.stats());
        let errors: u64 = stats
            .map(|stats| stats.tcp_in_csum_errors + stats.v4.ip.in_hdr_errors + stats.link.in_other_host)
            .sum();
        assert!(errors > 0, "the network corrupted nothing");
    }
}

#[test]
fn a_stream_to_ourselves_needs_no_device() {
    for server in ["10.0.0.1:80", "[fd00::1]:80", "127.0.0.1:80", "[::1]:80"] {
        let mut hosts = Hosts::new(WireConfig::default());
        echo(&mut hosts, server, 0, 100_000);
        assert_eq!(hosts.hosts[0].stats().link.out_frames, 0, "{server}");
        assert_nothing_left(&mut hosts);
    }
}

#[test]
fn a_small_transmit_queue_and_few_neighbour_packets_only_slow_it_down() {
    let tight = |number| StackConfig {
        limits: Limits { tx_queue_frames: 2, packets_per_neighbor: 1, rx_burst: 1, ..Limits::default() },
        ..config(number)
    };
    let mut hosts = Hosts::with(WireConfig::default(), [tight(1), tight(2)]);
    echo(&mut hosts, "10.0.0.2:80", 1, 50_000);
    assert_nothing_left(&mut hosts);
}

#[test]
fn nobody_listening_and_nobody_there_are_told_apart() {
    let mut hosts = Hosts::new(WireConfig::default());
    for (remote, expected) in [
        ("10.0.0.2:81", ErrorKind::ConnectionRefused),
        ("[fd00::2]:81", ErrorKind::ConnectionRefused),
        ("127.0.0.1:81", ErrorKind::ConnectionRefused),
        ("10.0.0.99:81", ErrorKind::HostUnreachable),
        ("[fd00::99]:81", ErrorKind::HostUnreachable),
    ] {
        let start = hosts.now;
        let stream = connect(&mut hosts.hosts[0], remote);
        let error = loop {
            if let Some(connected) = once(|cx| hosts.hosts[0].poll_connect(cx, stream)) {
                break connected.expect_err("nobody is there");
            }
            hosts.pass(Duration::from_millis(500));
            assert!(hosts.now - start < Duration::from_secs(30), "{remote} is never refused");
        };
        assert_eq!(error.kind(), expected, "{remote}");
        hosts.hosts[0].close(stream);
    }
    let nowhere = hosts.hosts[0].connect("192.0.2.1:80".parse().unwrap(), None, &StreamOptions::default());
    assert_eq!(nowhere.unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    assert_nothing_left(&mut hosts);
}

#[test]
fn an_icmp_error_about_a_syn_ends_the_connect_and_a_forged_one_does_not() {
    let mut bench = Bench::new();
    let neighbour = demi_netstack::wire::arp::Repr {
        operation: demi_netstack::wire::arp::Operation::Request,
        sender_mac: ethernet::Mac(common::mac(1)),
        sender_ip: [10, 0, 0, 2].into(),
        target_mac: ethernet::Mac::default(),
        target_ip: [10, 0, 0, 1].into(),
    };
    let mut packet = [0; demi_netstack::wire::arp::PACKET_LEN];
    neighbour.emit(&mut packet);
    bench.ask(&[&[0xff; 6][..], &common::mac(1), &[8, 6], &packet].concat());
    let stream = connect(&mut bench.host, "10.0.0.2:80");
    let syn = bench.answers().pop().expect("a SYN");
    let told = |quote: &[u8]| {
        let message = icmpv4::Repr::Unreachable { code: 3, quote };
        let mut body = vec![0; message.len()];
        message.emit(&mut body).unwrap();
        let header = ipv4::Repr {
            src: [10, 0, 0, 2].into(),
            dst: [10, 0, 0, 1].into(),
            protocol: protocol::ICMP,
            tos: 0,
            ttl: 64,
            ident: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            payload_len: body.len() as u16,
        };
        let mut ip = [0; ipv4::HEADER_LEN];
        header.emit(&mut ip);
        [&common::mac(0)[..], &common::mac(1), &[8, 0], &ip, &body].concat()
    };
    let mut forged = syn[14..42].to_vec();
    forged[24] ^= 0x40;
    bench.ask(&told(&forged));
    assert!(once(|cx| bench.host.poll_connect(cx, stream)).is_none(), "its sequence number is not ours");
    bench.ask(&told(&syn[14..42]));
    let refused = once(|cx| bench.host.poll_connect(cx, stream)).expect("the end").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}
