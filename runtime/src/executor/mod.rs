//! Runs tasks on one thread: spawned futures, polled when woken, in the order of their wakes.
//!
//! | file | concept |
//! |---|---|
//! | `cell` | one task's memory, and the rules of who may touch it |
//! | `slots` | the table of tasks, with generations |
//! | `waker` | a waker is a number, not a pointer |
//! | `ready` | the queue of tasks that were woken |
//! | `inbox` | wakes from other threads |
//! | `registry` | which number is which inbox |
//! | `arena` | memory that tasks reuse |
//! | `join` | `JoinHandle`, `AbortHandle`, `JoinError` |
//!
//! The executor knows neither time nor sockets: the loop of `turn` calls [`Executor::run`] between its other steps.
//!
//! # Re-entrance
//!
//! Futures, destructors and foreign wakers ("foreign code") call back into the executor: they spawn, wake, abort and drop
//! handles. Two rules make that sound. The tables and the arena are only borrowed inside [`Executor::tables`] and
//! [`Executor::arena`], whose closures run no foreign code. And each step leaves the tables consistent before it calls
//! foreign code, which may unwind.
//!
//! # Panics
//!
//! `run` catches unwinding around the whole batch, not around each poll, so that a poll pays nothing for it; `running`
//! tells which task it was.

mod arena;
mod cell;
mod inbox;
mod join;
mod ready;
mod registry;
mod slots;
mod waker;

use core::alloc::Layout;
use core::any::Any;
use core::cell::{Cell, UnsafeCell};
use core::ptr::NonNull;
use core::task::Context;
use std::io;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

pub use join::{AbortHandle, JoinError, JoinHandle};
pub(crate) use waker::Key;

use crate::task::Id;
use arena::Arena;
use cell::{ABORTED, COMPLETE, DETACHED, Header, TaskRef};
use ready::Ready;
pub(crate) use registry::Number;
use registry::Seat;
use slots::{Popped, Slots};

/// The tasks of one thread.
pub(crate) struct Executor {
    seat: Seat,
    tables: UnsafeCell<Tables>,
    arena: UnsafeCell<Arena>,
    /// The task whose future is running or being dropped right now.
    running: Cell<Option<NonNull<Header>>>,
    /// No task is accepted any more.
    closed: Cell<bool>,
    counters: Counters,
}

/// What the executor counts.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) spawned: Cell<u64>,
    pub(crate) polls: Cell<u64>,
    pub(crate) panics: Cell<u64>,
    pub(crate) foreign_wakes: Cell<u64>,
}

struct Tables {
    slots: Slots,
    ready: Ready,
}

impl Executor {
    /// An executor without tasks.
    ///
    /// # Errors
    /// Too many executors live at once; `eventfd(2)`'s.
    pub(crate) fn new() -> io::Result<Rc<Executor>> {
        let seat = Seat::take()?;
        let tables = Tables { slots: Slots::new(seat.number()), ready: Ready::default() };
        Ok(Rc::new(Executor {
            seat,
            tables: UnsafeCell::new(tables),
            arena: UnsafeCell::new(Arena::default()),
            running: Cell::new(None),
            closed: Cell::new(false),
            counters: Counters::default(),
        }))
    }

    /// # Safety
    /// `f` runs no foreign code and does not call `tables` again.
    #[inline]
    unsafe fn tables<R>(&self, f: impl FnOnce(&mut Tables) -> R) -> R {
        // SAFETY: one thread (`Executor` is not `Sync`), and by the caller's promise nobody else borrows the tables
        // until `f` returns.
        f(unsafe { &mut *self.tables.get() })
    }

    /// # Safety
    /// As [`tables`](Self::tables).
    #[inline]
    unsafe fn arena<R>(&self, f: impl FnOnce(&mut Arena) -> R) -> R {
        // SAFETY: as in `tables`.
        f(unsafe { &mut *self.arena.get() })
    }

    /// The number that wakers of this executor's tasks carry.
    #[inline]
    pub(crate) fn number(&self) -> u16 {
        self.seat.number()
    }

    /// The task that is running right now.
    pub(crate) fn running_key(&self) -> Option<Key> {
        // SAFETY: a running task is alive; `running` is reset when a task completes, and between batches.
        self.running.get().map(|task| unsafe { task.as_ref() }.key())
    }

