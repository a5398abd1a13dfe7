//! What the runtime calls: the methods of [`Transport`].
//!
//! A call finds its socket and hands on to it; what a turn does is in [`transport`](super::transport), how connections come to be in
//! [`connect`](super::connect).

use core::task::{Context, Poll, ready};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use super::connect::next_look;
use super::fellows::Fellow;
use super::listener::Listener;
use super::onesided::{Access, Peer, Region};
use super::stream::Stream;
use super::transport::{HEALTH, Named, Rdma, named, token_of};
use super::verbs::cm::Kind;
use crate::mem::{Buf, Pool};
use crate::sockets::{remember, stale};
use crate::time::Instant;
use crate::transport::{
    DatagramId, DatagramOptions, ListenOptions, ListenerId, Protocol, ReadCursor, SocketEntry, StreamId,
    StreamOptions, TcpInfo, TcpState, Transport, TransportUsage,
};

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

    fn has_address(&self, address: IpAddr) -> bool {
        self.adapter.networks.addresses().any(|own| own == address)
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
            if self.adapter.device.is_lost() || self.fellow.as_ref().is_some_and(Fellow::is_lost) {
                return Err(self.lose());
            }
        }
        if self.fellow.as_ref().is_some_and(Fellow::is_rung) {
            self.take_parcels();
        }
        self.adapter.completions.take_events();
        let (mut events, more) = self.take_completions()?;
        // What the peer has sent before it went away comes first.
        while !more && let Some((token, news)) = self.news.pop_front() {
            self.on_news(token, news);
            events += 1;
            if let Some((Named::Stream, handle)) = named(token) {
                self.after(handle);
                self.arm(handle);
            }
        }
        events += self.on_timers();
        events += self.on_peer_timers(now);
        self.adapter.refill()?;
        self.refill_datagrams()?;
        self.idle = events == 0;
        self.wake();
        Ok(events)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        self.now = now;
        self.take_marked();
        let mut at = 0;
        // What is flushed may give itself, or another one, something more to say: once more for each, and the rest at once in a turn
        // of its own.
        let most = self.dirty.len() * 2 + 1;
        while at < most
            && let Some(&handle) = self.dirty.get(at)
        {
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
                self.held.push(handle);
            }
        }
        self.dirty.drain(..at);
        self.again = !self.dirty.is_empty();
        // What waits for room or memory is tried with the next flush, and has no hurry: see `deadline`.
        self.dirty.append(&mut self.held);
        self.flush_datagrams()?;
        // In place of those that messages came in which tasks have let go.
        self.adapter.refill()?;
        self.refill_datagrams()?;
        self.wake();
        if self.idle && self.watched.get() {
            self.adapter.completions.arm()?;
            if self.take_completions()?.0 > 0 {
                self.wake();
                self.again = true;
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        // What waits for room with the adapter, or for a slot, needs none: a completion brings it, or a task of this thread lets it go, and
        // behind either comes a flush.
        let again = self.again.then_some(self.now);
        [again, self.timers.next(), self.datagrams.deadline()].into_iter().flatten().min()
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
            datagrams: self.datagrams.len(),
            closing: self.streams.iter().filter(|stream| stream.orphan).count(),
            time_wait: 0,
            descriptors: 0,
            in_flight: self.adapter.posted + self.datagrams.unsent(),
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
        listeners.chain(streams).chain(self.datagrams.list()).collect()
    }

    fn counters(&self) -> Vec<(String, u64)> {
        self.adapter.counts.list().chain(self.datagrams.counters()).collect()
    }

    fn listen(&mut self, local: SocketAddr, options: &ListenOptions) -> io::Result<ListenerId> {
        self.room_for_socket()?;
        self.adapter.look_for(local.ip());
        // Its handle is known once it is in the table, and events come once it listens.
        let next = self.listeners.next_handle();
        let own = (next, token_of(Named::Listener, next));
        let listener = Listener::open(&self.adapter, self.fellow.as_ref(), local, options, own)?;
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

    fn close_listener(&mut self, id: ListenerId) {
        if let Some(mut listener) = self.listeners.remove(id.0) {
            self.wakes.extend(listener.waiter.take());
            if let Some(fellow) = &self.fellow {
                let ids = std::mem::take(&mut listener.ids);
                fellow.leave(Kind::Connections, listener.address, id.0, ids);
            }
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

    fn bind_datagram(&mut self, local: SocketAddr, options: &DatagramOptions) -> io::Result<DatagramId> {
        self.bind_socket(local, options)
    }

    fn connect_datagram(&mut self, socket: DatagramId, remote: Option<SocketAddr>) -> io::Result<()> {
        self.connect_socket(socket, remote)
    }

    fn poll_send_to(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        self.poll_send_datagram(cx, socket, buf, remote)
    }

    fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
        from: &mut SocketAddr,
    ) -> Poll<io::Result<Buf>> {
        let (buf, sender) = ready!(self.poll_receive_datagram(cx, socket))?;
        *from = sender;
        Poll::Ready(Ok(buf))
    }

    fn poll_peek_from(
        &mut self,
        cx: &mut Context<'_>,
        socket: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        self.poll_peek_datagram(cx, socket)
    }

    fn poll_datagram_readable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>> {
        self.poll_socket_readable(cx, socket)
    }

    fn poll_datagram_writable(&mut self, cx: &mut Context<'_>, socket: DatagramId) -> Poll<io::Result<()>> {
        self.poll_socket_writable(cx, socket)
    }

    fn datagram_addr(&self, socket: DatagramId) -> io::Result<SocketAddr> {
        self.socket_addr(socket)
    }

    fn datagram_peer(&self, socket: DatagramId) -> io::Result<SocketAddr> {
        self.socket_peer(socket)
    }

    fn datagram_options(&self, socket: DatagramId) -> io::Result<DatagramOptions> {
        self.socket_options(socket)
    }

    fn set_datagram_options(&mut self, socket: DatagramId, options: &DatagramOptions) -> io::Result<()> {
        self.set_socket_options(socket, options)
    }

    fn close_datagram(&mut self, socket: DatagramId) {
        self.close_socket(socket);
    }

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
