//! A UDP socket.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use demi_drivers::transport::{DatagramId, DatagramOptions};
use demi_drivers::{Buf, Transport};
use smallvec::SmallVec;

use super::addr::{self, ToSocketAddrs};
use super::bind_all;
use super::waiters::Waiters;
use crate::io::{Interest, Ready};
use crate::transports::{Late, TransportCell, route};

/// A datagram and the peer it came from or goes to.
pub type Datagram = (Buf, SocketAddr);

/// A UDP socket. All methods take `&self`: share it in an [`Rc`], and let several tasks send and receive.
///
/// Bound to the unspecified address it receives on every transport of the runtime and sends on the one that routes to the
/// peer; otherwise it is on the transport that owns the address. Dropping it closes it.
///
/// ```
/// use demi::net::UdpSocket;
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let server = UdpSocket::bind("127.0.0.1:0").await?;
/// let client = UdpSocket::bind("127.0.0.1:0").await?;
/// client.connect(server.local_addr()?).await?;
/// client.send(b"ping").await?;
///
/// let (ping, peer) = server.pop_from().await?; // a view into the memory it was received in
/// server.push_to(ping, peer).await?;
///
/// let mut reply = [0; 16];
/// let count = client.recv(&mut reply).await?;
/// assert_eq!(&reply[..count], b"ping");
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UdpSocket {
    /// One a transport; never empty.
    members: SmallVec<[Member; 1]>,
    /// The member that reaches the peer, once there is only one peer.
    connected: Cell<Option<usize>>,
    /// The member that is asked first: they take turns.
    first: Cell<usize>,
    receivers: Waiters,
    senders: Waiters,
}

struct Member {
    cell: Rc<TransportCell>,
    id: DatagramId,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.cell.give_up(Late::CloseDatagram(self.id));
    }
}

