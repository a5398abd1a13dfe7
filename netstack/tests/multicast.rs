//! Multicast over UDP: groups and sources, who hears what, and what routers are told, on both IP versions.

mod common;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::{Bench, Hosts, bind, config, recv, send};
use demi_drivers::transport::{DatagramId, DatagramOptions, Interface, Membership, Transport};
use demi_drivers::wire::WireConfig;
use demi_netstack::wire::ethernet::{self, EtherType, Mac};
use demi_netstack::wire::{checksum, icmpv6, ipv4, ipv6, ipv6_ext, membership, protocol};
use demi_netstack::{Stack, StackConfig};

const HAND: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn of(group: &str, source: Option<&str>) -> Membership {
    let source = source.map(|source| source.parse().unwrap());
    Membership { group: group.parse().unwrap(), source, interface: Interface::Any }
}

fn join(host: &mut Stack, socket: DatagramId, group: &str, source: Option<&str>) {
    host.join_group(socket, &of(group, source)).unwrap();
}

/// The address of `port` in a group or at a host, as text.
fn at(address: &str, port: u16) -> String {
    std::net::SocketAddr::new(address.parse().unwrap(), port).to_string()
}

const BOTH: [(&str, [&str; 2], &str); 2] =
    [("239.1.2.3", ["10.0.0.1", "10.0.0.2"], "0.0.0.0"), ("ff15::123", ["fd00::1", "fd00::2"], "::")];

#[test]
fn who_joined_hears_the_group_and_who_left_does_not() {
    for (group, hosts_at, any) in BOTH {
        let mut hosts = Hosts::new(WireConfig::default());
        let there = bind(&mut hosts.hosts[1], &at(any, 5000));
        let here = bind(&mut hosts.hosts[0], &at(any, 0));
        let to = at(group, 5000);
        let heard = |hosts: &mut Hosts, len: usize| {
            send(&mut hosts.hosts[0], here, &vec![7; len], Some(&to)).unwrap();
            hosts.settle();
            recv(&mut hosts.hosts[1], there).map(|received| received.unwrap())
        };
        assert!(heard(&mut hosts, 5).is_none(), "not joined yet");
        assert!(hosts.hosts[1].stats().link.in_other_host > 0, "dropped where a better filter would have");
        join(&mut hosts.hosts[1], there, group, None);
        for len in [5, 1400, 5000] {
            let (bytes, from) = heard(&mut hosts, len).expect("a datagram");
            assert_eq!((bytes.len(), from.ip()), (len, hosts_at[0].parse::<IpAddr>().unwrap()));
        }
        let again = hosts.hosts[1].join_group(there, &of(group, None)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::AddrInUse);
        hosts.hosts[1].leave_group(there, &of(group, None)).unwrap();
        assert!(heard(&mut hosts, 5).is_none(), "left");
        let absent = hosts.hosts[1].leave_group(there, &of(group, None)).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::AddrNotAvailable);
        join(&mut hosts.hosts[1], there, group, None);
        hosts.hosts[1].close_datagram(there);
        let other = bind(&mut hosts.hosts[1], &at(any, 5000));
        send(&mut hosts.hosts[0], here, b"x", Some(&to)).unwrap();
        hosts.settle();
        assert!(recv(&mut hosts.hosts[1], other).is_none(), "a closed socket is in no group");
    }
}

#[test]
fn a_source_is_heard_alone() {
    for (group, hosts_at, any) in
        [("232.1.2.3", ["10.0.0.1", "10.0.0.2"], "0.0.0.0"), ("ff35::123", ["fd00::1", "fd00::2"], "::")]
    {
        let stranger = if any == "::" { "fd00::9" } else { "10.0.0.9" };
        for (source, hears) in [(hosts_at[0], true), (stranger, false)] {
            let mut hosts = Hosts::new(WireConfig::default());
            let there = bind(&mut hosts.hosts[1], &at(any, 5000));
            let here = bind(&mut hosts.hosts[0], &at(any, 0));
            join(&mut hosts.hosts[1], there, group, Some(source));
            send(&mut hosts.hosts[0], here, b"x", Some(&at(group, 5000))).unwrap();
            hosts.settle();
            assert_eq!(recv(&mut hosts.hosts[1], there).is_some(), hears, "{source} in {group}");
            // Another socket that listens to all makes the interface do so, and not this one.
            let mut shared = DatagramOptions::default();
            shared.reuse_address = true;
            hosts.hosts[1].close_datagram(there);
            let [strict, open] = [0, 1]
                .map(|_| hosts.hosts[1].bind_datagram(at(any, 5000).parse().unwrap(), &shared).unwrap());
            join(&mut hosts.hosts[1], strict, group, Some(source));
            join(&mut hosts.hosts[1], open, group, None);
            send(&mut hosts.hosts[0], here, b"x", Some(&at(group, 5000))).unwrap();
            hosts.settle();
            assert_eq!(recv(&mut hosts.hosts[1], strict).is_some(), hears);
            assert!(recv(&mut hosts.hosts[1], open).is_some());
        }
    }
}

