//! The packet device on one end of a veth pair, this machine's kernel on the other, each test in namespaces of its own.

#[allow(dead_code)] // Each test program uses a part of it.
mod common;

use std::fs::File;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use common::host::{Host, KERNELS_4, KERNELS_6, OURS_4, OURS_6};
use common::{current, enter, enter_new, in_namespace, mac_of, path_of, run, scenarios};
use demi_drivers::device::RxChecksum;
use demi_drivers::packet::{Packet, PacketConfig};
use demi_drivers::park::Parker;
use demi_drivers::{Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};

/// The kernel's end of the pair is `dpeer`, in another namespace than ours, `dours`.
struct Pair {
    kernel: File,
    kernel_mac: [u8; 6],
}

fn pair() -> Pair {
    let ours = current();
    enter_new();
    let kernel = current();
    run("ip link set lo up");
    run(&format!("ip link add dpeer type veth peer name dours netns {}", path_of(&ours)));
    run(&format!("ip addr add {KERNELS_4}/24 dev dpeer"));
    run(&format!("ip -6 addr add {KERNELS_6}/64 dev dpeer nodad"));
    run("ip link set dpeer up");
    let kernel_mac = mac_of("dpeer");
    enter(&ours);
    run("ip link set dours up");
    Pair { kernel, kernel_mac }
}

impl Pair {
    fn open(&self, config: PacketConfig) -> Packet {
        let packet = Packet::open(&config).unwrap();
        let [a, b, c, d, e, f] = packet.capabilities().mac;
        self.run(&format!(
            "ip -6 neigh replace {OURS_6} lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} dev dpeer"
        ));
        packet
    }

    /// Runs a command in the kernel's namespace.
    fn run(&self, command: &str) {
        let ours = current();
        enter(&self.kernel);
        run(command);
        enter(&ours);
    }

    /// A UDP socket of the kernel's end.
    fn socket(&self) -> UdpSocket {
        let ours = current();
        enter(&self.kernel);
        let socket = UdpSocket::bind((KERNELS_4, 0)).unwrap();
        enter(&ours);
        socket
    }
}

#[test]
fn datagrams_cross_with_partial_checksums_both_ways() {
    in_namespace("datagrams", || {
        let pair = pair();
        let mut packet = pair.open(PacketConfig::new("dours"));
        let mut host = Host::new(&mut packet, pair.kernel_mac);
        scenarios::datagrams_are_echoed(&mut host, &pair.kernel);
        let stats = packet.stats();
        assert_eq!((stats.tx_dropped, stats.rx_dropped), (0, 0));
        assert_eq!(packet.pool().stats().slots_out, 0, "every slot is back");
    });
}

#[test]
fn a_peer_that_cuts_its_own_segments_is_understood() {
    in_namespace("cut", || {
        let pair = pair();
        pair.run("ip link set dpeer gso_max_segs 1");
        let mut packet = pair.open(PacketConfig::new("dours"));
        let mut host = Host::new(&mut packet, pair.kernel_mac);
        assert_eq!(scenarios::a_connection_carries_large_segments(&mut host, &pair.kernel), 1400);
    });
}

#[test]
fn large_segments_cross_whole_both_ways() {
    in_namespace("segments", || {
        let pair = pair();
        let mut packet = pair.open(PacketConfig::new("dours"));
        let mut host = Host::new(&mut packet, pair.kernel_mac);
        let largest = scenarios::a_connection_carries_large_segments(&mut host, &pair.kernel);
        assert!(largest > 10_000, "the kernel cut its segments: {largest} bytes at most");
        assert_eq!((packet.stats().rx_dropped, packet.pool().stats().large_slots_out), (0, 0));
    });
}

#[test]
fn a_burst_of_datagrams_sent_as_one_frame_arrives_as_datagrams() {
    in_namespace("udp_segment", || {
        let pair = pair();
        let mut packet = pair.open(PacketConfig::new("dours"));
        let mut host = Host::new(&mut packet, pair.kernel_mac);
        let socket = pair.socket();
        let bytes: libc::c_int = 1000;
        // SAFETY: UDP_SEGMENT takes an `int`.
        let answer = unsafe {
            let (level, option) = (libc::SOL_UDP, libc::UDP_SEGMENT);
            libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&bytes).cast(), 4)
        };
        assert_eq!(answer, 0);
        let sent: Vec<u8> = (0..20_500).map(|at| (at / 7) as u8).collect();
        socket.send_to(&sent, (OURS_4, 7)).unwrap();
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let datagram = host.udp();
            assert_eq!(datagram.frame.checksum, RxChecksum::Valid);
            assert_eq!(usize::from(datagram.field(4)), 8 + datagram.udp_payload().len());
            assert!(datagram.udp_payload().len() <= 1000);
            got.extend_from_slice(datagram.udp_payload());
        }
        assert!(got == sent, "the payloads differ from what was sent");
    });
}

#[test]
fn a_vlan_tag_is_back_in_its_place() {
    in_namespace("vlan", || {
        let pair = pair();
        let mut ours = pair.open(PacketConfig::new("dours"));
        let here = current();
        enter(&pair.kernel);
        let mut theirs = Packet::open(&PacketConfig::new("dpeer")).unwrap();
        enter(&here);
        let mut sent = vec![0x5a; 70];
        sent[..6].copy_from_slice(&ours.capabilities().mac);
        sent[12..18].copy_from_slice(&[0x81, 0, 0x60, 7, 0x88, 0xb5]);
        Host::new(&mut theirs, [0; 6]).send(&sent, usize::MAX, Offload::default());
        // The kernel takes the tag out of the frame before it hands it over.
        let mut host = Host::new(&mut ours, pair.kernel_mac);
        let got = loop {
            let frame = host.receive();
            if frame.buf[12..14] == [0x81, 0] {
                break frame;
            }
        };
        assert_eq!(&got.buf[..], &sent[..]);
    });
}

