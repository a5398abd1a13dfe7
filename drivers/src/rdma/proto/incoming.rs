//! The direction that receives: bytes that are there, and bytes that still lie with the peer.
//!
//! `ready` is what a reader gets next. `pending` begins with an offer (else it would be ready): bytes that arrived behind it wait
//! until it is read, since the stream has one order. READs are asked for ahead of the reader, in the order of the stream; an
//! adapter completes them in that order, so what lands belongs to the first offer.
//!
//! Memory is bounded by what was granted: each pending message holds a credit, each pending offer one of the offers agreed on.

use std::collections::VecDeque;

use super::Read;
use super::config::Config;
use super::credits::Credits;
use super::ended::Violation;
use super::message::Offer;
use crate::mem::Buf;

#[derive(Debug)]
struct Chunk {
    buf: Buf,
    /// It came in a message, whose credit goes back when it is consumed; else by a READ.
    message: bool,
}

#[derive(Debug)]
enum Pending {
    Bytes(Buf),
    Offer { offer: Offer, asked: u32, landed: u32 },
}

/// The receiving direction.
#[derive(Debug)]
pub(super) struct Incoming {
    ready: VecDeque<Chunk>,
    ready_bytes: usize,
    pending: VecDeque<Pending>,
    /// Entries of `pending`, from its front, that nothing more has to be asked of.
    asked: usize,
    /// READs in flight: their lengths.
    reads: VecDeque<u32>,
    /// Bytes of READs in flight, or landed and not consumed.
    ahead_bytes: usize,
    offers: u16,
    /// Offers done with, and the peer not told.
    done: u16,
    fin: bool,
    /// Nobody reads any more.
    discarding: bool,
    /// The connection went before everything was read.
    torn: bool,
    most_offers: u16,
    most_reads: usize,
    read_bytes: u32,
    buffer_bytes: usize,
}

impl Incoming {
    pub(super) fn new(config: &Config) -> Incoming {
        let hello = config.hello();
        Incoming {
            ready: VecDeque::new(),
            ready_bytes: 0,
            pending: VecDeque::new(),
            asked: 0,
            reads: VecDeque::new(),
            ahead_bytes: 0,
            offers: 0,
            done: 0,
            fin: false,
            discarding: false,
            torn: false,
            most_offers: hello.offers,
            most_reads: config.reads.into(),
            read_bytes: config.read_bytes,
            buffer_bytes: config.receive_buffer_bytes,
        }
    }

    /// The bytes of a message.
    #[inline]
    pub(super) fn bytes(&mut self, buf: Buf, credits: &mut Credits) {
        if self.discarding {
            credits.consumed();
        } else if self.pending.is_empty() {
            self.ready_bytes += buf.len();
            self.ready.push_back(Chunk { buf, message: true });
        } else {
            self.pending.push_back(Pending::Bytes(buf));
        }
    }

    /// An offer.
    pub(super) fn offer(&mut self, offer: Offer, credits: &mut Credits) -> Result<(), Violation> {
        // Those that the peer has not been told about are still open to it.
        if self.offers + self.done >= self.most_offers {
            return Err(Violation::OfferOverflow);
        }
        self.offers += 1;
        self.pending.push_back(Pending::Offer { offer, asked: 0, landed: 0 });
        self.settle(credits);
        Ok(())
    }

    /// The stream ends here.
    pub(super) fn end(&mut self) {
        self.fin = true;
    }

    /// Whether the peer has said that its stream ends.
    #[inline]
    pub(super) fn has_end(&self) -> bool {
        self.fin
    }

    /// Whether there is nothing left, and will not be.
    #[inline]
    pub(super) fn is_at_end(&self) -> bool {
        self.fin && self.ready.is_empty() && self.pending.is_empty() && !self.torn
    }

    /// Whether everything that the peer has sent is here.
    pub(super) fn is_whole(&self) -> bool {
        self.fin && self.pending.is_empty() && !self.torn
    }

