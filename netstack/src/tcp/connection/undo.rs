//! Undo: a reduction that turns out to have been for nothing is taken back.
//!
//! It was for nothing when every retransmission arrived twice (RFC 2883, RFC 3708), or when the acknowledgement of what was
//! thought lost echoes a timestamp from before it was sent again (RFC 3522, RFC 4015).

use super::super::seq::{SeqNumber, timestamp_before};
use super::recovery::{News, Phase};
use super::{Connection, Env};

/// What an undo needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    /// Where the reduction struck; `None`: there is nothing to take back.
    pub(super) marker: Option<SeqNumber>,
    /// Retransmissions not yet shown to be needless; `None` before the first.
    pub(super) outstanding: Option<u32>,
    /// The timestamp of the first retransmission.
    pub(super) stamp: Option<u32>,
    /// The window before the reduction.
    pub(super) prior_cwnd: u32,
    /// Congestion control remembers what the windows were; else they stay reduced.
    pub(super) restores: bool,
}

impl Undo {
    /// There is nothing to take back.
    pub(super) const fn quiet() -> Self {
        Undo { marker: None, outstanding: None, stamp: None, prior_cwnd: 0, restores: false }
    }

    /// `segments` retransmissions have turned out needless.
    pub(super) fn needless(&mut self, segments: u32) {
        if self.marker.is_some()
            && let Some(left) = &mut self.outstanding
        {
            *left = left.saturating_sub(segments);
        }
    }

    /// Segments have been sent again, with `stamp` for a timestamp.
    pub(super) fn resent(&mut self, segments: u32, stamp: u32) {
        self.outstanding = Some(self.outstanding.unwrap_or(0) + segments);
        self.stamp.get_or_insert(stamp);
    }
}

impl<P> Connection<P> {
    /// Remembers what an undo would restore to.
    pub(super) fn begin_undo(&mut self, restores: bool) {
        let again = self.cold.recovery.probe.is_some_and(|probe| probe.again);
        let in_flight = self.cold.sent.as_ref().map_or(0, |log| log.retrans().segments) + u32::from(again);
        let una = self.snd_una;
        let undo = &mut self.cold.recovery.undo;
        undo.marker = Some(una);
        // What is in flight already may be told of as needless, too.
        undo.outstanding = (in_flight > 0).then_some(in_flight);
        undo.restores = restores;
    }

    /// Whether something has been sent again of which the end is not known.
    pub(super) fn any_retransmission(&self) -> bool {
        let Some(log) = &self.cold.sent else { return false };
        log.retrans().segments > 0
            || log.head().is_some_and(|head| head.has(super::super::sent_log::mark::EVER))
    }

    /// Whether what was thought lost has arrived late: this acknowledgement answers something from before the first
    /// retransmission.
    fn was_delayed(&self, news: &News) -> bool {
        match self.cold.recovery.undo.stamp {
            Some(stamp) => news.echo.is_some_and(|echo| timestamp_before(echo, stamp)),
            // Nothing has been sent again yet. Without SACK the stamp may have been forgotten at the end.
            None => self.sack_ok || self.snd_una.before(self.cold.recovery_point),
        }
    }

    fn may_undo(&self, news: &News) -> bool {
        let undo = &self.cold.recovery.undo;
        undo.marker.is_some() && (undo.outstanding == Some(0) || self.was_delayed(news))
    }

    fn undo_reduction(&mut self, unlose: bool) {
        if unlose && let Some(log) = &mut self.cold.sent {
            log.unlose();
        }
        let undo = &mut self.cold.recovery.undo;
        undo.marker = None;
        if core::mem::take(&mut undo.restores) {
            self.cold.congestion.undo(&mut self.window);
            self.withdraw_reduced();
        }
        self.cold.recovery.rack.look_again();
    }

    /// Without SACK, recovery is not over until something beyond its point is acknowledged: late duplicates of what it sent
    /// twice would begin another (RFC 6582 §3.2 step 1).
    fn stays_closed(&mut self) -> bool {
        if self.sack_ok || self.snd_una != self.cold.recovery_point {
            return false;
        }
        if !self.any_retransmission() {
            self.cold.recovery.undo.stamp = None;
        }
        true
    }

    /// All that was outstanding when recovery began is acknowledged. Answers whether the state is kept all the same.
    pub(super) fn undo_recovery<O>(&mut self, env: &mut Env<'_, O>, news: &News) -> bool {
        if self.may_undo(news) {
            let loss = self.cold.recovery.phase == Phase::Loss;
            self.undo_reduction(false);
            *if loss { &mut env.common.stats.loss_undo } else { &mut env.common.stats.full_undo } += 1;
        } else {
            self.cold.recovery.rack.recovered(false);
        }
        if self.stays_closed() {
            return true;
        }
        self.cold.recovery.phase = Phase::Open;
        self.cold.recovery.reneged = false;
        false
    }

    /// Every retransmission was needless.
    pub(super) fn undo_by_duplicates<O>(&mut self, env: &mut Env<'_, O>) -> bool {
        let undo = &self.cold.recovery.undo;
        if undo.marker.is_none() || undo.outstanding != Some(0) {
            return false;
        }
        self.cold.recovery.rack.recovered(true);
        self.undo_reduction(false);
        env.common.stats.dsack_undo += 1;
        true
    }

    /// A part of what recovery sent again is acknowledged. Answers whether nothing more is to be marked or sent again.
    pub(super) fn undo_partial<O>(&mut self, env: &mut Env<'_, O>, news: &News) -> bool {
        if self.cold.recovery.undo.marker.is_none() || !self.was_delayed(news) {
            return false;
        }
        // The hole was filled by something late, not by the retransmission: that is reordering.
        self.note_reordering(env, news.prior_una_position, true);
        if self.cold.sent.as_ref().is_some_and(|log| log.retrans().segments > 0) {
            return true;
        }
        if !self.any_retransmission() {
            self.cold.recovery.undo.stamp = None;
        }
        self.undo_reduction(true);
        env.common.stats.partial_undo += 1;
        self.keep_open();
        false
    }

    /// The timeout was for nothing. `spurious`: something never sent again has arrived (RFC 5682).
    pub(super) fn undo_loss<O>(&mut self, env: &mut Env<'_, O>, news: &News, spurious: bool) -> bool {
        if !spurious && !self.may_undo(news) {
            return false;
        }
        self.undo_reduction(true);
        env.common.stats.loss_undo += 1;
        env.common.stats.spurious_rtos += u64::from(spurious);
        self.cold.timeouts = 0;
        if self.stays_closed() {
            return true;
        }
        if spurious || self.sack_ok {
            self.cold.recovery.phase = Phase::Open;
            self.cold.recovery.reneged = false;
        }
        true
    }
}
