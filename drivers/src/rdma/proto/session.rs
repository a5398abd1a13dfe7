//! One connection: both directions, their credits, and how it ends.

use core::mem;

use smallvec::SmallVec;

use super::config::Config;
use super::credits::Credits;
use super::ended::{Ended, Failure, Violation};
use super::hello::Hello;
use super::incoming::Incoming;
use super::message::{HEADER_BYTES, Header, Kind, OFFER_BYTES, OFFERS_A_MESSAGE, Offer};
use super::outgoing::{Fin, Next, Outgoing};
use super::{Action, CONTROL_RECEIVES, HEAD_BYTES, Message, OfferId, PIECES};
use crate::mem::Buf;
use crate::time::Instant;
use crate::transport::KeepAlive;

/// Which side of rdma_cm's handshake this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It connected, and speaks first.
    Connecting,
    /// It accepted, and listens first.
    Accepting,
}

/// What [`Session::pop`] has.
#[derive(Debug)]
pub enum Popped {
    /// The next bytes.
    Bytes(Buf),
    /// None for now.
    Nothing,
    /// None, ever: the peer has ended its stream.
    End,
    /// None, ever: the connection is gone.
    Ended(Ended),
}

/// Whom recent events concern. Taken by [`Session::take_changes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// There is something to read, or an end, that was not there before.
    pub readable: bool,
    /// There may be room to push again.
    pub writable: bool,
    /// [`Session::is_drained`] has become true.
    pub drained: bool,
    /// The connection has ended, or nothing of it is left with the device.
    pub ended: bool,
    /// There is something to send, and not a credit left to send it with.
    pub stalled: bool,
    /// The peer has used up its credits: with [more](Session::set_credits) it might have sent on.
    pub exhausted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Listening for the peer's first message; nothing is sent until then.
    Waiting,
    Live,
    /// Over; `Disconnect` is to be emitted.
    Leaving,
    /// It was emitted.
    Left,
    Down,
}

/// A connection's protocol. See the [module](super) for who calls what, and when.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    /// Something may have to be emitted.
    dirty: bool,
    changes: Changes,
    credits: Credits,
    outgoing: Outgoing,
    incoming: Incoming,
    /// Sequence numbers of the next message of either direction.
    next_out: u32,
    next_in: u32,
    /// Messages since the last one whose completion was asked for.
    unsignalled: usize,
    /// The next message has to be sent soon, if only to be the first.
    introduce: bool,
    /// A caller waits for completions that were not asked for.
    draining: bool,
    /// What is to be sent waits for a credit.
    stalled: bool,
    /// The application has given the connection up.
    closed: bool,
    /// This side's end was acknowledged before the peer's arrived: the peer disconnects.
    peer_disconnects: bool,
    ended: Option<Ended>,
    /// The last sign of life.
    heard_at: Instant,
    /// A probe is in flight since then.
    probe_at: Option<Instant>,
    probe_due: bool,
    keepalive: Option<KeepAlive>,
    /// When a connection that is being closed is given up.
    close_by: Option<Instant>,
    config: Config,
}

impl Session {
    /// The protocol of a connection to a peer that said `peer`, having been told [`Config::hello`].
    pub fn new(role: Role, config: &Config, peer: &Hello, now: Instant) -> Session {
        let connecting = role == Role::Connecting;
        Session {
            phase: if connecting { Phase::Live } else { Phase::Waiting },
            dirty: connecting,
            changes: Changes::default(),
            credits: Credits::new(config.credits, peer.credits),
            outgoing: Outgoing::new(config, peer),
            incoming: Incoming::new(config),
            next_out: 0,
            next_in: 0,
            unsignalled: 0,
            introduce: connecting,
            draining: false,
            stalled: false,
            closed: false,
            peer_disconnects: false,
            ended: None,
            heard_at: now,
            probe_at: None,
            probe_due: false,
            keepalive: config.keepalive,
            close_by: None,
            config: config.clone(),
        }
    }

    // ---- the application's calls ----

