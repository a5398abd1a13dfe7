//! The loop: run to completion on one thread.
//!
//! A turn reads the clock once, lets the transports receive (which wakes tasks), runs the ready tasks within a budget,
//! fires due timers, and lets the transports send what all that caused. So a reply carries its request's
//! acknowledgement, and one burst carries all replies.
//!
//! Between turns in which nothing happened, [`Idler`] decides: poll on, block, or, when time is virtual, move it.

use std::io;
use std::time::Duration;

use demi_drivers::Instant;

use crate::config::Idle;
use crate::metrics::add;
use crate::runtime::Inner;
use crate::spin::Spin;

/// Tasks polled in a turn before the transports are looked at again. High enough that the turn's own cost, some tens of
/// nanoseconds (or a system call, on kernel transports), is small beside that of the tasks; low enough that a device's
/// ring does not overflow meanwhile, at a microsecond a poll.
const BUDGET: u32 = 128;
/// While a transport fails, it is asked again at this rate rather than at full speed.
const RETRY: Duration = Duration::from_millis(10);
/// The kernel takes and gives timeouts up to here without trouble.
const PARK_MAX: Duration = Duration::from_secs(86_400);

/// What a turn has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something arrived, ran or fired: the next turn may have work at once.
    Busy,
    /// Nothing happened.
    Idle,
    /// Nothing happened, and a transport reported an error.
    Failing,
}

impl Inner {
    /// One turn of the loop, within the runtime's context.
    #[inline]
    pub(crate) fn turn(&self) -> Turn {
        let now = self.clock().tick();
        add(&self.counters().turns, 1);

        let (events, mut failed) = match self.transports().poll(now) {
            Ok(events) => (events, false),
            Err(error) => (0, self.report(error)),
        };
        add(&self.counters().transport_events, events as u64);

        let mut ran = 0;
        if self.executor().collect_wakes() {
            ran = self.executor().run(BUDGET);
            if ran == BUDGET {
                add(&self.counters().budget_spent, 1);
            }
        }
        let fired = self.fire_timers();

        if let Err(error) = self.transports().flush(now) {
            failed |= self.report(error);
        }
        if events > 0 || ran > 0 || fired > 0 {
            return Turn::Busy;
        }
        add(&self.counters().idle_turns, 1);
        if failed { Turn::Failing } else { Turn::Idle }
    }

    /// Wakes whose deadline has passed; answers how many. The clock's turn is asked, not the turn's start: a task may have
    /// moved paused time.
    #[inline]
    fn fire_timers(&self) -> u64 {
        let now = self.now();
        if self.timers().may_be_due(now) { self.fire_due(now) } else { 0 }
    }

    #[cold]
    #[inline(never)]
    fn fire_due(&self, now: Instant) -> u64 {
        let mut fired = 0;
        while let Some(waker) = self.timers().pop_due(now) {
            waker.wake();
            fired += 1;
        }
        add(&self.counters().timers_fired, fired);
        fired
    }

    /// When there will be something to do even if nothing arrives.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timer = self.timers().next_wakeup();
        match (timer, self.transports().deadline()) {
            (Some(timer), Some(transport)) => Some(timer.min(transport)),
            (timer, transport) => timer.or(transport),
        }
    }

    /// Counts a transport's error, and tells of it the first time. Always true.
    #[cold]
    fn report(&self, error: io::Error) -> bool {
        add(&self.counters().transport_errors, 1);
        self.failure().tell(&error);
        true
    }

    /// Blocks until something arrives, somebody wakes a task, or `deadline`.
    fn park(&self, deadline: Option<Instant>) {
        let now = self.clock().read();
        let timeout = deadline.map(|deadline| deadline.since(now).min(PARK_MAX));
        if timeout == Some(Duration::ZERO) || !self.executor().prepare_sleep() {
            return;
        }
        let result = self.transports().park(timeout);
        self.executor().finish_sleep();
        add(&self.counters().parks, 1);
        let parked = self.clock().read().since(now).as_nanos();
        add(&self.counters().parked_nanos, u64::try_from(parked).unwrap_or(u64::MAX));
        if let Err(error) = result {
            self.report(error);
            // Whatever is wrong with waiting, do not make it a loop at full speed.
            std::thread::sleep(RETRY.min(timeout.unwrap_or(RETRY)));
        }
    }
}

