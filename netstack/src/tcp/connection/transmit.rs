//! Segments out: what may be sent now, in which pieces, and what goes in their headers.
//!
//! Nothing is sent when the application writes: data waits for the end of the turn, so that several writes make one segment
//! and a reply carries the acknowledgement of its request.

use demi_drivers::Instant;
use demi_drivers::transport::TcpState;

use super::super::accurate_ecn;
use super::super::config::EcnOption;
use super::super::output::{Output, PlainOut, Refused, SegmentOut};
use super::super::rto::clock_ms;
use super::super::seq::SeqNumber;
use super::mtu::Probe;
use super::recovery::Phase;
use super::{AckDue, Connection, Env, Failure, Retransmit, nanos, slow};
use crate::wire::tcp::{OptionBytes, Plain, Timestamps, flags};

/// A data segment (or FIN) that may go out now.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seq: SeqNumber,
    len: u32,
    fin: bool,
    /// Payload bytes of each segment the device is to cut it into; 0: it is one.
    gso_bytes: u16,
    /// Why it goes out again, if it does.
    again: Again,
}

/// Why something goes out that has gone out before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It has not: it is new.
    No,
    /// It is lost.
    Lost,
    /// It timed out.
    Timeout,
    /// It probes for a lost tail.
    Probe,
}

/// Why nothing may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// There is nothing.
    Nothing,
    /// The congestion window is full.
    Congestion,
    /// The peer's window is full.
    PeerWindow,
    /// Nagle or cork: more may come.
    Coalesce,
    /// The rate does not allow more yet.
    Pace,
}

