//! Verbs and the connection manager, in safe hands: one object of theirs a file.
//!
//! Each wrapper owns its object and holds what that one stands on (a queue its device, memory its protection domain), so
//! nothing is destroyed under somebody's feet. Memory that the adapter may read or write is owned by the queue it was
//! posted to until the completion says that the adapter is through, or the queue is destroyed. Nothing here knows what the
//! messages mean, wakes anybody, or waits.

pub(super) mod cm;
pub(super) mod cq;
pub(super) mod device;
pub(super) mod memory;
pub(super) mod qp;
pub(super) mod srq;
#[cfg(test)]
mod tests;
pub(super) mod ud;

use std::io;

/// What libibverbs and librdmacm answer: 0, or an error in `errno`, or (some calls) the error itself.
fn check(result: libc::c_int, what: &str) -> io::Result<()> {
    match result {
        0 => Ok(()),
        error if error > 0 => Err(explained(io::Error::from_raw_os_error(error), what)),
        _ => Err(explained(io::Error::last_os_error(), what)),
    }
}

/// `error` with what was being done in front, and the cure where there is a known one.
#[cold]
fn explained(error: io::Error, what: &str) -> io::Error {
    let cure = match error.raw_os_error() {
        Some(libc::ENOMEM) => ": raise the limit on locked memory (ulimit -l), or take a smaller pool",
        Some(libc::EACCES | libc::EPERM) => ": run as root, or give the user /dev/infiniband/*",
        Some(libc::EADDRINUSE) => ": another listener has this address: stop it or take another port",
        Some(libc::EADDRNOTAVAIL) => ": no interface of an RDMA device has this address",
        _ => "",
    };
    io::Error::new(error.kind(), format!("{what}: {error}{cure}"))
}

/// `error` in front of which stands what was being done, for calls that answer a null pointer.
#[cold]
fn last_error(what: &str) -> io::Error {
    explained(io::Error::last_os_error(), what)
}
