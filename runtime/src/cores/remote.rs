//! A task that one core has spawned on another, and the handle by which it is awaited from afar.
//!
//! The closure travels, makes the future where it will run, and the future's output travels back, through a ring of one
//! slot. The future is run within a wrapper that catches its panic, so that it reaches who awaits it, and whose end without an output,
//! wherever it comes, tells of a cancellation.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::context;
use crate::mesh::{Receiver, Sender, Waiting, channel};
use crate::task::{Id, JoinError};

/// Awaits the output of a task on another core. Made by [`Core::spawn`](crate::Core::spawn); can be sent to, and awaited on, any core.
///
/// Dropping it detaches the task, which runs on.
///
/// # Cancel safety
/// Awaiting it by reference (`&mut handle`) is cancel safe: the output stays until it is taken.
pub struct RemoteHandle<T> {
    output: Receiver<Result<T, JoinError>>,
    control: Arc<Control>,
}

/// What a handle can tell its task, and see of it.
struct Control {
    aborted: AtomicBool,
    finished: AtomicBool,
    /// The task, for who aborts it.
    task: Waiting,
}

impl<T> RemoteHandle<T> {
    /// Cancels the task: its future is dropped when its core next gets to it, and awaiting this handle answers an error that
    /// [`is_cancelled`](JoinError::is_cancelled). A task that is done already is left as it is.
    pub fn abort(&self) {
        self.control.aborted.store(true, Ordering::Release);
        self.control.task.wake();
    }

    /// Whether the task is done: it has returned, panicked, or was cancelled.
    pub fn is_finished(&self) -> bool {
        self.control.finished.load(Ordering::Acquire)
    }
}

impl<T> Future for RemoteHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Its sender always sends before it goes, so there is no end without an output.
        self.output
            .poll_recv(cx)
            .map(|output| output.unwrap_or_else(|| Err(JoinError::cancelled(Id::none()))))
    }
}

impl<T> fmt::Debug for RemoteHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteHandle").field("finished", &self.is_finished()).finish_non_exhaustive()
    }
}

/// Where the output goes; told of a cancellation if it goes nowhere.
struct Answer<T> {
    sender: Option<Sender<Result<T, JoinError>>>,
    control: Arc<Control>,
}

impl<T> Answer<T> {
    fn give(&mut self, output: Result<T, JoinError>) {
        if let Some(mut sender) = self.sender.take() {
            self.control.finished.store(true, Ordering::Release);
            // Nobody may want it any more.
            drop(sender.try_send(output));
        }
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let id = crate::task::try_id().unwrap_or_else(Id::none);
        self.give(Err(JoinError::cancelled(id)));
    }
}

/// What the other core is to call, and the handle for it.
pub(super) fn job<F, Fut>(make: F) -> (impl FnOnce() + Send + 'static, RemoteHandle<Fut::Output>)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let control = Arc::new(Control { aborted: false.into(), finished: false.into(), task: Waiting::new() });
    let (sender, output) = channel(1);
    let answer = Answer { sender: Some(sender), control: Arc::clone(&control) };
    let job = move || {
        // The closure is called within the task, so that its panic is the task's.
        let task = Remote { future: Box::pin(async move { make().await }), answer, is_known: false };
        drop(crate::spawn(task));
    };
    (job, RemoteHandle { output, control })
}

/// The task: `future` with its answer.
struct Remote<F: Future> {
    future: Pin<Box<F>>,
    answer: Answer<F::Output>,
    /// The handle knows how to wake the task.
    is_known: bool,
}

// What is pinned is behind the box.
impl<F: Future> Unpin for Remote<F> {}

impl<F: Future> Future for Remote<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.is_known {
            this.is_known = true;
            this.answer.control.task.leave(cx.waker());
        }
        if this.answer.control.aborted.load(Ordering::Acquire) {
            // The future is dropped with the task; the answer's own end tells of it.
            return Poll::Ready(());
        }
        match catch_unwind(AssertUnwindSafe(|| this.future.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => {
                this.answer.give(Ok(output));
                Poll::Ready(())
            }
            Err(payload) => {
                context::with(|runtime| runtime.executor().count_panic());
                let id = crate::task::try_id().unwrap_or_else(Id::none);
                this.answer.give(Err(JoinError::panicked(id, payload)));
                Poll::Ready(())
            }
        }
    }
}
