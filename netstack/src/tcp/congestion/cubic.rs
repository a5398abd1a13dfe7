//! CUBIC (RFC 9438): after a loss the window grows as a cubic of the time since, back to where it was and beyond.

use demi_drivers::Instant;

use super::{Acked, Algorithm, MAX_WINDOW_BYTES, Window};

/// RFC 9438 §5: the cubic's factor, in segments a second cubed.
const C: f64 = 0.4;
/// RFC 9438 §4.6: what is kept of the window at a loss.
const BETA: f64 = 0.7;

/// What CUBIC remembers. Windows are in segments, as in the RFC; times in seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cubic {
    /// When this growth period began; `None` right after a loss or idleness.
    epoch: Option<Instant>,
    /// Window right before the last reduction.
    w_max: f64,
    /// Seconds from the epoch until the cubic reaches `w_max` (RFC 9438 §4.2).
    k: f64,
    /// What Reno would have by now (RFC 9438 §4.3).
    w_est: f64,
    /// Window when the last reduction struck: where Reno's estimate may grow at full speed again.
    cwnd_prior: f64,
    /// Fraction of a byte of growth not yet applied.
    owed_bytes: f64,
}

impl Algorithm for Cubic {
    fn on_ack(&mut self, window: &mut Window, ack: Acked) {
        let mut bytes = ack.bytes;
        if window.in_slow_start() {
            bytes = window.slow_start(bytes, u32::MAX);
            if bytes == 0 {
                return;
            }
        }
        let mss = f64::from(ack.mss.max(1));
        let cwnd = f64::from(window.cwnd) / mss;
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                self.begin(ack.now, cwnd);
                ack.now
            }
        };
        let acked_segments = f64::from(bytes) / mss;

        // RFC 9438 §4.2: the cubic, one round trip ahead.
        let t = ack.now.since(epoch).as_secs_f64() + ack.srtt_ns as f64 / 1e9;
        let w_cubic = C * (t - self.k).powi(3) + self.w_max;

        // RFC 9438 §4.3: Reno's growth, with the factor that makes both equally aggressive.
        let alpha = if self.w_est < self.cwnd_prior { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        self.w_est += alpha * acked_segments / cwnd;

        let target = if w_cubic < self.w_est { self.w_est } else { w_cubic.clamp(cwnd, 1.5 * cwnd) };
        // RFC 9438 §4.4: (target - cwnd) / cwnd for each acknowledged segment.
        self.owed_bytes += ((target - cwnd).max(0.0) / cwnd * acked_segments * mss).min(f64::from(bytes));
        let whole = self.owed_bytes as u32;
        self.owed_bytes -= f64::from(whole);
        window.cwnd = window.cwnd.saturating_add(whole).min(MAX_WINDOW_BYTES);
    }

    fn threshold_after_loss(&mut self, window: &Window, flight: u32, mss: u32) -> u32 {
        let mss_f = f64::from(mss.max(1));
        let cwnd = f64::from(window.cwnd) / mss_f;
        self.cwnd_prior = cwnd;
        // RFC 9438 §4.7: a window that shrinks from loss to loss lets newcomers in.
        self.w_max = if cwnd < self.w_max { cwnd * (1.0 + BETA) / 2.0 } else { cwnd };
        self.epoch = None;
        self.owed_bytes = 0.0;
        // RFC 9438 §4.6: from what was really in flight, should the application not have filled the window.
        (f64::from(flight.min(window.cwnd)) * BETA) as u32
    }

    fn on_timeout(&mut self) {
        // RFC 9438 §4.8: the cubic starts over once slow start has reached the threshold.
        self.epoch = None;
    }

    fn on_idle(&mut self) {
        self.epoch = None;
    }
}

impl Cubic {
    fn begin(&mut self, now: Instant, cwnd: f64) {
        self.epoch = Some(now);
        self.w_est = cwnd;
        if self.w_max > cwnd {
            self.k = ((self.w_max - cwnd) / C).cbrt();
        } else {
            self.k = 0.0;
            self.w_max = cwnd;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    /// Acknowledges `window` bytes over one round trip of `rtt_ms`, a segment at a time.
    fn round(cubic: &mut Cubic, window: &mut Window, now: &mut Instant, rtt_ms: u64) {
        let segments = window.cwnd / MSS;
        for _ in 0..segments {
            *now = now.plus_nanos(rtt_ms * 1_000_000 / u64::from(segments));
            let ack = Acked { bytes: MSS, mss: MSS, now: *now, srtt_ns: rtt_ms * 1_000_000 };
            cubic.on_ack(window, ack);
        }
    }

    #[test]
    fn a_loss_keeps_seven_tenths() {
        let mut cubic = Cubic::default();
        let window = Window { cwnd: 100 * MSS, ssthresh: 50 * MSS };
        assert_eq!(cubic.threshold_after_loss(&window, 100 * MSS, MSS), 70 * MSS);
    }

    #[test]
    fn the_window_is_back_where_it_was_after_k_seconds() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 1000 * MSS, ssthresh: 500 * MSS };
        window.ssthresh = cubic.threshold_after_loss(&window, 1000 * MSS, MSS);
        window.cwnd = window.ssthresh;
        // K = cbrt(300 / 0.4) = 9.1 s
        let mut now = Instant::ZERO;
        while now < Instant::from_millis(4500) {
            round(&mut cubic, &mut window, &mut now, 100);
        }
        assert!((900..990).contains(&(window.cwnd / MSS)), "concave: most of it soon, {window:?}");
        while now < Instant::from_millis(9200) {
            round(&mut cubic, &mut window, &mut now, 100);
        }
        assert!((990..1015).contains(&(window.cwnd / MSS)), "{window:?}");
        while now < Instant::from_millis(18_000) {
            round(&mut cubic, &mut window, &mut now, 100);
        }
        assert!(window.cwnd / MSS > 1200, "and convex beyond, {window:?}");
    }

    #[test]
    fn on_short_paths_it_grows_no_slower_than_reno() {
        let mut cubic = Cubic::default();
        let mut window = Window { cwnd: 20 * MSS, ssthresh: 10 * MSS };
        window.ssthresh = cubic.threshold_after_loss(&window, 20 * MSS, MSS);
        window.cwnd = window.ssthresh;
        let mut now = Instant::ZERO;
        for _ in 0..40 {
            round(&mut cubic, &mut window, &mut now, 1);
        }
        // 14 segments, 0.53 of a segment a round up to 20, then a whole one.
        assert!((35..60).contains(&(window.cwnd / MSS)), "{window:?}");
    }

    #[test]
    fn a_second_loss_below_the_last_maximum_gives_way() {
        let mut cubic = Cubic::default();
        let window = Window { cwnd: 100 * MSS, ssthresh: 1 };
        cubic.threshold_after_loss(&window, window.cwnd, MSS);
        let window = Window { cwnd: 80 * MSS, ssthresh: 1 };
        cubic.threshold_after_loss(&window, window.cwnd, MSS);
        assert!((cubic.w_max - 68.0).abs() < 1e-9, "{}", cubic.w_max);
    }
}
