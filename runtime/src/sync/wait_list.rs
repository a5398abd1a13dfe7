//! Who waits, first come first served: a linked list in a slab, so that leaving it from the middle is O(1).
//!
//! An entry that was granted what it waits for leaves the line, and stays in the slab until its owner takes note or goes
//! away. Wakers are handed out to be woken by the caller, when the list is not borrowed.

use core::task::Waker;

use slab::Slab;

const NONE: usize = usize::MAX;

struct Entry {
    waker: Option<Waker>,
    /// How much it waits for.
    need: usize,
    granted: bool,
    previous: usize,
    next: usize,
}

/// A line of waiters.
pub(super) struct WaitList {
    entries: Slab<Entry>,
    first: usize,
    last: usize,
}

impl WaitList {
    pub(super) const fn new() -> Self {
        WaitList { entries: Slab::new(), first: NONE, last: NONE }
    }

    /// Whether nobody stands in line.
    pub(super) fn is_empty(&self) -> bool {
        self.first == NONE
    }

    /// Joins the end of the line.
    pub(super) fn push(&mut self, need: usize, waker: Waker) -> usize {
        let previous = self.last;
        let key =
            self.entries.insert(Entry { waker: Some(waker), need, granted: false, previous, next: NONE });
        match self.entries.get_mut(previous) {
            Some(before) => before.next = key,
            None => self.first = key,
        }
        self.last = key;
        key
    }

    /// What the first in line waits for.
    pub(super) fn first_need(&self) -> Option<usize> {
        self.entries.get(self.first).map(|entry| entry.need)
    }

    /// Grants the first in line what it waits for; answers its waker. `None`: nobody stands in line.
    pub(super) fn grant_first(&mut self) -> Option<Waker> {
        let key = self.first;
        self.unlink(key);
        let entry = self.entries.get_mut(key)?;
        entry.granted = true;
        entry.waker.take()
    }

    /// Whether the waiter was granted what it waits for.
    pub(super) fn is_granted(&self, key: usize) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.granted)
    }

    /// Changes whom to wake; answers who was, to be dropped when the list is not borrowed.
    pub(super) fn set_waker(&mut self, key: usize, waker: Waker) -> Option<Waker> {
        self.entries.get_mut(key)?.waker.replace(waker)
    }

    /// Goes away; answers whether it had been granted what it waited for, and its waker, to be dropped when the list is not
    /// borrowed.
    pub(super) fn remove(&mut self, key: usize) -> (bool, Option<Waker>) {
        let Some(entry) = self.entries.get(key) else { return (false, None) };
        if !entry.granted {
            self.unlink(key);
        }
        let entry = self.entries.remove(key);
        (entry.granted, entry.waker)
    }

    fn unlink(&mut self, key: usize) {
        let Some(entry) = self.entries.get(key) else { return };
        let (previous, next) = (entry.previous, entry.next);
        match self.entries.get_mut(previous) {
            Some(before) => before.next = next,
            None => self.first = next,
        }
        match self.entries.get_mut(next) {
            Some(after) => after.previous = previous,
            None => self.last = previous,
        }
    }
}
