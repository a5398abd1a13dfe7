//! Floods of garbage: random frames, and good ones with bytes changed. Nothing panics, everything is counted, no memory is kept.

mod common;

use common::{Bench, bind, config, mac};
use demi_drivers::transport::{Interface, ListenOptions, Membership, Transport};
use proptest::prelude::*;

/// Frames of every kind that the stack knows, each right but for what the test changes.
fn seeds() -> Vec<Vec<u8>> {
    let ethernet = |ethertype: [u8; 2]| [&mac(0)[..], &mac(1), &ethertype].concat();
    let v4 = |protocol: u8, len: u8| {
        let mut header =
            vec![0x45, 0, 0, 20 + len, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1];
        let sum = demi_netstack::wire::checksum::sum(&header).finish();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [ethernet([8, 0]), header].concat()
    };
    let v6 = |next: u8, len: u8| {
        let mut header = vec![0x60, 0, 0, 0, 0, len, next, 255];
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        header.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        [ethernet([0x86, 0xdd]), header].concat()
    };
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1];
    let tcp = [0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 5, 0xb4];
    let udp = [0x13, 0x88, 0, 7, 0, 12, 0, 0, 1, 2, 3, 4];
    let advertisement = [
        &[134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 1, 0, 0, 0, 1, 0][..],
        &[0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ];
    let mut dhcp = vec![0, 67, 0, 68, 0, 234, 0, 0, 2, 1, 6];
    dhcp.resize(8 + 236, 0);
    dhcp.extend([99, 130, 83, 99, 53, 1, 2, 52, 1, 3, 121, 5, 0, 10, 0, 0, 2]);
    dhcp.truncate(234);
    let icmp_error =
        [3, 3, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let solicit =
        [135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 0, 2];
    vec![
        [ethernet([8, 6]), arp.to_vec()].concat(),
        [v4(6, 24), tcp.to_vec()].concat(),
        [v4(17, 12), udp.to_vec()].concat(),
        [v4(1, 28), icmp_error.to_vec()].concat(),
        [v6(6, 24), tcp.to_vec()].concat(),
        [v6(17, 12), udp.to_vec()].concat(),
        [v6(58, 32), solicit.to_vec()].concat(),
        [v6(0, 20), vec![17, 0, 1, 4, 0, 0, 0, 0], udp.to_vec()].concat(),
        [v6(44, 20), vec![17, 0, 0, 1, 0, 0, 0, 9], udp.to_vec()].concat(),
        [v6(43, 20), vec![17, 0, 0, 1, 0, 0, 0, 0], udp.to_vec()].concat(),
        // For who is at the beginning of all: an advertisement, a lease, a query of groups; a redirect, which nobody obeys.
        [v6(58, 48), advertisement.concat()].concat(),
        [v6(58, 40), [&[137][..], &[0; 39]].concat()].concat(),
        [v6(0, 36), vec![58, 0, 5, 2, 0, 0, 1, 0], [&[130][..], &[0; 27]].concat()].concat(),
        [v4(2, 12), vec![0x11, 10, 0xec, 0xf3, 0, 0, 0, 0, 2, 0, 0, 0]].concat(),
        [v4(17, 8 + 246 - 20), dhcp].concat(),
        [ethernet([0x81, 0]), vec![0, 0, 8, 0], vec![0x45; 40]].concat(),
    ]
}

fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let random = proptest::collection::vec(any::<u8>(), 0..120);
    let to_us = random.clone().prop_map(|rest| [&mac(0)[..], &mac(1), &rest].concat());
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    let changed = (prop::sample::select(seeds()), changes, any::<prop::sample::Index>(), any::<bool>())
        .prop_map(|(mut frame, changes, cut, whole)| {
            for (at, value) in changes {
                // Behind the station address: what is for others is dropped at once.
                let at = 6 + at.index(frame.len() - 6);
                frame[at] = value;
            }
            if !whole {
                frame.truncate(1 + cut.index(frame.len()));
            }
            frame
        });
    proptest::collection::vec(prop_oneof![1 => random, 2 => to_us, 6 => changed], 1..40)
}

/// Puts the right checksum into an IPv4 header, so that a change gets past it.
fn mend(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        let len = (usize::from(frame[14] & 15) * 4).clamp(20, frame.len() - 14);
        frame[24..26].fill(0);
        let sum = demi_netstack::wire::checksum::sum(&frame[14..14 + len]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn garbage_never_panics_and_is_counted(frames in frames(), mended: bool, learns: bool) {
        let mut bench = Bench::with(demi_netstack::StackConfig {
            detect_duplicates: learns,
            router_discovery: learns,
            dhcp: learns,
            ..config(1)
        });
        let socket = bind(&mut bench.host, "[::]:7");
        for group in ["239.1.2.3", "ff02::1:ff00:1"] {
            let group = group.parse().unwrap();
            let any = Membership { group, source: None, interface: Interface::Any };
            bench.host.join_group(socket, &any).unwrap();
        }
        let listening = bench.host.listen("[::]:80".parse().unwrap(), &ListenOptions::default());
        let sent = frames.iter().filter(|frame| !frame.is_empty()).count();
        for mut frame in frames {
            if frame.is_empty() {
                continue;
            }
            if mended {
                mend(&mut frame);
            }
            bench.inject(&frame);
            bench.answers();
        }
        let stats = bench.host.stats();
        prop_assert_eq!(stats.link.in_frames, sent as u64);
        let link = stats.link.in_truncated + stats.link.in_unknown_type + stats.link.in_arp;
        let seen = link + stats.v4.ip.in_receives + stats.v6.ip.in_receives;
        prop_assert!(seen <= sent as u64 && seen + stats.link.in_other_host >= sent as u64, "{:?}", stats);
        for _ in 0..200 {
            bench.now += std::time::Duration::from_secs(5);
            bench.answers();
        }
        let held = bench.host.stats().v4.udp.in_datagrams + bench.host.stats().v6.udp.in_datagrams;
        drop(listening);
        prop_assert_eq!(bench.host.pool().stats().slots_out as u64, held, "slots are kept for datagrams alone");
    }
}
