//! Packets that the stack has sent, read with every length and checksum verified.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{IcmpKind, IpFields, TcpFields, checksum, protocol, pseudo_header};
use crate::script::TcpOption;

/// An IP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) ip: IpFields,
    pub(crate) body: Body,
}

/// What a packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Tcp(TcpSegment),
    Udp { source_port: u16, destination_port: u16, payload: Vec<u8> },
    Icmp { kind: IcmpKind, rest: [u8; 4], body: Vec<u8> },
}

/// A TCP segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpSegment {
    pub(crate) fields: TcpFields,
    pub(crate) options: Vec<TcpOption>,
    pub(crate) payload: Vec<u8>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl Packet {
    /// Reads a packet; an error says what is wrong with it.
    pub(crate) fn read(bytes: &[u8]) -> Result<Packet, String> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Packet::read_v4(bytes),
            Some(6) => Packet::read_v6(bytes),
            _ => Err("no IP packet".to_owned()),
        }
    }

    fn read_v4(bytes: &[u8]) -> Result<Packet, String> {
        let header: &[u8; 20] = bytes.first_chunk().ok_or("an IPv4 header that is cut off")?;
        if header[0] != 0x45 {
            return Err(format!("an IPv4 header of {} bytes", usize::from(header[0] & 15) * 4));
        }
        if checksum(&[header]) != 0 {
            return Err("a wrong checksum in the IPv4 header".to_owned());
        }
        if usize::from(u16::from_be_bytes([header[2], header[3]])) != bytes.len() {
            return Err(format!("an IPv4 total length that is not the packet's {} bytes", bytes.len()));
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        if fragment & 0x3fff != 0 {
            return Err("a fragment".to_owned());
        }
        let [.., a, b, c, d, e, f, g, h] = *header;
        let ip = IpFields {
            source: Ipv4Addr::new(a, b, c, d).into(),
            destination: Ipv4Addr::new(e, f, g, h).into(),
            tos: header[1],
            ttl: header[8],
            flow_label: 0,
        };
        Ok(Packet { ip, body: Body::read(&ip, header[9], &bytes[20..])? })
    }

    fn read_v6(bytes: &[u8]) -> Result<Packet, String> {
        let header: &[u8; 40] = bytes.first_chunk().ok_or("an IPv6 header that is cut off")?;
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != bytes.len() - 40 {
            return Err(format!(
                "an IPv6 payload length that is not the packet's {} bytes",
                bytes.len() - 40
            ));
        }
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = *header.get(at..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).into())
        };
        let (Some(source), Some(destination)) = (address(8), address(24)) else {
            return Err("an IPv6 header that is cut off".to_owned());
        };
        let word = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let ip = IpFields {
            source,
            destination,
            tos: (word >> 20) as u8,
            ttl: header[7],
            flow_label: word & 0xf_ffff,
        };
        Ok(Packet { ip, body: Body::read(&ip, header[6], &bytes[40..])? })
    }
}

impl Body {
    fn read(ip: &IpFields, protocol: u8, bytes: &[u8]) -> Result<Body, String> {
        let pseudo = pseudo_header(ip.source, ip.destination, protocol, bytes.len());
        let sum = match protocol {
            protocol::ICMP => checksum(&[bytes]),
            _ => checksum(&[&pseudo, bytes]),
        };
        let (name, body) = match protocol {
            protocol::TCP => ("TCP segment", TcpSegment::read(bytes).map(Body::Tcp)),
            protocol::UDP => ("UDP datagram", Body::read_udp(bytes)),
            protocol::ICMP | protocol::ICMPV6 => ("ICMP message", Body::read_icmp(bytes)),
            other => return Err(format!("a packet of protocol {other}")),
        };
        let body = body.ok_or_else(|| format!("a {name} whose lengths do not fit"))?;
        if sum != 0 { Err(format!("a {name} with a wrong checksum")) } else { Ok(body) }
    }

    fn read_udp(bytes: &[u8]) -> Option<Body> {
        (usize::from(be16(bytes, 4)?) == bytes.len()).then_some(())?;
        Some(Body::Udp {
            source_port: be16(bytes, 0)?,
            destination_port: be16(bytes, 2)?,
            payload: bytes.get(8..)?.to_vec(),
        })
    }

    fn read_icmp(bytes: &[u8]) -> Option<Body> {
        let &[kind, code, _, _, a, b, c, d] = bytes.first_chunk::<8>()?;
        Some(Body::Icmp { kind: IcmpKind { kind, code }, rest: [a, b, c, d], body: bytes[8..].to_vec() })
    }
}

