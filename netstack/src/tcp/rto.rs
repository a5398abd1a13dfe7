//! The retransmission timeout (RFC 6298): round trips in, a timeout out.
//!
//! Which round trips may be measured (Karn's rule, timestamps) is decided where acknowledgements are processed.

use std::time::Duration;

use demi_drivers::Instant;

/// Smoothed round-trip time and the timeout that follows from it. All in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RttEstimator {
    srtt_ns: u64,
    rttvar_ns: u64,
    /// The timeout before backoff, and with it.
    base_ns: u64,
    rto_ns: u64,
    min_rtt_ns: u64,
    /// Timeouts in a row.
    backoff: u8,
}

/// The bounds of timeouts, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RtoBounds {
    pub(crate) min_ns: u64,
    pub(crate) max_ns: u64,
}

impl RttEstimator {
    /// Nothing measured yet.
    pub(crate) fn new(initial: Duration) -> Self {
        let rto_ns = u64::try_from(initial.as_nanos()).unwrap_or(u64::MAX);
        RttEstimator { srtt_ns: 0, rttvar_ns: 0, base_ns: rto_ns, rto_ns, min_rtt_ns: u64::MAX, backoff: 0 }
    }

    /// Takes a measured round trip, and ends any backoff (RFC 6298 §5.7).
    #[inline]
    pub(crate) fn sample(&mut self, rtt_ns: u64, bounds: RtoBounds) {
        let rtt_ns = rtt_ns.max(1);
        if self.srtt_ns == 0 {
            // RFC 6298 §2.2
            self.srtt_ns = rtt_ns;
            self.rttvar_ns = rtt_ns / 2;
        } else {
            // RFC 6298 §2.3: alpha 1/8, beta 1/4; the variance first.
            let error = self.srtt_ns.abs_diff(rtt_ns);
            self.rttvar_ns = self.rttvar_ns - self.rttvar_ns / 4 + error / 4;
            self.srtt_ns = self.srtt_ns - self.srtt_ns / 8 + rtt_ns / 8;
        }
        self.min_rtt_ns = self.min_rtt_ns.min(rtt_ns);
        // As Linux, the lower bound is on the variance's part: a timeout is never less than it above the round trip.
        self.base_ns = (self.srtt_ns + (4 * self.rttvar_ns).max(bounds.min_ns)).min(bounds.max_ns);
        self.rto_ns = self.base_ns;
        self.backoff = 0;
    }

    /// The timeout in force, backoff included.
    #[inline]
    pub(crate) fn rto_ns(&self) -> u64 {
        self.rto_ns
    }

    /// A timeout has passed without an acknowledgement (RFC 6298 §5.5).
    pub(crate) fn back_off(&mut self, bounds: RtoBounds) {
        self.backoff = self.backoff.saturating_add(1);
        let factor = 1u64 << self.backoff.min(32);
        self.rto_ns = self.base_ns.saturating_mul(factor).min(bounds.max_ns);
    }

    /// Timeouts in a row.
    pub(crate) fn backoff(&self) -> u8 {
        self.backoff
    }

    /// The peer answered, even if nothing could be measured.
    #[inline]
    pub(crate) fn reset_backoff(&mut self) {
        self.backoff = 0;
        self.rto_ns = self.base_ns;
    }

    /// The SYN had to be sent again and nothing was measured: three seconds from now on (RFC 6298 §5.7).
    pub(crate) fn syn_was_lost(&mut self) {
        if self.srtt_ns == 0 {
            self.base_ns = self.base_ns.max(3_000_000_000);
        }
        self.reset_backoff();
    }

    /// Notes a round trip that is only a bound: of the last of several segments that one acknowledgement tells of.
    pub(crate) fn note_min(&mut self, rtt_ns: u64) {
        self.min_rtt_ns = self.min_rtt_ns.min(rtt_ns.max(1));
    }

    /// Smoothed round-trip time; 0 before the first.
    pub(crate) fn srtt_ns(&self) -> u64 {
        self.srtt_ns
    }

    /// Its mean deviation.
    pub(crate) fn rttvar_ns(&self) -> u64 {
        self.rttvar_ns
    }

    /// The smallest measured; `None` before the first.
    pub(crate) fn min_rtt_ns(&self) -> Option<u64> {
        (self.min_rtt_ns != u64::MAX).then_some(self.min_rtt_ns)
    }
}

/// The round trip told by an echoed timestamp: milliseconds, and no more precise than that (RFC 7323 §4).
#[inline]
pub(crate) fn rtt_from_echo(clock_ms: u32, echo: u32) -> Option<u64> {
    let ms = clock_ms.wrapping_sub(echo);
    // An echo from the future, or from long ago, is a lie or a leftover.
    (ms < 10 * 60 * 1000).then(|| u64::from(ms.max(1)) * 1_000_000)
}

/// Nanoseconds from `then` to `now`; 0 when `then` is not earlier.
#[inline]
pub(crate) fn elapsed_ns(now: Instant, then: Instant) -> u64 {
    now.as_nanos().saturating_sub(then.as_nanos())
}

/// `now` on the clock that timestamps are taken from: milliseconds, modulo 2^32.
#[inline]
pub(crate) fn clock_ms(now: Instant) -> u32 {
    now.as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: RtoBounds = RtoBounds { min_ns: 200_000_000, max_ns: 120_000_000_000 };
    const MS: u64 = 1_000_000;

    #[test]
    fn the_first_sample_sets_and_later_ones_smooth() {
        let mut rtt = RttEstimator::new(Duration::from_secs(1));
        assert_eq!(rtt.rto_ns(), 1000 * MS);
        rtt.sample(100 * MS, BOUNDS);
        assert_eq!((rtt.srtt_ns(), rtt.rttvar_ns()), (100 * MS, 50 * MS));
        assert_eq!(rtt.rto_ns(), 300 * MS, "srtt and at least the minimum");
        rtt.sample(200 * MS, BOUNDS);
        assert_eq!((rtt.srtt_ns(), rtt.rttvar_ns()), (112_500_000, 62_500_000));
        assert_eq!(rtt.rto_ns(), 362_500_000);
        assert_eq!(rtt.min_rtt_ns(), Some(100 * MS));
    }

    #[test]
    fn backoff_doubles_up_to_the_bound_and_a_sample_ends_it() {
        let mut rtt = RttEstimator::new(Duration::from_secs(1));
        let timeouts: Vec<u64> = (0..9)
            .map(|_| {
                rtt.back_off(BOUNDS);
                rtt.rto_ns() / MS
            })
            .collect();
        assert_eq!(timeouts, [2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000, 120_000]);
        rtt.sample(10 * MS, BOUNDS);
        assert_eq!(rtt.rto_ns(), 210 * MS);
        for _ in 0..300 {
            rtt.back_off(BOUNDS);
        }
        assert_eq!(rtt.rto_ns(), BOUNDS.max_ns);
    }

    #[test]
    fn echoes_from_the_future_measure_nothing() {
        assert_eq!(rtt_from_echo(100, 40), Some(60 * MS));
        assert_eq!(rtt_from_echo(100, 100), Some(MS));
        assert_eq!(rtt_from_echo(100, 101), None);
        assert_eq!(rtt_from_echo(5, u32::MAX - 4), Some(10 * MS), "across the wrap");
    }
}
