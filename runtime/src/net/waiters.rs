//! Several tasks waiting for one socket.
//!
//! A transport remembers one waiter a socket and direction. The methods that take `&self` (accepting, datagrams,
//! readiness) may be called by many tasks at once, and each of them must be woken. One task at a time costs a comparison;
//! when a second one comes while the first still waits, the transport is given a waker that wakes both, and they race.

use std::cell::{Cell, OnceCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, RawWakerVTable, Wake, Waker};
use std::{io, ptr};

/// Who waits for one direction of a socket.
///
/// Invariant: a task whose latest poll answered `Pending` is either `last`, registered with the transport as itself while
/// the crowd is empty, or in the crowd, whose waker is registered.
#[derive(Default)]
pub(crate) struct Waiters {
    /// The task that polled in vain most recently.
    last: Cell<Option<Waker>>,
    /// What its waker consists of, to compare without taking it out.
    last_parts: Cell<Parts>,
    /// Whether `last` may still be waiting: it has not been answered since.
    waiting: Cell<bool>,
    crowd: OnceCell<Arc<Crowd>>,
}

/// What tells one task's waker from another's, as long as either is held.
#[derive(Clone, Copy)]
struct Parts(*const (), *const RawWakerVTable);

impl Parts {
    #[inline(always)]
    fn of(waker: &Waker) -> Parts {
        Parts(waker.data(), waker.vtable())
    }
}

impl PartialEq for Parts {
    #[inline(always)]
    fn eq(&self, other: &Parts) -> bool {
        self.0 == other.0 && ptr::eq(self.1, other.1)
    }
}

impl Default for Parts {
    /// Those of no waker.
    fn default() -> Self {
        Parts(ptr::null(), ptr::null())
    }
}

/// The tasks that wait together; all are woken at once.
#[derive(Default)]
struct Crowd {
    /// Only this thread uses it, but a `Waker` is `Send`, so what it wakes must be, too.
    wakers: Mutex<Vec<Waker>>,
    empty: AtomicBool,
}

