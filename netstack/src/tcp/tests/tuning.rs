//! Buffers over a long path: they grow to what it holds, within their limits, and are given back.

use std::time::Duration;

use demi_drivers::transport::{StreamId, StreamOptions};

use super::network::{Faults, Network};
use crate::tcp::TcpConfig;

/// A tenth of a second there and back, without faults.
const LONG: Faults = Faults { loss_percent: 0, duplicate_percent: 0, delay_us: 50_000, jitter_us: 0 };
const BYTES: usize = 4 << 20;

/// Sends `BYTES` from host 0 to host 1, whose reader is always there; answers the connection's ends and the seconds it took.
fn transfer(net: &mut Network, options: &StreamOptions) -> ([StreamId; 2], f64) {
    let (from, to) = net.pair(options);
    let began = net.now;
    let data = vec![7; 64 << 10];
    let (mut sent, mut received) = (0, Vec::new());
    net.until("transfer", |net| {
        while sent < BYTES {
            let taken = net.send(0, from, &data[..data.len().min(BYTES - sent)], false);
            if taken == 0 {
                break;
            }
            sent += taken;
        }
        net.receive(1, to, usize::MAX, &mut received);
        (received.len() == BYTES).then_some(())
    });
    ([from, to], net.now.since(began).as_secs_f64())
}

fn net(config: &TcpConfig) -> Network {
    Network::new(1, false, config, LONG)
}

#[test]
fn a_long_path_is_filled() {
    let fixed = TcpConfig { moderate_recv_buffer: false, ..TcpConfig::default() };
    let (_, slow) = transfer(&mut net(&fixed), &StreamOptions::default());
    let mut tuned = net(&TcpConfig::default());
    let (ends, fast) = transfer(&mut tuned, &StreamOptions::default());
    assert!(slow > 3.0, "32 round trips of a window of 128 KiB: {slow} s");
    assert!(fast < 1.6, "{fast} s");
    let info = tuned.hosts[1].tcp.tcp_info(ends[1]).unwrap();
    assert!(info.recv_space_bytes > 300_000 && (90_000..200_000).contains(&info.recv_rtt_us), "{info:?}");
    assert!(info.recv_window_bytes > 500_000, "{info:?}");
}

#[test]
fn a_size_that_was_asked_for_stays() {
    let mut options = StreamOptions::default();
    options.send_buffer_bytes = Some(100_000);
    let mut net = net(&TcpConfig::default());
    let (_, slow) = transfer(&mut net, &options);
    assert!(slow > 4.0, "a send buffer of 100 kB a round trip: {slow} s");
    assert_eq!(net.hosts[0].tcp.common.grown_bytes, 0);
}

#[test]
fn all_together_grow_no_further_than_their_share() {
    let config = TcpConfig { buffers_max_bytes: 0, ..TcpConfig::default() };
    let mut net = net(&config);
    let (ends, slow) = transfer(&mut net, &StreamOptions::default());
    assert!(slow > 3.0, "{slow} s");
    for (host, end) in net.hosts.iter().zip(ends) {
        assert_eq!(host.tcp.common.grown_bytes, 0);
        assert!(host.tcp.stats().memory_pressures > 0, "{end:?}");
    }
}

#[test]
fn what_was_grown_is_given_back_when_idle_and_at_the_end() {
    let mut net = net(&TcpConfig::default());
    let (ends, _) = transfer(&mut net, &StreamOptions::default());
    assert!(net.hosts.iter().all(|host| host.tcp.common.grown_bytes > 0));
    let limit = net.now + Duration::from_secs(100);
    while net.step(limit) {}
    assert!(net.hosts.iter().all(|host| host.tcp.common.grown_bytes == 0));
    let offered = net.hosts[1].tcp.tcp_info(ends[1]).unwrap().recv_window_bytes;
    assert!(offered > 500_000, "what was offered is not taken back: {offered}");

    let mut net = Network::new(2, true, &TcpConfig::default(), LONG);
    let (ends, _) = transfer(&mut net, &StreamOptions::default());
    assert!(net.hosts.iter().all(|host| host.tcp.common.grown_bytes > 0));
    let now = net.now;
    for (super::network::Host { tcp, out, .. }, end) in net.hosts.iter_mut().zip(ends) {
        tcp.abort(now, out, end);
        assert_eq!(tcp.common.grown_bytes, 0);
    }
}
