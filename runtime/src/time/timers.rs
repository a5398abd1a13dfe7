//! The timers of a runtime: the wheel, and the time before which nobody has to look at it.
//!
//! A turn of the loop asks whether a timer is due, and nearly always none is: that is one comparison here. The alarm is never
//! later than what the wheel knows, and may be earlier, for timers that were taken back; a look that finds nothing sets it right.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use demi_drivers::Instant;

use super::wheel::{TimerKey, Wheel};

/// The wheel and its alarm.
pub(crate) struct Timers {
    /// Nothing is due before.
    alarm: Cell<Instant>,
    wheel: RefCell<Wheel>,
}

impl Timers {
    pub(crate) fn new(now: Instant) -> Timers {
        Timers { alarm: Cell::new(Instant::FAR_FUTURE), wheel: RefCell::new(Wheel::new(now)) }
    }

    /// Timers that have not fired.
    pub(crate) fn len(&self) -> usize {
        self.wheel.borrow().len()
    }

    /// Adds a timer. One whose deadline is past fires with the next [`pop_due`](Self::pop_due).
    #[inline]
    pub(crate) fn insert(&self, deadline: Instant, waker: Waker) -> TimerKey {
        self.alarm.set(self.alarm.get().min(deadline));
        self.wheel.borrow_mut().insert(deadline, waker)
    }

    /// Removes a timer; answers its waker. `None`: it has fired.
    #[inline]
    pub(crate) fn cancel(&self, key: TimerKey) -> Option<Waker> {
        self.wheel.borrow_mut().cancel(key)
    }

    /// Whether a timer that has not fired wakes what `waker` does; `None`: it has fired.
    #[inline]
    pub(crate) fn wakes(&self, key: TimerKey, waker: &Waker) -> Option<bool> {
        self.wheel.borrow().waker(key).map(|held| held.will_wake(waker))
    }

    /// Changes whom a timer wakes; answers the waker before.
    pub(crate) fn set_waker(&self, key: TimerKey, waker: Waker) -> Option<Waker> {
        self.wheel.borrow_mut().set_waker(key, waker)
    }

    /// A time not after the earliest deadline, at which to ask for what is due; `None` without timers.
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        let next = self.wheel.borrow().next_wakeup();
        // It may be a time at which the wheel only looks closer: the loop that waits for it has to come there.
        self.alarm.set(next.unwrap_or(Instant::FAR_FUTURE));
        next
    }

    /// Whether [`pop_due`](Self::pop_due) may have something to do.
    #[inline(always)]
    pub(crate) fn may_be_due(&self, now: Instant) -> bool {
        self.alarm.get() <= now
    }

    /// Takes a timer that is due, and answers whom it wakes, with the wheel free again: a foreign waker may do anything. `None`: all
    /// that were due have fired.
    pub(crate) fn pop_due(&self, now: Instant) -> Option<Waker> {
        let mut wheel = self.wheel.borrow_mut();
        let due = wheel.pop_due(now);
        if due.is_none() {
            self.alarm.set(wheel.next_wakeup().unwrap_or(Instant::FAR_FUTURE));
        }
        due
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    fn noop() -> Waker {
        Waker::noop().clone()
    }

    #[test]
    fn nothing_is_asked_of_the_wheel_before_the_first_deadline() {
        let timers = Timers::new(at(1000));
        assert!(!timers.may_be_due(at(u64::MAX - 1)), "no timer, no look");
        timers.insert(at(5000), noop());
        let first = timers.insert(at(2000), noop());
        assert!(!timers.may_be_due(at(1999)));
        assert!(timers.may_be_due(at(2000)));
        timers.cancel(first);
        assert!(timers.may_be_due(at(2000)), "early once, for what was taken back");
        assert!(timers.pop_due(at(2000)).is_none());
        assert!(!timers.may_be_due(at(2000)), "and right after that");
        assert!(timers.may_be_due(at(5000)));
        assert!(timers.pop_due(at(5000)).is_some());
        assert!(timers.pop_due(at(5000)).is_none());
        assert!(!timers.may_be_due(at(u64::MAX - 1)));
    }

    #[test]
    fn whoever_waits_for_the_next_wakeup_gets_on() {
        let timers = Timers::new(at(0));
        timers.insert(at(1_000_000_007), noop());
        let mut looks = 0;
        let mut now = at(0);
        while timers.len() > 0 {
            now = timers.next_wakeup().unwrap().max(now);
            assert!(timers.may_be_due(now) && now <= at(1_000_000_007));
            timers.pop_due(now);
            looks += 1;
            assert!(looks < 100, "it stands at {now:?}");
        }
        assert_eq!(now, at(1_000_000_007));
    }

    #[test]
    fn a_deadline_that_is_past_is_due_at_once() {
        let timers = Timers::new(at(1000));
        let key = timers.insert(at(10), noop());
        assert!(timers.may_be_due(at(1000)) && timers.wakes(key, Waker::noop()).is_some());
        assert!(timers.pop_due(at(1000)).is_some());
        assert_eq!((timers.wakes(key, Waker::noop()), timers.len()), (None, 0));
    }
}
