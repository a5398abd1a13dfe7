//! The calls of the `Transport` seam: handles to connections and listeners, and what may be bound to what.

use core::task::{Context, Poll};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::time::Duration;

use demi_drivers::transport::{
    ListenOptions, ListenerId, ReadCursor, StreamId, StreamOptions, TcpInfo, TcpState, TransportUsage,
};
use demi_drivers::{Buf, Instant, Pool};

use super::connection::{Connection, Start};
use super::flow_table::Owner;
use super::output::{Flow, Output};
use super::ports::Ports;
use super::seq::SeqNumber;
use super::{Tcp, TimeWaitReuse, env};

/// Bytes of a slot that written data is copied into when the device cuts segments itself.
const LARGE_CHUNK_BYTES: usize = 16 << 10;

fn stale() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is closed")
}

fn in_use(local: SocketAddr) -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("{local} is in use by another socket: close it, or take another port"),
    )
}

fn too_many(what: &str, limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::OutOfMemory,
        format!("there are {limit} {what}: raise the limit or close some"),
    )
}

impl<P: Default> Tcp<P> {
    /// Opens a listening socket; see [`Transport::listen`](demi_drivers::Transport::listen).
    ///
    /// # Errors
    /// As there.
    pub fn listen<O: Output<Path = P>>(
        &mut self,
        out: &O,
        local: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<ListenerId> {
        if !local.ip().is_unspecified() && !out.is_local(local.ip()) {
            return Err(not_ours(local.ip()));
        }
        let local = if local.port() == 0 {
            let random = self.common.secret.random();
            let at = |port| SocketAddr::new(local.ip(), port);
            Ports::new(self.common.config.ephemeral_ports, random)
                .map(at)
                .find(|&local| !self.listeners.clashes(local, options))
                .ok_or_else(|| in_use(local))?
        } else {
            local
        };
        if self.listeners.clashes(local, options) {
            return Err(in_use(local));
        }
        if !options.stream.reuse_address && self.is_port_busy(local) {
            return Err(in_use(local));
        }
        let limit = self.common.config.max_listeners;
        self.listeners.insert(local, options).map(ListenerId).ok_or_else(|| too_many("listeners", limit))
    }

    /// Whether a connection or TIME-WAIT record occupies a local address. A loop over all of them, on the way to a bind that
    /// has asked for it.
    fn is_port_busy(&self, local: SocketAddr) -> bool {
        let same = |flow: &Flow| {
            flow.local_port == local.port() && (local.ip().is_unspecified() || local.ip() == flow.local)
        };
        self.connections.iter().any(|connection| !connection.detached && same(&connection.flow))
            || self.time_wait.iter().any(|record| same(&record.flow))
    }

    /// The next connection whose handshake is done.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        let Some(listener) = self.listeners.slots.get_mut(listener.0) else {
            return Poll::Ready(Err(stale()));
        };
        while let Some(handle) = listener.ready.pop_front() {
            if let Some(connection) = self.connections.get_mut(handle) {
                connection.cold.accepted = true;
                connection.cold.ready = false;
                connection.cold.listener = None;
                return Poll::Ready(Ok((StreamId(handle), connection.peer_addr())));
            }
        }
        if let Some(gone) = &self.gone {
            return Poll::Ready(Err(gone.to_error()));
        }
        listener.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The address a listener is bound to.
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    pub fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr> {
        self.listeners.slots.get(listener.0).map(|listener| listener.local).ok_or_else(stale)
    }

    /// For how many connections at a time a listener takes data with the SYN (RFC 7413).
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    pub fn set_fast_open(&mut self, listener: ListenerId, queue: Option<u32>) -> io::Result<()> {
        self.listeners.slots.get_mut(listener.0).ok_or_else(stale)?.options.fast_open = queue;
        Ok(())
    }

