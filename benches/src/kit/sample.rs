//! Interleaved sampling: every peer of a case takes one short sample a round, round after round, so that whatever else
//! the machine does hits all of them alike.

use std::time::{Duration, Instant};

use super::{Args, Figure, Reporter, machine};

/// What a sample's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds an operation.
    Nanos,
    /// Payload bits a nanosecond, when one operation moves `bytes`.
    Gbits {
        /// Payload bytes an operation.
        bytes: u64,
    },
}

impl Unit {
    /// The unit's name as reported.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Nanos => "ns",
            Unit::Gbits { .. } => "Gbit/s",
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Unit::Gbits { .. })
    }

    fn value(self, operations: u64, elapsed: Duration) -> f64 {
        let nanos = elapsed.as_nanos().max(1) as f64;
        match self {
            Unit::Nanos => nanos / operations as f64,
            Unit::Gbits { bytes } => (operations * bytes * 8) as f64 / nanos,
        }
    }
}

/// Runs so many operations and answers how long those took; setting up and taking down is not counted.
pub type Run = Box<dyn FnMut(u64) -> Duration>;

/// One case and who takes part in it. A peer is built when its case begins and dropped when it ends.
pub struct Group {
    case: String,
    unit: Unit,
    peers: Vec<(String, Box<dyn FnOnce() -> Run>)>,
}

impl Group {
    /// A case nobody takes part in yet.
    pub fn new(case: impl Into<String>, unit: Unit) -> Group {
        Group { case: case.into(), unit, peers: Vec::new() }
    }

    /// Adds a peer, given as what builds it.
    pub fn peer(mut self, name: impl Into<String>, build: impl FnOnce() -> Run + 'static) -> Group {
        self.peers.push((name.into(), Box::new(build)));
        self
    }
}

/// A sample is as many operations as take about this long.
const SAMPLE: Duration = Duration::from_millis(2);
/// Every peer takes at least so many samples, however long they are.
const LEAST_SAMPLES: usize = 5;

/// Measures the groups that `args` lets through and prints the figures.
pub fn measure(bench: &'static str, args: &Args, groups: Vec<Group>) {
    if args.has("core")
        && let Err(error) = machine::pin(args.number("core", 0))
    {
        eprintln!("{error}");
        std::process::exit(1);
    }
    let budget = Duration::from_secs_f64(args.number("seconds", 2.0f64).max(0.001));
    let mut reporter = Reporter::new(args.has("json"));
    for group in groups {
        if !args.wants_case(&group.case) {
            continue;
        }
        for figure in sample(bench, args, group, budget) {
            reporter.add(figure);
        }
    }
    reporter.finish();
}

fn sample(bench: &'static str, args: &Args, group: Group, budget: Duration) -> Vec<Figure> {
    struct Peer {
        name: String,
        run: Run,
        operations: u64,
        values: Vec<f64>,
    }
    let mut peers: Vec<Peer> = Vec::new();
    for (name, build) in group.peers {
        if args.wants_peer(&name) {
            let mut run = build();
            let operations = calibrate(&mut run);
            peers.push(Peer { name, run, operations, values: Vec::with_capacity(4096) });
        }
    }
    let start = Instant::now();
    let count = peers.len();
    let mut round = 0;
    while count > 0 && (round < LEAST_SAMPLES || start.elapsed() < budget) {
        for turn in 0..count {
            // The order rotates: nobody always runs on the caches another one left.
            let peer = &mut peers[(turn + round) % count];
            let elapsed = (peer.run)(peer.operations);
            peer.values.push(group.unit.value(peer.operations, elapsed));
        }
        round += 1;
    }
    peers
        .into_iter()
        .map(|mut peer| Figure::of(bench, &peer.name, &group.case, group.unit, &mut peer.values))
        .collect()
}

/// How many operations make a sample. Found twice: the first time the run touches its memory for the first time, too.
fn calibrate(run: &mut Run) -> u64 {
    let cold = calibrate_once(run, 1);
    calibrate_once(run, cold)
}

/// How many operations take as long as a sample, tried from `operations` on.
fn calibrate_once(run: &mut Run, mut operations: u64) -> u64 {
    loop {
        let elapsed = run(operations);
        if elapsed >= SAMPLE / 2 || operations >= 1 << 40 {
            let scale = SAMPLE.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
            return ((operations as f64 * scale) as u64).max(1);
        }
        operations *= 2;
    }
}

/// Times `work`.
#[inline]
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[test]
    fn peers_take_turns_and_each_figure_is_per_operation() {
        let calls = Rc::new(Cell::new(0u64));
        let fake = |nanos: u64, calls: Rc<Cell<u64>>| -> Box<dyn FnOnce() -> Run> {
            Box::new(move || {
                Box::new(move |operations| {
                    calls.set(calls.get() + 1);
                    Duration::from_nanos(nanos * operations)
                })
            })
        };
        let mut group = Group::new("case", Unit::Nanos);
        group.peers.push(("one".into(), fake(10, calls.clone())));
        group.peers.push(("two".into(), fake(30, calls.clone())));
        let figures = sample("bench", &Args::default(), group, Duration::from_millis(1));
        assert_eq!(figures.len(), 2);
        assert!((figures[0].median - 10.0).abs() < 0.001);
        assert!((figures[1].median - 30.0).abs() < 0.001);
        assert_eq!(figures[0].samples, figures[1].samples);
        assert!(calls.get() >= 2 * LEAST_SAMPLES as u64);
    }

    #[test]
    fn a_rate_is_bits_a_nanosecond() {
        let value = Unit::Gbits { bytes: 125 }.value(10, Duration::from_nanos(1000));
        assert!((value - 10.0).abs() < 1e-9);
    }
}
