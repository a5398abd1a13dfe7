//! Transfers between us and the kernel at each loss, by each algorithm that the kernel has and both of ours: SHA-256 says
//! whether they arrive as they were. How fast is `cargo run --release -p demi-benches --bin goodput`'s question; here only
//! the limit of time says that nothing stalls.

use std::fs;
use std::time::Duration;

use crate::support::files::{self, Large};
use crate::support::running::example;
use crate::support::{Case, Device, Ip, Lab, machine_is_ours};

/// What the slowest transfer may take on a busy machine.
const LIMIT_S: u64 = 300;
/// Our algorithm, and the kernel's, of each transfer.
const PAIRS: [(&str, &str); 3] = [("cubic", "reno"), ("newreno", "bbr"), ("cubic", "cubic")];

fn transfers(device: Device, loss_permille: u32) {
    if !machine_is_ours() {
        return;
    }
    // Where much is lost, the tail of a transfer takes most of its time: less of it says as much.
    let file = if loss_permille > 0 { files::thirty_second() } else { files::eighth() };
    for (at, (ours, kernels)) in PAIRS.into_iter().enumerate() {
        let lab = Lab::new(Case::new(device, if at % 2 == 0 { Ip::V4 } else { Ip::V6 }, loss_permille));
        let available = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        let has = available.unwrap_or_default().split_whitespace().any(|name| name == kernels);
        if !has || !lab.foreign().tries(&format!("sysctl -qw net.ipv4.tcp_congestion_control={kernels}")) {
            // The kernel decides what a namespace may have; reno it always may.
            assert_ne!(kernels, "reno");
            continue;
        }
        download(&lab, ours, file);
        upload(&lab, ours, file);
    }
}

fn download(lab: &Lab, algorithm: &str, file: &Large) {
    let folder = file.folder.display();
    let arguments = format!("--listen {} --folder {folder}", lab.case.server(8080));
    let mut environment = lab.environment();
    environment.push(("DEMI_CONGESTION", algorithm.to_owned()));
    let _server =
        crate::support::Running::start(lab.host(), &example("http"), &arguments, &environment).ready();
    let url = format!("http://{}/{}", lab.case.server(8080), file.name);
    let line = format!("curl -sS --fail '{url}' | sha256sum");
    let digest = lab.client("sh").arg("-c").arg(&line).limit_s(LIMIT_S).must();
    assert!(digest.starts_with(&file.digest), "{}: downloaded {digest}, not {}", lab.case, file.digest);
}

fn upload(lab: &Lab, algorithm: &str, file: &Large) {
    let listen = format!("socat -u -b 262144 -d -d {}-LISTEN:9000,reuseaddr STDOUT", lab.case.socat("TCP"));
    let mut kernel = lab.start_foreign_shell(&format!("{listen} | sha256sum")).ready_when("listening on");
    let line = format!("--to {} {}", lab.case.foreign(9000), file.path().display());
    lab.program(&example("send")).env("DEMI_CONGESTION", algorithm).args(&line).limit_s(LIMIT_S).must();
    // The last line of `sha256sum` names its standard input.
    let digest = kernel.wait_for(" -", Duration::from_secs(60)).unwrap_or_default();
    assert!(digest.starts_with(&file.digest), "{}: uploaded {digest}, not {}", lab.case, file.digest);
}

macro_rules! cells {
    ($($name:ident: $device:ident, $loss:literal;)*) => {
        $(#[test]
        fn $name() {
            transfers(Device::$device, $loss);
        })*
    };
}

cells! {
    tap_without_loss: Tap, 0;
    tap_at_a_tenth_of_a_percent: Tap, 1;
    tap_at_one_percent: Tap, 10;
    tap_at_five_percent: Tap, 50;
    packet_without_loss: Packet, 0;
    packet_at_a_tenth_of_a_percent: Packet, 1;
    packet_at_one_percent: Packet, 10;
    packet_at_five_percent: Packet, 50;
}
