//! Addresses that a stack finds by itself: duplicates, routers, leases, and who disputes them, from a bare hand on its wire.

mod common;

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use common::{Bench, bind, config, once, send};
use demi_drivers::transport::Transport;
use demi_drivers::wire::WireEnd;
use demi_drivers::{Capabilities, Device, Instant, Pool, RxFrame, TxQueue};
use demi_netstack::wire::dhcpv4::{self, CLIENT_PORT, SERVER_PORT};
use demi_netstack::wire::ethernet::{self, EtherType, Mac};
use demi_netstack::wire::{arp, icmpv6, ipv4, ipv6, ndisc, protocol, router, udp};
use demi_netstack::{StackConfig, link_local};

const HOST: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HAND: Mac = Mac([2, 0, 0, 0, 0, 2]);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x99);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn frame(dst: Mac, ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::Repr { dst, src: HAND, ethertype }.emit(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(packet);
    bytes
}

fn icmp(src: Ipv6Addr, dst: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let header = ipv6::Repr {
        src,
        dst,
        next_header: protocol::ICMPV6,
        traffic_class: 0,
        flow_label: 0,
        hop_limit: 255,
        payload_len: body.len() as u16,
    };
    let mut packet = vec![0; ipv6::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    packet.extend_from_slice(body);
    let mac = if dst.is_multicast() { Mac::for_multicast_v6(dst) } else { HOST };
    frame(mac, EtherType::IPV6, &packet)
}

fn nd(src: Ipv6Addr, dst: Ipv6Addr, message: &ndisc::Repr) -> Vec<u8> {
    let mut body = [0; ndisc::MESSAGE_LEN];
    let len = message.emit(src, dst, &mut body);
    icmp(src, dst, &body[..len])
}

fn prefix(prefix: &str, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
    let mut option = vec![3, 4, 64, flags];
    option.extend(valid.to_be_bytes());
    option.extend(preferred.to_be_bytes());
    option.extend([0; 4]);
    option.extend(prefix.parse::<Ipv6Addr>().unwrap().octets());
    option
}

fn advertisement_from(router: Ipv6Addr, flags: u8, lifetime: u16, options: &[Vec<u8>]) -> Vec<u8> {
    let [a, b] = lifetime.to_be_bytes();
    let mut data = vec![0; 8];
    data.extend([1, 1]);
    data.extend(HAND.0);
    data.extend(options.concat());
    let message =
        icmpv6::Repr::Other { kind: router::ADVERTISEMENT, code: 0, rest: [64, flags, a, b], data: &data };
    let mut body = vec![0; message.len()];
    message.emit(router, ALL_NODES, &mut body).unwrap();
    icmp(router, ALL_NODES, &body)
}

fn advertisement(lifetime: u16, options: &[Vec<u8>]) -> Vec<u8> {
    advertisement_from(ROUTER, 0, lifetime, options)
}

/// Lets `time` pass, stopping at each deadline; answers what was sent.
fn pass(bench: &mut Bench, time: Duration) -> Vec<Vec<u8>> {
    let end = bench.now + time;
    let mut sent = bench.answers();
    while let Some(next) = bench.host.deadline().filter(|next| *next <= end) {
        assert!(next >= bench.now);
        bench.now = next;
        sent.extend(bench.answers());
    }
    bench.now = end;
    sent.extend(bench.answers());
    sent
}

/// The neighbour discovery messages among frames, with source and destination.
fn discoveries(frames: &[Vec<u8>]) -> Vec<(Ipv6Addr, Ipv6Addr, ndisc::Repr)> {
    let parse = |frame: &Vec<u8>| {
        let packet = ipv6::Packet::new_checked(frame.get(14..)?).ok()?;
        let message = icmpv6::Repr::parse(packet.src(), packet.dst(), packet.payload()).ok()?;
        let message = ndisc::Repr::parse(&message, packet.hop_limit()).ok()??;
        Some((packet.src(), packet.dst(), message))
    };
    frames.iter().filter_map(parse).collect()
}

fn arps(frames: &[Vec<u8>]) -> Vec<arp::Repr> {
    frames.iter().filter(|f| f[12..14] == [8, 6]).map(|f| arp::Repr::parse(&f[14..]).unwrap()).collect()
}

fn addresses(bench: &Bench) -> Vec<IpAddr> {
    bench.host.addresses()
}

fn is_configured(bench: &mut Bench) -> bool {
    once(|cx| bench.host.poll_configured(cx)).is_some()
}

fn detecting() -> Bench {
    Bench::with(StackConfig { detect_duplicates: true, ..config(1) })
}

fn listening() -> Bench {
    Bench::with(StackConfig {
        addresses: Vec::new(),
        detect_duplicates: true,
        router_discovery: true,
        ..config(1)
    })
}

#[test]
fn an_address_is_not_used_before_nobody_else_has_claimed_it() {
    let mut bench = detecting();
    assert_eq!(addresses(&bench), ["10.0.0.1".parse::<IpAddr>().unwrap()], "IPv4 is used at once");
    let sent = pass(&mut bench, Duration::from_millis(999));
    assert!(!is_configured(&mut bench));
    let asked = discoveries(&sent);
    for address in [HOST_V6, link_local(HOST)] {
        let group = ndisc::solicited_node(address);
        let question = ndisc::Repr::Solicitation { target: address, source_mac: None };
        assert!(asked.contains(&(Ipv6Addr::UNSPECIFIED, group, question)), "{asked:?}");
    }
    let unanswered = ndisc::Repr::Solicitation { target: HOST_V6, source_mac: Some(HAND) };
    let src = "fd00::2".parse().unwrap();
    assert!(
        bench.ask(&nd(src, ndisc::solicited_node(HOST_V6), &unanswered)).is_empty(),
        "it is not ours yet"
    );
    pass(&mut bench, Duration::from_secs(1));
    assert!(is_configured(&mut bench));
    assert_eq!(addresses(&bench).len(), 3);
    assert_eq!(bench.ask(&nd(src, ndisc::solicited_node(HOST_V6), &unanswered)).len(), 1);
    assert_eq!(bench.host.stats().link.address_conflicts, 0);
}

#[test]
fn an_address_that_somebody_has_or_tries_out_too_is_never_used() {
    let has = ndisc::Repr::Advertisement {
        target: HOST_V6,
        target_mac: Some(HAND),
        router: false,
        solicited: false,
        overriding: true,
    };
    let tries = ndisc::Repr::Solicitation { target: HOST_V6, source_mac: None };
    for claim in
        [nd(HOST_V6, ALL_NODES, &has), nd(Ipv6Addr::UNSPECIFIED, ndisc::solicited_node(HOST_V6), &tries)]
    {
        let mut bench = detecting();
        pass(&mut bench, Duration::from_secs(1));
        assert!(bench.ask(&claim).is_empty());
        pass(&mut bench, Duration::from_secs(60));
        assert!(!addresses(&bench).contains(&HOST_V6.into()));
        assert!(is_configured(&mut bench), "there is nothing to wait for");
        assert_eq!(bench.host.stats().link.address_conflicts, 1);
        let error = bench.host.bind_datagram(format!("[{HOST_V6}]:7").parse().unwrap(), &Default::default());
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}

#[test]
fn ipv4_addresses_are_announced_twice_and_defended_once_in_ten_seconds() {
    let mut bench = detecting();
    let ours = Ipv4Addr::new(10, 0, 0, 1);
    let announced = arps(&pass(&mut bench, Duration::from_secs(5)));
    let announcement = arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: HOST,
        sender_ip: ours,
        target_mac: Mac::default(),
        target_ip: ours,
    };
    assert_eq!(announced, [announcement, announcement]);
    let mut body = [0; arp::PACKET_LEN];
    arp::Repr { sender_mac: HAND, ..announcement }.emit(&mut body);
    let dispute = frame(Mac::BROADCAST, EtherType::ARP, &body);
    for _ in 0..3 {
        let mut defences = 0;
        for _ in 0..100 {
            defences += arps(&bench.ask(&dispute)).iter().filter(|arp| **arp == announcement).count();
            bench.pass(Duration::from_millis(99));
        }
        assert_eq!(defences, 1, "a flood of claims is answered once");
        bench.pass(Duration::from_millis(200));
    }
    assert!(addresses(&bench).contains(&ours.into()), "a configured address does not give way");
    assert_eq!(bench.host.stats().link.address_conflicts, 300);
}

#[test]
fn routers_are_asked_for_with_backoff_until_one_answers() {
    let mut bench = listening();
    let solicitations = |frames: &[Vec<u8>]| {
        let found = discoveries(frames).into_iter();
        found.filter(|(_, _, message)| *message == ndisc::Repr::Router(133)).collect::<Vec<_>>()
    };
    let sent = solicitations(&pass(&mut bench, Duration::from_secs(40)));
    assert_eq!(sent.len(), 4, "after 1, 5, 13 and 29 seconds: {sent:?}");
    assert_eq!((sent[0].0, sent[0].1), (link_local(HOST), "ff02::2".parse().unwrap()));
    assert!(is_configured(&mut bench), "nobody waits for routers that are not there");
    bench.ask(&advertisement(1800, &[]));
    assert!(solicitations(&pass(&mut bench, Duration::from_secs(1700))).is_empty());
    assert!(!solicitations(&pass(&mut bench, Duration::from_secs(120))).is_empty(), "its time is over");
}

#[test]
fn an_address_is_made_of_a_prefix_tried_out_deprecated_and_dropped() {
    let mut bench = listening();
    pass(&mut bench, Duration::from_secs(2));
    bench.ask(&advertisement(1800, &[prefix("2001:db8::", 0xc0, 10_000, 5_000)]));
    let made: Ipv6Addr = "2001:db8::ff:fe00:1".parse().unwrap();
    assert!(!addresses(&bench).contains(&made.into()) && !is_configured(&mut bench));
    let sent = pass(&mut bench, Duration::from_secs(2));
    let question = ndisc::Repr::Solicitation { target: made, source_mac: None };
    assert!(discoveries(&sent).iter().any(|(_, _, message)| *message == question), "it is tried out");
    assert!(addresses(&bench).contains(&made.into()) && is_configured(&mut bench));
    // The default router, and who is on the link.
    let socket = bind(&mut bench.host, "[::]:9");
    bench.host.connect_datagram(socket, Some("[2600::1]:7".parse().unwrap())).unwrap();
    assert_eq!(bench.host.datagram_addr(socket).unwrap().ip(), IpAddr::from(made));
    send(&mut bench.host, socket, b"x", None).unwrap();
    let sent = bench.answers();
    assert_eq!(sent[0][..6], HAND.0, "the advertisement told the router's link address");
    send(&mut bench.host, socket, b"x", Some("[2001:db8::7]:7")).unwrap();
    assert_eq!(bench.answers()[0][..2], [0x33, 0x33], "a neighbour on the link is asked for");
    // A deprecated address stays ours; others are preferred.
    pass(&mut bench, Duration::from_secs(5_000));
    assert!(addresses(&bench).contains(&made.into()));
    bench.ask(&advertisement(1800, &[prefix("2001:db8:7::", 0xc0, 20_000, 20_000)]));
    pass(&mut bench, Duration::from_secs(2));
    let other: Ipv6Addr = "2001:db8:7::ff:fe00:1".parse().unwrap();
    bench.host.connect_datagram(socket, Some("[2001:db8::1]:7".parse().unwrap())).unwrap();
    assert_eq!(bench.host.datagram_addr(socket).unwrap().ip(), IpAddr::from(other));
    pass(&mut bench, Duration::from_secs(5_000));
    assert!(!addresses(&bench).contains(&made.into()), "its validity is over");
    assert!(addresses(&bench).contains(&other.into()));
}

#[test]
fn nobody_can_cut_an_address_off_by_advertising_that_its_time_is_over() {
    // RFC 4862 §5.5.3 e.
    let mut bench = listening();
    bench.ask(&advertisement(1800, &[prefix("2001:db8::", 0xc0, 86_400, 86_400)]));
    pass(&mut bench, Duration::from_secs(3));
    let made: IpAddr = "2001:db8::ff:fe00:1".parse().unwrap();
    bench.ask(&advertisement(1800, &[prefix("2001:db8::", 0xc0, 0, 0)]));
    pass(&mut bench, Duration::from_secs(7_000));
    assert!(addresses(&bench).contains(&made), "two hours are left");
    pass(&mut bench, Duration::from_secs(300));
    assert!(!addresses(&bench).contains(&made));
}

#[test]
fn the_links_mtu_and_name_servers_are_taken_within_reason() {
    let mut bench = listening();
    pass(&mut bench, Duration::from_secs(2));
    let mtu = |mtu: u32| [vec![5, 1, 0, 0], mtu.to_be_bytes().to_vec()].concat();
    let mut servers = vec![25, 3, 0, 0, 0, 0, 0, 60];
    servers.extend("2001:db8::53".parse::<Ipv6Addr>().unwrap().octets());
    let options = [prefix("2001:db8::", 0xc0, 9_000, 9_000), mtu(1300), mtu(100), mtu(9000), servers];
    bench.ask(&advertisement(1800, &options));
    pass(&mut bench, Duration::from_secs(3));
    assert_eq!(bench.host.name_servers(), ["2001:db8::53".parse::<IpAddr>().unwrap()]);
    let mut forbids = demi_drivers::transport::DatagramOptions::default();
    forbids.dont_fragment = true;
    let socket = bench.host.bind_datagram("[::]:9".parse().unwrap(), &forbids).unwrap();
    assert!(send(&mut bench.host, socket, &[0; 1252], Some("[2600::1]:7")).is_ok());
    assert!(send(&mut bench.host, socket, &[0; 1253], Some("[2600::1]:7")).is_err());
    pass(&mut bench, Duration::from_secs(60));
    assert!(bench.host.name_servers().is_empty(), "their time is over");
}

#[test]
fn a_silent_router_is_left_for_another_and_high_preference_goes_first() {
    let mut bench = listening();
    pass(&mut bench, Duration::from_secs(2));
    let other: Ipv6Addr = "fe80::77".parse().unwrap();
    bench.ask(&advertisement(9000, &[prefix("2001:db8::", 0x40, 90_000, 90_000)]));
    pass(&mut bench, Duration::from_secs(3));
    bench.ask(&advertisement_from(other, 0x08, 9000, &[]));
    let socket = bind(&mut bench.host, "[::]:9");
    let target = |frames: &[Vec<u8>]| {
        discoveries(frames).into_iter().find_map(|(_, _, message)| match message {
            ndisc::Repr::Solicitation { target, source_mac: Some(_) } => Some(target),
            _ => None,
        })
    };
    // Its link address is known but stale: used, and probed after five seconds.
    send(&mut bench.host, socket, b"x", Some("[2600::1]:7")).unwrap();
    let probes = pass(&mut bench, Duration::from_secs(10));
    assert_eq!(target(&probes), Some(other), "the preferred one");
    send(&mut bench.host, socket, b"x", Some("[2600::1]:7")).unwrap();
    let probes = pass(&mut bench, Duration::from_secs(10));
    assert_eq!(target(&probes), Some(ROUTER), "it did not answer: the other one is used");
    // One that says that it is a router no more is dropped.
    let none = ndisc::Repr::Advertisement {
        target: ROUTER,
        target_mac: None,
        router: false,
        solicited: false,
        overriding: false,
    };
    bench.ask(&advertisement(9000, &[]));
    bench.ask(&nd(ROUTER, ALL_NODES, &none));
    bench.ask(&advertisement_from(other, 0x08, 0, &[]));
    assert!(send(&mut bench.host, socket, b"x", Some("[2600::7]:7")).is_err(), "there is no router left");
}

#[test]
fn a_flood_of_advertisements_costs_no_more_than_its_tables() {
    let mut bench = listening();
    pass(&mut bench, Duration::from_secs(2));
    for round in 0..2000u16 {
        let router = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, round);
        let option = prefix(&format!("2001:db8:{round:x}::"), 0xc0, 10_000, 10_000);
        bench.inject(&advertisement_from(router, 0, 1800, &[option]));
        bench.answers();
    }
    pass(&mut bench, Duration::from_secs(3));
    assert_eq!(addresses(&bench).len(), 17, "our link-local address and sixteen");
    pass(&mut bench, Duration::from_secs(20_000));
    assert_eq!(addresses(&bench).len(), 1);
    assert_eq!(bench.host.pool().stats().slots_out, 0);
}

#[test]
fn advertisements_are_not_heard_unless_asked_for() {
    let mut bench = Bench::new();
    bench.ask(&advertisement(1800, &[prefix("2001:db8::", 0xc0, 9_000, 9_000)]));
    pass(&mut bench, Duration::from_secs(5));
    assert_eq!(addresses(&bench).len(), 3);
    assert_eq!(bench.host.reach("2600::1".parse().unwrap()), None);
}

// ---- DHCP ----

const LEASED: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 50);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

