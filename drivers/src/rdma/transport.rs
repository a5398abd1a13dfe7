//! The transport: sockets by handle, and a turn of the loop.
//!
//! A turn takes completions and events in that order, hands each to its connection, and posts what all that and the tasks have
//! caused when it is flushed: one doorbell a connection, and none for those that have nothing to say. Never blocks but in
//! [`park`](Transport::park), never wakes anybody before its own state is settled.

use core::task::{Context, Poll, Waker};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use super::RdmaConfig;
use super::adapter::Adapter;
use super::connect::next_look;
use super::listener::Listener;
use super::onesided::{Access, Marked, Peer, Region};
use super::proto::{Action, Config, Failure};
use super::stream::{Phase, Stream};
use super::timers::Timers;
use super::verbs::cm::News;
use super::verbs::cq::Status;
use super::verbs::qp::SEQUENCE_BITS;
use super::wait::Wait;
use crate::mem::{Buf, Pool};
use crate::sockets::table::Table;
use crate::sockets::{remember, stale};
use crate::time::Instant;
use crate::transport::{
    DatagramId, DatagramOptions, Handle, ListenOptions, ListenerId, Protocol, ReadCursor, SocketEntry,
    StreamId, StreamOptions, TcpInfo, TcpState, Transport, TransportUsage,
};

/// Completions looked at a turn.
const COMPLETIONS: usize = 256;
/// How often the device is asked whether it is still there.
const HEALTH: Duration = Duration::from_millis(100);
/// How long the last requests of a connection may take to be flushed out of its queues.
const FLUSHING: Duration = Duration::from_secs(5);
/// Of a request's name, the bit that says that it is one of a connection's; receives have small numbers.
const SENT: u64 = 1 << 63;

/// Queue pairs by number: numbers that this machine's own device has given out.
type ByQueue = HashMap<u32, Handle, BuildHasherDefault<QueueHasher>>;

/// Spreads numbers that come one after the other.
#[derive(Default)]
pub(super) struct QueueHasher(u64);

impl Hasher for QueueHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u32(byte.into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Reliable connections over an RDMA device.
#[derive(Debug)]
pub struct Rdma {
    name: String,
    // Connections go before the queues that they use.
    pub(super) streams: Table<Stream>,
    pub(super) listeners: Table<Listener>,
    pub(super) by_queue: ByQueue,
    /// What connections that are being asked for were promised, by index.
    pub(super) asked: HashMap<u32, Config>,
    /// Connections with something to post.
    dirty: Vec<Handle>,
    /// Connections whose peers' memory somebody wants something of.
    marked: Marked,
    /// Events taken, for after the completions that came before them.
    news: VecDeque<(u64, News)>,
    timers: Timers,
    actions: Vec<Action>,
    /// Connections whose timers are over.
    due: Vec<Handle>,
    pub(super) wakes: Vec<Waker>,
    wait: Wait,
    pub(super) adapter: Adapter,
    pub(super) now: Instant,
    look_at: Instant,
    health_at: Instant,
    /// Somebody else waits on our descriptor.
    watched: Cell<bool>,
    idle: bool,
    lost: bool,
    /// Requests of strangers, or that there was no room for.
    pub(super) refused: u64,
    pub(super) credits: u16,
    pub(super) connect_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) max_sockets: usize,
}

/// What a connection's requests are called.
pub(super) fn tag_of(handle: Handle) -> u64 {
    SENT >> SEQUENCE_BITS | u64::from(handle.generation)
}

/// What the connection manager calls a socket.
pub(super) fn token_of(stream: bool, handle: Handle) -> u64 {
    u64::from(handle.generation) << 32 | u64::from(handle.index) << 1 | u64::from(stream)
}

/// The socket that a token is of, and whether it is a stream. None is called all ones.
pub(super) fn named(token: u64) -> Option<(bool, Handle)> {
    let handle = Handle { index: (token as u32) >> 1, generation: (token >> 32) as u32 };
    (token != u64::MAX).then_some((token & 1 == 1, handle))
}

