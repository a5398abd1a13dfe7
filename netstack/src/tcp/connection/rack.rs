//! Losses told by time (RFC 8985, RACK): what was sent well before something that has arrived is lost.
//!
//! How long is "well" adapts: nothing while reordering was never seen and enough has arrived behind the gap, else a quarter of the
//! smallest round trip, and a quarter more for each round trip in which the peer told of needless retransmissions.

use demi_drivers::Instant;

use super::super::rto::elapsed_ns;
use super::super::sent_log::{Position, Record, TimedOut};
use super::recovery::{News, Phase};
use super::{Connection, Env, Retransmit};

/// Recoveries for which a widened window is kept (RFC 8985 §7.1, TCP_RACK's persistence).
const PERSISTENCE: u8 = 16;

/// Added to timers so that they do not fire early: Linux's two ticks of a kilohertz clock.
pub(super) const TIMER_SLACK_NS: u64 = 2_000_000;

/// What loss detection by time remembers (RFC 8985 §5.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rack {
    /// The most recently sent bytes of those that have arrived: when they were sent, and where they end.
    newest: (Instant, Position),
    /// The last round trip.
    rtt_ns: u64,
    /// Something has arrived since the last look.
    advanced: bool,
    /// A needless retransmission was told of in this round.
    needless: bool,
    /// Quarters of the smallest round trip to wait.
    steps: u8,
    /// Recoveries until that goes back to one.
    persist: u8,
    /// Bytes delivered when it was last widened.
    widened_at: u64,
}

impl Rack {
    /// Nothing has arrived yet.
    pub(super) const fn quiet() -> Self {
        Rack {
            newest: (Instant::ZERO, 0),
            rtt_ns: 0,
            advanced: false,
            needless: false,
            steps: 1,
            persist: 0,
            widened_at: 0,
        }
    }
}

impl Rack {
    /// A piece has arrived (RFC 8985 §6.2, steps 1 and 2).
    pub(super) fn advance(&mut self, now: Instant, piece: &Record, min_rtt_ns: Option<u64>) {
        let rtt_ns = elapsed_ns(now, piece.sent_at);
        if !piece.is_timed() && rtt_ns < min_rtt_ns.unwrap_or(u64::MAX) {
            // Too soon to be the retransmission: the first transmission has arrived after all. Or it was sent earlier than its
            // record says.
            return;
        }
        self.advanced = true;
        self.rtt_ns = rtt_ns;
        self.newest = self.newest.max((piece.sent_at, piece.end));
    }

    /// Losses are looked for again, whatever has arrived.
    pub(super) fn look_again(&mut self) {
        self.advanced = true;
    }

    /// The peer has told of a needless retransmission that reordering may have caused.
    pub(super) fn needless(&mut self) {
        self.needless = true;
    }

    /// A recovery that was not needless is over, or one that was.
    pub(super) fn recovered(&mut self, undone: bool) {
        self.persist =
            if undone { (self.persist + 1).min(PERSISTENCE) } else { self.persist.saturating_sub(1) };
    }

    /// When what is lost for sure by now was sent: a round trip ago.
    pub(super) fn round_trip_ago(&self, now: Instant) -> Instant {
        Instant::from_nanos(now.as_nanos().saturating_sub(self.rtt_ns))
    }

    /// Adapts the window to what the peer tells of needless retransmissions (RFC 8985 §6.2, step 4).
    fn adapt(&mut self, prior_delivered: u64, delivered: u64) {
        if prior_delivered < self.widened_at {
            // At most once a round trip.
            self.needless = false;
        }
        if self.needless {
            self.steps = self.steps.saturating_add(1);
            self.needless = false;
            self.widened_at = delivered;
            self.persist = PERSISTENCE;
        } else if self.persist == 0 {
            self.steps = 1;
        }
    }
}

impl<P> Connection<P> {
    /// How long what may be reordered is waited for.
    fn reordering_window_ns<O>(&self, env: &Env<'_, O>) -> u64 {
        let recovery = &self.cold.recovery;
        if recovery.reord_seen == 0 {
            if recovery.phase >= Phase::Recovery {
                return 0;
            }
            let sacked = self.cold.sent.as_ref().map_or(0, |log| log.sacked().segments);
            if sacked >= self.cold.reordering && env.common.config.rack_dup_threshold {
                return 0;
            }
        }
        let quarter_ns = self.rtt.min_rtt_ns().unwrap_or(0) / 4;
        (quarter_ns * u64::from(recovery.rack.steps)).min(self.rtt.srtt_ns())
    }

    /// After each acknowledgement: the window may have to change.
    pub(super) fn adapt_reordering_window<O>(&mut self, env: &Env<'_, O>) {
        if env.common.config.rack_static_window {
            return;
        }
        let delivered = self.delivered();
        if let Some(prior) = self.cold.sent.as_ref().and_then(|log| log.delivery.newest_prior_delivered()) {
            self.cold.recovery.rack.adapt(prior, delivered);
        }
    }

    /// Looks for losses after an acknowledgement (RFC 8985 §6.2, step 5). Arms the timer if some may show without another.
    pub(super) fn lose_by_time<O>(&mut self, env: &mut Env<'_, O>, news: &mut News) {
        if !core::mem::take(&mut self.cold.recovery.rack.advanced) {
            return;
        }
        let again = self.look_for_losses(env, news);
        if let Some(timer_ns) = again {
            self.retransmit = Retransmit::Reorder;
            self.retransmit_at = env.now.plus_nanos(timer_ns + TIMER_SLACK_NS);
            news.timer = false;
        }
    }

    /// Marks what is lost; answers how long to wait for what may be.
    fn look_for_losses<O>(&mut self, env: &mut Env<'_, O>, news: &mut News) -> Option<u64> {
        let rack = self.cold.recovery.rack;
        let wait_ns = rack.rtt_ns + self.reordering_window_ns(env);
        let limit = Instant::from_nanos(env.now.as_nanos().saturating_sub(wait_ns));
        let found = self.cold.sent.as_mut()?.time_out(rack.newest, limit);
        self.note_lost(env, &found, news);
        let waiting = found.waiting?;
        Some((waiting.as_nanos() + wait_ns).saturating_sub(env.now.as_nanos()).max(1))
    }

    /// Counts what has come to count as lost.
    pub(super) fn note_lost<O>(&mut self, env: &mut Env<'_, O>, found: &TimedOut, news: &mut News) {
        news.lost += found.lost.bytes;
        news.lost_again |= found.again.segments > 0;
        env.common.stats.lost_retransmit += u64::from(found.again.segments);
    }

    /// The reordering timer: what was waited for has not come (RFC 8985 §6.3).
    pub(super) fn on_reorder_timeout<O>(&mut self, env: &mut Env<'_, O>) {
        let mut news = News::default();
        self.log();
        self.look_for_losses(env, &mut news);
        if news.lost > 0 {
            if self.cold.recovery.phase != Phase::Recovery {
                self.enter_recovery(env, false);
                news.delivered = u32::from(self.snd_mss);
                self.reduce_window(&news);
            }
            self.flush_due = true;
        }
        self.rearm_timeout(env.now);
        self.update_recovery_bit();
    }
}
