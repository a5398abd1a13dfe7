//! Frames as bytes: made with right lengths and checksums, mended after a change, and judged when the stack has sent them.
//!
//! The arithmetic here is this file's own: a checksum that the stack computed is not checked with the stack's code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::OUR_MAC;

/// Ethernet address of whoever talks to the stack.
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// IPv4 address of the stack and of its peer.
pub const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
/// IPv6 address of the stack and of its peer.
pub const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
/// Link-local address of the peer.
pub const PEER_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Protocol numbers.
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
}

/// The Internet checksum (RFC 1071) of `bytes` behind what `start` sums up to.
pub fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo(src: IpAddr, dst: IpAddr, number: u8, len: usize) -> u32 {
    let words = |octets: &[u8]| {
        octets.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum::<u32>()
    };
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => words(&src.octets()) + words(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => words(&src.octets()) + words(&dst.octets()),
        _ => 0,
    };
    addresses + u32::from(number) + (len as u32 >> 16) + (len as u32 & 0xffff)
}

/// Where the checksum lies in a message of `number`, and whether it covers addresses.
fn checksum_place(number: u8) -> Option<(usize, bool)> {
    match number {
        protocol::TCP => Some((16, true)),
        protocol::UDP => Some((6, true)),
        protocol::ICMPV6 => Some((2, true)),
        protocol::ICMP | protocol::IGMP => Some((2, false)),
        _ => None,
    }
}

/// The frame of a payload from the peer to the stack.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&OUR_MAC[..], &PEER_MAC, &kind.to_be_bytes(), payload].concat()
}

/// Fills the checksum of a message in, if its protocol has one and it is long enough.
pub fn sum_message(src: IpAddr, dst: IpAddr, number: u8, message: &mut [u8]) {
    let Some((at, addresses)) = checksum_place(number) else { return };
    if message.len() < at + 2 {
        return;
    }
    message[at..at + 2].fill(0);
    let start = if addresses { pseudo(src, dst, number, message.len()) } else { 0 };
    let mut sum = checksum(start, message);
    if sum == 0 && number == protocol::UDP {
        sum = 0xffff;
    }
    message[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// A frame with an IP packet of either version; the message gets its checksum. `hops` is the TTL or hop limit.
pub fn ip(src: IpAddr, dst: IpAddr, number: u8, hops: u8, message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    sum_message(src, dst, number, &mut message);
    ip_raw(src, dst, number, hops, &message)
}

/// As [`ip`], the message as it is.
pub fn ip_raw(src: IpAddr, dst: IpAddr, number: u8, hops: u8, message: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (20 + message.len()) as u16;
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, hops, number, 0, 0];
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header.extend(src.octets());
            header.extend(dst.octets());
            let sum = checksum(0, &header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.extend(message);
            ethernet(0x0800, &header)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, number, hops];
            header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            header.extend(src.octets());
            header.extend(dst.octets());
            header.extend(message);
            ethernet(0x86dd, &header)
        }
        _ => Vec::new(),
    }
}

/// Addresses of a packet from the peer to the stack.
pub fn to_us(v6: bool) -> (IpAddr, IpAddr) {
    if v6 { (IpAddr::V6(V6.1), IpAddr::V6(V6.0)) } else { (IpAddr::V4(V4.1), IpAddr::V4(V4.0)) }
}

/// A UDP datagram from the peer to the stack.
pub fn udp(v6: bool, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = to_us(v6);
    ip(src, dst, protocol::UDP, 64, &udp_message(from, to, payload))
}

/// A UDP datagram without its checksum.
pub fn udp_message(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload].concat()
}

/// The fields of a TCP segment.
#[derive(Clone, Debug, Default)]
pub struct Segment<'a> {
    /// Ports: the peer's and the stack's.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Options, of which at most 40 bytes count; they are padded with zeros.
    pub options: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// The segment without its checksum.
    pub fn bytes(&self) -> Vec<u8> {
        let mut options = self.options[..self.options.len().min(40)].to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        let offset = ((20 + options.len()) / 4) as u8;
        let mut bytes = Vec::with_capacity(20 + options.len() + self.payload.len());
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend([offset << 4, self.flags]);
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(self.payload);
        bytes
    }

    /// The segment from the peer to the stack.
    pub fn frame(&self, v6: bool) -> Vec<u8> {
        let (src, dst) = to_us(v6);
        ip(src, dst, protocol::TCP, 64, &self.bytes())
    }
}

