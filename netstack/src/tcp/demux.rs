//! From a segment to whom it concerns: a connection, a TIME-WAIT record, a listener, or nobody.

use std::net::IpAddr;

use demi_drivers::{Buf, Instant};

use super::connection::{Connection, Incoming};
use super::flow_table::{FlowTable, FlowV4, Owner};
use super::handshake::Arrived;
use super::output::{Flow, Output, SegmentOut};
use super::rto::clock_ms;
use super::seq::SeqNumber;
use super::time_wait::Disposition;
use super::{IpMeta, Tcp, env};
use crate::wire::tcp::{HEADER_BYTES, Header, OptionBytes, Options, Timestamps, flags};

/// Connections that fit the second-level cache of a core, beside everything else.
const CROWD: usize = 512;
/// Cache lines of a connection that an expected segment and its answer touch: all but the last, which is IPv6's.
const SEGMENT_LINES: usize = 7;

impl<P: Default> Tcp<P> {
    /// Takes one segment, from its TCP header to its end; the checksum has been verified.
    #[inline]
    pub fn on_segment<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        meta: &IpMeta,
        segment: Buf,
    ) {
        self.common.stats.in_segs += 1;
        let Ok(header) = Header::parse(&segment) else {
            self.common.stats.in_errs += 1;
            return;
        };
        let flow = Flow {
            local: meta.dst,
            remote: meta.src,
            local_port: header.dst_port,
            remote_port: header.src_port,
        };
        let hash = self.flows.hash(&flow);
        match self.find(hash, &flow) {
            Some(Owner::Connection(index)) => {
                self.for_connection(now, out, index, (&header, meta.tos), segment)
            }
            Some(Owner::TimeWait(index)) => {
                self.for_time_wait(now, out, index, &flow, hash, (&header, meta.tos), segment)
            }
            Some(Owner::HalfOpen(index)) => {
                let arrived = Arrived { flow: &flow, hash, header: &header, tos: meta.tos, segment };
                self.for_half_open(now, out, index, arrived);
            }
            None => {
                let arrived = Arrived { flow: &flow, hash, header: &header, tos: meta.tos, segment };
                self.for_listener(now, out, arrived, None);
            }
        }
    }

    /// The connection that expects just this segment, which came over the wire: [`take_plain`](Self::take_plain) takes it then.
    #[inline(always)]
    pub(crate) fn expecting_v4(&self, flow: FlowV4, segment: &Incoming) -> Option<u32> {
        self.expecting(self.flows.hash_v4(flow), segment, |connection| connection.v4 == flow)
    }

    /// As [`expecting_v4`](Self::expecting_v4).
    #[inline(always)]
    pub(crate) fn expecting_v6(
        &self,
        remote: u128,
        local: u128,
        ports: u32,
        segment: &Incoming,
    ) -> Option<u32> {
        let flow = Flow {
            local: IpAddr::V6(local.into()),
            remote: IpAddr::V6(remote.into()),
            local_port: ports as u16,
            remote_port: (ports >> 16) as u16,
        };
        let hash = self.flows.hash_v6(remote, local, ports);
        self.expecting(hash, segment, |connection| connection.flow == flow)
    }

    /// Whether there are so many connections that those of a burst lie in no cache.
    #[inline]
    pub(crate) fn is_crowded(&self) -> bool {
        self.flows.len() > CROWD
    }

    /// The flow table, for whoever has frames to look up before their turn comes.
    #[inline]
    pub(crate) fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// Has the processor fetch what a segment of the connection of that hash touches, if there is one.
    #[inline]
    pub(crate) fn prefetch_connection(&self, hash: u32) {
        // Whose else it could be by its hash is found out when the segment's turn comes.
        if let Some(Owner::Connection(index)) = self.flows.find(hash, |_| true) {
            self.connections.prefetch::<SEGMENT_LINES>(index);
        }
    }

    #[inline(always)]
    fn expecting(&self, hash: u32, segment: &Incoming, is: impl Fn(&Connection<P>) -> bool) -> Option<u32> {
        let owner = self.flows.find(hash, |owner| match owner {
            Owner::Connection(index) => self.connections.at(index).is_some_and(&is),
            Owner::TimeWait(_) | Owner::HalfOpen(_) => false,
        });
        let Some(Owner::Connection(index)) = owner else { return None };
        let connection = self.connections.at(index)?;
        (connection.wired && connection.expects(segment)).then_some(index)
    }

    /// Takes the segment that a connection [expects](Self::expecting_v4), of which `payload` is the payload.
    #[inline(always)]
    pub(crate) fn take_plain<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
        segment: &Incoming,
        payload: Buf,
    ) {
        self.common.stats.in_segs += 1;
        if let Some(connection) = self.connections.at_mut(index) {
            connection.take_expected(&mut env!(self, now, out), segment, payload);
            // The flush at the end of the turn sends what this has caused, or arms the timer of the acknowledgement that nothing
            // has carried by then.
            if (connection.flush_due || segment.len > 0) && !connection.flush_queued {
                connection.flush_queued = true;
                self.dirty.push(index);
            }
        }
    }

    /// Bytes that the connection at a position still takes.
    #[inline]
    pub(crate) fn offered_window(&self, index: u32) -> u32 {
        self.connections.at(index).map_or(0, Connection::offered_window)
    }

    /// Takes a train of segments, each of `mss` bytes of payload but for the last, as one segment: `whole`, which its connection
    /// [expects](Self::expecting_v4) at least the first of. `rest` are the payloads behind the `first`; it is left empty.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub(crate) fn take_train<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
        whole: &Incoming,
        mss: u32,
        first: Buf,
        rest: &mut Vec<Buf>,
    ) {
        if rest.is_empty() {
            return self.take_plain(now, out, index, whole, first);
        }
        self.common.stats.in_segs += 1 + rest.len() as u64;
        if let Some(connection) = self.connections.at_mut(index) {
            connection.take_train(&mut env!(self, now, out), whole, mss, first, rest);
            if !connection.flush_queued {
                connection.flush_queued = true;
                self.dirty.push(index);
            }
        }
        rest.clear();
    }

    /// Whom a four-tuple belongs to.
    #[inline]
    pub(super) fn find(&self, hash: u32, flow: &Flow) -> Option<Owner> {
        self.flows.find(hash, |owner| match owner {
            Owner::Connection(index) => self.connections.at(index).is_some_and(|other| other.flow == *flow),
            Owner::TimeWait(index) => self.time_wait.get(index).is_some_and(|other| other.flow == *flow),
            Owner::HalfOpen(index) => self.half_open.slots.at(index).is_some_and(|other| other.flow == *flow),
        })
    }

    #[inline]
    fn for_connection<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
        (header, tos): (&Header, u8),
        segment: Buf,
    ) {
        let Some(connection) = self.connections.at_mut(index) else { return };
        // An environment each: the first then never has to lie in memory. What the network has marked is never expected.
        let other = match tos & 3 {
            3 => Some(segment),
            _ if self.common.scarce.is_some() => Some(segment),
            _ => connection.on_expected(&mut env!(self, now, out), header, segment),
        };
        if let Some(segment) = other {
            connection.on_other(&mut env!(self, now, out), (header, tos), segment);
        }
        self.settle(now, index);
    }

    #[inline(never)]
    fn for_time_wait<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
        flow: &Flow,
        hash: u32,
        (header, tos): (&Header, u8),
        segment: Buf,
    ) {
        let Some(record) = self.time_wait.get(index) else { return };
        let header_bytes = usize::from(header.header_bytes);
        let options = Options::parse(segment.get(HEADER_BYTES..header_bytes).unwrap_or_default());
        let len = (segment.len() - header_bytes) as u32;
        match record.on_segment(header, len, options.timestamps) {
            Disposition::Ignore => {}
            Disposition::Acknowledge => {
                // Data and FINs are no part of two ends' answers to each other (as Linux).
                let has = |flag: u16| header.flags & flag != 0;
                let sent = (len > 0 || has(flags::FIN)) && !has(flags::SYN);
                if sent || self.time_wait.may_answer(index, now, self.common.config.challenge_ack_interval) {
                    self.acknowledge_from_time_wait(now, out, index);
                }
            }
            Disposition::Renew => {
                self.time_wait.renew(index, now);
                self.note_records();
                self.acknowledge_from_time_wait(now, out, index);
            }
            Disposition::Remove => self.remove_time_wait(index),
            Disposition::Reuse(beyond) => {
                if self.listeners.find(flow.local, flow.local_port, hash).is_none() {
                    return self.acknowledge_from_time_wait(now, out, index);
                }
                self.common.stats.time_wait_recycled += 1;
                self.remove_time_wait(index);
                let arrived = Arrived { flow, hash, header, tos, segment };
                self.for_listener(now, out, arrived, Some(beyond));
            }
        }
    }

    fn acknowledge_from_time_wait<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, index: u32) {
        let Some(record) = self.time_wait.get(index) else { return };
        let timestamps = record
            .ts_recent
            .map(|echo| Timestamps { value: clock_ms(now).wrapping_add(record.ts_offset), echo });
        let options = OptionBytes::for_segment(timestamps, &[]);
        let segment = SegmentOut {
            seq: record.snd_nxt.get(),
            ack: record.rcv_nxt.get(),
            flags: flags::ACK,
            window: record.window_field,
            urgent: 0,
            options: options.as_slice(),
            tos: record.tos,
            ttl: record.ttl,
            gso_bytes: 0,
        };
        if out.send(&record.flow, &mut P::default(), &segment, &mut []).is_ok() {
            self.common.stats.out_segs += 1;
        }
    }

    fn remove_time_wait(&mut self, index: u32) {
        if let Some(record) = self.time_wait.remove(index) {
            self.flows.remove(record.hash, Owner::TimeWait(index));
            self.note_records();
        }
    }

    /// A segment of no connection: RFC 9293 §3.10.7.1 and §3.10.7.2. `beyond`: our sequence numbers have to begin behind it.
    #[inline(never)]
    fn for_listener<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        arrived: Arrived<'_>,
        beyond: Option<SeqNumber>,
    ) {
        let (flow, header) = (arrived.flow, arrived.header);
        let to_itself = flow.local == flow.remote && flow.local_port == flow.remote_port;
        let nobody = flow.remote.is_unspecified() || flow.remote.is_multicast() || is_broadcast(flow);
        if header.flags & flags::RST != 0 || nobody || to_itself {
            return;
        }
        let listener = self.listeners.find(flow.local, flow.local_port, arrived.hash);
        if header.flags & flags::ACK != 0 {
            let stray = match listener {
                Some(handle) => self.on_cookie(now, out, handle, arrived),
                None => Some(arrived),
            };
            if let Some(stray) = stray {
                self.reset_stranger(now, out, flow, header, stray.segment.len());
            }
            return;
        }
        let Some(handle) = listener else {
            return self.reset_stranger(now, out, flow, header, arrived.segment.len());
        };
        // RFC 9293 §3.10.7.2, fourth step: dropped. A SYN that ends the connection it opens is nonsense, as to Linux.
        if header.flags & (flags::SYN | flags::FIN) == flags::SYN {
            self.on_syn(now, out, handle, &arrived, beyond);
        }
    }

    /// Tells the sender of a segment that belongs to nobody (RFC 9293 §3.5.2, group 1).
    pub(super) fn reset_stranger<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        flow: &Flow,
        header: &Header,
        segment_len: usize,
    ) {
        let secret = &mut self.common.secret;
        if !self.resets.allow(now, || secret.random()) {
            return;
        }
        let syn_fin = (header.flags & flags::SYN != 0) as u32 + (header.flags & flags::FIN != 0) as u32;
        let len = (segment_len - usize::from(header.header_bytes)) as u32 + syn_fin;
        let (seq, ack, bits) = if header.flags & flags::ACK != 0 {
            (header.ack, 0, flags::RST)
        } else {
            (0, header.seq.wrapping_add(len), flags::RST | flags::ACK)
        };
        let segment = SegmentOut {
            seq,
            ack,
            flags: bits,
            window: 0,
            urgent: 0,
            options: &[],
            tos: 0,
            ttl: 64,
            gso_bytes: 0,
        };
        if out.send(flow, &mut P::default(), &segment, &mut []).is_ok() {
            self.common.stats.out_segs += 1;
            self.common.stats.out_rsts += 1;
        }
    }
}

fn is_broadcast(flow: &Flow) -> bool {
    match flow.remote {
        IpAddr::V4(remote) => remote.is_broadcast(),
        IpAddr::V6(_) => false,
    }
}
