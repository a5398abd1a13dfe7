//! The header template of one path: Ethernet and IP headers prebuilt, so that a packet costs a copy and a few stores.
//!
//! Owns the bytes and the sum of the two addresses, from which both the IPv4 header's checksum and the pseudo header's follow
//! without touching the addresses again. Never looks anything up: the egress fills it and asks the neighbour table whether it
//! still holds.

use std::net::IpAddr;

use crate::wire::checksum::{self, Sum};
use crate::wire::ethernet::{self, EtherType, Mac};
use crate::wire::{ipv4, ipv6, udp};

/// Bytes of an Ethernet and an IPv4 header.
pub(crate) const V4_LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN;
/// Bytes of an Ethernet and an IPv6 header.
pub(crate) const V6_LEN: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN;

/// What is remembered of the way from one of our addresses to a peer. One cache line.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Path {
    /// The neighbour's generation when the template was built; 0: it never was.
    pub(crate) generation: u32,
    /// The neighbour's slot.
    pub(crate) neighbor: u16,
    /// The folded sum of both addresses.
    address_sum: u16,
    v6: bool,
    /// Ethernet and IP headers; lengths, checksum, protocol, TTL and TOS are written for each packet.
    template: [u8; V6_LEN],
}

const _: () = assert!(size_of::<Path>() <= 64);

impl Default for Path {
    fn default() -> Self {
        Path { generation: 0, neighbor: 0, address_sum: 0, template: [0; V6_LEN], v6: false }
    }
}

/// What varies from packet to packet in the headers of one path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketFields {
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    /// Bytes behind the IP header.
    pub(crate) payload_len: u16,
}

impl Path {
    /// Builds the template from `local` to `remote` behind the link address `dst`. Both are of one version; should they not be,
    /// the path stays one that was never built.
    pub(crate) fn build(&mut self, src: Mac, dst: Mac, local: IpAddr, remote: IpAddr) {
        let ethertype = if local.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        if let Some(front) = self.template.first_chunk_mut() {
            ethernet::Repr { dst, src, ethertype }.emit(front);
        }
        let sum = match (local, remote) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                self.v6 = false;
                let header = ipv4::Repr {
                    src,
                    dst,
                    protocol: 0,
                    tos: 0,
                    ttl: 0,
                    // RFC 6864 §4.1: a packet that is never cut needs no identification, and tells nobody how many were sent.
                    ident: 0,
                    dont_fragment: true,
                    more_fragments: false,
                    fragment_offset: 0,
                    payload_len: 0,
                };
                if let Some(out) = self.template[ethernet::HEADER_LEN..].first_chunk_mut() {
                    header.emit(out);
                }
                checksum::pseudo_v4(src, dst, 0, 0)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                self.v6 = true;
                let header = ipv6::Repr {
                    src,
                    dst,
                    next_header: 0,
                    traffic_class: 0,
                    flow_label: 0,
                    hop_limit: 0,
                    payload_len: 0,
                };
                if let Some(out) = self.template[ethernet::HEADER_LEN..].first_chunk_mut() {
                    header.emit(out);
                }
                checksum::pseudo_v6(src, dst, 0, 0)
            }
            _ => return self.generation = 0,
        };
        self.address_sum = sum.folded();
    }

    /// Whether the path is IPv6.
    #[inline]
    pub(crate) fn is_v6(&self) -> bool {
        self.v6
    }

    /// Bytes of the Ethernet and IP headers.
    #[inline]
    pub(crate) fn header_len(&self) -> usize {
        if self.v6 { V6_LEN } else { V4_LEN }
    }

    /// The sum of the pseudo header (RFC 9293 §3.1, RFC 8200 §8.1).
    #[inline]
    pub(crate) fn pseudo_header(&self, fields: &PacketFields) -> Sum {
        Sum::of_words([self.address_sum, u16::from(fields.protocol), fields.payload_len])
    }

    /// Writes Ethernet and IP headers to `front`, and answers what lies behind them there; nothing when it is too short.
    #[inline]
    pub(crate) fn write<'a>(&self, front: &'a mut [u8], fields: &PacketFields) -> &'a mut [u8] {
        let Some((headers, behind)) = front.split_at_mut_checked(self.header_len()) else { return &mut [] };
        if self.v6 {
            self.write_v6(headers, fields);
        } else {
            self.write_v4(headers, fields);
        }
        behind
    }

    /// Writes the headers of a path that is IPv4.
    #[inline(always)]
    pub(crate) fn write_v4(&self, front: &mut [u8], fields: &PacketFields) {
        let Some(headers) = front.first_chunk_mut::<V4_LEN>() else { return };
        headers.copy_from_slice(&self.template[..V4_LEN]);
        let total_len = fields.payload_len.saturating_add(ipv4::HEADER_LEN as u16);
        let first = 0x4500 | u16::from(fields.tos);
        let ttl_protocol = u16::from(fields.ttl) << 8 | u16::from(fields.protocol);
        let sum = Sum::of_words([self.address_sum, first, total_len, 0x4000, ttl_protocol]);
        let ip = ethernet::HEADER_LEN;
        headers[ip + 1] = fields.tos;
        headers[ip + 2..ip + 4].copy_from_slice(&total_len.to_be_bytes());
        headers[ip + 8..ip + 10].copy_from_slice(&ttl_protocol.to_be_bytes());
        headers[ip + 10..ip + 12].copy_from_slice(&sum.finish().to_be_bytes());
    }

    /// Writes the headers of a path that is IPv6.
    #[inline(always)]
    pub(crate) fn write_v6(&self, front: &mut [u8], fields: &PacketFields) {
        let Some(headers) = front.first_chunk_mut::<V6_LEN>() else { return };
        headers.copy_from_slice(&self.template);
        let ip = ethernet::HEADER_LEN;
        headers[ip] = 0x60 | fields.tos >> 4;
        headers[ip + 1] = fields.tos << 4;
        headers[ip + 4..ip + 6].copy_from_slice(&fields.payload_len.to_be_bytes());
        headers[ip + 6] = fields.protocol;
        headers[ip + 7] = fields.ttl;
    }
}

