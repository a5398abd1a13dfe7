//! One-sided operations of several connections, in an order that a seed decides, against a model of what may come of them.
//!
//! Adapters do operations at moments that nobody sees, between the first poll of a future and its end. So the model asks whether there is
//! any order in which all answers are right. Of words that are added to and swapped there is exactly one, since every value is there only
//! once: a chain from the first value to the last. Bytes that are read must have been written by somebody, and not been overwritten by
//! somebody else before the read began.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use demi_drivers::rdma::onesided::{Access, Peer, Region, RegionKey};
use demi_drivers::{Pool, Transport};

use crate::support::{Cable, Ip, machine_has_rdma};

const CONNECTIONS: usize = 3;
const WORDS: usize = 3;
/// Bytes that are read and written, behind the words.
const BYTES: usize = 64;
const REGION_BYTES: usize = WORDS * 8 + BYTES;
/// Operations of a history.
const OPERATIONS: usize = 300;
/// Operations whose futures are dropped: each of them may have been done or not, and the model tries both.
const DROPS: usize = 12;
const SEEDS: u64 = 3;

/// Numbers that follow from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Add { word: usize, add: u64 },
    Swap { word: usize, expected: u64, new: u64 },
    Read { at: usize, len: usize },
    Write { at: usize, len: usize, byte: u8 },
}

/// An operation of the history. Times count what has happened in the test.
#[derive(Debug)]
struct Event {
    asked: Asked,
    began: usize,
    /// When its answer was there, and what that was; of one that was dropped, nothing.
    ended: Option<(usize, Vec<u8>)>,
}

impl Event {
    /// What was in the word before, if that was told.
    fn was(&self) -> Option<u64> {
        let (_, answer) = self.ended.as_ref()?;
        Some(u64::from_ne_bytes(answer[..].try_into().ok()?))
    }

    /// What an operation on `word` makes of `value`: the value itself if it leaves it there. `None` if it is on no word, or another.
    fn applied(&self, word: usize, value: u64) -> Option<u64> {
        match self.asked {
            Asked::Add { word: on, add } if on == word => Some(value + add),
            Asked::Swap { word: on, expected, new } if on == word => {
                Some(if value == expected { new } else { value })
            }
            _ => None,
        }
    }
}

type Running = Pin<Box<dyn Future<Output = io::Result<Vec<u8>>>>>;

fn begin(peer: &Peer, pool: &Pool, key: &RegionKey, asked: Asked) -> Running {
    match asked {
        Asked::Add { word, add } => {
            let adding = peer.fetch_add(key, word as u64 * 8, add);
            Box::pin(async move { adding.await.map(|was| was.to_ne_bytes().to_vec()) })
        }
        Asked::Swap { word, expected, new } => {
            let swapping = peer.compare_swap(key, word as u64 * 8, expected, new);
            Box::pin(async move { swapping.await.map(|was| was.to_ne_bytes().to_vec()) })
        }
        Asked::Read { at, len } => {
            let reading = peer.read(key, (WORDS * 8 + at) as u64, len);
            Box::pin(async move { reading.await.map(|bytes| bytes.to_vec()) })
        }
        Asked::Write { at, len, byte } => {
            let from = pool.copy_from_slice(&vec![byte; len]).unwrap();
            let writing = peer.write(key, (WORDS * 8 + at) as u64, from);
            Box::pin(async move { writing.await.map(|()| Vec::new()) })
        }
    }
}

