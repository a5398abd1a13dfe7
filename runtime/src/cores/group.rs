//! The cores of a program: begun together, run together, ended together.
//!
//! Every core runs the same `main`, on a runtime of its own. The first one runs on the thread that asks, and opens its
//! devices first: the others follow it. A core whose `main` has ended goes on serving the others until all have; the
//! first panic, or the first output that stands for a failure, ends all of them: where they wait, their `main`s are dropped.
//! A panic that no task has caught, of a destructor or of the loop itself, is such an end as well: no core is left waiting for one
//! that is gone, nor serving beside it.

use core::any::Any;
use core::cell::Cell;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

use super::place::Placing;
use super::{Affinity, Pinned};
use crate::config::Config;
#[cfg(feature = "macros")]
use crate::failure::end_program;
use crate::mesh::Waiting;
use crate::runtime::{Drained, Runtime, random_seed};

/// Runs `main` on each of the configured cores ([`Config::cores`](crate::Config::cores)), or once where the calling thread is
/// when none are named; answers the outputs in the order of the cores.
///
/// The first core's runtime is on the calling thread, each other one on a thread of its own, pinned to its core. All have
/// devices of the same names: of a network device each has a queue, and kernel sockets that listen share their ports
/// (`SO_REUSEPORT`), so the `main` of a server for one core serves with all of them. What a core's tasks hold stays there; for what
/// has to cross, see [`Core::spawn`](crate::Core::spawn) and [`mesh`](crate::mesh).
///
/// Whoever runs the program may override the configuration, as for [`Runtime::new`]. It returns when `main` has
/// ended on all cores, what was written is delivered, and the devices are closed.
///
/// # Errors
/// As [`Runtime::new`].
///
/// # Panics
/// With the first panic of a core's `main`; the others are ended then, where they wait.
///
/// ```
/// let answers = demi::run(demi::Config::new(), || async { demi::this_core().index() })?;
/// assert_eq!(answers, [0]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn run<F, Fut>(config: Config, main: F) -> io::Result<Vec<Fut::Output>>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future + 'static,
    Fut::Output: Send + 'static,
{
    let config = config.load()?;
    let (crew, mut placings) = prepare(&config, main, |output| (output, false))?;
    let first = placings.next().ok_or(io::ErrorKind::InvalidInput)?;
    let runtime = Runtime::builder().config(config.clone()).build_at(first)?;

    let mut threads = Vec::new();
    let mut failed = None;
    for placing in placings {
        match begin(&crew, &config, placing) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                failed = Some(error);
                crew.stop();
                break;
            }
        }
    }
    crew.serve(0, runtime);
    threads.into_iter().for_each(|thread| drop(thread.join()));
    match failed {
        Some(error) => Err(error),
        None => Ok(crew.outcome()),
    }
}

/// Runs a program's `main` on several cores, the first of which opens its devices when `main` needs them, and begins the
/// others then: a program can read its arguments, and print its help, once. `judge` makes something of an output that
/// can cross threads, and says whether it stands for a failure, which ends the program; answers the first failure, or
/// else what the first core made.
#[cfg(feature = "macros")]
pub(crate) fn run_main<F, Fut, R>(
    config: &Config,
    main: F,
    judge: fn(Fut::Output) -> (R, bool),
) -> io::Result<R>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future + 'static,
    R: Send + 'static,
{
    let (crew, mut placings) = prepare(config, main, judge)?;
    let first = placings.next().ok_or(io::ErrorKind::InvalidInput)?;
    let runtime = Runtime::builder().build_late_at(Ok(config.clone()), first)?;
    let threads = Arc::new(Mutex::new(Vec::new()));
    let begin_others = {
        let (crew, config, threads) = (Arc::clone(&crew), config.clone(), Arc::clone(&threads));
        move || {
            for placing in placings {
                match begin(&crew, &config, placing) {
                    Ok(thread) => lock(&threads).push(thread),
                    Err(error) => end_program(&error),
                }
            }
        }
    };
    runtime.inner().place().set_on_open(Box::new(begin_others));
    crew.serve(0, runtime);
    let threads = core::mem::take(&mut *lock(&threads));
    threads.into_iter().for_each(|thread| drop(thread.join()));
    crew.outcome().into_iter().next().ok_or_else(|| io::Error::other("no core has run"))
}