    /// What the executor has counted.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A task's future has panicked, and whoever ran it has caught that.
    pub(crate) fn count_panic(&self) {
        self.counters.panics.set(self.counters.panics.get() + 1);
    }

    /// Tasks that are not finished.
    pub(crate) fn live(&self) -> usize {
        // SAFETY: reads a number.
        unsafe { self.tables(|tables| tables.slots.live()) }
    }

    #[inline]
    fn allocate_block(&self, layout: Layout) -> NonNull<u8> {
        // SAFETY: the arena calls nobody but the global allocator.
        unsafe { self.arena(|arena| arena.allocate(layout)) }
    }

    /// # Safety
    /// As [`Arena::release`].
    #[inline]
    unsafe fn release_block(&self, block: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promise; the arena calls nobody but the global allocator.
        unsafe { self.arena(|arena| arena.release(block, layout)) }
    }

    /// Adds a task and queues it.
    ///
    /// # Panics
    /// When 16,777,216 tasks are alive already: a waker can name no more.
    #[inline]
    pub(crate) fn spawn<F>(self: &Rc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        // SAFETY: the future borrows nothing.
        unsafe { self.spawn_borrowing(future) }
    }

    /// As [`spawn`](Self::spawn), for a future that borrows.
    ///
    /// # Safety
    /// The caller sees to it that the task is complete before what it borrows ends; see [`Scoped`].
    #[inline]
    unsafe fn spawn_borrowing<F: Future>(self: &Rc<Self>, future: F) -> JoinHandle<F::Output> {
        // SAFETY: the closure runs no foreign code.
        if unsafe { self.tables(|tables| tables.slots.is_full()) } {
            self.grow();
        }
        let block = TaskRef::allocate::<F>(self);
        if self.closed.get() {
            // SAFETY: the block is new, and for this type.
            let task = unsafe { TaskRef::fill(block, self, Key::new(0, 0, 0), future) };
            // SAFETY: a new task of this type, with no other `JoinHandle`.
            let handle = unsafe { JoinHandle::new(task.clone()) };
            self.refuse(task);
            return handle;
        }
        // SAFETY: `grow` made room, and the closure runs no foreign code. Nobody looks at the task before it is there, below.
        let key = unsafe {
            self.tables(|tables| {
                let key = tables.slots.insert_queued(block);
                if let Some(key) = key {
                    tables.ready.push(key.slot());
                }
                key
            })
        };
        let Some(key) = key else { unreachable!("`grow` has made room or panicked") };
        // SAFETY: the block is new, and for this type.
        let task = unsafe { TaskRef::fill(block, self, key, future) };
        // SAFETY: a new task of this type, with no other `JoinHandle`.
        let handle = unsafe { JoinHandle::new(task.clone()) };
        // The executor's reference, which the slot stands for.
        let _ = task.into_raw();
        self.counters.spawned.set(self.counters.spawned.get() + 1);
        handle
    }

    #[cold]
    fn grow(&self) {
        let inbox = self.seat.inbox();
        // SAFETY: the closure runs no foreign code.
        let grown = unsafe {
            self.tables(|tables| {
                let grown = tables.slots.grow();
                tables.ready.reserve(tables.slots.len() as usize);
                inbox.reserve(tables.slots.len());
                grown
            })
        };
        assert!(grown, "{} tasks are alive, more than a runtime can name", waker::SLOTS_MAX);
    }

    /// Ends a task that was spawned while the executor is shutting down: from a destructor of another one.
    #[cold]
    fn refuse(&self, task: TaskRef) {
        let id = Id::from_key(task.header().key());
        let header = task.into_raw();
        // SAFETY: the task is new: it is not complete, and nobody polls it.
        unsafe { cell::finish_with(header, JoinError::cancelled(id)) };
        // SAFETY: the reference that `into_raw` gave away.
        let task = unsafe { TaskRef::from_raw(header) };
        task.header().set(COMPLETE);
    }

