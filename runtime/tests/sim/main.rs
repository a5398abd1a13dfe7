//! Whole hosts, executor and stack included, over a bad wire on virtual time.
//!
//! Sweeps run many seeds, and `cargo xtask sim` runs many more of them, or one again. In the environment,
//! `DEMI_SIM_SEEDS=n` says how many, `DEMI_SIM_FIRST=n` from which, `DEMI_SIM_SEED=n` repeats one, `DEMI_SIM_THREADS=n` says on
//! how many threads; `DEMI_SIM_PCAP=dir` writes the frames of seeds that fail to `dir`, `DEMI_SIM_PCAP_FILE=file` those of the
//! seed that runs; `DEMI_SIM_LIST=1` only names the sweeps. Nothing here sleeps, and nothing looks at a real clock.

mod hosts;
mod support;
mod traffic;

mod addressing;
mod attacks;
mod closing;
mod cores;
mod datagrams;
mod fast_open;
mod goodput;
mod marks;
#[cfg(feature = "dns")]
mod names;
mod outages;
mod paths;
mod pressure;
mod scale;
mod scenarios;
mod streams;
mod windows;
