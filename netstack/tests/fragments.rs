//! Packets in pieces: datagrams larger than the MTU between two whole stacks, and fragments of every kind from a bare hand.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::{Bench, Hosts, bind, config, recv, send};
use demi_drivers::PoolConfig;
use demi_drivers::transport::{DatagramOptions, Transport};
use demi_drivers::wire::{LinkConfig, WireConfig};
use demi_netstack::wire::ethernet::{self, EtherType, Mac};
use demi_netstack::wire::{icmpv4, icmpv6, ipv4, ipv6, ndisc, protocol, udp};
use demi_netstack::{Limits, StackConfig};

const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HAND: Mac = Mac([2, 0, 0, 0, 0, 2]);
const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HAND_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const HAND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const BOTH: [(&str, &str); 2] = [("10.0.0.2:7", "0.0.0.0:0"), ("[fd00::2]:7", "[::]:0")];

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 256) as u8).collect()
}

#[test]
fn datagrams_larger_than_the_mtu_arrive_whole_on_both_ip_versions() {
    for mtu in [1280, 1500, 9000] {
        for (server, client) in BOTH {
            let mut hosts = Hosts::new(WireConfig { mtu, ..WireConfig::default() });
            let there = bind(&mut hosts.hosts[1], server);
            let here = bind(&mut hosts.hosts[0], client);
            let largest = if server.starts_with('[') { 65_527 } else { 65_507 };
            let overhead = 65_535 - largest + if server.starts_with('[') { 40 } else { 0 };
            let fits = usize::from(mtu) - overhead;
            for len in [fits, fits + 1, fits + 8, 3 * fits + 5, 20_000, largest] {
                let sent = bytes(len);
                send(&mut hosts.hosts[0], here, &sent, Some(server)).unwrap();
                hosts.settle();
                let (received, from) = recv(&mut hosts.hosts[1], there).expect("a datagram").unwrap();
                assert!(received == sent, "{len} bytes at MTU {mtu}, of which {} arrived", received.len());
                send(&mut hosts.hosts[1], there, &received, Some(&from.to_string())).unwrap();
                hosts.settle();
                assert!(recv(&mut hosts.hosts[0], here).expect("its echo").unwrap().0 == sent);
            }
            let [one, two] = hosts.hosts.each_ref().map(|host| host.stats());
            let [one, two] = [one, two].map(|s| if largest == 65_507 { s.v4.ip } else { s.v6.ip });
            let whole = u64::from(fits < 20_000) * 2 + 3;
            assert_eq!((one.frag_oks, two.reasm_oks, two.reasm_fails), (whole, whole, 0));
            assert_eq!(two.reasm_reqds, one.frag_creates);
            let error = send(&mut hosts.hosts[0], here, &bytes(largest + 1), Some(server)).unwrap_err();
            assert!(error.to_string().contains(&largest.to_string()), "{error}");
        }
    }
}

#[test]
fn fragments_may_be_lost_doubled_and_out_of_order_and_what_is_whole_is_right() {
    for (server, client) in BOTH {
        let link = LinkConfig {
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(2),
            loss: 0.01,
            duplicate: 0.1,
            ..LinkConfig::default()
        };
        let mut hosts = Hosts::new(WireConfig { link, ..WireConfig::default() });
        let there = bind(&mut hosts.hosts[1], server);
        let here = bind(&mut hosts.hosts[0], client);
        let mut arrived = 0;
        for round in 0..100 {
            send(&mut hosts.hosts[0], here, &bytes(8000 + round), Some(server)).unwrap();
            hosts.pass(Duration::from_millis(5));
            while let Some(received) = recv(&mut hosts.hosts[1], there) {
                let (received, _) = received.unwrap();
                assert!(received == bytes(received.len()), "{} bytes", received.len());
                arrived += 1;
            }
        }
        assert!((50..100).contains(&arrived), "{arrived} of 100");
        hosts.pass(Duration::from_secs(61));
        let stats = hosts.hosts[1].stats();
        let ip = if server.starts_with('[') { stats.v6.ip } else { stats.v4.ip };
        assert!(ip.reasm_timeout > 0 && ip.reasm_oks >= arrived, "{ip:?}");
        assert_eq!(hosts.hosts[1].pool().stats().slots_out, 0, "nothing is kept for ever");
    }
}

#[test]
fn a_socket_that_forbids_it_sends_no_fragments() {
    let mut hosts = Hosts::new(WireConfig::default());
    let mut options = DatagramOptions::default();
    options.dont_fragment = true;
    let here = hosts.hosts[0].bind_datagram("0.0.0.0:0".parse().unwrap(), &options).unwrap();
    let error = send(&mut hosts.hosts[0], here, &bytes(1473), Some("10.0.0.2:7")).unwrap_err();
    assert!(error.to_string().contains("1472"), "{error}");
    send(&mut hosts.hosts[0], here, &bytes(1472), Some("10.0.0.2:7")).unwrap();
    send(&mut hosts.hosts[0], here, &bytes(9000), Some("10.0.0.1:7")).unwrap();
    assert_eq!(hosts.hosts[0].stats().v4.ip.frag_creates, 0, "to ourselves, in one piece");
}