/// Begins a core: its thread, and its devices, which are open when this returns, for queues are numbered in the order in
/// which they are opened.
fn begin<F, Fut, R>(
    crew: &Arc<Crew<Main<F, Fut, R>, R>>,
    config: &Config,
    placing: Placing,
) -> io::Result<thread::JoinHandle<()>>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future + 'static,
    R: Send + 'static,
{
    let index = placing.index;
    let (told, tells) = mpsc::channel();
    let body = {
        let (crew, config) = (Arc::clone(crew), config.clone());
        move || match Runtime::builder().config(config).build_at(placing) {
            Ok(runtime) => {
                crew.left.fetch_add(1, Ordering::Relaxed);
                let _ = told.send(Ok(()));
                crew.serve(index, runtime);
            }
            Err(error) => {
                let _ = told.send(Err(error));
            }
        }
    };
    let thread = thread::Builder::new()
        .name(format!("demi-core-{index}"))
        .spawn(body)
        .map_err(|error| io::Error::new(error.kind(), format!("no thread for core {index}: {error}")))?;
    // A thread that tells nothing has panicked while it opened its devices.
    let opened =
        tells.recv().unwrap_or_else(|_| Err(io::Error::other(format!("core {index} did not begin"))));
    opened.map(|()| thread)
}

/// What is needed to begin: what the cores will share, and the place of each.
#[expect(clippy::type_complexity, reason = "said in words above; it has one use")]
fn prepare<F, Fut: Future, R>(
    config: &Config,
    make: F,
    judge: fn(Fut::Output) -> (R, bool),
) -> io::Result<(Arc<Crew<Main<F, Fut, R>, R>>, std::vec::IntoIter<Placing>)> {
    let cpus: Arc<[Option<usize>]> = match &config.cores {
        Some(cores) => cores.numbers().iter().copied().map(Some).collect(),
        None => Arc::new([None]),
    };
    let process = Affinity::current()?;
    // Each is tried before anything is begun.
    for cpu in cpus.iter().copied().flatten() {
        drop(Pinned::to(cpu)?);
    }
    let devices = config.device.iter().filter(|device| !device.is_kernel()).count();
    let secret = match config.seed {
        Some(seed) => [seed, !seed, seed],
        None => [random_seed()?, random_seed()?, random_seed()?],
    };
    let placings = Placing::all(&cpus, &process, devices, secret);
    let crew = Crew {
        main: Main { make, judge },
        ended: Mutex::new(Vec::new()),
        left: AtomicUsize::new(1),
        stopped: AtomicBool::new(false),
        judging: Mutex::new(()),
        waiting: cpus.iter().map(|_| Waiting::new()).collect(),
    };
    Ok((Arc::new(crew), placings.into_iter()))
}

/// What every core runs.
struct Main<F, Fut: Future, R> {
    make: F,
    judge: fn(Fut::Output) -> (R, bool),
}

/// How a core's `main` has ended.
enum Ended<R> {
    Output(R),
    /// It stands for a failure.
    Failed(R),
    Panicked(Box<dyn Any + Send>),
    /// Another core's end was its, too.
    Stopped,
}

/// What the cores share while they run: who has ended, and how. Touched when one ends, not in between.
struct Crew<M, R> {
    main: M,
    /// In the order in which they ended.
    ended: Mutex<Vec<(usize, Ended<R>)>>,
    /// Cores begun that have not ended.
    left: AtomicUsize,
    stopped: AtomicBool,
    /// Held while an output is judged.
    judging: Mutex<()>,
    /// One a core.
    waiting: Box<[Waiting]>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing foreign runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<M, R> Crew<M, R> {
    /// Ends all of them.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.waiting.iter().for_each(Waiting::wake);
    }

    /// The core with this index has ended.
    fn end(&self, index: usize, how: Ended<R>) {
        let fatal = matches!(how, Ended::Panicked(_) | Ended::Failed(_));
        lock(&self.ended).push((index, how));
        if fatal {
            self.stop();
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waiting.iter().for_each(Waiting::wake);
        }
    }

