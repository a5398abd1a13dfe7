//! Names of tasks.

use core::fmt;

use crate::context;
use crate::executor::Key;

/// A task's name: distinct from those of all tasks that live at the same time, in all runtimes of the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id(Key);

impl Id {
    pub(crate) fn from_key(key: Key) -> Self {
        Id(key)
    }

    /// The name of a task that was never begun.
    pub(crate) fn none() -> Self {
        Id(Key::new(0, 0, 0))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0.executor(), self.0.slot(), self.0.generation())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}

/// The name of the task that is running.
///
/// # Panics
/// Outside of a task; see [`try_id`].
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// let task = demi::spawn(async { demi::task::id() });
/// let id = task.id();
/// assert_eq!(task.await.unwrap(), id);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn id() -> Id {
    match try_id() {
        Some(id) => id,
        None => panic!("demi::task::id called outside of a task"),
    }
}

/// The name of the task that is running; `None` outside of a task.
pub fn try_id() -> Option<Id> {
    context::try_with(|runtime| runtime.executor().running_key().map(Id)).flatten()
}
