//! The executor as tasks see it, through a runtime without transports.

use core::cell::{Cell, RefCell};
use core::future::{pending, poll_fn};
use core::pin::Pin;
use core::task::{Poll, Waker};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc;

use crate::runtime::Runtime;
use crate::task::{self, spawn, yield_now};

fn block_on<F: Future>(future: F) -> F::Output {
    Runtime::for_tests().block_on(future)
}

/// Tells when it is dropped.
struct OnDrop<F: FnMut()>(F);
impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn tasks_run_in_the_order_of_their_wakes() {
    block_on(async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = (0..5)
            .map(|name| {
                let order = Rc::clone(&order);
                spawn(async move {
                    for round in 0..3 {
                        order.borrow_mut().push((round, name));
                        yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let expected: Vec<_> = (0..3).flat_map(|round| (0..5).map(move |name| (round, name))).collect();
        assert_eq!(*order.borrow(), expected);
    });
}

#[test]
fn a_task_that_is_woken_often_is_polled_once() {
    block_on(async {
        let polls = Rc::new(Cell::new(0));
        let waker = Rc::new(RefCell::new(None::<Waker>));
        let task = spawn({
            let (polls, waker) = (Rc::clone(&polls), Rc::clone(&waker));
            poll_fn(move |cx| {
                polls.set(polls.get() + 1);
                *waker.borrow_mut() = Some(cx.waker().clone());
                Poll::<()>::Pending
            })
        });
        yield_now().await;
        for _ in 0..10 {
            waker.borrow().as_ref().unwrap().wake_by_ref();
        }
        yield_now().await;
        assert_eq!(polls.get(), 2);
        drop(task);
    });
}

#[test]
fn a_stale_waker_is_harmless() {
    let runtime = Runtime::for_tests();
    let stale = runtime.block_on(async {
        let waker = spawn(poll_fn(|cx| Poll::Ready(cx.waker().clone()))).await.unwrap();
        waker.wake_by_ref();
        let next = spawn(async { yield_now().await });
        waker.wake_by_ref();
        next.await.unwrap();
        waker
    });
    drop(runtime);
    stale.wake_by_ref();
    std::thread::spawn(move || stale.wake()).join().unwrap();
}

#[test]
fn dropping_the_handle_detaches() {
    block_on(async {
        let done = Rc::new(Cell::new(false));
        drop(spawn({
            let done = Rc::clone(&done);
            async move {
                yield_now().await;
                done.set(true);
            }
        }));
        yield_now().await;
        yield_now().await;
        assert!(done.get());
    });
}

#[test]
fn abort_drops_the_future_and_tells_the_awaiter() {
    block_on(async {
        let dropped = Rc::new(Cell::new(0));
        let task = spawn({
            let dropped = Rc::clone(&dropped);
            async move {
                let _guard = OnDrop(|| dropped.set(dropped.get() + 1));
                pending::<()>().await;
            }
        });
        yield_now().await;
        let abort = task.abort_handle();
        assert!(!task.is_finished());
        task.abort();
        abort.abort();
        assert_eq!(dropped.get(), 0, "the executor drops it, not the caller");
        let error = task.await.unwrap_err();
        assert!(error.is_cancelled() && !error.is_panic());
        assert_eq!(dropped.get(), 1);
        assert!(abort.is_finished());
    });
}

#[test]
fn a_finished_task_is_not_aborted() {
    block_on(async {
        let task = spawn(async { 5 });
        yield_now().await;
        assert!(task.is_finished());
        task.abort();
        assert_eq!(task.await.unwrap(), 5);
    });
}

#[test]
fn a_task_can_abort_itself() {
    block_on(async {
        let handle = Rc::new(RefCell::new(None::<task::AbortHandle>));
        let task = spawn({
            let handle = Rc::clone(&handle);
            async move {
                handle.borrow().as_ref().unwrap().abort();
                yield_now().await;
                unreachable!("it is cancelled where it waits");
            }
        });
        *handle.borrow_mut() = Some(task.abort_handle());
        assert!(task.await.unwrap_err().is_cancelled());
    });
}

#[test]
fn a_panic_stays_in_its_task() {
    block_on(async {
        let others = spawn(async {
            yield_now().await;
            "fine"
        });
        let task = spawn(async {
            yield_now().await;
            let number = core::hint::black_box(7);
            if number == 7 {
                panic!("number {number}");
            }
        });
        let error = task.await.unwrap_err();
        assert!(error.is_panic());
        assert!(error.to_string().ends_with("panicked: number 7"), "{error}");
        assert_eq!(error.into_panic().downcast_ref::<String>().unwrap(), "number 7");
        assert_eq!(others.await.unwrap(), "fine");
    });
}

#[test]
fn a_destructor_that_panics_ends_its_task_only() {
    block_on(async {
        let task = spawn(async {
            let _guard = OnDrop(|| panic!("in drop"));
            pending::<()>().await;
        });
        yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_panic());

        // The same when nobody takes the output.
        let task = spawn(async { OnDrop(|| panic!("an output nobody wants")) });
        drop(task);
        yield_now().await;

        // And when the future panics, and panics again while it is dropped for it.
        let task = spawn(async {
            let _guard = OnDrop(|| {
                if !std::thread::panicking() {
                    panic!("in drop")
                }
            });
            let nested = poll_fn(|_| -> Poll<()> { panic!("in poll") });
            nested.await;
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(spawn(async { 1 }).await.unwrap(), 1);
    });
}

#[test]
fn mains_panic_is_block_ons() {
    let runtime = Runtime::for_tests();
    let payload = catch_unwind(AssertUnwindSafe(|| runtime.block_on(async { panic!("main") }))).unwrap_err();
    assert_eq!(*payload.downcast_ref::<&str>().unwrap(), "main");
    assert_eq!(runtime.block_on(async { 3 }), 3, "the runtime is as good as before");
}

#[test]
fn block_on_borrows() {
    let mut number = 1;
    block_on(async {
        yield_now().await;
        number += 1;
    });
    assert_eq!(number, 2);
}

#[test]
fn tasks_live_on_between_block_ons_and_die_with_the_runtime() {
    let runtime = Runtime::for_tests();
    let dropped = Rc::new(Cell::new(false));
    let (task, flag) = (Rc::new(Cell::new(0)), Rc::clone(&dropped));
    let handle = runtime.enter(|| {
        let task = Rc::clone(&task);
        spawn(async move {
            let _guard = OnDrop(move || {
                flag.set(true);
                // Spawning is still possible, and in vain.
                assert!(spawn(async {}).is_finished());
            });
            loop {
                task.set(task.get() + 1);
                yield_now().await;
            }
        })
    });
    runtime.block_on(yield_now());
    let seen = task.get();
    runtime.block_on(yield_now());
    assert!(task.get() > seen && !dropped.get());
    drop(runtime);
    assert!(dropped.get());
    let mut handle = handle;
    let cx = &mut core::task::Context::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = Pin::new(&mut handle).poll(cx) else { panic!("it is cancelled") };
    assert!(error.is_cancelled());
}

#[test]
fn other_threads_wake_a_blocked_loop() {
    block_on(async {
        let (sender, receiver) = mpsc::channel::<Waker>();
        let fired = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let thread = std::thread::spawn({
            let fired = std::sync::Arc::clone(&fired);
            move || {
                for waker in receiver {
                    fired.store(true, std::sync::atomic::Ordering::Relaxed);
                    waker.wake();
                }
            }
        });
        for _ in 0..100 {
            fired.store(false, std::sync::atomic::Ordering::Relaxed);
            let mut sent = false;
            poll_fn(|cx| {
                if fired.load(std::sync::atomic::Ordering::Relaxed) {
                    return Poll::Ready(());
                }
                if !core::mem::replace(&mut sent, true) {
                    sender.send(cx.waker().clone()).unwrap();
                }
                Poll::Pending
            })
            .await;
        }
        drop(sender);
        thread.join().unwrap();
    });
}

#[test]
fn runtimes_nest_and_wake_each_other() {
    block_on(async {
        let handle = spawn(async {
            yield_now().await;
            4
        });
        let id = task::id();
        // Another runtime on this thread waits for a task of this one: it cannot run meanwhile, but its handle can be
        // passed on.
        let (handle,) = Runtime::for_tests().block_on(async move {
            assert_ne!(task::id(), id);
            let own = spawn(async { 3 });
            assert_eq!(own.await.unwrap(), 3);
            (handle,)
        });
        assert_eq!(task::id(), id);
        assert_eq!(handle.await.unwrap(), 4);
    });
}

#[test]
fn thousands_of_tasks_of_many_sizes_come_and_go() {
    block_on(async {
        fn padded<const N: usize>(number: usize) -> task::JoinHandle<usize> {
            let padding = [number as u8; N];
            spawn(async move {
                yield_now().await;
                number + usize::from(padding[N / 2]) - usize::from(number as u8)
            })
        }
        for _ in 0..3 {
            let mut tasks = Vec::new();
            for number in 0..2000 {
                tasks.push(match number % 5 {
                    0 => padded::<8>(number),
                    1 => padded::<300>(number),
                    2 => padded::<900>(number),
                    3 => padded::<3500>(number),
                    _ => padded::<9000>(number),
                });
            }
            for (number, task) in tasks.into_iter().enumerate() {
                assert_eq!(task.await.unwrap(), number);
            }
        }
    });
}

#[test]
fn ids_tell_tasks_apart() {
    block_on(async {
        let first = spawn(pending::<()>());
        let second = spawn(async { task::id() });
        assert_ne!(first.id(), second.id());
        let id = second.id();
        assert_eq!(second.await.unwrap(), id);
        assert_ne!(spawn(async { task::id() }).await.unwrap(), id, "the slot is reused, the id is not");
    });
    assert_eq!(task::try_id(), None);
}
