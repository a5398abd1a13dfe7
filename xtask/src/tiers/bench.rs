//! The bench tier: every benchmark for a moment, so that none rots. Figures are read by people, on quiet machines; here
//! a benchmark only has to run to its end and to report something.

use super::Step;
use crate::process::Invocation;
use crate::workspace::Workspace;

/// One build, then a run for each binary.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let programs = workspace.benchmarks();
    if programs.is_empty() {
        return Vec::new();
    }
    let mut steps =
        vec![Step::check("build", Invocation::new("cargo build --profile tier -p demi-benches --bins"))];
    for program in programs {
        let path = workspace.target().join("tier").join(&program).display().to_string();
        steps.push(Step::check(program, Invocation::new(&path).args("--json --seconds 1").limit_s(300)));
    }
    steps
}
