//! The largest of the last few rounds' values, in constant space.
//!
//! The best, and the best of what came after it, twice: when the best grows too old the next takes its place (Kathleen Nichols'
//! algorithm). Of the values between these nothing is known, so the answer may be a little too small for a while, never too large.

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    round: u32,
    value: u64,
}

/// The filter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MaxFilter {
    best: [Sample; 3],
}

impl MaxFilter {
    /// The largest value; 0 when there was none.
    pub(super) fn max(&self) -> u64 {
        self.best[0].value
    }

    /// Takes the value of `round`; those of more than `window` rounds ago do not count any more.
    pub(super) fn update(&mut self, round: u32, value: u64, window: u32) {
        let new = Sample { round, value };
        let age = |sample: Sample| round.wrapping_sub(sample.round);
        if value >= self.best[0].value || age(self.best[2]) > window {
            self.best = [new; 3];
            return;
        }
        if value >= self.best[1].value {
            (self.best[1], self.best[2]) = (new, new);
        } else if value >= self.best[2].value {
            self.best[2] = new;
        }
        if age(self.best[0]) > window {
            self.best = [self.best[1], self.best[2], new];
            if age(self.best[0]) > window {
                self.best = [self.best[1], self.best[2], new];
            }
        } else if self.best[1].round == self.best[0].round && age(self.best[1]) > window / 4 {
            // A quarter of the window without a better one: take any, so that there is one when the best is gone.
            (self.best[1], self.best[2]) = (new, new);
        } else if self.best[2].round == self.best[1].round && age(self.best[2]) > window / 2 {
            self.best[2] = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_counts_until_it_is_too_old() {
        let mut filter = MaxFilter::default();
        filter.update(1, 100, 10);
        for round in 2..=11 {
            filter.update(round, 50, 10);
            assert_eq!(filter.max(), 100, "round {round}");
        }
        filter.update(12, 50, 10);
        assert_eq!(filter.max(), 50);
        filter.update(12, 70, 10);
        assert_eq!(filter.max(), 70);
    }

    #[test]
    fn a_falling_rate_is_followed_and_never_overestimated() {
        let mut filter = MaxFilter::default();
        let values: Vec<u64> = (0..200).map(|round: u64| 10_000 - 40 * round + (round * 7919) % 97).collect();
        for (round, &value) in values.iter().enumerate() {
            filter.update(round as u32, value, 10);
            let exact = *values[round.saturating_sub(10)..=round].iter().max().unwrap();
            assert!(filter.max() <= exact, "round {round}");
            assert!(filter.max() >= value && filter.max() * 100 >= exact * 90, "round {round}");
        }
    }
}
