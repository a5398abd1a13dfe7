//! Memory of tasks: blocks of a few sizes, carved from chunks, reused through free lists.
//!
//! After a service has reached its working size, spawning a task takes a block that an earlier one gave back: a load and
//! a store. Futures larger than the largest size, or aligned more strictly than a cache line, go to the global
//! allocator. Chunks are given back when the arena is dropped, which is after its last block was: each task holds a
//! reference to the executor that owns the arena.

use core::alloc::Layout;
use core::ptr::NonNull;
use std::alloc::{alloc, dealloc, handle_alloc_error};

/// Blocks begin at a cache line.
const ALIGN: usize = 64;
/// Block sizes are powers of two from here…
const SMALLEST_BYTES: usize = 128;
/// …to here.
const LARGEST_BYTES: usize = 4096;
const CLASSES: usize = (LARGEST_BYTES / SMALLEST_BYTES).ilog2() as usize + 1;
/// What is asked of the global allocator at a time.
const CHUNK: Layout = match Layout::from_size_align(64 * 1024, ALIGN) {
    Ok(layout) => layout,
    Err(_) => panic!("a chunk's layout is valid"),
};

/// A free block: the first word of its memory links to the next one.
struct Free {
    next: Option<NonNull<Free>>,
}

/// Free lists, one a block size, and the chunks behind them.
#[derive(Default)]
pub(crate) struct Arena {
    free: [Option<NonNull<Free>>; CLASSES],
    chunks: Vec<NonNull<u8>>,
}

/// The size class of `layout`; `None`: the global allocator serves it.
#[inline]
const fn class_of(layout: Layout) -> Option<usize> {
    if layout.align() > ALIGN || layout.size() > LARGEST_BYTES {
        return None;
    }
    if layout.size() <= SMALLEST_BYTES {
        return Some(0);
    }
    Some((layout.size().next_power_of_two() / SMALLEST_BYTES).ilog2() as usize)
}

impl Arena {
    /// Uninitialised memory for `layout`, which must not be of size zero.
    #[inline]
    pub(crate) fn allocate(&mut self, layout: Layout) -> NonNull<u8> {
        debug_assert!(layout.size() > 0);
        let Some(class) = class_of(layout) else { return global(layout) };
        if self.free[class].is_none() {
            self.refill(class);
        }
        let Some(block) = self.free[class] else { unreachable!("a refilled class has a block") };
        // SAFETY: a block on a free list is ours, aligned for `Free`, and was written by `put` before it was linked.
        self.free[class] = unsafe { block.as_ref() }.next;
        block.cast()
    }

    /// Takes memory back.
    ///
    /// # Safety
    /// `block` came from [`allocate`](Self::allocate) of this arena with the same `layout`, and nobody uses it any more.
    #[inline]
    pub(crate) unsafe fn release(&mut self, block: NonNull<u8>, layout: Layout) {
        match class_of(layout) {
            // SAFETY: the caller's promise: the block is of this class, and unused.
            Some(class) => unsafe { self.put(class, block) },
            // SAFETY: the caller's promise; `allocate` asked the global allocator with this layout.
            None => unsafe { dealloc(block.as_ptr(), layout) },
        }
    }

    /// Puts a block on the free list of `class`.
    ///
    /// # Safety
    /// `block` is `SMALLEST_BYTES << class` bytes of a chunk of ours that nobody uses.
    #[inline]
    unsafe fn put(&mut self, class: usize, block: NonNull<u8>) {
        let block = block.cast::<Free>();
        // SAFETY: the block is ours, aligned to a cache line and larger than a `Free`.
        unsafe { block.write(Free { next: self.free[class] }) };
        self.free[class] = Some(block);
    }

    #[cold]
    fn refill(&mut self, class: usize) {
        let chunk = global(CHUNK);
        self.chunks.push(chunk);
        let bytes = SMALLEST_BYTES << class;
        // Linked from the last to the first, so that blocks are handed out in the order of their addresses.
        for index in (0..CHUNK.size() / bytes).rev() {
            // SAFETY: `index * bytes` lies inside the chunk, with `bytes` behind it, and the chunk is new.
            unsafe { self.put(class, chunk.add(index * bytes)) };
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            // SAFETY: each chunk came from `global(CHUNK)`; no task is left, since each holds a reference to the
            // executor that owns this arena.
            unsafe { dealloc(chunk.as_ptr(), CHUNK) };
        }
    }
}

fn global(layout: Layout) -> NonNull<u8> {
    // SAFETY: no caller asks for a layout of size zero.
    NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_their_sizes() {
        let class = |bytes, align| class_of(Layout::from_size_align(bytes, align).unwrap());
        assert_eq!(class(1, 1), Some(0));
        assert_eq!(class(128, 64), Some(0));
        assert_eq!(class(129, 8), Some(1));
        assert_eq!(class(4096, 8), Some(CLASSES - 1));
        assert_eq!(class(4097, 8), None);
        assert_eq!(class(64, 128), None);
    }

    #[test]
    fn blocks_are_distinct_aligned_and_reused() {
        let mut arena = Arena::default();
        for bytes in [8, 200, 1000, 4096, 10_000] {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            let blocks: Vec<_> = (0..2000).map(|_| arena.allocate(layout)).collect();
            let mut addresses: Vec<_> = blocks.iter().map(|block| block.addr().get()).collect();
            addresses.sort_unstable();
            assert!(
                addresses.windows(2).all(|pair| pair[1] - pair[0] >= bytes),
                "blocks of {bytes} bytes overlap"
            );
            for block in &blocks {
                // SAFETY: the block is `bytes` long and ours.
                unsafe { block.as_ptr().write_bytes(0xa5, bytes) };
            }
            for block in blocks {
                // SAFETY: allocated above with this layout, and not used after.
                unsafe { arena.release(block, layout) };
            }
        }
        let chunks = arena.chunks.len();
        let layout = Layout::from_size_align(200, 8).unwrap();
        let block = arena.allocate(layout);
        assert_eq!(arena.chunks.len(), chunks, "a block that was given back is taken again");
        // SAFETY: allocated above with this layout.
        unsafe { arena.release(block, layout) };
    }
}