#[test]
fn an_address_of_our_own_is_received_for_and_own_frames_do_not_come_back() {
    in_namespace("address", || {
        let pair = pair();
        let mac = [2, 9, 9, 9, 9, 9];
        let mut packet = pair.open(PacketConfig { mac: Some(mac), ..PacketConfig::new("dours") });
        assert_eq!(packet.capabilities().mac, mac);
        let mut host = Host::new(&mut packet, pair.kernel_mac);
        scenarios::datagrams_are_echoed(&mut host, &pair.kernel);
        host.send(&[0xee; 60], usize::MAX, Offload::default());
        let mut frames = Vec::new();
        while packet.rx_burst(Instant::ZERO, &mut frames, 32).unwrap() > 0 {}
        assert!(frames.iter().all(|frame| frame.buf[6..12] != [0xee; 6] && frame.buf[6..12] != mac));
    });
}

/// A burst of frames that only fills pipes: an EtherType for experiments.
fn fill(queue: &mut TxQueue, packet: &Packet, to: [u8; 6], count: usize) {
    for number in 0..count {
        let mut frame = [0; 60];
        frame[..6].copy_from_slice(&to);
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame[14..22].copy_from_slice(&(number as u64).to_be_bytes());
        queue.push(packet.pool().copy_from_slice(&frame).unwrap(), Offload::default());
    }
}

fn numbers(frames: &[RxFrame]) -> Vec<u64> {
    let experimental = frames.iter().filter(|frame| frame.buf[12..14] == [0x88, 0xb5]);
    experimental.map(|frame| u64::from_be_bytes(frame.buf[14..22].try_into().unwrap())).collect()
}

#[test]
fn bursts_pass_in_order_and_a_ring_that_overflows_counts_its_drops() {
    in_namespace("bursts", || {
        let pair = pair();
        let mut ours = pair.open(PacketConfig { tx_frames: 64, ..PacketConfig::new("dours") });
        let here = current();
        enter(&pair.kernel);
        let config = PacketConfig { rx_frames: 64, ..PacketConfig::new("dpeer") };
        let mut theirs = Packet::open(&config).unwrap();
        enter(&here);
        let mut queue = TxQueue::new(1000);
        fill(&mut queue, &ours, pair.kernel_mac, 50);
        while !queue.is_empty() {
            ours.tx_burst(Instant::ZERO, &mut queue).unwrap();
        }
        let mut got = Vec::new();
        let mut parker = Parker::new();
        while numbers(&got).len() < 50 {
            parker.park(theirs.wait_fd(), None).unwrap();
            theirs.rx_burst(Instant::ZERO, &mut got, 7).unwrap();
        }
        assert_eq!(numbers(&got), (0..50).collect::<Vec<_>>());

        // Nobody takes these; the ring holds 64.
        fill(&mut queue, &ours, pair.kernel_mac, 500);
        while !queue.is_empty() {
            ours.tx_burst(Instant::ZERO, &mut queue).unwrap();
        }
        got.clear();
        while theirs.stats().rx_dropped + 64 < 500 {
            parker.park(theirs.wait_fd(), None).unwrap();
        }
        while theirs.rx_burst(Instant::ZERO, &mut got, 32).unwrap() > 0 {}
        assert!(numbers(&got).is_sorted() && got.len() <= 64, "{} frames", got.len());
    });
}

#[test]
fn what_is_wrong_with_an_interface_is_said_with_the_cure() {
    in_namespace("wrong", || {
        let absent = Packet::open(&PacketConfig::new("nosuchif0")).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        assert!(absent.to_string().contains("packet:nosuchif0: there is no such interface"), "{absent}");
        let _pair = pair();
        let config = PacketConfig {
            pool: PoolConfig { slot_bytes: 1024, ..PoolConfig::small(16) },
            ..PacketConfig::new("dours")
        };
        let small = Packet::open(&config).unwrap_err();
        assert!(small.to_string().contains("make slots larger"), "{small}");
        run("ip link set dours down");
        let down = Packet::open(&PacketConfig::new("dours")).unwrap_err();
        assert_eq!(down.kind(), ErrorKind::NetworkDown);
        assert!(down.to_string().contains("ip link set dours up"), "{down}");
    });
}

#[test]
fn without_privilege_the_cure_is_named() {
    in_namespace("unprivileged", || {
        let _pair = pair();
        common::drop_privileges();
        let denied = Packet::open(&PacketConfig::new("dours")).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("no CAP_NET_RAW"), "{denied}");
    });
}

#[test]
fn an_interface_that_goes_down_comes_back_and_one_that_is_deleted_is_an_error() {
    in_namespace("deleted", || {
        let pair = pair();
        let mut packet = pair.open(PacketConfig::new("dours"));
        run("ip link set dours down");
        let mut frames = Vec::new();
        for _ in 0..1000 {
            packet.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
        }
        run("ip link set dours up");
        let mut host = Host::new(&mut packet, pair.kernel_mac);
        pair.run(&format!("ip neigh replace {OURS_4} lladdr 02:00:00:00:00:01 dev dpeer"));
        pair.socket().send_to(b"back", (OURS_4, 7)).unwrap();
        assert_eq!(host.udp().udp_payload(), b"back");
        run("ip link del dours");
        let error = (0..1000).find_map(|_| packet.rx_burst(Instant::ZERO, &mut frames, 32).err());
        let error = error.expect("a deleted interface is noticed");
        assert!(error.to_string().contains("was the interface deleted?"), "{error}");
    });
}
