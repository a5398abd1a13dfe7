//! Errors of the socket interface: numbers, their names in scripts, and what errors of a transport are as numbers.

use std::io::ErrorKind;

/// A value of `errno`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

macro_rules! names {
    ($($name:ident)*) => {
        /// Names and numbers.
        const NAMES: &[(&str, i32)] = &[$((stringify!($name), libc::$name)),*];
    };
}

names! {
    EPERM EINTR EIO EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EINVAL EMFILE ENFILE EPIPE ENOTSOCK EDESTADDRREQ
    EMSGSIZE EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT EOPNOTSUPP EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN
    ENETUNREACH ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY
    EINPROGRESS EPROTO ENOENT EDOM ENOSYS ESHUTDOWN
}

impl Errno {
    /// The error of that name.
    pub(crate) fn named(name: &str) -> Option<Errno> {
        let name = if name == "EWOULDBLOCK" { "EAGAIN" } else { name };
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| Errno(*number))
    }

    /// Its name, or its number.
    pub(crate) fn name(self) -> String {
        NAMES
            .iter()
            .find(|(_, number)| *number == self.0)
            .map_or(self.0.to_string(), |(name, _)| (*name).to_owned())
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        Errno(match error.kind() {
            ErrorKind::WouldBlock => libc::EAGAIN,
            ErrorKind::ConnectionRefused => libc::ECONNREFUSED,
            ErrorKind::ConnectionReset => libc::ECONNRESET,
            ErrorKind::ConnectionAborted => libc::ECONNABORTED,
            ErrorKind::TimedOut => libc::ETIMEDOUT,
            ErrorKind::HostUnreachable => libc::EHOSTUNREACH,
            ErrorKind::NetworkUnreachable => libc::ENETUNREACH,
            ErrorKind::NetworkDown => libc::ENETDOWN,
            ErrorKind::BrokenPipe => libc::EPIPE,
            ErrorKind::NotConnected => libc::ENOTCONN,
            ErrorKind::AddrInUse => libc::EADDRINUSE,
            ErrorKind::AddrNotAvailable => libc::EADDRNOTAVAIL,
            ErrorKind::InvalidInput => libc::EINVAL,
            ErrorKind::PermissionDenied => libc::EACCES,
            ErrorKind::Unsupported => libc::EOPNOTSUPP,
            ErrorKind::OutOfMemory => libc::ENOBUFS,
            _ => libc::EIO,
        })
    }
}
