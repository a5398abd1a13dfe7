//! The simulation tier: whole hosts, executor included, over a seeded wire on virtual time. Its suites are the test
//! targets called `sim` and `sim_*`; each runs the seeds that `DEMI_SIM_SEEDS` says, and prints the seed of a failure.

use super::{PACKAGES, Step, Tier, targets_of};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// Seeds of each simulation.
const SEEDS: &str = "1000";

/// The one step.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let targets = targets_of(workspace, Tier::Sim);
    if targets.is_empty() {
        return Vec::new();
    }
    let invocation = Invocation::new("cargo test --no-fail-fast --profile tier")
        .args(PACKAGES)
        .args(&targets)
        .args("-- --show-output")
        .env("DEMI_SIM_SEEDS", SEEDS);
    vec![Step::tests("simulations", invocation)]
}
