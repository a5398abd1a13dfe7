//! A place for one waker: the thread that waits leaves it, any other thread wakes it.
//!
//! # Who may touch what
//!
//! The state is a set of two bits. `LEAVING`: the waiter is writing the waker. `WAKING`: somebody takes it. Each side
//! touches the waker only if it found neither bit set when it set its own. A waiter that finds its place taken, or is
//! disturbed while it writes, wakes itself; a second one who wakes does nothing, for the first has it in hand.
//!
//! The protocol of both ends is: *change the shared state, then wake* and *leave the waker, then look at the shared state
//! again*. Both sides' read-modify-writes of the state are ordered one way or the other, so one of them sees the other's.

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

use core::task::Waker;

const IDLE: usize = 0;
const LEAVING: usize = 1;
const WAKING: usize = 2;

/// What `loom::cell::UnsafeCell` is in a model, without the checks.
#[cfg(not(loom))]
struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        UnsafeCell(core::cell::UnsafeCell::new(value))
    }

    #[inline]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// A place for one waker.
pub(crate) struct Waiting {
    state: AtomicUsize,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the waker is touched by one thread at a time, as the state says (see above), and is `Send` and `Sync` itself.
unsafe impl Send for Waiting {}
// SAFETY: as above.
unsafe impl Sync for Waiting {}

impl Waiting {
    pub(crate) fn new() -> Waiting {
        Waiting { state: AtomicUsize::new(IDLE), waker: UnsafeCell::new(None) }
    }

    /// Leaves a waker, in place of any that was left before. One thread at a time does this; afterwards it looks again at
    /// what it waits for.
    pub(crate) fn leave(&self, waker: &Waker) {
        if self.state.compare_exchange(IDLE, LEAVING, Ordering::Acquire, Ordering::Acquire).is_err() {
            // Somebody is waking right now.
            return waker.wake_by_ref();
        }
        self.waker.with_mut(|place| {
            // SAFETY: the state was idle and is ours now.
            let place = unsafe { &mut *place };
            if !place.as_ref().is_some_and(|left| left.will_wake(waker)) {
                *place = Some(waker.clone());
            }
        });
        if self.state.compare_exchange(LEAVING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // Somebody wanted to wake meanwhile, and left it to us.
            // SAFETY: both bits are set: nobody else touches the waker until the state is idle again.
            let left = self.waker.with_mut(|place| unsafe { (*place).take() });
            self.state.swap(IDLE, Ordering::AcqRel);
            if let Some(left) = left {
                left.wake();
            }
        }
    }

    /// Wakes who has left a waker, if anybody has.
    #[inline]
    pub(crate) fn wake(&self) {
        if self.state.fetch_or(WAKING, Ordering::AcqRel) != IDLE {
            // Who leaves a waker will wake itself; who wakes already takes what there is.
            return;
        }
        // SAFETY: the state was idle and is ours now.
        let left = self.waker.with_mut(|place| unsafe { (*place).take() });
        self.state.fetch_and(!WAKING, Ordering::Release);
        if let Some(left) = left {
            left.wake();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize as Counter;
    use std::task::Wake;

    struct Count(Counter);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_waker_is_woken_once_and_the_last_one_left_counts() {
        let (first, second) = (Arc::new(Count(Counter::new(0))), Arc::new(Count(Counter::new(0))));
        let waiting = Waiting::new();
        waiting.wake();
        waiting.leave(&Arc::clone(&first).into());
        waiting.leave(&Arc::clone(&second).into());
        waiting.wake();
        waiting.wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicUsize as Counter};
    use std::task::Wake;

    struct Count(std::sync::atomic::AtomicUsize);

    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// One waits for two others to be done, each of which wakes it: it is woken, or sees it at its second look.
    #[test]
    fn loom_no_wake_is_lost() {
        loom::model(|| {
            let shared = Arc::new((Waiting::new(), Counter::new(0), AtomicBool::new(false)));
            let others: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    loom::thread::spawn(move || {
                        shared.1.fetch_add(1, Ordering::Relaxed);
                        shared.0.wake();
                    })
                })
                .collect();
            let count = std::sync::Arc::new(Count(std::sync::atomic::AtomicUsize::new(0)));
            shared.0.leave(&std::sync::Arc::clone(&count).into());
            let seen = shared.1.load(Ordering::Relaxed);
            others.into_iter().for_each(|other| other.join().unwrap());
            let woken = count.0.load(std::sync::atomic::Ordering::Relaxed);
            assert!(seen == 2 || woken > 0, "saw {seen} and was not woken");
        });
    }
}
