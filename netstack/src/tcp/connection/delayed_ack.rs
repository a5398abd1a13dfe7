//! When in-order data is acknowledged: with the reply, at once, or when a timer says so (RFC 9293 §3.8.6.3), by Linux's rules.
//!
//! At once go every second full segment and, in quick mode, each: up to sixteen at the beginning, after a duplicate, after a pause
//! longer than our retransmission timeout, and two after a mark of the network; for the peer's window is small then, and it waits for
//! each acknowledgement. A connection that answers what it gets leaves them to its answers. Else they wait for 40 ms; for longer, up to
//! a round trip, where that was in vain before.
//!
//! The short way knows nothing of pauses and longer waits: the timer of an acknowledgement that waited, which fires after the last
//! segment of a flow, makes the next segment come by here.

use demi_drivers::Instant;

use super::super::output::Output;
use super::super::rto::elapsed_ns;
use super::{AckDue, Connection, Env, slow};

/// Segments that are acknowledged at once, at most (Linux's `TCP_MAX_QUICKACKS`).
const QUICK_ACKS: u8 = 16;
/// No acknowledgement waits for longer (Linux's `TCP_DELACK_MAX`).
const MAX_DELAY_NS: u64 = 200_000_000;

impl<P> Connection<P> {
    /// Decides when `len` in-order bytes that have just been queued are acknowledged, and wakes who waits for them.
    #[inline(always)]
    pub(super) fn note_received<O>(&mut self, env: &mut Env<'_, O>, len: u32) {
        self.note_peer_mss(len);
        self.note_arrival(env, len);
    }

    /// Takes note of a segment of `len` bytes of payload.
    #[inline(always)]
    pub(super) fn note_peer_mss(&mut self, len: u32) {
        if len > u32::from(self.rcv_mss) {
            // Coalesced segments are longer than any: never beyond what we told the peer.
            self.rcv_mss = len.min(u32::from(self.cold.local_mss)) as u16;
        }
    }

    /// As [`note_received`](Self::note_received), the sizes of segments apart.
    #[inline(always)]
    pub(super) fn note_arrival<O>(&mut self, env: &mut Env<'_, O>, len: u32) {
        self.bytes_received += u64::from(len);
        if self.ack_due != AckDue::Now {
            let waiting = self.rcv_nxt - self.rcv_acked;
            // RFC 9293 §3.8.6.3: every second full segment at once. A young connection's peer is in slow start and needs
            // each acknowledgement, unless replies carry them.
            if waiting > u32::from(self.rcv_mss) || (self.quick_acks > 0 && !self.interactive) {
                self.ack_now();
            } else if self.ack_due == AckDue::No {
                self.ack_due = AckDue::Delayed;
                self.ack_at = env.now.plus_nanos(env.common.delayed_ack_ns);
            }
        }
        self.wake_reader();
    }

    /// Data is about to be taken in order, off the short way, `gap_ns` after the last segment: adapts how long its acknowledgement
    /// may wait (Linux's `tcp_event_data_recv`).
    pub(super) fn adapt_delay<O>(&mut self, env: &Env<'_, O>, gap_ns: u64) {
        let (least_ns, rto_ns) = (env.common.delayed_ack_ns, self.rtt.rto_ns());
        let delay_ns = self.cold.ack_delay_ns.max(least_ns);
        self.cold.ack_delay_ns = if gap_ns <= least_ns / 2 {
            delay_ns / 2 + least_ns / 2
        } else if gap_ns < delay_ns {
            (delay_ns / 2 + gap_ns).min(rto_ns)
        } else {
            if gap_ns > rto_ns {
                self.more_quick_acks(QUICK_ACKS);
            }
            delay_ns
        };
        // What is left above the least, after many halvings, is no more than a tick of Linux's clock.
        if self.cold.ack_delay_ns < least_ns + 4_000_000 {
            self.cold.ack_delay_ns = least_ns;
            self.slow &= !slow::DELAY;
        }
    }

    /// Data has been taken off the short way: if its acknowledgement has just begun to wait, it does so for as long as it may.
    pub(super) fn apply_delay<O>(&mut self, env: &Env<'_, O>, waited: bool) {
        if self.slow & slow::DELAY != 0 && self.ack_due == AckDue::Delayed && !waited {
            self.ack_at = env.now.plus_nanos(self.ack_delay_ns(env));
        }
    }

