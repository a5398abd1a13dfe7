//! The datagram of a flow that was seen lately: an IP packet without options or extensions, not a fragment, that carries UDP.
//!
//! What a first datagram was asked (whether we have its destination, whether its source can be true, whose it is) is remembered with
//! its flow; of those that follow only what differs is looked at. Whatever is not such a datagram, or damaged, is given back and
//! goes the general way.

use demi_drivers::device::RxChecksum;
use demi_drivers::{Buf, RxFrame};

use super::expected::{STATION, V4_BYTES, V6_BYTES, matches, octet, raw, station, word};
use crate::stack::Stack;
use crate::tcp::FlowV4;
use crate::udp::FlowV6;
use crate::wire::checksum::{self, Sum, sum_array};
use crate::wire::ethernet::{HEADER_LEN, Mac};
use crate::wire::udp::Plain;
use crate::wire::{ipv4, protocol, udp};

/// What is known of a datagram's checksum: its field, and the sum of the addresses and the header.
struct Checksum {
    field: u16,
    sum: Sum,
}

impl Checksum {
    /// Whether it is right, or known to be. Over IPv4 it may be left out (RFC 768), over IPv6 it may not (RFC 8200 §8.1).
    #[inline(always)]
    fn is_right(&self, known: RxChecksum, payload: &[u8], may_lack: bool) -> bool {
        match known {
            RxChecksum::Valid => true,
            RxChecksum::Bad => false,
            RxChecksum::Unknown if self.field == 0 => may_lack,
            RxChecksum::Unknown => {
                let len = (udp::HEADER_LEN + payload.len()) as u16;
                let pseudo = Sum::of_words([u16::from(protocol::UDP), len]);
                self.sum.then(pseudo).then(checksum::sum(payload)).is_valid()
            }
        }
    }
}

/// The headers of a plain datagram over IPv4.
struct DatagramV4 {
    flow: FlowV4,
    /// Bytes of the payload.
    len: usize,
    checksum: Checksum,
}

impl DatagramV4 {
    #[inline(always)]
    fn parse(frame: &[u8], mac: Mac, verify: bool) -> Option<DatagramV4> {
        let bytes = frame.first_chunk::<{ V4_BYTES + udp::HEADER_LEN }>()?;
        let (ip, header) = bytes.split_first_chunk::<V4_BYTES>()?;
        let total_len = usize::from((word(ip, 14) & 0xffff) as u16);
        let (header, field) = Plain::parse(header.first_chunk()?);
        let usual = matches(raw(ip, 0), STATION, station(mac))
            // Ethertype, version and five words of header; any type of service, length and identification.
            && matches(raw(ip, 12), [0xff, 0xff, 0xff, 0, 0, 0, 0, 0], [8, 0, 0x45, 0, 0, 0, 0, 0])
            // No fragment; any TTL, UDP, any checksum and address.
            && matches(raw(ip, 20), [0x3f, 0xff, 0, 0xff, 0, 0, 0, 0], [0, 0, 0, protocol::UDP, 0, 0, 0, 0])
            && total_len >= ipv4::HEADER_LEN + udp::HEADER_LEN
            && total_len <= frame.len() - HEADER_LEN
            && usize::from(header.len) == total_len - ipv4::HEADER_LEN;
        if !usual {
            return None;
        }
        let ip_header: &[u8; ipv4::HEADER_LEN] = ip.last_chunk()?;
        if verify && !sum_array(ip_header).is_valid() {
            return None;
        }
        let addressed: &[u8; 8 + udp::HEADER_LEN] = bytes.last_chunk()?;
        Some(DatagramV4 {
            flow: FlowV4::new(octet(ip, 26), header.ports),
            len: total_len - ipv4::HEADER_LEN - udp::HEADER_LEN,
            checksum: Checksum { field, sum: sum_array(addressed) },
        })
    }
}

/// The headers of a plain datagram over IPv6.
struct DatagramV6 {
    flow: FlowV6,
    /// Bytes of the payload.
    len: usize,
    checksum: Checksum,
}

