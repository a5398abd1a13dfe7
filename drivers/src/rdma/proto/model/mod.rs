//! The protocol between adapters that are models, for property tests and the fuzz target: bytes are decisions, so that an input cut off
//! is a shorter story, and both ways of finding inputs share one judge.
//!
//! [`pair`] joins two sessions by queue pairs that do what verbs allow and no more: requests execute in order, receives arrive in
//! order, completions of one queue pair come in order, and between the two queues and the polls of either anything may happen first.
//! [`hostile`] gives one session a peer that says whatever it likes.

pub(super) mod adapter;
mod hostile;
mod pair;

pub use hostile::hostile;
pub use pair::pair;

use super::Config;
use crate::mem::{Buf, Pool, PoolConfig};

/// What is left of an input; zeros follow its last byte.
struct Decisions<'a>(&'a [u8]);

impl Decisions<'_> {
    fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn two(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// A length: mostly short, sometimes thousands of bytes.
    fn length(&mut self) -> usize {
        match self.byte() {
            short @ 0..200 => usize::from(short),
            long => usize::from(long - 199) * 100,
        }
    }
}

/// The byte at `offset` of a stream.
fn stream_byte(which: usize, offset: usize) -> u8 {
    (offset as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ (which as u8).wrapping_mul(0x5b)
}

fn stream_buf(pool: &Pool, which: usize, offset: usize, len: usize) -> Option<Buf> {
    let mut buf = pool.alloc(len)?;
    for (at, place) in buf.tail_mut().iter_mut().take(len).enumerate() {
        *place = stream_byte(which, offset + at);
    }
    buf.grow(len);
    Some(buf.freeze())
}

fn copy_of(pool: &Pool, bytes: &[u8]) -> Option<Buf> {
    let mut buf = pool.alloc(bytes.len())?;
    (buf.put_slice(bytes) == bytes.len()).then(|| buf.freeze())
}

fn pool(slots: usize, bytes: usize) -> Pool {
    let slot_bytes = (bytes + crate::mem::HEADROOM + crate::mem::SLOT_HEADER).next_multiple_of(64);
    Pool::new(&PoolConfig { slot_bytes, ..PoolConfig::small(slots) }).expect("memory for a small pool")
}

/// Limits so small that every one of them is met.
fn config(decisions: &mut Decisions<'_>) -> Config {
    let shape = decisions.byte();
    let more = decisions.byte();
    Config {
        message_bytes: [128, 160, 400, 1024][usize::from(shape & 3)],
        credits: [2, 3, 5, 16][usize::from(shape >> 2 & 3)],
        sends: [1, 2, 5, 64][usize::from(shape >> 4 & 3)],
        reads: [1, 0, 2, 16][usize::from(shape >> 6)],
        read_bytes: [100, 1000, 4000, 333][usize::from(more & 3)],
        inline_bytes: [0, 64][usize::from(more >> 2 & 1)],
        offers: [1, 2, 5, 16][usize::from(more >> 3 & 3)],
        offer_from_bytes: [Some(300), None, Some(1), Some(1000)][usize::from(more >> 5 & 3)],
        send_buffer_bytes: [64 << 10, 500][usize::from(more >> 7)],
        receive_buffer_bytes: [4000, 500, 64 << 10][usize::from(shape ^ more) % 3],
        ..Config::default()
    }
}
