//! The simulation's loop: turn all hosts until all are idle, then move the clock.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use demi_drivers::spread::Hash;
use demi_drivers::wire::{Outcome, Wire, WireConfig, WireEnd, WireEvent, WireHandle};
use demi_drivers::wrap::pcap::{Capture, Direction};
use demi_drivers::{Instant, Transport};

use super::events::{Event, EventKind};
use super::host::Host;
use super::skew::Skewed;
use super::{Cause, DeviceHook, Main, Over, Report, Rng, Sim, SimError, Spec, StackHook};
use crate::config::Config;
use crate::cores::{Affinity, Placing};
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
    /// What is still to happen, in order.
    events: VecDeque<(Instant, usize, EventKind)>,
    revival: Revival,
}

/// What it takes to start a host again.
struct Revival {
    seed: u64,
    handle: Option<WireHandle>,
    devices: Option<DeviceHook>,
    stacks: Option<StackHook>,
    hosts: Vec<Origin>,
}

/// Where a host comes from.
struct Origin {
    config: Config,
    /// Its end of the wire, if a stack of ours is on one.
    end: Option<usize>,
    /// It is more than one of a host's cores.
    is_whole: bool,
    lives: u32,
    /// Its clock may jump, and by how much it has.
    ahead: Option<Rc<Cell<Duration>>>,
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
        hosts: running.hosts.iter().filter_map(Host::report).collect(),
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        let numbers: Vec<_> = self.hosts.iter_mut().map(Host::take_numbers).collect();
        self.hosts.clear();
        drop(numbers);
    }
}

impl Running {
    fn start(sim: Sim) -> Result<Running, SimError> {
        let Sim { seed, wire, hosts: specs, on_wire, devices, stacks, capture, mut events, .. } = sim;
        let fail = |host: &str, error| {
            let cause = Cause::Setup { host: host.to_owned(), error };
            SimError { seed, after: Duration::ZERO, cause }
        };
        let wired = specs.iter().filter(|spec| spec.is_wired()).count();
        let trace = Rc::new(Cell::new(seed));
        let mut ends = Vec::new();
        if wired > 0 {
            // A wire has two ends at least; a host that is alone sends into the void.
            let config = WireConfig { ends: wired.max(2), ..wire };
            ends = Wire::new(Rng::seed_for(seed, "wire"), config).map_err(|error| fail("wire", error))?;
        }
        let handle = ends.first().map(WireEnd::handle);
        if let Some(handle) = &handle {
            let capture = capture.map(|writer| Recorder::new(writer, &specs)).transpose();
            observe(handle, Rc::clone(&trace), capture.map_err(|error| fail("wire", error))?);
            if let Some(on_wire) = on_wire {
                on_wire(handle.clone());
            }
        }
        events.sort_by_key(|event| event.at);
        let mut ends = ends.into_iter();
        let mut hosts = Vec::new();
        let mut revival = Revival { seed, handle, devices, stacks, hosts: Vec::new() };
        for Spec { name, config, over, server, main, fellows } in specs {
            if !fellows.is_empty() {
                let end = ends.next().ok_or_else(|| io::Error::other("the wire has no end for this host"));
                let mains = std::iter::once(main).chain(fellows).collect();
                end.and_then(|end| revival.cores(&name, config, server, mains, end, &mut hosts))
                    .map_err(|error| fail(&name, error))?;
                continue;
            }
            let index = hosts.len();
            let leaps = |event: &Event| event.host == name && matches!(event.kind, EventKind::Leap(_));
            let ahead = events.iter().any(leaps).then(Rc::default);
            let end = ends.as_slice().first().filter(|_| matches!(over, Over::Stack)).map(WireEnd::index);
            revival.hosts.push(Origin {
                config: config.clone(),
                end,
                is_whole: true,
                lives: 0,
                ahead: ahead.clone(),
            });
            let mut host = Host::new(name.clone(), server, ahead.unwrap_or_default());
            let mut end = || ends.next().ok_or_else(|| io::Error::other("the wire has no end for this host"));
            let transports = match over {
                Over::Given(transports) => Ok(transports),
                Over::Machine(make) => end().map(|end| {
                    host.put(make(end));
                    Vec::new()
                }),
                Over::Stack => end().and_then(|end| revival.stack(index, &host, end)),
            };
            transports
                .and_then(|transports| host.start(seed, 0, config, transports, (None, main)))
                .map_err(|error| fail(&name, error))?;
            hosts.push(host);
        }
        let now = hosts.first().and_then(Host::now).unwrap_or(Instant::ZERO);
        let mut calendar = VecDeque::new();
        for Event { at, host, kind } in events {
            let unknown =
                || io::Error::new(io::ErrorKind::NotFound, "an event for a host that was not added");
            let found = hosts.iter().position(|known| known.name == host);
            let found = found.ok_or_else(|| fail(&host, unknown()))?;
            let is_whole = revival.hosts.get(found).is_some_and(|origin| origin.is_whole);
            if !is_whole && !matches!(kind, EventKind::Freeze | EventKind::Thaw) {
                let what = "a host of several cores can be frozen, and nothing else";
                return Err(fail(&host, io::Error::new(io::ErrorKind::InvalidInput, what)));
            }
            calendar.push_back((now + at, found, kind));
        }
        let order = (0..hosts.len()).collect();
        let rng = Rng::new(Rng::seed_for(seed, "schedule"));
        Ok(Running {
            seed,
            rng,
            hosts,
            order,
            start: now,
            now,
            trace,
            turns: 0,
            stuck: 0,
            events: calendar,
            revival,
        })
    }

