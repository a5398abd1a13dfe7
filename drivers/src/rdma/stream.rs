//! A connection: how far its set-up is, its queue pair, and the session that makes a stream of its messages.
//!
//! Owns what the session asked for and could not be had yet: READs for which no slot is free, messages without a slot for
//! their head. Does what the socket's calls ask for; what goes on the wire is the session's to say.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::adapter::Adapter;
use super::onesided::{Line, Local, Marked, Peer};
use super::proto::{Action, Changes, Ended, Failure, Popped, Session};
use super::verbs::cm::Id;
use super::verbs::cq::Status;
use super::verbs::qp::{Done, QueuePair};
use crate::mem::Buf;
use crate::sockets::{remember, write_after_shutdown};
use crate::time::Instant;
use crate::transport::{Handle, ReadCursor, StreamOptions, TcpInfo, TcpState};

/// How far a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// The peer's address is being looked for.
    Resolving(Id),
    /// The way there is.
    Routing(Id),
    /// The peer has been asked.
    Connecting,
    /// The peer has been told that it may.
    Accepting,
    /// There it is.
    Open,
    /// It has never come to be.
    Failed,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) phase: Phase,
    /// Dropped before the session: nothing of the session's memory is with the adapter then.
    pub(super) pair: Option<QueuePair>,
    pub(super) session: Option<Session>,
    /// One-sided operations on the peer's memory, once somebody has asked for them.
    pub(super) line: Option<Rc<Line<Local>>>,
    /// Actions that wait for a slot.
    stalled: VecDeque<Action>,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: SocketAddr,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) options: StreamOptions,
    /// What went wrong, until somebody has been told.
    pub(super) error: Option<io::Error>,
    /// Somebody has.
    told: bool,
    /// The application has given it up.
    pub(super) orphan: bool,
    /// It is in the list of those to be flushed.
    pub(super) dirty: bool,
    /// It was disconnected; the rest of its requests is being flushed out.
    pub(super) leaving: bool,
    /// The adapter takes no requests any more: there is nothing to wait for.
    broken: bool,
    /// When a set-up is given up.
    pub(super) give_up_at: Option<Instant>,
    pub(super) armed: Option<Instant>,
    /// Questions for the peer's address that may still be asked.
    pub(super) questions: u8,
    /// What it was promised of the receives.
    pub(super) credits: u16,
    /// Its end has been counted.
    pub(super) over: bool,
    /// Whose queue it goes to once it is open.
    pub(super) listener: Option<Handle>,
}

impl Stream {
    pub(super) fn new(phase: Phase, remote: SocketAddr, options: StreamOptions) -> Stream {
        Stream {
            phase,
            pair: None,
            session: None,
            line: None,
            stalled: VecDeque::new(),
            local: None,
            remote,
            reader: None,
            writer: None,
            options,
            error: None,
            told: false,
            orphan: false,
            dirty: false,
            leaving: false,
            broken: false,
            give_up_at: None,
            armed: None,
            questions: 0,
            credits: 0,
            over: false,
            listener: None,
        }
    }

    /// When it wants to be looked at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref().and_then(Session::deadline);
        match (session, self.give_up_at) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Asks for the peer's address once more; whether that could be done.
    pub(super) fn ask_again(&mut self, limit: Duration) -> bool {
        self.questions -= 1;
        match &self.phase {
            Phase::Resolving(id) => id.resolve(self.local, self.remote, limit).is_ok(),
            _ => false,
        }
    }

    // ---- what the device says ----