    /// How long an acknowledgement may wait (Linux's `tcp_send_delayed_ack`).
    fn ack_delay_ns<O>(&self, env: &Env<'_, O>) -> u64 {
        let least_ns = env.common.delayed_ack_ns;
        let most_ns = match self.rtt.srtt_ns() {
            0 => MAX_DELAY_NS,
            srtt_ns => srtt_ns.clamp(least_ns, MAX_DELAY_NS.max(least_ns)),
        };
        self.cold.ack_delay_ns.clamp(least_ns, most_ns.max(least_ns))
    }

    /// The timer of acknowledgements.
    pub(super) fn on_ack_timer<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        match self.ack_due {
            AckDue::Delayed => {
                env.common.stats.delayed_acks += 1;
                let least_ns = env.common.delayed_ack_ns;
                if core::mem::take(&mut self.interactive) {
                    // The application was slower than the timer: it does not answer what it gets.
                    self.cold.ack_delay_ns = least_ns;
                } else {
                    // Nothing came in time for it to ride along.
                    let doubled_ns = 2 * self.cold.ack_delay_ns.max(least_ns);
                    self.cold.ack_delay_ns = doubled_ns.min(self.rtt.rto_ns());
                }
                self.slow |= slow::DELAY;
                self.ack_now();
            }
            AckDue::No | AckDue::Now => {}
        }
        self.ack_at = Instant::FAR_FUTURE;
        self.watch_for_silence(env);
    }

    /// The timer has run. As long as data comes without replies, the last of it is to be noticed: what comes next may come after a
    /// long pause.
    pub(crate) fn watch_for_silence<O>(&mut self, env: &Env<'_, O>) {
        if self.ack_due != AckDue::No || self.interactive || !self.is_synchronized() {
            return;
        }
        let quiet_at = self.last_recv_at.plus_nanos(env.common.delayed_ack_ns);
        if quiet_at <= env.now {
            self.slow |= slow::DELAY;
        } else if self.slow & slow::DELAY == 0 {
            self.ack_at = self.ack_at.min(quiet_at);
        }
    }

    /// Something tells that the peer needs acknowledgements at once: up to `most` segments are (Linux's `tcp_enter_quickack_mode`).
    pub(super) fn enter_quick_mode(&mut self, most: u8) {
        self.more_quick_acks(most);
        self.interactive = false;
        self.cold.ack_delay_ns = 0;
    }

    /// As many as fit in half of the window, and at least two.
    fn more_quick_acks(&mut self, most: u8) {
        let half = self.offered_window() / (2 * u32::from(self.rcv_mss).max(1));
        let count = if half == 0 { 2 } else { half.min(u32::from(most)) as u8 };
        self.quick_acks = self.quick_acks.max(count);
    }

    /// The peer has sent again what it need not have: an acknowledgement was lost, or late.
    pub(super) fn ack_was_lost<O>(&mut self, env: &mut Env<'_, O>) {
        env.common.stats.delayed_ack_lost += 1;
        self.enter_quick_mode(QUICK_ACKS);
    }

    /// Data for which there is no room has arrived: it asks whether there is some by now.
    pub(super) fn window_was_probed(&mut self) {
        self.enter_quick_mode(QUICK_ACKS);
    }

    /// Whether the next segment is acknowledged at once: the connection is not in an exchange whose replies do it.
    pub(crate) fn quickack(&self) -> bool {
        !self.interactive
    }

    /// Linux's `TCP_QUICKACK`: acknowledges what waits for it and the next segments at once, or leaves it to replies and the
    /// timer. What the connection does from here on decides anew.
    pub(crate) fn set_quickack(&mut self, quickack: bool) {
        self.interactive = !quickack;
        if quickack {
            self.quick_acks = self.quick_acks.max(QUICK_ACKS);
            if self.ack_due == AckDue::Delayed {
                self.ack_now();
            }
        }
    }

    /// The next flush carries an acknowledgement.
    #[inline]
    pub(super) fn ack_now(&mut self) {
        self.ack_due = AckDue::Now;
        self.flush_due = true;
    }

    /// How long ago the last segment came, if that matters.
    pub(super) fn gap_ns<O>(&self, env: &Env<'_, O>) -> Option<u64> {
        (self.slow & slow::DELAY != 0).then(|| elapsed_ns(env.now, self.last_recv_at))
    }
}
