//! Cutting packets that are larger than the path's MTU (RFC 791 §2.3, RFC 8200 §4.5): what UDP and ICMP send in one piece and
//! the link carries in several.
//!
//! Owns the identifications, which nobody outside can guess (RFC 7739). The payload is not copied: each fragment is a header
//! slot and a view, unless the device takes no parts. TCP never comes here: it cuts its stream to fit.

use core::hash::BuildHasher;
use std::net::IpAddr;

use demi_drivers::{Buf, Offload};
use smallvec::SmallVec;

use crate::addr::key_of;
use crate::egress::{Egress, Upper, Way};
use crate::hash::{Keyed, Random};
use crate::path::{PacketFields, Path};
use crate::tcp::output::Refused;
use crate::wire::checksum::{self, Sum};
use crate::wire::{ethernet, ipv4, ipv6, protocol, udp};

/// Bytes of IPv6's Fragment header.
const FRAGMENT_HEADER: usize = 8;
/// Counters of identifications: pairs of addresses share one by their hash, as in Linux.
const COUNTERS: usize = 256;

/// Identifications of packets that are cut.
///
/// They count up for each pair of addresses, so that none comes again while the one before may be under way (RFC 6864 §4.3),
/// from a start that the stack's secret decides.
#[derive(Debug)]
pub(crate) struct Idents {
    counters: Box<[u32]>,
    keyed: Keyed,
}

impl Idents {
    pub(crate) fn new(random: &mut Random) -> Idents {
        let counters = (0..COUNTERS).map(|_| random.next_u64() as u32).collect();
        Idents { counters, keyed: Keyed::new(random) }
    }

    fn next(&mut self, local: IpAddr, remote: IpAddr) -> u32 {
        let hash = self.keyed.hash_one(key_of(local) ^ key_of(remote).rotate_left(64));
        let Some(counter) = self.counters.get_mut(hash as usize % COUNTERS) else { return 0 };
        *counter = counter.wrapping_add(1);
        // Pairs that share a counter do not see each other's numbers.
        counter.wrapping_add((hash >> 32) as u32)
    }
}

impl Egress {
    /// Sends `payload` as [`emit`](Self::emit) does, in fragments of at most `mtu` bytes if need be, IP header included. The checksum is
    /// computed here: no device does it across fragments.
    ///
    /// # Errors
    /// [`Refused`]; nothing was sent then.
    #[cold]
    #[inline(never)]
    pub(crate) fn emit_cut(
        &mut self,
        local: IpAddr,
        remote: IpAddr,
        path: &mut Path,
        upper: &Upper,
        payload: &mut Buf,
        mtu: u16,
        fill: impl FnOnce(&mut [u8]) -> Sum,
    ) -> Result<(), Refused> {
        if self.routes.is_local(remote) {
            // What comes back to us crosses no link.
            return self.emit(local, remote, path, upper, core::slice::from_mut(payload), fill);
        }
        let v6 = remote.is_ipv6();
        let whole = upper.header_len + payload.len() + if v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
        if whole <= usize::from(mtu) {
            return self.emit(local, remote, path, upper, core::slice::from_mut(payload), fill);
        }
        let extension = if v6 { FRAGMENT_HEADER } else { 0 };
        let ip_header = extension + if v6 { ipv6::HEADER_LEN } else { ipv4::HEADER_LEN };
        let total = upper.header_len + payload.len();
        let chunk = usize::from(mtu).saturating_sub(ip_header) & !7;
        if chunk == 0 || total > usize::from(u16::MAX) - if v6 { 0 } else { ipv4::HEADER_LEN } {
            return Err(Refused::Unreachable);
        }
        if self.tx.room() < total.div_ceil(chunk) && !self.tx.is_empty() {
            return Err(Refused::Full);
        }
        let way = self.way(local, remote, path)?;
        let mut header = [0; udp::HEADER_LEN];
        let Some(header) = header.get_mut(..upper.header_len) else { return Err(Refused::Unreachable) };
        let fields = PacketFields {
            protocol: upper.protocol,
            tos: upper.tos,
            ttl: upper.ttl,
            payload_len: total as u16,
        };
        let sum = path.pseudo_header(&fields).then(fill(header)).then(checksum::sum(payload)).finish();
        if let Some(field) = header.get_mut(upper.checksum_at..).and_then(<[u8]>::first_chunk_mut::<2>) {
            // RFC 768: 0 means that there is no checksum.
            *field = if sum == 0 { [0xff; 2] } else { sum.to_be_bytes() };
        }
        let ident = self.idents.next(local, remote);
        let copy = self.capabilities.max_parts < 2;
        let mut fragments: SmallVec<[(Buf, Buf); 4]> = SmallVec::new();
        let mut at = 0;
        while at < total {
            let end = total.min(at + chunk);
            // What of the upper header lies in this fragment, and what of the payload behind it.
            let head = header.get(at.min(header.len())..end.min(header.len())).unwrap_or_default();
            let from = at.saturating_sub(header.len());
            let body = payload.slice(from, end - at - head.len());
            let part = Cut { ident, offset: at as u16, more: end < total, upper_len: (end - at) as u16 };
            let slot = self.pool.alloc(head.len() + if copy { body.len() } else { 0 });
            let front = slot.and_then(|mut slot| {
                slot.put_slice(head);
                if copy {
                    slot.put_slice(&body);
                }
                part.write(path, &fields, slot.prepend(path.header_len() + extension)?);
                Some(slot.freeze())
            });
            let Some(front) = front else {
                self.stats.version(v6).ip.frag_fails += 1;
                return Err(Refused::Full);
            };
            fragments.push((front, body));
            at = end;
        }
        let stats = &mut self.stats.version(v6).ip;
        stats.out_requests += 1;
        stats.frag_oks += 1;
        stats.frag_creates += fragments.len() as u64;
        for (front, body) in fragments {
            let rest = if copy || body.is_empty() { &[][..] } else { core::slice::from_ref(&body) };
            self.dispatch_parts(way, front, rest, Offload::default());
        }
        Ok(())
    }

