//! The DPDK device over ports in memory, over this machine's kernel and between processes. DPDK starts once a process, so
//! each test runs its case in a child of its own.

#[allow(dead_code)] // Each test program uses a part of it.
#[path = "../common/mod.rs"]
mod common;

mod errors;
mod kernel;
mod memif;
mod rings;
mod support;
mod threads;
