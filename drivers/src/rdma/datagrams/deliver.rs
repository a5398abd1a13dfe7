//! What comes and what leaves: completions of the queue pair, the sockets that datagrams are for, and the doorbell.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use super::super::adapter::Adapter;
use super::super::proto::datagram::{GRH_BYTES, HEAD_V6_BYTES, Head};
use super::super::transport::{DATAGRAM, Rdma};
use super::super::verbs::cq::Status;
use super::super::verbs::qp::Gather;
use super::super::verbs::ud::{DatagramQueue, Done, Way};
use super::Datagrams;
use super::peers::Key;
use crate::mem::{Buf, BufMut};
use crate::transport::Handle;

impl Rdma {
    /// A completion of the queue of datagrams.
    pub(in super::super) fn on_datagram(&mut self, id: u64, queue: u32, status: Status, bytes: u32) {
        let datagrams = &mut self.datagrams;
        // One of a queue pair that was given up is nobody's.
        let Some(ours) = datagrams.queue.as_mut().filter(|ours| ours.number() == queue) else { return };
        let ethernet = ours.port().ethernet;
        match (ours.completed(id, bytes), status) {
            (Done::Received(slot), Status::Success) => {
                if let Some(handle) = datagrams.receiver(&slot, ethernet) {
                    datagrams.deliver(handle, slot, &mut self.wakes);
                }
            }
            (Done::Sent(count), Status::Success) => {
                datagrams.counters.out_datagrams += count as u64;
                if !datagrams.senders.is_empty() {
                    datagrams.wake_senders(&mut self.wakes);
                }
            }
            (Done::Nothing, _) => {}
            (Done::Received(_) | Done::Sent(_), Status::Flushed) => datagrams.failed = true,
            (Done::Received(_) | Done::Sent(_), _) => {
                datagrams.counters.in_errors += 1;
                datagrams.failed = true;
            }
        }
    }

    /// Hands what is in line to the adapter, and slots for what came.
    pub(in super::super) fn flush_datagrams(&mut self) -> io::Result<()> {
        if self.datagrams.failed {
            self.renew()?;
        }
        if let Some(queue) = &mut self.datagrams.queue
            && queue.unposted() > 0
            && queue.post().is_err()
        {
            self.datagrams.failed = true;
        }
        Ok(())
    }

    /// Posts slots in place of those that datagrams came in.
    #[inline]
    pub(in super::super) fn refill_datagrams(&mut self) -> io::Result<()> {
        match &mut self.datagrams.queue {
            Some(queue) if queue.missing() > 0 && !self.datagrams.failed => queue.fill(&self.adapter.pool),
            _ => Ok(()),
        }
    }

    /// Another queue pair in place of one that has failed. What was in line is lost, and peers find the new one when they ask again.
    #[cold]
    fn renew(&mut self) -> io::Result<()> {
        self.datagrams.failed = false;
        if let Some(port) = self.datagrams.queue.take().map(|queue| queue.port()) {
            let queue = self.adapter.datagram_queue(port.number, DATAGRAM)?;
            if let Some(fellow) = &self.fellow {
                fellow.set_queue(queue.number());
            }
            self.datagrams.queue = Some(queue);
            self.datagrams.wake_senders(&mut self.wakes);
        }
        Ok(())
    }
}

impl Datagrams {
    /// Whom a datagram is for, if it is well made, and what its header says of it.
    #[inline]
    fn receiver(&mut self, slot: &BufMut, ethernet: bool) -> Option<(Handle, Head)> {
        let network: Option<&[u8; GRH_BYTES]> = slot.first_chunk();
        let head = Head::parse(slot.get(GRH_BYTES..).unwrap_or(&[])).and_then(|head| match network {
            Some(network) if ethernet => head.check(network).map(|()| head),
            _ => Ok(head),
        });
        let Ok(head) = head else {
            self.counters.in_errors += 1;
            return None;
        };
        let sockets = self.ports.get(&head.to.port()).map_or(&[][..], |sockets| sockets);
        let fitting = sockets.iter().filter_map(|handle| {
            let score = self.sockets.get(*handle)?.score(head.from, head.to.ip());
            (score > 0).then_some((score, *handle))
        });
        match fitting.max_by_key(|(score, _)| *score) {
            Some((_, handle)) => Some((handle, head)),
            None => {
                self.counters.no_ports += 1;
                None
            }
        }
    }

    /// Queues a datagram in a socket.
    #[inline]
    fn deliver(&mut self, (handle, head): (Handle, Head), slot: BufMut, wakes: &mut Vec<core::task::Waker>) {
        let Some(socket) = self.sockets.get_mut(handle) else { return };
        if self.queued >= self.queued_limit {
            self.counters.mem_errors += 1;
            return;
        }
        let mut payload = slot.freeze();
        payload.advance(GRH_BYTES + head.len());
        if socket.queue(payload, head.from, wakes) {
            self.queued += 1;
            self.counters.in_datagrams += 1;
        } else {
            self.counters.rcvbuf_errors += 1;
        }
    }

    /// Wakes the sockets that wait for room, now that there is some.
    fn wake_senders(&mut self, wakes: &mut Vec<core::task::Waker>) {
        for handle in self.senders.drain(..) {
            if let Some(socket) = self.sockets.get_mut(handle) {
                socket.waits = false;
                wakes.extend(socket.writer.take());
            }
        }
    }
}

/// Puts a datagram in line, behind its header; `None`, and the payload is as it was, when there is no slot for that.
#[inline]
pub(super) fn put_in_line(
    adapter: &Adapter,
    queue: &mut DatagramQueue,
    way: &Rc<Way>,
    payload: &mut Buf,
    (own, remote): Key,
    from_port: u16,
) -> Option<()> {
    let head = Head { from: SocketAddr::new(own, from_port), to: remote, bytes: payload.len() as u16 };
    let len = head.len();
    let mut pieces = Gather::new();
    // In front of it, if nobody else looks at that.
    match payload.with_header(len, |front, _| head.emit(front)) {
        Some(wide) => pieces.push(wide),
        None => {
            let mut front = [0; HEAD_V6_BYTES];
            head.emit(&mut front);
            pieces.push(adapter.head(front.get(..len)?)?);
            if !payload.is_empty() {
                pieces.push(payload.clone());
            }
        }
    }
    let sent = queue.send(pieces, way);
    debug_assert!(sent.is_ok(), "what lies in another pool was copied");
    sent.ok()
}
