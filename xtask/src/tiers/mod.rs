//! The tiers of tests, cheapest first: what each consists of, and how they are run one after another. A tier is a list
//! of steps; a step is one command whose output is kept and counted.

pub(crate) mod bench;
pub(crate) mod dpdk;
pub(crate) mod fuzz;
pub(crate) mod guest;
pub(crate) mod kernel;
pub(crate) mod rdma;
pub(crate) mod sim;
pub(crate) mod unit;

use std::env;
use std::time::{Duration, Instant};

use crate::counts::{self, Counts};
use crate::packages::{self, Tool};
use crate::process::{self, Invocation};
use crate::report::{self, Row};
use crate::workspace::Workspace;

/// A tier of tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    /// Formatting, lints, documentation, and tests that need nothing but Rust and gcc.
    Unit,
    /// Whole hosts over a seeded wire, on virtual time.
    Sim,
    /// Against the running kernel and foreign clients, in network namespaces.
    Kernel,
    /// Instruction counts against the committed baseline, and each benchmark for a moment.
    Bench,
    /// DPDK ports.
    Dpdk,
    /// A virtual machine with its own kernel.
    Guest,
    /// RDMA.
    Rdma,
    /// Fuzzing.
    Fuzz,
}

/// The packages whose tests run together: one set in every command, so that cargo builds them once.
const PACKAGES: &str = "-p demi-drivers -p demi-netstack -p demi-packetdrill -p demi-runtime -p demi-macros -p demi-examples -p xtask";

/// Features that take nothing but Rust and gcc, beside the default ones. What needs a foreign library has a tier of its own.
pub(crate) const FEATURES: &str = "--features demi-runtime/dns,demi-runtime/hyper,demi-runtime/tokio";

impl Tier {
    /// All tiers in the order they run.
    pub(crate) const ALL: [Tier; 8] =
        [Tier::Unit, Tier::Sim, Tier::Kernel, Tier::Bench, Tier::Dpdk, Tier::Guest, Tier::Rdma, Tier::Fuzz];

    /// The name `--tier` takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tier::Unit => "unit",
            Tier::Sim => "sim",
            Tier::Kernel => "kernel",
            Tier::Bench => "bench",
            Tier::Dpdk => "dpdk",
            Tier::Guest => "guest",
            Tier::Rdma => "rdma",
            Tier::Fuzz => "fuzz",
        }
    }

    /// The tier called `name`.
    pub(crate) fn from_name(name: &str) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// All names, for messages.
    pub(crate) fn names() -> String {
        Tier::ALL.map(Tier::name).join(", ")
    }

    /// Tools it calls beside cargo.
    pub(crate) fn tools(self) -> &'static [Tool] {
        match self {
            Tier::Kernel => packages::KERNEL,
            Tier::Bench => packages::BENCH,
            Tier::Fuzz => packages::FUZZ,
            Tier::Dpdk | Tier::Guest => packages::DPDK,
            Tier::Rdma => packages::RDMA,
            _ => &[],
        }
    }

    /// The commands of the tier; none if the tree holds no test of it: then there is nothing to run, nor to skip.
    fn steps(self, workspace: &Workspace) -> Vec<Step> {
        match self {
            Tier::Unit => unit::steps(workspace),
            Tier::Sim => sim::steps(workspace),
            Tier::Kernel => kernel::steps(workspace),
            Tier::Bench => bench::steps(workspace),
            Tier::Fuzz => fuzz::steps(workspace),
            Tier::Dpdk => dpdk::steps(workspace),
            Tier::Guest => guest::steps(workspace),
            Tier::Rdma => rdma::steps(workspace),
        }
    }

    /// Why this machine cannot run the tier at all, after what is missing has been installed where possible.
    fn obstacle(self, workspace: &Workspace) -> Option<String> {
        if matches!(self, Tier::Kernel | Tier::Dpdk) && !packages::is_root() {
            return Some("needs root, for network namespaces".to_owned());
        }
        if self == Tier::Unit {
            return packages::ensure_components(workspace).err();
        }
        let missing = packages::ensure(workspace, self.tools()).err();
        if self == Tier::Guest {
            // Its clients are the kernel tier's.
            let clients = || packages::ensure(workspace, packages::KERNEL).err();
            return missing.or_else(clients).or_else(|| crate::guest::obstacle(workspace));
        }
        if self == Tier::Rdma {
            return missing.or_else(|| crate::guest::obstacle(workspace));
        }
        missing
    }
}

