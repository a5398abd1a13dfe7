//! Congestion control: how much may be in flight. One small interface, algorithms as enum variants.
//!
//! It is told of acknowledgements that the window limited, of losses, marks and timeouts, in bytes, and that a reduction was
//! needless after all. It never sees a segment and never decides what is lost: that is recovery's.

mod bbr;
mod cubic;
mod dctcp;
mod hystart;
#[cfg(test)]
mod loops;
mod newreno;
mod rate_filter;

use demi_drivers::Instant;
use demi_drivers::transport::CongestionControl;

use super::rare::Rare;
use super::seq::SeqNumber;
use bbr::Bbr;
pub(crate) use bbr::{Delivered, Repair};
use cubic::Cubic;
use dctcp::Dctcp;
use hystart::HyStart;
use newreno::NewReno;

/// The windows that every algorithm moves, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

    /// No loss has taught a threshold yet.
    #[inline]
    pub(crate) fn is_unlimited(&self) -> bool {
        self.ssthresh >= MAX_WINDOW_BYTES
    }

    /// Slow start: at most `limit` bytes more (RFC 5681 §3.1, RFC 3465); answers the acknowledged bytes left over for congestion
    /// avoidance.
    fn slow_start(&mut self, acked: u32, limit: u32) -> u32 {
        let grow = acked.min(limit).min(self.ssthresh - self.cwnd);
        self.cwnd = (self.cwnd + grow).min(MAX_WINDOW_BYTES);
        acked - grow
    }

    /// The threshold that what is known now stands for (Linux's `tcp_current_ssthresh`).
    pub(crate) fn current_threshold(&self) -> u32 {
        self.ssthresh.max(self.cwnd / 4 * 3)
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
    /// The round trip that this acknowledgement measured, if it did.
    pub(crate) rtt_ns: Option<u64>,
    /// First number not acknowledged, now, and the next to be sent.
    pub(crate) una: SeqNumber,
    pub(crate) nxt: SeqNumber,
}

/// Why a window is reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Something is lost.
    Loss,
    /// The network has marked packets (RFC 3168).
    Mark,
}

/// What an algorithm decides. The rest (slow start, timeouts, idleness, bounds) is the same for all.
trait Algorithm {
    /// Congestion avoidance: of an acknowledgement, `bytes` count for it.
    fn avoid(&mut self, window: &mut Window, ack: &Acked, bytes: u32);
    /// A loss was found, or a retransmission timed out, or the network has marked packets: answers the new threshold.
    fn threshold(&mut self, window: &Window, mss: u32, cause: Cause) -> u32;
    /// The last reduction was needless: back to the curve before it.
    fn undo(&mut self) {}
}

/// The state of one connection's congestion control.
#[derive(Clone, Debug)]
pub(crate) struct Congestion {
    kind: Kind,
    hystart: HyStart,
    /// The windows before the last reduction, as long as that may prove needless; else zero.
    before: Window,
}

#[derive(Clone, Debug)]
enum Kind {
    Cubic(Rare<Cubic>),
    NewReno(NewReno),
    Dctcp(Dctcp),
    Bbr(Box<Bbr>),
    /// No control: the peer's window is the limit.
    Off,
}

impl Congestion {
    pub(crate) fn new(kind: CongestionControl, hystart: bool) -> Self {
        let kind = match kind {
            CongestionControl::NewReno => Kind::NewReno(NewReno::default()),
            CongestionControl::Dctcp => Kind::Dctcp(Dctcp::default()),
            CongestionControl::Bbr => Kind::Bbr(Box::new(Bbr::new())),
            CongestionControl::None => Kind::Off,
            _ => Kind::Cubic(Rare::quiet()),
        };
        // As Linux's: Reno's slow start ends with a loss, and DCTCP's with a mark.
        let hystart = HyStart::new(hystart && matches!(kind, Kind::Cubic(_)));
        Congestion { kind, hystart, before: Window::default() }
    }

    pub(crate) fn kind(&self) -> CongestionControl {
        match self.kind {
            Kind::Cubic(_) => CongestionControl::Cubic,
            Kind::NewReno(_) => CongestionControl::NewReno,
            Kind::Dctcp(_) => CongestionControl::Dctcp,
            Kind::Bbr(_) => CongestionControl::Bbr,
            Kind::Off => CongestionControl::None,
        }
    }

    /// Whether data has to be paced.
    pub(crate) fn paces(&self) -> bool {
        matches!(self.kind, Kind::Bbr(_))
    }

    /// Bytes a second to pace at, if the algorithm has an opinion.
    pub(crate) fn pacing_rate(&self, window: &Window, srtt_ns: u64) -> Option<u64> {
        match &self.kind {
            Kind::Bbr(bbr) => Some(bbr.pacing_rate(window, srtt_ns)),
            _ => None,
        }
    }

