//! What time it is: the processor's time stamp counter, calibrated; the kernel's clock where that counter is not to be
//! trusted; or a number that only moves when told, for tests.
//!
//! The loop reads the clock once a turn ([`Clock::tick`]) and everything driven by the loop uses that reading
//! ([`Clock::turn`]). Code that measures, or starts a timer, reads it anew ([`Clock::read`]).
//!
//! All real clocks of a process count from the process's first look at one, so instants of different runtimes compare.

use core::cell::Cell;
use std::sync::OnceLock;
use std::time::Duration;

use demi_drivers::Instant;

/// What clocks show at their start: late enough that a program may look back from there.
const START_NANOS: u64 = 1_000_000_000_000;
/// What a clock that stands still shows until it is moved.
pub(crate) const VIRTUAL_START: Instant = Instant::from_nanos(START_NANOS);
/// The counter's rate is measured over this distance at least; it is off by less than 100 ppm then.
const CALIBRATION_NANOS: u64 = 1_000_000;
/// Nanoseconds between later comparisons.
const CHECK_NANOS: u64 = 250_000_000;
/// An error up to this (one part in a thousand) is slewed away until the next comparison. A clock that is further behind
/// jumps (the machine was suspended); one that is further ahead slows down for longer.
const SLEW_MAX_NANOS: u64 = CHECK_NANOS / 1_000;

/// One runtime's clock.
pub(crate) struct Clock {
    /// What nearly each reading takes.
    line: Line,
    tsc: Option<Cell<Tsc>>,
    /// What to add to real time: not zero once time was paused and went on.
    shift: Cell<u64>,
    paused: Cell<bool>,
    /// The latest turn's time; no later reading falls behind it.
    turn: Cell<Instant>,
}

/// How to tell the time from the counter for a while: whatever else there may be to do (time stands still, the counter is not to
/// be trusted, or is to be compared again, or reads less than it has) shows in one comparison.
#[derive(Default)]
struct Line {
    base_ticks: Cell<u64>,
    base_nanos: Cell<u64>,
    /// Nanoseconds a tick, times 2^32.
    rate: Cell<u64>,
    /// Good for fewer ticks than this after the base: none, or at most [`CHECK_NANOS`].
    ticks: Cell<u64>,
}

impl Line {
    /// The time now; `None`: it takes a closer look.
    #[inline(always)]
    fn read(&self) -> Option<Instant> {
        let since = counter::read().wrapping_sub(self.base_ticks.get());
        if since >= self.ticks.get() {
            return None;
        }
        // Less than `CHECK_NANOS` times 2^32, so it does not overflow.
        let passed = since.wrapping_mul(self.rate.get()) >> 32;
        Some(Instant::from_nanos(self.base_nanos.get().wrapping_add(passed)))
    }
}

/// A linear function from the counter to nanoseconds, put right as time goes by.
#[derive(Clone, Copy, Debug)]
struct Tsc {
    base_ticks: u64,
    base_nanos: u64,
    /// Nanoseconds a tick, times 2^32.
    rate: u64,
    /// When to compare with the kernel's clock again.
    check_at_nanos: u64,
}

/// The process's first look at its clocks.
struct Epoch {
    std: std::time::Instant,
    /// The first comparison of both clocks; `None`: the counter is not to be trusted.
    first: Option<Pair>,
}

/// The kernel's clock, and the counter at the same moment.
#[derive(Clone, Copy)]
struct Pair {
    nanos: u64,
    ticks: u64,
}

fn epoch() -> &'static Epoch {
    static EPOCH: OnceLock<Epoch> = OnceLock::new();
    EPOCH.get_or_init(|| {
        let std = std::time::Instant::now();
        let first = counter::is_trusted().then(|| compare(std));
        if let Some(first) = first {
            // The clocks that are made from now on have a distance to measure the counter's rate over.
            while compare(std).nanos - first.nanos < CALIBRATION_NANOS {
                core::hint::spin_loop();
            }
        }
        Epoch { std, first }
    })
}

