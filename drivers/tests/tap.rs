//! The tap device against this machine's kernel, each test in a network namespace of its own.

#[allow(dead_code)] // Each test program uses a part of it.
mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use common::host::{Host, KERNELS_4, KERNELS_6, OURS_6};
use common::{current, has_interface, in_namespace, loses_interface, mac_of, run, scenarios};
use demi_drivers::tap::{Tap, TapConfig};
use demi_drivers::wrap::pcap::Pcap;
use demi_drivers::{Device, PoolConfig};

fn open(config: TapConfig) -> Tap {
    let config = TapConfig { host_address: Some((KERNELS_4.into(), 24)), ..config };
    let tap = Tap::open(&config).unwrap();
    run(&format!("ip -6 addr add {KERNELS_6}/64 dev {} nodad", config.name));
    let [a, b, c, d, e, f] = tap.capabilities().mac;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    run(&format!("ip -6 neigh replace {OURS_6} lladdr {mac} dev {}", config.name));
    tap
}

#[test]
fn datagrams_cross_with_partial_checksums_both_ways() {
    in_namespace("datagrams", || {
        let mut tap = open(TapConfig::new("dtap0"));
        let mut host = Host::new(&mut tap, mac_of("dtap0"));
        scenarios::datagrams_are_echoed(&mut host, &current());
        let stats = tap.stats();
        assert_eq!((stats.tx_dropped, stats.rx_dropped), (0, 0));
        assert_eq!(tap.pool().stats().slots_out, 0, "every slot is back");
        assert_eq!(tap.pool().stats().large_slots_out, 0, "every large slot is back");
    });
}

#[test]
fn large_segments_cross_whole_both_ways() {
    in_namespace("segments", || {
        let mut tap = open(TapConfig::new("dtap0"));
        let mut host = Host::new(&mut tap, mac_of("dtap0"));
        let largest = scenarios::a_connection_carries_large_segments(&mut host, &current());
        assert!(largest > 10_000, "the kernel cut its segments: {largest} bytes at most");
    });
}

#[test]
fn without_large_slots_the_kernel_cuts_segments_for_us() {
    in_namespace("cut", || {
        let pool = PoolConfig::small(256);
        let mut tap = open(TapConfig { pool, ..TapConfig::new("dtap0") });
        let mut host = Host::new(&mut tap, mac_of("dtap0"));
        let largest = scenarios::a_connection_carries_large_segments(&mut host, &current());
        assert_eq!(largest, 1400);
        assert_eq!(tap.stats().rx_dropped, 0);
    });
}

#[test]
fn without_offload_checksums_are_complete() {
    in_namespace("complete", || {
        let mut tap = open(TapConfig { offload: false, ..TapConfig::new("dtap0") });
        assert!(!tap.capabilities().tx_checksum && tap.capabilities().tso_max_bytes == 0);
        let socket = UdpSocket::bind((KERNELS_4, 0)).unwrap();
        socket.send_to(b"hello", "10.77.0.2:7").unwrap();
        let mut host = Host::new(&mut tap, mac_of("dtap0"));
        let packet = host.udp();
        assert!(Host::verifies(&packet), "{:?}", packet.frame);
        host.send_udp("10.77.0.2".parse().unwrap(), KERNELS_4.into(), (7, packet.field(0)), b"world");
        let mut got = [0; 9];
        assert_eq!(socket.recv(&mut got).unwrap(), 5);
    });
}

