//! The transport: sockets by handle, and what happens to them.
//!
//! A turn ([`calls`](super::calls)) takes completions and events in that order, hands each to its connection, and posts what all
//! that and the tasks have caused when it is flushed: one doorbell a connection, and none for those that have nothing to say. Never
//! wakes anybody before its own state is settled.

use core::task::{Poll, Waker};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::RdmaConfig;
use super::adapter::Adapter;
use super::datagrams::Datagrams;
use super::fellows::{Fellow, Fellows};
use super::listener::Listener;
use super::onesided::Marked;
use super::proto::{Action, Config, Ended, Failure, HEADER_BYTES, Session};
use super::stream::{Phase, Stream};
use super::timers::Timers;
use super::verbs::cm::News;
use super::verbs::cq::{Completion, Status};
use super::verbs::qp::SEQUENCE_BITS;
use super::wait::Wait;
use crate::sockets::stale;
use crate::sockets::table::Table;
use crate::time::Instant;
use crate::transport::{Handle, StreamId};

/// Completions looked at a turn.
const COMPLETIONS: usize = 256;
/// How often the device is asked whether it is still there.
pub(super) const HEALTH: Duration = Duration::from_millis(100);
/// How long the last requests of a connection may take to be flushed out of its queues.
const FLUSHING: Duration = Duration::from_secs(5);
/// Of a request's name, the bit that says that it is one of a connection's; receives have small numbers.
const SENT: u64 = 1 << 63;
/// And the one that says that it is one of the queue of datagrams.
pub(super) const DATAGRAM: u64 = 1 << 62;

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

/// Reliable connections and datagrams over an RDMA device.
#[derive(Debug)]
pub struct Rdma {
    pub(super) name: String,
    // Connections go before the queues that they use.
    pub(super) streams: Table<Stream>,
    pub(super) listeners: Table<Listener>,
    pub(super) datagrams: Datagrams,
    pub(super) by_queue: ByQueue,
    /// What connections that are being asked for were promised, by index.
    pub(super) asked: HashMap<u32, Config>,
    /// Connections with something to post.
    pub(super) dirty: Vec<Handle>,
    /// Those of them for which a flush found no room or no memory, while that goes on.
    pub(super) held: Vec<Handle>,
    /// Some of them were not flushed: there is another turn to be made, at once.
    pub(super) again: bool,
    /// Connections whose peers' memory somebody wants something of.
    pub(super) marked: Marked,
    /// Events taken, for after the completions that came before them.
    pub(super) news: VecDeque<(u64, News)>,
    pub(super) timers: Timers,
    pub(super) actions: Vec<Action>,
    /// Connections whose timers are over.
    pub(super) due: Vec<Handle>,
    pub(super) wakes: Vec<Waker>,
    pub(super) wait: Wait,
    /// The program's other cores, if the device is shared with any.
    pub(super) fellow: Option<Fellow>,
    pub(super) adapter: Adapter,
    pub(super) now: Instant,
    pub(super) look_at: Instant,
    pub(super) health_at: Instant,
    /// Somebody else waits on our descriptor.
    pub(super) watched: Cell<bool>,
    pub(super) idle: bool,
    pub(super) lost: bool,
    pub(super) credits: u16,
    pub(super) connect_timeout: Duration,
    pub(super) close_timeout: Duration,
    pub(super) max_sockets: usize,
}

/// What a connection's requests are called.
pub(super) fn tag_of(handle: Handle) -> u64 {
    SENT >> SEQUENCE_BITS | u64::from(handle.generation)
}

/// What the connection manager has identifiers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A listener.
    Listener,
    /// A connection.
    Stream,
    /// A socket of datagrams.
    Socket,
    /// Somebody whom datagrams go to.
    Peer,
}

const NAMED: [Named; 4] = [Named::Listener, Named::Stream, Named::Socket, Named::Peer];

/// What the connection manager calls one of them.
pub(super) fn token_of(what: Named, handle: Handle) -> u64 {
    u64::from(handle.generation) << 32 | u64::from(handle.index) << 2 | what as u64
}

/// What a token is of. None is called all ones.
pub(super) fn named(token: u64) -> Option<(Named, Handle)> {
    let handle = Handle { index: (token as u32) >> 2, generation: (token >> 32) as u32 };
    (token != u64::MAX).then_some((NAMED[(token & 3) as usize], handle))
}

impl Rdma {
    /// Opens a device: registers packet memory, posts receives.
    ///
    /// # Errors
    /// `NotFound` when there is no such device, with those that there are; `PermissionDenied`; `AddrNotAvailable` when it has no
    /// address; `OutOfMemory` when so much memory may not be locked.
    pub fn open(config: &RdmaConfig) -> io::Result<Rdma> {
        Rdma::open_as(config, None)
    }

    /// As [`open`](Self::open), as the core with this index among those of one program: each has memory and queues of its own, and
    /// connections to a port that several of them listen on go to each in turn; datagrams of one peer to one of them.
    ///
    /// # Errors
    /// As [`open`](Self::open); `InvalidInput` when there is no such core, or it has opened the device already.
    pub fn open_among(config: &RdmaConfig, fellows: &Arc<Fellows>, index: usize) -> io::Result<Rdma> {
        Rdma::open_as(config, Some(Fellow::join(fellows, index)?))
    }

