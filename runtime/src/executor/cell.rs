//! One task's memory: a header, and the future or what came of it.
//!
//! A task lies in one block of the executor's arena. The header is the same for all futures; the vtable knows the rest.
//!
//! # Who may touch what, when
//!
//! Everything here stays on one thread: the future is `!Send`, and so are the handles. What crosses threads is a waker,
//! which is a number and never a pointer to a task.
//!
//! 1. **References.** `refs` counts the executor's own reference (from spawn until the task is finished) and one for each
//!    `JoinHandle` and `AbortHandle`. Whoever takes it to zero frees the block, through the vtable. No reference is taken
//!    by a waker.
//! 2. **The stage** (`Running`, `Finished`, `Consumed`) changes hands with the `COMPLETE` flag. While it is unset only the
//!    executor touches the stage, from [`Vtable::poll`] and [`Vtable::finish_with`], and it never runs the two within
//!    each other: a task is out of the ready queue while it is polled, and is polled from one place. Once it is set, only
//!    the `JoinHandle` touches the stage (to take the output, or to drop it), or, when there is none any more, whoever
//!    frees the block.
//! 3. **Foreign code** (a future's poll and drop, an output's drop, wakers) may call back into the executor. So no
//!    reference into executor tables lives across such a call, and the header is only ever reached by shared reference,
//!    its fields being cells.
//! 4. **Pinning.** A future is polled where it was written and dropped there before the block is freed or reused.

use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};
use std::rc::Rc;

use super::Executor;
use super::join::JoinError;
use super::waker::{Key, copy_of};

/// The future is gone and the stage holds what came of it (or held it).
pub(crate) const COMPLETE: u8 = 1;
/// The task is to be cancelled when it is next taken from the ready queue.
pub(crate) const ABORTED: u8 = 2;
/// There is no `JoinHandle` any more: nobody will take the output.
pub(crate) const DETACHED: u8 = 4;
/// The `JoinHandle` has taken the output: nothing is left in the stage.
pub(crate) const TAKEN: u8 = 8;

/// What all tasks have in common.
pub(crate) struct Header {
    vtable: &'static Vtable,
    flags: Cell<u8>,
    refs: Cell<u32>,
    key: Key,
    /// Who awaits the `JoinHandle`.
    joiner: Cell<Option<Waker>>,
    /// Where the block goes back to. Keeps the arena alive as long as any task's memory is in use.
    home: Rc<Executor>,
}

/// A task's future begins on the line that its header ends on.
const _: () = assert!(size_of::<Header>() <= 56);

/// What depends on the future's type.
pub(crate) struct Vtable {
    /// Polls the future; `true`: it is done, and the stage holds the output.
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> bool,
    /// Drops the future and puts an error in its place.
    finish_with: unsafe fn(NonNull<Header>, JoinError),
    /// Moves the output to where the pointer says, a `Poll<Result<T, JoinError>>` that is `Pending`.
    take_output: unsafe fn(NonNull<Header>, *mut ()),
    /// Drops the output.
    drop_output: unsafe fn(NonNull<Header>),
    /// Drops what is left of the task and frees its block.
    free: unsafe fn(NonNull<Header>),
    /// The block's layout.
    layout: Layout,
}

enum Stage<F: Future> {
    Running(F),
    Finished(Result<F::Output, JoinError>),
    Consumed,
}

/// A task. The header comes first, so that a pointer to the one is a pointer to the other.
#[repr(C)]
struct TaskCell<F: Future> {
    header: Header,
    stage: UnsafeCell<Stage<F>>,
}

impl<F: Future> TaskCell<F> {
    const VTABLE: Vtable = Vtable {
        poll: Self::poll,
        finish_with: Self::finish_with,
        take_output: Self::take_output,
        drop_output: Self::drop_output,
        free: Self::free,
        layout: Layout::new::<Self>(),
    };

    /// # Safety
    /// `header` is that of a live `TaskCell<F>`, and rule 2 gives the caller the stage.
    #[inline]
    unsafe fn stage<'a>(header: NonNull<Header>) -> &'a mut Stage<F> {
        // SAFETY: the caller's promise; the cell's pointer was made from the whole block, so it may reach past the header.
        unsafe { &mut *header.cast::<Self>().as_ref().stage.get() }
    }

