//! The whole of it over an adapter that is a model: several connections to one machine's regions, executed in the order of each
//! connection and any order between them.

use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Waker};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use proptest::prelude::*;

use super::operations::{Kind, Operation};
use super::{Access, Fetches, Line, Local, Marked, Memory, Peer, Region, RegionKey, Registration};
use crate::mem::{Buf, Pool, PoolConfig};
use crate::rdma::proto::{Ended, Failure};
use crate::transport::Handle;

/// What the target's adapter knows: keys, and what they open.
type Registered = Rc<RefCell<Vec<(u32, u64, u64)>>>;

struct Entry {
    registered: Registered,
    key: u32,
}

impl Registration for Entry {
    fn key(&self) -> u32 {
        self.key
    }

    fn deregister(&mut self) -> io::Result<()> {
        self.registered.borrow_mut().retain(|(key, ..)| *key != self.key);
        Ok(())
    }
}

const REGION_BYTES: usize = 64;
const CONNECTIONS: usize = 3;

enum Expected {
    Bytes(Box<[u8]>),
    Word(u64),
    Done,
}

type Running = Pin<Box<dyn Future<Output = io::Result<Expected>>>>;

struct World {
    pool: Pool,
    regions: Vec<Option<Region>>,
    keys: Vec<RegionKey>,
    registered: Registered,
    lines: Vec<Rc<Line<Local>>>,
    peers: Vec<Peer>,
    marked: Marked,
    /// Per connection: posted, in order; executed, and not told yet.
    posted: Vec<VecDeque<(Handle, Operation<Local>)>>,
    executed: Vec<VecDeque<(Handle, Local)>>,
    broken: Vec<Option<Ended>>,
    /// What the memory holds by the model's account, and what each operation has to answer, by connection.
    model: Vec<Vec<u8>>,
    answers: Vec<VecDeque<Option<Vec<u8>>>>,
    /// Futures by connection, in the order in which they began.
    running: Vec<VecDeque<Option<Running>>>,
}

impl World {
    fn new() -> World {
        let pool = Pool::new(&PoolConfig::small(64)).unwrap();
        let marked = Marked::default();
        let registered = Registered::default();
        let mut regions = Vec::new();
        for key in 0..2u32 {
            let memory = Memory::new(REGION_BYTES).unwrap();
            let address = memory.address().addr() as u64;
            registered.borrow_mut().push((key, address, address + REGION_BYTES as u64));
            let entry = Entry { registered: Rc::clone(&registered), key };
            regions.push(Some(Region::new(memory, Box::new(entry), Access::ALL)));
        }
        let handle = |index| Handle { index, generation: 1 };
        let lines: Vec<_> = (0..CONNECTIONS as u32).map(|at| Line::new(handle(at), 4, &marked)).collect();
        World {
            peers: lines
                .iter()
                .map(|line| Peer::new(Rc::clone(line), &pool, Fetches { reads: true, atomics: true }))
                .collect(),
            keys: regions.iter().flatten().map(Region::key).collect(),
            pool,
            regions,
            registered,
            lines,
            marked,
            posted: (0..CONNECTIONS).map(|_| VecDeque::new()).collect(),
            executed: (0..CONNECTIONS).map(|_| VecDeque::new()).collect(),
            broken: vec![None; CONNECTIONS],
            model: vec![vec![0; REGION_BYTES]; 2],
            answers: (0..CONNECTIONS).map(|_| VecDeque::new()).collect(),
            running: (0..CONNECTIONS).map(|_| VecDeque::new()).collect(),
        }
    }

