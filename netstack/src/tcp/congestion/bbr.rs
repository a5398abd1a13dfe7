//! BBR: the window and the rate from a model of the path, not from losses (draft-cardwell-iccrg-bbr-congestion-control-00, version 1, as
//! Linux has it).
//!
//! The model is two numbers: the most that was delivered a second within ten rounds, and the shortest round trip within ten
//! seconds. Data is paced at about that rate, and twice their product may be in flight. A machine of four modes keeps measuring:
//!
//! ```text
//!  Startup ──► Drain ──► ProbeBw ◄──► ProbeRtt    (also from the first two, when ten seconds have passed)
//! ```
//!
//! Losses and marks change nothing but in the round that they came in. Linux's detection of policers is not here.

use demi_drivers::Instant;

use super::rate_filter::MaxFilter;
use super::{MAX_WINDOW_BYTES, Window};

/// Gains are of this unit.
const UNIT: u64 = 256;
/// 2 / ln 2: the least that doubles the rate each round, and its inverse, which drains what that has queued.
const HIGH_GAIN: u64 = UNIT * 2885 / 1000 + 1;
const DRAIN_GAIN: u64 = UNIT * 1000 / 2885;
/// What may be in flight while the rate is probed.
const CWND_GAIN: u64 = 2 * UNIT;
/// A cycle probes for more, drains that, and cruises.
const CYCLE: [u64; 8] = [UNIT * 5 / 4, UNIT * 3 / 4, UNIT, UNIT, UNIT, UNIT, UNIT, UNIT];
/// Rounds over which the largest rate counts.
const BW_ROUNDS: u32 = 10;
/// Paced a little below the rate, so that queues drain (percent).
const MARGIN_PERCENT: u64 = 1;
/// How long a shortest round trip counts, and for how long the path is emptied to measure it anew.
const MIN_RTT_NS: u64 = 10_000_000_000;
const PROBE_RTT_NS: u64 = 200_000_000;
/// Segments in flight at least, and while the round trip is measured.
const MIN_SEGMENTS: u32 = 4;
/// The pipe is full when the rate has not grown by a quarter in three rounds.
const FULL_GROWTH_PERCENT: u64 = 125;
const FULL_ROUNDS: u8 = 3;
/// Aggregation of acknowledgements is remembered for so many rounds, and for so much time's worth at most.
const EXTRA_ROUNDS: u8 = 5;
const EXTRA_MAX_NS: u64 = 100_000_000;

/// How far recovery from losses has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Repair {
    /// Nothing is lost.
    #[default]
    None,
    /// What was lost is being sent again.
    Recovery,
    /// After a timeout.
    Timeout,
}

/// What an acknowledgement has told of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivered {
    pub(crate) now: Instant,
    pub(crate) mss: u32,
    /// Bytes delivered in all, and bytes that count as lost now.
    pub(crate) total: u64,
    pub(crate) lost: u32,
    /// Bytes and nanoseconds of the rate sample, and what had been delivered in all when its data was sent; `None`: no sample.
    pub(crate) rate: Option<(u64, u64, u64)>,
    pub(crate) app_limited: bool,
    pub(crate) rtt_ns: Option<u64>,
    pub(crate) srtt_ns: u64,
    /// Bytes on the way.
    pub(crate) in_flight: u32,
    pub(crate) repair: Repair,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBw,
    ProbeRtt,
}

/// The state of the model.
#[derive(Clone, Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    bw: MaxFilter,
    round: u32,
    round_start: bool,
    /// The round ends when data sent after this many delivered bytes is acknowledged.
    round_end: u64,
    min_rtt_ns: u64,
    min_rtt_at: Instant,
    probe_rtt_done: Option<Instant>,
    probe_rtt_round_done: bool,
    full_bw: u64,
    full_rounds: u8,
    full: bool,
    cycle: usize,
    cycle_at: Instant,
    /// Bytes a second; 0 before the first.
    pacing_rate: u64,
    has_rtt: bool,
    cwnd: u32,
    /// The window before recovery or the round-trip probe.
    prior_cwnd: u32,
    repair: Repair,
    /// What had been delivered, and counted as lost, with the last acknowledgement; what this one has added to it.
    told: (u64, u32),
    bytes: u32,
    lost: u32,
    /// The first round of recovery: as much goes out as comes in.
    conserve: bool,
    /// Sending begins after a pause.
    idle_restart: bool,
    /// Acknowledgements that come in heaps: when the present measurement began, what was acknowledged since, and the most beyond
    /// what the rate explains, of this and the last few rounds.
    epoch: Instant,
    epoch_acked: u64,
    extra: [u32; 2],
    extra_slot: usize,
    extra_rounds: u8,
    initial_cwnd: u32,
}