impl<P> Connection<P> {
    /// Sends everything that may go out now. `Err`: the way out is full, and the connection wants to be flushed again.
    #[inline(never)]
    pub(crate) fn flush<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        self.flush_due = false;
        let result = match self.state {
            TcpState::Closed | TcpState::TimeWait | TcpState::Listen => Ok(()),
            TcpState::SynSent => self.flush_syn(env),
            TcpState::SynReceived if !self.is_embryo() => self.flush_syn(env),
            _ if self.is_embryo() => self.flush_syn(env).and_then(|()| self.flush_synchronized(env)),
            _ => self.flush_synchronized(env),
        };
        if result == Err(Refused::Full) {
            self.flush_due = true;
            env.common.stats.send_refused += 1;
        }
        self.check_invariants();
        result
    }

    fn flush_syn<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        if self.cold.syn_due {
            match self.send_syn(env) {
                Err(Refused::Unreachable) if self.state == TcpState::SynSent => {
                    self.fail(Failure::HostUnreachable);
                }
                other => return other,
            }
        }
        Ok(())
    }

    fn flush_synchronized<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        self.moderate(env);
        if self.counts_marks() {
            self.schedule_counts(env);
        }
        if self.has_unsent() || self.has_repairs() {
            self.send_data(env)?;
            if self.slow & slow::RECOVERY != 0 {
                self.new_data_went_first();
                if self.has_repairs() {
                    self.send_data(env)?;
                }
            }
            self.expand_send_buffer(env);
        }
        if self.ack_due == AckDue::Now {
            self.send_ack(env)?;
        }
        Ok(())
    }

    /// Sends data and the FIN as far as the windows and Nagle let it.
    #[inline]
    fn send_data<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        if self.snd_una == self.snd_max {
            self.restart_after_idle(env);
        }
        let before = self.snd_max;
        let tso_max = env.out.tso_max_bytes();
        if self.slow & slow::SEARCH != 0 && env.out.room() > 0 {
            match self.next_probe(env) {
                Probe::No => {}
                Probe::Wait => return Ok(()),
                Probe::Send(len) => {
                    let plan = Plan { seq: self.snd_nxt, len, fin: false, gso_bytes: 0, again: Again::No };
                    if self.send_planned(env, plan).is_ok() {
                        self.probe_sent(plan.seq, len);
                    }
                }
            }
        }
        let hold = loop {
            let paced = self.slow & slow::PACED != 0;
            let mut tso_max = if self.cwr_due() { 0 } else { tso_max };
            let plan = match self.next_segment(tso_max) {
                Ok(plan) if !paced => plan,
                Ok(_) => {
                    let room = self.paced_room(env.now, &env.common.config);
                    if room == 0 {
                        break Hold::Pace;
                    }
                    tso_max = tso_max.min(room);
                    match self.next_segment(tso_max) {
                        Ok(plan) => plan,
                        Err(hold) => break hold,
                    }
                }
                Err(hold) => break hold,
            };
            if env.out.room() == 0 {
                return Err(Refused::Full);
            }
            match self.send_planned(env, plan) {
                Ok(()) => {}
                // No route, or no neighbour: as lost as if the network had dropped it. The timer tries again.
                Err(Refused::Unreachable) => self.sent(env, plan),
                Err(Refused::Full) => return Err(Refused::Full),
            }
            if paced {
                self.note_paced(env.now, plan.len, &env.common.config);
            }
            if !self.has_unsent() && self.slow == 0 {
                break Hold::Nothing;
            }
        };
        if self.slow & slow::PACED != 0 {
            self.end_burst();
        }
        if before != self.snd_max {
            // One probe for each tail, two round trips after the last segment of it.
            self.schedule_probe(env, false);
        }
        if hold == Hold::Nothing {
            self.note_application_limit();
        }
        self.note_usage(env, hold == Hold::Congestion);
        if hold == Hold::PeerWindow && self.snd_una == self.snd_max && self.retransmit == Retransmit::Off {
            // RFC 9293 §3.8.6.1: the update that reopens the window may get lost.
            self.retransmit = Retransmit::Persist;
            self.cold.window_probes = 0;
            self.retransmit_at = env.now.plus_nanos(self.rtt.rto_ns());
        }
        if hold == Hold::Coalesce && self.cork && self.cold.cork_until == Instant::FAR_FUTURE {
            self.cold.cork_until = env.now.plus_nanos(nanos(env.common.config.cork));
            self.update_rare_timer();
        }
        Ok(())
    }

    /// The next segment to go out, or why there is none.
    #[inline(always)]
    fn next_segment(&mut self, tso_max: u32) -> Result<Plan, Hold> {
        if self.slow & slow::RECOVERY != 0
            && let Some(plan) = self.next_repair()?
        {
            return Ok(plan);
        }
        let seq = self.snd_nxt;
        let data_end = self.tx.end();
        let unsent = data_end.since(seq);
        let fin = self.fin_queued && seq.at_or_before(data_end);
        if unsent == 0 && !fin {
            return Err(Hold::Nothing);
        }
        let room = (self.snd_una + self.snd_wnd).since(seq);
        let mss = self.effective_mss();
        if room == 0 {
            return Err(Hold::PeerWindow);
        }
        let allowed = self.congestion_room();
        let mut len = unsent.min(mss).min(room);
        if len > allowed && self.in_flight() > 0 {
            return Err(Hold::Congestion);
        }
        let last = seq + len == data_end;
        let mut gso_bytes = 0;
        if len == mss && tso_max > mss && unsent > mss {
            let most = unsent.min(room).min(allowed.max(mss)).min(tso_max);
            let most = self.tx.gatherable(seq, most);
            if most >= 2 * mss {
                len = most - most % mss;
                gso_bytes = mss as u16;
            }
        } else if len < mss {
            if !last {
                // RFC 9293 §3.8.6.2.1: a window that opens in dribs is used in bulk.
                if len < self.max_snd_wnd / 2 {
                    return Err(Hold::PeerWindow);
                }
            } else if self.holds_partial(len, fin) {
                return Err(Hold::Coalesce);
            }
        }
        let fin = fin && seq + len == data_end && room > len;
        if len == 0 && !fin {
            return Err(Hold::PeerWindow);
        }
        Ok(Plan { seq, len, fin, gso_bytes, again: Again::No })
    }

    /// Whether the partial segment at the end of the queue waits for company.
    #[inline]
    fn holds_partial(&self, len: u32, fin: bool) -> bool {
        if len == 0 || fin {
            return false;
        }
        if self.cork {
            return true;
        }
        if self.slow & slow::RECOVERY != 0 && self.cold.recovery.new_first {
            // It is to show what became of the rest.
            return false;
        }
        // RFC 896 in Minshall's variant, as Linux: wait only while an earlier partial segment is in flight.
        !self.nodelay && self.snd_small.after(self.snd_una) && self.snd_una.before(self.snd_nxt)
    }

    /// What is lost and goes out again next, as far as the congestion window lets it; lost data goes before new data.
    #[cold]
    fn next_repair(&mut self) -> Result<Option<Plan>, Hold> {
        if !self.has_repairs() {
            return Ok(None);
        }
        let Some((start, end)) = self.cold.sent.as_mut().and_then(|log| log.next_lost()) else {
            return Ok(None);
        };
        let bytes = (end - start) as u32;
        let seq = self.sequence(start);
        let (room, in_flight) = (self.congestion_room(), self.in_flight());
        if room < bytes.min(self.effective_mss()) && in_flight > 0 {
            return Err(Hold::Congestion);
        }
        Ok(self.plan_again(seq, bytes, Again::Lost))
    }

    /// How what begins at `seq` goes out again, of which at least `bytes` bytes are to.
    fn plan_again(&self, seq: SeqNumber, bytes: u32, again: Again) -> Option<Plan> {
        let mss = self.effective_mss();
        let data_end = self.tx.end();
        let open = (self.snd_una + self.snd_wnd).since(seq);
        let most = match open {
            // RFC 9293 §3.8.6: the window has been taken back. What lies at its left edge goes out all the same: it probes.
            0 if seq == self.snd_una => mss,
            0 => return None,
            open => open.min(mss),
        };
        let bytes = if again == Again::Probe { bytes } else { self.with_followers(seq, bytes, most) };
        let len = data_end.since(seq).min(bytes).min(most);
        let fin = self.fin_sent() && seq + len == data_end && (bytes > len || len == 0);
        (len > 0 || fin).then_some(Plan { seq, len, fin, gso_bytes: 0, again })
    }

    /// Segments that follow directly and are missing, too, ride along whole while they fit in `most` bytes (Linux's
    /// `tcp_retrans_collapse`).
    fn with_followers(&self, seq: SeqNumber, mut bytes: u32, most: u32) -> u32 {
        let Some(log) = &self.cold.sent else { return bytes };
        let start = self.position(seq);
        while bytes < most {
            let at = start + u64::from(bytes);
            let end = match log.missing(at) {
                Some(_) => log.whole_segments(at, most - bytes),
                None => break,
            };
            if end <= at {
                break;
            }
            bytes = (end - start) as u32;
        }
        bytes
    }

    /// Sends what begins at `seq` again, at once. Answers whether it went out.
    pub(super) fn send_again<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        seq: SeqNumber,
        bytes: u32,
        again: Again,
    ) -> bool {
        let plan = self.plan_again(seq, bytes, again);
        plan.is_some_and(|plan| self.send_planned(env, plan).is_ok())
    }

    /// Whether there is a new segment for which the peer has room.
    pub(super) fn may_send_new(&self) -> bool {
        let room = (self.snd_una + self.snd_wnd).since(self.snd_max);
        let len = self.tx.end().since(self.snd_max).min(self.effective_mss());
        self.has_unsent() && room > 0 && len <= room
    }

    /// Sends one new segment, whatever the congestion window and Nagle say: a probe.
    pub(super) fn send_one_new<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> bool {
        let (seq, data_end) = (self.snd_max, self.tx.end());
        let room = (self.snd_una + self.snd_wnd).since(seq);
        let len = data_end.since(seq).min(self.effective_mss());
        let fin = self.fin_queued && seq + len == data_end && room > len;
        self.send_planned(env, Plan { seq, len, fin, gso_bytes: 0, again: Again::No }).is_ok()
    }

    /// The application has no more to send: if the windows would let it, what is on its way tells of its speed, not the path's.
    #[inline]
    fn note_application_limit(&mut self) {
        let in_flight = self.in_flight();
        // As Linux: an application that waits for room in the send buffer has more to send.
        let waits = self.write_waker.is_some() && self.tx.len() > self.send_cap - self.send_cap / 3;
        if in_flight >= self.window.cwnd || self.timing || waits {
            return;
        }
        let delivered = self.delivered();
        if let Some(log) = self.cold.sent.as_mut().filter(|log| !log.is_empty()) {
            log.delivery.limited_by_application(delivered, in_flight);
        }
    }

    /// Payload bytes a segment, less the SACK blocks it has to carry.
    #[inline]
    fn effective_mss(&self) -> u32 {
        let mut mss = u32::from(self.snd_mss);
        let has_blocks = self.sack_due && self.cold.reassembly.has_blocks();
        if has_blocks {
            mss = mss.saturating_sub(if self.ts_ok { 28 } else { 36 }).max(16);
        }
        if self.slow & slow::ECN != 0 {
            mss = mss.saturating_sub(self.counts_room(has_blocks)).max(16);
        }
        mss
    }

    #[inline(always)]
    fn send_planned<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, plan: Plan) -> Result<(), Refused> {
        let last = plan.seq + plan.len == self.tx.end();
        let mut bits = flags::ACK;
        if plan.fin {
            bits |= flags::FIN;
        }
        if last && plan.len > 0 {
            bits |= flags::PSH;
        }
        let new = !plan.seq.before(self.snd_max);
        bits |= self.ecn_flags(new && plan.len > 0);
        if self.slow & slow::ECN != 0 && plan.gso_bytes == 0 && plan.len > self.effective_mss() {
            self.postpone_counts();
        }
        let tos = if new && plan.len > 0 { self.tos } else { self.control_tos() };
        if !self.send_apart(env, plan, bits, tos) {
            let options = self.segment_options(env.now);
            let window = self.advance_window();
            let segment = SegmentOut {
                seq: plan.seq.get(),
                ack: self.rcv_nxt.get(),
                flags: bits,
                window,
                urgent: 0,
                options: options.as_slice(),
                tos,
                ttl: self.ttl,
                gso_bytes: plan.gso_bytes,
            };
            let (flow, path, out) = (&self.flow, &mut self.path, &mut *env.out);
            match self.tx.whole(plan.seq, plan.len) {
                Some(parts) => out.send(flow, path, &segment, parts)?,
                None => match self.tx.gather(plan.seq, plan.len, out.pool()) {
                    Some(mut parts) => out.send(flow, path, &segment, &mut parts)?,
                    // No slot to join the parts in: as good as a full queue.
                    None => return Err(Refused::Full),
                },
            }
        }
        let segments =
            if plan.gso_bytes > 0 { u64::from(plan.len.div_ceil(u32::from(plan.gso_bytes))) } else { 1 };
        self.segments_out += segments;
        if plan.again != Again::No {
            env.common.stats.retrans_segs += segments;
            self.cold.retransmitted += segments;
            match (plan.again, self.cold.recovery.phase) {
                (Again::Lost, Phase::Loss) => env.common.stats.slow_start_retrans += segments,
                (Again::Lost, _) => env.common.stats.fast_retrans += segments,
                _ => {}
            }
        } else {
            env.common.stats.out_segs += segments;
        }
        if plan.again == Again::No || self.snd_wnd > 0 {
            // Of what has no room the peer drops what it acknowledges, too.
            self.ack_went_out(true);
        }
        self.sent(env, plan);
        if self.counts_marks() {
            self.told_with_data(env);
        }
        Ok(())
    }

    /// Sends a segment with a plain header whose payload is a part of something larger: what nearly all of a long transfer is.
    /// `false`: it is not that, or there was no way out; nothing has happened.
    #[inline(always)]
    fn send_apart<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        plan: Plan,
        bits: u16,
        tos: u8,
    ) -> bool {
        let plain = self.ts_ok
            && !self.sack_due
            && self.slow & slow::ECN == 0
            && bits & !(flags::ACK | flags::PSH) == 0
            && plan.gso_bytes == 0
            && plan.len > 0;
        if !plain {
            return false;
        }
        let Some(part) = self.tx.part(plan.seq, plan.len) else { return false };
        let (window, edge) = self.next_window();
        let header = Plain {
            ports: self.v4.ports_out(),
            seq: plan.seq.get(),
            ack: self.rcv_nxt.get(),
            push: bits & flags::PSH != 0,
            window,
            timestamps: Timestamps {
                value: clock_ms(env.now).wrapping_add(self.ts_offset),
                echo: self.ts_recent,
            },
        };
        let segment = PlainOut { header, tos, ttl: self.ttl };
        if env.out.send_plain_apart(&mut self.path, &segment, part).is_err() {
            return false;
        }
        self.rcv_adv = edge;
        true
    }

    /// Notes that a planned segment has been sent.
    #[inline]
    fn sent<O>(&mut self, env: &Env<'_, O>, plan: Plan) {
        let now = env.now;
        let end = plan.seq + plan.len + u32::from(plan.fin);
        if plan.again != Again::No {
            return self.sent_again(now, plan, end);
        }
        if self.snd_una == self.snd_max && self.slow & slow::PACED == 0 {
            // A paced connection's model wants to hear of the first burst, too.
            self.timing = true;
            self.timed_seq = end;
            self.timed_at = now;
        } else {
            let size = if plan.gso_bytes > 0 { u32::from(plan.gso_bytes) } else { end - plan.seq };
            self.log_sent(now, end, size);
        }
        self.last_send_at = now;
        self.snd_max = end;
        self.snd_nxt = end;
        if self.slow & slow::RECOVERY != 0 && matches!(self.cold.recovery.phase, Phase::Cwr | Phase::Recovery)
        {
            self.cold.recovery.reduction.sent(plan.len);
        }
        if plan.len > 0 && plan.len < u32::from(self.snd_mss) && plan.len < self.effective_mss() {
            self.snd_small = end;
        }
        if plan.fin {
            self.fin_went_out();
        }
        if matches!(self.retransmit, Retransmit::Off | Retransmit::Persist) {
            // RFC 6298 §5.1
            self.retransmit = Retransmit::Rto;
            self.retransmit_at = now.plus_nanos(self.rtt.rto_ns());
        }
    }

    #[cold]
    fn sent_again(&mut self, now: Instant, plan: Plan, end: SeqNumber) {
        let counted = plan.again != Again::Probe;
        self.log_resent(now, plan.seq, end, counted);
        self.last_send_at = now;
        let stamp = clock_ms(now).wrapping_add(self.ts_offset);
        let recovery = &mut self.cold.recovery;
        recovery.repaired_at = now;
        if counted {
            recovery.undo.resent(1, stamp);
        }
        if plan.again != Again::Lost {
            return;
        }
        if matches!(recovery.phase, Phase::Cwr | Phase::Recovery) {
            recovery.reduction.sent(plan.len);
        }
        let head = plan.seq == self.snd_una && self.retransmit != Retransmit::Reorder;
        if head || self.retransmit == Retransmit::Off {
            self.retransmit = Retransmit::Rto;
            self.retransmit_at = now.plus_nanos(self.rtt.rto_ns());
        }
    }

    /// The peer's window is too small for a worthwhile segment, and has been for long: use what there is of it (RFC 9293
    /// §3.8.6.2.1, the override). Answers whether there was anything.
    pub(super) fn send_into_small_window<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> bool {
        let seq = self.snd_nxt;
        let room = (self.snd_una + self.snd_wnd).since(seq);
        let len = self.tx.end().since(seq).min(room).min(self.effective_mss());
        len > 0
            && self.send_planned(env, Plan { seq, len, fin: false, gso_bytes: 0, again: Again::No }).is_ok()
    }

    /// The cork has held a partial segment back for long enough.
    pub(super) fn push_corked<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        self.cork = false;
        if self.flush(env).is_ok() {
            self.cork = self.cold.options.cork;
        }
    }

    fn fin_went_out(&mut self) {
        // RFC 9293 §3.10.4
        match self.state {
            TcpState::Established => self.set_state(TcpState::FinWait1),
            TcpState::CloseWait => self.set_state(TcpState::LastAck),
            TcpState::SynReceived if self.is_embryo() => self.set_state(TcpState::FinWait1),
            _ => {}
        }
    }

    /// Sends the SYN or SYN-ACK (RFC 9293 §3.10.1).
    fn send_syn<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        let reply = self.state != TcpState::SynSent;
        let (fast_open, len) = if reply { (None, 0) } else { self.syn_carries() };
        let ecn_bits = self.syn_flags(&env.common.config);
        let cold = &self.cold;
        let timestamps = cold.offered_timestamps.then(|| Timestamps {
            value: clock_ms(env.now).wrapping_add(self.ts_offset),
            echo: if reply { self.ts_recent } else { 0 },
        });
        let (mss, sack, scale) = (cold.local_mss, cold.offered_sack, cold.offered_scale);
        let mut options = OptionBytes::for_syn(mss, sack, timestamps, scale);
        if let Some(fast_open) = &fast_open {
            options = options.with_fast_open(fast_open);
        }
        if reply
            && cold.syn_sent < 2
            && self.counts_marks()
            && env.common.config.ecn_option != EcnOption::Never
        {
            // In answer to a SYN that crossed ours.
            let counts = accurate_ecn::first_option();
            options = OptionBytes::for_syn_ack(mss, sack, timestamps, scale, None, &counts);
        }
        // Windows in SYNs are not scaled (RFC 7323 §2.2).
        let window = self.recv_cap.min(65_535) as u16;
        let segment = SegmentOut {
            seq: cold.iss.get(),
            ack: if reply { self.rcv_nxt.get() } else { 0 },
            flags: ecn_bits | if reply { flags::SYN | flags::ACK } else { flags::SYN },
            window,
            urgent: 0,
            options: options.as_slice(),
            tos: if reply { self.tos & !3 } else { self.tos },
            ttl: self.ttl,
            gso_bytes: 0,
        };
        let mut payload = match len {
            0 => Default::default(),
            len => self.tx.gather(cold.iss + 1, len, env.out.pool()).unwrap_or_default(),
        };
        // No slot to join the parts in: the SYN goes alone, and the data later.
        let len = if payload.is_empty() { 0 } else { len };
        env.out.send(&self.flow, &mut self.path, &segment, &mut payload)?;
        self.syn_carried(len);
        self.segments_out += 1;
        env.common.stats.out_segs += 1;
        self.rcv_adv = (self.rcv_nxt + u32::from(window)).later(self.rcv_adv);
        let cold = &mut self.cold;
        cold.syn_due = false;
        cold.syn_sent += 1;
        let behind = cold.iss + 1;
        // What data has gone with the SYN, or behind the SYN-ACK, remains sent.
        self.snd_max = (behind + len).later(self.snd_max);
        self.snd_nxt =
            if reply && self.slow & slow::EMBRYO != 0 { self.snd_nxt.later(behind) } else { self.snd_max };
        let cold = &self.cold;
        if cold.syn_sent == 1 {
            self.timing = true;
            self.timed_seq = behind;
            self.timed_at = env.now;
        } else {
            self.timing = false;
            self.cold.retransmitted += 1;
            env.common.stats.retrans_segs += 1;
        }
        self.last_send_at = env.now;
        self.ack_due = AckDue::No;
        self.retransmit = Retransmit::Rto;
        self.retransmit_at = self.next_try_at(env);
        Ok(())
    }

    /// Sends an acknowledgement without data.
    pub(super) fn send_ack<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        let result = self.send_bare(env, self.bare_seq(), flags::ACK);
        match result {
            Err(Refused::Full) => {
                self.ack_due = AckDue::Now;
                self.flush_due = true;
            }
            _ => self.ack_went_out(false),
        }
        result
    }

    /// The number that a segment without data goes from: the highest sent, even while a timeout makes us repeat lower ones, since a peer
    /// does not look at what is behind; but not from beyond a window that was taken back, since neither does it look at that,
    /// not even at what is acknowledged (RFC 9293 §3.8.6, MUST-34; Linux's `tcp_acceptable_seq`). A scaled window may say less than
    /// the peer has; that it has not, a timeout shows.
    fn bare_seq(&self) -> SeqNumber {
        let edge = self.snd_una + self.snd_wnd;
        let beyond = self.snd_max.since(edge);
        let rounded = beyond < 1 << self.snd_scale && self.cold.timeouts == 0;
        if beyond == 0 || rounded || !self.is_synchronized() { self.snd_max } else { edge }
    }

    /// Sends a probe that any peer answers: an acknowledgement from just before what it expects (RFC 9293 §3.8.4, as Linux). What it
    /// acknowledges the peer does not look at, and has yet to hear.
    pub(super) fn send_probe<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Result<(), Refused> {
        let result = self.send_bare(env, self.snd_una - 1, flags::ACK);
        if result.is_ok() {
            env.common.stats.win_probes += 1;
        }
        result
    }

    /// Sends a RST that the peer believes: from the next number it expects.
    pub(super) fn send_reset<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        let unborn = self.state == TcpState::SynReceived && !self.is_embryo();
        let seq = if unborn { self.cold.iss + 1 } else { self.bare_seq() };
        // A RST that finds no room is a RST that got lost: the peer's next segment will be answered with another.
        if self.send_bare(env, seq, flags::RST | flags::ACK).is_ok() {
            env.common.stats.out_rsts += 1;
        }
    }

    fn send_bare<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        seq: SeqNumber,
        bits: u16,
    ) -> Result<(), Refused> {
        let reset = bits & flags::RST != 0;
        // RFC 7323 §3.2: a RST carries timestamps like any other segment; there is nothing left to be told by SACK.
        self.sack_due &= !reset;
        let mut bits = bits | self.ecn_flags(false);
        if self.counts_marks() {
            bits = self.reflect_due(bits);
            self.schedule_counts(env);
        }
        let options = self.segment_options(env.now);
        let window = if reset { 0 } else { self.advance_window() };
        let segment = SegmentOut {
            seq: seq.get(),
            ack: self.rcv_nxt.get(),
            flags: bits,
            window,
            urgent: 0,
            options: options.as_slice(),
            tos: self.control_tos(),
            ttl: self.ttl,
            gso_bytes: 0,
        };
        env.out.send(&self.flow, &mut self.path, &segment, &mut [])?;
        self.segments_out += 1;
        env.common.stats.out_segs += 1;
        Ok(())
    }

    /// Options of a segment that is no SYN.
    #[inline(always)]
    fn segment_options(&mut self, now: Instant) -> OptionBytes {
        let timestamps = self
            .ts_ok
            .then(|| Timestamps { value: clock_ms(now).wrapping_add(self.ts_offset), echo: self.ts_recent });
        let counts = self.slow & slow::ECN != 0;
        if !self.sack_due {
            return match counts {
                true => self.counting_options(now, timestamps, &[]),
                false => OptionBytes::for_segment(timestamps, &[]),
            };
        }
        let blocks = self.cold.reassembly.take_blocks();
        self.sack_due = self.cold.reassembly.has_blocks();
        match counts {
            true => self.counting_options(now, timestamps, blocks.as_slice()),
            false => OptionBytes::for_segment(timestamps, blocks.as_slice()),
        }
    }

    /// Notes that an acknowledgement of all that has arrived has gone out, with data or without.
    #[inline]
    pub(super) fn ack_went_out(&mut self, with_data: bool) {
        if with_data && self.ack_due != AckDue::No {
            // The application answers what it gets: acknowledgements had better wait for the answers.
            self.interactive = true;
        }
        self.quick_acks = self.quick_acks.saturating_sub(u8::from(self.rcv_acked != self.rcv_nxt));
        self.ack_due = AckDue::No;
        self.ack_at = Instant::FAR_FUTURE;
        self.rcv_acked = self.rcv_nxt;
    }

    /// Bytes the congestion window still lets out.
    #[inline]
    pub(super) fn congestion_room(&self) -> u32 {
        self.window.cwnd.saturating_sub(self.in_flight())
    }

    /// Bytes believed to be on the way.
    #[inline]
    pub(super) fn in_flight(&self) -> u32 {
        if self.slow & slow::RECOVERY == 0 {
            return self.snd_nxt - self.snd_una;
        }
        self.in_flight_in_recovery()
    }
}
