//! A bounded queue from one thread to one other: no lock, no read-modify-write, no allocation after it is made.
//!
//! # Who may touch what
//!
//! - `tail` counts what was ever put in and is written by the producer alone; `head` counts what was ever taken out and is
//!   written by the consumer alone. Both only grow (they wrap), and differ by at most the number of slots.
//! - The slots from `head` to before `tail` hold values and are the consumer's; all others are the producer's. Each side
//!   gives a slot away by a release store of its count, and takes the other's with an acquire load of that count.
//! - Each side keeps its own count, and what it last saw of the other's, to itself: it looks at the other's cache line
//!   only when it believes the ring full, or empty.

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

use core::mem::MaybeUninit;

/// What `loom::cell::UnsafeCell` is in a model, without the checks.
#[cfg(not(loom))]
struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        UnsafeCell(core::cell::UnsafeCell::new(value))
    }

    #[inline]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// A count in a cache line (and its neighbour, which processors fetch along) of its own: the two sides write one each.
#[repr(align(128))]
struct Count(AtomicUsize);

struct Ring<T> {
    head: Count,
    tail: Count,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a slot is touched by one side at a time, as the counts say (see above), and values only ever move from one thread
// to another.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    #[inline]
    fn slot(&self, at: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // The length is a power of two.
        &self.slots[at & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        let (mut head, tail) = (self.head.0.load(Ordering::Relaxed), self.tail.0.load(Ordering::Relaxed));
        while head != tail {
            // SAFETY: slots from head to before tail hold values, and nobody else is left to touch them.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The end that values are put into.
pub(super) struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head_seen: usize,
}

/// The end that values come out of.
pub(super) struct Consumer<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    tail_seen: usize,
}

/// A ring of at least `capacity` slots: the next power of two.
pub(super) fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let slots = (0..capacity.max(1).next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit()));
    let ring = Arc::new(Ring {
        head: Count(AtomicUsize::new(0)),
        tail: Count(AtomicUsize::new(0)),
        slots: slots.collect(),
    });
    (Producer { ring: Arc::clone(&ring), tail: 0, head_seen: 0 }, Consumer { ring, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Whether there is no room.
    #[inline]
    pub(super) fn is_full(&mut self) -> bool {
        let slots = self.ring.slots.len();
        if self.tail.wrapping_sub(self.head_seen) < slots {
            return false;
        }
        self.head_seen = self.ring.head.0.load(Ordering::Acquire);
        self.tail.wrapping_sub(self.head_seen) == slots
    }

    /// Puts a value in; answers it when there is no room.
    #[inline]
    pub(super) fn push(&mut self, value: T) -> Result<(), T> {
        if self.is_full() {
            return Err(value);
        }
        // SAFETY: the ring is not full, so this slot is ours until the count below gives it away; it holds no value.
        self.ring.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(value) });
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Values the ring holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.ring.slots.len()
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest value out.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.ring.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        // SAFETY: the producer has put a value here and given the slot away; it is read once, since the count moves on.
        let value = self.ring.slot(self.head).with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.ring.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Values the ring holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.ring.slots.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn values_come_out_in_order_and_a_full_ring_gives_one_back() {
        let (mut producer, mut consumer) = ring(3);
        assert_eq!(producer.capacity(), 4);
        for round in 0..10 {
            assert_eq!(consumer.pop(), None);
            for value in 0..4 {
                assert_eq!(producer.push(round * 10 + value), Ok(()));
            }
            assert!(producer.is_full());
            assert_eq!(producer.push(99), Err(99));
            for value in 0..4 {
                assert_eq!(consumer.pop(), Some(round * 10 + value));
            }
        }
    }

    #[test]
    fn what_is_left_in_a_ring_is_dropped_with_it() {
        let counted = Rc::new(());
        let (mut producer, mut consumer) = ring(4);
        for _ in 0..3 {
            producer.push(Rc::clone(&counted)).unwrap();
        }
        drop(consumer.pop());
        assert_eq!(Rc::strong_count(&counted), 3);
        drop((producer, consumer));
        assert_eq!(Rc::strong_count(&counted), 1);
    }

    #[test]
    fn a_million_values_cross_between_two_threads() {
        let (mut producer, mut consumer) = ring(16);
        let thread = std::thread::spawn(move || {
            for value in 0..1_000_000u64 {
                let mut value = value;
                while let Err(back) = producer.push(value) {
                    value = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..1_000_000u64 {
            let value = loop {
                match consumer.pop() {
                    Some(value) => break value,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(value, expected);
        }
        thread.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    /// More values than slots: both counts wrap around the slots, and each side looks at the other's.
    #[test]
    fn loom_values_cross_in_order_and_whole() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring(2);
            let thread = loom::thread::spawn(move || {
                let mut refused = 0;
                for value in 0..4 {
                    // What does not fit is not waited for: a model must end.
                    refused += i32::from(producer.push(Box::new(value)).is_err());
                }
                refused
            });
            let (mut seen, mut last) = (0, -1);
            for _ in 0..3 {
                if let Some(value) = consumer.pop() {
                    assert!(*value > last, "{value} after {last}");
                    (seen, last) = (seen + 1, *value);
                }
            }
            let refused = thread.join().unwrap();
            while let Some(value) = consumer.pop() {
                assert!(*value > last, "{value} after {last}");
                (seen, last) = (seen + 1, *value);
            }
            assert_eq!(seen + refused, 4);
        });
    }
}