impl Rdma {
    /// Opens a device: registers packet memory, posts receives.
    ///
    /// # Errors
    /// `NotFound` when there is no such device, with those that there are; `PermissionDenied`; `AddrNotAvailable` when it has no
    /// address; `OutOfMemory` when so much memory may not be locked.
    pub fn open(config: &RdmaConfig) -> io::Result<Rdma> {
        let adapter = Adapter::open(config)?;
        let wait = Wait::new(&[adapter.completions.fd(), adapter.channel.fd(), adapter.device.async_fd()])?;
        Ok(Rdma {
            name: format!("rdma:{}", config.device),
            streams: Table::new(),
            listeners: Table::new(),
            by_queue: ByQueue::default(),
            asked: HashMap::new(),
            dirty: Vec::new(),
            marked: Marked::default(),
            news: VecDeque::new(),
            timers: Timers::default(),
            actions: Vec::new(),
            due: Vec::new(),
            wakes: Vec::new(),
            wait,
            adapter,
            now: Instant::ZERO,
            look_at: Instant::ZERO,
            health_at: Instant::ZERO,
            watched: Cell::new(false),
            idle: false,
            lost: false,
            refused: 0,
            credits: config.credits,
            connect_timeout: config.connect_timeout,
            close_timeout: config.close_timeout,
            max_sockets: config.max_sockets,
        })
    }

    /// The stream of a handle that has not been given up.
    #[inline]
    fn stream(&mut self, id: StreamId) -> io::Result<&mut Stream> {
        self.streams.get_mut(id.0).filter(|stream| !stream.orphan).ok_or_else(stale)
    }

    fn stream_ref(&self, id: StreamId) -> io::Result<&Stream> {
        self.streams.get(id.0).filter(|stream| !stream.orphan).ok_or_else(stale)
    }

    /// Has a connection flushed, if it has anything to say.
    #[inline]
    pub(super) fn touch(&mut self, handle: Handle) {
        if let Some(stream) = self.streams.get_mut(handle)
            && !stream.dirty
            && stream.session.as_ref().is_some_and(|session| session.wants_flush())
        {
            stream.dirty = true;
            self.dirty.push(handle);
        }
    }

    pub(super) fn arm(&mut self, handle: Handle) {
        if let Some(stream) = self.streams.get_mut(handle) {
            let deadline = stream.deadline();
            self.timers.arm(&mut stream.armed, deadline, handle);
        }
    }

    /// Has connections flushed of which one-sided operations are wanted.
    #[inline]
    fn take_marked(&mut self) {
        for handle in self.marked.borrow_mut().drain(..) {
            if let Some(stream) = self.streams.get_mut(handle)
                && !stream.dirty
            {
                stream.dirty = true;
                self.dirty.push(handle);
            }
        }
    }

    /// A call of the application's on a stream, after which it may have something to say.
    #[inline]
    fn with<T>(
        &mut self,
        id: StreamId,
        call: impl FnOnce(&mut Stream, &Adapter) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some(stream) = self.streams.get_mut(id.0).filter(|stream| !stream.orphan) else {
            return Poll::Ready(Err(stale()));
        };
        let result = call(stream, &self.adapter);
        self.touch(id.0);
        result
    }

    fn on_completion(&mut self, id: u64, queue: u32, status: Status, bytes: u32) {
        let handle = self.by_queue.get(&queue).copied();
        if id & SENT != 0 {
            // Of a queue pair that had the number before, nothing is of interest.
            let tag = (id & !SENT) >> SEQUENCE_BITS;
            if let Some(handle) = handle.filter(|handle| u64::from(handle.generation) == tag)
                && let Some(stream) = self.streams.get_mut(handle)
            {
                stream.completed(&mut self.adapter, self.now, id as u16, status);
                self.after(handle);
            }
            return;
        }
        let Some(message) = self.adapter.receives.completed(id, bytes) else { return };
        if status != Status::Success {
            return;
        }
        if let Some(handle) = handle
            && let Some(stream) = self.streams.get_mut(handle)
        {
            // The first message may come before the event that says that the connection is there.
            if matches!(stream.phase, Phase::Accepting) {
                self.arrived(handle);
            }
            let now = self.now;
            if let Some(stream) = self.streams.get_mut(handle)
                && let Some(session) = &mut stream.session
            {
                session.received(now, message.freeze());
                self.after(handle);
            }
        }
    }

