//! Proportional rate reduction (RFC 6937, with the bound of RFC 9937): while losses are repaired, as much goes out as arrives, in
//! the proportion by which the window is to shrink.
//!
//! The congestion window follows what is in flight and meets the threshold when recovery ends.

use super::super::congestion::Cause;
use super::Connection;
use super::recovery::{News, Phase};

/// What has come and gone since the reduction began, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reduction {
    delivered: u64,
    out: u64,
}

impl Reduction {
    /// No reduction.
    pub(super) const fn quiet() -> Self {
        Reduction { delivered: 0, out: 0 }
    }

    /// Something has been sent.
    pub(super) fn sent(&mut self, bytes: u32) {
        self.out += u64::from(bytes);
    }

    /// Bytes that may be sent now, with `pipe` in flight, when the window was `prior_cwnd` before.
    fn quota(&mut self, (pipe, prior_cwnd): (u32, u32), threshold: u32, mss: u32, news: &News) -> u32 {
        self.delivered += u64::from(news.delivered);
        let (out, mss) = (self.out, u64::from(mss.max(1)));
        // In whole segments, as Linux counts.
        let (threshold, prior) = (u64::from(threshold) / mss, (u64::from(prior_cwnd) / mss).max(1));
        let quota = match (threshold * mss).checked_sub(u64::from(pipe)) {
            None => {
                // RFC 6937 §3: the share of what was delivered, in whole segments, rounded up.
                let share = (threshold * self.delivered).div_ceil(prior);
                (share.div_ceil(mss) * mss).saturating_sub(out)
            }
            Some(room) => {
                // Slow start up to the threshold, but only while what was sent again arrives and nothing more is lost.
                let mut quota = self.delivered.saturating_sub(out).max(u64::from(news.delivered));
                if news.advanced && news.lost == 0 {
                    quota += mss;
                }
                quota.min(room)
            }
        };
        // The first loss goes out at once.
        u32::try_from(quota.max(if out > 0 { 0 } else { mss })).unwrap_or(u32::MAX)
    }
}

impl<P> Connection<P> {
    /// Whether the windows are moved by proportional reduction in recovery: not those of an algorithm with a model of its own, or without any.
    pub(super) fn reduces_window(&self) -> bool {
        self.cold.congestion.reduces()
    }

    /// A reduction of the window begins.
    pub(super) fn begin_reduction(&mut self, cause: Cause) {
        let mss = u32::from(self.snd_mss);
        self.cold.recovery.undo.prior_cwnd = self.window.cwnd;
        // The window's size follows what arrives, not the threshold at once.
        self.cold.congestion.lower_threshold(&mut self.window, mss, cause);
        self.tell_reduced();
        let recovery = &mut self.cold.recovery;
        self.cold.recovery_point = self.snd_max;
        recovery.probe = None;
        recovery.reduction = Reduction::quiet();
        self.timing = false;
    }

    /// An acknowledgement during a reduction: sets the window to what is in flight and what may go out.
    pub(super) fn reduce_window(&mut self, news: &News) {
        if news.delivered == 0 || !self.reduces_window() {
            return;
        }
        let (pipe, mss) = (self.in_flight_in_recovery(), u32::from(self.snd_mss));
        let recovery = &mut self.cold.recovery;
        let before = (pipe, recovery.undo.prior_cwnd);
        let quota = recovery.reduction.quota(before, self.window.ssthresh, mss, news);
        self.window.cwnd = pipe.saturating_add(quota);
    }

    /// The reduction is over: the window is what it was to become, unless the reduction has been undone.
    pub(super) fn end_reduction(&mut self) {
        let recovery = &self.cold.recovery;
        let reduced = recovery.phase == Phase::Cwr || recovery.undo.marker.is_some();
        if reduced && self.reduces_window() {
            self.window.cwnd = self.window.ssthresh;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    fn news(delivered: u32, advanced: bool, lost: u32) -> News {
        News { delivered, advanced, lost, ..News::default() }
    }

    #[test]
    fn seven_go_out_for_ten_that_arrive() {
        let mut reduction = Reduction::quiet();
        let mut sent = 0;
        let mut pipe = 17 * MSS;
        for _ in 0..10 {
            pipe -= MSS;
            let quota = reduction.quota((pipe, 10 * MSS), 7 * MSS, MSS, &news(MSS, false, 0));
            assert!(quota.is_multiple_of(MSS) && quota <= MSS, "no bursts: {quota}");
            reduction.sent(quota);
            sent += quota;
        }
        assert_eq!(sent, 7 * MSS);
    }

    #[test]
    fn below_the_threshold_it_conserves_while_losses_show_and_grows_when_they_do_not() {
        let mut reduction = Reduction::quiet();
        assert_eq!(reduction.quota((2 * MSS, 10 * MSS), 7 * MSS, MSS, &news(MSS, true, MSS)), MSS);
        reduction.sent(MSS);
        assert_eq!(reduction.quota((2 * MSS, 10 * MSS), 7 * MSS, MSS, &news(MSS, true, 0)), 2 * MSS);
        reduction.sent(2 * MSS);
        assert_eq!(
            reduction.quota((7 * MSS, 10 * MSS), 7 * MSS, MSS, &news(MSS, true, 0)),
            0,
            "no more than the threshold"
        );
    }

    #[test]
    fn the_first_goes_out_at_once() {
        let mut reduction = Reduction::quiet();
        assert_eq!(reduction.quota((99 * MSS, 100 * MSS), MSS, MSS, &news(1, false, MSS)), MSS);
    }
}
