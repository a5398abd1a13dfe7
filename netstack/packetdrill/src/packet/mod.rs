//! IP packets as bytes: what the runner gives to the stack, and what it reads from it. Written apart from the stack's own formats,
//! so that an error in those is not made twice.

mod icmp;
mod read;

use std::net::IpAddr;

use crate::script::TcpOption;

pub(crate) use icmp::{IcmpKind, IcmpNames};
pub(crate) use read::{Body, Packet, TcpSegment};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// IP's numbers of protocols.
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// Fields of an IP header that scripts may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpFields {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) flow_label: u32,
}

/// Fields of a TCP header, as they go on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpFields {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// The eight flags, and AE as bit 8.
    pub(crate) flags: u16,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
}

/// The Internet checksum of several parts, each but the last of even length (RFC 1071).
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// The pseudo header of RFC 9293 §3.1 and RFC 8200 §8.1.
pub(crate) fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    match source {
        IpAddr::V4(_) => {
            bytes.extend([0, protocol]);
            bytes.extend((len as u16).to_be_bytes());
        }
        IpAddr::V6(_) => {
            bytes.extend((len as u32).to_be_bytes());
            bytes.extend([0, 0, 0, protocol]);
        }
    }
    bytes
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An IP packet that carries `payload`.
pub(crate) fn ip(fields: &IpFields, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match fields.source {
        IpAddr::V4(_) => {
            let total = (20 + payload.len()) as u16;
            let mut header = vec![0x45, fields.tos];
            header.extend(total.to_be_bytes());
            // RFC 6864 §4.1: the identification of a packet that may not be cut up means nothing.
            header.extend([0, 0, 0x40, 0, fields.ttl, protocol, 0, 0]);
            header.extend(octets(fields.source));
            header.extend(octets(fields.destination));
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        IpAddr::V6(_) => {
            let word = 6 << 28 | u32::from(fields.tos) << 20 | fields.flow_label & 0xf_ffff;
            let mut header = word.to_be_bytes().to_vec();
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([protocol, fields.ttl]);
            header.extend(octets(fields.source));
            header.extend(octets(fields.destination));
            header
        }
    };
    packet.extend_from_slice(payload);
    packet
}

/// A TCP segment, checksum included.
pub(crate) fn tcp(ip: &IpFields, fields: &TcpFields, options: &[TcpOption], payload: &[u8]) -> Vec<u8> {
    let options = option_bytes(options);
    let header_len = TCP_HEADER + options.len();
    let mut bytes = Vec::with_capacity(header_len + payload.len());
    bytes.extend(fields.source_port.to_be_bytes());
    bytes.extend(fields.destination_port.to_be_bytes());
    bytes.extend(fields.seq.to_be_bytes());
    bytes.extend(fields.ack.to_be_bytes());
    bytes.extend(((header_len as u16 / 4) << 12 | fields.flags & 0x1ff).to_be_bytes());
    bytes.extend(fields.window.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(fields.urgent.to_be_bytes());
    bytes.extend(options);
    bytes.extend_from_slice(payload);
    let pseudo = pseudo_header(ip.source, ip.destination, protocol::TCP, bytes.len());
    let sum = checksum(&[&pseudo, &bytes]);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A UDP datagram, checksum included.
pub(crate) fn udp(ip: &IpFields, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + payload.len());
    bytes.extend(source_port.to_be_bytes());
    bytes.extend(destination_port.to_be_bytes());
    bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend_from_slice(payload);
    let pseudo = pseudo_header(ip.source, ip.destination, protocol::UDP, bytes.len());
    // RFC 768: a sum of zero goes out as its complement.
    let sum = match checksum(&[&pseudo, &bytes]) {
        0 => 0xffff,
        sum => sum,
    };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An ICMP or ICMPv6 message (by the version of `ip`) with four bytes behind the checksum and a body.
pub(crate) fn icmp(ip: &IpFields, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    bytes.extend_from_slice(body);
    let sum = if ip.source.is_ipv6() {
        let pseudo = pseudo_header(ip.source, ip.destination, protocol::ICMPV6, bytes.len());
        checksum(&[&pseudo, &bytes])
    } else {
        checksum(&[&bytes])
    };
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// TCP options as bytes.
pub(crate) fn option_bytes(options: &[TcpOption]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for option in options {
        let (kind, body) = match option {
            TcpOption::Eol => {
                bytes.push(0);
                continue;
            }
            TcpOption::Nop => {
                bytes.push(1);
                continue;
            }
            TcpOption::Mss(mss) => (2, mss.to_be_bytes().to_vec()),
            TcpOption::WindowScale(shift) => (3, vec![*shift]),
            TcpOption::SackPermitted => (4, Vec::new()),
            TcpOption::Sack(blocks) => (
                5,
                blocks
                    .iter()
                    .flat_map(|(start, end)| [start.to_be_bytes(), end.to_be_bytes()].concat())
                    .collect(),
            ),
            TcpOption::Timestamps { value, echo } => (8, [value.to_be_bytes(), echo.to_be_bytes()].concat()),
            TcpOption::Md5(digest) => (19, digest.clone()),
            TcpOption::FastOpen(cookie) => (34, cookie.clone()),
            TcpOption::FastOpenExperimental(cookie) => (254, [&[0xf9, 0x89], &cookie[..]].concat()),
            TcpOption::EcnCounts { ect1_first, counts } => (
                if *ect1_first { 174 } else { 172 },
                counts.iter().flat_map(|count| count.to_be_bytes().into_iter().skip(1)).collect(),
            ),
            TcpOption::Other(kind, body) => (*kind, body.clone()),
        };
        bytes.push(kind);
        bytes.push((2 + body.len()) as u8);
        bytes.extend(body);
    }
    bytes
}