    fn way(&mut self, local: IpAddr, remote: IpAddr, path: &mut Path) -> Result<Way, Refused> {
        if self.neighbors.is_current(path.neighbor, path.generation) {
            Ok(Way::Wire)
        } else {
            self.find_way(local, remote, path)
        }
    }
}

/// Where a fragment belongs.
struct Cut {
    ident: u32,
    offset: u16,
    more: bool,
    /// Bytes behind the fragment's headers.
    upper_len: u16,
}

impl Cut {
    /// Writes Ethernet and IP headers, and IPv6's Fragment header.
    fn write(&self, path: &Path, whole: &PacketFields, front: &mut [u8]) {
        let Cut { ident, offset, more, upper_len } = *self;
        let flags = u16::from(more);
        if path.is_v6() {
            let payload_len = upper_len + FRAGMENT_HEADER as u16;
            let behind =
                path.write(front, &PacketFields { protocol: protocol::FRAGMENT, payload_len, ..*whole });
            if let Some(header) = behind.first_chunk_mut::<FRAGMENT_HEADER>() {
                let [a, b] = (offset | flags).to_be_bytes();
                let [c, d, e, f] = ident.to_be_bytes();
                *header = [whole.protocol, 0, a, b, c, d, e, f];
            }
            return;
        }
        path.write(front, &PacketFields { payload_len: upper_len, ..*whole });
        let ip =
            front.get_mut(ethernet::HEADER_LEN..).and_then(<[u8]>::first_chunk_mut::<{ ipv4::HEADER_LEN }>);
        if let Some(ip) = ip {
            // RFC 791 §3.1: the bit that forbids cutting is cleared, the identification needed.
            ip[4..6].copy_from_slice(&(ident as u16).to_be_bytes());
            ip[6..8].copy_from_slice(&(flags << 13 | offset >> 3).to_be_bytes());
            ip[10..12].fill(0);
            let sum = checksum::sum_array(ip).finish();
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifications_of_one_pair_do_not_come_again_soon_and_say_nothing_of_others() {
        let mut idents = Idents::new(&mut Random::new([5; 16]));
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = idents.next(here, there);
        for step in 1..1000 {
            assert_eq!(idents.next(here, there), first.wrapping_add(step));
        }
        let elsewhere: Vec<u32> = (0..=255).map(|last| idents.next(here, [10, 0, 1, last].into())).collect();
        let near = elsewhere.iter().filter(|ident| ident.wrapping_sub(first) < 100_000).count();
        assert_eq!(near, 0, "of 256 destinations, none has a number near another's");
    }
}
