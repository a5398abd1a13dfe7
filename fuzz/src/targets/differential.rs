//! Two readers of the same bytes: our wire formats beside smoltcp's. What both take, they must read alike; what one takes and the other
//! does not is listed here, with the reason.

use demi_netstack::wire::{arp, checksum, dhcpv4, icmpv4, icmpv6, ipv4, ipv6, tcp, udp};
use smoltcp::wire as other;

use crate::input::Input;

/// The first byte chooses the format.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let which = input.u8();
    let bytes = input.rest();
    match which % 8 {
        0 => arp(bytes),
        1 => ipv4(bytes),
        2 => ipv6(bytes),
        3 => tcp(bytes),
        4 => udp(bytes),
        5 => icmpv4(bytes),
        6 => icmpv6(bytes),
        _ => dhcp(bytes),
    }
}

fn arp(bytes: &[u8]) {
    let ours = arp::Repr::parse(bytes);
    let theirs = other::ArpPacket::new_checked(bytes).and_then(|packet| other::ArpRepr::parse(&packet));
    let Ok(other::ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    }) = theirs
    else {
        // They check lengths against fields, we the fields against the one form there is: neither takes less.
        return assert!(ours.is_err(), "{ours:?} beside {theirs:?}");
    };
    let known = matches!(operation, other::ArpOperation::Request | other::ArpOperation::Reply);
    // Other operations (reverse ARP and so on) are none of ours; other lengths of addresses they take and we do not.
    let Ok(ours) = ours else { return assert!(!known || bytes[4..6] != [6, 4], "{theirs:?}") };
    assert_eq!(ours.sender_mac.0, source_hardware_addr.0);
    assert_eq!(ours.target_mac.0, target_hardware_addr.0);
    assert_eq!((ours.sender_ip, ours.target_ip), (source_protocol_addr, target_protocol_addr));
    assert_eq!(ours.operation == arp::Operation::Request, operation == other::ArpOperation::Request);
}

fn ipv4(bytes: &[u8]) {
    let ours = ipv4::Packet::new_checked(bytes);
    let theirs = other::Ipv4Packet::new_checked(bytes);
    // They look at lengths alone; version and IHL are the Repr's.
    let version = bytes.first().is_some_and(|first| first >> 4 == 4 && first & 15 >= 5);
    assert_eq!(ours.is_ok(), theirs.is_ok() && version, "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!(ours.header_len(), usize::from(theirs.header_len()));
    assert_eq!(ours.total_len(), usize::from(theirs.total_len()));
    assert_eq!((ours.src(), ours.dst()), (theirs.src_addr(), theirs.dst_addr()));
    assert_eq!(
        (ours.protocol(), ours.ttl(), ours.ident()),
        (theirs.next_header().into(), theirs.hop_limit(), theirs.ident())
    );
    assert_eq!((ours.more_fragments(), ours.dont_fragment()), (theirs.more_frags(), theirs.dont_frag()));
    assert_eq!(ours.fragment_offset(), theirs.frag_offset());
    assert_eq!(ours.payload(), theirs.payload());
    // Under `cfg(fuzzing)` they hold every checksum for right.
    let header = &bytes[..ours.header_len()];
    assert_eq!(ours.checksum_ok(), crate::frames::checksum(0, header) == 0, "{bytes:02x?}");
}

fn ipv6(bytes: &[u8]) {
    let ours = ipv6::Packet::new_checked(bytes);
    let theirs = other::Ipv6Packet::new_checked(bytes);
    let version = bytes.first().is_some_and(|first| first >> 4 == 6);
    assert_eq!(ours.is_ok(), theirs.is_ok() && version, "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.src(), ours.dst()), (theirs.src_addr(), theirs.dst_addr()));
    assert_eq!((ours.next_header(), ours.hop_limit()), (theirs.next_header().into(), theirs.hop_limit()));
    assert_eq!((ours.traffic_class(), ours.flow_label()), (theirs.traffic_class(), theirs.flow_label()));
    assert_eq!(ours.payload(), theirs.payload());
}

fn tcp(bytes: &[u8]) {
    let ours = tcp::Header::parse(bytes);
    let theirs = other::TcpPacket::new_checked(bytes);
    // Both know a header of 20 bytes at least, that lies within the segment.
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.src_port, ours.dst_port), (theirs.src_port(), theirs.dst_port()));
    assert_eq!((ours.seq, ours.ack), (theirs.seq_number().0 as u32, theirs.ack_number().0 as u32));
    assert_eq!((ours.window, ours.urgent), (theirs.window_len(), theirs.urgent_at()));
    assert_eq!(ours.header_bytes, theirs.header_len());
    let flags = [theirs.fin(), theirs.syn(), theirs.rst(), theirs.psh(), theirs.ack(), theirs.urg()];
    let read = flags.iter().enumerate().map(|(bit, set)| u16::from(*set) << bit).sum::<u16>();
    assert_eq!(ours.flags & 0x3f, read);
    // Blocks: they keep three, we four, and both those of the last option; none where a length is wrong.
    let options = tcp::Options::parse(&bytes[20..usize::from(ours.header_bytes)]);
    let mut left = &bytes[20..usize::from(ours.header_bytes)];
    let mut ranges = [None; 3];
    while !left.is_empty() {
        let Ok((rest, option)) = other::TcpOption::parse(left) else { return };
        match option {
            other::TcpOption::EndOfList => break,
            other::TcpOption::SackRange(found) => ranges = found,
            _ => {}
        }
        left = rest;
    }
    for (ours, theirs) in options.sack.as_slice().iter().zip(ranges) {
        assert_eq!(Some((ours.start, ours.end)), theirs);
    }
}