impl DatagramV6 {
    #[inline(always)]
    fn parse(frame: &[u8], mac: Mac) -> Option<DatagramV6> {
        let bytes = frame.first_chunk::<{ V6_BYTES + udp::HEADER_LEN }>()?;
        let (ip, header) = bytes.split_first_chunk::<V6_BYTES>()?;
        let payload_len = (word(ip, 18) >> 16) as usize;
        let (header, field) = Plain::parse(header.first_chunk()?);
        let usual = matches(raw(ip, 0), STATION, station(mac))
            // Ethertype and version; any traffic class and flow label.
            && matches(raw(ip, 12), [0xff, 0xff, 0xf0, 0, 0, 0, 0, 0], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 0])
            && ip[20] == protocol::UDP
            && payload_len >= udp::HEADER_LEN
            && payload_len <= frame.len() - V6_BYTES
            && usize::from(header.len) == payload_len;
        if !usual {
            return None;
        }
        let addressed: &[u8; 32 + udp::HEADER_LEN] = bytes.last_chunk()?;
        Some(DatagramV6 {
            flow: FlowV6 {
                remote: u128::from(octet(ip, 22)) << 64 | u128::from(octet(ip, 30)),
                local: u128::from(octet(ip, 38)) << 64 | u128::from(octet(ip, 46)),
                ports: header.ports,
            },
            len: payload_len - udp::HEADER_LEN,
            checksum: Checksum { field, sum: sum_array(addressed) },
        })
    }
}

impl Stack {
    /// Takes a datagram of a known flow. Gives the frame back, and has done nothing, when it is any other.
    #[inline(always)]
    pub(super) fn on_known_v4(&mut self, frame: RxFrame) -> Option<RxFrame> {
        let trusted = self.egress.capabilities.lossless_memory;
        let Some(found) = DatagramV4::parse(&frame.buf, self.egress.mac, !trusted) else {
            return Some(frame);
        };
        let changes = self.egress.routes.changes;
        let Some(known) = self.udp.known_v4(&found.flow, changes) else { return Some(frame) };
        let headers = V4_BYTES + udp::HEADER_LEN;
        let payload = frame.buf.get(headers..headers + found.len).unwrap_or_default();
        if !found.checksum.is_right(frame.checksum, payload, true) {
            return Some(frame);
        }
        let stats = &mut self.egress.stats;
        stats.v4.ip.in_receives += 1;
        stats.v4.ip.in_delivers += 1;
        stats.link.in_frames += 1;
        let payload = payload_of(frame.buf, headers, found.len);
        self.udp.deliver_known_v4(known, payload, &mut stats.v4.udp);
        None
    }

    /// As [`on_known_v4`](Self::on_known_v4).
    #[inline(always)]
    pub(super) fn on_known_v6(&mut self, frame: RxFrame) -> Option<RxFrame> {
        let Some(found) = DatagramV6::parse(&frame.buf, self.egress.mac) else { return Some(frame) };
        let changes = self.egress.routes.changes;
        let Some(known) = self.udp.known_v6(&found.flow, changes) else { return Some(frame) };
        let headers = V6_BYTES + udp::HEADER_LEN;
        let payload = frame.buf.get(headers..headers + found.len).unwrap_or_default();
        if !found.checksum.is_right(frame.checksum, payload, false) {
            return Some(frame);
        }
        let stats = &mut self.egress.stats;
        stats.v6.ip.in_receives += 1;
        stats.v6.ip.in_delivers += 1;
        stats.link.in_frames += 1;
        let payload = payload_of(frame.buf, headers, found.len);
        self.udp.deliver_known_v6(known, payload, &mut stats.v6.udp);
        None
    }
}

/// The `len` bytes of a frame that follow its headers; an Ethernet frame may be padded.
#[inline(always)]
fn payload_of(mut buf: Buf, headers: usize, len: usize) -> Buf {
    buf.advance(headers);
    buf.truncate(len);
    buf
}
