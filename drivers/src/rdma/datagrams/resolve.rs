//! Finding who takes datagrams at an address and port, and being found.
//!
//! The connection manager finds the address, the way and the queue pair, one event each; a question that is not answered in time is
//! asked anew. Nothing here waits.

use std::io;
use std::net::SocketAddr;

use super::super::proto::Refusal;
use super::super::proto::datagram::{introduce, introduced, who};
use super::super::transport::{Named, Rdma, token_of};
use super::super::verbs::cm::{Found, Id, Kind, News, Told};
use super::super::verbs::ud::DatagramQueue;
use super::deliver::put_in_line;
use super::peers::{ABSENT, Due, FRESH, Key, QUESTION, QUESTIONS};
use crate::time::Instant;
use crate::transport::Handle;

impl Rdma {
    /// The peer that `key` names, asked for if nothing is known of it; `None` when too many are.
    pub(super) fn peer(&mut self, key: Key) -> Option<Handle> {
        if let Some(handle) = self.datagrams.peers.find(&key) {
            return Some(handle);
        }
        let handle = self.datagrams.peers.enter(key)?;
        Some(self.ask_for(handle, QUESTIONS))
    }

    /// Asks for a peer, under a new handle.
    fn ask_for(&mut self, handle: Handle, questions: u8) -> Handle {
        let channel = &self.adapter.channel;
        let asked = self.datagrams.peers.ask(handle, self.now, questions, |handle, (own, remote)| {
            let id = Id::of_kind(channel, token_of(Named::Peer, handle), Kind::Datagrams)?;
            id.resolve(Some(SocketAddr::new(own, 0)), remote, QUESTION)?;
            Ok(id)
        });
        match asked {
            Ok(handle) => handle,
            Err((handle, _)) => {
                self.not_found(handle, io::ErrorKind::HostUnreachable);
                handle
            }
        }
    }

    /// The connection manager says something of a peer that was asked for.
    pub(in super::super) fn on_peer_news(&mut self, handle: Handle, news: News) {
        let (most, who) = (self.longest(), self.datagrams.who);
        let Some(peer) = self.datagrams.peers.get_mut(handle) else { return };
        let Some(id) = &peer.question else { return };
        let next = match news {
            News::AddressResolved if id.is_on(&self.adapter.device) => id.resolve_route(QUESTION),
            News::RouteResolved => id.look_for(&introduce(most, who)),
            News::Found(found) => return self.found(handle, &found),
            // Below 0, nobody has answered; a listener whose queue is full refuses without saying anything.
            News::Missing(reason, private) if reason > 0 => match (reason, Refusal::parse(&private)) {
                (NO_SUCH_SERVICE, _) | (_, Some(_)) => {
                    return self.not_found(handle, io::ErrorKind::ConnectionRefused);
                }
                // Asked again when the time of this question is over.
                (_, None) => {
                    peer.rejected = true;
                    return;
                }
            },
            News::Missing(..) | News::Failed(libc::ETIMEDOUT) => return self.unanswered(handle),
            News::Other => return,
            _ => Err(io::ErrorKind::HostUnreachable.into()),
        };
        if next.is_err() {
            self.not_found(handle, io::ErrorKind::HostUnreachable);
        }
    }

    /// A peer is found: what waits for that goes out.
    fn found(&mut self, handle: Handle, found: &Found) {
        let Some(most) = introduced(&found.private) else {
            return self.not_found(handle, io::ErrorKind::ConnectionRefused);
        };
        let Ok(way) = self.adapter.way(found) else {
            return self.not_found(handle, io::ErrorKind::HostUnreachable);
        };
        let most = most.min(self.longest());
        self.datagrams.peers.end_question(handle);
        self.datagrams.peers.look_at(handle, self.now + FRESH);
        let waiting = self.datagrams.peers.take_waiting(handle);
        let Some(peer) = self.datagrams.peers.get_mut(handle) else { return };
        (peer.most, peer.absent, peer.rejected) = (most.into(), None, false);
        peer.used |= !waiting.is_empty();
        // One that has not changed stays: datagrams hold it.
        let way = match peer.way.take().filter(|known| known.queue() == way.queue()) {
            Some(known) => known,
            None => way,
        };
        peer.way = Some(std::rc::Rc::clone(&way));
        let key = peer.key;
        let Some(queue) = &mut self.datagrams.queue else { return };
        for one in waiting {
            let mut payload = one.payload;
            let sent = queue.has_room()
                && put_in_line(&self.adapter, queue, &way, &mut payload, key, one.from_port).is_some();
            self.datagrams.counters.unresolved += u64::from(!sent);
        }
    }