fn leasing() -> Bench {
    Bench::with(StackConfig { addresses: Vec::new(), dhcp: true, link_local: false, ..config(1) })
}

/// The client's messages among frames: their IP destination, kind, transaction, and the whole of each.
fn requests(frames: &[Vec<u8>]) -> Vec<(Ipv4Addr, u8, [u8; 4], Vec<u8>)> {
    let parse = |frame: &Vec<u8>| {
        if frame[12..14] != [8, 0] {
            return None;
        }
        let packet = ipv4::Packet::new_checked(&frame[14..]).ok()?;
        let pseudo = demi_netstack::wire::checksum::pseudo_v4(
            packet.src(),
            packet.dst(),
            protocol::UDP,
            packet.payload().len() as u32,
        );
        let datagram = udp::Datagram::new_checked(packet.payload()).ok()?;
        assert!(packet.checksum_ok() && datagram.checksum_ok(pseudo));
        assert_eq!((datagram.src_port(), datagram.dst_port()), (CLIENT_PORT, SERVER_PORT));
        let body = datagram.payload().to_vec();
        Some((packet.dst(), body[242], body[4..8].try_into().unwrap(), body))
    };
    frames.iter().filter_map(parse).collect()
}

/// A server's answer to transaction `xid`.
fn reply(kind: u8, xid: [u8; 4], dst: Ipv4Addr, lease_secs: u32, options: &[u8]) -> Vec<u8> {
    let mut body = vec![0; 240];
    body[..3].copy_from_slice(&[2, 1, 6]);
    body[4..8].copy_from_slice(&xid);
    body[16..20].copy_from_slice(&LEASED.octets());
    body[28..34].copy_from_slice(&HOST.0);
    body[236..240].copy_from_slice(&[99, 130, 83, 99]);
    body.extend([53, 1, kind, 54, 4]);
    body.extend(SERVER.octets());
    body.extend([51, 4]);
    body.extend(lease_secs.to_be_bytes());
    body.extend([1, 4, 255, 255, 255, 0]);
    body.extend(options);
    body.push(255);
    let repr = udp::Repr { src_port: SERVER_PORT, dst_port: CLIENT_PORT, payload_len: body.len() as u16 };
    let header = ipv4::Repr {
        src: SERVER,
        dst,
        protocol: protocol::UDP,
        tos: 0,
        ttl: 64,
        ident: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        payload_len: (udp::HEADER_LEN + body.len()) as u16,
    };
    let mut packet = vec![0; ipv4::HEADER_LEN + udp::HEADER_LEN];
    header.emit(packet.first_chunk_mut().unwrap());
    repr.emit(packet[ipv4::HEADER_LEN..].first_chunk_mut().unwrap(), 0);
    packet.extend(body);
    frame(if dst.is_broadcast() { Mac::BROADCAST } else { HOST }, EtherType::IPV4, &packet)
}

