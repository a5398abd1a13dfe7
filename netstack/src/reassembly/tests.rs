//! Tests of the table: order, duplicates, overlap, time and bounds, and a byte map as its model.

use demi_drivers::PoolConfig;
use proptest::prelude::*;

use super::*;
use crate::hash::Random;

const HEADER: &[u8] = b"header";

struct Bench {
    table: Reassembly,
    pool: Pool,
    now: Instant,
}

fn bench(packets: usize, fragments: usize) -> Bench {
    let keyed = Keyed::new(&mut Random::new([4; 16]));
    let config = PoolConfig { slots: 512, large_slots: 4, huge_pages: false, ..PoolConfig::default() };
    Bench {
        table: Reassembly::new(ReassemblyLimits { packets, fragments }, keyed),
        pool: Pool::new(&config).unwrap(),
        now: Instant::ZERO,
    }
}

fn key(src: u8, ident: u32) -> Key {
    Key { src: [10, 0, 0, src].into(), dst: [10, 0, 1, 1].into(), ident, protocol: 17 }
}

impl Bench {
    fn add_ecn(&mut self, key: Key, offset: usize, more: bool, payload: &[u8], ecn: u8) -> Outcome {
        let packet = self.pool.copy_from_slice(&[HEADER, payload].concat()).unwrap();
        let (header_len, payload_at) = (HEADER.len(), HEADER.len());
        let names = (0, b'H');
        let fragment =
            Fragment { key, offset, more, ecn, group: false, header_len, names, payload_at, packet };
        self.table.add(self.now, fragment, &self.pool)
    }

    fn add(&mut self, key: Key, offset: usize, more: bool, payload: &[u8]) -> Outcome {
        self.add_ecn(key, offset, more, payload, 0)
    }

    fn slots_out(&self) -> usize {
        let stats = self.pool.stats();
        stats.slots_out + stats.large_slots_out
    }

    fn is_empty(&self) -> bool {
        self.table.fragments == 0 && self.table.shares.is_empty() && self.table.by_key.is_empty()
    }
}

fn bytes(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Whole { packet, .. } => packet.to_vec(),
        other => panic!("no whole packet: {other:?}"),
    }
}

#[test]
fn fragments_in_any_order_make_the_packet() {
    let parts: [(usize, bool, &[u8]); 3] =
        [(0, true, b"12345678"), (8, true, b"abcdefgh"), (16, false, b"end")];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut bench = bench(8, 64);
        let mut last = Outcome::Held;
        for which in order {
            assert!(matches!(last, Outcome::Held), "{order:?}");
            let (offset, more, payload) = parts[which];
            last = bench.add(key(1, 7), offset, more, payload);
        }
        assert_eq!(bytes(last), b"Header12345678abcdefghend", "{order:?}");
        assert!(bench.is_empty());
        assert_eq!(bench.slots_out(), 0);
    }
}

#[test]
fn packets_are_told_apart_by_all_of_their_key() {
    let mut bench = bench(32, 64);
    let keys = [
        key(1, 7),
        key(2, 7),
        key(1, 8),
        Key { protocol: 6, ..key(1, 7) },
        Key { dst: [10, 0, 1, 2].into(), ..key(1, 7) },
    ];
    for (at, key) in keys.into_iter().enumerate() {
        assert!(matches!(bench.add(key, 8, false, &[at as u8]), Outcome::Held));
    }
    for (at, key) in keys.into_iter().enumerate() {
        let whole = bytes(bench.add(key, 0, true, b"........"));
        assert_eq!(whole.last(), Some(&(at as u8)));
    }
}

#[test]
fn an_exact_duplicate_is_dropped_alone() {
    let mut bench = bench(8, 64);
    bench.add(key(1, 7), 0, true, b"12345678");
    assert!(matches!(bench.add(key(1, 7), 0, true, b"12345678"), Outcome::Failed { overlap: false }));
    assert_eq!(bytes(bench.add(key(1, 7), 8, false, b"9")), b"Header123456789");
}