    /// Whether bytes are here, or offered, that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        let empty = self.ready.is_empty() && self.pending.is_empty();
        !self.discarding && !empty
    }

    /// Whether [`discard`](Self::discard) was called.
    pub(super) fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// Bytes that a reader gets at once.
    #[inline]
    pub(super) fn ready_bytes(&self) -> usize {
        self.ready_bytes
    }

    /// They, piece by piece.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        self.ready.iter().map(|chunk| &chunk.buf[..])
    }

    /// The first of them, at most `most`.
    #[inline]
    pub(super) fn pop(&mut self, most: usize, credits: &mut Credits) -> Option<Buf> {
        let first = self.ready.front_mut()?;
        if first.buf.len() > most {
            let part = first.buf.split_to(most);
            self.ready_bytes -= most;
            if !first.message {
                self.ahead_bytes -= most;
            }
            return Some(part);
        }
        let Chunk { buf, message } = self.ready.pop_front()?;
        self.ready_bytes -= buf.len();
        if message {
            credits.consumed();
        } else {
            self.ahead_bytes -= buf.len();
        }
        Some(buf)
    }

    /// The next READ, if an offer is open, the reader has room, and the adapter has.
    #[inline]
    pub(super) fn next_read(&mut self) -> Option<Read> {
        if self.pending.is_empty() || self.discarding || self.reads.len() >= self.most_reads {
            return None;
        }
        while let Some(pending) = self.pending.get_mut(self.asked) {
            if let Pending::Offer { offer, asked, .. } = pending
                && *asked < offer.bytes
            {
                let bytes = (offer.bytes - *asked).min(self.read_bytes);
                // A single READ may exceed a small buffer: else nothing would ever be read.
                if self.ahead_bytes > 0 && self.ahead_bytes + bytes as usize > self.buffer_bytes {
                    return None;
                }
                let read = Read { address: offer.address + u64::from(*asked), key: offer.key, bytes };
                *asked += bytes;
                self.ahead_bytes += bytes as usize;
                self.reads.push_back(bytes);
                return Some(read);
            }
            self.asked += 1;
        }
        None
    }

    /// The oldest READ has completed into `buf`. False when there is none of that length: the driver is mistaken.
    pub(super) fn landed(&mut self, buf: Buf, credits: &mut Credits) -> bool {
        let Some(&bytes) = self.reads.front() else { return false };
        let Some(Pending::Offer { offer, asked, landed }) = self.pending.front_mut() else { return false };
        if buf.len() != bytes as usize || *landed + bytes > *asked {
            return false;
        }
        *landed += bytes;
        let whole = *landed == offer.bytes;
        self.reads.pop_front();
        if self.discarding {
            self.ahead_bytes -= bytes as usize;
        } else {
            self.ready_bytes += buf.len();
            self.ready.push_back(Chunk { buf, message: false });
        }
        if whole {
            self.first_is_done();
        }
        self.settle(credits);
        true
    }

    fn first_is_done(&mut self) {
        self.pending.pop_front();
        self.asked = self.asked.saturating_sub(1);
        self.offers -= 1;
        self.done += 1;
    }

    /// Makes ready what waited for nothing but an offer that is done; where nobody reads, does away with it.
    fn settle(&mut self, credits: &mut Credits) {
        loop {
            match self.pending.front() {
                Some(Pending::Offer { asked, landed, .. }) if self.discarding && asked == landed => {
                    self.first_is_done();
                }
                None | Some(Pending::Offer { .. }) => return,
                Some(Pending::Bytes(_)) => {
                    self.asked = self.asked.saturating_sub(1);
                    if let Some(Pending::Bytes(buf)) = self.pending.pop_front() {
                        if self.discarding {
                            credits.consumed();
                        } else {
                            self.ready_bytes += buf.len();
                            self.ready.push_back(Chunk { buf, message: true });
                        }
                    }
                }
            }
        }
    }

    /// Nobody reads from now on: what is here and what comes is dropped, and offers are done with unread.
    pub(super) fn discard(&mut self, credits: &mut Credits) {
        while self.pop(usize::MAX, credits).is_some() {}
        self.discarding = true;
        self.settle(credits);
    }

    /// Offers done with that the peer is not told about yet.
    #[inline]
    pub(super) fn done(&self) -> u16 {
        self.done
    }

    /// The same, to be told now.
    #[inline]
    pub(super) fn take_done(&mut self) -> u16 {
        core::mem::take(&mut self.done)
    }

    /// The connection is going: what is here can still be read, the rest never.
    pub(super) fn cut(&mut self) {
        self.torn |= !self.pending.is_empty() || !self.fin;
        self.pending.clear();
        self.reads.clear();
        self.asked = 0;
        self.offers = 0;
        self.done = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pool, PoolConfig};

    fn incoming(buffer_bytes: usize) -> (Incoming, Credits, Pool) {
        let config = Config {
            reads: 2,
            read_bytes: 100,
            offers: 3,
            receive_buffer_bytes: buffer_bytes,
            ..Config::default()
        };
        (Incoming::new(&config), Credits::new(8, 8), Pool::new(&PoolConfig::small(32)).unwrap())
    }

    fn buf(pool: &Pool, bytes: &[u8]) -> Buf {
        let mut buf = pool.alloc(bytes.len()).unwrap();
        buf.put_slice(bytes);
        buf.freeze()
    }

    fn offer(bytes: u32) -> Offer {
        Offer { address: 1000, key: 1, bytes }
    }

    fn all(incoming: &mut Incoming, credits: &mut Credits) -> Vec<u8> {
        core::iter::from_fn(|| incoming.pop(3, credits)).flat_map(|buf| buf.to_vec()).collect()
    }

    #[test]
    fn bytes_behind_an_offer_wait_for_it() {
        let (mut incoming, mut credits, pool) = incoming(1000);
        incoming.bytes(buf(&pool, b"one "), &mut credits);
        incoming.offer(offer(150), &mut credits).unwrap();
        incoming.bytes(buf(&pool, b"three"), &mut credits);
        incoming.end();
        assert_eq!(all(&mut incoming, &mut credits), b"one ");
        assert_eq!(incoming.next_read(), Some(Read { address: 1000, key: 1, bytes: 100 }));
        assert_eq!(incoming.next_read(), Some(Read { address: 1100, key: 1, bytes: 50 }));
        assert_eq!(incoming.next_read(), None);
        assert!(incoming.landed(buf(&pool, &[b'2'; 100]), &mut credits));
        assert_eq!(incoming.ready_bytes(), 100, "the first part of an offer is ready before the whole is");
        assert!(!incoming.landed(buf(&pool, b"short"), &mut credits));
        assert!(incoming.landed(buf(&pool, &[b'2'; 50]), &mut credits));
        assert!(!incoming.landed(buf(&pool, b"none"), &mut credits));
        assert!(!incoming.is_at_end() && incoming.is_whole());
        let expected = [&[b'2'; 150][..], b"three"].concat();
        assert_eq!(all(&mut incoming, &mut credits), expected);
        assert!(incoming.is_at_end());
        assert_eq!((incoming.take_done(), incoming.take_done()), (1, 0));
    }

    #[test]
    fn reads_stay_within_what_the_reader_has_room_for() {
        let (mut incoming, mut credits, pool) = incoming(150);
        incoming.offer(offer(250), &mut credits).unwrap();
        assert!(incoming.next_read().is_some());
        assert_eq!(incoming.next_read(), None, "200 bytes ahead of a reader with room for 150");
        assert!(incoming.landed(buf(&pool, &[0; 100]), &mut credits));
        assert_eq!(incoming.next_read(), None);
        incoming.pop(50, &mut credits).unwrap();
        assert!(incoming.next_read().is_some());
    }

    #[test]
    fn offers_beyond_the_agreed_are_told_until_the_peer_knows_that_older_ones_are_done() {
        let (mut incoming, mut credits, pool) = incoming(1000);
        for _ in 0..3 {
            incoming.offer(offer(10), &mut credits).unwrap();
        }
        assert_eq!(incoming.offer(offer(10), &mut credits), Err(Violation::OfferOverflow));
        incoming.next_read().unwrap();
        assert!(incoming.landed(buf(&pool, &[0; 10]), &mut credits));
        assert_eq!(incoming.offer(offer(10), &mut credits), Err(Violation::OfferOverflow));
        incoming.take_done();
        assert_eq!(incoming.offer(offer(10), &mut credits), Ok(()));
    }

    #[test]
    fn a_reader_that_leaves_holds_nothing_and_owes_everything() {
        let (mut incoming, mut credits, pool) = incoming(1000);
        for _ in 0..3 {
            credits.arrived().unwrap();
        }
        incoming.bytes(buf(&pool, b"ready"), &mut credits);
        incoming.offer(offer(150), &mut credits).unwrap();
        incoming.next_read().unwrap();
        incoming.bytes(buf(&pool, b"waiting"), &mut credits);
        incoming.offer(offer(10), &mut credits).unwrap();
        incoming.discard(&mut credits);
        assert_eq!(incoming.done(), 0, "a READ is still in flight");
        assert_eq!(incoming.next_read(), None);
        assert!(incoming.landed(buf(&pool, &[0; 100]), &mut credits));
        assert_eq!(incoming.done(), 2);
        incoming.bytes(buf(&pool, b"later"), &mut credits);
        assert_eq!(credits.tell().0, 3);
        assert_eq!((pool.stats().slots_out, incoming.ready_bytes()), (0, 0));
    }
}