    /// After something has happened to a connection.
    fn after(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        stream.wake(&mut self.wakes);
        if stream.leaving {
            self.settle(handle);
        }
        self.touch(handle);
    }

    /// Brings a connection down that is leaving, once nothing of it is with the adapter.
    fn settle(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        let posted = stream.pair.as_ref().map_or(0, |pair| pair.posted());
        if let Some(number) = stream.settle() {
            self.by_queue.remove(&number);
            self.adapter.posted -= posted;
        }
        let Some(stream) = self.streams.get_mut(handle) else { return };
        stream.wake(&mut self.wakes);
        if stream.pair.is_none() {
            self.release(handle);
        }
    }

    /// A connection has no queue pair any more: what it was promised is free, and so is its place, if nobody wants to know of it.
    pub(super) fn release(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        if let Some(pair) = &stream.pair {
            self.by_queue.remove(&pair.number());
            self.adapter.posted -= pair.posted();
        }
        let _ = stream.bring_down();
        self.asked.remove(&handle.index);
        let credits = std::mem::take(&mut stream.credits);
        if credits > 0 {
            self.adapter.promises.give_back(credits);
        }
        if stream.orphan {
            self.streams.remove(handle);
        }
    }

    /// Drops a connection that nobody has.
    pub(super) fn forget(&mut self, handle: Handle) {
        if let Some(stream) = self.streams.get_mut(handle) {
            stream.orphan = true;
        }
        self.release(handle);
    }

    /// The application gives a connection up: orderly, or by a reset.
    pub(super) fn give_up(&mut self, handle: Handle, reset: bool) {
        let (now, flushing) = (self.now, FLUSHING);
        let Some(stream) = self.streams.get_mut(handle) else { return };
        stream.orphan = true;
        stream.wake_both(&mut self.wakes);
        let reset = reset || stream.options.linger == Some(Duration::ZERO);
        match &mut stream.session {
            Some(session) if !session.is_down() => {
                match reset {
                    true => session.abort(),
                    false => session.close(now),
                }
                stream.give_up_at = Some(now + self.close_timeout + flushing);
                self.touch(handle);
                self.arm(handle);
            }
            _ => self.release(handle),
        }
    }

    /// Timers that are due.
    fn on_timers(&mut self) -> usize {
        let mut due = std::mem::take(&mut self.due);
        while let Some((at, handle)) = self.timers.due(self.now) {
            if let Some(stream) = self.streams.get_mut(handle)
                && stream.armed == Some(at)
            {
                stream.armed = None;
                due.push(handle);
            }
        }
        let count = due.len();
        for handle in due.drain(..) {
            self.on_timer(handle);
            self.after(handle);
            // What it has to say moves its deadline: once that is said, it is armed.
            if self.streams.get(handle).is_some_and(|stream| !stream.dirty) {
                self.arm(handle);
            }
        }
        self.due = due;
        count
    }

    fn on_timer(&mut self, handle: Handle) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(handle) else { return };
        if let Some(session) = &mut stream.session {
            session.tick(now);
        }
        if stream.give_up_at.is_none_or(|at| at > now) {
            return;
        }
        stream.give_up_at = None;
        if stream.session.is_some() {
            // Its requests are not even flushed: the adapter has forgotten them.
            stream.fail(Failure::Unanswered);
            stream.leaving = true;
            self.release(handle);
        } else {
            self.connect_failed(handle, io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
    }

    /// Takes completions, a turn's worth; how many, and whether there may be more.
    fn take_completions(&mut self) -> io::Result<(usize, bool)> {
        for count in 0..COMPLETIONS {
            match self.adapter.completion()? {
                Some(completion) => {
                    self.on_completion(completion.id, completion.queue, completion.status, completion.bytes)
                }
                None => return Ok((count, false)),
            }
        }
        Ok((COMPLETIONS, true))
    }

    /// The device is gone, and every connection with it.
    #[cold]
    fn lose(&mut self) -> io::Error {
        self.lost = true;
        let handles: Vec<Handle> = self.by_queue.values().copied().collect();
        for handle in handles {
            if let Some(stream) = self.streams.get_mut(handle) {
                stream.fail(Failure::DeviceGone);
                self.release(handle);
                self.after(handle);
            }
        }
        self.wake();
        io::Error::new(io::ErrorKind::NetworkDown, format!("device {}: it is gone", self.name))
    }

    /// Wakes whoever a call has found ready, now that the state is settled.
    #[inline]
    fn wake(&mut self) {
        if self.wakes.is_empty() {
            return;
        }
        let mut wakes = std::mem::take(&mut self.wakes);
        for waker in wakes.drain(..) {
            waker.wake();
        }
        self.wakes = wakes;
    }
}

impl Transport for Rdma {
    fn name(&self) -> &str {
        &self.name
    }