    /// # Safety
    /// As [`stage`](Self::stage).
    unsafe fn poll(header: NonNull<Header>, cx: &mut Context<'_>) -> bool {
        // SAFETY: the caller's promise.
        let stage = unsafe { Self::stage(header) };
        let Stage::Running(future) = stage else { return true };
        // SAFETY: rule 4: the block does not move, and the future is dropped in place.
        let Poll::Ready(output) = unsafe { Pin::new_unchecked(future) }.poll(cx) else { return false };
        // Drops the future, then writes the output; also when that drop panics.
        *stage = Stage::Finished(Ok(output));
        true
    }

    /// # Safety
    /// As [`stage`](Self::stage).
    unsafe fn finish_with(header: NonNull<Header>, error: JoinError) {
        // SAFETY: the caller's promise.
        *unsafe { Self::stage(header) } = Stage::Finished(Err(error));
    }

    /// # Safety
    /// As [`stage`](Self::stage), and the task is complete; `into` is a `Poll<Result<F::Output, JoinError>>`, which is `Pending`.
    unsafe fn take_output(header: NonNull<Header>, into: *mut ()) {
        // SAFETY: the caller's promise.
        let stage = unsafe { Self::stage(header) };
        match core::mem::replace(stage, Stage::Consumed) {
            // SAFETY: the caller's promise; what is overwritten is `Pending`, which has nothing to drop.
            Stage::Finished(output) => unsafe {
                into.cast::<Poll<Result<F::Output, JoinError>>>().write(Poll::Ready(output));
            },
            // Consumed before: of a complete task there is no other case, and so no future to drop.
            other => core::mem::forget(other),
        }
    }

    /// # Safety
    /// As [`stage`](Self::stage).
    unsafe fn drop_output(header: NonNull<Header>) {
        // SAFETY: the caller's promise.
        *unsafe { Self::stage(header) } = Stage::Consumed;
    }

    /// # Safety
    /// `header` is that of a `TaskCell<F>` in the arena of its home, and its last reference is gone.
    unsafe fn free(header: NonNull<Header>) {
        let cell = header.cast::<Self>();
        // SAFETY: nobody else reaches the cell any more, and its own reference to the home is not dropped with it: it is
        // taken out here.
        let home = unsafe { (&raw const (*cell.as_ptr()).header.home).read() };
        // SAFETY: as above; these are the fields that have something to drop, each once. Should one panic, the block is
        // lost until the arena goes.
        unsafe {
            (&raw mut (*cell.as_ptr()).stage).drop_in_place();
            (&raw mut (*cell.as_ptr()).header.joiner).drop_in_place();
        }
        // SAFETY: the block came from this arena with this layout (`new`), and is unused now.
        unsafe { home.release_block(cell.cast(), Layout::new::<Self>()) };
    }
}

/// A counted reference to a task.
pub(crate) struct TaskRef(NonNull<Header>);

impl TaskRef {
    /// A block of `home` for a task of this type, with nothing in it yet: [`fill`](Self::fill) it.
    #[inline]
    pub(crate) fn allocate<F: Future>(home: &Rc<Executor>) -> NonNull<Header> {
        home.allocate_block(Layout::new::<TaskCell<F>>()).cast()
    }

    /// Moves `future` into a block, as the task that `key` names. The reference is the executor's own.
    ///
    /// # Safety
    /// `block` is new, from [`allocate`](Self::allocate) for the same type and `home`.
    #[inline]
    pub(crate) unsafe fn fill<F: Future>(
        block: NonNull<Header>,
        home: &Rc<Executor>,
        key: Key,
        future: F,
    ) -> TaskRef {
        // SAFETY: the block is new, large enough and aligned.
        unsafe {
            block.cast::<TaskCell<F>>().write(TaskCell {
                header: Header {
                    vtable: const { &TaskCell::<F>::VTABLE },
                    flags: Cell::new(0),
                    refs: Cell::new(1),
                    key,
                    joiner: Cell::new(None),
                    home: Rc::clone(home),
                },
                stage: UnsafeCell::new(Stage::Running(future)),
            });
        }
        TaskRef(block)
    }

    /// Gives the reference to the slot table.
    #[inline]
    pub(crate) fn into_raw(self) -> NonNull<Header> {
        let header = self.0;
        core::mem::forget(self);
        header
    }

    /// Takes the reference back from the slot table.
    ///
    /// # Safety
    /// `header` came from [`into_raw`](Self::into_raw), and is taken back once.
    #[inline]
    pub(crate) unsafe fn from_raw(header: NonNull<Header>) -> TaskRef {
        TaskRef(header)
    }