fn udp(bytes: &[u8]) {
    let ours = udp::Datagram::new_checked(bytes);
    let theirs = other::UdpPacket::new_checked(bytes);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.src_port(), ours.dst_port()), (theirs.src_port(), theirs.dst_port()));
    assert_eq!((ours.checksum(), ours.total_len()), (theirs.checksum(), usize::from(theirs.len())));
    assert_eq!(ours.payload(), theirs.payload());
    let (src, dst) = crate::frames::V4;
    let mut whole = bytes[..ours.total_len()].to_vec();
    let pseudo = checksum::pseudo_v4(src, dst, 17, ours.total_len() as u32);
    let before = ours.checksum();
    let right = ours.checksum_ok(pseudo);
    crate::frames::sum_message(src.into(), dst.into(), 17, &mut whole);
    let sum = u16::from_be_bytes([whole[6], whole[7]]);
    assert_eq!(right, before == sum || before == 0 && sum == 0xffff, "{bytes:02x?}");
}

fn icmpv4(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    crate::frames::sum_message(crate::frames::V4.0.into(), crate::frames::V4.1.into(), 1, &mut bytes);
    let Ok(ours) = icmpv4::Repr::parse(&bytes) else {
        return assert!(bytes.len() < 8, "a right checksum is wrong");
    };
    assert_eq!(ours.len(), bytes.len());
    let mut out = vec![0; ours.len()];
    ours.emit(&mut out).expect("room");
    let Ok(theirs) = other::Icmpv4Packet::new_checked(&bytes[..]) else { return };
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    match (ours, other::Icmpv4Repr::parse(&theirs, &checksums)) {
        (icmpv4::Repr::EchoRequest { ident, seq, data }, Ok(theirs)) => {
            assert_eq!(theirs, other::Icmpv4Repr::EchoRequest { ident, seq_no: seq, data });
        }
        (icmpv4::Repr::EchoReply { ident, seq, data }, Ok(theirs)) => {
            assert_eq!(theirs, other::Icmpv4Repr::EchoReply { ident, seq_no: seq, data });
        }
        (icmpv4::Repr::Unreachable { quote, .. } | icmpv4::Repr::TooBig { quote, .. }, Ok(theirs)) => {
            let other::Icmpv4Repr::DstUnreachable { header, data, .. } = theirs else { panic!("{theirs:?}") };
            let quoted = ipv4::Packet::new_checked(quote);
            // A quote is cut off; ours reads it by another rule, and whoever reads both reads the same addresses.
            if let Ok(quoted) = quoted {
                assert_eq!((quoted.src(), quoted.dst()), (header.src_addr, header.dst_addr));
                assert!(data.len() <= quote.len());
            }
        }
        _ => {}
    }
}

fn icmpv6(bytes: &[u8]) {
    let (src, dst) = (crate::frames::V6.1, crate::frames::V6.0);
    let mut bytes = bytes.to_vec();
    crate::frames::sum_message(src.into(), dst.into(), 58, &mut bytes);
    let ours = icmpv6::Repr::parse(src, dst, &bytes);
    let Ok(ours) = ours else { return assert!(bytes.len() < 8, "a right checksum is wrong") };
    assert_eq!(ours.len(), bytes.len());
    let Ok(theirs) = other::Icmpv6Packet::new_checked(&bytes[..]) else { return };
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    match (ours, other::Icmpv6Repr::parse(&src, &dst, &theirs, &checksums)) {
        (icmpv6::Repr::EchoRequest { ident, seq, data }, Ok(theirs)) => {
            assert_eq!(theirs, other::Icmpv6Repr::EchoRequest { ident, seq_no: seq, data });
        }
        (icmpv6::Repr::EchoReply { ident, seq, data }, Ok(theirs)) => {
            assert_eq!(theirs, other::Icmpv6Repr::EchoReply { ident, seq_no: seq, data });
        }
        (icmpv6::Repr::TooBig { mtu, .. }, Ok(other::Icmpv6Repr::PktTooBig { mtu: theirs, .. })) => {
            assert_eq!(mtu, theirs);
        }
        _ => {}
    }
}

fn dhcp(bytes: &[u8]) {
    let Ok(ours) = dhcpv4::Reply::parse(bytes) else { return };
    let Ok(packet) = other::DhcpPacket::new_checked(bytes) else { panic!("too short for them: {ours:?}") };
    let Ok(theirs) = other::DhcpRepr::parse(&packet) else { return };
    assert_eq!((ours.xid, ours.mac.0), (theirs.transaction_id, theirs.client_hardware_address.0));
    assert_eq!(ours.address, theirs.your_ip);
    // Options in parts are joined by us alone, and those lent to other fields are read by us alone.
    let lent = packet.options().any(|option| option.kind == 52);
    let mut kinds: Vec<u8> = packet.options().map(|option| option.kind).collect();
    kinds.sort_unstable();
    let parts = kinds.windows(2).any(|pair| pair[0] == pair[1]);
    if !lent && !parts {
        // An option 51 that is longer than four bytes is read by us alone, and for ever is none for us.
        if let Some(lease) = theirs.lease_duration.filter(|seconds| *seconds != u32::MAX) {
            assert_eq!(ours.lease.map(|lease| lease.as_secs()), Some(lease.into()));
        }
        if let (Some(ours), Some(theirs)) = (ours.server, theirs.server_identifier) {
            assert_eq!(ours, theirs);
        }
    }
}
