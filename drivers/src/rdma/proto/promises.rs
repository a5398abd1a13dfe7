//! The division of a shared receive queue among connections.

use super::CONTROL_RECEIVES;
use super::hello::LEAST_CREDITS;

/// How many receives of a shared queue connections have been promised.
///
/// A connection gets what it wants while that is at most half of what is left, so that early ones do not take everything; and at
/// least [`LEAST_CREDITS`]. What the early ones got is not theirs for ever: once three quarters are promised, those that have more than
/// an [equal part](Self::fair) are to give the rest back as it returns to them, and those with less may [grow](Self::grow) while there
/// is room. Promises exceed the queue only by that least: by `connections × (LEAST_CREDITS + CONTROL_RECEIVES)` at the
/// most, and only when all peers of such connections send at once does one meet an empty queue. Its adapter then waits and sends
/// again, with `rnr_retry_count` 7 for as long as it takes.
#[derive(Clone, Debug)]
pub struct Promises {
    receives: u64,
    promised: u64,
    connections: u64,
}

impl Promises {
    /// Of a queue of so many receives, nothing is promised yet.
    pub fn new(receives: u32) -> Promises {
        Promises { receives: u64::from(receives), promised: 0, connections: 0 }
    }

    /// The credits that a new connection grants its peer, of the `wanted` ones. They are promised until they are
    /// [given back](Self::give_back).
    pub fn grant(&mut self, wanted: u16) -> u16 {
        let fair = self.receives.saturating_sub(self.promised) / 2;
        let fair = u16::try_from(fair.saturating_sub(u64::from(CONTROL_RECEIVES))).unwrap_or(u16::MAX);
        let credits = wanted.min(fair).max(LEAST_CREDITS);
        self.promised += u64::from(credits) + u64::from(CONTROL_RECEIVES);
        self.connections += 1;
        credits
    }

    /// The credits that a connection has from now on that had `credits`, has used them up and wants `wanted`: no fewer.
    pub fn grow(&mut self, credits: u16, wanted: u16) -> u16 {
        // Up to its part of all there are; beyond that, of what leaves some for those that come next.
        let part = u64::from(self.part().saturating_sub(credits));
        let own = part.min(self.receives.saturating_sub(self.promised));
        let spare = self.scarce_from().saturating_sub(self.promised) / 2;
        let more = u64::from(wanted.saturating_sub(credits)).min(own.max(spare));
        self.promised += more;
        credits + more as u16
    }

    /// While receives are scarce, the credits that no connection should exceed.
    #[inline]
    pub fn fair(&self) -> Option<u16> {
        (self.promised > self.scarce_from()).then(|| self.part())
    }

    /// Promises beyond which receives are scarce.
    fn scarce_from(&self) -> u64 {
        self.receives - self.receives / 4
    }

    /// The credits of each if all had the same.
    fn part(&self) -> u16 {
        let each = self.receives / self.connections.max(1);
        let part = each.saturating_sub(u64::from(CONTROL_RECEIVES));
        u16::try_from(part).unwrap_or(u16::MAX).max(LEAST_CREDITS)
    }

    /// A connection has given back `credits` of those that it had been granted, and goes on.
    pub fn return_some(&mut self, credits: u16) {
        debug_assert!(u64::from(credits) <= self.promised, "more given back than was promised");
        self.promised = self.promised.saturating_sub(credits.into());
    }

    /// A connection that was granted `credits` is gone.
    pub fn give_back(&mut self, credits: u16) {
        let promised = u64::from(credits) + u64::from(CONTROL_RECEIVES);
        debug_assert!(promised <= self.promised, "more given back than was promised");
        self.promised = self.promised.saturating_sub(promised);
        self.connections = self.connections.saturating_sub(1);
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
    fn what_early_ones_have_too_much_of_goes_to_late_ones() {
        let mut promises = Promises::new(256);
        let mut granted: Vec<u16> = (0..10).map(|_| promises.grant(64)).collect();
        // 256 / 10, and two of each for control messages.
        let fair = promises.fair().unwrap();
        assert_eq!(fair, 23);
        for _ in 0..20 {
            for credits in &mut granted {
                if let Some(fair) = promises.fair()
                    && *credits > fair
                {
                    promises.return_some(*credits - fair);
                    *credits = fair;
                }
                *credits = promises.grow(*credits, 64);
            }
        }
        assert!(granted.iter().all(|credits| *credits == fair), "{granted:?}");
        assert!(promises.promised() <= 256);
        for credits in granted.drain(1..) {
            promises.give_back(credits);
        }
        assert_eq!(promises.grow(granted[0], 64), 64, "alone again");
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
