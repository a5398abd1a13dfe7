//! What a runtime counts about itself: plain cells, bumped by the loop, read as a snapshot; and what it holds.

use core::cell::Cell;
use core::fmt;
use std::time::Duration;

use crate::context;
use crate::runtime::Inner;

/// Counters of the loop. Those of the executor are its own.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) turns: Cell<u64>,
    pub(crate) idle_turns: Cell<u64>,
    pub(crate) budget_spent: Cell<u64>,
    pub(crate) parks: Cell<u64>,
    pub(crate) parked_nanos: Cell<u64>,
    pub(crate) timers_fired: Cell<u64>,
    pub(crate) transport_events: Cell<u64>,
    pub(crate) transport_errors: Cell<u64>,
}

/// Adds to a counter; it wraps after centuries.
#[inline]
pub(crate) fn add(counter: &Cell<u64>, by: u64) {
    counter.set(counter.get().wrapping_add(by));
}

/// A runtime's counters at one moment, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// Turns of the loop.
    pub turns: u64,
    /// Turns in which nothing arrived, no task ran and no timer fired.
    pub idle_turns: u64,
    /// Turns that ended with tasks still ready, because the budget was spent.
    pub budget_spent: u64,
    /// Times the loop blocked.
    pub parks: u64,
    /// Time spent blocked.
    pub parked: Duration,
    /// Tasks alive.
    pub tasks_alive: usize,
    /// Tasks spawned.
    pub tasks_spawned: u64,
    /// Times a task was polled.
    pub task_polls: u64,
    /// Tasks, or destructors of theirs, that have panicked.
    pub task_panics: u64,
    /// Wakes that came from other threads or other runtimes.
    pub foreign_wakes: u64,
    /// Timers armed.
    pub timers_alive: usize,
    /// Timers that have fired.
    pub timers_fired: u64,
    /// Frames, completions and timers that transports saw.
    pub transport_events: u64,
    /// Errors that driving the transports has met.
    pub transport_errors: u64,
}

impl Metrics {
    pub(crate) fn of(runtime: &Inner) -> Metrics {
        let (own, tasks) = (runtime.counters(), runtime.executor().counters());
        Metrics {
            turns: own.turns.get(),
            idle_turns: own.idle_turns.get(),
            budget_spent: own.budget_spent.get(),
            parks: own.parks.get(),
            parked: Duration::from_nanos(own.parked_nanos.get()),
            tasks_alive: runtime.executor().live(),
            tasks_spawned: tasks.spawned.get(),
            task_polls: tasks.polls.get(),
            task_panics: tasks.panics.get(),
            foreign_wakes: tasks.foreign_wakes.get(),
            timers_alive: runtime.timers().len(),
            timers_fired: own.timers_fired.get(),
            transport_events: own.transport_events.get(),
            transport_errors: own.transport_errors.get(),
        }
    }
}

/// The current runtime's counters.
///
/// # Panics
/// Outside of a runtime; see [`Runtime::metrics`](crate::Runtime::metrics).
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// let before = demi::metrics();
/// demi::spawn(async {}).await.unwrap();
/// assert_eq!(demi::metrics().tasks_spawned, before.tasks_spawned + 1);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn metrics() -> Metrics {
    context::with(|runtime| Metrics::of(runtime))
}

/// What a runtime holds at one moment: what is left when a program believes that it has let go of everything.
///
/// It prints as one line, `streams=1 listeners=1 …`, for a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Connections in any state but closed, TIME-WAIT records not counted.
    pub streams: usize,
    /// Listening sockets.
    pub listeners: usize,
    /// UDP sockets.
    pub datagrams: usize,
    /// Connections that the program has closed, and whose last bytes or FIN the peer has not acknowledged.
    pub closing: usize,
    /// TIME-WAIT records.
    pub time_wait: usize,
    /// File descriptors held for sockets.
    pub descriptors: usize,
    /// Operations that the kernel has not completed yet.
    pub in_flight: usize,
    /// Packet buffers that are not free, those that lie ready to be received into included.
    pub buffers: usize,
    /// Tasks alive.
    pub tasks: usize,
}

impl Usage {
    pub(crate) fn of(runtime: &Inner) -> Usage {
        let held = runtime.transports().usage();
        Usage {
            streams: held.streams,
            listeners: held.listeners,
            datagrams: held.datagrams,
            closing: held.closing,
            time_wait: held.time_wait,
            descriptors: held.descriptors,
            in_flight: held.in_flight,
            buffers: runtime.transports().slots_out(),
            tasks: runtime.executor().live(),
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage {
            streams,
            listeners,
            datagrams,
            closing,
            time_wait,
            descriptors,
            in_flight,
            buffers,
            tasks,
        } = self;
        write!(f, "streams={streams} listeners={listeners} datagrams={datagrams} closing={closing} ")?;
        write!(
            f,
            "time_wait={time_wait} descriptors={descriptors} in_flight={in_flight} buffers={buffers} "
        )?;
        write!(f, "tasks={tasks}")
    }
}

/// What the current runtime holds.
///
/// # Panics
/// Outside of a runtime; see [`Runtime::usage`](crate::Runtime::usage).
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
/// assert_eq!(demi::usage().listeners, 1);
/// drop(listener);
/// assert_eq!(demi::usage().listeners, 0);
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn usage() -> Usage {
    context::with(|runtime| Usage::of(runtime))
}
