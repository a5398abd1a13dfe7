//! A runtime as a value: made from a configuration, run, and ended by dropping it.
//!
//! Nothing of it is the process's: several can live on one thread, one inside another's task, or many side by side in a
//! simulation.

use core::cell::{Cell, OnceCell, RefCell};
use core::fmt;
use core::task::{Context, Poll, Waker};
use std::io;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use demi_drivers::{Instant, Transport};

use crate::config::{Config, Idle, Log, ReportSignal};
use crate::context;
use crate::cores::{Pinned, Place, Placing};
use crate::executor::{Executor, JoinHandle};
use crate::failure::Failure;
use crate::metrics::{Counters, Metrics, Usage};
use crate::task::Blocking;
use crate::time::{Clock, Timers};
use crate::transports::TransportSet;
use crate::turn::Idler;

/// What one runtime consists of; what tasks find through [`context`].
pub(crate) struct Inner {
    id: u64,
    seed: u64,
    executor: Rc<Executor>,
    transports: OnceCell<Rc<TransportSet>>,
    /// What the transports are opened from when that is left to their first use; or why they cannot be.
    late: RefCell<Option<io::Result<Config>>>,
    clock: Clock,
    timers: Timers,
    blocking: Blocking,
    place: Place,
    counters: Counters,
    failure: Failure,
    #[cfg(feature = "dns")]
    resolver: Rc<crate::net::Resolver>,
    /// Somebody is in `block_on`.
    running: Cell<bool>,
    /// Nothing is left to end.
    ended: Cell<bool>,
    idle: Idle,
    spin: Duration,
    drain: Duration,
    /// How long the first `block_on` waits for addresses; nothing, once it has.
    address_wait: Cell<Duration>,
    /// What will surprise is said on standard error.
    warns: bool,
    /// The signal at which the first `block_on` has reports printed; off, once it has.
    report_signal: Cell<ReportSignal>,
}

impl Inner {
    /// Turns the loop until the transports have the addresses that they can have, or the time for that is over.
    fn wait_for_addresses(&self) {
        // Those that are opened at their first use wait then.
        let Some(transports) = self.transports.get() else { return };
        let wait = self.address_wait.replace(Duration::ZERO);
        let mut cx = Context::from_waker(Waker::noop());
        if wait.is_zero() || transports.poll_configured(&mut cx).is_ready() {
            return;
        }
        let until = self.clock.read() + wait;
        let mut idler = Idler::default();
        loop {
            let turn = self.turn();
            if transports.poll_configured(&mut cx).is_ready() {
                return;
            }
            if self.clock.read() >= until {
                return self.warn_of_no_address(wait);
            }
            idler.after(self, turn, Some(until));
        }
    }

    /// As [`wait_for_addresses`](Self::wait_for_addresses), for transports that a running task has just opened: it drives them
    /// and nothing else.
    fn wait_within_task(&self, transports: &TransportSet) {
        let wait = self.address_wait.replace(Duration::ZERO);
        let mut cx = Context::from_waker(Waker::noop());
        let until = self.clock.read() + wait;
        while !wait.is_zero() && transports.poll_configured(&mut cx).is_pending() {
            let now = self.clock.tick();
            // What is wrong with a transport is told by the loop, which will hear of it, too.
            let (Ok(events), Ok(())) = (transports.poll(now), transports.flush(now)) else { return };
            if now >= until {
                return self.warn_of_no_address(wait);
            }
            let next = transports.deadline().map_or(until, |deadline| deadline.min(until));
            if events > 0 {
                continue;
            }
            if self.clock.is_paused() {
                self.clock.advance_to(next);
            } else if transports.park(Some(next.since(now))).is_err() {
                return;
            }
        }
    }

    #[cold]
    fn warn_of_no_address(&self, wait: Duration) {
        if self.warns {
            eprintln!("demi: no address within {wait:?}: going on without; see address, address_wait_ms");
        }
    }

    /// A number that no other runtime of the process has, or had.
    #[inline]
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    #[inline]
    pub(crate) fn executor(&self) -> &Rc<Executor> {
        &self.executor
    }

    #[inline]
    pub(crate) fn transports(&self) -> &Rc<TransportSet> {
        self.transports.get_or_init(|| self.open_late())
    }

    /// The transports, if they are open.
    pub(crate) fn opened_transports(&self) -> Option<&TransportSet> {
        self.transports.get().map(|set| &**set)
    }

