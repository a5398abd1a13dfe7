//! Paths that carry less than the link: routers that are silent about it, for a while or for good.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use demi::sim::Sim;
use demi::sim::wire::Verdict;

use crate::hosts::{answer, ask, flow, two};
use crate::support::{run, soon};

/// Drops frames of more than `bytes`, from the `from`th large one to the `upto`th.
fn swallow(sim: &mut Sim, bytes: usize, from: u32, upto: u32) -> Rc<Cell<u32>> {
    let seen = Rc::new(Cell::new(0));
    let count = seen.clone();
    sim.on_wire(move |wire| {
        wire.set_filter(move |frame| {
            if frame.bytes.len() <= bytes {
                return Verdict::Pass;
            }
            count.set(count.get() + 1);
            if (from..upto).contains(&count.get()) { Verdict::Drop } else { Verdict::Pass }
        });
    });
    seen
}

#[test]
fn a_path_that_swallows_large_packets_is_found_out() {
    for mtu in [1300, 1100, 600] {
        let mut sim = soon(1);
        swallow(&mut sim, mtu + 14, 0, u32::MAX);
        two(
            &mut sim,
            async |mut stream| answer(&mut stream, &flow(300_000), &flow(200_000)).await,
            async |mut stream| ask(&mut stream, &flow(300_000), &flow(200_000)).await,
        );
        let report = run(sim);
        assert!(report.elapsed < Duration::from_secs(40), "{mtu}: {:?}", report.elapsed);
    }
}

#[test]
fn a_path_that_begins_to_swallow_large_packets_is_found_out() {
    let mut sim = soon(2);
    swallow(&mut sim, 1314, 100, u32::MAX);
    two(
        &mut sim,
        async |mut stream| answer(&mut stream, &flow(1_000_000), &flow(10)).await,
        async |mut stream| ask(&mut stream, &flow(1_000_000), &flow(10)).await,
    );
    let report = run(sim);
    assert!(report.elapsed < Duration::from_secs(30), "{:?}", report.elapsed);
}

#[test]
fn a_path_that_is_mended_carries_large_packets_again() {
    let mut sim = soon(3);
    // A dozen large ones are lost; those that are tried later, as probes, are not.
    let seen = swallow(&mut sim, 1100, 0, 13);
    two(
        &mut sim,
        async |mut stream| answer(&mut stream, &flow(3_000_000), &flow(10)).await,
        async |mut stream| ask(&mut stream, &flow(3_000_000), &flow(10)).await,
    );
    run(sim);
    assert!(seen.get() > 1500, "only {} large ones", seen.get());
}
