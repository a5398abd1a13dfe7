//! A TCP connection: what was received and not read, what was written and not sent, and the operations on both.
//!
//! A view that is being sent is owned here until the kernel has completed the send; the entry itself lives until its last
//! operation has completed.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, types::Fd};

use super::message::{Message, Messages};
use super::ring::{Completion, Op, Ring};
use super::{LARGE_GROUP, SMALL_GROUP};
use crate::mem::{Buf, BufMut, Pool};
use crate::sockets::listing::{self, Held};
use crate::sockets::{calls, explain, options, remember, would_block, write_after_shutdown};
use crate::transport::{Handle, ReadCursor, SocketEntry, StreamOptions};

/// Views, and bytes in them, that may wait to be read; the kernel's own receive buffer, and so the peer's window, holds what
/// is beyond.
const INBOX_LIMIT: usize = 32;
const INBOX_LIMIT_BYTES: usize = 512 * 1024;

/// So many small buffers filled in a row call for large ones, and so many large ones that small ones would have done for call
/// for small ones again.
const FULL_SMALL: u32 = 4;
const SLACK_LARGE: u32 = 16;

/// Writes of at least this many bytes go to the kernel at once when nothing is queued: that saves a copy, which by then
/// costs more than a system call.
const DIRECT_WRITE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Open,
    Failed,
    /// Given up by the application; lives on until its last operation has completed and the kernel has taken its bytes.
    Closing,
    /// As before, with the bytes dropped.
    Aborting,
}

/// A multishot operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shots {
    Idle,
    Armed,
    /// Told to stop; its last completion is still to come.
    Stopping,
}

/// What the kernel is sending.
enum Sending {
    Nothing,
    One(Buf),
    Several(Box<Message>),
}

pub(super) struct Stream {
    pub(super) socket: OwnedFd,
    pub(super) phase: Phase,
    recv: Shots,
    /// Which buffers the receive under way takes, and which the next one shall take.
    receives_large: bool,
    prefers_large: bool,
    /// Receives in a row that spoke for changing that.
    streak: u32,
    /// The handshake is being waited for.
    connecting: bool,
    /// In the transport's list of streams that have something to send.
    pub(super) dirty: bool,
    /// The peer's FIN has arrived (or reading was shut down).
    ended: bool,
    write_shut: bool,
    inbox: VecDeque<Buf>,
    inbox_bytes: usize,
    outbox: VecDeque<Buf>,
    /// The end of the outbox, where more copied bytes fit.
    tail: Option<BufMut>,
    sending: Sending,
    /// Bytes in `outbox`, `tail` and `sending`.
    queued_bytes: usize,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// What ended receiving, to be told behind the inbox.
    recv_error: Option<io::Error>,
    /// What ended connecting or sending.
    send_error: Option<io::Error>,
    remote: SocketAddr,
    pub(super) options: Rc<StreamOptions>,
}

impl Stream {
    /// The connection as `ss` lists it.
    pub(super) fn entry(&self) -> Option<SocketEntry> {
        let held = Held { received: self.inbox_bytes, to_send: self.queued_bytes };
        listing::stream(&self.socket, held, matches!(self.phase, Phase::Closing | Phase::Aborting))
    }

    pub(super) fn new(
        socket: OwnedFd,
        remote: SocketAddr,
        phase: Phase,
        options: Rc<StreamOptions>,
    ) -> Stream {
        Stream {
            socket,
            phase,
            recv: Shots::Idle,
            receives_large: false,
            prefers_large: false,
            streak: 0,
            connecting: false,
            dirty: false,
            ended: false,
            write_shut: false,
            inbox: VecDeque::new(),
            inbox_bytes: 0,
            outbox: VecDeque::new(),
            tail: None,
            sending: Sending::Nothing,
            queued_bytes: 0,
            reader: None,
            writer: None,
            recv_error: None,
            send_error: None,
            remote,
            options,
        }
    }

    /// Whether the application may still use it.
    #[inline]
    pub(super) fn is_held(&self) -> bool {
        !matches!(self.phase, Phase::Closing | Phase::Aborting)
    }

    /// Whether bytes were received that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Bytes received that nobody has read.
    pub(super) fn unread_bytes(&self) -> usize {
        self.inbox_bytes
    }

    /// Whether every byte written was taken by the kernel, or dropped.
    pub(super) fn is_drained(&self) -> bool {
        self.queued_bytes == 0 && matches!(self.sending, Sending::Nothing)
    }

    /// Whether it was given up and nothing of it is under way any more.
    pub(super) fn is_over(&self) -> bool {
        !self.is_held() && self.recv == Shots::Idle && !self.connecting && self.is_drained()
    }

    // ---- connecting ----