    /// Opens the transports of a program, which ends if that fails.
    #[cold]
    fn open_late(&self) -> Rc<TransportSet> {
        let opened = match self.late.take() {
            Some(Ok(config)) => self.open(&config),
            Some(Err(error)) => Err(error),
            None => Ok(TransportSet::from_vec(Vec::new())),
        };
        let transports = opened.unwrap_or_else(|error| crate::failure::end_program(&error));
        self.place.opened();
        self.wait_within_task(&transports);
        Rc::new(transports)
    }

    fn open(&self, config: &Config) -> io::Result<TransportSet> {
        let transports =
            TransportSet::open_at(config, self.seed, self.place.queue(), || self.place.take_lanes())?;
        transports.watch(self.executor.bell_fd())?;
        Ok(transports)
    }

    /// The time of the loop's turn.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.clock.turn()
    }

    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    #[inline]
    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn blocking(&self) -> &Blocking {
        &self.blocking
    }

    #[inline]
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    #[cfg(feature = "dns")]
    pub(crate) fn resolver(&self) -> &Rc<crate::net::Resolver> {
        &self.resolver
    }

    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(crate) fn idle_policy(&self) -> Idle {
        self.idle
    }

    pub(crate) fn spin(&self) -> Duration {
        self.spin
    }
}

/// Makes a [`Runtime`] that is not quite the usual one.
///
/// ```
/// let runtime = demi::Runtime::builder().start_paused(true).build()?;
/// runtime.block_on(async { demi::time::sleep(std::time::Duration::from_secs(3600)).await });
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct Builder {
    config: Config,
    transports: Option<Vec<Box<dyn Transport>>>,
    paused: bool,
}

impl Builder {
    /// Takes defaults from `config`; whoever runs the program may override them, see [`Config::load`].
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Uses transports that are open already, instead of those that the configuration's `device` names. The configuration
    /// is then taken as it is: neither a file nor the environment overrides it.
    pub fn transports(mut self, transports: Vec<Box<dyn Transport>>) -> Self {
        self.transports = Some(transports);
        self
    }

    /// Starts with time paused; see [`time::pause`](crate::time::pause). All runtimes that start paused start at the same
    /// instant.
    pub fn start_paused(mut self, paused: bool) -> Self {
        self.paused = paused;
        self
    }

    /// Makes the runtime.
    ///
    /// # Errors
    /// A configuration that cannot be, a device that cannot be opened: one line that names cause and cure.
    pub fn build(self) -> io::Result<Runtime> {
        let config = match &self.transports {
            Some(_) => self.config.clone().check()?,
            None => self.config.clone().load()?,
        };
        if let Some(cores) = config.cores.as_ref().filter(|cores| cores.numbers().len() > 1) {
            let message = format!("cores = {cores}: a Runtime is one core: use #[demi::main] or demi::run");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let placing = Self::alone(&config);
        self.build_of(&config, placing)
    }

    /// The place of a runtime that has no fellows.
    fn alone(config: &Config) -> Placing {
        Placing::alone(config.cores.as_ref().and_then(|cores| cores.numbers().first().copied()))
    }

    /// Makes one of several runtimes, of a configuration that is loaded.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub(crate) fn build_at(self, placing: Placing) -> io::Result<Runtime> {
        let config = self.config.clone();
        self.build_of(&config, placing)
    }

    fn build_of(self, config: &Config, placing: Placing) -> io::Result<Runtime> {
        let runtime = Self::assemble(config, self.paused, placing)?;
        let inner = &runtime.inner;
        let transports = match self.transports {
            Some(transports) => {
                let transports = TransportSet::from_vec(transports).with_options_of(config);
                transports.watch(inner.executor.bell_fd())?;
                transports
            }
            None => inner.open(config)?,
        };
        let _ = inner.transports.set(Rc::new(transports));
        Ok(runtime)
    }

    /// Makes the runtime of a program's `main`, which opens no device before a socket needs it or `main` waits for
    /// something: a program can read its arguments, and print its help, whatever is wrong with its device. What is wrong
    /// then ends the program.
    ///
    /// # Errors
    /// Those of the system alone.
    #[cfg(feature = "macros")]
    pub(crate) fn build_late(self, loaded: io::Result<Config>) -> io::Result<Runtime> {
        let placing = loaded.as_ref().map_or_else(|_| Placing::alone(None), Self::alone);
        self.build_late_at(loaded, placing)
    }

