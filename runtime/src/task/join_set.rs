//! A set of tasks that are awaited in the order in which they finish.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use slab::Slab;

use super::{AbortHandle, Id, JoinError, JoinHandle};

/// Tasks that belong together: awaited as they finish, aborted when the set is dropped.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use demi::{task::JoinSet, time::{Duration, sleep}};
/// let mut set = JoinSet::new();
/// for micros in [300, 100, 200] {
///     set.spawn(async move {
///         sleep(Duration::from_micros(micros)).await;
///         micros
///     });
/// }
/// let mut sum = 0;
/// while let Some(micros) = set.join_next().await {
///     sum += micros.unwrap();
/// }
/// assert_eq!(sum, 600);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct JoinSet<T> {
    tasks: Slab<JoinHandle<T>>,
    finished: Rc<Finished>,
}

/// Which tasks have finished, in order, and who wants to know.
#[derive(Default)]
struct Finished {
    keys: RefCell<VecDeque<usize>>,
    waiting: Cell<Option<Waker>>,
}

/// Lives in a task of the set, and tells when the task ends, however it does.
struct Tell {
    finished: Rc<Finished>,
    key: usize,
}

impl Drop for Tell {
    fn drop(&mut self) {
        self.finished.keys.borrow_mut().push_back(self.key);
        if let Some(waker) = self.finished.waiting.take() {
            waker.wake();
        }
    }
}

impl<T: 'static> JoinSet<T> {
    /// An empty set.
    pub fn new() -> Self {
        JoinSet { tasks: Slab::new(), finished: Rc::default() }
    }

    /// Tasks in the set, finished ones that were not taken yet included.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether the set has no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Spawns a task on the current runtime and adds it.
    ///
    /// # Panics
    /// As [`spawn`](super::spawn).
    #[track_caller]
    pub fn spawn(&mut self, future: impl Future<Output = T> + 'static) -> AbortHandle {
        let entry = self.tasks.vacant_entry();
        let tell = Tell { finished: Rc::clone(&self.finished), key: entry.key() };
        let handle = super::spawn(async move {
            let _tell = tell;
            future.await
        });
        let abort = handle.abort_handle();
        entry.insert(handle);
        abort
    }

    /// Waits for the next task to finish, and takes it out; `None` when the set is empty.
    ///
    /// # Cancel safety
    /// Cancel safe: a task is only taken out when it is answered.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let mut tasks = demi::task::JoinSet::new();
    /// for number in 0..3 {
    ///     tasks.spawn(async move { number });
    /// }
    /// let mut sum = 0;
    /// while let Some(result) = tasks.join_next().await {
    ///     sum += result.expect("it neither panics nor is aborted");
    /// }
    /// assert_eq!(sum, 3);
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
        poll_fn(|cx| self.poll_join_next(cx)).await
    }

    /// As [`join_next`](Self::join_next), with the task's name.
    ///
    /// # Errors
    /// The [`JoinError`] of a task that panicked or was aborted.
    pub async fn join_next_with_id(&mut self) -> Option<Result<(Id, T), JoinError>> {
        poll_fn(|cx| self.poll_next(cx)).await.map(|(id, result)| result.map(|output| (id, output)))
    }

    /// As [`join_next`](Self::join_next), for hand-written futures.
    pub fn poll_join_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, JoinError>>> {
        self.poll_next(cx).map(|next| next.map(|(_, result)| result))
    }

    /// The next task that has finished, if one has.
    pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
        match self.poll_join_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => next,
            Poll::Pending => None,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Id, Result<T, JoinError>)>> {
        if self.tasks.is_empty() {
            return Poll::Ready(None);
        }
        let first = self.finished.keys.borrow().front().copied();
        let Some(key) = first else {
            self.finished.waiting.set(Some(cx.waker().clone()));
            return Poll::Pending;
        };
        let Some(handle) = self.tasks.get_mut(key) else {
            // It was taken out by `detach_all`.
            self.finished.keys.borrow_mut().pop_front();
            return self.poll_next(cx);
        };
        let id = handle.id();
        // The task tells from within its last poll, a moment before its output is there.
        match core::pin::Pin::new(handle).poll(cx) {
            Poll::Ready(result) => {
                self.finished.keys.borrow_mut().pop_front();
                drop(self.tasks.remove(key));
                Poll::Ready(Some((id, result)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits for all tasks; answers their outputs in the order in which they finished.
    ///
    /// # Panics
    /// With a task's panic, or when one was aborted.
    pub async fn join_all(mut self) -> Vec<T> {
        let mut outputs = Vec::with_capacity(self.len());
        while let Some(result) = self.join_next().await {
            match result.map_err(JoinError::try_into_panic) {
                Ok(output) => outputs.push(output),
                Err(Ok(payload)) => std::panic::resume_unwind(payload),
                Err(Err(error)) => panic!("{error}"),
            }
        }
        outputs
    }

    /// Aborts all tasks; they stay in the set until they are taken.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let mut tasks = demi::task::JoinSet::new();
    /// tasks.spawn(std::future::pending::<()>());
    /// tasks.abort_all();
    /// assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn abort_all(&mut self) {
        self.tasks.iter().for_each(|(_, task)| task.abort());
    }

    /// Aborts all tasks and waits until they are gone.
    ///
    /// # Cancel safety
    /// Cancel safe: the tasks are aborted in any case.
    pub async fn shutdown(&mut self) {
        self.abort_all();
        while self.join_next().await.is_some() {}
    }

    /// Lets all tasks run on, outside of the set.
    pub fn detach_all(&mut self) {
        self.tasks.clear();
        // Those that finish later tell a list that nobody reads.
        self.finished = Rc::default();
    }
}

impl<T: 'static> Default for JoinSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for JoinSet<T> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(|(_, task)| task.abort());
    }
}

impl<T> fmt::Debug for JoinSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinSet").field("len", &self.tasks.len()).finish()
    }
}

