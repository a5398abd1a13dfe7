//! The epoll instance: registration, waiting, and the events that have been taken and not yet been looked at.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

use crate::sockets::explain;
use crate::transport::Handle;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Listener(Handle),
    Stream(Handle),
    Datagram(Handle),
    /// A descriptor that only ends a wait.
    Watched,
}

/// Positions take 30 bits of a token; a machine has fewer descriptors.
const INDEX_BITS: u32 = 30;

impl Token {
    fn encode(self) -> u64 {
        let (kind, handle) = match self {
            Token::Listener(handle) => (0, handle),
            Token::Stream(handle) => (1, handle),
            Token::Datagram(handle) => (2, handle),
            Token::Watched => return u64::MAX,
        };
        u64::from(handle.generation) << 32 | kind << INDEX_BITS | u64::from(handle.index)
    }

    fn decode(raw: u64) -> Token {
        let index = raw as u32 & ((1 << INDEX_BITS) - 1);
        let handle = Handle { index, generation: (raw >> 32) as u32 };
        match raw >> INDEX_BITS & 3 {
            0 => Token::Listener(handle),
            1 => Token::Stream(handle),
            2 => Token::Datagram(handle),
            _ => Token::Watched,
        }
    }
}

/// What an event says, or what a socket is believed to be ready for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ready {
    /// A read would not wait.
    pub(super) read: bool,
    /// A write would not wait.
    pub(super) write: bool,
    /// The peer has sent its FIN, or the connection is broken: a read that came up short has not emptied the socket.
    pub(super) ended: bool,
}

impl Ready {
    /// What a socket that nobody has asked yet is believed to be: one wasted call at worst, one turn saved at best.
    pub(super) const BELIEVED: Ready = Ready { read: true, write: true, ended: false };

    fn of_events(events: u32) -> Ready {
        let any = |mask: libc::c_int| events & mask as u32 != 0;
        let broken = any(libc::EPOLLERR | libc::EPOLLHUP);
        Ready {
            read: broken || any(libc::EPOLLIN | libc::EPOLLRDHUP),
            write: broken || any(libc::EPOLLOUT),
            ended: broken || any(libc::EPOLLRDHUP),
        }
    }

    /// Adds what an event says.
    #[inline]
    pub(super) fn add(&mut self, event: Ready) {
        self.read |= event.read;
        self.write |= event.write;
        self.ended |= event.ended;
    }

    /// After a read that filled less than it might have: the socket is empty, unless its end is still to be read.
    #[inline]
    pub(super) fn read_short(&mut self) {
        self.read = self.ended;
    }

    /// After a read that would have waited.
    #[inline]
    pub(super) fn read_blocked(&mut self) {
        self.read = false;
        self.ended = false;
    }
}

#[derive(Debug)]
pub(super) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
    /// Events that a wait has taken and [`next`](Self::next) has not.
    taken: usize,
    next: usize,
    /// A wait has just emptied the kernel's list: the next question can go unasked.
    emptied: bool,
    /// `epoll_pwait2` is there (Linux 5.11).
    nanoseconds: bool,
}

impl Epoll {
    pub(super) fn new(events: usize) -> io::Result<Epoll> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(explain(io::Error::last_os_error(), "cannot open an epoll instance"));
        }
        // SAFETY: the kernel has just opened this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; events.clamp(16, 4096)];
        Ok(Epoll { fd, events, taken: 0, next: 0, emptied: false, nanoseconds: true })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Registers a socket, once and for all: every edge of every kind is told until it is closed.
    pub(super) fn add(&self, socket: &OwnedFd, token: Token) -> io::Result<()> {
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.control(socket.as_raw_fd(), edges, token)
    }

    /// Registers a descriptor whose readability ends a wait as long as it lasts.
    pub(super) fn watch(&self, fd: RawFd) -> io::Result<()> {
        self.control(fd, libc::EPOLLIN, Token::Watched)
    }

    /// Ends what [`watch`](Self::watch) began.
    pub(super) fn unwatch(&self, fd: RawFd) {
        // SAFETY: a removal reads no event. One that fails says that `fd` is not registered, which is what is wanted.
        unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, ptr::null_mut()) };
    }

    fn control(&self, fd: RawFd, events: libc::c_int, token: Token) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token.encode() };
        // SAFETY: `event` is readable during the call.
        let result = unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The next event taken, if any is left.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(Token, Ready)> {
        if self.next == self.taken {
            return None;
        }
        let event = self.events[self.next];
        self.next += 1;
        Some((Token::decode(event.u64), Ready::of_events(event.events)))
    }

    /// Takes what has happened, without waiting. Costs no call when a wait has done so just now.
    #[inline]
    pub(super) fn collect(&mut self) -> io::Result<()> {
        if self.next < self.taken || std::mem::take(&mut self.emptied) {
            return Ok(());
        }
        self.wait(Some(Duration::ZERO))?;
        self.emptied = false;
        Ok(())
    }

    /// Waits until something has happened or `timeout` is over, and takes it.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.next < self.taken {
            return Ok(());
        }
        (self.next, self.taken) = (0, 0);
        let count = match timeout {
            Some(timeout) if self.nanoseconds && !timeout.is_zero() => self.wait_nanoseconds(timeout)?,
            _ => self.wait_milliseconds(timeout)?,
        };
        self.taken = count;
        // A full array may have left something behind; and what nobody waited for is worth asking for again.
        self.emptied = count > 0 && count < self.events.len();
        Ok(())
    }

    fn wait_nanoseconds(&mut self, timeout: Duration) -> io::Result<usize> {
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: the array is writable for as many events as are named, `timeout` is readable, no signal mask is passed.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                &raw const timeout,
                ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => Ok(0),
            Some(libc::ENOSYS | libc::EPERM) => {
                self.nanoseconds = false;
                self.wait_milliseconds(Some(Duration::new(timeout.tv_sec as u64, timeout.tv_nsec as u32)))
            }
            _ => Err(error),
        }
    }

    fn wait_milliseconds(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up: a wait that ends too early would be repeated until it doesn't.
        let timeout = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // SAFETY: the array is writable for as many events as are named.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                timeout,
            )
        };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EINTR) { Ok(0) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let handle = Handle { index: (1 << INDEX_BITS) - 1, generation: u32::MAX };
        let other = Handle { index: 0, generation: 1 };
        for token in [Token::Listener(handle), Token::Stream(other), Token::Datagram(handle), Token::Watched]
        {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