impl Bbr {
    pub(super) fn new() -> Self {
        Bbr {
            mode: Mode::Startup,
            bw: MaxFilter::default(),
            round: 0,
            round_start: false,
            round_end: 0,
            min_rtt_ns: u64::MAX,
            min_rtt_at: Instant::ZERO,
            probe_rtt_done: None,
            probe_rtt_round_done: false,
            full_bw: 0,
            full_rounds: 0,
            full: false,
            cycle: 0,
            cycle_at: Instant::ZERO,
            pacing_rate: 0,
            has_rtt: false,
            cwnd: 0,
            prior_cwnd: 0,
            repair: Repair::None,
            told: (0, 0),
            bytes: 0,
            lost: 0,
            conserve: false,
            idle_restart: false,
            epoch: Instant::ZERO,
            epoch_acked: 0,
            extra: [0; 2],
            extra_slot: 0,
            extra_rounds: 0,
            initial_cwnd: 0,
        }
    }

    /// Bytes a second to pace at; before the first round trip of data, what the window comes to in one.
    pub(super) fn pacing_rate(&self, window: &Window, srtt_ns: u64) -> u64 {
        match self.pacing_rate {
            // Linux takes a millisecond for a round trip that nobody has measured.
            0 => initial_rate(window.cwnd, if srtt_ns > 0 { srtt_ns } else { 1_000_000 }),
            rate => rate,
        }
    }

    /// Whether what is in flight tells nothing of the path for now: the window is kept small on purpose.
    pub(super) fn is_probing_rtt(&self) -> bool {
        self.mode == Mode::ProbeRtt
    }

    /// Takes an acknowledgement, and sets the window by it.
    pub(super) fn on_delivered(&mut self, window: &mut Window, ack: &Delivered) {
        if self.cwnd == 0 {
            (self.cwnd, self.initial_cwnd) = (window.cwnd, window.cwnd);
            (self.min_rtt_at, self.epoch, self.cycle_at) = (ack.now, ack.now, ack.now);
        }
        let (delivered, lost) = core::mem::replace(&mut self.told, (ack.total, ack.lost));
        self.bytes = u32::try_from(ack.total.saturating_sub(delivered)).unwrap_or(u32::MAX);
        self.lost = ack.lost.saturating_sub(lost);
        self.update_bw(ack);
        self.update_extra(ack);
        self.update_cycle(ack);
        self.check_full(ack);
        self.check_drain(window, ack);
        self.update_min_rtt(ack);
        let (pacing_gain, cwnd_gain) = self.gains();
        self.set_pacing_rate(ack, pacing_gain);
        self.set_cwnd(ack, cwnd_gain);
        window.cwnd = self.cwnd;
    }

    /// A retransmission timed out.
    pub(super) fn on_timeout(&mut self, mss: u32) {
        self.save_cwnd();
        self.full_bw = 0;
        self.round_start = true;
        self.repair = Repair::Timeout;
        self.cwnd = mss;
    }

    /// Recovery from a loss begins.
    pub(super) fn on_loss(&mut self) {
        self.save_cwnd();
    }

    /// What was taken for lost was not.
    pub(super) fn undo(&mut self) {
        self.full_bw = 0;
        self.full_rounds = 0;
    }

    /// Sending begins after a pause in which the application had nothing to say.
    pub(super) fn on_restart(&mut self, now: Instant) {
        self.idle_restart = true;
        (self.epoch, self.epoch_acked) = (now, 0);
        if self.mode == Mode::ProbeBw {
            self.pacing_rate = rate_of(self.bw.max(), UNIT);
        }
    }

    fn save_cwnd(&mut self) {
        // In recovery or with the path emptied the window tells nothing.
        self.prior_cwnd = if self.repair == Repair::None && self.mode != Mode::ProbeRtt {
            self.cwnd
        } else {
            self.prior_cwnd.max(self.cwnd)
        };
    }

    fn gains(&self) -> (u64, u64) {
        match self.mode {
            Mode::Startup => (HIGH_GAIN, HIGH_GAIN),
            Mode::Drain => (DRAIN_GAIN, HIGH_GAIN),
            Mode::ProbeBw => (CYCLE[self.cycle % CYCLE.len()], CWND_GAIN),
            Mode::ProbeRtt => (UNIT, UNIT),
        }
    }