    /// Queues bytes to be sent, without copying.
    ///
    /// # Errors
    /// The bytes themselves, when the send buffer is full ([`send_room`](Self::send_room) is 0), after
    /// [`shut_write`](Self::shut_write), or when the connection is gone.
    #[inline]
    pub fn push(&mut self, buf: Buf) -> Result<(), Buf> {
        if !self.is_live() || self.outgoing.fin != Fin::Open || self.outgoing.room() == 0 {
            return Err(buf);
        }
        if !buf.is_empty() {
            self.outgoing.push(buf);
            self.dirty = true;
        }
        Ok(())
    }

    /// Bytes that may be pushed before pushing waits; a single [`Buf`] may exceed it. 0 tells to wait for
    /// [`Changes::writable`], unless this direction is shut or the connection gone.
    #[inline]
    pub fn send_room(&self) -> usize {
        self.outgoing.room()
    }

    /// Bytes pushed that the peer does not have yet.
    pub fn unacknowledged_bytes(&self) -> usize {
        self.outgoing.unacknowledged_bytes()
    }

    /// Takes received bytes, at most `most`, without copying.
    #[inline]
    pub fn pop(&mut self, most: usize) -> Popped {
        if most > 0
            && let Some(buf) = self.incoming.pop(most, &mut self.credits)
        {
            self.dirty = true;
            return Popped::Bytes(buf);
        }
        if self.incoming.ready_bytes() > 0 {
            return Popped::Nothing;
        }
        if self.incoming.is_at_end() || self.incoming.is_discarding() {
            return Popped::End;
        }
        match self.ended {
            Some(ended) => Popped::Ended(ended),
            None => Popped::Nothing,
        }
    }

    /// Bytes that [`pop`](Self::pop) has at once.
    #[inline]
    pub fn ready_bytes(&self) -> usize {
        self.incoming.ready_bytes()
    }