/// Leads the client to a lease with these options.
fn lease(bench: &mut Bench, lease_secs: u32, options: &[u8]) {
    let all = Ipv4Addr::BROADCAST;
    let discover = requests(&pass(bench, Duration::from_millis(100)));
    assert_eq!((discover.len(), discover[0].0, discover[0].1), (1, all, 1), "discover");
    assert!(!is_configured(bench));
    bench.inject(&reply(2, discover[0].2, all, lease_secs, options));
    let request = requests(&pass(bench, Duration::from_millis(10)));
    assert_eq!((request.len(), request[0].0, request[0].1), (1, all, 3), "request");
    bench.inject(&reply(5, request[0].2, all, lease_secs, options));
    let probes = arps(&pass(bench, Duration::from_millis(600)));
    let probing =
        probes.iter().filter(|arp| arp.sender_ip.is_unspecified() && arp.target_ip == LEASED).count();
    assert_eq!((probing, probes.len()), (2, 3), "two probes and the first announcement: {probes:?}");
    assert!(is_configured(bench));
}

#[test]
fn a_lease_gives_address_network_routes_mtu_and_name_servers() {
    let mut bench = leasing();
    // Routes to 172.16.0.0/12 and to the rest; the router in option 3 is to be ignored (RFC 3442).
    let options = [
        &[3, 4, 10, 9, 0, 254, 6, 4, 9, 9, 9, 9, 26, 2, 5, 120][..],
        &[121, 12, 12, 172, 16, 10, 9, 0, 7, 0, 10, 9, 0, 1],
        &[15, 8],
        b"home.lan",
    ];
    lease(&mut bench, 3600, &options.concat());
    assert_eq!(addresses(&bench), [IpAddr::from(LEASED)]);
    assert_eq!(bench.host.name_servers(), [IpAddr::from([9, 9, 9, 9])]);
    assert_eq!(bench.host.domain(), Some("home.lan"));
    assert_eq!(bench.host.reach("10.9.0.77".parse().unwrap()), Some(24));
    assert_eq!(bench.host.reach("172.20.0.1".parse().unwrap()), Some(12));
    let socket = bind(&mut bench.host, "0.0.0.0:9");
    for (to, hop) in [("172.20.0.1:7", [10, 9, 0, 7]), ("8.8.8.8:7", [10, 9, 0, 1])] {
        send(&mut bench.host, socket, b"x", Some(to)).unwrap();
        let asked = arps(&bench.answers());
        assert_eq!((asked[0].sender_ip, asked[0].target_ip), (LEASED, hop.into()));
    }
    let mut forbids = demi_drivers::transport::DatagramOptions::default();
    forbids.dont_fragment = true;
    let socket = bench.host.bind_datagram("0.0.0.0:8".parse().unwrap(), &forbids).unwrap();
    assert!(send(&mut bench.host, socket, &[0; 1372], Some("8.8.8.8:7")).is_ok());
    assert!(send(&mut bench.host, socket, &[0; 1373], Some("8.8.8.8:7")).is_err(), "the leased MTU is 1,400");
}

