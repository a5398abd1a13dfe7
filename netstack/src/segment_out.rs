//! The egress as TCP's way out: [`Output`] over routes, neighbours and the transmit queue.

use std::net::IpAddr;

use demi_drivers::device::ChecksumOffload;
use demi_drivers::{Buf, Offload, Pool};

use crate::egress::{ChecksumBy, Egress, Upper};
use crate::neighbor::LOOPBACK;
use crate::path::{PacketFields, Path, V4_LEN, V6_LEN};
use crate::tcp::output::{Flow, Output, PlainOut, Refused, SegmentOut};
use crate::wire::{checksum, protocol, tcp};

impl Output for Egress {
    type Path = Path;

    #[inline]
    fn room(&self) -> usize {
        self.tx.room()
    }

    #[inline]
    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.routes.source_for(remote)
    }

    fn is_local(&self, addr: IpAddr) -> bool {
        self.routes.is_local(addr)
    }

    fn mtu(&self, remote: IpAddr) -> u16 {
        self.mtu_towards(remote)
    }

    fn tso_max_bytes(&self) -> u32 {
        self.capabilities.tso_max_bytes
    }

    #[inline]
    fn send(
        &mut self,
        flow: &Flow,
        path: &mut Path,
        segment: &SegmentOut<'_>,
        payload: &mut [Buf],
    ) -> Result<(), Refused> {
        let header_len = tcp::HEADER_BYTES + segment.options.len();
        let upper = Upper {
            protocol: protocol::TCP,
            tos: segment.tos,
            ttl: segment.ttl,
            header_len,
            checksum_at: tcp::CHECKSUM_OFFSET,
            offloadable: true,
            gso_bytes: segment.gso_bytes,
        };
        let header = tcp::Header {
            src_port: flow.local_port,
            dst_port: flow.remote_port,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags,
            window: segment.window,
            urgent: segment.urgent,
            header_bytes: header_len as u8,
        };
        self.emit(flow.local, flow.remote, path, &upper, payload, |out| {
            // Options are padded and at most 40 bytes, says `SegmentOut`; were they not, the header would stay empty and the
            // peer would drop it.
            let sum = header.emit_summed(segment.options, out);
            debug_assert!(sum.is_some(), "options of {} bytes", segment.options.len());
            sum.unwrap_or_default()
        })
    }

    #[inline(always)]
    fn send_plain(&mut self, path: &mut Path, segment: &PlainOut, payload: &mut Buf) -> bool {
        let known = self.tx.room() > 0
            && path.neighbor != LOOPBACK
            && self.neighbors.is_current(path.neighbor, path.generation);
        if !known {
            return false;
        }
        if path.is_v6() {
            self.send_plain_v6(path, segment, payload)
        } else {
            self.emit_plain::<V4_LEN>(path, segment, payload)
        }
    }
}

impl Egress {
    #[inline(never)]
    fn send_plain_v6(&mut self, path: &Path, segment: &PlainOut, payload: &mut Buf) -> bool {
        self.emit_plain::<V6_LEN>(path, segment, payload)
    }

    /// Sends a segment over a path that is known to hold, whose Ethernet and IP headers are of `FRONT` bytes. `false`, with nothing
    /// done: its headers cannot go right in front of the payload.
    #[inline(always)]
    fn emit_plain<const FRONT: usize>(&mut self, path: &Path, segment: &PlainOut, payload: &mut Buf) -> bool {
        let headers = FRONT + tcp::PLAIN_BYTES;
        let packet_len = tcp::PLAIN_BYTES + payload.len();
        let Some((front, rest)) = payload.front_mut(headers) else { return false };
        let (Ok(payload_len), Some((ip, tcp_header))) =
            (u16::try_from(packet_len), front.split_first_chunk_mut::<FRONT>())
        else {
            return false;
        };
        let Some(header) = tcp_header.first_chunk_mut::<{ tcp::PLAIN_BYTES }>() else { return false };
        let &PlainOut { tos, ttl, .. } = segment;
        let fields = PacketFields { protocol: protocol::TCP, tos, ttl, payload_len };
        if FRONT == V6_LEN {
            path.write_v6(ip, &fields);
        } else {
            path.write_v4(ip, &fields);
        }
        let sum = segment.header.emit(header);
        let pseudo = path.pseudo_header(&fields);
        let by = self.transport_checksum;
        if by != ChecksumBy::Nobody {
            let checksum = match by {
                ChecksumBy::Us => pseudo.then(sum).then(checksum::sum(rest)).finish(),
                _ => pseudo.folded(),
            };
            header[tcp::CHECKSUM_OFFSET..tcp::CHECKSUM_OFFSET + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        let Some(frame) = payload.widened(headers) else { return false };
        let offload = Offload {
            checksum: (by == ChecksumBy::Device)
                .then_some(ChecksumOffload { start: FRONT as u16, offset: tcp::CHECKSUM_OFFSET as u16 }),
            gso_bytes: 0,
            header_bytes: headers as u16,
            ipv6: FRONT == V6_LEN,
        };
        self.stats.version(FRONT == V6_LEN).ip.out_requests += 1;
        self.tx.push(frame, offload);
        true
    }
}
