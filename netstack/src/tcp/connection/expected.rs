//! The expected segment, in and out: the next in-order data or a plain acknowledgement of an established connection, and a reply
//! that fits one segment.
//!
//! Header prediction in both directions. Each begins with a question that changes nothing; whatever it denies goes the general
//! way, which would do the same. What is here runs for nearly every segment, so nothing of the cold part is touched.

use demi_drivers::transport::TcpState;
use demi_drivers::{Buf, Instant};

use super::super::output::{Output, PlainOut};
use super::super::rto::{clock_ms, elapsed_ns};
use super::super::seq::{SeqNumber, timestamp_before};
use super::super::stats::TcpStats;
use super::{Connection, Env, Retransmit};
use crate::wire::tcp::{HEADER_BYTES, Header, Options, Plain, Timestamps, flags};

/// A received segment, as far as it has to be known when it is an expected one.
#[derive(Clone, Copy)]
pub(crate) struct Incoming {
    pub(crate) seq: SeqNumber,
    pub(crate) ack: SeqNumber,
    /// Not scaled.
    pub(crate) window: u16,
    /// Payload bytes.
    pub(crate) len: u32,
    /// `None`: it has no options at all.
    pub(crate) timestamps: Option<Timestamps>,
}

impl Incoming {
    /// A segment of `len` bytes of payload behind a plain header.
    #[inline(always)]
    pub(crate) fn new(header: &Plain, len: u32) -> Self {
        Incoming {
            seq: SeqNumber::new(header.seq),
            ack: SeqNumber::new(header.ack),
            window: header.window,
            len,
            timestamps: Some(header.timestamps),
        }
    }
}

impl<P> Connection<P> {
    /// Whether a segment with no flag but ACK and perhaps PSH is one that [`take_expected`](Self::take_expected) takes.
    #[inline(always)]
    pub(crate) fn expects(&self, segment: &Incoming) -> bool {
        self.state == TcpState::Established
            && self.slow == 0
            && self.ts_ok == segment.timestamps.is_some()
            && segment.seq == self.rcv_nxt
            && segment.ack - self.snd_una <= self.snd_max - self.snd_una
            && segment.len <= self.offered_window()
            && (segment.len > 0 || segment.ack != self.snd_una)
            && segment.timestamps.is_none_or(|ts| !timestamp_before(ts.value, self.ts_recent))
    }

    /// Takes a segment that [`expects`](Self::expects) has said yes to. `payload` is its payload.
    #[inline(always)]
    pub(crate) fn take_expected<O>(&mut self, env: &mut Env<'_, O>, segment: &Incoming, payload: Buf) {
        self.segments_in += 1;
        self.take_expected_header(env, segment);
        let len = segment.len;
        if len == 0 {
            env.common.stats.hp_acks += 1;
        } else {
            env.common.stats.hp_hits += 1;
            self.rcv_nxt += len;
            self.rx.push(payload);
            self.note_received(env, len);
        }
        self.last_recv_at = env.now;
        self.check_invariants();
    }

    /// Takes segments that arrived one after the other and differ in nothing but their payloads, as one: `whole`, whose first part
    /// [`expects`](Self::expects) has said yes to and which lies in the window. Each but the last has `mss` bytes.
    pub(crate) fn take_train<O>(
        &mut self,
        env: &mut Env<'_, O>,
        whole: &Incoming,
        mss: u32,
        first: Buf,
        rest: &mut Vec<Buf>,
    ) {
        let joined = rest.len() as u64;
        self.segments_in += 1 + joined;
        env.common.stats.hp_hits += 1 + joined;
        env.common.stats.recv_coalesce += joined;
        self.take_expected_header(env, whole);
        self.rcv_nxt += whole.len;
        self.rx.push(first);
        for payload in rest.drain(..) {
            self.rx.push(payload);
        }
        self.note_peer_mss(mss);
        self.note_arrival(env, whole.len);
        self.last_recv_at = env.now;
        self.check_invariants();
    }

