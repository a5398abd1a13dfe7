//! Our stack on a network card: DPDK's own drivers of hardware, through vfio-pci and an IOMMU, in a guest whose kernel is the
//! peer. Run by `cargo xtask test --tier guest`, once for each card that QEMU emulates.

use std::fs;
use std::net::SocketAddr;

use crate::support::Ip;
use crate::support::card::{Card, machine_has_a_card};

const KV: u16 = 6379;
const HTTP: u16 = 8080;
/// A line that is neither short nor good.
const FAULTS: &str = "delay 5ms loss 2%";

fn redis_benchmark(card: &Card, ip: Ip, requests: u32) {
    let _server = card.serve("kv", ip, KV, "");
    let line = format!("-h {} -p {KV} -t set,get,incr -c 20 -P 8 -n {requests} --csv", ip.host(1));
    let ended = card.client("redis-benchmark").args(&line).run();
    let report = ended.report();
    assert!(ended.status.is_some_and(|status| status.success()), "{report}");
    assert!(!report.to_lowercase().contains("err"), "{report}");
    for test in ["\"SET\"", "\"GET\"", "\"INCR\""] {
        assert!(report.contains(test), "no result of {test}\n{report}");
    }
}

/// Bytes to download. A digest of many more would take longer than they do, where instructions are translated.
const FILE_BYTES: u32 = 4 << 20;

fn download(card: &Card, ip: Ip) {
    let folder = std::env::temp_dir().join("demi-card");
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    if let Err(error) = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join("file"), &bytes)) {
        panic!("{}: {error}", folder.display());
    }
    let _server = card.serve("http", ip, HTTP, &format!("--folder {}", folder.display()));
    let url = format!("http://{}/file", SocketAddr::new(ip.host(1), HTTP));
    let ended = card.client("curl").args(&format!("-sS --fail {url}")).run();
    assert_eq!(ended.stdout.len(), bytes.len(), "{}", ended.stderr);
    assert!(ended.stdout == bytes, "other bytes came than were served");
}

#[test]
fn redis_benchmark_finds_no_error() {
    if machine_has_a_card() {
        let card = Card::new("");
        redis_benchmark(&card, Ip::V4, 20_000);
    }
}

#[test]
fn redis_benchmark_finds_no_error_over_a_bad_line() {
    if machine_has_a_card() {
        let card = Card::new(FAULTS);
        redis_benchmark(&card, Ip::V6, 5_000);
        assert!(card.dropped() > 0, "nothing was lost");
    }
}

#[test]
fn curl_downloads_what_was_served() {
    if machine_has_a_card() {
        download(&Card::new(""), Ip::V6);
    }
}

#[test]
fn curl_downloads_what_was_served_over_a_bad_line() {
    if machine_has_a_card() {
        // What the peer sends is little more than acknowledgements, none of which need be lost.
        download(&Card::new(FAULTS), Ip::V4);
    }
}

#[test]
fn ping_is_answered() {
    if machine_has_a_card() {
        let card = Card::new("");
        let _server = card.serve("echo", Ip::V4, 7000, "");
        let report = card.client("ping").args(&format!("-c 5 -i 0.2 -W 5 {}", Ip::V4.host(1))).run().report();
        assert!(report.contains(" 0% packet loss"), "{report}");
    }
}