    /// The header of the task.
    #[inline]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: the task lives as long as a reference to it does; the header is only reached by shared reference.
        unsafe { self.0.as_ref() }
    }

    /// Moves the output out; `None`: that was done before.
    ///
    /// # Safety
    /// `COMPLETE` is set, the caller is the `JoinHandle`, and `T` is the future's output.
    #[inline]
    pub(crate) unsafe fn take_output<T>(&self) -> Poll<Result<T, JoinError>> {
        let mut output = Poll::Pending;
        self.header().set(TAKEN);
        // SAFETY: rule 2 gives the stage to the `JoinHandle`; the caller promises the type.
        unsafe { (self.header().vtable.take_output)(self.0, core::ptr::from_mut(&mut output).cast()) }
        output
    }

    /// Drops the output, if there is one.
    ///
    /// # Safety
    /// `COMPLETE` is set, and the caller is the `JoinHandle`, or the executor after the `JoinHandle` is gone.
    pub(crate) unsafe fn drop_output(&self) {
        // SAFETY: rule 2 gives the stage to the caller.
        unsafe { (self.header().vtable.drop_output)(self.0) }
    }
}

impl Clone for TaskRef {
    #[inline]
    fn clone(&self) -> Self {
        let refs = &self.header().refs;
        let Some(more) = refs.get().checked_add(1) else {
            // Four thousand million handles to one task that are all leaked: nothing sensible is left to do.
            std::process::abort()
        };
        refs.set(more);
        TaskRef(self.0)
    }
}

impl Drop for TaskRef {
    #[inline(always)]
    fn drop(&mut self) {
        let header = self.header();
        header.refs.set(header.refs.get() - 1);
        if header.refs.get() == 0 {
            // SAFETY: this was the last reference.
            unsafe { free(self.0) }
        }
    }
}

/// Drops what is left of a task and frees its block.
///
/// # Safety
/// The last reference is gone.
#[inline(never)]
unsafe fn free(task: NonNull<Header>) {
    // SAFETY: the task lives until its block is released below, or by `Vtable::free`.
    let header = unsafe { task.as_ref() };
    let joiner = header.joiner.take();
    if !header.has(TAKEN) || joiner.is_some() {
        header.joiner.set(joiner);
        // SAFETY: the caller's promise.
        return unsafe { (header.vtable.free)(task) };
    }
    let layout = header.vtable.layout;
    // SAFETY: nobody else reaches the task any more, and its own reference to the home is not dropped with it: it is taken
    // out here.
    let home = unsafe { (&raw const (*task.as_ptr()).home).read() };
    // SAFETY: the block came from this arena with this layout (`new`), and is unused now: the stage was emptied.
    unsafe { home.release_block(task.cast(), layout) };
}

/// Polls a task that is in its slot.
///
/// # Safety
/// `header` is a live task of the executor that calls, not complete, and not being polled already.
#[inline]
pub(crate) unsafe fn poll(header: NonNull<Header>, cx: &mut Context<'_>) -> bool {
    // SAFETY: rule 2 gives the executor the stage.
    unsafe { (header.as_ref().vtable.poll)(header, cx) }
}

/// Drops a task's future and leaves `error` in its place.
///
/// # Safety
/// As [`poll`].
pub(crate) unsafe fn finish_with(header: NonNull<Header>, error: JoinError) {
    // SAFETY: rule 2 gives the executor the stage.
    unsafe { (header.as_ref().vtable.finish_with)(header, error) }
}

impl Header {
    #[inline]
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags.get() & flags != 0
    }

    #[inline]
    pub(crate) fn set(&self, flags: u8) {
        self.flags.set(self.flags.get() | flags);
    }

    #[inline]
    pub(crate) fn key(&self) -> Key {
        self.key
    }

    #[inline]
    pub(crate) fn home(&self) -> &Rc<Executor> {
        &self.home
    }

    /// Remembers whom to wake when the task is done.
    #[inline]
    pub(crate) fn set_joiner(&self, waker: &Waker) {
        match self.joiner.take() {
            Some(known) if known.will_wake(waker) => self.joiner.set(Some(known)),
            // The earlier waker's drop is foreign code: it runs with the cell empty.
            other => {
                drop(other);
                self.joiner.set(Some(copy_of(waker)));
            }
        }
    }

    #[inline]
    pub(crate) fn take_joiner(&self) -> Option<Waker> {
        self.joiner.take()
    }
}