    /// These bytes, piece by piece, for copying or looking at them; [`consume`](Self::consume) takes them.
    pub fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.incoming.chunks()
    }

    /// Drops the first `count` received bytes; all of them when there are fewer.
    pub fn consume(&mut self, mut count: usize) {
        while count > 0
            && let Some(buf) = self.incoming.pop(count, &mut self.credits)
        {
            count -= buf.len();
            self.dirty = true;
        }
    }

    /// Whether reading would find bytes, an end, or an error.
    #[inline]
    pub fn is_readable(&self) -> bool {
        self.incoming.ready_bytes() > 0
            || self.ended.is_some()
            || self.incoming.is_at_end()
            || self.incoming.is_discarding()
    }

    /// Ends this side's stream behind what is queued.
    pub fn shut_write(&mut self) {
        if self.is_live() && self.outgoing.fin == Fin::Open {
            self.outgoing.fin = Fin::Queued;
            self.dirty = true;
        }
    }

    /// Whether [`shut_write`](Self::shut_write) was called.
    pub fn is_write_shut(&self) -> bool {
        self.outgoing.fin != Fin::Open
    }

    /// Drops what has come and what comes from now on.
    pub fn shut_read(&mut self) {
        self.incoming.discard(&mut self.credits);
        self.changes.readable = true;
        self.dirty = true;
    }

    /// Whether the peer has every byte that was pushed, and the end after [`shut_write`](Self::shut_write).
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.outgoing.is_drained()
    }

    /// Somebody waits for [`Changes::drained`]: completions that would otherwise come with later messages are asked for now.
    pub fn want_drained(&mut self) {
        if !self.is_drained() {
            self.draining = true;
            self.dirty = true;
        }
    }

    /// The application gives the connection up. What is queued, and the end, are still delivered within [`Config::closing`]; when bytes
    /// were received and never read, or come later, the peer sees a reset.
    pub fn close(&mut self, now: Instant) {
        if self.incoming.has_unread() {
            return self.abort();
        }
        self.shut_write();
        self.closed = true;
        if self.is_live() {
            self.close_within(now);
        }
    }

    /// Resets the connection.
    pub fn abort(&mut self) {
        self.end(Ended::Aborted);
    }

    /// How the connection ended; `None` while it has not.
    #[inline]
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// Whether nothing is left with the device: the session may be dropped.
    pub fn is_down(&self) -> bool {
        self.phase == Phase::Down
    }

    /// Sets when a silent peer is probed; `None`: never.
    pub fn set_keepalive(&mut self, keepalive: Option<KeepAlive>) {
        self.keepalive = keepalive;
    }

    /// The peer is to have `credits` in all from now on ([`Promises`](super::Promises) gives them). Fewer are taken back as they return.
    pub fn set_credits(&mut self, credits: u16) {
        self.dirty |= self.credits.set_target(credits);
    }

    /// Receives that the peer's data may still take: its credits, or more while what was taken back from it has not returned.
    pub fn credits(&self) -> u32 {
        self.credits.held()
    }

    // ---- what the device says ----

    /// A message arrived.
    pub fn received(&mut self, now: Instant, message: Buf) {
        if !self.is_live() {
            return;
        }
        self.heard_at = now;
        self.dirty = true;
        if let Err(violation) = self.take(now, message) {
            self.end(Ended::Violated(violation));
        }
    }

    fn take(&mut self, now: Instant, mut message: Buf) -> Result<(), Violation> {
        let header = Header::parse(&message)?;
        if message.len() > self.config.message_bytes as usize {
            return Err(Violation::Length);
        }
        if header.sequence != self.next_in {
            return Err(Violation::Sequence);
        }
        self.next_in = self.next_in.wrapping_add(1);
        match header.kind {
            Kind::Data | Kind::Offer => {
                if self.incoming.has_end() {
                    return Err(Violation::AfterEnd);
                }
                self.credits.arrived()?;
                self.changes.exhausted |= self.credits.is_exhausted();
            }
            Kind::Control => self.credits.asked()?,
            Kind::Answer => {}
        }
        self.credits.told(header.credits, header.heard)?;
        if header.done > 0 {
            if !self.outgoing.done(header.done) {
                return Err(Violation::Done);
            }
            self.changes.writable = true;
            self.changes.drained |= self.outgoing.is_drained();
        }
        if self.phase == Phase::Waiting {
            self.phase = Phase::Live;
        }
        if header.kind == Kind::Control || header.kind == Kind::Answer {
            return Ok(());
        }
        if self.closed && header.length > 0 {
            // RFC 9293 §3.10.7.1: whoever writes to a reader that is gone is told so.
            self.end(Ended::Aborted);
            return Ok(());
        }
        message.advance(HEADER_BYTES);
        if header.kind == Kind::Offer {
            self.credits.consumed();
            self.take_offers(&message)?;
        } else if message.is_empty() {
            self.credits.consumed();
        } else {
            self.incoming.bytes(message, &mut self.credits);
            self.changes.readable = true;
        }
        if header.fin {
            self.incoming.end();
            self.changes.readable |= self.incoming.is_at_end();
            if self.outgoing.fin == Fin::Finished {
                self.peer_disconnects = true;
                self.close_within(now);
            }
        }
        Ok(())
    }

    fn take_offers(&mut self, mut offers: &[u8]) -> Result<(), Violation> {
        let most = self.config.hello().offer_bytes;
        while let Some((first, rest)) = offers.split_first_chunk::<OFFER_BYTES>() {
            self.incoming.offer(Offer::parse(first, most)?, &mut self.credits)?;
            offers = rest;
        }
        Ok(())
    }

    /// The `count` oldest [`Send`](Action::Send)s have completed: a signalled one, and all before it.
    #[inline]
    pub fn sent(&mut self, now: Instant, count: usize) {
        self.outgoing.sent(count);
        self.heard_at = now;
        self.dirty = true;
        self.changes.writable = true;
        if self.outgoing.is_drained() {
            self.changes.drained = true;
            self.draining = false;
        }
    }

    /// The oldest [`Read`](Action::Read) has completed into `bytes`, which are as many as it asked for.
    pub fn read(&mut self, now: Instant, bytes: Buf) {
        if !self.is_live() {
            return;
        }
        self.heard_at = now;
        self.dirty = true;
        if self.incoming.landed(bytes, &mut self.credits) {
            self.changes.readable = true;
        } else {
            self.end(Ended::Failed(Failure::Broken));
        }
    }

    /// The [`Probe`](Action::Probe) has completed.
    pub fn probed(&mut self, now: Instant) {
        self.probe_at = None;
        self.heard_at = now;
        self.dirty = true;
    }

    /// What [`Expose`](Action::Expose) named lies at `address`, and `key` opens it.
    pub fn exposed(&mut self, offer: OfferId, address: u64, key: u32) {
        self.outgoing.exposed(offer, address, key);
        self.dirty = true;
    }

    /// What [`Expose`](Action::Expose) named cannot be opened: it is sent instead.
    pub fn not_exposed(&mut self, offer: OfferId) {
        self.outgoing.not_exposed(offer);
        self.dirty = true;
    }

    /// What [`Conceal`](Action::Conceal) named cannot be read by the peer any more.
    pub fn concealed(&mut self, offer: OfferId) {
        self.outgoing.concealed(offer);
        self.dirty = true;
    }

    /// A request completed in error, or rdma_cm tells of an end. The first such call counts.
    pub fn failed(&mut self, failure: Failure) {
        let settled = self.is_settled() && self.outgoing.is_drained();
        self.end(if settled { Ended::Closed } else { failure.into() });
    }

    /// The queue pair is down: nothing that was posted can touch memory any more, neither from here nor from the peer.
    pub fn down(&mut self) {
        self.end(Ended::Aborted);
        self.phase = Phase::Down;
        self.dirty = false;
        self.outgoing.clear();
        self.changes.ended = true;
    }

    /// Whom the events since the last call concern.
    #[inline]
    pub fn take_changes(&mut self) -> Changes {
        mem::take(&mut self.changes)
    }

    // ---- time ----

    /// When [`tick`](Self::tick) has to be called.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.is_live() {
            return None;
        }
        let keepalive = self.keepalive.map(|keepalive| self.keepalive_at(keepalive));
        match (keepalive, self.close_by) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn keepalive_at(&self, keepalive: KeepAlive) -> Instant {
        let patience = keepalive.interval.saturating_mul(keepalive.probes.max(1));
        match self.probe_at {
            Some(at) => at + patience,
            // Nothing may be sent yet, not even a probe: the peer has to speak first.
            None if self.phase == Phase::Waiting => self.heard_at + keepalive.idle + patience,
            None => self.heard_at + keepalive.idle,
        }
    }

    /// Does what is due at `now`.
    pub fn tick(&mut self, now: Instant) {
        if !self.is_live() {
            return;
        }
        if self.close_by.is_some_and(|at| at <= now) {
            return self.end(if self.is_settled() { Ended::Closed } else { Ended::TimedOut });
        }
        if let Some(keepalive) = self.keepalive
            && self.keepalive_at(keepalive) <= now
        {
            if self.probe_at.is_some() || self.phase == Phase::Waiting {
                return self.end(Ended::TimedOut);
            }
            self.probe_due = true;
            self.dirty = true;
        }
    }

    fn close_within(&mut self, now: Instant) {
        let by = now + self.config.closing;
        self.close_by = Some(self.close_by.map_or(by, |earlier| earlier.min(by)));
    }

    // ---- what comes out ----

    /// Whether [`flush`](Self::flush) may have something to say.
    #[inline]
    pub fn wants_flush(&self) -> bool {
        self.dirty
    }

    /// Appends what is to be done.
    pub fn flush(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.dirty = false;
        match self.phase {
            Phase::Live => self.flush_live(now, actions),
            Phase::Leaving => self.leave(actions),
            Phase::Waiting | Phase::Left | Phase::Down => {}
        }
    }

    fn flush_live(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let first = actions.len();
        self.outgoing.conceal(actions);
        while let Some(read) = self.incoming.next_read() {
            actions.push(Action::Read(read));
        }
        self.outgoing.expose(actions);
        let mut signal = self.send_data(actions);
        self.send_control(actions);
        // Whoever waits for completions gets one; so does a sender that is full, which would wait for them in vain.
        let awaited = self.draining || self.outgoing.room() == 0;
        signal |= awaited || self.outgoing.fin != Fin::Open;
        if signal && self.unsignalled > 0 {
            let last = actions.iter_mut().skip(first).rev().find_map(|action| match action {
                Action::Send(message) => Some(message),
                _ => None,
            });
            if let Some(message) = last {
                message.signal = true;
                self.unsignalled = 0;
            } else {
                self.probe_due |= awaited;
            }
        }
        if self.probe_due && self.probe_at.is_none() {
            self.probe_due = false;
            self.probe_at = Some(now);
            self.unsignalled = 0;
            actions.push(Action::Probe);
        }
        self.finish();
        if self.phase == Phase::Leaving {
            self.leave(actions);
        }
    }

    /// Sends data while there are credits; answers whether memory is held until a completion says that it need not be.
    fn send_data(&mut self, actions: &mut Vec<Action>) -> bool {
        let most = usize::from(self.config.sends.max(1));
        let mut held = false;
        while self.credits.has()
            && self.outgoing.flights() < most
            && let Some((next, fin)) = self.outgoing.next()
        {
            self.credits.spend();
            match next {
                Next::Bytes(pieces, bytes) => {
                    held |= !self.config.is_inline(HEADER_BYTES, bytes as usize);
                    self.send(Kind::Data, fin, &[], pieces, bytes, actions);
                }
                Next::Offers(offers) => {
                    held = true;
                    self.send(Kind::Offer, fin, &offers, SmallVec::new(), 0, actions);
                }
            }
        }
        let stalled = !self.credits.has() && self.outgoing.wants_credit();
        self.changes.stalled |= stalled && !self.stalled;
        self.stalled = stalled;
        held
    }

    /// Tells by itself what no data message has told.
    fn send_control(&mut self, actions: &mut Vec<Action>) {
        let most = usize::from(self.config.sends.max(1)) + usize::from(CONTROL_RECEIVES);
        if self.outgoing.flights() >= most {
            return;
        }
        let content = self.introduce || self.incoming.done() > 0 || self.credits.due();
        if content && self.credits.may_ask() {
            self.credits.ask();
            self.send(Kind::Control, false, &[], SmallVec::new(), 0, actions);
        } else if self.credits.unanswered() {
            self.send(Kind::Answer, false, &[], SmallVec::new(), 0, actions);
        }
    }

    fn send(
        &mut self,
        kind: Kind,
        fin: bool,
        offers: &[Offer],
        pieces: SmallVec<[Buf; PIECES]>,
        bytes: u32,
        actions: &mut Vec<Action>,
    ) {
        let (credits, heard) = self.credits.tell();
        let offers = offers.get(..OFFERS_A_MESSAGE).unwrap_or(offers);
        let length = bytes + (offers.len() * OFFER_BYTES) as u32;
        let done = self.incoming.take_done();
        let header = Header { kind, fin, heard, credits, done, sequence: self.next_out, length };
        self.next_out = self.next_out.wrapping_add(1);
        let mut head = [0; HEAD_BYTES];
        let (front, behind) = head.split_at_mut(HEADER_BYTES);
        front.copy_from_slice(&header.emit());
        for (place, offer) in behind.chunks_exact_mut(OFFER_BYTES).zip(offers) {
            place.copy_from_slice(&offer.emit());
        }
        let head_bytes = (HEADER_BYTES + offers.len() * OFFER_BYTES) as u8;
        self.introduce = false;
        self.outgoing.fly(bytes, fin);
        self.unsignalled += 1;
        // Often enough that the send queue never fills with what nobody is told of.
        let signal = self.unsignalled >= (usize::from(self.config.sends) / 2).max(1);
        if signal {
            self.unsignalled = 0;
        }
        actions.push(Action::Send(Message { head, head_bytes, pieces, signal }));
    }

    fn leave(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Left;
        actions.push(Action::Disconnect);
    }

    // ---- the end ----

    #[inline]
    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Live)
    }

    /// Both sides have everything, and know that the other has.
    fn is_settled(&self) -> bool {
        self.outgoing.fin == Fin::Finished && self.incoming.is_whole()
    }

    /// Disconnects, if it is this side's turn to, and nothing that the peer waits for is on its way.
    fn finish(&mut self) {
        if self.is_settled()
            && !self.peer_disconnects
            && self.outgoing.flights() == 0
            && !self.outgoing.is_exposed()
            && self.incoming.done() == 0
        {
            self.end(Ended::Closed);
        }
    }

    fn end(&mut self, ended: Ended) {
        if !self.is_live() {
            return;
        }
        self.phase = Phase::Leaving;
        self.ended = Some(ended);
        self.dirty = true;
        self.close_by = None;
        self.probe_due = false;
        self.outgoing.cut();
        self.incoming.cut();
        let all = Changes { readable: true, writable: true, drained: true, ended: true, ..self.changes };
        self.changes = all;
    }
}
