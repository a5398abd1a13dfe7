//! Stopping time, for tests.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use std::time::Duration;

use super::Sleep;
use crate::context;

/// Stops the runtime's clock. From now on it moves only by [`advance`], or, when no task is ready and nothing arrives, by
/// itself: to the next deadline, of a timer or of a transport. So a test of hours of time-outs takes no time.
///
/// `#[demi::test]` starts paused.
///
/// # Panics
/// Outside of a runtime; when time is paused already.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::time::{self, Duration, Instant};
/// time::pause();
/// let start = Instant::now();
/// time::sleep(Duration::from_secs(3600)).await;
/// assert_eq!(start.elapsed(), Duration::from_secs(3600));
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn pause() {
    context::with(|runtime| {
        assert!(!runtime.clock().is_paused(), "time is paused already");
        runtime.clock().pause();
    });
}

/// Lets time go on from where it stands.
///
/// # Panics
/// Outside of a runtime; when time is not paused.
#[track_caller]
pub fn resume() {
    context::with(|runtime| {
        assert!(runtime.clock().is_paused(), "time is not paused");
        runtime.clock().resume();
    });
}

/// Moves paused time on by `duration`, in one leap, and waits until the tasks whose timers that fires have run.
///
/// # Panics
/// Outside of a runtime; when time is not paused.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::time::{self, Duration};
/// time::pause();
/// let task = demi::spawn(time::sleep(Duration::from_secs(5)));
/// demi::task::yield_now().await;
/// time::advance(Duration::from_secs(4)).await;
/// assert!(!task.is_finished());
/// time::advance(Duration::from_secs(1)).await;
/// assert!(task.is_finished());
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn advance(duration: Duration) {
    let until = context::with(|runtime| {
        assert!(runtime.clock().is_paused(), "time is not paused");
        let until = runtime.now() + duration;
        runtime.clock().advance_to(until);
        until
    });
    let mut sleep = None;
    poll_fn(|cx| match &mut sleep {
        // Its timer lies behind all that are due by now, so it is woken after they are.
        None => {
            sleep = Some(Sleep::through_the_wheel(until, cx));
            Poll::Pending
        }
        Some(sleep) => Pin::new(sleep).poll(cx),
    })
    .await;
}
