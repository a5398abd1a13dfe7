//! Pacing: data goes out in short bursts at a rate, not a window at a time.
//!
//! No timer a packet: a burst is a millisecond's worth, at least two segments, and one deadline in the connection says when the
//! next one may go. Off unless a largest rate is asked for or the congestion control has a rate of its own, as Linux without a
//! pacing queue below; a paced connection leaves the short way, so one that is not never looks here.

use demi_drivers::Instant;

use super::super::config::TcpConfig;
use super::{Connection, slow};

/// A burst is this part of a second's worth, as a shift: about a millisecond (Linux's `sk_pacing_shift`).
const BURST_SHIFT: u32 = 10;
/// Segments that a burst has at least (Linux's `tcp_min_tso_segs`).
const MIN_BURST_SEGMENTS: u32 = 2;
/// The first segments of a connection go out at once (as Linux): there is no rate to believe in yet.
const UNPACED_SEGMENTS: u32 = 10;

/// When data may go out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pacing {
    /// Nothing goes out before; the wheel calls then, if something waits for it.
    next_at: Instant,
    waiting: bool,
    /// Bytes left of the burst that is going out.
    burst_bytes: u32,
}

impl Pacing {
    /// When data that waits may go out.
    pub(super) fn wakes_at(&self) -> Instant {
        if self.waiting { self.next_at } else { Instant::FAR_FUTURE }
    }
}

impl<P> Connection<P> {
    /// Decides whether the connection is paced.
    pub(super) fn update_pacing(&mut self) {
        let paced = self.cold.options.max_pacing_rate.is_some() || self.cold.congestion.paces();
        if paced {
            self.slow |= slow::PACED;
        } else {
            self.slow &= !slow::PACED;
            // What waited need not any more.
            self.flush_due |= core::mem::take(&mut self.cold.pacing).waiting;
        }
    }

    /// Bytes a second at which data goes out, or would if it was paced; 0 before the first round trip (Linux's
    /// `tcp_update_pacing_rate`).
    fn pacing_rate(&self, ratios: (u32, u32)) -> u64 {
        let rate = self.cold.congestion.pacing_rate(&self.window, self.rtt.srtt_ns()).unwrap_or_else(|| {
            let srtt_ns = u128::from(self.rtt.srtt_ns());
            let (slow_start, avoidance) = ratios;
            let percent = if self.window.cwnd < self.window.ssthresh / 2 { slow_start } else { avoidance };
            let bytes = u128::from(self.window.cwnd.max(self.snd_max - self.snd_una));
            (bytes * u128::from(percent) * 10_000_000).checked_div(srtt_ns).map_or(0, |rate| rate as u64)
        });
        self.cold.options.max_pacing_rate.map_or(rate, |most| if rate == 0 { most } else { rate.min(most) })
    }

    /// As [`pacing_rate`](Self::pacing_rate), by the configured ratios.
    pub(super) fn rate_to_pace_at(&self, config: &TcpConfig) -> u64 {
        self.pacing_rate((config.pacing_slow_start_percent, config.pacing_avoidance_percent))
    }

    /// Bytes that may go out now; 0: the rate does not allow any. Called for a paced connection.
    #[cold]
    pub(super) fn paced_room(&mut self, now: Instant, config: &TcpConfig) -> u32 {
        let mss = u32::from(self.snd_mss);
        if self.cold.pacing.burst_bytes == 0 {
            if self.cold.pacing.next_at > now {
                self.cold.pacing.waiting = true;
                self.update_rare_timer();
                return 0;
            }
            let worth = u32::try_from(self.rate_to_pace_at(config) >> BURST_SHIFT).unwrap_or(u32::MAX);
            let whole = worth - worth % mss.max(1);
            self.cold.pacing.burst_bytes = whole.max(MIN_BURST_SEGMENTS * mss);
        }
        self.cold.pacing.burst_bytes.max(mss)
    }

    /// `bytes` of payload have gone out.
    #[cold]
    pub(super) fn note_paced(&mut self, now: Instant, bytes: u32, config: &TcpConfig) {
        let rate = self.rate_to_pace_at(config);
        let first = u64::from(UNPACED_SEGMENTS) * u64::from(self.snd_mss);
        let sent = self.bytes_acked + u64::from(self.snd_max - self.snd_una);
        let pacing = &mut self.cold.pacing;
        pacing.burst_bytes = pacing.burst_bytes.saturating_sub(bytes);
        if rate > 0 && sent > first {
            let cost_ns = u64::from(bytes).saturating_mul(1_000_000_000) / rate;
            // As Linux: a timer that fired late is made up for, by half a burst at most.
            let late_ns = now.as_nanos().saturating_sub(pacing.next_at.as_nanos());
            let credit_ns = if pacing.next_at == Instant::ZERO { 0 } else { late_ns.min(cost_ns / 2) };
            pacing.next_at = now.max(pacing.next_at).plus_nanos(cost_ns - credit_ns);
        }
    }

    /// The turn's sending is over: what is left of a burst is not saved up.
    #[cold]
    pub(super) fn end_burst(&mut self) {
        self.cold.pacing.burst_bytes = 0;
    }

    /// The time for which data waited has come.
    pub(super) fn on_pacing_timer(&mut self, now: Instant) {
        if self.cold.pacing.wakes_at() <= now {
            self.cold.pacing.waiting = false;
            self.flush_due = true;
        }
    }
}