    fn open_as(config: &RdmaConfig, fellow: Option<Fellow>) -> io::Result<Rdma> {
        let adapter = Adapter::open(config)?;
        let fds = [adapter.completions.fd(), adapter.channel.fd(), adapter.device.async_fd()];
        let bell = fellow.as_ref().and_then(Fellow::fd);
        let wait = Wait::new(fds.into_iter().chain(bell))?;
        Ok(Rdma {
            name: format!("rdma:{}", config.device),
            streams: Table::new(),
            listeners: Table::new(),
            datagrams: Datagrams::new(adapter.pool.stats().slots / 4),
            by_queue: ByQueue::default(),
            asked: HashMap::new(),
            dirty: Vec::new(),
            held: Vec::new(),
            again: false,
            marked: Marked::default(),
            news: VecDeque::new(),
            timers: Timers::default(),
            actions: Vec::new(),
            due: Vec::new(),
            wakes: Vec::new(),
            wait,
            fellow,
            adapter,
            now: Instant::ZERO,
            look_at: Instant::ZERO,
            health_at: Instant::ZERO,
            watched: Cell::new(false),
            idle: false,
            lost: false,
            credits: config.credits,
            connect_timeout: config.connect_timeout,
            close_timeout: config.close_timeout,
            max_sockets: config.max_sockets,
        })
    }

    /// The stream of a handle that has not been given up.
    #[inline]
    pub(super) fn stream(&mut self, id: StreamId) -> io::Result<&mut Stream> {
        self.streams.get_mut(id.0).filter(|stream| !stream.orphan).ok_or_else(stale)
    }

    pub(super) fn stream_ref(&self, id: StreamId) -> io::Result<&Stream> {
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
    pub(super) fn take_marked(&mut self) {
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
    pub(super) fn with<T>(
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

    fn on_completion(&mut self, completion: Completion) {
        let Completion { id, queue, status, bytes, .. } = completion;
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
        if id & DATAGRAM != 0 {
            return self.on_datagram(id, queue, status, bytes);
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
                self.adapter.counts.in_messages += 1;
                self.adapter.counts.in_octets += u64::from(bytes).saturating_sub(HEADER_BYTES as u64);
                session.received(now, message.freeze());
                self.after(handle);
            }
        }
    }

    /// After something has happened to a connection.
    pub(super) fn after(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        let changes = stream.wake(&mut self.wakes);
        if changes.stalled {
            self.adapter.counts.credit_stalls += 1;
        }
        if changes.exhausted || stream.has_returned() {
            self.divide(handle);
        }
        if changes.ended {
            self.count_end(handle);
        }
        if self.streams.get(handle).is_some_and(|stream| stream.leaving) {
            self.settle(handle);
        }
        self.touch(handle);
    }

    /// Gives a connection that has used up its credits more of them, or takes some back of one that has more than others have left.
    #[cold]
    fn divide(&mut self, handle: Handle) {
        let (wanted, promises) = (self.credits, &mut self.adapter.promises);
        let Some(stream) = self.streams.get_mut(handle) else { return };
        let Some(session) = &mut stream.session else { return };
        let held = u16::try_from(session.credits()).unwrap_or(u16::MAX);
        if held < stream.credits {
            promises.return_some(stream.credits - held);
            stream.credits = held;
        }
        match promises.fair() {
            Some(fair) if fair < stream.credits => session.set_credits(fair),
            _ => {
                stream.credits = promises.grow(stream.credits, wanted);
                session.set_credits(stream.credits);
            }
        }
    }

    #[cold]
    fn count_end(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        let ended = stream.session.as_ref().and_then(Session::ended);
        if !std::mem::replace(&mut stream.over, true) && !matches!(ended, None | Some(Ended::Closed)) {
            self.adapter.counts.resets += 1;
        }
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
    pub(super) fn on_timers(&mut self) -> usize {
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
        if stream.session.is_some() && !matches!(stream.phase, Phase::Accepting) {
            // Its requests are not even flushed: the adapter has forgotten them.
            stream.fail(Failure::Unanswered);
            stream.leaving = true;
            self.release(handle);
        } else {
            self.connect_failed(handle, io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
    }

    /// Takes completions, a turn's worth; how many, and whether there may be more.
    pub(super) fn take_completions(&mut self) -> io::Result<(usize, bool)> {
        for count in 0..COMPLETIONS {
            match self.adapter.completion()? {
                Some(completion) => self.on_completion(completion),
                None => return Ok((count, false)),
            }
        }
        Ok((COMPLETIONS, true))
    }

    /// The device is gone, and every connection with it.
    #[cold]
    pub(super) fn lose(&mut self) -> io::Error {
        self.lost = true;
        if let Some(fellow) = &self.fellow {
            fellow.lose();
        }
        let handles: Vec<Handle> = self.by_queue.values().copied().collect();
        for handle in handles {
            if let Some(stream) = self.streams.get_mut(handle) {
                stream.fail(Failure::DeviceGone);
                self.release(handle);
                self.after(handle);
            }
        }
        self.datagrams.lose(&mut self.wakes);
        self.wake();
        io::Error::new(io::ErrorKind::NetworkDown, format!("device {}: it is gone", self.name))
    }

    /// Wakes whoever a call has found ready, now that the state is settled.
    #[inline]
    pub(super) fn wake(&mut self) {
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

impl Drop for Rdma {
    fn drop(&mut self) {
        self.leave_fellows();
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
        for what in NAMED {
            assert_eq!(named(token_of(what, handle)), Some((what, handle)));
        }
        assert_eq!(named(u64::MAX), None);
    }
}