    /// How long a listener waits for data with the end of a handshake (`TCP_DEFER_ACCEPT`).
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    pub fn set_defer_accept(&mut self, listener: ListenerId, wait: Option<Duration>) -> io::Result<()> {
        self.listeners.slots.get_mut(listener.0).ok_or_else(stale)?.options.defer_accept = wait;
        Ok(())
    }

    /// Closes a listener; connections not accepted yet are reset.
    pub fn close_listener<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, listener: ListenerId) {
        let Some(closed) = self.listeners.remove(listener.0) else { return };
        if closed.half_open > 0 {
            self.reset_half_open(out, listener.0);
        }
        if closed.ready.is_empty() {
            return;
        }
        for index in 0..self.connections.positions() {
            if self.connections.at(index).is_some_and(|other| other.cold.listener == Some(listener.0)) {
                self.abort_at(now, out, index);
            }
        }
    }

    /// Starts connecting; see [`Transport::connect`](demi_drivers::Transport::connect). The SYN goes out with the next flush.
    ///
    /// # Errors
    /// As there.
    pub fn connect<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<StreamId> {
        let source = self.source(out, remote, local)?;
        if self.connections.is_full() {
            return Err(too_many("connections", self.common.config.max_connections));
        }
        let flow_from =
            |port| Flow { local: source, remote: remote.ip(), local_port: port, remote_port: remote.port() };
        let asked = local.map_or(0, |local| local.port());
        let is_local = out.is_local(remote.ip());
        let mut ports = if asked != 0 {
            if !is_local && !out.arrives_here(&flow_from(asked)) {
                let message = format!(
                    "port {asked}: what {remote} sends there arrives at another core: connect from that one, or from any port"
                );
                return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
            }
            Ports::new((asked, asked), 0)
        } else {
            Ports::new(self.common.config.ephemeral_ports, self.common.secret.random())
        }
        .filter(|&port| {
            let to_itself = source == remote.ip() && port == remote.port();
            asked != 0 || !to_itself && (is_local || out.arrives_here(&flow_from(port)))
        })
        .peekable();
        // Where the flow of the first one would lie is fetched while all is found out that no port decides.
        if let Some(&port) = ports.peek() {
            self.flows.prefetch(self.flows.hash(&flow_from(port)));
        }
        let ts_offset = self.common.secret.timestamp_offset(source, remote.ip());
        let options_shared = self.common.shared(options);
        let mtu = out.mtu(remote.ip());
        let port = ports.find(|&port| self.is_free(now, &flow_from(port), is_local));
        let Some(port) = port else {
            let local = SocketAddr::new(source, asked);
            return Err(if asked != 0 {
                in_use(local)
            } else {
                io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    format!(
                        "all ephemeral ports towards {remote} are taken: close connections, or widen the range"
                    ),
                )
            });
        };
        let flow = flow_from(port);
        let hash = self.flows.hash(&flow);
        let mut iss = self.common.secret.isn(&flow, now);
        if let Some(Owner::TimeWait(index)) = self.find(hash, &flow) {
            // `is_free` found it old enough to be followed; numbers go on where it stopped.
            if let Some(record) = self.time_wait.remove(index) {
                self.flows.remove(hash, Owner::TimeWait(index));
                self.note_records();
                let beyond = record.snd_nxt + 65_537;
                iss = iss.later(beyond);
            }
        }
        let start =
            Start { flow, hash, iss, ts_offset, wired: !is_local, mtu, options: &options_shared, now };
        let mut connection = Connection::connecting(&start, &self.common.config);
        let fast_open = &self.common.config.fast_open;
        if options.fast_open_connect && fast_open.client && !self.common.fast_opens.is_paused(now) {
            connection.connect_fast(&self.common.fast_opens.ticket(&flow), fast_open.client_without_cookie);
        }
        let limit = self.common.config.max_connections;
        let handle = self.connections.insert(connection).map_err(|_| too_many("connections", limit))?;
        self.flows.insert(hash, Owner::Connection(handle.index));
        self.common.stats.active_opens += 1;
        self.settle(now, handle.index);
        Ok(StreamId(handle))
    }

    /// The address a connection to `remote` is made from.
    fn source<O: Output<Path = P>>(
        &self,
        out: &O,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> io::Result<IpAddr> {
        let (ip, port) = (remote.ip(), remote.port());
        let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
        if port == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot connect to {remote}: it names no single host and port"),
            ));
        }
        match local.map(|local| local.ip()).filter(|local| !local.is_unspecified()) {
            Some(local) if local.is_ipv6() != ip.is_ipv6() => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cannot connect from {local} to {ip}: they are of different IP versions"),
            )),
            Some(local) if !out.is_local(local) => Err(not_ours(local)),
            Some(local) => Ok(local),
            None => out.source_for(ip).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NetworkUnreachable, format!("there is no route to {ip}"))
            }),
        }
    }

    /// Whether a connection may take a four-tuple: nobody has it, or a TIME-WAIT record does whose peer can tell the new one by
    /// its timestamps (RFC 6191; Linux's `tcp_tw_reuse`). `local`: it leads back to ourselves.
    fn is_free(&self, now: Instant, flow: &Flow, local: bool) -> bool {
        match self.find(self.flows.hash(flow), flow) {
            None => true,
            Some(Owner::Connection(_) | Owner::HalfOpen(_)) => false,
            Some(Owner::TimeWait(index)) => self.time_wait.get(index).is_none_or(|record| {
                let allowed = match self.common.config.time_wait_reuse {
                    TimeWaitReuse::Never => false,
                    TimeWaitReuse::Local => local,
                    TimeWaitReuse::Always => true,
                };
                allowed && record.ts_recent.is_some() && now.since(record.since).as_millis() > 1000
            }),
        }
    }

    /// Calls `with` on the connection of a handle and acts on what it leaves behind.
    #[inline]
    fn on_stream<R>(&mut self, stream: StreamId, with: impl FnOnce(&mut Connection<P>) -> R) -> Option<R> {
        let connection = self.connections.get_mut(stream.0)?;
        let result = with(connection);
        if connection.flush_due && !connection.flush_queued {
            connection.flush_queued = true;
            self.dirty.push(stream.0.index);
        }
        Some(result)
    }

    /// As [`on_stream`](Self::on_stream), for polls.
    #[inline]
    fn poll_stream<R>(
        &mut self,
        stream: StreamId,
        with: impl FnOnce(&mut Connection<P>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        self.on_stream(stream, with).unwrap_or_else(|| Poll::Ready(Err(stale())))
    }

    /// Whether the handshake is done, or the error that ended it.
    pub fn poll_connect(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_connect(cx))
    }

    /// Takes at most `max` received bytes as one view; `None` is the peer's FIN.
    #[inline]
    pub fn poll_pop(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>> {
        self.poll_stream(stream, |connection| connection.poll_pop(cx, max))
    }

    /// Copies received bytes into `dst`; nothing put into a non-empty `dst` is the peer's FIN.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_read(cx, dst, false))
    }

    /// As [`poll_read`](Self::poll_read), leaving the bytes queued.
    pub fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_read(cx, dst, true))
    }

    /// Takes `buf` whole whenever the send buffer is below its cap; it goes out with the next flush.
    #[inline]
    pub fn poll_push<O: Output<Path = P>>(
        &mut self,
        cx: &mut Context<'_>,
        out: &O,
        stream: StreamId,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_push(cx, out.pool(), buf))
    }

    /// Copies bytes of `src`, in order, into slots of the output's pool that are queued for sending; answers how many.
    pub fn poll_write<O: Output<Path = P>>(
        &mut self,
        cx: &mut Context<'_>,
        out: &O,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pool: &Pool = out.pool();
        let chunk = if out.tso_max_bytes() > 0 { LARGE_CHUNK_BYTES.min(pool.max_capacity()) } else { 0 };
        self.poll_stream(stream, |connection| connection.poll_write(cx, pool, chunk, src))
    }

    /// Waits until a read would not wait.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_readable(cx))
    }

    /// Waits until a write would not wait.
    pub fn poll_writable<O: Output<Path = P>>(
        &mut self,
        cx: &mut Context<'_>,
        out: &O,
        stream: StreamId,
    ) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_writable(cx, out.pool()))
    }

    /// Waits until the peer has acknowledged every byte, and the FIN after a shutdown.
    pub fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.poll_stream(stream, |connection| connection.poll_drained(cx))
    }

    /// Ends one or both directions.
    ///
    /// # Errors
    /// `NotConnected`.
    pub fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()> {
        self.on_stream(stream, |connection| connection.shutdown(how)).unwrap_or_else(|| Err(stale()))
    }

    /// Gives the handle up; see [`Transport::close`](demi_drivers::Transport::close).
    pub fn close<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, stream: StreamId) {
        let too_many = self.orphans >= self.common.config.max_orphans;
        let Some(connection) = self.connections.get_mut(stream.0) else { return };
        if connection.orphan {
            return;
        }
        connection.close(&mut env!(self, now, out), too_many);
        self.give_up(now, stream.0.index);
    }

    /// Resets the connection and gives the handle up.
    pub fn abort<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, stream: StreamId) {
        if self.connections.get(stream.0).is_some_and(|connection| !connection.orphan) {
            self.abort_at(now, out, stream.0.index);
        }
    }

    fn abort_at<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, index: u32) {
        let Some(connection) = self.connections.at_mut(index) else { return };
        connection.abort(&mut env!(self, now, out));
        self.give_up(now, index);
    }

    /// A connection has become an orphan: it is counted, and its handle is worth nothing any more.
    fn give_up(&mut self, now: Instant, index: u32) {
        self.orphans += 1;
        self.connections.invalidate(index);
        let gone = self
            .connections
            .at(index)
            .is_some_and(|connection| matches!(connection.state, TcpState::Closed | TcpState::TimeWait));
        self.settle(now, index);
        if gone {
            self.remove(index);
        }
    }

    /// This end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn local_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        self.connections.get(stream.0).map(Connection::local_addr).ok_or_else(stale)
    }

    /// The other end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale or the connection is gone.
    pub fn peer_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        self.connections
            .get(stream.0)
            .filter(|connection| connection.state != TcpState::Closed)
            .map(Connection::peer_addr)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection is gone"))
    }

    /// The error that ended the connection, once.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn take_error(&mut self, stream: StreamId) -> io::Result<Option<io::Error>> {
        self.on_stream(stream, Connection::take_failure).ok_or_else(stale)
    }

    /// The options in force.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn stream_options(&self, stream: StreamId) -> io::Result<StreamOptions> {
        self.connections
            .get(stream.0)
            .map(|connection| StreamOptions::clone(&connection.cold.options))
            .ok_or_else(stale)
    }

    /// Puts `options` in force.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn set_stream_options(
        &mut self,
        now: Instant,
        stream: StreamId,
        options: &StreamOptions,
    ) -> io::Result<()> {
        let connection = self.connections.get_mut(stream.0).ok_or_else(stale)?;
        connection.set_options(&self.common.shared(options), &self.common.config);
        self.settle(now, stream.0.index);
        Ok(())
    }

    /// What is known of the connection, under Linux's names.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn tcp_info(&self, stream: StreamId) -> io::Result<TcpInfo> {
        self.connections
            .get(stream.0)
            .map(|connection| connection.info(&self.common.config))
            .ok_or_else(stale)
    }

    /// Whether what arrives is acknowledged at once, as things are now.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn quickack(&self, stream: StreamId) -> io::Result<bool> {
        self.connections.get(stream.0).map(Connection::quickack).ok_or_else(stale)
    }

    /// Acknowledges at once, or with the data that goes the other way; see
    /// [`Transport::set_quickack`](demi_drivers::Transport::set_quickack).
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn set_quickack(&mut self, stream: StreamId, quickack: bool) -> io::Result<()> {
        self.on_stream(stream, |connection| connection.set_quickack(quickack)).ok_or_else(stale)
    }

    /// Connections that nobody has a handle of and that are still closing.
    pub(crate) fn closing(&self) -> usize {
        self.orphans
    }

    /// What the layer holds: streams, listeners, closing connections and TIME-WAIT records. Counts all connections: not for
    /// the datapath.
    pub fn usage(&self) -> TransportUsage {
        let alive =
            |connection: &&Connection<P>| !matches!(connection.state, TcpState::Closed | TcpState::TimeWait);
        let mut usage = TransportUsage::default();
        usage.streams = self.connections.iter().filter(alive).count() + self.half_open.slots.len();
        usage.listeners = self.listeners.slots.len();
        usage.closing = self.closing();
        usage.time_wait = self.time_wait.len();
        usage
    }
}

