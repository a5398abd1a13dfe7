//! Congestion control: how much may be in flight. One small interface, algorithms as enum variants.
//!
//! It is told of acknowledgements that the window limited, of losses and of timeouts, in bytes. It never sees a segment and
//! never decides what is lost: that is recovery's.

mod cubic;
mod newreno;

use demi_drivers::Instant;
use demi_drivers::transport::CongestionControl;

use cubic::Cubic;

/// The windows that every algorithm moves, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Congestion window.
    pub(crate) cwnd: u32,
    /// Slow start threshold.
    pub(crate) ssthresh: u32,
}

/// No window grows beyond this: far above the largest scaled window (RFC 7323 §2.3), far below overflow.
pub(crate) const MAX_WINDOW_BYTES: u32 = 1 << 30;

impl Window {
    /// The initial window (RFC 6928 §2): `segments` of them, and no threshold.
    pub(crate) fn initial(segments: u32, mss: u32) -> Self {
        Window { cwnd: segments.saturating_mul(mss).clamp(mss, MAX_WINDOW_BYTES), ssthresh: MAX_WINDOW_BYTES }
    }

    /// Below the threshold the window grows by what is acknowledged.
    #[inline]
    pub(crate) fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Slow start: at most `limit` bytes more (RFC 5681 §3.1, RFC 3465); answers the acknowledged bytes left over for congestion
    /// avoidance.
    fn slow_start(&mut self, acked: u32, limit: u32) -> u32 {
        let grow = acked.min(limit).min(self.ssthresh - self.cwnd);
        self.cwnd = (self.cwnd + grow).min(MAX_WINDOW_BYTES);
        acked - grow
    }
}

/// An acknowledgement, as congestion control sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    /// Bytes newly acknowledged.
    pub(crate) bytes: u32,
    /// Largest payload of a segment.
    pub(crate) mss: u32,
    /// When.
    pub(crate) now: Instant,
    /// Smoothed round-trip time; 0 before the first.
    pub(crate) srtt_ns: u64,
}

/// What an algorithm does at each event. `flight` is what was in flight, in bytes.
trait Algorithm {
    /// Data was acknowledged while the window was what limited sending, outside of recovery.
    fn on_ack(&mut self, window: &mut Window, ack: Acked);
    /// A loss was found by duplicate or selective acknowledgements: answers the new threshold.
    fn threshold_after_loss(&mut self, window: &Window, flight: u32, mss: u32) -> u32;
    /// A retransmission timed out for the first time.
    fn on_timeout(&mut self) {}
    /// Nothing was in flight for longer than a timeout.
    fn on_idle(&mut self) {}
}

/// The state of one connection's algorithm.
#[derive(Clone, Debug)]
pub(crate) enum Congestion {
    Cubic(Cubic),
    NewReno(newreno::NewReno),
    /// No control: the peer's window is the limit.
    Off,
}

impl Congestion {
    pub(crate) fn new(kind: CongestionControl) -> Self {
        match kind {
            CongestionControl::NewReno => Congestion::NewReno(newreno::NewReno::default()),
            CongestionControl::None => Congestion::Off,
            _ => Congestion::Cubic(Cubic::default()),
        }
    }

    pub(crate) fn kind(&self) -> CongestionControl {
        match self {
            Congestion::Cubic(_) => CongestionControl::Cubic,
            Congestion::NewReno(_) => CongestionControl::NewReno,
            Congestion::Off => CongestionControl::None,
        }
    }

    fn algorithm(&mut self) -> Option<&mut dyn Algorithm> {
        match self {
            Congestion::Cubic(cubic) => Some(cubic),
            Congestion::NewReno(newreno) => Some(newreno),
            Congestion::Off => None,
        }
    }

    /// The windows a connection starts with.
    pub(crate) fn initial(&self, segments: u32, mss: u32) -> Window {
        match self {
            Congestion::Off => Window { cwnd: MAX_WINDOW_BYTES, ssthresh: MAX_WINDOW_BYTES },
            _ => Window::initial(segments, mss),
        }
    }

    /// See [`Algorithm::on_ack`].
    pub(crate) fn on_ack(&mut self, window: &mut Window, ack: Acked) {
        if let Some(algorithm) = self.algorithm() {
            algorithm.on_ack(window, ack);
        }
    }

    /// Fast recovery begins: lowers threshold and window (RFC 5681 §3.2, RFC 6675 §5).
    pub(crate) fn on_loss(&mut self, window: &mut Window, flight: u32, mss: u32) {
        if let Some(algorithm) = self.algorithm() {
            window.ssthresh = algorithm.threshold_after_loss(window, flight, mss).max(2 * mss);
            window.cwnd = window.ssthresh;
        }
    }

    /// A retransmission timed out: the window becomes one segment; the threshold falls only at the first of several timeouts
    /// of the same data (RFC 5681 §3.1).
    pub(crate) fn on_timeout(&mut self, window: &mut Window, flight: u32, mss: u32, first: bool) {
        if let Some(algorithm) = self.algorithm() {
            if first {
                window.ssthresh = algorithm.threshold_after_loss(window, flight, mss).max(2 * mss);
                algorithm.on_timeout();
            }
            window.cwnd = mss;
        }
    }

    /// The connection was idle for longer than a timeout: back to the restart window (RFC 5681 §4.1).
    pub(crate) fn on_idle(&mut self, window: &mut Window, initial_segments: u32, mss: u32) {
        if let Some(algorithm) = self.algorithm() {
            window.cwnd = window.cwnd.min(initial_segments.saturating_mul(mss)).max(mss);
            algorithm.on_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_leaves_one_segment_and_lowers_the_threshold_once() {
        for kind in [CongestionControl::Cubic, CongestionControl::NewReno] {
            let mut congestion = Congestion::new(kind);
            let mut window = congestion.initial(10, 1000);
            congestion.on_timeout(&mut window, 10_000, 1000, true);
            let threshold = window.ssthresh;
            assert!(window.cwnd == 1000 && (5000..=7000).contains(&threshold), "{window:?}");
            congestion.on_timeout(&mut window, 1000, 1000, false);
            assert_eq!((window.cwnd, window.ssthresh), (1000, threshold));
        }
    }

    #[test]
    fn idleness_restarts_from_the_initial_window() {
        let mut congestion = Congestion::new(CongestionControl::Cubic);
        let mut window = Window { cwnd: 500_000, ssthresh: 400_000 };
        congestion.on_idle(&mut window, 10, 1000);
        assert_eq!(window, Window { cwnd: 10_000, ssthresh: 400_000 });
    }

    #[test]
    fn without_control_nothing_limits() {
        let mut congestion = Congestion::new(CongestionControl::None);
        let mut window = congestion.initial(10, 1000);
        congestion.on_timeout(&mut window, 5000, 1000, true);
        congestion.on_loss(&mut window, 5000, 1000);
        assert_eq!(window.cwnd, MAX_WINDOW_BYTES);
    }

    #[test]
    fn threshold_never_falls_below_two_segments() {
        let mut congestion = Congestion::new(CongestionControl::NewReno);
        let mut window = congestion.initial(1, 1000);
        congestion.on_loss(&mut window, 100, 1000);
        assert_eq!(window.ssthresh, 2000);
    }
}
