//! How long `adaptive` polls before it blocks, learnt from how far apart events come.
//!
//! Polling pays when the next event comes before it ends: blocking would have cost two context switches and a wake's latency. When the
//! next event comes later, all of the polling was for nothing, and the processor was somebody else's to use. So it is halved with each
//! gap that was longer than the longest polling there may be, down to none, and doubled again with each that was not: it settles where the
//! majority of gaps is. Gaps are known however they were waited for, so what blocks finds out that it could poll.

use std::time::Duration;

/// Events between two idle times up to which it polls for as long as it may.
const FEW_EVENTS: u64 = 4;
/// Halvings after which it does not poll at all.
const NEVER: u8 = 5;

/// What was learnt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spin {
    /// How often it is halved.
    halvings: u8,
}

impl Spin {
    /// How long to poll, of at most `most`, after `events` since the loop was last idle.
    ///
    /// What blocking adds to a request's time is much beside that of one that came alone, and little beside that of one among many, which
    /// had to wait for the others: the more events there were, the sooner it blocks.
    pub(crate) fn after(self, events: u64, most: Duration) -> Duration {
        if self.halvings >= NEVER {
            return Duration::ZERO;
        }
        let among = u32::try_from(events.max(FEW_EVENTS)).unwrap_or(u32::MAX);
        most * FEW_EVENTS as u32 / among / (1 << self.halvings)
    }

    /// The loop was idle for `gap`.
    pub(crate) fn learn(&mut self, gap: Duration, most: Duration) {
        self.halvings = match gap <= most {
            true => self.halvings.saturating_sub(1),
            false => (self.halvings + 1).min(NEVER),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    /// What share of the time was spent polling, and what share of the events found it polling, with gaps that `gap` draws.
    fn shares(mut gap: impl FnMut(u64) -> f64) -> (f64, f64) {
        let mut spin = Spin::default();
        let (mut polled_us, mut all_us, mut caught) = (0.0, 0.0, 0);
        let count = 20_000;
        for number in 0..count {
            let gap_us = gap(number);
            let budget_us = spin.after(1, MOST).as_secs_f64() * 1e6;
            polled_us += gap_us.min(budget_us);
            all_us += gap_us;
            caught += u32::from(gap_us <= budget_us);
            spin.learn(Duration::from_secs_f64(gap_us / 1e6), MOST);
        }
        (polled_us / all_us, f64::from(caught) / count as f64)
    }

    /// Gaps of events that come at random, `mean` microseconds apart.
    fn at_random(mean: f64) -> impl FnMut(u64) -> f64 {
        let mut state = 1u64;
        move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
            -mean * unit.ln()
        }
    }

    #[test]
    fn events_that_come_soon_find_it_polling() {
        for mean in [1.0, 5.0, 20.0] {
            let (_, caught) = shares(at_random(mean));
            assert!(caught > 0.85, "{mean} µs apart: {caught}");
        }
    }

    #[test]
    fn events_far_apart_find_it_blocked_and_cost_little_polling() {
        for mean in [160.0, 1000.0, 20_000.0] {
            let (polled, _) = shares(at_random(mean));
            assert!(polled < 0.05, "{mean} µs apart: {polled} of the time");
        }
    }

    #[test]
    fn it_follows_a_load_that_changes() {
        let mut spin = Spin::default();
        for _ in 0..3 {
            (0..10).for_each(|_| spin.learn(MOST * 10, MOST));
            assert_eq!(spin.after(1, MOST), Duration::ZERO);
            (0..10).for_each(|_| spin.learn(MOST / 3, MOST));
            assert_eq!(spin.after(1, MOST), MOST);
        }
        // One long gap among short ones costs half of one polling.
        spin.learn(MOST * 1000, MOST);
        assert_eq!(spin.after(1, MOST), MOST / 2);
    }

    #[test]
    fn the_more_events_there_were_the_sooner_it_blocks() {
        let spin = Spin::default();
        assert_eq!((spin.after(0, MOST), spin.after(4, MOST)), (MOST, MOST));
        assert_eq!(spin.after(40, MOST), MOST / 10);
        assert!(spin.after(u64::MAX, MOST) < Duration::from_nanos(2));
    }
}
