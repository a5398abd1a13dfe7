//! Waiting for a point in time.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::rc::Rc;
use std::time::Duration;

use super::Instant;
use super::wheel::TimerKey;
use crate::context;
use crate::runtime::Inner;

/// Waits until `duration` has passed, to the nanosecond of the clock and the turn of the loop: never less, and as much
/// more as the loop takes to come round.
///
/// # Cancel safety
/// Cancel safe: dropping the future takes the timer out of the wheel.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::time::{Duration, sleep};
/// sleep(Duration::from_micros(100)).await;
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[inline]
#[track_caller]
pub fn sleep(duration: Duration) -> Sleep {
    Sleep::new(context::with(|runtime| runtime.clock().read()) + duration)
}

/// Waits until `deadline`; a past one is over at once.
///
/// # Cancel safety
/// Cancel safe.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::time::{Duration, Instant, sleep_until};
/// let deadline = Instant::now() + Duration::from_micros(100);
/// sleep_until(deadline).await;
/// assert!(Instant::now() >= deadline);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[inline]
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep::new(deadline.to_drivers())
}

/// The future of [`sleep`] and [`sleep_until`].
///
/// It owns no timer but a number of one: which runtime's wheel, which entry, which tenant of the entry. So it is `Send`
/// and `Sync`, as hyper wants its sleeps, on a runtime where nothing else is: the numbers are compared with the current
/// runtime's whenever they are used. A sleep that is polled by another runtime than before moves there; one that is dropped
/// away from its runtime leaves the entry to fire, for nobody, at its time.
#[derive(Debug)]
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Sleep {
    deadline: demi_drivers::Instant,
    timer: TimerKey,
    /// The runtime in whose wheel the timer is; 0: in none.
    owner: u64,
}

impl Sleep {
    #[inline]
    fn new(deadline: demi_drivers::Instant) -> Sleep {
        Sleep { deadline, timer: TimerKey::NONE, owner: 0 }
    }

    /// A sleep that the loop ends, even if its deadline is past: after all timers up to then, and before the next turn.
    pub(super) fn through_the_wheel(deadline: demi_drivers::Instant, cx: &Context<'_>) -> Sleep {
        let mut sleep = Sleep::new(deadline);
        context::with(|runtime| sleep.register(runtime, cx));
        sleep
    }

    /// When the sleep is over.
    pub fn deadline(&self) -> Instant {
        Instant::from_drivers(self.deadline)
    }

    /// Whether the deadline has passed.
    pub fn is_elapsed(&self) -> bool {
        Instant::now() >= self.deadline()
    }

    /// Moves the deadline. The task that waits is woken at the new one only once it has polled again, as any future.
    pub fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        // Moved in place when it is armed here, so that who waits already is woken at the new time.
        let armed = context::try_with(|runtime| {
            if self.owner != runtime.id() {
                return None;
            }
            let waker = runtime.timers().cancel(self.timer)?;
            Some(runtime.timers().insert(deadline.to_drivers(), waker))
        });
        self.deadline = deadline.to_drivers();
        match armed.flatten() {
            Some(timer) => self.timer = timer,
            None => self.owner = 0,
        }
    }

    fn register(&mut self, runtime: &Rc<Inner>, cx: &Context<'_>) {
        let waker = cx.waker().clone();
        self.timer = runtime.timers().insert(self.deadline, waker);
        self.owner = runtime.id();
    }

    /// Takes the timer out of the wheel, if it is in the current runtime's.
    #[inline]
    fn cancel(&mut self) {
        if self.owner == 0 {
            return;
        }
        let waker = context::try_with(|runtime| {
            if runtime.id() == self.owner { runtime.timers().cancel(self.timer) } else { None }
        });
        self.owner = 0;
        drop(waker);
    }

    /// Whether the timer is still armed in this runtime's wheel; wakes the task of `cx` from now on.
    #[inline]
    fn is_armed(&self, runtime: &Inner, cx: &Context<'_>) -> bool {
        if self.owner != runtime.id() {
            return false;
        }
        match runtime.timers().wakes(self.timer, cx.waker()) {
            None => false,
            Some(true) => true,
            Some(false) => runtime.timers().set_waker(self.timer, cx.waker().clone()).is_some(),
        }
    }
}

impl Future for Sleep {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        context::with(|runtime| {
            if runtime.now() >= self.deadline {
                self.cancel();
                return Poll::Ready(());
            }
            if !self.is_armed(runtime, cx) {
                self.register(runtime, cx);
            }
            Poll::Pending
        })
    }
}

impl Drop for Sleep {
    #[inline]
    fn drop(&mut self) {
        self.cancel();
    }
}

const _: () = {
    const fn crosses_threads<T: Send + Sync + Unpin>() {}
    crosses_threads::<Sleep>();
};
