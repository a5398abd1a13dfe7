//! A TCP connection's handle and the calls on it, shared by the stream and by all kinds of its halves.
//!
//! Reading has one detail above the transport: a buffer that [`AsyncBufRead`](futures_io::AsyncBufRead) has shown and not
//! consumed yet is *held* by whoever reads, and every way to read begins with it.

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use demi_drivers::Buf;
use demi_drivers::transport::{ReadCursor, StreamId, StreamOptions};

use super::waiters::Waiters;
use crate::io::{Interest, Ready};
use crate::transports::{Late, TransportCell};

/// Received bytes that were shown and not consumed; never empty.
pub(crate) type Held = Cell<Option<Buf>>;

/// One connection. Dropping it closes it.
#[repr(C)] // What every call asks for comes first.
pub(crate) struct Connection {
    cell: Rc<TransportCell>,
    id: StreamId,
    readers: Waiters,
    writers: Waiters,
}

impl Connection {
    #[inline]
    pub(super) fn new(cell: Rc<TransportCell>, id: StreamId) -> Self {
        Connection { cell, id, readers: Waiters::default(), writers: Waiters::default() }
    }

    /// The transport that carries it.
    pub(super) fn cell(&self) -> &Rc<TransportCell> {
        &self.cell
    }

    // ---- reading: `held` first ----

    /// Takes the first `max` bytes (at least one) off what is held.
    #[inline(always)]
    fn pop_held(held: &Held, max: usize) -> Option<Buf> {
        let mut buf = held.take()?;
        if buf.len() > max {
            let head = buf.split_to(max.max(1));
            held.set(Some(buf));
            return Some(head);
        }
        Some(buf)
    }

    /// Whether anything is held.
    #[inline]
    fn holds(held: &Held) -> bool {
        let buf = held.take();
        let holds = buf.is_some();
        held.set(buf);
        holds
    }

    #[inline]
    pub(super) fn poll_pop(
        &self,
        cx: &mut Context<'_>,
        held: &Held,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>> {
        match Self::pop_held(held, max) {
            Some(buf) => Poll::Ready(Ok(Some(buf))),
            None => self.cell.poll_with(cx, |transport, cx| transport.poll_pop(cx, self.id, max.max(1))),
        }
    }

    #[inline]
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        held: &Held,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if dst.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match Self::pop_held(held, dst.remaining()) {
            Some(buf) => {
                dst.put(&buf);
                Poll::Ready(Ok(()))
            }
            None => self.cell.poll_with(cx, |transport, cx| transport.poll_read(cx, self.id, dst)),
        }
    }

    /// Reads into several slices, in order: what there is, up to what all of them hold.
    pub(crate) fn poll_read_vectored(
        &self,
        cx: &mut Context<'_>,
        held: &Held,
        slices: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let room = slices.iter().map(|slice| slice.len()).sum();
        if room == 0 {
            return Poll::Ready(Ok(0));
        }
        let Some(mut buf) = ready!(self.poll_pop(cx, held, room))? else { return Poll::Ready(Ok(0)) };
        let count = buf.len();
        for slice in slices {
            let part = buf.split_to(slice.len());
            slice[..part.len()].copy_from_slice(&part);
        }
        Poll::Ready(Ok(count))
    }

    /// Makes sure that something is held, unless the peer is done.
    #[inline]
    pub(crate) fn poll_hold(&self, cx: &mut Context<'_>, held: &Held) -> Poll<io::Result<()>> {
        if !Self::holds(held) {
            let buf = ready!(self.poll_pop(cx, held, usize::MAX))?;
            held.set(buf.filter(|buf| !buf.is_empty()));
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the first `count` bytes of what is held.
    #[inline]
    pub(crate) fn consume(held: &mut Held, count: usize) {
        let slot = held.get_mut();
        if let Some(buf) = slot {
            buf.advance(count);
            if buf.is_empty() {
                *slot = None;
            }
        }
    }

    pub(super) fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        held: &Held,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if dst.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(buf) = held.take() {
            dst.put(&buf);
            held.set(Some(buf));
            return Poll::Ready(Ok(()));
        }
        self.readers
            .poll(cx, |cx| self.cell.poll_with(cx, |transport, cx| transport.poll_peek(cx, self.id, dst)))
    }

    fn poll_readable_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cell.poll_with(cx, |transport, cx| transport.poll_readable(cx, self.id))
    }

