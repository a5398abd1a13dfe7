//! Fragments from the wire: into the table of [`reassembly`](crate::reassembly), and out of it as the packets they make.
//!
//! A whole packet goes the way it would have gone had it come in one piece. Who sent the first fragment of one that stays
//! incomplete is told so, as an error that is limited like any other.

use std::net::IpAddr;

use demi_drivers::Buf;
use demi_drivers::device::RxChecksum;

use super::Link;
use crate::icmp::{self, Complaint};
use crate::reassembly::{Expired, Fragment, Key, Outcome};
use crate::stack::Stack;
use crate::wire::checksum;
use crate::wire::{icmpv6, ipv4, ipv6, ipv6_ext, protocol, tcp, udp};

/// Packets whose time is over that are given up in one turn.
const EXPIRED_A_TURN: usize = 64;

impl Stack {
    /// Takes a fragment of an IPv4 packet to us, its header checked.
    #[cold]
    #[inline(never)]
    pub(super) fn on_fragment_v4(&mut self, link: Link, group: bool, mut buf: Buf) {
        let stats = &mut self.egress.stats.v4.ip;
        stats.reasm_reqds += 1;
        let Ok(packet) = ipv4::Packet::new_checked(&buf) else { return };
        let (header_len, more) = (packet.header_len(), packet.more_fragments());
        // RFC 791 §3.2: fragments are cut at multiples of 8 bytes.
        if more && packet.payload().len() % 8 != 0 {
            stats.reasm_fails += 1;
            return;
        }
        let fragment = Fragment {
            key: Key {
                src: packet.src().into(),
                dst: packet.dst().into(),
                ident: packet.ident().into(),
                protocol: packet.protocol(),
            },
            offset: packet.fragment_offset().into(),
            more,
            ecn: packet.tos() & 3,
            group,
            header_len,
            names: (9, packet.protocol()),
            payload_at: header_len,
            packet: {
                let total_len = packet.total_len();
                buf.truncate(total_len);
                buf
            },
        };
        if let Some((packet, ecn)) = self.join(fragment, false)
            && let Ok(mut whole) = packet.try_into_mut()
        {
            mend_v4(&mut whole, ecn);
            let stats = &mut self.egress.stats.v4.ip;
            // Its fragments were counted, by their ECN bits, too.
            stats.in_receives -= 1;
            stats.discount_ecn(ecn);
            if let Some(whole) = self.device.hand_over(whole.freeze()) {
                self.on_ipv4(Link { checksum: RxChecksum::Unknown, ..link }, whole);
            }
        }
    }

    /// As [`on_fragment_v4`](Self::on_fragment_v4).
    #[cold]
    #[inline(never)]
    pub(super) fn on_fragment_v6(&mut self, link: Link, group: bool, upper: &ipv6_ext::UpperLayer, buf: Buf) {
        let stats = &mut self.egress.stats.v6.ip;
        stats.reasm_reqds += 1;
        let Ok(packet) = ipv6::Packet::new_checked(&buf) else { return };
        let Some(header) = upper.fragment else { return };
        let (src, dst) = (packet.src(), packet.dst());
        let (header_len, payload_at) = (ipv6::HEADER_LEN + header.at, ipv6::HEADER_LEN + header.at + 8);
        let len = buf.len().saturating_sub(payload_at);
        let problem = if header.more && !len.is_multiple_of(8) {
            // RFC 8200 §4.5: point at the payload length.
            Some((0, 4))
        } else if header.at + usize::from(header.offset) + len > usize::from(u16::MAX) {
            // RFC 8200 §4.5: point at the fragment's offset.
            Some((0, header_len as u32 + 2))
        } else if header.offset == 0 && !has_upper_header(upper, packet.payload()) {
            // RFC 7112 §5
            Some((3, 0))
        } else {
            None
        };
        if let Some((code, pointer)) = problem {
            stats.reasm_fails += 1;
            let stop = ipv6_ext::Stop::Problem { code, pointer, even_multicast: false };
            return self.on_ipv6_stop(src, dst, group, &buf, stop);
        }
        let fragment = Fragment {
            key: Key { src: src.into(), dst: dst.into(), ident: header.ident, protocol: 0 },
            offset: header.offset.into(),
            more: header.more,
            ecn: packet.traffic_class() & 3,
            group,
            header_len,
            names: (header.named_at as usize, header.next_header),
            payload_at,
            packet: buf,
        };
        if let Some((packet, ecn)) = self.join(fragment, true)
            && let Ok(mut whole) = packet.try_into_mut()
        {
            mend_v6(&mut whole, ecn);
            let stats = &mut self.egress.stats.v6.ip;
            // Its fragments were counted, by their ECN bits, too.
            stats.in_receives -= 1;
            stats.discount_ecn(ecn);
            if let Some(whole) = self.device.hand_over(whole.freeze()) {
                self.on_ipv6(Link { checksum: RxChecksum::Unknown, ..link }, whole);
            }
        }
    }

