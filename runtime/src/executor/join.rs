//! Handles to spawned tasks: await one, abort one, see whether it is done.

use core::any::Any;
use core::fmt;
use core::marker::PhantomData;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::sync::{Mutex, PoisonError};

use super::cell::{ABORTED, COMPLETE, DETACHED, TAKEN, TaskRef};
use crate::task::Id;

/// Awaits a spawned task's output. Dropping it detaches the task, which runs on.
///
/// Awaiting answers `Err` when the task was aborted or has panicked. Keep the handle in an
/// [`AbortOnDrop`](crate::task::AbortOnDrop) to end the task with the scope.
///
/// # Cancel safety
/// Polling by `&mut` is cancel safe: the output stays until a poll takes it.
///
/// ```
/// let runtime = demi::Runtime::new(demi::Config::default())?;
/// runtime.block_on(async {
///     let task = demi::spawn(async { 6 * 7 });
///     assert_eq!(task.await.unwrap(), 42);
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct JoinHandle<T> {
    task: TaskRef,
    output: PhantomData<T>,
}

// The handle pins nothing: the output is moved out when it is ready.
impl<T> Unpin for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// # Safety
    /// `T` is the output of the task's future, and no other `JoinHandle` of the task exists.
    #[inline]
    pub(crate) unsafe fn new(task: TaskRef) -> Self {
        JoinHandle { task, output: PhantomData }
    }

    /// Cancels the task: its future is dropped when the executor next gets to it, and awaiting this handle answers an
    /// error that [`is_cancelled`](JoinError::is_cancelled). A task that is done already is left as it is.
    #[inline]
    pub fn abort(&self) {
        abort(&self.task);
    }

    /// Whether the task is done: it has returned, panicked, or was cancelled.
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.task.header().has(COMPLETE)
    }

    /// A handle that can abort the task, and that does not detach it.
    #[inline]
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle { task: self.task.clone() }
    }

    pub(crate) fn key(&self) -> super::Key {
        self.task.header().key()
    }

    /// The task's name, distinct from those of all tasks that live at the same time.
    #[inline]
    pub fn id(&self) -> Id {
        Id::from_key(self.task.header().key())
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let header = self.task.header();
        if !header.has(COMPLETE) {
            header.set_joiner(cx.waker());
            return Poll::Pending;
        }
        // SAFETY: complete, we are the `JoinHandle`, and `new`'s caller promised the type.
        let output = unsafe { self.task.take_output() };
        assert!(output.is_ready(), "JoinHandle polled after it has completed");
        output
    }
}

impl<T> Drop for JoinHandle<T> {
    #[inline]
    fn drop(&mut self) {
        let header = self.task.header();
        if header.has(TAKEN) {
            return;
        }
        header.set(DETACHED);
        if header.has(COMPLETE) {
            // SAFETY: complete, and we are the `JoinHandle`.
            unsafe { self.task.drop_output() };
        } else {
            drop(header.take_joiner());
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("id", &self.id()).field("finished", &self.is_finished()).finish()
    }
}

/// Aborts a task. Does not keep it from running, nor from being detached.
///
/// ```
/// let runtime = demi::Runtime::new(demi::Config::default())?;
/// runtime.block_on(async {
///     let task = demi::spawn(std::future::pending::<()>());
///     let abort = task.abort_handle();
///     abort.abort();
///     assert!(task.await.unwrap_err().is_cancelled());
///     assert!(abort.is_finished());
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct AbortHandle {
    task: TaskRef,
}

impl AbortHandle {
    /// Cancels the task, as [`JoinHandle::abort`] does.
    pub fn abort(&self) {
        abort(&self.task);
    }

    /// Whether the task is done.
    pub fn is_finished(&self) -> bool {
        self.task.header().has(COMPLETE)
    }

    /// The task's name.
    pub fn id(&self) -> Id {
        Id::from_key(self.task.header().key())
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AbortHandle").field("id", &self.id()).field("finished", &self.is_finished()).finish()
    }
}

/// The future is dropped by the executor, not here: this may be called from within the task itself, or from a `Drop`.
fn abort(task: &TaskRef) {
    let header = task.header();
    if !header.has(COMPLETE | ABORTED) {
        header.set(ABORTED);
        header.home().wake_local(header.key());
    }
}

/// Why a task has no output: it was cancelled, or it has panicked.
pub struct JoinError(Box<Failure>);

/// Behind a pointer, so that a task's result is no larger than its output: results are moved three times on their way to
/// who awaits them, errors are rare.
struct Failure {
    id: Id,
    cause: Cause,
}

enum Cause {
    Cancelled,
    /// Behind a lock only so that the error is `Sync`, as boxed errors want it; nobody contends for it.
    Panicked(Mutex<Box<dyn Any + Send + 'static>>),
}

impl JoinError {
    pub(crate) fn cancelled(id: Id) -> Self {
        JoinError(Box::new(Failure { id, cause: Cause::Cancelled }))
    }

    pub(crate) fn panicked(id: Id, payload: Box<dyn Any + Send + 'static>) -> Self {
        JoinError(Box::new(Failure { id, cause: Cause::Panicked(Mutex::new(payload)) }))
    }

    /// Whether the task was aborted, or dropped with its runtime.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.0.cause, Cause::Cancelled)
    }

    /// Whether the task has panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self.0.cause, Cause::Panicked(_))
    }

    /// What the task has panicked with, for [`std::panic::resume_unwind`].
    ///
    /// # Panics
    /// When the task has not panicked; see [`try_into_panic`](Self::try_into_panic).
    #[track_caller]
    pub fn into_panic(self) -> Box<dyn Any + Send + 'static> {
        match self.try_into_panic() {
            Ok(payload) => payload,
            Err(error) => panic!("JoinError::into_panic called, but {error}"),
        }
    }

    /// What the task has panicked with.
    ///
    /// # Errors
    /// The error itself, when it tells of a cancellation.
    pub fn try_into_panic(self) -> Result<Box<dyn Any + Send + 'static>, JoinError> {
        match *self.0 {
            Failure { cause: Cause::Panicked(payload), .. } => {
                Ok(payload.into_inner().unwrap_or_else(PoisonError::into_inner))
            }
            cancelled => Err(JoinError(Box::new(cancelled))),
        }
    }

    /// The task's name.
    pub fn id(&self) -> Id {
        self.0.id
    }

    /// The panic's message, when it is text, as those of `panic!` and `assert!` are.
    fn message(&self) -> Option<String> {
        let Cause::Panicked(payload) = &self.0.cause else { return None };
        let payload = payload.lock().unwrap_or_else(PoisonError::into_inner);
        let text = payload.downcast_ref::<&'static str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned())
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.cause, self.message()) {
            (Cause::Cancelled, _) => write!(f, "task {} was cancelled", self.0.id),
            (Cause::Panicked(_), Some(message)) => write!(f, "task {} panicked: {message}", self.0.id),
            (Cause::Panicked(_), None) => write!(f, "task {} panicked", self.0.id),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.cause, self.message()) {
            (Cause::Cancelled, _) => write!(f, "JoinError::Cancelled({})", self.0.id),
            (Cause::Panicked(_), message) => write!(f, "JoinError::Panicked({}, {message:?})", self.0.id),
        }
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> io::Error {
        io::Error::other(error.to_string())
    }
}
