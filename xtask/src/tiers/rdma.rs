//! The RDMA tier: what only a build with the feature `rdma` has. It is built here and run in a guest, whose kernel has RDMA devices of
//! its own, at the two ends of a cable.
//!
//! Cargo keeps what is built with other features apart, so the other tiers' builds stay as they are.

use std::path::Path;

use super::{Step, Tier, targets_of};
use crate::process::Invocation;
use crate::workspace::Workspace;

/// What is built with RDMA.
const PACKAGES: &str = "-p demi-drivers -p demi-runtime -p demi-examples";
/// The feature in each of them.
const FEATURES: &str = "--features demi-drivers/rdma,demi-runtime/rdma,demi-examples/rdma,demi-runtime/dns,demi-runtime/hyper,demi-runtime/tokio";

/// Where Debian has the libclang that the bindings are made with; newer ones make others, which do not compile.
const LIBCLANG: &str = "/usr/lib/llvm-14/lib";

/// The longest that a suite may take, boot included: every instruction is translated.
const LIMIT_S: u64 = 15 * 60;

/// A command on all that is built with RDMA.
fn rdma(line: &str) -> Invocation {
    let command = Invocation::new(line).args(PACKAGES).args(FEATURES);
    match Path::new(LIBCLANG).is_dir() {
        true => command.env("LIBCLANG_PATH", LIBCLANG),
        false => command,
    }
}

/// Lints, documentation, the suites and the programs that they start.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    if !workspace.mentions("drivers/src/rdma", "machine_has_rdma") {
        return Vec::new();
    }
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH).to_uppercase().replace('-', "_");
    // Not `cargo xtask`: cargo would start that by itself again.
    let driver =
        std::env::current_exe().map_or_else(|_| "xtask".to_owned(), |path| path.display().to_string());
    let runner = format!("{driver} guest --rdma --limit {LIMIT_S} --");
    let in_guest = |line: &str| {
        rdma(line)
            .env("DEMI_TIER", "rdma")
            .env(&format!("CARGO_TARGET_{triple}_RUNNER"), &runner)
            .limit_s(LIMIT_S + 600)
    };
    vec![
        Step::check("clippy", rdma("cargo clippy --all-targets").args("-- -D warnings")),
        Step::check("doc", rdma("cargo doc --no-deps").env("RUSTDOCFLAGS", "-D warnings")),
        Step::tests(
            "verbs",
            in_guest("cargo test --no-fail-fast --profile tier --lib")
                .args("-- --show-output rdma --test-threads 1"),
        ),
        // The programs that suites start.
        Step::build(rdma("cargo build --profile tier --examples")),
        Step::tests(
            "transport",
            in_guest("cargo test --no-fail-fast --profile tier")
                .args(&targets_of(workspace, Tier::Rdma))
                .args("-- --show-output --test-threads 1"),
        ),
    ]
}
