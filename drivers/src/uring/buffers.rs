//! Provided buffers: pool slots that the kernel puts received bytes in, chosen when the bytes are there.
//!
//! Owns the shared ring of a buffer group and every slot that lies in it. A slot is the kernel's from the moment it is
//! offered until the completion that names it; the slots of a group are taken back only once it is unregistered.

use core::sync::atomic::{AtomicU16, Ordering};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::mem::{BufMut, HEADROOM, Pool, RawSlot};
use crate::sockets::explain;

/// The kernel wants the ring on a page boundary.
const PAGE: usize = 4096;

pub(super) struct Buffers {
    group: u16,
    /// `count` entries, shared with the kernel; the tail lies in a field of the first that an entry doesn't use.
    entries: NonNull<BufRingEntry>,
    layout: Layout,
    count: u16,
    tail: u16,
    /// The slot behind each buffer number, while the kernel has it.
    slots: Vec<Option<RawSlot>>,
    /// Buffer numbers without a slot.
    vacant: Vec<u16>,
    /// Bytes to ask the pool for.
    capacity: usize,
    registered: bool,
}

impl Buffers {
    /// Registers a group of `count` buffers (a power of two) of `capacity` bytes, and fills it from `pool`.
    pub(super) fn new(
        ring: &Ring,
        pool: &Pool,
        group: u16,
        count: u16,
        capacity: usize,
    ) -> io::Result<Buffers> {
        let count = count.clamp(1, 1 << 14).next_power_of_two();
        let layout = Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE)
            .map_err(io::Error::other)?;
        // SAFETY: the layout's size is not zero.
        let entries = NonNull::new(unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mut buffers = Buffers {
            group,
            entries,
            layout,
            count,
            tail: 0,
            slots: (0..count).map(|_| None).collect(),
            vacant: (0..count).rev().collect(),
            capacity,
            registered: false,
        };
        // SAFETY: the memory holds `count` entries and is freed only after it was unregistered.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, count, group, 0) }
            .map_err(|e| {
                explain(e, "cannot register buffers with io_uring (Linux 5.19 or later is needed)")
            })?;
        buffers.registered = true;
        buffers.refill(pool);
        Ok(buffers)
    }

    /// Whether a buffer number is without a slot.
    #[inline]
    pub(super) fn has_vacancies(&self) -> bool {
        !self.vacant.is_empty()
    }

    /// Whether the kernel has any buffer at all.
    #[inline]
    pub(super) fn has_any(&self) -> bool {
        self.vacant.len() < usize::from(self.count)
    }

    /// The slot behind buffer `number`, of which the kernel has written the first `len` bytes behind the headroom.
    ///
    /// # Safety
    /// A completion has named the buffer since it was offered, so that the kernel is done with it.
    #[inline]
    pub(super) unsafe fn take(&mut self, number: u16, len: usize) -> Option<BufMut> {
        let slot = self.slots.get_mut(usize::from(number))?.take()?;
        self.vacant.push(number);
        // SAFETY: the caller's promise.
        Some(unsafe { BufMut::from_raw(slot, HEADROOM, len) })
    }

    /// Offers a slot to the kernel again, in place of another that was taken.
    pub(super) fn give_back(&mut self, buf: BufMut) {
        if let Some(number) = self.vacant.pop() {
            self.offer(number, buf.into_raw());
            self.publish();
        }
    }

    /// Offers a fresh slot for each that was taken, as far as the pool has any.
    #[inline]
    pub(super) fn refill(&mut self, pool: &Pool) {
        let before = self.tail;
        while let Some(&number) = self.vacant.last() {
            let Some(buf) = pool.alloc(self.capacity) else { break };
            self.vacant.pop();
            self.offer(number, buf.into_raw());
        }
        if self.tail != before {
            self.publish();
        }
    }

    #[inline]
    fn offer(&mut self, number: u16, slot: RawSlot) {
        let at = usize::from(self.tail & (self.count - 1));
        // SAFETY: `at < count`, and the kernel doesn't read entries from the tail on; `BufRingEntry` has no invariants.
        let entry = unsafe { self.entries.add(at).as_mut() };
        entry.set_addr(slot.address(HEADROOM) as u64);
        entry.set_len((slot.capacity() - HEADROOM) as u32);
        entry.set_bid(number);
        self.slots[usize::from(number)] = Some(slot);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was offered.
    #[inline]
    fn publish(&self) {
        // SAFETY: the tail lies within the first entry's memory, aligned for a `u16`; the kernel reads it concurrently, which
        // is what the atomic store is for.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Unregisters the group and takes every slot back. Answers whether the kernel let go; if not, the memory is leaked rather
    /// than freed under it.
    pub(super) fn release(&mut self, ring: &Ring) {
        if ring.submitter().unregister_buf_ring(self.group).is_err() {
            return;
        }
        self.registered = false;
        for slot in &mut self.slots {
            if let Some(slot) = slot.take() {
                // SAFETY: no operation is in flight any more (the caller waits for all before) and the group is gone: the
                // kernel knows the slot no longer.
                drop(unsafe { BufMut::from_raw(slot, 0, 0) });
            }
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if !self.registered {
            // SAFETY: allocated with this very layout; the kernel knows it no longer.
            unsafe { dealloc(self.entries.as_ptr().cast(), self.layout) };
        }
    }
}