impl UdpSocket {
    /// Opens a socket on `addr`; on the first one that works, if it stands for several. Port 0 takes a free one.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, of the address tried last; what [`ToSocketAddrs`] says of the
    /// address.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped closes what it opened.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<UdpSocket> {
        Self::bind_with(addr, &DatagramOptions::default()).await
    }

    /// As [`bind`](Self::bind), with options that must be set before.
    ///
    /// # Errors
    /// As [`bind`](Self::bind); `Unsupported` for an option the transport does not have.
    ///
    /// # Cancel safety
    /// As [`bind`](Self::bind).
    ///
    /// # Panics
    /// As [`bind`](Self::bind).
    pub async fn bind_with(addr: impl ToSocketAddrs, options: &DatagramOptions) -> io::Result<UdpSocket> {
        let set = super::current();
        let mut failed = None;
        for local in addr::addresses(addr).await? {
            let open = |cell: &Rc<TransportCell>, local| {
                let id = cell.call(|transport| transport.bind_datagram(local, options))?;
                let member = Member { cell: cell.clone(), id };
                let bound = cell.look(|transport| transport.datagram_addr(id))?;
                Ok((member, bound))
            };
            match set.owning(local.ip()).and_then(|cells| bind_all(cells, local, open)) {
                Ok(members) => return Ok(UdpSocket::new(members)),
                Err(error) => {
                    failed = Some(super::with_context(error, format_args!("cannot bind UDP to {local}")));
                }
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::InvalidInput.into()))
    }

    fn new(members: SmallVec<[Member; 1]>) -> Self {
        UdpSocket {
            members,
            connected: Cell::new(None),
            first: Cell::new(0),
            receivers: Waiters::default(),
            senders: Waiters::default(),
        }
    }

    /// Makes `addr` the only peer: datagrams of others are dropped from now on, and [`send`](Self::send) sends to it. Of
    /// several addresses, the first that can be reached.
    ///
    /// # Errors
    /// `NetworkUnreachable`; what [`ToSocketAddrs`] says of the address.
    ///
    /// # Cancel safety
    /// Cancel safe: it does not wait once the address is known.
    pub async fn connect(&self, addr: impl ToSocketAddrs) -> io::Result<()> {
        let mut failed = None;
        for remote in addr::addresses(addr).await? {
            let connected = self.member_towards(remote).and_then(|at| {
                self.on(at, |transport, id| transport.connect_datagram(id, Some(remote)))?;
                Ok(at)
            });
            match connected {
                Ok(at) => {
                    self.connected.set(Some(at));
                    return Ok(());
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::InvalidInput.into()))
    }

    // ---- members ----

    /// Calls a method of the `at`th member's transport.
    fn on<T>(
        &self,
        at: usize,
        method: impl FnOnce(&mut dyn Transport, DatagramId) -> io::Result<T>,
    ) -> io::Result<T> {
        let member = self.members.get(at).ok_or(io::ErrorKind::NotConnected)?;
        member.cell.call(|transport| method(transport, member.id))
    }

    /// The member that reaches `remote`.
    #[inline]
    fn member_towards(&self, remote: SocketAddr) -> io::Result<usize> {
        if self.members.len() == 1 {
            return Ok(0);
        }
        let at = route(self.members.iter().map(|member| &member.cell), remote.ip())?;
        at.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NetworkUnreachable,
                format!(
                    "no route to {remote} on {}: set gateway, or an address in its network",
                    self.device()
                ),
            )
        })
    }

    /// The member that sends to `remote`, or to the peer.
    #[inline]
    fn sender(&self, remote: Option<SocketAddr>) -> io::Result<&Member> {
        let at = match (remote, self.connected.get()) {
            (Some(remote), _) => self.member_towards(remote)?,
            (None, Some(at)) => at,
            (None, None) if self.members.len() == 1 => 0,
            (None, None) => return Err(not_connected()),
        };
        self.members.get(at).ok_or_else(not_connected)
    }

    /// Polls the members for something received: in turns, or the only one that reaches the peer.
    #[inline]
    fn poll_members<T>(
        &self,
        cx: &mut Context<'_>,
        mut method: impl FnMut(&mut dyn Transport, &mut Context<'_>, DatagramId) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let count = self.members.len();
        let (first, asked) = match self.connected.get() {
            Some(at) => (at, 1),
            None => (self.first.get(), count),
        };
        for turn in 0..asked {
            let at = (first + turn) % count;
            let Some(member) = self.members.get(at) else { continue };
            let answer = member.cell.poll_with(cx, |transport, cx| method(transport, cx, member.id));
            if answer.is_ready() {
                self.first.set((at + 1) % count);
                return answer;
            }
        }
        Poll::Pending
    }

    // ---- receiving ----

    fn poll_readable_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_members(cx, |transport, cx, id| transport.poll_datagram_readable(cx, id))
    }

    fn poll_pop_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        self.poll_members(cx, |transport, cx, id| transport.poll_recv_from(cx, id))
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
    pub async fn pop_from(&self) -> io::Result<Datagram> {
        poll_fn(|cx| self.poll_pop_from(cx)).await
    }

    /// [`pop_from`](Self::pop_from), without the sender's address: the peer's, on a connected socket.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    ///
    /// # Cancel safety
    /// As [`pop_from`](Self::pop_from).
    #[inline]
    pub async fn pop(&self) -> io::Result<Buf> {
        self.pop_from().await.map(|(buf, _)| buf)
    }

    /// [`pop_from`](Self::pop_from), polled.
    ///
    /// # Errors
    /// As [`pop_from`](Self::pop_from).
    #[inline]
    pub fn poll_pop_from(&self, cx: &mut Context<'_>) -> Poll<io::Result<Datagram>> {
        self.receivers.poll(cx, |cx| self.poll_pop_raw(cx))
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
    pub async fn recv_many(&self, into: &mut impl Extend<Datagram>, max: usize) -> io::Result<usize> {
        poll_fn(|cx| self.poll_recv_many(cx, into, max)).await
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
    pub async fn recv_from(&self, dst: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.poll_recv_from(cx, dst)).await
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
    pub async fn recv(&self, dst: &mut [u8]) -> io::Result<usize> {
        self.recv_from(dst).await.map(|(count, _)| count)
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
    pub async fn peek_from(&self, dst: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.poll_peek_from(cx, dst)).await
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

    // ---- sending ----

    fn poll_writable_raw(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let first = self.sender(None).or_else(|_| self.members.first().ok_or_else(not_connected))?;
        first.cell.poll_with(cx, |transport, cx| transport.poll_datagram_writable(cx, first.id))
    }

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
    pub async fn push_to(&self, buf: Buf, remote: SocketAddr) -> io::Result<()> {
        let mut buf = Some(buf);
        poll_fn(|cx| self.poll_push_to(cx, &mut buf, Some(remote))).await
    }

    /// Sends `buf` as one datagram to the peer of a connected socket, without copying it.
    ///
    /// # Errors
    /// As [`push_to`](Self::push_to); `NotConnected` without a peer.
    ///
    /// # Cancel safety
    /// As [`push_to`](Self::push_to).
    pub async fn push(&self, buf: Buf) -> io::Result<()> {
        let mut buf = Some(buf);
        poll_fn(|cx| self.poll_push_to(cx, &mut buf, None)).await
    }

    /// [`push_to`](Self::push_to), or without `remote` [`push`](Self::push), polled: takes `buf` once it is accepted.
    ///
    /// # Errors
    /// As [`push_to`](Self::push_to).
    pub fn poll_push_to(
        &self,
        cx: &mut Context<'_>,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        self.senders.poll(cx, |cx| self.poll_push_raw(cx, buf, remote))
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
    pub async fn send_to(&self, bytes: &[u8], target: impl ToSocketAddrs) -> io::Result<usize> {
        let remote = addr::addresses(target).await?.first().copied();
        let remote = remote.ok_or(io::ErrorKind::InvalidInput)?;
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
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send(cx, bytes)).await
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

    // ---- readiness ----

    /// Waits until receiving would not wait.
    ///
    /// # Errors
    /// `NotConnected`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_recv_ready(cx)).await
    }

    /// [`readable`](Self::readable), polled.
    ///
    /// # Errors
    /// As [`readable`](Self::readable).
    pub fn poll_recv_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.receivers.poll(cx, |cx| self.poll_readable_raw(cx))
    }

    /// Waits until sending would not wait.
    ///
    /// # Errors
    /// `NotConnected`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_send_ready(cx)).await
    }

    /// [`writable`](Self::writable), polled.
    ///
    /// # Errors
    /// As [`writable`](Self::writable).
    pub fn poll_send_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.senders.poll(cx, |cx| self.poll_writable_raw(cx))
    }

    /// Waits until receiving or sending, as `interest` asks, would not wait; answers which.
    ///
    /// # Errors
    /// `NotConnected`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        poll_fn(|cx| {
            let mut found = Ready::EMPTY;
            if interest.is_readable()
                && let Poll::Ready(readable) = self.poll_recv_ready(cx)
            {
                readable?;
                found |= Ready::READABLE;
            }
            if interest.is_writable()
                && let Poll::Ready(writable) = self.poll_send_ready(cx)
            {
                writable?;
                found |= Ready::WRITABLE;
            }
            if found.is_empty() { Poll::Pending } else { Poll::Ready(Ok(found)) }
        })
        .await
    }

    // ---- addresses and options ----

    /// The address it is bound to, with the port that was taken for port 0.
    ///
    /// # Errors
    /// `NotConnected` when it is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.on(self.connected.get().unwrap_or(0), |transport, id| transport.datagram_addr(id))
    }

    /// The peer set by [`connect`](Self::connect).
    ///
    /// # Errors
    /// `NotConnected` without a peer.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.on(self.connected.get().ok_or_else(not_connected)?, |transport, id| transport.datagram_peer(id))
    }

    /// The device string of the transport it is on; of several, separated by commas.
    pub fn device(&self) -> String {
        self.members.iter().map(|member| member.cell.name()).collect::<Vec<_>>().join(",")
    }

    /// All options in force.
    ///
    /// # Errors
    /// `NotConnected` when it is gone.
    pub fn options(&self) -> io::Result<DatagramOptions> {
        self.on(0, |transport, id| transport.datagram_options(id))
    }

    /// Puts all of `options` in force.
    ///
    /// # Errors
    /// `NotConnected` when it is gone; `Unsupported` for an option the transport does not have.
    pub fn set_options(&self, options: &DatagramOptions) -> io::Result<()> {
        (0..self.members.len())
            .try_for_each(|at| self.on(at, |transport, id| transport.set_datagram_options(id, options)))
    }

    fn change_options(&self, change: impl FnOnce(&mut DatagramOptions)) -> io::Result<()> {
        let mut options = self.options()?;
        change(&mut options);
        self.set_options(&options)
    }

    /// Whether it may send to broadcast addresses.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn broadcast(&self) -> io::Result<bool> {
        Ok(self.options()?.broadcast)
    }

    /// Lets it send to broadcast addresses.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    pub fn set_broadcast(&self, broadcast: bool) -> io::Result<()> {
        self.change_options(|options| options.broadcast = broadcast)
    }

    /// Time To Live, or Hop Limit, of outgoing packets.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.options()?.ttl.unwrap_or(super::DEFAULT_TTL).into())
    }

    /// Sets the Time To Live, or Hop Limit, of outgoing packets: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput` beyond that; as [`set_options`](Self::set_options).
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = super::checked_ttl(ttl)?;
        self.change_options(|options| options.ttl = Some(ttl))
    }

    /// Type of service, or traffic class, of outgoing packets.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn tos(&self) -> io::Result<u32> {
        Ok(self.options()?.tos.into())
    }

    /// Sets the type of service, or traffic class, of outgoing packets.
    ///
    /// # Errors
    /// `InvalidInput` above 255; as [`set_options`](Self::set_options).
    pub fn set_tos(&self, tos: u32) -> io::Result<()> {
        let tos = super::checked_tos(tos)?;
        self.change_options(|options| options.tos = tos)
    }

    /// A buffer with room for `capacity` bytes from the memory that this socket sends from, once one is free.
    ///
    /// # Errors
    /// `InvalidInput` when no buffer is that large.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn alloc(&self, capacity: usize) -> io::Result<crate::BufMut> {
        let member = self.sender(None).or_else(|_| self.members.first().ok_or_else(not_connected))?;
        crate::io::alloc_from(member.cell.pool(), capacity).await
    }
}

/// The longest payload a UDP datagram can have: a length field of 16 bits, less the header (RFC 768).
const MAX_DATAGRAM_BYTES: usize = 65_535 - 8;

fn copy((buf, peer): Datagram, dst: &mut [u8]) -> (usize, SocketAddr) {
    let count = buf.len().min(dst.len());
    dst[..count].copy_from_slice(&buf[..count]);
    (count, peer)
}

#[cold]
fn not_connected() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "this UDP socket has no peer: connect it, or use send_to")
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

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("UdpSocket");
        if let Ok(local) = self.local_addr() {
            out.field("local", &local);
        }
        if let Ok(peer) = self.peer_addr() {
            out.field("peer", &peer);
        }
        out.field("device", &self.device()).finish()
    }
}