impl TcpSegment {
    fn read(bytes: &[u8]) -> Option<TcpSegment> {
        let offset_flags = be16(bytes, 12)?;
        let header_len = usize::from(offset_flags >> 12) * 4;
        let fields = TcpFields {
            source_port: be16(bytes, 0)?,
            destination_port: be16(bytes, 2)?,
            seq: be32(bytes, 4)?,
            ack: be32(bytes, 8)?,
            flags: offset_flags & 0x1ff,
            window: be16(bytes, 14)?,
            urgent: be16(bytes, 18)?,
        };
        let options = read_options(bytes.get(20..header_len)?);
        Some(TcpSegment { fields, options, payload: bytes.get(header_len..)?.to_vec() })
    }
}

/// Reads options to the last byte, padding included; what makes no sense is told as [`TcpOption::Other`].
fn read_options(mut bytes: &[u8]) -> Vec<TcpOption> {
    let mut options = Vec::new();
    while let [kind, rest @ ..] = bytes {
        if *kind <= 1 {
            options.push(if *kind == 0 { TcpOption::Eol } else { TcpOption::Nop });
            bytes = rest;
            continue;
        }
        let len = rest.first().map_or(0, |len| usize::from(*len));
        let Some(body) = bytes.get(2..len) else {
            options.push(TcpOption::Other(*kind, rest.to_vec()));
            break;
        };
        options.push(read_option(*kind, body));
        bytes = &bytes[len..];
    }
    options
}

fn read_option(kind: u8, body: &[u8]) -> TcpOption {
    let other = || TcpOption::Other(kind, body.to_vec());
    match (kind, body) {
        (2, &[high, low]) => TcpOption::Mss(u16::from_be_bytes([high, low])),
        (3, &[shift]) => TcpOption::WindowScale(shift),
        (4, []) => TcpOption::SackPermitted,
        (5, body) if body.len().is_multiple_of(8) && !body.is_empty() => {
            let blocks = body.chunks(8).filter_map(|block| Some((be32(block, 0)?, be32(block, 4)?)));
            TcpOption::Sack(blocks.collect())
        }
        (8, body) if body.len() == 8 => match (be32(body, 0), be32(body, 4)) {
            (Some(value), Some(echo)) => TcpOption::Timestamps { value, echo },
            _ => other(),
        },
        (19, body) => TcpOption::Md5(body.to_vec()),
        (34, body) => TcpOption::FastOpen(body.to_vec()),
        (172 | 174, counts) if counts.len().is_multiple_of(3) && counts.len() <= 9 => TcpOption::EcnCounts {
            ect1_first: kind == 174,
            counts: counts.chunks(3).map(|c| u32::from_be_bytes([0, c[0], c[1], c[2]])).collect(),
        },
        (254, [0xf9, 0x89, cookie @ ..]) => TcpOption::FastOpenExperimental(cookie.to_vec()),
        _ => other(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet;

    fn fields(v6: bool) -> IpFields {
        let addresses = if v6 { ["fd00::1", "fd00::2"] } else { ["10.0.0.1", "10.0.0.2"] };
        let [source, destination] = addresses.map(|address| address.parse().unwrap());
        IpFields { source, destination, tos: 2, ttl: 64, flow_label: 0 }
    }

    #[test]
    fn what_was_written_is_what_is_read() {
        for v6 in [false, true] {
            let ip = fields(v6);
            let segment = TcpSegment {
                fields: TcpFields {
                    source_port: 1,
                    destination_port: 2,
                    seq: 3,
                    ack: 4,
                    flags: 0x112,
                    window: 5,
                    urgent: 6,
                },
                options: vec![
                    TcpOption::Mss(1460),
                    TcpOption::Timestamps { value: 7, echo: 8 },
                    TcpOption::Sack(vec![(1, 2), (3, 4)]),
                    TcpOption::FastOpenExperimental(vec![1, 2]),
                    TcpOption::Nop,
                    TcpOption::Eol,
                ],
                payload: b"odd".to_vec(),
            };
            let bytes = packet::tcp(&ip, &segment.fields, &segment.options, &segment.payload);
            let mut packet = packet::ip(&ip, protocol::TCP, &bytes);
            assert_eq!(Packet::read(&packet), Ok(Packet { ip, body: Body::Tcp(segment) }));
            *packet.last_mut().unwrap() ^= 1;
            assert_eq!(Packet::read(&packet), Err("a TCP segment with a wrong checksum".to_owned()));
            packet.pop();
            assert!(Packet::read(&packet).is_err());
        }
    }

    #[test]
    fn any_prefix_of_a_packet_is_read_without_harm() {
        for v6 in [false, true] {
            let ip = fields(v6);
            let datagram = packet::udp(&ip, 1, 2, b"data");
            let packet = packet::ip(&ip, protocol::UDP, &datagram);
            for len in 0..packet.len() {
                assert!(Packet::read(&packet[..len]).is_err(), "{len} bytes");
            }
            assert!(Packet::read(&packet).is_ok());
        }
    }
}
