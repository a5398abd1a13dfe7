//! Kernel sockets over epoll: the transport that works everywhere.
//!
//! Sockets are registered once, edge-triggered, and their readiness is remembered: a call goes to the kernel when it is
//! believed to succeed, and a read that came up short needs no second one to learn that the socket is empty. Bytes go to
//! the kernel in the call that writes them; only what it has no room for is kept, one view a stream, until it has.
//!
//! Owns the sockets and the epoll instance. Never blocks except in [`park`](Transport::park), never wakes anybody before
//! its own state is settled.

mod datagram;
mod epoll;
mod stream;

use core::task::{Context, Poll, Waker, ready};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use self::datagram::Datagram;
use self::epoll::{Epoll, Ready, Token};
use self::stream::{Phase, Stream};
use crate::mem::{Buf, Pool, PoolConfig};
use crate::sockets::closing::Closing;
use crate::sockets::listing::{self, Held};
use crate::sockets::table::Table;
use crate::sockets::{
    address, calls, explain, info, open, options, reach, remember, stale, too_many_sockets, would_block,
};
use crate::time::Instant;
use crate::transport::{
    DatagramId, DatagramOptions, Handle, ListenOptions, ListenerId, Membership, ReadCursor, SocketEntry,
    StreamId, StreamOptions, TcpInfo, Transport, TransportUsage,
};

/// How a [`Posix`] transport is set up.
#[derive(Clone, Debug)]
pub struct PosixConfig {
    /// The memory that received bytes are put in.
    pub pool: PoolConfig,
    /// Sockets that may be open at once.
    pub max_sockets: usize,
    /// Events looked at a turn.
    pub events_per_poll: usize,
    /// How long a closed connection's last bytes may wait for the peer to take them; then it is reset.
    pub close_timeout: Duration,
}

impl Default for PosixConfig {
    fn default() -> Self {
        PosixConfig {
            pool: PoolConfig::default(),
            max_sockets: 1 << 20,
            events_per_poll: 256,
            close_timeout: Duration::from_secs(60),
        }
    }
}

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
    ready: Ready,
    waiter: Option<Waker>,
    options: Rc<StreamOptions>,
}

/// Kernel sockets over epoll.
///
/// ```
/// use demi_drivers::Transport;
/// use demi_drivers::posix::{Posix, PosixConfig};
/// use demi_drivers::transport::ListenOptions;
/// let mut posix = Posix::open(&PosixConfig::default())?;
/// let listener = posix.listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default())?;
/// assert_ne!(posix.listener_addr(listener)?.port(), 0);
/// posix.close_listener(listener);
/// assert_eq!(posix.usage().descriptors, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Posix {
    epoll: Epoll,
    listeners: Table<Listener>,
    streams: Table<Stream>,
    datagrams: Table<Datagram>,
    /// How many streams are in [`Phase::Closing`], and until when.
    closing_streams: usize,
    closing: Closing,
    close_timeout: Duration,
    max_sockets: usize,
    now: Instant,
    /// Who is to be woken once a call is done with the state.
    wakes: Vec<Waker>,
    /// Where the part of a long datagram goes that a small slot doesn't hold.
    spill: Vec<u8>,
    pool: Pool,
}

impl Posix {
    /// Opens an epoll instance and maps the pool.
    ///
    /// # Errors
    /// What `epoll_create1` or [`Pool::new`] said.
    pub fn open(config: &PosixConfig) -> io::Result<Posix> {
        Ok(Posix {
            epoll: Epoll::new(config.events_per_poll)?,
            listeners: Table::new(),
            streams: Table::new(),
            datagrams: Table::new(),
            closing_streams: 0,
            closing: Closing::default(),
            close_timeout: config.close_timeout,
            max_sockets: config.max_sockets,
            now: Instant::ZERO,
            wakes: Vec::new(),
            spill: vec![0; 1 << 16],
            pool: Pool::new(&config.pool)?,
        })
    }

    fn open_sockets(&self) -> usize {
        self.listeners.len() + self.streams.len() + self.datagrams.len()
    }

    fn room_for_socket(&self) -> io::Result<()> {
        if self.open_sockets() < self.max_sockets { Ok(()) } else { Err(too_many_sockets(self.max_sockets)) }
    }

    /// The stream of a handle that has not been given up.
    #[inline]
    fn stream(&mut self, id: StreamId) -> io::Result<&mut Stream> {
        self.streams.get_mut(id.0).filter(|stream| stream.phase != Phase::Closing).ok_or_else(stale)
    }

    #[inline]
    fn stream_ref(&self, id: StreamId) -> io::Result<&Stream> {
        self.streams.get(id.0).filter(|stream| stream.phase != Phase::Closing).ok_or_else(stale)
    }

    #[inline]
    fn datagram(&mut self, id: DatagramId) -> io::Result<&mut Datagram> {
        self.datagrams.get_mut(id.0).ok_or_else(stale)
    }

