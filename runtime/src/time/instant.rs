//! A point in time, by the runtime's clock.

use core::fmt;
use core::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use super::clock;
use crate::context;

/// A point in time by the runtime's clock: as [`std::time::Instant`], except that it stands still while time is paused.
///
/// Arithmetic saturates: a point too far away is "never", and a duration never negative.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::time::{Duration, Instant, sleep};
/// let start = Instant::now();
/// sleep(Duration::from_micros(50)).await;
/// assert!(start.elapsed() >= Duration::from_micros(50));
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(demi_drivers::Instant);

impl Instant {
    /// The time right now: read from the clock, not the turn's. Outside of a runtime it is real time.
    #[inline]
    pub fn now() -> Instant {
        Instant(
            context::try_with(|runtime| runtime.clock().read()).unwrap_or_else(clock::outside_of_runtimes),
        )
    }

    /// The point that the standard library's clock calls `instant`. While time is paused the two clocks drift apart; the
    /// conversion is the one that held when it was running.
    pub fn from_std(instant: std::time::Instant) -> Instant {
        Instant(clock::from_std(instant))
    }

    /// The inverse of [`from_std`](Self::from_std). What the standard library cannot show becomes the farthest that it can.
    pub fn into_std(self) -> std::time::Instant {
        clock::to_std(self.0)
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub fn duration_since(&self, earlier: Instant) -> Duration {
        self.0.since(earlier.0)
    }

    /// Time from `earlier` to `self`; `None` when `earlier` is later.
    pub fn checked_duration_since(&self, earlier: Instant) -> Option<Duration> {
        (*self >= earlier).then(|| self.0.since(earlier.0))
    }

    /// As [`duration_since`](Self::duration_since).
    pub fn saturating_duration_since(&self, earlier: Instant) -> Duration {
        self.0.since(earlier.0)
    }

    /// Time from `self` until now; zero when `self` lies ahead.
    #[inline]
    pub fn elapsed(&self) -> Duration {
        Instant::now().duration_since(*self)
    }

    /// `self + duration`; `None` when that cannot be represented.
    pub fn checked_add(&self, duration: Duration) -> Option<Instant> {
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        self.0.as_nanos().checked_add(nanos).map(|nanos| Instant(demi_drivers::Instant::from_nanos(nanos)))
    }

    /// `self - duration`; `None` when that cannot be represented.
    pub fn checked_sub(&self, duration: Duration) -> Option<Instant> {
        let nanos = u64::try_from(duration.as_nanos()).ok()?;
        self.0.as_nanos().checked_sub(nanos).map(|nanos| Instant(demi_drivers::Instant::from_nanos(nanos)))
    }

    pub(crate) fn to_drivers(self) -> demi_drivers::Instant {
        self.0
    }

    pub(crate) fn from_drivers(instant: demi_drivers::Instant) -> Instant {
        Instant(instant)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    #[inline]
    fn add(self, by: Duration) -> Instant {
        Instant(self.0 + by)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, by: Duration) -> Instant {
        Instant(self.0 - by)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;
    fn sub(self, earlier: Instant) -> Duration {
        self.0.since(earlier.0)
    }
}

impl From<std::time::Instant> for Instant {
    fn from(instant: std::time::Instant) -> Instant {
        Instant::from_std(instant)
    }
}

impl From<Instant> for std::time::Instant {
    fn from(instant: Instant) -> std::time::Instant {
        instant.into_std()
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_counts_like_the_standard_librarys() {
        let start = Instant::from_std(std::time::Instant::now());
        let later = start + Duration::from_millis(3);
        assert_eq!(later - start, Duration::from_millis(3));
        assert_eq!(later.into_std() - start.into_std(), Duration::from_millis(3));
        assert_eq!(start - later, Duration::ZERO);
        assert_eq!(start.checked_duration_since(later), None);
        assert_eq!(later - Duration::from_millis(3), start);
        assert_eq!(start.checked_add(Duration::MAX), None);
        assert!(start + Duration::MAX > later, "it saturates");
        assert!((start + Duration::MAX).into_std() > later.into_std());
    }
}
