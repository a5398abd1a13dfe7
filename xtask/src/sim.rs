//! `cargo xtask sim`: many seeds of the simulations, a process a core; or one seed again, with its frames in a file.
//!
//! The simulations are sweeps of the test targets `sim` and `sim_smoltcp`, which say themselves which there are. A process runs some seeds of one
//! sweep, so that one that dies or hangs takes no other with it. What has failed is printed with the command that repeats it.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use crate::process::{self, Invocation};
use crate::tiers::sim::FOREIGN;
use crate::workspace::Workspace;

/// Seeds that a process runs.
const CHUNK: u64 = 200;
/// Failing processes after which the rest is not run.
const FAILURES: usize = 20;
/// How often progress is told of.
const TELL: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// So many seeds of each sweep.
    pub(crate) seeds: Option<u64>,
    /// The first of them, or the only one.
    pub(crate) seed: Option<u64>,
    /// Only sweeps whose names contain this; one that is called so hides the others.
    pub(crate) scenario: Option<String>,
    /// File for the frames of the only seed of the only sweep.
    pub(crate) pcap: Option<String>,
}

/// Seeds of each sweep when nothing is said.
const SEEDS: u64 = 1000;

/// A sweep of the test target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sweep {
    name: String,
    /// The test it is in.
    test: String,
    /// The program that test is in.
    binary: PathBuf,
}

/// Some seeds of a sweep.
struct Chunk<'a> {
    sweep: &'a Sweep,
    first: u64,
    count: u64,
}

/// Runs what `options` say; whether all of it went well.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> bool {
    match prepare(workspace, options) {
        Err(message) => {
            eprintln!("{message}");
            false
        }
        Ok(sweeps) => match (options.seed, options.seeds) {
            (Some(seed), None) => one(workspace, &sweeps, seed, options.pcap.as_deref()),
            (first, count) => many(workspace, &sweeps, first.unwrap_or(0), count.unwrap_or(SEEDS)),
        },
    }
}

/// What builds a program of simulations, and what its log is called.
const PROGRAMS: [(&str, &str); 2] =
    [("sim-build", "-p demi-runtime --features dns,hyper,tokio --test sim"), ("sim-build-foreign", FOREIGN)];

/// Builds the simulations; answers the sweeps that are wanted.
fn prepare(workspace: &Workspace, options: &Options) -> Result<Vec<Sweep>, String> {
    println!("building the simulations ...");
    let mut sweeps = Vec::new();
    for (log, what) in PROGRAMS {
        let build = Invocation::new("cargo test --no-run --profile tier").args(what);
        let built = process::run(workspace, log, &build).map_err(|error| format!("no log: {error}"))?;
        if !built.success {
            return Err(built.output);
        }
        let binary = program_in(&built.output).ok_or("cargo does not say where the simulations are")?;
        let binary = workspace.root().join(binary);
        let listed = child(workspace, &binary)
            .args(["--nocapture", "--test-threads=1"])
            .env("DEMI_SIM_LIST", "1")
            .output()
            .map_err(|error| format!("{}: {error}", binary.display()))?;
        sweeps.extend(sweeps_in(&String::from_utf8_lossy(&listed.stdout), &binary));
    }
    let sweeps = chosen(sweeps, options.scenario.as_deref())?;
    if options.pcap.is_some() && (sweeps.len() != 1 || options.seed.is_none()) {
        return Err(format!(
            "--pcap wants one seed of one sweep: --seed N --scenario NAME, of\n{}",
            names(&sweeps)
        ));
    }
    Ok(sweeps)
}

/// Where cargo says that the test program is: `Executable tests/sim/main.rs (target/tier/deps/sim-HASH)`.
fn program_in(output: &str) -> Option<&Path> {
    let line = output.lines().find(|line| line.trim_start().starts_with("Executable"))?;
    Some(Path::new(line.rsplit_once('(')?.1.trim_end().strip_suffix(')')?))
}

