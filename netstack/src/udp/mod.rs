//! UDP (RFC 768): sockets, what waits in them, and the way out.
//!
//! Owns every UDP socket of one stack. Datagrams wait as views of the memory they were received into, bounded in bytes a socket
//! and in number over all; what does not fit is dropped and counted. Which socket a datagram is for is [`table`]'s to say.

mod known;
mod socket;
mod table;

use core::task::{Context, Poll};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use demi_drivers::spread::Spread;
use demi_drivers::transport::{DatagramId, DatagramOptions, Handle, Protocol, SocketEntry, TcpState};
use demi_drivers::{Buf, Instant};
use slab::Slab;

use crate::addr::{as_seen_by, canonical, unspecified_like};
use crate::config::Limits;
use crate::egress::{Egress, Upper};
use crate::gone::Gone;
use crate::groups::Groups;
use crate::hash::Random;
use crate::path::udp_overhead;
use crate::path_mtu;
use crate::stats::UdpStats;
use crate::tcp::FlowV4;
use crate::tcp::output::{Flow, Refused};
use crate::wire::{ipv6, protocol, udp};

pub(crate) use known::FlowV6;
use known::{Epoch, Found, Known};
use socket::{Datagram, Socket, SocketError};
use table::{Binding, Table};

/// Hop limit of datagrams whose socket names none.
const DEFAULT_TTL: u8 = 64;

/// The UDP layer of one stack.
pub(crate) struct Udp {
    sockets: Slab<Socket>,
    table: Table,
    /// Flows seen lately, and how often what they rest on has changed.
    known_v4: Known<FlowV4>,
    known_v6: Known<FlowV6>,
    changes: u32,
    generation: u32,
    /// Datagrams waiting in all sockets, and how many may.
    queued: usize,
    queued_limit: usize,
    sockets_limit: usize,
    recv_buffer_bytes: usize,
    ephemeral_ports: (u16, u16),
    /// Of ephemeral ports, those with this remainder by the second number are ours: others are other cores'.
    owned_ports: (u16, u16),
    /// Sockets that wait for room below.
    senders: Vec<DatagramId>,
    /// Receivers of a group's datagram: kept for its memory.
    group: Vec<u32>,
}

impl Udp {
    pub(crate) fn new(
        limits: &Limits,
        pool_slots: usize,
        spread: Option<&Spread>,
        random: &mut Random,
    ) -> Udp {
        Udp {
            sockets: Slab::new(),
            table: Table::new(random),
            known_v4: Known::default(),
            known_v6: Known::default(),
            changes: 0,
            generation: 0,
            queued: 0,
            queued_limit: limits.udp_datagrams.unwrap_or(pool_slots / 2).max(1),
            sockets_limit: limits.udp_sockets,
            recv_buffer_bytes: limits.udp_recv_buffer_bytes,
            ephemeral_ports: limits.ephemeral_ports,
            owned_ports: spread.map_or((0, 1), |spread| (spread.queue, spread.queues.max(1))),
            senders: Vec::new(),
            group: Vec::new(),
        }
    }

    /// Sockets open.
    pub(crate) fn len(&self) -> usize {
        self.sockets.len()
    }

    // ---- receiving ----

    /// The socket that a datagram of `flow` (as seen from here) is for.
    #[inline]
    pub(crate) fn lookup(&self, flow: &Flow) -> Option<u32> {
        self.table.lookup(flow)
    }

    /// Where it is known whose the datagrams of `flow` are, if it was seen lately and nothing has changed since; `addresses` counts the
    /// changes of our addresses.
    #[inline(always)]
    pub(crate) fn known_v4(&self, flow: &FlowV4, addresses: u32) -> Option<usize> {
        self.known_v4.find(flow, Epoch { sockets: self.changes, addresses })
    }

    /// As [`known_v4`](Self::known_v4).
    #[inline(always)]
    pub(crate) fn known_v6(&self, flow: &FlowV6, addresses: u32) -> Option<usize> {
        self.known_v6.find(flow, Epoch { sockets: self.changes, addresses })
    }

