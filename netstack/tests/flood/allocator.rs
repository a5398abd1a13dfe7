//! An allocator that counts, for each thread by itself, so that tests beside each other do not see each other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    // A thread that ends frees what no test looks at any more.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: every call goes to the system's allocator as it came; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: `memory` came from `alloc` or `realloc` above, that is from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count(new as i64 - layout.size() as i64);
        // SAFETY: as in `dealloc`; the caller promises that `new` is not zero and does not overflow.
        unsafe { System.realloc(memory, layout, new) }
    }
}

/// Calls of this thread so far, and the bytes that it holds.
pub(crate) fn counted() -> (u64, i64) {
    (CALLS.with(Cell::get), LIVE.with(Cell::get))
}

#[test]
fn what_is_allocated_is_counted() {
    let before = counted();
    let bytes = vec![0u8; 1000];
    let held = counted();
    drop(bytes);
    let after = counted();
    assert_eq!((held.0 - before.0, held.1 - before.1), (1, 1000));
    assert_eq!((after.0 - held.0, after.1), (1, before.1));
}