/// Reads both clocks.
fn compare(epoch: std::time::Instant) -> Pair {
    let sample = || {
        let before = counter::read();
        let now = epoch.elapsed();
        let after = counter::read();
        (after.wrapping_sub(before), u64::try_from(now.as_nanos()).unwrap_or(u64::MAX), before)
    };
    // The narrowest of several: nothing came between its readings.
    let (width, nanos, before) =
        (0..8).map(|_| sample()).min_by_key(|sample| sample.0).unwrap_or_else(sample);
    Pair { nanos: nanos.saturating_add(START_NANOS), ticks: before.wrapping_add(width / 2) }
}

impl Tsc {
    /// The function as of now. Measured over the whole life of the process, its rate gets better all the time.
    fn new(epoch: &Epoch, first: Pair) -> Tsc {
        let now = compare(epoch.std);
        Tsc {
            base_ticks: now.ticks,
            base_nanos: now.nanos,
            rate: rate(now.nanos - first.nanos, now.ticks.wrapping_sub(first.ticks)),
            check_at_nanos: now.nanos + CHECK_NANOS,
        }
    }

    #[inline]
    fn nanos(&self, ticks: u64) -> u64 {
        // A reading of another core may lie a little before the base.
        let since = ticks.wrapping_sub(self.base_ticks);
        if since > 1 << 63 {
            return self.base_nanos;
        }
        self.base_nanos.wrapping_add(((u128::from(since) * u128::from(self.rate)) >> 32) as u64)
    }

    /// `exact`, except that it goes on from where this one stands, so that time never runs backwards, and nears the exact
    /// one until the next comparison.
    fn corrected(&self, exact: Tsc) -> Tsc {
        let shown = self.nanos(exact.base_ticks);
        let error = shown.abs_diff(exact.base_nanos);
        if shown < exact.base_nanos && error > SLEW_MAX_NANOS {
            return exact;
        }
        let by = u128::from(exact.rate) * u128::from(error.min(SLEW_MAX_NANOS)) / u128::from(CHECK_NANOS);
        let by = u64::try_from(by).unwrap_or(0);
        let rate = if shown > exact.base_nanos { exact.rate - by } else { exact.rate + by };
        Tsc { base_nanos: shown, rate, check_at_nanos: shown + CHECK_NANOS, ..exact }
    }
}

/// Nanoseconds a tick, times 2^32.
fn rate(nanos: u64, ticks: u64) -> u64 {
    u64::try_from((u128::from(nanos) << 32) / u128::from(ticks.max(1))).unwrap_or(u64::MAX)
}

impl Clock {
    /// A clock that shows real time.
    pub(crate) fn real() -> Clock {
        let clock = Clock {
            line: Line::default(),
            tsc: epoch().first.map(|first| Cell::new(Tsc::new(epoch(), first))),
            shift: Cell::new(0),
            paused: Cell::new(false),
            turn: Cell::new(Instant::ZERO),
        };
        clock.draw_line();
        clock.tick();
        clock
    }

    /// A clock that stands still until it is moved. Two of them show the same time, in each run of a program.
    pub(crate) fn virtual_time() -> Clock {
        let clock = Clock::real();
        clock.pause();
        clock.turn.set(VIRTUAL_START);
        clock
    }

    /// The time of the loop's turn.
    #[inline]
    pub(crate) fn turn(&self) -> Instant {
        self.turn.get()
    }

    /// The time right now.
    #[inline]
    pub(crate) fn read(&self) -> Instant {
        match self.line.read() {
            Some(now) => now.max(self.turn.get()),
            None => self.read_closely(),
        }
    }

    #[cold]
    #[inline(never)]
    fn read_closely(&self) -> Instant {
        if self.paused.get() {
            return self.turn.get();
        }
        Instant::from_nanos(self.real_nanos().wrapping_add(self.shift.get())).max(self.turn.get())
    }

    /// Begins a turn: reads the clock, and keeps its counter true to the kernel's clock.
    #[inline(always)]
    pub(crate) fn tick(&self) -> Instant {
        match self.line.read() {
            Some(now) => {
                let now = now.max(self.turn.get());
                self.turn.set(now);
                now
            }
            None => self.tick_closely(),
        }
    }

