//! Whole hosts, executor and stack included, over a bad wire on virtual time.
//!
//! Sweeps run many seeds: `DEMI_SIM_SEEDS=n` says how many, `DEMI_SIM_SEED=n` repeats one, and `DEMI_SIM_PCAP=dir` writes
//! the frames of those that fail to `dir`. Nothing here sleeps, and nothing looks at a real clock.

mod hosts;
mod support;
mod traffic;

mod addressing;
mod attacks;
mod closing;
mod datagrams;
#[cfg(feature = "dns")]
mod names;
mod outages;
mod scale;
mod scenarios;
mod streams;
mod windows;
