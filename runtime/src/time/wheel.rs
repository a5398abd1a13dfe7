//! Timers of one runtime: a hierarchical wheel.
//!
//! Eleven levels of 64 slots cover all 64 bits of a nanosecond count, six bits a level, so deadlines are exact. A timer
//! lies on the level of the highest digit (of base 64) in which its deadline differs from the wheel's time, in the slot of
//! its own digit there. When the wheel's time reaches a slot, its timers move down to where they then belong, or fire.
//! Inserting and cancelling are O(1); a timer moves at most once a level, and most are cancelled before they move.
//!
//! What follows from it, and is relied on: all timers of a lower level are earlier than all of a higher one; within a
//! level, slots are in the order of time; and timers of equal deadline fire in the order in which they were inserted,
//! since lists are appended to, and moved down in their order.
//!
//! It wakes nobody by itself: [`Wheel::pop_due`] hands out one waker at a time, to be woken when the wheel is not borrowed.

use core::task::Waker;

use demi_drivers::Instant;

const LEVELS: usize = 11;
const SLOTS: usize = 64;
const DIGIT_BITS: u32 = 6;
/// The `level` of entries that are due.
const DUE: u8 = LEVELS as u8;
/// The `level` of entries that are free.
const FREE: u8 = DUE + 1;
/// No entry.
const NONE: u32 = u32::MAX;

/// Names a timer as long as it has neither fired nor been cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerKey {
    index: u32,
    generation: u32,
}

impl TimerKey {
    /// Names no timer.
    pub(crate) const NONE: TimerKey = TimerKey { index: NONE, generation: 0 };
}

struct Entry {
    deadline: u64,
    waker: Option<Waker>,
    /// The neighbours on the list; the first entry's `previous` is the last one.
    previous: u32,
    next: u32,
    generation: u32,
    level: u8,
    slot: u8,
}

/// The timers of one runtime.
pub(crate) struct Wheel {
    entries: Vec<Entry>,
    free: u32,
    live: usize,
    /// The wheel's time: everything before it has fired.
    elapsed: u64,
    /// One bit a level with timers.
    levels: u32,
    /// One bit a slot with timers.
    occupied: [u64; LEVELS],
    /// The first entry of each slot's list.
    heads: [[u32; SLOTS]; LEVELS],
    /// The first entry of the list of those that are due.
    due: u32,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Wheel {
        Wheel {
            entries: Vec::new(),
            free: NONE,
            live: 0,
            elapsed: now.as_nanos(),
            levels: 0,
            occupied: [0; LEVELS],
            heads: [[NONE; SLOTS]; LEVELS],
            due: NONE,
        }
    }

    /// Timers that have not fired.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Adds a timer. One whose deadline is past fires with the next [`pop_due`](Self::pop_due).
    #[inline]
    pub(crate) fn insert(&mut self, deadline: Instant, waker: Waker) -> TimerKey {
        let index = self.take_entry();
        let entry = &mut self.entries[index as usize];
        entry.deadline = deadline.as_nanos();
        entry.waker = Some(waker);
        let key = TimerKey { index, generation: entry.generation };
        self.live += 1;
        self.link(index);
        key
    }

    /// Removes a timer; answers its waker, to be dropped when the wheel is not borrowed. `None`: it has fired.
    #[inline]
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<Waker> {
        self.find(key)?;
        self.unlink(key.index);
        self.retire(key.index)
    }

    /// The waker of a timer that has not fired.
    #[inline]
    pub(crate) fn waker(&self, key: TimerKey) -> Option<&Waker> {
        self.find(key)?.waker.as_ref()
    }

    /// Changes whom a timer wakes; answers the waker before, to be dropped when the wheel is not borrowed.
    pub(crate) fn set_waker(&mut self, key: TimerKey, waker: Waker) -> Option<Waker> {
        self.find(key)?;
        self.entries.get_mut(key.index as usize)?.waker.replace(waker)
    }

    /// A time not after the earliest deadline; `None` without timers. It is the deadline itself, or the time when the
    /// timer moves to a lower level and a closer look is possible.
    #[inline]
    pub(crate) fn next_wakeup(&self) -> Option<Instant> {
        if self.due != NONE {
            return Some(Instant::from_nanos(self.elapsed));
        }
        self.first_slot().map(|(_, _, start)| Instant::from_nanos(start))
    }

