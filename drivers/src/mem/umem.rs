//! A pool's memory as a kernel with AF_XDP sees it: one area of chunks, named by their distance from its beginning.
//!
//! A small slot is a chunk; a large one is several. What the kernel names is turned back into the slot it lies in. This file owns
//! that arithmetic, and the ordinary pool's short ways know nothing of it.

use std::ptr::NonNull;

use super::buf::RawSlot;
use super::lend::Lent;
use super::pool::{Class, Pool};
use super::{BufMut, HEADROOM, SLOT_HEADER};

/// Where the slots of a pool lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// First byte of the area, page-aligned.
    pub(crate) base: NonNull<u8>,
    /// Bytes of the area, all of it mapped.
    pub(crate) bytes: usize,
    /// Bytes of a small slot, a power of two; they come first, one behind the other.
    pub(crate) small_bytes: usize,
    /// How many small slots there are.
    pub(crate) small_slots: usize,
    /// Where the first large slot begins, the bytes of each, and how many there are.
    large: (usize, usize, usize),
}

impl Pool {
    /// Where the slots lie; `None` for a pool whose memory is another device's, or whose small slots are of no power of two.
    pub(crate) fn layout(&self) -> Option<Layout> {
        let (base, bytes) = self.region();
        if bytes == 0 || !self.inner().small.stride().is_power_of_two() {
            return None;
        }
        let at = |class: &Class| (class.start().as_ptr().addr() - base.as_ptr().addr(), class.stride());
        let (inner, stats) = (self.inner(), self.stats());
        let (large_at, large_bytes) = at(inner.large());
        Some(Layout {
            base,
            bytes,
            small_bytes: inner.small.stride(),
            small_slots: stats.slots,
            large: (large_at, large_bytes, stats.large_slots),
        })
    }

    /// An empty buffer in a small slot, behind [`HEADROOM`]; `None` when no small one is free.
    #[inline]
    pub(crate) fn alloc_small(&self) -> Option<BufMut> {
        self.take_small().map(|slot| BufMut::from_free(slot, HEADROOM))
    }

    /// Says that a device has one small slot more to fill, or one less: such slots are nobody's use of the pool.
    #[inline]
    pub(crate) fn count_to_fill(&self, more: bool) {
        self.inner().count_to_fill(more);
    }
}

impl Layout {
    /// Where the slot begins that the byte at `offset` of the area belongs to; `None` when there is none.
    #[inline]
    fn slot_at(&self, offset: usize) -> Option<NonNull<u8>> {
        let (large_at, large_bytes, large_slots) = self.large;
        let start = if offset < self.small_slots * self.small_bytes {
            offset & !(self.small_bytes - 1)
        } else {
            let index = offset.checked_sub(large_at)?.checked_div(large_bytes)?;
            if index >= large_slots {
                return None;
            }
            large_at + index * large_bytes
        };
        // SAFETY: a slot's start lies in the area, which is `bytes` long.
        Some(unsafe { self.base.add(start) })
    }

    /// The small slot that the byte at `offset` of the area lies in, and the byte's place in its data area.
    ///
    /// # Safety
    /// The slot has been given to the kernel as a [`RawSlot`], and is not taken back twice.
    #[inline]
    pub(crate) unsafe fn raw(&self, offset: usize) -> Option<(RawSlot, usize)> {
        let within = (offset & (self.small_bytes - 1)).checked_sub(SLOT_HEADER)?;
        if offset >= self.small_slots * self.small_bytes {
            return None;
        }
        let slot = self.slot_at(offset)?;
        // SAFETY: a slot of the pool begins there, which is out, says the caller.
        Some((unsafe { RawSlot::at(slot) }, within))
    }

    /// The view that was lent of the slot that the byte at `offset` lies in.
    ///
    /// # Safety
    /// A view of that slot has been lent and not been ended.
    #[inline]
    pub(crate) unsafe fn lent(&self, offset: usize) -> Option<Lent> {
        // SAFETY: the caller's promise: it is what `into_raw` answers for a view of this slot.
        self.slot_at(offset).map(|slot| unsafe { Lent::from_raw(slot.as_ptr()) })
    }

    /// How far into the area `part` begins, if it lies in it.
    #[inline]
    pub(crate) fn offset_of(&self, part: &[u8]) -> Option<usize> {
        let offset = part.as_ptr().addr().checked_sub(self.base.as_ptr().addr())?;
        (offset < self.bytes).then_some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PoolConfig;

    #[test]
    fn a_byte_of_the_area_leads_back_to_its_slot() {
        let config = PoolConfig { slots: 8, large_slots: 2, huge_pages: false, ..PoolConfig::default() };
        let pool = Pool::new(&config).unwrap();
        let layout = pool.layout().unwrap();
        for _ in 0..3 {
            let small = pool.copy_from_slice(b"small").unwrap();
            let at = layout.offset_of(&small).unwrap();
            assert_eq!(layout.slot_at(at), Some(small.slot_start()));
        }
        let large: Vec<_> = (0..2).map(|_| pool.copy_from_slice(&[7; 60_000]).unwrap()).collect();
        for slot in &large {
            for at in [0, 2047, 2048, 59_999] {
                let offset = layout.offset_of(&slot[at..]).unwrap();
                assert_eq!(layout.slot_at(offset), Some(slot.slot_start()), "byte {at}");
            }
        }
        assert!(layout.offset_of(b"elsewhere").is_none());
        assert!(layout.slot_at(layout.bytes).is_none());
    }

    #[test]
    fn what_was_given_comes_back() {
        let pool = Pool::new(&PoolConfig::small(2)).unwrap();
        let layout = pool.layout().unwrap();
        let slot = pool.alloc_small().unwrap();
        let offset = layout.offset_of(&slot).unwrap();
        let _: RawSlot = slot.into_raw();
        // SAFETY: it was given just now, to nobody.
        let (raw, within) = unsafe { layout.raw(offset) }.unwrap();
        assert_eq!((within, pool.stats().slots_out), (HEADROOM, 1));
        // SAFETY: nobody has it.
        drop(unsafe { BufMut::from_raw(raw, within, 10) });
        let buf = pool.copy_from_slice(b"lent").unwrap();
        let (copy, at) = (buf.clone(), layout.offset_of(&buf).unwrap());
        copy.into_lent();
        drop(buf);
        assert_eq!(pool.stats().slots_out, 1);
        // SAFETY: one view was lent.
        unsafe { layout.lent(at).unwrap().end() };
        assert_eq!(pool.stats().slots_out, 0);
        assert!((0..3).map(|_| pool.alloc_small()).collect::<Vec<_>>()[2].is_none(), "two slots, no third");
    }
}
