//! The frame that nearly all frames are: an IP packet without options or extensions, not a fragment, that carries the TCP segment
//! which an established connection expects next, behind a plain header.
//!
//! Everything is read in place and compared in whole words before anything is changed; a connection that is found vouches for
//! both addresses. A frame that fails any of the questions is not judged here: it takes the general way, which asks them one by
//! one and counts what is wrong. What [`coalesce`](super::coalesce) joins is asked the same.

use demi_drivers::device::RxChecksum;
use demi_drivers::{Buf, RxFrame};

use crate::stack::Stack;
use crate::tcp::{FlowV4, Incoming};
use crate::wire::checksum::{self, Sum, sum_array};
use crate::wire::ethernet::{HEADER_LEN, Mac};
use crate::wire::tcp::{PLAIN_BYTES, Plain};
use crate::wire::{ipv4, ipv6, protocol};

/// Bytes in front of the TCP header, by IP version.
pub(super) const V4_BYTES: usize = HEADER_LEN + ipv4::HEADER_LEN;
pub(super) const V6_BYTES: usize = HEADER_LEN + ipv6::HEADER_LEN;

#[inline(always)]
pub(super) fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
pub(super) fn octet<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from(word(bytes, at)) << 32 | u64::from(word(bytes, at + 4))
}

/// The eight bytes from `at` on, as they lie there.
#[inline(always)]
pub(super) fn raw<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut octet = [0; 8];
    octet.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(octet)
}

/// Whether the bytes of `found` are those of `wanted` wherever `mask` is not zero.
#[inline(always)]
pub(super) fn matches(found: u64, mask: [u8; 8], wanted: [u8; 8]) -> bool {
    found & u64::from_ne_bytes(mask) == u64::from_ne_bytes(wanted)
}

/// A frame begins with the station it is for.
pub(super) const STATION: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0];

#[inline(always)]
pub(super) fn station(mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.0;
    [a, b, c, d, e, f, 0, 0]
}

/// The headers of an IPv4 packet of the expected kind.
pub(super) struct PlainV4 {
    pub(super) flow: FlowV4,
    pub(super) segment: Incoming,
    pub(super) push: bool,
    /// The packet is capable of ECN, with the code point that senders use.
    pub(super) ect0: bool,
    /// Sum of the addresses and the TCP header.
    pub(super) sum: Sum,
}

impl PlainV4 {
    #[inline(always)]
    pub(super) fn parse(frame: &[u8], mac: Mac, verify: bool) -> Option<PlainV4> {
        let bytes = frame.first_chunk::<{ V4_BYTES + PLAIN_BYTES }>()?;
        let (ip, tcp) = bytes.split_first_chunk::<V4_BYTES>()?;
        let total_len = usize::from((word(ip, 14) & 0xffff) as u16);
        let usual = matches(raw(ip, 0), STATION, station(mac))
            // Ethertype, version and five words of header; any type of service that is not a mark, length and identification.
            && matches(raw(ip, 12), [0xff, 0xff, 0xff, 1, 0, 0, 0, 0], [8, 0, 0x45, 0, 0, 0, 0, 0])
            // No fragment; any TTL, TCP, any checksum and address.
            && matches(raw(ip, 20), [0x3f, 0xff, 0, 0xff, 0, 0, 0, 0], [0, 0, 0, protocol::TCP, 0, 0, 0, 0])
            && total_len >= ipv4::HEADER_LEN + PLAIN_BYTES
            && total_len <= frame.len() - HEADER_LEN;
        if !usual {
            return None;
        }
        let header = Plain::parse(tcp.first_chunk()?)?;
        let ip_header: &[u8; ipv4::HEADER_LEN] = ip.last_chunk()?;
        if verify && !sum_array(ip_header).is_valid() {
            return None;
        }
        let addressed: &[u8; 8 + PLAIN_BYTES] = bytes.last_chunk()?;
        Some(PlainV4 {
            flow: FlowV4::new(octet(ip, 26), header.ports),
            segment: Incoming::new(&header, (total_len - ipv4::HEADER_LEN - PLAIN_BYTES) as u32),
            push: header.push,
            ect0: ip[15] & 2 != 0,
            sum: sum_array(addressed),
        })
    }
}

/// The headers of an IPv6 packet of the expected kind.
pub(super) struct PlainV6 {
    pub(super) remote: u128,
    pub(super) local: u128,
    pub(super) ports: u32,
    pub(super) segment: Incoming,
    pub(super) push: bool,
    /// As in [`PlainV4`].
    pub(super) ect0: bool,
    /// Sum of the addresses and the TCP header.
    pub(super) sum: Sum,
}

