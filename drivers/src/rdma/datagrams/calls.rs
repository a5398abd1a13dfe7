//! What the runtime calls of a UDP socket.

use core::task::{Context, Poll};
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::super::listener::{hear, not_ours};
use super::super::proto::datagram::Head;
use super::super::transport::{DATAGRAM, Named, Rdma, token_of};
use super::super::verbs::cm::{Id, Kind};
use super::deliver::put_in_line;
use super::peers::{Key, Waiting};
use super::socket::{RECV_BUFFER_BYTES, Socket};
use super::{canonical, enter, leave, no_destination, too_long};
use crate::mem::Buf;
use crate::sockets::{remember, stale};
use crate::transport::{DatagramId, DatagramOptions, Handle};

/// Questions for a port that may wait to be answered.
const BACKLOG: u32 = 1024;

impl Rdma {
    fn socket_mut(&mut self, id: DatagramId) -> io::Result<&mut Socket> {
        self.datagrams.sockets.get_mut(id.0).ok_or_else(stale)
    }

    fn socket(&self, id: DatagramId) -> io::Result<&Socket> {
        self.datagrams.sockets.get(id.0).ok_or_else(stale)
    }

    pub(in super::super) fn bind_socket(
        &mut self,
        local: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<DatagramId> {
        self.room_for_socket()?;
        if self.adapter.device.limits().iwarp {
            return Err(unsupported(
                "an iWARP device carries streams only: add a kernel transport to the devices (rdma:DEV;uring) for datagrams",
            ));
        }
        supported(options, &DatagramOptions::default())?;
        if options.reuse_port {
            return Err(unsupported("a port for RDMA datagrams is one socket's: bind it without reuse_port"));
        }
        let address = match local.ip().is_unspecified() {
            true => local,
            false => canonical(local),
        };
        self.adapter.look_for(address.ip());
        let own = self.datagrams.sockets.next_handle();
        let open = || {
            let token = token_of(Named::Socket, own);
            hear(&self.adapter, address, options.only_v6, BACKLOG, token, Kind::Datagrams)
        };
        let (mut ids, port) = match &self.fellow {
            Some(fellow) => fellow.serve(Kind::Datagrams, address, own, open)?,
            None => open()?,
        };
        let bound = SocketAddr::new(address.ip(), port);
        let ready = self.make_queue(&ids, address.ip());
        if let Some(fellow) = &self.fellow {
            match &ready {
                Ok(queue) => fellow.set_queue(*queue),
                Err(_) => fellow.leave(Kind::Datagrams, bound, own, ids.split_off(0)),
            }
        }
        ready?;
        let socket = Socket::new(own, ids, bound, local.is_ipv6(), options.clone());
        let handle = self.datagrams.sockets.insert(socket);
        enter(&mut self.datagrams.ports, port, handle);
        Ok(DatagramId(handle))
    }

    /// Sees that there is a queue pair, on the port of the device that `ids` are on, or that has `address`; answers its number.
    fn make_queue(&mut self, ids: &[Id], address: IpAddr) -> io::Result<u32> {
        let place = match (&self.datagrams.queue, ids.first()) {
            (Some(queue), _) => queue.port().number,
            (None, Some(id)) => id.port(),
            (None, None) => {
                let any = self.adapter.networks.addresses().next().filter(|_| address.is_unspecified());
                let id = Id::of_kind(&self.adapter.channel, u64::MAX, Kind::Datagrams)?;
                id.bind(SocketAddr::new(any.unwrap_or(address), 0))?;
                id.port()
            }
        };
        if ids.iter().any(|id| id.port() != place) {
            return Err(unsupported(
                "the device has several ports: bind datagrams to addresses of one of them, not to all",
            ));
        }
        match &self.datagrams.queue {
            Some(queue) => Ok(queue.number()),
            None => {
                let queue = self.adapter.datagram_queue(place, DATAGRAM)?;
                Ok(self.datagrams.queue.insert(queue).number())
            }
        }
    }

    pub(in super::super) fn close_socket(&mut self, id: DatagramId) {
        let datagrams = &mut self.datagrams;
        let Some(mut socket) = datagrams.sockets.remove(id.0) else { return };
        if let Some(fellow) = &self.fellow {
            fellow.leave(Kind::Datagrams, socket.bound, id.0, std::mem::take(&mut socket.ids));
        }
        leave(&mut datagrams.ports, socket.bound.port(), id.0);
        if let Some(remote) = socket.remote {
            leave(&mut datagrams.connected, remote, id.0);
        }
        if socket.waits {
            datagrams.senders.retain(|sender| *sender != id.0);
        }
        datagrams.queued -= socket.queued();
        socket.wake_both(&mut self.wakes);
        self.wake();
    }

    pub(in super::super) fn connect_socket(
        &mut self,
        id: DatagramId,
        remote: Option<SocketAddr>,
    ) -> io::Result<()> {
        let socket = self.socket(id)?;
        let peer = match remote {
            None => None,
            Some(remote) => {
                let peer = socket.reachable(remote)?;
                Some((peer, self.own_address(socket, peer)?))
            }
        };
        let datagrams = &mut self.datagrams;
        let Some(socket) = datagrams.sockets.get_mut(id.0) else { return Err(stale()) };
        if let Some(before) = socket.remote {
            leave(&mut datagrams.connected, before, id.0);
        }
        // Datagrams of others that came before are not the peer's.
        datagrams.queued -= socket.set_peer(peer);
        if let Some((peer, _)) = peer {
            enter(&mut datagrams.connected, peer, id.0);
        }
        Ok(())
    }

    /// Our address towards a peer.
    fn own_address(&self, socket: &Socket, peer: SocketAddr) -> io::Result<IpAddr> {
        let bound = socket.bound.ip();
        let is_nobodys = peer.ip().is_multicast() || peer.ip() == IpAddr::from([255; 4]);
        if is_nobodys {
            return Err(unsupported(
                "an rdma device sends datagrams to one peer each: add a kernel transport to the devices (rdma:DEV;uring) for groups and broadcast",
            ));
        }
        let own = match bound.is_unspecified() {
            true => self.adapter.networks.towards(peer.ip()),
            false => Some(bound),
        };
        own.filter(|_| self.adapter.networks.bits(peer.ip()).is_some()).ok_or_else(|| {
            let what = not_ours(&self.adapter, peer.ip()).to_string();
            io::Error::new(io::ErrorKind::NetworkUnreachable, what)
        })
    }

    /// Whom a datagram goes to, and what is known of that; `None` when too many others are being asked for.
    fn receiver_of(&mut self, id: DatagramId, remote: Option<SocketAddr>) -> io::Result<Option<Handle>> {
        let socket = self.socket(id)?;
        let named = match remote.or(socket.remote) {
            Some(named) => named,
            None => return Err(no_destination()),
        };
        if let Some((latest, handle)) = socket.latest
            && latest == named
            && self.datagrams.peers.knows(handle)
        {
            return Ok(Some(handle));
        }
        let key: Key = match remote {
            Some(remote) => {
                let peer = socket.reachable(remote)?;
                (self.own_address(socket, peer)?, peer)
            }
            None => (self.own_address(socket, named)?, named),
        };
        let handle = self.peer(key);
        self.socket_mut(id)?.latest = handle.map(|handle| (named, handle));
        Ok(handle)
    }

    pub(in super::super) fn poll_send_datagram(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.socket_mut(id)?.take_error() {
            return Poll::Ready(Err(error));
        }
        let Some(len) = buf.as_ref().map(Buf::len) else { return Poll::Ready(Ok(())) };
        let from_port = self.socket(id)?.bound.port();
        let receiver = self.receiver_of(id, remote)?;
        let longest = usize::from(self.longest());
        let datagrams = &mut self.datagrams;
        let Some((handle, peer)) =
            receiver.and_then(|handle| datagrams.peers.get_mut(handle).map(|peer| (handle, peer)))
        else {
            *buf = None;
            datagrams.counters.unresolved += 1;
            return Poll::Ready(Ok(()));
        };
        let most = if peer.way.is_some() { peer.most } else { longest };
        let limit = most.saturating_sub(Head::len_of(peer.key.0));
        if len > limit {
            return Poll::Ready(Err(too_long(len, limit)));
        }
        let Some(payload) = buf else { return Poll::Ready(Ok(())) };
        if !payload.is_empty() && !self.adapter.covers(payload) {
            // Of another pool, which the adapter does not reach.
            let mut copy = match self.adapter.pool.poll_alloc_spare(cx, len) {
                Poll::Ready(Some(copy)) => copy,
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                Poll::Pending => return Poll::Pending,
            };
            copy.put_slice(payload);
            *payload = copy.freeze();
        }
        let Some(queue) = &mut datagrams.queue else { return Poll::Ready(Err(stale())) };
        peer.used = true;
        match (&peer.way, peer.absent) {
            (Some(way), _) if queue.has_room() => {
                let way = std::rc::Rc::clone(way);
                match put_in_line(&self.adapter, queue, &way, payload, peer.key, from_port) {
                    Some(()) => *buf = None,
                    None => {
                        // No slot for the header: the pool wakes us when one comes back; if one has already, try at once.
                        if self.adapter.pool.poll_alloc(cx, 0).is_ready() {
                            cx.waker().wake_by_ref();
                        }
                        return Poll::Pending;
                    }
                }
            }
            (Some(_), _) => return self.wait_to_send(cx, id),
            (None, Some(error)) => {
                *buf = None;
                datagrams.counters.unresolved += 1;
                // As from the network: the call that follows hears of it, of a connected socket.
                if let Some(socket) = datagrams.sockets.get_mut(id.0).filter(|socket| socket.remote.is_some())
                {
                    socket.error = Some(error);
                    socket.wake_both(&mut self.wakes);
                    self.wake();
                }
            }
            (None, None) => {
                if let Some(payload) = buf.take() {
                    let dropped = datagrams.peers.put_aside(handle, Waiting { payload, from_port });
                    datagrams.counters.unresolved += dropped;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn wait_to_send(&mut self, cx: &mut Context<'_>, id: DatagramId) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        remember(&mut socket.writer, cx);
        if !std::mem::replace(&mut socket.waits, true) {
            self.datagrams.senders.push(id.0);
        }
        Poll::Pending
    }

    pub(in super::super) fn poll_socket_writable(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
    ) -> Poll<io::Result<()>> {
        let has_error = self.socket(id)?.has_error();
        if has_error || self.datagrams.queue.as_ref().is_none_or(|queue| queue.has_room()) {
            return Poll::Ready(Ok(()));
        }
        self.wait_to_send(cx, id)
    }

    pub(in super::super) fn poll_receive_datagram(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        let socket = self.socket_mut(id)?;
        if let Some(datagram) = socket.pop() {
            self.datagrams.queued -= 1;
            return Poll::Ready(Ok(datagram));
        }
        socket.wait_to_receive(cx).map(Err)
    }

    pub(in super::super) fn poll_peek_datagram(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        let socket = self.socket_mut(id)?;
        match socket.front() {
            Some(datagram) => Poll::Ready(Ok(datagram)),
            None => socket.wait_to_receive(cx).map(Err),
        }
    }

    pub(in super::super) fn poll_socket_readable(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
    ) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        // An error is left for the receive that follows to report.
        if socket.queued() > 0 || socket.has_error() {
            return Poll::Ready(Ok(()));
        }
        socket.wait_to_receive(cx).map(Err)
    }

    pub(in super::super) fn socket_addr(&self, id: DatagramId) -> io::Result<SocketAddr> {
        self.socket(id).map(Socket::local_addr)
    }

    pub(in super::super) fn socket_peer(&self, id: DatagramId) -> io::Result<SocketAddr> {
        self.socket(id)?.peer_addr().ok_or_else(no_destination)
    }

    pub(in super::super) fn socket_options(&self, id: DatagramId) -> io::Result<DatagramOptions> {
        let mut options = self.socket(id)?.options.clone();
        options.recv_buffer_bytes.get_or_insert(RECV_BUFFER_BYTES);
        Ok(options)
    }

    pub(in super::super) fn set_socket_options(
        &mut self,
        id: DatagramId,
        options: &DatagramOptions,
    ) -> io::Result<()> {
        let socket = self.socket_mut(id)?;
        supported(options, &socket.options)?;
        if options.only_v6 != socket.options.only_v6 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "only_v6 is decided when the socket is bound",
            ));
        }
        let (address, port) = (socket.options.reuse_address, socket.options.reuse_port);
        socket.options = options.clone();
        (socket.options.reuse_address, socket.options.reuse_port) = (address, port);
        Ok(())
    }
}

/// Refuses a change of what the device decides.
fn supported(options: &DatagramOptions, before: &DatagramOptions) -> io::Result<()> {
    if options.ttl != before.ttl || options.tos != before.tos {
        return Err(unsupported("TTL and TOS of RDMA datagrams are set where the device is configured"));
    }
    Ok(())
}

#[cold]
fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what.to_owned())
}