/// Puts right checksums into a frame that was changed, as far as its headers can be followed; and, if `lengths`, right lengths.
pub fn mend(frame: &mut [u8], lengths: bool) {
    let Some(kind) = frame.get(12..14).map(|kind| u16::from_be_bytes([kind[0], kind[1]])) else { return };
    let at = if kind == 0x8100 { 18 } else { 14 };
    let Some(kind) = frame.get(at - 2..at).map(|kind| u16::from_be_bytes([kind[0], kind[1]])) else { return };
    let packet = &mut frame[at..];
    match kind {
        0x0800 if packet.len() >= 20 => mend_v4(packet, lengths),
        0x86dd if packet.len() >= 40 => mend_v6(packet, lengths),
        _ => {}
    }
}

fn mend_v4(packet: &mut [u8], lengths: bool) {
    if lengths {
        let total = packet.len().min(0xffff) as u16;
        packet[0] = 0x40 | packet[0] & 15;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
    }
    let header = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    packet[10..12].fill(0);
    let sum = checksum(0, &packet[..header]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]])).clamp(header, packet.len());
    let src = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[12..16]).expect("four bytes"));
    let dst = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[16..20]).expect("four bytes"));
    let number = packet[9];
    let message = &mut packet[header..total];
    mend_message(src.into(), dst.into(), number, message, lengths);
}

fn mend_v6(packet: &mut [u8], lengths: bool) {
    if lengths {
        packet[0] = 0x60 | packet[0] & 15;
        let len = (packet.len() - 40).min(0xffff) as u16;
        packet[4..6].copy_from_slice(&len.to_be_bytes());
    }
    let octets = |at: usize, packet: &[u8]| {
        Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"))
    };
    let (src, dst) = (octets(8, packet), octets(24, packet));
    let total = (40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]))).min(packet.len());
    let (mut number, mut at) = (packet[6], 40);
    while matches!(number, 0 | 43 | 44 | 60) && at + 8 <= total {
        let len = if number == 44 { 8 } else { 8 + usize::from(packet[at + 1]) * 8 };
        number = packet[at];
        at = (at + len).min(total);
    }
    mend_message(src.into(), dst.into(), number, &mut packet[at..total], lengths);
}

fn mend_message(src: IpAddr, dst: IpAddr, number: u8, message: &mut [u8], lengths: bool) {
    if lengths && number == protocol::UDP && message.len() >= 8 {
        let len = message.len() as u16;
        message[4..6].copy_from_slice(&len.to_be_bytes());
    }
    sum_message(src, dst, number, message);
}

/// A packet taken apart: addresses, protocol, hops, message.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// What it carries.
    pub protocol: u8,
    /// TTL or hop limit.
    pub hops: u8,
    /// The message; a part of one if `fragment`.
    pub message: &'a [u8],
    /// It is a fragment.
    pub fragment: bool,
}

/// Takes a frame apart that is known to be right, as those of the stack are; `None` if it carries no IP.
pub fn parts(frame: &[u8]) -> Option<Parts<'_>> {
    let packet = frame.get(14..)?;
    match [frame[12], frame[13]] {
        [0x08, 0x00] => {
            let header = usize::from(packet[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            Some(Parts {
                src: Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]).into(),
                dst: Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]).into(),
                protocol: packet[9],
                hops: packet[8],
                message: packet.get(header..total)?,
                fragment: u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0,
            })
        }
        [0x86, 0xdd] => {
            let octets = |at: usize| {
                Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"))
            };
            let total = 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            let (mut number, mut at, mut fragment) = (packet[6], 40, false);
            while matches!(number, 0 | 43 | 44 | 60) {
                let head = packet.get(at..at + 8)?;
                if number == 44 {
                    fragment = u16::from_be_bytes([head[2], head[3]]) & 0xfff9 != 0;
                }
                at += if number == 44 { 8 } else { 8 + usize::from(head[1]) * 8 };
                number = head[0];
            }
            let message = packet.get(at..total)?;
            Some(Parts {
                src: octets(8).into(),
                dst: octets(24).into(),
                protocol: number,
                hops: packet[7],
                message,
                fragment,
            })
        }
        _ => None,
    }
}

