//! One stack and a bare hand on its wire: what it answers, what it drops, and which counter says so.

mod common;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::{Bench, bind, mac, recv, send};
use demi_drivers::transport::{DatagramOptions, Transport};
use demi_netstack::link_local;
use demi_netstack::wire::ethernet::{self, EtherType, Mac};
use demi_netstack::wire::{arp, icmpv4, icmpv6, ipv4, ipv6, ndisc, protocol, udp, vlan};

const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HAND: Mac = Mac([2, 0, 0, 0, 0, 2]);
const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HAND_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const HAND_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn frame(dst: Mac, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::Repr { dst, src: HAND, ethertype }.emit(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(payload);
    bytes
}

fn v4_header(protocol: u8, payload: &[u8]) -> ipv4::Repr {
    ipv4::Repr {
        src: HAND_V4,
        dst: HOST_V4,
        protocol,
        tos: 0,
        ttl: 64,
        ident: 77,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: payload.len() as u16,
    }
}

fn v4(header: &ipv4::Repr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend_from_slice(payload);
    frame(HOST, EtherType::IPV4, &packet)
}

fn v6_from(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv6::Repr {
        src,
        dst,
        next_header,
        traffic_class: 0,
        flow_label: 0,
        hop_limit,
        payload_len: payload.len() as u16,
    };
    let mut packet = vec![0; ipv6::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend_from_slice(payload);
    let link = if dst.is_multicast() { Mac::for_multicast_v6(dst) } else { HOST };
    frame(link, EtherType::IPV6, &packet)
}

fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    v6_from(HAND_V6, HOST_V6, next_header, 64, payload)
}

fn echo_v4(data: &[u8]) -> Vec<u8> {
    let echo = icmpv4::Repr::EchoRequest { ident: 3, seq: 9, data };
    let mut bytes = vec![0; echo.len()];
    echo.emit(&mut bytes).unwrap();
    bytes
}

fn icmp_v6(src: Ipv6Addr, dst: Ipv6Addr, message: &icmpv6::Repr<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.len()];
    message.emit(src, dst, &mut bytes).unwrap();
    bytes
}

fn nd(src: Ipv6Addr, dst: Ipv6Addr, message: &ndisc::Repr) -> Vec<u8> {
    let mut bytes = [0; ndisc::MESSAGE_LEN];
    let len = message.emit(src, dst, &mut bytes);
    v6_from(src, dst, protocol::ICMPV6, 255, &bytes[..len])
}

fn datagram_v4(port: u16, payload: &[u8]) -> Vec<u8> {
    let header = udp::Repr { src_port: 5000, dst_port: port, payload_len: payload.len() as u16 };
    let mut bytes = vec![0; udp::HEADER_LEN];
    header.emit(bytes.first_chunk_mut().unwrap(), 0);
    bytes.extend_from_slice(payload);
    bytes
}

