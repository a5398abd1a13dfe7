//! Kernel sockets over io_uring: bytes arrive in pool slots before anybody asks, and leave from them, many sockets a system
//! call.
//!
//! Every connection has one multishot receive that takes its buffers from a ring of pool slots, every listener one multishot
//! accept. What is written is queued and goes out with the next [`flush`](Transport::flush): one operation a stream, all
//! streams in one `io_uring_enter`.
//!
//! ## The kernel never holds a pointer that Rust has freed
//! 1. An entry of a table is removed only once its last operation has completed; cancelling one does not end it.
//! 2. What an operation reads (views, messages) is owned by its entry; what it writes are slots owned by `Buffers`.
//! 3. Dropping the transport cancels everything and waits for every completion. Should the kernel not oblige, the memory is
//!    leaked instead of freed.

mod buffers;
mod datagram;
mod drive;
mod listener;
mod message;
mod ring;
mod stream;

use core::task::{Context, Poll, Waker};
use std::io::{self, IoSlice};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use self::buffers::Buffers;
use self::datagram::Datagram;
use self::listener::Listener;
use self::message::Messages;
use self::ring::{Completion, Op, Ring};
use self::stream::{Phase, Stream};
use crate::mem::{Buf, Pool, PoolConfig};
use crate::sockets::closing::Closing;
use crate::sockets::table::Table;
use crate::sockets::{address, explain, info, open, options, reach, remember, stale, too_many_sockets};
use crate::time::Instant;
use crate::transport::{
    DatagramId, DatagramOptions, Handle, ListenOptions, ListenerId, Membership, ReadCursor, SocketEntry,
    StreamId, StreamOptions, TcpInfo, Transport, TransportUsage,
};

/// Buffer group of small slots, that streams receive into.
const SMALL_GROUP: u16 = 0;
/// Buffer group of large slots, that datagram sockets and streams in full flow receive into.
const LARGE_GROUP: u16 = 1;

/// How a [`Uring`] transport is set up.
#[derive(Clone, Debug)]
pub struct UringConfig {
    /// The memory that received bytes are put in.
    pub pool: PoolConfig,
    /// Sockets that may be open at once.
    pub max_sockets: usize,
    /// Entries of the submission queue; the completion queue has eight times as many.
    pub entries: u32,
    /// Small slots that lie ready for the kernel to receive into; at most a quarter of the pool's.
    pub recv_buffers: u16,
    /// Large slots that do so, for datagrams and for streams in full flow; at most a quarter of the pool's.
    pub large_recv_buffers: u16,
    /// Bytes a stream may have written that the kernel has not taken yet; the write that crosses it is still accepted.
    pub send_queue_bytes: usize,
    /// How long a closed connection's last bytes may wait for the peer to take them; then it is reset.
    pub close_timeout: Duration,
}

impl Default for UringConfig {
    fn default() -> Self {
        UringConfig {
            pool: PoolConfig::default(),
            max_sockets: 1 << 20,
            entries: 512,
            recv_buffers: 1024,
            large_recv_buffers: 32,
            send_queue_bytes: 256 * 1024,
            close_timeout: Duration::from_secs(60),
        }
    }
}

/// Kernel sockets over io_uring. Needs Linux 6.0, better 6.1.
///
/// ```
/// use demi_drivers::Transport;
/// use demi_drivers::transport::ListenOptions;
/// use demi_drivers::uring::{Uring, UringConfig};
/// // Where io_uring is forbidden the error says so, and `posix` is the way out.
/// let Ok(mut uring) = Uring::open(&UringConfig::default()) else { return Ok(()) };
/// let listener = uring.listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default())?;
/// assert_ne!(uring.listener_addr(listener)?.port(), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Uring {
    ring: Ring,
    // What operations name is dropped by hand, once they are all over.
    listeners: ManuallyDrop<Table<Listener>>,
    streams: ManuallyDrop<Table<Stream>>,
    datagrams: ManuallyDrop<Table<Datagram>>,
    buffers: ManuallyDrop<Buffers>,
    large_buffers: ManuallyDrop<Buffers>,
    /// Bytes that fill a small buffer; more than there can be where the pool has no larger ones.
    full_small: usize,
    template: ManuallyDrop<Box<libc::msghdr>>,
    messages: Messages,
    /// Streams that have something to send and no send under way.
    dirty: Vec<Handle>,
    /// Streams and datagram sockets whose receive ended for want of buffers.
    starved: Vec<Handle>,
    starved_datagrams: Vec<Handle>,
    /// Watched descriptors, and whether a poll of theirs is under way.
    watched: Vec<(RawFd, bool)>,
    closing_streams: usize,
    closing: Closing,
    close_timeout: Duration,
    send_queue_bytes: usize,
    max_sockets: usize,
    now: Instant,
    /// Completions being looked at.
    batch: Vec<Completion>,
    /// Who is to be woken once a call is done with the state.
    wakes: Vec<Waker>,
    pool: Pool,
}

