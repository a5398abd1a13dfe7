//! A UDP socket: opening it, its peer, its readiness and its options.

mod groups;
mod receive;
mod send;

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use demi_drivers::transport::{DatagramId, DatagramOptions};
use demi_drivers::{Buf, Transport};
use smallvec::SmallVec;

use super::addr::{self, ToSocketAddrs};
use super::waiters::Waiters;
use super::{DEFAULT_TTL, bind_all, checked_tos, checked_ttl, current, with_context};
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
        let set = current();
        let mut failed = None;
        for local in addr::addresses(addr).await? {
            let shared = set.shares_port(local);
            let open = |cell: &Rc<TransportCell>, local| {
                let reuse_port = options.reuse_port || shared && cell.is_kernel();
                let id = if reuse_port == options.reuse_port {
                    cell.call(|transport| transport.bind_datagram(local, options))?
                } else {
                    let mut options = options.clone();
                    options.reuse_port = reuse_port;
                    cell.call(|transport| transport.bind_datagram(local, &options))?
                };
                let member = Member { cell: cell.clone(), id };
                let bound = cell.look(|transport| transport.datagram_addr(id))?;
                Ok((member, bound))
            };
            match set.owning(local.ip()).and_then(|cells| bind_all(cells, local, open)) {
                Ok(members) => return Ok(UdpSocket::new(members)),
                Err(error) => {
                    failed = Some(with_context(error, format_args!("cannot bind UDP to {local}")));
                }
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::InvalidInput.into()))
    }

    /// A socket on the transport that reaches `remote`, with a free port, and with `remote` as its only peer.
    #[cfg(feature = "dns")]
    pub(super) fn towards(remote: SocketAddr) -> io::Result<UdpSocket> {
        use std::net::{Ipv4Addr, Ipv6Addr};
        let local: SocketAddr = match remote {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let set = current();
        let cell = set.towards(remote.ip())?;
        let id = cell.call(|transport| transport.bind_datagram(local, &DatagramOptions::default()))?;
        let socket = UdpSocket::new(SmallVec::from_iter([Member { cell: cell.clone(), id }]));
        cell.call(|transport| transport.connect_datagram(id, Some(remote)))?;
        socket.connected.set(Some(0));
        Ok(socket)
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
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let server = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let client = demi::net::UdpSocket::bind("127.0.0.1:0").await?;
    /// # let to = server.local_addr()?;
    /// client.connect(to).await?;
    /// client.send(b"hello").await?;
    /// assert_eq!(client.peer_addr()?, to);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
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
    #[inline(never)]
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
    #[inline(always)]
    fn sender(&self, remote: Option<SocketAddr>) -> io::Result<&Member> {
        match &*self.members {
            [only] => Ok(only),
            _ => self.sender_of_several(remote),
        }
    }

    #[inline(never)]
    fn sender_of_several(&self, remote: Option<SocketAddr>) -> io::Result<&Member> {
        let at = match (remote, self.connected.get()) {
            (Some(remote), _) => self.member_towards(remote)?,
            (None, Some(at)) => at,
            (None, None) => return Err(not_connected()),
        };
        self.members.get(at).ok_or_else(not_connected)
    }

    /// Polls the members for something received: in turns, or the only one that reaches the peer.
    #[inline(always)]
    fn poll_members<T>(
        &self,
        cx: &mut Context<'_>,
        mut method: impl FnMut(&mut dyn Transport, &mut Context<'_>, DatagramId) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        // Bound on one transport, as most are: there are no turns to take.
        match &*self.members {
            [only] => only.cell.poll_with(cx, |transport, cx| method(transport, cx, only.id)),
            _ => self.poll_in_turn(cx, &mut method),
        }
    }

    #[inline(never)]
    fn poll_in_turn<T>(
        &self,
        cx: &mut Context<'_>,
        method: &mut dyn FnMut(&mut dyn Transport, &mut Context<'_>, DatagramId) -> Poll<io::Result<T>>,
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

    // ---- readiness ----

    /// Waits until receiving would not wait.
    ///
    /// # Errors
    /// `NotConnected`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub fn readable(&self) -> impl Future<Output = io::Result<()>> {
        poll_fn(move |cx| self.poll_recv_ready(cx))
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
    pub fn writable(&self) -> impl Future<Output = io::Result<()>> {
        poll_fn(move |cx| self.poll_send_ready(cx))
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
        Ok(self.options()?.ttl.unwrap_or(DEFAULT_TTL).into())
    }

    /// Sets the Time To Live, or Hop Limit, of outgoing packets: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput` beyond that; as [`set_options`](Self::set_options).
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = checked_ttl(ttl)?;
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
        let tos = checked_tos(tos)?;
        self.change_options(|options| options.tos = tos)
    }

    /// Whether datagrams that the path carries in fragments only are refused.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn dont_fragment(&self) -> io::Result<bool> {
        Ok(self.options()?.dont_fragment)
    }

    /// Refuses datagrams that are larger than the path's packets, instead of sending them in fragments: Linux's
    /// `IP_PMTUDISC_DO`. Sending one is then an error that says what fits.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    pub fn set_dont_fragment(&self, dont_fragment: bool) -> io::Result<()> {
        self.change_options(|options| options.dont_fragment = dont_fragment)
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

#[cold]
fn not_connected() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "this UDP socket has no peer: connect it, or use send_to")
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