    /// A datagram of `flow` that came over the wire passed all checks and was for `socket`.
    pub(crate) fn learn(&mut self, flow: &Flow, socket: u32, addresses: u32) {
        let Some(v6) = self.sockets.get(socket as usize).map(|socket| socket.v6) else { return };
        let epoch = Epoch { sockets: self.changes, addresses };
        let found = Found { socket, from: as_seen_by(v6, flow.remote, flow.remote_port) };
        match (flow.local, flow.remote) {
            (IpAddr::V6(local), IpAddr::V6(remote)) => {
                let ports = u32::from(flow.remote_port) << 16 | u32::from(flow.local_port);
                let flow = FlowV6 { remote: remote.to_bits(), local: local.to_bits(), ports };
                self.known_v6.learn(flow, found, epoch);
            }
            _ => self.known_v4.learn(FlowV4::of(flow), found, epoch),
        }
    }

    /// Queues a datagram of `flow` in the socket that [`lookup`](Self::lookup) found for it.
    pub(crate) fn deliver(&mut self, socket: u32, flow: &Flow, payload: Buf, stats: &mut UdpStats) {
        let Some(v6) = self.sockets.get(socket as usize).map(|socket| socket.v6) else { return };
        let from = as_seen_by(v6, flow.remote, flow.remote_port);
        queue(
            &mut self.sockets,
            (&mut self.queued, self.queued_limit),
            &Found { socket, from },
            payload,
            stats,
        );
    }

    /// Queues a datagram of what [`known_v4`](Self::known_v4) has found.
    #[inline(always)]
    pub(crate) fn deliver_known_v4(&mut self, at: usize, payload: Buf, stats: &mut UdpStats) {
        let Some(found) = self.known_v4.at_place(at) else { return };
        queue(&mut self.sockets, (&mut self.queued, self.queued_limit), found, payload, stats);
    }

    /// Queues a datagram of what [`known_v6`](Self::known_v6) has found.
    #[inline(always)]
    pub(crate) fn deliver_known_v6(&mut self, at: usize, payload: Buf, stats: &mut UdpStats) {
        let Some(found) = self.known_v6.at_place(at) else { return };
        queue(&mut self.sockets, (&mut self.queued, self.queued_limit), found, payload, stats);
    }

    /// Takes a datagram to a group or broadcast address, for every socket on its port.
    pub(crate) fn deliver_group(
        &mut self,
        flow: &Flow,
        payload: &Buf,
        groups: &Groups,
        stats: &mut UdpStats,
    ) {
        let mut group = core::mem::take(&mut self.group);
        self.table.lookup_group(flow.local, flow.local_port, &mut group);
        if group.is_empty() {
            stats.no_ports += 1;
        }
        for index in group.drain(..) {
            if flow.local.is_multicast() && !groups.wants(index, flow.local, flow.remote) {
                continue;
            }
            self.deliver(index, flow, payload.clone(), stats);
        }
        self.group = group;
    }

    /// An ICMP error quoted a datagram of `flow`. Only a connected socket can tell which of its sends failed, so only it hears of
    /// it (RFC 1122 §4.1.3.3).
    pub(crate) fn on_error(&mut self, flow: &Flow, error: io::ErrorKind) {
        if let Some(index) = self.table.lookup_connected(flow)
            && let Some(socket) = self.sockets.get_mut(index as usize)
        {
            socket.tell(error);
            socket.wake_both();
        }
    }