impl Uring {
    /// Sets up the rings and maps the pool.
    ///
    /// # Errors
    /// `Unsupported` when the kernel has no io_uring or an old one, `PermissionDenied` when it is forbidden
    /// (`kernel.io_uring_disabled`, seccomp); otherwise what the kernel or [`Pool::new`] said.
    pub fn open(config: &UringConfig) -> io::Result<Uring> {
        let ring = Ring::open(config.entries.clamp(8, 32_768))?;
        let pool = Pool::new(&config.pool)?;
        let stats = pool.stats();
        let count = within_quarter(config.recv_buffers, stats.slots);
        let buffers = Buffers::new(&ring, &pool, SMALL_GROUP, count, pool.small_capacity())?;
        let slots = if stats.large_slots > 0 { stats.large_slots } else { stats.slots };
        let count = within_quarter(config.large_recv_buffers, slots);
        let large_buffers = Buffers::new(&ring, &pool, LARGE_GROUP, count, pool.max_capacity())?;
        Ok(Uring {
            ring,
            listeners: ManuallyDrop::new(Table::new()),
            streams: ManuallyDrop::new(Table::new()),
            datagrams: ManuallyDrop::new(Table::new()),
            buffers: ManuallyDrop::new(buffers),
            large_buffers: ManuallyDrop::new(large_buffers),
            full_small: if stats.large_slots > 0 { pool.small_capacity() } else { usize::MAX },
            template: ManuallyDrop::new(datagram::template()),
            messages: Messages::default(),
            dirty: Vec::new(),
            starved: Vec::new(),
            starved_datagrams: Vec::new(),
            watched: Vec::new(),
            closing_streams: 0,
            closing: Closing::default(),
            close_timeout: config.close_timeout,
            send_queue_bytes: config.send_queue_bytes.max(1),
            max_sockets: config.max_sockets,
            now: Instant::ZERO,
            batch: Vec::with_capacity(ring::BATCH),
            wakes: Vec::new(),
            pool,
        })
    }

    fn room_for_socket(&self) -> io::Result<()> {
        let sockets = self.listeners.len() + self.streams.len() + self.datagrams.len();
        if sockets < self.max_sockets { Ok(()) } else { Err(too_many_sockets(self.max_sockets)) }
    }

    /// The stream of a handle that has not been given up.
    #[inline]
    fn stream(&mut self, id: StreamId) -> io::Result<&mut Stream> {
        self.streams.get_mut(id.0).filter(|stream| stream.is_held()).ok_or_else(stale)
    }

    #[inline]
    fn stream_ref(&self, id: StreamId) -> io::Result<&Stream> {
        self.streams.get(id.0).filter(|stream| stream.is_held()).ok_or_else(stale)
    }

    #[inline]
    fn datagram(&mut self, id: DatagramId) -> io::Result<&mut Datagram> {
        self.datagrams.get_mut(id.0).filter(|socket| socket.is_held()).ok_or_else(stale)
    }

    #[inline]
    fn datagram_ref(&self, id: DatagramId) -> io::Result<&Datagram> {
        self.datagrams.get(id.0).filter(|socket| socket.is_held()).ok_or_else(stale)
    }

