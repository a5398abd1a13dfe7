//! Time as tasks see it.

use core::cell::{Cell, RefCell};
use core::future::{pending, poll_fn};
use core::pin::{Pin, pin};
use core::task::Poll;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::Runtime;
use crate::task::{spawn, yield_now};

fn paused() -> Runtime {
    Runtime::builder().transports(Vec::new()).start_paused(true).build().unwrap()
}

fn real() -> Runtime {
    Runtime::for_tests()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn paused_time_jumps_to_each_deadline_in_turn() {
    paused().block_on(async {
        let start = Instant::now();
        let woken = Rc::new(RefCell::new(Vec::new()));
        for nanos in [5_000_000_001, 1, 86_400_000_000_000, 70, 1_000_000] {
            let woken = Rc::clone(&woken);
            spawn(async move {
                sleep(Duration::from_nanos(nanos)).await;
                assert_eq!(start.elapsed(), Duration::from_nanos(nanos), "neither early nor late");
                woken.borrow_mut().push(nanos);
            });
        }
        sleep(Duration::from_secs(100_000)).await;
        assert_eq!(*woken.borrow(), [1, 70, 1_000_000, 5_000_000_001, 86_400_000_000_000]);
    });
}

#[test]
fn real_sleeps_are_never_short_under_each_idle_policy() {
    for idle in ["spin", "adaptive", "park"] {
        let config = crate::Config::new().idle(idle);
        let runtime = Runtime::builder().config(config).transports(Vec::new()).build().unwrap();
        runtime.block_on(async {
            for micros in [0, 1, 30, 200, 2_000] {
                let start = std::time::Instant::now();
                sleep(Duration::from_micros(micros)).await;
                // The calibrated counter and the kernel's clock may differ by some hundred parts in a million.
                assert!(
                    start.elapsed() >= Duration::from_micros(micros).mul_f64(0.999),
                    "{idle}, {micros} us"
                );
            }
        });
    }
}

#[test]
fn a_parked_loop_blocks() {
    let runtime =
        Runtime::builder().config(crate::Config::new().idle("park")).transports(Vec::new()).build().unwrap();
    runtime.block_on(async { sleep(Duration::from_millis(20)).await });
    let metrics = runtime.metrics();
    assert!(metrics.parks > 0 && metrics.parked > Duration::from_millis(10), "{metrics:?}");
    assert!(metrics.turns < 100, "{metrics:?}");
}

#[test]
fn a_dropped_sleep_leaves_no_timer() {
    paused().block_on(async {
        let mut sleep = Box::pin(sleep(SECOND));
        assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await.is_pending());
        assert_eq!(crate::metrics().timers_alive, 1);
        drop(sleep);
        assert_eq!(crate::metrics().timers_alive, 0);
    });
}

#[test]
fn a_reset_sleep_wakes_who_waits_at_the_new_time() {
    paused().block_on(async {
        let start = Instant::now();
        let mut sleep = pin!(sleep(60 * SECOND));
        assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await.is_pending());
        sleep.as_mut().reset(start + SECOND);
        sleep.await;
        assert_eq!(start.elapsed(), SECOND);
    });
}

#[test]
fn a_sleep_may_move_to_another_runtime_and_be_dropped_on_another_thread() {
    let (first, second) = (paused(), paused());
    let mut moved = Box::pin(first.enter(|| sleep(SECOND)));
    first.block_on(async {
        assert!(poll_fn(|cx| Poll::Ready(moved.as_mut().poll(cx))).await.is_pending());
    });
    second.block_on(moved.as_mut());
    assert_eq!(first.metrics().timers_alive, 1, "its entry fires for nobody");
    assert_eq!(second.metrics().timers_alive, 0);
    first.block_on(async { sleep(2 * SECOND).await });
    assert_eq!(first.metrics().timers_alive, 0);

    let sleep = first.enter(|| sleep(SECOND));
    std::thread::spawn(move || drop(sleep)).join().unwrap();
}

#[test]
fn a_timeout_ends_what_takes_too_long_and_only_that() {
    paused().block_on(async {
        assert_eq!(timeout(SECOND, async { 1 }).await, Ok(1));
        let start = Instant::now();
        let error = timeout(SECOND, pending::<()>()).await.unwrap_err();
        assert_eq!(start.elapsed(), SECOND);
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::TimedOut);
        // Ready at the very deadline: the future wins.
        assert_eq!(timeout(SECOND, sleep(SECOND)).await, Ok(()));
        assert!(timeout_at(start, pending::<()>()).await.is_err());
        assert_eq!(crate::metrics().timers_alive, 0);
    });
}

#[test]
fn an_interval_ticks_at_once_and_then_every_period() {
    paused().block_on(async {
        let start = Instant::now();
        let mut interval = interval(SECOND);
        for tick in 0..5 {
            assert_eq!(interval.tick().await, start + tick * SECOND);
            assert_eq!(start.elapsed(), tick * SECOND);
        }
    });
}