    /// Wakes a task, from this thread. `false`: no task of this executor has been queued for it, since it is queued already, is
    /// gone, or is another executor's.
    #[inline]
    pub(crate) fn wake_local(&self, key: Key) -> bool {
        // SAFETY: the closure runs no foreign code.
        unsafe {
            self.tables(|tables| {
                let queued = tables.slots.queue(key);
                if queued {
                    tables.ready.push(key.slot());
                }
                queued
            })
        }
    }

    /// Takes in the wakes of other threads; answers whether a task is ready to run.
    #[inline]
    pub(crate) fn collect_wakes(&self) -> bool {
        if !self.seat.inbox().is_empty() {
            self.drain_inbox();
        }
        // SAFETY: reads a flag.
        unsafe { self.tables(|tables| !tables.ready.is_empty()) }
    }

    #[cold]
    fn drain_inbox(&self) {
        let mut wakes = 0;
        self.seat.inbox().drain(|slot| {
            wakes += 1;
            // SAFETY: the closure runs no foreign code.
            unsafe {
                self.tables(|tables| {
                    if tables.slots.queue_any(slot) {
                        tables.ready.push(slot);
                    }
                });
            }
        });
        self.counters.foreign_wakes.set(self.counters.foreign_wakes.get() + wakes);
    }

    /// Holds the executor's number beyond its life.
    pub(crate) fn hold_number(&self) -> Rc<Number> {
        self.seat.hold()
    }

    /// The descriptor that is readable when another thread has woken a task of a sleeping executor.
    pub(crate) fn bell_fd(&self) -> RawFd {
        self.seat.bell_fd()
    }

