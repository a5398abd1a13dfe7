//! The completion queue, which the loop polls, and the channel that ends a wait when a completion comes.

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as sys;

use super::device::{Device, set_nonblocking};
use super::last_error;

/// Completions taken at a time.
const BATCH: usize = 64;

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Success,
    /// Not begun: its queue pair had failed, or was closed.
    Flushed,
    /// The peer's adapter has not answered any of the retries.
    PeerSilent,
    /// The peer has posted no receive in all the time that it was asked again.
    PeerFull,
    /// The peer's adapter refused it: an address or key of no memory that we may reach, or a message longer than its receive.
    Refused,
    /// Anything else; verbs' own number of it.
    Failed(u32),
}

impl Status {
    fn of(status: sys::ibv_wc_status::Type) -> Status {
        use sys::ibv_wc_status as wc;
        match status {
            wc::IBV_WC_SUCCESS => Status::Success,
            wc::IBV_WC_WR_FLUSH_ERR => Status::Flushed,
            wc::IBV_WC_RETRY_EXC_ERR | wc::IBV_WC_RESP_TIMEOUT_ERR => Status::PeerSilent,
            wc::IBV_WC_RNR_RETRY_EXC_ERR => Status::PeerFull,
            wc::IBV_WC_REM_ACCESS_ERR
            | wc::IBV_WC_REM_INV_REQ_ERR
            | wc::IBV_WC_REM_OP_ERR
            | wc::IBV_WC_REM_ABORT_ERR => Status::Refused,
            other => Status::Failed(other),
        }
    }
}

/// A work request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// What it was posted as.
    pub(crate) id: u64,
    /// How it ended.
    pub(crate) status: Status,
    /// Bytes received; of a success only.
    pub(crate) bytes: u32,
    /// The queue pair.
    pub(crate) queue: u32,
    /// The sender's queue pair, of a datagram received.
    pub(crate) source: u32,
}

/// A queue of completions.
#[derive(Debug)]
pub(crate) struct CompletionQueue {
    cq: NonNull<sys::ibv_cq>,
    channel: NonNull<sys::ibv_comp_channel>,
    armed: Cell<bool>,
    _device: Rc<Device>,
}

impl CompletionQueue {
    /// A queue of at least `entries`.
    pub(crate) fn new(device: &Rc<Device>, entries: u32) -> io::Result<Rc<CompletionQueue>> {
        // SAFETY: the device is open.
        let channel = NonNull::new(unsafe { sys::ibv_create_comp_channel(device.raw()) });
        let channel = channel.ok_or_else(|| last_error("make a completion channel"))?;
        let entries_int = libc::c_int::try_from(entries).unwrap_or(libc::c_int::MAX);
        // SAFETY: the device is open, and the channel is of it.
        let cq =
            unsafe { sys::ibv_create_cq(device.raw(), entries_int, ptr::null_mut(), channel.as_ptr(), 0) };
        let Some(cq) = NonNull::new(cq) else {
            let error = last_error(&format!("make a completion queue of {entries} entries"));
            // SAFETY: the channel was made just now, and no queue is on it.
            unsafe { sys::ibv_destroy_comp_channel(channel.as_ptr()) };
            return Err(error);
        };
        let armed = Cell::new(false);
        let queue = CompletionQueue { cq, channel, armed, _device: Rc::clone(device) };
        set_nonblocking(queue.fd())?;
        Ok(Rc::new(queue))
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_cq {
        self.cq.as_ptr()
    }

    /// Has the next completion make the descriptor readable. What came before must be looked for afterwards.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn arm(&self) -> io::Result<()> {
        if self.armed.get() {
            return Ok(());
        }
        // SAFETY: the queue lives.
        super::check(unsafe { sys::ibv_req_notify_cq(self.raw(), 0) }, "wait for completions")?;
        self.armed.set(true);
        Ok(())
    }

    /// Takes the news that made the descriptor readable, so that it no longer is.
    pub(crate) fn take_events(&self) {
        if !self.armed.get() {
            return;
        }
        let mut events = 0;
        loop {
            let (mut cq, mut context) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the channel lives and does not block; both places are writable.
            if unsafe { sys::ibv_get_cq_event(self.channel.as_ptr(), &raw mut cq, &raw mut context) } != 0 {
                break;
            }
            events += 1;
        }
        if events > 0 {
            self.armed.set(false);
            // SAFETY: so many events of this queue, the channel's only one, were taken just now.
            unsafe { sys::ibv_ack_cq_events(self.raw(), events) };
        }
    }

    /// The descriptor that is readable when a completion has come since [`arm`](Self::arm).
    pub(crate) fn fd(&self) -> RawFd {
        // SAFETY: the channel lives.
        unsafe { self.channel.as_ref() }.fd
    }
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: queue pairs that complete here hold this, and are gone; every event that was taken was acknowledged.
        unsafe {
            sys::ibv_destroy_cq(self.cq.as_ptr());
            sys::ibv_destroy_comp_channel(self.channel.as_ptr());
        }
    }
}

/// Completions that were taken together and not yet looked at.
pub(crate) struct Batch {
    completions: Box<[sys::ibv_wc]>,
    taken: usize,
    next: usize,
}

impl Batch {
    pub(crate) fn new() -> Batch {
        // SAFETY: all zeroes is a value of each of a completion's fields, which are integers.
        let completions = (0..BATCH).map(|_| unsafe { std::mem::zeroed() }).collect();
        Batch { completions, taken: 0, next: 0 }
    }

    /// The next completion of `queue`, if there is one.
    ///
    /// # Errors
    /// The device is gone.
    #[inline]
    pub(crate) fn next(&mut self, queue: &CompletionQueue) -> io::Result<Option<Completion>> {
        if self.next == self.taken {
            // SAFETY: the queue lives, and the array is writable for as many completions as are named.
            let taken = unsafe { sys::ibv_poll_cq(queue.raw(), BATCH as i32, self.completions.as_mut_ptr()) };
            self.taken = usize::try_from(taken)
                .map_err(|_| io::Error::other("the completion queue cannot be polled: is the device gone?"))?
                .min(BATCH);
            self.next = 0;
        }
        let Some(wc) = self.completions[..self.taken].get(self.next) else { return Ok(None) };
        self.next += 1;
        Ok(Some(Completion {
            id: wc.wr_id,
            status: Status::of(wc.status),
            bytes: wc.byte_len,
            queue: wc.qp_num,
            source: wc.src_qp,
        }))
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("taken", &self.taken).field("next", &self.next).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_adapter_says_is_told_apart_as_far_as_it_matters() {
        use sys::ibv_wc_status as wc;
        for (raw, status) in [
            (wc::IBV_WC_SUCCESS, Status::Success),
            (wc::IBV_WC_WR_FLUSH_ERR, Status::Flushed),
            (wc::IBV_WC_RETRY_EXC_ERR, Status::PeerSilent),
            (wc::IBV_WC_RNR_RETRY_EXC_ERR, Status::PeerFull),
            (wc::IBV_WC_REM_ACCESS_ERR, Status::Refused),
            (wc::IBV_WC_LOC_PROT_ERR, Status::Failed(wc::IBV_WC_LOC_PROT_ERR)),
        ] {
            assert_eq!(Status::of(raw), status);
        }
    }
}