    pub(super) fn start_connect(&mut self, handle: Handle, ring: &mut Ring) {
        self.connecting = true;
        let entry = opcode::PollAdd::new(Fd(self.socket.as_raw_fd()), libc::POLLOUT as u32).build();
        // SAFETY: the entry names no memory.
        unsafe { ring.push(entry, Op::Connect, handle) };
    }

    /// The handshake has ended, one way or the other.
    pub(super) fn on_connect(&mut self, completion: Completion, handle: Handle, ring: &mut Ring) {
        self.connecting = false;
        if self.phase != Phase::Connecting {
            return;
        }
        let failure = match completion.error() {
            Some(error) => Some(error),
            None => options::take_error(&self.socket).unwrap_or_else(Some),
        };
        match failure {
            Some(error) => {
                self.phase = Phase::Failed;
                self.send_error = Some(explain(error, format!("cannot connect to {}", self.remote)));
            }
            None => {
                self.phase = Phase::Open;
                self.receive(handle, ring);
            }
        }
    }

    pub(super) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Connecting => {
                remember(&mut self.writer, cx);
                Poll::Pending
            }
            Phase::Failed => Poll::Ready(Err(self.failure())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn failure(&mut self) -> io::Error {
        self.send_error.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into())
    }

    // ---- receiving ----

    /// Lets the kernel receive, as long as it has something to receive into and the inbox has room.
    #[inline]
    pub(super) fn receive(&mut self, handle: Handle, ring: &mut Ring) {
        let wanted = self.recv == Shots::Idle
            && self.phase == Phase::Open
            && !self.ended
            && self.recv_error.is_none()
            && self.inbox.len() <= INBOX_LIMIT / 2
            && self.inbox_bytes <= INBOX_LIMIT_BYTES / 2;
        if wanted {
            self.recv = Shots::Armed;
            self.receives_large = self.prefers_large;
            self.streak = 0;
            let group = if self.receives_large { LARGE_GROUP } else { SMALL_GROUP };
            let entry = opcode::RecvMulti::new(Fd(self.socket.as_raw_fd()), group).build();
            // SAFETY: the entry names no memory: buffers come from the group, which outlives every operation.
            unsafe { ring.push(entry, Op::Recv, handle) };
        }
    }

    /// Stops receiving; what comes before the last completion is still received.
    pub(super) fn stop_receiving(&mut self, handle: Handle, ring: &mut Ring) {
        if self.recv == Shots::Armed {
            self.recv = Shots::Stopping;
            ring.cancel(Op::Recv, handle);
        }
    }

    /// Whether the receive under way takes large buffers.
    #[inline]
    pub(super) fn receives_large(&self) -> bool {
        self.receives_large
    }

    /// Bytes, the end, or the end of the operation; `small` bytes fill a small buffer. `true` when it ended for want of
    /// small buffers.
    #[inline]
    pub(super) fn on_recv(
        &mut self,
        completion: Completion,
        buf: Option<Buf>,
        small: usize,
        handle: Handle,
        ring: &mut Ring,
    ) -> bool {
        if !completion.more {
            self.recv = Shots::Idle;
        }
        if !self.is_held() {
            if completion.result > 0 {
                // Bytes that nobody will read: the peer is told as the kernel would.
                options::reset_on_close(&self.socket);
            }
            return false;
        }
        match completion.result {
            0 => self.ended = true,
            1.. => {
                if let Some(buf) = buf {
                    self.choose_size(buf.len(), small, handle, ring);
                    self.inbox_bytes += buf.len();
                    self.inbox.push_back(buf);
                }
                if self.inbox.len() >= INBOX_LIMIT || self.inbox_bytes >= INBOX_LIMIT_BYTES {
                    self.stop_receiving(handle, ring);
                }
            }
            // No large buffer is left: small ones do.
            error if error == -libc::ENOBUFS && self.receives_large => self.prefers_large = false,
            error if error == -libc::ENOBUFS => return true,
            error if error == -libc::ECANCELED => {}
            _ => self.recv_error = completion.error(),
        }
        self.receive(handle, ring);
        false
    }

    /// Changes to the other size of buffers, after as many receives in a row as it takes to believe in it.
    #[inline]
    fn choose_size(&mut self, len: usize, small: usize, handle: Handle, ring: &mut Ring) {
        let (against, enough) =
            if self.receives_large { (len <= small, SLACK_LARGE) } else { (len == small, FULL_SMALL) };
        self.streak = if against { self.streak + 1 } else { 0 };
        if self.streak >= enough {
            self.prefers_large = !self.receives_large;
            self.stop_receiving(handle, ring);
        }
    }

