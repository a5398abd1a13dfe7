//! Tasks that one core has another run: their outputs, panics and ends.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::two_cores;

#[test]
fn a_closure_runs_on_the_core_it_is_sent_to() {
    let Some(config) = two_cores("posix") else { return };
    let seen = demi::run(config, || async {
        let here = demi::this_core();
        let mut seen = Vec::new();
        for core in demi::cores() {
            let there = core.spawn(|| async {
                // Neither the counter nor the future that holds it could cross.
                let local = Rc::new(Cell::new(0));
                local.set(local.get() + 1);
                demi::task::yield_now().await;
                (demi::this_core(), local.get(), std::thread::current().name().map(str::to_owned))
            });
            let (ran_on, count, thread) = there.await.unwrap();
            assert_eq!((ran_on, count), (core, 1));
            seen.push(thread);
        }
        (here.index(), here.cpu().is_some(), seen)
    })
    .unwrap();
    assert_eq!(seen.len(), 2);
    for (at, (index, pinned, threads)) in seen.into_iter().enumerate() {
        assert_eq!((index, pinned), (at, true));
        assert_ne!(threads[0], threads[1]);
        assert_eq!(threads[1].as_deref(), Some("demi-core-1"));
    }
}

#[test]
fn more_jobs_than_the_ring_holds_are_done_in_order_and_none_is_lost() {
    const JOBS: usize = 10_000;
    let Some(config) = two_cores("posix") else { return };
    let sums = demi::run(config, || async {
        let other = demi::core(1 - demi::this_core().index());
        let next = Arc::new(AtomicUsize::new(0));
        let handles: Vec<_> = (0..JOBS)
            .map(|job| {
                let next = Arc::clone(&next);
                other.spawn(move || async move {
                    assert_eq!(next.fetch_add(1, Ordering::Relaxed), job, "out of order");
                    job
                })
            })
            .collect();
        let mut sum = 0;
        for handle in handles {
            sum += handle.await.unwrap();
        }
        sum
    });
    assert_eq!(sums.unwrap(), [JOBS * (JOBS - 1) / 2; 2]);
}

#[test]
fn a_panic_reaches_who_awaits_and_nobody_else() {
    let Some(config) = two_cores("posix") else { return };
    let panics = demi::run(config, || async {
        let other = demi::core(1 - demi::this_core().index());
        let error = other.spawn(|| async { panic!("over there") }).await.unwrap_err();
        assert!(error.is_panic() && error.to_string().ends_with("panicked: over there"), "{error}");
        // In the closure itself, too.
        let error = other.spawn(|| -> std::future::Ready<()> { panic!("early") }).await.unwrap_err();
        assert!(error.to_string().ends_with("panicked: early"), "{error}");
        assert_eq!(other.spawn(|| async { 7 }).await.unwrap(), 7);
        other.metrics().await.unwrap().task_panics
    });
    assert_eq!(panics.unwrap(), [2, 2]);
}

#[test]
fn a_task_can_be_aborted_from_afar_before_and_while_it_runs() {
    struct Told(Arc<AtomicUsize>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let Some(config) = two_cores("posix") else { return };
    let dropped = demi::run(config, || async {
        let other = demi::core(1 - demi::this_core().index());
        let dropped = Arc::new(AtomicUsize::new(0));
        let begun = Arc::new(AtomicUsize::new(0));
        for early in [true, false] {
            let (told, mark) = (Told(Arc::clone(&dropped)), Arc::clone(&begun));
            let task = other.spawn(move || async move {
                mark.fetch_add(1, Ordering::Relaxed);
                std::future::pending::<()>().await;
                drop(told);
            });
            while !early && begun.load(Ordering::Relaxed) == 0 {
                demi::task::yield_now().await;
            }
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            begun.store(0, Ordering::Relaxed);
        }
        // The second one's future has been dropped before the job behind it is done.
        other.spawn(|| async {}).await.unwrap();
        dropped.load(Ordering::Relaxed)
    });
    assert_eq!(dropped.unwrap(), [2, 2]);
}

#[test]
fn what_a_core_does_not_have_is_named() {
    let Some(config) = two_cores("posix") else { return };
    let error = std::panic::catch_unwind(|| demi::run(config, || async { demi::core(2) })).unwrap_err();
    let text = error.downcast_ref::<String>().unwrap();
    assert_eq!(text, "there is no core 2: the program runs on 2, counted from 0");
}
