//! Waiting for frames: the receive queue's interrupt, where the driver has one.
//!
//! An interrupt is asked for right before the loop sleeps, and given up with the first look after it, so that polling is never
//! disturbed. DPDK tells of it through a descriptor: an eventfd, which has to be emptied, or the TAP's own. Everything else is no
//! descriptor that we know how to use, and the loop looks now and then.

use std::cell::Cell;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use demi_dpdk_sys as sys;

/// How long a wait may last without an interrupt to end it.
const BLIND: Duration = Duration::from_micros(100);
/// How long it may with one: an interrupt may have been asked for a moment too late.
const GUARDED: Duration = Duration::from_millis(1);

/// The interrupt of one receive queue.
#[derive(Debug)]
pub(super) struct Interrupt {
    port: u16,
    queue: u16,
    /// Open as long as the port is.
    fd: Option<RawFd>,
    /// It has to be emptied once it was readable.
    is_eventfd: bool,
    armed: Cell<bool>,
}

impl Interrupt {
    /// Finds the interrupt of a queue of a started port.
    pub(super) fn of(port: u16, queue: u16, driver: &str, configured: bool) -> Interrupt {
        let mut interrupt = Interrupt { port, queue, fd: None, is_eventfd: false, armed: Cell::new(false) };
        if !configured {
            return interrupt;
        }
        // SAFETY: the port is started and has that queue.
        let fd = unsafe { sys::demi_dpdk_interrupt_fd(port, queue) };
        let Ok(fd) = u32::try_from(fd) else { return interrupt };
        let kind = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
        interrupt.is_eventfd = kind.as_os_str() == "anon_inode:[eventfd]";
        if interrupt.is_eventfd || driver == "net_tap" {
            interrupt.fd = Some(fd as RawFd);
        }
        interrupt
    }

    /// Asks for the interrupt; answers what becomes readable with it.
    pub(super) fn arm(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.fd?;
        if !self.armed.replace(true) {
            self.set(true);
        }
        // SAFETY: it is open as long as the port, which outlives this value.
        Some(unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Whether [`disarm`](Self::disarm) has something to do.
    #[inline]
    pub(super) fn is_armed(&self) -> bool {
        self.armed.get()
    }

    /// Gives the interrupt up, and forgets that there was one.
    #[cold]
    pub(super) fn disarm(&self) {
        self.armed.set(false);
        self.set(false);
        if let (Some(fd), true) = (self.fd, self.is_eventfd) {
            let mut count = 0u64;
            // SAFETY: eight bytes for an eventfd's eight; DPDK makes them such that a read of an empty one returns.
            unsafe { libc::read(fd, (&raw mut count).cast(), size_of::<u64>()) };
        }
    }

    /// A driver whose descriptor tells all by itself has no such call.
    fn set(&self, on: bool) {
        // SAFETY: the port is started and has that queue.
        unsafe { sys::demi_dpdk_interrupt_set(self.port, self.queue, on) };
    }

    /// How long a wait may last.
    pub(super) fn max_wait(&self) -> Duration {
        if self.fd.is_some() { GUARDED } else { BLIND }
    }
}