    /// Moves the wheel's time towards `now` until a timer is due, and answers its waker; `None`: all that were due have
    /// fired. Timers fire in the order of their deadlines.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Waker> {
        loop {
            if self.due != NONE {
                let index = self.due;
                self.unlink(index);
                return self.retire(index);
            }
            match self.first_slot() {
                Some((level, slot, start)) if start <= now.as_nanos() => self.open(level, slot, start),
                _ => {
                    self.elapsed = self.elapsed.max(now.as_nanos());
                    return None;
                }
            }
        }
    }

    /// The earliest slot with timers, and the time at which it begins.
    #[inline]
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros() as usize;
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = DIGIT_BITS * level as u32;
        // The digits above this level are those of the wheel's time; the ones below are zero where the slot begins.
        let above = self.elapsed.checked_shr(shift + DIGIT_BITS).unwrap_or(0);
        let start = above.checked_shl(shift + DIGIT_BITS).unwrap_or(0) | (slot as u64) << shift;
        Some((level, slot, start))
    }

    /// The wheel's time reaches a slot: its timers move down, or are due.
    fn open(&mut self, level: usize, slot: usize, start: u64) {
        debug_assert!(start >= self.elapsed);
        self.elapsed = start;
        let mut index = self.heads[level][slot];
        self.vacate(level, slot);
        let last = self.entries[index as usize].previous;
        loop {
            let next = self.entries[index as usize].next;
            self.link(index);
            if index == last {
                break;
            }
            index = next;
        }
    }

    /// Puts an entry where its deadline belongs.
    #[inline]
    fn link(&mut self, index: u32) {
        let deadline = self.entries[index as usize].deadline;
        if deadline <= self.elapsed {
            self.due = self.append(self.due, index);
            self.entries[index as usize].level = DUE;
            return;
        }
        let level = ((deadline ^ self.elapsed).ilog2() / DIGIT_BITS) as usize;
        let slot = (deadline >> (DIGIT_BITS * level as u32)) as usize % SLOTS;
        self.heads[level][slot] = self.append(self.heads[level][slot], index);
        self.occupied[level] |= 1 << slot;
        self.levels |= 1 << level;
        let entry = &mut self.entries[index as usize];
        entry.level = level as u8;
        entry.slot = slot as u8;
    }

    /// Appends an entry to the list that begins with `head`; answers the list's head.
    #[inline]
    fn append(&mut self, head: u32, index: u32) -> u32 {
        if head == NONE {
            let entry = &mut self.entries[index as usize];
            (entry.previous, entry.next) = (index, NONE);
            return index;
        }
        let last = core::mem::replace(&mut self.entries[head as usize].previous, index);
        self.entries[last as usize].next = index;
        let entry = &mut self.entries[index as usize];
        (entry.previous, entry.next) = (last, NONE);
        head
    }

    /// Takes an entry off its list.
    #[inline]
    fn unlink(&mut self, index: u32) {
        let Entry { previous, next, level, slot, .. } = self.entries[index as usize];
        let (level, slot) = (usize::from(level), usize::from(slot));
        let head = if level == usize::from(DUE) { self.due } else { self.heads[level][slot] };
        let new_head = if head == index { next } else { head };
        if head != index {
            self.entries[previous as usize].next = next;
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        } else if new_head != NONE {
            self.entries[new_head as usize].previous = previous;
        }
        if level == usize::from(DUE) {
            self.due = new_head;
        } else if new_head == NONE {
            self.vacate(level, slot);
        } else {
            self.heads[level][slot] = new_head;
        }
    }

    #[inline]
    fn vacate(&mut self, level: usize, slot: usize) {
        self.heads[level][slot] = NONE;
        self.occupied[level] &= !(1 << slot);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }

    #[inline]
    fn find(&self, key: TimerKey) -> Option<&Entry> {
        self.entries
            .get(key.index as usize)
            .filter(|entry| entry.generation == key.generation && entry.level != FREE)
    }

    #[inline]
    fn take_entry(&mut self) -> u32 {
        let index = self.free;
        if let Some(entry) = self.entries.get(index as usize) {
            self.free = entry.next;
            return index;
        }
        let fresh = Entry {
            deadline: 0,
            waker: None,
            previous: NONE,
            next: NONE,
            generation: 0,
            level: FREE,
            slot: 0,
        };
        self.entries.push(fresh);
        (self.entries.len() - 1) as u32
    }

    /// Frees an entry that is on no list.
    #[inline]
    fn retire(&mut self, index: u32) -> Option<Waker> {
        self.live -= 1;
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.level = FREE;
        entry.next = core::mem::replace(&mut self.free, index);
        entry.waker.take()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use std::task::Wake;

    /// A waker that writes its number down.
    struct Named(u64, Arc<Mutex<Vec<u64>>>);
    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Cancel(usize),
        Advance(u64),
        JumpToNext,
    }

    fn op() -> impl Strategy<Value = Op> {
        // Distances of all magnitudes, so that all levels are used.
        let distance = (0u32..50, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1));
        prop_oneof![
            5 => distance.clone().prop_map(Op::Insert),
            2 => any::<usize>().prop_map(Op::Cancel),
            2 => distance.prop_map(Op::Advance),
            2 => Just(Op::JumpToNext),
        ]
    }

    proptest! {
        #[test]
        fn it_fires_what_a_sorted_map_fires_in_the_same_order(
            start in 0u64..1 << 50, ops in prop::collection::vec(op(), 1..200),
        ) {
            let mut now = start;
            let mut wheel = Wheel::new(Instant::from_nanos(start));
            let fired = Arc::new(Mutex::new(Vec::new()));
            // Sorted by deadline, then by the order of insertion.
            let mut model = BTreeMap::new();
            let mut keys = Vec::new();
            for (number, op) in (0u64..).zip(ops) {
                match op {
                    Op::Insert(distance) => {
                        let deadline = now + distance;
                        let waker = Waker::from(Arc::new(Named(number, Arc::clone(&fired))));
                        let key = wheel.insert(Instant::from_nanos(deadline), waker);
                        keys.push((key, deadline, number));
                        model.insert((deadline, number), ());
                    }
                    Op::Cancel(which) if !keys.is_empty() => {
                        let (key, deadline, number) = keys[which % keys.len()];
                        let expected = model.remove(&(deadline, number)).is_some();
                        prop_assert_eq!(wheel.cancel(key).is_some(), expected);
                    }
                    Op::Cancel(_) => {}
                    Op::Advance(by) => now += by,
                    Op::JumpToNext => match wheel.next_wakeup() {
                        Some(at) => {
                            let earliest = model.first_key_value().unwrap().0.0;
                            prop_assert!(at.as_nanos() <= earliest.max(now), "{at:?} is after {earliest}");
                            now = now.max(at.as_nanos());
                        }
                        None => prop_assert!(model.is_empty()),
                    },
                }
                while let Some(waker) = wheel.pop_due(Instant::from_nanos(now)) {
                    waker.wake();
                }
                let mut expected = Vec::new();
                while let Some((&(deadline, number), ())) = model.first_key_value() {
                    if deadline > now {
                        break;
                    }
                    model.pop_first();
                    expected.push(number);
                }
                prop_assert_eq!(std::mem::take(&mut *fired.lock().unwrap()), expected);
                prop_assert_eq!(wheel.len(), model.len());
                prop_assert!(wheel.next_wakeup().is_none_or(|at| at > Instant::from_nanos(now)));
            }
        }
    }

    #[test]
    fn a_timer_is_reached_in_few_steps() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let deadline = Instant::from_nanos(u64::MAX - 1);
        let key = wheel.insert(deadline, Waker::noop().clone());
        let mut steps = 0;
        while wheel.waker(key).is_some() {
            let at = wheel.next_wakeup().unwrap();
            assert!(at <= deadline);
            let _ = wheel.pop_due(at);
            steps += 1;
        }
        assert!(steps <= LEVELS + 1, "{steps} steps");
    }

    #[test]
    fn a_stale_key_names_nobody() {
        let mut wheel = Wheel::new(Instant::ZERO);
        let first = wheel.insert(Instant::from_nanos(10), Waker::noop().clone());
        assert!(wheel.pop_due(Instant::from_nanos(10)).is_some());
        let second = wheel.insert(Instant::from_nanos(20), Waker::noop().clone());
        assert_eq!(first.index, second.index, "the entry is reused");
        assert!(wheel.cancel(first).is_none());
        assert!(wheel.set_waker(first, Waker::noop().clone()).is_none());
        assert!(wheel.cancel(second).is_some());
        assert!(wheel.cancel(TimerKey::NONE).is_none());
        assert_eq!(wheel.next_wakeup(), None);
    }
}
