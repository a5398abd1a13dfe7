//! A handle that ends its task with the scope.

use core::pin::Pin;
use core::task::{Context, Poll};

use super::{JoinError, JoinHandle};

/// A [`JoinHandle`] that aborts its task when it is dropped.
///
/// # Cancel safety
/// Dropping it is what cancels; that is its purpose.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::task::AbortOnDrop;
/// let task = AbortOnDrop::from(demi::spawn(std::future::pending::<()>()));
/// let watch = task.abort_handle();
/// drop(task);
/// demi::task::yield_now().await;
/// assert!(watch.is_finished());
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping it aborts the task"]
pub struct AbortOnDrop<T>(Option<JoinHandle<T>>);

impl<T> AbortOnDrop<T> {
    /// Lets the task run on: gives the plain handle back.
    pub fn detach(mut self) -> Option<JoinHandle<T>> {
        self.0.take()
    }

    /// A handle that can abort the task.
    ///
    /// # Panics
    /// Never: the handle is there until [`detach`](Self::detach), which consumes this.
    pub fn abort_handle(&self) -> super::AbortHandle {
        match &self.0 {
            Some(handle) => handle.abort_handle(),
            None => unreachable!("`detach` consumes the value"),
        }
    }
}

impl<T> From<JoinHandle<T>> for AbortOnDrop<T> {
    fn from(handle: JoinHandle<T>) -> Self {
        AbortOnDrop(Some(handle))
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(handle) => Pin::new(handle).poll(cx),
            None => unreachable!("`detach` consumes the value"),
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}
