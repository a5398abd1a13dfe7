//! Sending datagrams: buffers, copies, bursts.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use demi_drivers::Buf;

use super::{Datagram, ToSocketAddrs, UdpSocket, addr, not_connected};

/// The longest payload a UDP datagram can have: a length field of 16 bits, less the header (RFC 768).
const MAX_DATAGRAM_BYTES: usize = 65_535 - 8;

impl UdpSocket {
    pub(super) fn poll_writable_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let first = self.sender(None).or_else(|_| self.members.first().ok_or_else(not_connected))?;
        first.cell.poll_with(cx, |transport, cx| transport.poll_datagram_writable(cx, first.id))
    }

    #[inline(always)]
    fn poll_push_raw(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        if buf.is_none() {
            return Poll::Ready(Ok(()));
        }
        let member = self.sender(remote)?;
        member.cell.poll_with(cx, |transport, cx| transport.poll_send_to(cx, member.id, buf, remote))
    }

    /// Copies `bytes` into a buffer and sends it.
    fn poll_send_raw(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<usize>> {
        let pool = self.sender(remote)?.cell.pool();
        if bytes.len() > pool.max_capacity().min(MAX_DATAGRAM_BYTES) {
            return Poll::Ready(Err(too_long(bytes.len())));
        }
        let mut buf = ready!(crate::io::poll_alloc_from(pool, cx, bytes.len()))?;
        buf.put_slice(bytes);
        // While the queue is full the copy is made again at each poll; copies are cheap and full queues rare.
        self.poll_push_raw(cx, &mut Some(buf.freeze()), remote).map_ok(|()| bytes.len())
    }

    fn try_sending<T>(&self, method: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>) -> io::Result<T> {
        self.senders.attempt(method, |cx| self.poll_writable_raw(cx))
    }

    /// Sends `buf` as one datagram to `remote`, without copying it.
    ///
    /// # Errors
    /// `InvalidInput` or the kernel's `EMSGSIZE` when it is too long; `NetworkUnreachable`; as [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// A future that is dropped before it is ready has sent nothing, and drops `buf`. To have it back, push a clone, or use
    /// [`poll_push_to`](Self::poll_push_to).
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let server = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let client = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let to = server.local_addr()?;
    /// client.send_to(b"echo me", to).await?;
    /// // Sent back without a copy: the buffer that was received into.
    /// let (buf, from) = server.pop_from().await?;
    /// server.push_to(buf, from).await?;
    /// assert_eq!(&*client.pop_from().await?.0, b"echo me");
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn push_to(&self, buf: Buf, remote: SocketAddr) -> impl Future<Output = io::Result<()>> {
        PushTo { socket: self, buf: Some(buf), remote: Some(remote) }
    }

    /// Sends `buf` as one datagram to the peer of a connected socket, without copying it.
    ///
    /// # Errors
    /// As [`push_to`](Self::push_to); `NotConnected` without a peer.
    ///
    /// # Cancel safety
    /// As [`push_to`](Self::push_to).
    pub fn push(&self, buf: Buf) -> impl Future<Output = io::Result<()>> {
        PushTo { socket: self, buf: Some(buf), remote: None }
    }

    /// [`push_to`](Self::push_to), or without `remote` [`push`](Self::push), polled: takes `buf` once it is accepted.
    ///
    /// # Errors
    /// As [`push_to`](Self::push_to).
    #[inline(always)]
    pub fn poll_push_to(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        let turn = self.senders.begin(cx.waker());
        let answer = self.poll_push_raw(&mut Context::from_waker(turn.waker(cx)), buf, remote);
        self.senders.end(cx.waker(), turn, answer.is_ready());
        answer
    }

    /// Sends datagrams from the front of `queue`, in order, until it is empty.
    ///
    /// # Errors
    /// As [`push_to`](Self::push_to), of the datagram that is then at the front.
    ///
    /// # Cancel safety
    /// Cancel safe: when a future is dropped, `queue` is what is still to be sent.
    pub async fn send_many(&self, queue: &mut VecDeque<Datagram>) -> io::Result<()> {
        poll_fn(|cx| {
            while let Some((buf, remote)) = queue.pop_front() {
                let mut buf = Some(buf);
                let sent = self.poll_push_to(cx, &mut buf, Some(remote));
                if let Some(buf) = buf {
                    queue.push_front((buf, remote));
                }
                ready!(sent)?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends a copy of `bytes` as one datagram to `target`; to the first address, if it stands for several. Answers how many
    /// bytes: all of them.
    ///
    /// # Errors
    /// As [`push_to`](Self::push_to); what [`ToSocketAddrs`] says of the address.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped before it is ready has sent nothing.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let server = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let client = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let to = server.local_addr()?;
    /// assert_eq!(client.send_to(b"hello", to).await?, 5);
    /// let mut room = [0; 100];
    /// let (count, from) = server.recv_from(&mut room).await?;
    /// assert_eq!((&room[..count], from), (&b"hello"[..], client.local_addr()?));
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn send_to(&self, bytes: &[u8], target: impl ToSocketAddrs) -> io::Result<usize> {
        let remotes = addr::addresses(target).await?;
        let remote = match &remotes[..] {
            [only] => *only,
            // A name may have addresses of both versions, of which a socket of IPv4 reaches one.
            several => {
                let only_v4 = self.local_addr().is_ok_and(|local| local.is_ipv4());
                let fitting = several.iter().find(|remote| remote.is_ipv4() || !only_v4);
                *fitting.or(several.first()).ok_or(io::ErrorKind::InvalidInput)?
            }
        };
        poll_fn(|cx| self.poll_send_to(cx, bytes, remote)).await
    }

    /// [`send_to`](Self::send_to), polled.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to).
    pub fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.senders.poll(cx, |cx| self.poll_send_raw(cx, bytes, Some(target)))
    }

    /// [`send_to`](Self::send_to), without waiting.
    ///
    /// # Errors
    /// As [`send_to`](Self::send_to), and `WouldBlock` when the queue is full.
    pub fn try_send_to(&self, bytes: &[u8], target: SocketAddr) -> io::Result<usize> {
        self.try_sending(|cx| self.poll_send_raw(cx, bytes, Some(target)))
    }

    /// Sends a copy of `bytes` as one datagram to the peer of a connected socket.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    ///
    /// # Cancel safety
    /// As [`send_to`](Self::send_to).
    pub fn send(&self, bytes: &[u8]) -> impl Future<Output = io::Result<usize>> {
        poll_fn(move |cx| self.poll_send(cx, bytes))
    }

    /// [`send`](Self::send), polled.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.senders.poll(cx, |cx| self.poll_send_raw(cx, bytes, None))
    }

    /// [`send`](Self::send), without waiting.
    ///
    /// # Errors
    /// As [`send`](Self::send), and `WouldBlock` when the queue is full.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_sending(|cx| self.poll_send_raw(cx, bytes, None))
    }
}

/// [`UdpSocket::push_to`] and [`UdpSocket::push`]. It becomes a part of whoever awaits it.
struct PushTo<'a> {
    socket: &'a UdpSocket,
    buf: Option<Buf>,
    remote: Option<SocketAddr>,
}

impl Future for PushTo<'_> {
    type Output = io::Result<()>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let PushTo { socket, buf, remote } = &mut *self;
        socket.poll_push_to(cx, buf, *remote)
    }
}

#[cold]
fn too_long(bytes: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "a datagram of {bytes} bytes: one carries at most {MAX_DATAGRAM_BYTES}, and what a pool's slot holds"
        ),
    )
}
