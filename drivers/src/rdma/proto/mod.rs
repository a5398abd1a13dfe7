//! A byte stream on RDMA messages, as a pure state machine: calls, completions and the time go in, [`Action`]s come out.
//!
//! It owns what both ends of a connection have to agree on: the [`Hello`] that opens it, the headers of its messages, credits, offers
//! and the way it ends. It holds the [`Buf`]s that are on their way. It knows no verbs, reads no clock, and waits for nothing: whoever
//! drives a [`Session`] posts what it asks for and tells it what completed. Nothing beyond SEND, RECV and READ is asked of an adapter,
//! so RoCE, InfiniBand and iWARP serve alike.
//!
//! # What a driver does
//! 1. It exchanges hellos in rdma_cm's private data: [`Config::hello`], [`Hello::parse`]; [`Refusal`] goes into a rejection.
//! 2. When it has accepted, or is established, it makes a [`Session`]. An accepting side makes it before it accepts: the peer's first
//!    message may arrive before rdma_cm says that the connection stands.
//! 3. It hands every completion of the one completion queue to its session *in the order of the queue*: [`Session::received`],
//!    [`Session::sent`], [`Session::read`], [`Session::probed`], [`Session::concealed`]; an error completion or an event of rdma_cm to
//!    [`Session::failed`], once what the queue still holds of that connection has been handed over.
//! 4. After such calls and those of the application it calls [`Session::flush`] (once a turn, where [`Session::wants_flush`] says so) and posts
//!    the actions in their order; [`Action::Expose`] is answered at once, and then it flushes again.
//! 5. [`Session::take_changes`] says whom to wake. [`Session::deadline`] and [`Session::tick`] are the timers.
//! 6. After [`Action::Disconnect`] it brings the queue pair down, and calls [`Session::down`] when nothing that was posted can touch memory
//!    any more. Then, and only then, are the last [`Buf`]s let go.
//!
//! # Credits
//! A message is received into a slot that was posted before. *Data* messages (bytes, or offers) cost a credit each; a credit comes
//! back when the reader has consumed the message, on whatever is sent next, or on a control message when half of them are owed.
//! *Control* messages cost no credit, so two ends that are full can still tell each other that they no longer are: each side has
//! at most one that is not answered, and at most one answer on its way, which is why [`CONTROL_RECEIVES`] receives a connection are
//! promised on top of the credits. Answers are never answered, so silence comes to rest:
//!
//! - a side that owes half of its credits or more sends them as soon as its last control message is answered;
//! - the other side answers at its next flush, needing neither credit nor buffer to do so;
//! - so at rest at most half are owed, and whoever has something to send either has a credit, or a reader with something to read.
//!
//! Receives come from one queue that all connections share. [`Promises`] divides it: each connection may be told more later
//! ([`Session::set_credits`]), and what is promised beyond the queue's length is bounded by [`LEAST_CREDITS`] + [`CONTROL_RECEIVES`] a
//! connection. A peer that meets an empty queue is told so by its adapter's receiver-not-ready answers and tries again.
//!
//! # Rendezvous
//! A long [`Buf`] is not sent but offered: the receiving side READs it into slots of its own as its reader has room, and says that
//! it is done, oldest offer first. Until then the [`Buf`] is held, and the peer may read these bytes and no others: the driver opens
//! them with a memory window of their own (type 2, bound to this queue pair) and closes it before the slot is used again. Where a
//! device has no such windows a key would open the whole pool, so then everything is sent eagerly, unless the user has said that
//! peers are trusted.
//!
//! # States
//! A session's two directions, and the whole:
//!
//! | direction | event | becomes | and |
//! |---|---|---|---|
//! | out: open | `shut_write` | ending | the end rides on the last message, or goes alone |
//! | out: ending | everything queued is sent | fin sent | that message asks for a completion |
//! | out: fin sent | its completion | finished | the peer has every byte |
//! | in: open | a message with FIN | finished | `pop` says so behind the last byte, and after the last READ |
//!
//! | session | event | becomes | and |
//! |---|---|---|---|
//! | waiting (accepting side) | first message | live | iWARP's initiator speaks first (RFC 5044 §7.1.3), so the accepting side listens first |
//! | live | both directions finished, this one last; nothing offered, owed or in flight | leaving, `Closed` | `Disconnect` |
//! | live | both directions finished, this one first | live | the peer disconnects; `closing` bounds the wait |
//! | live | the peer disconnects, both directions finished | leaving, `Closed` | `Disconnect` |
//! | live | the peer disconnects otherwise | leaving, `Reset` | `Disconnect` |
//! | live | `abort`; `close` with bytes unread; bytes after `close` | leaving, `Aborted` | `Disconnect`; the peer sees a reset |
//! | live | a message that breaks a rule | leaving, `Violated` | `Disconnect` |
//! | live | an error completion | leaving, `TimedOut` or `Failed` | `Disconnect` |
//! | live | probes unanswered, `close` not finished in time | leaving, `TimedOut` | `Disconnect` |
//! | leaving | `down` | down | every buffer but unread bytes is let go |
//!
//! The side whose end is acknowledged last disconnects: it alone knows that both have everything. A reset is a disconnection
//! without an end, since rdma_cm's needs no credit, and cannot be held up by a reader that does not read. A probe for keepalive is a
//! READ of no bytes: it needs no credit and no key, and the peer's adapter answers it even while its application computes.