#[test]
fn a_lease_is_renewed_at_its_server_and_lost_when_nobody_renews_it() {
    let mut bench = leasing();
    lease(&mut bench, 3600, &[3, 4, 10, 9, 0, 1]);
    let sent = pass(&mut bench, Duration::from_secs(1800));
    assert!(requests(&sent).is_empty(), "the server's address is asked for first");
    let asked = arps(&sent).into_iter().find(|arp| arp.target_ip == SERVER).expect("a question");
    let mut body = [0; arp::PACKET_LEN];
    arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: HAND,
        sender_ip: SERVER,
        target_mac: HOST,
        target_ip: asked.sender_ip,
    }
    .emit(&mut body);
    let renewal = requests(&bench.ask(&frame(HOST, EtherType::ARP, &body)));
    assert_eq!((renewal[0].0, renewal[0].1, &renewal[0].3[12..16]), (SERVER, 3, &LEASED.octets()[..]));
    bench.ask(&reply(5, renewal[0].2, LEASED, 3600, &[3, 4, 10, 9, 0, 1]));
    pass(&mut bench, Duration::from_secs(1700));
    assert_eq!(bench.host.addresses(), [IpAddr::from(LEASED)]);
    // From now on nobody answers: unicast until seven eighths, then broadcast, then it is over.
    let sent = requests(&pass(&mut bench, Duration::from_secs(1800)));
    assert!(
        sent.iter().any(|(dst, kind, ..)| (*dst, *kind) == (Ipv4Addr::BROADCAST, 3)),
        "it rebinds: {sent:?}"
    );
    pass(&mut bench, Duration::from_secs(120));
    assert!(bench.host.addresses().is_empty());
    assert_eq!(bench.host.reach("8.8.8.8".parse().unwrap()), None, "its routes went with it");
    assert!(bench.host.name_servers().is_empty());
    assert!(!is_configured(&mut bench));
}

