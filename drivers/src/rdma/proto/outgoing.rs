//! The direction that sends: what is queued, what is on its way, and what lies open for the peer to read.
//!
//! A [`Buf`] is in exactly one of four places, and in this order: the queue; then, sent eagerly, with the driver's request (only its
//! length is kept here, to tell when the peer has it), or, offered, in the line of open offers; then among those being concealed.
//! What the peer can reach is held until the driver says that it cannot any more, whatever happens to the connection meanwhile.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::config::Config;
use super::hello::Hello;
use super::message::{OFFERS_A_MESSAGE, Offer};
use super::{Action, OfferId, PIECES};
use crate::mem::Buf;

/// How far the end of this direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    /// More may be pushed.
    Open,
    /// To be sent behind what is queued.
    Queued,
    /// Sent.
    Sent,
    /// The peer has it, and with it every byte.
    Finished,
}

/// How a queued [`Buf`] is to go.
#[derive(Clone, Copy, Debug)]
enum Way {
    Eager,
    /// Long enough to be offered.
    Long,
    /// The driver was asked to expose it.
    Asked(OfferId),
    /// Exposed: to be offered.
    Exposed(OfferId, u64, u32),
}

#[derive(Debug)]
struct Queued {
    buf: Buf,
    way: Way,
}

/// A message that has not completed.
#[derive(Clone, Copy, Debug)]
struct Flight {
    bytes: u32,
    fin: bool,
}

/// What the next data message carries.
#[derive(Debug)]
pub(super) enum Next {
    /// Bytes of the stream; none when it is only the end.
    Bytes(SmallVec<[Buf; PIECES]>, u32),
    /// Offers.
    Offers(SmallVec<[Offer; OFFERS_A_MESSAGE]>),
}

/// The sending direction.
#[derive(Debug)]
pub(super) struct Outgoing {
    queue: VecDeque<Queued>,
    /// Entries at the queue's front that need no exposing any more.
    looked: usize,
    queued_bytes: usize,
    flights: VecDeque<Flight>,
    flying_bytes: usize,
    /// Offered and not done, oldest first.
    offered: VecDeque<(OfferId, Buf)>,
    offered_bytes: usize,
    /// Done, and the driver not told yet.
    to_conceal: VecDeque<(OfferId, Buf)>,
    /// The driver was told.
    concealing: VecDeque<(OfferId, Buf)>,
    /// Offers that the driver was asked to expose and has not concealed.
    exposures: u32,
    next_offer: u32,
    pub(super) fin: Fin,
    /// Offers that may be exposed at a time; 0: none.
    most_exposures: u32,
    /// Lengths to be offered.
    offer_from: usize,
    offer_to: usize,
    /// Bytes of the stream that one message carries.
    payload_bytes: usize,
    buffer_bytes: usize,
}

impl Outgoing {
    pub(super) fn new(config: &Config, peer: &Hello) -> Outgoing {
        Outgoing {
            queue: VecDeque::new(),
            looked: 0,
            queued_bytes: 0,
            flights: VecDeque::new(),
            flying_bytes: 0,
            offered: VecDeque::new(),
            offered_bytes: 0,
            to_conceal: VecDeque::new(),
            concealing: VecDeque::new(),
            exposures: 0,
            next_offer: 0,
            fin: Fin::Open,
            most_exposures: config.exposures(peer),
            offer_from: config.offer_from_bytes.unwrap_or(u32::MAX).max(1) as usize,
            offer_to: peer.offer_bytes as usize,
            payload_bytes: peer.payload_bytes(),
            buffer_bytes: config.send_buffer_bytes,
        }
    }

    /// Bytes that may still be pushed; the last [`Buf`] may exceed it.
    #[inline]
    pub(super) fn room(&self) -> usize {
        self.buffer_bytes.saturating_sub(self.unacknowledged_bytes())
    }

    /// Bytes pushed that the peer does not have.
    #[inline]
    pub(super) fn unacknowledged_bytes(&self) -> usize {
        self.queued_bytes + self.flying_bytes + self.offered_bytes
    }

