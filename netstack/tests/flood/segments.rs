//! Floods on one connection: the good one, which a stranger guesses at, and the stranger's own.

use demi_drivers::Transport;

use crate::ground::Ground;
use crate::ground::{Ceilings, Service, victim};
use crate::packets::{ACK, Dice, FIN, RST, SYN, Segment, read};
use crate::stranger::with_stranger;

/// Junk packets a millisecond.
const RATE: u64 = 20;

#[test]
fn blind_resets_syns_and_data_around_the_window_of_the_good_connection() {
    let mut ground = Ground::new(victim());
    let mut dice = Dice(1);
    let ceilings = Ceilings { slots: 1200, bytes: 1_500_000, calls: 1.0, answers: 0.0, percent: 90 };
    // Old data is told of by a D-SACK each, as Linux does, which takes its part of the friend's link.
    ground.flood(ceilings, |ground, _, _| {
        let seen = ground.latest.borrow()[0].clone();
        let (ports, seq, ack, _, len) = read(&seen).expect("the friend's segment");
        let next = seq.wrapping_add(len as u32);
        for _ in 0..RATE {
            // Never what is really expected: a blind stranger hits that once in 2^32.
            let offset = match dice.roll() % 6 {
                0 => 200_000 + dice.roll() as u32 % 100_000,
                1 => 1_000_000,
                2 => 0x4000_0000 + dice.roll() as u32 % 0x7fff_0000,
                3 => (dice.roll() as u32 % 5_000).wrapping_add(600_000).wrapping_neg(),
                4 => 0x8000_0000,
                _ => 0xffff_0000,
            };
            let flags = [RST, RST | ACK, SYN, SYN | ACK, ACK, FIN | ACK, FIN, 0][dice.roll() as usize % 8];
            // RFC 5961 §5.2: data is only taken with an acknowledgement that can be.
            let ack = if flags & ACK != 0 { ack.wrapping_add(0x4000_0000) } else { 0 };
            let payload: &[u8] = if flags & (SYN | RST) == 0 { b"not what was sent" } else { b"" };
            let segment = Segment {
                ports,
                seq: next.wrapping_add(offset),
                ack,
                flags,
                window: 500,
                options: &[],
                payload,
            };
            ground.inject(&segment.frame([10, 0, 0, 2].into(), [10, 0, 0, 1].into()));
        }
        RATE
    });
    let stats = ground.victim.tcp_stats();
    assert!(stats.challenge_acks > 0 && stats.challenge_acks < 3 * 1500, "{}", stats.challenge_acks);
}

#[test]
fn segments_of_one_byte_with_a_gap_before_each() {
    // SegmentSmack: every byte its own range, never the one that is missing.
    let (mut ground, stranger) = with_stranger(Service::Idle, 1460, 65535);
    let mut next = 1;
    let ceilings = Ceilings { slots: 2200, bytes: 700_000, calls: 0.2, answers: 1.1, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            next = if next > 60_000 { 1 } else { next + 2 };
            let seq = stranger.seq.wrapping_add(next);
            let junk = stranger.segment(seq, stranger.first, ACK, &[], b"x");
            ground.inject(&junk);
        }
        RATE
    });
}

#[test]
fn selective_acknowledgements_that_tear_a_large_window_of_small_segments() {
    // CVE-2019-11477 and its kin: an MSS of 48, and blocks that split what is outstanding ever further.
    let (mut ground, stranger) = with_stranger(Service::Sending, 48, 65535);
    let mut dice = Dice(3);
    let (mut una, mut high) = (stranger.first, stranger.first);
    let ceilings = Ceilings { slots: 2000, bytes: 1_000_000, calls: 1.0, answers: 2.0, percent: 95 };
    ground.flood(ceilings, |ground, number, answers| {
        for (_, seq, _, _, len) in
            answers.iter().filter_map(|frame| read(frame)).filter(|answer| answer.0 == (80, 4000))
        {
            let end = seq.wrapping_add(len as u32);
            if end.wrapping_sub(high) as i32 > 0 {
                high = end;
            }
        }
        // An honest beginning, so that the window grows; then the left edge goes on so slowly that much is outstanding.
        if number < 300 {
            una = high;
            let ack = stranger.segment(stranger.seq, una, ACK, &[], &[]);
            ground.inject(&ack);
            return 1;
        }
        if number % 10 == 0 && high.wrapping_sub(una) > 2000 {
            una = una.wrapping_add(480);
        }
        let span = high.wrapping_sub(una).max(1);
        for _ in 0..RATE {
            let mut options = vec![1, 1, 5, 34];
            for _ in 0..4 {
                let start = una.wrapping_add(dice.roll() as u32 % span / 8 * 8 + 8);
                options.extend(start.to_be_bytes());
                options.extend(start.wrapping_add(8 + dice.roll() as u32 % 3 * 8).to_be_bytes());
            }
            let junk = stranger.segment(stranger.seq, una, ACK, &options, &[]);
            ground.inject(&junk);
        }
        RATE
    });
}

#[test]
fn acknowledgements_of_what_was_not_sent_and_of_every_byte() {
    // RFC 3465 §2.3: no more window than the bytes that were acknowledged, in however many pieces.
    let (mut ground, stranger) = with_stranger(Service::Sending, 1000, 65535);
    let (mut acked, mut high) = (stranger.first, stranger.first);
    let ceilings = Ceilings { slots: 1500, bytes: 700_000, calls: 0.5, answers: 1.0, percent: 95 };
    let before = ground.victim.tcp_info(ground.accepted[0]).unwrap();
    ground.flood(ceilings, |ground, _, answers| {
        for (_, seq, _, _, len) in
            answers.iter().filter_map(|frame| read(frame)).filter(|answer| answer.0 == (80, 4000))
        {
            let end = seq.wrapping_add(len as u32);
            if end.wrapping_sub(high) as i32 > 0 {
                high = end;
            }
        }
        for turn in 0..RATE {
            let ack = if turn % 4 == 3 {
                high.wrapping_add(100_000)
            } else {
                if high.wrapping_sub(acked) as i32 > 0 {
                    acked = acked.wrapping_add(1);
                }
                acked
            };
            let junk = stranger.segment(stranger.seq, ack, ACK, &[], &[]);
            ground.inject(&junk);
        }
        RATE
    });
    let info = ground.victim.tcp_info(ground.accepted[0]).unwrap();
    let (acknowledged, grown) =
        (u64::from(acked.wrapping_sub(stranger.first)), info.cwnd_bytes.saturating_sub(before.cwnd_bytes));
    assert!(grown <= acknowledged + 2000, "a window {grown} bytes larger for {acknowledged} acknowledged");
}
