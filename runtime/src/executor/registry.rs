//! Which inbox belongs to which executor number, for wakers that are woken away from home.
//!
//! The only table of the process that runtimes share: numbers of executors, handed out when one is made and taken back
//! when it is dropped. Entries are made once and never freed, so a waker that outlived its executor can always look its
//! number up, without a lock: it finds an inbox that nobody empties, or the next executor's, which polls one task for
//! nothing. What stays behind is one inbox for each executor that ever lived *at the same time* as others.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::inbox::Inbox;
use super::waker::{EXECUTOR_BITS, Key};

/// Executors that can live at the same time.
const EXECUTORS_MAX: usize = 1 << EXECUTOR_BITS;

static ENTRIES: [AtomicPtr<Entry>; EXECUTORS_MAX] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; EXECUTORS_MAX];
static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { fresh: 0, free: Vec::new() });

struct Numbers {
    fresh: u16,
    free: Vec<u16>,
}

/// An executor's inbox, and the bell that ends its sleep.
struct Entry {
    inbox: Inbox,
    /// An eventfd that the executor's loop waits on; `None` while no executor has this number. Locked by who rings, which
    /// is a system call anyway, and when an executor comes or goes: a descriptor is never written to after it was closed.
    bell: Mutex<Option<OwnedFd>>,
}

/// An executor's number, which is nobody else's as long as somebody has this.
#[derive(Debug)]
pub(crate) struct Number(u16);

impl Drop for Number {
    fn drop(&mut self) {
        lock(&NUMBERS).free.push(self.0);
    }
}

/// An executor's place in the table. Dropping it gives the number back, unless somebody else holds it, too.
pub(crate) struct Seat {
    number: Rc<Number>,
    entry: &'static Entry,
    bell: RawFd,
    /// Rings that were announced and whose write has not been read yet.
    owed: core::cell::Cell<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that panics runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seat {
    /// Takes a number and makes its bell.
    ///
    /// # Errors
    /// No number is left; `eventfd(2)`'s.
    pub(crate) fn take() -> io::Result<Seat> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        let bell = unsafe { OwnedFd::from_raw_fd(fd) };

        let mut numbers = lock(&NUMBERS);
        let number = match numbers.free.pop() {
            Some(number) => number,
            None if usize::from(numbers.fresh) < EXECUTORS_MAX => {
                numbers.fresh += 1;
                numbers.fresh - 1
            }
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    format!("{EXECUTORS_MAX} runtimes exist already: drop some of them first"),
                ));
            }
        };
        drop(numbers);
        let number = Rc::new(Number(number));

        let place = &ENTRIES[usize::from(number.0)];
        let mut entry = place.load(Ordering::Acquire);
        if entry.is_null() {
            entry = Box::into_raw(Box::new(Entry { inbox: Inbox::new(), bell: Mutex::new(None) }));
            place.store(entry, Ordering::Release);
        }
        // SAFETY: entries are boxed once and never freed.
        let entry = unsafe { &*entry };
        *lock(&entry.bell) = Some(bell);
        let seat = Seat { number, entry, bell: fd, owed: core::cell::Cell::new(0) };
        // What stale wakers left for an earlier executor is not ours.
        seat.entry.inbox.finish_sleep();
        seat.entry.inbox.drain(|_| {});
        Ok(seat)
    }

    /// The executor's number.
    #[inline]
    pub(crate) fn number(&self) -> u16 {
        self.number.0
    }

    /// Holds the number: as long as it is held, stale wakers of this executor's wake nobody.
    pub(crate) fn hold(&self) -> Rc<Number> {
        Rc::clone(&self.number)
    }

    /// The executor's inbox.
    #[inline]
    pub(crate) fn inbox(&self) -> &'static Inbox {
        &self.entry.inbox
    }

    /// The descriptor that polls readable once somebody has rung.
    pub(crate) fn bell_fd(&self) -> RawFd {
        self.bell
    }

    /// After a sleep: takes the bell's readability away again.
    pub(crate) fn finish_sleep(&self) {
        if self.entry.inbox.finish_sleep() {
            self.owed.set(self.owed.get() + 1);
        }
        // Each ring is announced first and written then, so that a write may come only after this read: it is owed, and
        // read after the sleep that it cuts short. When nothing is owed, there is nothing to read, and no system call.
        if self.owed.get() > 0 {
            let mut count = 0u64;
            // SAFETY: the descriptor is open as long as the seat is taken; an eventfd is read as eight bytes.
            let read = unsafe { libc::read(self.bell, (&raw mut count).cast(), size_of::<u64>()) };
            if read == size_of::<u64>() as isize {
                self.owed.set(self.owed.get().saturating_sub(count));
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Closes the descriptor, with nobody about to write to it.
        *lock(&self.entry.bell) = None;
    }
}

/// Wakes a task of an executor that is not running on this thread right now.
#[cold]
pub(crate) fn wake_foreign(key: Key) {
    let Some(place) = ENTRIES.get(usize::from(key.executor())) else { return };
    let entry = place.load(Ordering::Acquire);
    if entry.is_null() {
        return;
    }
    // SAFETY: entries are boxed once and never freed.
    let entry = unsafe { &*entry };
    if entry.inbox.push(key.slot())
        && let Some(bell) = lock(&entry.bell).as_ref()
    {
        let one = 1u64;
        // SAFETY: the descriptor is open while the lock is held; an eventfd takes eight bytes. It fails only when 2^64-1
        // rings are unread, and then it is readable already.
        unsafe { libc::write(bell.as_fd().as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn readable(fd: RawFd) -> bool {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, which lives on the stack.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn a_foreign_wake_rings_a_sleeper_once_and_the_ring_is_read_back() {
        let seat = Seat::take().unwrap();
        seat.inbox().reserve(8);
        wake_foreign(Key::new(seat.number(), 0, 1));
        assert!(!readable(seat.bell_fd()), "nobody sleeps: no system call");
        seat.inbox().drain(|_| {});

        assert!(seat.inbox().prepare_sleep());
        wake_foreign(Key::new(seat.number(), 0, 1));
        wake_foreign(Key::new(seat.number(), 0, 2));
        assert!(readable(seat.bell_fd()));
        seat.finish_sleep();
        assert!(!readable(seat.bell_fd()));
        let mut slots = Vec::new();
        seat.inbox().drain(|slot| slots.push(slot));
        assert_eq!(slots, [1, 2]);
    }

    #[test]
    fn a_number_that_is_held_is_given_to_nobody() {
        let held = Seat::take().unwrap().hold();
        let others: Vec<_> = (0..8).map(|_| Seat::take().unwrap()).collect();
        assert!(others.iter().all(|seat| seat.number() != held.0));
    }

    #[test]
    fn a_waker_that_outlived_its_executor_is_harmless() {
        let seat = Seat::take().unwrap();
        seat.inbox().reserve(8);
        let key = Key::new(seat.number(), 0, 3);
        assert!(seat.inbox().prepare_sleep());
        drop(seat);
        wake_foreign(key);
    }
}