    /// A completion of its requests: the one numbered `number`, and all before it that had none.
    pub(super) fn completed(&mut self, adapter: &mut Adapter, now: Instant, number: u16, status: Status) {
        let Some(pair) = &mut self.pair else { return };
        let (session, line) = (&mut self.session, &self.line);
        let mut sent = 0;
        let count = pair.completed(number, status, |done, status| {
            let well = status == Status::Success;
            let Some(session) = session else { return };

            if let Done::Sent = done {
                sent += usize::from(well);
            } else if well && sent > 0 {
                session.sent(now, std::mem::take(&mut sent));
            }
            match done {
                Done::OneSided { operation, memory } => {
                    let result = if well { Ok(()) } else { Err(failure(status).into()) };
                    if let Some(line) = line {
                        line.completed(operation, memory, result);
                    }
                }
                Done::Sent | Done::Bound => {}
                Done::Read(slot) if well => session.read(now, slot.freeze()),
                Done::Probed if well => session.probed(now),
                Done::Invalidated { name, window } => {
                    adapter.give_back(window);
                    if well {
                        session.concealed(super::proto::OfferId(name));
                    }
                }
                Done::Read(_) | Done::Probed => {}
            }
            if !well && status != Status::Flushed {
                session.failed(failure(status));
            }
        });
        if let Some(session) = session
            && sent > 0
        {
            session.sent(now, sent);
        }
        adapter.posted -= count;
        // Flushed without anybody's having disconnected: the peer has, or the adapter gave up on it, and an event will say so; should
        // none come, this was it.
        if status == Status::Flushed && !self.leaving {
            self.fail(Failure::Disconnected);
        }
    }

    /// The connection has failed.
    pub(super) fn fail(&mut self, failure: Failure) {
        if let Some(session) = &mut self.session {
            session.failed(failure);
        }
    }

    // ---- what the session wants ----

    /// Does what the session wants, as far as there is memory; whether all of it was handed to the adapter.
    pub(super) fn flush(&mut self, adapter: &mut Adapter, now: Instant, actions: &mut Vec<Action>) -> bool {
        let Some(session) = &mut self.session else { return true };
        loop {
            if session.wants_flush() {
                session.flush(now, actions);
            }
            self.stalled.extend(actions.drain(..));
            let Some(pair) = &mut self.pair else {
                self.stalled.clear();
                return true;
            };
            let mut kept = VecDeque::new();
            // A READ that has no slot keeps those behind it from theirs, and no message; a message keeps everything.
            let mut reads_wait = false;
            while let Some(action) = self.stalled.pop_front() {
                match action {
                    Action::Send(mut message) => {
                        if !adapter.send(pair, &mut message) {
                            kept.push_back(Action::Send(message));
                            kept.append(&mut self.stalled);
                        }
                    }
                    Action::Read(read) => {
                        let slot = if reads_wait { None } else { adapter.slot(read.bytes) };
                        let remote = (read.address, read.key);
                        if slot.is_none_or(|slot| pair.read(slot, read.bytes, remote).is_err()) {
                            reads_wait = true;
                            kept.push_back(Action::Read(read));
                        } else {
                            adapter.counts.reads += 1;
                            adapter.counts.read_octets += u64::from(read.bytes);
                        }
                    }
                    Action::Probe => pair.probe(),
                    Action::Expose { offer, bytes } => {
                        let address = bytes.as_ptr().addr() as u64;
                        match adapter.expose(pair, offer.0, &bytes) {
                            Some(key) => {
                                adapter.counts.offers += 1;
                                session.exposed(offer, address, key);
                            }
                            None => session.not_exposed(offer),
                        }
                    }
                    Action::Conceal { offer } => {
                        if !pair.invalidate(offer.0) {
                            session.concealed(offer);
                        }
                    }
                    Action::Disconnect => {
                        self.leaving = true;
                        let (line, ended) = (&self.line, session.ended());
                        pair.withdraw(|done| undone(done, line.as_deref(), ended));
                        // Of one that is disconnected already, or never was connected, it says so, and that is well.
                        let _ = pair.id().disconnect();
                        // Messages that asked for no completion have none now that they were sent: behind all of them goes
                        // something that has.
                        if pair.posted() > 0 {
                            pair.probe();
                        }
                    }
                }
            }
            self.stalled = kept;
            if self.leaving {
                self.stalled.clear();
            }
            if !session.wants_flush() {
                break;
            }
        }
        adapter.counts.mem_stalls += u64::from(!self.stalled.is_empty());
        let Some(pair) = &mut self.pair else { return true };
        if let Some(line) = &self.line {
            while let Some((operation, what)) = line.next_to_post() {
                let refused = match self.leaving {
                    true => Some(what.memory),
                    false => pair.one_sided(operation, what).err(),
                };
                adapter.counts.one_sided += u64::from(refused.is_none());
                if let Some(memory) = refused {
                    line.completed(operation, memory, Err(Failure::Broken.into()));
                }
            }
        }
        match adapter.post(pair) {
            Ok(whole) => whole && self.stalled.is_empty(),
            Err(_) => {
                self.broken = true;
                self.fail(Failure::Broken);
                self.leaving
            }
        }
    }

