//! Ports that are rings in memory: two hosts in one process, without any privilege. For tests and benchmarks.

use std::ffi::CString;
use std::io;
use std::time::{Duration, Instant};

use demi_dpdk_sys as sys;

use super::args::Arguments;
use super::device::Dpdk;
use super::eal::{self, Eal};
use super::explain;

/// Rings between ports of this process.
#[derive(Debug)]
pub struct Rings(Eal);

impl Rings {
    /// Starts DPDK with `arguments` (`--no-huge -m 64`), or joins what runs.
    ///
    /// # Errors
    /// As [`Dpdk::open`](super::Dpdk::open).
    pub fn new(arguments: &str) -> io::Result<Rings> {
        Ok(Rings(Eal::join(&Arguments::parse(arguments, "")?)?))
    }

    /// Makes two ports, each of which receives what the other one sends, up to `entries` frames (a power of two) that wait; answers
    /// what to write behind `port=`.
    ///
    /// # Errors
    /// `InvalidInput` when there are such ports already; what DPDK says.
    pub fn crossed(&self, name: &str, entries: u32) -> io::Result<[u16; 2]> {
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut ports = [0; 2];
        // SAFETY: DPDK runs, the string lives until the call is over, and two numbers are written.
        let answer = unsafe { sys::demi_dpdk_crossed_rings(name.as_ptr(), entries, ports.as_mut_ptr()) };
        if answer < 0 {
            return Err(explain::error("dpdk: make rings", -answer, &eal::take_log()));
        }
        Ok(ports)
    }

    /// What DPDK alone needs, in C: allocates, sends, receives and frees `frames` frames in bursts of up to 64 over a port that receives
    /// its own. `None` when its memory does not do for a burst.
    pub fn loop_in_c(&self, port: &Dpdk, burst: u16, frames: u64) -> Option<Duration> {
        let (number, memory) = port.raw();
        let start = Instant::now();
        // SAFETY: the port is open and no other thread uses it, which a borrow of a device that cannot move to one shows.
        let held = unsafe { sys::demi_dpdk_loop(number, memory, burst, frames) };
        held.then(|| start.elapsed())
    }

    /// What DPDK alone needs, in C, to find nothing `count` times.
    pub fn empty_polls_in_c(&self, port: &Dpdk, count: u64) -> Duration {
        let start = Instant::now();
        // SAFETY: as above.
        unsafe { sys::demi_dpdk_empty_polls(port.raw().0, count) };
        start.elapsed()
    }
}