#[test]
fn what_overlaps_is_given_up_with_all_that_still_comes() {
    // RFC 5722 §4. Each pair cannot be of one packet.
    let pairs: [[(usize, bool, &[u8]); 2]; 8] = [
        [(0, true, b"0123456789abcdef"), (8, true, b"xxxxxxxx")],
        [(8, true, b"xxxxxxxx"), (0, true, b"0123456789abcdef")],
        [(0, true, b"01234567"), (0, true, b"76543210")],
        [(0, true, b"01234567"), (0, true, b"0123456789abcdef")],
        [(8, false, b"x"), (8, true, b"xxxxxxxx")],
        [(8, false, b"x"), (16, false, b"x")],
        [(16, true, b"xxxxxxxx"), (8, false, b"x")],
        [(8, false, b"x"), (16, true, b"xxxxxxxx")],
    ];
    for [one, two] in pairs {
        let mut bench = bench(8, 64);
        assert!(matches!(bench.add(key(1, 7), one.0, one.1, one.2), Outcome::Held));
        let outcome = bench.add(key(1, 7), two.0, two.1, two.2);
        assert!(matches!(outcome, Outcome::Failed { overlap: true }), "{one:?}, {two:?}: {outcome:?}");
        assert_eq!(bench.slots_out(), 0, "nothing of it is kept");
        for (offset, more) in [(0, true), (8, true), (16, false)] {
            let outcome = bench.add(key(1, 7), offset, more, b"........");
            assert!(matches!(outcome, Outcome::Failed { .. }), "it is not begun anew");
        }
        bench.now = Instant::from_millis(30_000);
        assert!(bench.table.expire(bench.now).unwrap().first.is_none(), "nobody is told");
        assert!(bench.is_empty());
    }
}

#[test]
fn nothing_grows_beyond_the_largest_packet() {
    let mut bench = bench(8, 64);
    let outcome = bench.add(key(1, 7), 65_528, false, b"12345678");
    assert!(matches!(outcome, Outcome::Failed { .. }), "the ping of death");
    assert!(matches!(bench.add(key(1, 7), 0, true, b""), Outcome::Failed { .. }), "nothing at all");
    assert!(bench.is_empty());
}

#[test]
fn a_packet_has_its_time_and_is_handed_back_with_its_first_fragment() {
    let mut bench = bench(8, 64);
    bench.add(key(1, 7), 8, true, b"........");
    bench.now = Instant::from_millis(10_000);
    bench.add(key(1, 8), 0, true, b"........");
    let six = Key { src: "fd00::1".parse().unwrap(), dst: "fd00::2".parse().unwrap(), ident: 1, protocol: 0 };
    bench.add(six, 0, true, b"........");
    assert_eq!(bench.table.deadline(), Instant::from_millis(30_000));
    assert!(bench.table.expire(Instant::from_millis(29_999)).is_none());
    let expired = bench.table.expire(Instant::from_millis(30_000)).unwrap();
    assert_eq!((expired.key, expired.first.is_none()), (key(1, 7), true));
    let expired = bench.table.expire(Instant::from_millis(40_000)).unwrap();
    assert_eq!((expired.key, &expired.first.unwrap()[..]), (key(1, 8), &b"header........"[..]));
    assert_eq!(bench.table.deadline(), Instant::from_millis(70_000), "IPv6 has 60 s");
    assert_eq!(bench.table.expire(Instant::from_millis(70_000)).unwrap().key, six);
    assert_eq!(bench.table.deadline(), Instant::FAR_FUTURE);
    assert!(bench.is_empty());
}

#[test]
fn a_flood_of_packets_that_are_never_completed_is_bounded() {
    let mut bench = bench(16, 64);
    for ident in 0..10_000 {
        bench.add(key((ident % 251) as u8, ident), 8, true, b"........");
        assert!(bench.table.partials.len() <= 16 && bench.table.fragments <= 64);
        assert_eq!(bench.slots_out(), bench.table.fragments);
        assert!(bench.table.shares.len() <= 16);
    }
}

#[test]
fn tiny_fragments_of_one_packet_are_bounded() {
    let mut bench = bench(16, 256);
    for at in 0..1000 {
        bench.add(key(1, 7), 16 * at, true, b"........");
        assert!(bench.slots_out() <= MAX_PIECES);
    }
    assert_eq!(bench.slots_out(), 0, "it was given up");
}