impl<T: 'static, F: Future<Output = T> + 'static> FromIterator<F> for JoinSet<T> {
    fn from_iter<I: IntoIterator<Item = F>>(futures: I) -> Self {
        let mut set = JoinSet::new();
        futures.into_iter().for_each(|future| drop(set.spawn(future)));
        set
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::task::yield_now;

    #[test]
    fn tasks_come_in_the_order_in_which_they_finish() {
        Runtime::for_tests().block_on(async {
            let mut set: JoinSet<u32> = [3u32, 1, 2, 0]
                .into_iter()
                .map(|yields| async move {
                    for _ in 0..yields {
                        yield_now().await;
                    }
                    yields
                })
                .collect();
            assert!(set.try_join_next().is_none());
            let mut order = Vec::new();
            while let Some(yields) = set.join_next().await {
                order.push(yields.unwrap());
            }
            assert_eq!(order, [0, 1, 2, 3]);
            assert!(set.is_empty());
        });
    }

    #[test]
    fn panics_and_aborts_come_as_errors() {
        Runtime::for_tests().block_on(async {
            let mut set = JoinSet::new();
            set.spawn(async { panic!("one") });
            set.spawn(core::future::pending::<()>()).abort();
            let mut errors = Vec::new();
            while let Some(result) = set.join_next().await {
                errors.push(result.unwrap_err());
            }
            assert_eq!(errors.iter().filter(|error| error.is_panic()).count(), 1);
            assert_eq!(errors.iter().filter(|error| error.is_cancelled()).count(), 1);
        });
    }

    #[test]
    fn dropping_the_set_aborts_and_detaching_does_not() {
        Runtime::for_tests().block_on(async {
            let mut set = JoinSet::new();
            let watch = set.spawn(core::future::pending::<()>());
            drop(set);
            yield_now().await;
            assert!(watch.is_finished());

            let mut set = JoinSet::new();
            let watch = set.spawn(async {
                yield_now().await;
                yield_now().await;
            });
            set.detach_all();
            assert!(set.join_next().await.is_none());
            drop(set);
            assert!(!watch.is_finished());
            for _ in 0..3 {
                yield_now().await;
            }
            assert!(watch.is_finished());
        });
    }

    #[test]
    fn shutdown_leaves_nothing() {
        Runtime::for_tests().block_on(async {
            let mut set = JoinSet::new();
            (0..10).for_each(|_| drop(set.spawn(core::future::pending::<()>())));
            yield_now().await;
            set.shutdown().await;
            assert!(set.is_empty());
            assert_eq!(crate::metrics().tasks_alive, 1, "this one");
        });
    }
}
