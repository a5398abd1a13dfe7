//! The rings: submission with a backlog, completion in batches, waiting, and which operation a completion belongs to.
//!
//! Owns the io_uring instance and counts what is in flight. Knows no sockets.

use core::mem::MaybeUninit;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::time::Duration;

use io_uring::{IoUring, Submitter, cqueue, opcode, squeue, types};

use crate::sockets::explain;
use crate::transport::Handle;

/// What kind of operation a completion ends or continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// Multishot accept of a listener.
    Accept = 1,
    /// Multishot receive of a stream.
    Recv,
    /// Send of one view, or of several.
    Send,
    /// Poll of a connecting stream for the handshake's end.
    Connect,
    /// Multishot receive of a datagram socket.
    RecvMessage,
    /// Poll of a datagram socket for room to send.
    Writable,
    /// Poll of a watched descriptor; the handle is its position in the list.
    Watch,
    /// Cancellation of another operation.
    Cancel,
}

/// An operation's name: what a completion is recognised by, and what a cancellation names.
pub(super) fn name_of(op: Op, handle: Handle) -> u64 {
    (op as u64) << 60 | u64::from(handle.index & 0x0fff_ffff) << 32 | u64::from(handle.generation)
}

fn named(name: u64) -> Option<(Op, Handle)> {
    let op = match name >> 60 {
        1 => Op::Accept,
        2 => Op::Recv,
        3 => Op::Send,
        4 => Op::Connect,
        5 => Op::RecvMessage,
        6 => Op::Writable,
        7 => Op::Watch,
        8 => Op::Cancel,
        _ => return None,
    };
    Some((op, Handle { index: (name >> 32) as u32 & 0x0fff_ffff, generation: name as u32 }))
}

/// What the kernel says of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) op: Op,
    pub(super) handle: Handle,
    /// Bytes, a descriptor, or a negated error number.
    pub(super) result: i32,
    /// More completions of this operation will come.
    pub(super) more: bool,
    /// The provided buffer that was used.
    pub(super) buffer: Option<u16>,
}

impl Completion {
    /// The error, when it is one.
    pub(super) fn error(&self) -> Option<io::Error> {
        (self.result < 0).then(|| io::Error::from_raw_os_error(-self.result))
    }
}

/// Completions taken at a time.
pub(super) const BATCH: usize = 64;

// From linux/io_uring.h; the crate keeps its own private.
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

#[repr(C)]
struct EnterArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_usec: u32,
    timeout: u64,
}

pub(super) struct Ring {
    ring: IoUring,
    /// The ring's number in the thread's table of registered rings, which saves looking up the descriptor.
    registered: Option<u32>,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
    in_flight: usize,
}