#[test]
fn an_offered_address_that_somebody_has_is_declined() {
    let mut bench = leasing();
    let all = Ipv4Addr::BROADCAST;
    let discover = requests(&pass(&mut bench, Duration::from_millis(100)));
    bench.inject(&reply(2, discover[0].2, all, 3600, &[]));
    let request = requests(&pass(&mut bench, Duration::from_millis(10)));
    bench.inject(&reply(5, request[0].2, all, 3600, &[]));
    let probe = arps(&pass(&mut bench, Duration::from_millis(10)));
    assert_eq!(probe.len(), 1);
    let mut body = [0; arp::PACKET_LEN];
    arp::Repr {
        operation: arp::Operation::Reply,
        sender_mac: HAND,
        sender_ip: LEASED,
        target_mac: HOST,
        target_ip: Ipv4Addr::UNSPECIFIED,
    }
    .emit(&mut body);
    let declined = requests(&bench.ask(&frame(HOST, EtherType::ARP, &body)));
    assert_eq!((declined.len(), declined[0].1), (1, 4));
    assert!(requests(&pass(&mut bench, Duration::from_secs(9))).is_empty());
    assert_eq!(requests(&pass(&mut bench, Duration::from_secs(2)))[0].1, 1, "another one is looked for");
    assert!(bench.host.addresses().is_empty());
}

