//! The workloads, written once over [`Executor`].

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use demi_benches::kit::Run;

/// What a workload needs of an executor. All but `block_on` are called inside it.
pub(crate) trait Executor: 'static {
    /// Sends one value to one task.
    type Sender;
    /// Receives it.
    type Receiver: Future<Output = u64> + 'static;

    fn new() -> Self;
    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T;
    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static;
    fn yield_now() -> impl Future<Output = ()>;
    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static;
    fn oneshot() -> (Self::Sender, Self::Receiver);
    fn send(sender: Self::Sender, value: u64);
}

/// One case of the bench, by the name of its workload.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
}

#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// So many tasks yield in turn.
    Yield(u64),
    /// Spawn so many tasks, then join them.
    SpawnJoin(u64),
    /// Two tasks wake each other through a cell that holds a waker.
    Wake,
    /// Two tasks send each other a new oneshot in each message; an operation is there and back.
    Oneshot,
    /// Register a far timer and drop it.
    TimerDrop,
    /// So many timers come due at once, each wakes its task.
    TimerFire(u64),
}

pub(crate) const CASES: &[Case] = &[
    Case { name: "yield, 1 task", work: Work::Yield(1) },
    Case { name: "yield, 1000 tasks", work: Work::Yield(1000) },
    Case { name: "spawn + join", work: Work::SpawnJoin(1) },
    Case { name: "spawn 1000, join", work: Work::SpawnJoin(1000) },
    Case { name: "wake + switch", work: Work::Wake },
    Case { name: "oneshot, ping-pong", work: Work::Oneshot },
    Case { name: "timer insert + drop", work: Work::TimerDrop },
    Case { name: "timer fire", work: Work::TimerFire(1000) },
];

/// What runs `work` on a new executor `E`.
pub(crate) fn build<E: Executor>(work: Work) -> Run {
    let mut executor = E::new();
    Box::new(move |operations| match work {
        Work::Yield(tasks) => executor.block_on(yields::<E>(tasks, operations)),
        Work::SpawnJoin(tasks) => executor.block_on(spawn_join::<E>(tasks, operations)),
        Work::Wake => executor.block_on(wakes::<E>(operations)),
        Work::Oneshot => executor.block_on(oneshots::<E>(operations)),
        Work::TimerDrop => executor.block_on(timer_drops::<E>(operations)),
        Work::TimerFire(timers) => executor.block_on(timer_fires::<E>(timers, operations)),
    })
}