    /// The path of `flow` carries no IP packets larger than `mtu`. Answers whether a socket of ours can have sent what was too
    /// large. A connected one hears of it, as on Linux: the datagram is lost.
    pub(crate) fn on_path_mtu(&mut self, now: Instant, flow: &Flow, mtu: u16) -> bool {
        let connected = self.table.lookup_connected(flow);
        let Some(index) = connected.or_else(|| self.table.lookup(flow)) else { return false };
        let Some(socket) = self.sockets.get_mut(index as usize) else { return false };
        let mtu = path_mtu::believed(flow.local.is_ipv6(), mtu);
        socket.limit_path_mtu(mtu, now + path_mtu::EXPIRY);
        if connected.is_some() {
            socket.tell_too_long(mtu);
            socket.wake_both();
        }
        true
    }

    /// No packet may be larger than `mtu` any more.
    pub(crate) fn limit_mtu(&mut self, mtu: u16) {
        for (_, socket) in &mut self.sockets {
            socket.limit_mtu(mtu);
        }
    }

    /// Every socket, as `ss` lists it. For control paths.
    pub(crate) fn list(&self) -> Vec<SocketEntry> {
        let entry = |(_, socket): (usize, &Socket)| {
            let unspecified = if socket.v6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
            let own = socket.flow.map(|flow| flow.local).or(socket.binding.address).unwrap_or(unspecified);
            let state = if socket.flow.is_some() { TcpState::Established } else { TcpState::Closed };
            let local = SocketAddr::new(own, socket.binding.port);
            let mut entry = SocketEntry::new(Protocol::Udp, state, local);
            entry.remote = socket.flow.map(|flow| SocketAddr::new(flow.remote, flow.remote_port));
            entry.recv_queue = socket.queued_bytes() as u64;
            entry
        };
        self.sockets.iter().map(entry).collect()
    }

    /// The device is gone: every socket hears of it.
    pub(crate) fn fail_all(&mut self, gone: &Rc<Gone>) {
        self.senders.clear();
        for (_, socket) in &mut self.sockets {
            socket.waits_to_send = false;
            socket.error = Some(SocketError::Gone(Rc::clone(gone)));
            socket.wake_both();
        }
    }

    /// Wakes the sockets that wait for room below.
    pub(crate) fn wake_senders(&mut self) {
        while let Some(id) = self.senders.pop() {
            if let Ok(socket) = self.socket_mut(id) {
                socket.waits_to_send = false;
                if let Some(waker) = socket.send_waker.take() {
                    waker.wake();
                }
            }
        }
    }

    /// Whether a socket waits for room below.
    #[inline]
    pub(crate) fn has_senders(&self) -> bool {
        !self.senders.is_empty()
    }

    // ---- sockets ----

    fn socket(&self, id: DatagramId) -> io::Result<&Socket> {
        let socket = self.sockets.get(id.0.index as usize);
        socket.filter(|socket| socket.generation == id.0.generation).ok_or_else(stale)
    }

    #[inline]
    fn socket_mut(&mut self, id: DatagramId) -> io::Result<&mut Socket> {
        let socket = self.sockets.get_mut(id.0.index as usize);
        socket.filter(|socket| socket.generation == id.0.generation).ok_or_else(stale)
    }

