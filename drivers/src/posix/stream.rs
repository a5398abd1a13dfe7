//! A TCP connection: its socket, what it is believed to be ready for, and the bytes the kernel had no room for.

use core::task::{Context, Poll, Waker};
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::epoll::Ready;
use crate::mem::{Buf, BufMut, Pool};
use crate::sockets::{address, calls, explain, options, remember, would_block, write_after_shutdown};
use crate::transport::{ReadCursor, StreamOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Open,
    Failed,
    /// Given up by the application; lives on until the kernel has taken `rest`.
    Closing,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) socket: OwnedFd,
    pub(super) ready: Ready,
    pub(super) phase: Phase,
    /// The peer's FIN has been read (or reading was shut down): every read answers it again.
    ended: bool,
    /// The last read filled a small slot: offer a large one.
    large: bool,
    /// A FIN goes out behind `rest`, or has gone out: nothing may be written any more.
    write_shut: bool,
    /// What is left of a pushed view of which the kernel has taken a part.
    pub(super) rest: Option<Buf>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// What went wrong while nobody was writing.
    error: Option<io::Error>,
    remote: SocketAddr,
    pub(super) options: Rc<StreamOptions>,
}

impl Stream {
    pub(super) fn accepted(socket: OwnedFd, remote: SocketAddr, options: Rc<StreamOptions>) -> Stream {
        Stream {
            socket,
            ready: Ready::BELIEVED,
            phase: Phase::Open,
            ended: false,
            large: false,
            write_shut: false,
            rest: None,
            reader: None,
            writer: None,
            error: None,
            remote,
            options,
        }
    }

    pub(super) fn connecting(
        socket: OwnedFd,
        remote: SocketAddr,
        done: bool,
        options: StreamOptions,
    ) -> Stream {
        let mut stream = Stream::accepted(socket, remote, Rc::new(options));
        if !done {
            stream.phase = Phase::Connecting;
            stream.ready = Ready::default();
        }
        stream
    }