/// Lets the connections do what `random` decides; answers what was asked and what came of it, and the region's bytes in the end.
fn history(cable: &mut Cable, peers: &[Peer], region: &Region, random: &mut Random) -> (Vec<Event>, Vec<u8>) {
    let (key, pool) = (region.key(), cable.ends[0].pool().clone());
    let mut cx = Context::from_waker(Waker::noop());
    let mut events: Vec<Event> = Vec::new();
    let mut running: Vec<(usize, Running)> = Vec::new();
    let mut guesses = [0; WORDS];
    let (mut time, mut drops) = (0, 0);
    while events.len() < OPERATIONS || !running.is_empty() {
        match random.below(4) {
            0 | 1 if events.len() < OPERATIONS && running.len() < 24 => {
                let (word, at) = (random.below(WORDS), random.below(BYTES));
                let len = 1 + random.below(BYTES - at);
                // Each operation has a number, which nobody else adds or writes.
                let number = events.len() as u64 + 1;
                let asked = match random.below(4) {
                    0 => Asked::Add { word, add: number << 32 },
                    1 => Asked::Swap { word, expected: guesses[word], new: (number << 48) | 1 },
                    2 => Asked::Read { at, len },
                    _ => Asked::Write { at, len, byte: (number % 251) as u8 + 1 },
                };
                let mut doing = begin(&peers[random.below(CONNECTIONS)], &pool, &key, asked);
                time += 1;
                assert!(doing.as_mut().poll(&mut cx).is_pending());
                running.push((events.len(), doing));
                events.push(Event { asked, began: time, ended: None });
            }
            // One in forty is dropped, wherever it stands, until there are enough of them.
            2 if drops < DROPS && !running.is_empty() && random.below(40) == 0 => {
                drop(running.swap_remove(random.below(running.len())));
                drops += 1;
            }
            2 => {}
            _ => {
                cable.turn();
            }
        }
        running.retain_mut(|(number, doing)| match doing.as_mut().poll(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(answer) => {
                time += 1;
                let event = &mut events[*number];
                event.ended = Some((time, answer.unwrap()));
                if let (Asked::Add { word, .. } | Asked::Swap { word, .. }, Some(was)) =
                    (event.asked, event.was())
                {
                    guesses[word] = event.applied(word, was).unwrap();
                }
                false
            }
        });
    }
    // What was dropped is done, or never will be, once something later is done on each connection.
    for peer in peers {
        let mut last = begin(peer, &pool, &key, Asked::Read { at: 0, len: 1 });
        cable.wait(|_, cx| last.as_mut().poll(cx)).unwrap();
    }
    let mut bytes = vec![0; REGION_BYTES];
    region.read_at(0, &mut bytes).unwrap();
    (events, bytes)
}

/// The values that `word` has had, in order, if the answers allow for any such order: from `value` by operations that changed it, told
/// ones where there is one, else by some of those that were dropped, until it is `last` and no told one is left.
fn chain(
    events: &[Event],
    word: usize,
    last: u64,
    told: &HashMap<u64, usize>,
    path: &mut Vec<(u64, usize)>,
    value: u64,
) -> bool {
    let mut try_one = |number: usize| {
        let next = events[number].applied(word, value).unwrap();
        if next == value || path.iter().any(|&(_, known)| known == number) {
            return false;
        }
        path.push((next, number));
        let found = chain(events, word, last, told, path, next);
        if !found {
            path.pop();
        }
        found
    };
    if let Some(&number) = told.get(&value) {
        return try_one(number);
    }
    let dropped =
        |event: &Event| event.ended.is_none() && event.applied(word, value).is_some_and(|next| next != value);
    let left = (0..events.len()).filter(|&number| dropped(&events[number]));
    if left.into_iter().any(&mut try_one) {
        return true;
    }
    value == last && path.iter().filter(|&&(_, number)| events[number].ended.is_some()).count() == told.len()
}