/// Decides what to do between turns.
#[derive(Default)]
pub(crate) struct Idler {
    /// When the loop last became idle.
    since: Option<Instant>,
    /// Events that the transports had seen by then.
    events: u64,
    /// How long to poll from then on, before blocking.
    budget: Duration,
    /// By what was learnt.
    spin: Spin,
    /// Paused time: the transports had a last look before it moves.
    looked: bool,
}

impl Idler {
    /// To be called after each turn. `until`: the time at which the caller wants to be back at the latest.
    #[inline]
    pub(crate) fn after(&mut self, runtime: &Inner, turn: Turn, until: Option<Instant>) {
        if turn == Turn::Busy {
            self.looked = false;
            if let Some(since) = self.since.take() {
                self.spin.learn(runtime.now().since(since), runtime.spin());
            }
            return;
        }
        self.idle(runtime, turn, until);
    }

    fn idle(&mut self, runtime: &Inner, turn: Turn, until: Option<Instant>) {
        let deadline = match (runtime.deadline(), until) {
            (Some(deadline), Some(until)) => Some(deadline.min(until)),
            (deadline, until) => deadline.or(until),
        };
        if runtime.clock().is_paused() {
            return self.move_time(runtime, deadline);
        }
        let now = runtime.now();
        if turn == Turn::Failing {
            let retry = now + RETRY;
            return runtime.park(Some(deadline.map_or(retry, |deadline| deadline.min(retry))));
        }
        let since = match self.since {
            Some(since) => since,
            None => self.begin(runtime, now),
        };
        match runtime.idle_policy() {
            Idle::Park => runtime.park(deadline),
            Idle::Adaptive if now.since(since) >= self.budget => {
                runtime.park(deadline);
                // What woke it is seen by the next turn; if that was nothing, block again at once.
            }
            Idle::Adaptive | Idle::Spin => core::hint::spin_loop(),
        }
    }

    /// The loop has become idle.
    fn begin(&mut self, runtime: &Inner, now: Instant) -> Instant {
        let events = runtime.counters().transport_events.get();
        self.budget = self.spin.after(events.wrapping_sub(self.events), runtime.spin());
        self.events = events;
        self.since = Some(now);
        now
    }

    /// Paused time stands while there is anything else that could happen.
    fn move_time(&mut self, runtime: &Inner, deadline: Option<Instant>) {
        if runtime.blocking().is_busy() {
            // A blocking job may be about to wake somebody: real time has to pass.
            return runtime.park_for_real(None);
        }
        if !core::mem::replace(&mut self.looked, true) {
            // What the kernel has under way already comes first.
            return runtime.park_for_real(Some(Duration::ZERO));
        }
        self.looked = false;
        match deadline {
            Some(deadline) => runtime.clock().advance_to(deadline),
            None => runtime.park_for_real(None),
        }
    }
}

