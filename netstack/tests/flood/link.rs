//! Floods below TCP: fragments that stay alone, neighbours that do not exist, lies about paths, questions to ports where nobody
//! listens, routers and servers that never stop talking.

use std::net::{IpAddr, Ipv6Addr};

use demi_drivers::Transport;
use demi_drivers::transport::{DatagramOptions, Interface, Membership};
use demi_netstack::wire::protocol;

use crate::ground::{Ceilings, Ground, HAND, victim};
use crate::packets::{self, Dice, VICTIM_V4, VICTIM_V6, read};
use crate::stranger::STRANGER;

/// Junk packets a millisecond.
const RATE: u64 = 20;

fn local(low: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, low)
}

/// A frame to a group of IPv6 goes to the group's stations.
fn to_group(mut frame: Vec<u8>, group: Ipv6Addr) -> Vec<u8> {
    let octets = group.octets();
    frame[..6].copy_from_slice(&[0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]);
    frame
}

#[test]
fn fragments_of_ipv4_that_are_never_completed() {
    let mut ground = Ground::new(victim());
    let mut dice = Dice(11);
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 0.2, answers: 0.1, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            let src = [10, 0, 0, 100 + random as u8 % 100];
            let offset = (random >> 16) as u16 % 100;
            let junk = packets::raw(
                src.into(),
                VICTIM_V4.into(),
                protocol::UDP,
                64,
                (random >> 32) as u16,
                0x2000 | offset,
                &[7; 512],
            );
            ground.inject(&junk);
        }
        RATE
    });
}

#[test]
fn fragments_of_ipv6_that_are_never_completed() {
    let mut ground = Ground::new(victim());
    let mut dice = Dice(12);
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 0.2, answers: 0.1, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            let src = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(random % 1000) << 64 | 1);
            let field = ((random >> 16) as u16 % 100) << 3 | 1;
            let head =
                [&[protocol::UDP, 0][..], &field.to_be_bytes(), &((random >> 32) as u32).to_be_bytes()]
                    .concat();
            let junk =
                packets::raw(src.into(), VICTIM_V6.into(), 44, 64, 0, 0, &[&head[..], &[7; 512]].concat());
            ground.inject(&junk);
        }
        RATE
    });
}

#[test]
fn neighbours_that_do_not_exist() {
    let mut ground = Ground::new(victim());
    let mut dice = Dice(13);
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 0.2, answers: 1.5, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            // All at the hand's station: a switch would give everybody what goes to stations that do not exist.
            let mac = HAND;
            let low = (random >> 24) as u32;
            let junk = match random % 4 {
                // Somebody says where he is; asks from an address of his own; wants an answer to one.
                0 => packets::arp(1, mac, [10, 0, 0, 100 + low as u8 % 150], [10, 0, 0, 1]),
                1 => {
                    packets::solicit(mac, Ipv6Addr::from_bits(0xfd00_0000 << 96 | u128::from(low) | 1 << 32))
                }
                2 => packets::udp([10, 0, 0, 100 + low as u8 % 150].into(), VICTIM_V4.into(), (9, 9), b"?"),
                _ => {
                    let src = Ipv6Addr::from_bits(0xfd00_0000 << 96 | u128::from(low) | 2 << 32);
                    let echo = [128, 0, 0, 0, 0, 1, 0, 1];
                    packets::ip(src.into(), VICTIM_V6.into(), protocol::ICMPV6, 64, &echo)
                }
            };
            ground.inject(&junk);
        }
        RATE
    });
}

#[test]
fn routers_that_say_the_path_is_narrow() {
    // "Fragmentation needed" about the good connection: most quote what was never sent, some are right but for what they ask for.
    let mut ground = Ground::new(victim());
    let mut dice = Dice(14);
    let ceilings = Ceilings { slots: 1500, bytes: 4_000_000, calls: 0.5, answers: 0.1, percent: 75 };
    // The right ones among them are believed down to 552 bytes, whose headers take their part of the link.
    ground.flood(ceilings, |ground, _, _| {
        let seen = ground.latest.borrow()[1].clone();
        let (_, seq, ..) = read(&seen).expect("the victim's segment");
        for _ in 0..RATE {
            let random = dice.roll();
            let mut quote = seen[14..].to_vec();
            quote.truncate(548);
            if !random.is_multiple_of(50) {
                let wrong = seq.wrapping_add(0x1000_0000 + random as u32 % 0xd000_0000);
                quote[24..28].copy_from_slice(&wrong.to_be_bytes());
            }
            let mtu = [0u16, 68, 67, 575, 1, 65535, 1400, 1280][(random >> 40) as usize % 8];
            let message = [&[3, 4, 0, 0, 0, 0][..], &mtu.to_be_bytes(), &quote].concat();
            let junk = packets::ip([192, 0, 2, 1].into(), VICTIM_V4.into(), protocol::ICMP, 64, &message);
            ground.inject(&junk);
        }
        RATE
    });
}

