//! Ticking at a fixed period.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::time::Duration;

use super::{Instant, Sleep, sleep_until};
use crate::context;

/// Ticks every `period`, at once for the first time.
///
/// # Panics
/// When `period` is zero; outside of a runtime.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::time::{Duration, interval};
/// let mut interval = interval(Duration::from_micros(100));
/// let first = interval.tick().await;
/// let second = interval.tick().await;
/// assert_eq!(second - first, Duration::from_micros(100));
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn interval(period: Duration) -> Interval {
    interval_at(context::with(|runtime| Instant::from_drivers(runtime.now())), period)
}

/// Ticks every `period`, at `start` for the first time.
///
/// # Panics
/// When `period` is zero.
#[track_caller]
pub fn interval_at(start: Instant, period: Duration) -> Interval {
    assert!(period > Duration::ZERO, "an interval's period must not be zero");
    Interval { sleep: sleep_until(start), period, missed: MissedTickBehavior::default() }
}

/// What an [`Interval`] does when it is asked for a tick so late that the next one is due already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissedTickBehavior {
    /// Ticks without waiting until it has caught up: none is lost.
    #[default]
    Burst,
    /// Goes on from now, a period from one to the next: late ones shift all that follow.
    Delay,
    /// Leaves out those that were missed, and goes on at the next multiple of the period from its start.
    Skip,
}

impl MissedTickBehavior {
    /// When to tick after the tick that was due at `due` and came at `now`.
    fn next(self, due: Instant, now: Instant, period: Duration) -> Instant {
        let next = due + period;
        if next > now {
            return next;
        }
        match self {
            MissedTickBehavior::Burst => next,
            MissedTickBehavior::Delay => now + period,
            MissedTickBehavior::Skip => {
                let period_nanos = period.as_nanos().max(1);
                // Less than a period, so it fits.
                let into_period = u64::try_from((now - due).as_nanos() % period_nanos).unwrap_or(0);
                now + period - Duration::from_nanos(into_period)
            }
        }
    }
}

/// Ticks at a fixed period; see [`interval`].
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Duration,
    missed: MissedTickBehavior,
}

impl Interval {
    /// Waits for the next tick; answers when it was due.
    ///
    /// # Cancel safety
    /// Cancel safe: a tick is only consumed when it is answered.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let mut interval = demi::time::interval(std::time::Duration::from_millis(1));
    /// interval.tick().await; // at once
    /// interval.tick().await; // a millisecond later
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn tick(&mut self) -> Instant {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    /// As [`tick`](Self::tick), for hand-written futures.
    pub fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<Instant> {
        ready!(Pin::new(&mut self.sleep).poll(cx));
        let due = self.sleep.deadline();
        let now = context::with(|runtime| Instant::from_drivers(runtime.now()));
        self.reset_at(self.missed.next(due, now, self.period));
        Poll::Ready(due)
    }

    /// Ticks a period from now.
    pub fn reset(&mut self) {
        self.reset_after(self.period);
    }

    /// Ticks at once.
    pub fn reset_immediately(&mut self) {
        self.reset_after(Duration::ZERO);
    }

    /// Ticks `after` from now.
    pub fn reset_after(&mut self, after: Duration) {
        self.reset_at(Instant::now() + after);
    }

    /// Ticks at `deadline`.
    pub fn reset_at(&mut self, deadline: Instant) {
        Pin::new(&mut self.sleep).reset(deadline);
    }

    /// What is done about missed ticks.
    pub fn missed_tick_behavior(&self) -> MissedTickBehavior {
        self.missed
    }

    /// Sets what is done about missed ticks.
    pub fn set_missed_tick_behavior(&mut self, behavior: MissedTickBehavior) {
        self.missed = behavior;
    }

    /// Time from one tick to the next.
    pub fn period(&self) -> Duration {
        self.period
    }
}
