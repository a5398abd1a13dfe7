//! The unit tier: what needs nothing but Rust and gcc. Formatting, lints, documentation, unit tests, integration tests
//! that stay in the process or on loopback, examples in the documentation, loom, the oldest compiler, AddressSanitizer.

use std::process::{Command, Stdio};

use super::{Action, FEATURES, PACKAGES, Step, Tier, targets_of};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// The steps, cheapest first.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    let mut steps = vec![
        Step::check("fmt", fmt(true)),
        Step::check("clippy", clippy()),
        Step::check("doc", doc()),
        Step::check(
            "no default features",
            Invocation::new("cargo check -p demi-runtime --no-default-features --lib"),
        ),
        Step::tests("tests", tests(workspace)),
        Step::tests("doctests", doctests()),
    ];
    if workspace.mentions("runtime", "cfg(loom)") {
        steps.push(Step::tests("loom", loom(workspace)));
    }
    steps.extend(oldest_compiler(workspace));
    steps.push(address_sanitizer(workspace));
    steps
}

/// `cargo fmt`, checking or formatting.
pub(crate) fn fmt(check: bool) -> Invocation {
    Invocation::new(if check { "cargo fmt --all -- --check" } else { "cargo fmt --all" })
}

/// clippy over all targets; warnings are errors.
pub(crate) fn clippy() -> Invocation {
    let mut clippy =
        Invocation::new("cargo clippy --workspace --exclude demi-dpdk-sys --all-targets").args(FEATURES);
    clippy = clippy.args("-- -D warnings");
    clippy.limit *= 2;
    clippy
}

/// rustdoc of what users read; warnings are errors.
pub(crate) fn doc() -> Invocation {
    Invocation::new("cargo doc --workspace --exclude demi-benches --exclude demi-dpdk-sys --no-deps")
        .args(FEATURES)
        .env("RUSTDOCFLAGS", "-D warnings")
}

fn tests(workspace: &Workspace) -> Invocation {
    let examples = workspace.examples().into_iter().filter(|example| example.tested);
    let examples =
        examples.map(|example| format!("--example {}", example.name)).collect::<Vec<_>>().join(" ");
    Invocation::new("cargo test --no-fail-fast --profile tier --lib --bins")
        .args(PACKAGES)
        .args(FEATURES)
        .args(&examples)
        .args(&targets_of(workspace, Tier::Unit))
        .args("-- --show-output")
}

fn doctests() -> Invocation {
    Invocation::new("cargo test --no-fail-fast --profile tier --doc").args(PACKAGES).args(FEATURES)
}

/// Every interleaving of what crosses threads. In a target folder of its own: the cfg changes each crate's build.
fn loom(workspace: &Workspace) -> Invocation {
    Invocation::new("cargo test --profile tier -p demi-runtime --lib")
        .args(&format!("--target-dir {}", workspace.target().join("loom").display()))
        .args("loom_")
        .env("RUSTFLAGS", "--cfg loom")
        // All interleavings with that many forced switches of thread: more take hours and are not known to find more.
        .env("LOOM_MAX_PREEMPTIONS", "3")
}

/// Packet memory and the kernel rings under AddressSanitizer, which only a nightly compiler has.
fn address_sanitizer(workspace: &Workspace) -> Step {
    let name = "address sanitizer";
    if !has_toolchain("nightly") {
        let reason = "no nightly compiler: rustup toolchain install nightly".to_owned();
        return Step { name: name.to_owned(), action: Action::Skip(reason) };
    }
    let invocation = Invocation::new("rustup run nightly cargo test --no-fail-fast -p demi-drivers --lib")
        .args(&format!("--target {}-unknown-linux-gnu", std::env::consts::ARCH))
        .args(&format!("--target-dir {}", workspace.target().join("asan").display()))
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("ASAN_OPTIONS", "detect_leaks=1");
    Step::tests(name, invocation)
}

/// What users build, with the oldest compiler that we say will do; if it is installed.
fn oldest_compiler(workspace: &Workspace) -> Option<Step> {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    let toolchain =
        [oldest.to_owned(), format!("{oldest}.0")].into_iter().find(|name| has_toolchain(name))?;
    let check =
        Invocation::new(&format!("rustup run {toolchain} cargo check -p demi-runtime -p demi-packetdrill"))
            .args("--features demi-runtime/dns,demi-runtime/hyper,demi-runtime/tokio,demi-runtime/xdp")
            .args(&format!("--target-dir {}", workspace.target().join("oldest").display()));
    Some(Step::check("oldest compiler", check))
}

fn has_toolchain(name: &str) -> bool {
    Command::new("rustup")
        .args(["run", name, "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_other_tiers_are_not_among_the_unit_tests() {
        let workspace = Workspace::open().expect("target is writable");
        let line = tests(&workspace).line();
        for word in line.split(' ') {
            assert!(!word.starts_with("sim_") && !word.starts_with("interop"), "{line}");
        }
    }

    #[test]
    fn every_lint_warning_is_an_error() {
        assert!(clippy().line().ends_with("-D warnings"));
        assert!(doc().line().contains("-D warnings"));
    }
}