mod config;
mod credits;
pub mod datagram;
mod ended;
mod hello;
mod incoming;
mod message;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
mod outgoing;
mod promises;
mod session;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use ended::{Ended, Failure, Violation};
pub use hello::{
    HELLO_BYTES, Hello, LEAST_CREDITS, LEAST_MESSAGE_BYTES, READS_OFFERS, REJECT_BYTES, Refusal, VERSION,
};
pub use message::HEADER_BYTES;
pub use promises::Promises;
pub use session::{Changes, Popped, Role, Session};

use smallvec::SmallVec;

use crate::mem::Buf;

/// Receives promised to each connection beside its credits: one control message, and one answer.
pub const CONTROL_RECEIVES: u16 = 2;
/// Pieces of payload that one message is gathered from at most; its head is one more entry of a scatter/gather list.
pub const PIECES: usize = 3;
/// Bytes of a message's head at most: the header, and the offers behind it.
pub const HEAD_BYTES: usize = 64;

const _: () = assert!(HEAD_BYTES == HEADER_BYTES + message::OFFERS_A_MESSAGE * message::OFFER_BYTES);

/// What a driver is to do, in the order it is told.
#[derive(Debug)]
pub enum Action {
    /// Post a SEND. Its pieces are kept until its completion, or that of a later request of this connection, and are let go then:
    /// [`Session::sent`].
    Send(Message),
    /// Post a READ, signalled, into a slot of this side's (on iWARP that slot's key must allow remote writes). Its completion hands
    /// over the slot: [`Session::read`]. While no slot is free the driver keeps the READ, and those behind it.
    Read(Read),
    /// Post a READ of no bytes, signalled: [`Session::probed`]; its completion tells of all SENDs before it, too. At most one is in
    /// flight.
    Probe,
    /// Open these bytes, and no others, to the peer, and say at once where they are: [`Session::exposed`], or that it cannot be done:
    /// [`Session::not_exposed`]. A window's bind may be posted right now: later SENDs wait for it.
    Expose {
        /// Which ones, for what follows.
        offer: OfferId,
        /// The bytes: a view that may be dropped; the session keeps its own.
        bytes: Buf,
    },
    /// Close what was opened, and say when the peer cannot read it any more: [`Session::concealed`], for a window after its
    /// invalidation has completed.
    Conceal {
        /// What [`Expose`](Action::Expose) named.
        offer: OfferId,
    },
    /// Disconnect, and bring the queue pair down: [`Session::down`]. The last action.
    Disconnect,
}

/// A run of bytes that is, or was, open to the peer: unique among those of one session that are not concealed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OfferId(pub u32);

/// A message to be sent: the head, then the pieces, as one.
#[derive(Debug)]
pub struct Message {
    head: [u8; HEAD_BYTES],
    head_bytes: u8,
    /// Bytes of the stream behind the head.
    pub pieces: SmallVec<[Buf; PIECES]>,
    /// Its completion is to be asked for; that completion tells of all unsignalled ones before it.
    pub signal: bool,
}

impl Message {
    /// The header, and offers if it makes any.
    #[inline]
    pub fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_bytes)).unwrap_or(&self.head)
    }

    /// Bytes in all.
    #[inline]
    pub fn len(&self) -> usize {
        self.head().len() + self.pieces.iter().map(Buf::len).sum::<usize>()
    }

    /// Never: there is a header.
    #[inline]
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A READ to be posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Where the bytes lie in the peer's memory.
    pub address: u64,
    /// The key that the peer gave for it.
    pub key: u32,
    /// How many; never more than [`Config::read_bytes`].
    pub bytes: u32,
}
