//! The peers: each one's own way to spawn, yield, sleep and send a oneshot.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use demi_benches::kit::Group;

use super::work::{Case, Executor, build, wake_self_once};

/// Adds every peer to the group of `case`.
pub(crate) fn add(group: Group, case: &Case) -> Group {
    let work = case.work;
    group
        .peer("tokio current_thread", move || build::<TokioCurrentThread>(work))
        .peer("tokio LocalSet", move || build::<TokioLocal>(work))
        .peer("futures LocalPool", move || build::<LocalPool>(work))
        .peer("smol LocalExecutor", move || build::<Smol>(work))
        .peer("monoio", move || build::<Monoio>(work))
        .peer("glommio", move || build::<Glommio>(work))
        .peer("compio", move || build::<Compio>(work))
}

/// Oneshots of peers that bring none: the one of `futures`.
macro_rules! futures_oneshot {
    () => {
        type Sender = futures::channel::oneshot::Sender<u64>;
        type Receiver = Received;

        fn oneshot() -> (Self::Sender, Self::Receiver) {
            let (sender, receiver) = futures::channel::oneshot::channel();
            (sender, Received(receiver))
        }

        fn send(sender: Self::Sender, value: u64) {
            let _ = sender.send(value);
        }
    };
}

macro_rules! tokio_oneshot {
    () => {
        type Sender = tokio::sync::oneshot::Sender<u64>;
        type Receiver = TokioReceived;

        fn oneshot() -> (Self::Sender, Self::Receiver) {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            (sender, TokioReceived(receiver))
        }

        fn send(sender: Self::Sender, value: u64) {
            let _ = sender.send(value);
        }
    };
}

/// A oneshot of `futures` that answers 0 when its sender is gone.
pub(crate) struct Received(futures::channel::oneshot::Receiver<u64>);

impl Future for Received {
    type Output = u64;
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<u64> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|value| value.unwrap_or(0))
    }
}

/// A oneshot of tokio that answers 0 when its sender is gone.
pub(crate) struct TokioReceived(tokio::sync::oneshot::Receiver<u64>);

impl Future for TokioReceived {
    type Output = u64;
    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<u64> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|value| value.unwrap_or(0))
    }
}

fn tokio_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a tokio runtime")
}

struct TokioLocal(tokio::runtime::Runtime, tokio::task::LocalSet);

impl Executor for TokioLocal {
    tokio_oneshot!();

    fn new() -> Self {
        TokioLocal(tokio_runtime(), tokio::task::LocalSet::new())
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.1.block_on(&self.0, future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let task = tokio::task::spawn_local(future);
        async move { task.await.expect("a task that does not panic") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }
}

/// Claims that its content may cross threads. On a runtime of one thread that is never left it does not.
struct Pinned<F>(F);

// SAFETY: the only user spawns it on a `current_thread` runtime that lives, runs and dies on one thread, so the value is
// never touched from another one.
unsafe impl<F> Send for Pinned<F> {}

impl<F: Future> Future for Pinned<F> {
    type Output = F::Output;
    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<F::Output> {
        // SAFETY: the field is pinned with the whole; nothing moves it out.
        unsafe { self.map_unchecked_mut(|whole| &mut whole.0) }.poll(cx)
    }
}

struct TokioCurrentThread(tokio::runtime::Runtime);

impl Executor for TokioCurrentThread {
    tokio_oneshot!();

    fn new() -> Self {
        TokioCurrentThread(tokio_runtime())
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.0.block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let task = tokio::spawn(Pinned(future));
        async move { task.await.expect("a task that does not panic") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }
}

thread_local! {
    static SPAWNER: RefCell<Option<futures::executor::LocalSpawner>> = const { RefCell::new(None) };
    static SMOL: Rc<smol::LocalExecutor<'static>> = Rc::new(smol::LocalExecutor::new());
}

struct LocalPool(futures::executor::LocalPool);

impl Executor for LocalPool {
    futures_oneshot!();

    fn new() -> Self {
        LocalPool(futures::executor::LocalPool::new())
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        SPAWNER.set(Some(self.0.spawner()));
        self.0.run_until(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        use futures::task::LocalSpawnExt;
        SPAWNER.with_borrow(|spawner| {
            spawner
                .as_ref()
                .expect("inside block_on")
                .spawn_local_with_handle(future)
                .expect("a pool that runs")
        })
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    // It has no timers of its own; async-io's, on their thread, are what its users take.
    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        let timer = smol::Timer::after(duration);
        async move {
            timer.await;
        }
    }
}

struct Smol;

impl Executor for Smol {
    futures_oneshot!();

    fn new() -> Self {
        Smol
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let executor = SMOL.with(Rc::clone);
        smol::block_on(executor.run(future))
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        SMOL.with(|executor| executor.spawn(future))
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        let timer = smol::Timer::after(duration);
        async move {
            timer.await;
        }
    }
}

struct Monoio(monoio::Runtime<monoio::time::TimeDriver<monoio::IoUringDriver>>);

impl Executor for Monoio {
    futures_oneshot!();

    fn new() -> Self {
        let builder = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer();
        Monoio(builder.build().expect("a monoio runtime on io_uring"))
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.0.block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        monoio::spawn(future)
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        monoio::time::sleep(duration)
    }
}

struct Glommio(glommio::LocalExecutor);

impl Executor for Glommio {
    futures_oneshot!();

    fn new() -> Self {
        Glommio(glommio::LocalExecutorBuilder::default().make().expect("a glommio executor"))
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.0.run(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        glommio::spawn_local(future)
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        let timer = glommio::timer::Timer::new(duration);
        async move {
            timer.await;
        }
    }
}

struct Compio(compio::runtime::Runtime);

impl Executor for Compio {
    futures_oneshot!();

    fn new() -> Self {
        Compio(compio::runtime::Runtime::new().expect("a compio runtime"))
    }

    fn block_on<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.0.block_on(future)
    }

    fn spawn(future: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let task = compio::runtime::spawn(future);
        async move { task.await.unwrap_or_else(|_| panic!("a task panicked")) }
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_self_once()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        compio::time::sleep(duration)
    }
}