#[test]
fn the_interface_is_set_up_as_asked_and_gone_afterwards() {
    in_namespace("setup", || {
        let config = TapConfig {
            mtu: Some(9000),
            mac: Some([2, 1, 2, 3, 4, 5]),
            host_address: Some((IpAddr::from(KERNELS_6), 64)),
            ..TapConfig::new("dtap0")
        };
        let tap = Tap::open(&config).unwrap();
        assert_eq!((tap.capabilities().mtu, tap.capabilities().mac), (9000, [2, 1, 2, 3, 4, 5]));
        assert_ne!(mac_of("dtap0"), tap.capabilities().mac);
        assert_eq!(tap.name(), "tap:dtap0");
        let busy = Tap::open(&TapConfig::new("dtap0")).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::ResourceBusy);
        assert!(busy.to_string().contains("another process holds it"), "{busy}");
        assert!(has_interface("dtap0"));
        drop(tap);
        assert!(loses_interface("dtap0"), "the interface goes with the device");
    });
}

#[test]
fn an_interface_of_another_kind_and_slots_too_small_are_refused_with_the_cure() {
    in_namespace("refused", || {
        let other = Tap::open(&TapConfig::new("lo")).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::InvalidInput);
        assert!(other.to_string().contains("take another name"), "{other}");
        let config = TapConfig { mtu: Some(9000), pool: PoolConfig::small(16), ..TapConfig::new("dtap0") };
        let small = Tap::open(&config).unwrap_err();
        assert!(small.to_string().contains("make slots larger"), "{small}");
        assert!(loses_interface("dtap0"), "nothing is left behind");
    });
}

#[test]
fn without_privilege_the_cure_is_named() {
    in_namespace("unprivileged", || {
        common::drop_privileges();
        let denied = Tap::open(&TapConfig::new("dtap0")).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("run as root"), "{denied}");
    });
}

#[test]
fn an_interface_that_is_deleted_is_an_error_and_one_that_is_down_is_not() {
    in_namespace("deleted", || {
        let mut tap = open(TapConfig::new("dtap0"));
        let mac = mac_of("dtap0");
        run("ip link set dtap0 down");
        let mut host = Host::new(&mut tap, mac);
        host.send(&[0xff; 60], usize::MAX, Default::default());
        let mut frames = Vec::new();
        while tap.rx_burst(demi_drivers::Instant::ZERO, &mut frames, 32).unwrap() > 0 {}
        assert_eq!(tap.stats().tx_dropped, 1);
        run("ip link del dtap0");
        let error = tap.rx_burst(demi_drivers::Instant::ZERO, &mut frames, 32).unwrap_err();
        assert!(error.to_string().contains("was the interface deleted?"), "{error}");
    });
}

#[test]
fn a_capture_opens_in_tshark_with_right_checksums() {
    in_namespace("tshark", || {
        if let Err(error) = Command::new("tshark").arg("-v").output() {
            common::skip("tshark", &format!("no tshark command: {error}: apt-get install tshark"));
            return;
        }
        let path = std::env::temp_dir().join(format!("demi-capture-{}.pcapng", std::process::id()));
        let tap = open(TapConfig::new("dtap0"));
        let mut captured = Pcap::new(Box::new(tap), File::create(&path).unwrap()).unwrap();
        let mut host = Host::new(&mut captured, mac_of("dtap0"));
        scenarios::datagrams_are_echoed(&mut host, &current());
        scenarios::a_connection_carries_large_segments(&mut host, &current());
        let fields = ["ip.checksum.status", "udp.checksum.status", "tcp.checksum.status"];
        let mut tshark = Command::new("tshark");
        for check in ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE"] {
            tshark.args(["-o", check]);
        }
        tshark.arg("-r").arg(&path).args(["-T", "fields", "-e", "frame.interface_name"]);
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = tshark.output().unwrap();
        std::fs::remove_file(&path).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.lines().count() > 20, "{text}");
        for line in text.lines() {
            let mut columns = line.split('\t');
            assert_eq!(columns.next(), Some("tap:dtap0"));
            // 1: right; 0: wrong; nothing: there is none in this packet.
            assert!(columns.all(|status| matches!(status, "" | "1")), "{line}");
        }
        let udp = text.lines().filter(|line| line.split('\t').nth(2) == Some("1")).count();
        assert!(udp >= 12, "six datagrams were sent and echoed; {udp} of them are there");
    });
}
