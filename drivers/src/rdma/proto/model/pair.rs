//! Two sessions, two queue pairs, and every order of events that verbs allow.

use super::super::{Ended, Role};
use super::adapter::Side;
use super::{Decisions, config};
use crate::time::Instant;

/// Plays the story that `bytes` tell, to its end.
///
/// # Panics
/// When a byte is lost, changed or late; a message finds no receive; memory is read that is not open; two ends that could go on do not;
/// an orderly end is told as an error; or a slot is held when all is over.
pub fn pair(bytes: &[u8]) {
    let mut decisions = Decisions(bytes);
    let configs = [config(&mut decisions), config(&mut decisions)];
    let mut world = World {
        sides: [
            Side::new(0, Role::Connecting, &configs[0], &configs[1]),
            Side::new(1, Role::Accepting, &configs[1], &configs[0]),
        ],
        now: Instant::ZERO,
        orderly: true,
        refuses_exposures: decisions.byte() & 7 == 7,
    };
    while !decisions.is_over() {
        world.step(&mut decisions);
    }
    world.finish(decisions.byte());
}

struct World {
    sides: [Side; 2],
    now: Instant,
    /// Nobody has reset anything, or stopped reading.
    orderly: bool,
    refuses_exposures: bool,
}

impl World {
    fn step(&mut self, decisions: &mut Decisions<'_>) {
        let code = decisions.byte();
        self.now = self.now.plus_nanos(1000);
        let [one, other] = &mut self.sides;
        let (side, peer) = if code & 1 == 0 { (one, other) } else { (other, one) };
        let times = usize::from(code >> 6) + 1;
        match code >> 1 & 31 {
            0..4 => {
                for _ in 0..times {
                    side.execute(peer);
                }
            }
            4..8 => {
                for _ in 0..times {
                    side.acknowledge();
                }
            }
            8..12 => {
                for _ in 0..times {
                    side.complete(self.now);
                }
            }
            12..16 => {
                let refuses = self.refuses_exposures;
                side.flush(self.now, || !refuses);
            }
            16..21 => {
                for _ in 0..times {
                    side.push(decisions.length());
                }
            }
            21..26 => {
                side.pop(decisions.length());
            }
            26 => side.session.want_drained(),
            27 => side.session.set_credits(u16::from(code >> 6)),
            28 if decisions.byte() & 15 == 7 => side.session.shut_write(),
            29 if decisions.byte() & 63 == 7 => {
                side.session.shut_read();
                side.reads_no_more = true;
            }
            30 if decisions.byte() & 63 == 7 => {
                self.orderly = false;
                if times == 1 {
                    side.session.close(self.now);
                } else {
                    side.session.abort();
                }
            }
            _ => {
                side.tear_down();
                side.hear_of(peer);
            }
        }
        side.session.take_changes();
    }

    /// Runs until nothing happens any more, the applications reading all they can.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "it never comes to rest");
            self.now = self.now.plus_nanos(1000);
            let mut busy = false;
            for which in 0..2 {
                let [one, other] = &mut self.sides;
                let (side, peer) = if which == 0 { (one, other) } else { (other, one) };
                let refuses = self.refuses_exposures;
                busy |= side.session.wants_flush();
                side.flush(self.now, || !refuses);
                busy |= side.execute(peer);
                busy |= side.acknowledge();
                while side.complete(self.now) {
                    busy = true;
                }
                while side.pop(usize::MAX) {
                    busy = true;
                }
                busy |= side.tear_down();
                busy |= side.hear_of(peer);
            }
            if !busy {
                return;
            }
        }
    }

    fn finish(mut self, how: u8) {
        self.settle();
        if self.orderly {
            for which in 0..2 {
                let (side, peer) = (&self.sides[which], &self.sides[1 - which]);
                assert!(
                    side.reads_no_more || side.popped == peer.pushed,
                    "bytes of side {} are stuck",
                    1 - which
                );
            }
            // Everything has arrived, so whoever asks is told so.
            for side in &mut self.sides {
                side.session.want_drained();
            }
            self.settle();
            for side in &mut self.sides {
                assert!(side.session.is_drained(), "it has arrived, and the sender does not know");
                assert!(side.is_idle());
            }
        }
        match how & 3 {
            0 => self.sides.iter_mut().for_each(|side| side.session.shut_write()),
            1 => {
                self.sides[1].session.shut_write();
                self.settle();
                self.sides[0].session.shut_write();
            }
            2 => {
                self.sides[0].session.close(self.now);
                self.settle();
                assert!(!self.orderly || self.sides[1].saw_end || self.sides[1].reads_no_more);
                self.sides[1].session.close(self.now);
            }
            _ => {
                self.sides[0].session.abort();
                self.orderly = false;
            }
        }
        self.settle();
        for side in &self.sides {
            assert!(side.is_deaf() && side.session.is_down(), "a connection that does not end");
            if self.orderly {
                assert_eq!(side.session.ended(), Some(Ended::Closed));
                assert!(side.saw_end);
            } else {
                let orderly =
                    matches!(side.session.ended(), Some(Ended::Closed | Ended::Reset | Ended::Aborted));
                assert!(orderly, "{:?}", side.session.ended());
            }
            side.assert_nothing_is_held();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    #[test]
    fn seeded_stories_of_two_ends_come_to_a_good_end() {
        for seed in 0..200 {
            let mut rng = Rng::new(seed, 1);
            let len = rng.below(1500) as usize;
            let bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            let told = std::panic::catch_unwind(|| pair(&bytes));
            assert!(told.is_ok(), "seed {seed}");
        }
    }

    proptest! {
        #[test]
        fn two_ends_come_to_a_good_end(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            pair(&bytes);
        }
    }
}