    /// After the application has taken something out of a stream's inbox.
    #[inline]
    fn after_read(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id.0) {
            stream.receive(id.0, &mut self.ring);
        }
    }

    /// After the application has written to a stream.
    #[inline]
    fn after_write(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id.0)
            && !stream.dirty
            && stream.wants_to_send()
        {
            stream.dirty = true;
            self.dirty.push(id.0);
        }
    }

    /// After the application has taken a datagram, or been told why there is none.
    fn after_datagram(&mut self, id: DatagramId) {
        if let Some(socket) = self.datagrams.get_mut(id.0) {
            socket.receive(id.0, &mut self.ring, LARGE_GROUP, &self.template);
        }
    }

    fn give_up(&mut self, id: StreamId, abort: bool) {
        let Some(stream) = self.streams.get_mut(id.0).filter(|stream| stream.is_held()) else { return };
        self.wakes.extend(stream.reader.take());
        self.wakes.extend(stream.writer.take());
        let linger = stream.options.linger;
        let reset = abort || stream.has_unread() || linger == Some(Duration::ZERO);
        stream.give_up(reset, id.0, &mut self.ring);
        self.closing_streams += 1;
        if !reset && let Some(limit) = linger {
            options::bound_delivery(&stream.socket, limit);
        }
        if !reset && !stream.is_drained() {
            self.closing.add(self.now + linger.unwrap_or(self.close_timeout), id.0);
        }
        self.remove_if_over(id.0);
        self.wake();
    }
}

/// The largest power of two that is at most `wanted` and a quarter of `slots`.
fn within_quarter(wanted: u16, slots: usize) -> u16 {
    let most = usize::from(wanted).min(slots / 4).max(1);
    1 << most.ilog2()
}

/// Lets an operation wait for room or data within the kernel: io_uring fails what would block on a non-blocking socket with
/// `EAGAIN`. Direct calls carry `MSG_DONTWAIT` of their own.
fn let_kernel_wait(socket: &OwnedFd) -> io::Result<()> {
    socket2::SockRef::from(socket).set_nonblocking(false)
}

