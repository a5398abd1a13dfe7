//! The guest tier: network cards on a PCI bus. For each that QEMU emulates a virtual machine is booted, the card is given to DPDK, and
//! the suite `interop` runs in there against the guest's kernel, built as the DPDK tier builds it.

use super::{Step, dpdk};
use crate::guest::Nic;
use crate::workspace::Workspace;

/// The longest a card's tests may take, boot included: every instruction is translated.
const LIMIT_S: u64 = 15 * 60;

/// The programs under test, then a step a card.
pub(super) fn steps(workspace: &Workspace) -> Vec<Step> {
    if !workspace.mentions("examples/tests/interop", "machine_has_a_card") {
        return Vec::new();
    }
    let mut steps = vec![Step::build(dpdk::dpdk("cargo build --profile tier --examples"))];
    // Cargo starts a test program by what this names, and knows it by the machine's triple.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH).to_uppercase().replace('-', "_");
    // Not `cargo xtask`: cargo would start that by itself again.
    let driver =
        std::env::current_exe().map_or_else(|_| "xtask".to_owned(), |path| path.display().to_string());
    for nic in Nic::TESTED {
        let runner = format!("{driver} guest --nic {} --limit {LIMIT_S} --", nic.name());
        let suite = dpdk::dpdk("cargo test --no-fail-fast --profile tier --test interop")
            .args("-- --show-output card:: --test-threads 1")
            .env("DEMI_TIER", "guest")
            .env(&format!("CARGO_TARGET_{triple}_RUNNER"), &runner)
            .limit_s(LIMIT_S + 600);
        steps.push(Step::tests(nic.name(), suite));
    }
    steps
}
