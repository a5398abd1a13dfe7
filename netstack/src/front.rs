//! Packets with plain headers, over a path that is known to hold: the usual way out. Headers are written right in front of their
//! payload, or, where that is a part of something larger, into a slot of their own.
//!
//! One payload, one frame, nothing looked up. What does not fit that (no headroom, another view of the buffer, a path that has to be
//! found, loopback, more parts) is refused with nothing done, and goes the general way through [`Egress::emit`].

use demi_drivers::device::ChecksumOffload;
use demi_drivers::{Buf, Offload};

use crate::egress::{ChecksumBy, Egress};
use crate::neighbor::LOOPBACK;
use crate::path::{PacketFields, Path, V4_LEN, V6_LEN};
use crate::tcp::output::PlainOut;
use crate::wire::checksum::{self, Sum};
use crate::wire::{protocol, tcp, udp};

/// A transport header of fixed length.
trait Front {
    const BYTES: usize;
    const CHECKSUM_AT: usize;
    const PROTOCOL: u8;

    /// Writes the header with an empty checksum field to `out`, of [`BYTES`](Self::BYTES), and answers its sum; `None` when that is
    /// not its length.
    fn emit(&self, out: &mut [u8]) -> Option<Sum>;
}

impl Front for tcp::Plain {
    const BYTES: usize = tcp::PLAIN_BYTES;
    const CHECKSUM_AT: usize = tcp::CHECKSUM_OFFSET;
    const PROTOCOL: u8 = protocol::TCP;

    #[inline(always)]
    fn emit(&self, out: &mut [u8]) -> Option<Sum> {
        out.first_chunk_mut().map(|out| tcp::Plain::emit(self, out))
    }
}

impl Front for udp::Plain {
    const BYTES: usize = udp::HEADER_LEN;
    const CHECKSUM_AT: usize = udp::CHECKSUM_OFFSET;
    const PROTOCOL: u8 = protocol::UDP;

    #[inline(always)]
    fn emit(&self, out: &mut [u8]) -> Option<Sum> {
        out.first_chunk_mut().map(|out| udp::Plain::emit(self, out))
    }
}

impl Egress {
    /// Sends a segment with a plain header. `false`: nothing has happened.
    #[inline(always)]
    pub(crate) fn segment_in_front(
        &mut self,
        path: &mut Path,
        segment: &PlainOut,
        payload: &mut Buf,
    ) -> bool {
        if !self.leads_to_the_wire(path) {
            return false;
        }
        if path.is_v6() {
            self.segment_in_front_v6(path, segment, payload)
        } else {
            self.emit_in_front::<V4_LEN, _>(path, &segment.header, segment.tos, segment.ttl, payload)
        }
    }

    #[inline(never)]
    fn segment_in_front_v6(&mut self, path: &Path, segment: &PlainOut, payload: &mut Buf) -> bool {
        self.emit_in_front::<V6_LEN, _>(path, &segment.header, segment.tos, segment.ttl, payload)
    }

    /// Sends a segment with a plain header, in a slot of its own, in front of a payload that stays where it is.
    ///
    /// # Errors
    /// The payload; nothing has happened.
    #[inline(always)]
    pub(crate) fn segment_apart(
        &mut self,
        path: &mut Path,
        segment: &PlainOut,
        payload: Buf,
    ) -> Result<(), Buf> {
        if !self.leads_to_the_wire(path) || self.capabilities.max_parts < 2 {
            return Err(payload);
        }
        let (header, tos, ttl) = (&segment.header, segment.tos, segment.ttl);
        if path.is_v6() {
            self.emit_apart::<V6_LEN, _>(path, header, tos, ttl, payload)
        } else {
            self.emit_apart::<V4_LEN, _>(path, header, tos, ttl, payload)
        }
    }

    /// Sends a datagram with `ports`, ours in the upper half. `false`: nothing has happened.
    #[inline(always)]
    pub(crate) fn datagram_in_front(
        &mut self,
        path: &Path,
        ports: u32,
        (tos, ttl): (u8, u8),
        payload: &mut Buf,
    ) -> bool {
        if !self.leads_to_the_wire(path) {
            return false;
        }
        let Ok(len) = u16::try_from(udp::HEADER_LEN + payload.len()) else { return false };
        let header = udp::Plain { ports, len };
        if path.is_v6() {
            self.datagram_in_front_v6(path, &header, (tos, ttl), payload)
        } else {
            self.emit_in_front::<V4_LEN, _>(path, &header, tos, ttl, payload)
        }
    }