    #[cold]
    #[inline(never)]
    fn tick_closely(&self) -> Instant {
        if !self.paused.get() {
            let now = self.read_closely();
            self.turn.set(now);
            if let Some(tsc) = &self.tsc
                && now.as_nanos().wrapping_sub(self.shift.get()) >= tsc.get().check_at_nanos
            {
                self.discipline(tsc);
                self.draw_line();
            }
        }
        self.turn.get()
    }

    /// What the line is has changed: the counter's function, or whether time goes by, and from where.
    fn draw_line(&self) {
        let line = &self.line;
        line.ticks.set(0);
        if let Some(tsc) = self.tsc.as_ref().map(Cell::get)
            && !self.paused.get()
        {
            line.base_ticks.set(tsc.base_ticks);
            line.base_nanos.set(tsc.base_nanos.wrapping_add(self.shift.get()));
            line.rate.set(tsc.rate);
            let nanos = tsc.check_at_nanos.saturating_sub(tsc.base_nanos).min(CHECK_NANOS);
            line.ticks.set((nanos << 32) / tsc.rate.max(1));
        }
    }

    #[inline]
    fn real_nanos(&self) -> u64 {
        match &self.tsc {
            Some(tsc) => tsc.get().nanos(counter::read()),
            None => {
                let since = u64::try_from(epoch().std.elapsed().as_nanos()).unwrap_or(u64::MAX);
                since.saturating_add(START_NANOS)
            }
        }
    }

