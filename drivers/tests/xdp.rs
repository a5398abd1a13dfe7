//! The AF_XDP device on one end of a veth pair, this machine's kernel on the other, each test in namespaces of its own.

#[allow(dead_code)] // Each test program uses a part of it.
mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::host::{Host, KERNELS_4, KERNELS_6, OURS_4, OURS_6};
use common::{current, enter, enter_new, in_namespace, mac_of, path_of, run, scenarios};
use demi_drivers::park::Parker;
use demi_drivers::xdp::{Verdict, Xdp, XdpConfig};
use demi_drivers::{Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};

/// Tells a process of this program that it is to hold an interface until it is killed.
const HOLD: &str = "DEMI_TEST_HOLDS_XDP";

/// The kernel's end of the pair is `dpeer`, in another namespace than ours, `dours`.
struct Pair {
    kernel: File,
    kernel_mac: [u8; 6],
}

fn pair_of(queues: u32) -> Pair {
    let ours = current();
    enter_new();
    let kernel = current();
    run("ip link set lo up");
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    let there = path_of(&ours);
    run(&format!("ip link add dpeer {queues} type veth peer name dours {queues} netns {there}"));
    run(&format!("ip addr add {KERNELS_4}/24 dev dpeer"));
    run(&format!("ip -6 addr add {KERNELS_6}/64 dev dpeer nodad"));
    run("ip link set dpeer up");
    let kernel_mac = mac_of("dpeer");
    enter(&ours);
    run("ip link set dours up");
    Pair { kernel, kernel_mac }
}

fn config() -> XdpConfig {
    XdpConfig { addresses: vec![OURS_4.into(), OURS_6.into()], ..XdpConfig::new("dours") }
}

impl Pair {
    fn open(&self, config: &XdpConfig) -> Xdp {
        let xdp = Xdp::open(config).unwrap();
        let [a, b, c, d, e, f] = xdp.capabilities().mac;
        self.run(&format!(
            "ip -6 neigh replace {OURS_6} lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} dev dpeer"
        ));
        xdp
    }

    /// Does something in the kernel's namespace.
    fn within<T>(&self, what: impl FnOnce() -> T) -> T {
        let ours = current();
        enter(&self.kernel);
        let done = what();
        enter(&ours);
        done
    }

    /// Runs a command in the kernel's namespace.
    fn run(&self, command: &str) {
        self.within(|| run(command));
    }
}

#[test]
fn datagrams_are_echoed_in_the_driver_and_before_the_stack() {
    for native in [true, false] {
        in_namespace("datagrams", move || {
            let pair = pair_of(1);
            let mut xdp = pair.open(&XdpConfig { native, ..config() });
            assert_eq!((xdp.mode().native, xdp.mode().zero_copy), (native, false), "veth copies");
            let mut host = Host::new(&mut xdp, pair.kernel_mac);
            scenarios::datagrams_are_echoed(&mut host, &pair.kernel);
            let stats = xdp.stats();
            assert_eq!((stats.tx_dropped, stats.rx_dropped), (0, 0));
            let pool = xdp.pool().clone();
            drop(xdp);
            assert_eq!(pool.stats().slots_out, 0, "every slot is back");
        });
    }
}

#[test]
fn a_connection_carries_bytes_both_ways() {
    in_namespace("connection", || {
        let pair = pair_of(1);
        let mut xdp = pair.open(&config());
        let mut host = Host::new(&mut xdp, pair.kernel_mac);
        scenarios::a_connection_carries_large_segments(&mut host, &pair.kernel);
    });
}

