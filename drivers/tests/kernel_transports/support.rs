//! A loop that drives one transport, with wakers that tell whether they were used.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use demi_drivers::{Instant, Transport};

/// A waker that only remembers.
#[derive(Default)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Tests that count the process's descriptors run alone; all others beside each other.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, no other test of this process has a driver.
pub(crate) struct Alone(#[allow(dead_code)] RwLockWriteGuard<'static, ()>);

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.set(false);
    }
}

pub(crate) fn alone() -> Alone {
    let guard = DESCRIPTORS.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    ALONE.set(true);
    Alone(guard)
}

pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Whether `fd` polls readable within so many milliseconds.
pub(crate) fn is_readable(fd: std::os::fd::RawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one `pollfd` is readable and writable during the call.
    assert!(unsafe { libc::poll(&mut poll, 1, timeout_ms) } >= 0);
    poll.revents & libc::POLLIN != 0
}

/// While it lives, this process may open few descriptors. For tests that are alone.
pub(crate) struct Few(libc::rlimit);

pub(crate) fn few_descriptors() -> Few {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable during the call.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) }, 0);
    let few = libc::rlimit { rlim_cur: 256, ..limit };
    // SAFETY: `few` is readable during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) }, 0);
    Few(limit)
}

impl Few {
    /// All that are left.
    pub(crate) fn take_all(&self) -> Vec<std::fs::File> {
        std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        // SAFETY: the limit is readable during the call; it is the one that was in force.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &self.0) }, 0);
    }
}

pub(crate) struct Driver {
    pub(crate) transport: Box<dyn Transport>,
    start: std::time::Instant,
    _beside: Option<RwLockReadGuard<'static, ()>>,
}

/// A wait that takes this long will never end: the watchdog that turns a lost wake-up into a failure.
const FOREVER: Duration = Duration::from_secs(30);

impl Driver {
    pub(crate) fn new(open: impl FnOnce() -> Box<dyn Transport>) -> Driver {
        let beside =
            (!ALONE.get()).then(|| DESCRIPTORS.read().unwrap_or_else(|poisoned| poisoned.into_inner()));
        Driver { transport: open(), start: std::time::Instant::now(), _beside: beside }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    pub(crate) fn flag(&self) -> Arc<Flag> {
        Arc::new(Flag::default())
    }

    /// One turn of the loop: what was caused goes out, what has happened is taken.
    pub(crate) fn turn(&mut self) -> usize {
        let now = self.now();
        self.transport.flush(now).unwrap();
        self.transport.poll(now).unwrap()
    }

    /// Asks once.
    pub(crate) fn poll_with<T>(
        &mut self,
        flag: &Arc<Flag>,
        mut wait: impl FnMut(&mut dyn Transport, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let waker = Waker::from(Arc::clone(flag));
        wait(&mut *self.transport, &mut Context::from_waker(&waker))
    }

    /// Runs the loop until `wait` is over. It is asked again only when its waker was used.
    pub(crate) fn wait<T>(
        &mut self,
        mut wait: impl FnMut(&mut dyn Transport, &mut Context<'_>) -> Poll<T>,
    ) -> T {
        let flag = self.flag();
        flag.0.store(true, Ordering::Relaxed);
        let begun = std::time::Instant::now();
        loop {
            if flag.take()
                && let Poll::Ready(value) = self.poll_with(&flag, &mut wait)
            {
                return value;
            }
            if self.turn() == 0 && !flag.0.load(Ordering::Relaxed) {
                self.transport.park(Some(Duration::from_millis(20))).unwrap();
            }
            assert!(begun.elapsed() < FOREVER, "nobody woke the wait");
        }
    }

    /// Runs the loop until the transport holds nothing any more.
    pub(crate) fn settle(&mut self) {
        let begun = std::time::Instant::now();
        while self.transport.usage() != Default::default() {
            if self.turn() == 0 {
                self.transport.park(Some(Duration::from_millis(1))).unwrap();
            }
            assert!(begun.elapsed() < FOREVER, "still held: {:?}", self.transport.usage());
        }
    }
}

/// Bytes that differ from their neighbours at every distance a bug would shift them by.
pub(crate) fn patterned(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}