    /// Brings the queue pair down once nothing of it is with the adapter. Answers its number, the first time.
    pub(super) fn settle(&mut self) -> Option<u32> {
        let waits = |pair: &QueuePair| pair.posted() + pair.unposted() > 0;
        if !self.leaving || (!self.broken && self.pair.as_ref().is_some_and(waits)) {
            return None;
        }
        self.bring_down()
    }

    /// Brings the queue pair down, whatever is with the adapter. Answers its number, the first time.
    pub(super) fn bring_down(&mut self) -> Option<u32> {
        let number = self.pair.as_ref().map(QueuePair::number);
        self.stalled.clear();
        let ended = self.session.as_ref().and_then(Session::ended);
        if let Some(pair) = self.pair.take() {
            pair.destroy(|done| undone(done, self.line.as_deref(), ended));
        }
        if let Some(session) = &mut self.session
            && !session.is_down()
        {
            session.down();
        }
        if let Some(line) = &self.line {
            line.fail(ended.unwrap_or(Ended::Aborted));
        }
        number
    }

    /// One-sided operations on the memory of its peer.
    pub(super) fn one_sided(
        &mut self,
        handle: Handle,
        marked: &Marked,
        adapter: &Adapter,
    ) -> io::Result<Peer> {
        let live = matches!(self.phase, Phase::Open) && self.session()?.ended().is_none();
        if !live {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the stream is not connected"));
        }
        let line = self.line.get_or_insert_with(|| Line::new(handle, ONE_SIDED, marked));
        Ok(Peer::new(Rc::clone(line), &adapter.pool, adapter.fetches()))
    }

    /// Wakes whom recent events concern.
    #[inline]
    pub(super) fn wake(&mut self, wakes: &mut Vec<Waker>) -> Changes {
        let Some(session) = &mut self.session else { return Changes::default() };
        let changes = session.take_changes();
        if changes.ended
            && let (Some(line), Some(ended)) = (&self.line, session.ended())
        {
            line.fail(ended);
        }
        if changes.readable || changes.ended {
            wakes.extend(self.reader.take());
        }
        if changes.writable || changes.drained || changes.ended {
            wakes.extend(self.writer.take());
        }
        changes
    }

