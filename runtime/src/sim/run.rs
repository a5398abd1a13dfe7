//! The simulation's loop: turn all hosts until all are idle, then move the clock.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use demi_drivers::wire::{Outcome, Wire, WireConfig, WireEvent};
use demi_drivers::wrap::pcap::{Capture, Direction};
use demi_drivers::{Instant, Transport};

use super::host::Host;
use super::{Cause, Report, Rng, Sim, SimError, Spec};
use crate::transports;
use crate::turn::Turn;

/// Rounds at one instant without progress, with something due: more than any device needs to get it done.
const STUCK_ROUNDS: u32 = 1000;

struct Running {
    seed: u64,
    rng: Rng,
    hosts: Vec<Host>,
    order: Vec<usize>,
    start: Instant,
    now: Instant,
    trace: Rc<Cell<u64>>,
    turns: u64,
    stuck: u32,
}

/// What moving the clock has come to.
enum Moved {
    On,
    /// Nothing is under way any more.
    Nowhere,
    /// The next deadline lies behind the limit.
    BehindLimit,
}

pub(super) fn run(sim: Sim) -> Result<Report, SimError> {
    let (time_limit, drain) = (sim.time_limit, sim.drain);
    let mut running = Running::start(sim)?;
    let limit = running.start + time_limit;
    while running.waiting().next().is_some() {
        if running.round()? {
            continue;
        }
        match running.move_clock(limit)? {
            Moved::On => {}
            Moved::Nowhere => {
                let waiting = running.waiting_names();
                return Err(running.error(Cause::Deadlock { waiting }));
            }
            Moved::BehindLimit => {
                let waiting = running.waiting_names();
                return Err(running.error(Cause::TimeLimit { waiting }));
            }
        }
    }
    let elapsed = running.now.since(running.start);
    running.drain(drain)?;
    let undrained = running.hosts.iter().map(|host| (host.name.clone(), host.closing()));
    Ok(Report {
        seed: running.seed,
        elapsed,
        trace: running.trace.get(),
        turns: running.turns,
        undrained: undrained.filter(|(_, closing)| *closing > 0).collect(),
        hosts: running.hosts.iter().map(Host::report).collect(),
    })
}

impl Running {
    fn start(sim: Sim) -> Result<Running, SimError> {
        let Sim { seed, wire, hosts: specs, on_wire, mut devices, mut stacks, capture, .. } = sim;
        let fail = |host: &str, error| {
            let cause = Cause::Setup { host: host.to_owned(), error };
            SimError { seed, after: Duration::ZERO, cause }
        };
        let wired = specs.iter().filter(|spec| spec.transports.is_none()).count();
        let trace = Rc::new(Cell::new(seed));
        let mut ends = Vec::new();
        if wired > 0 {
            // A wire has two ends at least; a host that is alone sends into the void.
            let config = WireConfig { ends: wired.max(2), ..wire };
            ends = Wire::new(Rng::seed_for(seed, "wire"), config).map_err(|error| fail("wire", error))?;
        }
        if let Some(end) = ends.first() {
            let handle = end.handle();
            let trace = Rc::clone(&trace);
            let capture = capture.map(|writer| Recorder::new(writer, &specs)).transpose();
            let capture = capture.map_err(|error| fail("wire", error))?;
            handle.set_observer(move |event| {
                if let Some(capture) = &capture {
                    capture.record(event);
                }
                let direction = (event.from as u64) << 32 | event.to as u64;
                let mut hash = mix(trace.get(), event.now.as_nanos() ^ direction.rotate_left(48));
                let arrival = match event.outcome {
                    Outcome::Arrives(at) => at.as_nanos(),
                    _ => u64::MAX,
                };
                hash = mix(mix(hash, arrival), hash_bytes(event.bytes));
                trace.set(hash);
            });
            if let Some(on_wire) = on_wire {
                on_wire(handle);
            }
        }
        let mut ends = ends.into_iter();
        let mut hosts = Vec::new();
        for Spec { name, config, transports: own, server, main } in specs {
            let transports = match (own, ends.len()) {
                (Some(own), _) => Ok(own),
                (None, _) => match (ends.next(), config.clone().check()) {
                    (_, Err(error)) => Err(error),
                    (Some(end), Ok(config)) => {
                        let seed = Rng::seed_for(seed, &format!("stack {name}"));
                        let device = match &mut devices {
                            Some(wrap) => wrap(&name, end),
                            None => Box::new(end),
                        };
                        let change = |stack: &mut _| {
                            if let Some(change) = &mut stacks {
                                change(&name, stack);
                            }
                        };
                        transports::stack_over(device, &config, seed, change)
                            .map(|stack| -> Vec<Box<dyn Transport>> { vec![stack] })
                    }
                    (None, Ok(_)) => unreachable!("the wire has an end for each host without transports"),
                },
            };
            let host = transports
                .and_then(|transports| Host::start(name.clone(), server, seed, config, transports, main))
                .map_err(|error| fail(&name, error))?;
            hosts.push(host);
        }
        let now = hosts.first().map_or(Instant::ZERO, Host::now);
        let order = (0..hosts.len()).collect();
        let rng = Rng::new(Rng::seed_for(seed, "schedule"));
        Ok(Running { seed, rng, hosts, order, start: now, now, trace, turns: 0, stuck: 0 })
    }

