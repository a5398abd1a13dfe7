//! A runtime as a value.

use std::io;
use std::rc::Rc;

use demi_drivers::Instant;

use crate::config::Config;
use crate::context;
use crate::executor::Executor;
use crate::time::Clock;
use crate::transports::TransportSet;

/// What one runtime consists of; what tasks find through [`context`].
pub(crate) struct Inner {
    executor: Rc<Executor>,
    transports: Rc<TransportSet>,
    clock: Clock,
}

impl Inner {
    #[inline]
    pub(crate) fn executor(&self) -> &Rc<Executor> {
        &self.executor
    }

    #[inline]
    pub(crate) fn transports(&self) -> &Rc<TransportSet> {
        &self.transports
    }

    /// The time of the loop's turn.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.clock.turn()
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// A runtime: an executor, its timers and its transports, on one thread.
pub struct Runtime {
    inner: Rc<Inner>,
}

impl Runtime {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// The device's.
    pub fn new(config: Config) -> io::Result<Runtime> {
        let transports = TransportSet::open(&config, config.seed.unwrap_or(1))?;
        Ok(Runtime {
            inner: Rc::new(Inner {
                executor: Executor::new()?,
                transports: Rc::new(transports),
                clock: Clock::real(),
            }),
        })
    }

    /// A runtime without transports.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Runtime {
        Self::new(Config::default()).unwrap()
    }

    /// Runs `future` to its end, and the tasks that it spawns beside it.
    ///
    /// # Panics
    /// With `future`'s panic.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        context::enter(&self.inner, || {
            let mut main = self.inner.executor.scoped(future);
            loop {
                let now = self.inner.clock.tick();
                let _ = self.inner.transports.poll(now);
                self.inner.executor.collect_wakes();
                self.inner.executor.run(128);
                let _ = self.inner.transports.flush(now);
                if let std::task::Poll::Ready(output) = main.take() {
                    return output.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                }
            }
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        context::enter(&self.inner, || self.inner.executor.shut_down());
    }
}
