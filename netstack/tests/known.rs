//! The short way of datagrams whose flow was seen before: it takes what the general way would take, for whom that would.

mod common;

use std::net::{IpAddr, SocketAddr};

use common::{Bench, bind, mac, recv};
use demi_drivers::transport::{DatagramOptions, Transport};
use demi_netstack::wire::{checksum, ethernet, ipv4, ipv6, protocol, udp};

/// Bytes of payload a datagram.
const MESSAGE: usize = 32;

/// A frame from `src` to `dst` with `payload`; the checksum of UDP left out when `sum` is false.
fn frame(src: SocketAddr, dst: SocketAddr, payload: &[u8], sum: bool) -> Vec<u8> {
    let header = udp::Plain {
        ports: u32::from(src.port()) << 16 | u32::from(dst.port()),
        len: (udp::HEADER_LEN + payload.len()) as u16,
    };
    let mut bytes = [mac(0), mac(1)].concat();
    let mut upper = [0; udp::HEADER_LEN];
    let header_sum = header.emit(&mut upper);
    let pseudo = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = [0; ipv4::HEADER_LEN];
            let repr = ipv4::Repr {
                src,
                dst,
                protocol: protocol::UDP,
                tos: 0,
                ttl: 64,
                ident: 7,
                dont_fragment: false,
                more_fragments: false,
                fragment_offset: 0,
                payload_len: header.len,
            };
            repr.emit(&mut ip);
            bytes.extend_from_slice(&ethernet::EtherType::IPV4.0.to_be_bytes());
            bytes.extend_from_slice(&ip);
            checksum::pseudo_v4(src, dst, protocol::UDP, header.len.into())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut ip = [0; ipv6::HEADER_LEN];
            let repr = ipv6::Repr {
                src,
                dst,
                next_header: protocol::UDP,
                traffic_class: 0,
                flow_label: 0,
                hop_limit: 64,
                payload_len: header.len,
            };
            repr.emit(&mut ip);
            bytes.extend_from_slice(&ethernet::EtherType::IPV6.0.to_be_bytes());
            bytes.extend_from_slice(&ip);
            checksum::pseudo_v6(src, dst, protocol::UDP, header.len.into())
        }
        _ => unreachable!("both are of one version"),
    };
    if sum {
        let sum = pseudo.then(header_sum).then(checksum::sum(payload)).finish();
        upper[udp::CHECKSUM_OFFSET..].copy_from_slice(&sum.to_be_bytes());
    }
    bytes.extend_from_slice(&upper);
    bytes.extend_from_slice(payload);
    bytes
}

/// The peer's address and ours, of both versions.
fn ends() -> [(SocketAddr, SocketAddr); 2] {
    [("10.0.0.2:4000", "10.0.0.1:53"), ("[fd00::2]:4000", "[fd00::1]:53")]
        .map(|(peer, ours)| (peer.parse().unwrap(), ours.parse().unwrap()))
}

#[test]
fn what_is_damaged_is_dropped_the_second_time_as_well() {
    for (peer, ours) in ends() {
        let mut bench = Bench::new();
        let socket = bind(&mut bench.host, &ours.to_string());
        let good = frame(peer, ours, &[5; MESSAGE], true);
        let mut take = |bytes: &[&[u8]]| {
            for bytes in bytes {
                bench.inject(bytes);
            }
            bench.host.poll(bench.now).unwrap();
            core::iter::from_fn(|| recv(&mut bench.host, socket)).map(Result::unwrap).collect::<Vec<_>>()
        };
        let whole = (vec![5; MESSAGE], peer);
        assert_eq!(take(&[&good]), vec![whole.clone()], "the first, which is learnt from");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 0x80 >> (bit % 8);
            // Alone, and in a burst between two that are whole.
            for taken in [take(&[&bad]), take(&[&good, &bad, &good])] {
                assert!(taken.iter().all(|received| *received == whole), "{ours}, bit {bit}: {taken:?}");
            }
        }
        for len in 0..good.len() {
            assert!(take(&[&good[..len]]).is_empty(), "{ours}, cut to {len}");
        }
        let padded = [good.as_slice(), &[0xee; 20]].concat();
        assert_eq!(take(&[&padded]), [whole], "an Ethernet frame may be padded");
    }
}

#[test]
fn a_checksum_may_be_left_out_over_ipv4_alone() {
    for (peer, ours) in ends() {
        let mut bench = Bench::new();
        let socket = bind(&mut bench.host, &ours.to_string());
        bench.ask(&frame(peer, ours, b"learn", true));
        assert!(recv(&mut bench.host, socket).is_some());
        bench.ask(&frame(peer, ours, b"no sum", false));
        assert_eq!(recv(&mut bench.host, socket).is_some(), ours.is_ipv4());
    }
}

#[test]
fn a_flow_goes_where_sockets_say_now() {
    for (peer, ours) in ends() {
        let mut bench = Bench::new();
        let mut shared = DatagramOptions::default();
        shared.reuse_address = true;
        let first = bench.host.bind_datagram(ours, &shared).unwrap();
        let hello = frame(peer, ours, b"hello", true);
        for _ in 0..3 {
            bench.ask(&hello);
            assert!(recv(&mut bench.host, first).is_some());
        }
        // A socket that is connected to this very peer is the closer match.
        let second = bench.host.bind_datagram(ours, &shared).unwrap();
        bench.host.connect_datagram(second, Some(peer)).unwrap();
        bench.ask(&hello);
        assert!(recv(&mut bench.host, first).is_none() && recv(&mut bench.host, second).is_some());
        // It lets go of the peer, and goes.
        bench.host.connect_datagram(second, None).unwrap();
        bench.host.close_datagram(second);
        bench.ask(&hello);
        assert!(recv(&mut bench.host, first).is_some());
        // Nobody is left: the peer is told.
        bench.host.close_datagram(first);
        let before = bench.host.stats();
        bench.ask(&hello);
        let after = bench.host.stats();
        let refused = |stats: &demi_netstack::Stats| stats.v4.udp.no_ports + stats.v6.udp.no_ports;
        assert_eq!(refused(&after) - refused(&before), 1, "{ours}");
    }
}

#[test]
fn the_counters_are_those_of_the_general_way() {
    for (peer, ours) in ends() {
        let mut bench = Bench::new();
        let socket = bind(&mut bench.host, &ours.to_string());
        let hello = frame(peer, ours, b"hello", true);
        let mut one = || {
            let before: Vec<_> = bench.host.stats().iter().collect();
            bench.inject(&hello);
            bench.host.poll(bench.now).unwrap();
            assert!(recv(&mut bench.host, socket).is_some());
            let after: Vec<_> = bench.host.stats().iter().collect();
            before
                .into_iter()
                .zip(after)
                .map(|((name, then), (_, now))| (name, now - then))
                .collect::<Vec<_>>()
        };
        assert_eq!(one(), one(), "{ours}: the first and the second of a flow");
    }
}
