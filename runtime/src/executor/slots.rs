//! The table of tasks: slots that are reused, each with a generation that tells its tenants apart.
//!
//! A slot is 16 bytes, so that a wake touches a quarter of a cache line; and its tenant's whole name is one word of it, whose
//! two highest bits say what else there is to know, so that one comparison tells a wake all: this is the tenant that the waker
//! names, of this executor, and it is not queued. It owns neither the task's memory nor the queue.

use core::ptr::{self, NonNull};

use demi_drivers::mem::prefetch_lines;

use super::cell::Header;
use super::waker::{Key, SLOTS_MAX};

/// No slot.
const NONE: u32 = u32::MAX;
/// The slot is in the ready queue.
const QUEUED: u64 = 1 << 63;
/// The slot has no tenant: its key is that of the next one.
const VACANT: u64 = 1 << 62;

/// Tasks that fit the second-level cache of a core, beside everything else. Where there are more, the memory of one that is woken is
/// asked for at once: others will run before it.
const CROWD: u32 = 512;
/// Cache lines of a task that are asked for: its header, and how its future begins.
const TASK_LINES: usize = 3;

struct Slot {
    /// The tenant; of a vacant slot, the number of the next free one.
    task: *mut Header,
    /// The tenant's key, `QUEUED` and `VACANT`.
    word: u64,
}

/// Four to a cache line.
const _: () = assert!(size_of::<Slot>() == 16);

impl Slot {
    #[inline]
    fn tenant(&self) -> Option<NonNull<Header>> {
        // SAFETY: `insert_queued`, which alone makes a slot one that is not vacant, writes a task there, and only `free` writes
        // something else, which is of vacant slots.
        if self.word & VACANT == 0 { Some(unsafe { NonNull::new_unchecked(self.task) }) } else { None }
    }

    /// Puts the slot in front of the free ones.
    #[inline]
    fn free(&mut self, index: u32, free: &mut u32) {
        self.task = ptr::without_provenance_mut(*free as usize);
        *free = index;
    }
}

/// The slots of one executor.
pub(crate) struct Slots {
    slots: Vec<Slot>,
    executor: u16,
    free: u32,
    live: u32,
}

/// What a slot that was taken from the ready queue holds.
pub(crate) enum Popped {
    /// A task to poll, and its key.
    Task(NonNull<Header>, Key),
    /// Its tenant left while it was queued.
    Vacant,
}

impl Slots {
    /// The table of the executor of that number.
    pub(crate) fn new(executor: u16) -> Self {
        Slots { slots: Vec::new(), executor, free: NONE, live: 0 }
    }

    /// Tasks in the table.
    #[inline]
    pub(crate) fn live(&self) -> usize {
        self.live as usize
    }

    /// Slots in the table, taken or free.
    #[inline]
    pub(crate) fn len(&self) -> u32 {
        // Bounded by `SLOTS_MAX` in `grow`.
        self.slots.len() as u32
    }