    #[inline]
    fn datagram_ref(&self, id: DatagramId) -> io::Result<&Datagram> {
        self.datagrams.get(id.0).ok_or_else(stale)
    }

    /// Puts a stream in the table and under epoll.
    fn adopt(&mut self, stream: Stream) -> io::Result<StreamId> {
        let handle = self.streams.insert(stream);
        let registered = match self.streams.get(handle) {
            Some(stream) => self.epoll.add(&stream.socket, Token::Stream(handle)),
            None => Err(stale()),
        };
        match registered {
            Ok(()) => Ok(StreamId(handle)),
            Err(error) => {
                self.streams.remove(handle);
                Err(explain(error, "cannot watch a socket"))
            }
        }
    }

    fn on_event(&mut self, token: Token, event: Ready) {
        match token {
            Token::Stream(handle) => self.on_stream_event(handle, event),
            Token::Listener(handle) => {
                if let Some(listener) = self.listeners.get_mut(handle) {
                    listener.ready.add(event);
                    self.wakes.extend(listener.waiter.take());
                }
            }
            Token::Datagram(handle) => {
                if let Some(datagram) = self.datagrams.get_mut(handle) {
                    datagram.ready.add(event);
                    if event.read {
                        self.wakes.extend(datagram.reader.take());
                    }
                    if event.write {
                        self.wakes.extend(datagram.writer.take());
                    }
                }
            }
            Token::Watched => {}
        }
    }

    fn on_stream_event(&mut self, handle: Handle, event: Ready) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        stream.ready.add(event);
        if event.read
            && let Some(waker) = stream.reader.take()
        {
            self.wakes.push(waker);
        }
        if !event.write || !stream.flush() {
            return;
        }
        if stream.phase == Phase::Closing {
            self.streams.remove(handle);
            self.closing_streams -= 1;
        } else if let Some(waker) = stream.writer.take() {
            self.wakes.push(waker);
        }
    }

    /// Resets connections whose last bytes the peer has not taken in time.
    #[cold]
    fn give_up_due(&mut self) {
        while let Some(handle) = self.closing.due(self.now) {
            if let Some(stream) = self.streams.remove(handle) {
                options::reset_on_close(&stream.socket);
                self.closing_streams -= 1;
            }
        }
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

    fn wake_both(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id.0) {
            self.wakes.extend(stream.reader.take());
            self.wakes.extend(stream.writer.take());
        }
    }
}

impl Transport for Posix {
    fn name(&self) -> &str {
        "posix"
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
        if self.closing.next().is_some_and(|deadline| deadline <= now) {
            self.give_up_due();
        }
        self.epoll.collect()?;
        let mut events = 0;
        while let Some((token, event)) = self.epoll.next() {
            self.on_event(token, event);
            events += usize::from(token != Token::Watched);
        }
        let streams = &self.streams;
        self.closing.settle(|handle| streams.get(handle).is_some());
        self.wake();
        Ok(events)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.now = now;
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        self.closing.next()
    }

