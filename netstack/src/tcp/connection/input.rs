//! Segments in that were not the expected ones: by the rules of RFC 9293 §3.10.7.

use demi_drivers::Buf;
use demi_drivers::transport::TcpState;

use super::super::output::{Output, SegmentOut};
use super::super::rare::Rare;
use super::super::rto::elapsed_ns;
use super::super::seq::{SeqNumber, timestamp_before};
use super::{AckDue, Connection, Env, Failure, nanos};
use crate::wire::tcp::{EcnCounts, HEADER_BYTES, Header, Options, SackBlocks, Timestamps, flags};

/// Timestamps older than this are not compared any more: the peer's clock may have wrapped (RFC 7323 §5.5, 24 days).
const TIMESTAMP_LIFE_NS: u64 = 24 * 24 * 3600 * 1_000_000_000;

/// A segment off the short path, read completely.
pub(super) struct Segment {
    pub(super) seq: SeqNumber,
    pub(super) ack: SeqNumber,
    pub(super) flags: u16,
    /// Type of service of its packet.
    pub(super) tos: u8,
    /// Window, scaled.
    pub(super) window: u32,
    /// Payload bytes.
    pub(super) len: u32,
    pub(super) timestamps: Option<Timestamps>,
    pub(super) sack: SackBlocks,
    pub(super) ecn_counts: Option<EcnCounts>,
}

impl Segment {
    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Sequence numbers the segment occupies, SYN and FIN included (RFC 9293 §3.4, SEG.LEN).
    fn occupied(&self) -> u32 {
        self.len + u32::from(self.has(flags::SYN)) + u32::from(self.has(flags::FIN))
    }
}