#[test]
fn datagrams_to_ports_where_nobody_listens() {
    let mut ground = Ground::new(victim());
    let mut dice = Dice(15);
    // Two seconds of errors, a thousand a second and half as many more by chance.
    let answers = 2.0 * 1500.0 / (2000.0 * RATE as f64) + 0.01;
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 0.1, answers, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            let ports = (random as u16, 1000 + (random >> 16) as u16 % 60_000);
            let junk = if random >> 63 == 0 {
                packets::udp(STRANGER.into(), VICTIM_V4.into(), ports, &[7; 100])
            } else {
                let src: Ipv6Addr = "fd00::66".parse().unwrap();
                packets::udp(src.into(), VICTIM_V6.into(), ports, &[7; 100])
            };
            ground.inject(&junk);
        }
        RATE
    });
    let icmp = (ground.victim.stats().v4.icmp, ground.victim.stats().v6.icmp);
    assert!(icmp.0.out_rate_limited + icmp.1.out_rate_limited > 30_000);
}

#[test]
fn datagrams_to_a_socket_that_nobody_reads() {
    let mut ground = Ground::new(victim());
    ground.victim.bind_datagram("0.0.0.0:53".parse().unwrap(), &DatagramOptions::default()).unwrap();
    let mut dice = Dice(16);
    let ceilings = Ceilings { slots: 2500, bytes: 1_000_000, calls: 0.1, answers: 0.01, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let junk = packets::udp(STRANGER.into(), VICTIM_V4.into(), (dice.roll() as u16, 53), &[7; 10]);
            ground.inject(&junk);
        }
        RATE
    });
    assert!(ground.victim.stats().v4.udp.rcvbuf_errors > 10_000);
}

#[test]
fn routers_and_lessors_that_never_stop_talking() {
    let mut config = victim();
    (config.router_discovery, config.dhcp) = (true, true);
    let mut ground = Ground::new(config);
    let mut dice = Dice(17);
    let ceilings = Ceilings { slots: 1500, bytes: 700_000, calls: 3.0, answers: 1.0, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            if random.is_multiple_of(4) {
                let mut reply = vec![2, 1, 6, 0];
                reply.extend((random as u32).to_be_bytes());
                reply.resize(236, 0);
                reply[28..34].copy_from_slice(&crate::ground::VICTIM);
                reply.extend([
                    99,
                    130,
                    83,
                    99,
                    53,
                    1,
                    2 + (random >> 40) as u8 % 5,
                    54,
                    4,
                    10,
                    0,
                    0,
                    66,
                    51,
                    4,
                    0,
                    0,
                    0,
                    60,
                ]);
                let mut frame = packets::udp(STRANGER.into(), [255; 4].into(), (67, 68), &reply);
                frame[..6].fill(0xff);
                ground.inject(&frame);
                continue;
            }
            // Every router is another one, and so is every prefix and every name server.
            let mut message = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
            message.extend([3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            message.extend((0x2001_0db8u128 << 96 | u128::from(random >> 32) << 64).to_be_bytes());
            message.extend([25, 3, 0, 0, 0, 0, 14, 16]);
            message.extend((0x2001_0db8u128 << 96 | u128::from(random)).to_be_bytes());
            let group: Ipv6Addr = "ff02::1".parse().unwrap();
            let src = local(random as u16);
            ground.inject(&to_group(
                packets::ip(src.into(), group.into(), protocol::ICMPV6, 255, &message),
                group,
            ));
        }
        RATE
    });
    assert!(ground.victim.addresses().len() <= 32, "{} addresses", ground.victim.addresses().len());
    assert!(ground.victim.name_servers().len() <= 16);
}

#[test]
fn queries_of_groups() {
    let mut ground = Ground::new(victim());
    let socket = ground.victim.bind_datagram("[::]:9".parse().unwrap(), &DatagramOptions::default()).unwrap();
    for group in ["239.1.2.3", "239.1.2.4", "ff02::1234", "ff02::1235"] {
        let membership =
            Membership { group: group.parse().unwrap(), source: None, interface: Interface::Any };
        ground.victim.join_group(socket, &membership).unwrap();
    }
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 2.0, answers: 0.5, percent: 95 };
    ground.flood(ceilings, |ground, number, _| {
        for turn in 0..RATE {
            let code = (number + turn) as u8;
            if turn % 2 == 0 {
                let query = [0x11, code, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
                let mut frame =
                    packets::ip(STRANGER.into(), [224, 0, 0, 1].into(), protocol::IGMP, 1, &query);
                frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
                ground.inject(&frame);
            } else {
                let query = [&[130, 0, 0, 0, 0, code, 0, 0][..], &[0; 16], &[2, 125, 0, 0]].concat();
                let group: Ipv6Addr = "ff02::1".parse().unwrap();
                let src: IpAddr = local(9).into();
                ground.inject(&to_group(packets::ip(src, group.into(), protocol::ICMPV6, 1, &query), group));
            }
        }
        RATE
    });
}

#[test]
fn packets_from_nowhere_and_from_ourselves() {
    // Land, source 0.0.0.0, groups as sources, 127/8 from outside.
    let mut ground = Ground::new(victim());
    let mut dice = Dice(18);
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 0.05, answers: 0.01, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            let src: [u8; 4] =
                [[10, 0, 0, 1], [0; 4], [224, 0, 0, 1], [127, 0, 0, 1], [255; 4], [240, 0, 0, 1]]
                    [random as usize % 6];
            let segment = packets::Segment {
                ports: (7, 7),
                seq: 1,
                ack: 0,
                flags: packets::SYN,
                window: 500,
                options: &[],
                payload: &[],
            };
            ground.inject(&segment.frame(src.into(), VICTIM_V4.into()));
        }
        RATE
    });
}
