//! Several cores: one runtime on each, and the ways between them.
//!
//! | file | concept |
//! |---|---|
//! | `affinity` | which cores a thread runs on |
//! | `place` | where a runtime stands among its fellows, and its post to each |
//! | `remote` | a task that one core has spawned on another |
//! | `lanes` | frames on the way from one core's stack to another's |
//! | `group` | the threads: begun together, ended together |
//!
//! Each core has an executor, timers, transports and memory of its own, and shares none of them. What crosses goes through
//! the rings of [`mesh`](crate::mesh); what crosses here is a closure, which the other core calls.

mod affinity;
mod group;
mod lanes;
mod place;
mod remote;

pub(crate) use affinity::{Affinity, Pinned};
pub use group::run;
#[cfg(feature = "macros")]
pub(crate) use group::run_main;
pub(crate) use lanes::{Lanes, listen};
pub(crate) use place::{Place, Placing, attend};
pub use remote::RemoteHandle;

use crate::context;
use crate::metrics::{Metrics, Usage};
use crate::net::{Counters, Sockets};
use crate::task::JoinError;

/// One of the cores that a program runs on: a place to run things, which can be sent and kept.
///
/// It is a name, not a hold: it says which core of the program is meant, to whichever task uses it.
///
/// ```
/// # demi::run(demi::Config::new(), || async {
/// for core in demi::cores() {
///     let sum = core.spawn(|| async { (1..=10).sum::<u32>() }).await.unwrap();
///     assert_eq!(sum, 55);
/// }
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Core {
    index: usize,
    cpu: Option<usize>,
}

impl Core {
    /// Its place among the program's cores, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The processor's number for it, as in `cores = "4-7"`; `None` where the program was not told one and the thread runs where the
    /// kernel puts it.
    pub fn cpu(&self) -> Option<usize> {
        self.cpu
    }

    /// Runs a future on this core: `make` is sent there and makes it, so the future itself need not be [`Send`]. On the core
    /// that calls, this is [`spawn`](crate::spawn).
    ///
    /// The handle answers on the calling core; dropping it lets the task run on. Calls to one core are begun there in the order
    /// in which they were made. One that finds the way full waits in the caller's memory, so it is never lost; a caller
    /// that may outpace the other core awaits handles now and then.
    ///
    /// # Panics
    /// Outside of a runtime, and when this runtime has no such core.
    ///
    /// ```
    /// # demi::run(demi::Config::new(), || async {
    /// use std::{cell::Cell, rc::Rc};
    /// let here = demi::this_core();
    /// let answer = here.spawn(|| async {
    ///     let local = Rc::new(Cell::new(41)); // stays on that core
    ///     local.set(local.get() + 1);
    ///     local.get()
    /// });
    /// assert_eq!(answer.await.unwrap(), 42);
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn spawn<F, Fut>(&self, make: F) -> RemoteHandle<Fut::Output>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future + 'static,
        Fut::Output: Send + 'static,
    {
        context::with(|runtime| {
            let (job, handle) = remote::job(make);
            Place::post(runtime, self.index, Box::new(job));
            handle
        })
    }

    /// The counters of this core's runtime, now.
    ///
    /// # Errors
    /// When the core is ending.
    ///
    /// # Panics
    /// As [`spawn`](Self::spawn).
    ///
    /// ```
    /// # demi::run(demi::Config::new(), || async {
    /// let mut spawned = 0;
    /// for core in demi::cores() {
    ///     spawned += core.metrics().await.map_or(0, |metrics| metrics.tasks_spawned);
    /// }
    /// assert!(spawned > 0);
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn metrics(&self) -> Result<Metrics, JoinError> {
        self.spawn(|| async { crate::metrics() }).await
    }

    /// What this core's runtime holds, now.
    ///
    /// # Errors
    /// When the core is ending.
    ///
    /// # Panics
    /// As [`spawn`](Self::spawn).
    pub async fn usage(&self) -> Result<Usage, JoinError> {
        self.spawn(|| async { crate::usage() }).await
    }

    /// The sockets of this core's stacks, now; see [`net::sockets`](crate::net::sockets).
    ///
    /// # Errors
    /// When the core is ending.
    ///
    /// # Panics
    /// As [`spawn`](Self::spawn).
    pub async fn sockets(&self) -> Result<Sockets, JoinError> {
        self.spawn(|| async { crate::net::sockets() }).await
    }

    /// What this core's stacks have counted; see [`net::counters`](crate::net::counters).
    ///
    /// # Errors
    /// When the core is ending.
    ///
    /// # Panics
    /// As [`spawn`](Self::spawn).
    pub async fn counters(&self) -> Result<Counters, JoinError> {
        self.spawn(|| async { crate::net::counters() }).await
    }
}

/// The cores that the program runs on, by their index: one, unless [`Config::cores`](crate::Config::cores) names more.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # demi::run(demi::Config::new(), || async {
/// assert_eq!(demi::cores().count(), 1);
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn cores() -> impl ExactSizeIterator<Item = Core> + DoubleEndedIterator {
    let cpus = context::with(|runtime| runtime.place().cpus());
    (0..cpus.len()).map(move |index| Core { index, cpu: cpus.get(index).copied().flatten() })
}

/// The core with this index, the first being 0.
///
/// # Panics
/// When there are not that many, and outside of a runtime; [`cores`]`().nth(index)` asks first.
///
/// ```
/// # demi::run(demi::Config::new(), || async {
/// let task = demi::core(0).spawn(|| async { "from core 0" });
/// assert_eq!(task.await.unwrap(), "from core 0");
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn core(index: usize) -> Core {
    match cores().nth(index) {
        Some(core) => core,
        None => panic!("there is no core {index}: the program runs on {}, counted from 0", cores().len()),
    }
}

/// The core that this is called on.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # demi::run(demi::Config::new(), || async {
/// if demi::this_core().index() == 0 {
///     println!("said once, however many cores there are");
/// }
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn this_core() -> Core {
    context::with(|runtime| {
        let place = runtime.place();
        Core { index: place.index(), cpu: place.cpus().get(place.index()).copied().flatten() }
    })
}
