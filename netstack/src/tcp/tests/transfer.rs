//! Streams in are streams out, whatever the network does.

use std::net::Shutdown;

use demi_drivers::transport::{CongestionControl, StreamOptions};

use super::network::{Faults, Network, Rng};
use crate::tcp::TcpConfig;

const CONTROLS: [CongestionControl; 5] = [
    CongestionControl::Cubic,
    CongestionControl::NewReno,
    CongestionControl::Dctcp,
    CongestionControl::Bbr,
    CongestionControl::None,
];

/// Sends a stream each way over a network of `seed` and checks what comes out.
fn run(seed: u64) {
    let mut rng = Rng(seed ^ 0xabcd);
    let v6 = seed % 2 == 1;
    let faults = Faults {
        loss_percent: [0, 1, 5, 10, 20][rng.below(5) as usize],
        duplicate_percent: [0, 0, 3, 10][rng.below(4) as usize],
        delay_us: [10, 200, 5_000, 40_000][rng.below(4) as usize],
        jitter_us: [0, 0, 300, 8_000][rng.below(4) as usize],
    };
    let config = TcpConfig {
        timestamps: rng.below(3) > 0,
        sack: rng.below(3) > 0,
        window_scaling: rng.below(3) > 0,
        congestion: CONTROLS[rng.below(5) as usize],
        send_buffer_bytes: [4_000, 30_000, 300_000][rng.below(3) as usize],
        recv_buffer_bytes: [4_000, 30_000, 300_000][rng.below(3) as usize],
        // At one segment in five lost, giving up after a handful of losses in a row would be no wonder.
        syn_retries: 30,
        syn_ack_retries: 30,
        retries: 60,
        max_rto: std::time::Duration::from_secs(10),
        ..TcpConfig::default()
    };
    let mut net = Network::new(seed, v6, &config, faults);
    for host in &mut net.hosts {
        host.out.mtu = [1500, 1500, 576, 9000][rng.below(4) as usize].max(if v6 { 1280 } else { 0 });
        host.out.tso_max_bytes = [0, 0, 65_000][rng.below(3) as usize];
        host.out.pool = demi_drivers::Pool::new(&demi_drivers::PoolConfig {
            slots: 2048,
            large_slots: 64,
            huge_pages: false,
            ..demi_drivers::PoolConfig::default()
        })
        .unwrap();
    }
    let mut options = StreamOptions::default();
    options.nodelay = rng.below(2) == 0;
    let streams = net.pair(&options);
    let streams = [streams.0, streams.1];
    let sizes = [rng.below(200_000) as usize, rng.below(60_000) as usize];
    let data = sizes.map(|size| (0..size).map(|_| rng.next() as u8).collect::<Vec<u8>>());
    let (mut sent, mut shut, mut ended) = ([0, 0], [false; 2], [false; 2]);
    let mut received = [Vec::new(), Vec::new()];
    net.until("transfer", |net| {
        for host in 0..2 {
            let mut tries = 0;
            while sent[host] < data[host].len() && tries < 8 {
                let len = (1 + rng.below(5000) as usize).min(data[host].len() - sent[host]);
                let push = rng.below(2) == 0;
                let taken = net.send(host, streams[host], &data[host][sent[host]..sent[host] + len], push);
                sent[host] += taken;
                tries += 1;
            }
            if sent[host] == data[host].len() && !shut[host] {
                shut[host] = true;
                net.hosts[host].tcp.shutdown(streams[host], Shutdown::Write).unwrap();
            }
            // Sometimes the reader looks away.
            if rng.below(3) > 0 && !ended[host] {
                let max = rng.below(20_000) as usize;
                ended[host] = net.receive(host, streams[host], max, &mut received[host]);
            }
            // And the way out is not always free.
            net.hosts[host].out.room = if rng.below(8) == 0 { rng.below(3) as usize } else { usize::MAX };
        }
        (ended == [true; 2]).then_some(())
    });
    for host in 0..2 {
        assert!(received[host] == data[1 - host], "seed {seed}: host {host} got something else");
        net.hosts[host].out.room = usize::MAX;
        net.hosts[host].tcp.close(net.now, &mut net.hosts[host].out, streams[host]);
    }
    // All is gone once TIME-WAIT is over: no connection, no slot, no timer.
    let limit = net.now + std::time::Duration::from_secs(1200);
    while net.step(limit) {}
    for host in 0..2 {
        let usage = net.hosts[host].tcp.usage();
        assert_eq!((usage.streams, usage.closing, usage.time_wait), (0, 0, 0), "seed {seed} host {host}");
        assert_eq!(net.pool(host).stats().slots_out, 0, "seed {seed} host {host}");
        assert_eq!(net.pool(host).stats().large_slots_out, 0, "seed {seed} host {host}");
        assert_eq!(net.hosts[host].tcp.deadline(), None, "seed {seed} host {host}");
    }
}

/// `DEMI_SEED=N` runs that seed alone, `DEMI_SEEDS=N` that many, `DEMI_TRACE=1` prints every segment.
#[test]
fn streams_survive_bad_networks() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = number("DEMI_SEED").map_or(0..number("DEMI_SEEDS").unwrap_or(150), |seed| seed..seed + 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "failing seed: {seed}");
    }
}