/// The answer to an ARP request or a neighbour solicitation of the stack for an address of its peer's.
pub fn neighbour(frame: &[u8]) -> Option<Vec<u8>> {
    if frame[12..14] == [8, 6] {
        let asks = frame[20..22] == [0, 1] && frame[38..42] == V4.1.octets();
        let reply =
            [&[0, 1, 8, 0, 6, 4, 0, 2][..], &PEER_MAC, &frame[38..42], &OUR_MAC, &frame[28..32]].concat();
        return asks.then(|| ethernet(0x0806, &reply));
    }
    let parts = parts(frame).filter(|parts| parts.protocol == protocol::ICMPV6 && parts.message[0] == 135)?;
    let target = parts.message.get(8..24).filter(|target| *target == V6.1.octets())?;
    let advertise = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], target, &[2, 1], &PEER_MAC].concat();
    Some(ip(V6.1.into(), parts.src, protocol::ICMPV6, 255, &advertise))
}

/// One line on a frame, for traces.
pub fn describe(frame: &[u8]) -> String {
    // A damaged frame may not be taken apart by what is made for right ones.
    let looks =
        frame.len() >= 54 && (frame[12..14] == [0x86, 0xdd] || frame[12..14] == [8, 0] && frame[14] == 0x45);
    match parts(frame).filter(|_| looks) {
        Some(parts) if parts.protocol == protocol::TCP && !parts.fragment && parts.message.len() >= 20 => {
            let tcp = parts.message;
            let word = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
            let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
            let header = (usize::from(tcp[12] >> 4) * 4).clamp(20, tcp.len());
            let flags: String = "FSRPAUEW"
                .chars()
                .enumerate()
                .filter(|(bit, _)| tcp[13] >> bit & 1 == 1)
                .map(|(_, name)| name)
                .collect();
            format!(
                "{} > {} {flags} seq {}+{} ack {} win {} options {:02x?}",
                word(0),
                word(2),
                long(4),
                tcp.len() - header,
                long(8),
                word(14),
                &tcp[20..header]
            )
        }
        _ => format!("{} bytes {:02x?}", frame.len(), &frame[..frame.len().min(80)]),
    }
}

/// Panics if the stack should not have sent `frame`: lengths, checksums, addresses.
pub fn judge(frame: &[u8], mac: [u8; 6], mtu: u16) {
    assert!(frame.len() >= 14, "a frame of {} bytes", frame.len());
    assert_eq!(frame[6..12], mac, "from another station");
    assert_eq!(frame[6] & 1, 0);
    let packet = &frame[14..];
    assert!(packet.len() <= usize::from(mtu), "a packet of {} bytes over a link of {mtu}", packet.len());
    match [frame[12], frame[13]] {
        [0x08, 0x06] => assert_eq!(packet.len(), 28, "an ARP packet"),
        [0x08, 0x00] => {
            assert_eq!(packet[0] >> 4, 4);
            let header = usize::from(packet[0] & 15) * 4;
            assert!(header >= 20 && header <= packet.len());
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                packet.len(),
                "IPv4 total length"
            );
            assert_eq!(checksum(0, &packet[..header]), 0, "IPv4 header checksum");
        }
        [0x86, 0xdd] => {
            assert_eq!(packet[0] >> 4, 6);
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
                packet.len(),
                "IPv6 length"
            );
        }
        kind => panic!("a frame of type {kind:02x?}"),
    }
    let Some(parts) = parts(frame) else { return };
    assert!(!parts.src.is_multicast(), "from a group: {parts:?}");
    if parts.fragment {
        return;
    }
    let message = parts.message;
    let Some((at, addresses)) = checksum_place(parts.protocol) else { return };
    assert!(message.len() >= at + 2, "a message too short for its checksum: {parts:?}");
    let start = if addresses { pseudo(parts.src, parts.dst, parts.protocol, message.len()) } else { 0 };
    let none = parts.protocol == protocol::UDP && message[6..8] == [0, 0] && parts.src.is_ipv4();
    assert!(none || checksum(start, message) == 0, "checksum of {parts:?}");
    if parts.protocol == protocol::TCP {
        let header = usize::from(message[12] >> 4) * 4;
        assert!(header >= 20 && header <= message.len(), "TCP data offset");
        judge_options(&message[20..header]);
    }
}

/// Panics if options of ours do not add up.
fn judge_options(mut options: &[u8]) {
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let len = usize::from(*rest.first().expect("an option's length"));
                let right = match kind {
                    2 => len == 4,
                    3 => len == 3,
                    4 => len == 2,
                    5 => len > 2 && (len - 2) % 8 == 0,
                    8 => len == 10,
                    _ => len >= 2,
                };
                assert!(right && len <= options.len(), "option {kind} of length {len}");
                options = &options[len..];
            }
        }
    }
}
