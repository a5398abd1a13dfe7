//! Slow start, and when to leave it before it overflows the path: HyStart++ (RFC 9406).
//!
//! Round trips are watched a round (a window's worth of acknowledgements) at a time. When their minimum has risen against the
//! round before, growth slows down for five rounds (conservative slow start, CSS); if the minimum falls again meanwhile the rise
//! was noise, else congestion avoidance begins from the window that was reached. Only the first slow start of a connection, whose
//! threshold nobody knows, is watched (RFC 9406 §4.3): later ones end at a threshold that a loss has taught.

use super::super::seq::SeqNumber;
use super::{Acked, Window};

/// RFC 9406 §4.3: bounds of the rise that counts, and the part of a round trip that it is between them.
const MIN_RTT_THRESH_US: u32 = 4_000;
const MAX_RTT_THRESH_US: u32 = 16_000;
const MIN_RTT_DIVISOR: u32 = 8;
/// Samples that a round must have to be believed.
const N_RTT_SAMPLE: u8 = 8;
/// CSS grows by this part of what slow start would, for so many rounds.
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;

/// No round trip measured.
const NONE: u32 = u32::MAX;

/// What is remembered of rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HyStart {
    enabled: bool,
    /// A round is under way.
    started: bool,
    /// It ends when this is acknowledged.
    round_end: SeqNumber,
    last_min_us: u32,
    min_us: u32,
    samples: u8,
    /// In CSS: the minimum when it began, or `NONE`.
    baseline_us: u32,
    css_rounds: u8,
}

impl HyStart {
    pub(super) fn new(enabled: bool) -> Self {
        HyStart {
            enabled,
            started: false,
            round_end: SeqNumber::default(),
            last_min_us: NONE,
            min_us: NONE,
            samples: 0,
            baseline_us: NONE,
            css_rounds: 0,
        }
    }

    /// Grows a window that is below its threshold by what was acknowledged; answers the bytes that were acknowledged beyond the
    /// threshold, for congestion avoidance.
    pub(super) fn grow(&mut self, window: &mut Window, ack: &Acked) -> u32 {
        let watched = self.enabled && window.is_unlimited();
        let mut limit = ack.bytes;
        if watched {
            self.watch(ack);
            if self.in_css() {
                // RFC 9406 §4.2. A remainder is no reason not to grow at all.
                limit = (ack.bytes / CSS_GROWTH_DIVISOR).max(1);
            }
        }
        // As Linux, slow start counts all bytes that one acknowledgement covers: stretched ones are common.
        let left = window.slow_start(ack.bytes, limit);
        if watched && self.css_rounds >= CSS_ROUNDS {
            // RFC 9406 §4.2: the rise lasts.
            window.ssthresh = window.cwnd;
        }
        if limit < ack.bytes { 0 } else { left }
    }

    /// Whether growth has slowed down.
    fn in_css(&self) -> bool {
        self.baseline_us != NONE
    }