    /// Begins an operation, and polls it once.
    fn begin(&mut self, which: usize, shape: u8, value: u8) {
        let (peer, key) = (&self.peers[which], self.keys[usize::from(shape >> 7)]);
        let offset = usize::from(value) % REGION_BYTES;
        let bytes = usize::from(shape >> 2 & 15) + 1;
        let mut future: Running = match shape & 3 {
            0 => {
                let read = peer.read(&key, offset as u64, bytes);
                Box::pin(async move { Ok(Expected::Bytes(read.await?.to_vec().into())) })
            }
            1 => {
                let Some(from) = self.pool.copy_from_slice(&vec![value; bytes]) else { return };
                let write = peer.write(&key, offset as u64, from);
                Box::pin(async move { write.await.map(|()| Expected::Done) })
            }
            2 => {
                let swap = peer.compare_swap(&key, offset as u64 & !7, 0, u64::from(value));
                Box::pin(async move { swap.await.map(Expected::Word) })
            }
            _ => {
                let add = peer.fetch_add(&key, offset as u64 & !7, u64::from(value));
                Box::pin(async move { add.await.map(Expected::Word) })
            }
        };
        let beyond = shape & 3 < 2 && offset + bytes > REGION_BYTES;
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            core::task::Poll::Ready(result) => {
                let kind = result.err().map(|error| error.kind());
                let broken = self.broken[which].is_some();
                let expected =
                    if beyond { io::ErrorKind::InvalidInput } else { io::ErrorKind::ConnectionReset };
                assert!(beyond || broken);
                assert_eq!(kind, Some(expected));
            }
            core::task::Poll::Pending => {
                assert!(!beyond);
                self.running[which].push_back(Some(future));
                self.post(which);
                // One that found the table full has not begun: let it go, so that the order of answers is that of posting.
                let begun = self.posted[which].len() + self.executed[which].len();
                let known = self.answers[which].len();
                if known < begun {
                    return self.answers[which].push_back(None);
                }
                self.running[which].pop_back();
            }
        }
    }

    /// The driver's turn: what is marked is posted.
    fn post(&mut self, which: usize) {
        self.marked.borrow_mut().clear();
        for (at, line) in self.lines.iter().enumerate() {
            while let Some(next) = line.next_to_post() {
                assert_eq!(at, which, "only this one has something to post");
                self.posted[at].push_back(next);
            }
        }
    }

    /// The memory that a key opens, if that is still so.
    fn target(&self, (address, key): (u64, u32), bytes: usize) -> Option<(usize, usize)> {
        let registered = self.registered.borrow();
        let (_, from, to) = registered.iter().find(|(known, ..)| *known == key)?;
        let fits = address >= *from && address + bytes as u64 <= *to;
        fits.then(|| (key as usize, (address - from) as usize))
    }

    fn execute(&mut self, which: usize) {
        if self.broken[which].is_some() {
            return;
        }
        let Some((handle, Operation { kind, mut memory })) = self.posted[which].pop_front() else { return };
        let (remote, bytes) = match (&kind, &memory) {
            (Kind::Read { remote, bytes }, _) => (*remote, *bytes as usize),
            (Kind::Write { remote }, Local::From(from)) => (*remote, from.len()),
            (Kind::CompareSwap { remote, .. } | Kind::FetchAdd { remote, .. }, _) => (*remote, 8),
            (Kind::Write { .. }, Local::Into(_)) => panic!("a write from memory to be read into"),
        };
        let Some((region, offset)) = self.target(remote, bytes) else {
            // Refused: the connection is broken, and what was behind it flushed.
            let ended = Ended::Failed(Failure::Refused);
            self.broken[which] = Some(ended);
            self.lines[which].fail(ended);
            self.lines[which].completed(handle, memory, Err(ended));
            return;
        };
        let there = self.regions[region].as_ref().expect("a registered region");
        let mut was = vec![0; bytes];
        there.read_at(offset, &mut was).unwrap();
        assert_eq!(was, self.model[region][offset..offset + bytes], "what the model says is there");
        let word = || u64::from_ne_bytes(was[..].try_into().unwrap());
        let new = match kind {
            Kind::Read { .. } => None,
            Kind::Write { .. } => match &memory {
                Local::From(from) => Some(from.to_vec()),
                Local::Into(_) => None,
            },
            Kind::CompareSwap { expected, new, .. } => {
                (word() == expected).then(|| new.to_ne_bytes().to_vec())
            }
            Kind::FetchAdd { add, .. } => Some(word().wrapping_add(add).to_ne_bytes().to_vec()),
        };
        if let Some(new) = new {
            there.write_at(offset, &new).unwrap();
            self.model[region][offset..offset + bytes].copy_from_slice(&new);
        }
        if let Local::Into(into) = &mut memory {
            assert_eq!(into.put_slice(&was), bytes);
        }
        let at = self.executed[which].len();
        self.answers[which][at] = Some(was);
        self.executed[which].push_back((handle, memory));
    }

    /// Tells of the oldest completion, and polls its future.
    fn complete(&mut self, which: usize) {
        let Some((handle, memory)) = self.executed[which].pop_front() else { return };
        self.lines[which].completed(handle, memory, Ok(()));
        let was = self.answers[which].pop_front().flatten().expect("an executed operation");
        let Some(Some(mut future)) = self.running[which].pop_front() else { return };
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            core::task::Poll::Ready(Ok(Expected::Bytes(bytes))) => assert_eq!(*bytes, was),
            core::task::Poll::Ready(Ok(Expected::Word(word))) => assert_eq!(word.to_ne_bytes()[..], was),
            core::task::Poll::Ready(Ok(Expected::Done)) => {}
            core::task::Poll::Ready(Err(error)) => panic!("done, and told as {error}"),
            core::task::Poll::Pending => panic!("done, and its future waits"),
        }
    }

    fn step(&mut self, code: u8, shape: u8, value: u8) {
        let which = usize::from(code >> 4) % CONNECTIONS;
        match code & 7 {
            0..3 => self.begin(which, shape, value),
            3 | 4 => self.execute(which),
            5 => self.complete(which),
            6 => {
                // A future is dropped, whatever its operation is doing.
                let running = &mut self.running[which];
                if !running.is_empty() {
                    let at = usize::from(value) % running.len();
                    running[at] = None;
                }
            }
            _ if shape == 0 && value < 8 => drop(self.regions[usize::from(value & 1)].take()),
            _ => {}
        }
    }

    fn finish(mut self) {
        for which in 0..CONNECTIONS {
            // The connections go: what was done stands, the rest is told.
            while !self.executed[which].is_empty() {
                self.complete(which);
            }
            self.lines[which].fail(Ended::Reset);
            while let Some((handle, operation)) = self.posted[which].pop_front() {
                self.lines[which].completed(handle, operation.memory, Err(Ended::Reset));
            }
            for mut future in self.running[which].drain(..).flatten() {
                let result = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                assert!(
                    matches!(result, core::task::Poll::Ready(Err(_))),
                    "an operation that is lost in silence"
                );
            }
            assert_eq!(self.lines[which].posted(), 0);
        }
        assert_eq!(self.pool.stats().slots_out, 0, "buffers held when all is over");
    }
}

fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = Box::pin(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        core::task::Poll::Ready(value) => Some(value),
        core::task::Poll::Pending => None,
    }
}

#[test]
fn what_can_be_found_out_here_is_not_asked_of_the_peer() {
    let world = World::new();
    let (peer, key) = (&world.peers[0], world.keys[0]);
    let kind = |result: Option<io::Result<Buf>>| result.map(|result| result.map_err(|error| error.kind()));
    assert_eq!(kind(now(peer.read(&key, 60, 5))), Some(Err(io::ErrorKind::InvalidInput)));
    assert_eq!(now(peer.read(&key, 64, 0)).unwrap().unwrap().len(), 0);
    assert_eq!(
        now(peer.fetch_add(&key, 4, 1)).unwrap().map_err(|error| error.kind()),
        Err(io::ErrorKind::InvalidInput)
    );
    let large = RegionKey::new(0, 1 << 30, 9, Access::READ);
    assert_eq!(kind(now(peer.read(&large, 0, 1 << 20))), Some(Err(io::ErrorKind::InvalidInput)));
    let from = world.pool.copy_from_slice(b"x").unwrap();
    assert_eq!(
        now(peer.write(&large, 0, from)).unwrap().map_err(|error| error.kind()),
        Err(io::ErrorKind::PermissionDenied)
    );
    assert!(world.marked.borrow().is_empty());
}

#[test]
fn bytes_of_another_pool_are_copied_into_the_devices() {
    let world = World::new();
    let other = Pool::new(&PoolConfig::small(4)).unwrap();
    let mut write =
        Box::pin(world.peers[0].write(&world.keys[0], 0, other.copy_from_slice(b"hello").unwrap()));
    assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!((other.stats().slots_out, world.pool.stats().slots_out), (0, 1));
    let (handle, operation) = world.lines[0].next_to_post().unwrap();
    assert!(matches!(&operation.memory, Local::From(from) if from[..] == b"hello"[..]));
    world.lines[0].completed(handle, operation.memory, Ok(()));
    assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

proptest! {
    #[test]
    fn whatever_is_begun_done_dropped_and_deregistered_every_answer_is_what_was_there(
        script in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 0..300),
    ) {
        let mut world = World::new();
        for (code, shape, value) in script {
            world.step(code, shape, value);
        }
        world.finish();
    }
}
