//! TCP (RFC 9293) as a pure state machine: segments, time and calls in; segments, wakes and a deadline out.
//!
//! [`Tcp`] owns every connection, listener and TIME-WAIT record of one stack. It never reads a clock, never parses IP, and
//! sends only through an [`output::Output`].

mod config;
mod congestion;
mod isn;
pub mod output;
mod reassembly;
mod recv_queue;
mod rto;
mod sack;
mod send_queue;
mod seq;
mod stats;
mod timer;

use core::marker::PhantomData;
use core::task::{Context, Poll};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};

use demi_drivers::transport::{
    ListenOptions, ListenerId, ReadCursor, StreamId, StreamOptions, TcpInfo, TransportUsage,
};
use demi_drivers::{Buf, Instant, Pool};

pub use config::TcpConfig;
pub use seq::SeqNumber;
pub use stats::TcpStats;

use output::{Flow, Output};

/// What the IP layer says of a received segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpMeta {
    /// Source address.
    pub src: IpAddr,
    /// Destination address: one of ours.
    pub dst: IpAddr,
    /// Type of service or traffic class, ECN bits included.
    pub tos: u8,
    /// Time To Live or Hop Limit.
    pub ttl: u8,
}

/// What an ICMP or ICMPv6 error says of a segment we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the network.
    NetworkUnreachable,
    /// No route to the host, or its link address did not resolve.
    HostUnreachable,
    /// The host has no TCP, or not on this port.
    ConnectionRefused,
    /// Filtered by an administrator.
    Prohibited,
    /// Time To Live or Hop Limit ran out, or reassembly did.
    TimeExceeded,
    /// A header field was not understood.
    ParameterProblem,
}

/// The TCP layer of one stack. `P` is what the layers below remember of a path ([`Output::Path`]).
pub struct Tcp<P> {
    config: TcpConfig,
    stats: TcpStats,
    paths: PhantomData<P>,
}

impl<P: Default> Tcp<P> {
    /// A TCP layer with no sockets. `secret` keys sequence numbers, ports and the flow table: it must be random and the
    /// layer's own.
    pub fn new(config: TcpConfig, secret: [u8; 16], now: Instant) -> Self {
        let _ = (secret, now);
        Tcp { config, stats: TcpStats::default(), paths: PhantomData }
    }

    /// Takes one segment, from its TCP header to its end; the checksum has been verified.
    pub fn on_segment<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        meta: &IpMeta,
        segment: Buf,
    ) {
        let _ = (now, out, meta, segment);
    }

    /// An ICMP error quoted a segment of `flow` (as we sent it) with sequence number `seq` (RFC 5927 §4 checks it).
    pub fn on_icmp_error(&mut self, now: Instant, flow: &Flow, seq: u32, error: IcmpError) {
        let _ = (now, flow, seq, error);
    }

    /// The path of `flow` carries IP packets of at most `mtu` bytes, said an ICMP error that quoted sequence number `seq`.
    pub fn on_path_mtu(&mut self, now: Instant, flow: &Flow, seq: u32, mtu: u16) {
        let _ = (now, flow, seq, mtu);
    }

    /// Runs due timers, a bounded number a call; answers how many.
    pub fn poll_timers<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O) -> usize {
        let _ = (now, out);
        0
    }

    /// Sends what calls and segments since the last flush have caused: data, FINs, and acknowledgements that no data carried.
    /// What finds no room below stays for the next flush.
    pub fn flush<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O) {
        let _ = (now, out);
    }

    /// Whether [`flush`](Self::flush) has something to do.
    pub fn wants_flush(&self) -> bool {
        false
    }

    /// When [`poll_timers`](Self::poll_timers) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

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
        let _ = (out, local, options);
        Err(stale())
    }

    /// The next connection whose handshake is done.
    pub fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        let _ = (cx, listener);
        Poll::Ready(Err(stale()))
    }

    /// The address a listener is bound to.
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    pub fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr> {
        let _ = listener;
        Err(stale())
    }

    /// Closes a listener; connections not accepted yet are reset.
    pub fn close_listener<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, listener: ListenerId) {
        let _ = (now, out, listener);
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
        let _ = (now, out, remote, local, options);
        Err(stale())
    }

    /// Whether the handshake is done, or the error that ended it.
    pub fn poll_connect(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        let _ = (cx, stream);
        Poll::Ready(Err(stale()))
    }

    /// Takes at most `max` received bytes as one view; `None` is the peer's FIN.
    pub fn poll_pop(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>> {
        let _ = (cx, stream, max);
        Poll::Ready(Err(stale()))
    }

    /// Copies received bytes into `dst`; nothing put into a non-empty `dst` is the peer's FIN.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let _ = (cx, stream, dst);
        Poll::Ready(Err(stale()))
    }

    /// As [`poll_read`](Self::poll_read), leaving the bytes queued.
    pub fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let _ = (cx, stream, dst);
        Poll::Ready(Err(stale()))
    }

    /// Takes `buf` whole whenever the send buffer is below its cap; it goes out with the next flush.
    pub fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        let _ = (cx, stream, buf);
        Poll::Ready(Err(stale()))
    }

    /// Copies bytes of `src`, in order, into slots of `pool` that are queued for sending; answers how many.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pool: &Pool,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let _ = (cx, pool, stream, src);
        Poll::Ready(Err(stale()))
    }

    /// Waits until a read would not wait.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        let _ = (cx, stream);
        Poll::Ready(Err(stale()))
    }

    /// Waits until a write would not wait.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        let _ = (cx, stream);
        Poll::Ready(Err(stale()))
    }

    /// Waits until the peer has acknowledged every byte, and the FIN after a shutdown.
    pub fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        let _ = (cx, stream);
        Poll::Ready(Err(stale()))
    }

    /// Ends one or both directions.
    ///
    /// # Errors
    /// `NotConnected`.
    pub fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()> {
        let _ = (stream, how);
        Err(stale())
    }

    /// Gives the handle up; see [`Transport::close`](demi_drivers::Transport::close).
    pub fn close<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, stream: StreamId) {
        let _ = (now, out, stream);
    }

    /// Resets the connection and gives the handle up.
    pub fn abort<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, stream: StreamId) {
        let _ = (now, out, stream);
    }

    /// This end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn local_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        let _ = stream;
        Err(stale())
    }

    /// The other end's address.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale or the connection is gone.
    pub fn peer_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        let _ = stream;
        Err(stale())
    }

    /// The error that ended the connection, once.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn take_error(&mut self, stream: StreamId) -> io::Result<Option<io::Error>> {
        let _ = stream;
        Err(stale())
    }

    /// The options in force.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn stream_options(&self, stream: StreamId) -> io::Result<StreamOptions> {
        let _ = stream;
        Err(stale())
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
        let _ = (now, stream, options);
        Err(stale())
    }

    /// What is known of the connection, under Linux's names.
    ///
    /// # Errors
    /// `NotConnected` when the handle is stale.
    pub fn tcp_info(&self, now: Instant, stream: StreamId) -> io::Result<TcpInfo> {
        let _ = (now, stream);
        Err(stale())
    }

    /// What the layer holds: streams, listeners, closing connections and TIME-WAIT records.
    pub fn usage(&self) -> TransportUsage {
        TransportUsage::default()
    }

    /// The layer's counters.
    pub fn stats(&self) -> &TcpStats {
        &self.stats
    }

    /// The layer's limits and defaults.
    pub fn config(&self) -> &TcpConfig {
        &self.config
    }
}

fn stale() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket is closed")
}
