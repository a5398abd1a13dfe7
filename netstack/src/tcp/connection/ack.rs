//! Acknowledgements: the left edge moves, round trips are measured, windows opened.

use demi_drivers::Instant;
use demi_drivers::transport::TcpState;

use super::super::output::Output;
use super::super::rto::elapsed_ns;
use super::super::seq::SeqNumber;
use super::input::Segment;
use super::{Connection, Env, Retransmit, slow};

impl<P> Connection<P> {
    /// Moves the left edge to `ack`, which lies behind it and not beyond what was sent.
    #[inline(always)]
    pub(super) fn acked<O>(&mut self, env: &mut Env<'_, O>, ack: SeqNumber) {
        let bytes = ack - self.snd_una;
        let queued = self.tx.len();
        self.snd_una = ack;
        if self.snd_nxt.before(ack) {
            self.snd_nxt = ack;
        }
        self.tx.acknowledge(ack);
        self.bytes_acked += u64::from(queued - self.tx.len());

        if self.rtt.backoff() > 0 {
            self.heard_again();
        }
        if self.timing && ack.at_or_after(self.timed_seq) {
            self.timing = false;
            self.rtt.sample(elapsed_ns(env.now, self.timed_at), env.common.bounds);
        } else {
            self.acked_logged(env.now, env.common.bounds);
        }

        if ack == self.snd_max {
            // RFC 6298 §5.2
            self.retransmit = Retransmit::Off;
            self.retransmit_at = Instant::FAR_FUTURE;
        } else {
            // RFC 6298 §5.3
            self.restart_timer(env);
        }
        if self.cwnd_limited {
            self.grow_window(env, bytes);
        }
        // A third free is enough to make waking the writer worth it.
        if self.write_waker.is_some() && self.tx.len() <= self.send_cap - self.send_cap / 3 {
            self.wake_writer();
        }
    }

    /// The peer answers again: what counted its silence starts over.
    #[cold]
    pub(super) fn heard_again(&mut self) {
        self.cold.timeouts = 0;
        self.cold.stalled_since = None;
    }

    /// Takes the acknowledgement of a segment off the short path (RFC 9293 §3.10.7.4, fifth step). Answers whether the rest of
    /// the segment may be looked at.
    pub(super) fn take_ack<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, segment: &Segment) -> bool {
        let ack = segment.ack;
        // RFC 5961 §5: neither what was never sent nor what is long past; and before the first byte there is no past, so that at the
        // beginning a stranger has as little to guess at as Linux gives.
        let past = self.max_snd_wnd.min(u32::try_from(self.bytes_acked).unwrap_or(u32::MAX));
        if ack.after(self.snd_max) || ack.before(self.snd_una - past) {
            self.challenge(env);
            return false;
        }
        if ack.before(self.snd_una) {
            // Overtaken on the way: its data may still be new, and its blocks may still tell something.
            if self.sack_ok && !segment.sack.is_empty() {
                self.take_old_blocks(env, segment);
            }
            return true;
        }
        let acked = ack - self.snd_una;
        let closed = self.snd_wnd == 0;
        let told = self.sack_ok && !segment.sack.is_empty();
        let mut doubtful = self.slow & slow::RECOVERY != 0 || told;
        let marked = match self.counts_marks() {
            // What is delivered is known only once it has been taken in.
            true if doubtful => false,
            true => self.take_ace(env, segment, (acked, acked), self.bytes_acked),
            false => self.take_echo(env, segment),
        };
        doubtful |= marked;
        if doubtful || (acked == 0 && self.snd_una != self.snd_max) {
            self.take_news(env, segment, marked);
        } else {
            if acked > 0 {
                self.acked(env, ack);
            }
            self.take_window(segment.seq, segment.ack, segment.window);
        }
        if acked > 0 && self.slow & slow::SEARCH != 0 {
            self.probe_acked(env);
        }
        if acked > 0 || told {
            self.model(env);
        }
        if !(self.orphan && self.snd_wnd == 0) {
            self.cold.window_probes = 0;
        }
        if closed && self.snd_wnd > 0 {
            self.window_opened(env.now);
        }
        if self.has_unsent() || self.has_repairs() {
            self.flush_due = true;
        }
        if acked > 0 {
            self.take_fin_ack(env);
            return self.state != TcpState::Closed;
        }
        true
    }

    /// The peer has room again: what probed for that has done so.
    #[cold]
    fn window_opened(&mut self, now: Instant) {
        if self.retransmit == Retransmit::Persist {
            self.retransmit = Retransmit::Off;
            self.retransmit_at = Instant::FAR_FUTURE;
            self.rtt.reset_backoff();
        } else if self.retransmit == Retransmit::Rto && self.cold.timeouts > 0 {
            // What went out again while the window was closed found no room, and is not to wait for long now.
            self.heard_again();
            self.rtt.reset_backoff();
            self.retransmit_at = now.plus_nanos(self.rtt.rto_ns());
        }
    }

    /// Takes the window of a segment, if it is news, and answers whether (RFC 9293 §3.10.7.4: SND.WL1 and SND.WL2).
    #[inline]
    pub(super) fn take_window(&mut self, seq: SeqNumber, ack: SeqNumber, window: u32) -> bool {
        let newer = self.snd_wl1.before(seq)
            || (self.snd_wl1 == seq
                && (self.snd_wl2.before(ack)
                    // Of two segments that differ in nothing else nobody knows the order; but a window once offered stays
                    // open, so the larger one is the later. As Linux, a closed one is believed: its sender is out of memory.
                    || (self.snd_wl2 == ack && (self.snd_wnd < window || window == 0))));
        if newer {
            self.snd_wnd = window;
            self.max_snd_wnd = self.max_snd_wnd.max(window);
            self.snd_wl1 = seq;
            self.snd_wl2 = ack;
        }
        newer
    }

    /// Whether the acknowledgement covers our FIN, and what follows (RFC 9293 §3.10.7.4).
    pub(super) fn take_fin_ack<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if !self.fin_acked() {
            if self.write_waker.is_some() && self.tx.len() == 0 {
                self.wake_writer();
            }
            return;
        }
        self.wake_writer();
        match self.state {
            TcpState::FinWait1 => {
                self.set_state(TcpState::FinWait2);
                if self.orphan && self.waits_for_no_fin() {
                    env.common.stats.abort_on_data += 1;
                    self.reject(env, self.snd_una);
                    self.finish();
                } else if self.orphan {
                    self.start_fin_wait_2(env);
                }
            }
            TcpState::Closing => self.enter_time_wait(),
            TcpState::LastAck => self.finish(),
            _ => {}
        }
    }

    /// Both FINs are through: what remains is a record.
    pub(super) fn enter_time_wait(&mut self) {
        self.set_state(TcpState::TimeWait);
        self.retransmit = Retransmit::Off;
        self.retransmit_at = Instant::FAR_FUTURE;
        self.rare_at = Instant::FAR_FUTURE;
        self.wake_all();
    }
}