/// An end of a wire whose host has more stacks, and no room to tell them anything at the first attempt.
struct Crowded {
    end: WireEnd,
    attempts: usize,
    told: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Device for Crowded {
    fn name(&self) -> &str {
        self.end.name()
    }
    fn capabilities(&self) -> &Capabilities {
        self.end.capabilities()
    }
    fn pool(&self) -> &Pool {
        self.end.pool()
    }
    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        self.end.rx_burst(now, into, max)
    }
    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        self.end.tx_burst(now, queue)
    }
    fn tell_fellows(&mut self, notice: &[u8]) -> bool {
        self.attempts += 1;
        if self.attempts > 1 {
            self.told.borrow_mut().push(notice.to_vec());
        }
        self.attempts > 1
    }
}

#[test]
fn the_stack_that_leases_tells_the_others_until_they_know() {
    let told = Rc::new(RefCell::new(Vec::new()));
    let config = StackConfig { addresses: Vec::new(), dhcp: true, link_local: false, ..config(1) };
    let mut bench = Bench::over(config, |end| Box::new(Crowded { end, attempts: 0, told: Rc::clone(&told) }));
    let options = [3, 4, 10, 9, 0, 254];
    lease(&mut bench, 60, &options);
    pass(&mut bench, Duration::from_secs(1));
    {
        let told = told.borrow();
        let [notice] = &told[..] else { panic!("told {} times", told.len()) };
        let known = dhcpv4::Reply::parse(notice).unwrap();
        assert_eq!((known.kind, known.address), (dhcpv4::Kind::Ack, LEASED));
        assert_eq!(known.routers[..], [Ipv4Addr::new(10, 9, 0, 254)]);
    }
    // Nobody renews it.
    pass(&mut bench, Duration::from_secs(120));
    assert!(addresses(&bench).is_empty());
    let told = told.borrow();
    assert_eq!((told.len(), told[1].len()), (2, 0), "that it is over");
}

