//! Datagrams over any wire: each one that is received was sent, and is intact.

use std::collections::HashMap;
use std::time::Duration;

use demi::net::UdpSocket;
use demi::sim::{Rng, Sim};
use demi::time::timeout;

use crate::support::{scaled, sweep};

/// The datagram called `number` of a run: its number, and bytes that tell it from others.
fn datagram(seed: u64, number: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed ^ number << 20);
    let mut bytes = vec![0; 8 + scaled(&mut rng, 1, 1400) as usize];
    rng.fill(&mut bytes[8..]);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn echo(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    let seed = sim.seed();
    let rng = &mut Rng::new(seed);
    let v6 = rng.chance(0.5);
    let offload = rng.chance(0.3);
    sim.wire().checksum_offload = offload;
    let link = sim.link();
    link.delay = Duration::from_micros(scaled(rng, 1, 50_000));
    link.jitter = Duration::from_micros(scaled(rng, 1, 50_000));
    let worst = rng.below(21) as f64 / 100.0;
    (link.loss, link.duplicate, link.corrupt, link.truncate) = (worst, worst, worst, worst / 4.0);
    let (server, at, client, from) = match v6 {
        true => ("fd00::1/64", "[fd00::1]:7", "fd00::2/64", "[fd00::2]:0"),
        false => ("10.0.0.1/24", "10.0.0.1:7", "10.0.0.2/24", "10.0.0.2:0"),
    };
    sim.server("server", server, move || async move {
        let socket = UdpSocket::bind(at).await?;
        loop {
            let (datagram, peer) = socket.pop_from().await?;
            socket.push_to(datagram, peer).await?;
        }
    });
    sim.host("client", client, move || async move {
        let socket = UdpSocket::bind(from).await?;
        let mut bytes = [0; 2048];
        let mut answers = HashMap::new();
        for number in 0..200 {
            // A neighbour that does not answer in time is told of here; the next datagram asks for it again.
            let _ = socket.send_to(&datagram(seed, number), at).await;
            while let Ok(Ok((count, peer))) =
                timeout(Duration::from_millis(number % 5), socket.recv_from(&mut bytes)).await
            {
                assert_eq!(peer, at.parse().unwrap());
                let number = u64::from_be_bytes(bytes[..8].try_into().unwrap());
                assert_eq!(bytes[..count], datagram(seed, number), "datagram {number}");
                *answers.entry(number).or_insert(0u32) += 1;
            }
        }
        if worst == 0.0 {
            while let Ok(received) = timeout(Duration::from_secs(1), socket.recv_from(&mut bytes)).await {
                let (count, _) = received?;
                let number = u64::from_be_bytes(bytes[..8].try_into().unwrap());
                assert_eq!(bytes[..count], datagram(seed, number));
                *answers.entry(number).or_insert(0) += 1;
            }
            assert!(answers.values().all(|times| *times == 1), "nothing was doubled");
            // Those sent before the neighbour's address was known wait for it, up to as many as there is room for.
            assert!(answers.len() >= 130, "{} of 200 came back", answers.len());
        }
        Ok(())
    });
    sim
}

#[test]
fn what_is_received_was_sent() {
    sweep("datagrams", echo);
}