#[test]
fn frames_larger_than_a_slot_come_and_go_in_several() {
    in_namespace("jumbo", || {
        let pair = pair_of(1);
        run("ip link set dours mtu 6000");
        pair.run("ip link set dpeer mtu 6000");
        let mut xdp = pair.open(&config());
        assert!(xdp.mode().multi_buffer, "{:?}", xdp.mode());
        let socket = pair.within(|| UdpSocket::bind((KERNELS_4, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sent: Vec<u8> = (0..5_500).map(|at| (at / 3) as u8).collect();
        socket.send_to(&sent, (OURS_4, 7)).unwrap();
        let mut host = Host::new(&mut xdp, pair.kernel_mac);
        host.echo_udp(OURS_4.into(), KERNELS_4.into());
        let mut got = vec![0; 6_000];
        let (count, _) = socket.recv_from(&mut got).unwrap();
        assert!(got[..count] == sent, "the echo differs");
    });
}

/// An Ethernet frame from the kernel's side.
fn frame(to: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 9], &kind, packet].concat()
}

fn ipv4(to: [u8; 4], protocol: u8, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 77, 0, 1];
    packet.extend(to);
    packet.extend([0, 67]);
    packet.extend(port.to_be_bytes());
    packet.resize(46, 0);
    packet
}

fn ipv6(to: Ipv6Addr, next: u8, message: u8, target: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, next, 255];
    packet.extend(KERNELS_6.octets());
    packet.extend(to.octets());
    packet.extend([message, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend(target.octets());
    packet
}

fn arp(from: [u8; 4], about: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9];
    packet.extend(from);
    packet.extend([0; 6]);
    packet.extend(about);
    packet
}

const ALL: [u8; 6] = [0xff; 6];
const V4: [u8; 2] = [0x08, 0x00];
const V6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [0x08, 0x06];

#[test]
fn what_is_for_our_addresses_is_ours_and_all_else_the_kernels() {
    in_namespace("verdicts", || {
        let _pair = pair_of(1);
        let mut xdp = Xdp::open(&XdpConfig { addresses: Vec::new(), ..config() }).unwrap();
        let mac = xdp.capabilities().mac;
        let group: Ipv6Addr = "ff02::1:ff00:2".parse().unwrap();
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        let unspecified = Ipv6Addr::UNSPECIFIED;
        let ours = OURS_4.octets();
        // A frame, and whether it is ours once the stack has its addresses.
        let frames = [
            ("to our address", true, frame(mac, V4, &ipv4(ours, 6, 80))),
            ("to our address, longer than short", true, frame(mac, V4, &ipv4(ours, 1, 0)[..20])),
            ("to another address", false, frame(mac, V4, &ipv4([10, 77, 0, 3], 6, 80))),
            ("to another station", false, frame([2, 9, 9, 9, 9, 9], V4, &ipv4(ours, 6, 80))),
            ("in a VLAN", false, frame(mac, [0x81, 0], &[&[0, 7, 8, 0], &ipv4(ours, 6, 80)[..]].concat())),
            ("cut short", false, frame(mac, V4, &ipv4(ours, 6, 80)[..19])),
            ("nothing but a header", false, frame(mac, V4, &[])),
            ("a lease, when none is wanted", false, frame(mac, V4, &ipv4([255; 4], 17, 68))),
            ("a question for us", true, frame(ALL, ARP, &arp([10, 77, 0, 1], ours))),
            ("a question for another", false, frame(ALL, ARP, &arp([10, 77, 0, 1], [10, 77, 0, 3]))),
            ("who claims our address", true, frame(ALL, ARP, &arp(ours, [10, 77, 0, 3]))),
            ("an answer to a probe", true, frame(mac, ARP, &arp([10, 77, 0, 9], [0; 4]))),
            ("ARP cut short", false, frame(ALL, ARP, &arp([10, 77, 0, 1], ours)[..27])),
            ("IPv6 to us", true, frame(mac, V6, &ipv6(OURS_6, 6, 0, unspecified))),
            ("IPv6 to another", false, frame(mac, V6, &ipv6(KERNELS_6, 6, 0, unspecified))),
            ("to our group", true, frame([0x33, 0x33, 0xff, 0, 0, 2], V6, &ipv6(group, 58, 135, OURS_6))),
            ("a neighbour's claim", true, frame(ALL, V6, &ipv6(all_nodes, 58, 136, OURS_6))),
            ("another's claim", false, frame(ALL, V6, &ipv6(all_nodes, 58, 136, "fd77::9".parse().unwrap()))),
            ("a router, when none is wanted", false, frame(ALL, V6, &ipv6(all_nodes, 58, 134, unspecified))),
            ("IPv6 cut short", false, frame(mac, V6, &ipv6(OURS_6, 6, 0, unspecified)[..39])),
            ("of a protocol unknown", false, frame(mac, [0x88, 0xb5], &[0; 46])),
        ];
        for (what, _, frame) in &frames {
            let before = if *what == "an answer to a probe" { Verdict::Ours } else { Verdict::Kernels };
            assert_eq!(xdp.verdict(frame).unwrap(), before, "without addresses: {what}");
        }
        let addresses: [IpAddr; 3] = [OURS_4.into(), OURS_6.into(), group.into()];
        xdp.set_addresses(&addresses).unwrap();
        for (what, is_ours, frame) in &frames {
            let verdict = if *is_ours { Verdict::Ours } else { Verdict::Kernels };
            assert_eq!(xdp.verdict(frame).unwrap(), verdict, "{what}");
        }
        xdp.set_addresses(&[]).unwrap();
        assert_eq!(xdp.verdict(&frames[0].2).unwrap(), Verdict::Kernels, "an address that was given up");
    });
}

