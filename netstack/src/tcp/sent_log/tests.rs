//! The log against a map of bytes, and the rules it carries out.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn burst(start: u64, end: u64, size: u32, ms: u64) -> Burst {
    Burst { start, end, size, at: at(ms) }
}

/// Records as `(start, end, milliseconds, segments, marks)`.
fn records(log: &SentLog) -> Vec<(u64, u64, u64, u32, u8)> {
    let told = |record: &Record| {
        (record.start, record.end, record.sent_at.as_millis(), record.segments, record.marks)
    };
    log.order.iter().map(|&id| told(log.record(id))).collect()
}

fn in_time(log: &SentLog) -> Vec<(Instant, u64)> {
    let (mut all, mut id) = (Vec::new(), log.oldest);
    while id != NONE {
        all.push((log.record(id).sent_at, log.record(id).start));
        id = log.record(id).newer;
    }
    all
}

const S: u8 = mark::SACKED;
const L: u8 = mark::LOST;
const R: u8 = mark::RETRANS | mark::EVER;

#[test]
fn segments_of_one_burst_are_one_record() {
    let mut log = SentLog::default();
    log.push(burst(0, 1000, 1000, 1), 0);
    log.push(burst(1000, 3000, 1000, 1), 0);
    log.push(burst(3000, 3400, 1000, 1), 0);
    assert_eq!(records(&log), [(0, 3400, 1, 4, 0)]);
    assert_eq!(log.last_segment(), Some((3000, 3400)));
    log.push(burst(3400, 3500, 1000, 1), 0);
    log.push(burst(3500, 4500, 1000, 2), 0);
    assert_eq!(records(&log)[1..], [(3400, 3500, 1, 1, 0), (3500, 4500, 2, 1, 0)], "short, then later");
    assert_eq!((log.segments(), log.pipe(), log.end()), (6, 4500, Some(4500)));
}

#[test]
fn one_more_segment_of_a_burst_is_noted_as_a_burst_would_be() {
    let (mut log, mut short) = (SentLog::default(), SentLog::default());
    let mut at = 0;
    let mut took_short_way = Vec::new();
    // Bytes, segment size, time, delivered; and a range that the peer then holds.
    for (bytes, size, time, delivered, held) in [
        (1000, 1000, 1, 0, None),
        (1000, 1000, 1, 0, None),
        (1000, 1000, 1, 0, Some((2000, 3000))),
        (1000, 1000, 1, 0, None),
        (1000, 1000, 1, 0, None),
        (1000, 1000, 1, 500, None),
        (1000, 1000, 2, 500, None),
        (900, 900, 2, 500, None),
        (900, 900, 2, 500, None),
        (500, 900, 2, 500, None),
        (900, 900, 2, 500, None),
    ] {
        let next = burst(at, at + bytes, size, time);
        at += bytes;
        log.push(next, delivered);
        let on = short.push_on(&next, delivered);
        if !on {
            short.push(next, delivered);
        }
        took_short_way.push(on);
        if let Some((start, end)) = held {
            log.sack(start, end, |_| {});
            short.sack(start, end, |_| {});
        }
        assert_eq!(records(&short), records(&log), "after {at}");
        assert_eq!((short.segments(), short.pipe(), short.end()), (log.segments(), log.pipe(), log.end()));
        assert_eq!(short.last_segment(), log.last_segment());
    }
    let expected = [false, true, true, false, true, false, false, false, false, false, false];
    assert_eq!(took_short_way, expected);
}

#[test]
fn what_the_peer_holds_is_cut_out_and_grows_together() {
    let mut log = SentLog::default();
    log.push(burst(0, 5000, 1000, 1), 0);
    let mut seen = Vec::new();
    log.sack(2000, 3000, |piece| seen.push((piece.start, piece.end)));
    assert_eq!(records(&log), [(0, 2000, 1, 2, 0), (2000, 3000, 1, 1, S), (3000, 5000, 1, 2, 0)]);
    log.sack(1000, 4000, |piece| seen.push((piece.start, piece.end)));
    assert_eq!(records(&log), [(0, 1000, 1, 1, 0), (1000, 4000, 1, 3, S), (4000, 5000, 1, 1, 0)]);
    assert_eq!(seen, [(2000, 3000), (1000, 2000), (3000, 4000)]);
    assert_eq!((log.sacked(), log.sacked_end()), (Count { bytes: 3000, segments: 3 }, Some(4000)));
    log.sack(1000, 4000, |piece| panic!("no news: {piece:?}"));
    let mut gone = Vec::new();
    log.acknowledge(4500, |piece| gone.push((piece.start, piece.end, piece.segments)));
    assert_eq!(gone, [(0, 1000, 1), (1000, 4000, 3), (4000, 4500, 0)], "half a segment is none");
    assert_eq!((log.segments(), log.pipe(), log.sacked()), (1, 500, Count::default()));
}