    fn pool(&self) -> &Pool {
        &self.adapter.pool
    }

    fn reach(&self, remote: IpAddr) -> Option<u8> {
        self.adapter.networks.bits(remote)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.adapter.networks.addresses().collect()
    }

    fn poll(&mut self, now: Instant) -> io::Result<usize> {
        self.now = now;
        if self.lost {
            return Err(self.lose());
        }
        if now >= self.look_at {
            self.look_at = next_look(now);
            while let Some(event) = self.adapter.channel.next()? {
                self.news.push_back(event);
            }
        }
        if now >= self.health_at {
            self.health_at = now + HEALTH;
            if self.adapter.device.is_lost() {
                return Err(self.lose());
            }
        }
        self.adapter.completions.take_events();
        let (mut events, more) = self.take_completions()?;
        // What the peer has sent before it went away comes first.
        while !more && let Some((token, news)) = self.news.pop_front() {
            self.on_news(token, news);
            events += 1;
            if let Some((true, handle)) = named(token) {
                self.after(handle);
                self.arm(handle);
            }
        }
        events += self.on_timers();
        self.adapter.refill()?;
        self.idle = events == 0;
        self.wake();
        Ok(events)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.now = now;
        self.take_marked();
        let mut at = 0;
        let end = self.dirty.len();
        while at < end {
            let handle = self.dirty[at];
            at += 1;
            let Some(stream) = self.streams.get_mut(handle) else { continue };
            stream.dirty = false;
            let whole = stream.flush(&mut self.adapter, now, &mut self.actions);
            self.after(handle);
            self.arm(handle);
            if let Some(stream) = self.streams.get_mut(handle)
                && !whole
                && !stream.dirty
            {
                stream.dirty = true;
                self.dirty.push(handle);
            }
        }
        self.dirty.drain(..end);
        self.wake();
        if self.idle && self.watched.get() {
            self.adapter.completions.arm()?;
            if self.take_completions()?.0 > 0 {
                self.wake();
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        // What waits for room with the adapter has it with the next completion; what waits for a slot is told by nobody.
        let stalled = (!self.dirty.is_empty() || self.adapter.receives.missing() > 0)
            .then(|| self.now + Duration::from_millis(1));
        match (stalled, self.timers.next()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn park(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.adapter.completions.arm()?;
        // What came before is told by nobody.
        if self.take_completions()?.0 > 0 {
            self.wake();
            return Ok(());
        }
        self.wait.park(timeout)?;
        (self.look_at, self.health_at) = (self.now, self.now);
        Ok(())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watched.set(true);
        (!self.lost).then(|| self.wait.fd())
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.wait.watch(fd);
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.wait.unwatch(fd);
    }

    fn usage(&self) -> TransportUsage {
        TransportUsage {
            streams: self.streams.len(),
            listeners: self.listeners.len(),
            datagrams: 0,
            closing: self.streams.iter().filter(|stream| stream.orphan).count(),
            time_wait: 0,
            descriptors: 0,
            in_flight: self.adapter.posted,
        }
    }

    fn sockets(&self) -> Vec<SocketEntry> {
        let listeners = self.listeners.iter().map(|listener| {
            let mut entry = SocketEntry::new(Protocol::Tcp, TcpState::Listen, listener.address);
            entry.recv_queue = listener.queue.len() as u64;
            entry.send_queue = listener.backlog as u64;
            entry
        });
        let streams = self.streams.iter().filter_map(|stream| {
            let mut entry = SocketEntry::new(Protocol::Tcp, stream.state(), stream.local?);
            let info = stream.info();
            (entry.recv_queue, entry.send_queue) = (info.unread_bytes, info.unacked_bytes);
            (entry.remote, entry.orphan) = (Some(stream.remote), stream.orphan);
            Some(entry)
        });
        listeners.chain(streams).collect()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        vec![("RdmaRefused".to_owned(), self.refused)]
    }

    fn listen(&mut self, local: SocketAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        self.room_for_socket()?;
        // Its handle is known once it is in the table, and events come once it listens.
        let next = self.listeners.next_handle();
        let listener = Listener::open(&self.adapter, local, options, token_of(false, next))?;
        Ok(ListenerId(self.listeners.insert(listener)))
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        let Some(entry) = self.listeners.get_mut(listener.0) else { return Poll::Ready(Err(stale())) };
        while let Some(handle) = entry.queue.pop_front() {
            if let Some(stream) = self.streams.get(handle) {
                return Poll::Ready(Ok((StreamId(handle), stream.remote)));
            }
        }
        remember(&mut entry.waiter, cx);
        Poll::Pending
    }

    fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr> {
        self.listeners.get(listener.0).map(|listener| listener.address).ok_or_else(stale)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        if let Some(mut listener) = self.listeners.remove(listener.0) {
            self.wakes.extend(listener.waiter.take());
            for handle in std::mem::take(&mut listener.queue) {
                self.give_up(handle, true);
            }
            drop(listener);
            self.wake();
        }
    }

    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<StreamId> {
        self.begin(remote, local, options)
    }

    fn poll_connect(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_connect(cx)
    }

    fn poll_pop(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        max: usize,
    ) -> Poll<io::Result<Option<Buf>>> {
        self.with(stream, |stream, _| stream.poll_pop(cx, max))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(stream, |stream, _| stream.poll_read(cx, dst, false))
    }

    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(stream, |stream, _| stream.poll_read(cx, dst, true))
    }

    fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        self.with(stream, |stream, adapter| stream.poll_push(cx, adapter, buf))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(stream, |stream, adapter| stream.poll_write(cx, adapter, src))
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_readable(cx)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_writable(cx)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.with(stream, |stream, _| stream.poll_drained(cx))
    }

    fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()> {
        let entry = self.stream(stream)?;
        entry.shutdown(how)?;
        self.after(stream.0);
        self.wake();
        Ok(())
    }

    fn close(&mut self, stream: StreamId) {
        if self.stream(stream).is_ok() {
            self.give_up(stream.0, false);
            self.wake();
        }
    }

    fn abort(&mut self, stream: StreamId) {
        if self.stream(stream).is_ok() {
            self.give_up(stream.0, true);
            self.wake();
        }
    }

    fn local_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        let unspecified = |remote: SocketAddr| match remote {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
        };
        self.stream_ref(stream).map(|stream| stream.local.unwrap_or(unspecified(stream.remote)))
    }

    fn peer_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        let stream = self.stream_ref(stream)?;
        match stream.state() {
            TcpState::Closed | TcpState::SynSent => Err(io::ErrorKind::NotConnected.into()),
            _ => Ok(stream.remote),
        }
    }