#[test]
fn a_sender_in_the_group_hears_itself_unless_it_does_not_want_to() {
    for (group, _, any) in BOTH {
        let mut hosts = Hosts::new(WireConfig::default());
        let [one, two] = &mut hosts.hosts;
        let socket = bind(one, &at(any, 5000));
        join(one, socket, group, None);
        let there = bind(two, &at(any, 5000));
        join(two, there, group, None);
        send(one, socket, b"me, too", Some(&at(group, 5000))).unwrap();
        hosts.settle();
        assert_eq!(recv(&mut hosts.hosts[0], socket).expect("our own").unwrap().0, b"me, too");
        assert!(recv(&mut hosts.hosts[1], there).is_some());
        // Not beyond this host.
        let mut options = hosts.hosts[0].datagram_options(socket).unwrap();
        (options.multicast_ttl_v4, options.multicast_hops_v6) = (Some(0), Some(0));
        hosts.hosts[0].set_datagram_options(socket, &options).unwrap();
        send(&mut hosts.hosts[0], socket, b"x", Some(&at(group, 5000))).unwrap();
        hosts.settle();
        assert!(recv(&mut hosts.hosts[0], socket).is_some() && recv(&mut hosts.hosts[1], there).is_none());
        // And not to ourselves.
        (options.multicast_ttl_v4, options.multicast_hops_v6) = (Some(9), Some(9));
        (options.multicast_loop_v4, options.multicast_loop_v6) = (Some(false), Some(false));
        hosts.hosts[0].set_datagram_options(socket, &options).unwrap();
        send(&mut hosts.hosts[0], socket, b"x", Some(&at(group, 5000))).unwrap();
        hosts.settle();
        assert!(recv(&mut hosts.hosts[0], socket).is_none() && recv(&mut hosts.hosts[1], there).is_some());
    }
}

