//! What an executor costs: yields, spawns, wakes, oneshots and timers, on one thread, ours beside its peers.
//!
//! Every peer runs the same workloads (`work.rs`), written once over a small trait; only spawning, yielding, sleeping
//! and the oneshot are each peer's own. Time is taken inside the running executor, so entering and leaving it is free.

mod demi;
mod work;

#[cfg(feature = "peers")]
mod peers;

use demi_benches::kit::{Args, Group, Unit, measure};

fn main() {
    let args = Args::parse("Cost of an executor's operations, in nanoseconds.", &[]);
    let groups = work::CASES
        .iter()
        .map(|case| {
            let work = case.work;
            let group =
                Group::new(case.name, Unit::Nanos).peer("demi", move || work::build::<demi::Demi>(work));
            #[cfg(feature = "peers")]
            let group = peers::add(group, case);
            group
        })
        .collect();
    measure("executor", &args, groups);
}