    /// The packet that a fragment completes.
    fn join(&mut self, fragment: Fragment, v6: bool) -> Option<(Buf, u8)> {
        let outcome = self.reassembly.add(self.egress.now, fragment, &self.egress.pool);
        self.set_alarm();
        let stats = &mut self.egress.stats.version(v6).ip;
        match outcome {
            Outcome::Held => None,
            Outcome::Whole { packet, ecn } => {
                stats.reasm_oks += 1;
                Some((packet, ecn))
            }
            Outcome::Failed { overlap } => {
                stats.reasm_fails += 1;
                stats.reasm_overlaps += u64::from(overlap);
                None
            }
        }
    }

    /// Gives up the packets whose time is over.
    pub(crate) fn poll_reassembly(&mut self) -> usize {
        let now = self.egress.now;
        let mut events = 0;
        while events < EXPIRED_A_TURN
            && let Some(expired) = self.reassembly.expire(now)
        {
            events += 1;
            let stats = &mut self.egress.stats.version(expired.key.src.is_ipv6()).ip;
            stats.reasm_timeout += 1;
            stats.reasm_fails += 1;
            self.tell_expired(&expired);
        }
        events
    }

    /// RFC 792, RFC 4443 §3.3: only who sent the first fragment is told, and nobody of a packet to many.
    fn tell_expired(&mut self, expired: &Expired) {
        let Some(first) = expired.first.as_ref().filter(|_| !expired.group) else { return };
        let (egress, limiter) = (&mut self.egress, &mut self.icmp_limiter);
        let complaint = Complaint::ReassemblyTime;
        match (expired.key.dst, expired.key.src) {
            (IpAddr::V4(ours), IpAddr::V4(sender)) => {
                icmp::complain_v4(egress, limiter, ours, sender, first, complaint);
            }
            (IpAddr::V6(ours), IpAddr::V6(sender)) => {
                icmp::complain_v6(egress, limiter, ours, sender, first, complaint);
            }
            _ => {}
        }
    }
}

/// Whether the header of the upper layer is in a first fragment.
fn has_upper_header(upper: &ipv6_ext::UpperLayer, payload: &[u8]) -> bool {
    let needed = match upper.protocol {
        protocol::TCP => tcp::HEADER_BYTES,
        protocol::UDP => udp::HEADER_LEN,
        protocol::ICMPV6 => icmpv6::HEADER_LEN,
        _ => 0,
    };
    payload.len() >= upper.offset + needed
}

/// Makes a first fragment's header that of the whole packet.
fn mend_v4(packet: &mut [u8], ecn: u8) {
    let header_len = packet.first().map_or(0, |first| usize::from(first & 15) * 4);
    let total_len = (packet.len() as u16).to_be_bytes();
    let Some(header) = packet.get_mut(..header_len) else { return };
    if let [_, tos, a, b, _, _, flags, offset, _, _, sum_a, sum_b, ..] = header {
        *tos = *tos & !3 | ecn;
        [*a, *b] = total_len;
        (*flags, *offset) = (0, 0);
        (*sum_a, *sum_b) = (0, 0);
    }
    let sum = checksum::sum(header).finish().to_be_bytes();
    if let [_, _, _, _, _, _, _, _, _, _, a, b, ..] = header {
        [*a, *b] = sum;
    }
}

/// As [`mend_v4`]: the last header before the Fragment header, which is gone, names what came behind that.
fn mend_v6(packet: &mut [u8], ecn: u8) {
    let payload_len = (packet.len().saturating_sub(ipv6::HEADER_LEN) as u16).to_be_bytes();
    if let [_, class, _, _, a, b, ..] = packet {
        // The ECN bits are the lowest two of the traffic class, which lies across the first two bytes.
        *class = *class & !0x30 | ecn << 4;
        [*a, *b] = payload_len;
    }
}
