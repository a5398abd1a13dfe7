//! One UDP socket: its receive queue, its peer, its waiters.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use demi_drivers::transport::DatagramOptions;
use demi_drivers::{Buf, Instant};

use super::table::Binding;
use super::{broadcast, family, unreachable_network};
use crate::addr::canonical;
use crate::egress::Egress;
use crate::gone::Gone;
use crate::path::Path;
use crate::tcp::output::Flow;

/// What a waiting datagram costs beyond its bytes: the slot it lies in. Linux counts as much for a small one.
const OVERHEAD_BYTES: usize = 768;

/// A datagram that waits to be received.
#[derive(Debug)]
pub(super) struct Datagram {
    pub(super) payload: Buf,
    /// Its sender, as the socket's user sees it.
    pub(super) from: SocketAddr,
}

fn cost(payload: &Buf) -> usize {
    payload.len() + OVERHEAD_BYTES
}

/// What a socket's next call fails with.
#[derive(Clone, Debug)]
pub(super) enum SocketError {
    /// An ICMP error about a datagram: the next call's alone.
    Told(io::ErrorKind),
    /// A datagram was too large for its path, which carries packets of so many bytes: the next call's alone.
    TooLong(u16),
    /// The device is no more: every call's from now on.
    Gone(Rc<Gone>),
}

/// What a plain datagram over a socket's path needs besides the path.
#[derive(Debug)]
struct Ready {
    /// The peer that the latest send named; `None`: that of a connected socket.
    to: Option<SocketAddr>,
    /// Our port in the upper half, the peer's in the lower.
    ports: u32,
    /// The longest payload that is sent in one packet.
    limit_bytes: usize,
}

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) generation: u32,
    /// The socket's own addresses are IPv6 (it may receive IPv4 in the mapped form).
    pub(super) v6: bool,
    pub(super) waits_to_send: bool,
    path_mtu: u16,
    /// How long that holds, if it was a router that said so.
    path_mtu_until: Instant,
    queued_bytes: usize,
    limit_bytes: usize,
    queue: VecDeque<Datagram>,
    recv_waker: Option<Waker>,
    pub(super) send_waker: Option<Waker>,
    pub(super) error: Option<SocketError>,
    pub(super) binding: Binding,
    /// Both ends, when connected.
    pub(super) flow: Option<Flow>,
    /// The latest send was to one station, and what it needed is good for the next one to the same peer.
    ready: Option<Ready>,
    /// The flow of the latest send: the one `path` leads along.
    latest: Option<Flow>,
    /// The latest peer that was named in a send, and the flow to it.
    latest_to: Option<(SocketAddr, Flow)>,
    path: Path,
    pub(super) options: DatagramOptions,
}

impl Socket {
    pub(super) fn new(
        generation: u32,
        v6: bool,
        binding: Binding,
        options: DatagramOptions,
        limit_bytes: usize,
        mtu: u16,
    ) -> Socket {
        Socket {
            generation,
            v6,
            waits_to_send: false,
            path_mtu: mtu,
            path_mtu_until: Instant::ZERO,
            queued_bytes: 0,
            limit_bytes,
            queue: VecDeque::new(),
            recv_waker: None,
            send_waker: None,
            error: None,
            binding,
            flow: None,
            ready: None,
            latest: None,
            latest_to: None,
            path: Path::default(),
            options,
        }
    }

    /// Queues a datagram and wakes the receiver; `false` when there is no room. An empty queue takes any one datagram.
    #[inline(always)]
    pub(super) fn queue(&mut self, payload: Buf, from: &SocketAddr) -> bool {
        let cost = cost(&payload);
        if self.queued_bytes + cost > self.limit_bytes && !self.queue.is_empty() {
            return false;
        }
        self.queued_bytes += cost;
        self.queue.push_back(Datagram { payload, from: *from });
        if let Some(waker) = self.recv_waker.take() {
            waker.wake();
        }
        true
    }

    /// Takes the next datagram, and writes its sender to `from`.
    #[inline]
    pub(super) fn pop(&mut self, from: &mut SocketAddr) -> Option<Buf> {
        // From where it lies to where it goes: on the way through a variable the compiler cuts it at odd places, and each piece waits
        // for the one before to reach the cache.
        *from = self.queue.front()?.from;
        let payload = self.queue.pop_front()?.payload;
        self.queued_bytes -= cost(&payload);
        Some(payload)
    }

    pub(super) fn front(&self) -> Option<&Datagram> {
        self.queue.front()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn path_mtu(&self) -> u16 {
        self.path_mtu
    }

    /// Bytes that wait to be received, each datagram counted with what it costs to keep.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    pub(super) fn set_limit(&mut self, bytes: usize) {
        self.limit_bytes = bytes;
    }

    /// Drops queued datagrams that are not of `flow`; answers how many.
    pub(super) fn keep_only(&mut self, flow: &Flow) -> usize {
        let before = self.queue.len();
        self.queue.retain(|Datagram { from, .. }| {
            (canonical(from.ip()), from.port()) == (flow.remote, flow.remote_port)
        });
        self.queued_bytes = self.queue.iter().map(|datagram| cost(&datagram.payload)).sum();
        before - self.queue.len()
    }

    /// An ICMP error was about a datagram of ours.
    pub(super) fn tell(&mut self, error: io::ErrorKind) {
        self.error = Some(SocketError::Told(error));
    }

    /// A datagram of ours was larger than the path's packets, which carry at most `mtu` bytes (Linux's `EMSGSIZE`).
    pub(super) fn tell_too_long(&mut self, mtu: u16) {
        self.error = Some(SocketError::TooLong(mtu));
    }