    /// Whether its peer has fewer credits than were promised: some were taken back.
    #[inline]
    pub(super) fn has_returned(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.credits() < self.credits.into())
    }

    pub(super) fn wake_both(&mut self, wakes: &mut Vec<Waker>) {
        wakes.extend(self.reader.take());
        wakes.extend(self.writer.take());
    }

    // ---- the socket's calls ----

    pub(super) fn poll_connect(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Open | Phase::Accepting => Poll::Ready(Ok(())),
            Phase::Failed => {
                let error = self.error.take();
                Poll::Ready(Err(error.unwrap_or_else(|| io::ErrorKind::NotConnected.into())))
            }
            Phase::Resolving(_) | Phase::Routing(_) | Phase::Connecting => {
                remember(&mut self.writer, cx);
                Poll::Pending
            }
        }
    }

    /// The session, or why there is none.
    fn session(&mut self) -> io::Result<&mut Session> {
        match &mut self.session {
            Some(session) => Ok(session),
            None => Err(self.error.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into())),
        }
    }

    /// What the end of the connection means to who reads or writes: an error, once; then nothing more to read, and nobody to write
    /// to.
    fn ended(&mut self, ended: Ended) -> Option<io::Error> {
        if std::mem::replace(&mut self.told, true) { None } else { ended.error() }
    }

    pub(super) fn poll_pop(&mut self, cx: &Context<'_>, max: usize) -> Poll<io::Result<Option<Buf>>> {
        match self.session()?.pop(max) {
            Popped::Bytes(buf) => Poll::Ready(Ok(Some(buf))),
            Popped::End => Poll::Ready(Ok(None)),
            Popped::Ended(ended) => Poll::Ready(self.ended(ended).map_or(Ok(None), Err)),
            Popped::Nothing => {
                remember(&mut self.reader, cx);
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &Context<'_>,
        dst: &mut ReadCursor<'_>,
        peek: bool,
    ) -> Poll<io::Result<()>> {
        if dst.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let session = self.session()?;
        if session.ready_bytes() > 0 {
            let mut count = 0;
            for chunk in session.chunks() {
                count += dst.put(chunk);
                if dst.remaining() == 0 {
                    break;
                }
            }
            if !peek {
                session.consume(count);
            }
            return Poll::Ready(Ok(()));
        }
        match session.pop(usize::MAX) {
            Popped::Ended(ended) => Poll::Ready(self.ended(ended).map_or(Ok(()), Err)),
            Popped::End => Poll::Ready(Ok(())),
            // There were no bytes just now.
            Popped::Nothing | Popped::Bytes(_) => {
                remember(&mut self.reader, cx);
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_readable(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.session()?.is_readable() {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.reader, cx);
        Poll::Pending
    }

    /// Whether there is room to write; an error when there never will be.
    fn may_write(&mut self) -> io::Result<bool> {
        let session = self.session()?;
        if let Some(ended) = session.ended() {
            return Err(self.ended(ended).unwrap_or_else(write_after_shutdown));
        }
        if session.is_write_shut() {
            return Err(write_after_shutdown());
        }
        Ok(session.send_room() > 0)
    }

    pub(super) fn poll_push(
        &mut self,
        cx: &mut Context<'_>,
        adapter: &Adapter,
        buf: &mut Option<Buf>,
    ) -> Poll<io::Result<()>> {
        if !self.may_write()? {
            remember(&mut self.writer, cx);
            return Poll::Pending;
        }
        let Some(bytes) = buf.take() else { return Poll::Ready(Ok(())) };
        if adapter.covers(&bytes) {
            if let Err(bytes) = self.session()?.push(bytes) {
                *buf = Some(bytes);
                remember(&mut self.writer, cx);
                return Poll::Pending;
            }
            return Poll::Ready(Ok(()));
        }
        // Another pool's memory, which the adapter cannot reach.
        match adapter.pool.poll_alloc_spare(cx, bytes.len()) {
            Poll::Ready(Some(mut slot)) => {
                slot.put_slice(&bytes);
                // There is room, as was asked above.
                let pushed = self.session()?.push(slot.freeze());
                debug_assert!(pushed.is_ok());
                Poll::Ready(Ok(()))
            }
            Poll::Ready(None) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{} bytes of another device's memory fit no slot of this one's: split them",
                    bytes.len()
                ),
            ))),
            Poll::Pending => {
                *buf = Some(bytes);
                Poll::Pending
            }
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        adapter: &Adapter,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.may_write()? {
            if src.iter().all(|view| view.is_empty()) {
                return Poll::Ready(Ok(0));
            }
            return self.poll_copy(cx, adapter, src);
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    /// Copies bytes into slots, and queues those.
    fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        adapter: &Adapter,
        src: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let (pool, mut taken) = (&adapter.pool, 0);
        let mut views = src.iter().map(|view| &view[..]).filter(|view| !view.is_empty());
        let Some(mut view) = views.next() else { return Poll::Ready(Ok(0)) };
        let mut left: usize = src.iter().map(|view| view.len()).sum();
        loop {
            let room = self.session()?.send_room();
            if room == 0 {
                break;
            }
            let want = left.min(room).min(pool.max_capacity());
            let slot = pool.alloc_spare(want).or_else(|| pool.alloc_spare(want.min(pool.small_capacity())));
            let slot = match slot {
                Some(slot) => Poll::Ready(Some(slot)),
                None if taken > 0 => break,
                None => pool.poll_alloc_spare(cx, want.min(pool.small_capacity())),
            };
            let mut slot = match slot {
                Poll::Ready(Some(slot)) => slot,
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into())),
                Poll::Pending => return Poll::Pending,
            };
            let mut fits = slot.tailroom().min(want);
            let mut more = true;
            while fits > 0 && more {
                let count = slot.put_slice(&view[..view.len().min(fits)]);
                (fits, left, taken) = (fits - count, left - count, taken + count);
                view = &view[count..];
                while view.is_empty() && more {
                    match views.next() {
                        Some(next) => view = next,
                        None => more = false,
                    }
                }
            }
            if self.session()?.push(slot.freeze()).is_err() || !more {
                break;
            }
        }
        if taken == 0 {
            remember(&mut self.writer, cx);
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    pub(super) fn poll_writable(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.may_write()? {
            return Poll::Ready(Ok(()));
        }
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn poll_drained(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let session = self.session()?;
        if session.is_drained() {
            return Poll::Ready(Ok(()));
        }
        if let Some(ended) = session.ended() {
            let error = self.ended(ended).unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
            return Poll::Ready(Err(error));
        }
        session.want_drained();
        remember(&mut self.writer, cx);
        Poll::Pending
    }

    pub(super) fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        let session = self.session()?;
        if how != Shutdown::Write {
            session.shut_read();
        }
        if how != Shutdown::Read {
            session.shut_write();
        }
        Ok(())
    }

    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        let ended = self.session.as_ref().and_then(Session::ended);
        self.error.take().or_else(|| ended.and_then(|ended| self.ended(ended)))
    }

    /// The state of TCP's that is most like its own.
    pub(super) fn state(&self) -> TcpState {
        match (&self.phase, &self.session) {
            (Phase::Resolving(_) | Phase::Routing(_) | Phase::Connecting, _) => TcpState::SynSent,
            (Phase::Accepting, _) => TcpState::SynReceived,
            (Phase::Failed, _) | (_, None) => TcpState::Closed,
            (Phase::Open, Some(session)) if session.ended().is_some() => TcpState::Closed,
            (Phase::Open, Some(session)) => match (session.is_write_shut(), session.is_drained()) {
                (false, _) => TcpState::Established,
                (true, false) => TcpState::FinWait1,
                (true, true) => TcpState::FinWait2,
            },
        }
    }

    pub(super) fn info(&self) -> TcpInfo {
        let mut info = TcpInfo { state: self.state(), ..TcpInfo::default() };
        if let Some(session) = &self.session {
            info.unacked_bytes = session.unacknowledged_bytes() as u64;
            info.unread_bytes = session.ready_bytes() as u64;
        }
        info
    }
}

/// One-sided operations that a connection may have under way.
pub(super) const ONE_SIDED: usize = 32;

/// A request that is not done any more: an operation's memory goes back to who asked for it.
fn undone(done: Done, line: Option<&Line<Local>>, ended: Option<Ended>) {
    if let (Done::OneSided { operation, memory }, Some(line)) = (done, line) {
        line.completed(operation, memory, Err(ended.unwrap_or(Ended::Aborted)));
    }
}

/// What an error of the adapter means to the connection.
fn failure(status: Status) -> Failure {
    match status {
        Status::Success | Status::Flushed => Failure::Disconnected,
        Status::PeerSilent | Status::PeerFull => Failure::Unanswered,
        Status::Refused => Failure::Refused,
        Status::Failed(_) => Failure::Broken,
    }
}
