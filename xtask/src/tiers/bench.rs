//! The bench tier: instruction counts of the hot paths against the committed baseline, and every benchmark for a moment,
//! so that none rots. Times are read by people, on quiet machines; here a benchmark has to run to its end and report.

use super::{Action, Step};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// Programs among the benchmarks that measure nothing by themselves: what `kernel_echo` and the gate run, the gate, and what writes
/// down the others' figures.
pub(crate) const HELPERS: [&str; 5] = ["echo_server", "loadgen", "icount", "icount_gate", "numbers"];

/// Benchmarks that need DPDK, and network namespaces: their tiers run them.
const FOREIGN: [&str; 4] = ["dpdk", "devices", "cores", "reflect"];

/// One build, the tests of the measuring kit, the gate, then a run of each benchmark.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let programs = workspace.benchmarks();
    if programs.is_empty() {
        return Vec::new();
    }
    let tier = "--profile tier -p demi-benches";
    let mut steps = vec![
        Step::build(Invocation::new("cargo build --bins").args(tier)),
        Step::tests("tests", Invocation::new("cargo test --no-fail-fast --lib").args(tier)),
    ];
    if programs.iter().any(|program| program == "icount_gate") {
        steps.push(Step::check(
            "instruction counts",
            Invocation::new("cargo run --bin icount_gate").args(tier),
        ));
    }
    let measures =
        |program: &String| !FOREIGN.contains(&program.as_str()) && !HELPERS.contains(&program.as_str());
    for program in programs.into_iter().filter(measures) {
        let path = workspace.target().join("tier").join(&program).display().to_string();
        let run = Invocation::new(&path).args("--json --seconds 0.2").limit_s(10 * 60);
        steps.push(Step { name: program, action: Action::Benchmark(run) });
    }
    steps
}