    /// Whether the window comes from a model of the path, which has to hear of each acknowledgement.
    pub(crate) fn is_model(&self) -> bool {
        matches!(self.kind, Kind::Bbr(_))
    }

    /// Tells the model, if there is one, of an acknowledgement. Answers whether nothing else can be learnt for now, because the window
    /// is kept small on purpose.
    pub(crate) fn on_delivered(&mut self, window: &mut Window, ack: &Delivered) -> bool {
        match &mut self.kind {
            Kind::Bbr(bbr) => {
                bbr.on_delivered(window, ack);
                bbr.is_probing_rtt()
            }
            _ => false,
        }
    }

    /// Sending begins again, with nothing in flight.
    pub(crate) fn on_restart(&mut self, now: Instant) {
        if let Kind::Bbr(bbr) = &mut self.kind {
            bbr.on_restart(now);
        }
    }

    /// Whether losses, marks and pauses move the windows.
    pub(crate) fn reduces(&self) -> bool {
        !matches!(self.kind, Kind::Bbr(_) | Kind::Off)
    }

    fn algorithm(&mut self) -> Option<&mut dyn Algorithm> {
        match &mut self.kind {
            Kind::Cubic(cubic) => Some(&mut **cubic),
            Kind::NewReno(newreno) => Some(newreno),
            Kind::Dctcp(dctcp) => Some(dctcp),
            Kind::Bbr(_) | Kind::Off => None,
        }
    }

    /// The windows a connection starts with.
    pub(crate) fn initial(&self, segments: u32, mss: u32) -> Window {
        match self.kind {
            Kind::Off => Window { cwnd: MAX_WINDOW_BYTES, ssthresh: MAX_WINDOW_BYTES },
            _ => Window::initial(segments, mss),
        }
    }

    /// Data was acknowledged while the window was what limited sending, outside of recovery.
    pub(crate) fn on_ack(&mut self, window: &mut Window, ack: &Acked) {
        self.on_marked(0, ack.una, ack.nxt);
        let mut bytes = ack.bytes;
        if window.in_slow_start() && self.reduces() {
            bytes = self.hystart.grow(window, ack);
            if bytes == 0 {
                return;
            }
        }
        if let Some(algorithm) = self.algorithm() {
            algorithm.avoid(window, ack, bytes);
        }
    }

    /// Lowers the threshold after a loss or a mark, and leaves the window to whoever reduces it (RFC 6937). What was is remembered
    /// for [`undo`](Self::undo).
    pub(crate) fn lower_threshold(&mut self, window: &mut Window, mss: u32, cause: Cause) {
        if let Kind::Bbr(bbr) = &mut self.kind {
            return bbr.on_loss();
        }
        let before = Window { cwnd: window.cwnd, ssthresh: window.current_threshold() };
        if let Some(algorithm) = self.algorithm() {
            window.ssthresh = algorithm.threshold(window, mss, cause).max(2 * mss);
            self.before = before;
        }
    }

    /// Up to `una` is acknowledged, the last `marked` bytes of it with the echo of a mark; up to `nxt` is sent.
    pub(crate) fn on_marked(&mut self, marked: u32, una: SeqNumber, nxt: SeqNumber) {
        if let Kind::Dctcp(dctcp) = &mut self.kind {
            dctcp.observe(marked, una, nxt);
        }
    }

    /// A retransmission timed out: the window becomes one segment; the threshold falls only at the first of several timeouts
    /// of the same data (RFC 5681 §3.1).
    pub(crate) fn on_timeout(&mut self, window: &mut Window, _flight: u32, mss: u32, first: bool) {
        if let Kind::Bbr(bbr) = &mut self.kind {
            bbr.on_timeout(mss);
            window.cwnd = mss;
        } else if self.reduces() {
            if first {
                self.lower_threshold(window, mss, Cause::Loss);
            }
            window.cwnd = mss;
        }
    }

    /// The last reduction was for nothing: what was taken for lost had only been late (RFC 4015, Linux's `tcp_undo_cwnd_reduction`).
    pub(crate) fn undo(&mut self, window: &mut Window) {
        if let Kind::Bbr(bbr) = &mut self.kind {
            return bbr.undo();
        }
        let before = core::mem::take(&mut self.before);
        if before.cwnd > 0 {
            window.cwnd = window.cwnd.max(before.cwnd);
            window.ssthresh = window.ssthresh.max(before.ssthresh);
            if let Some(algorithm) = self.algorithm() {
                algorithm.undo();
            }
        }
    }

