//! The egress as TCP's way out: [`Output`] over routes, neighbours and the transmit queue.

use std::net::IpAddr;

use demi_drivers::device::ChecksumOffload;
use demi_drivers::{Buf, Capabilities, Offload, Pool};

use crate::egress::{Egress, Upper};
use crate::neighbor::LOOPBACK;
use crate::path::{PacketFields, Path};
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

    fn mtu(&self, _remote: IpAddr) -> u16 {
        self.mtu
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
    fn send_plain(
        &mut self,
        path: &mut Path,
        segment: &PlainOut<'_>,
        payload: &mut Buf,
    ) -> Result<(), Refused> {
        match self.emit_plain(path, segment, payload) {
            true => Ok(()),
            false => self.send_plain_any(path, segment, payload),
        }
    }
}

impl Egress {
    /// As [`Output::send_plain`], the general way.
    #[inline(never)]
    fn send_plain_any(
        &mut self,
        path: &mut Path,
        segment: &PlainOut<'_>,
        payload: &mut Buf,
    ) -> Result<(), Refused> {
        self.send(segment.flow, path, &segment.to_general(&segment.options()), core::slice::from_mut(payload))
    }

    /// Sends a segment at a stroke. `false`, with nothing done: the way is not known, or not the wire's; there is no room; or the
    /// headers cannot go right in front of the payload.
    #[inline(always)]
    fn emit_plain(&mut self, path: &mut Path, segment: &PlainOut<'_>, payload: &mut Buf) -> bool {
        let packet_len = tcp::PLAIN_BYTES + payload.len();
        let usual = self.tx.room() > 0
            && path.neighbor != LOOPBACK
            && self.neighbors.is_current(path.neighbor, path.generation)
            && packet_len <= usize::from(u16::MAX);
        if !usual {
            return false;
        }
        let v6 = path.is_v6();
        let front_len = path.header_len();
        let fields = PacketFields {
            protocol: protocol::TCP,
            tos: segment.tos,
            ttl: segment.ttl,
            payload_len: packet_len as u16,
        };
        let Capabilities { lossless_memory, tx_checksum, .. } = self.capabilities;
        let headers_len = front_len + tcp::PLAIN_BYTES;
        let Some((front, rest)) = payload.front_mut(headers_len) else { return false };
        let Some(header) = path.write(front, &fields).first_chunk_mut() else { return false };
        let sum = segment.header.emit(header);
        if !lossless_memory {
            let pseudo = path.pseudo_header(&fields);
            let checksum = if tx_checksum {
                pseudo.folded()
            } else {
                pseudo.then(sum).then(checksum::sum(rest)).finish()
            };
            if let Some(field) = header[tcp::CHECKSUM_OFFSET..].first_chunk_mut() {
                *field = checksum.to_be_bytes();
            }
        }
        let Some(frame) = payload.widened(headers_len) else { return false };
        let offload = Offload {
            checksum: (tx_checksum && !lossless_memory).then_some(ChecksumOffload {
                start: front_len as u16,
                offset: tcp::CHECKSUM_OFFSET as u16,
            }),
            gso_bytes: 0,
            header_bytes: headers_len as u16,
            ipv6: v6,
        };
        self.stats.version(v6).ip.out_requests += 1;
        self.tx.push(frame, offload);
        true
    }
}
