//! Wakers as values.
//!
//! A waker names its task by number: which executor, which slot, which tenant of the slot. The three are packed into the
//! data pointer of the `RawWaker`, so cloning copies a word, dropping does nothing and no reference count exists that a
//! wake, a clone or a drop would touch. A waker may outlive its task, its executor and its thread: it then names a
//! tenant that is gone, and waking it does nothing, or at worst polls the slot's next tenant once for nothing.
//!
//! This file owns the packing and the vtable. It never looks into a slot.

use core::mem::ManuallyDrop;
use core::task::{RawWaker, RawWakerVTable, Waker};

use super::registry;
use crate::context;

/// Bits of an executor's number.
pub(crate) const EXECUTOR_BITS: u32 = 14;
/// Bits of a slot number: sixteen million tasks an executor.
pub(crate) const SLOT_BITS: u32 = 24;
/// Bits of a generation.
pub(crate) const GENERATION_BITS: u32 = 24;
/// The largest number of slots an executor can have.
pub(crate) const SLOTS_MAX: u32 = 1 << SLOT_BITS;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// The name of a task: executor (14 bits), generation (24 bits), slot (24 bits). The two highest bits are zero: the slot table
/// keeps a task's name with what it knows of the task in those two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key(u64);

impl Key {
    #[inline]
    pub(crate) const fn new(executor: u16, generation: u32, slot: u32) -> Self {
        debug_assert!(slot < SLOTS_MAX && executor < 1 << EXECUTOR_BITS);
        Key((executor as u64) << (SLOT_BITS + GENERATION_BITS)
            | ((generation & GENERATION_MASK) as u64) << SLOT_BITS
            | slot as u64)
    }

    #[inline]
    pub(crate) const fn executor(self) -> u16 {
        (self.0 >> (SLOT_BITS + GENERATION_BITS)) as u16
    }

    #[inline]
    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> SLOT_BITS) as u32 & GENERATION_MASK
    }

    #[inline]
    pub(crate) const fn slot(self) -> u32 {
        self.0 as u32 & (SLOTS_MAX - 1)
    }

    /// The name of the slot's next tenant.
    #[inline]
    pub(crate) const fn next_generation(self) -> Key {
        const GENERATION: u64 = (GENERATION_MASK as u64) << SLOT_BITS;
        let generation = self.0.wrapping_add(1 << SLOT_BITS) & GENERATION;
        Key(self.0 & !GENERATION | generation)
    }

    /// The name as a number.
    #[inline]
    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    /// The inverse of [`to_bits`](Self::to_bits).
    #[inline]
    pub(crate) const fn from_bits(bits: u64) -> Key {
        Key(bits)
    }

    /// A waker of this task. It owns nothing, so nothing is lost when its destructor does not run.
    #[inline]
    pub(crate) fn waker(self) -> ManuallyDrop<Waker> {
        // SAFETY: `VTABLE`'s functions accept any data pointer, since they only ever read it as a number; they are
        // thread-safe: each either runs on the executor's own thread, or goes through its inbox.
        ManuallyDrop::new(unsafe { Waker::from_raw(raw(self)) })
    }
}

const _: () = assert!(size_of::<*const ()>() == 8, "demi packs a task's name into a 64-bit pointer");

#[inline]
fn raw(key: Key) -> RawWaker {
    // Only a number in a pointer's clothes: nobody dereferences it.
    RawWaker::new(core::ptr::without_provenance(key.0 as usize), &VTABLE)
}

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, drop);

/// The task that `waker` names, if it is one of this file's wakers.
#[inline]
pub(crate) fn key_of(waker: &Waker) -> Option<Key> {
    // A static lies at one address, and nobody else can name it.
    core::ptr::eq(waker.vtable(), &raw const VTABLE).then(|| Key(waker.data().addr() as u64))
}

/// As `waker.clone()`, without a call when it is one of this file's wakers.
#[inline]
pub(crate) fn copy_of(waker: &Waker) -> Waker {
    match key_of(waker) {
        Some(key) => ManuallyDrop::into_inner(key.waker()),
        None => waker.clone(),
    }
}

fn clone(data: *const ()) -> RawWaker {
    raw(Key(data.addr() as u64))
}

fn wake(data: *const ()) {
    let key = Key(data.addr() as u64);
    // The executor that runs on this thread right now is the common case; every other one is reached as a foreign one.
    if !context::wake_current(key) {
        registry::wake_foreign(key);
    }
}

fn drop(_: *const ()) {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_unpacks_to_what_was_packed(executor in 0u16..1 << EXECUTOR_BITS, generation in 0u32..1 << GENERATION_BITS, slot in 0u32..SLOTS_MAX) {
            let key = Key::new(executor, generation, slot);
            prop_assert_eq!((key.executor(), key.generation(), key.slot()), (executor, generation, slot));
        }
    }

    #[test]
    fn clones_name_the_same_task_and_waking_a_stranger_does_nothing() {
        let waker = Key::new((1 << EXECUTOR_BITS) - 1, 7, 9).waker();
        let copy = Waker::clone(&waker);
        assert!(copy.will_wake(&waker));
        copy.wake();
        waker.wake_by_ref();
    }

    #[test]
    fn only_our_own_wakers_have_a_key() {
        let waker = Key::new(3, 7, 9).waker();
        assert_eq!(key_of(&waker).map(Key::slot), Some(9));
        assert!(copy_of(&waker).will_wake(&waker));
        assert_eq!(key_of(Waker::noop()), None);
        copy_of(Waker::noop()).wake();
    }

    #[test]
    fn a_generation_wraps_to_zero() {
        let last = Key::new(3, (1 << GENERATION_BITS) - 1, 9);
        assert_eq!(last.next_generation(), Key::new(3, 0, 9));
        assert_eq!(last.next_generation().next_generation(), Key::new(3, 1, 9));
    }
}
