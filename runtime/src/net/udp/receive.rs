//! Receiving datagrams: as buffers, as copies, in bursts.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use demi_drivers::Buf;
use demi_drivers::transport::NOWHERE;

use super::{Datagram, UdpSocket};

impl UdpSocket {
    pub(super) fn poll_readable_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_members(cx, |transport, cx, id| transport.poll_datagram_readable(cx, id))
    }

    #[inline(always)]
    fn poll_pop_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        let mut from = NOWHERE;
        let answer = self.poll_members(cx, |transport, cx, id| transport.poll_recv(cx, id, &mut from));
        answer.map_ok(|buf| (buf, from))
    }

    fn poll_peek_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        self.poll_members(cx, |transport, cx, id| transport.poll_peek_from(cx, id))
    }

    fn try_receiving<T>(
        &self,
        method: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        self.receivers.attempt(method, |cx| self.poll_readable_raw(cx))
    }

    /// Takes the next datagram, without copying it.
    ///
    /// # Errors
    /// `ConnectionRefused` when the peer of a connected socket has no such port, and what else ICMP said of what was sent.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped before it is ready has taken nothing.
    #[inline]
    pub fn pop_from(&self) -> impl Future<Output = io::Result<Datagram>> {
        PopFrom { socket: self }
    }

    /// [`pop_from`](Self::pop_from), without the sender's address: the peer's, on a connected socket.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// As [`pop_from`](Self::pop_from).
    #[inline]
    pub fn pop(&self) -> impl Future<Output = io::Result<Buf>> {
        poll_fn(move |cx| self.poll_pop_from(cx).map_ok(|(buf, _)| buf))
    }

    /// [`pop_from`](Self::pop_from), polled.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    #[inline(always)]
    pub fn poll_pop_from(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        let turn = self.receivers.begin(cx.waker());
        let answer = self.poll_pop_raw(&mut Context::from_waker(turn.waker(cx)));
        self.receivers.end(cx.waker(), turn, answer.is_ready());
        answer
    }

    /// [`pop_from`](Self::pop_from), without waiting.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from), and `WouldBlock` when nothing has come.
    pub fn try_pop_from(&self) -> io::Result<Datagram> {
        self.try_receiving(|cx| self.poll_pop_raw(cx))
    }

    /// Takes what has come, up to `max` datagrams, waiting for the first; appends them to `into` and answers how many.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from), when it is the first; later errors show at the next call.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped before it is ready has taken nothing.
    ///
    /// ```
    /// use std::collections::VecDeque;
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let relay = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let peer = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # peer.send_to(b"x", relay.local_addr()?).await?;
    /// let mut burst = VecDeque::new();
    /// relay.recv_many(&mut burst, 32).await?; // whatever there is
    /// relay.send_many(&mut burst).await?; // back to where it came from
    /// # peer.recv(&mut [0; 8]).await?;
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv_many(
        &self,
        into: &mut impl Extend<Datagram>,
        max: usize,
    ) -> impl Future<Output = io::Result<usize>> {
        poll_fn(move |cx| self.poll_recv_many(cx, into, max))
    }

    /// [`recv_many`](Self::recv_many), polled.
    ///
    /// # Errors
    /// As [`recv_many`](Self::recv_many).
    pub fn poll_recv_many(
        &self,
        cx: &mut Context<'_>,
        into: &mut impl Extend<Datagram>,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if max == 0 {
            return Poll::Ready(Ok(0));
        }
        into.extend([ready!(self.poll_pop_from(cx))?]);
        let mut count = 1;
        // Nothing registered for what comes after: whoever asks for more calls again. An error stays for that call: it is
        // told by `poll_datagram_readable` before it would be taken.
        while count < max
            && let Ok(datagram) = self.try_pop_from()
        {
            into.extend([datagram]);
            count += 1;
        }
        Poll::Ready(Ok(count))
    }

    /// Copies the next datagram to the front of `dst` and drops what does not fit; answers how much was copied, and the
    /// sender's address.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped before it is ready has taken nothing.
    pub fn recv_from(&self, dst: &mut [u8]) -> impl Future<Output = io::Result<(usize, SocketAddr)>> {
        poll_fn(move |cx| self.poll_recv_from(cx, dst))
    }

    /// [`recv_from`](Self::recv_from), polled.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    pub fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        dst: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.poll_pop_from(cx).map_ok(|datagram| copy(datagram, dst))
    }

    /// [`recv_from`](Self::recv_from), without waiting.
    ///
    /// # Errors
    /// As [`try_pop_from`](Self::try_pop_from).
    pub fn try_recv_from(&self, dst: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.try_pop_from().map(|datagram| copy(datagram, dst))
    }

    /// [`recv_from`](Self::recv_from), without the sender's address: the peer's, on a connected socket.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// As [`recv_from`](Self::recv_from).
    pub fn recv(&self, dst: &mut [u8]) -> impl Future<Output = io::Result<usize>> {
        poll_fn(move |cx| self.poll_recv(cx, dst))
    }

    /// [`recv`](Self::recv), polled.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    pub fn poll_recv(&self, cx: &mut Context<'_>, dst: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_recv_from(cx, dst).map_ok(|(count, _)| count)
    }

    /// [`recv`](Self::recv), without waiting.
    ///
    /// # Errors
    /// As [`try_pop_from`](Self::try_pop_from).
    pub fn try_recv(&self, dst: &mut [u8]) -> io::Result<usize> {
        self.try_recv_from(dst).map(|(count, _)| count)
    }

    /// [`recv_from`](Self::recv_from), leaving the datagram to be received.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is taken at all.
    pub fn peek_from(&self, dst: &mut [u8]) -> impl Future<Output = io::Result<(usize, SocketAddr)>> {
        poll_fn(move |cx| self.poll_peek_from(cx, dst))
    }

    /// [`peek_from`](Self::peek_from), polled.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    pub fn poll_peek_from(
        &self,
        cx: &mut Context<'_>,
        dst: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.receivers.poll(cx, |cx| self.poll_peek_raw(cx)).map_ok(|datagram| copy(datagram, dst))
    }

    /// [`peek_from`](Self::peek_from), without the sender's address.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// As [`peek_from`](Self::peek_from).
    pub async fn peek(&self, dst: &mut [u8]) -> io::Result<usize> {
        self.peek_from(dst).await.map(|(count, _)| count)
    }

    /// [`peek_from`](Self::peek_from), without waiting.
    ///
    /// # Errors
    /// As [`try_pop_from`](Self::try_pop_from).
    pub fn try_peek_from(&self, dst: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.try_receiving(|cx| self.poll_peek_raw(cx)).map(|datagram| copy(datagram, dst))
    }
}

/// [`UdpSocket::pop_from`]. It becomes a part of whoever awaits it: a poll of its own would hand address and buffer on through memory, to
/// be read again before they have reached the cache.
struct PopFrom<'a> {
    socket: &'a UdpSocket,
}

impl Future for PopFrom<'_> {
    type Output = io::Result<Datagram>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.socket.poll_pop_from(cx)
    }
}

fn copy((buf, peer): Datagram, dst: &mut [u8]) -> (usize, SocketAddr) {
    let count = buf.len().min(dst.len());
    dst[..count].copy_from_slice(&buf[..count]);
    (count, peer)
}
