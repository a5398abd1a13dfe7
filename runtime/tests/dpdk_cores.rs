//! Our own stack on two cores, a queue of one DPDK port each: the tests of `packet_cores`, over `dpdk:`. Run by
//! `cargo xtask test --tier dpdk`.
#![cfg(feature = "dpdk")]

#[path = "packet_cores.rs"]
mod packet_cores;