    pub(super) fn poll_connect(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Open | Phase::Closing => return Poll::Ready(Ok(())),
            Phase::Failed => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Phase::Connecting => {}
        }
        if self.ready.write {
            if let Some(error) = options::take_error(&self.socket)? {
                self.phase = Phase::Failed;
                return Poll::Ready(Err(explain(error, format!("cannot connect to {}", self.remote))));
            }
            if address::peer(&self.socket).is_ok() {
                self.phase = Phase::Open;
                return Poll::Ready(Ok(()));
            }
            self.ready.write = false;
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_pop(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Pool,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if !self.ready.read {
            remember(&mut self.reader, cx);
            return Poll::Pending;
        }
        let small = pool.small_capacity();
        let large = self.large && max > small;
        let slot = if large { pool.alloc(max.min(pool.max_capacity())) } else { None };
        let mut buf = match slot {
            Some(buf) => buf,
            None => match pool.poll_alloc(cx, max.min(small)) {
                Poll::Ready(Some(buf)) => buf,
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                Poll::Pending => return Poll::Pending,
            },
        };
        let room = buf.tailroom().min(max);
        if room == 0 {
            return Poll::Ready(Ok(Some(buf.freeze())));
        }
        match calls::recv_tail(self.socket.as_fd(), &mut buf, room) {
            Ok(0) => {
                self.ended = true;
                Poll::Ready(Ok(None))
            }
            Ok(count) => {
                if count < room {
                    self.ready.read_short();
                }
                self.large = if large { count > small } else { count == small };
                Poll::Ready(Ok(Some(fitted(buf, pool))))
            }
            Err(error) if would_block(&error) => {
                self.ready.read_blocked();
                remember(&mut self.reader, cx);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        dst: &mut ReadCursor<'_>,
        peek: bool,
    ) -> Poll<io::Result<()>> {
        let room = dst.remaining();
        if self.ended || room == 0 {
            return Poll::Ready(Ok(()));
        }
        if self.ready.read {
            match calls::recv_cursor(self.socket.as_fd(), dst, peek) {
                Ok(0) => {
                    self.ended = !peek;
                    return Poll::Ready(Ok(()));
                }
                Ok(count) => {
                    if count < room && !peek {
                        self.ready.read_short();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if would_block(&error) => self.ready.read_blocked(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    /// Asks the kernel: what is believed about a fresh socket may be wrong, and the caller will rely on the answer.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        if self.ready.read {
            match calls::probe_readable(self.socket.as_fd()) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if would_block(&error) => self.ready.read_blocked(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    pub(super) fn poll_push(&mut self, cx: &mut Context<'_>, buf: &mut Option<Buf>) -> Poll<io::Result<()>> {
        let Some(view) = buf.as_mut() else { return Poll::Ready(Ok(())) };
        if self.may_write()? {
            match calls::send(self.socket.as_fd(), view) {
                Ok(count) => {
                    if count < view.len() {
                        view.advance(count);
                        self.rest = buf.take();
                        self.ready.write = false;
                    }
                    *buf = None;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if would_block(&error) => self.ready.write = false,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let total: usize = src.iter().map(|view| view.len()).sum();
        if self.may_write()? {
            if total == 0 {
                return Poll::Ready(Ok(0));
            }
            let sent = match src {
                [only] => calls::send(self.socket.as_fd(), only),
                _ => calls::send_vectored(self.socket.as_fd(), src),
            };
            match sent {
                Ok(count) => {
                    // A call takes 1,024 views at most: only a shortfall on fewer says that the kernel is full.
                    self.ready.write = count == total || src.len() > 1024;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if would_block(&error) => self.ready.write = false,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.may_write()? {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        if self.rest.is_none() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    /// Whether a write would go to the kernel now.
    #[inline]
    fn may_write(&mut self) -> io::Result<bool> {
        if self.error.is_some() || self.write_shut || self.phase == Phase::Failed {
            return Err(match self.error.take() {
                Some(error) => error,
                None if self.phase == Phase::Failed => io::ErrorKind::NotConnected.into(),
                None => write_after_shutdown(),
            });
        }
        Ok(self.ready.write && self.rest.is_none())
    }

    /// Gives the kernel what it had no room for. `true` once nothing is left, be it for an error.
    pub(super) fn flush(&mut self) -> bool {
        if self.rest.is_none() {
            return true;
        }
        while let (true, Some(rest)) = (self.ready.write, self.rest.as_mut()) {
            match calls::send(self.socket.as_fd(), rest) {
                Ok(count) if count < rest.len() => {
                    rest.advance(count);
                    self.ready.write = false;
                }
                Ok(_) => self.rest = None,
                Err(error) if would_block(&error) => self.ready.write = false,
                Err(error) => {
                    self.rest = None;
                    self.error = Some(error);
                }
            }
        }
        if self.rest.is_some() {
            return false;
        }
        if self.write_shut
            && self.phase == Phase::Open
            && let Err(error) = options::shutdown(&self.socket, Shutdown::Write)
            && error.kind() != io::ErrorKind::NotConnected
        {
            self.error = Some(error);
        }
        true
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            options::shutdown(&self.socket, Shutdown::Read)?;
            // The kernel answers reads with what it has, then with the end.
            self.ready.add(Ready { read: true, ended: true, write: false });
        }
        if how != Shutdown::Read && !self.write_shut {
            if self.rest.is_none() {
                options::shutdown(&self.socket, Shutdown::Write)?;
            }
            self.write_shut = true;
        }
        Ok(())
    }

    pub(super) fn take_error(&mut self) -> io::Result<Option<io::Error>> {
        match self.error.take() {
            Some(error) => Ok(Some(error)),
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

/// What was read, in a slot of its size: the few large ones are for large reads.
#[inline]
fn fitted(buf: BufMut, pool: &Pool) -> Buf {
    let small = pool.small_capacity();
    let wasteful = buf.len() <= small && buf.len() + buf.tailroom() > small;
    if wasteful && let Some(copy) = pool.copy_from_slice(&buf) {
        return copy;
    }
    buf.freeze()
}
