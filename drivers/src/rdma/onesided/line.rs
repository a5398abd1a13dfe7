//! What joins futures to a connection: they put operations in line, the driver takes them out and brings them back.
//!
//! A [`Line`] is shared by a connection and by all futures of its operations, whichever goes first. It owns the connection's
//! [table](Operations) and a mark that says there is something to post; the marked are listed, so that nobody looks at all
//! connections.

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::mem;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::rc::Rc;

use super::operations::{Aftermath, Operation, Operations, Outcome};
use crate::rdma::proto::Ended;
use crate::transport::Handle;

/// Connections that have something to post.
pub type Marked = Rc<RefCell<Vec<Handle>>>;

/// The operations of one connection.
#[derive(Debug)]
pub struct Line<M> {
    table: RefCell<Operations<M>>,
    connection: Handle,
    marked: Marked,
    is_marked: Cell<bool>,
}

impl<M> Line<M> {
    /// The line of `connection`, with at most `most` operations that are not done. While it has something to post, `marked` lists
    /// it.
    pub fn new(connection: Handle, most: usize, marked: &Marked) -> Rc<Line<M>> {
        Rc::new(Line {
            table: RefCell::new(Operations::new(most)),
            connection,
            marked: Rc::clone(marked),
            is_marked: Cell::new(false),
        })
    }

    /// Does an operation. It is queued when the future is first polled and there is room.
    ///
    /// Cancel safe in this sense: a future dropped before it was polled does nothing; later, the operation may or may not be done,
    /// and its memory is held until the adapter is through with it.
    pub fn carry_out(self: &Rc<Self>, operation: Operation<M>) -> Doing<M> {
        Doing { line: Rc::clone(self), stage: Stage::Waiting(operation) }
    }

    fn mark(&self) {
        if !self.is_marked.replace(true) {
            self.marked.borrow_mut().push(self.connection);
        }
    }

    // ---- the driver's ----

    /// The next operation to be posted. When there is none the line is no longer marked; the caller takes it off the list first.
    pub fn next_to_post(&self) -> Option<(Handle, Operation<M>)> {
        let next = self.table.borrow_mut().next_to_post();
        if next.is_none() {
            self.is_marked.set(false);
        }
        next
    }

    /// A posted operation has completed.
    pub fn completed(&self, handle: Handle, memory: M, result: Result<(), Ended>) {
        let mut after = Aftermath::default();
        self.table.borrow_mut().completed(handle, memory, result, &mut after);
    }

    /// The connection is gone.
    pub fn fail(&self, ended: Ended) {
        let mut after = Aftermath::default();
        self.table.borrow_mut().fail(ended, &mut after);
    }

    /// Operations whose memory is the driver's.
    pub fn posted(&self) -> usize {
        self.table.borrow().posted()
    }
}

/// An operation that is being carried out.
#[derive(Debug)]
#[must_use = "an operation is not done unless its future is polled"]
pub struct Doing<M> {
    line: Rc<Line<M>>,
    stage: Stage<M>,
}

#[derive(Debug)]
enum Stage<M> {
    /// For room in the table.
    Waiting(Operation<M>),
    Begun(Handle),
    Over,
}

// Nothing in it is ever pinned.
impl<M> Unpin for Doing<M> {}

impl<M> Future for Doing<M> {
    /// `None` when it is polled after it was ready.
    type Output = Option<Outcome<M>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // Foreign wakers may do anything when they are cloned, woken or dropped: never while the table is borrowed.
        let mut after = Aftermath::default();
        let waker = cx.waker().clone();
        let mut table = this.line.table.borrow_mut();
        let handle = match mem::replace(&mut this.stage, Stage::Over) {
            Stage::Over => return Poll::Ready(None),
            Stage::Begun(handle) => handle,
            Stage::Waiting(operation) => match table.start(operation) {
                Ok(handle) => {
                    this.line.mark();
                    handle
                }
                Err(operation) => {
                    this.stage = Stage::Waiting(operation);
                    table.wait_for_room(waker, &mut after);
                    return Poll::Pending;
                }
            },
        };
        let outcome = table.poll(waker, handle, &mut after);
        if outcome.is_pending() {
            this.stage = Stage::Begun(handle);
        }
        outcome
    }
}