    /// Nothing was sent for `idle_ns`, more than a timeout of `rto_ns`: the window halves for each of them, down to the restart
    /// window, and what it was stays the threshold (RFC 2861 §3.2, RFC 5681 §4.1, as Linux).
    pub(crate) fn on_idle(&self, window: &mut Window, initial_bytes: u32, idle_ns: u64, rto_ns: u64) {
        if !self.reduces() {
            return;
        }
        let floor = initial_bytes.min(window.cwnd);
        window.ssthresh = window.current_threshold();
        let timeouts = idle_ns.saturating_sub(1) / rto_ns.max(1);
        window.cwnd = window.cwnd.checked_shr(timeouts.min(31) as u32).unwrap_or(0).max(floor);
    }

    /// For a timeout or longer no more than `used` bytes of the window were in flight: half of the rest is given up (RFC 2861 §3.2,
    /// Linux's `tcp_cwnd_application_limited`).
    pub(crate) fn on_unused(&self, window: &mut Window, used: u32, initial_bytes: u32) {
        let used = used.max(initial_bytes);
        if used < window.cwnd && self.reduces() {
            window.ssthresh = window.current_threshold();
            window.cwnd = used.midpoint(window.cwnd);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An acknowledgement of `bytes`, of which nothing else is known.
    pub(super) fn acked(bytes: u32) -> Acked {
        let una = SeqNumber::new(bytes);
        Acked { bytes, mss: 1000, now: Instant::ZERO, srtt_ns: 1, rtt_ns: None, una, nxt: una }
    }

    pub(super) fn congestion(kind: CongestionControl) -> Congestion {
        Congestion::new(kind, true)
    }

    #[test]
    fn a_timeout_leaves_one_segment_and_lowers_the_threshold_once() {
        for kind in [CongestionControl::Cubic, CongestionControl::NewReno] {
            let mut congestion = congestion(kind);
            let mut window = congestion.initial(10, 1000);
            congestion.on_timeout(&mut window, 10_000, 1000, true);
            let threshold = window.ssthresh;
            assert!(window.cwnd == 1000 && (5000..=7002).contains(&threshold), "{window:?}");
            congestion.on_timeout(&mut window, 1000, 1000, false);
            assert_eq!((window.cwnd, window.ssthresh), (1000, threshold));
        }
    }

    #[test]
    fn a_needless_reduction_is_taken_back() {
        for kind in [CongestionControl::Cubic, CongestionControl::NewReno] {
            let mut congestion = congestion(kind);
            let start = Window { cwnd: 40_000, ssthresh: 20_000 };
            let mut window = start;
            congestion.on_timeout(&mut window, 40_000, 1000, true);
            congestion.undo(&mut window);
            assert_eq!(window, Window { cwnd: 40_000, ssthresh: 30_000 });
            congestion.undo(&mut window);
            assert_eq!(window.cwnd, 40_000, "once");
        }
    }

    #[test]
    fn idleness_halves_the_window_a_timeout_down_to_the_initial_one() {
        let congestion = congestion(CongestionControl::Cubic);
        let at = |idle_ms: u64| {
            let mut window = Window { cwnd: 500_000, ssthresh: 100_000 };
            congestion.on_idle(&mut window, 10_000, idle_ms * 1_000_000, 200_000_000);
            window
        };
        assert_eq!(at(201), Window { cwnd: 250_000, ssthresh: 375_000 });
        assert_eq!(at(601).cwnd, 62_500);
        assert_eq!(at(20_000).cwnd, 10_000);
        assert_eq!(at(200_000_000).cwnd, 10_000);
    }

    #[test]
    fn an_unused_window_shrinks_half_way_to_what_is_used() {
        let congestion = congestion(CongestionControl::Cubic);
        let mut window = Window { cwnd: 100_000, ssthresh: 50_000 };
        congestion.on_unused(&mut window, 3000, 10_000);
        assert_eq!(window, Window { cwnd: 55_000, ssthresh: 75_000 });
        congestion.on_unused(&mut window, 60_000, 10_000);
        assert_eq!(window.cwnd, 55_000);
    }

    #[test]
    fn without_control_nothing_limits() {
        let mut congestion = congestion(CongestionControl::None);
        let mut window = congestion.initial(10, 1000);
        congestion.on_timeout(&mut window, 5000, 1000, true);
        congestion.lower_threshold(&mut window, 1000, Cause::Loss);
        congestion.on_idle(&mut window, 10_000, u64::MAX, 1);
        congestion.on_unused(&mut window, 0, 10_000);
        assert_eq!(window.cwnd, MAX_WINDOW_BYTES);
    }

    #[test]
    fn threshold_never_falls_below_two_segments() {
        let mut congestion = congestion(CongestionControl::NewReno);
        let mut window = congestion.initial(1, 1000);
        congestion.lower_threshold(&mut window, 1000, Cause::Loss);
        assert_eq!(window.ssthresh, 2000);
    }
}
