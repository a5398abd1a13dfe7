//! CUBIC (RFC 9438): after a loss the window grows as a cubic of the time since, back to where it was and beyond.

use demi_drivers::Instant;

use super::super::rare::Quiet;
use super::{Acked, Algorithm, Cause, MAX_WINDOW_BYTES, Window};

/// RFC 9438 §5: the cubic's factor, in segments a second cubed.
const C: f64 = 0.4;
/// RFC 9438 §4.6: what is kept of the window at a loss. Linux's fraction of 1024, which no rounding makes less than 0.7.
const BETA_1024: u64 = 717;
const BETA: f64 = BETA_1024 as f64 / 1024.0;

/// What CUBIC remembers. Windows are in segments, as in the RFC; times in seconds.
#[derive(Clone, Debug)]
pub(crate) struct Cubic {
    curve: Curve,
    /// The curve before the last reduction, should that prove needless.
    before: Curve,
    /// When the window last grew.
    grown_at: Instant,
    /// Fraction of a byte of growth not yet applied.
    owed_bytes: f32,
}

/// The curve that the window follows.
#[derive(Clone, Copy, Debug)]
struct Curve {
    /// When this growth period began; zero right after a loss.
    epoch: Instant,
    /// What Reno would have by now (RFC 9438 §4.3).
    w_est: f64,
    /// Window right before the last reduction.
    w_max: f32,
    /// Seconds from the epoch until the cubic reaches `w_max` (RFC 9438 §4.2).
    k: f32,
    /// Window when the last reduction struck: where Reno's estimate may grow at full speed again.
    cwnd_prior: f32,
}

impl Cubic {
    /// No loss yet.
    const fn quiet() -> Self {
        let curve = Curve { epoch: Instant::ZERO, w_est: 0.0, w_max: 0.0, k: 0.0, cwnd_prior: 0.0 };
        Cubic { curve, before: curve, grown_at: Instant::ZERO, owed_bytes: 0.0 }
    }
}

impl Quiet for Cubic {
    const QUIET: &'static Self = &Cubic::quiet();

    fn quiet() -> Self {
        Cubic::quiet()
    }
}

impl Algorithm for Cubic {
    fn avoid(&mut self, window: &mut Window, ack: &Acked, bytes: u32) {
        let mss = f64::from(ack.mss.max(1));
        let cwnd = f64::from(window.cwnd) / mss;
        let epoch = self.epoch(ack, cwnd);
        let acked_segments = f64::from(bytes) / mss;
        let curve = &mut self.curve;

        // RFC 9438 §4.2: the cubic, one round trip ahead.
        let t = ack.now.since(epoch).as_secs_f64() + ack.srtt_ns as f64 / 1e9;
        let w_cubic = C * (t - f64::from(curve.k)).powi(3) + f64::from(curve.w_max);

        // RFC 9438 §4.3: Reno's growth, with the factor that makes both equally aggressive.
        let alpha =
            if curve.w_est < f64::from(curve.cwnd_prior) { 3.0 * (1.0 - BETA) / (1.0 + BETA) } else { 1.0 };
        curve.w_est += alpha * acked_segments / cwnd;

        let target = if w_cubic < curve.w_est { curve.w_est } else { w_cubic.clamp(cwnd, 1.5 * cwnd) };
        // RFC 9438 §4.4: (target - cwnd) / cwnd for each acknowledged segment.
        let growth = ((target - cwnd).max(0.0) / cwnd * acked_segments * mss).min(f64::from(bytes));
        let owed = f64::from(self.owed_bytes) + growth;
        let whole = owed as u32;
        self.owed_bytes = (owed - f64::from(whole)) as f32;
        window.cwnd = window.cwnd.saturating_add(whole).min(MAX_WINDOW_BYTES);
    }

    fn threshold(&mut self, window: &Window, mss: u32, _cause: Cause) -> u32 {
        let mss_f = f64::from(mss.max(1));
        let cwnd = (f64::from(window.cwnd) / mss_f) as f32;
        // RFC 9438 §4.9
        self.before = self.curve;
        let curve = &mut self.curve;
        curve.cwnd_prior = cwnd;
        // RFC 9438 §4.7: a window that shrinks from loss to loss lets newcomers in.
        curve.w_max = if cwnd < curve.w_max { cwnd * (1.0 + BETA as f32) / 2.0 } else { cwnd };
        // After a timeout, too, the cubic starts over once slow start has reached the threshold (RFC 9438 §4.8).
        curve.epoch = Instant::ZERO;
        self.owed_bytes = 0.0;
        // RFC 9438 §4.6; of the window, as Linux: what is not used of it is taken back in time.
        (u64::from(window.cwnd) * BETA_1024 / 1024) as u32
    }

