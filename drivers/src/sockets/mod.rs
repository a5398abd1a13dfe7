//! What the transports over the kernel's sockets share: handle tables, socket creation and options, addresses, and thin
//! wrappers of the system calls.
//!
//! Owns nothing but the sockets it hands out. Never waits, never polls: readiness and completion are the transports' own.

pub(crate) mod address;
pub(crate) mod calls;
pub(crate) mod closing;
pub(crate) mod info;
pub(crate) mod listing;
pub(crate) mod open;
pub(crate) mod options;
pub(crate) mod reach;
pub(crate) mod table;

use core::task::{Context, Waker};
use std::fmt;
use std::io;

/// Remembers the context's waker as the only one that waits.
#[inline]
pub(crate) fn remember(waiter: &mut Option<Waker>, cx: &Context<'_>) {
    match waiter {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *waiter = Some(cx.waker().clone()),
    }
}

/// Whether the call would have blocked. Compares numbers only: this is asked on the datapath.
#[inline]
pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN))
}

/// The answer to a handle that was closed.
#[cold]
pub(crate) fn stale() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is closed: its handle is stale")
}

/// The answer to writing behind a shutdown.
#[cold]
pub(crate) fn write_after_shutdown() -> io::Error {
    io::Error::from_raw_os_error(libc::EPIPE)
}

/// The answer to opening more sockets than configured.
#[cold]
pub(crate) fn too_many_sockets(limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        format!("all {limit} sockets of this transport are open: close some, or raise max_sockets"),
    )
}

/// An error of the system, with what was being done and what to do about it in front.
#[derive(Debug)]
struct Explained {
    what: String,
    source: io::Error,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)
    }
}

// It has no `source()`: what the system said is in its own words already, and whoever prints the chain would say it twice.
impl std::error::Error for Explained {}

/// `source` of the same kind, introduced by `what`, and by the cure where there is a known one.
#[cold]
pub(crate) fn explain(source: io::Error, what: impl Into<String>) -> io::Error {
    let mut what = what.into();
    match source.raw_os_error() {
        Some(libc::EMFILE) => what.push_str(" (raise the limit on open files: ulimit -n)"),
        Some(libc::EADDRINUSE) => {
            what.push_str(" (another socket has this address: stop it or take another port)")
        }
        Some(libc::EADDRNOTAVAIL) => {
            what.push_str(" (no interface of this machine has this address, or no port is free)")
        }
        Some(libc::EACCES) => what.push_str(" (ports below 1024 need root or CAP_NET_BIND_SERVICE)"),
        _ => {}
    }
    io::Error::new(source.kind(), Explained { what, source })
}