impl<P> Connection<P> {
    /// Takes a segment of this connection, from its TCP header on, that [`on_expected`](Self::on_expected) gave back. `tos`: type
    /// of service of its packet.
    #[inline(never)]
    pub(crate) fn on_other<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        (header, tos): (&Header, u8),
        segment: Buf,
    ) {
        self.segments_in += 1;
        self.on_unexpected(env, header, tos, segment);
        if self.state == TcpState::TimeWait && self.ack_due == AckDue::Now {
            // What remains of the connection cannot acknowledge the FIN that ended it.
            self.flush_due = false;
            let _ = self.send_ack(env);
            self.flush_due = false;
            self.ack_due = AckDue::No;
        }
        self.check_invariants();
    }

    #[inline(never)]
    fn on_unexpected<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        header: &Header,
        tos: u8,
        mut buf: Buf,
    ) {
        let options =
            Options::parse(buf.get(HEADER_BYTES..usize::from(header.header_bytes)).unwrap_or_default());
        buf.advance(usize::from(header.header_bytes));
        // Windows in SYNs are not scaled (RFC 7323 §2.2).
        let scale = if header.flags & flags::SYN != 0 { 0 } else { self.snd_scale };
        let segment = Segment {
            seq: SeqNumber::new(header.seq),
            ack: SeqNumber::new(header.ack),
            flags: header.flags,
            tos,
            window: u32::from(header.window) << scale,
            len: buf.len() as u32,
            timestamps: options.timestamps,
            sack: options.sack,
            ecn_counts: options.ecn_counts,
        };
        match self.state {
            TcpState::Closed | TcpState::Listen | TcpState::TimeWait => {}
            TcpState::SynSent => self.in_syn_sent(env, &segment, &options, header.window, buf),
            _ => self.in_window_states(env, &segment, buf),
        }
    }

    /// RFC 9293 §3.10.7.3
    fn in_syn_sent<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        segment: &Segment,
        options: &Options,
        window: u16,
        buf: Buf,
    ) {
        let acks = segment.has(flags::ACK);
        if acks && (segment.ack.at_or_before(self.cold.iss) || segment.ack.after(self.snd_max)) {
            // First: an acknowledgement of something else. Its sender has an old connection in mind.
            if !segment.has(flags::RST) {
                self.reject(env, segment.ack);
            }
            return;
        }
        if segment.has(flags::RST) {
            // Second; RFC 5961 §3.2: without a good acknowledgement it could be anybody's.
            if acks {
                env.common.stats.attempt_fails += 1;
                self.fail(Failure::Refused);
            }
            return;
        }
        if !segment.has(flags::SYN) {
            return;
        }
        // Fourth.
        self.last_recv_at = env.now;
        self.take_syn(segment.seq, options, &env.common.config);
        self.finish_ecn(&env.common.config, (segment.flags, segment.tos), segment.ecn_counts.as_ref());
        self.rcv_adv = self.rcv_nxt + self.recv_cap.min(65_535);
        self.take_first_window(segment.seq, window);
        if acks {
            self.acked(env, segment.ack);
            self.establish(env);
            self.fast_open_answered(env, options);
            self.ack_now();
            if segment.len > 0 || segment.has(flags::FIN) {
                self.take_payload(env, segment.seq + 1, buf, segment.has(flags::FIN));
            }
        } else {
            // Simultaneous open (RFC 9293 §3.5, figure 7).
            self.set_state(TcpState::SynReceived);
            self.snd_nxt = self.cold.iss;
            self.cold.syn_due = true;
            self.flush_due = true;
        }
    }

    /// The handshake is done.
    fn establish<O>(&mut self, env: &Env<'_, O>) {
        self.set_state(TcpState::Established);
        self.search_from_the_start(env);
        self.snd_wl2 = self.snd_una;
        self.cold.recovery = Rare::quiet();
        self.cold.recovery_point = self.snd_una;
        self.cold.timeouts = 0;
        self.cold.stalled_since = None;
        if self.cold.syn_sent > 1 {
            // RFC 6298 §5.7; RFC 5681 §3.1: a lost SYN leaves one segment of initial window.
            self.rtt.syn_was_lost();
            let (window, mss) = (&mut self.window, u32::from(self.snd_mss));
            window.cwnd = self.cold.congestion.initial(1, mss).cwnd.max(mss);
        }
        self.flush_due = true;
        self.update_rare_timer();
        self.wake_all();
    }

    /// SYN-RECEIVED and all later states: RFC 9293 §3.10.7.4.
    fn in_window_states<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment, buf: Buf) {
        // A segment that neither acknowledges, begins nor ends anything says nothing, wherever it lies: not even where we stand is told
        // to its sender (as Linux does).
        if segment.flags & (flags::ACK | flags::RST | flags::SYN) == 0 {
            return;
        }
        if !self.in_window(env, segment) {
            return;
        }
        if segment.has(flags::RST) {
            return self.take_reset(env, segment);
        }
        let simultaneous = self.state == TcpState::SynReceived && segment.seq == self.cold.irs;
        if segment.has(flags::SYN) && !simultaneous {
            return self.challenge_syn(env, segment);
        }
        if !segment.has(flags::ACK) {
            return;
        }
        let counts = self.counts_marks();
        if counts {
            self.count_marks(segment);
        }
        let proceed = match self.state {
            TcpState::SynReceived => self.take_handshake_ack(env, segment),
            _ => {
                if counts {
                    self.take_handshake_ace(env, segment);
                }
                self.hatch();
                self.take_ack(env, segment)
            }
        };
        if !proceed {
            return;
        }
        if segment.len > 0
            && segment.seq == self.rcv_nxt
            && let Some(gap_ns) = self.gap_ns(env)
        {
            self.adapt_delay(env, gap_ns);
        }
        self.last_recv_at = env.now;
        // RFC 7323 §4.3
        if let Some(timestamps) = segment.timestamps.filter(|_| self.ts_ok)
            && segment.seq.at_or_before(self.rcv_acked)
            && !timestamp_before(timestamps.value, self.ts_recent)
        {
            self.ts_recent = timestamps.value;
        }
        let fin = segment.has(flags::FIN);
        if fin {
            self.fast_open_works(env);
        }
        // The urgent pointer is ignored: urgent data is delivered in line (RFC 6093 §6).
        if matches!(self.state, TcpState::Closed | TcpState::TimeWait) || (segment.len == 0 && !fin) {
            return;
        }
        self.take_marks(env, segment);
        let skip_syn = u32::from(segment.has(flags::SYN));
        self.take_payload(env, segment.seq + skip_syn, buf, fin);
    }

    /// First step: whether the segment is acceptable. If not, the peer is told where we stand.
    fn in_window<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) -> bool {
        let reset = segment.has(flags::RST);
        if self.ts_ok
            && let Some(timestamps) = segment.timestamps
            && timestamp_before(timestamps.value, self.ts_recent)
            && elapsed_ns(env.now, self.last_recv_at) < TIMESTAMP_LIFE_NS
            && !reset
        {
            // RFC 7323 §5.3, R1: an old duplicate.
            env.common.stats.paws_estab += 1;
            self.answer_unacceptable(env, segment);
            return false;
        }
        let end = segment.seq + segment.occupied();
        // RFC 9293 §3.10.7.4, table 6; the edge itself is let in for the sake of acknowledgements: no data fits there.
        let acceptable = segment.seq.at_or_before(self.rcv_adv)
            && if segment.occupied() == 0 {
                segment.seq.at_or_after(self.rcv_nxt)
            } else {
                end.after(self.rcv_nxt)
            };
        if acceptable || reset && self.is_reset_before_fin(segment) {
            return true;
        }
        if self.state == TcpState::SynReceived && segment.has(flags::SYN) && segment.seq == self.cold.irs {
            if segment.has(flags::ACK) && self.acks_syn_ack(segment.ack) {
                // Simultaneous open: the peer's SYN-ACK says what an acknowledgement would.
                return true;
            }
            // The SYN again: our SYN-ACK has been lost.
            if self.may_challenge_again(env) {
                self.cold.syn_due = true;
                self.flush_due = true;
            }
            return false;
        }
        if !reset {
            self.answer_unacceptable(env, segment);
        }
        false
    }

    fn answer_unacceptable<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) {
        if self.state == TcpState::SynReceived {
            // RFC 9293 §3.10.7.4: an acknowledgement before the handshake is done carries nothing; the SYN-ACK's timer does.
            return self.challenge(env);
        }
        if segment.has(flags::SYN) {
            return self.challenge_syn(env, segment);
        }
        if segment.occupied() > 0 && segment.seq.before(self.rcv_nxt) {
            self.ack_was_lost(env);
        }
        let end = segment.seq + segment.len;
        if segment.len > 0 && end.at_or_before(self.rcv_nxt) {
            if self.counts_marks() {
                self.count_repeated(env, segment);
            }
            // Sent again for nothing: the peer wants to know at once (RFC 2883, RFC 5681 §4.2).
            self.note_duplicate(env, segment.seq, end);
            let _ = self.send_ack(env);
            return;
        }
        if segment.occupied() > 0 || segment.seq == self.rcv_nxt - 1 {
            // Data beyond the window, or a probe: answered once a turn.
            self.ack_now();
        } else {
            // A bare acknowledgement from nowhere: two confused ends must not answer each other for ever.
            self.challenge(env);
        }
    }

    /// Second step: RFC 5961 §3.2. Only a RST at exactly the expected number is believed.
    fn take_reset<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) {
        if segment.seq != self.rcv_nxt && !self.is_reset_before_fin(segment) {
            return self.challenge(env);
        }
        match self.state {
            TcpState::SynReceived => {
                env.common.stats.attempt_fails += 1;
                self.fail(if self.is_embryo() { Failure::Reset } else { Failure::Refused });
            }
            // Both sides had closed: nothing was lost.
            TcpState::Closing | TcpState::LastAck => self.finish(),
            // The peer had said all it had to say: only our side breaks.
            TcpState::CloseWait => {
                env.common.stats.estab_resets += 1;
                self.fail(Failure::BrokenPipe);
            }
            _ => {
                env.common.stats.estab_resets += 1;
                self.fail(Failure::Reset);
            }
        }
    }

    /// Whether a RST bears the number of the FIN that was taken: some peers do not count it (as Linux knows of macOS).
    fn is_reset_before_fin(&self, segment: &Segment) -> bool {
        let after_fin = matches!(self.state, TcpState::CloseWait | TcpState::LastAck | TcpState::Closing);
        after_fin && segment.seq == self.rcv_nxt - 1
    }

    /// Fifth step in SYN-RECEIVED: the acknowledgement that completes the handshake.
    fn take_handshake_ack<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) -> bool {
        if !self.acks_syn_ack(segment.ack) {
            self.reject(env, segment.ack);
            return false;
        }
        if !segment.has(flags::SYN) {
            self.snd_wnd = segment.window;
            self.snd_wl1 = segment.seq;
        }
        self.max_snd_wnd = self.max_snd_wnd.max(self.snd_wnd);
        if self.counts_marks() {
            self.take_handshake_ace(env, segment);
        }
        self.acked(env, segment.ack);
        self.hatch();
        self.establish(env);
        self.syn_data_answered(env);
        true
    }

    /// Answers a segment that acknowledges what was never sent: a RST from where it believes us to be (RFC 9293 §3.5.2).
    pub(super) fn reject<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, ack: SeqNumber) {
        let segment = SegmentOut {
            seq: ack.get(),
            ack: 0,
            flags: flags::RST,
            window: 0,
            urgent: 0,
            options: &[],
            tos: self.control_tos(),
            ttl: self.ttl,
            gso_bytes: 0,
        };
        if env.out.send(&self.flow, &mut self.path, &segment, &mut []).is_ok() {
            self.segments_out += 1;
            env.common.stats.out_segs += 1;
            env.common.stats.out_rsts += 1;
        }
    }

    /// RFC 5961 §4: whoever has really lost the connection answers the challenge with a RST; and one whose SYN-ACK was not answered
    /// is.
    fn challenge_syn<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) {
        env.common.stats.syn_challenge += 1;
        self.reflect_again(segment);
        self.challenge(env);
        if self.ack_due != AckDue::Now {
            self.reflect_nothing();
        }
    }

    /// Sends a challenge ACK with the next flush, if this connection and all together have not sent too many (RFC 5961 §7).
    pub(super) fn challenge<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if self.ack_due == AckDue::Now {
            return;
        }
        if self.may_challenge_again(env) && env.allow_challenge() {
            env.common.stats.challenge_acks += 1;
            if self.state == TcpState::SynReceived {
                let _ = self.send_ack(env);
            } else {
                self.ack_now();
            }
        }
    }

    /// Whether the connection's own limit lets another unasked-for answer out.
    fn may_challenge_again<O>(&mut self, env: &Env<'_, O>) -> bool {
        let interval_ns = nanos(env.common.config.challenge_ack_interval);
        let cold = &mut self.cold;
        let allowed = cold.last_challenge.is_none_or(|last| elapsed_ns(env.now, last) >= interval_ns);
        if allowed {
            cold.last_challenge = Some(env.now);
        }
        allowed
    }
}