/// A future that wakes itself once: the cheapest yield of executors that offer none of their own, and of tokio, whose
/// `yield_now` asks the kernel for events before an otherwise idle task runs again.
#[cfg_attr(not(feature = "peers"), allow(dead_code, reason = "demi has its own"))]
pub(crate) async fn wake_self_once() {
    let mut woken = false;
    poll_fn(|cx| {
        if woken {
            return Poll::Ready(());
        }
        woken = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn yields<E: Executor>(tasks: u64, operations: u64) -> Duration {
    // Never fewer than one round a task; time is scaled to the operations asked for.
    let rounds = operations.div_ceil(tasks).max(1);
    let handles: Vec<_> = (0..tasks)
        .map(|_| {
            E::spawn(async move {
                for _ in 0..rounds {
                    E::yield_now().await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    for handle in handles {
        handle.await;
    }
    scale(start.elapsed(), rounds * tasks, operations)
}

async fn spawn_join<E: Executor>(tasks: u64, operations: u64) -> Duration {
    let rounds = operations.div_ceil(tasks).max(1);
    let mut handles = Vec::with_capacity(tasks as usize);
    let counter = Rc::new(Cell::new(0u64));
    let start = Instant::now();
    for _ in 0..rounds {
        for _ in 0..tasks {
            let counter = counter.clone();
            handles.push(E::spawn(async move { counter.set(counter.get() + 1) }));
        }
        for handle in handles.drain(..) {
            handle.await;
        }
    }
    let elapsed = start.elapsed();
    assert_eq!(counter.get(), rounds * tasks, "every task ran");
    scale(elapsed, rounds * tasks, operations)
}

/// A cell that one task waits on and another sets.
#[derive(Default)]
struct Flag {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Flag {
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.set.take() {
            return Poll::Ready(());
        }
        let mut waiter = self.waiter.borrow_mut();
        match &mut *waiter {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn set(&self) {
        self.set.set(true);
        if let Some(waiter) = &*self.waiter.borrow() {
            waiter.wake_by_ref();
        }
    }
}

async fn wakes<E: Executor>(operations: u64) -> Duration {
    let there = Rc::new(Flag::default());
    let back = Rc::new(Flag::default());
    let rounds = operations.div_ceil(2);
    let echo = {
        let (there, back) = (there.clone(), back.clone());
        E::spawn(async move {
            for _ in 0..rounds {
                poll_fn(|cx| there.poll(cx)).await;
                back.set();
            }
        })
    };
    let start = Instant::now();
    let caller = E::spawn(async move {
        for _ in 0..rounds {
            there.set();
            poll_fn(|cx| back.poll(cx)).await;
        }
    });
    caller.await;
    echo.await;
    scale(start.elapsed(), rounds * 2, operations)
}

/// A slot in which one side leaves the other the sender of the next message.
struct Mail<E: Executor>(RefCell<Option<E::Sender>>);

async fn oneshots<E: Executor>(operations: u64) -> Duration {
    let rounds = operations;
    let to_echo: Rc<Mail<E>> = Rc::new(Mail(RefCell::new(None)));
    let to_caller: Rc<Mail<E>> = Rc::new(Mail(RefCell::new(None)));
    let (first, mut request) = E::oneshot();
    to_echo.0.replace(Some(first));
    let echo = {
        let (to_echo, to_caller) = (to_echo.clone(), to_caller.clone());
        E::spawn(async move {
            for _ in 0..rounds {
                let value = request.await;
                let (sender, next) = E::oneshot();
                request = next;
                to_echo.0.replace(Some(sender));
                let reply = to_caller.0.take();
                if let Some(reply) = reply {
                    E::send(reply, value + 1);
                }
            }
        })
    };
    let start = Instant::now();
    let caller = E::spawn(async move {
        let mut value = 0;
        for _ in 0..rounds {
            let (sender, reply) = E::oneshot();
            to_caller.0.replace(Some(sender));
            let request = to_echo.0.take();
            if let Some(request) = request {
                E::send(request, value);
            }
            value = reply.await;
        }
        assert_eq!(value, rounds, "every message came back");
    });
    caller.await;
    let elapsed = start.elapsed();
    echo.await;
    elapsed
}

async fn timer_drops<E: Executor>(operations: u64) -> Duration {
    poll_fn(move |cx| {
        let start = Instant::now();
        for round in 0..operations {
            let sleep = pin!(E::sleep(Duration::from_secs(3600) + Duration::from_micros(round & 0xffff)));
            assert!(sleep.poll(cx).is_pending(), "an hour has not passed");
        }
        Poll::Ready(start.elapsed())
    })
    .await
}

async fn timer_fires<E: Executor>(timers: u64, operations: u64) -> Duration {
    let rounds = operations.div_ceil(timers).max(1);
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let waiting = Rc::new(Cell::new(timers));
        let registered = Rc::new(Flag::default());
        let handles: Vec<Pin<Box<dyn Future<Output = ()>>>> = (0..timers)
            .map(|_| {
                let (waiting, registered) = (waiting.clone(), registered.clone());
                Box::pin(E::spawn(async move {
                    let mut sleep = pin!(E::sleep(Duration::from_millis(3)));
                    let first = poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await;
                    waiting.set(waiting.get() - 1);
                    if waiting.get() == 0 {
                        registered.set();
                    }
                    if first.is_pending() {
                        sleep.await;
                    }
                })) as _
            })
            .collect();
        poll_fn(|cx| registered.poll(cx)).await;
        // Every timer is registered. Let all come due while nobody looks, then take the time until every task has run.
        let due = Instant::now() + Duration::from_millis(6);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        for handle in handles {
            handle.await;
        }
        total += start.elapsed();
    }
    scale(total, rounds * timers, operations)
}

/// The time `operations` would have taken, given that of `done`.
fn scale(elapsed: Duration, done: u64, operations: u64) -> Duration {
    Duration::from_nanos((elapsed.as_nanos() as f64 * operations as f64 / done as f64) as u64)
}
