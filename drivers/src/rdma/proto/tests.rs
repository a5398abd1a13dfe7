//! Stories of two sessions, one behaviour each, in the order in which things happen on a device.

use std::time::Duration;

use super::model::adapter::Side;
use super::{Config, Ended, Failure, Popped, Role};
use crate::time::Instant;
use crate::transport::KeepAlive;

const MS: u64 = 1_000_000;

/// Two sides, and the clock that both see.
struct Pair {
    sides: [Side; 2],
    now: Instant,
}

impl Pair {
    fn new(config: &Config) -> Pair {
        let mut pair = Pair {
            sides: [
                Side::new(0, Role::Connecting, config, config),
                Side::new(1, Role::Accepting, config, config),
            ],
            now: Instant::ZERO,
        };
        pair.settle();
        pair
    }

    /// Everything that can happen does; nobody reads, and nothing is torn down.
    fn settle(&mut self) {
        loop {
            let mut busy = false;
            for which in 0..2 {
                let [one, other] = &mut self.sides;
                let (side, peer) = if which == 0 { (one, other) } else { (other, one) };
                side.flush(self.now, || true);
                while side.execute(peer) {
                    busy = true;
                }
                while side.acknowledge() {}
                while side.complete(self.now) {
                    busy = true;
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Disconnections happen, too.
    fn part(&mut self) {
        for _ in 0..3 {
            self.settle();
            for which in 0..2 {
                let [one, other] = &mut self.sides;
                let (side, peer) = if which == 0 { (one, other) } else { (other, one) };
                side.tear_down();
                peer.hear_of(side);
            }
        }
    }

    fn ended(&self) -> [Option<Ended>; 2] {
        [self.sides[0].session.ended(), self.sides[1].session.ended()]
    }

    fn assert_nothing_is_held(&self) {
        for side in &self.sides {
            assert!(side.session.is_down());
            side.assert_nothing_is_held();
        }
    }
}

fn eager() -> Config {
    Config { credits: 4, offer_from_bytes: None, ..Config::default() }
}

#[test]
fn the_accepting_side_listens_before_it_speaks() {
    let config = eager();
    let mut side = Side::new(1, Role::Accepting, &config, &config);
    assert!(side.push(10));
    side.flush(Instant::ZERO, || true);
    assert!(side.is_idle(), "iWARP's initiator speaks first");
    let mut pair =
        Pair { sides: [Side::new(0, Role::Connecting, &config, &config), side], now: Instant::ZERO };
    pair.settle();
    assert!(pair.sides[0].pop(100));
}

#[test]
fn what_is_pushed_in_one_turn_shares_a_message_and_a_completion() {
    let mut pair = Pair::new(&eager());
    let side = &mut pair.sides[0];
    for _ in 0..3 {
        assert!(side.push(100));
    }
    side.flush(pair.now, || true);
    assert_eq!(side.requests(), 1);
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), 300);
    assert!(pair.sides[0].session.is_drained(), "memory was held, so its completion was asked for");
}

#[test]
fn inline_messages_ask_for_no_completion_until_somebody_waits_for_it() {
    let mut pair = Pair::new(&Config { credits: 16, ..eager() });
    assert!(pair.sides[0].push(20));
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), 20);
    assert!(!pair.sides[0].session.is_drained());
    pair.sides[0].session.want_drained();
    pair.settle();
    assert!(pair.sides[0].session.is_drained());
    assert!(pair.sides[0].session.take_changes().drained);
}

#[test]
fn a_send_buffer_full_of_inline_messages_asks_for_a_completion() {
    let mut pair = Pair::new(&Config { send_buffer_bytes: 100, credits: 16, ..eager() });
    for _ in 0..5 {
        assert!(pair.sides[0].push(20));
        pair.settle();
    }
    assert_eq!(pair.sides[0].session.send_room(), 100);
}