    /// Whether `insert_queued` would have to grow the table.
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
            let word = Key::new(self.executor, 0, index).to_bits() | VACANT;
            self.slots.push(Slot { task: ptr::without_provenance_mut(next_free as usize), word });
        }
        if before < after {
            self.free = before;
        }
        before < after
    }

    /// Gives `task` a free slot, which the caller queues; answers the task's key. `None`: no slot is free.
    #[inline]
    pub(crate) fn insert_queued(&mut self, task: NonNull<Header>) -> Option<Key> {
        let slot = self.slots.get_mut(self.free as usize)?;
        self.free = slot.task.addr() as u32;
        slot.task = task.as_ptr();
        // A free slot is not queued.
        let key = slot.word & !VACANT;
        slot.word = key | QUEUED;
        self.live += 1;
        Some(Key::from_bits(key))
    }

    /// Marks the tenant that `key` names as queued. `true`: it was not, and the caller queues it.
    #[inline]
    pub(crate) fn queue(&mut self, key: Key) -> bool {
        match self.slots.get_mut(key.slot() as usize) {
            // A waker of another executor, a stale one, a vacant slot, a queued one: their words are all different ones. That a
            // key's generation comes round again polls the new tenant for nothing.
            Some(slot) if slot.word == key.to_bits() => {
                slot.word |= QUEUED;
                if self.live > CROWD {
                    prefetch_lines::<TASK_LINES, _>(slot.task);
                }
                true
            }
            _ => false,
        }
    }

    /// As [`queue`](Self::queue), for whoever is the tenant.
    #[inline]
    pub(crate) fn queue_any(&mut self, index: u32) -> bool {
        match self.slots.get_mut(index as usize) {
            Some(slot) if slot.word & (QUEUED | VACANT) == 0 => {
                slot.word |= QUEUED;
                true
            }
            _ => false,
        }
    }

    /// A slot has come out of the queue.
    ///
    /// # Safety
    /// `index` is that of a slot of this table.
    #[inline]
    pub(crate) unsafe fn popped(&mut self, index: u32) -> Popped {
        debug_assert!(index < self.len());
        // SAFETY: the caller's promise; the table never shrinks.
        let slot = unsafe { self.slots.get_unchecked_mut(index as usize) };
        slot.word &= !QUEUED;
        match slot.tenant() {
            Some(task) => Popped::Task(task, Key::from_bits(slot.word)),
            None => {
                slot.free(index, &mut self.free);
                Popped::Vacant
            }
        }
    }

    /// The tenant of `index`.
    pub(crate) fn get(&self, index: u32) -> Option<NonNull<Header>> {
        self.slots.get(index as usize)?.tenant()
    }

    /// The tenant leaves: its wakers are stale from now on. A slot that is still queued becomes free when it comes out of
    /// the queue, so that no slot is ever queued twice.
    #[inline]
    pub(crate) fn remove(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        debug_assert!(slot.tenant().is_some(), "a slot is vacated once");
        self.live -= 1;
        let queued = slot.word & QUEUED;
        slot.word = Key::from_bits(slot.word).next_generation().to_bits() | VACANT;
        if queued == 0 {
            slot.free(index, &mut self.free);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TASK: NonNull<Header> = NonNull::dangling();

    /// A new tenant that is not queued.
    fn tenant(slots: &mut Slots) -> Key {
        let key = slots.insert_queued(TASK).unwrap();
        assert!(matches!(popped(slots, key), Popped::Task(task, of) if task == TASK && of == key));
        key
    }

    fn popped(slots: &mut Slots, key: Key) -> Popped {
        // SAFETY: the key is of this table.
        unsafe { slots.popped(key.slot()) }
    }

    #[test]
    fn a_wake_queues_its_tenant_once() {
        let mut slots = Slots::new(5);
        assert!(slots.grow());
        let key = tenant(&mut slots);
        assert!(slots.queue(key));
        assert!(!slots.queue(key), "it is queued already");
        assert!(!slots.queue_any(key.slot()), "it is queued already");
        assert!(matches!(popped(&mut slots, key), Popped::Task(_, of) if of == key));
        assert!(!slots.queue(Key::new(6, 0, key.slot())), "another executor's");
        assert!(slots.queue(key));
    }

    #[test]
    fn a_stale_key_wakes_nobody() {
        let mut slots = Slots::new(0);
        slots.grow();
        let first = tenant(&mut slots);
        slots.remove(first.slot());
        assert!(!slots.queue(first), "the slot is vacant");
        assert!(
            !slots.queue(first.next_generation()) && !slots.queue_any(first.slot()),
            "the slot is vacant"
        );
        let second = tenant(&mut slots);
        assert_eq!(second, first.next_generation(), "the slot is reused");
        assert!(!slots.queue(first), "the slot has a new tenant");
        assert!(slots.queue(second));
    }

    #[test]
    fn a_slot_that_is_vacated_while_queued_is_not_reused_before_it_comes_out() {
        let mut slots = Slots::new(0);
        slots.grow();
        let first = slots.insert_queued(TASK).unwrap();
        slots.remove(first.slot());
        assert_eq!(slots.get(first.slot()), None);
        let second = slots.insert_queued(TASK).unwrap();
        assert_ne!(second.slot(), first.slot());
        assert!(matches!(popped(&mut slots, first), Popped::Vacant));
        assert_eq!(slots.insert_queued(TASK).unwrap().slot(), first.slot());
    }

    #[test]
    fn it_grows_and_counts() {
        let mut slots = Slots::new(0);
        assert!(slots.is_full());
        for count in 0..1000 {
            if slots.is_full() {
                assert!(slots.grow());
            }
            tenant(&mut slots);
            assert_eq!(slots.live(), count + 1);
        }
        assert!(slots.len() >= 1000);
        (0..1000).for_each(|index| slots.remove(index));
        assert_eq!(slots.live(), 0);
    }
}
