//! Slots that lie in a device's own memory: where a pool gets them from and gives them back to.
//!
//! A NIC's driver takes the memory it receives into from an allocator of its own, and gives what it has sent back to it. A pool
//! over such a [`Home`] holds slots like any other, but not all of them: the device's share comes and goes with received and
//! sent frames ([`Pool::adopt`], [`Pool::surrender`]), in bulk for what is left over. This file owns the calls for that; the ordinary
//! pool's short ways know nothing of them.

use std::ptr::NonNull;

use super::buf::{Buf, BufMut};
use super::pool::{Pool, PoolInner, SlotHeader};

/// Slots moved at a time between a pool and its home.
pub(crate) const BULK: usize = 32;

/// An allocator of slots that belongs to a device. Slots are addressed by their header.
///
/// # Safety
/// What [`take`](Self::take) answers are slots that were named when the pool was made, each owned by nobody else until it is given
/// back. The memory lives as long as the value does.
pub(crate) unsafe trait Home {
    /// Fills `slots`; `false`, with nothing taken, when there are not that many.
    fn take(&self, slots: &mut [*mut u8; BULK]) -> bool;

    /// As [`take`](Self::take), for a single one.
    fn take_one(&self) -> Option<NonNull<u8>>;

    /// Takes slots back.
    fn give(&self, slots: &[*mut u8]);

    /// Whether the memory lies on huge pages.
    fn huge_pages(&self) -> bool;
}

/// The slots of a pool that has a home, when it is made.
pub(crate) struct Homed {
    /// Where small slots come from.
    pub(crate) home: Box<dyn Home>,
    /// All small slots that will ever come from there.
    pub(crate) small: Vec<NonNull<u8>>,
    /// Bytes of a small slot's data area.
    pub(crate) small_capacity: u32,
    /// Small slots that may be out at a time: fewer than there are, for the device needs some.
    pub(crate) small_total: u32,
    /// All large slots; these belong to the pool from the start.
    pub(crate) large: Vec<NonNull<u8>>,
    /// Bytes of a large slot's data area.
    pub(crate) large_capacity: u32,
}

impl Pool {
    /// A pool over a device's memory.
    ///
    /// # Safety
    /// Every slot of `homed` is 64-aligned, [`SLOT_HEADER`](super::SLOT_HEADER) bytes of header followed by its class's capacity of
    /// initialised bytes, used by nobody but the device, which leaves the header alone; all of it lives as long as the home.
    pub(crate) unsafe fn at_home(homed: Homed) -> Pool {
        // SAFETY: the caller's promise.
        unsafe { Pool::over(homed) }
    }

    /// How many frames may be adopted now.
    #[inline]
    pub(crate) fn adoptable(&self) -> usize {
        let small = &self.inner().small;
        small.total.saturating_sub(small.out.get()) as usize
    }

    /// A view of a slot that the device has filled: `len` bytes from `offset` of its data area on. The slot is the pool's from now on.
    ///
    /// # Safety
    /// `slot` is a small slot of this pool's home, owned by the device until now, and the bytes lie in its data area.
    #[inline]
    pub(crate) unsafe fn adopt(&self, slot: NonNull<u8>, offset: usize, len: usize) -> Buf {
        let small = &self.inner().small;
        small.fresh.set(small.fresh.get() + 1);
        small.out.set(small.out.get() + 1);
        let slot = slot.cast::<SlotHeader>();
        // SAFETY: the header was written when the pool was made, and nobody else looks at a slot of the device's.
        unsafe { slot.as_ref() }.refs.set(1);
        let mut buf = BufMut::from_free(slot, offset);
        buf.grow(len);
        buf.freeze()
    }

    /// Lets a small slot of this pool go to its home by way of the device, which has it already: nothing of it is touched.
    #[inline]
    pub(crate) fn surrender(&self, buf: Buf) {
        core::mem::forget(buf);
        let small = &self.inner().small;
        small.fresh.set(small.fresh.get() - 1);
        small.out.set(small.out.get() - 1);
    }

    /// Gives free slots beyond `keep` back to the home, in bulk.
    #[inline]
    pub(crate) fn trim(&self, keep: usize) {
        let small = &self.inner().small;
        if (small.fresh.get() - small.out.get()) as usize >= keep + BULK {
            self.inner().give_home(keep);
        }
    }

    /// Whether `buf` is a view of a slot of this pool, and if so, of a small one.
    #[inline]
    pub(crate) fn class_of(&self, buf: &Buf) -> Option<SlotClass> {
        let header = buf.header();
        if header.pool != self.inner {
            return None;
        }
        Some(if header.class == 0 { SlotClass::Small } else { SlotClass::Large })
    }
}

/// Which of a pool's sizes a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotClass {
    /// One that frames are received in.
    Small,
    /// One for what is larger.
    Large,
}

impl PoolInner {
    /// A slot for a free list that is empty, and more for it, from the home.
    #[cold]
    pub(super) fn fetch(&self, home: &dyn Home) -> Option<NonNull<SlotHeader>> {
        let small = &self.small;
        if small.out.get() >= small.total {
            return None;
        }
        let mut slots = [core::ptr::null_mut(); BULK];
        if !home.take(&mut slots) {
            let slot = home.take_one()?;
            small.fresh.set(small.fresh.get() + 1);
            return Some(slot.cast());
        }
        small.fresh.set(small.fresh.get() + BULK as u32);
        let mut slots = slots.into_iter().filter_map(NonNull::new);
        let first = slots.next()?;
        for slot in slots {
            // SAFETY: the home answers slots of this pool that nobody else has.
            unsafe { small.put_free(slot.cast()) };
        }
        Some(first.cast())
    }

    /// Gives all free small slots but `keep` back to the home, if there is one.
    #[cold]
    pub(super) fn give_home(&self, keep: usize) {
        let Some(home) = self.memory.home() else { return };
        let small = &self.small;
        let mut slots = [core::ptr::null_mut(); BULK];
        loop {
            let spare = ((small.fresh.get() - small.out.get()) as usize).saturating_sub(keep);
            let mut count = 0;
            for place in slots.iter_mut().take(spare) {
                let Some(slot) = small.take_free() else { break };
                *place = slot.as_ptr().cast();
                count += 1;
            }
            if count == 0 {
                return;
            }
            small.fresh.set(small.fresh.get() - count as u32);
            home.give(&slots[..count]);
        }
    }
}
