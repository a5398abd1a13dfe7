//! Where a read puts its bytes: memory that need not be initialised.

use core::mem::MaybeUninit;

/// A caller's memory and how much of it has been filled. Safe code can only fill it front to back.
#[derive(Debug)]
pub struct ReadCursor<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    filled: usize,
}

impl<'a> ReadCursor<'a> {
    /// A cursor at the start of initialised memory.
    #[inline]
    pub fn new(memory: &'a mut [u8]) -> Self {
        let (start, len) = (memory.as_mut_ptr().cast::<MaybeUninit<u8>>(), memory.len());
        // SAFETY: same memory, same length; only initialised bytes are ever written through the cursor, so the caller's slice
        // stays initialised.
        let memory = unsafe { core::slice::from_raw_parts_mut(start, len) };
        ReadCursor { memory, filled: 0 }
    }

    /// A cursor at the start of memory that need not be initialised.
    ///
    /// # Safety
    /// When the memory is initialised already, only initialised bytes may be written to it: through this cursor's `unsafe`
    /// methods, too.
    #[inline]
    pub unsafe fn from_uninit(memory: &'a mut [MaybeUninit<u8>]) -> Self {
        ReadCursor { memory, filled: 0 }
    }

    /// Bytes filled so far: all of them are initialised.
    #[inline]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that still fit.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.memory.len() - self.filled
    }

    /// Copies as much of `bytes` as fits; answers how much.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.remaining());
        // SAFETY: `count` bytes are readable at `bytes` and writable at `filled`; the two cannot overlap, since `memory` is
        // borrowed mutably.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.memory.as_mut_ptr().add(self.filled).cast::<u8>(),
                count,
            );
        }
        self.filled += count;
        count
    }

    /// The memory not filled yet, for a system call to write to. Follow with [`advance`](Self::advance).
    #[inline]
    pub fn unfilled(&mut self) -> (*mut u8, usize) {
        let rest = &mut self.memory[self.filled..];
        (rest.as_mut_ptr().cast(), rest.len())
    }

    /// Counts `count` more bytes as filled.
    ///
    /// # Safety
    /// The first `count` bytes of [`unfilled`](Self::unfilled) have been initialised.
    #[inline]
    pub unsafe fn advance(&mut self, count: usize) {
        debug_assert!(count <= self.remaining());
        self.filled += count;
    }
}