#[test]
fn missed_ticks_are_caught_up_delayed_or_skipped() {
    let ticks = |behavior| {
        paused().block_on(async {
            let start = Instant::now();
            let mut interval = interval(SECOND);
            interval.set_missed_tick_behavior(behavior);
            interval.tick().await;
            advance(Duration::from_millis(3_500)).await;
            let mut ticks = Vec::new();
            for _ in 0..5 {
                interval.tick().await;
                ticks.push(start.elapsed().as_millis());
            }
            ticks
        })
    };
    assert_eq!(ticks(MissedTickBehavior::Burst), [3_500, 3_500, 3_500, 4_000, 5_000]);
    assert_eq!(ticks(MissedTickBehavior::Delay), [3_500, 4_500, 5_500, 6_500, 7_500]);
    assert_eq!(ticks(MissedTickBehavior::Skip), [3_500, 4_000, 5_000, 6_000, 7_000]);
}

#[test]
fn an_interval_can_be_reset() {
    paused().block_on(async {
        let start = Instant::now();
        let mut interval = interval_at(start + 5 * SECOND, SECOND);
        interval.tick().await;
        assert_eq!(start.elapsed(), 5 * SECOND);
        interval.reset_after(3 * SECOND);
        interval.tick().await;
        assert_eq!(start.elapsed(), 8 * SECOND);
        interval.reset_immediately();
        interval.tick().await;
        assert_eq!(start.elapsed(), 8 * SECOND);
        assert_eq!(interval.period(), SECOND);
    });
}

#[test]
fn advance_is_one_leap_that_fires_what_is_due_in_order() {
    paused().block_on(async {
        let woken = Rc::new(RefCell::new(Vec::new()));
        for seconds in [3, 1, 2, 9] {
            let woken = Rc::clone(&woken);
            spawn(async move {
                sleep(seconds * SECOND).await;
                woken.borrow_mut().push(seconds);
            });
        }
        yield_now().await;
        let start = Instant::now();
        advance(5 * SECOND).await;
        assert_eq!(start.elapsed(), 5 * SECOND);
        assert_eq!(*woken.borrow(), [1, 2, 3]);
    });
}

#[test]
fn time_goes_on_after_resume() {
    paused().block_on(async {
        let start = Instant::now();
        advance(100 * SECOND).await;
        resume();
        let before = Instant::now();
        assert!(before - start >= 100 * SECOND && before - start < 160 * SECOND);
        sleep(Duration::from_micros(100)).await;
        assert!(before.elapsed() >= Duration::from_micros(100));
        pause();
        assert_eq!(Instant::now(), Instant::now());
    });
}

#[test]
fn virtual_time_stands_while_a_blocking_job_runs() {
    paused().block_on(async {
        let start = Instant::now();
        let late = spawn(sleep(SECOND));
        crate::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5))).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
        late.await.unwrap();
        assert_eq!(start.elapsed(), SECOND);
    });
}

#[test]
fn a_task_that_wakes_itself_starves_no_timer() {
    real().block_on(async {
        let stop = Rc::new(Cell::new(false));
        let busy = spawn({
            let stop = Rc::clone(&stop);
            async move {
                while !stop.get() {
                    yield_now().await;
                }
            }
        });
        sleep(Duration::from_micros(200)).await;
        stop.set(true);
        busy.await.unwrap();
    });
}

#[test]
fn a_future_that_owns_its_timer_may_be_dropped_by_a_waker() {
    // The wheel is free while wakers run, also foreign ones that drop sleeps.
    struct DropsOnWake(std::sync::Mutex<Option<Sleep>>);
    impl std::task::Wake for DropsOnWake {
        fn wake(self: std::sync::Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    paused().block_on(async {
        let armed = poll_fn(|cx| {
            let mut sleep = sleep(2 * SECOND);
            let _ = Pin::new(&mut sleep).poll(cx);
            Poll::Ready(sleep)
        });
        let foreign = std::sync::Arc::new(DropsOnWake(std::sync::Mutex::new(Some(armed.await))));
        let waker = foreign.into();
        let mut trigger = sleep(SECOND);
        let _ = Pin::new(&mut trigger).poll(&mut core::task::Context::from_waker(&waker));
        assert_eq!(crate::metrics().timers_alive, 2);
        sleep(SECOND).await;
        assert_eq!(crate::metrics().timers_alive, 0);
    });
}

proptest! {
    #[test]
    fn sleeps_end_in_the_order_of_their_deadlines(delays in prop::collection::vec(0u64..1 << 40, 1..60)) {
        let ends = paused().block_on(async {
            let ends = Rc::new(RefCell::new(Vec::new()));
            let start = Instant::now();
            let tasks: Vec<_> = delays.iter().map(|nanos| {
                let (ends, nanos) = (Rc::clone(&ends), *nanos);
                spawn(async move {
                    sleep(Duration::from_nanos(nanos)).await;
                    ends.borrow_mut().push((nanos, start.elapsed().as_nanos() as u64));
                })
            }).collect();
            for task in tasks {
                task.await.unwrap();
            }
            ends.take()
        });
        let mut sorted = delays.clone();
        sorted.sort_unstable();
        prop_assert_eq!(ends, sorted.into_iter().map(|nanos| (nanos, nanos)).collect::<Vec<_>>());
    }
}