/// What the first of a host's stacks tells the others: its own frame, with a server's message or nothing in it.
fn notice(src: Mac, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ethernet::HEADER_LEN];
    ethernet::Repr { dst: HOST, src, ethertype: EtherType::NOTICE }.emit(bytes.first_chunk_mut().unwrap());
    bytes.extend_from_slice(message);
    bytes
}

#[test]
fn a_silent_stack_has_the_lease_that_it_is_told_of_and_asks_nobody() {
    let mut bench = Bench::with(StackConfig {
        addresses: Vec::new(),
        dhcp: true,
        link_local: false,
        silent: true,
        ..config(1)
    });
    let dhcp = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
    let options = [3, 4, 10, 9, 0, 254, 6, 4, 9, 9, 9, 9];
    let acknowledged = &reply(5, [1; 4], Ipv4Addr::BROADCAST, 60, &options)[dhcp..];
    assert!(requests(&pass(&mut bench, Duration::from_secs(60))).is_empty());
    assert!(!is_configured(&mut bench));
    // The link has no say in it, and what makes no sense gives nothing.
    bench.ask(&notice(HAND, acknowledged));
    bench.ask(&notice(HOST, &acknowledged[..200]));
    assert!(addresses(&bench).is_empty());

    assert!(bench.ask(&notice(HOST, acknowledged)).is_empty(), "another stack has announced it");
    assert!(is_configured(&mut bench));
    assert_eq!(addresses(&bench), [IpAddr::from(LEASED)]);
    assert_eq!(bench.host.name_servers(), [IpAddr::from([9, 9, 9, 9])]);
    assert_eq!(bench.host.reach("8.8.8.8".parse().unwrap()), Some(0));
    let mut body = [0; arp::PACKET_LEN];
    arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: HAND,
        sender_ip: LEASED,
        target_mac: Mac::default(),
        target_ip: LEASED,
    }
    .emit(&mut body);
    let dispute = frame(Mac::BROADCAST, EtherType::ARP, &body);
    for _ in 0..3 {
        assert!(bench.ask(&dispute).is_empty(), "defending it is another stack's");
    }
    // Nor does it end by itself: who leases it says when.
    let sent = pass(&mut bench, Duration::from_secs(600));
    assert!(requests(&sent).is_empty() && arps(&sent).is_empty());
    assert_eq!(addresses(&bench), [IpAddr::from(LEASED)]);

    bench.ask(&notice(HOST, &[]));
    assert!(addresses(&bench).is_empty() && bench.host.name_servers().is_empty());
    assert_eq!(bench.host.reach("8.8.8.8".parse().unwrap()), None);
    assert!(!is_configured(&mut bench));
}

#[test]
fn a_leased_address_gives_way_to_who_insists() {
    let mut bench = leasing();
    lease(&mut bench, 3600, &[]);
    let mut body = [0; arp::PACKET_LEN];
    arp::Repr {
        operation: arp::Operation::Request,
        sender_mac: HAND,
        sender_ip: LEASED,
        target_mac: Mac::default(),
        target_ip: LEASED,
    }
    .emit(&mut body);
    let dispute = frame(Mac::BROADCAST, EtherType::ARP, &body);
    assert_eq!(arps(&bench.ask(&dispute)).len(), 1, "defended once");
    let declined = requests(&bench.ask(&dispute));
    assert_eq!((declined.len(), declined[0].1), (1, 4), "and given back (RFC 5227 §2.4 b)");
    assert!(bench.host.addresses().is_empty());
}
