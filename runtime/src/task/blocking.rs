//! Work that blocks: on threads of their own, off the runtime's core.

use core::cell::{Cell, RefCell};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::JoinHandle;
use crate::context;
use crate::cores::Affinity;

/// Threads a runtime may have at work at once; more jobs wait.
const THREADS_MAX: usize = 64;
/// A thread without a job ends after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Runs `job` on another thread, where it may block: file systems, DNS of the C library, long computations.
///
/// Threads are started as they are needed, at most 64 a runtime, off the core that the runtime is pinned to, and end after
/// ten idle seconds. Aborting the handle of a job that has started does not stop it; its result is dropped. A runtime
/// that ends waits for running jobs, within its drain time; those that have not begun are dropped.
///
/// # Errors
/// Awaiting the handle answers a [`JoinError`](super::JoinError) when the job has panicked.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// let sum = demi::task::spawn_blocking(|| (1..=1_000_000u64).sum::<u64>()).await.unwrap();
/// assert_eq!(sum, 500_000_500_000);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn spawn_blocking<F, T>(job: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    context::with(|runtime| {
        let result = Arc::new(Mutex::new(Answer::Waiting(None)));
        let answer = Arc::clone(&result);
        let started = runtime.blocking().start(Box::new(move || {
            let answered = catch_unwind(AssertUnwindSafe(job));
            let before = core::mem::replace(&mut *lock(&answer), Answer::Here(answered));
            // Woken with the lock free.
            if let Answer::Waiting(Some(waker)) = before {
                waker.wake();
            }
        }));
        if let Err(error) = started {
            *lock(&result) = Answer::Here(Err(Box::new(format!("no thread for a blocking job: {error}"))));
        }
        let busy = Busy::new(runtime.blocking().clone());
        runtime.executor().spawn(async move {
            let answer = Answered { result }.await;
            drop(busy);
            answer.unwrap_or_else(|payload| resume_unwind(payload))
        })
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Jobs run outside of these locks, so a panic under one leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Answer<T> {
    Waiting(Option<Waker>),
    Here(Result<T, Box<dyn Any + Send>>),
}

struct Answered<T> {
    result: Arc<Mutex<Answer<T>>>,
}

impl<T> Future for Answered<T> {
    type Output = Result<T, Box<dyn Any + Send>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut answer = lock(&self.result);
        match core::mem::replace(&mut *answer, Answer::Waiting(None)) {
            Answer::Here(result) => Poll::Ready(result),
            Answer::Waiting(_) => {
                *answer = Answer::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The threads of one runtime that run blocking jobs.
#[derive(Clone)]
pub(crate) struct Blocking {
    shared: Arc<Shared>,
    /// Jobs whose tasks wait for them: virtual time stands still meanwhile.
    awaited: Rc<Cell<usize>>,
    affinity: Rc<RefCell<Option<Affinity>>>,
}

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A job was queued, or the pool is closed.
    work: Condvar,
    /// A thread has ended, or has become idle.
    rest: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// Counts a job as awaited.
struct Busy(Blocking);

impl Busy {
    fn new(pool: Blocking) -> Busy {
        pool.awaited.set(pool.awaited.get() + 1);
        Busy(pool)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.awaited.set(self.0.awaited.get() - 1);
    }
}

impl Blocking {
    pub(crate) fn new() -> Blocking {
        Blocking { shared: Arc::default(), awaited: Rc::default(), affinity: Rc::default() }
    }

    /// Where the threads may run.
    pub(crate) fn set_affinity(&self, affinity: Affinity) {
        *self.affinity.borrow_mut() = Some(affinity);
    }

    /// Whether a task waits for a job.
    pub(crate) fn is_busy(&self) -> bool {
        self.awaited.get() > 0
    }

    fn start(&self, job: Job) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        if state.closed {
            return Err(io::Error::other("the runtime is shutting down"));
        }
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.shared.work.notify_one();
        } else if state.threads < THREADS_MAX {
            let (shared, affinity) = (Arc::clone(&self.shared), self.affinity.borrow().clone());
            let spawned = std::thread::Builder::new().name("demi-blocking".into()).spawn(move || {
                if let Some(affinity) = affinity {
                    // Where that fails, the thread runs where its maker does: slower, not wrong.
                    let _ = affinity.apply();
                }
                shared.run();
            });
            match spawned {
                Ok(_) => state.threads += 1,
                // The job waits for a thread that is there.
                Err(_) if state.threads > 0 => {}
                Err(error) => {
                    state.jobs.pop_back();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Drops jobs that have not begun and waits for the others, at most `patience`; `false`: some still run.
    pub(crate) fn shut_down(&self, patience: Duration) -> bool {
        let mut state = lock(&self.shared.state);
        state.closed = true;
        let dropped = core::mem::take(&mut state.jobs);
        drop(state);
        drop(dropped);
        self.shared.work.notify_all();
        let state = lock(&self.shared.state);
        let waited = self.shared.rest.wait_timeout_while(state, patience, |state| state.threads > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.threads == 0
    }
}

impl Shared {
    /// A thread's life.
    fn run(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let waited = self
                .work
                .wait_timeout_while(state, KEEP_ALIVE, |state| state.jobs.is_empty() && !state.closed);
            let timed_out;
            (state, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            if timed_out.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.rest.notify_all();
    }
}
