//! Waiting for whatever can happen to a device: a completion, an event of a connection, trouble.
//!
//! Some descriptors behind one, an epoll instance: others can wait for it, too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::park::Parker;
use crate::sockets::explain;

/// The one descriptor, and whoever else is to end a wait.
#[derive(Debug)]
pub(super) struct Wait {
    epoll: OwnedFd,
    parker: Parker,
}

impl Wait {
    /// Waits for `fds`, all of which outlive this.
    pub(super) fn new(fds: impl IntoIterator<Item = RawFd>) -> io::Result<Wait> {
        // SAFETY: no memory is passed.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(explain(io::Error::last_os_error(), "cannot open an epoll instance"));
        }
        // SAFETY: the kernel has just opened this descriptor for us.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        for fd in fds {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
            // SAFETY: `event` is readable during the call.
            let added =
                unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
            if added != 0 {
                return Err(explain(io::Error::last_os_error(), "cannot watch the device"));
            }
        }
        Ok(Wait { epoll, parker: Parker::new() })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn park(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.parker.park(Some(self.epoll.as_fd()), timeout)
    }

    pub(super) fn watch(&mut self, fd: RawFd) {
        self.parker.watch(fd);
    }

    pub(super) fn unwatch(&mut self, fd: RawFd) {
        self.parker.unwatch(fd);
    }
}