impl Inner {
    /// As `park`, by real time, while the runtime's own stands still.
    fn park_for_real(&self, timeout: Option<Duration>) {
        if !self.executor().prepare_sleep() {
            return;
        }
        let result = self.transports().park(timeout);
        self.executor().finish_sleep();
        add(&self.counters().parks, 1);
        if let Err(error) = result {
            self.report(error);
            std::thread::sleep(RETRY);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::transports::stack_over;
    use crate::{Config, time};
    use demi_drivers::wire::{Wire, WireConfig, WireEnd};
    use demi_drivers::{Capabilities, Device, Pool, RxFrame, Transport, TxQueue};

    /// A device that is unplugged.
    struct Gone(WireEnd);

    impl Device for Gone {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn capabilities(&self) -> &Capabilities {
            self.0.capabilities()
        }
        fn pool(&self) -> &Pool {
            self.0.pool()
        }
        fn rx_burst(&mut self, _: Instant, _: &mut Vec<RxFrame>, _: usize) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::NotConnected, "somebody fell over the cable"))
        }
        fn tx_burst(&mut self, _: Instant, _: &mut TxQueue) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::NotConnected, "somebody fell over the cable"))
        }
    }

    fn stack(gone: bool) -> Vec<Box<dyn Transport>> {
        let end = Wire::new(1, WireConfig::default()).unwrap().swap_remove(0);
        let device: Box<dyn Device> = if gone { Box::new(Gone(end)) } else { Box::new(end) };
        vec![stack_over(device, &Config::new().address("10.0.0.1/24"), 1, |_| {}).unwrap()]
    }

    fn runtime(gone: bool, idle: &str) -> Runtime {
        let config = Config::new().idle(idle).log("off");
        Runtime::builder().config(config).transports(stack(gone)).build().unwrap()
    }

    #[test]
    fn a_transport_that_fails_is_told_of_and_takes_neither_tasks_nor_the_core() {
        for idle in ["spin", "adaptive", "park"] {
            let runtime = runtime(true, idle);
            runtime.block_on(async {
                time::sleep(Duration::from_millis(30)).await;
                assert_eq!(crate::spawn(async { 3 }).await.unwrap(), 3);
            });
            let metrics = runtime.metrics();
            assert!(metrics.transport_errors > 0, "{metrics:?}");
            assert!(metrics.turns < 200, "it does not ask at full speed: {metrics:?}");
            assert_eq!(runtime.inner().failure().last(), "somebody fell over the cable");
        }
    }

    #[test]
    fn adaptive_polls_first_and_then_blocks() {
        let runtime = runtime(false, "adaptive");
        runtime.block_on(async { time::sleep(Duration::from_millis(20)).await });
        let metrics = runtime.metrics();
        assert!(metrics.parks > 0 && metrics.idle_turns > metrics.parks, "{metrics:?}");
    }

    #[test]
    fn adaptive_polls_for_less_after_a_burst() {
        let runtime = runtime(false, "adaptive");
        let (inner, mut idler) = (runtime.inner(), Idler::default());
        let mut spin_after = |events| {
            add(&inner.counters().transport_events, events);
            idler.begin(inner, Instant::ZERO);
            idler.budget
        };
        let full = inner.spin();
        assert_eq!([1, 4, 8, 400].map(&mut spin_after), [full, full, full / 2, full / 100]);
        assert_eq!(spin_after(1), full, "what was before the last idle time does not count");
    }

    #[test]
    fn adaptive_stops_polling_where_it_never_pays() {
        let runtime = runtime(false, "adaptive");
        let ticks = |count| async move {
            let before = crate::metrics();
            for _ in 0..count {
                time::sleep(Duration::from_millis(2)).await;
            }
            let after = crate::metrics();
            (after.idle_turns - before.idle_turns, after.parks - before.parks)
        };
        let (idle_turns, parks) = runtime.block_on(async {
            ticks(20).await;
            ticks(20).await
        });
        assert!(parks >= 20 && idle_turns <= 2 * parks, "{idle_turns} idle turns, {parks} parks");
    }

    #[test]
    fn spinning_never_blocks() {
        let runtime = runtime(false, "spin");
        runtime.block_on(async { time::sleep(Duration::from_millis(2)).await });
        assert_eq!(runtime.metrics().parks, 0);
    }

    #[test]
    fn the_budget_bounds_a_turn() {
        let runtime = runtime(false, "park");
        runtime.block_on(async {
            let before = crate::metrics();
            for _ in 0..10 * BUDGET {
                crate::task::yield_now().await;
            }
            let after = crate::metrics();
            let turns = after.turns - before.turns;
            assert!((10..=11).contains(&turns), "{turns} turns");
            assert!(after.budget_spent - before.budget_spent >= 9);
        });
    }
}