    /// Turns each host once, in an order drawn anew; answers whether something happened.
    fn round(&mut self) -> Result<bool, SimError> {
        let mut order = core::mem::take(&mut self.order);
        self.rng.shuffle(&mut order);
        let mut busy = false;
        for index in &order {
            let host = &mut self.hosts[*index];
            if host.turn() == Turn::Busy {
                busy = true;
                self.turns += 1;
                let mut hash = mix(self.trace.get(), self.now.as_nanos() ^ (*index as u64) << 56);
                for number in host.fingerprint() {
                    hash = mix(hash, number);
                }
                self.trace.set(hash);
            }
            match host.take_result() {
                None => {}
                Some(Ok(())) => host.end(),
                Some(Err(cause)) => return Err(self.error(cause)),
            }
        }
        self.order = order;
        if busy {
            self.stuck = 0;
        }
        Ok(busy)
    }

    /// Moves all hosts' clocks to the next deadline of any of them.
    fn move_clock(&mut self, limit: Instant) -> Result<Moved, SimError> {
        if self.hosts.iter().any(Host::is_blocked_outside) {
            // A thread works for a host: wait for it by real time, with the virtual one at rest.
            std::thread::sleep(Duration::from_micros(50));
            return Ok(Moved::On);
        }
        let Some(next) = self.hosts.iter().filter_map(Host::deadline).min() else {
            return Ok(Moved::Nowhere);
        };
        if next > limit {
            return Ok(Moved::BehindLimit);
        }
        if next <= self.now {
            self.stuck += 1;
            if self.stuck > STUCK_ROUNDS {
                let due = self.hosts.iter().filter(|host| host.deadline().is_some_and(|at| at <= self.now));
                let due = due.map(|host| host.name.clone()).collect();
                return Err(self.error(Cause::Stuck { due }));
            }
            return Ok(Moved::On);
        }
        self.stuck = 0;
        self.now = next;
        self.hosts.iter().for_each(|host| host.advance_to(next));
        Ok(Moved::On)
    }

    /// Ends all hosts, and drives on until their connections are closed.
    fn drain(&mut self, patience: Duration) -> Result<(), SimError> {
        let limit = self.now + patience;
        self.hosts.iter_mut().for_each(Host::end);
        loop {
            if self.round()? {
                continue;
            }
            if !self.hosts.iter().any(Host::holds_anything) {
                return Ok(());
            }
            match self.move_clock(limit)? {
                Moved::On => {}
                Moved::Nowhere | Moved::BehindLimit => return Ok(()),
            }
        }
    }

    /// The hosts whose mains the simulation waits for.
    fn waiting(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| !host.server && host.is_running())
    }

    fn waiting_names(&self) -> Vec<String> {
        self.waiting().map(|host| host.name.clone()).collect()
    }

    fn error(&self, cause: Cause) -> SimError {
        SimError { seed: self.seed, after: self.now.since(self.start), cause }
    }
}

/// Writes frames down, as whoever sent them and as whoever receives them.
struct Recorder {
    capture: Capture,
    interfaces: Vec<u32>,
}

impl Recorder {
    fn new(writer: Box<dyn std::io::Write>, specs: &[Spec]) -> std::io::Result<Recorder> {
        let capture = Capture::new(writer, 0)?;
        let wired = specs.iter().filter(|spec| spec.transports.is_none());
        // The wire's own addresses; see `Wire::new`.
        let mac = |at: usize| [2, 0, 0, 0, ((at + 1) >> 8) as u8, (at + 1) as u8];
        let interfaces = wired.enumerate().map(|(at, spec)| capture.add_interface(&spec.name, mac(at)));
        let interfaces = interfaces.collect();
        Ok(Recorder { capture, interfaces })
    }

    fn record(&self, event: &WireEvent<'_>) {
        if let Some(interface) = self.interfaces.get(event.from) {
            self.capture.record(*interface, event.now, Direction::Outbound, event.bytes);
        }
        if let (Outcome::Arrives(at), Some(interface)) = (event.outcome, self.interfaces.get(event.to)) {
            self.capture.record(*interface, at, Direction::Inbound, event.bytes);
        }
    }
}

/// One step of the trace's hash.
fn mix(hash: u64, value: u64) -> u64 {
    Rng::new(hash ^ value.wrapping_mul(0xff51_afd7_ed55_8ccd)).next_u64()
}

/// FNV-1a, eight bytes at a time.
fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }
    hash
}