#[test]
fn losses_go_out_again_in_order_and_may_get_lost_again() {
    let mut log = SentLog::default();
    log.push(burst(0, 3000, 1000, 1), 0);
    log.push(burst(3000, 6000, 1000, 5), 0);
    log.sack(5000, 6000, |_| {});
    let found = log.time_out((at(5), 6000), at(2));
    assert_eq!(found.lost, Count { bytes: 3000, segments: 3 });
    assert_eq!(found.waiting, Some(at(5)), "the later burst may follow");
    assert_eq!((log.pipe(), log.next_lost()), (2000, Some((0, 3000))));
    log.resent(0, 1000, at(10), 0, true);
    log.resent(1000, 2000, at(10), 0, true);
    assert_eq!(records(&log)[..2], [(0, 2000, 10, 2, L | R), (2000, 3000, 1, 1, L)]);
    assert_eq!((log.pipe(), log.retrans().segments, log.next_lost()), (4000, 2, Some((2000, 3000))));
    log.resent(2000, 3000, at(12), 0, true);
    assert_eq!(log.next_lost(), None);
    // The second retransmission arrives; the first does not.
    log.sack(2000, 3000, |_| {});
    let found = log.time_out((at(12), 3000), at(11));
    assert_eq!(found.again, Count { bytes: 2000, segments: 2 });
    assert_eq!(log.next_lost(), Some((0, 2000)));
    log.unlose();
    assert_eq!((log.next_lost(), log.lost(), log.pipe()), (None, Count::default(), 4000));
}

#[test]
fn a_probe_is_sent_again_but_not_in_flight_twice() {
    let mut log = SentLog::default();
    log.push(burst(0, 3000, 1000, 1), 0);
    log.resent(2000, 3000, at(9), 0, false);
    assert_eq!(records(&log), [(0, 2000, 1, 2, 0), (2000, 3000, 9, 1, mark::EVER)]);
    assert_eq!((log.pipe(), log.retrans()), (3000, Count::default()));
    assert_eq!(log.duplicate(2000, 3000), (1, None));
}

#[test]
fn small_segments_that_go_out_as_one_are_one() {
    let mut log = SentLog::default();
    for n in 0..5 {
        log.push(burst(n * 100, n * 100 + 100, 100, 1 + n), 0);
    }
    log.lose_all(at(9));
    assert_eq!((log.next_lost(), log.lost().segments), (Some((0, 100)), 5));
    log.resent(0, 500, at(20), 0, true);
    assert_eq!(records(&log), [(0, 500, 20, 1, L | R)]);
    assert_eq!((log.segments(), log.lost().segments, log.retrans().segments, log.pipe()), (1, 1, 1, 500));
}

#[test]
fn all_is_lost_but_what_was_sent_just_now() {
    let mut log = SentLog::default();
    log.push(burst(0, 1000, 1000, 10), 0);
    log.push(burst(1000, 2000, 1000, 20), 0);
    log.push(burst(2000, 3000, 1000, 30), 0);
    log.sack(1000, 2000, |_| {});
    assert_eq!(log.lose_all(at(5)).lost.bytes, 1000, "the head, however young");
    assert_eq!(log.lose_all(at(30)).lost.bytes, 1000);
    log.unsack();
    assert_eq!((log.lost().bytes, log.sacked(), log.pipe()), (2000, Count::default(), 1000));
    assert_eq!(in_time(&log), [(at(20), 1000)]);
}

#[test]
fn three_segments_above_are_counted_from_the_top() {
    let mut log = SentLog::default();
    log.push(burst(0, 10_000, 1000, 1), 0);
    log.sack(9000, 10_000, |_| {});
    log.sack(5000, 6000, |_| {});
    assert_eq!(log.held_above(3), None);
    log.sack(2000, 4000, |_| {});
    assert_eq!(log.held_above(3), Some(3000));
    assert_eq!(log.lose_below(3000).lost.bytes, 2000);
    assert_eq!(log.lose_below(3000).lost.bytes, 0);
    assert_eq!(log.lose_head(1000).lost.bytes, 0, "lost already");
}