impl Transport for Uring {
    fn name(&self) -> &str {
        "uring"
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn reach(&self, remote: IpAddr) -> Option<u8> {
        Some(reach::bits(remote))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        Vec::new()
    }

    fn poll(&mut self, now: Instant) -> io::Result<usize> {
        self.now = now;
        self.drive()
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.now = now;
        self.prepare();
        self.ring.submit()
    }

    fn deadline(&self) -> Option<Instant> {
        self.closing.next()
    }

    fn park(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.prepare();
        self.arm_watched();
        if self.wakes.is_empty() { self.ring.submit_and_wait(timeout) } else { self.ring.submit() }
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.fd())
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        // SAFETY: no memory is passed.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            return Err(explain(io::Error::last_os_error(), format!("cannot watch descriptor {fd}")));
        }
        self.watched.push((fd, false));
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        // The place stays: what the kernel says of the poll that is under way names it.
        for (index, (watched, armed)) in self.watched.iter_mut().enumerate() {
            if *watched == fd {
                *watched = -1;
                if *armed {
                    self.ring.cancel(Op::Watch, Handle { index: index as u32, generation: 0 });
                }
            }
        }
    }

    fn usage(&self) -> TransportUsage {
        let watching = self.watched.iter().filter(|(_, armed)| *armed).count();
        TransportUsage {
            streams: self.streams.len(),
            // Those given up hold their descriptor until their last operation has completed, but are nobody's.
            listeners: self.listeners.iter().filter(|listener| listener.is_held()).count(),
            datagrams: self.datagrams.iter().filter(|socket| socket.is_held()).count(),
            closing: self.closing_streams,
            time_wait: 0,
            descriptors: self.streams.len()
                + self.datagrams.len()
                + self.listeners.iter().map(Listener::descriptors).sum::<usize>(),
            in_flight: self.ring.in_flight() - watching,
        }
    }

    fn sockets(&self) -> Vec<SocketEntry> {
        let listeners = self.listeners.iter().map(Listener::entry);
        let streams = self.streams.iter().map(Stream::entry);
        let datagrams = self.datagrams.iter().map(Datagram::entry);
        listeners.chain(streams).chain(datagrams).flatten().collect()
    }

    fn listen(&mut self, local: SocketAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        self.room_for_socket()?;
        let socket = open::listener(local, options)?;
        let address = address::local(&socket)?;
        let listener = Listener::new(socket, address, Rc::new(options.stream.clone()));
        let handle = self.listeners.insert(listener);
        if let Some(listener) = self.listeners.get_mut(handle) {
            listener.accept(handle, &mut self.ring);
        }
        Ok(ListenerId(handle))
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        let room = self.room_for_socket();
        let Some(entry) = self.listeners.get_mut(listener.0).filter(|entry| entry.is_held()) else {
            return Poll::Ready(Err(stale()));
        };
        while let Some(next) = entry.next() {
            let socket = next.map_err(|e| explain(e, format!("cannot accept on {}", entry.address)));
            entry.accept(listener.0, &mut self.ring);
            let socket = socket?;
            // A connection that is gone before anybody looked is no connection.
            let Ok(remote) = address::peer(&socket) else { continue };
            if let Err(error) = room {
                entry.put_back(socket);
                return Poll::Ready(Err(error));
            }
            let stream = Stream::new(socket, remote, Phase::Open, Rc::clone(&entry.options));
            let id = StreamId(self.streams.insert(stream));
            self.after_read(id);
            return Poll::Ready(Ok((id, remote)));
        }
        entry.accept(listener.0, &mut self.ring);
        remember(&mut entry.waiter, cx);
        Poll::Pending
    }

    fn listener_addr(&self, listener: ListenerId) -> io::Result<SocketAddr> {
        let entry = self.listeners.get(listener.0).filter(|entry| entry.is_held());
        entry.map(|entry| entry.address).ok_or_else(stale)
    }

    fn close_listener(&mut self, listener: ListenerId) {
        let Some(entry) = self.listeners.get_mut(listener.0).filter(|entry| entry.is_held()) else { return };
        self.wakes.extend(entry.waiter.take());
        entry.close(listener.0, &mut self.ring);
        if entry.is_over() {
            self.listeners.remove(listener.0);
        }
        self.wake();
    }

    fn connect(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<StreamId> {
        self.room_for_socket()?;
        let (socket, done) = open::connecting(remote, local, options)?;
        let_kernel_wait(&socket)?;
        let phase = if done { Phase::Open } else { Phase::Connecting };
        let handle = self.streams.insert(Stream::new(socket, remote, phase, Rc::new(options.clone())));
        if let Some(stream) = self.streams.get_mut(handle) {
            if done {
                stream.receive(handle, &mut self.ring);
            } else {
                stream.start_connect(handle, &mut self.ring);
            }
        }
        Ok(StreamId(handle))
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
        let popped = self.stream(stream)?.poll_pop(cx, max);
        self.after_read(stream);
        popped
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.stream(stream)?.poll_read(cx, dst, false);
        self.after_read(stream);
        read
    }

    fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_read(cx, dst, true)
    }

    fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        let limit = self.send_queue_bytes;
        let pushed = self.stream(stream)?.poll_push(cx, buf, limit);
        self.after_write(stream);
        pushed
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(entry) = self.streams.get_mut(stream.0).filter(|entry| entry.is_held()) else {
            return Poll::Ready(Err(stale()));
        };
        let written = entry.poll_write(cx, src, &self.pool, self.send_queue_bytes);
        self.after_write(stream);
        written
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_readable(cx)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        let limit = self.send_queue_bytes;
        self.stream(stream)?.poll_writable(cx, limit)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_drained(cx)
    }

    fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()> {
        let entry = self.stream(stream)?;
        entry.shutdown(how)?;
        let waiting = [entry.reader.take(), entry.writer.take()];
        self.wakes.extend(waiting.into_iter().flatten());
        self.wake();
        Ok(())
    }

    fn close(&mut self, stream: StreamId) {
        self.give_up(stream, false);
    }

    fn abort(&mut self, stream: StreamId) {
        self.give_up(stream, true);
    }

    fn local_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        address::local(&self.stream_ref(stream)?.socket)
    }

    fn peer_addr(&self, stream: StreamId) -> io::Result<SocketAddr> {
        address::peer(&self.stream_ref(stream)?.socket)
    }

    fn take_error(&mut self, stream: StreamId) -> io::Result<Option<io::Error>> {
        self.stream(stream)?.take_error()
    }

    fn stream_options(&self, stream: StreamId) -> io::Result<StreamOptions> {
        Ok(StreamOptions::clone(&self.stream_ref(stream)?.options))
    }

    fn set_stream_options(&mut self, stream: StreamId, options: &StreamOptions) -> io::Result<()> {
        self.stream(stream)?.set_options(options)
    }

    fn tcp_info(&self, stream: StreamId) -> io::Result<TcpInfo> {
        let entry = self.stream_ref(stream)?;
        let mut info = info::tcp_info(&entry.socket)?;
        info.unread_bytes += entry.unread_bytes() as u64;
        Ok(info)
    }

    fn quickack(&self, stream: StreamId) -> io::Result<bool> {
        options::quickack(&self.stream_ref(stream)?.socket)
    }

    fn set_quickack(&mut self, stream: StreamId, quickack: bool) -> io::Result<()> {
        options::set_quickack(&self.stream_ref(stream)?.socket, quickack)
    }

    fn bind_datagram(&mut self, local: SocketAddr, options: &DatagramOptions) -> io::Result<DatagramId> {
        self.room_for_socket()?;
        let socket = open::datagram(local, options)?;
        let_kernel_wait(&socket)?;
        let handle = self.datagrams.insert(Datagram::new(socket, local.is_ipv6(), options.clone()));
        let id = DatagramId(handle);
        self.after_datagram(id);
        Ok(id)
    }

    fn connect_datagram(&mut self, socket: DatagramId, remote: Option<SocketAddr>) -> io::Result<()> {
        options::associate(&self.datagram(socket)?.socket, remote)
    }

    fn poll_send_to(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        let Some(entry) = self.datagrams.get_mut(socket.0).filter(|entry| entry.is_held()) else {
            return Poll::Ready(Err(stale()));
        };
        entry.poll_send_to(cx, buf, remote, socket.0, &mut self.ring)
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        from: &mut SocketAddr,
    ) -> Poll<io::Result<Buf>> {
        let received = self.datagram(socket)?.poll_recv(cx, from);
        self.after_datagram(socket);
        received
    }

    fn poll_peek_from(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        let shown = self.datagram(socket)?.poll_peek_from(cx);
        self.after_datagram(socket);
        shown
    }

    fn poll_datagram_readable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>> {
        self.datagram(socket)?.poll_readable(cx)
    }

    fn poll_datagram_writable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>> {
        self.datagram(socket)?.poll_writable(cx)
    }

    fn datagram_addr(&self, socket: DatagramId) -> io::Result<SocketAddr> {
        address::local(&self.datagram_ref(socket)?.socket)
    }

    fn datagram_peer(&self, socket: DatagramId) -> io::Result<SocketAddr> {
        address::peer(&self.datagram_ref(socket)?.socket)
    }

    fn datagram_options(&self, socket: DatagramId) -> io::Result<DatagramOptions> {
        Ok(self.datagram_ref(socket)?.options.clone())
    }

    fn set_datagram_options(&mut self, socket: DatagramId, options: &DatagramOptions) -> io::Result<()> {
        let entry = self.datagram(socket)?;
        options::apply_datagram(&entry.socket, entry.v6, &entry.options, options)?;
        entry.options = options.clone();
        Ok(())
    }

    fn join_group(&mut self, socket: DatagramId, membership: &Membership) -> io::Result<()> {
        options::member(&self.datagram_ref(socket)?.socket, membership, true)
    }

    fn leave_group(&mut self, socket: DatagramId, membership: &Membership) -> io::Result<()> {
        options::member(&self.datagram_ref(socket)?.socket, membership, false)
    }

    fn close_datagram(&mut self, socket: DatagramId) {
        let Some(entry) = self.datagrams.get_mut(socket.0).filter(|entry| entry.is_held()) else { return };
        self.wakes.extend(entry.reader.take());
        self.wakes.extend(entry.writer.take());
        entry.close(socket.0, &mut self.ring);
        // The address is free once the kernel has let go of the receive: not a turn later.
        let _ = self.ring.submit();
        if entry.is_over() {
            self.datagrams.remove(socket.0);
        }
        self.wake();
    }
}