    /// The pending error.
    #[inline]
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        if self.error.is_none() { None } else { self.take_any_error() }
    }

    #[cold]
    fn take_any_error(&mut self) -> Option<io::Error> {
        match self.error.take()? {
            SocketError::Told(kind) => Some(kind.into()),
            SocketError::TooLong(mtu) => Some(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a datagram did not get through: packets on its path have at most {mtu} bytes"),
            )),
            SocketError::Gone(gone) => {
                let error = gone.to_error();
                self.error = Some(SocketError::Gone(gone));
                Some(error)
            }
        }
    }

    /// Reports a pending error, or remembers who waits for a datagram.
    pub(super) fn wait_to_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(error) = self.take_error() {
            return Poll::Ready(error);
        }
        match &mut self.recv_waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(super) fn wake_both(&mut self) {
        for waker in [self.recv_waker.take(), self.send_waker.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// The address of `remote` as the stack thinks of it, if a socket of this family can reach it.
    pub(super) fn peer(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        let peer = canonical(remote.ip());
        let versions = if peer.is_ipv4() { self.binding.v4 } else { self.binding.v6 };
        if !versions || remote.is_ipv4() && self.v6 {
            return Err(family(remote));
        }
        if remote.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{remote}: port 0 is nobody's")));
        }
        Ok(peer)
    }

    /// The flow of a send to `remote`.
    #[inline]
    pub(super) fn flow_to(&mut self, egress: &Egress, remote: SocketAddr) -> io::Result<Flow> {
        match &self.latest_to {
            Some((latest, flow)) if *latest == remote => Ok(*flow),
            _ => self.find_flow_to(egress, remote),
        }
    }

    #[cold]
    fn find_flow_to(&mut self, egress: &Egress, remote: SocketAddr) -> io::Result<Flow> {
        let peer = self.peer(remote)?;
        if egress.routes.is_broadcast(peer) && !self.options.broadcast {
            return Err(broadcast(remote));
        }
        let connected = self.flow.filter(|flow| (flow.remote, flow.remote_port) == (peer, remote.port()));
        let local = match (connected, self.binding.address) {
            (Some(flow), _) => flow.local,
            (None, Some(address)) if !egress.routes.is_group(address) => address,
            _ => egress.routes.source_for(peer).ok_or_else(|| unreachable_network(remote))?,
        };
        let flow = Flow { local, remote: peer, local_port: self.binding.port, remote_port: remote.port() };
        self.latest_to = Some((remote, flow));
        Ok(flow)
    }

    /// The template for `flow`: the one at hand when the latest send went the same way, else an empty one.
    #[inline]
    pub(super) fn path_of(&mut self, flow: &Flow) -> &mut Path {
        if self.latest != Some(*flow) {
            self.ready = None;
            let same_way = |latest: Flow| (latest.local, latest.remote) == (flow.local, flow.remote);
            if !self.latest.is_some_and(same_way) {
                self.path = Path::default();
            }
            self.latest = Some(*flow);
        }
        &mut self.path
    }

    /// Hops that a datagram to `remote` may take.
    pub(super) fn ttl_towards(&self, remote: IpAddr) -> u8 {
        match remote {
            _ if !remote.is_multicast() => self.options.ttl.unwrap_or(super::DEFAULT_TTL),
            // RFC 1112 §6.1
            IpAddr::V4(_) => self.options.multicast_ttl_v4.unwrap_or(1),
            IpAddr::V6(_) => self.options.multicast_hops_v6.unwrap_or(1),
        }
    }

    /// Sends a plain datagram to where the latest one went. `false`: it is none, or goes elsewhere, and nothing has happened.
    #[inline(always)]
    pub(super) fn send_ready(
        &mut self,
        egress: &mut Egress,
        payload: &mut Buf,
        to: &Option<SocketAddr>,
    ) -> bool {
        let Some(ready) = &self.ready else { return false };
        if ready.to != *to || payload.len() > ready.limit_bytes || self.error.is_some() {
            return false;
        }
        let kind = (self.options.tos, self.options.ttl.unwrap_or(super::DEFAULT_TTL));
        egress.datagram_in_front(&self.path, ready.ports, kind, payload)
    }

    /// A datagram of `flow`, which was sent to `to`, went out over the path. The next may go without being looked at.
    pub(super) fn note_ready(&mut self, to: Option<SocketAddr>, flow: &Flow, limit_bytes: usize) {
        let ports = u32::from(flow.local_port) << 16 | u32::from(flow.remote_port);
        self.ready = Some(Ready { to, ports, limit_bytes });
    }

    /// The path is one of IPv6.
    #[inline]
    pub(super) fn sends_v6(&self) -> bool {
        self.path.is_v6()
    }

    pub(super) fn set_path_mtu(&mut self, mtu: u16) {
        self.path_mtu = mtu;
    }

    /// A router has said that packets of more than `mtu` bytes do not get through, which holds until `until`.
    pub(super) fn limit_path_mtu(&mut self, mtu: u16, until: Instant) {
        if mtu < self.path_mtu {
            self.limit_mtu(mtu);
            self.path_mtu_until = until;
        }
    }

    /// Looks anew what the path to `remote` carries, unless a router has said so lately.
    pub(super) fn refresh_path_mtu(&mut self, egress: &Egress, remote: IpAddr) {
        if self.path_mtu_until <= egress.now {
            self.set_path_mtu(egress.mtu_towards(remote));
        }
    }

    /// No packet on the socket's paths may be larger than `mtu`.
    pub(super) fn limit_mtu(&mut self, mtu: u16) {
        self.path_mtu = self.path_mtu.min(mtu);
        self.ready = None;
    }

    /// Forgets what was checked against the options or the peer that are about to change.
    pub(super) fn forget_latest(&mut self) {
        self.latest_to = None;
        self.ready = None;
    }
}