    #[cold]
    fn discipline(&self, tsc: &Cell<Tsc>) {
        if let Some(first) = epoch().first {
            tsc.set(tsc.get().corrected(Tsc::new(epoch(), first)));
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Stops time where it is.
    pub(crate) fn pause(&self) {
        self.turn.set(self.read());
        self.paused.set(true);
        self.draw_line();
    }

    /// Lets time go on, in step with real time, from where it stands.
    pub(crate) fn resume(&self) {
        if self.paused.replace(false) {
            self.shift.set(self.turn.get().as_nanos().wrapping_sub(self.real_nanos()));
            self.draw_line();
        }
    }

    /// Moves paused time on to `to`; never back.
    pub(crate) fn advance_to(&self, to: Instant) {
        debug_assert!(self.paused.get(), "only paused time is moved");
        self.turn.set(self.turn.get().max(to));
    }
}

/// What the standard library's clock shows at `instant`, or the farthest that it can show in that direction.
pub(crate) fn to_std(instant: Instant) -> std::time::Instant {
    let epoch = epoch().std;
    let by = Instant::from_nanos(START_NANOS).since(instant);
    if by > Duration::ZERO {
        return epoch.checked_sub(by).unwrap_or(epoch);
    }
    let mut by = instant.since(Instant::from_nanos(START_NANOS));
    loop {
        match epoch.checked_add(by) {
            Some(std) => return std,
            None => by /= 2,
        }
    }
}

/// Real time, for who asks without a runtime.
pub(crate) fn outside_of_runtimes() -> Instant {
    from_std(std::time::Instant::now())
}

/// The inverse of [`to_std`].
pub(crate) fn from_std(instant: std::time::Instant) -> Instant {
    let epoch = epoch().std;
    let start = Instant::from_nanos(START_NANOS);
    if instant >= epoch {
        start + instant.duration_since(epoch)
    } else {
        start - epoch.duration_since(instant)
    }
}

/// The processor's counter of ticks.
#[cfg(target_arch = "x86_64")]
mod counter {
    #[inline]
    pub(super) fn read() -> u64 {
        // SAFETY: each x86-64 processor has the instruction; where a system forbids it, `is_trusted` is still safe to
        // ask, since Linux allows it unless `prctl(PR_SET_TSC)` was called, which this program does not.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// Whether the counter runs at one rate in all power states, alike on all cores: the processor says so, and the kernel,
    /// which compares the cores' counters with each other and with other clocks, has not struck it off its list.
    pub(super) fn is_trusted() -> bool {
        const FEATURES: u32 = 0x8000_0007;
        const INVARIANT_TSC: u32 = 1 << 8;
        // Newer compilers know that it is safe.
        #[allow(unused_unsafe)]
        // SAFETY: each x86-64 processor has the instruction, which reads and writes no memory.
        let cpuid = |leaf| unsafe { core::arch::x86_64::__cpuid(leaf) };
        let invariant = cpuid(0x8000_0000).eax >= FEATURES && cpuid(FEATURES).edx & INVARIANT_TSC != 0;
        let sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
        invariant
            && std::fs::read_to_string(sources)
                .is_ok_and(|sources| sources.split_whitespace().any(|source| source == "tsc"))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn read() -> u64 {
        0
    }

    pub(super) fn is_trusted() -> bool {
        false
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_clock_follows_the_kernels() {
        let clock = Clock::real();
        for _ in 0..1000 {
            let (before, now, after) =
                (from_std(std::time::Instant::now()), clock.tick(), from_std(std::time::Instant::now()));
            assert!(now + Duration::from_millis(1) > before, "{now:?} lies behind {before:?}");
            assert!(now < after + Duration::from_millis(1), "{now:?} lies before {after:?}");
            assert!(clock.read() >= now);
        }
    }

    #[test]
    fn paused_time_moves_only_when_told_and_never_back() {
        let clock = Clock::virtual_time();
        let start = clock.read();
        assert_eq!(start, Clock::virtual_time().read(), "virtual time starts alike");
        assert_eq!(clock.tick(), start);
        clock.advance_to(start + Duration::from_nanos(1));
        clock.advance_to(start);
        assert_eq!(clock.read(), start + Duration::from_nanos(1));
        clock.resume();
        assert!(clock.read() >= start + Duration::from_nanos(1));
        assert!(clock.read() < start + Duration::from_secs(600), "it goes on from where it stood");
        clock.pause();
        assert_eq!(clock.read(), clock.read());
    }

    #[test]
    fn std_instants_convert_both_ways() {
        let now = std::time::Instant::now();
        assert_eq!(to_std(from_std(now)), now);
        assert!(to_std(Instant::from_nanos(5)) <= now);
        assert!(to_std(Instant::FAR_FUTURE) > now);
    }

    proptest! {
        #[test]
        fn a_correction_never_runs_backwards_and_nears_the_kernels_clock(
            error in -2_000_000i64..250_000, mhz in 500u64..5000, wrong_ppm in -200i64..200,
        ) {
            let true_rate = rate(1_000_000, mhz * 1_000);
            let wrong = true_rate.saturating_add_signed(true_rate as i64 * wrong_ppm / 1_000_000);
            let base = Tsc { base_ticks: 77, base_nanos: START_NANOS, rate: wrong, check_at_nanos: 0 };
            let at = 77 + mhz * 1_000_000;
            let shown = base.nanos(at);
            let kernel = shown.saturating_add_signed(-error);
            let exact = Tsc { base_ticks: at, base_nanos: kernel, rate: true_rate, check_at_nanos: kernel + CHECK_NANOS };
            let next = base.corrected(exact);
            prop_assert!(next.nanos(at) >= shown);
            prop_assert!(next.nanos(at + 1) >= next.nanos(at));
            let later = at + mhz * CHECK_NANOS / 1_000;
            prop_assert!(next.nanos(later).abs_diff(kernel + CHECK_NANOS) < 1_000);
        }

        #[test]
        fn a_clock_that_is_far_ahead_slows_down(ahead in SLEW_MAX_NANOS + 1..1 << 40) {
            let exact = Tsc { base_ticks: 0, base_nanos: START_NANOS, rate: 1 << 32, check_at_nanos: 0 };
            let base = Tsc { base_nanos: START_NANOS + ahead, ..exact };
            let next = base.corrected(exact);
            prop_assert_eq!(next.nanos(0), START_NANOS + ahead);
            let passed = next.nanos(CHECK_NANOS) - next.nanos(0);
            prop_assert!(passed < CHECK_NANOS && passed > CHECK_NANOS - 2 * SLEW_MAX_NANOS);
        }
    }
}