    fn park(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.epoll.wait(timeout)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.fd())
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.epoll.watch(fd).map_err(|e| explain(e, format!("cannot watch descriptor {fd}")))
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.epoll.unwatch(fd);
    }

    fn usage(&self) -> TransportUsage {
        TransportUsage {
            streams: self.streams.len(),
            listeners: self.listeners.len(),
            datagrams: self.datagrams.len(),
            closing: self.closing_streams,
            time_wait: 0,
            descriptors: self.open_sockets(),
            in_flight: 0,
        }
    }

    fn sockets(&self) -> Vec<SocketEntry> {
        let listeners =
            self.listeners.iter().map(|listener| listing::listener(&listener.socket, Held::default()));
        let streams = self.streams.iter().map(|stream| {
            let held = Held { received: 0, to_send: stream.rest.as_ref().map_or(0, |rest| rest.len()) };
            listing::stream(&stream.socket, held, stream.phase == Phase::Closing)
        });
        let datagrams =
            self.datagrams.iter().map(|socket| listing::datagram(&socket.socket, Held::default()));
        listeners.chain(streams).chain(datagrams).flatten().collect()
    }

    fn listen(&mut self, local: SocketAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        self.room_for_socket()?;
        let socket = open::listener(local, options)?;
        let handle = self.listeners.insert(Listener {
            address: address::local(&socket)?,
            socket,
            ready: Ready::BELIEVED,
            waiter: None,
            options: Rc::new(options.stream.clone()),
        });
        if let Some(listener) = self.listeners.get(handle)
            && let Err(error) = self.epoll.add(&listener.socket, Token::Listener(handle))
        {
            self.listeners.remove(handle);
            return Err(explain(error, "cannot watch a socket"));
        }
        Ok(ListenerId(handle))
    }

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        listener: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        let room = self.room_for_socket();
        let Some(entry) = self.listeners.get_mut(listener.0) else { return Poll::Ready(Err(stale())) };
        if entry.ready.read {
            // What cannot be held stays in the kernel's queue.
            room?;
        }
        while entry.ready.read {
            match calls::accept(entry.socket.as_fd()) {
                Ok((socket, Some(remote))) => {
                    let options = Rc::clone(&entry.options);
                    let id = self.adopt(Stream::accepted(socket, remote, options))?;
                    return Poll::Ready(Ok((id, remote)));
                }
                Ok((_, None)) => {}
                Err(error) if would_block(&error) => entry.ready.read_blocked(),
                Err(error) if calls::is_of_connection(&error) => {}
                Err(error) => {
                    let what = format!("cannot accept on {}", entry.address);
                    return Poll::Ready(Err(explain(error, what)));
                }
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
        self.room_for_socket()?;
        let (socket, done) = open::connecting(remote, local, options)?;
        self.adopt(Stream::connecting(socket, remote, done, options.clone()))
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
        let Some(entry) = self.streams.get_mut(stream.0).filter(|entry| entry.phase != Phase::Closing) else {
            return Poll::Ready(Err(stale()));
        };
        entry.poll_pop(cx, &self.pool, max)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        dst: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_read(cx, dst, false)
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
        self.stream(stream)?.poll_push(cx, buf)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        stream: StreamId,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(stream)?.poll_write(cx, src)
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_readable(cx)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_writable(cx)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>, stream: StreamId) -> Poll<io::Result<()>> {
        self.stream(stream)?.poll_drained(cx)
    }

    fn shutdown(&mut self, stream: StreamId, how: Shutdown) -> io::Result<()> {
        self.stream(stream)?.shutdown(how)?;
        self.wake_both(stream);
        self.wake();
        Ok(())
    }

    fn close(&mut self, stream: StreamId) {
        if self.stream(stream).is_err() {
            return;
        }
        self.wake_both(stream);
        let Ok(entry) = self.stream(stream) else { return };
        let linger = entry.options.linger;
        if let Some(limit) = linger.filter(|limit| !limit.is_zero()) {
            options::bound_delivery(&entry.socket, limit);
        }
        if entry.rest.is_some() && linger != Some(Duration::ZERO) {
            entry.phase = Phase::Closing;
            self.closing_streams += 1;
            self.closing.add(self.now + linger.unwrap_or(self.close_timeout), stream.0);
        } else {
            self.streams.remove(stream.0);
        }
        self.wake();
    }

    fn abort(&mut self, stream: StreamId) {
        if let Ok(entry) = self.stream(stream) {
            options::reset_on_close(&entry.socket);
            self.wake_both(stream);
            self.streams.remove(stream.0);
            self.wake();
        }
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
        info::tcp_info(&self.stream_ref(stream)?.socket)
    }

    fn quickack(&self, stream: StreamId) -> io::Result<bool> {
        options::quickack(&self.stream_ref(stream)?.socket)
    }

    fn set_quickack(&mut self, stream: StreamId, quickack: bool) -> io::Result<()> {
        options::set_quickack(&self.stream_ref(stream)?.socket, quickack)
    }

    fn bind_datagram(&mut self, local: SocketAddr, options: &DatagramOptions) -> io::Result<DatagramId> {
        self.room_for_socket()?;
        let handle = self.datagrams.insert(Datagram {
            socket: open::datagram(local, options)?,
            ready: Ready::BELIEVED,
            reader: None,
            writer: None,
            v6: local.is_ipv6(),
            options: options.clone(),
        });
        if let Some(datagram) = self.datagrams.get(handle)
            && let Err(error) = self.epoll.add(&datagram.socket, Token::Datagram(handle))
        {
            self.datagrams.remove(handle);
            return Err(explain(error, "cannot watch a socket"));
        }
        Ok(DatagramId(handle))
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
        self.datagram(socket)?.poll_send_to(cx, buf, remote)
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        from: &mut SocketAddr,
    ) -> Poll<io::Result<Buf>> {
        let Some(entry) = self.datagrams.get_mut(socket.0) else { return Poll::Ready(Err(stale())) };
        let (buf, sender) = ready!(entry.poll_recv_from(cx, &self.pool, &mut self.spill, false))?;
        *from = sender;
        Poll::Ready(Ok(buf))
    }

    fn poll_peek_from(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        let Some(entry) = self.datagrams.get_mut(socket.0) else { return Poll::Ready(Err(stale())) };
        entry.poll_recv_from(cx, &self.pool, &mut self.spill, true)
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
        if let Some(mut datagram) = self.datagrams.remove(socket.0) {
            self.wakes.extend(datagram.reader.take());
            self.wakes.extend(datagram.writer.take());
            drop(datagram);
            self.wake();
        }
    }
}