#[test]
fn who_configures_itself_hears_servers_and_routers_and_who_is_in_a_vlan_hears_that() {
    in_namespace("autoconfigure", || {
        let _pair = pair_of(1);
        let vlan = Some(7);
        let own = XdpConfig { addresses: Vec::new(), dhcp: true, router_discovery: true, vlan, ..config() };
        let mut xdp = Xdp::open(&own).unwrap();
        let tagged = |kind: [u8; 2], packet: &[u8], id: u8| {
            frame(ALL, [0x81, 0], &[&[0x60, id], &kind[..], packet].concat())
        };
        let lease = ipv4([255; 4], 17, 68);
        let router = ipv6("ff02::1".parse().unwrap(), 58, 134, Ipv6Addr::UNSPECIFIED);
        assert_eq!(xdp.verdict(&tagged(V4, &lease, 7)).unwrap(), Verdict::Ours);
        assert_eq!(xdp.verdict(&tagged(V4, &lease, 8)).unwrap(), Verdict::Kernels);
        assert_eq!(xdp.verdict(&frame(ALL, V4, &lease)).unwrap(), Verdict::Kernels);
        assert_eq!(xdp.verdict(&tagged(V4, &ipv4([255; 4], 17, 69), 7)).unwrap(), Verdict::Kernels);
        xdp.set_addresses(&[OURS_4.into()]).unwrap();
        assert_eq!(xdp.verdict(&tagged(V4, &lease, 7)).unwrap(), Verdict::Kernels, "there is a lease");
        assert_eq!(xdp.verdict(&tagged(V6, &router, 7)).unwrap(), Verdict::Ours);
    });
}

#[test]
fn the_kernel_keeps_its_own_addresses_on_the_same_interface() {
    in_namespace("beside", || {
        let pair = pair_of(1);
        run("ip addr add 10.77.0.3/24 dev dours");
        let mut xdp = pair.open(&config());
        let beside = UdpSocket::bind("10.77.0.3:7").unwrap();
        beside.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let socket = pair.within(|| UdpSocket::bind((KERNELS_4, 0)).unwrap());
        socket.send_to(b"kernel's", "10.77.0.3:7").unwrap();
        let mut got = [0; 100];
        let (count, _) = beside.recv_from(&mut got).unwrap();
        assert_eq!(&got[..count], b"kernel's");
        socket.send_to(b"ours", (OURS_4, 7)).unwrap();
        let mut host = Host::new(&mut xdp, pair.kernel_mac);
        assert_eq!(host.udp().udp_payload(), b"ours");
    });
}