impl<M> Drop for Doing<M> {
    fn drop(&mut self) {
        if let Stage::Begun(handle) = self.stage {
            let mut after = Aftermath::default();
            self.line.table.borrow_mut().abandon(handle, &mut after);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::task::Waker;

    use super::super::Kind;
    use super::*;

    type Shared = Rc<Cell<u32>>;

    fn line(most: usize) -> (Rc<Line<Shared>>, Marked) {
        let marked = Marked::default();
        (Line::new(Handle { index: 3, generation: 1 }, most, &marked), marked)
    }

    fn read(memory: &Shared) -> Operation<Shared> {
        Operation { kind: Kind::Read { remote: (0, 0), bytes: 8 }, memory: Rc::clone(memory) }
    }

    fn poll(future: &mut Doing<Shared>) -> Poll<Option<Outcome<Shared>>> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_operation_is_posted_once_its_future_is_polled_and_comes_back_when_it_completes() {
        let (line, marked) = line(4);
        let memory = Shared::default();
        let mut future = line.carry_out(read(&memory));
        assert!(marked.borrow().is_empty() && line.next_to_post().is_none());
        assert!(poll(&mut future).is_pending() && poll(&mut future).is_pending());
        assert_eq!(*marked.borrow(), [Handle { index: 3, generation: 1 }], "once");
        marked.borrow_mut().clear();
        let (handle, operation) = line.next_to_post().unwrap();
        assert!(line.next_to_post().is_none());
        operation.memory.set(9);
        line.completed(handle, operation.memory, Ok(()));
        let Poll::Ready(Some(outcome)) = poll(&mut future) else { panic!("not done") };
        assert_eq!((outcome.memory.get(), outcome.result), (9, Ok(())));
        assert!(matches!(poll(&mut future), Poll::Ready(None)));
    }

    #[test]
    fn a_future_dropped_at_any_stage_lets_its_memory_go_when_the_adapter_has() {
        for stage in 0..5 {
            let (line, _marked) = line(1);
            let memory = Shared::default();
            let mut future = line.carry_out(read(&memory));
            let mut posted = None;
            if stage > 0 {
                assert!(poll(&mut future).is_pending());
            }
            if stage > 1 {
                posted = line.next_to_post();
            }
            if stage > 2 {
                let (handle, operation) = posted.take().unwrap();
                line.completed(handle, operation.memory, Ok(()));
            }
            if stage > 3 {
                assert!(poll(&mut future).is_ready());
            }
            drop(future);
            assert_eq!(Rc::strong_count(&memory), 1 + usize::from(posted.is_some()), "stage {stage}");
            if let Some((handle, operation)) = posted {
                line.completed(handle, operation.memory, Ok(()));
            }
            assert_eq!((Rc::strong_count(&memory), line.posted()), (1, 0), "stage {stage}");
            assert!(line.next_to_post().is_none());
        }
    }

    #[test]
    fn one_too_many_waits_and_goes_on_when_another_is_done() {
        let (line, marked) = line(1);
        let memory = Shared::default();
        let mut first = line.carry_out(read(&memory));
        let mut second = line.carry_out(read(&memory));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        marked.borrow_mut().clear();
        let (handle, operation) = line.next_to_post().unwrap();
        assert!(line.next_to_post().is_none());
        line.completed(handle, operation.memory, Ok(()));
        assert!(poll(&mut second).is_pending());
        assert_eq!(marked.borrow().len(), 1, "there is something to post again");
        assert!(line.next_to_post().is_some());
        assert!(poll(&mut first).is_ready());
    }

    #[test]
    fn a_connection_that_is_gone_gives_everything_back_with_its_error() {
        let (line, _marked) = line(2);
        let memory = Shared::default();
        let mut posted = line.carry_out(read(&memory));
        let mut queued = line.carry_out(read(&memory));
        let mut waiting = line.carry_out(read(&memory));
        assert!(poll(&mut posted).is_pending());
        let (handle, operation) = line.next_to_post().unwrap();
        assert!(poll(&mut queued).is_pending() && poll(&mut waiting).is_pending());
        line.fail(Ended::Reset);
        assert!(poll(&mut posted).is_pending(), "the adapter has its memory");
        line.completed(handle, operation.memory, Err(Ended::Reset));
        for future in [&mut posted, &mut queued, &mut waiting] {
            let Poll::Ready(Some(outcome)) = poll(future) else { panic!("not done") };
            assert_eq!(outcome.result, Err(Ended::Reset));
        }
        assert_eq!(Rc::strong_count(&memory), 1);
    }

    thread_local! {
        static OWNED: RefCell<Option<Doing<Shared>>> = const { RefCell::new(None) };
    }

    /// A waker that drops a future of the same line when it is woken.
    struct Dropper;

    impl std::task::Wake for Dropper {
        fn wake(self: std::sync::Arc<Self>) {
            drop(OWNED.take());
        }
    }

    #[test]
    fn a_waker_may_drop_futures_of_the_same_line() {
        let (line, _marked) = line(4);
        let memory = Shared::default();
        let mut other = line.carry_out(read(&memory));
        assert!(poll(&mut other).is_pending());
        OWNED.set(Some(other));
        let mut future = line.carry_out(read(&memory));
        let waker = Waker::from(std::sync::Arc::new(Dropper));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&waker)).is_pending());
        let (handle, operation) = line.next_to_post().unwrap();
        let (second, second_operation) = line.next_to_post().unwrap();
        line.completed(second, second_operation.memory, Ok(()));
        line.completed(handle, operation.memory, Ok(()));
        assert!(poll(&mut future).is_ready());
        drop((future, waker));
        assert_eq!(Rc::strong_count(&memory), 1);
    }

    #[test]
    fn futures_outlive_their_connection() {
        let (line, marked) = line(2);
        let memory = Shared::default();
        let mut future = line.carry_out(read(&memory));
        assert!(poll(&mut future).is_pending());
        line.fail(Ended::Closed);
        drop((line, marked));
        assert!(poll(&mut future).is_ready());
    }
}
