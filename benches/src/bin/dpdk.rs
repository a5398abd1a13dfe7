//! DPDK ports: what a frame costs through our device, beside a loop of DPDK's own in C; what an empty look costs; and an
//! echo over two rings through everything above.
//!
//! Ports are rings in memory, so nothing here is hardware: what is measured is the software between it and an application.

use std::hint::black_box;

use demi_benches::kit::sample::timed;
use demi_benches::kit::{Args, Group, Run, Unit, measure};
use demi_benches::stack::demi::{Style, echo, echo_over};
use demi_benches::stack::{Echo, Protocol};
use demi_drivers::dpdk::rings::Rings;
use demi_drivers::dpdk::{Dpdk, DpdkConfig};
use demi_drivers::{Device, Instant, Offload, PoolConfig, TxQueue};

/// Enough for all ports at once; any user may run it.
const ARGUMENTS: &str = "--no-huge -m 512 --vdev=net_ring0 --vdev=net_ring1 --vdev=net_ring2";
/// Bytes of a frame without its checksum: the shortest.
const FRAME: usize = 60;

fn main() {
    let args = Args::parse("DPDK ports, nanoseconds a frame (a poll, a round trip).", &[]);
    let mut groups = Vec::new();
    for burst in [1, 4, 32] {
        groups.push(
            Group::new(format!("alloc + tx + rx + free, burst {burst}"), Unit::Nanos)
                .peer("demi", move || frames("net_ring0", burst, false))
                .peer("demi, sent again", move || frames("net_ring2", burst, true))
                .peer("DPDK in C", move || c_frames(burst)),
        );
    }
    groups.push(
        Group::new("empty poll", Unit::Nanos)
            .peer("demi", || {
                let mut port = open("net_ring0");
                let mut into = Vec::with_capacity(32);
                Box::new(move |operations| {
                    timed(|| {
                        for _ in 0..operations {
                            let count = port.rx_burst(Instant::ZERO, black_box(&mut into), 32);
                            assert_eq!(count.expect("a port that is there"), 0);
                        }
                    })
                })
            })
            .peer("DPDK in C", || {
                let rings = rings();
                let port = open("net_ring1");
                Box::new(move |operations| rings.empty_polls_in_c(&port, operations))
            }),
    );
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let case = Echo { protocol, pairs: 1, checksums: true };
        groups.push(
            Group::new(format!("echo, {}", case.name()), Unit::Nanos)
                .peer("dpdk rings", move || over_rings(case))
                .peer("wire in memory", move || echo(case, Style::Owned)),
        );
    }
    measure("dpdk", &args, groups);
}

fn rings() -> Rings {
    Rings::new(ARGUMENTS).expect("DPDK starts")
}

fn open(port: &str) -> Dpdk {
    let pool = PoolConfig { slots: 4096, large_slots: 8, ..PoolConfig::default() };
    let config = DpdkConfig { pool, ..DpdkConfig::new(format!("{ARGUMENTS} port={port}")) };
    Dpdk::open(&config).expect("a ring in memory")
}

/// Frames that a port sends to itself; with `again`, each is shown by another view until it has come back.
fn frames(port: &str, burst: usize, again: bool) -> Run {
    let mut port = open(port);
    let mut queue = TxQueue::new(64);
    let mut into = Vec::with_capacity(64);
    let mut kept = Vec::with_capacity(64);
    Box::new(move |operations| {
        timed(|| {
            let mut left = operations as usize;
            while left > 0 {
                for _ in 0..burst {
                    let mut frame = port.pool().alloc(FRAME).expect("a free slot");
                    frame.grow(FRAME);
                    let frame = frame.freeze();
                    if again {
                        kept.push(frame.clone());
                    }
                    queue.push(frame, Offload::default());
                }
                let sent = port.tx_burst(Instant::ZERO, &mut queue).expect("a port that is there");
                let got = port.rx_burst(Instant::ZERO, &mut into, burst).expect("a port that is there");
                assert_eq!((sent, got), (burst, burst));
                into.clear();
                kept.clear();
                left = left.saturating_sub(burst);
            }
        })
    })
}

/// The same in C, testpmd's way.
fn c_frames(burst: usize) -> Run {
    let rings = rings();
    let port = open("net_ring1");
    Box::new(move |operations| rings.loop_in_c(&port, burst as u16, operations).expect("buffers for a burst"))
}

/// Two hosts of ours, each on the other's ring.
fn over_rings(case: Echo) -> Run {
    let rings = rings();
    let name = match case.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let ports = rings.crossed(name, 1024).expect("two rings");
    echo_over(ports.map(|port| Box::new(open(&port.to_string())) as Box<dyn Device>), case, Style::Owned)
}