    /// Announces that the thread is about to block. `false`: a wake has come in, do not.
    #[must_use]
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.seat.inbox().prepare_sleep()
    }

    /// The thread has blocked and is awake again.
    pub(crate) fn finish_sleep(&self) {
        self.seat.finish_sleep();
    }

    /// Polls ready tasks in the order in which they were woken, at most `budget` of them; answers how many.
    ///
    /// Tasks that are woken meanwhile queue behind the others and run in the same call if the budget allows, so that a
    /// chain of wakes is through before the loop sends what it caused.
    #[inline]
    pub(crate) fn run(&self, budget: u32) -> u32 {
        let left = Cell::new(budget);
        // A panic ends the batch, not the loop: its task is marked, and the rest of the budget goes to the others.
        while let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.run_batch(&left))) {
            self.contain(payload);
        }
        self.running.set(None);
        let ran = budget - left.get();
        self.counters.polls.set(self.counters.polls.get() + u64::from(ran));
        ran
    }

    #[inline]
    fn run_batch(&self, left: &Cell<u32>) {
        while left.get() > 0 {
            // SAFETY: the closure runs no foreign code; what is queued is a slot of this table.
            let popped =
                unsafe { self.tables(|tables| tables.ready.pop().map(|slot| tables.slots.popped(slot))) };
            let (task, key) = match popped {
                Some(Popped::Task(task, key)) => (task, key),
                Some(Popped::Vacant) => continue,
                None => return,
            };
            left.set(left.get() - 1);
            self.running.set(Some(task));
            // SAFETY: a task in its slot is alive.
            if unsafe { task.as_ref() }.has(ABORTED) {
                self.cancel(task);
                continue;
            }
            let waker = key.waker();
            // SAFETY: the task is in its slot, so it is not complete; it was taken from the queue, and this function
            // does not run within itself on one executor (`Runtime::block_on` refuses that), so nobody polls it.
            if unsafe { cell::poll(task, &mut Context::from_waker(&waker)) } {
                self.complete(task);
            }
        }
    }

    /// A task's future is gone: vacates the slot, tells who awaits it, and lets the executor's reference go.
    #[inline(always)]
    fn complete(&self, header: NonNull<Header>) {
        self.running.set(None);
        // SAFETY: the slot table's reference becomes ours, once: `running` is reset, and the slot is vacated below.
        let task = unsafe { TaskRef::from_raw(header) };
        let header = task.header();
        // SAFETY: the closure runs no foreign code.
        unsafe { self.tables(|tables| tables.slots.remove(header.key().slot())) };
        header.set(COMPLETE);
        if header.has(DETACHED) {
            // SAFETY: complete, and the `JoinHandle` is gone.
            unsafe { task.drop_output() };
        } else if let Some(joiner) = header.take_joiner() {
            match waker::key_of(&joiner) {
                // One of our own tasks that waits, as nearly always.
                Some(key) if self.wake_local(key) => core::mem::forget(joiner),
                _ => joiner.wake(),
            }
        }
    }

    /// Drops a task's future in place and completes it as cancelled.
    #[cold]
    fn cancel(&self, task: NonNull<Header>) {
        self.running.set(Some(task));
        // SAFETY: a task in its slot is alive.
        let id = Id::from_key(unsafe { task.as_ref() }.key());
        // SAFETY: the task is in its slot, and nobody polls it: it was taken from the queue, or the loop is not running.
        unsafe { cell::finish_with(task, JoinError::cancelled(id)) };
        self.complete(task);
    }

    /// Foreign code has panicked: if it was a task's future, the task ends with the payload.
    #[cold]
    fn contain(&self, payload: Box<dyn Any + Send>) {
        self.counters.panics.set(self.counters.panics.get() + 1);
        let Some(task) = self.running.get() else {
            // A destructor of an output that nobody wanted, or somebody else's waker. The hook has told of it.
            return discard(payload);
        };
        // SAFETY: the running task is in its slot, so it is alive.
        let id = Id::from_key(unsafe { task.as_ref() }.key());
        let finish = AssertUnwindSafe(|| {
            // SAFETY: as in `cancel`: the poll has unwound, so nobody polls the task.
            unsafe { cell::finish_with(task, JoinError::panicked(id, payload)) };
        });
        // What is left of the future is dropped here, and may panic again: the error is in place all the same.
        if let Err(payload) = catch_unwind(finish) {
            discard(payload);
        }
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.complete(task))) {
            discard(payload);
        }
    }

    /// Spawns a future that borrows from the caller.
    pub(crate) fn scoped<'f, F: Future + 'f>(self: &Rc<Self>, future: F) -> Scoped<'f, F::Output> {
        // SAFETY: `Scoped` ends the task when it is dropped. Its users are in this crate, and keep it on the stack.
        let handle = unsafe { self.spawn_borrowing(future) };
        Scoped { home: Rc::clone(self), handle, borrows: core::marker::PhantomData }
    }

    /// Ends a task at once, wherever it is.
    fn end(&self, key: Key) {
        // SAFETY: reads a pointer.
        let task = unsafe { self.tables(|tables| tables.slots.get(key.slot())) };
        if let Some(task) = task
            // SAFETY: a task in its slot is alive.
            && unsafe { task.as_ref() }.key() == key
            && let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.cancel(task)))
        {
            self.contain(payload);
        }
    }

    /// Cancels all tasks and accepts no more. The caller has entered the runtime's context, so that destructors find it.
    pub(crate) fn shut_down(&self) {
        self.closed.set(true);
        // SAFETY: reads a number.
        for slot in 0..unsafe { self.tables(|tables| tables.slots.len()) } {
            // SAFETY: reads a pointer.
            let task = unsafe { self.tables(|tables| tables.slots.get(slot)) };
            if let Some(task) = task {
                // SAFETY: a task in its slot is alive.
                self.end(unsafe { task.as_ref() }.key());
            }
        }
    }
}

/// Drops what nobody asked for. It may panic in turn; then it is left where it is.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        core::mem::forget(again);
    }
}

/// A task that borrows from the stack. Dropping it ends the task, so nothing it borrows is used afterwards.
pub(crate) struct Scoped<'f, T> {
    home: Rc<Executor>,
    handle: JoinHandle<T>,
    borrows: core::marker::PhantomData<&'f ()>,
}

impl<T> Scoped<'_, T> {
    /// Whether the task is done.
    #[inline]
    pub(crate) fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// The output, when the task is done.
    pub(crate) fn take(&mut self) -> core::task::Poll<Result<T, JoinError>> {
        if !self.is_finished() {
            return core::task::Poll::Pending;
        }
        core::pin::Pin::new(&mut self.handle).poll(&mut Context::from_waker(core::task::Waker::noop()))
    }
}

impl<T> Drop for Scoped<'_, T> {
    fn drop(&mut self) {
        if !self.is_finished() {
            self.home.end(self.handle.key());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