/// Whether there is an order of what happened to a word that explains all answers, and is that of time where there was one.
fn check_word(events: &[Event], word: usize, last: u64) {
    let mut told = HashMap::new();
    for (number, event) in events.iter().enumerate() {
        if let Some(next) = event.applied(word, 0)
            && let Some(was) = event.was()
            && event.applied(word, was) != Some(was)
        {
            let other = told.insert(was, number);
            assert_eq!(other, None, "two have changed the same value of word {word}: {next:x} {event:?}");
        }
    }
    let mut path = Vec::new();
    assert!(chain(events, word, last, &told, &mut path, 0), "no order explains word {word}: {events:?}");
    // Which value of the chain each has found: a change that of its own, one that changed nothing that which it saw.
    let mut places: Vec<(usize, bool, &Event)> = Vec::new();
    for (place, &(_, number)) in path.iter().enumerate() {
        places.push((place, true, &events[number]));
    }
    for event in events {
        if let (Some(same), Some(was)) = (event.was().and_then(|was| event.applied(word, was)), event.was())
            && same == was
        {
            let place = if was == 0 {
                Some(0)
            } else {
                path.iter().position(|&(value, _)| value == was).map(|at| at + 1)
            };
            places.push((place.expect("a value that was there"), false, event));
        }
    }
    for (place, changes, event) in &places {
        let Some((ended, _)) = event.ended else { continue };
        for (later, later_changes, other) in places.iter().filter(|(_, _, other)| other.began > ended) {
            // One that sees value N stands before the change of it, which is numbered N, too.
            let in_order = if *changes && !*later_changes { place < later } else { place <= later };
            assert!(in_order, "word {word}: {other:?} was asked after {event:?}, and done before");
        }
    }
}

/// Whether each byte that was read, or is there in the end, was there at some moment of the read.
fn check_bytes(events: &[Event], last: &[u8]) {
    let the_end = (usize::MAX - 1, usize::MAX, 0, last);
    let reads = events.iter().filter_map(|event| match (&event.asked, &event.ended) {
        (Asked::Read { at, .. }, Some((ended, bytes))) => Some((event.began, *ended, *at, &bytes[..])),
        _ => None,
    });
    for (began, ended, at, bytes) in reads.chain([the_end]) {
        for (place, &byte) in (at..).zip(bytes) {
            let writes = || {
                events.iter().filter_map(move |event| match event.asked {
                    Asked::Write { at, len, byte } if (at..at + len).contains(&place) => Some((
                        event.began,
                        event.ended.as_ref().map_or(usize::MAX, |(ended, _)| *ended),
                        byte,
                    )),
                    _ => None,
                })
            };
            // Of a write that ended at `written`: whether another began after it, and ended before the read began.
            let overwritten = |written: usize| writes().any(|(from, to, _)| from > written && to < began);
            let seen = (byte == 0 && !overwritten(0))
                || writes().any(|(from, to, written)| written == byte && from < ended && !overwritten(to));
            assert!(seen, "byte {place} was {byte} for a read from {began} to {ended}: {events:?}");
        }
    }
}

#[test]
fn answers_to_several_connections_have_an_order_that_explains_them() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let peers: Vec<Peer> = (0..CONNECTIONS)
        .map(|number| {
            let (one, _) = cable.connected(if number % 2 == 0 { Ip::V4 } else { Ip::V6 });
            cable.ends[0].one_sided(one).unwrap()
        })
        .collect();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let region = cable.ends[1].register(REGION_BYTES, Access::ALL).unwrap();
        let out = cable.ends[0].pool().stats().slots_out;
        let (events, bytes) = history(&mut cable, &peers, &region, &mut Random(seed));
        for word in 0..WORDS {
            let last = u64::from_ne_bytes(bytes[word * 8..][..8].try_into().unwrap());
            check_word(&events, word, last);
        }
        check_bytes(&events, &bytes[WORDS * 8..]);
        let swapped = events.iter().filter(
            |event| matches!(event.asked, Asked::Swap { expected, .. } if event.was() == Some(expected)),
        );
        assert!(swapped.count() > 0, "no swap has ever found what it expected");
        cable.wait(
            |ends, _| {
                if ends[0].pool().stats().slots_out <= out { Poll::Ready(()) } else { Poll::Pending }
            },
        );
    }
}