/// The sweeps that the program names: lines of `sweep NAME in TEST`, behind what libtest may have begun to print.
fn sweeps_in(output: &str, binary: &Path) -> Vec<Sweep> {
    let sweep = |line: &str| {
        let mut words = line.split_once("sweep ")?.1.split_whitespace();
        let name = words.next()?.to_owned();
        let test = words.nth(1)?.to_owned();
        Some(Sweep { name, test, binary: binary.to_owned() })
    };
    output.lines().filter_map(sweep).collect()
}

/// Those of `sweeps` that are meant by `wanted`.
fn chosen(sweeps: Vec<Sweep>, wanted: Option<&str>) -> Result<Vec<Sweep>, String> {
    let Some(wanted) = wanted else { return Ok(sweeps) };
    let is = |sweep: &&Sweep| sweep.name == wanted || sweep.name.strip_prefix("scenarios::") == Some(wanted);
    if let Some(sweep) = sweeps.iter().find(is) {
        return Ok(vec![sweep.clone()]);
    }
    let like: Vec<_> = sweeps.iter().filter(|sweep| sweep.name.contains(wanted)).cloned().collect();
    if like.is_empty() {
        Err(format!("no simulation is called `{wanted}`:\n{}", names(&sweeps)))
    } else {
        Ok(like)
    }
}

fn names(sweeps: &[Sweep]) -> String {
    sweeps.iter().map(|sweep| format!("  {}", sweep.name)).collect::<Vec<_>>().join("\n")
}

/// The test program, with nothing of the environment that it would take for its own.
fn child(workspace: &Workspace, binary: &Path) -> Command {
    let mut command = Command::new(binary);
    // cargo runs tests in the folder of their package.
    command.current_dir(workspace.root().join("runtime")).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("DEMI_S") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs one seed of each sweep, as the terminal's own.
fn one(workspace: &Workspace, sweeps: &[Sweep], seed: u64, pcap: Option<&str>) -> bool {
    let mut ok = true;
    for sweep in sweeps {
        let mut command = child(workspace, &sweep.binary);
        command.args(["--exact", &sweep.test]).env("DEMI_SIM_SEED", seed.to_string());
        if let Some(pcap) = pcap {
            // The child runs elsewhere.
            let path = env::current_dir().unwrap_or_default().join(pcap);
            command.env("DEMI_SIM_PCAP_FILE", path);
        }
        match command.output() {
            Ok(output) if output.status.success() => println!("{} seed {seed}: ok", sweep.name),
            Ok(output) => {
                ok = false;
                println!("{}", failure_in(&String::from_utf8_lossy(&output.stdout)));
            }
            Err(error) => {
                ok = false;
                eprintln!("{}: {error}", sweep.binary.display());
            }
        }
        if let Some(pcap) = pcap {
            println!("frames: {pcap}");
        }
    }
    ok
}

/// Runs many seeds of each sweep, on all cores.
fn many(workspace: &Workspace, sweeps: &[Sweep], first: u64, count: u64) -> bool {
    let start = Instant::now();
    let mut chunks = VecDeque::new();
    for from in (0..count).step_by(CHUNK as usize) {
        let count = CHUNK.min(count - from);
        chunks.extend(sweeps.iter().map(|sweep| Chunk { sweep, first: first + from, count }));
    }
    let all = chunks.len() as u64;
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    println!("{} sweeps of {count} seeds from {first}, in {cores} processes at a time", sweeps.len());
    let (chunks, done) = (Mutex::new(chunks), AtomicU64::new(0));
    let failures = Mutex::new(Vec::new());
    let told = Mutex::new(Instant::now());
    let lock = |failures: &Mutex<Vec<String>>| failures.lock().map_or(FAILURES, |failures| failures.len());
    let work = || {
        while lock(&failures) < FAILURES
            && let Some(chunk) = chunks.lock().ok().and_then(|mut chunks| chunks.pop_front())
        {
            if let Err(failure) = chunk.run(workspace)
                && let Ok(mut failures) = failures.lock()
            {
                println!("{failure}");
                failures.push(failure);
            }
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if let Ok(mut told) = told.try_lock()
                && told.elapsed() >= TELL
            {
                *told = Instant::now();
                let failures = lock(&failures);
                println!("{}", Progress { done, all, failures, elapsed: start.elapsed() });
            }
        }
    };
    thread::scope(|scope| {
        (0..cores).for_each(|_| {
            scope.spawn(work);
        });
    });
    let failures = lock(&failures);
    println!("{}", Progress { done: done.into_inner(), all, failures, elapsed: start.elapsed() });
    failures == 0
}

impl Chunk<'_> {
    /// Runs it; the error is what the process had to say.
    fn run(&self, workspace: &Workspace) -> Result<(), String> {
        let Chunk { sweep, first, count } = self;
        let mut command = child(workspace, &sweep.binary);
        command.args(["--exact", &sweep.test, "--test-threads=1"]);
        for (name, value) in [("FIRST", *first), ("SEEDS", *count), ("THREADS", 1)] {
            command.env(format!("DEMI_SIM_{name}"), value.to_string());
        }
        let range = format!("{} seeds {first} to {}", sweep.name, first + count - 1);
        match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = [output.stdout, output.stderr].concat();
                Err(format!("{range}: {}\n{}", output.status, failure_in(&String::from_utf8_lossy(&said))))
            }
            Err(error) => Err(format!("{range}: {}: {error}", sweep.binary.display())),
        }
    }
}