    /// As [`build_late`](Self::build_late), for one of several runtimes.
    ///
    /// # Errors
    /// As [`build_late`](Self::build_late).
    #[cfg(feature = "macros")]
    pub(crate) fn build_late_at(self, loaded: io::Result<Config>, placing: Placing) -> io::Result<Runtime> {
        let paused = self.paused;
        let made = loaded.and_then(|config| Ok((Self::assemble(&config, paused, placing)?, config)));
        let (runtime, late) = match made {
            Ok((runtime, config)) => (runtime, Ok(config)),
            Err(error) => (Self::assemble(&Config::default(), paused, Placing::alone(None))?, Err(error)),
        };
        runtime.inner.late.replace(Some(late));
        Ok(runtime)
    }

    /// A runtime without its transports.
    fn assemble(config: &Config, paused: bool, placing: Placing) -> io::Result<Runtime> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let pinned = placing.cpu().map(Pinned::to).transpose()?;
        let seed = config.seed.map_or_else(random_seed, Ok)?;
        let executor = Executor::new()?;
        let clock = if paused { Clock::virtual_time() } else { Clock::real() };
        let timers = Timers::new(clock.turn());
        let blocking = Blocking::new();
        if let Some(pinned) = &pinned {
            blocking.set_affinity(placing.beside(pinned.before()));
        }
        let (place, mail, bell) = placing.settle();
        let inner = Inner {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            seed,
            executor,
            transports: OnceCell::new(),
            late: RefCell::new(None),
            clock,
            timers,
            blocking,
            place,
            counters: Counters::default(),
            failure: Failure::new(config.log < Log::Error),
            #[cfg(feature = "dns")]
            resolver: crate::net::Resolver::new(config),
            running: Cell::new(false),
            ended: Cell::new(false),
            idle: config.idle_policy(),
            spin: config.spin_us,
            drain: config.drain_ms,
            address_wait: Cell::new(config.address_wait_ms),
            warns: config.log >= Log::Warn,
            report_signal: Cell::new(config.report_signal),
        };
        if let Some(bell) = bell {
            drop(inner.executor.spawn(crate::cores::listen(bell)));
        }
        for receiver in mail {
            drop(inner.executor.spawn(crate::cores::attend(receiver)));
        }
        Ok(Runtime { inner: Rc::new(inner), _pinned: pinned })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("paused", &self.paused)
            .finish_non_exhaustive()
    }
}

/// A runtime: an executor, its timers and its transports, on one thread.
///
/// Dropping it ends it: tasks that are not finished are dropped, which closes their sockets; then the transports are
/// driven on until all that was written is delivered and the closes are acknowledged, or the configured drain time is
/// over; then the devices are closed. [`shut_down`](Self::shut_down) does the same and tells how it went.
///
/// ```
/// let runtime = demi::Runtime::new(demi::Config::default())?;
/// let answer = runtime.block_on(async {
///     let task = demi::spawn(async { 6 * 7 });
///     task.await.unwrap()
/// });
/// assert_eq!(answer, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Runtime {
    inner: Rc<Inner>,
    _pinned: Option<Pinned>,
}

/// How a runtime has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it tells whether data was lost"]
#[non_exhaustive]
pub enum Drained {
    /// Everything that was written is delivered, and every close acknowledged.
    Clean,
    /// The drain time was over first.
    TimedOut {
        /// Connections whose last bytes or FIN the peer has not acknowledged.
        closing: usize,
    },
}

impl Runtime {
    /// A runtime as `config` has it, unless whoever runs the program wants it otherwise: the file that `DEMI_CONFIG` names
    /// and the `DEMI_*` variables override it.
    ///
    /// # Errors
    /// A configuration that cannot be, a device that cannot be opened: one line that names cause and cure.
    pub fn new(config: Config) -> io::Result<Runtime> {
        Self::builder().config(config).build()
    }

    /// For a runtime that is not quite the usual one.
    pub fn builder() -> Builder {
        Builder { config: Config::default(), transports: None, paused: false }
    }

