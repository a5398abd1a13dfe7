//! Virtual devices with this machine's kernel at their other end, each in namespaces of its own.

use std::fs::File;

use demi_drivers::park::Parker;
use demi_drivers::{Device, Instant};

use super::common::host::{Host, KERNELS_4, KERNELS_6, OURS_6};
use super::common::{current, enter, enter_new, in_namespace, mac_of, path_of, run, scenarios};
use super::support::{SMALL, case, close, open};

/// A veth pair: `dours` here, `dpeer` in a namespace that is answered, with the kernel's Ethernet address. Checksums are the sender's:
/// the drivers know nothing of partial ones.
fn pair() -> (File, [u8; 6]) {
    let ours = current();
    enter_new();
    let kernel = current();
    run("ip link set lo up");
    run(&format!("ip link add dpeer type veth peer name dours netns {}", path_of(&ours)));
    addresses("dpeer");
    run("ethtool -K dpeer tx off");
    let mac = mac_of("dpeer");
    enter(&ours);
    run("ip link set dours up");
    (kernel, mac)
}

fn addresses(link: &str) {
    run(&format!("ip addr add {KERNELS_4}/24 dev {link}"));
    run(&format!("ip -6 addr add {KERNELS_6}/64 dev {link} nodad"));
    run(&format!("ip link set {link} up"));
}

/// Tells the kernel, in the calling thread's namespace, of our IPv6 address: a host made by hand does not answer.
fn introduce(link: &str, mac: [u8; 6]) {
    let [a, b, c, d, e, f] = mac;
    run(&format!("ip -6 neigh replace {OURS_6} lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} dev {link}"));
}

#[test]
fn af_packet_carries_datagrams_and_a_connection() {
    case("kernel::af_packet_carries_datagrams_and_a_connection", || {
        in_namespace("af_packet", || {
            let (kernel, mac) = pair();
            let mut dpdk = open(&format!("{SMALL} --vdev=net_af_packet0,iface=dours"));
            let here = current();
            enter(&kernel);
            introduce("dpeer", dpdk.capabilities().mac);
            enter(&here);
            assert_eq!(dpdk.capabilities().mac, mac_of("dours"), "it has the interface's own address");
            let mut host = Host::new(&mut dpdk, mac);
            scenarios::datagrams_are_echoed(&mut host, &kernel);
            assert_eq!(scenarios::a_connection_carries_large_segments(&mut host, &kernel), 1400);
            drop(host);
            assert_eq!(dpdk.pool().stats().slots_out, 0, "every slot is back");
            close([dpdk]);
        });
    });
}

#[test]
fn a_tap_of_dpdks_carries_datagrams_and_a_connection() {
    case("kernel::a_tap_of_dpdks_carries_datagrams_and_a_connection", || {
        in_namespace("tap", || {
            let mut dpdk = open(&format!("{SMALL} --vdev=net_tap0,iface=dtap0"));
            addresses("dtap0");
            introduce("dtap0", dpdk.capabilities().mac);
            let mac = mac_of("dtap0");
            let mut host = Host::new(&mut dpdk, mac);
            let kernel = current();
            scenarios::datagrams_are_echoed(&mut host, &kernel);
            scenarios::a_connection_carries_large_segments(&mut host, &kernel);
            drop(host);
            assert_eq!(dpdk.pool().stats().slots_out, 0, "every slot is back");
            close([dpdk]);
            assert!(super::common::loses_interface("dtap0"), "the interface is still attached");
        });
    });
}

#[test]
fn a_frame_from_the_kernel_ends_a_wait() {
    case("kernel::a_frame_from_the_kernel_ends_a_wait", || {
        in_namespace("wait", || {
            let mut dpdk = open(&format!("{SMALL} --vdev=net_tap0,iface=dtap0"));
            // Nothing of the kernel's own comes.
            run("sysctl -qw net.ipv6.conf.dtap0.disable_ipv6=1");
            run(&format!("ip addr add {KERNELS_4}/24 dev dtap0"));
            run("ip link set dtap0 up");
            run("ip neigh replace 10.77.0.9 lladdr 02:00:00:00:00:09 dev dtap0");
            let socket = std::net::UdpSocket::bind((KERNELS_4, 0)).unwrap();
            let mut parker = Parker::new();
            let mut frames = Vec::new();
            while dpdk.rx_burst(Instant::ZERO, &mut frames, 32).unwrap() > 0 {}
            frames.clear();
            for _ in 0..3 {
                socket.send_to(b"wake up", "10.77.0.9:9").unwrap();
                while frames.is_empty() {
                    // Without an end of its own: a wait that nothing ended would hang here.
                    parker.park(dpdk.wait_fd(), None).unwrap();
                    dpdk.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
                }
                frames.clear();
            }
            close([dpdk]);
        });
    });
}
