//! The seam below `runtime::net`: sockets, poll-based, over whatever carries them.
//!
//! A protocol stack over a [`Device`](crate::Device) is a transport, and so are the kernel's sockets. All methods take
//! `&mut self` and never block, save [`park`](Transport::park); readiness comes back through the [`Waker`](core::task::Waker)
//! of the `Context` a poll method was given. At most one waiter a socket and direction is remembered: the last one to poll.
//!
//! **Who calls when.** Once a turn of its loop the runtime calls [`poll`](Transport::poll) with the time, which receives,
//! runs due timers and wakes tasks; then the tasks run and call the socket methods; then [`flush`](Transport::flush) sends
//! what they caused. The transport uses the time of the latest `poll` or `flush` for all calls in between.
//!
//! **Handles.** Identifiers carry a generation: one that was closed is answered with `NotConnected`, never with a
//! stranger's socket. **Cancel safety.** A poll method that answers `Pending` has taken nothing from and given nothing to
//! the caller, so a future dropped at any await loses no byte.

mod cursor;
mod listing;
mod options;

use core::task::{Context, Poll};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

pub use cursor::ReadCursor;
pub use listing::{Protocol, SocketEntry, SocketTimer, TimerKind};
pub use options::{
    CongestionControl, DatagramOptions, FastOpenFailure, Interface, KeepAlive, ListenOptions, Membership,
    StreamOptions, TcpInfo, TcpState,
};

use crate::mem::{Buf, Pool};
#[cfg(feature = "rdma")]
use crate::rdma::onesided::{Access, Peer, Region};
use crate::time::Instant;

/// A slot number and its generation: the `index`th entry of a table, as long as nobody else has moved in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Position in the transport's table.
    pub index: u32,
    /// Counts the users of that position.
    pub generation: u32,
}

/// A TCP connection of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(pub Handle);

/// A listening socket of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub Handle);

/// A UDP socket of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramId(pub Handle);

/// What a transport still holds, for leak checks and for draining before exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportUsage {
    /// Connections in any state but closed, TIME_WAIT records not counted.
    pub streams: usize,
    /// Listening sockets.
    pub listeners: usize,
    /// UDP sockets.
    pub datagrams: usize,
    /// Connections that the application has closed, and whose last bytes or FIN the peer has not acknowledged.
    pub closing: usize,
    /// TIME_WAIT records.
    pub time_wait: usize,
    /// File descriptors the transport holds for sockets.
    pub descriptors: usize,
    /// Operations that the kernel has not completed yet.
    pub in_flight: usize,
}

/// The address that [`Transport::poll_recv`] overwrites.
pub const NOWHERE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// Sockets over whatever carries them.
pub trait Transport {
    /// The device string, for messages and logs: `uring`, `posix`, `tap:demi0`.
    fn name(&self) -> &str;

    /// Where buffers for [`poll_push`](Self::poll_push) best come from, and where received ones lie.
    fn pool(&self) -> &Pool;

    /// How specifically this transport reaches `remote`: bits of the longest matching route (128 or 32 for an address of its
    /// own, 0 for a default route); `None`: not at all. With several transports the most specific one carries a
    /// connection.
    fn reach(&self, remote: IpAddr) -> Option<u8>;

    /// The addresses that are this transport's own; empty for the kernel's sockets, which have all of the machine's.
    fn addresses(&self) -> Vec<IpAddr>;

    /// Whether `address` is one of [`addresses`](Self::addresses).
    fn has_address(&self, address: IpAddr) -> bool {
        self.addresses().contains(&address)
    }