#[test]
fn bursts_without_end_are_few_records_and_none_counts_as_sent_too_early() {
    let mut log = SentLog::default();
    for n in 0..100_000u64 {
        log.push(burst(n * 10, n * 10 + 10, 10, n), 0);
    }
    assert!(log.order.len() <= MAX_BURSTS + 1 && log.records.len() <= MAX_BURSTS + 2);
    assert_eq!((log.segments(), log.pipe()), (100_000, 1_000_000));
    let records = records(&log);
    assert!(records.iter().all(|&(_, end, ms, ..)| ms == end / 10 - 1), "as late as its last");
    assert!(in_time(&log).is_sorted());
    assert!(records.len() >= MAX_BURSTS / 2, "and as exact as room is");
    let (mut timed, mut untimed) = (0, 0);
    log.acknowledge(1_000_000, |piece| {
        let one = piece.end - piece.start == 10;
        assert_eq!(piece.is_timed(), one, "what was sent at several times measures nothing: {piece:?}");
        *if one { &mut timed } else { &mut untimed } += 1;
    });
    assert!(timed > 0 && untimed > 0, "{timed} and {untimed}");
}

#[test]
fn a_peer_that_tells_of_every_second_byte_is_not_believed_for_ever() {
    let mut log = SentLog::default();
    log.push(burst(0, 100_000, 1000, 1), 0);
    for n in 0..50_000 {
        log.sack(2 * n + 1, 2 * n + 2, |_| {});
    }
    let bound = MAX_RECORDS + 100_000 / SMALL_SEGMENT_BYTES as usize;
    assert!(log.order.len() <= bound + 1, "{}", log.order.len());
    log.sack(1, 100_000, |_| {});
    assert_eq!(records(&log).len(), 2, "one large block is");
    assert_eq!(log.sacked().bytes, 99_999);
}

#[test]
fn samples_span_the_longer_of_sending_and_delivery() {
    let mut log = SentLog::default();
    log.push(burst(0, 1000, 1000, 0), 0);
    log.push(burst(1000, 2000, 1000, 10), 0);
    log.acknowledge(1000, |_| {});
    let sample = log.delivery.sample(at(100), 1000, Some(1));
    assert_eq!((sample.delivered, sample.interval_ns), (Some(1000), 100_000_000));
    assert_eq!(sample.rtt_ns, Some(100_000_000));
    log.push(burst(2000, 4000, 1000, 100), 1000);
    log.acknowledge(2000, |_| {});
    assert_eq!(log.delivery.sample(at(110), 2000, None).delivered, Some(2000));
    // Sent when 1000 were delivered, at 100 ms.
    log.sack(3000, 4000, |_| {});
    let sample = log.delivery.sample(at(200), 3000, None);
    assert_eq!(
        (sample.delivered, sample.interval_ns, sample.prior_delivered),
        (Some(2000), 100_000_000, 1000)
    );
    assert_eq!(log.delivery.rate, (2000, 100_000_000, false));
    assert_eq!(log.delivery.sample(at(201), 3000, None), RateSample::default(), "nothing new");
}

#[test]
fn samples_know_that_the_application_was_the_limit() {
    let mut log = SentLog::default();
    log.push(burst(0, 1000, 1000, 0), 0);
    log.delivery.limited_by_application(0, 1000);
    log.push(burst(1000, 2000, 1000, 5), 0);
    log.acknowledge(1000, |_| {});
    assert!(!log.delivery.sample(at(100), 1000, None).app_limited);
    log.push(burst(2000, 3000, 1000, 100), 1000);
    log.acknowledge(2000, |_| {});
    assert!(log.delivery.sample(at(105), 2000, None).app_limited);
    log.push(burst(3000, 4000, 1000, 105), 2000);
    log.acknowledge(4000, |_| {});
    assert!(!log.delivery.sample(at(205), 4000, None).app_limited, "the bubble is through");
}

#[derive(Clone, Debug)]
enum Step {
    Send(u32, bool),
    Sack(u64, u64),
    Acknowledge(u64),
    Resend,
    TimeOut(u64),
    LoseAll,
    Unlose,
    Unsack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..40, any::<bool>()).prop_map(|(bytes, same)| Step::Send(bytes, same)),
        4 => (0u64..300, 1u64..60).prop_map(|(start, len)| Step::Sack(start, len)),
        2 => (0u64..60).prop_map(Step::Acknowledge),
        4 => Just(Step::Resend),
        2 => (0u64..10).prop_map(Step::TimeOut),
        1 => Just(Step::LoseAll),
        1 => Just(Step::Unlose),
        1 => Just(Step::Unsack),
    ]
}