    #[inline(always)]
    fn take_expected_header<O>(&mut self, env: &mut Env<'_, O>, segment: &Incoming) {
        let &Incoming { seq, ack, window, timestamps, .. } = segment;
        if let Some(timestamps) = timestamps {
            // RFC 7323 §4.3: only what lies at our last acknowledgement is echoed.
            if self.rcv_acked == self.rcv_nxt {
                self.ts_recent = timestamps.value;
            }
        }
        if ack != self.snd_una {
            self.acked(env, ack);
            if self.write_waker.is_some() && self.tx.len() == 0 {
                self.wake_writer();
            }
        }
        self.take_window(seq, ack, u32::from(window) << self.snd_scale);
        self.flush_due |= self.has_unsent();
    }

    /// Takes a segment whose header was read the general way, if it is an expected one. Gives it back, and has done nothing, when
    /// it is not.
    #[inline]
    pub(crate) fn on_expected<O>(
        &mut self,
        env: &mut Env<'_, O>,
        header: &Header,
        mut segment: Buf,
    ) -> Option<Buf> {
        if header.flags & !flags::PSH != flags::ACK {
            return Some(segment);
        }
        let header_bytes = usize::from(header.header_bytes);
        let timestamps = match segment.get(HEADER_BYTES..header_bytes) {
            Some([]) => None,
            options => match options.and_then(Options::timestamps_only) {
                None => return Some(segment),
                timestamps => timestamps,
            },
        };
        let incoming = Incoming {
            seq: SeqNumber::new(header.seq),
            ack: SeqNumber::new(header.ack),
            window: header.window,
            len: (segment.len() - header_bytes) as u32,
            timestamps,
        };
        if !self.expects(&incoming) {
            return Some(segment);
        }
        segment.advance(header_bytes);
        self.take_expected(env, &incoming, segment);
        None
    }

    /// Sends what an established connection with nothing to recover has to send, if that is one whole buffer that fits a segment
    /// and all windows. `false`: it is not that, or there was no way out; nothing has happened, and the general way decides.
    #[inline(always)]
    pub(crate) fn flush_expected<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        stats: &mut TcpStats,
    ) -> bool {
        let seq = self.snd_nxt;
        let usual = self.state == TcpState::Established
            && self.slow == 0
            && self.ts_ok
            && !(self.fin_queued || self.sack_due || self.cork)
            && seq == self.snd_max;
        if !usual {
            return false;
        }
        let (window, edge) = self.next_window();
        let flight = seq - self.snd_una;
        let Some(buf) = self.tx.last_whole(seq) else { return false };
        let len = buf.len() as u32;
        let mss = u32::from(self.snd_mss);
        let fits = len <= mss
            && len <= self.snd_wnd.saturating_sub(flight)
            && len <= self.window.cwnd.saturating_sub(flight);
        // Nagle waits for the earlier partial segment; after a pause the congestion window is out of date.
        let waits = !self.nodelay && flight > 0 && self.snd_small.after(self.snd_una);
        let stale = flight == 0 && elapsed_ns(now, self.last_send_at) > self.rtt.rto_ns();
        if !fits || waits || stale {
            return false;
        }
        let header = Plain {
            ports: self.v4.ports_out(),
            seq: seq.get(),
            ack: self.rcv_nxt.get(),
            push: true,
            window,
            timestamps: Timestamps {
                value: clock_ms(now).wrapping_add(self.ts_offset),
                echo: self.ts_recent,
            },
        };
        let segment = PlainOut { header, tos: self.tos, ttl: self.ttl };
        if !out.send_plain(&mut self.path, &segment, buf) {
            return false;
        }
        self.rcv_adv = edge;
        self.flush_due = false;
        self.segments_out += 1;
        stats.out_segs += 1;
        self.ack_went_out(true);
        let end = seq + len;
        if flight == 0 {
            self.timing = true;
            self.timed_seq = end;
            self.timed_at = now;
        } else {
            self.log_sent(now, end, len);
        }
        self.last_send_at = now;
        self.snd_nxt = end;
        self.snd_max = end;
        if len < mss {
            self.snd_small = end;
        }
        if self.retransmit != Retransmit::Rto {
            // RFC 6298 §5.1
            self.retransmit = Retransmit::Rto;
            self.retransmit_at = now.plus_nanos(self.rtt.rto_ns());
        }
        self.cwnd_limited =
            self.window.in_slow_start() && (flight + len).saturating_mul(2) > self.window.cwnd;
        self.check_invariants();
        true
    }
}
