//! Tail loss probes (RFC 8985 §7): two round trips after the last segment went out unanswered, another goes out, so that a lost tail
//! shows as a hole and not as a timeout.
//!
//! A single segment that is sent the short way arms the plain timeout, which for one segment is nearly always the earlier of the
//! two; whether it means a probe is decided when it fires.

use demi_drivers::Instant;

use super::super::congestion::Cause;
use super::super::output::Output;
use super::super::seq::SeqNumber;
use super::rack::TIMER_SLACK_NS;
use super::recovery::{News, Phase};
use super::transmit::Again;
use super::{Connection, Env, Retransmit, slow};

/// A probe that is not yet answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// What had been sent when it went out.
    pub(super) end: SeqNumber,
    /// It repeated a segment; else it was a new one.
    pub(super) again: bool,
}

impl<P> Connection<P> {
    /// Whether a tail loss is probed for, rather than waited for.
    fn may_probe<O>(&self, env: &Env<'_, O>) -> bool {
        self.sack_ok
            && env.common.config.loss_probes
            // The SYN-ACK's timer comes first.
            && !self.is_embryo()
            && self.snd_una != self.snd_max
            && (self.slow & slow::RECOVERY == 0
                || matches!(self.cold.recovery.phase, Phase::Open | Phase::Cwr))
    }

    /// Whether the timeout that has just fired was armed in place of a probe's.
    pub(super) fn timeout_is_probe<O>(&self, env: &Env<'_, O>) -> bool {
        let recovery = &self.cold.recovery;
        self.may_probe(env) && recovery.probe.is_none() && !recovery.no_probe && self.cold.timeouts == 0
    }

    /// Segments outstanding.
    pub(super) fn segments_outstanding(&self) -> u32 {
        let flight = self.snd_max - self.snd_una;
        match self.cold.sent.as_ref().filter(|_| !self.timing) {
            Some(log) if !log.is_empty() => log.segments(),
            _ => flight.div_ceil(u32::from(self.snd_mss).max(1)),
        }
    }

    /// When what is at the left edge was last sent.
    fn head_sent_at(&self) -> Instant {
        let head = self.cold.sent.as_ref().filter(|_| !self.timing).and_then(|log| log.head());
        head.map_or(self.last_send_at, |head| head.sent_at)
    }

    /// Arms the timer of the next probe (RFC 8985 §7.2), if there is to be one. `advanced`: the left edge has moved, so the
    /// timeout would start anew.
    pub(super) fn schedule_probe<O>(&mut self, env: &Env<'_, O>, advanced: bool) -> bool {
        if !self.may_probe(env) {
            return false;
        }
        let now = env.now;
        let mut wait_ns = match self.rtt.srtt_ns() {
            0 => 1_000_000_000,
            srtt_ns => {
                // A lone segment's acknowledgement may be delayed.
                let alone = self.segments_outstanding() == 1;
                2 * srtt_ns + if alone { env.common.bounds.min_ns } else { TIMER_SLACK_NS }
            }
        };
        let rto_ns = self.rtt.rto_ns();
        let timeout_ns = if advanced {
            rto_ns
        } else {
            self.head_sent_at().plus_nanos(rto_ns).as_nanos().saturating_sub(now.as_nanos())
        };
        if timeout_ns > 0 {
            wait_ns = wait_ns.min(timeout_ns);
        }
        if self.slow & slow::RECOVERY != 0 {
            self.cold.recovery.no_probe = false;
        }
        self.retransmit = Retransmit::Probe;
        self.retransmit_at = now.plus_nanos(wait_ns);
        true
    }

    /// The left edge has moved, or more is known of the round trip: the timer starts anew.
    #[inline(never)]
    pub(super) fn restart_timer<O>(&mut self, env: &Env<'_, O>) {
        if !self.schedule_probe(env, true) {
            self.rearm_timeout(env.now);
        }
    }

    /// Arms the retransmission timeout (RFC 6298 §5.3). In place of another timer it runs from when the left edge was sent.
    pub(super) fn rearm_timeout(&mut self, now: Instant) {
        if self.snd_una == self.snd_max {
            self.retransmit = Retransmit::Off;
            self.retransmit_at = Instant::FAR_FUTURE;
            return;
        }
        let rto_ns = self.rtt.rto_ns();
        let at = match self.retransmit {
            Retransmit::Probe | Retransmit::Reorder => {
                self.head_sent_at().plus_nanos(rto_ns).max(now.plus_nanos(1000))
            }
            _ => now.plus_nanos(rto_ns),
        };
        self.retransmit = Retransmit::Rto;
        self.retransmit_at = at;
    }

    /// The probe timer (RFC 8985 §7.3): something new goes out, or the last segment again.
    pub(super) fn on_probe_timeout<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if self.snd_una == self.snd_max {
            return self.rearm_timeout(env.now);
        }
        if self.cold.recovery.probe.is_none()
            && let Some(again) = self.send_loss_probe(env)
        {
            env.common.stats.loss_probes += 1;
            self.cold.recovery.probe = Some(Probe { end: self.snd_max, again });
            // The timeout runs from now.
            self.retransmit = Retransmit::Off;
        } else {
            self.cold.recovery.no_probe = true;
            self.retransmit = Retransmit::Probe;
        }
        self.rearm_timeout(env.now);
        self.update_recovery_bit();
    }

    /// Sends a probe. Answers whether it repeats something; `None`: nothing could go out.
    fn send_loss_probe<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) -> Option<bool> {
        if env.out.is_backlogged() {
            // As Linux: what still waits in our own queue is not lost, and a probe would wait behind it.
            return None;
        }
        self.log();
        if self.may_send_new() {
            return self.send_one_new(env).then_some(false);
        }
        let (start, end) = self.cold.sent.as_ref()?.last_segment()?;
        let (start, end) = (self.sequence(start), self.sequence(end));
        self.send_again(env, start, end - start, Again::Probe).then_some(true)
    }

    /// What an acknowledgement tells of the probe in flight (RFC 8985 §7.4).
    pub(super) fn take_probe_answer<O>(&mut self, env: &mut Env<'_, O>, news: &News, ack: SeqNumber) {
        let Some(probe) = self.cold.recovery.probe else { return };
        if ack.before(probe.end) {
            return;
        }
        let pure_duplicate = !(news.advanced || news.is_no_duplicate() || news.sacked);
        if !probe.again || news.duplicate_of_probe {
            // A new segment arrived; or both the original and the probe did: nothing was lost.
            self.cold.recovery.probe = None;
        } else if ack.after(probe.end) {
            // Only one of the two has arrived: the probe has repaired a loss, and the window shrinks for it.
            self.begin_reduction(Cause::Loss);
            self.cold.recovery.phase = Phase::Cwr;
            self.end_reduction();
            self.keep_open();
            env.common.stats.loss_probe_recovery += 1;
        } else if pure_duplicate {
            self.cold.recovery.probe = None;
        }
    }
}
