//! The egress as TCP's way out: [`Output`] over routes, neighbours and the transmit queue.

use std::net::IpAddr;

use demi_drivers::spread::Arrival;
use demi_drivers::{Buf, Pool};

use crate::egress::{Egress, Upper};
use crate::path::Path;
use crate::tcp::output::{Flow, Output, PlainOut, Refused, SegmentOut};
use crate::wire::{protocol, tcp};

impl Output for Egress {
    type Path = Path;

    #[inline]
    fn room(&self) -> usize {
        self.tx.room()
    }

    fn is_backlogged(&self) -> bool {
        self.backlogged && !self.tx.is_empty()
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

    fn arrives_here(&self, flow: &Flow) -> bool {
        self.capabilities.spread.as_ref().is_none_or(|spread| {
            spread.is_ours(&Arrival {
                src: flow.remote,
                dst: flow.local,
                src_port: flow.remote_port,
                dst_port: flow.local_port,
                udp: false,
            })
        })
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
        self.segment_in_front(path, segment, payload)
    }

    #[inline]
    fn send_plain_apart(&mut self, path: &mut Path, segment: &PlainOut, payload: Buf) -> Result<(), Buf> {
        self.segment_apart(path, segment, payload)
    }
}
