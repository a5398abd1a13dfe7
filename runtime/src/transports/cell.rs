//! One transport of a runtime, shared by the loop and by every socket on it.
//!
//! Sockets live in tasks, and a task can be dropped anywhere: while the transport itself is running, when it wakes or drops
//! a foreign waker that happens to own one. A call that arrives then finds the transport borrowed. It is never a panic:
//! what gives something up is kept for the end of the loop's next step, and what asks for something is told to come again.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll, Waker};

use demi_drivers::transport::{DatagramId, ListenerId, StreamId};
use demi_drivers::{Instant, Pool, Transport};

/// A transport, what never changes about it, and the calls it could not take yet.
pub(crate) struct TransportCell {
    name: Box<str>,
    pool: Pool,
    kernel: bool,
    late: Cell<bool>,
    calls: RefCell<Vec<Late>>,
    transport: RefCell<Box<dyn Transport>>,
}

/// A call that came while the transport was running.
pub(crate) enum Late {
    /// `Transport::close`.
    Close(StreamId),
    /// `Transport::abort`.
    Abort(StreamId),
    /// `Transport::close_listener`.
    CloseListener(ListenerId),
    /// `Transport::close_datagram`.
    CloseDatagram(DatagramId),
    /// A poll method: its caller polls again.
    Wake(Waker),
}

impl TransportCell {
    pub(crate) fn new(transport: Box<dyn Transport>) -> Self {
        TransportCell {
            name: transport.name().into(),
            pool: transport.pool().clone(),
            kernel: matches!(transport.name(), "uring" | "posix"),
            late: Cell::new(false),
            calls: RefCell::new(Vec::new()),
            transport: RefCell::new(transport),
        }
    }

    /// The device string.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its buffers come from.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Whether it is the kernel's sockets.
    pub(crate) fn is_kernel(&self) -> bool {
        self.kernel
    }

    /// Runs a poll method. When the transport is running already, its caller is woken after that.
    #[inline(always)]
    pub(crate) fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        method: impl FnOnce(&mut dyn Transport, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.transport.try_borrow_mut() {
            Ok(mut transport) => method(&mut **transport, cx),
            Err(_) => self.wake_later(cx),
        }
    }

    /// Runs a method that answers at once.
    #[inline]
    pub(crate) fn call<T>(&self, method: impl FnOnce(&mut dyn Transport) -> io::Result<T>) -> io::Result<T> {
        match self.transport.try_borrow_mut() {
            Ok(mut transport) => method(&mut **transport),
            Err(_) => Err(busy()),
        }
    }

    /// Runs a method that gives something up, now or, when the transport is running, after that.
    #[inline]
    pub(crate) fn give_up(&self, call: Late) {
        match self.transport.try_borrow_mut() {
            Ok(mut transport) => call.run(&mut **transport),
            Err(_) => self.later(call),
        }
    }

    #[cold]
    #[inline(never)]
    fn wake_later<T>(&self, cx: &Context<'_>) -> Poll<T> {
        self.later(Late::Wake(cx.waker().clone()));
        Poll::Pending
    }

    #[cold]
    fn later(&self, call: Late) {
        self.calls.borrow_mut().push(call);
        self.late.set(true);
    }

    /// Runs one step of the loop, and behind it whatever came too early.
    #[inline]
    fn step<T>(&self, step: impl FnOnce(&mut dyn Transport) -> io::Result<T>) -> io::Result<T> {
        let result = self.call(step);
        if self.late.get() {
            self.catch_up();
        }
        result
    }

    #[cold]
    fn catch_up(&self) {
        // Running a call may drop a waker, and with it a socket, which then queues another: until none is left, or the
        // transport is still running (a foreign waker turned the loop from inside it), when the outer step goes on.
        while let Ok(mut transport) = self.transport.try_borrow_mut() {
            let calls = std::mem::take(&mut *self.calls.borrow_mut());
            if calls.is_empty() {
                self.late.set(false);
                break;
            }
            let mut wakers = Vec::new();
            for call in calls {
                match call {
                    Late::Wake(waker) => wakers.push(waker),
                    call => call.run(&mut **transport),
                }
            }
            drop(transport);
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// See [`Transport::poll`].
    #[inline]
    pub(super) fn poll(&self, now: Instant) -> io::Result<usize> {
        self.step(|transport| transport.poll(now))
    }

    /// See [`Transport::flush`].
    #[inline]
    pub(super) fn flush(&self, now: Instant) -> io::Result<()> {
        self.step(|transport| transport.flush(now))
    }

    /// See [`Transport::deadline`]. A transport that is running has one right now.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.transport.try_borrow().map_or(Some(Instant::ZERO), |transport| transport.deadline())
    }

    /// Runs a method that only looks.
    pub(crate) fn look<T>(&self, method: impl FnOnce(&dyn Transport) -> io::Result<T>) -> io::Result<T> {
        match self.transport.try_borrow() {
            Ok(transport) => method(&**transport),
            Err(_) => Err(busy()),
        }
    }
}

impl Late {
    fn run(self, transport: &mut dyn Transport) {
        match self {
            Late::Close(stream) => transport.close(stream),
            Late::Abort(stream) => transport.abort(stream),
            Late::CloseListener(listener) => transport.close_listener(listener),
            Late::CloseDatagram(socket) => transport.close_datagram(socket),
            Late::Wake(waker) => waker.wake(),
        }
    }
}

#[cold]
fn busy() -> io::Error {
    io::Error::new(
        io::ErrorKind::ResourceBusy,
        "the transport is running: a waker called a socket from inside it; wake the task instead",
    )
}
