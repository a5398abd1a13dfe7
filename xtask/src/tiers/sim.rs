//! The simulation tier: whole hosts, executor included, over a seeded wire on virtual time. Its suites are the test
//! targets called `sim` and `sim_*`; each runs the seeds that `DEMI_SIM_SEEDS` says, and prints the seed of a failure.

use super::{PACKAGES, Step, Tier, targets_of};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// Seeds of each simulation.
const SEEDS: &str = "1000";

/// Simulations with a foreign stack at the other end are tests of the benchmarks' package, which knows the peers; with no
/// other peer than that one it is built quickly.
pub(crate) const FOREIGN: &str =
    "-p demi-benches --no-default-features --features smoltcp --test sim_smoltcp";
/// The target of [`FOREIGN`].
const FOREIGN_TARGET: &str = "--test sim_smoltcp";

/// Our own simulations, then those with smoltcp.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let targets = targets_of(workspace, Tier::Sim);
    let (foreign, own): (Vec<_>, Vec<_>) = targets
        .split("--test ")
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .partition(|name| FOREIGN_TARGET.ends_with(name));
    let mut steps = Vec::new();
    let tests = || Invocation::new("cargo test --no-fail-fast --profile tier").env("DEMI_SIM_SEEDS", SEEDS);
    if !own.is_empty() {
        let own: Vec<_> = own.iter().map(|name| format!("--test {name}")).collect();
        let all = tests().args(PACKAGES).args(&own.join(" ")).args("-- --show-output");
        steps.push(Step::tests("simulations", all));
    }
    if !foreign.is_empty() {
        steps.push(Step::tests("simulations with smoltcp", tests().args(FOREIGN).args("-- --show-output")));
    }
    steps
}