    /// Nobody has answered in time.
    fn unanswered(&mut self, handle: Handle) {
        let Some(peer) = self.datagrams.peers.get_mut(handle) else { return };
        match peer.questions {
            0 if peer.rejected => self.not_found(handle, io::ErrorKind::ConnectionRefused),
            0 => self.not_found(handle, io::ErrorKind::HostUnreachable),
            left => {
                self.ask_for(handle, left - 1);
            }
        }
    }

    /// There is nobody, or no way there: what waits is dropped, and connected sockets are told.
    fn not_found(&mut self, handle: Handle, error: io::ErrorKind) {
        let datagrams = &mut self.datagrams;
        datagrams.peers.end_question(handle);
        datagrams.peers.look_at(handle, self.now + ABSENT);
        datagrams.counters.unresolved += datagrams.peers.take_waiting(handle).len() as u64;
        let Some(peer) = datagrams.peers.get_mut(handle) else { return };
        (peer.way, peer.absent) = (None, Some(error));
        let (own, remote) = peer.key;
        let Some(connected) = datagrams.connected.get(&remote) else { return };
        for handle in connected {
            if let Some(socket) = datagrams.sockets.get_mut(*handle)
                && socket.local_addr().ip().to_canonical() == own
            {
                socket.error = Some(error);
                socket.wake_both(&mut self.wakes);
            }
        }
    }

    /// Peers whose time is over; how many.
    pub(in super::super) fn on_peer_timers(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some(due) = self.datagrams.peers.due(now) {
            count += 1;
            match due {
                Due::Unanswered(handle) => self.unanswered(handle),
                Due::Stale(handle) => {
                    self.ask_for(handle, QUESTIONS);
                }
            }
        }
        count
    }

    /// Somebody looks for a socket of ours.
    pub(in super::super) fn on_looked_for(&mut self, socket: Handle, id: &Id, told: &Told) {
        let (most, who) = (self.longest(), self.datagrams.who);
        let own = self.datagrams.queue.as_ref().filter(|_| self.datagrams.sockets.get(socket).is_some());
        let queue = self.queue_of_turn(id, told).or(own.map(DatagramQueue::number));
        let refusal = match (queue, introduced(&told.private)) {
            (Some(queue), Some(_)) if id.is_on(&self.adapter.device) => {
                if id.be_found(&introduce(most, who), queue).is_ok() {
                    return;
                }
                Refusal::Busy
            }
            (Some(_), None) => Refusal::Stranger,
            _ => Refusal::Closed,
        };
        self.adapter.counts.refused += 1;
        let _ = id.reject(&refusal.emit());
    }

    /// The queue pair of the core that whoever looks for a socket is to write to, if several have the port.
    fn queue_of_turn(&self, id: &Id, told: &Told) -> Option<u32> {
        let from = id.peer_addr()?.ip().to_canonical();
        self.fellow.as_ref()?.chosen(id.local_addr()?, (from, who(&told.private)))
    }

    /// The longest datagram that this end takes, header included.
    pub(super) fn longest(&self) -> u16 {
        self.datagrams.queue.as_ref().map_or(0, |queue| queue.port().mtu)
    }
}

/// The connection manager's word for a port that nobody has (InfiniBand specification, table 119).
const NO_SUCH_SERVICE: i32 = 1;