/// One command of a tier.
#[derive(Debug)]
pub(crate) struct Step {
    /// What the table calls it.
    pub(crate) name: String,
    /// What it does.
    pub(crate) action: Action,
}

/// What a step does.
#[derive(Debug)]
pub(crate) enum Action {
    /// Run a command that holds or does not.
    Check(Invocation),
    /// Build what the following steps of the tier run: without it they would run what an earlier build left.
    Build(Invocation),
    /// Run a command that prints libtest's summaries.
    Tests(Invocation),
    /// Run a benchmark that prints one JSON object a line.
    Benchmark(Invocation),
    /// Nothing: this machine lacks something that the step needs, and this is what.
    Skip(String),
}

impl Step {
    /// A step that holds or does not.
    pub(crate) fn check(name: impl Into<String>, invocation: Invocation) -> Step {
        Step { name: name.into(), action: Action::Check(invocation) }
    }

    /// A step that builds what the following ones run.
    pub(crate) fn build(invocation: Invocation) -> Step {
        Step { name: "build".to_owned(), action: Action::Build(invocation) }
    }

    /// A step made of tests.
    pub(crate) fn tests(name: impl Into<String>, invocation: Invocation) -> Step {
        Step { name: name.into(), action: Action::Tests(invocation) }
    }

    fn describe(&self) -> String {
        match &self.action {
            Action::Check(invocation)
            | Action::Build(invocation)
            | Action::Tests(invocation)
            | Action::Benchmark(invocation) => invocation.line(),
            Action::Skip(reason) => format!("skipped here: {reason}"),
        }
    }

    fn run(&self, workspace: &Workspace, tier: Tier) -> Row {
        let start = Instant::now();
        let log = format!("{}-{}", tier.name(), self.name.replace(' ', "-"));
        let (counts, note) = match &self.action {
            Action::Check(invocation) | Action::Build(invocation) => {
                run_command(workspace, &log, invocation, |_, ok| counts::of_check(ok))
            }
            Action::Tests(invocation) => run_command(workspace, &log, invocation, counts::of_tests),
            Action::Benchmark(invocation) => run_command(workspace, &log, invocation, counts::of_benchmark),
            Action::Skip(reason) => (Counts::SKIPPED, Some(reason.clone())),
        };
        let what = match note {
            Some(note) => format!("{}: {note}", self.name),
            None => self.name.clone(),
        };
        Row { tier: tier.name(), what, counts: Some(counts), elapsed: start.elapsed() }
    }
}

/// Runs a command and counts; shows its output in full if anything failed.
fn run_command(
    workspace: &Workspace,
    log: &str,
    invocation: &Invocation,
    count: fn(&str, bool) -> Counts,
) -> (Counts, Option<String>) {
    match process::run(workspace, log, invocation) {
        Ok(outcome) => {
            let counts = count(&outcome.output, outcome.success);
            if counts.failed > 0 {
                println!("{}\n{}", invocation.line(), outcome.output);
                println!("failed after {:.0} s: {}", outcome.elapsed.as_secs_f64(), outcome.log.display());
            }
            for reason in counts::skip_reasons(&outcome.output) {
                println!("skipped: {reason}");
            }
            (counts, None)
        }
        Err(error) => (Counts::FAILED, Some(format!("no log: {error}"))),
    }
}