    /// The first core that failed decides, by its panic or by its output; else all have an output, in the order of the
    /// cores, save those that were told to end.
    fn outcome(&self) -> Vec<R> {
        let mut ended = core::mem::take(&mut *lock(&self.ended));
        let fatal = ended.iter().position(|(_, how)| matches!(how, Ended::Panicked(_) | Ended::Failed(_)));
        if let Some(at) = fatal {
            match ended.swap_remove(at).1 {
                Ended::Panicked(payload) => resume_unwind(payload),
                Ended::Failed(output) => return vec![output],
                Ended::Output(_) | Ended::Stopped => {}
            }
        }
        ended.sort_by_key(|(index, _)| *index);
        let outputs = ended.into_iter().filter_map(|(_, how)| match how {
            Ended::Output(output) | Ended::Failed(output) => Some(output),
            Ended::Panicked(_) | Ended::Stopped => None,
        });
        outputs.collect()
    }
}

impl<F, Fut, R> Crew<Main<F, Fut, R>, R>
where
    F: Fn() -> Fut,
    Fut: Future + 'static,
{
    /// Runs `main` on this core, then what other cores want of it until all have ended; and ends the runtime.
    fn serve(&self, index: usize, runtime: Runtime) {
        let ended = Cell::new(false);
        let serve = || {
            runtime.block_on(async {
                let make = &self.main.make;
                let main =
                    Stoppable { crew: self, index, is_known: false, main: Box::pin(async { make().await }) };
                let how = main.await;
                ended.set(true);
                self.end(index, how);
                poll_fn(|cx| self.poll_all_ended(index, cx)).await;
            });
            if let Drained::TimedOut { closing } = runtime.shut_down() {
                eprintln!(
                    "demi: {closing} connections had bytes left to deliver when the drain time was over"
                );
            }
        };
        // What unwinds here has been said by the panic hook, with the thread's name; the core is gone.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(serve)) {
            if ended.get() {
                lock(&self.ended).push((index, Ended::Panicked(payload)));
                self.stop();
            } else {
                self.end(index, Ended::Panicked(payload));
            }
        }
    }

    fn poll_all_ended(&self, index: usize, cx: &mut Context<'_>) -> Poll<()> {
        let all = || self.left.load(Ordering::Acquire) == 0;
        if !all() {
            if let Some(waiting) = self.waiting.get(index) {
                waiting.leave(cx.waker());
            }
            if !all() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

/// A core's `main`, until it ends, panics, or is told to end.
struct Stoppable<'c, F, Fut: Future, R, M> {
    crew: &'c Crew<Main<F, Fut, R>, R>,
    index: usize,
    /// Who stops it knows how to wake it.
    is_known: bool,
    main: Pin<Box<M>>,
}

impl<F, Fut, R, M> Future for Stoppable<'_, F, Fut, R, M>
where
    F: Fn() -> Fut,
    Fut: Future + 'static,
    M: Future<Output = Fut::Output>,
{
    type Output = Ended<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended<R>> {
        let this = &mut *self;
        if !this.is_known
            && let Some(waiting) = this.crew.waiting.get(this.index)
        {
            this.is_known = true;
            waiting.leave(cx.waker());
        }
        if this.crew.stopped.load(Ordering::Acquire) {
            return Poll::Ready(Ended::Stopped);
        }
        let crew = this.crew;
        let judged = || {
            this.main.as_mut().poll(cx).map(|output| {
                // One after the other, and nobody after a failure: it is told once.
                let _alone = lock(&crew.judging);
                if crew.stopped.load(Ordering::Acquire) {
                    return None;
                }
                let (output, failed) = (crew.main.judge)(output);
                if failed {
                    crew.stop();
                }
                Some((output, failed))
            })
        };
        match catch_unwind(AssertUnwindSafe(judged)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Some((output, false)))) => Poll::Ready(Ended::Output(output)),
            Ok(Poll::Ready(Some((output, true)))) => Poll::Ready(Ended::Failed(output)),
            Ok(Poll::Ready(None)) => Poll::Ready(Ended::Stopped),
            Err(payload) => Poll::Ready(Ended::Panicked(payload)),
        }
    }
}