#[test]
fn a_reader_that_does_not_read_stops_the_sender_and_one_that_does_lets_it_go_on() {
    let mut pair = Pair::new(&Config { send_buffer_bytes: 40_000, ..eager() });
    while pair.sides[0].push(5000) {
        pair.settle();
    }
    assert_eq!(pair.sides[0].session.send_room(), 0);
    let there = pair.sides[1].session.ready_bytes();
    assert_eq!(there, 4 * 5000, "a message for each credit");
    // One of four is less than half: it waits for company.
    assert!(pair.sides[1].pop(5000));
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), there - 5000);
    assert!(pair.sides[1].pop(5000));
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), there - 10_000 + 16_352, "two full messages");
    assert!(pair.sides[0].session.take_changes().writable);
}

#[test]
fn two_full_ends_go_on_when_either_reads() {
    let mut pair = Pair::new(&eager());
    for which in [0, 1] {
        while pair.sides[which].push(8000) {}
        pair.settle();
    }
    let pushed = pair.sides.each_ref().map(|side| side.pushed);
    for round in 0.. {
        assert!(round < 1000, "two full ends that wait for each other");
        let progress = pair.sides.iter_mut().map(|side| side.pop(8000)).fold(false, |any, one| any | one);
        pair.settle();
        if !progress {
            break;
        }
    }
    assert_eq!([pair.sides[1].popped, pair.sides[0].popped], pushed);
}

#[test]
fn silence_comes_to_rest() {
    // `Pair::settle` ends: answers are not answered, and credits are not returned for what cost none.
    let mut pair = Pair::new(&Config { credits: 2, ..eager() });
    for _ in 0..20 {
        assert!(pair.sides[1].push(500));
        pair.settle();
        assert!(pair.sides[0].pop(500));
        pair.settle();
    }
    assert!(pair.sides.iter().all(Side::is_idle));
}

#[test]
fn a_long_buffer_is_read_and_held_until_its_reader_has_it() {
    let mut pair = Pair::new(&Config { offer_from_bytes: Some(3000), read_bytes: 2000, ..Config::default() });
    for len in [10, 5000, 20] {
        assert!(pair.sides[0].push(len));
    }
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), 5030);
    assert!(pair.sides[0].session.is_drained());
    assert!(!pair.sides[0].is_open(), "what was read is closed again");
    while pair.sides[1].pop(700) {}
    assert_eq!(pair.sides[1].popped, 5030);
}

#[test]
fn a_long_buffer_waits_with_its_sender_while_the_reader_has_no_room() {
    let config = Config {
        offer_from_bytes: Some(3000),
        read_bytes: 2000,
        receive_buffer_bytes: 4000,
        ..Config::default()
    };
    let mut pair = Pair::new(&config);
    assert!(pair.sides[0].push(5000));
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), 4000);
    assert!(pair.sides[0].is_open() && !pair.sides[0].session.is_drained());
    assert!(pair.sides[1].pop(1000));
    pair.settle();
    assert_eq!(pair.sides[1].session.ready_bytes(), 4000);
    assert!(pair.sides[0].session.is_drained());
}

#[test]
fn each_direction_ends_for_itself() {
    let mut pair = Pair::new(&eager());
    assert!(pair.sides[0].push(10));
    pair.sides[0].session.shut_write();
    pair.part();
    assert!(pair.sides[1].pop(100));
    assert!(!pair.sides[1].pop(100) && pair.sides[1].saw_end);
    assert_eq!(pair.ended(), [None, None]);
    assert!(!pair.sides[0].push(1), "pushing behind the end");
    assert!(pair.sides[1].push(30));
    pair.part();
    assert!(pair.sides[0].pop(100));
    pair.sides[1].session.shut_write();
    pair.part();
    assert!(!pair.sides[0].pop(100) && pair.sides[0].saw_end);
    assert_eq!(pair.ended(), [Some(Ended::Closed); 2]);
    pair.assert_nothing_is_held();
}

#[test]
fn unread_bytes_survive_an_orderly_end() {
    let mut pair = Pair::new(&eager());
    assert!(pair.sides[0].push(10));
    pair.sides[0].session.shut_write();
    pair.sides[1].session.shut_write();
    pair.part();
    assert_eq!(pair.ended(), [Some(Ended::Closed); 2]);
    assert!(pair.sides[1].pop(100));
    assert!(!pair.sides[1].pop(100) && pair.sides[1].saw_end);
    pair.assert_nothing_is_held();
}

