//! Letting others run.

use core::pin::Pin;
use core::task::{Context, Poll};

/// Queues the task behind those that are ready, and goes on when its turn comes.
///
/// The network is served meanwhile as often as always: a task that only yields cannot starve it, since the loop polls a
/// bounded number of tasks before it looks at the devices again.
///
/// # Cancel safety
/// Cancel safe.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// let other = demi::spawn(async {});
/// assert!(!other.is_finished());
/// demi::task::yield_now().await;
/// assert!(other.is_finished());
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[inline]
pub fn yield_now() -> YieldNow {
    YieldNow { yielded: false }
}

/// The future of [`yield_now`].
#[derive(Debug)]
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct YieldNow {
    yielded: bool,
}

impl Future for YieldNow {
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