fn not_ours(ip: IpAddr) -> io::Error {
    io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!(
            "{ip} is not an address of this interface: bind to one of its own, or to {}",
            unspecified(ip)
        ),
    )
}

fn unspecified(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl<P: Default> Tcp<P> {
    /// The link address behind a segment of `flow` did not resolve. A handshake under way goes on all the same, unlike on Linux: its
    /// peer may be on its way back, and the SYN-ACK has a timer of its own.
    pub(crate) fn on_unresolved(&mut self, now: Instant, flow: &Flow, seq: u32) {
        if let Some(Owner::Connection(_)) = self.find(self.flows.hash(flow), flow) {
            self.on_icmp_error(now, flow, seq, super::IcmpError::HostUnreachable);
        }
    }

    /// An ICMP error quoted a segment of `flow` (as we sent it) with sequence number `seq` (RFC 5927 §4 checks it).
    pub fn on_icmp_error(&mut self, now: Instant, flow: &Flow, seq: u32, error: super::IcmpError) {
        if let Some(Owner::Connection(index)) = self.find(self.flows.hash(flow), flow)
            && let Some(connection) = self.connections.at_mut(index)
        {
            let believed = connection.on_icmp_error(SeqNumber::new(seq), error);
            self.common.stats.out_of_window_icmps += u64::from(!believed);
            self.settle(now, index);
        } else if let Some(Owner::HalfOpen(index)) = self.find(self.flows.hash(flow), flow)
            && let Some(half_open) = self.half_open.slots.at(index)
        {
            // As Linux: what cannot reach the peer is not worth remembering, and the peer tries again if it can.
            let believed = SeqNumber::new(seq) == half_open.iss;
            self.common.stats.out_of_window_icmps += u64::from(!believed);
            let unreachable = matches!(
                error,
                super::IcmpError::NetworkUnreachable
                    | super::IcmpError::HostUnreachable
                    | super::IcmpError::TimeExceeded
                    | super::IcmpError::ParameterProblem
            );
            if believed && unreachable {
                self.common.stats.listen_drops += 1;
                self.forget_half_open(index);
            }
        }
    }

    /// The path of `flow` carries IP packets of at most `mtu` bytes, said an ICMP error that quoted sequence number `seq`. Answers
    /// whether that is to be believed (RFC 5927 §7).
    pub fn on_path_mtu(&mut self, now: Instant, flow: &Flow, seq: u32, mtu: u16) -> bool {
        if let Some(Owner::Connection(index)) = self.find(self.flows.hash(flow), flow)
            && let Some(connection) = self.connections.at_mut(index)
        {
            let believed = connection.on_path_mtu(now, SeqNumber::new(seq), mtu);
            self.common.stats.out_of_window_icmps += u64::from(!believed);
            self.settle(now, index);
            return believed;
        }
        false
    }
}