    fn event_is_due(&self) -> bool {
        self.events.front().is_some_and(|(at, ..)| *at <= self.now)
    }

    /// Lets happen what is due.
    #[cold]
    fn happen(&mut self) -> Result<(), SimError> {
        while self.event_is_due()
            && let Some((_, index, kind)) = self.events.pop_front()
        {
            let host = &mut self.hosts[index];
            match kind {
                EventKind::Freeze => host.frozen = true,
                EventKind::Thaw => host.frozen = false,
                EventKind::Leap(by) => {
                    host.leap(by);
                    host.advance_to(self.now);
                }
                EventKind::Crash if host.is_running() => self.revival.crash(index, host),
                EventKind::Boot(main) if !host.is_on() => {
                    if let Err(error) = self.revival.boot(index, host, main) {
                        let cause = Cause::Setup { host: host.name.clone(), error };
                        return Err(self.error(cause));
                    }
                    host.advance_to(self.now);
                }
                // A host that has ended is not cut off, and one that was not cut off does not start.
                EventKind::Crash | EventKind::Boot(_) => {}
            }
        }
        Ok(())
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
        if self.event_is_due() {
            self.happen()?;
            return Ok(Moved::On);
        }
        let event = self.events.front().map(|(at, ..)| *at);
        let Some(next) = self.hosts.iter().filter_map(Host::deadline).chain(event).min() else {
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
        // What has not happened by now does not happen any more.
        self.events.clear();
        for host in &mut self.hosts {
            host.frozen = false;
            host.end();
        }
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

impl Revival {
    /// A stack of ours over an end of the wire.
    fn stack(&mut self, index: usize, host: &Host, end: WireEnd) -> io::Result<Vec<Box<dyn Transport>>> {
        let Some(Origin { config, lives, ahead, .. }) = self.hosts.get(index) else { return Ok(Vec::new()) };
        let config = config.clone().check()?;
        let seed = Rng::seed_for(self.seed, &format!("stack {}", host.seed_name(*lives)));
        let mut device = match &mut self.devices {
            Some(wrap) => wrap(&host.name, end),
            None => Box::new(end),
        };
        if let Some(ahead) = ahead {
            device = Box::new(Skewed { device, ahead: Rc::clone(ahead) });
        }
        let change = |stack: &mut _| {
            if let Some(change) = &mut self.stacks {
                change(&host.name, stack);
            }
        };
        Ok(vec![transports::stack_over(device, &config, seed, change)?])
    }

    /// A host's cores, each with a stack over a queue of an end of the wire.
    fn cores(
        &mut self,
        name: &str,
        config: Config,
        server: bool,
        mains: Vec<Main>,
        end: WireEnd,
        hosts: &mut Vec<Host>,
    ) -> io::Result<()> {
        let seed_for = |what: &str| Rng::seed_for(self.seed, &format!("{what} {name}"));
        let secret = [seed_for("stack"), seed_for("stack's other half"), seed_for("cores")];
        let hash = Hash::Mix { seed: seed_for("spread") as u32 };
        let checked = config.clone().check()?;
        let cpus: Arc<[Option<usize>]> = mains.iter().map(|_| None).collect();
        let placings = Placing::all(&cpus, &Affinity::current()?, 1, secret);
        let queues = end.into_queues(mains.len() as u16, &hash, &config.pool())?;
        for (((index, main), mut placing), queue) in mains.into_iter().enumerate().zip(placings).zip(queues) {
            let name = if index == 0 { name.to_owned() } else { format!("{name}.{index}") };
            let change = |stack: &mut _| {
                if let Some(change) = &mut self.stacks {
                    change(&name, stack);
                }
            };
            let lanes = placing.take_lanes().ok_or(io::ErrorKind::NotFound)?;
            let place = (placing.queue(), lanes);
            let stack = transports::stack_over_shared(Box::new(queue), &checked, place, change)?;
            let mut host = Host::new(name, server, Rc::default());
            host.start(self.seed, 0, config.clone(), vec![stack], (Some(placing), main))?;
            self.hosts.push(Origin {
                config: config.clone(),
                end: None,
                is_whole: false,
                lives: 0,
                ahead: None,
            });
            hosts.push(host);
        }
        Ok(())
    }

    /// Cuts a host's power.
    fn crash(&mut self, index: usize, host: &mut Host) {
        let Some(end) = self.hosts.get(index).and_then(|origin| origin.end) else { return };
        let Some(handle) = &self.handle else { return };
        // What its sockets say when they are dropped, nobody hears.
        let others = (0..handle.ends()).filter(|other| *other != end && !handle.is_partitioned(end, *other));
        let others: Vec<_> = others.collect();
        others.iter().for_each(|other| handle.set_partitioned(end, *other, true));
        host.crash();
        others.iter().for_each(|other| handle.set_partitioned(end, *other, false));
    }

    /// Starts a host whose power was cut.
    fn boot(&mut self, index: usize, host: &mut Host, main: Main) -> io::Result<()> {
        let (Some(origin), Some(handle)) = (self.hosts.get_mut(index), &self.handle) else { return Ok(()) };
        let Some(end) = origin.end else { return Ok(()) };
        origin.lives += 1;
        let (config, lives) = (origin.config.clone(), origin.lives);
        let end = handle.reopen(end)?;
        let transports = self.stack(index, host, end)?;
        host.start(self.seed, lives, config, transports, (None, main))
    }
}

impl Spec {
    /// It has an end of the wire.
    fn is_wired(&self) -> bool {
        !matches!(self.over, Over::Given(_))
    }
}

/// Hashes every frame into the trace, and writes it down if that is wanted.
fn observe(handle: &WireHandle, trace: Rc<Cell<u64>>, capture: Option<Recorder>) {
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
}

/// Writes frames down, as whoever sent them and as whoever receives them.
struct Recorder {
    capture: Capture,
    interfaces: Vec<u32>,
}

impl Recorder {
    fn new(writer: Box<dyn io::Write>, specs: &[Spec]) -> io::Result<Recorder> {
        let capture = Capture::new(writer, 0)?;
        let wired = specs.iter().filter(|spec| spec.is_wired());
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
