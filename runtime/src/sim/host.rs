//! One host of a simulation: a runtime that is turned from outside.

use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::io;
use std::time::Duration;

use demi_drivers::{Instant, Transport};

use super::{Cause, HostReport, Main, Rng};
use crate::config::Config;
use crate::runtime::Runtime;
use crate::task::JoinHandle;
use crate::time::timeout;
use crate::turn::Turn;

pub(super) struct Host {
    pub(super) name: String,
    /// The simulation does not wait for its main.
    pub(super) server: bool,
    runtime: Runtime,
    /// `None` once its output was taken.
    main: Option<JoinHandle<io::Result<()>>>,
}

impl Host {
    pub(super) fn start(
        name: String,
        server: bool,
        seed: u64,
        config: Config,
        transports: Vec<Box<dyn Transport>>,
        main: Main,
    ) -> io::Result<Host> {
        // What is left to deliver is delivered while the simulation drains.
        let wait = config.address_wait_ms;
        let config = config.seed(Rng::seed_for(seed, &name)).drain_ms(Duration::ZERO);
        let runtime = Runtime::builder().config(config).transports(transports).start_paused(true).build()?;
        let main = runtime.spawn(async move {
            // As `block_on` does before it begins.
            let _ = timeout(wait, crate::net::configured()).await;
            main().await
        });
        Ok(Host { name, server, runtime, main: Some(main) })
    }

    /// One turn of the loop.
    pub(super) fn turn(&self) -> Turn {
        self.runtime.enter(|| self.runtime.inner().turn())
    }

    /// What main has ended with, once.
    pub(super) fn take_result(&mut self) -> Option<Result<(), Cause>> {
        let main = self.main.as_mut().filter(|main| main.is_finished())?;
        let Poll::Ready(result) = Pin::new(main).poll(&mut Context::from_waker(Waker::noop())) else {
            return None;
        };
        self.main = None;
        let host = self.name.clone();
        Some(match result {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Cause::Failed { host, error }),
            Err(error) => Err(Cause::Panicked { host, message: error.to_string() }),
        })
    }

    pub(super) fn is_running(&self) -> bool {
        self.main.is_some()
    }

    /// Drops the host's tasks, which closes their sockets.
    pub(super) fn end(&mut self) {
        self.main = None;
        let inner = self.runtime.inner();
        self.runtime.enter(|| inner.executor().shut_down());
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.runtime.inner().deadline()
    }

    pub(super) fn now(&self) -> Instant {
        self.runtime.inner().now()
    }

    pub(super) fn advance_to(&self, to: Instant) {
        self.runtime.inner().clock().advance_to(to);
    }

    /// Whether a thread of the host may be about to wake a task.
    pub(super) fn is_blocked_outside(&self) -> bool {
        self.runtime.inner().blocking().is_busy()
    }

    pub(super) fn closing(&self) -> usize {
        self.runtime.usage().closing
    }

    /// Whether connections, records of them, or frames on their way out are left.
    pub(super) fn holds_anything(&self) -> bool {
        let usage = self.runtime.usage();
        usage.streams + usage.closing + usage.time_wait > 0
            || self.runtime.inner().transports().slots_out() > 0
    }

    pub(super) fn report(&self) -> HostReport {
        HostReport {
            name: self.name.clone(),
            usage: self.runtime.inner().transports().usage(),
            slots_out: self.runtime.inner().transports().slots_out(),
            metrics: self.runtime.metrics(),
        }
    }

    /// What tells two turns apart.
    pub(super) fn fingerprint(&self) -> [u64; 4] {
        let metrics = self.runtime.metrics();
        [metrics.task_polls, metrics.timers_fired, metrics.transport_events, metrics.tasks_spawned]
    }
}
