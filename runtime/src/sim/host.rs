//! One host of a simulation: a runtime that is turned from outside.

use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi_drivers::{Instant, Transport};

use super::{Cause, HostReport, Machine, Main, Rng};
use crate::config::Config;
use crate::cores::Placing;
use crate::executor::Number;
use crate::runtime::Runtime;
use crate::task::JoinHandle;
use crate::time::timeout;
use crate::turn::Turn;

pub(super) struct Host {
    pub(super) name: String,
    /// The simulation does not wait for its main.
    pub(super) server: bool,
    /// It stands still.
    pub(super) frozen: bool,
    /// How far its clock is ahead of the simulation's.
    ahead: Rc<Cell<Duration>>,
    /// `None` while its power is cut.
    running: Option<Running>,
    slots_out_peak: usize,
    /// Numbers of the executors that it has had.
    numbers: Vec<Rc<Number>>,
    /// What is on its end of the wire, if no stack of ours is.
    machine: Option<Box<dyn Machine>>,
}

struct Running {
    runtime: Runtime,
    /// `None` once its output was taken.
    main: Option<JoinHandle<io::Result<()>>>,
}

impl Host {
    /// A host whose power is off.
    pub(super) fn new(name: String, server: bool, ahead: Rc<Cell<Duration>>) -> Host {
        Host {
            name,
            server,
            frozen: false,
            ahead,
            running: None,
            slots_out_peak: 0,
            numbers: Vec::new(),
            machine: None,
        }
    }

    /// Has this on its end of the wire.
    pub(super) fn put(&mut self, machine: Box<dyn Machine>) {
        self.machine = Some(machine);
    }

    /// Starts it. `seed` is that of the whole simulation, `life` counts the host's starts.
    pub(super) fn start(
        &mut self,
        seed: u64,
        life: u32,
        config: Config,
        transports: Vec<Box<dyn Transport>>,
        (placing, main): (Option<Placing>, Main),
    ) -> io::Result<()> {
        // What is left to deliver is delivered while the simulation drains.
        let wait = config.address_wait_ms;
        let config = config.seed(Rng::seed_for(seed, &self.seed_name(life))).drain_ms(Duration::ZERO);
        let builder = Runtime::builder().transports(transports).start_paused(true);
        let runtime = match placing {
            None => builder.config(config).build()?,
            Some(placing) => builder.config(config.check()?).build_at(placing)?,
        };
        self.numbers.push(runtime.inner().executor().hold_number());
        let main = runtime.spawn(async move {
            // As `block_on` does before it begins.
            let _ = timeout(wait, crate::net::configured()).await;
            main().await
        });
        self.running = Some(Running { runtime, main: Some(main) });
        Ok(())
    }

    /// What its seeds are called: each life has secrets of its own.
    pub(super) fn seed_name(&self, life: u32) -> String {
        if life == 0 { self.name.clone() } else { format!("{} {life}", self.name) }
    }

    /// Takes the numbers of its executors: until they are dropped, no other simulation's executor is woken by what its cores leave for
    /// each other when they go.
    pub(super) fn take_numbers(&mut self) -> Vec<Rc<Number>> {
        core::mem::take(&mut self.numbers)
    }

    /// Takes all it holds away.
    pub(super) fn crash(&mut self) {
        self.running = None;
    }

    /// Whether its power is on.
    pub(super) fn is_on(&self) -> bool {
        self.running.is_some()
    }

    /// One turn of the loop.
    pub(super) fn turn(&mut self) -> Turn {
        let Some(Running { runtime, .. }) = self.running.as_ref().filter(|_| !self.frozen) else {
            return Turn::Idle;
        };
        let mut turn = Turn::Idle;
        if let Some(machine) = &mut self.machine
            && machine.poll(runtime.inner().now())
        {
            turn = Turn::Busy;
        }
        if runtime.enter(|| runtime.inner().turn()) == Turn::Busy {
            turn = Turn::Busy;
        }
        if turn == Turn::Busy {
            self.slots_out_peak = self.slots_out_peak.max(runtime.inner().transports().slots_out());
        }
        turn
    }

    /// What main has ended with, once.
    pub(super) fn take_result(&mut self) -> Option<Result<(), Cause>> {
        let running = self.running.as_mut()?;
        let main = running.main.as_mut().filter(|main| main.is_finished())?;
        let Poll::Ready(result) = Pin::new(main).poll(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        running.main = None;
        let host = self.name.clone();
        Some(match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Cause::Failed { host, error }),
            Err(error) => Err(Cause::Panicked { host, message: error.to_string() }),
        })
    }

    /// Whether its main has not ended; one whose power is off will start again.
    pub(super) fn is_running(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.main.is_some())
    }

    /// Drops the host's tasks, which closes their sockets.
    pub(super) fn end(&mut self) {
        let Some(running) = &mut self.running else { return };
        running.main = None;
        let inner = running.runtime.inner();
        running.runtime.enter(|| inner.executor().shut_down());
    }

    /// When it has something to do, by the simulation's clock.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let running = self.running.as_ref().filter(|_| !self.frozen)?;
        let machine = self.machine.as_ref().and_then(|machine| machine.deadline());
        let first = running.runtime.inner().deadline().into_iter().chain(machine).min()?;
        Some(first - self.ahead.get())
    }

    /// The time, by the simulation's clock.
    pub(super) fn now(&self) -> Option<Instant> {
        Some(self.running.as_ref()?.runtime.inner().now() - self.ahead.get())
    }

    pub(super) fn advance_to(&self, to: Instant) {
        if let Some(running) = &self.running {
            running.runtime.inner().clock().advance_to(to + self.ahead.get());
        }
    }

    /// Moves its clock on by so much.
    pub(super) fn leap(&self, by: Duration) {
        self.ahead.set(self.ahead.get() + by);
    }

    /// Whether a thread of the host may be about to wake a task.
    pub(super) fn is_blocked_outside(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.runtime.inner().blocking().is_busy())
    }

    pub(super) fn closing(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.runtime.usage().closing)
    }

    /// Whether connections, records of them, or frames on their way out are left.
    pub(super) fn holds_anything(&self) -> bool {
        let Some(Running { runtime, .. }) = &self.running else { return false };
        let usage = runtime.usage();
        usage.streams + usage.closing + usage.time_wait > 0 || runtime.inner().transports().slots_out() > 0
    }

    /// What it has left; `None` when its power is off.
    pub(super) fn report(&self) -> Option<HostReport> {
        let Running { runtime, .. } = self.running.as_ref()?;
        Some(HostReport {
            name: self.name.clone(),
            usage: runtime.inner().transports().usage(),
            slots_out: runtime.inner().transports().slots_out(),
            slots_out_peak: self.slots_out_peak,
            metrics: runtime.metrics(),
        })
    }

    /// What tells two turns apart.
    pub(super) fn fingerprint(&self) -> [u64; 4] {
        let Some(Running { runtime, .. }) = &self.running else { return [0; 4] };
        let metrics = runtime.metrics();
        [metrics.task_polls, metrics.timers_fired, metrics.transport_events, metrics.tasks_spawned]
    }
}
