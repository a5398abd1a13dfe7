//! The DPDK tier: what only a build with the feature `dpdk` has. Lints and documentation of it, the device over ports in memory,
//! over the running kernel and between processes, and the scenarios against foreign programs on a DPDK port.
//!
//! Cargo keeps what is built with other features apart, so the other tiers' builds stay as they are.

use super::{Action, Step, Tier, targets_of};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// What is built with DPDK.
const PACKAGES: &str = "-p demi-dpdk-sys -p demi-drivers -p demi-runtime -p demi-examples";
/// The feature in each of them, and the ports that only tests have.
const FEATURES: &str = "--features demi-drivers/dpdk-rings,demi-runtime/dpdk,demi-examples/dpdk,demi-runtime/dns,demi-runtime/hyper,demi-runtime/tokio";

/// A command on all that is built with DPDK.
pub(super) fn dpdk(line: &str) -> Invocation {
    Invocation::new(line).args(PACKAGES).args(FEATURES)
}

/// Lints, the programs under test, the suites.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let targets = targets_of(workspace, Tier::Dpdk);
    if targets.is_empty() {
        return Vec::new();
    }
    let tests = |line: &str| dpdk(line).env("DEMI_TIER", "dpdk").limit_s(40 * 60);
    let bench = Invocation::new(
        "cargo run --profile tier -p demi-benches --no-default-features --features dpdk --bin dpdk",
    )
    .args("-- --json --seconds 0.2")
    .limit_s(20 * 60);
    vec![
        Step::check("clippy", dpdk("cargo clippy --all-targets").args("-- -D warnings")),
        Step::check("doc", dpdk("cargo doc --no-deps").env("RUSTDOCFLAGS", "-D warnings")),
        Step::build(dpdk("cargo build --profile tier --examples")),
        Step::tests("tests", tests("cargo test --no-fail-fast --profile tier --lib").args("-- dpdk")),
        Step::tests(
            "ports",
            tests("cargo test --no-fail-fast --profile tier").args(&targets).args("-- --show-output"),
        ),
        Step::tests(
            "real peers",
            tests("cargo test --no-fail-fast --profile tier --test interop")
                .args("-- --show-output ::dpdk::"),
        ),
        Step { name: "numbers".to_owned(), action: Action::Benchmark(bench) },
    ]
}
