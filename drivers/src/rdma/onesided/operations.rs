//! The table of operations of one connection: which are queued, posted, and done, whose future is gone, and who waits.
//!
//! It owns the memory of operations that are queued or done. That of posted ones is the driver's, until it says that they completed;
//! nothing that happens to their futures changes that.

use core::mem;
use core::task::{Poll, Waker};
use std::collections::VecDeque;
use std::io;

use smallvec::SmallVec;

use super::key::Remote;
use crate::rdma::proto::Ended;
use crate::sockets::table::Table;
use crate::transport::Handle;

/// What is asked of the peer's adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes from there into the memory.
    Read {
        /// Where, under which key.
        remote: Remote,
        /// How many.
        bytes: u32,
    },
    /// The memory's bytes to there.
    Write {
        /// Where, under which key.
        remote: Remote,
    },
    /// `new` to there if `expected` is there; what was there into the memory.
    CompareSwap {
        /// Where, under which key.
        remote: Remote,
        /// What has to be there.
        expected: u64,
        /// What is to be there.
        new: u64,
    },
    /// Adds to what is there, wrapping; what was there into the memory.
    FetchAdd {
        /// Where, under which key.
        remote: Remote,
        /// What is added.
        add: u64,
    },
}

/// An operation, and the memory on this side.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation<M> {
    /// What to do.
    pub kind: Kind,
    /// What it reads into, or writes from.
    pub memory: M,
}

/// How an operation ended; the memory comes back in either case.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome<M> {
    /// Whether it was done. After a failure it may have been, or in part.
    pub result: Result<(), Ended>,
    /// The memory.
    pub memory: M,
}

impl<M> Outcome<M> {
    /// The memory, or the error that a caller sees.
    ///
    /// # Errors
    /// What ended the connection.
    pub fn into_io(self) -> io::Result<M> {
        match self.result {
            Ok(()) => Ok(self.memory),
            Err(ended) => Err(ended.error().unwrap_or_else(|| {
                io::Error::new(
                    io::ErrorKind::NotConnected,
                    "the connection was closed before the operation was done",
                )
            })),
        }
    }
}

#[derive(Debug)]
enum State<M> {
    Queued(Operation<M>),
    /// The memory is the driver's.
    Posted,
    Done(Outcome<M>),
}

#[derive(Debug)]
struct Entry<M> {
    state: State<M>,
    /// Its future is gone: whatever comes of it is let go.
    abandoned: bool,
    waker: Option<Waker>,
}

/// What a call on the table leaves to be woken and let go. Both may run anybody's code, which may use the table: it is done when this is
/// dropped, and the caller sees to it that nobody has the table borrowed then.
#[derive(Debug)]
pub struct Aftermath<M> {
    wakes: SmallVec<[Waker; 2]>,
    displaced: Option<Waker>,
    memory: Option<M>,
}

impl<M> Default for Aftermath<M> {
    fn default() -> Self {
        Aftermath { wakes: SmallVec::new(), displaced: None, memory: None }
    }
}

impl<M> Drop for Aftermath<M> {
    fn drop(&mut self) {
        for waker in self.wakes.drain(..) {
            waker.wake();
        }
    }
}

/// Operations of one connection, oldest first.
#[derive(Debug)]
pub struct Operations<M> {
    entries: Table<Entry<M>>,
    queue: VecDeque<Handle>,
    posted: usize,
    most: usize,
    ended: Option<Ended>,
    /// Who waits for room.
    waiting: Vec<Waker>,
}

impl<M> Operations<M> {
    /// A table of at most `most` operations that are not done.
    pub fn new(most: usize) -> Operations<M> {
        Operations {
            entries: Table::new(),
            queue: VecDeque::new(),
            posted: 0,
            most: most.max(1),
            ended: None,
            waiting: Vec::new(),
        }
    }

    /// Operations whose memory is the driver's.
    pub fn posted(&self) -> usize {
        self.posted
    }

