//! Set-up and end of connections, as the connection manager tells of them: from an address to an open stream, from a request to
//! a place in a listener's queue.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::fellows::Request;
use super::listener::{Listener, not_ours};
use super::proto::{Config, Failure, HELLO_BYTES, Hello, Refusal, Role, Session};
use super::stream::{ONE_SIDED, Phase, Stream};
use super::transport::{Named, Rdma, named, token_of};
use super::verbs::cm::{Id, News, Told};
use crate::sockets::{explain, stale, too_many_sockets};
use crate::time::Instant;
use crate::transport::{Handle, StreamId, StreamOptions};

/// The connection manager's reason for a request that nobody listens for (InfiniBand specification, table 111).
const NOBODY_LISTENS: i32 = 8;

impl Rdma {
    /// What a connection with `options` is like on this side.
    fn session_config(&mut self, options: &StreamOptions) -> Config {
        let defaults = Config::default();
        let adapter = &mut self.adapter;
        let exposes = adapter.can_expose();
        let read_bytes = u32::try_from(adapter.pool.max_capacity()).unwrap_or(u32::MAX);
        Config {
            message_bytes: adapter.receives.message_bytes() as u32,
            credits: adapter.promises.grant(self.credits),
            reads: adapter.offers_read(),
            read_bytes,
            inline_bytes: adapter.inline_bytes(),
            offer_from_bytes: defaults.offer_from_bytes.filter(|_| exposes),
            send_buffer_bytes: options.send_buffer_bytes.unwrap_or(defaults.send_buffer_bytes).max(1),
            receive_buffer_bytes: options.recv_buffer_bytes.unwrap_or(defaults.receive_buffer_bytes).max(1),
            keepalive: options.keepalive,
            closing: options.linger.filter(|limit| !limit.is_zero()).unwrap_or(self.close_timeout),
            ..defaults
        }
    }