fn arp(operation: arp::Operation, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> [u8; arp::PACKET_LEN] {
    let mut bytes = [0; arp::PACKET_LEN];
    let (sender_mac, sender_ip) = sender;
    let (target_mac, target_ip) = target;
    arp::Repr { operation, sender_mac, sender_ip, target_mac, target_ip }.emit(&mut bytes);
    bytes
}

/// The payload of the only answer, checked down to its IP header.
fn only_v4(answers: &[Vec<u8>]) -> (ipv4::Repr, Vec<u8>) {
    assert_eq!(answers.len(), 1, "{answers:?}");
    let frame = ethernet::Frame::new_checked(&answers[0]).unwrap();
    assert_eq!((frame.dst(), frame.src(), frame.ethertype()), (HAND, HOST, EtherType::IPV4));
    let packet = ipv4::Packet::new_checked(frame.payload()).unwrap();
    assert!(packet.checksum_ok());
    assert_eq!((packet.src(), packet.dst()), (HOST_V4, HAND_V4));
    (ipv4::Repr::parse(&packet), packet.payload().to_vec())
}

fn only_v6(answers: &[Vec<u8>]) -> (ipv6::Repr, Vec<u8>) {
    assert_eq!(answers.len(), 1, "{answers:?}");
    let frame = ethernet::Frame::new_checked(&answers[0]).unwrap();
    assert_eq!((frame.src(), frame.ethertype()), (HOST, EtherType::IPV6));
    let packet = ipv6::Packet::new_checked(frame.payload()).unwrap();
    (ipv6::Repr::parse(&packet), packet.payload().to_vec())
}

/// A bench whose host knows the hand's link addresses.
fn acquainted() -> Bench {
    let mut bench = Bench::new();
    let request = arp(arp::Operation::Request, (HAND, HAND_V4), (Mac::default(), HOST_V4));
    bench.ask(&frame(Mac::BROADCAST, EtherType::ARP, &request));
    let group = ndisc::solicited_node(HOST_V6);
    let solicit = ndisc::Repr::Solicitation { target: HOST_V6, source_mac: Some(HAND) };
    bench.ask(&nd(HAND_V6, group, &solicit));
    bench
}

#[test]
fn ping_is_answered_with_its_own_bytes() {
    let mut bench = Bench::new();
    for len in [0, 1, 56, 1472] {
        let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let request = echo_v4(&data);
        let (header, reply) = only_v4(&bench.ask(&v4(&v4_header(protocol::ICMP, &request), &request)));
        assert_eq!((header.protocol, header.ttl), (protocol::ICMP, 64));
        let expected = icmpv4::Repr::EchoReply { ident: 3, seq: 9, data: &data };
        assert_eq!(icmpv4::Repr::parse(&reply), Ok(expected));
    }
    let icmp = bench.host.stats().v4.icmp;
    assert_eq!((icmp.in_echos, icmp.out_echo_replies), (4, 4));
    assert_eq!(bench.host.pool().stats().slots_out, 0);
}

#[test]
fn a_ping_of_nothing_but_zeros_is_answered_with_a_right_checksum() {
    let mut bench = acquainted();
    for len in [0, 1, 40] {
        let data = vec![0; len];
        let echo = icmpv4::Repr::EchoRequest { ident: 0, seq: 0, data: &data };
        let mut request = vec![0; echo.len()];
        echo.emit(&mut request).unwrap();
        let (_, reply) = only_v4(&bench.ask(&v4(&v4_header(protocol::ICMP, &request), &request)));
        let expected = icmpv4::Repr::EchoReply { ident: 0, seq: 0, data: &data };
        assert_eq!(icmpv4::Repr::parse(&reply), Ok(expected), "the sum of zeros alone is not zero");
    }
}

#[test]
fn ping6_is_answered_at_our_addresses_and_groups() {
    let mut bench = acquainted();
    let link = link_local(HOST);
    for (dst, from) in [(HOST_V6, HOST_V6), (link, link), ("ff02::1".parse().unwrap(), HOST_V6)] {
        let data = [5; 56];
        let message = icmpv6::Repr::EchoRequest { ident: 1, seq: 2, data: &data };
        let request = icmp_v6(HAND_V6, dst, &message);
        let answers = bench.ask(&v6_from(HAND_V6, dst, protocol::ICMPV6, 64, &request));
        let (header, reply) = only_v6(&answers);
        assert_eq!((header.src, header.dst, header.hop_limit), (from, HAND_V6, 64), "asked at {dst}");
        let expected = icmpv6::Repr::EchoReply { ident: 1, seq: 2, data: &data };
        assert_eq!(icmpv6::Repr::parse(from, HAND_V6, &reply), Ok(expected));
    }
}

#[test]
fn a_broadcast_ping_is_not_answered() {
    let mut bench = Bench::new();
    let request = echo_v4(b"everybody");
    let header = ipv4::Repr { dst: Ipv4Addr::new(10, 0, 0, 255), ..v4_header(protocol::ICMP, &request) };
    let mut frame = v4(&header, &request);
    frame[..6].fill(0xff);
    assert!(bench.ask(&frame).is_empty());
    assert_eq!(bench.host.stats().v4.icmp.in_echos, 1);
}

#[test]
fn arp_requests_for_us_are_answered_and_others_are_not() {
    let mut bench = Bench::new();
    let ask = |bench: &mut Bench, sender_ip: Ipv4Addr, target: Ipv4Addr| {
        let request = arp(arp::Operation::Request, (HAND, sender_ip), (Mac::default(), target));
        bench.ask(&frame(Mac::BROADCAST, EtherType::ARP, &request))
    };
    let answers = ask(&mut bench, HAND_V4, HOST_V4);
    assert_eq!(answers.len(), 1);
    let expected = arp(arp::Operation::Reply, (HOST, HOST_V4), (HAND, HAND_V4));
    assert_eq!(answers[0], {
        let mut bytes = frame(HAND, EtherType::ARP, &expected);
        bytes[6..12].copy_from_slice(&HOST.0);
        bytes
    });
    assert!(ask(&mut bench, HAND_V4, Ipv4Addr::new(10, 0, 0, 3)).is_empty());
    assert_eq!(ask(&mut bench, Ipv4Addr::UNSPECIFIED, HOST_V4).len(), 1, "a probe (RFC 5227) is answered");
}

#[test]
fn neighbour_solicitations_are_answered_and_duplicate_detection_is_told_to_all() {
    let mut bench = Bench::new();
    let group = ndisc::solicited_node(HOST_V6);
    let solicit = ndisc::Repr::Solicitation { target: HOST_V6, source_mac: Some(HAND) };
    let (header, reply) = only_v6(&bench.ask(&nd(HAND_V6, group, &solicit)));
    assert_eq!((header.src, header.dst, header.hop_limit), (HOST_V6, HAND_V6, 255));
    let message = icmpv6::Repr::parse(HOST_V6, HAND_V6, &reply).unwrap();
    let advertised = |solicited| ndisc::Repr::Advertisement {
        target: HOST_V6,
        target_mac: Some(HOST),
        router: false,
        solicited,
        overriding: true,
    };
    assert_eq!(ndisc::Repr::parse(&message, 255), Ok(Some(advertised(true))));

    let detection = ndisc::Repr::Solicitation { target: HOST_V6, source_mac: None };
    let (header, reply) = only_v6(&bench.ask(&nd(Ipv6Addr::UNSPECIFIED, group, &detection)));
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    assert_eq!(header.dst, all_nodes);
    let message = icmpv6::Repr::parse(HOST_V6, all_nodes, &reply).unwrap();
    assert_eq!(ndisc::Repr::parse(&message, 255), Ok(Some(advertised(false))));

    let mut routed = nd(HAND_V6, HOST_V6, &solicit);
    routed[ethernet::HEADER_LEN + 7] = 254;
    assert!(bench.ask(&routed).is_empty(), "it came through a router");
}

#[test]
fn gratuitous_arp_moves_a_neighbour_we_talk_to_and_teaches_no_other() {
    let mut bench = acquainted();
    let socket = bind(&mut bench.host, "10.0.0.1:9");
    send(&mut bench.host, socket, b"x", Some("10.0.0.2:7")).unwrap();
    let to = |frames: &[Vec<u8>]| -> Vec<[u8; 6]> {
        let data = frames.iter().filter(|frame| frame[12..14] == [8, 0]);
        data.map(|frame| frame[..6].try_into().unwrap()).collect()
    };
    assert_eq!(to(&bench.answers()), [mac(1)]);
    let elsewhere = Mac([2, 9, 9, 9, 9, 9]);
    for address in [HAND_V4, Ipv4Addr::new(10, 0, 0, 50)] {
        let gratuitous = arp(arp::Operation::Reply, (elsewhere, address), (Mac::BROADCAST, address));
        bench.ask(&frame(Mac::BROADCAST, EtherType::ARP, &gratuitous));
    }
    send(&mut bench.host, socket, b"x", Some("10.0.0.2:7")).unwrap();
    assert_eq!(to(&bench.answers()), [elsewhere.0]);
    send(&mut bench.host, socket, b"x", Some("10.0.0.50:7")).unwrap();
    assert_eq!(to(&bench.answers()), Vec::<[u8; 6]>::new(), "that one is asked for first");
}

#[test]
fn frames_that_are_not_for_us_are_dropped_and_counted() {
    let mut bench = Bench::new();
    let request = echo_v4(b"x");
    let header = v4_header(protocol::ICMP, &request);
    let mut count = 0;
    let mut dropped = |frame: &[u8], what: &str| {
        assert!(bench.ask(frame).is_empty(), "{what} was answered");
        count += 1;
        let stats = bench.host.stats();
        let told = stats.link.in_other_host
            + stats.link.in_unknown_type
            + stats.link.in_truncated
            + stats.v4.ip.in_addr_errors
            + stats.v4.ip.in_hdr_errors
            + stats.v4.ip.reasm_fails
            + stats.v4.icmp.in_errors;
        assert_eq!(told, count, "{what} is not counted: {stats:?}");
    };
    let good = v4(&header, &request);
    let mut other = good.clone();
    other[5] = 9;
    dropped(&other, "another station's frame");
    let mut group = good.clone();
    group[..6].fill(0xff);
    dropped(&group, "a packet to one in a frame to all");
    dropped(&frame(HOST, EtherType(0x1234), b"?"), "an unknown type");
    dropped(&good[..10], "a frame without a header");
    let address =
        |src: [u8; 4], dst: [u8; 4]| v4(&ipv4::Repr { src: src.into(), dst: dst.into(), ..header }, &request);
    dropped(&address([10, 0, 0, 2], [10, 0, 0, 3]), "another host's packet");
    dropped(&address([10, 0, 0, 2], [127, 0, 0, 1]), "a packet to loopback");
    dropped(&address([127, 0, 0, 1], [10, 0, 0, 1]), "a packet from loopback");
    dropped(&address([10, 0, 0, 1], [10, 0, 0, 1]), "a packet from ourselves (land)");
    dropped(&address([0, 0, 0, 0], [10, 0, 0, 1]), "a packet from nobody");
    dropped(&address([224, 0, 0, 1], [10, 0, 0, 1]), "a packet from a group");
    dropped(&address([255, 255, 255, 255], [10, 0, 0, 1]), "a packet from all");
    dropped(&address([10, 0, 0, 255], [10, 0, 0, 1]), "a packet from a network (smurf)");
    dropped(&v4(&ipv4::Repr { more_fragments: true, ..header }, &request), "a first fragment of 9 bytes");
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    dropped(&with(14, 0x44), "a header of 16 bytes");
    dropped(&with(14, 0x65), "another version");
    dropped(&with(17, 200), "a length beyond the frame");
    dropped(&with(22, 63), "a wrong header checksum");
    dropped(&with(40, 0xff), "a wrong ICMP checksum");
}

#[test]
fn ipv6_from_nobody_or_to_others_is_dropped_and_counted() {
    let mut bench = Bench::new();
    let message = icmpv6::Repr::EchoRequest { ident: 1, seq: 1, data: b"x" };
    let mut count = 0;
    let other: Ipv6Addr = "fd00::3".parse().unwrap();
    for (src, dst) in [
        ("::1", HOST_V6),
        ("ff02::1", HOST_V6),
        ("fd00::1", HOST_V6),
        ("::ffff:10.0.0.2", HOST_V6),
        ("fd00::2", other),
        ("fd00::2", "ff02::1:ff00:77".parse().unwrap()),
    ] {
        let src: Ipv6Addr = src.parse().unwrap();
        let request = icmp_v6(src, dst, &message);
        assert!(bench.ask(&v6_from(src, dst, protocol::ICMPV6, 64, &request)).is_empty(), "{src} to {dst}");
        count += 1;
        let stats = bench.host.stats();
        assert_eq!(stats.v6.ip.in_addr_errors + stats.link.in_other_host, count, "{src} to {dst}");
    }
    let nobody = icmp_v6(Ipv6Addr::UNSPECIFIED, HOST_V6, &message);
    assert!(bench.ask(&v6_from(Ipv6Addr::UNSPECIFIED, HOST_V6, protocol::ICMPV6, 64, &nobody)).is_empty());
}

#[test]
fn ip_options_padding_and_priority_tags_do_no_harm() {
    let mut bench = Bench::new();
    let socket = bind(&mut bench.host, "0.0.0.0:7");
    let datagram = datagram_v4(7, b"hello");
    let mut padded = v4(&v4_header(protocol::UDP, &datagram), &datagram);
    padded.resize(80, 0xee);
    bench.ask(&padded);

    // A header of 24 bytes with a "no operation" option list.
    let mut options = vec![0x46, 0, 0, 24 + datagram.len() as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
    options.extend_from_slice(&HAND_V4.octets());
    options.extend_from_slice(&HOST_V4.octets());
    options.extend_from_slice(&[1, 1, 1, 0]);
    let sum = demi_netstack::wire::checksum::sum(&options).finish();
    options[10..12].copy_from_slice(&sum.to_be_bytes());
    options.extend_from_slice(&datagram);
    bench.ask(&frame(HOST, EtherType::IPV4, &options));

    let plain = v4(&v4_header(protocol::UDP, &datagram), &datagram);
    let tag = |vlan| {
        let mut bytes = [0; vlan::TAG_LEN];
        vlan::Repr { priority: 5, drop_eligible: false, vlan, ethertype: EtherType::IPV4 }.emit(&mut bytes);
        frame(HOST, EtherType::VLAN, &[&bytes, &plain[14..]].concat())
    };
    bench.ask(&tag(0));
    bench.ask(&tag(7));
    for _ in 0..3 {
        assert_eq!(recv(&mut bench.host, socket).expect("a datagram").unwrap().0, b"hello");
    }
    assert!(recv(&mut bench.host, socket).is_none(), "VLAN 7 is not ours");
    assert_eq!(bench.host.stats().link.in_unknown_type, 1);
}

#[test]
fn ipv6_extension_headers_are_walked_to_the_datagram() {
    let mut bench = acquainted();
    let socket = bind(&mut bench.host, "[::]:7");
    let header = udp::Repr { src_port: 5000, dst_port: 7, payload_len: 5 };
    let pseudo = demi_netstack::wire::checksum::pseudo_v6(HAND_V6, HOST_V6, protocol::UDP, 13);
    let sum = header.checksum(pseudo, demi_netstack::wire::checksum::sum(b"hello"));
    let mut datagram = vec![0; udp::HEADER_LEN];
    header.emit(datagram.first_chunk_mut().unwrap(), sum);
    datagram.extend_from_slice(b"hello");
    let extended = [&[60, 0, 1, 4, 0, 0, 0, 0][..], &[17, 0, 1, 4, 0, 0, 0, 0], &datagram].concat();
    bench.ask(&v6(protocol::HOP_BY_HOP, &extended));
    assert_eq!(recv(&mut bench.host, socket).expect("a datagram").unwrap().0, b"hello");

    let atomic = [&[17, 0, 0, 0, 0, 0, 0, 9][..], &datagram].concat();
    bench.ask(&v6(protocol::FRAGMENT, &atomic));
    assert_eq!(recv(&mut bench.host, socket).expect("RFC 6946").unwrap().0, b"hello");
    assert_eq!(bench.host.stats().v6.ip.reasm_reqds, 0);

    let unknown = [&[17, 0, 0xc1, 4, 0, 0, 0, 0][..], &datagram].concat();
    let (_, reply) = only_v6(&bench.ask(&v6(protocol::DESTINATION_OPTIONS, &unknown)));
    let message = icmpv6::Repr::parse(HOST_V6, HAND_V6, &reply).unwrap();
    assert!(matches!(message, icmpv6::Repr::ParameterProblem { code: 2, pointer: 42, .. }), "{message:?}");

    let (_, reply) = only_v6(&bench.ask(&v6(200, b"what is this?")));
    let message = icmpv6::Repr::parse(HOST_V6, HAND_V6, &reply).unwrap();
    assert!(matches!(message, icmpv6::Repr::ParameterProblem { code: 1, pointer: 6, .. }), "{message:?}");

    datagram[6..8].fill(0);
    bench.ask(&v6(protocol::UDP, &datagram));
    assert!(recv(&mut bench.host, socket).is_none(), "IPv6 senders must compute the checksum");
    assert_eq!(bench.host.stats().v6.udp.in_csum_errors, 1);
}

#[test]
fn errors_quote_the_packet_they_are_about() {
    let mut bench = acquainted();
    let datagram = datagram_v4(7, &[9; 1000]);
    let packet = v4(&v4_header(protocol::UDP, &datagram), &datagram);
    let (_, reply) = only_v4(&bench.ask(&packet));
    let quote = match icmpv4::Repr::parse(&reply).unwrap() {
        icmpv4::Repr::Unreachable { code: 3, quote } => quote,
        other => panic!("{other:?}"),
    };
    assert_eq!(quote, &packet[14..][..548], "as much as fits 576 bytes");

    let (_, reply) = only_v4(&bench.ask(&v4(&v4_header(132, b"sctp?"), b"sctp?")));
    let message = icmpv4::Repr::parse(&reply).unwrap();
    assert!(matches!(message, icmpv4::Repr::Unreachable { code: 2, .. }), "{message:?}");
}

#[test]
fn a_smaller_path_is_learnt_from_errors_about_our_own_datagrams() {
    let mut bench = acquainted();
    let mut options = DatagramOptions::default();
    options.dont_fragment = true;
    let socket = bench.host.bind_datagram("10.0.0.1:9".parse().unwrap(), &options).unwrap();
    bench.host.connect_datagram(socket, Some("10.0.0.2:7".parse().unwrap())).unwrap();
    send(&mut bench.host, socket, &[1; 1400], None).unwrap();
    let sent = bench.answers().into_iter().find(|frame| frame.len() > 1400).expect("the datagram");
    let mut tell = |quote: &[u8], mtu: u16| {
        let message = icmpv4::Repr::TooBig { mtu, quote };
        let mut bytes = vec![0; message.len()];
        message.emit(&mut bytes).unwrap();
        bench.ask(&v4(&v4_header(protocol::ICMP, &bytes), &bytes));
        let fits = |bench: &mut Bench, len: usize| send(&mut bench.host, socket, &vec![1; len], None).is_ok();
        // The socket hears of the one that was lost, once.
        let heard = !fits(&mut bench, 1);
        (heard, fits(&mut bench, 1172), fits(&mut bench, 1173))
    };
    let mut forged = sent[14..42].to_vec();
    forged[12] = 11;
    assert_eq!(tell(&forged, 1200), (false, true, true), "not a packet of ours");
    assert_eq!(tell(&sent[14..42], 1200), (true, true, false));
    assert_eq!(tell(&sent[14..42], 1400), (true, true, false), "it does not grow by being told");
    assert_eq!(tell(&sent[14..42], 0), (true, false, false));
    send(&mut bench.host, socket, &[1; 524], None).expect("552 bytes are taken to get through everywhere");
}

#[test]
fn a_stranger_flood_of_neighbours_leaves_known_ones_and_memory_alone() {
    let mut bench = acquainted();
    let socket = bind(&mut bench.host, "10.0.0.1:9");
    for round in 0..20_000u32 {
        let stranger = Ipv4Addr::from_bits(0x0a00_0000 | (round % 0x00ff_0000) << 8 | 77);
        let request = arp(arp::Operation::Request, (HAND, stranger), (Mac::default(), HOST_V4));
        bench.inject(&frame(Mac::BROADCAST, EtherType::ARP, &request));
        if round % 32 == 0 {
            send(&mut bench.host, socket, b"x", Some("10.0.0.2:7")).unwrap();
            bench.answers();
        }
    }
    assert_eq!(bench.host.stats().link.out_solicits, 0, "it stayed known");
    bench.answers();
    assert_eq!(bench.host.pool().stats().slots_out, 0);
}

#[test]
fn a_learnt_neighbour_is_probed_five_seconds_after_its_first_use_and_dropped_when_silent() {
    let mut bench = acquainted();
    let socket = bind(&mut bench.host, "[::]:9");
    send(&mut bench.host, socket, b"x", Some("[fd00::2]:7")).unwrap();
    assert_eq!(bench.answers().len(), 1, "the datagram alone");
    for _ in 0..3 {
        bench.pass(Duration::from_secs(6));
        let (header, probe) = only_v6(&bench.answers());
        assert_eq!(header.dst, HAND_V6, "a probe goes to the neighbour itself");
        let message = icmpv6::Repr::parse(HOST_V6, HAND_V6, &probe).unwrap();
        let expected = ndisc::Repr::Solicitation { target: HAND_V6, source_mac: Some(HOST) };
        assert_eq!(ndisc::Repr::parse(&message, header.hop_limit), Ok(Some(expected)));
    }
    bench.pass(Duration::from_secs(2));
    assert!(bench.answers().is_empty());
    assert_eq!(bench.host.stats().link.neighbor_failures, 1);
    send(&mut bench.host, socket, b"x", Some("[fd00::2]:7")).unwrap();
    let answers = bench.answers();
    assert_eq!(answers.len(), 1, "it waits while everybody is asked");
    assert_eq!(answers[0][..6], Mac::for_multicast_v6(ndisc::solicited_node(HAND_V6)).0);
}
