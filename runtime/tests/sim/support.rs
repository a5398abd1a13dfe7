//! Running simulations: many seeds on the machine's cores, one seed again, and what must be true of every run's end.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::BufWriter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use demi::sim::wire::WireHandle;
use demi::sim::{Report, Rng, Sim};

/// Seeds of a sweep when `DEMI_SIM_SEEDS` says nothing: enough to notice what is broken while one works on something else.
const SEEDS: u64 = 100;
/// Failures after which a sweep gives up.
const FAILURES: usize = 5;

/// What the environment says under a key, as a number.
fn number(key: &str) -> Option<u64> {
    let text = std::env::var(key).ok()?;
    Some(text.trim().parse().unwrap_or_else(|_| panic!("{key}={text}: write a number")))
}

/// Seeds of a sweep: the first one, and how many. A sweep that has company runs one in `share` of them.
pub(crate) fn seeds_of(share: u64) -> (u64, u64) {
    match number("DEMI_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => {
            let count = number("DEMI_SIM_SEEDS").unwrap_or(SEEDS).div_ceil(share);
            (number("DEMI_SIM_FIRST").unwrap_or(0), count)
        }
    }
}

/// Runs `build`'s simulation for many seeds, and fails with the numbers of those that fail.
pub(crate) fn sweep(name: &str, build: impl Fn(u64) -> Sim + Sync) {
    sweep_within(name, seeds_of(1), build, |_| None);
}

/// As [`sweep`], for these seeds; a report of which `bounds` finds something to say is a failure, too.
pub(crate) fn sweep_within(
    name: &str,
    (first, count): (u64, u64),
    build: impl Fn(u64) -> Sim + Sync,
    bounds: impl Fn(&Report) -> Option<String> + Sync,
) {
    if std::env::var_os("DEMI_SIM_LIST").is_some() {
        // The thread has the test's name.
        println!("sweep {name} in {}", thread::current().name().unwrap_or_default());
        return;
    }
    let next = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let captures = Captures::wanted();
    let work = || {
        while failures.lock().unwrap().len() < FAILURES {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                break;
            }
            let seed = first.wrapping_add(at);
            let result = caught(seed, || captures.before(name, build(seed))).and_then(|report| {
                bounds(&report).map_or(Ok(()), |problem| Err(format!("seed {seed}: {problem}")))
            });
            if let Err(error) = result {
                let captured = captures.after(name, seed, &build);
                failures.lock().unwrap().push(format!("{error}{captured}"));
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    thread::scope(|scope| {
        (0..number("DEMI_SIM_THREADS").unwrap_or(cores).min(count)).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{name}: repeat with `cargo xtask sim --scenario {name} --seed N`, --pcap FILE to see its frames:\n{}",
        failures.join("\n")
    );
}

/// Where frames are written down.
enum Captures {
    Nowhere,
    /// In a folder, those of seeds that fail.
    Failures(OsString),
    /// In a file, those of the seed that runs.
    All(OsString),
}

impl Captures {
    fn wanted() -> Captures {
        match (std::env::var_os("DEMI_SIM_PCAP_FILE"), std::env::var_os("DEMI_SIM_PCAP")) {
            (Some(file), _) => Captures::All(file),
            (None, Some(folder)) => Captures::Failures(folder),
            (None, None) => Captures::Nowhere,
        }
    }

    /// The simulation, with its frames captured if those of all seeds are wanted.
    fn before(&self, name: &str, mut sim: Sim) -> Sim {
        if let Captures::All(path) = self {
            let file = File::create(path);
            sim.capture(BufWriter::new(file.unwrap_or_else(|error| panic!("{name}: {path:?}: {error}"))));
        }
        sim
    }

    /// Runs a seed that failed once more, with a capture, if that is wanted; answers where it is.
    fn after(&self, name: &str, seed: u64, build: impl Fn(u64) -> Sim) -> String {
        let Captures::Failures(folder) = self else { return String::new() };
        let path = Path::new(folder).join(format!("{}-{seed}.pcapng", name.replace("::", "-")));
        match fs::create_dir_all(folder).and_then(|()| File::create(&path)) {
            Ok(file) => {
                let mut sim = build(seed);
                sim.capture(BufWriter::new(file));
                let _ = catch_unwind(AssertUnwindSafe(|| sim.run()));
                format!("\n  frames: {}", path.display())
            }
            Err(error) => format!("\n  no frames: {}: {error}", path.display()),
        }
    }
}

/// Runs a seed's simulation; a panic of a stack, which is outside of any task, is a failure like others.
fn caught(seed: u64, build: impl Fn() -> Sim) -> Result<Report, String> {
    catch_unwind(AssertUnwindSafe(|| attempt(build()))).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(format!("seed {seed}: {text}"))
    })
}

/// Runs one simulation; what is wrong with its end, in words that name its seed.
pub(crate) fn attempt(sim: Sim) -> Result<Report, String> {
    let report = sim.run().map_err(|error| error.to_string())?;
    let left = leftovers(&report);
    if left.is_empty() { Ok(report) } else { Err(format!("seed {}: {}", report.seed, left.join(", "))) }
}

/// [`attempt`], for one seed.
#[track_caller]
pub(crate) fn run(sim: Sim) -> Report {
    attempt(sim).unwrap_or_else(|error| panic!("{error}"))
}

/// What hosts still hold that should hold nothing.
fn leftovers(report: &Report) -> Vec<String> {
    let mut left = Vec::new();
    for host in &report.hosts {
        let usage = &host.usage;
        for (what, count) in [
            ("connections", usage.streams),
            ("listeners", usage.listeners),
            ("UDP sockets", usage.datagrams),
            ("closing connections", usage.closing),
            ("TIME-WAIT records", usage.time_wait),
            ("descriptors", usage.descriptors),
            ("operations under way", usage.in_flight),
            ("buffers", host.slots_out),
            ("tasks", host.metrics.tasks_alive),
            ("timers", host.metrics.timers_alive),
        ] {
            if count > 0 {
                left.push(format!("`{}` has {count} {what} left", host.name));
            }
        }
    }
    left
}

/// A simulation for a named scenario: a wire of a millisecond, and enough memory.
pub(crate) fn soon(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    sim.link().delay = Duration::from_millis(1);
    sim
}

/// Where a simulation's hosts find the hand on its wire.
#[derive(Clone, Default)]
pub(crate) struct Hand(Rc<RefCell<Option<WireHandle>>>);

impl Hand {
    /// The hand on `sim`'s wire, once it runs.
    pub(crate) fn on(sim: &mut Sim) -> Hand {
        let hand = Hand::default();
        let inside = hand.clone();
        sim.on_wire(move |wire| inside.hold(wire));
        hand
    }

    /// Is the hand on this wire from now on.
    pub(crate) fn hold(&self, wire: WireHandle) {
        *self.0.borrow_mut() = Some(wire);
    }

    /// The wire.
    pub(crate) fn wire(&self) -> WireHandle {
        self.0.borrow().clone().expect("the simulation runs")
    }
}

/// A number between two, those included, whose order of magnitude is as likely as any other.
pub(crate) fn scaled(rng: &mut Rng, least: u64, most: u64) -> u64 {
    let magnitude = rng.below(u64::from((most / least.max(1)).max(1).ilog2()) + 1);
    let base = least.max(1) << magnitude;
    (base + rng.below(base)).clamp(least, most)
}

/// One of several.
pub(crate) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}