#[test]
fn an_abort_is_a_reset_to_the_peer_which_still_reads_what_came_before() {
    let mut pair = Pair::new(&eager());
    assert!(pair.sides[0].push(10));
    pair.settle();
    pair.sides[0].session.abort();
    pair.part();
    assert_eq!(pair.ended(), [Some(Ended::Aborted), Some(Ended::Reset)]);
    assert!(pair.sides[1].session.take_changes().ended);
    assert!(pair.sides[1].pop(100));
    assert!(matches!(pair.sides[1].session.pop(100), Popped::Ended(Ended::Reset)));
    assert!(!pair.sides[1].push(1));
    pair.assert_nothing_is_held();
}

#[test]
fn closing_with_bytes_unread_resets_and_so_do_bytes_that_come_later() {
    let mut pair = Pair::new(&eager());
    assert!(pair.sides[0].push(10));
    pair.settle();
    pair.sides[1].session.close(pair.now);
    pair.part();
    assert_eq!(pair.ended(), [Some(Ended::Reset), Some(Ended::Aborted)]);

    let mut pair = Pair::new(&eager());
    pair.sides[1].session.close(pair.now);
    pair.settle();
    assert_eq!(pair.ended(), [None, None], "half closed");
    assert!(pair.sides[0].push(10));
    pair.part();
    assert_eq!(pair.ended(), [Some(Ended::Reset), Some(Ended::Aborted)]);
}

#[test]
fn what_was_pushed_before_a_close_still_arrives() {
    let mut pair = Pair::new(&eager());
    for _ in 0..8 {
        assert!(pair.sides[0].push(6000));
    }
    pair.sides[0].session.close(pair.now);
    for _ in 0..20 {
        pair.part();
        pair.sides[1].pop(usize::MAX);
    }
    assert!(!pair.sides[1].pop(1) && pair.sides[1].saw_end);
    assert_eq!(pair.sides[1].popped, 48_000);
    pair.sides[1].session.close(pair.now);
    pair.part();
    assert_eq!(pair.ended(), [Some(Ended::Closed); 2]);
    pair.assert_nothing_is_held();
}

#[test]
fn a_close_that_the_peer_never_completes_is_given_up() {
    let mut pair = Pair::new(&Config { closing: Duration::from_secs(5), ..eager() });
    pair.sides[0].session.close(pair.now);
    pair.settle();
    let at = pair.sides[0].session.deadline().unwrap();
    assert_eq!(at, pair.now + Duration::from_secs(5));
    pair.sides[0].session.tick(at.max(pair.now));
    pair.part();
    assert_eq!(pair.ended(), [Some(Ended::TimedOut), Some(Ended::Reset)]);
    pair.assert_nothing_is_held();
}

#[test]
fn a_peer_that_should_disconnect_and_does_not_is_left_in_good_order() {
    let mut pair = Pair::new(&Config { closing: Duration::from_secs(5), ..eager() });
    pair.sides[0].session.shut_write();
    pair.settle();
    pair.sides[1].session.shut_write();
    pair.settle();
    assert_eq!(pair.ended(), [None, Some(Ended::Closed)], "the last to be acknowledged disconnects");
    let at = pair.sides[0].session.deadline().unwrap();
    pair.sides[0].session.tick(at);
    assert_eq!(pair.ended(), [Some(Ended::Closed); 2]);
}