    /// What a read finds when the inbox is empty: the end or an error, or nothing yet.
    fn at_end(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.recv_error.take() {
            self.ended = true;
            return Poll::Ready(Err(error));
        }
        if self.phase == Phase::Failed {
            return Poll::Ready(Err(self.failure()));
        }
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    #[inline]
    pub(super) fn poll_pop(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<Option<Buf>>> {
        match self.inbox.front_mut() {
            Some(front) if front.len() > max => {
                self.inbox_bytes -= max;
                Poll::Ready(Ok(Some(front.split_to(max))))
            }
            Some(front) => {
                self.inbox_bytes -= front.len();
                Poll::Ready(Ok(self.inbox.pop_front()))
            }
            None => self.at_end(cx).map_ok(|()| None),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        dst: &mut ReadCursor<'_>,
        peek: bool,
    ) -> Poll<io::Result<()>> {
        if dst.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.inbox.is_empty() {
            return self.at_end(cx);
        }
        if peek {
            for buf in &self.inbox {
                dst.put(buf);
            }
            return Poll::Ready(Ok(()));
        }
        while let Some(front) = self.inbox.front_mut() {
            let count = dst.put(front);
            self.inbox_bytes -= count;
            if count < front.len() {
                front.advance(count);
                break;
            }
            self.inbox.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.inbox.is_empty() || self.recv_error.is_some() || self.phase == Phase::Failed || self.ended {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    // ---- sending ----

    /// Takes a view for sending. It goes out with the next flush, together with what else is written until then.
    #[inline]
    pub(super) fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Option<Buf>,
        limit: usize,
    ) -> Poll<io::Result<()>> {
        if !self.may_write(limit)? {
            remember(&mut self.writer, cx);
            return Poll::Pending;
        }
        if let Some(buf) = buf.take().filter(|buf| !buf.is_empty()) {
            self.seal_tail();
            self.queued_bytes += buf.len();
            self.outbox.push_back(buf);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        src: &[IoSlice<'_>],
        pool: &Pool,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        if !self.may_write(limit)? {
            remember(&mut self.writer, cx);
            return Poll::Pending;
        }
        let total: usize = src.iter().map(|view| view.len()).sum();
        if total >= DIRECT_WRITE && self.is_drained() {
            match calls::send_vectored(self.socket.as_fd(), src) {
                Err(error) if would_block(&error) => {}
                sent => return Poll::Ready(sent),
            }
        }
        let mut room = limit - self.queued_bytes.min(limit);
        let mut copied = 0;
        for view in src {
            let mut rest = &view[..view.len().min(room)];
            room -= rest.len();
            while !rest.is_empty() {
                let tail = match &mut self.tail {
                    Some(tail) if tail.tailroom() > 0 => tail,
                    _ => {
                        self.seal_tail();
                        let Some(slot) = slot_for(rest.len(), pool) else { break };
                        self.tail.insert(slot)
                    }
                };
                let count = tail.put_slice(rest);
                self.queued_bytes += count;
                copied += count;
                rest = &rest[count..];
            }
            if !rest.is_empty() {
                break;
            }
        }
        if copied > 0 || total == 0 {
            return Poll::Ready(Ok(copied));
        }
        // The pool is empty: ask again when a slot comes back.
        match pool.poll_alloc(cx, 1) {
            Poll::Ready(Some(slot)) => self.tail = Some(slot),
            Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
            Poll::Pending => return Poll::Pending,
        }
        self.poll_write(cx, src, pool, limit)
    }

    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<()>> {
        if self.may_write(limit)? {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.send_error.take() {
            return Poll::Ready(Err(error));
        }
        if self.is_drained() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    #[inline]
    fn may_write(&mut self, limit: usize) -> io::Result<bool> {
        if self.send_error.is_some() || self.phase == Phase::Failed {
            return Err(self.failure());
        }
        if self.write_shut {
            return Err(write_after_shutdown());
        }
        Ok(self.phase == Phase::Open && self.queued_bytes < limit)
    }

    /// Whether something is queued and nothing is being sent.
    #[inline]
    pub(super) fn wants_to_send(&self) -> bool {
        self.queued_bytes > 0 && matches!(self.sending, Sending::Nothing)
    }

    fn seal_tail(&mut self) {
        if let Some(tail) = self.tail.take()
            && !tail.is_empty()
        {
            self.outbox.push_back(tail.freeze());
        }
    }

    /// Gives the kernel what is queued: one view by itself, several as one message.
    #[inline]
    pub(super) fn start_send(&mut self, handle: Handle, ring: &mut Ring, messages: &mut Messages) {
        if !matches!(self.sending, Sending::Nothing) {
            return;
        }
        self.seal_tail();
        // MSG_WAITALL: one completion when all is taken, however long that takes.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let fd = Fd(self.socket.as_raw_fd());
        let entry = if self.outbox.len() > 1 {
            let message = messages.gather(&mut self.outbox);
            let entry = opcode::SendMsg::new(fd, message.header()).flags(flags as u32).build();
            self.sending = Sending::Several(message);
            entry
        } else if let Some(buf) = self.outbox.pop_front() {
            let entry = opcode::Send::new(fd, buf.as_ptr(), buf.len() as u32).flags(flags).build();
            self.sending = Sending::One(buf);
            entry
        } else {
            return;
        };
        // SAFETY: the views, and the message that lists them, are owned by `sending` until the completion; they lie in pool
        // slots and in a box, so moving this entry doesn't move them; nobody writes a slot while a view shows it.
        unsafe { ring.push(entry, Op::Send, handle) };
    }

    /// Gives the kernel what is queued by calls. `true` once nothing is left to send.
    #[inline]
    pub(super) fn send_now(&mut self) -> bool {
        if !matches!(self.sending, Sending::Nothing) {
            return false;
        }
        self.seal_tail();
        while let Some(front) = self.outbox.front_mut() {
            match calls::send(self.socket.as_fd(), front) {
                Ok(count) => {
                    self.queued_bytes -= count;
                    if count < front.len() {
                        front.advance(count);
                        return false;
                    }
                    self.outbox.pop_front();
                }
                // Full, or broken: the operation waits for room, or brings the error to where errors are told.
                Err(_) => return false,
            }
        }
        if self.write_shut && self.is_held() {
            self.finish();
        }
        true
    }

    /// A send is over: in whole, in part, or for an error.
    #[inline]
    pub(super) fn on_sent(
        &mut self,
        completion: Completion,
        handle: Handle,
        ring: &mut Ring,
        messages: &mut Messages,
    ) {
        let sent = usize::try_from(completion.result).unwrap_or(0);
        match std::mem::replace(&mut self.sending, Sending::Nothing) {
            Sending::Nothing => {}
            Sending::One(mut buf) => {
                self.queued_bytes -= sent.min(buf.len());
                if sent < buf.len() {
                    buf.advance(sent);
                    self.outbox.push_front(buf);
                }
            }
            Sending::Several(message) => {
                self.queued_bytes -= messages.scatter(message, sent, &mut self.outbox);
            }
        }
        if let Some(error) = completion.error() {
            self.drop_queued();
            self.send_error = Some(error);
        } else if self.phase == Phase::Aborting {
            self.drop_queued();
        }
        if self.queued_bytes > 0 {
            self.start_send(handle, ring, messages);
        } else if self.write_shut && self.is_held() {
            self.finish();
        }
    }

    /// Forgets what is queued. What is being sent stays until the kernel is done with it.
    fn drop_queued(&mut self) {
        self.tail = None;
        self.outbox.clear();
        self.queued_bytes = match &self.sending {
            Sending::Nothing => 0,
            Sending::One(buf) => buf.len(),
            Sending::Several(message) => message.len(),
        };
    }

    /// Sends the FIN.
    fn finish(&mut self) {
        if let Err(error) = options::shutdown(&self.socket, Shutdown::Write)
            && error.kind() != io::ErrorKind::NotConnected
        {
            self.send_error = Some(error);
        }
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            // The kernel ends the receive operation, too.
            options::shutdown(&self.socket, Shutdown::Read)?;
            self.ended = true;
        }
        if how != Shutdown::Read && !self.write_shut {
            if self.is_drained() {
                options::shutdown(&self.socket, Shutdown::Write)?;
            }
            self.write_shut = true;
        }
        Ok(())
    }

    // ---- ending ----

    /// Ends receiving and, with `reset`, sending as well; the entry is over once the operations are.
    pub(super) fn give_up(&mut self, reset: bool, handle: Handle, ring: &mut Ring) {
        if reset {
            options::reset_on_close(&self.socket);
            self.drop_queued();
            if !matches!(self.sending, Sending::Nothing) {
                ring.cancel(Op::Send, handle);
            }
        }
        if self.connecting {
            ring.cancel(Op::Connect, handle);
        }
        self.phase = if reset { Phase::Aborting } else { Phase::Closing };
        self.inbox.clear();
        self.inbox_bytes = 0;
        self.stop_receiving(handle, ring);
    }

    pub(super) fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        match self.send_error.take().or_else(|| self.recv_error.take()) {
            Some(error) => {
                self.ended = true;
                Ok(Some(error))
            }
            None => options::take_error(&self.socket),
        }
    }

    pub(super) fn set_options(&mut self, new: &StreamOptions) -> io::Result<()> {
        if *self.options != *new {
            options::apply_stream(&self.socket, self.remote.is_ipv6(), &self.options, new)?;
            self.options = Rc::new(new.clone());
        }
        Ok(())
    }
}

/// A slot that suits `len` more bytes: a large one for many, if there is one.
fn slot_for(len: usize, pool: &Pool) -> Option<BufMut> {
    let (small, max) = (pool.small_capacity(), pool.max_capacity());
    if len > small
        && let Some(slot) = pool.alloc(len.min(max))
    {
        return Some(slot);
    }
    pool.alloc(len.min(small))
}