    /// Rounds, and the largest rate of the last ten.
    fn update_bw(&mut self, ack: &Delivered) {
        self.round_start = false;
        let Some((bytes, interval_ns, prior)) = ack.rate.filter(|_| self.bytes > 0) else { return };
        if prior >= self.round_end {
            self.round_end = ack.total;
            self.round += 1;
            self.round_start = true;
            self.conserve = false;
        }
        let bw = (u128::from(bytes) * 1_000_000_000 / u128::from(interval_ns.max(1))) as u64;
        // What the application limited says less than the path can do, unless it says more than was known.
        if !ack.app_limited || bw >= self.bw.max() {
            self.bw.update(self.round, bw, BW_ROUNDS);
        }
    }

    /// How much more is acknowledged at once than the rate explains.
    fn update_extra(&mut self, ack: &Delivered) {
        if ack.rate.is_none() || self.bytes == 0 {
            return;
        }
        if self.round_start {
            self.extra_rounds = self.extra_rounds.saturating_add(1);
            if self.extra_rounds >= EXTRA_ROUNDS {
                self.extra_rounds = 0;
                self.extra_slot ^= 1;
                self.extra[self.extra_slot] = 0;
            }
        }
        let bw = self.bw.max();
        let expected = |from: Instant| mul_ns(bw, ack.now.as_nanos().saturating_sub(from.as_nanos()));
        let mut expects = expected(self.epoch);
        if self.epoch_acked <= expects {
            (self.epoch, self.epoch_acked, expects) = (ack.now, 0, 0);
        }
        self.epoch_acked += u64::from(self.bytes);
        let extra = (self.epoch_acked - expects).min(u64::from(self.cwnd)) as u32;
        self.extra[self.extra_slot] = self.extra[self.extra_slot].max(extra);
    }

    fn update_cycle(&mut self, ack: &Delivered) {
        if self.mode != Mode::ProbeBw {
            return;
        }
        let full_length = ack.now.as_nanos().saturating_sub(self.cycle_at.as_nanos()) > self.min_rtt_ns;
        let gain = self.gains().0;
        let before = ack.in_flight.saturating_add(self.bytes).saturating_add(self.lost);
        let next = if gain > UNIT {
            // Until so much is in flight that a queue would show, or something is lost.
            full_length && (self.lost > 0 || before >= self.target(gain, ack.mss))
        } else if gain < UNIT {
            full_length || before <= self.target(UNIT, ack.mss)
        } else {
            full_length
        };
        if next {
            self.advance_cycle(ack.now);
        }
    }

    fn advance_cycle(&mut self, now: Instant) {
        self.cycle = (self.cycle + 1) % CYCLE.len();
        self.cycle_at = now;
    }

    fn check_full(&mut self, ack: &Delivered) {
        if self.full || !self.round_start || ack.app_limited {
            return;
        }
        if self.bw.max() * 100 >= self.full_bw * FULL_GROWTH_PERCENT {
            self.full_bw = self.bw.max();
            self.full_rounds = 0;
            return;
        }
        self.full_rounds += 1;
        self.full = self.full_rounds >= FULL_ROUNDS;
    }

    fn check_drain(&mut self, window: &mut Window, ack: &Delivered) {
        if self.mode == Mode::Startup && self.full {
            self.mode = Mode::Drain;
            window.ssthresh = self.target(UNIT, ack.mss).min(MAX_WINDOW_BYTES);
        }
        if self.mode == Mode::Drain && ack.in_flight <= self.target(UNIT, ack.mss) {
            self.enter_probe_bw(ack);
        }
    }

    fn enter_probe_bw(&mut self, ack: &Delivered) {
        self.mode = Mode::ProbeBw;
        // Not in the draining phase, and not all connections in the same: any spread does.
        let spread = ((ack.now.as_nanos() / 1000) ^ ack.total).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
        self.cycle = CYCLE.len() - 1 - (spread as usize % (CYCLE.len() - 1));
        self.advance_cycle(ack.now);
    }

    fn reset_mode(&mut self, ack: &Delivered) {
        if self.full {
            self.enter_probe_bw(ack);
        } else {
            self.mode = Mode::Startup;
        }
    }

    fn update_min_rtt(&mut self, ack: &Delivered) {
        let expired = ack.now.as_nanos() > self.min_rtt_at.as_nanos() + MIN_RTT_NS;
        if let Some(rtt_ns) = ack.rtt_ns
            && (rtt_ns < self.min_rtt_ns || expired)
        {
            (self.min_rtt_ns, self.min_rtt_at) = (rtt_ns.max(1), ack.now);
        }
        if expired && !self.idle_restart && self.mode != Mode::ProbeRtt {
            self.save_cwnd();
            self.mode = Mode::ProbeRtt;
            self.probe_rtt_done = None;
        }
        if self.mode == Mode::ProbeRtt {
            match self.probe_rtt_done {
                None if ack.in_flight <= MIN_SEGMENTS * ack.mss => {
                    self.probe_rtt_done = Some(ack.now.plus_nanos(PROBE_RTT_NS));
                    self.probe_rtt_round_done = false;
                    self.round_end = ack.total;
                }
                None => {}
                Some(done) => {
                    self.probe_rtt_round_done |= self.round_start;
                    if self.probe_rtt_round_done && ack.now > done {
                        self.min_rtt_at = ack.now;
                        self.cwnd = self.cwnd.max(self.prior_cwnd);
                        self.reset_mode(ack);
                    }
                }
            }
        }
        if self.bytes > 0 {
            self.idle_restart = false;
        }
    }