    /// A runtime without transports.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn for_tests() -> Runtime {
        Self::builder().transports(Vec::new()).build().unwrap()
    }

    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }

    /// Runs `future` to its end, and all tasks beside it. Tasks that are not finished then go on with the next `block_on`.
    ///
    /// `future` need be neither `Send` nor `'static`.
    ///
    /// # Panics
    /// With `future`'s panic; and when called from within itself: one runtime runs one loop. Another runtime may be run
    /// inside a task, which keeps all others of this one waiting.
    ///
    /// ```
    /// let runtime = demi::Runtime::new(demi::Config::new())?;
    /// let word = String::from("borrowed");
    /// assert_eq!(runtime.block_on(async { word.len() }), 8);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        assert!(
            !self.inner.running.replace(true),
            "this runtime is running already: await the future instead of calling block_on inside of a task"
        );
        let running = Running(&self.inner);
        let output = context::enter(&self.inner, || {
            self.inner.wait_for_addresses();
            let report_signal = self.inner.report_signal.take();
            if report_signal != ReportSignal::Off {
                drop(self.inner.executor.spawn(crate::report::on_signal(report_signal)));
            }
            let mut main = self.inner.executor.scoped(future);
            if self.inner.transports.get().is_none() && self.inner.executor.collect_wakes() {
                self.inner.executor.run(1);
                if let Poll::Ready(output) = main.take() {
                    return output;
                }
            }
            let mut idler = Idler::default();
            loop {
                let turn = self.inner.turn();
                if let Poll::Ready(output) = main.take() {
                    return output;
                }
                idler.after(&self.inner, turn, None);
            }
        });
        drop(running);
        output.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(payload) => std::panic::resume_unwind(payload),
            // Nobody has a handle of it to abort.
            Err(error) => unreachable!("{error}"),
        })
    }

    /// Spawns a task that runs during `block_on`.
    ///
    /// ```
    /// let runtime = demi::Runtime::new(demi::Config::new())?;
    /// let task = runtime.spawn(async { 6 * 7 });
    /// assert_eq!(runtime.block_on(task).unwrap(), 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.inner.executor.spawn(future)
    }

    /// Calls `f` with this runtime as the current one, so that it can spawn and open sockets; nothing runs meanwhile.
    ///
    /// ```
    /// let runtime = demi::Runtime::new(demi::Config::default())?;
    /// let task = runtime.enter(|| demi::spawn(async { 1 }));
    /// assert_eq!(runtime.block_on(task).unwrap(), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        context::enter(&self.inner, f)
    }

    /// The runtime's counters.
    ///
    /// ```
    /// let runtime = demi::Runtime::new(demi::Config::new())?;
    /// runtime.block_on(demi::task::yield_now());
    /// assert!(runtime.metrics().task_polls > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn metrics(&self) -> Metrics {
        Metrics::of(&self.inner)
    }

    /// What the runtime holds.
    ///
    /// ```
    /// let runtime = demi::Runtime::new(demi::Config::new())?;
    /// let socket = runtime.block_on(demi::net::UdpSocket::bind("127.0.0.1:0"))?;
    /// assert_eq!(runtime.usage().datagrams, 1);
    /// drop(socket);
    /// assert_eq!(runtime.usage().datagrams, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn usage(&self) -> Usage {
        Usage::of(&self.inner)
    }

    /// The seed of everything random in this runtime: the configured one, or the one that was drawn.
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// Ends the runtime, as dropping it does.
    ///
    /// ```
    /// let runtime = demi::Runtime::new(demi::Config::new())?;
    /// runtime.block_on(async { /* a program */ });
    /// match runtime.shut_down() {
    ///     demi::Drained::Clean => {}
    ///     undelivered => eprintln!("{undelivered:?}"),
    /// }
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn shut_down(self) -> Drained {
        self.end()
    }

    fn end(&self) -> Drained {
        let inner = &self.inner;
        inner.ended.set(true);
        context::enter(inner, || {
            inner.executor.shut_down();
            let Some(transports) = inner.transports.get() else {
                // None was ever needed.
                inner.blocking.shut_down(inner.drain);
                return Drained::Clean;
            };
            let until = inner.clock.read() + inner.drain;
            let mut idler = Idler::default();
            let mut closing = transports.closing();
            while closing > 0 && inner.clock.read() < until {
                let turn = inner.turn();
                closing = transports.closing();
                if closing > 0 {
                    idler.after(inner, turn, Some(until));
                }
            }
            // What the last closes have queued, resets included, goes out.
            inner.turn();
            inner.blocking.shut_down(inner.drain);
            if closing == 0 { Drained::Clean } else { Drained::TimedOut { closing } }
        })
    }
}

/// `block_on` is under way.
struct Running<'r>(&'r Inner);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.inner.ended.get() {
            let _ = self.end();
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime")
            .field("id", &self.inner.id)
            .field("metrics", &self.metrics())
            .finish_non_exhaustive()
    }
}

/// A seed that nobody can guess.
pub(crate) fn random_seed() -> io::Result<u64> {
    let mut seed = [0u8; 8];
    // SAFETY: eight bytes, as many as asked for; the kernel gives up to 256 bytes at once.
    match unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) } {
        8 => Ok(u64::from_ne_bytes(seed)),
        _ => Err(io::Error::last_os_error()),
    }
}