    /// Waits until the interface has the addresses that it can have for now: none is being tried out, or asked for, any more.
    /// The kernel's sockets are ready at once.
    ///
    /// Cancel safe: it only looks.
    fn poll_configured(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Name servers that the network has told of; the kernel's sockets have `resolv.conf` for that.
    fn name_servers(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    /// The domain that the network has told of, to look short names up in.
    fn domain(&self) -> Option<String> {
        None
    }

    // ---- driving ----

    /// Receives, runs due timers and wakes whoever waits for what came. Bounded work a call; answers how many events
    /// (frames, completions, timers) it saw, so 0 means idle.
    ///
    /// # Errors
    /// The device below is gone; sockets report it too.
    fn poll(&mut self, now: Instant) -> io::Result<usize>;

    /// Sends what the calls since the last flush have caused, acknowledgements that no reply has carried included.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    fn flush(&mut self, now: Instant) -> io::Result<()>;

    /// When [`poll`](Self::poll) has to be called even if nothing arrives.
    fn deadline(&self) -> Option<Instant>;

    /// Blocks until something arrives, a watched descriptor is readable, or `timeout` is over (`None`: no limit). May end
    /// early. Only called when [`poll`](Self::poll) had nothing to do.
    ///
    /// # Errors
    /// What the waiting system call said; never `Interrupted`.
    fn park(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// A descriptor whose readability ends another transport's [`park`](Self::park) when something arrives here.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Makes [`park`](Self::park) end when `fd` is readable, too. The caller keeps `fd` open as long as the transport lives,
    /// and makes it unreadable again by itself.
    ///
    /// # Errors
    /// What the system call that registers the descriptor said.
    fn watch(&mut self, fd: RawFd) -> io::Result<()>;

    /// Ends what [`watch`](Self::watch) began. One that is not watched is none of its business.
    fn unwatch(&mut self, fd: RawFd);

    /// What the transport still holds.
    fn usage(&self) -> TransportUsage;

    /// Of what it holds, the connections that nobody has a handle of and that are still closing: asked at each turn of a runtime
    /// that ends, so whoever has many sockets does not count them for it.
    fn closing(&self) -> usize {
        self.usage().closing
    }

    /// All sockets as `ss` lists them: TIME_WAIT records and half-open connections included where the transport has them; those of
    /// the kernel's, `ss` itself lists.
    ///
    /// Looks at each socket: not for the datapath.
    fn sockets(&self) -> Vec<SocketEntry> {
        Vec::new()
    }

    /// What the transport has counted, under the names that `nstat` shows on Linux. Empty for the kernel's sockets: `nstat` itself
    /// shows those.
    fn counters(&self) -> Vec<(String, u64)> {
        Vec::new()
    }

    // ---- streams ----

    /// Opens a listening TCP socket. Port 0 takes a free one.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`; `OutOfMemory` when the configured number of sockets is reached.
    fn listen(&mut self, local: SocketAddr, options: &ListenOptions) -> io::Result<ListenerId>;

    /// The next connection that has finished its handshake.
    ///
    /// Dropping the wait leaves the connection queued.
    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>>;

    /// The address a listener is bound to.
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr>;

    /// Closes a listener; connections not accepted yet are reset.
    fn close_listener(&mut self, listener: ListenerId);

    /// Starts connecting to `remote`, from `local` if given (port 0 takes a free one).
    ///
    /// # Errors
    /// `NetworkUnreachable`, `AddrInUse`, `AddrNotAvailable`, `InvalidInput`.
    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<StreamId>;

    /// Whether the handshake is done; the error that ended it otherwise (`ConnectionRefused`, `TimedOut`,
    /// `HostUnreachable`, …).
    fn poll_connect(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>>;

    /// Takes received bytes without copying: at most `max` of them, as one view. `None` is the peer's FIN.
    fn poll_pop(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>>;

    /// Copies received bytes into `dst`, as many as there are and fit. Nothing put into a non-empty `dst` is the peer's FIN.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>>;

    /// As [`poll_read`](Self::poll_read), leaving the bytes where they are.
    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>>;

    /// Sends the bytes of `buf` without copying, and takes it out of the `Option` once it is accepted, as a whole; the
    /// transport keeps it until the peer has acknowledged it. Waits while the send buffer is full.
    fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>>;

    /// Copies bytes from `src`, in order, into the send buffer; answers how many, at least one unless all are empty.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Waits until [`poll_read`](Self::poll_read) would not wait.
    fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>>;

    /// Waits until [`poll_write`](Self::poll_write) would not wait.
    fn poll_writable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>>;

    /// Waits until the peer has acknowledged every byte written (and the FIN, after a shutdown). Kernel transports, which
    /// cannot tell, wait until the kernel has taken every byte.
    fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>>;

    /// Ends one or both directions: `Write` sends a FIN behind what is queued, `Read` drops what comes from now on.
    ///
    /// # Errors
    /// `NotConnected`.
    fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()>;

    /// Gives the handle up. Queued bytes and the FIN are still delivered, unless bytes received were never read or linger is
    /// zero: then the peer gets a RST.
    fn close(&mut self, stream: StreamId);

    /// Resets the connection and gives the handle up.
    fn abort(&mut self, stream: StreamId);

    /// This end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    fn local_addr(&self, stream: StreamId) -> io::Result<SocketAddr>;

    /// The other end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale or the connection is gone.
    fn peer_addr(&self, stream: StreamId) -> io::Result<SocketAddr>;

    /// The error that ended the connection, once; later calls answer `None`.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    fn take_error(&mut self, stream: StreamId) -> io::Result<Option<io::Error>>;

    /// The options in force.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    fn stream_options(&self, stream: StreamId) -> io::Result<StreamOptions>;

    /// Puts `options` in force.
    ///
    /// # Errors
    /// `NotConnected`; `Unsupported` for an option the transport does not have.
    fn set_stream_options(&mut self, stream: StreamId, options: &StreamOptions) -> io::Result<()>;

    /// What the transport knows of the connection, under Linux's names.
    ///
    /// # Errors
    /// `NotConnected`; `Unsupported`.
    fn tcp_info(&self, stream: StreamId) -> io::Result<TcpInfo>;

    /// Whether what arrives is acknowledged at once, as things are now (Linux's `TCP_QUICKACK`).
    ///
    /// # Errors
    /// `NotConnected`; `Unsupported`.
    fn quickack(&self, stream: StreamId) -> io::Result<bool>;

    /// Acknowledges what has arrived and what will at once, or waits for data to carry acknowledgements; until the
    /// transport finds, from what the connection does, that the other is better.
    ///
    /// # Errors
    /// As [`quickack`](Self::quickack).
    fn set_quickack(&mut self, stream: StreamId, quickack: bool) -> io::Result<()>;

    // ---- datagrams ----

    /// Opens a UDP socket. Port 0 takes a free one.
    ///
    /// # Errors
    /// As [`listen`](Self::listen).
    fn bind_datagram(&mut self, local: SocketAddr, options: &DatagramOptions) -> io::Result<DatagramId>;

    /// Sets (or, with `None`, clears) the only peer: datagrams of others are dropped, and `remote` may be left out when
    /// sending.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale; `NetworkUnreachable`.
    fn connect_datagram(&mut self, socket: DatagramId, remote: Option<SocketAddr>) -> io::Result<()>;

    /// Sends one datagram and takes `buf` once it is accepted. Waits while the queue below is full.
    fn poll_send_to(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>>;

    /// Takes the next datagram, without copying it, and puts its sender's address into `from`: where it will be read, since an
    /// address that is handed on by value is copied at each step.
    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        from: &mut SocketAddr,
    ) -> Poll<io::Result<Buf>>;

    /// As [`poll_recv`](Self::poll_recv), the sender's address beside the datagram.
    fn poll_recv_from(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        let mut from = NOWHERE;
        self.poll_recv(cx, socket, &mut from).map_ok(|buf| (buf, from))
    }

    /// Shows the next datagram and leaves it queued.
    fn poll_peek_from(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>>;

    /// Waits until [`poll_recv`](Self::poll_recv) would not wait.
    fn poll_datagram_readable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>>;

    /// Waits until [`poll_send_to`](Self::poll_send_to) would not wait.
    fn poll_datagram_writable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>>;

    /// This end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    fn datagram_addr(&self, socket: DatagramId) -> io::Result<SocketAddr>;

    /// The peer set by [`connect_datagram`](Self::connect_datagram).
    ///
    /// # Errors
    /// `NotConnected` when there is none or the handle is stale.
    fn datagram_peer(&self, socket: DatagramId) -> io::Result<SocketAddr>;

    /// The options in force.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    fn datagram_options(&self, socket: DatagramId) -> io::Result<DatagramOptions>;

    /// Puts `options` in force.
    ///
    /// # Errors
    /// `NotConnected`; `Unsupported` for an option the transport does not have.
    fn set_datagram_options(&mut self, socket: DatagramId, options: &DatagramOptions) -> io::Result<()>;

    /// Puts a UDP socket into a multicast group, or lets it hear one more source of it.
    ///
    /// # Errors
    /// `AddrInUse` when it is in it already; `AddrNotAvailable` for an interface there is not; `InvalidInput` for what is no
    /// group; `Unsupported` where there are none.
    fn join_group(&mut self, _socket: DatagramId, _membership: &Membership) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this transport has no multicast"))
    }

    /// Undoes [`join_group`](Self::join_group).
    ///
    /// # Errors
    /// `AddrNotAvailable` when it is not in that group; as [`join_group`](Self::join_group).
    fn leave_group(&mut self, _socket: DatagramId, _membership: &Membership) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this transport has no multicast"))
    }

    /// Gives the handle up; queued datagrams are dropped.
    fn close_datagram(&mut self, socket: DatagramId);

    // ---- one-sided operations ----

    /// One-sided operations on the memory of a connected stream's peer.
    ///
    /// # Errors
    /// `NotConnected`; `Unsupported`.
    #[cfg(feature = "rdma")]
    fn one_sided(&mut self, _stream: StreamId) -> io::Result<Peer> {
        Err(no_one_sided())
    }

    /// Makes `bytes` bytes of memory, zeros, that peers may reach.
    ///
    /// # Errors
    /// `InvalidInput`, `OutOfMemory`; `Unsupported`.
    #[cfg(feature = "rdma")]
    fn register(&mut self, _bytes: usize, _access: Access) -> io::Result<Region> {
        Err(no_one_sided())
    }
}

#[cfg(feature = "rdma")]
fn no_one_sided() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "this transport has no one-sided operations: they take a device `rdma:`",
    )
}