    #[inline(never)]
    fn datagram_in_front_v6(
        &mut self,
        path: &Path,
        header: &udp::Plain,
        (tos, ttl): (u8, u8),
        payload: &mut Buf,
    ) -> bool {
        self.emit_in_front::<V6_LEN, _>(path, header, tos, ttl, payload)
    }

    /// Whether there is room for a frame over `path`, and nothing of it to find out.
    #[inline(always)]
    fn leads_to_the_wire(&mut self, path: &Path) -> bool {
        self.tx.room() > 0
            && path.neighbor != LOOPBACK
            && self.neighbors.is_current(path.neighbor, path.generation)
    }

    /// `FRONT` are the bytes of the path's Ethernet and IP headers.
    #[inline(always)]
    fn emit_in_front<const FRONT: usize, H: Front>(
        &mut self,
        path: &Path,
        header: &H,
        tos: u8,
        ttl: u8,
        payload: &mut Buf,
    ) -> bool {
        let headers = FRONT + H::BYTES;
        let by = self.transport_checksum;
        let Some((front, rest)) = payload.front_mut(headers) else { return false };
        if !write::<FRONT, H>(path, header, (tos, ttl), by, front, rest) {
            return false;
        }
        let Some(frame) = payload.widened(headers) else { return false };
        self.stats.version(FRONT == V6_LEN).ip.out_requests += 1;
        self.tx.push(frame, offload::<FRONT, H>(by));
        true
    }

    /// As [`emit_in_front`](Self::emit_in_front), as a frame of two parts.
    #[inline(never)]
    fn emit_apart<const FRONT: usize, H: Front>(
        &mut self,
        path: &Path,
        header: &H,
        tos: u8,
        ttl: u8,
        payload: Buf,
    ) -> Result<(), Buf> {
        let by = self.transport_checksum;
        let Some(mut head) = self.pool.alloc(0) else { return Err(payload) };
        let Some(front) = head.prepend(FRONT + H::BYTES) else { return Err(payload) };
        if !write::<FRONT, H>(path, header, (tos, ttl), by, front, &payload) {
            return Err(payload);
        }
        self.stats.version(FRONT == V6_LEN).ip.out_requests += 1;
        self.tx.push_pair(head.freeze(), payload, offload::<FRONT, H>(by));
        Ok(())
    }
}

/// Writes all headers to `front`, which is as long as they are. `false`, with nothing of use written, when they tell of no such length.
#[inline(always)]
fn write<const FRONT: usize, H: Front>(
    path: &Path,
    header: &H,
    (tos, ttl): (u8, u8),
    by: ChecksumBy,
    front: &mut [u8],
    payload: &[u8],
) -> bool {
    let packet_len = H::BYTES + payload.len();
    let (Ok(payload_len), Some((ip, upper))) =
        (u16::try_from(packet_len), front.split_first_chunk_mut::<FRONT>())
    else {
        return false;
    };
    let Some(sum) = header.emit(upper) else { return false };
    let fields = PacketFields { protocol: H::PROTOCOL, tos, ttl, payload_len };
    if FRONT == V6_LEN {
        path.write_v6(ip, &fields);
    } else {
        path.write_v4(ip, &fields);
    }
    let pseudo = path.pseudo_header(&fields);
    if by != ChecksumBy::Nobody
        && let Some(field) = upper.get_mut(H::CHECKSUM_AT..H::CHECKSUM_AT + 2)
    {
        let checksum = match by {
            ChecksumBy::Us => {
                let checksum = pseudo.then(sum).then(checksum::sum(payload)).finish();
                // RFC 768: a UDP checksum of 0 means "none"; its other representation means 0.
                if H::PROTOCOL == protocol::UDP && checksum == 0 { 0xffff } else { checksum }
            }
            _ => pseudo.folded(),
        };
        field.copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

/// What the device has to do about such a packet.
#[inline(always)]
fn offload<const FRONT: usize, H: Front>(by: ChecksumBy) -> Offload {
    Offload {
        checksum: (by == ChecksumBy::Device)
            .then_some(ChecksumOffload { start: FRONT as u16, offset: H::CHECKSUM_AT as u16 }),
        gso_bytes: 0,
        header_bytes: (FRONT + H::BYTES) as u16,
        ipv6: FRONT == V6_LEN,
    }
}