#[test]
fn one_source_cannot_push_out_another() {
    let mut bench = bench(16, 1024);
    bench.add(key(9, 1), 0, true, b"01234567");
    for ident in 0..1000 {
        bench.add(key(1, ident), 8, true, b"........");
    }
    assert_eq!(bench.table.shares.get(&key(1, 0).source()).unwrap().packets, 4, "a quarter");
    assert_eq!(bytes(bench.add(key(9, 1), 8, false, b"8")), b"Header012345678");
    // All addresses of an IPv6 network are one source.
    for ident in 0..1000u32 {
        let src = std::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(ident));
        let dst = "fd00::2".parse().unwrap();
        bench.add(Key { src: src.into(), dst, ident, protocol: 0 }, 8, true, b"........");
    }
    assert!(bench.table.partials.len() <= 8, "a quarter each");
}

#[test]
fn ecn_marks_survive_and_contradictions_do_not() {
    // RFC 3168 §5.3; 0 is not capable, 1 and 2 are, 3 is a mark.
    for (one, two, joint) in
        [(0, 0, Some(0)), (2, 2, Some(2)), (2, 3, Some(3)), (1, 3, Some(3)), (1, 1, Some(1))]
    {
        let mut bench = bench(8, 64);
        bench.add_ecn(key(1, 7), 0, true, b"........", one);
        let Outcome::Whole { ecn, .. } = bench.add_ecn(key(1, 7), 8, false, b".", two) else {
            panic!("{one} and {two} are one packet")
        };
        assert_eq!(Some(ecn), joint);
    }
    for (one, two) in [(0, 3), (0, 2), (1, 0)] {
        let mut bench = bench(8, 64);
        bench.add_ecn(key(1, 7), 0, true, b"........", one);
        assert!(matches!(bench.add_ecn(key(1, 7), 8, false, b".", two), Outcome::Failed { .. }));
        assert_eq!(bench.slots_out(), 0);
    }
}

#[test]
fn without_memory_for_the_whole_the_packet_is_lost_and_its_parts_given_back() {
    let mut bench = bench(8, 64);
    bench.pool = Pool::new(&PoolConfig::small(4)).unwrap();
    bench.add(key(1, 7), 0, true, &[0; 1024]);
    bench.add(key(1, 7), 1024, true, &[0; 1024]);
    assert!(matches!(bench.add(key(1, 7), 2048, false, b"."), Outcome::Failed { .. }), "no large slots");
    assert_eq!(bench.slots_out(), 0);
}

proptest! {
    /// Any fragments, some of them wrong: what comes out whole is what a map of bytes says, if no two of them overlapped.
    #[test]
    fn a_byte_map_says_the_same(
        fragments in proptest::collection::vec((0usize..6, 1usize..3, any::<bool>(), any::<bool>()), 1..24),
    ) {
        let mut bench = bench(8, 64);
        let mut map = [None::<u8>; 64];
        let mut end = None;
        let mut spoilt = false;
        for (at, blocks, last, other) in fragments {
            let (offset, len) = (at * 8, blocks * 8 - if last { 3 } else { 0 });
            let payload: Vec<u8> = (offset..offset + len).map(|byte| byte as u8 ^ u8::from(other)).collect();
            let outcome = bench.add(key(1, 1), offset, !last, &payload);
            let cells = &map[offset..offset + len];
            let twice = cells.iter().zip(&payload).all(|(cell, byte)| *cell == Some(*byte))
                && (last == (end == Some(offset + len)));
            if spoilt || twice {
                // A part of a longer fragment, received again, counts as overlap: whether it does is no matter of bytes.
                if let Outcome::Failed { overlap: true } = outcome {
                    spoilt = true;
                }
                prop_assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
                continue;
            }
            let beyond = map.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
            let overlaps = cells.iter().any(Option::is_some)
                || end.is_some_and(|end| if last { end != offset + len } else { offset + len > end })
                || last && beyond > offset + len;
            if overlaps {
                let refused = matches!(outcome, Outcome::Failed { overlap: true });
                prop_assert!(refused, "{outcome:?}");
                spoilt = true;
                continue;
            }
            for (cell, byte) in map[offset..].iter_mut().zip(&payload) {
                *cell = Some(*byte);
            }
            end = if last { Some(offset + len) } else { end };
            let whole: Option<Vec<u8>> = end.and_then(|end| map[..end].iter().copied().collect());
            match (outcome, whole) {
                (Outcome::Held, None) => {}
                (Outcome::Whole { packet, .. }, Some(whole)) => {
                    prop_assert_eq!(&packet[HEADER.len()..], &whole[..]);
                    return Ok(());
                }
                (outcome, whole) => prop_assert!(false, "{outcome:?}, the map: {whole:?}"),
            }
        }
    }
}
