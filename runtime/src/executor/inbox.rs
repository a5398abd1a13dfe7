//! Wakes that come from outside: from other threads, or from another runtime on this one.
//!
//! A lock-free list of slot numbers that any thread pushes to and one executor empties. Each slot has one node, so a slot
//! is listed at most once, nothing is allocated by a wake, and the list cannot grow beyond the slot table.
//!
//! # Who may touch what
//!
//! - *Pusher*: any thread that holds a waker. *Owner*: the thread that runs the executor; there is one at a time.
//! - A node's `queued` flag is claimed by a pusher and released by the owner, both with a read-modify-write. So a pusher
//!   that finds it claimed has still published what it wrote before its wake: the owner's release reads from that
//!   pusher's claim, or the pusher's claim comes after the release and finds the flag free. Either way the poll that
//!   follows the release sees the data of every wake that was swallowed.
//! - A node's `next` belongs to the pusher that claimed the flag, until the node is on the list; then to the owner.
//! - The owner takes the whole list with one swap. Pushers only ever compare the head's value, never follow it, so a head
//!   that was taken and pushed again in between (ABA) is harmless: `next` then names the right node still.
//! - `asleep` and the list form Dekker's pattern: the owner announces its sleep, then looks at the list; a pusher puts its
//!   node on the list, then looks whether the owner sleeps. A sequentially consistent fence between the two steps on
//!   both sides rules out that each misses the other. Who sees `asleep` takes it down and rings.
//! - Pages of nodes are added by the owner before a slot's first tenant, and with it its first waker, exists. They are
//!   never moved, and freed with the inbox only.

use super::waker::SLOT_BITS;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering, fence};

/// The end of the list.
const END: u32 = u32::MAX;
/// Nodes of the first page; each page after it has twice as many.
const FIRST_PAGE: usize = 64;
/// Enough pages for every slot that a waker can name.
const PAGES: usize = (SLOT_BITS - FIRST_PAGE.ilog2() + 1) as usize;

struct Node {
    queued: AtomicBool,
    next: AtomicU32,
}

/// A list of slots to wake.
pub(crate) struct Inbox {
    head: AtomicU32,
    asleep: AtomicBool,
    pages: [AtomicPtr<Node>; PAGES],
}

