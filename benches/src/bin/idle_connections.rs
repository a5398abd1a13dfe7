//! What an idle connection costs in memory: bytes of heap a connection, of the stack's own state and of all that a server keeps for it.
//!
//! Both ends of every connection are here, opened over a wire in memory through the public API: the client's end lies in a list, the
//! server's in a task that waits to read. What is counted is what the program asked the allocator for and has not given back;
//! packet memory is a pool of its own, of which an idle connection holds nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use demi_benches::kit::{Args, Figure, Reporter};
use demi_benches::stack::demi;

/// Connections opened before anything is counted, so that what exists once is there.
const FIRST: usize = 100;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes handed out and not yet back.
static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; what is counted beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `memory` came from `alloc` or `realloc` here, that is from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        LIVE_BYTES.fetch_add(new, Ordering::Relaxed);
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as in `dealloc`; the caller promises that `new` is not zero and does not overflow.
        unsafe { System.realloc(memory, layout, new) }
    }
}

/// Heap that so many pairs of connections hold.
fn bytes_of(pairs: usize) -> usize {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let open = demi::idle(pairs);
    let held = LIVE_BYTES.load(Ordering::Relaxed) - before;
    drop(open);
    held
}

fn main() {
    let args = Args::parse("Heap of an idle connection, in bytes; sockets and tasks included.", &[]);
    let mut reporter = Reporter::new(args.has("json"));
    // Tables grow by doubling: just before they do, and at a million.
    for connections in [2_000, 65_536, 1_000_000] {
        let case = format!("{connections} idle connections");
        if !args.wants_case(&case) || !args.wants_peer("demi") {
            continue;
        }
        let held = bytes_of(connections / 2) - bytes_of(FIRST / 2);
        let bytes = held as f64 / (connections - FIRST) as f64;
        reporter.add(Figure {
            bench: "idle_connections",
            peer: "demi".into(),
            case,
            unit: "bytes",
            median: bytes,
            min: bytes,
            max: bytes,
            samples: 1,
            more_is_better: false,
        });
    }
    reporter.finish();
}