    pub(super) fn poll_readable(&self, cx: &mut Context<'_>, held: &Held) -> Poll<io::Result<()>> {
        if Self::holds(held) {
            return Poll::Ready(Ok(()));
        }
        self.readers.poll(cx, |cx| self.poll_readable_raw(cx))
    }

    /// Runs a reading poll method once, without waiting.
    #[inline]
    pub(super) fn try_reading<T>(
        &self,
        method: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        self.readers.attempt(method, |cx| self.poll_readable_raw(cx))
    }

    // ---- writing ----

    #[inline]
    pub(super) fn poll_push(&self, cx: &mut Context<'_>, buf: &mut Option<Buf>) -> Poll<io::Result<()>> {
        self.cell.poll_with(cx, |transport, cx| transport.poll_push(cx, self.id, buf))
    }

    #[inline]
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, src: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.cell.poll_with(cx, |transport, cx| transport.poll_write(cx, self.id, src))
    }

    fn poll_writable_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cell.poll_with(cx, |transport, cx| transport.poll_writable(cx, self.id))
    }

    pub(super) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writers.poll(cx, |cx| self.poll_writable_raw(cx))
    }

    pub(super) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writers
            .poll(cx, |cx| self.cell.poll_with(cx, |transport, cx| transport.poll_drained(cx, self.id)))
    }

    /// Runs a writing poll method once, without waiting.
    #[inline]
    pub(super) fn try_writing<T>(
        &self,
        method: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        self.writers.attempt(method, |cx| self.poll_writable_raw(cx))
    }

    // ---- both ----

    pub(super) fn poll_connect(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cell.poll_with(cx, |transport, cx| transport.poll_connect(cx, self.id))
    }

    /// Waits for any of what `interest` names.
    pub(super) fn poll_ready(
        &self,
        cx: &mut Context<'_>,
        held: &Held,
        interest: Interest,
    ) -> Poll<io::Result<Ready>> {
        let mut found = Ready::EMPTY;
        if interest.is_readable()
            && let Poll::Ready(readable) = self.poll_readable(cx, held)
        {
            readable?;
            found |= Ready::READABLE;
        }
        if interest.is_writable()
            && let Poll::Ready(writable) = self.poll_writable(cx)
        {
            writable?;
            found |= Ready::WRITABLE;
        }
        if found.is_empty() { Poll::Pending } else { Poll::Ready(Ok(found)) }
    }

    /// Ends directions. One that is over already, the peer's doing, is no error, as in tokio.
    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.cell.call(|transport| transport.shutdown(self.id, how)) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Resets the connection. Dropping it afterwards finds nothing left to close.
    pub(super) fn abort(&self) {
        self.cell.give_up(Late::Abort(self.id));
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.cell.look(|transport| transport.local_addr(self.id))
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.cell.look(|transport| transport.peer_addr(self.id))
    }

    pub(super) fn options(&self) -> io::Result<StreamOptions> {
        self.cell.look(|transport| transport.stream_options(self.id))
    }

    /// Changes some options and leaves the others.
    pub(super) fn change_options(&self, change: impl FnOnce(&mut StreamOptions)) -> io::Result<()> {
        self.cell.call(|transport| {
            let mut options = transport.stream_options(self.id)?;
            change(&mut options);
            transport.set_stream_options(self.id, &options)
        })
    }

    /// Calls `method` with the transport and the connection's name there.
    pub(super) fn call<T>(
        &self,
        method: impl FnOnce(&mut dyn demi_drivers::Transport, StreamId) -> io::Result<T>,
    ) -> io::Result<T> {
        self.cell.call(|transport| method(transport, self.id))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.cell.give_up(Late::Close(self.id));
    }
}
