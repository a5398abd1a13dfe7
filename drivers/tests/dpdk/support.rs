//! Cases in processes of their own, and frames to send.

use std::env;
use std::process::Command;
use std::time::{Duration, Instant as Clock};

use demi_drivers::dpdk::{Dpdk, DpdkConfig};
use demi_drivers::{Buf, Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};

/// Tells a child which case it is.
const CASE: &str = "DEMI_DPDK_CASE";
/// The longest that anything takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// DPDK without huge pages, as any user can run it.
pub(crate) const SMALL: &str = "--no-huge -m 64";

/// Runs `body`, the case `name` (`module::test`), in a process of its own.
#[track_caller]
pub(crate) fn case(name: &str, body: impl FnOnce()) {
    if env::var(CASE).is_ok_and(|chosen| chosen == name) {
        body();
        return;
    }
    if env::var(CASE).is_ok() {
        return;
    }
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .env_remove("DEMI_DPDK_ARGS")
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    // What a child skips is skipped here as well.
    for line in text.lines().filter(|line| line.starts_with("SKIP")) {
        println!("{line}");
    }
    assert!(child.status.success() && text.contains("1 passed"), "{name}: {}\n{text}", child.status);
}

/// A configuration whose memory fits [`SMALL`] twice.
pub(crate) fn config(arguments: &str) -> DpdkConfig {
    let pool = PoolConfig { slots: 512, large_slots: 8, ..PoolConfig::default() };
    DpdkConfig { pool, ..DpdkConfig::new(arguments) }
}

/// Opens a port of little memory.
#[track_caller]
pub(crate) fn open(arguments: &str) -> Dpdk {
    Dpdk::open(&config(arguments)).unwrap()
}

/// A frame of an EtherType for experiments, numbered, of `bytes` in all.
pub(crate) fn frame(number: u64, bytes: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..bytes).map(|at| (at as u64 * 7 + number) as u8).collect();
    frame[..12].copy_from_slice(&[0xff; 12]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..22].copy_from_slice(&number.to_be_bytes());
    frame
}

/// Sends all that is queued, receiving nothing meanwhile.
#[track_caller]
pub(crate) fn send(device: &mut Dpdk, queue: &mut TxQueue) {
    let start = Clock::now();
    while !queue.is_empty() {
        device.tx_burst(Instant::ZERO, queue).unwrap();
        assert!(start.elapsed() < LIMIT, "the device takes no frames");
    }
}

/// Sends one frame of one part.
#[track_caller]
pub(crate) fn send_one(device: &mut Dpdk, buf: Buf) {
    let mut queue = TxQueue::new(1);
    queue.push(buf, Offload::default());
    send(device, &mut queue);
}

/// Receives frames of the EtherType for experiments until there are `count`.
#[track_caller]
pub(crate) fn receive(device: &mut Dpdk, count: usize) -> Vec<RxFrame> {
    let start = Clock::now();
    let mut frames = Vec::new();
    while frames.len() < count {
        device.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
        frames.retain(|frame| frame.buf.get(12..14) == Some(&[0x88, 0xb5]));
        assert!(start.elapsed() < LIMIT, "{} frames of {count}", frames.len());
    }
    frames
}

/// Closes devices, after which every buffer has to be back.
#[track_caller]
pub(crate) fn close<const N: usize>(devices: [Dpdk; N]) {
    drop(devices);
    assert_eq!(demi_drivers::dpdk::lost_buffers(), 0, "buffers are lost");
}
