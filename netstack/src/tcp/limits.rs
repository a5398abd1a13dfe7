//! How often strangers may make us answer: challenge ACKs (RFC 5961 §7) and resets.

use demi_drivers::Instant;

/// A number of answers a second. The number of each second is drawn anew around the configured one, so that counting answers
/// on one connection tells nothing of another (CVE-2016-5696).
pub(crate) struct RateLimit {
    per_second: u32,
    second: u64,
    left: u32,
}

impl RateLimit {
    pub(crate) fn new(per_second: u32) -> Self {
        RateLimit { per_second, second: u64::MAX, left: 0 }
    }

    /// Whether one more answer may go out now; `random` is called at most once a second.
    pub(crate) fn allow(&mut self, now: Instant, random: impl FnOnce() -> u64) -> bool {
        let second = now.as_nanos() / 1_000_000_000;
        if second != self.second {
            self.second = second;
            // From half to one and a half times the configured number, as Linux does.
            let half = self.per_second.div_ceil(2);
            self.left = half + (random() % u64::from(self.per_second.max(1))) as u32;
            if self.per_second == 0 {
                self.left = 0;
            }
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_allows_about_the_configured_number_and_never_the_same() {
        let mut limit = RateLimit::new(100);
        let mut random = 0u64;
        let mut seen = Vec::new();
        for second in 0..20 {
            let now = Instant::from_millis(second * 1000 + 3);
            let allowed = (0..1000)
                .filter(|_| {
                    limit.allow(now, || {
                        random =
                            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1442695040888963407);
                        random >> 33
                    })
                })
                .count();
            assert!((50..150).contains(&allowed), "{allowed}");
            seen.push(allowed);
        }
        seen.dedup();
        assert!(seen.len() > 10, "{seen:?}");
        assert!(!RateLimit::new(0).allow(Instant::ZERO, || 5));
    }
}
