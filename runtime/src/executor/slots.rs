//! The table of tasks: slots that are reused, each with a generation that tells its tenants apart.
//!
//! A slot is 16 bytes, so that a wake touches a quarter of a cache line: is this still the tenant that the waker names,
//! and is it queued already? It owns neither the task's memory nor the queue.

use core::ptr::NonNull;

use super::cell::Header;
use super::waker::{Key, SLOTS_MAX};

/// No slot.
const NONE: u32 = u32::MAX;

struct Slot {
    task: Option<NonNull<Header>>,
    /// `generation << 1 | queued`.
    word: u32,
    next_free: u32,
}

/// Four to a cache line.
const _: () = assert!(size_of::<Slot>() == 16);

/// The slots of one executor.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    free: u32,
    live: u32,
}

/// What a slot that was taken from the ready queue holds.
pub(crate) enum Popped {
    /// A task to poll.
    Task(NonNull<Header>, u32),
    /// Its tenant left while it was queued.
    Vacant,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Slots { slots: Vec::new(), free: NONE, live: 0 }
    }

    /// Tasks in the table.
    #[inline]
    pub(crate) fn live(&self) -> usize {
        self.live as usize
    }

    /// Slots in the table, taken or free.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        // Bounded by `SLOTS_MAX` in `insert`.
        self.slots.len() as u32
    }

    /// Whether `insert` would have to grow the table.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE
    }

    /// Adds as many free slots as there are, at least 64; `false`: as many as a waker can name exist.
    pub(crate) fn grow(&mut self) -> bool {
        let before = self.len();
        let after = (before * 2).clamp(64, SLOTS_MAX);
        self.slots.reserve_exact((after - before) as usize);
        for index in before..after {
            let next_free = if index + 1 < after { index + 1 } else { self.free };
            self.slots.push(Slot { task: None, word: 0, next_free });
        }
        if before < after {
            self.free = before;
        }
        before < after
    }

    /// Gives `task` a free slot, not queued; answers the slot and its generation.
    #[inline]
    pub(crate) fn insert(&mut self, task: NonNull<Header>) -> Option<(u32, u32)> {
        let index = self.free;
        let slot = self.slots.get_mut(index as usize)?;
        self.free = slot.next_free;
        slot.task = Some(task);
        self.live += 1;
        Some((index, slot.word >> 1))
    }

    /// Marks the tenant that `key` names as queued. `true`: it was not, and the caller queues it.
    #[inline]
    pub(crate) fn queue(&mut self, key: Key) -> bool {
        match self.slots.get_mut(key.slot() as usize) {
            // Not queued, and of the right generation, in one comparison. A vacant slot has a generation that no key of
            // an earlier tenant has; that a key's generation comes round again polls the new tenant for nothing.
            Some(slot) if slot.word == key.generation() << 1 && slot.task.is_some() => {
                slot.word |= 1;
                true
            }
            _ => false,
        }
    }

    /// As [`queue`](Self::queue), for whoever is the tenant.
    #[inline]
    pub(crate) fn queue_any(&mut self, index: u32) -> bool {
        match self.slots.get_mut(index as usize) {
            Some(slot) if slot.word & 1 == 0 && slot.task.is_some() => {
                slot.word |= 1;
                true
            }
            _ => false,
        }
    }

    /// A slot has come out of the queue.
    #[inline]
    pub(crate) fn popped(&mut self, index: u32) -> Popped {
        let Some(slot) = self.slots.get_mut(index as usize) else { return Popped::Vacant };
        slot.word &= !1;
        match slot.task {
            Some(task) => Popped::Task(task, slot.word >> 1),
            None => {
                slot.next_free = self.free;
                self.free = index;
                Popped::Vacant
            }
        }
    }

    /// The tenant of `index`.
    pub(crate) fn get(&self, index: u32) -> Option<NonNull<Header>> {
        self.slots.get(index as usize)?.task
    }

    /// The tenant leaves: its wakers are stale from now on. A slot that is still queued becomes free when it comes out of
    /// the queue, so that no slot is ever queued twice.
    #[inline]
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        debug_assert!(slot.task.is_some(), "a slot is vacated once");
        slot.task = None;
        self.live -= 1;
        let queued = slot.word & 1;
        slot.word = Key::next_generation(slot.word >> 1) << 1 | queued;
        if queued == 0 {
            slot.next_free = self.free;
            self.free = index;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TASK: NonNull<Header> = NonNull::dangling();

    fn key(at: (u32, u32)) -> Key {
        Key::new(0, at.1, at.0)
    }

    #[test]
    fn a_wake_queues_its_tenant_once() {
        let mut slots = Slots::new();
        assert!(slots.grow());
        let at = slots.insert(TASK).unwrap();
        assert!(slots.queue(key(at)));
        assert!(!slots.queue(key(at)), "it is queued already");
        assert!(matches!(slots.popped(at.0), Popped::Task(_, generation) if generation == at.1));
        assert!(slots.queue(key(at)));
    }

    #[test]
    fn a_stale_key_wakes_nobody() {
        let mut slots = Slots::new();
        slots.grow();
        let first = slots.insert(TASK).unwrap();
        slots.remove(first.0);
        assert!(!slots.queue(key(first)), "the slot is vacant");
        let second = slots.insert(TASK).unwrap();
        assert_eq!(second.0, first.0, "the slot is reused");
        assert!(!slots.queue(key(first)), "the slot has a new tenant");
        assert!(slots.queue(key(second)));
    }

    #[test]
    fn a_slot_that_is_vacated_while_queued_is_not_reused_before_it_comes_out() {
        let mut slots = Slots::new();
        slots.grow();
        let first = slots.insert(TASK).unwrap();
        assert!(slots.queue(key(first)));
        slots.remove(first.0);
        let second = slots.insert(TASK).unwrap();
        assert_ne!(second.0, first.0);
        assert!(matches!(slots.popped(first.0), Popped::Vacant));
        assert_eq!(slots.insert(TASK).unwrap().0, first.0);
    }

    #[test]
    fn it_grows_and_counts() {
        let mut slots = Slots::new();
        assert!(slots.is_full());
        for count in 0..1000 {
            if slots.is_full() {
                assert!(slots.grow());
            }
            slots.insert(TASK).unwrap();
            assert_eq!(slots.live(), count + 1);
        }
        assert!(slots.len() >= 1000);
        (0..1000).for_each(|index| slots.remove(index));
        assert_eq!(slots.live(), 0);
    }
}