#[test]
fn bursts_pass_in_order_and_slots_come_back() {
    in_namespace("bursts", || {
        let pair = pair_of(1);
        let small = PoolConfig::small(512);
        let mut ours = pair.open(&XdpConfig { tx_frames: 64, pool: small.clone(), ..config() });
        let mut theirs = pair.within(|| {
            let addresses = vec![IpAddr::from([10, 77, 0, 66])];
            Xdp::open(&XdpConfig { addresses, pool: small, ..XdpConfig::new("dpeer") }).unwrap()
        });
        let mut queue = TxQueue::new(1000);
        let mut got: Vec<RxFrame> = Vec::new();
        let mut parker = Parker::new();
        for round in 0..40u64 {
            for number in 0..100u64 {
                let mut packet = ipv4([10, 77, 0, 66], 253, 0);
                packet[24..32].copy_from_slice(&(round * 100 + number).to_be_bytes());
                let frame = frame(pair.kernel_mac, V4, &packet);
                // Whole, or in two parts.
                let (head, rest) = frame.split_at(if number % 3 == 0 { 30 } else { frame.len() });
                let head = ours.pool().copy_from_slice(head).unwrap();
                let rest = (!rest.is_empty()).then(|| ours.pool().copy_from_slice(rest).unwrap());
                queue.push_parts(head, rest, Offload::default());
            }
            while !queue.is_empty() {
                ours.tx_burst(Instant::ZERO, &mut queue).unwrap();
                theirs.rx_burst(Instant::ZERO, &mut got, 32).unwrap();
            }
            while got.len() < 100 {
                parker.park(theirs.wait_fd(), Some(Duration::from_secs(5))).unwrap();
                theirs.rx_burst(Instant::ZERO, &mut got, 32).unwrap();
            }
            let number = |frame: &RxFrame| u64::from_be_bytes(frame.buf[38..46].try_into().unwrap());
            let numbers: Vec<u64> = got.drain(..).map(|frame| number(&frame)).collect();
            assert_eq!(numbers, (round * 100..round * 100 + 100).collect::<Vec<_>>());
        }
        assert_eq!((ours.stats().tx_frames, theirs.stats().rx_frames), (4000, 4000));
        for device in [ours, theirs] {
            let pool = device.pool().clone();
            drop(device);
            assert_eq!(pool.stats().slots_out, 0);
        }
    });
}

#[test]
fn two_queues_of_an_interface_share_a_program() {
    in_namespace("queues", || {
        let pair = pair_of(2);
        let mut first = pair.open(&config());
        let second = Xdp::open(&XdpConfig { queue: 1, ..config() }).unwrap();
        assert!(first.mode().native && second.mode().native);
        // Whichever queue the kernel chooses, one of them has it.
        let socket = pair.within(|| UdpSocket::bind((KERNELS_4, 0)).unwrap());
        let mut frames = Vec::new();
        let mut second = second;
        let start = std::time::Instant::now();
        let [a, b, c, d, e, f] = first.capabilities().mac;
        pair.run(&format!("ip neigh replace {OURS_4} lladdr {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x} dev dpeer"));
        socket.send_to(b"to either", (OURS_4, 7)).unwrap();
        while !frames.iter().any(|frame: &RxFrame| frame.buf.ends_with(b"to either")) {
            first.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
            second.rx_burst(Instant::ZERO, &mut frames, 32).unwrap();
            assert!(start.elapsed() < Duration::from_secs(10), "neither queue has it");
        }
        let taken = Xdp::open(&XdpConfig { queue: 1, ..config() }).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::ResourceBusy);
        assert!(taken.to_string().contains("the queue is taken"), "{taken}");
        let to_us = frame(first.capabilities().mac, V4, &ipv4(OURS_4.octets(), 6, 80));
        frames.clear();
        drop(first);
        assert_eq!(second.verdict(&to_us).unwrap(), Verdict::Ours, "the other queue still has them");
        let other = Xdp::open(&XdpConfig { mac: Some([2, 0, 0, 0, 0, 5]), ..config() }).unwrap_err();
        assert!(other.to_string().contains("give all queues the same"), "{other}");
    });
}

