//! The division of a shared receive queue among connections.

use super::CONTROL_RECEIVES;
use super::hello::LEAST_CREDITS;

/// How many receives of a shared queue connections have been promised.
///
/// A connection gets what it wants while that is at most half of what is left, so that early ones do not take everything; and at
/// least [`LEAST_CREDITS`]. Promises exceed the queue only by that least: by `connections × (LEAST_CREDITS + CONTROL_RECEIVES)` at the
/// most, and only when all peers of such connections send at once does one meet an empty queue. Its adapter then waits and sends
/// again, with `rnr_retry_count` 7 for as long as it takes.
#[derive(Clone, Debug)]
pub struct Promises {
    receives: u64,
    promised: u64,
}

impl Promises {
    /// Of a queue of so many receives, nothing is promised yet.
    pub fn new(receives: u32) -> Promises {
        Promises { receives: u64::from(receives), promised: 0 }
    }

    /// The credits that a new connection grants its peer, of the `wanted` ones. They are promised until they are
    /// [given back](Self::give_back).
    pub fn grant(&mut self, wanted: u16) -> u16 {
        let fair = self.receives.saturating_sub(self.promised) / 2;
        let fair = u16::try_from(fair.saturating_sub(u64::from(CONTROL_RECEIVES))).unwrap_or(u16::MAX);
        let credits = wanted.min(fair).max(LEAST_CREDITS);
        self.promised += u64::from(credits) + u64::from(CONTROL_RECEIVES);
        credits
    }

    /// A connection that was granted `credits` is gone.
    pub fn give_back(&mut self, credits: u16) {
        let promised = u64::from(credits) + u64::from(CONTROL_RECEIVES);
        debug_assert!(promised <= self.promised, "more given back than was promised");
        self.promised = self.promised.saturating_sub(promised);
    }

    /// Receives promised; more than there are when the least had to be given.
    pub fn promised(&self) -> u64 {
        self.promised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_connections_leave_half_and_late_ones_get_the_least() {
        let mut promises = Promises::new(256);
        let granted: Vec<u16> = (0..10).map(|_| promises.grant(64)).collect();
        assert_eq!(granted, [64, 64, 60, 29, 13, 6, 2, 2, 2, 2]);
        for credits in granted {
            promises.give_back(credits);
        }
        assert_eq!(promises.promised(), 0);
    }

    #[test]
    fn what_is_promised_beyond_the_queue_is_the_least_of_each_connection() {
        let least = u64::from(LEAST_CREDITS + CONTROL_RECEIVES);
        for receives in [0, 1, 7, 4096] {
            let mut promises = Promises::new(receives);
            for connections in 1..=10_000 {
                promises.grant(u16::MAX);
                assert!(promises.promised() <= u64::from(receives) + connections * least);
            }
        }
    }
}
