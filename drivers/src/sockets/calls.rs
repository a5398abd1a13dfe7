//! The system calls of the datapath, each under a safe signature: non-blocking, restarted when a signal interrupts them,
//! never raising SIGPIPE.

use core::ffi::c_int;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::address::{RAW_ADDRESS_BYTES, RawAddress};
use crate::mem::BufMut;
use crate::transport::ReadCursor;

/// Runs `call` until no signal interrupts it; a negative result is the error.
#[inline]
fn restart(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result as usize);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINTR) {
            return Err(error);
        }
    }
}

/// Receives into the cursor's free memory and advances it; 0 is the end of the stream.
#[inline]
pub(crate) fn recv_cursor(fd: BorrowedFd<'_>, into: &mut ReadCursor<'_>, peek: bool) -> io::Result<usize> {
    let (start, len) = into.unfilled();
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: `start` is writable for `len` bytes, borrowed mutably for the time of the call.
    let count = restart(|| unsafe { libc::recv(fd.as_raw_fd(), start.cast(), len, flags) })?;
    // SAFETY: the kernel has written the first `count <= len` bytes.
    unsafe { into.advance(count) };
    Ok(count)
}

/// Receives at most `max` bytes behind those in `into`; 0 is the end of the stream.
#[inline]
pub(crate) fn recv_tail(fd: BorrowedFd<'_>, into: &mut BufMut, max: usize) -> io::Result<usize> {
    let tail = into.tail_mut();
    let len = tail.len().min(max);
    let start = tail.as_mut_ptr();
    // SAFETY: `start` is writable for `len` bytes, borrowed mutably for the time of the call.
    let count = restart(|| unsafe { libc::recv(fd.as_raw_fd(), start.cast(), len, libc::MSG_DONTWAIT) })?;
    into.grow(count);
    Ok(count)
}

/// Whether a byte or the end of the stream can be read now (an error is read as well); `WouldBlock` otherwise.
pub(crate) fn probe_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut byte = 0_u8;
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: `byte` is writable for one byte during the call.
    restart(|| unsafe { libc::recv(fd.as_raw_fd(), ptr::from_mut(&mut byte).cast(), 1, flags) })?;
    Ok(())
}

/// Sends from the front of `bytes`; answers how many.
#[inline]
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `bytes` is readable during the call.
    restart(|| unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Sends from the front of `views`, in order; answers how many bytes.
#[inline]
pub(crate) fn send_vectored(fd: BorrowedFd<'_>, views: &[IoSlice<'_>]) -> io::Result<usize> {
    let views = &views[..views.len().min(1024)];
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let mut message = empty_message();
    // `IoSlice` has the layout of `iovec`, guaranteed by its documentation; the kernel only reads them.
    message.msg_iov = views.as_ptr().cast::<libc::iovec>().cast_mut();
    message.msg_iovlen = views.len() as _;
    // SAFETY: the message names memory that is readable during the call.
    restart(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &message, flags) })
}

/// Sends one datagram, to the connected peer when `to` is `None`.
#[inline]
pub(crate) fn send_to(fd: BorrowedFd<'_>, bytes: &[u8], to: Option<&SocketAddr>) -> io::Result<()> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let Some(to) = to else { return send(fd, bytes).map(drop) };
    let (address, address_len) = RawAddress::encode(to);
    restart(|| {
        // SAFETY: `bytes` and the first `address_len` bytes of `address` are readable during the call.
        unsafe {
            libc::sendto(
                fd.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                flags,
                ptr::from_ref(&address).cast(),
                address_len,
            )
        }
    })?;
    Ok(())
}

/// Receives one datagram into the free memory of `into`, and what doesn't fit into `spill`. Answers its length (at most what
/// both hold: the rest is lost) and sender. Only the bytes that went to `into` are counted in by it.
#[inline]
pub(crate) fn recv_from(
    fd: BorrowedFd<'_>,
    into: &mut BufMut,
    spill: &mut [u8],
    peek: bool,
) -> io::Result<(usize, Option<SocketAddr>)> {
    let mut address = RawAddress::empty();
    let tail = into.tail_mut();
    let room = tail.len();
    let mut views = [
        libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: room },
        libc::iovec { iov_base: spill.as_mut_ptr().cast(), iov_len: spill.len() },
    ];
    let mut message = empty_message();
    message.msg_name = ptr::from_mut(&mut address).cast();
    message.msg_namelen = RAW_ADDRESS_BYTES;
    message.msg_iov = views.as_mut_ptr();
    message.msg_iovlen = views.len() as _;
    let flags = libc::MSG_DONTWAIT | if peek { libc::MSG_PEEK } else { 0 };
    // SAFETY: the message names memory that is writable during the call: two views and room for an address.
    let count = restart(|| unsafe { libc::recvmsg(fd.as_raw_fd(), &mut message, flags) })?;
    into.grow(count.min(room));
    Ok((count, address.decode()))
}

/// Takes a connection off a listener's queue: non-blocking, closed on exec.
#[inline]
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    let mut address = RawAddress::empty();
    let mut address_len = RAW_ADDRESS_BYTES;
    let accepted = restart(|| {
        // SAFETY: `address` is writable for `address_len` bytes, and the length itself is writable.
        let accepted = unsafe {
            libc::accept4(
                fd.as_raw_fd(),
                ptr::from_mut(&mut address).cast(),
                &mut address_len,
                libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
            )
        };
        accepted as isize
    })?;
    // SAFETY: the kernel has just opened this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(accepted as c_int) };
    Ok((socket, address.decode()))
}

/// Whether an error of `accept` belongs to the connection that was in the queue and not to the listener (accept(2), "Error
/// handling"): the next one may well be fine.
pub(crate) fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

/// A message header that names nothing.
pub(crate) fn empty_message() -> libc::msghdr {
    // SAFETY: all zeroes is a valid `msghdr`: null pointers with lengths of zero.
    unsafe { std::mem::zeroed() }
}