    pub(super) fn begin(
        &mut self,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<StreamId> {
        self.room_for_socket()?;
        if remote.port() == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{remote}: port 0 is nobody's")));
        }
        match local.filter(|local| !local.ip().is_unspecified()) {
            Some(local) => self.adapter.look_for(local.ip()),
            // In none of the networks that it is known to have.
            None if self.adapter.networks.bits(remote.ip()).is_none_or(|bits| bits == 0) => {
                self.adapter.look_for(remote.ip());
            }
            None => {}
        }
        if self.adapter.networks.bits(remote.ip()).is_none() {
            let what = not_ours(&self.adapter, remote.ip()).to_string();
            return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, what));
        }
        let id = Id::new(&self.adapter.channel, u64::MAX)?;
        // The device is chosen by the address that the connection comes from.
        let own = self.adapter.networks.towards(remote.ip());
        let local = match local.filter(|local| !local.ip().is_unspecified()) {
            Some(local) => Some(local),
            None => own.map(|own| SocketAddr::new(own, local.map_or(0, |local| local.port()))),
        };
        id.resolve(local, remote, QUESTION)?;
        let mut stream = Stream::new(Phase::Resolving(id), remote, options.clone());
        (stream.questions, stream.local) = (QUESTIONS, local);
        let handle = self.streams.insert(stream);
        if let Some(stream) = self.streams.get(handle)
            && let Phase::Resolving(id) = &stream.phase
        {
            id.set_token(token_of(Named::Stream, handle));
        }
        Ok(StreamId(handle))
    }

    /// Something has happened to the connection or listener that `token` names.
    pub(super) fn on_news(&mut self, token: u64, news: News) {
        match (named(token), news) {
            (Some((Named::Listener, listener)), News::Request(id, told)) => {
                self.on_request(Request { to: listener, id, told, refusals: 0 });
            }
            (Some((Named::Socket, socket)), News::Request(id, told)) => {
                self.on_looked_for(socket, &id, &told);
            }
            (_, News::Request(id, _)) => {
                let _ = id.reject(&Refusal::Closed.emit());
            }
            (Some((Named::Stream, stream)), news) => self.on_stream_news(stream, news),
            (Some((Named::Peer, peer)), news) => self.on_peer_news(peer, news),
            _ => {}
        }
    }

    /// Whether another connection of this listener may come.
    pub(super) fn has_room(&self, listener: Handle) -> bool {
        self.room_for_socket().is_ok() && self.listeners.get(listener).is_some_and(Listener::has_room)
    }

    /// Accepts a request, or refuses it.
    pub(super) fn take_request(&mut self, request: Request) {
        let Request { to, id, told, .. } = request;
        if let Err(refusal) = self.consider(to, id, &told) {
            self.adapter.counts.refused += 1;
            if let Some((id, refusal)) = refusal {
                let _ = id.reject(&refusal.emit());
            }
        }
    }

    /// Accepts a request, or says why not.
    fn consider(&mut self, listener: Handle, id: Id, told: &Told) -> Result<(), Option<(Id, Refusal)>> {
        let room = self.room_for_socket().is_ok();
        let Some(entry) = self.listeners.get(listener).filter(|_| id.is_on(&self.adapter.device)) else {
            return Err(Some((id, Refusal::Closed)));
        };
        if !entry.has_room() || !room {
            return Err(Some((id, Refusal::Busy)));
        }
        let options = entry.options.clone();
        let peer = match Hello::parse(&told.private) {
            Ok(peer) => peer,
            Err(refusal) => return Err(Some((id, refusal))),
        };
        let Some(remote) = id.peer_addr() else { return Err(Some((id, Refusal::Limits))) };
        let reads = self.adapter.reads().min(told.reads);
        let mut config = self.session_config(&options);
        config.reads = config.reads.min(reads.own.into());
        let mut stream = Stream::new(Phase::Accepting, remote, options);
        stream.local = id.local_addr();
        stream.credits = config.credits;
        stream.listener = Some(listener);
        let handle = self.streams.insert(stream);
        id.set_token(token_of(Named::Stream, handle));
        let accepted = self.pair_up(handle, id, config.send_queue_depth(&peer)).and_then(|()| {
            let session = Session::new(Role::Accepting, &config, &peer, self.now);
            let stream = self.streams.get_mut(handle).ok_or_else(stale)?;
            stream.session = Some(session);
            let pair = stream.pair.as_ref().ok_or_else(stale)?;
            pair.id().accept(&config.hello().emit(), reads)
        });
        if accepted.is_err() {
            self.forget(handle);
            return Err(None);
        }
        if let Some(entry) = self.listeners.get_mut(listener) {
            entry.pending += 1;
        }
        // A peer that asks and says nothing more would hold a place in the backlog for ever.
        if let Some(stream) = self.streams.get_mut(handle) {
            stream.give_up_at = Some(self.now + self.connect_timeout);
        }
        self.touch(handle);
        self.arm(handle);
        Ok(())
    }

    /// Makes the queue pair of a connection.
    fn pair_up(&mut self, handle: Handle, id: Id, depth: u32) -> io::Result<()> {
        let depth = depth + ONE_SIDED as u32;
        let pair = self.adapter.pair(id, depth, super::transport::tag_of(handle))?;
        self.by_queue.insert(pair.number(), handle);
        let stream = self.streams.get_mut(handle).ok_or_else(stale)?;
        stream.pair = Some(pair);
        Ok(())
    }

    fn on_stream_news(&mut self, handle: Handle, news: News) {
        let limit = self.connect_timeout;
        let Some(stream) = self.streams.get_mut(handle) else { return };
        match news {
            News::AddressResolved => {
                let Phase::Resolving(id) = std::mem::replace(&mut stream.phase, Phase::Failed) else {
                    return;
                };
                let routing = if id.is_on(&self.adapter.device) {
                    id.resolve_route(limit)
                } else {
                    Err(not_ours(&self.adapter, stream.remote.ip()))
                };
                match routing {
                    Ok(()) => {
                        stream.phase = Phase::Routing(id);
                        // Until now the questions were what bounded it; and a loop that has not turned yet has no time.
                        stream.give_up_at = Some(self.now + limit);
                    }
                    Err(error) => self.connect_failed(handle, error),
                }
            }
            News::RouteResolved => {
                let Phase::Routing(id) = std::mem::replace(&mut stream.phase, Phase::Failed) else { return };
                stream.local = id.local_addr();
                if let Err(error) = self.ask(handle, id) {
                    self.connect_failed(handle, error);
                }
            }
            News::Established(told) => match stream.phase {
                Phase::Connecting => self.established(handle, &told),
                Phase::Accepting => self.arrived(handle),
                _ => {}
            },
            News::Rejected(reason, private) => {
                let remote = stream.remote;
                let error = match Refusal::parse(&private) {
                    Some(refusal) => refusal.error(),
                    None if reason == NOBODY_LISTENS => io::Error::from_raw_os_error(libc::ECONNREFUSED),
                    None => io::Error::new(
                        io::ErrorKind::ConnectionRefused,
                        format!("{remote} refuses RDMA connections of this kind (reason {reason})"),
                    ),
                };
                self.connect_failed(handle, error);
            }
            News::Unreachable => {
                self.connect_failed(handle, io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            News::Failed(libc::ETIMEDOUT) if stream.questions > 1 && stream.ask_again(QUESTION) => {}
            News::Failed(number) => {
                // Of an address that nobody answers for, TCP says that there is no way to the host.
                let number = match (&stream.phase, number) {
                    (Phase::Resolving(_), libc::ETIMEDOUT) => libc::EHOSTUNREACH,
                    (_, 0) => libc::EIO,
                    (_, number) => number,
                };
                self.connect_failed(handle, io::Error::from_raw_os_error(number));
            }
            News::Disconnected | News::DeviceRemoved => {
                let failure = match news {
                    News::DeviceRemoved => Failure::DeviceGone,
                    _ => Failure::Disconnected,
                };
                stream.fail(failure);
                if matches!(stream.phase, Phase::Connecting) {
                    self.connect_failed(handle, io::Error::from_raw_os_error(libc::ECONNRESET));
                } else if matches!(stream.phase, Phase::Accepting) {
                    self.arrived(handle);
                }
                self.touch(handle);
            }
            News::Request(..) | News::Found(_) | News::Missing(..) | News::Other => {}
        }
    }

    /// Asks the peer for the connection.
    fn ask(&mut self, handle: Handle, id: Id) -> io::Result<()> {
        let options = self.streams.get(handle).ok_or_else(stale)?.options.clone();
        let config = self.session_config(&options);
        if let Some(stream) = self.streams.get_mut(handle) {
            stream.credits = config.credits;
            stream.phase = Phase::Connecting;
        }
        // What the peer will offer is not known yet, but that its offers are of no concern to this side's queue: it is what this side
        // offers, which is as much as this side's own hello allows.
        self.pair_up(handle, id, config.send_queue_depth(&config.hello()))?;
        let stream = self.streams.get(handle).ok_or_else(stale)?;
        let pair = stream.pair.as_ref().ok_or_else(stale)?;
        pair.id().connect(&config.hello().emit(), self.adapter.reads())?;
        self.asked.insert(handle.index, config);
        Ok(())
    }

    fn established(&mut self, handle: Handle, told: &Told) {
        let Some(mut config) = self.asked.remove(&handle.index) else { return };
        let peer = match Hello::parse(&told.private) {
            Ok(peer) => peer,
            Err(refusal) => return self.connect_failed(handle, refusal.error()),
        };
        config.reads = config.reads.min(told.reads.own.into());
        let now = self.now;
        let Some(stream) = self.streams.get_mut(handle) else { return };
        stream.session = Some(Session::new(Role::Connecting, &config, &peer, now));
        self.adapter.counts.active_opens += 1;
        stream.phase = Phase::Open;
        stream.give_up_at = None;
        self.wakes.extend(stream.writer.take());
        self.touch(handle);
    }

    /// A connection that was accepted is open: it goes to its listener's queue.
    pub(super) fn arrived(&mut self, handle: Handle) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        stream.phase = Phase::Open;
        stream.give_up_at = None;
        self.adapter.counts.passive_opens += 1;
        match stream.listener.take().and_then(|listener| self.listeners.get_mut(listener)) {
            Some(listener) => {
                listener.pending = listener.pending.saturating_sub(1);
                listener.queue.push_back(handle);
                self.wakes.extend(listener.waiter.take());
            }
            None => self.give_up(handle, true),
        }
    }

    /// A connection has not come to be.
    pub(super) fn connect_failed(&mut self, handle: Handle, error: io::Error) {
        let Some(stream) = self.streams.get_mut(handle) else { return };
        if matches!(stream.phase, Phase::Open) {
            return;
        }
        if matches!(stream.phase, Phase::Accepting) {
            if let Some(listener) = stream.listener.and_then(|listener| self.listeners.get_mut(listener)) {
                listener.pending = listener.pending.saturating_sub(1);
            }
            self.adapter.counts.attempt_fails += 1;
            return self.forget(handle);
        }
        stream.phase = Phase::Failed;
        self.adapter.counts.attempt_fails += 1;
        stream.give_up_at = None;
        stream.error = Some(explain(error, format!("cannot connect to {}", stream.remote)));
        stream.wake_both(&mut self.wakes);
        self.release(handle);
    }

    /// Whether another socket may be opened.
    pub(super) fn room_for_socket(&self) -> io::Result<()> {
        let open = self.listeners.len() + self.streams.len() + self.datagrams.len();
        if open < self.max_sockets { Ok(()) } else { Err(too_many_sockets(self.max_sockets)) }
    }
}

const _: () = assert!(HELLO_BYTES <= 56, "what a request over InfiniBand has room for");

/// How long set-ups of connections may take, unless said otherwise.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer to a question for the peer's address is waited for, and how often it is asked. Not once and long: the kernel does
/// not always hear of an answer that is there before it has begun to wait, and finds it when it is asked again.
const QUESTION: Duration = Duration::from_secs(1);
const QUESTIONS: u8 = 4;

/// When events are looked for, though nothing says that there are any: asking costs a system call.
pub(super) fn next_look(now: Instant) -> Instant {
    now + Duration::from_micros(20)
}