    fn set_pacing_rate(&mut self, ack: &Delivered, gain: u64) {
        if !self.has_rtt && ack.srtt_ns > 0 {
            self.has_rtt = true;
            self.pacing_rate = initial_rate(self.cwnd, ack.srtt_ns);
        }
        let rate = rate_of(self.bw.max(), gain);
        // Before the pipe is full a slow sample does not slow down.
        if self.full || rate > self.pacing_rate {
            self.pacing_rate = rate;
        }
    }

    /// `gain` times what the path holds.
    fn bdp(&self, gain: u64) -> u64 {
        if self.min_rtt_ns == u64::MAX {
            return u64::from(self.initial_cwnd);
        }
        mul_ns(self.bw.max(), self.min_rtt_ns) * gain / UNIT
    }

    /// The same with room for what is underway between the ends' queues: bursts, and acknowledgements of two segments.
    fn budget(&self, bytes: u64, mss: u32) -> u32 {
        let burst = (self.pacing_rate >> 10).clamp(u64::from(2 * mss), 64 << 10);
        let mss = u64::from(mss.max(1));
        let mut segments = bytes.div_ceil(mss) + 3 * burst.div_ceil(mss);
        segments = segments.next_multiple_of(2);
        if self.mode == Mode::ProbeBw && self.cycle == 0 {
            segments += 2;
        }
        (segments * mss).min(u64::from(MAX_WINDOW_BYTES)) as u32
    }

    fn target(&self, gain: u64, mss: u32) -> u32 {
        self.budget(self.bdp(gain), mss)
    }

    fn extra_acked(&self) -> u64 {
        if !self.full {
            return 0;
        }
        u64::from(self.extra[0].max(self.extra[1])).min(mul_ns(self.bw.max(), EXTRA_MAX_NS))
    }

    fn set_cwnd(&mut self, ack: &Delivered, gain: u64) {
        if self.bytes > 0 && !self.recover(ack) {
            let target = self.budget(self.bdp(gain) + self.extra_acked(), ack.mss);
            let grown = self.cwnd.saturating_add(self.bytes).min(MAX_WINDOW_BYTES);
            if self.full {
                self.cwnd = grown.min(target);
            } else if self.cwnd < target || ack.total < u64::from(self.initial_cwnd) {
                self.cwnd = grown;
            }
            self.cwnd = self.cwnd.max(MIN_SEGMENTS * ack.mss);
        }
        if self.mode == Mode::ProbeRtt {
            self.cwnd = self.cwnd.min(MIN_SEGMENTS * ack.mss);
        }
    }

    /// In recovery's first round as much goes out as is delivered. Answers whether that decides the window.
    fn recover(&mut self, ack: &Delivered) -> bool {
        let before = core::mem::replace(&mut self.repair, ack.repair);
        if self.lost > 0 {
            self.cwnd = self.cwnd.saturating_sub(self.lost).max(ack.mss);
        }
        if ack.repair == Repair::Recovery && before != Repair::Recovery {
            self.conserve = true;
            self.round_end = ack.total;
            self.cwnd = ack.in_flight + self.bytes;
        } else if before != Repair::None && ack.repair == Repair::None {
            self.cwnd = self.cwnd.max(self.prior_cwnd);
            self.conserve = false;
        }
        if self.conserve {
            self.cwnd = self.cwnd.max(ack.in_flight + self.bytes);
        }
        self.conserve
    }
}

/// Bytes in `ns` nanoseconds at `rate` bytes a second.
fn mul_ns(rate: u64, ns: u64) -> u64 {
    (u128::from(rate) * u128::from(ns) / 1_000_000_000) as u64
}

fn rate_of(bw: u64, gain: u64) -> u64 {
    (u128::from(bw) * u128::from(gain) * u128::from(100 - MARGIN_PERCENT) / u128::from(100 * UNIT)) as u64
}

fn initial_rate(cwnd: u32, rtt_ns: u64) -> u64 {
    let bw = u128::from(cwnd) * 1_000_000_000 / u128::from(rtt_ns.max(1));
    rate_of(u64::try_from(bw).unwrap_or(u64::MAX), HIGH_GAIN)
}