    pub(crate) fn bind(
        &mut self,
        egress: &Egress,
        local: SocketAddr,
        options: &DatagramOptions,
    ) -> io::Result<DatagramId> {
        if self.sockets.len() >= self.sockets_limit {
            let message = format!("{} UDP sockets are open, the configured limit", self.sockets_limit);
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
        }
        let address = canonical(local.ip());
        let any = address.is_unspecified();
        if !any && !egress.routes.is_local(address) && !egress.routes.is_group(address) {
            let message = format!("{address} is not an address of {}", egress.name);
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, message));
        }
        let mut binding = Binding {
            address: (!any).then_some(address),
            v4: address.is_ipv4() || any && !options.only_v6,
            v6: address.is_ipv6(),
            port: local.port(),
            reuse_address: options.reuse_address,
            reuse_port: options.reuse_port,
        };
        if binding.port == 0 {
            let (remainder, cores) = self.owned_ports;
            let is_ours = |port| port % cores == remainder;
            binding.port = self.table.free_port(self.ephemeral_ports, is_ours).ok_or_else(|| {
                io::Error::new(io::ErrorKind::AddrInUse, "every port of the ephemeral range is in use")
            })?;
        } else if !self.table.is_free(&binding) {
            let message = format!("{local} is in use by another UDP socket");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let limit = options.recv_buffer_bytes.unwrap_or(self.recv_buffer_bytes);
        let socket = Socket::new(
            generation,
            local.is_ipv6(),
            binding,
            options.clone(),
            limit,
            egress.mtu_v4.min(egress.mtu_v6),
        );
        let index = self.sockets.insert(socket) as u32;
        self.table.bind(index, &binding);
        self.changes = self.changes.wrapping_add(1);
        Ok(DatagramId(Handle { index, generation }))
    }

    pub(crate) fn connect(
        &mut self,
        egress: &Egress,
        id: DatagramId,
        remote: Option<SocketAddr>,
    ) -> io::Result<()> {
        let index = id.0.index;
        let socket = self.socket(id)?;
        let (binding, before) = (socket.binding, socket.flow);
        let flow = match remote {
            None => None,
            Some(remote) => {
                let peer = socket.peer(remote)?;
                let local = match binding.address {
                    Some(address) if address.is_ipv4() != peer.is_ipv4() => return Err(family(remote)),
                    Some(address) => address,
                    None => egress.routes.source_for(peer).ok_or_else(|| unreachable_network(remote))?,
                };
                if egress.routes.next_hop(peer).is_none() {
                    return Err(unreachable_network(remote));
                }
                if egress.routes.is_broadcast(peer) && !socket.options.broadcast {
                    return Err(broadcast(remote));
                }
                Some(Flow { local, remote: peer, local_port: binding.port, remote_port: remote.port() })
            }
        };
        if flow == before {
            return Ok(());
        }
        self.changes = self.changes.wrapping_add(1);
        if let Some(before) = before {
            self.table.disconnect(index, &binding, &before);
        }
        if let Some(flow) = &flow
            && !self.table.connect(index, &binding, flow)
        {
            let restored = before.is_none_or(|before| self.table.connect(index, &binding, &before));
            if !restored {
                self.socket_mut(id)?.flow = None;
            }
            let message = "another UDP socket is connected from the same address and port to this peer";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        let mtu = match &flow {
            Some(flow) => egress.mtu_towards(flow.remote),
            None => egress.mtu_v4.min(egress.mtu_v6),
        };
        let socket = self.socket_mut(id)?;
        socket.flow = flow;
        socket.forget_latest();
        socket.set_path_mtu(mtu);
        socket.error = None;
        // Datagrams of others that came before are not the peer's.
        let dropped = flow.map_or(0, |flow| socket.keep_only(&flow));
        self.queued -= dropped;
        Ok(())
    }

    pub(crate) fn close(&mut self, id: DatagramId) {
        let Ok(socket) = self.socket(id) else { return };
        let (binding, flow) = (socket.binding, socket.flow);
        if let Some(flow) = flow {
            self.table.disconnect(id.0.index, &binding, &flow);
        }
        self.table.unbind(id.0.index, &binding);
        self.changes = self.changes.wrapping_add(1);
        let socket = self.sockets.remove(id.0.index as usize);
        self.queued -= socket.queued();
        if socket.waits_to_send {
            self.senders.retain(|sender| *sender != id);
        }
    }

    #[inline(always)]
    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
        from: &mut SocketAddr,
    ) -> Poll<io::Result<Buf>> {
        let socket = self.socket_mut(id)?;
        if let Some(payload) = socket.pop(from) {
            self.queued -= 1;
            return Poll::Ready(Ok(payload));
        }
        socket.wait_to_receive(cx).map(Err)
    }

    pub(crate) fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        id: DatagramId,
    ) -> Poll<io::Result<(Buf, SocketAddr)>> {
        let socket = self.socket_mut(id)?;
        if let Some(Datagram { payload, from }) = socket.front() {
            return Poll::Ready(Ok((payload.clone(), *from)));
        }
        socket.wait_to_receive(cx).map(Err)
    }

    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>, id: DatagramId) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        // An error is left for the receive that follows to report.
        if socket.front().is_some() || socket.error.is_some() {
            return Poll::Ready(Ok(()));
        }
        socket.wait_to_receive(cx).map(Err)
    }

    pub(crate) fn poll_writable(
        &mut self,
        cx: &mut Context<'_>,
        egress: &Egress,
        id: DatagramId,
    ) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        if egress.tx.room() > 0 || socket.error.is_some() {
            return Poll::Ready(Ok(()));
        }
        self.wait_to_send(cx, id)
    }

    fn wait_to_send<T>(&mut self, cx: &mut Context<'_>, id: DatagramId) -> Poll<io::Result<T>> {
        let socket = self.socket_mut(id)?;
        let waits_already = core::mem::replace(&mut socket.waits_to_send, true);
        match &mut socket.send_waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if !waits_already {
            self.senders.push(id);
        }
        Poll::Pending
    }

    // ---- sending ----

    #[inline(always)]
    pub(crate) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        egress: &mut Egress,
        groups: &Groups,
        id: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        if let Some(payload) = buf
            && socket.send_ready(egress, payload, &remote)
        {
            *buf = None;
            egress.stats.version(socket.sends_v6()).udp.out_datagrams += 1;
            return Poll::Ready(Ok(()));
        }
        self.poll_send_any(cx, egress, groups, id, buf, remote)
    }

    #[inline(never)]
    fn poll_send_any(
        &mut self,
        cx: &mut Context<'_>,
        egress: &mut Egress,
        groups: &Groups,
        id: DatagramId,
        buf: &mut Option<Buf>,
        remote: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        if let Some(error) = socket.take_error() {
            return Poll::Ready(Err(error));
        }
        let Some(payload) = buf else { return Poll::Ready(Ok(())) };
        let flow = match remote {
            None => socket.flow.ok_or_else(no_destination)?,
            Some(remote) => socket.flow_to(egress, remote)?,
        };
        if flow.remote.is_multicast() {
            return self.poll_send_group(cx, egress, groups, id, buf, &flow);
        }
        let v6 = flow.local.is_ipv6();
        let limit_bytes = usize::from(socket.path_mtu()).saturating_sub(udp_overhead(v6));
        if payload.len() > limit_bytes {
            return self.poll_send_large(cx, egress, id, buf, &flow);
        }
        let upper = Upper {
            protocol: protocol::UDP,
            tos: socket.options.tos,
            ttl: socket.options.ttl.unwrap_or(DEFAULT_TTL),
            header_len: udp::HEADER_LEN,
            checksum_at: 6,
            offloadable: true,
            gso_bytes: 0,
        };
        let header = udp::Repr {
            src_port: flow.local_port,
            dst_port: flow.remote_port,
            payload_len: payload.len() as u16,
        };
        let parts = core::slice::from_mut(payload);
        let sent = egress.emit(flow.local, flow.remote, socket.path_of(&flow), &upper, parts, |out| {
            if let Some(out) = out.first_chunk_mut() {
                header.emit(out, 0);
            }
            header.sum()
        });
        match sent {
            Ok(()) => {
                *buf = None;
                egress.stats.version(v6).udp.out_datagrams += 1;
                socket.note_ready(remote, &flow, limit_bytes);
                Poll::Ready(Ok(()))
            }
            Err(refused) => self.refused(cx, egress, id, &flow, refused),
        }
    }

    /// Sends a datagram that is larger than the path's packets, in fragments, unless the socket forbids that.
    #[cold]
    #[inline(never)]
    fn poll_send_large(
        &mut self,
        cx: &mut Context<'_>,
        egress: &mut Egress,
        id: DatagramId,
        buf: &mut Option<Buf>,
        flow: &Flow,
    ) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        let Some(payload) = buf else { return Poll::Ready(Ok(())) };
        let v6 = flow.local.is_ipv6();
        socket.refresh_path_mtu(egress, flow.remote);
        let largest = if v6 { udp_overhead(true) - ipv6::HEADER_LEN } else { udp_overhead(false) };
        let limit = if socket.options.dont_fragment && !egress.routes.is_local(flow.remote) {
            usize::from(socket.path_mtu()).saturating_sub(udp_overhead(v6))
        } else {
            usize::from(u16::MAX) - largest
        };
        if payload.len() > limit {
            return Poll::Ready(Err(too_long(payload.len(), limit)));
        }
        let upper = Upper {
            protocol: protocol::UDP,
            tos: socket.options.tos,
            ttl: socket.ttl_towards(flow.remote),
            header_len: udp::HEADER_LEN,
            checksum_at: 6,
            offloadable: false,
            gso_bytes: 0,
        };
        let header = udp::Repr {
            src_port: flow.local_port,
            dst_port: flow.remote_port,
            payload_len: payload.len() as u16,
        };
        let mtu = socket.path_mtu();
        let path = socket.path_of(flow);
        let sent = egress.emit_cut(flow.local, flow.remote, path, &upper, payload, mtu, |out| {
            if let Some(out) = out.first_chunk_mut() {
                header.emit(out, 0);
            }
            header.sum()
        });
        match sent {
            Ok(()) => {
                *buf = None;
                egress.stats.version(v6).udp.out_datagrams += 1;
                Poll::Ready(Ok(()))
            }
            // Room for some of the fragments is not enough.
            Err(Refused::Full) if !egress.tx.is_empty() => self.wait_to_send(cx, id),
            Err(refused) => self.refused(cx, egress, id, flow, refused),
        }
    }

    /// Sends a datagram to a group: as far as the socket lets it go, and to sockets here that listen, unless it forbids that.
    #[cold]
    #[inline(never)]
    fn poll_send_group(
        &mut self,
        cx: &mut Context<'_>,
        egress: &mut Egress,
        groups: &Groups,
        id: DatagramId,
        buf: &mut Option<Buf>,
        flow: &Flow,
    ) -> Poll<io::Result<()>> {
        let socket = self.socket_mut(id)?;
        let options = &socket.options;
        let v6 = flow.remote.is_ipv6();
        let loops = if v6 { options.multicast_loop_v6 } else { options.multicast_loop_v4 }.unwrap_or(true);
        let copy = buf.clone().filter(|_| loops && groups.contains(flow.remote));
        let sent = if socket.ttl_towards(flow.remote) > 0 {
            self.poll_send_large(cx, egress, id, buf, flow)
        } else {
            // Not beyond this host.
            *buf = None;
            Poll::Ready(Ok(()))
        };
        if let (Poll::Ready(Ok(())), true) = (&sent, buf.is_none()) {
            egress.stats.version(v6).ip.out_mcast_pkts += 1;
            if let Some(copy) = copy.filter(|_| groups.admits(flow.remote, flow.local)) {
                let arriving = Flow {
                    local: flow.remote,
                    remote: flow.local,
                    local_port: flow.remote_port,
                    remote_port: flow.local_port,
                };
                self.deliver_group(&arriving, &copy, groups, &mut egress.stats.version(v6).udp);
            }
        }
        sent
    }

    /// The socket's number, for the groups it is in.
    pub(crate) fn number(&self, id: DatagramId) -> io::Result<u32> {
        self.socket(id).map(|_| id.0.index)
    }

    /// A datagram could not be sent: an error, or something to wait for.
    #[cold]
    fn refused(
        &mut self,
        cx: &mut Context<'_>,
        egress: &mut Egress,
        id: DatagramId,
        flow: &Flow,
        refused: Refused,
    ) -> Poll<io::Result<()>> {
        match refused {
            Refused::Unreachable => {
                Poll::Ready(Err(unreachable_network(SocketAddr::new(flow.remote, flow.remote_port))))
            }
            Refused::Full => {
                egress.stats.version(flow.local.is_ipv6()).udp.sndbuf_errors += 1;
                if egress.tx.room() > 0 {
                    // No slot for the headers: the pool wakes us when one comes back; if one has already, try at once.
                    if egress.pool.poll_alloc(cx, 0).is_ready() {
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                self.wait_to_send(cx, id)
            }
        }
    }

    // ---- what a socket is ----

    pub(crate) fn local_addr(&self, id: DatagramId) -> io::Result<SocketAddr> {
        let socket = self.socket(id)?;
        let address = match (socket.flow, socket.binding.address) {
            (Some(flow), _) => flow.local,
            (None, Some(address)) => address,
            (None, None) => {
                let like = if socket.v6 { IpAddr::from([0u16; 8]) } else { IpAddr::from([0u8; 4]) };
                return Ok(SocketAddr::new(unspecified_like(like), socket.binding.port));
            }
        };
        Ok(as_seen_by(socket.v6, address, socket.binding.port))
    }

    pub(crate) fn peer_addr(&self, id: DatagramId) -> io::Result<SocketAddr> {
        let socket = self.socket(id)?;
        let flow = socket.flow.ok_or_else(no_destination)?;
        Ok(as_seen_by(socket.v6, flow.remote, flow.remote_port))
    }

    pub(crate) fn options(&self, id: DatagramId) -> io::Result<DatagramOptions> {
        let socket = self.socket(id)?;
        let mut options = socket.options.clone();
        options.recv_buffer_bytes = Some(socket.limit_bytes());
        Ok(options)
    }

    pub(crate) fn set_options(&mut self, id: DatagramId, options: &DatagramOptions) -> io::Result<()> {
        let default = self.recv_buffer_bytes;
        let socket = self.socket_mut(id)?;
        if options.only_v6 != socket.options.only_v6 {
            let message = "only_v6 is decided when the socket is bound";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        socket.forget_latest();
        socket.set_limit(options.recv_buffer_bytes.unwrap_or(default));
        // What the binding was entered with stays in force until it is removed.
        socket.options = options.clone();
        socket.options.reuse_address = socket.binding.reuse_address;
        socket.options.reuse_port = socket.binding.reuse_port;
        Ok(())
    }
}

/// Queues a datagram in its socket; `queued` are those in all sockets, and how many may be.
#[inline(always)]
fn queue(
    sockets: &mut Slab<Socket>,
    (queued, queued_limit): (&mut usize, usize),
    found: &Found,
    payload: Buf,
    stats: &mut UdpStats,
) {
    let Some(socket) = sockets.get_mut(found.socket as usize) else { return };
    if *queued >= queued_limit {
        stats.mem_errors += 1;
        stats.in_errors += 1;
        return;
    }
    if socket.queue(payload, &found.from) {
        *queued += 1;
        stats.in_datagrams += 1;
    } else {
        stats.rcvbuf_errors += 1;
        stats.in_errors += 1;
    }
}

#[cold]
fn stale() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the UDP socket is closed")
}

#[cold]
fn no_destination() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the UDP socket has no peer: connect it, or send to an address",
    )
}

#[cold]
fn unreachable_network(remote: SocketAddr) -> io::Error {
    io::Error::new(
        io::ErrorKind::NetworkUnreachable,
        format!("no route to {}: add a gateway, or an address on its network", remote.ip()),
    )
}

#[cold]
fn family(remote: SocketAddr) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{remote} is of an IP version that the socket's own address is not"),
    )
}

#[cold]
fn broadcast(remote: SocketAddr) -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} is a broadcast address: set the broadcast option to send there", remote.ip()),
    )
}

#[cold]
fn too_long(len: usize, limit: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("a datagram of {len} bytes does not fit the path's packets: send at most {limit}"),
    )
}