#[test]
fn fragments_wait_for_room_and_for_memory_together() {
    let narrow =
        |number| StackConfig { limits: Limits { tx_queue_frames: 8, ..Limits::default() }, ..config(number) };
    let mut hosts = Hosts::with(WireConfig::default(), [narrow(1), narrow(2)]);
    let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    send(&mut hosts.hosts[0], here, b"who is there", Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    recv(&mut hosts.hosts[1], there).unwrap().unwrap();
    send(&mut hosts.hosts[0], here, b"one frame in the queue", Some("10.0.0.2:7")).unwrap();
    let error = send(&mut hosts.hosts[0], here, &bytes(20_000), Some("10.0.0.2:7")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "14 fragments do not fit behind it");
    hosts.settle();
    send(&mut hosts.hosts[0], here, &bytes(20_000), Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    recv(&mut hosts.hosts[1], there).unwrap().unwrap();
    assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0.len(), 20_000);
}

fn frame(ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::Repr { dst: HOST, src: HAND, ethertype }.emit(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(packet);
    bytes
}

/// A fragment over IPv4.
fn v4(ident: u16, protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::Repr {
        src: HAND_V4,
        dst: HOST_V4,
        protocol,
        tos: 0,
        ttl: 64,
        ident,
        dont_fragment: false,
        more_fragments: more,
        fragment_offset: offset,
        payload_len: payload.len() as u16,
    };
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend_from_slice(payload);
    frame(EtherType::IPV4, &packet)
}

/// A fragment over IPv6, behind `before` bytes of destination options.
fn v6(ident: u32, next: u8, offset: u16, more: bool, options: bool, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    if options {
        body.extend([protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0]);
    }
    body.extend([next, 0]);
    body.extend((offset | u16::from(more)).to_be_bytes());
    body.extend(ident.to_be_bytes());
    body.extend_from_slice(payload);
    let header = ipv6::Repr {
        src: HAND_V6,
        dst: HOST_V6,
        next_header: if options { protocol::DESTINATION_OPTIONS } else { protocol::FRAGMENT },
        traffic_class: 0,
        flow_label: 0,
        hop_limit: 64,
        payload_len: body.len() as u16,
    };
    let mut packet = vec![0; ipv6::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend(body);
    frame(EtherType::IPV6, &packet)
}

fn datagram(port: u16, payload: &[u8], v6: bool) -> Vec<u8> {
    let repr = udp::Repr { src_port: 5000, dst_port: port, payload_len: payload.len() as u16 };
    let mut bytes = vec![0; udp::HEADER_LEN];
    let len = (bytes.len() + payload.len()) as u32;
    let pseudo = if v6 {
        demi_netstack::wire::checksum::pseudo_v6(HAND_V6, HOST_V6, protocol::UDP, len)
    } else {
        demi_netstack::wire::checksum::pseudo_v4(HAND_V4, HOST_V4, protocol::UDP, len)
    };
    let sum = repr.checksum(pseudo, demi_netstack::wire::checksum::sum(payload));
    repr.emit(bytes.first_chunk_mut().unwrap(), sum);
    bytes.extend_from_slice(payload);
    bytes
}

#[test]
fn a_fragmented_ping_is_answered_in_fragments() {
    let mut bench = Bench::new();
    let data = bytes(4000);
    let echo = icmpv4::Repr::EchoRequest { ident: 3, seq: 9, data: &data };
    let mut request = vec![0; echo.len()];
    echo.emit(&mut request).unwrap();
    // So that it knows who asks.
    let mut small = vec![0; 8];
    icmpv4::Repr::EchoRequest { ident: 3, seq: 8, data: b"" }.emit(&mut small).unwrap();
    bench.ask(&v4(1, protocol::ICMP, 0, false, &small));
    let parts: Vec<_> = request.chunks(1480).enumerate().collect();
    for (at, part) in parts.iter().rev() {
        let offset = (at * 1480) as u16;
        bench.inject(&v4(2, protocol::ICMP, offset, at + 1 < parts.len(), part));
    }
    let answers = bench.answers();
    // The asker is looked up first: it answers that, and then the fragments come.
    let mut reply = arp_reply();
    let frames = if answers.iter().any(|frame| frame[12..14] == [8, 0]) {
        answers
    } else {
        reply[..6].copy_from_slice(&HOST.0);
        bench.ask(&reply)
    };
    let mut whole = vec![0; 4008];
    let mut count = 0;
    for frame in &frames {
        let packet = ipv4::Packet::new_checked(&frame[14..]).unwrap();
        assert!(packet.checksum_ok() && !packet.dont_fragment() && packet.total_len() <= 1500);
        let at = usize::from(packet.fragment_offset());
        whole[at..at + packet.payload().len()].copy_from_slice(packet.payload());
        count += 1;
    }
    assert_eq!(count, 3);
    assert_eq!(icmpv4::Repr::parse(&whole), Ok(icmpv4::Repr::EchoReply { ident: 3, seq: 9, data: &data }));
}

fn arp_reply() -> Vec<u8> {
    use demi_netstack::wire::arp;
    let repr = arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: HAND,
        sender_ip: HAND_V4,
        target_mac: HOST,
        target_ip: HOST_V4,
    };
    let mut body = [0; arp::PACKET_LEN];
    repr.emit(&mut body);
    frame(EtherType::ARP, &body)
}

fn advertise(bench: &mut Bench) {
    let repr = ndisc::Repr::Solicitation { target: HOST_V6, source_mac: Some(HAND) };
    let mut body = [0; ndisc::MESSAGE_LEN];
    let len = repr.emit(HAND_V6, HOST_V6, &mut body);
    let header = ipv6::Repr {
        src: HAND_V6,
        dst: HOST_V6,
        next_header: protocol::ICMPV6,
        traffic_class: 0,
        flow_label: 0,
        hop_limit: 255,
        payload_len: len as u16,
    };
    let mut packet = vec![0; ipv6::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend(&body[..len]);
    bench.ask(&frame(EtherType::IPV6, &packet));
}

#[test]
fn extension_headers_before_the_fragment_header_stay_and_the_padding_goes() {
    let mut bench = Bench::new();
    let socket = bind(&mut bench.host, "[::]:7");
    let payload = bytes(100);
    let whole = datagram(7, &payload, true);
    let mut last = v6(5, protocol::UDP, 64, false, true, &whole[64..]);
    last.extend([0xaa; 9]); // Link padding.
    bench.inject(&last);
    bench.inject(&v6(5, protocol::UDP, 0, true, true, &whole[..64]));
    assert!(bench.answers().is_empty());
    assert_eq!(recv(&mut bench.host, socket).unwrap().unwrap().0, payload);
    let ip = bench.host.stats().v6.ip;
    assert_eq!((ip.in_receives, ip.in_delivers, ip.reasm_reqds, ip.reasm_oks), (2, 1, 2, 1));
}

#[test]
fn overlapping_fragments_reach_nobody() {
    // RFC 5722: the second fragment would rewrite the port that a filter saw in the first.
    let mut bench = Bench::new();
    let socket = bind(&mut bench.host, "[::]:7");
    for v6_too in [false, true] {
        let (innocent, evil) = (datagram(9, &bytes(24), v6_too), datagram(7, &bytes(24), v6_too));
        let fragment = |offset: u16, more, payload: &[u8]| {
            if v6_too {
                v6(9, protocol::UDP, offset, more, false, payload)
            } else {
                v4(9, protocol::UDP, offset, more, payload)
            }
        };
        bench.inject(&fragment(0, true, &innocent[..16]));
        bench.inject(&fragment(0, true, &evil[..8]));
        bench.inject(&fragment(8, false, &evil[8..]));
        bench.inject(&fragment(16, false, &innocent[16..]));
        bench.answers();
    }
    assert!(recv(&mut bench.host, socket).is_none());
    let stats = bench.host.stats();
    assert_eq!((stats.v4.ip.reasm_overlaps, stats.v6.ip.reasm_overlaps), (3, 3));
    assert_eq!(bench.host.pool().stats().slots_out, 0);
}

#[test]
fn who_sent_the_first_fragment_is_told_that_the_others_did_not_come() {
    let mut bench = Bench::new();
    bench.ask(&arp_reply());
    advertise(&mut bench);
    bench.inject(&v4(1, protocol::UDP, 0, true, &bytes(64)));
    bench.inject(&v4(2, protocol::UDP, 64, true, &bytes(64))); // Not the first: nobody is told.
    bench.inject(&v6(1, protocol::UDP, 0, true, false, &bytes(64)));
    bench.inject(&v6(2, protocol::UDP, 64, true, false, &bytes(64)));
    bench.answers();
    let errors = |bench: &mut Bench| {
        let answers = bench.answers();
        answers.into_iter().filter(|frame| matches!(frame[12..14], [8, 0] | [0x86, 0xdd])).collect::<Vec<_>>()
    };
    bench.pass(Duration::from_millis(29_999));
    assert!(errors(&mut bench).is_empty());
    bench.pass(Duration::from_millis(1));
    let mut told = errors(&mut bench);
    if told.is_empty() {
        told = bench.ask(&arp_reply());
    }
    let packet = ipv4::Packet::new_checked(&told[0][14..]).unwrap();
    let message = icmpv4::Repr::parse(packet.payload()).unwrap();
    let icmpv4::Repr::TimeExceeded { code: 1, quote } = message else { panic!("{message:?}") };
    assert_eq!(&quote[20..], &bytes(64)[..], "it quotes the fragment");
    assert_eq!(told.len(), 1);
    bench.pass(Duration::from_secs(30));
    let told = errors(&mut bench);
    let packet = ipv6::Packet::new_checked(&told[0][14..]).unwrap();
    let message = icmpv6::Repr::parse(HOST_V6, HAND_V6, packet.payload()).unwrap();
    assert!(matches!(message, icmpv6::Repr::TimeExceeded { code: 1, .. }), "{message:?}");
    let stats = bench.host.stats();
    assert_eq!((stats.v4.ip.reasm_timeout, stats.v6.ip.reasm_timeout), (2, 2));
    assert_eq!((stats.v4.icmp.out_time_excds, stats.v6.icmp.out_time_excds), (1, 1));
    assert_eq!(bench.host.pool().stats().slots_out, 0);
}

#[test]
fn ipv6_fragments_that_cannot_be_are_answered_as_the_rfcs_say() {
    let mut bench = Bench::new();
    advertise(&mut bench);
    for (fragment, code, pointer) in [
        (v6(1, protocol::UDP, 0, true, false, &bytes(63)), 0, 4),
        (v6(2, protocol::UDP, 0xfff8, true, false, &bytes(64)), 0, 42),
        (v6(3, protocol::UDP, 0xfff8, false, true, &bytes(9)), 0, 50),
        // RFC 7112: the header of UDP is not all there.
        (v6(4, protocol::TCP, 0, true, false, &bytes(16)), 3, 0),
        (v6(5, protocol::DESTINATION_OPTIONS, 0, true, false, &[17, 1, 1, 4, 0, 0, 0, 0]), 3, 0),
    ] {
        let told = bench.ask(&fragment);
        assert_eq!(told.len(), 1, "code {code}, pointer {pointer}");
        let packet = ipv6::Packet::new_checked(&told[0][14..]).unwrap();
        let message = icmpv6::Repr::parse(HOST_V6, HAND_V6, packet.payload()).unwrap();
        let icmpv6::Repr::ParameterProblem { code: c, pointer: p, .. } = message else {
            panic!("{message:?}")
        };
        assert_eq!((c, p), (code, pointer));
    }
    assert_eq!(bench.host.pool().stats().slots_out, 0);
}

#[test]
fn a_flood_of_fragments_leaves_memory_for_everybody_else() {
    let wire =
        WireConfig { pool: PoolConfig { slots: 1024, ..PoolConfig::default() }, ..WireConfig::default() };
    let mut hosts = Hosts::new(wire);
    let there = bind(&mut hosts.hosts[1], "10.0.0.2:7");
    let here = bind(&mut hosts.hosts[0], "0.0.0.0:0");
    let mut bench = Bench::new();
    for ident in 0..20_000u16 {
        bench.inject(&v4(ident, protocol::UDP, 8 * (ident % 7 + 1), true, &bytes(8)));
        if ident % 32 == 0 {
            bench.answers();
        }
    }
    bench.answers();
    let held = bench.host.pool().stats().slots_out;
    assert!((1..=512).contains(&held), "{held} slots for one source");
    assert_eq!(bench.host.stats().v4.ip.reasm_reqds, 20_000);
    send(&mut hosts.hosts[0], here, &bytes(5000), Some("10.0.0.2:7")).unwrap();
    hosts.settle();
    assert_eq!(recv(&mut hosts.hosts[1], there).unwrap().unwrap().0, bytes(5000));
}

#[test]
fn errors_in_fragments_are_not_answered_with_errors() {
    let mut bench = Bench::new();
    bench.ask(&arp_reply());
    advertise(&mut bench);
    let unreachable = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &bytes(56)].concat();
    bench.inject(&v4(1, protocol::ICMP, 0, true, &unreachable));
    let unreachable = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &bytes(56)].concat();
    bench.inject(&v6(1, protocol::ICMPV6, 0, true, false, &unreachable));
    bench.answers();
    bench.pass(Duration::from_secs(61));
    bench.answers();
    let stats = bench.host.stats();
    assert_eq!((stats.v4.ip.reasm_timeout, stats.v6.ip.reasm_timeout), (1, 1));
    assert_eq!((stats.v4.icmp.out_time_excds, stats.v6.icmp.out_time_excds), (0, 0));
}
