//! The laboratory that every scenario works in.
//!
//! A [`Lab`] is two hosts joined by a switch (or by a TAP), as one [`Case`] of the matrix wants them. A [`Running`]
//! program runs in it until it is dropped, a [`Client`] until it ends or its time is up. All of them clean up when dropped, a panic
//! included; what a killed run left behind goes when the next one starts.

#[cfg(feature = "dpdk")]
pub(crate) mod card;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod files;
pub(crate) mod lab;
pub(crate) mod matrix;
pub(crate) mod namespace;
pub(crate) mod running;
mod sandbox;

pub(crate) use client::Client;
pub(crate) use lab::Lab;
pub(crate) use matrix::{Case, Device, Ip, matrix};
pub(crate) use namespace::Namespace;
pub(crate) use running::Running;

use std::sync::Once;
use std::time::{Duration, Instant};
use std::{env, thread};

/// Whether this run may touch the machine; says `SKIP` and why if it may not.
pub(crate) fn machine_is_ours() -> bool {
    if !matches!(env::var("DEMI_TIER").as_deref(), Ok("kernel" | "dpdk")) {
        println!("SKIP neither the kernel tier nor that of DPDK: cargo xtask test --tier kernel");
        return false;
    }
    if !command::is_root() {
        println!("SKIP needs root, for network namespaces");
        return false;
    }
    static CLEAN: Once = Once::new();
    CLEAN.call_once(namespace::remove_stale);
    true
}

/// Asks again and again until `holds` does; whether it did within half a minute. For what a program does soon after it
/// was told to, and of which there is no event to wait for.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(50));
    }
}