#[test]
fn a_silent_peer_is_probed_and_one_that_does_not_answer_is_dropped() {
    let keepalive = KeepAlive { idle: Duration::from_secs(2), interval: Duration::from_secs(1), probes: 3 };
    let mut pair = Pair::new(&Config { keepalive: Some(keepalive), ..eager() });
    let session = &mut pair.sides[0].session;
    assert_eq!(session.deadline(), Some(Instant::from_millis(2000)));
    session.tick(Instant::from_millis(1999));
    assert!(!session.wants_flush());
    session.tick(Instant::from_millis(2000));
    pair.now = Instant::from_millis(2000);
    pair.settle();
    let session = &mut pair.sides[0].session;
    assert_eq!(session.deadline(), Some(Instant::from_nanos(4000 * MS)), "the answer was a sign of life");
    session.tick(Instant::from_millis(4000));
    let side = &mut pair.sides[0];
    side.flush(Instant::from_millis(4000), || true);
    assert_eq!(side.requests(), 1);
    assert_eq!(side.session.deadline(), Some(Instant::from_millis(7000)));
    side.session.tick(Instant::from_millis(7000));
    assert_eq!(side.session.ended(), Some(Ended::TimedOut));
    assert_eq!(side.session.deadline(), None);
}

#[test]
fn a_peer_that_connects_and_never_speaks_is_dropped_without_a_probe() {
    let keepalive = KeepAlive { idle: Duration::from_secs(2), interval: Duration::from_secs(1), probes: 3 };
    let config = Config { keepalive: Some(keepalive), ..eager() };
    let mut side = Side::new(1, Role::Accepting, &config, &config);
    assert_eq!(side.session.deadline(), Some(Instant::from_millis(5000)));
    side.session.tick(Instant::from_millis(4999));
    side.flush(Instant::from_millis(4999), || true);
    assert_eq!((side.session.ended(), side.requests()), (None, 0));
    side.session.tick(Instant::from_millis(5000));
    assert_eq!(side.session.ended(), Some(Ended::TimedOut));
}

#[test]
fn failures_of_the_adapter_are_told_by_their_kind_and_only_the_first_counts() {
    let failures = [
        (Failure::Disconnected, Ended::Reset),
        (Failure::Unanswered, Ended::TimedOut),
        (Failure::Refused, Ended::Failed(Failure::Refused)),
        (Failure::DeviceGone, Ended::Failed(Failure::DeviceGone)),
    ];
    for (failure, ended) in failures {
        let mut pair = Pair::new(&Config { offer_from_bytes: Some(3000), ..Config::default() });
        assert!(pair.sides[0].push(5000));
        pair.sides[0].flush(pair.now, || true);
        let session = &mut pair.sides[0].session;
        session.failed(failure);
        session.failed(Failure::Broken);
        assert_eq!(session.ended(), Some(ended));
        assert!(session.send_room() > 0 && session.wants_flush());
        pair.part();
        while pair.sides[1].pop(usize::MAX) {}
        pair.assert_nothing_is_held();
    }
}

#[test]
fn a_reader_that_leaves_does_not_stop_the_writer() {
    let mut pair = Pair::new(&Config { offer_from_bytes: Some(3000), ..eager() });
    pair.sides[1].session.shut_read();
    for len in [5000, 10, 200, 5000, 10, 20, 30, 5000] {
        assert!(pair.sides[0].push(len));
        pair.settle();
    }
    pair.sides[0].session.want_drained();
    pair.settle();
    assert!(pair.sides[0].session.is_drained());
    assert!(matches!(pair.sides[1].session.pop(10), Popped::End));
    assert_eq!(pair.ended(), [None, None]);
}

#[test]
fn more_credits_are_told_and_fewer_are_kept() {
    let mut pair = Pair::new(&Config { sends: 64, ..eager() });
    let fill = |pair: &mut Pair| {
        while pair.sides[0].session.send_room() > 0 && pair.sides[0].pushed < 400_000 {
            assert!(pair.sides[0].push(4000));
        }
        pair.settle();
        pair.sides[1].session.ready_bytes() / 4000
    };
    assert!(fill(&mut pair) >= 4);
    let before = pair.sides[1].session.ready_bytes();
    pair.sides[1].grow_receives(12);
    pair.sides[1].session.set_credits(12);
    pair.settle();
    assert!(pair.sides[1].session.ready_bytes() > before, "eight more messages");
    pair.sides[1].session.set_credits(2);
    let mut most = 0;
    while pair.sides[1].pop(usize::MAX) {
        pair.settle();
        most = pair.sides[1].popped;
    }
    assert_eq!(most, pair.sides[0].pushed, "all of it, if slower");
}
