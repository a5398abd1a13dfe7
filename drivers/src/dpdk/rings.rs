//! Ports that are rings in memory: two hosts in one process, without any privilege. For tests and benchmarks.

use std::ffi::CString;
use std::io;

use demi_dpdk_sys as sys;

use super::args::Arguments;
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
}