    fn watch(&mut self, ack: &Acked) {
        if !self.started || ack.una.at_or_after(self.round_end) {
            if self.started && self.in_css() {
                self.css_rounds += 1;
            }
            self.started = true;
            self.round_end = ack.nxt;
            self.last_min_us = self.min_us;
            self.min_us = NONE;
            self.samples = 0;
        }
        let Some(rtt_ns) = ack.rtt_ns else { return };
        let rtt_us = u32::try_from(rtt_ns / 1000).unwrap_or(NONE - 1);
        self.min_us = self.min_us.min(rtt_us);
        self.samples = self.samples.saturating_add(1);
        if self.samples < N_RTT_SAMPLE {
            return;
        }
        if self.in_css() {
            if self.min_us < self.baseline_us {
                // RFC 9406 §4.2: it was noise.
                self.baseline_us = NONE;
                self.css_rounds = 0;
            }
        } else if self.last_min_us != NONE {
            let rise_us = (self.last_min_us / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH_US, MAX_RTT_THRESH_US);
            if self.min_us >= self.last_min_us.saturating_add(rise_us) {
                self.baseline_us = self.min_us;
                self.css_rounds = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use demi_drivers::Instant;

    use super::*;

    const MSS: u32 = 1000;

    /// Acknowledges a window, a segment at a time, all of which took `rtt_ms`; answers the segments of the window after it.
    fn round(hystart: &mut HyStart, window: &mut Window, una: &mut SeqNumber, rtt_ms: u64) -> u32 {
        for _ in 0..window.cwnd / MSS {
            if !window.in_slow_start() {
                break;
            }
            let nxt = *una + window.cwnd;
            *una += MSS;
            let rtt_ns = rtt_ms * 1_000_000;
            let ack = Acked {
                bytes: MSS,
                mss: MSS,
                now: Instant::ZERO,
                srtt_ns: rtt_ns,
                rtt_ns: Some(rtt_ns),
                una: *una,
                nxt,
            };
            hystart.grow(window, &ack);
        }
        window.cwnd / MSS
    }

    #[test]
    fn an_even_path_is_doubled_on() {
        let (mut hystart, mut window, mut una) =
            (HyStart::new(true), Window::initial(10, MSS), SeqNumber::new(0));
        let windows: Vec<u32> = (0..5).map(|_| round(&mut hystart, &mut window, &mut una, 50)).collect();
        assert_eq!(windows, [20, 40, 80, 160, 320]);
    }

    #[test]
    fn a_rise_that_lasts_ends_slow_start_after_five_slow_rounds() {
        let (mut hystart, mut window, mut una) =
            (HyStart::new(true), Window::initial(10, MSS), SeqNumber::new(0));
        assert_eq!(round(&mut hystart, &mut window, &mut una, 50), 20);
        // An eighth of 50 ms is 6.25 ms.
        assert_eq!(round(&mut hystart, &mut window, &mut una, 55), 40, "not enough of a rise");
        let slow = round(&mut hystart, &mut window, &mut una, 70);
        assert_eq!(slow, 80, "the round before is still being acknowledged when this one begins");
        let mut rounds = 0;
        while window.in_slow_start() {
            let before = window.cwnd;
            round(&mut hystart, &mut window, &mut una, 70);
            assert!(window.cwnd <= before + before / 4 + MSS, "a quarter a round");
            rounds += 1;
        }
        assert_eq!(rounds, 5);
        assert_eq!(window.ssthresh, window.cwnd);
    }

    #[test]
    fn a_rise_that_was_noise_is_forgotten() {
        let (mut hystart, mut window, mut una) =
            (HyStart::new(true), Window::initial(10, MSS), SeqNumber::new(0));
        round(&mut hystart, &mut window, &mut una, 20);
        round(&mut hystart, &mut window, &mut una, 40);
        round(&mut hystart, &mut window, &mut una, 40);
        assert!(hystart.in_css());
        let before = window.cwnd;
        round(&mut hystart, &mut window, &mut una, 20);
        assert!(!hystart.in_css());
        assert!(window.cwnd > before + before / 2);
        assert!(window.is_unlimited());
    }

    #[test]
    fn a_known_threshold_is_not_second_guessed() {
        let mut hystart = HyStart::new(true);
        let mut window = Window { cwnd: 10 * MSS, ssthresh: 1000 * MSS };
        let mut una = SeqNumber::new(0);
        for rtt in [10, 40, 80, 160] {
            round(&mut hystart, &mut window, &mut una, rtt);
        }
        assert_eq!(window.cwnd, 160 * MSS);
    }

    #[test]
    fn few_samples_prove_nothing() {
        let (mut hystart, mut window, mut una) =
            (HyStart::new(true), Window::initial(4, MSS), SeqNumber::new(0));
        round(&mut hystart, &mut window, &mut una, 10);
        round(&mut hystart, &mut window, &mut una, 100);
        assert!(!hystart.in_css(), "four samples in the first round, seven in the second at most");
    }
}