    fn take_error(&mut self, stream: StreamId) -> io::Result<Option<io::Error>> {
        self.stream(stream).map(Stream::take_error)
    }

    fn stream_options(&self, stream: StreamId) -> io::Result<StreamOptions> {
        self.stream_ref(stream).map(|stream| stream.options.clone())
    }

    fn set_stream_options(&mut self, stream: StreamId, options: &StreamOptions) -> io::Result<()> {
        let entry = self.stream(stream)?;
        let old = &entry.options;
        if options.congestion != old.congestion || options.max_pacing_rate != old.max_pacing_rate {
            return Err(unsupported("an RDMA adapter controls congestion by itself"));
        }
        if options.ttl != old.ttl || options.tos != old.tos {
            return Err(unsupported(
                "an RDMA connection's TTL and TOS are set where the device is configured",
            ));
        }
        entry.options = options.clone();
        if let Some(session) = &mut entry.session {
            session.set_keepalive(options.keepalive);
        }
        self.arm(stream.0);
        Ok(())
    }

    fn tcp_info(&self, stream: StreamId) -> io::Result<TcpInfo> {
        self.stream_ref(stream).map(Stream::info)
    }

    fn quickack(&self, stream: StreamId) -> io::Result<bool> {
        // The adapter acknowledges by itself.
        self.stream_ref(stream).map(|_| true)
    }

