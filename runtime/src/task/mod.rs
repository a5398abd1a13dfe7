//! Tasks: spawn them, await them, yield to them.
//!
//! A task is a future that runs beside others on the runtime's one thread. Tasks need not be `Send`: share state with
//! `Rc` and `Cell`. They run until they wait; a task that computes for long keeps all others, and the network, waiting:
//! hand such work to [`spawn_blocking`], or call [`yield_now`] in between.

mod abort_on_drop;
mod blocking;
mod id;
mod join_set;
mod yield_now;

pub(crate) use blocking::Blocking;

pub use crate::cores::RemoteHandle;
pub use crate::executor::{AbortHandle, JoinError, JoinHandle};
pub use abort_on_drop::AbortOnDrop;
pub use blocking::spawn_blocking;
pub use id::{Id, id, try_id};
pub use join_set::JoinSet;
pub use yield_now::{YieldNow, yield_now};

use crate::context;

/// Spawns a task on the current runtime.
///
/// The task starts when the caller next waits. Dropping the handle detaches the task; see [`JoinHandle`]. When the
/// runtime ends, tasks that are not finished are dropped.
///
/// # Panics
/// Outside of a runtime, and when 16,777,216 tasks are alive.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use std::{cell::Cell, rc::Rc};
/// let seen = Rc::new(Cell::new(0));
/// let task = demi::spawn({
///     let seen = Rc::clone(&seen);
///     async move { seen.set(7) }
/// });
/// task.await.unwrap();
/// assert_eq!(seen.get(), 7);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[inline]
#[track_caller]
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    context::with(|runtime| runtime.executor().spawn(future))
}