    /// Operations known, done ones that nobody has asked for included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn has_room(&self) -> bool {
        self.queue.len() + self.posted < self.most
    }

    // ---- a future's calls ----

    /// Queues an operation.
    ///
    /// # Errors
    /// The operation, when the table is full: [`wait_for_room`](Self::wait_for_room). When the connection is gone it is taken, and
    /// done at once, with that error.
    pub fn start(&mut self, operation: Operation<M>) -> Result<Handle, Operation<M>> {
        if let Some(ended) = self.ended {
            let state = State::Done(Outcome { result: Err(ended), memory: operation.memory });
            return Ok(self.entries.insert(Entry { state, abandoned: false, waker: None }));
        }
        if !self.has_room() {
            return Err(operation);
        }
        let state = State::Queued(operation);
        let handle = self.entries.insert(Entry { state, abandoned: false, waker: None });
        self.queue.push_back(handle);
        Ok(handle)
    }

    /// Wakes `waker` when [`start`](Self::start), which has just refused an operation, may take it. Whoever is woken may find that
    /// another was faster.
    pub fn wait_for_room(&mut self, waker: Waker, after: &mut Aftermath<M>) {
        if self.waiting.iter().any(|known| known.will_wake(&waker)) {
            after.displaced = Some(waker);
        } else {
            self.waiting.push(waker);
        }
    }

    /// The outcome of an operation, once. `None` for one that is not known: its outcome was taken, or it was abandoned.
    pub fn poll(
        &mut self,
        waker: Waker,
        handle: Handle,
        after: &mut Aftermath<M>,
    ) -> Poll<Option<Outcome<M>>> {
        let Some(entry) = self.entries.get_mut(handle) else {
            after.displaced = Some(waker);
            return Poll::Ready(None);
        };
        after.displaced = entry.waker.replace(waker);
        if !matches!(entry.state, State::Done(_)) {
            return Poll::Pending;
        }
        let Some(entry) = self.entries.remove(handle) else { return Poll::Ready(None) };
        if after.displaced.is_none() {
            after.displaced = entry.waker;
        }
        match entry.state {
            State::Done(outcome) => Poll::Ready(Some(outcome)),
            State::Queued(_) | State::Posted => Poll::Ready(None),
        }
    }

    /// The operation's future is gone. One that is not posted is not done; one that is, is, and its memory is let go then.
    pub fn abandon(&mut self, handle: Handle, after: &mut Aftermath<M>) {
        let Some(entry) = self.entries.get_mut(handle) else { return };
        after.displaced = entry.waker.take();
        if let State::Posted = entry.state {
            entry.abandoned = true;
            return;
        }
        match self.entries.remove(handle).map(|entry| entry.state) {
            Some(State::Queued(operation)) => {
                self.queue.retain(|queued| *queued != handle);
                after.memory = Some(operation.memory);
                self.wake_waiting(after);
            }
            Some(State::Done(outcome)) => after.memory = Some(outcome.memory),
            Some(State::Posted) | None => {}
        }
    }

    // ---- the driver's ----

    /// The next operation to be posted, whose memory is the driver's from now on.
    pub fn next_to_post(&mut self) -> Option<(Handle, Operation<M>)> {
        let handle = self.queue.pop_front()?;
        let entry = self.entries.get_mut(handle)?;
        match mem::replace(&mut entry.state, State::Posted) {
            State::Queued(operation) => {
                self.posted += 1;
                Some((handle, operation))
            }
            other => {
                debug_assert!(false, "what is in the queue is queued");
                entry.state = other;
                None
            }
        }
    }

    /// A posted operation has completed: the adapter is through with its memory.
    pub fn completed(
        &mut self,
        handle: Handle,
        memory: M,
        result: Result<(), Ended>,
        after: &mut Aftermath<M>,
    ) {
        let Some(entry) = self.entries.get_mut(handle) else {
            debug_assert!(false, "an operation completed that is not known");
            after.memory = Some(memory);
            return;
        };
        if !matches!(entry.state, State::Posted) {
            debug_assert!(false, "an operation completed that was not posted");
            after.memory = Some(memory);
            return;
        }
        self.posted -= 1;
        if entry.abandoned {
            self.entries.remove(handle);
            after.memory = Some(memory);
        } else {
            entry.state = State::Done(Outcome { result, memory });
            after.wakes.extend(entry.waker.take());
        }
        self.wake_waiting(after);
    }

    /// The connection is gone: what is queued is done, with that error; what is posted completes as the driver says.
    pub fn fail(&mut self, ended: Ended, after: &mut Aftermath<M>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(ended);
        while let Some(handle) = self.queue.pop_front() {
            let Some(entry) = self.entries.get_mut(handle) else { continue };
            match mem::replace(&mut entry.state, State::Posted) {
                State::Queued(Operation { memory, .. }) => {
                    entry.state = State::Done(Outcome { result: Err(ended), memory });
                }
                other => entry.state = other,
            }
            after.wakes.extend(entry.waker.take());
        }
        self.wake_waiting(after);
    }

    fn wake_waiting(&mut self, after: &mut Aftermath<M>) {
        after.wakes.extend(self.waiting.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use proptest::prelude::*;

    use super::*;

    /// Memory that tells when it is let go, and holds a word.
    #[derive(Debug)]
    struct Token {
        number: u32,
        word: u64,
        alive: Rc<RefCell<BTreeSet<u32>>>,
    }

    impl Drop for Token {
        fn drop(&mut self) {
            assert!(self.alive.borrow_mut().remove(&self.number), "let go twice");
        }
    }

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    struct Future {
        handle: Handle,
        number: u32,
        flag: Arc<Flag>,
        polled: bool,
    }

    /// The table, futures, an adapter that does what it is posted in order, and the word that all operations are about.
    struct World {
        table: Operations<Token>,
        alive: Rc<RefCell<BTreeSet<u32>>>,
        futures: Vec<Future>,
        adapter: VecDeque<(Handle, Operation<Token>)>,
        executed: VecDeque<(Handle, Token)>,
        word: u64,
        /// What each completed operation has to have read.
        expected: BTreeMap<u32, u64>,
        next: u32,
        failed: bool,
        waiting: Option<Arc<Flag>>,
    }

    const MOST: usize = 4;

    impl World {
        fn new() -> World {
            World {
                table: Operations::new(MOST),
                alive: Rc::default(),
                futures: Vec::new(),
                adapter: VecDeque::new(),
                executed: VecDeque::new(),
                word: 0,
                expected: BTreeMap::new(),
                next: 0,
                failed: false,
                waiting: None,
            }
        }

        fn start(&mut self, value: u8) {
            let number = self.next;
            self.next += 1;
            let remote = (0, 0);
            let kind = match value & 3 {
                0 => Kind::Read { remote, bytes: 8 },
                1 => Kind::Write { remote },
                2 => {
                    Kind::CompareSwap { remote, expected: u64::from(value >> 4), new: u64::from(value >> 2) }
                }
                _ => Kind::FetchAdd { remote, add: u64::from(value) },
            };
            self.alive.borrow_mut().insert(number);
            let memory = Token { number, word: u64::from(value), alive: Rc::clone(&self.alive) };
            let in_work = self.table.queue.len() + self.table.posted();
            match self.table.start(Operation { kind, memory }) {
                Ok(handle) => {
                    assert!(self.failed || in_work < MOST);
                    self.futures.push(Future { handle, number, flag: Arc::default(), polled: false });
                }
                Err(back) => {
                    assert!(in_work >= MOST && back.memory.number == number);
                    let flag = Arc::<Flag>::default();
                    let waker = Waker::from(Arc::clone(&flag));
                    self.table.wait_for_room(waker, &mut Aftermath::default());
                    self.waiting = Some(flag);
                }
            }
        }

        fn execute(&mut self) {
            let Some((handle, Operation { kind, mut memory })) = self.adapter.pop_front() else { return };
            let before = self.word;
            match kind {
                Kind::Read { .. } => memory.word = before,
                Kind::Write { .. } => self.word = memory.word,
                Kind::CompareSwap { expected, new, .. } => {
                    memory.word = before;
                    self.word = if before == expected { new } else { before };
                }
                Kind::FetchAdd { add, .. } => {
                    memory.word = before;
                    self.word = before.wrapping_add(add);
                }
            }
            self.expected.insert(memory.number, memory.word);
            self.executed.push_back((handle, memory));
        }

        fn poll(&mut self, which: usize) {
            if self.futures.is_empty() {
                return;
            }
            let at = which % self.futures.len();
            let future = &mut self.futures[at];
            let waker = Waker::from(Arc::clone(&future.flag));
            match self.table.poll(waker.clone(), future.handle, &mut Aftermath::default()) {
                Poll::Pending => {
                    assert!(!future.flag.0.load(Ordering::Relaxed), "woken for nothing");
                    future.polled = true;
                }
                Poll::Ready(outcome) => {
                    let outcome = outcome.expect("the first to ask");
                    assert_eq!(outcome.memory.number, future.number);
                    assert!(!future.polled || future.flag.0.load(Ordering::Relaxed), "done, and not woken");
                    match outcome.result {
                        Ok(()) => assert_eq!(self.expected.get(&future.number), Some(&outcome.memory.word)),
                        Err(ended) => assert!(self.failed && ended == Ended::Reset),
                    }
                    let future = self.futures.swap_remove(at);
                    assert!(matches!(
                        self.table.poll(waker, future.handle, &mut Aftermath::default()),
                        Poll::Ready(None)
                    ));
                }
            }
        }

        fn step(&mut self, code: u8, value: u8) {
            match code % 8 {
                0 | 1 => self.start(value),
                2 => self.adapter.extend(self.table.next_to_post()),
                3 => self.execute(),
                4 => {
                    if let Some((handle, memory)) = self.executed.pop_front() {
                        self.table.completed(handle, memory, Ok(()), &mut Aftermath::default());
                        if let Some(flag) = self.waiting.take() {
                            assert!(flag.0.load(Ordering::Relaxed), "room, and nobody told");
                        }
                    }
                }
                5 => self.poll(value.into()),
                6 if !self.futures.is_empty() => {
                    let future = self.futures.swap_remove(usize::from(value) % self.futures.len());
                    self.table.abandon(future.handle, &mut Aftermath::default());
                }
                7 if value == 0 => {
                    self.failed = true;
                    self.table.fail(Ended::Reset, &mut Aftermath::default());
                }
                _ => {}
            }
            // What an adapter may touch is never let go.
            let alive = self.alive.borrow();
            assert!(self.adapter.iter().all(|(_, operation)| alive.contains(&operation.memory.number)));
            assert!(self.executed.iter().all(|(_, memory)| alive.contains(&memory.number)));
            assert_eq!(self.table.posted(), self.adapter.len() + self.executed.len());
        }

        fn finish(mut self) {
            self.failed = true;
            self.table.fail(Ended::Reset, &mut Aftermath::default());
            assert!(self.table.next_to_post().is_none());
            // The queue pair is down: what was posted completes in error, or was done.
            while let Some((handle, memory)) = self.executed.pop_front() {
                self.table.completed(handle, memory, Ok(()), &mut Aftermath::default());
            }
            while let Some((handle, operation)) = self.adapter.pop_front() {
                self.table.completed(handle, operation.memory, Err(Ended::Reset), &mut Aftermath::default());
            }
            while !self.futures.is_empty() {
                let before = self.futures.len();
                self.poll(0);
                assert_eq!(self.futures.len(), before - 1, "a future that never ends");
            }
            assert!(self.table.is_empty() && self.alive.borrow().is_empty());
        }
    }

    #[test]
    fn a_future_that_is_dropped_leaves_its_memory_with_the_adapter_until_the_completion() {
        let mut world = World::new();
        world.start(3);
        world.adapter.extend(world.table.next_to_post());
        let future = world.futures.pop().unwrap();
        world.table.abandon(future.handle, &mut Aftermath::default());
        assert_eq!(world.alive.borrow().len(), 1);
        world.execute();
        let (handle, memory) = world.executed.pop_front().unwrap();
        world.table.completed(handle, memory, Ok(()), &mut Aftermath::default());
        assert!(world.alive.borrow().is_empty() && world.table.is_empty());
        assert_eq!(world.word, 3, "it was done all the same");
    }

    #[test]
    fn an_operation_that_was_not_posted_is_not_done_when_its_future_is_dropped() {
        let mut world = World::new();
        world.start(3);
        let future = world.futures.pop().unwrap();
        world.table.abandon(future.handle, &mut Aftermath::default());
        assert!(world.alive.borrow().is_empty() && world.table.next_to_post().is_none());
    }

    #[test]
    fn outcomes_become_errors_of_their_kind() {
        let outcome = |result| Outcome { result, memory: 7 }.into_io().map_err(|error| error.kind());
        assert_eq!(outcome(Ok(())), Ok(7));
        assert_eq!(outcome(Err(Ended::Reset)), Err(io::ErrorKind::ConnectionReset));
        assert_eq!(outcome(Err(Ended::Closed)), Err(io::ErrorKind::NotConnected));
    }

    proptest! {
        #[test]
        fn every_buffer_comes_back_once_and_none_before_its_completion(
            script in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..300),
        ) {
            let mut world = World::new();
            for (code, value) in script {
                world.step(code, value);
            }
            world.finish();
        }
    }
}
