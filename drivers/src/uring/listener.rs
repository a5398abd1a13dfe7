//! A listening socket: a multishot accept, and the connections it has brought that nobody has taken yet.

use core::task::Waker;
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, types::Fd};

use super::ring::{Completion, Op, Ring};
use super::stream::Shots;
use crate::sockets::listing::{self, Held};
use crate::sockets::{calls, options};
use crate::transport::{Handle, SocketEntry, StreamOptions};

/// Connections that may wait here; more wait in the kernel's queue, where the backlog counts them.
const QUEUE_LIMIT: usize = 128;

pub(super) struct Listener {
    socket: OwnedFd,
    pub(super) address: SocketAddr,
    accept: Shots,
    closed: bool,
    queue: VecDeque<OwnedFd>,
    error: Option<io::Error>,
    pub(super) waiter: Option<Waker>,
    pub(super) options: Rc<StreamOptions>,
}

impl Listener {
    /// The listener as `ss` lists it, if it is anybody's.
    pub(super) fn entry(&self) -> Option<SocketEntry> {
        let held = Held { received: self.queue.len(), to_send: 0 };
        self.is_held().then(|| listing::listener(&self.socket, held)).flatten()
    }

    pub(super) fn new(socket: OwnedFd, address: SocketAddr, options: Rc<StreamOptions>) -> Listener {
        Listener {
            socket,
            address,
            accept: Shots::Idle,
            closed: false,
            queue: VecDeque::new(),
            error: None,
            waiter: None,
            options,
        }
    }

    pub(super) fn is_held(&self) -> bool {
        !self.closed
    }

    pub(super) fn is_over(&self) -> bool {
        self.closed && self.accept == Shots::Idle
    }

    /// Descriptors held: its own and those of connections nobody has taken.
    pub(super) fn descriptors(&self) -> usize {
        1 + self.queue.len()
    }

    /// Lets the kernel accept, as long as the queue has room.
    #[inline]
    pub(super) fn accept(&mut self, handle: Handle, ring: &mut Ring) {
        if self.accept == Shots::Idle
            && !self.closed
            && self.error.is_none()
            && self.queue.len() <= QUEUE_LIMIT / 2
        {
            self.accept = Shots::Armed;
            let fd = Fd(self.socket.as_raw_fd());
            let entry = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
            // SAFETY: the entry names no memory.
            unsafe { ring.push(entry, Op::Accept, handle) };
        }
    }

    pub(super) fn on_accept(&mut self, completion: Completion, handle: Handle, ring: &mut Ring) {
        if !completion.more {
            self.accept = Shots::Idle;
        }
        if let Some(socket) = accepted(completion) {
            if self.closed {
                options::reset_on_close(&socket);
            } else {
                self.queue.push_back(socket);
                if self.queue.len() >= QUEUE_LIMIT && self.accept == Shots::Armed {
                    self.accept = Shots::Stopping;
                    ring.cancel(Op::Accept, handle);
                }
            }
        } else if completion.result != -libc::ECANCELED
            && let Some(error) = completion.error()
            && !calls::is_of_connection(&error)
        {
            // Not asked again before somebody has seen it: what is wrong may stay so.
            self.error = Some(error);
        }
        self.accept(handle, ring);
    }

    /// The next connection, or what went wrong.
    pub(super) fn next(&mut self) -> Option<io::Result<OwnedFd>> {
        self.queue.pop_front().map(Ok).or_else(|| self.error.take().map(Err))
    }

    /// A connection that found no room goes back to where it was.
    pub(super) fn put_back(&mut self, socket: OwnedFd) {
        self.queue.push_front(socket);
    }

    /// Stops listening at once: the address is free, and connections that nobody has taken are reset.
    pub(super) fn close(&mut self, handle: Handle, ring: &mut Ring) {
        self.closed = true;
        for socket in self.queue.drain(..) {
            options::reset_on_close(&socket);
        }
        // Only a socket that listens no more refuses, and that is what is wanted.
        let _ = options::shutdown(&self.socket, Shutdown::Read);
        if self.accept == Shots::Armed {
            self.accept = Shots::Stopping;
            ring.cancel(Op::Accept, handle);
        }
    }
}

/// The socket that an accept has brought.
pub(super) fn accepted(completion: Completion) -> Option<OwnedFd> {
    (completion.op == Op::Accept && completion.result >= 0)
        // SAFETY: the kernel has opened this descriptor for us, and tells it once.
        .then(|| unsafe { OwnedFd::from_raw_fd(completion.result) })
}