impl Ring {
    pub(super) fn open(entries: u32) -> io::Result<Ring> {
        let ring = build(entries, true)
            .or_else(|error| match error.raw_os_error() {
                // DEFER_TASKRUN came with Linux 6.1.
                Some(libc::EINVAL) => build(entries, false),
                _ => Err(error),
            })
            .map_err(refused)?;
        let mut ring = Ring { ring, registered: None, backlog: VecDeque::new(), in_flight: 0 };
        ring.register_fd();
        Ok(ring)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which the answer borrows.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Operations whose last completion has not been seen.
    #[inline]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Queues an operation for the next submission.
    ///
    /// # Safety
    /// All memory that `entry` names stays valid, and unused by anybody else where the kernel writes it, until the
    /// operation's last completion has been seen.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry, op: Op, handle: Handle) {
        let entry = entry.user_data(name_of(op, handle));
        self.in_flight += 1;
        // SAFETY: the caller's promise.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
            // What went wrong comes back with the next submission.
            let _ = self.submit();
        }
    }

    /// Asks the kernel to give up an operation; its last completion comes all the same.
    pub(super) fn cancel(&mut self, op: Op, handle: Handle) {
        let entry = opcode::AsyncCancel::new(name_of(op, handle)).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(entry, Op::Cancel, handle) };
    }

    /// Asks the kernel to give up every operation.
    pub(super) fn cancel_all(&mut self) {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
        // SAFETY: the entry names no memory.
        unsafe { self.push(entry, Op::Cancel, Handle { index: 0, generation: 0 }) };
    }

    /// Hands everything queued to the kernel, and lets it finish what it can.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        loop {
            let queued = self.fill_queue();
            if queued == 0 {
                return Ok(());
            }
            self.enter(queued, 0, None)?;
            if self.backlog.is_empty() || self.ring.submission().len() == queued as usize {
                return Ok(());
            }
        }
    }

    /// As [`submit`](Self::submit), then waits for a completion, no longer than `timeout`.
    pub(super) fn submit_and_wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.backlog.is_empty() {
            self.submit()?;
        }
        let queued = self.fill_queue();
        if self.ring.completion().is_empty() {
            self.enter(queued, 1, timeout)
        } else if queued > 0 {
            self.enter(queued, 0, None)
        } else {
            Ok(())
        }
    }

    /// Lets the kernel post what it holds back until it is asked: deferred work, and completions that found the queue full.
    #[inline]
    pub(super) fn collect(&mut self) -> io::Result<()> {
        if !self.ring.completion().is_empty() {
            return Ok(());
        }
        let queue = self.ring.submission();
        let waiting = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if waiting { self.enter(0, 0, None) } else { Ok(()) }
    }

    /// Takes at most [`BATCH`] completions off the queue; answers how many.
    #[inline]
    pub(super) fn completions(&mut self, into: &mut Vec<Completion>) -> usize {
        into.clear();
        let mut raw = [const { MaybeUninit::<cqueue::Entry>::uninit() }; BATCH];
        let taken = self.ring.completion().fill(&mut raw);
        for entry in taken.iter() {
            let more = cqueue::more(entry.flags());
            self.in_flight -= usize::from(!more);
            if let Some((op, handle)) = named(entry.user_data()) {
                let buffer = cqueue::buffer_select(entry.flags());
                into.push(Completion { op, handle, result: entry.result(), more, buffer });
            }
        }
        taken.len()
    }

    /// Moves the backlog into the queue as far as it fits; answers how many entries are queued.
    #[inline]
    fn fill_queue(&mut self) -> u32 {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: whoever pushed the entry has promised that its memory stays valid.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
        queue.len() as u32
    }

    fn enter(&self, submit: u32, wait_for: u32, timeout: Option<Duration>) -> io::Result<()> {
        let (fd, mut flags) = match self.registered {
            Some(index) => (index as RawFd, ENTER_GETEVENTS | ENTER_REGISTERED_RING),
            None => (self.ring.as_raw_fd(), ENTER_GETEVENTS),
        };
        let timespec;
        let mut arg = EnterArg { sigmask: 0, sigmask_bytes: 0, min_wait_usec: 0, timeout: 0 };
        let (mut arg_at, mut arg_bytes) = (ptr::null(), 0);
        if let Some(timeout) = timeout {
            timespec = types::Timespec::from(timeout);
            arg.timeout = &raw const timespec as u64;
            (arg_at, arg_bytes) = (&raw const arg, size_of::<EnterArg>());
            flags |= ENTER_EXT_ARG;
        }
        // SAFETY: `arg` and the time it names are readable during the call; what submitted entries name was promised by
        // whoever pushed them.
        let result = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, fd, submit, wait_for, flags, arg_at, arg_bytes)
        };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Over in time, interrupted, or the completion queue must be looked at first: none is a failure.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    fn register_fd(&mut self) {
        let update = RingFdUpdate { offset: u32::MAX, reserved: 0, data: self.ring.as_raw_fd() as u64 };
        // A thread has 16 places for registered rings; the 17th ring does without.
        self.registered = self.update_registration(REGISTER_RING_FDS, update);
    }

    fn update_registration(&self, operation: u32, mut update: RingFdUpdate) -> Option<u32> {
        let fd = self.ring.as_raw_fd();
        // SAFETY: `update` is readable and writable during the call, which takes one of them.
        let result = unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, &raw mut update, 1) };
        (result == 1).then_some(update.offset)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(offset) = self.registered.take() {
            self.update_registration(UNREGISTER_RING_FDS, RingFdUpdate { offset, reserved: 0, data: 0 });
        }
    }
}

/// Task work runs when this thread asks, never by interrupting it; a flag in shared memory says that there is some.
fn build(entries: u32, defer: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_taskrun_flag().setup_submit_all().setup_clamp();
    builder.setup_cqsize(entries.saturating_mul(8)).dontfork();
    if defer {
        builder.setup_defer_taskrun()
    } else {
        builder.setup_coop_taskrun()
    };
    builder.build(entries)
}

/// Why there is no io_uring here, and what to do.
fn refused(error: io::Error) -> io::Error {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let (kind, what) = match error.raw_os_error() {
        Some(libc::ENOSYS) => (
            io::ErrorKind::Unsupported,
            "this kernel has no io_uring, or a sandbox hides it: take the device posix".to_string(),
        ),
        Some(libc::EPERM | libc::EACCES) => (
            io::ErrorKind::PermissionDenied,
            format!(
                "io_uring is forbidden here (kernel.io_uring_disabled = {}): take the device posix, or allow it",
                disabled.trim()
            ),
        ),
        Some(libc::EINVAL) => (
            io::ErrorKind::Unsupported,
            "the device uring needs Linux 6.0 or later: take the device posix".to_string(),
        ),
        _ => return explain(error, "cannot set up io_uring"),
    };
    io::Error::new(kind, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_recognised_by_their_names() {
        let handle = Handle { index: 0x0abc_def0, generation: u32::MAX };
        for op in [
            Op::Accept,
            Op::Recv,
            Op::Send,
            Op::Connect,
            Op::RecvMessage,
            Op::Writable,
            Op::Watch,
            Op::Cancel,
        ] {
            assert_eq!(named(name_of(op, handle)), Some((op, handle)));
        }
        assert_eq!(named(0), None);
    }

    #[test]
    fn a_refusal_names_cause_and_cure() {
        for (number, kind) in [
            (libc::ENOSYS, io::ErrorKind::Unsupported),
            (libc::EPERM, io::ErrorKind::PermissionDenied),
            (libc::EINVAL, io::ErrorKind::Unsupported),
        ] {
            let error = refused(io::Error::from_raw_os_error(number));
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains("posix"), "{error}");
        }
    }
}