impl PlainV6 {
    #[inline(always)]
    pub(super) fn parse(frame: &[u8], mac: Mac) -> Option<PlainV6> {
        let bytes = frame.first_chunk::<{ V6_BYTES + PLAIN_BYTES }>()?;
        let (ip, tcp) = bytes.split_first_chunk::<V6_BYTES>()?;
        let payload_len = (word(ip, 18) >> 16) as usize;
        let usual = matches(raw(ip, 0), STATION, station(mac))
            // Ethertype and version; any traffic class that is not a mark, any flow label.
            && matches(raw(ip, 12), [0xff, 0xff, 0xf0, 0x10, 0, 0, 0, 0], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 0])
            && ip[20] == protocol::TCP
            && payload_len >= PLAIN_BYTES
            && payload_len <= frame.len() - V6_BYTES;
        if !usual {
            return None;
        }
        let header = Plain::parse(tcp.first_chunk()?)?;
        let addressed: &[u8; 32 + PLAIN_BYTES] = bytes.last_chunk()?;
        Some(PlainV6 {
            remote: u128::from(octet(ip, 22)) << 64 | u128::from(octet(ip, 30)),
            local: u128::from(octet(ip, 38)) << 64 | u128::from(octet(ip, 46)),
            ports: header.ports,
            segment: Incoming::new(&header, (payload_len - PLAIN_BYTES) as u32),
            push: header.push,
            ect0: ip[15] & 0x20 != 0,
            sum: sum_array(addressed),
        })
    }
}

/// Whether a segment's checksum is right, or known to be. `sum` is that of the addresses and the header, `payload` what follows.
#[inline(always)]
pub(super) fn is_intact(known: RxChecksum, sum: Sum, payload: &[u8]) -> bool {
    match known {
        RxChecksum::Valid => true,
        RxChecksum::Bad => false,
        RxChecksum::Unknown => {
            let len = (PLAIN_BYTES + payload.len()) as u16;
            let pseudo = Sum::of_words([u16::from(protocol::TCP), len]);
            sum.then(pseudo).then(checksum::sum(payload)).is_valid()
        }
    }
}

impl Stack {
    /// Takes a frame of the expected kind. Gives it back, and has done nothing, when it is any other.
    #[inline(always)]
    pub(super) fn on_expected(&mut self, mut frame: RxFrame) -> Option<RxFrame> {
        let trusted = self.egress.capabilities.lossless_memory;
        if trusted {
            frame.checksum = RxChecksum::Valid;
        }
        let Some(found) = PlainV4::parse(&frame.buf, self.egress.mac, !trusted) else {
            return self.on_expected_other(frame);
        };
        let headers = V4_BYTES + PLAIN_BYTES;
        let payload = frame.buf.get(headers..headers + found.segment.len as usize);
        if !is_intact(frame.checksum, found.sum, payload.unwrap_or_default()) {
            return Some(frame);
        }
        // Whichever way it goes, nobody has to look at the checksum again.
        frame.checksum = RxChecksum::Valid;
        let Some(index) = self.tcp.expecting_v4(found.flow, &found.segment) else { return Some(frame) };
        let stats = &mut self.egress.stats.v4.ip;
        stats.in_receives += 1;
        stats.in_delivers += 1;
        stats.in_ect0_pkts += u64::from(found.ect0);
        self.take_plain(index, &found.segment, frame.buf, headers);
        None
    }

    /// Takes a frame that carries no plain segment over IPv4, if it is one of the other kinds that have a short way.
    #[inline(never)]
    fn on_expected_other(&mut self, frame: RxFrame) -> Option<RxFrame> {
        let frame = self.on_known_v4(frame)?;
        let frame = self.on_expected_v6(frame)?;
        self.on_known_v6(frame)
    }

    #[inline(always)]
    fn on_expected_v6(&mut self, mut frame: RxFrame) -> Option<RxFrame> {
        let Some(found) = PlainV6::parse(&frame.buf, self.egress.mac) else { return Some(frame) };
        let headers = V6_BYTES + PLAIN_BYTES;
        let payload = frame.buf.get(headers..headers + found.segment.len as usize);
        if !is_intact(frame.checksum, found.sum, payload.unwrap_or_default()) {
            return Some(frame);
        }
        frame.checksum = RxChecksum::Valid;
        let PlainV6 { remote, local, ports, segment, ect0, .. } = found;
        let Some(index) = self.tcp.expecting_v6(remote, local, ports, &segment) else { return Some(frame) };
        let stats = &mut self.egress.stats.v6.ip;
        stats.in_receives += 1;
        stats.in_delivers += 1;
        stats.in_ect0_pkts += u64::from(ect0);
        self.take_plain(index, &segment, frame.buf, headers);
        None
    }

    #[inline(always)]
    fn take_plain(&mut self, index: u32, segment: &Incoming, mut buf: Buf, headers: usize) {
        self.egress.stats.link.in_frames += 1;
        buf.advance(headers);
        // An Ethernet frame may be padded.
        buf.truncate(segment.len as usize);
        self.tcp.take_plain(self.egress.now, &mut self.egress, index, segment, buf);
    }
}