/// Runs `tiers`, or all if none is named; whether the run is a success.
pub(crate) fn run(workspace: &Workspace, tiers: &[Tier]) -> bool {
    let named = !tiers.is_empty();
    let mut rows = Vec::new();
    for &tier in if named { tiers } else { &Tier::ALL } {
        let steps = tier.steps(workspace);
        if steps.is_empty() {
            rows.push(absent(tier, named));
            continue;
        }
        if let Some(obstacle) = tier.obstacle(workspace) {
            rows.push(Row {
                tier: tier.name(),
                what: obstacle,
                counts: Some(Counts::SKIPPED),
                elapsed: Duration::ZERO,
            });
            continue;
        }
        for step in steps {
            println!("{} {} ...", tier.name(), step.name);
            let row = step.run(workspace, tier);
            let counts = row.counts.unwrap_or_default();
            println!(
                "{} {}: {} ({:.0} s)",
                row.tier,
                row.what,
                report::last_line(counts),
                row.elapsed.as_secs_f64()
            );
            rows.push(row);
            if counts.failed > 0 && matches!(step.action, Action::Build(_)) {
                println!("{}: the rest of the tier needs what was not built", tier.name());
                break;
            }
        }
    }
    let total = report::total(&rows);
    let in_ci = env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    println!("\n{}", report::table(&rows));
    if in_ci && total.failed == 0 && total.skipped > 0 {
        println!("CI is set: what was skipped counts as failed");
    }
    println!("{}", report::last_line(total));
    report::is_success(total, in_ci)
}

/// The row of a tier that is not part of this release. Asking for it by name is a mistake worth an exit code.
fn absent(tier: Tier, named: bool) -> Row {
    let counts = named.then_some(Counts::FAILED);
    Row { tier: tier.name(), what: "not part of this release".to_owned(), counts, elapsed: Duration::ZERO }
}

/// Prints what `tiers` consist of, or all if none is named.
pub(crate) fn list(workspace: &Workspace, tiers: &[Tier]) -> bool {
    for &tier in if tiers.is_empty() { &Tier::ALL } else { tiers } {
        let steps = tier.steps(workspace);
        println!("{}{}", tier.name(), if steps.is_empty() { " (not part of this release)" } else { "" });
        for step in steps {
            println!("  {}: {}", step.name, step.describe());
        }
    }
    true
}

/// The tier that an integration test target belongs to, by its name.
fn tier_of_target(name: &str) -> Tier {
    let first_word = name.split('_').next().unwrap_or(name);
    match first_word {
        "sim" => Tier::Sim,
        "interop" | "tap" | "packet" | "xdp" => Tier::Kernel,
        "dpdk" => Tier::Dpdk,
        "rdma" => Tier::Rdma,
        _ => Tier::Unit,
    }
}

/// `--test NAME` for each integration test target of `tier`.
fn targets_of(workspace: &Workspace, tier: Tier) -> String {
    workspace
        .test_targets()
        .iter()
        .filter(|name| tier_of_target(name) == tier)
        .map(|name| format!("--test {name}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_target_is_in_the_tier_its_first_word_says() {
        for (name, tier) in [
            ("sim_two_hosts", Tier::Sim),
            ("sim", Tier::Sim),
            ("interop", Tier::Kernel),
            ("kernel_transports", Tier::Unit),
            ("tap", Tier::Kernel),
            ("xdp", Tier::Kernel),
            ("dpdk_rings", Tier::Dpdk),
            ("rdma", Tier::Rdma),
            ("simple", Tier::Unit),
            ("wire", Tier::Unit),
        ] {
            assert_eq!(tier_of_target(name), tier, "{name}");
        }
    }

    #[test]
    fn a_tier_that_is_not_there_fails_only_if_it_was_asked_for() {
        assert_eq!(absent(Tier::Rdma, false).counts, None);
        assert_eq!(absent(Tier::Rdma, true).counts, Some(Counts::FAILED));
    }
}