/// What of a test's output tells of the failure: the sweep's own words, or all of it if there are none.
fn failure_in(output: &str) -> String {
    let lines = output.lines().skip_while(|line| !line.contains(": repeat with ")).take_while(|line| {
        !line.is_empty() && !line.starts_with("note:") && !line.starts_with("stack backtrace")
    });
    let lines = lines.collect::<Vec<_>>().join("\n");
    if lines.is_empty() { output.to_owned() } else { lines }
}

/// How far a run is.
struct Progress {
    done: u64,
    all: u64,
    failures: usize,
    elapsed: Duration,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Progress { done, all, failures, elapsed } = self;
        let percent = done * 100 / (*all).max(1);
        let left = elapsed.as_secs_f64() * (all - done) as f64 / (*done).max(1) as f64;
        write!(f, "{percent} %, {failures} failed, {:.0} s gone", elapsed.as_secs_f64())?;
        if done < all { write!(f, ", {left:.0} s to go") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(name: &str) -> Sweep {
        Sweep { name: name.to_owned(), test: format!("{name}::test"), binary: PathBuf::from("b") }
    }

    #[test]
    fn the_program_is_where_cargo_says() {
        let output = "   Compiling x\n  Executable tests/sim/main.rs (target/tier/deps/sim-12ab)\n";
        assert_eq!(program_in(output), Some(Path::new("target/tier/deps/sim-12ab")));
        assert_eq!(program_in("error: no"), None);
    }

    #[test]
    fn sweeps_are_found_behind_what_libtest_prints() {
        let output = "running 3 tests\ntest a::test ... sweep a in a::test\nok\ntest plain ... ok\nsweep b::c in b::c::test\n";
        assert_eq!(sweeps_in(output, Path::new("b")), [sweep("a"), sweep("b::c")]);
    }

    #[test]
    fn a_name_means_one_sweep_and_a_part_of_names_several() {
        let all = || vec![sweep("streams"), sweep("starved_streams"), sweep("scenarios::outage")];
        assert_eq!(chosen(all(), None), Ok(all()));
        assert_eq!(chosen(all(), Some("streams")), Ok(vec![sweep("streams")]));
        assert_eq!(chosen(all(), Some("outage")), Ok(vec![sweep("scenarios::outage")]));
        assert_eq!(chosen(all(), Some("st")).map(|sweeps| sweeps.len()), Ok(2));
        assert!(chosen(all(), Some("none")).is_err_and(|error| error.contains("starved_streams")));
    }

    #[test]
    fn a_failure_is_the_sweeps_own_words() {
        let output = "panicked at x:\nstreams: repeat with `y`:\nseed 4: bad\nseed 7: bad\nnote: run with\n\nfailures:";
        assert_eq!(failure_in(output), "streams: repeat with `y`:\nseed 4: bad\nseed 7: bad");
        assert_eq!(failure_in("aborted"), "aborted");
    }
}