/// Bytes of IP and UDP headers on a path, for telling what fits an MTU.
pub(crate) fn udp_overhead(v6: bool) -> usize {
    udp::HEADER_LEN + if v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIELDS: PacketFields = PacketFields { protocol: 17, tos: 0xb9, ttl: 33, payload_len: 40 };

    proptest! {
        #[test]
        fn a_template_writes_what_emitting_the_headers_would(
            v4: [[u8; 4]; 2], v6: [[u8; 16]; 2], use_v6: bool, small: (u8, u8, u8), payload_len in 0u16..9000,
        ) {
            let (protocol, tos, ttl) = small;
            let fields = PacketFields { protocol, tos, ttl, payload_len };
            let (src, dst) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
            let mut path = Path::default();
            let mut expected = vec![0; if use_v6 { V6_LEN } else { V4_LEN }];
            let ethertype = if use_v6 { EtherType::IPV6 } else { EtherType::IPV4 };
            ethernet::Repr { dst, src, ethertype }.emit(expected.first_chunk_mut().unwrap());
            let ip = expected[14..].as_mut();
            let pseudo = if use_v6 {
                let (local, remote) = (v6[0].into(), v6[1].into());
                path.build(src, dst, IpAddr::V6(local), IpAddr::V6(remote));
                let repr = ipv6::Repr {
                    src: local, dst: remote, next_header: protocol, traffic_class: tos, flow_label: 0, hop_limit: ttl,
                    payload_len,
                };
                repr.emit(ip.first_chunk_mut().unwrap());
                repr.pseudo_header()
            } else {
                let (local, remote) = (v4[0].into(), v4[1].into());
                path.build(src, dst, IpAddr::V4(local), IpAddr::V4(remote));
                let repr = ipv4::Repr {
                    src: local, dst: remote, protocol, tos, ttl, ident: 0, dont_fragment: true,
                    more_fragments: false, fragment_offset: 0, payload_len,
                };
                repr.emit(ip.first_chunk_mut().unwrap());
                repr.pseudo_header()
            };
            let mut out = vec![0xee; path.header_len() + 8];
            prop_assert_eq!(path.write(&mut out, &fields).len(), 8);
            prop_assert_eq!(&out[..path.header_len()], &expected[..]);
            prop_assert_eq!(path.pseudo_header(&fields).folded() % 0xffff, pseudo.folded() % 0xffff);
        }
    }

    #[test]
    fn a_front_that_is_too_short_is_left_alone() {
        let mut path = Path::default();
        path.build(Mac::default(), Mac::default(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert!(path.write(&mut [0; 20], &FIELDS).is_empty());
    }
}