    fn set_quickack(&mut self, stream: StreamId, quickack: bool) -> io::Result<()> {
        self.stream_ref(stream)?;
        if quickack { Ok(()) } else { Err(unsupported("an RDMA adapter acknowledges by itself")) }
    }

    fn bind_datagram(&mut self, _local: SocketAddr, _options: &DatagramOptions) -> io::Result<DatagramId> {
        Err(no_datagrams())
    }

    fn connect_datagram(&mut self, _socket: DatagramId, _remote: Option<SocketAddr>) -> io::Result<()> {
        Err(stale())
    }

    fn poll_send_to(
        &mut self,
        _cx: &mut Context<'_>,
        _socket: DatagramId,
        _buf: &mut Option<Buf>,
        _remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(stale()))
    }

    fn poll_recv_from(
        &mut self,
        _cx: &mut Context<'_>,
        _socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        Poll::Ready(Err(stale()))
    }

    fn poll_peek_from(
        &mut self,
        _cx: &mut Context<'_>,
        _socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        Poll::Ready(Err(stale()))
    }

    fn poll_datagram_readable(&mut self, _cx: &mut Context<'_>, _socket: DatagramId) -> Poll<io::Result<()>> {
        Poll::Ready(Err(stale()))
    }

    fn poll_datagram_writable(&mut self, _cx: &mut Context<'_>, _socket: DatagramId) -> Poll<io::Result<()>> {
        Poll::Ready(Err(stale()))
    }

    fn datagram_addr(&self, _socket: DatagramId) -> io::Result<SocketAddr> {
        Err(stale())
    }

    fn datagram_peer(&self, _socket: DatagramId) -> io::Result<SocketAddr> {
        Err(stale())
    }

    fn datagram_options(&self, _socket: DatagramId) -> io::Result<DatagramOptions> {
        Err(stale())
    }

    fn set_datagram_options(&mut self, _socket: DatagramId, _options: &DatagramOptions) -> io::Result<()> {
        Err(stale())
    }

    fn close_datagram(&mut self, _socket: DatagramId) {}

    fn one_sided(&mut self, stream: StreamId) -> io::Result<Peer> {
        let Some(entry) = self.streams.get_mut(stream.0).filter(|stream| !stream.orphan) else {
            return Err(stale());
        };
        entry.one_sided(stream.0, &self.marked, &self.adapter)
    }

    fn register(&mut self, bytes: usize, access: Access) -> io::Result<Region> {
        self.adapter.register(bytes, access)
    }
}

#[cold]
fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what.to_owned())
}

#[cold]
fn no_datagrams() -> io::Error {
    unsupported(
        "an rdma device carries streams only: add a kernel transport to the devices (rdma:DEV;uring) for datagrams",
    )
}

impl Drop for Rdma {
    fn drop(&mut self) {
        // A reset rather than silence, for peers of connections that nobody has closed.
        let handles: Vec<Handle> = self.by_queue.values().copied().collect();
        for handle in handles {
            self.forget(handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_sockets() {
        let handle = Handle { index: (1 << 30) - 1, generation: u32::MAX - 1 };
        for stream in [true, false] {
            assert_eq!(named(token_of(stream, handle)), Some((stream, handle)));
        }
        assert_eq!(named(u64::MAX), None);
    }
}