impl Waiters {
    /// Polls `method` on behalf of `cx`'s task, which will be woken whoever else waits.
    #[inline(always)]
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        method: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let turn = self.begin(cx.waker());
        let answer = method(&mut Context::from_waker(turn.waker(cx)));
        self.end(cx.waker(), turn, answer.is_ready());
        answer
    }

    /// The task of `waker` is about to poll, with the waker that the answer names.
    #[inline(always)]
    pub(crate) fn begin(&self, waker: &Waker) -> Turn {
        let same = self.waiting.get() && self.is_last(waker);
        let crowded = self.is_crowded() || (self.waiting.get() && !same);
        Turn { same, joined: if crowded { Some(self.join(waker)) } else { None } }
    }

    /// It has polled.
    #[inline(always)]
    pub(crate) fn end(&self, waker: &Waker, turn: Turn, ready: bool) {
        match turn.joined {
            Some(joined) => self.leave(waker, joined, ready),
            None if ready => self.waiting.set(false),
            None if !turn.same => self.wait(waker),
            None => {}
        }
    }

    /// Whether `waker` is that of the task that polled in vain most recently.
    #[inline(always)]
    fn is_last(&self, waker: &Waker) -> bool {
        self.last_parts.get() == Parts::of(waker)
    }

    /// A task has polled in vain.
    #[inline(always)]
    fn wait(&self, waker: &Waker) {
        self.waiting.set(true);
        if !self.is_last(waker) {
            self.set_last(Some(waker.clone()));
        }
    }

    fn take_last(&self) -> Option<Waker> {
        self.last_parts.set(Parts::default());
        self.last.take()
    }

    /// Changes the task that polled in vain most recently.
    fn set_last(&self, waker: Option<Waker>) {
        self.last_parts.set(waker.as_ref().map(Parts::of).unwrap_or_default());
        self.last.set(waker);
    }

    /// Asks `method` without waiting, and sees to it that whoever waits still does: `ready` registers a waker for the same
    /// direction.
    ///
    /// # Errors
    /// What `method` said; `WouldBlock` when it is not ready.
    #[inline]
    pub(crate) fn attempt<T, R>(
        &self,
        method: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
        ready: impl FnOnce(&mut Context<'_>) -> Poll<R>,
    ) -> io::Result<T> {
        match method(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => {
                self.restore(ready);
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    /// Registers again whoever waited before an attempt took the place.
    fn restore<R>(&self, ready: impl FnOnce(&mut Context<'_>) -> Poll<R>) {
        let crowd = self.crowd.get().filter(|_| self.is_crowded()).map(|crowd| Waker::from(crowd.clone()));
        let last = self.take_last();
        if let Some(waker) = crowd.as_ref().or(last.as_ref().filter(|_| self.waiting.get()))
            && ready(&mut Context::from_waker(waker)).is_ready()
        {
            waker.wake_by_ref();
        }
        self.set_last(last);
    }

    #[inline]
    fn is_crowded(&self) -> bool {
        self.crowd.get().is_some_and(|crowd| !crowd.empty.load(Ordering::Relaxed))
    }

    /// Another task waits: they do so together.
    #[cold]
    #[inline(never)]
    fn join(&self, waker: &Waker) -> Joined {
        let last = self.take_last();
        let crowd = self.crowd.get_or_init(|| Arc::new(Crowd::new()));
        let others = crowd.join(last.as_ref().filter(|_| self.waiting.get()), waker);
        Joined { waker: Waker::from(crowd.clone()), last, others }
    }

    /// The task that has joined has its answer.
    #[cold]
    #[inline(never)]
    fn leave(&self, waker: &Waker, Joined { last, others, .. }: Joined, ready: bool) {
        if ready {
            // This task waits no more. Those who did before are registered as they were, or in the crowd.
            if let Some(crowd) = self.crowd.get() {
                crowd.leave(waker, others);
            }
            self.set_last(last);
        } else {
            self.set_last(Some(waker.clone()));
            self.waiting.set(true);
        }
    }
}

/// What a task has found when it began to poll.
pub(crate) struct Turn {
    /// It is the one that polled in vain most recently, and still waits.
    same: bool,
    joined: Option<Joined>,
}

impl Turn {
    /// Whom to wake.
    #[inline(always)]
    pub(crate) fn waker<'a>(&'a self, cx: &'a Context<'_>) -> &'a Waker {
        self.joined.as_ref().map_or(cx.waker(), |joined| &joined.waker)
    }
}

/// A task has joined the crowd.
struct Joined {
    /// Wakes the crowd.
    waker: Waker,
    last: Option<Waker>,
    /// How many were in it before.
    others: usize,
}

impl Crowd {
    fn new() -> Self {
        Crowd { wakers: Mutex::new(Vec::new()), empty: AtomicBool::new(true) }
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds both wakers, unless they are in; answers how many were in before.
    fn join(&self, last: Option<&Waker>, own: &Waker) -> usize {
        let mut wakers = self.wakers();
        let before = wakers.len();
        for waker in last.into_iter().chain([own]) {
            if !wakers.iter().any(|other| other.will_wake(waker)) {
                wakers.push(waker.clone());
            }
        }
        self.empty.store(false, Ordering::Relaxed);
        before
    }

    /// Takes `own` out again; everybody, if nobody was in before: then the crowd's waker was never registered.
    fn leave(&self, own: &Waker, before: usize) {
        let mut wakers = self.wakers();
        if before == 0 {
            wakers.clear();
        } else {
            wakers.retain(|waker| !waker.will_wake(own));
        }
        self.empty.store(wakers.is_empty(), Ordering::Relaxed);
    }
}

impl Wake for Crowd {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let wakers = std::mem::take(&mut *self.wakers());
        self.empty.store(true, Ordering::Relaxed);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Counter {
        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// A transport's side: items, and the one waiter it remembers.
    #[derive(Default)]
    struct Source {
        items: Cell<usize>,
        waiter: RefCell<Option<Waker>>,
    }

    impl Source {
        fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.items.get().checked_sub(1) {
                Some(left) => {
                    self.items.set(left);
                    Poll::Ready(Ok(()))
                }
                None => {
                    *self.waiter.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        }

        fn arrive(&self) {
            self.items.set(self.items.get() + 1);
            if let Some(waker) = self.waiter.take() {
                waker.wake();
            }
        }
    }

    fn task() -> (Arc<Counter>, Waker) {
        let counter = Arc::new(Counter::default());
        (counter.clone(), counter.into())
    }

    #[test]
    fn everybody_who_waits_is_woken_until_each_is_served() {
        let (source, waiters) = (Source::default(), Waiters::default());
        let tasks: Vec<_> = (0..5).map(|_| task()).collect();
        let poll = |waker: &Waker| waiters.poll(&mut Context::from_waker(waker), |cx| source.poll(cx));
        for (_, waker) in &tasks {
            assert!(poll(waker).is_pending());
        }
        for served in 0..tasks.len() {
            source.arrive();
            let mut ready = 0;
            for (counter, waker) in &tasks[served..] {
                assert_eq!(counter.woken(), served + 1, "all that wait are woken by each arrival");
                ready += usize::from(poll(waker).is_ready());
            }
            assert_eq!(ready, 1);
        }
    }

    #[test]
    fn a_task_that_is_served_at_once_leaves_no_trace() {
        let (source, waiters) = (Source::default(), Waiters::default());
        let (first, first_waker) = task();
        let poll = |waker: &Waker| waiters.poll(&mut Context::from_waker(waker), |cx| source.poll(cx));
        assert!(poll(&first_waker).is_pending());
        for _ in 0..10 {
            let (passing, waker) = task();
            source.items.set(1);
            assert!(poll(&waker).is_ready());
            assert_eq!(Arc::strong_count(&passing), 2, "nobody keeps the waker of a task that does not wait");
        }
        source.arrive();
        assert_eq!(first.woken(), 1);
    }

    #[test]
    fn an_attempt_leaves_the_waiters_waiting() {
        let (source, waiters) = (Source::default(), Waiters::default());
        let (one, two) = (task(), task());
        let attempt = || waiters.attempt(|cx| source.poll(cx), |cx| source.poll(cx));
        for (count, (_, waker)) in [&one, &two].into_iter().enumerate() {
            assert!(waiters.poll(&mut Context::from_waker(waker), |cx| source.poll(cx)).is_pending());
            assert_eq!(attempt().unwrap_err().kind(), io::ErrorKind::WouldBlock, "{count} waiting");
        }
        source.arrive();
        assert_eq!((one.0.woken(), two.0.woken()), (1, 1));
    }
}
