//! The fuzz tier: every target of `fuzz/` replays its committed corpus and goes on from there for a bounded time. What it finds is
//! kept in `fuzz/artifacts/`, inputs that reach something new in `fuzz/corpus-local/`; neither is committed by itself.
//!
//! No nightly compiler is needed: the coverage that guides libFuzzer is LLVM's own, asked for by flags that a stable one has. A target
//! that reports no coverage fails: it would run blind and never say so.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::Step;
use crate::process::{self, Invocation, Outcome};
use crate::workspace::Workspace;

/// Seconds of each target in the tier.
const SECONDS: u32 = 2;
/// The longest that one input may take, in seconds, on a machine that does other things, too.
const INPUT_S: u32 = 20;
/// What makes a stable compiler count edges and tell of comparisons.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Formatting, which the workspace's own check does not see; the build; all targets.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    if targets(workspace).is_empty() {
        return Vec::new();
    }
    let run = Invocation::new(&format!("cargo xtask fuzz --seconds {SECONDS}"));
    let fmt = Invocation::new("cargo fmt --manifest-path fuzz/Cargo.toml -- --check");
    vec![Step::check("fmt", fmt), Step::build(build()), Step::tests("targets", run)]
}

/// Names of the targets: the programs in `fuzz/fuzz_targets/`.
fn targets(workspace: &Workspace) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder(workspace).join("fuzz_targets")) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root().join("fuzz")
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// All targets, in a folder of their own: the flags change each crate's build. Those given for the target alone leave build scripts
/// and macros as they are.
fn build() -> Invocation {
    Invocation::new("cargo build --release --manifest-path fuzz/Cargo.toml --target-dir fuzz/target --bins")
        .args(&format!("--target {}", triple()))
        .env("RUSTFLAGS", COVERAGE)
}

/// `cargo xtask fuzz`: runs `wanted` targets, or all, each for so many seconds, as many at a time as there are cores.
pub(crate) fn run(workspace: &Workspace, wanted: &[String], seconds: u32) -> bool {
    let all = targets(workspace);
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        eprintln!("no target `{unknown}`: {}", all.join(", "));
        return false;
    }
    if !process::passthrough(workspace, &build()) {
        return false;
    }
    let chosen: Vec<&String> = all.iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect();
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    println!("{:<14} {:>9} {:>11} {:>7} {:>7}", "target", "committed", "executions", "edges", "of");
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(name) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let held = one(workspace, name, seconds);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(held);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed = results.iter().filter(|held| !**held).count();
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored", results.len() - failed);
    failed == 0
}

/// Runs one target and says what it did.
fn one(workspace: &Workspace, name: &str, seconds: u32) -> bool {
    let folder = folder(workspace);
    let (committed, found) = (folder.join("corpus").join(name), folder.join("corpus-local").join(name));
    let artifacts = folder.join("artifacts").join(name);
    let inputs = fs::read_dir(&committed).map_or(0, Iterator::count);
    if fs::create_dir_all(&found).and_then(|()| fs::create_dir_all(&artifacts)).is_err() || inputs == 0 {
        println!("{name:<14} FAILED: no corpus in {}", committed.display());
        return false;
    }
    let program = folder.join("target").join(triple()).join("release").join(name);
    let mut invocation = Invocation::new("nice -n 10")
        .args(&program.display().to_string())
        .args(&format!("-max_total_time={seconds} -timeout={INPUT_S} -rss_limit_mb=1024 -max_len=4096"))
        .args(&format!(
            "-artifact_prefix={}/ {} {}",
            artifacts.display(),
            found.display(),
            committed.display()
        ))
        .limit_s(u64::from(seconds) + 600);
    if seconds <= SECONDS {
        // A check of a change, not a search: it replays, and tries little more, much the same each time.
        invocation = invocation.args(&format!("-seed=1 -runs={}", inputs + 500));
    }
    let dictionary = folder.join("dictionaries").join(format!("{name}.dict"));
    if dictionary.is_file() {
        invocation = invocation.args(&format!("-dict={}", dictionary.display()));
    }
    match process::run(workspace, &format!("fuzz-{name}"), &invocation) {
        Ok(outcome) => told(name, inputs, &outcome),
        Err(error) => {
            println!("{name:<14} FAILED: no log: {error}");
            false
        }
    }
}

fn told(name: &str, inputs: usize, outcome: &Outcome) -> bool {
    let done = outcome.output.lines().rev().find(|line| line.starts_with("Done "));
    let executions = done.and_then(|line| number_after(line, "Done "));
    let edges = outcome.output.lines().rev().find_map(|line| number_after(line, " cov: "));
    let of = outcome.output.lines().find(|line| line.contains("inline 8-bit counters"));
    let of = of.and_then(|line| number_after(line, " ("));
    match (outcome.success, executions, edges, of) {
        // The corpus is what it begins with: fewer executions would mean that it was not replayed.
        (true, Some(executions), Some(edges), Some(of)) if executions >= inputs as u64 && edges > 1 => {
            println!("{name:<14} {inputs:>9} {executions:>11} {edges:>7} {of:>7}");
            true
        }
        (success, ..) => {
            println!("{}", outcome.output);
            let why =
                if success { "no coverage, or the corpus was not replayed" } else { "it found something" };
            println!("{name:<14} FAILED: {why}: {}", outcome.log.display());
            println!("again with: fuzz/target/{}/release/{name} FILE", triple());
            false
        }
    }
}

/// The number that follows `mark` in `line`.
fn number_after(line: &str, mark: &str) -> Option<u64> {
    let rest = &line[line.find(mark)? + mark.len()..];
    let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    rest[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(success: bool, output: &str) -> Outcome {
        Outcome { success, output: output.to_owned(), log: PathBuf::new(), elapsed: Duration::ZERO }
    }

    const GOOD: &str = "INFO: Loaded 1 modules   (5210 inline 8-bit counters): 5210 [0x1, 0x2), \n\
        #12\tINITED cov: 310 ft: 400 corp: 9/1Kb exec/s: 0 rss: 40Mb\n\
        #900\tDONE   cov: 412 ft: 900 corp: 30/2Kb lim: 10 exec/s: 180 rss: 44Mb\nDone 900 runs in 5 second(s)\n";

    #[test]
    fn a_run_must_replay_its_corpus_and_see_coverage() {
        assert!(told("x", 10, &outcome(true, GOOD)));
        assert!(!told("x", 901, &outcome(true, GOOD)), "more inputs than executions");
        assert!(!told("x", 10, &outcome(false, GOOD)), "it crashed");
        assert!(!told("x", 10, &outcome(true, "Done 900 runs in 5 second(s)\n")), "blind");
    }

    #[test]
    fn every_target_of_the_tree_is_found() {
        let workspace = Workspace::open().expect("target is writable");
        let targets = targets(&workspace);
        assert!(targets.len() >= 10 && targets.iter().any(|name| name == "tcp_peer"), "{targets:?}");
    }
}