#[test]
fn a_queue_is_opened_again_at_once() {
    in_namespace("again", || {
        let pair = pair_of(1);
        for _ in 0..5 {
            let mut xdp = pair.open(&config());
            let socket = pair.within(|| UdpSocket::bind((KERNELS_4, 0)).unwrap());
            socket.send_to(b"again", (OURS_4, 7)).unwrap();
            let mut host = Host::new(&mut xdp, pair.kernel_mac);
            assert_eq!(host.udp().udp_payload(), b"again");
        }
    });
}

#[test]
fn a_process_that_is_killed_leaves_nothing_attached() {
    if let Ok(interface) = std::env::var(HOLD) {
        let _held = Xdp::open(&XdpConfig::new(interface)).unwrap();
        println!("\nholding");
        loop {
            std::thread::park();
        }
    }
    in_namespace("killed", || {
        let _pair = pair_of(1);
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_process_that_is_killed_leaves_nothing_attached", "--nocapture"])
            .env(HOLD, "dours")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "holding"), "the other process could not open it");
        let taken = Xdp::open(&config()).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::ResourceBusy);
        assert!(taken.to_string().contains("ip link set dev dours xdp off"), "{taken}");
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(Xdp::open(&config()).unwrap().mode().native);
    });
}

#[test]
fn what_is_wrong_is_said_with_the_cure() {
    in_namespace("wrong", || {
        let absent = Xdp::open(&XdpConfig::new("nosuchif0")).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        assert!(absent.to_string().contains("xdp:nosuchif0: there is no such interface"), "{absent}");
        let _pair = pair_of(1);
        for (config, says) in [
            (XdpConfig { queue: 5, ..config() }, "ethtool -l"),
            (XdpConfig { queue: 5000, ..config() }, "there are no more than"),
            (
                XdpConfig { pool: PoolConfig { slot_bytes: 1024, ..PoolConfig::default() }, ..config() },
                "2048 or 4096",
            ),
            (
                XdpConfig {
                    pool: PoolConfig { large_slot_bytes: 65_536 + 64, ..PoolConfig::default() },
                    ..config()
                },
                "a multiple of 2048",
            ),
            (XdpConfig { rx_frames: 100, ..config() }, "a power of two"),
        ] {
            let error = Xdp::open(&config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(says) && !error.to_string().contains('\n'), "{error}");
        }
        run("ip link set dours down");
        let down = Xdp::open(&config()).unwrap_err();
        assert_eq!(down.kind(), ErrorKind::NetworkDown);
        assert!(down.to_string().contains("ip link set dours up"), "{down}");
    });
}

#[test]
fn without_privilege_the_cure_is_named() {
    in_namespace("unprivileged", || {
        let _pair = pair_of(1);
        common::drop_privileges();
        let denied = Xdp::open(&config()).unwrap_err();
        assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
        assert!(denied.to_string().contains("CAP_NET_RAW"), "{denied}");
    });
}

#[test]
fn an_interface_that_is_deleted_is_an_error() {
    in_namespace("deleted", || {
        let pair = pair_of(1);
        let mut xdp = pair.open(&config());
        run("ip link del dours");
        let mut frames = Vec::new();
        let error = (0..10_000).find_map(|_| xdp.rx_burst(Instant::ZERO, &mut frames, 32).err());
        let error = error.expect("a deleted interface is noticed");
        assert!(error.to_string().contains("was the interface deleted?"), "{error}");
    });
}
