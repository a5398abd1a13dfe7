//! A UDP socket: a multishot receive, and the datagrams it has brought that nobody has read yet.
//!
//! Datagrams are sent by a system call each, so that what is wrong with one is told to whoever sends it.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use io_uring::{opcode, types::Fd, types::RecvMsgOut};

use super::buffers::Buffers;
use super::ring::{Completion, Op, Ring};
use super::stream::Shots;
use crate::mem::{Buf, Pool};
use crate::sockets::address::{RAW_ADDRESS_BYTES, RawAddress};
use crate::sockets::calls::{self, empty_message};
use crate::sockets::listing::{self, Held};
use crate::sockets::{remember, would_block};
use crate::transport::{DatagramOptions, Handle, SocketEntry};

/// Datagrams that may wait here; more wait in the kernel's receive buffer, which drops what it cannot hold.
const INBOX_LIMIT: usize = 64;

/// What every receive asks for: the sender's address, no control messages.
pub(super) fn template() -> Box<libc::msghdr> {
    let mut message = Box::new(empty_message());
    message.msg_namelen = RAW_ADDRESS_BYTES;
    message
}

pub(super) struct Datagram {
    pub(super) socket: OwnedFd,
    recv: Shots,
    closed: bool,
    /// The kernel had no room; a poll for it is under way.
    blocked: bool,
    inbox: VecDeque<(Buf, SocketAddr)>,
    error: Option<io::Error>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) v6: bool,
    pub(super) options: DatagramOptions,
}

impl Datagram {
    /// The socket as `ss` lists it, if it is anybody's.
    pub(super) fn entry(&self) -> Option<SocketEntry> {
        let held = Held { received: self.inbox.iter().map(|(buf, _)| buf.len()).sum(), to_send: 0 };
        self.is_held().then(|| listing::datagram(&self.socket, held)).flatten()
    }

    pub(super) fn new(socket: OwnedFd, v6: bool, options: DatagramOptions) -> Datagram {
        Datagram {
            socket,
            recv: Shots::Idle,
            closed: false,
            blocked: false,
            inbox: VecDeque::new(),
            error: None,
            reader: None,
            writer: None,
            v6,
            options,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        !self.closed
    }

    pub(super) fn is_over(&self) -> bool {
        self.closed && self.recv == Shots::Idle && !self.blocked
    }

    // ---- receiving ----

    /// Lets the kernel receive, as long as the inbox has room.
    pub(super) fn receive(&mut self, handle: Handle, ring: &mut Ring, group: u16, template: &libc::msghdr) {
        if self.recv == Shots::Idle
            && !self.closed
            && self.error.is_none()
            && self.inbox.len() <= INBOX_LIMIT / 2
        {
            self.recv = Shots::Armed;
            let entry = opcode::RecvMsgMulti::new(Fd(self.socket.as_raw_fd()), template, group).build();
            // SAFETY: the template lives as long as the transport, which waits for every operation before it goes; buffers come
            // from the group, which does so, too.
            unsafe { ring.push(entry, Op::RecvMessage, handle) };
        }
    }

    /// A datagram, an error, or the end of the operation. `true` when it ended for want of buffers.
    pub(super) fn on_recv(
        &mut self,
        completion: Completion,
        received: Option<(Buf, SocketAddr)>,
        handle: Handle,
        ring: &mut Ring,
    ) -> bool {
        if !completion.more {
            self.recv = Shots::Idle;
        }
        if self.closed || completion.result == -libc::ENOBUFS {
            return !self.closed;
        }
        self.inbox.extend(received);
        if completion.result < 0 && completion.result != -libc::ECANCELED {
            self.error = completion.error();
        }
        if self.inbox.len() >= INBOX_LIMIT && self.recv == Shots::Armed {
            self.recv = Shots::Stopping;
            ring.cancel(Op::RecvMessage, handle);
        }
        false
    }

    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>, from: &mut SocketAddr) -> Poll<io::Result<Buf>> {
        if let Some((buf, sender)) = self.inbox.pop_front() {
            *from = sender;
            return Poll::Ready(Ok(buf));
        }
        self.wait_to_read(cx)
    }

    pub(super) fn poll_peek_from(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Buf, SocketAddr)>> {
        if let Some(received) = self.inbox.front() {
            return Poll::Ready(Ok(received.clone()));
        }
        self.wait_to_read(cx)
    }

    fn wait_to_read<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.inbox.is_empty() || self.error.is_some() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    // ---- sending ----

    pub(super) fn poll_send_to(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
        handle: Handle,
        ring: &mut Ring,
    ) -> Poll<io::Result<()>> {
        let Some(view) = buf.as_ref() else { return Poll::Ready(Ok(())) };
        if !self.blocked {
            match calls::send_to(self.socket.as_fd(), view, remote.as_ref()) {
                Ok(()) => {
                    *buf = None;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if would_block(&error) => {
                    self.blocked = true;
                    let entry =
                        opcode::PollAdd::new(Fd(self.socket.as_raw_fd()), libc::POLLOUT as u32).build();
                    // SAFETY: the entry names no memory.
                    unsafe { ring.push(entry, Op::Writable, handle) };
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.blocked {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn on_writable(&mut self) {
        self.blocked = false;
    }

    // ---- ending ----

    pub(super) fn close(&mut self, handle: Handle, ring: &mut Ring) {
        self.closed = true;
        self.inbox.clear();
        if self.recv == Shots::Armed {
            self.recv = Shots::Stopping;
            ring.cancel(Op::RecvMessage, handle);
        }
        if self.blocked {
            ring.cancel(Op::Writable, handle);
        }
    }
}

/// Takes the datagram out of the buffer that a completion names. A short one moves to a small slot, and the large one goes
/// straight back to the kernel.
pub(super) fn unpack(
    completion: Completion,
    buffers: &mut Buffers,
    pool: &Pool,
    template: &libc::msghdr,
) -> Option<(Buf, SocketAddr)> {
    let len = usize::try_from(completion.result).unwrap_or(0);
    // SAFETY: the completion names the buffer.
    let mut buf = unsafe { buffers.take(completion.buffer?, len) }?;
    let (sender, start, payload_len) = {
        let parsed = RecvMsgOut::parse(&buf, template).ok()?;
        let mut sender = RawAddress::empty();
        sender.fill(parsed.name_data());
        let payload_len = parsed.payload_data().len();
        (sender.decode(), buf.len() - payload_len, payload_len)
    };
    if payload_len > pool.small_capacity() {
        buf.advance(start);
        return Some((buf.freeze(), sender?));
    }
    let copy = pool.copy_from_slice(&buf[start..]);
    buffers.give_back(buf);
    // Without a slot the datagram is lost, as any datagram may be.
    Some((copy?, sender?))
}