#[derive(Clone, Copy, Default)]
struct Byte {
    ms: u64,
    sacked: bool,
    lost: bool,
    retrans: bool,
}

proptest! {
    #[test]
    fn tells_what_a_map_of_bytes_tells(steps in proptest::collection::vec(step(), 1..80)) {
        let mut log = SentLog::default();
        let mut map: Vec<Byte> = Vec::new();
        let (mut una, mut ms) = (0u64, 1u64);
        for step in steps {
            let missing = |byte: &Byte| byte.lost && !byte.retrans;
            match step {
                Step::Send(bytes, same) => {
                    ms += u64::from(!same);
                    let start = map.len() as u64;
                    if log.is_empty() {
                        una = start;
                    }
                    map.extend((0..bytes).map(|_| Byte { ms, ..Byte::default() }));
                    log.push(burst(start, map.len() as u64, 10, ms), 0);
                }
                Step::Sack(start, len) => {
                    let start = (una + start).min(map.len() as u64);
                    let end = (start + len).min(map.len() as u64);
                    let mut news = 0;
                    if start < end {
                        log.sack(start, end, |piece| news += u64::from(piece.bytes()));
                    }
                    let fresh = map[start as usize..end as usize].iter().filter(|byte| !byte.sacked).count();
                    prop_assert_eq!(news, fresh as u64);
                    for byte in &mut map[start as usize..end as usize] {
                        (byte.sacked, byte.lost, byte.retrans) = (true, false, false);
                    }
                }
                Step::Acknowledge(bytes) => {
                    una = (una + bytes).min(map.len() as u64);
                    log.acknowledge(una, |_| {});
                }
                Step::Resend => {
                    ms += 1;
                    let expected = (una..map.len() as u64).find(|&at| missing(&map[at as usize]));
                    let next = log.next_lost();
                    prop_assert_eq!(next.map(|(start, _)| start), expected);
                    if let Some((start, end)) = next {
                        let end = end.min(start + 10);
                        log.resent(start, end, at(ms), 0, true);
                        for byte in &mut map[start as usize..end as usize] {
                            (byte.retrans, byte.ms) = (true, ms);
                        }
                    }
                }
                Step::TimeOut(age) => {
                    let limit = ms.saturating_sub(age);
                    log.time_out((at(ms), u64::MAX), at(limit));
                    for byte in &mut map[una as usize..] {
                        if !byte.sacked && !missing(byte) && byte.ms <= limit {
                            (byte.lost, byte.retrans) = (true, false);
                        }
                    }
                }
                Step::LoseAll => {
                    log.lose_all(at(ms));
                    for byte in map[una as usize..].iter_mut().filter(|byte| !byte.sacked) {
                        (byte.lost, byte.retrans) = (true, false);
                    }
                }
                Step::Unlose => {
                    log.unlose();
                    map.iter_mut().for_each(|byte| byte.lost = false);
                }
                Step::Unsack => {
                    log.unsack();
                    map.iter_mut().for_each(|byte| byte.sacked = false);
                    // What was held counts as sent when the latest of it was.
                    for &id in &log.order {
                        let record = log.record(id);
                        for byte in &mut map[record.start as usize..record.end as usize] {
                            prop_assert!(byte.ms <= record.sent_at.as_millis());
                            byte.ms = record.sent_at.as_millis();
                        }
                    }
                }
            }
            let held = &map[una as usize..];
            let count = |wanted: fn(&Byte) -> bool| held.iter().filter(|byte| wanted(byte)).count() as u32;
            prop_assert_eq!(log.sacked().bytes, count(|byte| byte.sacked));
            prop_assert_eq!(log.lost().bytes, count(|byte| byte.lost));
            prop_assert_eq!(log.retrans().bytes, count(|byte| byte.retrans));
            let pipe = count(|byte| !byte.sacked && !byte.lost) + count(|byte| byte.retrans);
            prop_assert_eq!(log.pipe(), pipe);
            let mut next = una;
            let mut segments = 0;
            for &id in &log.order {
                let record = log.record(id);
                prop_assert_eq!(record.start, next);
                prop_assert!(record.start < record.end);
                next = record.end;
                segments += record.segments;
            }
            prop_assert_eq!((next, segments), (if log.is_empty() { una } else { map.len() as u64 }, log.segments()));
            let in_time = in_time(&log);
            prop_assert!(in_time.is_sorted_by_key(|&(sent_at, _)| sent_at));
            let listed = log.order.iter().filter(|&&id| log.record(id).in_flight()).count();
            prop_assert_eq!(in_time.len(), listed);
        }
    }
}
