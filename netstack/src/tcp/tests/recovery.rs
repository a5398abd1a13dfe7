//! Loss recovery against a network that loses, delays and repeats, and a receiver that is a map of bytes: it never stalls, and what
//! the receiver has told it holds is not sent again.

use core::cmp::Reverse;
use core::task::Poll;
use std::collections::BinaryHeap;
use std::io::IoSlice;

use demi_drivers::Instant;
use proptest::prelude::*;

use super::script::{Script, cx};
use crate::tcp::TcpConfig;

/// One way, at least.
const DELAY_MS: u64 = 20;

/// What the network does, in so many of a thousand segments.
#[derive(Clone, Copy, Debug)]
struct Link {
    lost: u64,
    repeated: u64,
    late: u64,
    acks_lost: u64,
}

/// A generator that a seed determines (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The receiver, and what of it the sender has been told.
struct Receiver {
    held: Vec<bool>,
    told: Vec<bool>,
    sack: bool,
}

impl Receiver {
    /// The first byte missing.
    fn next(&self) -> usize {
        self.held.iter().position(|held| !held).unwrap_or(self.held.len())
    }

    /// Takes bytes; answers the acknowledgement, and what it tells.
    fn take(&mut self, start: usize, end: usize) -> (String, Vec<(usize, usize)>) {
        let twice = self.held[start..end].iter().all(|held| *held);
        self.held[start..end].fill(true);
        let next = self.next();
        let mut blocks = Vec::new();
        if self.sack {
            let mut at = next;
            while at < self.held.len() {
                let Some(from) = (at..self.held.len()).find(|&byte| self.held[byte]) else { break };
                let to = (from..self.held.len()).find(|&byte| !self.held[byte]).unwrap_or(self.held.len());
                blocks.push((from, to));
                at = to;
            }
            // The one that has grown comes first.
            if let Some(own) = blocks.iter().position(|&(from, to)| from <= start && end <= to) {
                blocks[..=own].rotate_right(1);
            }
            blocks.truncate(3);
        }
        let mut line = format!(". 1 ack {}", next + 1);
        if self.sack && twice && end > start {
            line += &format!(" sack {}:{}", start + 1, end + 1);
        }
        for (from, to) in &blocks {
            line += &format!(" sack {}:{}", from + 1, to + 1);
        }
        blocks.push((0, next));
        (line, blocks)
    }
}

/// What is under way: when it arrives, and what it is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Data(usize, usize),
    Acknowledgement(String, Vec<(usize, usize)>),
}

fn transfer(config: TcpConfig, link: Link, seed: u64, total: usize) {
    let sack = config.sack;
    let syn = if sack { "mss 1000 sackOK" } else { "mss 1000" };
    let mut t = Script::accepted(config, syn);
    let mut dice = Dice(seed | 1);
    let mut receiver = Receiver { held: vec![false; total], told: vec![false; total], sack };
    let mut wire: BinaryHeap<Reverse<(Instant, u64, Event)>> = BinaryHeap::new();
    let (mut written, mut number) = (0, 0);
    let limit = t.now + std::time::Duration::from_secs(24 * 3600);
    while receiver.told.iter().any(|told| !told) {
        assert!(t.now < limit, "it takes too long: {} of {total}", receiver.next());
        if written < total {
            let bytes = vec![b'x'; (1 + dice.below(9000) as usize).min(total - written)];
            let stream = t.stream();
            if let Poll::Ready(result) = t.tcp.poll_write(&mut cx(), &t.out, stream, &[IoSlice::new(&bytes)])
            {
                written += result.expect("the connection lives");
            }
        }
        for line in t.end() {
            let range = line.split_whitespace().nth(1).and_then(|range| range.split_once(':'));
            let Some((start, end)) = range else { continue };
            let (start, end) = (start.parse::<usize>().unwrap() - 1, end.parse::<usize>().unwrap() - 1);
            assert!(
                receiver.told[start..end].iter().any(|told| !told),
                "{line}: sent again what the peer has told it holds"
            );
            let copies = if dice.below(1000) < link.lost {
                0
            } else {
                1 + u64::from(dice.below(1000) < link.repeated)
            };
            for _ in 0..copies {
                let late = if dice.below(1000) < link.late { dice.below(60) } else { 0 };
                number += 1;
                let at = t.now + std::time::Duration::from_millis(DELAY_MS + late);
                wire.push(Reverse((at, number, Event::Data(start, end))));
            }
        }
        let arrives = wire.peek().map(|Reverse((at, ..))| *at);
        let deadline = t.tcp.deadline();
        let next = [arrives, deadline].into_iter().flatten().min();
        let next = next.unwrap_or_else(|| panic!("it stalls at {} of {total}", receiver.next()));
        t.now = t.now.max(next);
        if deadline.is_some_and(|deadline| deadline <= t.now) {
            t.tcp.poll_timers(t.now, &mut t.out);
        }
        while let Some(Reverse((at, ..))) = wire.peek()
            && *at <= t.now
        {
            let Some(Reverse((_, _, event))) = wire.pop() else { break };
            match event {
                Event::Data(start, end) => {
                    let (line, tells) = receiver.take(start, end);
                    if dice.below(1000) >= link.acks_lost {
                        number += 1;
                        let at = t.now + std::time::Duration::from_millis(DELAY_MS);
                        wire.push(Reverse((at, number, Event::Acknowledgement(line, tells))));
                    }
                }
                Event::Acknowledgement(line, tells) => {
                    t.recv(&line);
                    for (start, end) in tells {
                        receiver.told[start..end].fill(true);
                    }
                }
            }
        }
    }
    t.end();
    let info = t.tcp.tcp_info(t.stream()).unwrap();
    assert_eq!((info.unacked_bytes, info.lost_segments, info.sacked_segments), (0, 0, 0), "{info:?}");
    assert!(info.retransmissions_in_flight == 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn never_stalls_and_never_repeats_what_the_peer_holds(
        seed in any::<u64>(),
        (lost, repeated, late, acks_lost) in (0u64..250, 0u64..150, 0u64..300, 0u64..200),
        (sack, rack, frto, loss_probes) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        total in 1000usize..40_000,
    ) {
        let config = TcpConfig { sack, rack, frto, loss_probes, retries: 1000, ..Script::plain() };
        transfer(config, Link { lost, repeated, late, acks_lost }, seed, total);
    }
}