    /// Whether the peer has everything that was pushed, and the end if there is one.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.unacknowledged_bytes() == 0 && matches!(self.fin, Fin::Open | Fin::Finished)
    }

    #[inline]
    pub(super) fn push(&mut self, buf: Buf) {
        self.queued_bytes += buf.len();
        let long = self.most_exposures > 0 && buf.len() >= self.offer_from && buf.len() <= self.offer_to;
        self.queue.push_back(Queued { buf, way: if long { Way::Long } else { Way::Eager } });
    }

    /// Messages that have not completed.
    #[inline]
    pub(super) fn flights(&self) -> usize {
        self.flights.len()
    }

    /// A message with so many bytes of the stream is on its way.
    #[inline]
    pub(super) fn fly(&mut self, bytes: u32, fin: bool) {
        self.flying_bytes += bytes as usize;
        self.flights.push_back(Flight { bytes, fin });
    }

    /// The oldest `count` messages have completed.
    #[inline]
    pub(super) fn sent(&mut self, count: usize) {
        debug_assert!(count <= self.flights.len(), "more messages completed than were sent");
        for flight in self.flights.drain(..count.min(self.flights.len())) {
            self.flying_bytes -= flight.bytes as usize;
            if flight.fin {
                self.fin = Fin::Finished;
            }
        }
    }

    /// Asks for as many long [`Buf`]s to be exposed as may be.
    pub(super) fn expose(&mut self, actions: &mut Vec<Action>) {
        while let Some(queued) = self.queue.get_mut(self.looked) {
            if matches!(queued.way, Way::Long) {
                if self.exposures >= self.most_exposures {
                    return;
                }
                let offer = OfferId(self.next_offer);
                self.next_offer = self.next_offer.wrapping_add(1);
                self.exposures += 1;
                queued.way = Way::Asked(offer);
                actions.push(Action::Expose { offer, bytes: queued.buf.clone() });
            }
            self.looked += 1;
        }
    }

    fn asked(&mut self, offer: OfferId) -> Option<&mut Queued> {
        self.queue.iter_mut().find(|queued| matches!(queued.way, Way::Asked(asked) if asked == offer))
    }

    /// The driver has exposed an offer. One that is not asked for any more is being concealed already.
    pub(super) fn exposed(&mut self, offer: OfferId, address: u64, key: u32) {
        if let Some(queued) = self.asked(offer) {
            queued.way = Way::Exposed(offer, address, key);
        }
    }

    /// The driver cannot expose it: it goes eagerly.
    pub(super) fn not_exposed(&mut self, offer: OfferId) {
        if let Some(queued) = self.asked(offer) {
            queued.way = Way::Eager;
            self.exposures -= 1;
        } else {
            self.concealed(offer);
        }
    }

    fn take_first(&mut self) -> Option<Queued> {
        let first = self.queue.pop_front()?;
        self.looked = self.looked.saturating_sub(1);
        self.queued_bytes -= first.buf.len();
        Some(first)
    }

    /// What the next data message carries, and whether the stream ends with it; `None` when there is nothing, or when what is first
    /// still has to be exposed.
    #[inline]
    pub(super) fn next(&mut self) -> Option<(Next, bool)> {
        let next = match self.queue.front() {
            None if self.fin == Fin::Queued => Next::Bytes(SmallVec::new(), 0),
            None => return None,
            Some(first) => match first.way {
                Way::Long | Way::Asked(_) => return None,
                Way::Eager => self.gather(),
                Way::Exposed(..) => self.offer(),
            },
        };
        let fin = self.fin == Fin::Queued && self.queue.is_empty();
        if fin {
            self.fin = Fin::Sent;
        }
        Some((next, fin))
    }

    /// Whether [`next`](Self::next) would have something.
    #[inline]
    pub(super) fn wants_credit(&self) -> bool {
        match self.queue.front() {
            None => self.fin == Fin::Queued,
            Some(first) => !matches!(first.way, Way::Long | Way::Asked(_)),
        }
    }

    fn gather(&mut self) -> Next {
        let (mut pieces, mut bytes) = (SmallVec::new(), 0);
        while pieces.len() < PIECES
            && bytes < self.payload_bytes
            && let Some(Queued { buf, way: Way::Eager }) = self.queue.front_mut()
        {
            let room = self.payload_bytes - bytes;
            if buf.len() > room {
                pieces.push(buf.split_to(room));
                self.queued_bytes -= room;
                bytes += room;
            } else if let Some(first) = self.take_first() {
                bytes += first.buf.len();
                pieces.push(first.buf);
            }
        }
        Next::Bytes(pieces, bytes as u32)
    }

    fn offer(&mut self) -> Next {
        let mut offers = SmallVec::new();
        while offers.len() < OFFERS_A_MESSAGE
            && let Some(&Queued { way: Way::Exposed(offer, address, key), .. }) = self.queue.front()
            && let Some(first) = self.take_first()
        {
            offers.push(Offer { address, key, bytes: first.buf.len() as u32 });
            self.offered_bytes += first.buf.len();
            self.offered.push_back((offer, first.buf));
        }
        Next::Offers(offers)
    }

    /// The peer is done with its `count` oldest offers; false when there are not so many.
    pub(super) fn done(&mut self, count: u16) -> bool {
        if usize::from(count) > self.offered.len() {
            return false;
        }
        for (offer, buf) in self.offered.drain(..usize::from(count)) {
            self.offered_bytes -= buf.len();
            self.to_conceal.push_back((offer, buf));
        }
        true
    }

    /// Tells the driver to conceal what the peer is done with.
    pub(super) fn conceal(&mut self, actions: &mut Vec<Action>) {
        while let Some((offer, buf)) = self.to_conceal.pop_front() {
            actions.push(Action::Conceal { offer });
            self.concealing.push_back((offer, buf));
        }
    }

    /// The peer cannot read an offer any more.
    pub(super) fn concealed(&mut self, offer: OfferId) {
        if let Some(at) = self.concealing.iter().position(|(known, _)| *known == offer) {
            self.concealing.remove(at);
            self.exposures -= 1;
        }
    }

    /// Whether the peer can reach any memory through this connection.
    pub(super) fn is_exposed(&self) -> bool {
        self.exposures > 0
    }

    /// The connection is going: nothing more is sent. What the peer may reach is held until [`clear`](Self::clear).
    pub(super) fn cut(&mut self) {
        for queued in self.queue.drain(..) {
            if let Way::Asked(offer) | Way::Exposed(offer, ..) = queued.way {
                self.concealing.push_back((offer, queued.buf));
            }
        }
        self.looked = 0;
        self.queued_bytes = 0;
    }

    /// Nothing can be reached any more.
    pub(super) fn clear(&mut self) {
        self.cut();
        self.flights.clear();
        self.offered.clear();
        self.to_conceal.clear();
        self.concealing.clear();
        self.flying_bytes = 0;
        self.offered_bytes = 0;
        self.exposures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pool, PoolConfig};

    fn outgoing(offer_from: u32) -> (Outgoing, Pool) {
        let config = Config { offer_from_bytes: Some(offer_from), ..Config::default() };
        let peer = Config { message_bytes: 128, offers: 2, ..Config::default() }.hello();
        (Outgoing::new(&config, &peer), Pool::new(&PoolConfig::small(32)).unwrap())
    }

    fn buf(pool: &Pool, len: usize) -> Buf {
        let mut buf = pool.alloc(len).unwrap();
        buf.grow(len);
        buf.freeze()
    }

    fn lengths(next: Option<(Next, bool)>) -> (Vec<usize>, bool) {
        match next.unwrap() {
            (Next::Bytes(pieces, bytes), fin) => {
                assert_eq!(pieces.iter().map(Buf::len).sum::<usize>(), bytes as usize);
                (pieces.iter().map(Buf::len).collect(), fin)
            }
            (Next::Offers(offers), _) => panic!("{offers:?} instead of bytes"),
        }
    }

    #[test]
    fn small_buffers_share_a_message_and_long_ones_take_several() {
        let (mut out, pool) = outgoing(10_000);
        for len in [10, 20, 30, 40, 300] {
            out.push(buf(&pool, len));
        }
        out.fin = Fin::Queued;
        assert_eq!(lengths(out.next()), (vec![10, 20, 30], false), "as many pieces as an adapter gathers");
        assert_eq!(lengths(out.next()), (vec![40, 72], false), "a full message");
        assert_eq!(lengths(out.next()), (vec![112], false));
        assert_eq!(lengths(out.next()), (vec![112], false));
        assert_eq!(lengths(out.next()), (vec![4], true), "the end rides on the last bytes");
        assert!(out.next().is_none());
        assert_eq!(pool.stats().slots_out, 0);
    }

    #[test]
    fn a_long_buffer_waits_for_its_exposure_and_what_is_behind_waits_with_it() {
        let (mut out, pool) = outgoing(500);
        for len in [600, 10, 700, 800] {
            out.push(buf(&pool, len));
        }
        let mut actions = Vec::new();
        assert!(out.next().is_none());
        out.expose(&mut actions);
        out.expose(&mut actions);
        let asked: Vec<OfferId> = actions
            .iter()
            .map(|action| match action {
                Action::Expose { offer, .. } => *offer,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(asked, [OfferId(0), OfferId(1)], "as many as the peer takes");
        drop(actions);
        assert!(out.next().is_none());
        out.exposed(OfferId(0), 4096, 7);
        let (Next::Offers(offers), false) = out.next().unwrap() else { panic!("no offer") };
        assert_eq!(offers[..], [Offer { address: 4096, key: 7, bytes: 600 }]);
        assert_eq!(lengths(out.next()).0, [10]);
        out.not_exposed(OfferId(1));
        assert_eq!(lengths(out.next()).0, [112], "what cannot be exposed goes eagerly");
        assert!(!out.done(2));
        assert!(out.done(1));
        let mut actions = Vec::new();
        out.conceal(&mut actions);
        assert!(matches!(actions[..], [Action::Conceal { offer: OfferId(0) }]));
        assert_eq!(pool.stats().slots_out, 3, "held until it is concealed");
        out.concealed(OfferId(0));
        assert_eq!(pool.stats().slots_out, 2);
    }

    #[test]
    fn what_the_peer_may_reach_outlives_the_connection_until_it_is_down() {
        let (mut out, pool) = outgoing(500);
        for len in [600, 700, 20] {
            out.push(buf(&pool, len));
        }
        let mut actions = Vec::new();
        out.expose(&mut actions);
        actions.clear();
        out.exposed(OfferId(0), 0, 0);
        assert!(out.next().is_some());
        out.cut();
        assert_eq!(pool.stats().slots_out, 2);
        out.exposed(OfferId(1), 0, 0);
        out.clear();
        assert_eq!((pool.stats().slots_out, out.is_exposed()), (0, false));
    }
}