    fn undo(&mut self) {
        self.curve = self.before;
        self.owed_bytes = 0.0;
    }
}

impl Cubic {
    /// When the present growth period began, on a clock that only runs while the window limits sending.
    fn epoch(&mut self, ack: &Acked, cwnd: f64) -> Instant {
        let paused_ns = ack.now.as_nanos().saturating_sub(self.grown_at.as_nanos());
        self.grown_at = ack.now;
        if self.curve.epoch == Instant::ZERO {
            self.begin(cwnd);
            self.curve.epoch = ack.now;
        } else if paused_ns > ack.srtt_ns.saturating_mul(2) {
            // RFC 9438 §5.8: the window must not leap for the time in which nobody made use of it.
            self.curve.epoch = self.curve.epoch.plus_nanos(paused_ns - ack.srtt_ns).min(ack.now);
        }
        self.curve.epoch
    }

    fn begin(&mut self, cwnd: f64) {
        let curve = &mut self.curve;
        curve.w_est = cwnd;
        let above = f64::from(curve.w_max) - cwnd;
        if above > 0.0 {
            curve.k = (above / C).cbrt() as f32;
        } else {
            curve.k = 0.0;
            curve.w_max = cwnd as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::acked;
    use super::*;

    const MSS: u32 = 1000;

    /// Acknowledges `window` bytes over one round trip of `rtt_ms`, a segment at a time.
    fn round(cubic: &mut Cubic, window: &mut Window, now: &mut Instant, rtt_ms: u64) {
        let segments = window.cwnd / MSS;
        for _ in 0..segments {
            *now = now.plus_nanos(rtt_ms * 1_000_000 / u64::from(segments));
            let srtt_ns = rtt_ms * 1_000_000;
            cubic.avoid(window, &Acked { mss: MSS, now: *now, srtt_ns, ..acked(MSS) }, MSS);
        }
    }

    #[test]
    fn a_loss_keeps_seven_tenths() {
        let mut cubic = Cubic::quiet();
        let window = Window { cwnd: 100 * MSS, ssthresh: 50 * MSS };
        assert_eq!(cubic.threshold(&window, MSS, Cause::Loss) / MSS, 70);
    }

    #[test]
    fn a_reduction_that_was_needless_is_forgotten() {
        let mut cubic = Cubic::quiet();
        let mut window = Window { cwnd: 100 * MSS, ssthresh: 70 * MSS };
        cubic.threshold(&window, MSS, Cause::Loss);
        let mut now = Instant::from_millis(1);
        round(&mut cubic, &mut window, &mut now, 10);
        let curve = cubic.curve;
        cubic.threshold(&window, MSS, Cause::Loss);
        cubic.undo();
        assert_eq!((cubic.curve.epoch, cubic.curve.w_max), (curve.epoch, curve.w_max));
    }

    #[test]
    fn a_pause_does_not_let_the_window_leap() {
        let mut cubic = Cubic::quiet();
        let mut window = Window { cwnd: 100 * MSS, ssthresh: 50 * MSS };
        window.cwnd = cubic.threshold(&window, MSS, Cause::Loss);
        let mut now = Instant::from_millis(1);
        round(&mut cubic, &mut window, &mut now, 100);
        let before = window.cwnd;
        now += std::time::Duration::from_secs(60);
        round(&mut cubic, &mut window, &mut now, 100);
        assert!(window.cwnd < before + 10 * MSS, "{before} then {window:?}");
    }

    #[test]
    fn the_window_is_back_where_it_was_after_k_seconds() {
        let mut cubic = Cubic::quiet();
        let mut window = Window { cwnd: 1000 * MSS, ssthresh: 500 * MSS };
        window.ssthresh = cubic.threshold(&window, MSS, Cause::Loss);
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
        let mut cubic = Cubic::quiet();
        let mut window = Window { cwnd: 20 * MSS, ssthresh: 10 * MSS };
        window.ssthresh = cubic.threshold(&window, MSS, Cause::Loss);
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
        let mut cubic = Cubic::quiet();
        let window = Window { cwnd: 100 * MSS, ssthresh: 1 };
        cubic.threshold(&window, MSS, Cause::Loss);
        let window = Window { cwnd: 80 * MSS, ssthresh: 1 };
        cubic.threshold(&window, MSS, Cause::Loss);
        assert!((cubic.curve.w_max - 68.0).abs() < 0.01, "{}", cubic.curve.w_max);
    }
}