/// The page that holds `slot`, and the node's place in it.
#[inline]
const fn place(slot: u32) -> (usize, usize) {
    let nth = slot as usize + FIRST_PAGE;
    let page = (nth.ilog2() - FIRST_PAGE.ilog2()) as usize;
    (page, nth - (FIRST_PAGE << page))
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Inbox {
            head: AtomicU32::new(END),
            asleep: AtomicBool::new(false),
            pages: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
        }
    }

    /// Owner: provides nodes for the slots below `slots`.
    pub(crate) fn reserve(&self, slots: u32) {
        let Some(last) = slots.checked_sub(1) else { return };
        for (index, page) in self.pages.iter().enumerate().take(place(last).0 + 1) {
            if page.load(Ordering::Relaxed).is_null() {
                let nodes: Box<[Node]> = (0..FIRST_PAGE << index)
                    .map(|_| Node { queued: AtomicBool::new(false), next: AtomicU32::new(END) })
                    .collect();
                page.store(Box::into_raw(nodes).cast(), Ordering::Release);
            }
        }
    }

    fn node(&self, slot: u32) -> Option<&Node> {
        let (page, index) = place(slot);
        let nodes = self.pages.get(page)?.load(Ordering::Acquire);
        if nodes.is_null() {
            return None;
        }
        // SAFETY: a page that is not null points to `FIRST_PAGE << page` nodes, `place` answers an index below that, and
        // pages live as long as the inbox.
        Some(unsafe { &*nodes.add(index) })
    }

    /// Any thread: lists `slot`. `true`: the owner is asleep, and the caller is the one who has to ring it.
    #[must_use]
    pub(crate) fn push(&self, slot: u32) -> bool {
        let Some(node) = self.node(slot) else { return false };
        if node.queued.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            node.next.store(head, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, slot, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel)
    }

    /// Owner: whether something is listed.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed) == END
    }

    /// Owner: takes everything listed, oldest first.
    pub(crate) fn drain(&self, mut wake: impl FnMut(u32)) {
        // Turn the list around: it was pushed at the head.
        let mut newest = self.head.swap(END, Ordering::Acquire);
        let mut oldest = END;
        while let Some(node) = self.listed(newest) {
            let next = node.next.load(Ordering::Relaxed);
            node.next.store(oldest, Ordering::Relaxed);
            oldest = newest;
            newest = next;
        }
        while let Some(node) = self.listed(oldest) {
            let slot = oldest;
            oldest = node.next.load(Ordering::Relaxed);
            // From here on the node can be listed anew.
            node.queued.swap(false, Ordering::AcqRel);
            wake(slot);
        }
    }

    fn listed(&self, slot: u32) -> Option<&Node> {
        if slot == END { None } else { self.node(slot) }
    }

    /// Owner: announces that it is about to sleep. `false`: something is listed, stay awake.
    #[must_use]
    pub(crate) fn prepare_sleep(&self) -> bool {
        // A swap where a store would do: loom lets a pusher's earlier swap come after a plain store, which no machine does.
        self.asleep.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.finish_sleep();
        false
    }

    /// Owner: is awake again. `true`: a pusher has rung, or is about to.
    pub(crate) fn finish_sleep(&self) -> bool {
        !self.asleep.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for (index, page) in self.pages.iter().enumerate() {
            let nodes = page.load(Ordering::Relaxed);
            if !nodes.is_null() {
                let nodes = core::ptr::slice_from_raw_parts_mut(nodes, FIRST_PAGE << index);
                // SAFETY: `reserve` made the page from a box of this length, and nobody else can reach it any more.
                drop(unsafe { Box::from_raw(nodes) });
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn drained(inbox: &Inbox) -> Vec<u32> {
        let mut slots = Vec::new();
        inbox.drain(|slot| slots.push(slot));
        slots
    }

    #[test]
    fn places_are_consecutive() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(63), (0, 63));
        assert_eq!(place(64), (1, 0));
        assert_eq!(place(191), (1, 127));
        assert_eq!(place(192), (2, 0));
        assert_eq!(place((1 << SLOT_BITS) - 1).0, PAGES - 1);
    }

    #[test]
    fn slots_come_out_once_and_in_the_order_of_their_first_push() {
        let inbox = Inbox::new();
        inbox.reserve(200);
        for slot in [3, 199, 0, 3, 64, 199] {
            assert!(!inbox.push(slot), "nobody sleeps");
        }
        assert_eq!(drained(&inbox), [3, 199, 0, 64]);
        assert!(inbox.is_empty());
        assert!(!inbox.push(3));
        assert_eq!(drained(&inbox), [3]);
    }

    #[test]
    fn a_slot_that_never_existed_is_ignored() {
        let inbox = Inbox::new();
        inbox.reserve(1);
        assert!(!inbox.push(100_000));
        assert!(inbox.is_empty());
    }

    #[test]
    fn the_first_push_to_a_sleeper_rings() {
        let inbox = Inbox::new();
        inbox.reserve(2);
        assert!(inbox.prepare_sleep());
        assert!(inbox.push(0));
        assert!(!inbox.push(1), "one ring is enough");
        assert!(inbox.finish_sleep());
        assert!(!inbox.prepare_sleep(), "two slots are listed");
        assert_eq!(drained(&inbox), [0, 1]);
        assert!(inbox.prepare_sleep());
        assert!(!inbox.finish_sleep());
    }

    #[test]
    fn many_threads_lose_no_wake() {
        let inbox = Arc::new(Inbox::new());
        inbox.reserve(400);
        let threads: Vec<_> = (0..4u32)
            .map(|thread| {
                let inbox = Arc::clone(&inbox);
                std::thread::spawn(move || {
                    (0..100).for_each(|slot| assert!(!inbox.push(thread * 100 + slot)))
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let mut slots = drained(&inbox);
        slots.sort_unstable();
        assert_eq!(slots, (0..400).collect::<Vec<_>>());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    /// Checks all schedules with up to three forced switches of thread (or as many as `LOOM_MAX_PREEMPTIONS` says): more
    /// take hours, and races that need more are not known.
    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound.get_or_insert(3);
        builder.check(check);
    }

    /// Two pushers of one slot: each has its datum seen by the poll that follows a drain.
    #[test]
    fn loom_a_swallowed_wake_still_publishes_its_data() {
        model(|| {
            let inbox = Arc::new(Inbox::new());
            inbox.reserve(1);
            let data: Arc<[AtomicU32; 2]> = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
            let threads: Vec<_> = (0..2)
                .map(|index| {
                    let (inbox, data) = (Arc::clone(&inbox), Arc::clone(&data));
                    thread::spawn(move || {
                        data[index].store(1, Ordering::Relaxed);
                        let _ = inbox.push(0);
                    })
                })
                .collect();
            let mut seen = 0;
            let mut poll = |_| seen = data.iter().map(|datum| datum.load(Ordering::Relaxed)).sum();
            inbox.drain(&mut poll);
            for thread in threads {
                thread.join().unwrap();
            }
            // Whatever the first drain missed is listed now, or had been seen by it.
            inbox.drain(&mut poll);
            assert_eq!(seen, 2, "the last poll saw both wakers' data");
        });
    }

    /// A sleeper that goes to sleep while a pusher pushes is rung, or never slept.
    #[test]
    fn loom_a_sleeper_is_rung() {
        model(|| {
            let inbox = Arc::new(Inbox::new());
            inbox.reserve(2);
            let bell = Arc::new(loom::sync::Notify::new());
            let pusher = thread::spawn({
                let (inbox, bell) = (Arc::clone(&inbox), Arc::clone(&bell));
                move || {
                    for slot in 0..2 {
                        if inbox.push(slot) {
                            bell.notify();
                        }
                    }
                }
            });
            let mut woken = 0;
            while woken < 2 {
                inbox.drain(|_| woken += 1);
                if woken < 2 && inbox.prepare_sleep() {
                    // A lost ring is a deadlock, which the model reports.
                    bell.wait();
                    inbox.finish_sleep();
                }
            }
            pusher.join().unwrap();
        });
    }
}