#[test]
fn memberships_are_bounded_and_what_is_no_group_is_refused() {
    let mut bench = Bench::new();
    let socket = bind(&mut bench.host, "0.0.0.0:5000");
    for wrong in [of("10.0.0.2", None), of("239.1.1.1", Some("fd00::1")), of("239.1.1.1", Some("239.1.1.1"))]
    {
        assert_eq!(bench.host.join_group(socket, &wrong).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let elsewhere =
        Membership { interface: Interface::Address(Ipv4Addr::new(10, 9, 9, 9)), ..of("239.1.1.1", None) };
    assert_eq!(bench.host.join_group(socket, &elsewhere).unwrap_err().kind(), ErrorKind::AddrNotAvailable);
    for number in 0..20 {
        join(&mut bench.host, socket, &format!("239.1.1.{number}"), None);
    }
    let error = bench.host.join_group(socket, &of("239.1.1.20", None)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
}

// ---- what routers are told ----

/// Lets `time` pass, stopping at each deadline; answers the reports among what was sent, as text.
fn reports(bench: &mut Bench, time: Duration) -> Vec<String> {
    let end = bench.now + time;
    let mut sent = bench.answers();
    while let Some(next) = bench.host.deadline().filter(|next| *next <= end) {
        bench.now = next;
        sent.extend(bench.answers());
    }
    bench.now = end;
    sent.extend(bench.answers());
    sent.iter().filter_map(|frame| report(frame)).collect()
}

fn report(frame: &[u8]) -> Option<String> {
    let (message, to) = if frame[12..14] == [8, 0] {
        let packet = ipv4::Packet::new_checked(&frame[14..]).ok()?;
        if packet.protocol() != protocol::IGMP {
            return None;
        }
        assert!(packet.checksum_ok() && checksum::sum(packet.payload()).is_valid());
        assert_eq!((packet.ttl(), packet.tos(), packet.options()), (1, 0xc0, &[148, 4, 0, 0][..]));
        (packet.payload().to_vec(), packet.dst().to_string())
    } else {
        let packet = ipv6::Packet::new_checked(&frame[14..]).ok()?;
        if packet.next_header() != protocol::HOP_BY_HOP {
            return None;
        }
        let upper = ipv6_ext::upper_layer(packet.next_header(), packet.payload()).unwrap();
        assert_eq!((upper.protocol, upper.offset, packet.hop_limit()), (protocol::ICMPV6, 8, 1));
        let message = &packet.payload()[upper.offset..];
        icmpv6::Repr::parse(packet.src(), packet.dst(), message).expect("a right checksum");
        (message.to_vec(), packet.dst().to_string())
    };
    let address = |bytes: &[u8]| match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).to_string(),
        _ => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_string(),
    };
    let size = if frame[12..14] == [8, 0] { 4 } else { 16 };
    if !matches!(message[0], 0x22 | 143) {
        let at = if size == 4 { 4 } else { 8 };
        return Some(format!("{to}: old {:#x} {}", message[0], address(&message[at..at + size])));
    }
    let mut records = Vec::new();
    let mut left = &message[8..];
    for _ in 0..message[7] {
        let sources = usize::from(left[3]);
        let listed: Vec<_> = left[4 + size..][..size * sources].chunks(size).map(address).collect();
        records.push(format!("{} {} {listed:?}", left[0], address(&left[4..4 + size])));
        left = &left[4 + size * (1 + sources)..];
    }
    assert!(left.is_empty());
    records.sort();
    Some(format!("{to}: {}", records.join(", ")))
}

fn igmp_query(group: [u8; 4], code: u8, version: u8) -> Vec<u8> {
    let mut message = vec![0x11, code, 0, 0];
    message.extend(group);
    if version == 3 {
        message.extend([2, 125, 0, 0]);
    }
    let sum = checksum::sum(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let dst = if group == [0; 4] { Ipv4Addr::new(224, 0, 0, 1) } else { group.into() };
    let header = ipv4::Repr {
        src: Ipv4Addr::new(10, 0, 0, 2),
        dst,
        protocol: protocol::IGMP,
        tos: 0xc0,
        ttl: 1,
        ident: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: message.len() as u16,
    };
    let mut packet = vec![0; ipv4::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend(message);
    frame(Mac::for_multicast_v4(dst), EtherType::IPV4, &packet)
}

fn frame(dst: Mac, ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::Repr { dst, src: HAND, ethertype }.emit(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(packet);
    bytes
}

fn mld_query(group: &str, version: u8) -> Vec<u8> {
    let (src, all) = ("fe80::2".parse::<Ipv6Addr>().unwrap(), "ff02::1".parse::<Ipv6Addr>().unwrap());
    let group: Ipv6Addr = group.parse().unwrap();
    let mut data = group.octets().to_vec();
    if version == 2 {
        data.extend([2, 125, 0, 0]);
    }
    let rest = [0x03, 0xe8, 0, 0];
    let message = icmpv6::Repr::Other { kind: membership::MLD_QUERY, code: 0, rest, data: &data };
    let dst = if group.is_unspecified() { all } else { group };
    let mut body = vec![protocol::ICMPV6, 0, 5, 2, 0, 0, 1, 0];
    let mut bytes = vec![0; message.len()];
    message.emit(src, dst, &mut bytes).unwrap();
    body.extend(bytes);
    let header = ipv6::Repr {
        src,
        dst,
        next_header: protocol::HOP_BY_HOP,
        traffic_class: 0,
        flow_label: 0,
        hop_limit: 1,
        payload_len: body.len() as u16,
    };
    let mut packet = vec![0; ipv6::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend(body);
    frame(Mac::for_multicast_v6(dst), EtherType::IPV6, &packet)
}

#[test]
fn changes_are_reported_twice_as_version_3_has_them() {
    for (any, group, sources, to) in [
        ("0.0.0.0", "239.1.2.3", ["10.0.0.8", "10.0.0.9"], "224.0.0.22"),
        ("::", "ff15::123", ["fd00::8", "fd00::9"], "ff02::16"),
    ] {
        let mut bench = Bench::new();
        let second = Duration::from_millis(1100);
        let socket = bind(&mut bench.host, &at(any, 5000));
        let other = bind(&mut bench.host, &at(any, 5001));
        let told = |bench: &mut Bench, expected: &str| {
            let expected = format!("{to}: {expected}");
            assert_eq!(reports(bench, second), [expected.clone(), expected]);
        };
        join(&mut bench.host, socket, group, Some(sources[0]));
        told(&mut bench, &format!("5 {group} [{:?}]", sources[0]));
        join(&mut bench.host, socket, group, Some(sources[1]));
        told(&mut bench, &format!("5 {group} [{:?}]", sources[1]));
        join(&mut bench.host, other, group, None);
        told(&mut bench, &format!("4 {group} []"));
        bench.host.leave_group(other, &of(group, None)).unwrap();
        told(&mut bench, &format!("3 {group} {sources:?}"));
        bench.host.leave_group(socket, &of(group, Some(sources[0]))).unwrap();
        told(&mut bench, &format!("6 {group} [{:?}]", sources[0]));
        bench.host.close_datagram(socket);
        told(&mut bench, &format!("6 {group} [{:?}]", sources[1]));
        assert_eq!(bench.host.deadline(), None);
    }
}

#[test]
fn queries_are_answered_once_within_their_time() {
    let mut bench = Bench::new();
    let socket = bind(&mut bench.host, "[::]:5000");
    join(&mut bench.host, socket, "239.1.2.3", None);
    join(&mut bench.host, socket, "232.1.1.1", Some("10.0.0.9"));
    join(&mut bench.host, socket, "ff15::123", None);
    reports(&mut bench, Duration::from_secs(3));
    for _ in 0..50 {
        bench.inject(&igmp_query([0; 4], 10, 3));
        bench.inject(&mld_query("::", 2));
    }
    assert!(reports(&mut bench, Duration::from_millis(90)).is_empty(), "not at once");
    let mut told = reports(&mut bench, Duration::from_secs(2));
    told.sort();
    assert!((2..=3).contains(&told.len()), "once each, though asked fifty times: {told:?}");
    let all = told.join(", ");
    for record in ["2 239.1.2.3 []", "1 232.1.1.1 [\"10.0.0.9\"]", "2 ff15::123 []"] {
        assert!(all.contains(record), "{told:?}");
    }
    bench.inject(&igmp_query([239, 1, 2, 3], 10, 3));
    assert_eq!(reports(&mut bench, Duration::from_secs(2)), ["224.0.0.22: 2 239.1.2.3 []"]);
    bench.inject(&igmp_query([239, 9, 9, 9], 10, 3));
    assert!(reports(&mut bench, Duration::from_secs(2)).is_empty(), "we are not in that one");
}

#[test]
fn older_routers_are_told_in_their_version_for_a_while() {
    let mut bench = Bench::new();
    let socket = bind(&mut bench.host, "[::]:5000");
    join(&mut bench.host, socket, "239.1.2.3", None);
    join(&mut bench.host, socket, "ff15::123", None);
    reports(&mut bench, Duration::from_secs(3));
    bench.inject(&igmp_query([0; 4], 10, 2));
    bench.inject(&mld_query("::", 1));
    let mut told = reports(&mut bench, Duration::from_secs(2));
    told.sort();
    assert_eq!(told, ["239.1.2.3: old 0x16 239.1.2.3", "ff15::123: old 0x83 ff15::123"]);
    bench.host.leave_group(socket, &of("239.1.2.3", None)).unwrap();
    bench.host.leave_group(socket, &of("ff15::123", None)).unwrap();
    let mut told = reports(&mut bench, Duration::from_secs(2));
    told.sort();
    told.dedup();
    assert_eq!(told, ["224.0.0.2: old 0x17 239.1.2.3", "ff02::2: old 0x84 ff15::123"]);
    bench.now += Duration::from_secs(300);
    join(&mut bench.host, socket, "239.1.2.3", None);
    assert_eq!(reports(&mut bench, Duration::from_secs(2))[0], "224.0.0.22: 4 239.1.2.3 []");
}

#[test]
fn the_groups_of_our_addresses_are_reported_where_switches_listen() {
    let mut bench = Bench::with(StackConfig { detect_duplicates: true, ..config(1) });
    let told = reports(&mut bench, Duration::from_secs(5)).join("\n");
    assert!(told.contains("ff02::16: 4 ff02::1:ff00:1 []"), "{told}");
}
