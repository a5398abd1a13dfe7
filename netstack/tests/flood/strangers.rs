//! Floods of connections: SYNs from everywhere, handshakes that lead to nothing, connections that are held or thrown away.

use demi_drivers::Transport;

use crate::ground::{Ceilings, Ground, Service, victim};
use crate::packets::{ACK, Dice, FIN, SYN, Segment, VICTIM_V4, VICTIM_V6, read};
use crate::stranger::STRANGER;

/// Junk packets a millisecond.
const RATE: u64 = 20;

#[test]
fn syns_from_everywhere_over_both_versions() {
    const BACKLOG: u32 = 128;
    let mut ground = Ground::new(victim());
    ground.serve(Service::Idle, BACKLOG);
    let mut dice = Dice(5);
    // Half-open connections may be kept up to the backlog; beyond it a cookie, or silence, keeps nothing.
    let ceilings = Ceilings { slots: 1200, bytes: 1_000_000, calls: 0.2, answers: 1.5, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let (random, options) =
                (dice.roll(), [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
            let ports = (1024 + random as u16 % 60_000, 80);
            let segment = Segment {
                ports,
                seq: random as u32,
                ack: 0,
                flags: SYN,
                window: 500,
                options: &options,
                payload: &[],
            };
            let junk = if random >> 60 == 0 {
                let src = std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(random >> 8));
                segment.frame(src.into(), VICTIM_V6.into())
            } else {
                let [a, b, c, _] = ((random >> 32) as u32).to_be_bytes();
                segment.frame([198, 51, a ^ b, c].into(), VICTIM_V4.into())
            };
            ground.inject(&junk);
        }
        RATE
    });
    assert!(ground.victim.usage().streams <= BACKLOG as usize + 8, "{:?}", ground.victim.usage());
    // Nothing of it stays: SYN-ACKs are sent again for a minute, and then forgotten.
    for _ in 0..100 {
        ground.now += std::time::Duration::from_secs(1);
        ground.work();
    }
    assert!(ground.victim.usage().streams <= 1, "{:?}", ground.victim.usage());
}

#[test]
fn acknowledgements_that_belong_to_nothing() {
    let mut ground = Ground::new(victim());
    ground.serve(Service::Idle, 128);
    let mut dice = Dice(6);
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 0.1, answers: 1.1, percent: 95 };
    ground.flood(ceilings, |ground, _, _| {
        for _ in 0..RATE {
            let random = dice.roll();
            let ports = (1024 + random as u16 % 60_000, 80 + (random >> 20) as u16 % 2);
            let segment = Segment {
                ports,
                seq: random as u32,
                ack: (random >> 32) as u32,
                flags: ACK,
                window: 500,
                options: &[],
                payload: b"data",
            };
            ground.inject(&segment.frame(STRANGER.into(), VICTIM_V4.into()));
        }
        RATE
    });
    assert_eq!(ground.victim.usage().streams, 1, "guessed cookies make no connections");
}

#[test]
fn connections_that_are_opened_and_never_read() {
    // Sockstress: a handshake, then a window of zero for ever, on as many ports as there are.
    let mut ground = Ground::new(victim());
    ground.serve(Service::Answering, 128);
    let mut port = 1024u16;
    let ceilings = Ceilings { slots: 2200, bytes: 2_000_000, calls: 1.0, answers: 2.0, percent: 95 };
    ground.flood(ceilings, |ground, _, answers| {
        let mut packets = 0;
        for (ports, seq, ack, flags, _) in answers.iter().filter_map(|frame| read(frame)) {
            if flags == SYN | ACK {
                let reply = Segment {
                    ports: (ports.1, 80),
                    seq: ack,
                    ack: seq.wrapping_add(1),
                    flags: ACK,
                    window: 0,
                    options: &[],
                    payload: &[],
                };
                ground.inject(&reply.frame(STRANGER.into(), VICTIM_V4.into()));
                packets += 1;
            }
        }
        for _ in 0..2 {
            port = port.wrapping_add(1).max(1024);
            let syn = Segment {
                ports: (port, 80),
                seq: 1,
                ack: 0,
                flags: SYN,
                window: 0,
                options: &[],
                payload: &[],
            };
            ground.inject(&syn.frame(STRANGER.into(), VICTIM_V4.into()));
            packets += 1;
        }
        packets
    });
    assert!(ground.victim.usage().streams <= 1024, "{:?}", ground.victim.usage());
}

#[test]
fn connections_that_the_victim_closes_first() {
    // Each leaves a TIME-WAIT record, of which there are no more than configured.
    let mut ground = Ground::new(victim());
    ground.serve(Service::Closing, 128);
    let mut port = 1024u16;
    let ceilings = Ceilings { slots: 1200, bytes: 700_000, calls: 1.0, answers: 1.5, percent: 95 };
    ground.flood(ceilings, |ground, _, answers| {
        let mut packets = 0;
        for (ports, seq, ack, flags, len) in answers.iter().filter_map(|frame| read(frame)) {
            let end = seq.wrapping_add(len as u32 + u32::from(flags & (SYN | FIN) != 0));
            let segment = |flags| Segment {
                ports: (ports.1, 80),
                seq: ack,
                ack: end,
                flags,
                window: 500,
                options: &[],
                payload: &[],
            };
            let reply = match flags & (SYN | FIN) {
                SYN => segment(ACK),
                FIN => segment(FIN | ACK),
                _ => continue,
            };
            ground.inject(&reply.frame(STRANGER.into(), VICTIM_V4.into()));
            packets += 1;
        }
        for _ in 0..2 {
            port = port.wrapping_add(1).max(1024);
            let syn = Segment {
                ports: (port, 80),
                seq: 1,
                ack: 0,
                flags: SYN,
                window: 500,
                options: &[],
                payload: &[],
            };
            ground.inject(&syn.frame(STRANGER.into(), VICTIM_V4.into()));
            packets += 1;
        }
        packets
    });
    let usage = ground.victim.usage();
    assert!(usage.time_wait > 100 && usage.time_wait <= 256, "{usage:?}");
    assert!(usage.streams < 100, "{usage:?}");
}
