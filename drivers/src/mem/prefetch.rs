//! Asking for memory before it is needed.

/// Has the processor fetch the cache line that `place` lies on, where it has an instruction for that: for a value that will be
/// needed once a hundred nanoseconds of other work are done, and lies where nobody has been for a while. It changes nothing
/// else, whatever `place` points to, so asking too early or in vain costs an instruction.
///
/// ```
/// let table = vec![0u64; 1 << 20];
/// demi_drivers::mem::prefetch(&table[123_456]);
/// ```
#[inline(always)]
pub fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86_64, and the instruction is a hint: it reads nothing the program could see, and never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = place;
}

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// [`prefetch`] of the first `LINES` cache lines from `place` on.
#[inline(always)]
pub fn prefetch_lines<const LINES: usize, T>(place: *const T) {
    for line in 0..LINES {
        prefetch(place.wrapping_byte_add(line * LINE_BYTES));
    }
}
