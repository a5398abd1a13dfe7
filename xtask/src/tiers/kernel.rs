//! The kernel tier: our devices and examples against the running kernel and foreign clients, in network namespaces that
//! the tests make and remove. Its suites are the test targets called `tap*`, `packet*`, `xdp*` and `interop*`; each
//! sees `DEMI_TIER=kernel`, without which it does not touch the machine.

use super::{Action, FEATURES, PACKAGES, Step, Tier, targets_of};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// The programs under test first, then the suites.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let targets = targets_of(workspace, Tier::Kernel);
    if targets.is_empty() {
        return Vec::new();
    }
    let mut steps = Vec::new();
    if !workspace.examples().is_empty() {
        let build = Invocation::new("cargo build --profile tier --examples").args(PACKAGES).args(FEATURES);
        steps.push(Step::build(build));
    }
    let suites = Invocation::new("cargo test --no-fail-fast --profile tier")
        .args(PACKAGES)
        .args(FEATURES)
        .args(&targets)
        .args("-- --show-output")
        .env("DEMI_TIER", "kernel");
    steps.push(Step::tests("real peers", suites));
    let benches = [
        ("devices", "--samples 1 --sample-ms 100"),
        ("cores", "--seconds 0.4"),
        ("reflect", "--seconds 0.1 --icount"),
    ];
    for (program, briefly) in benches {
        let line = format!(
            "cargo run --profile tier -p demi-benches --no-default-features --features c-loops --bin {program}"
        );
        let bench = Invocation::new(&line).args(&format!("-- --json {briefly}")).limit_s(20 * 60);
        steps.push(Step { name: format!("numbers: {program}"), action: Action::Benchmark(bench) });
    }
    steps
}
