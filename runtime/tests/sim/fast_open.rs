//! Fast Open between two hosts: what goes with the SYN saves a round trip, and nothing is lost, doubled or mixed up by it.

use std::io;
use std::time::Duration;

use demi::net::{TcpSocket, TcpStream};
use demi::sim::wire::Verdict;
use demi::sim::{Rng, Sim};
use demi::time::Instant;

use crate::hosts::{ADDRESS, SYN, tcp_flags, tcp_payload};
use crate::support::{run, soon, sweep};

const REQUESTS: usize = 6;
const ONE_WAY: Duration = Duration::from_millis(20);

/// A server that answers each connection's 100 bytes with as many others.
fn server(sim: &mut Sim, queue: Option<u32>) {
    sim.host("server", "10.0.0.1/24", move || async move {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.set_fastopen(queue)?;
        socket.bind(ADDRESS.parse().unwrap())?;
        let listener = socket.listen(64)?;
        for _ in 0..REQUESTS {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 100];
            stream.read_exact(&mut request).await?;
            stream.write_all(&request.map(|byte| !byte)).await?;
            stream.shutdown().await?;
            while stream.pop().await?.is_some() {}
            stream.drained().await?;
        }
        Ok::<_, io::Error>(())
    });
}

/// One request over a connection of its own; how long it took, and whether its data went with the SYN.
async fn request(number: usize) -> io::Result<(Duration, bool)> {
    let begun = Instant::now();
    let socket = TcpSocket::new_v4()?;
    socket.set_fastopen_connect(true)?;
    let mut stream: TcpStream = socket.connect(ADDRESS.parse().unwrap()).await?;
    stream.write_all(&[number as u8; 100]).await?;
    let mut answer = [0; 100];
    stream.read_exact(&mut answer).await?;
    let took = begun.elapsed();
    assert_eq!(answer, [!(number as u8); 100], "request {number}");
    let early = stream.info()?.syn_data;
    stream.shutdown().await?;
    while stream.pop().await?.is_some() {}
    Ok((took, early))
}

#[test]
fn a_second_connection_saves_a_round_trip() {
    let mut sim = soon(1);
    sim.link().delay = ONE_WAY;
    server(&mut sim, Some(16));
    sim.host("client", "10.0.0.2/24", || async {
        for number in 0..REQUESTS {
            let (took, early) = request(number).await?;
            let trips = if number == 0 { 2 } else { 1 };
            assert_eq!(early, number > 0);
            let slack = Duration::from_millis(if number == 0 { 3 * 2 * 20 } else { 5 });
            assert!(took >= 2 * ONE_WAY * trips && took < 2 * ONE_WAY * trips + slack, "{number}: {took:?}");
        }
        Ok::<_, io::Error>(())
    });
    run(sim);
}

#[test]
fn a_server_that_does_not_know_it_serves_all_the_same() {
    let mut sim = soon(2);
    server(&mut sim, None);
    sim.host("client", "10.0.0.2/24", || async {
        for number in 0..REQUESTS {
            assert!(!request(number).await?.1);
        }
        Ok::<_, io::Error>(())
    });
    run(sim);
}

#[test]
fn a_network_that_drops_syns_with_data_costs_a_timeout_and_no_byte() {
    let mut sim = soon(3);
    sim.on_wire(|wire| {
        wire.set_filter(|frame| {
            let syn = tcp_flags(frame.bytes).is_some_and(|flags| flags & SYN != 0);
            if syn && tcp_payload(frame.bytes) > 0 { Verdict::Drop } else { Verdict::Pass }
        });
    });
    server(&mut sim, Some(16));
    sim.host("client", "10.0.0.2/24", || async {
        for number in 0..REQUESTS {
            let (took, early) = request(number).await?;
            assert!(!early && took < Duration::from_secs(2), "{number}: {took:?}");
        }
        Ok::<_, io::Error>(())
    });
    run(sim);
}

fn build(seed: u64) -> Sim {
    let mut sim = Sim::new(seed);
    let link = sim.link();
    link.delay = Duration::from_millis(5);
    link.duplicate = 0.05;
    link.reorder = 0.1;
    // Neighbours are found: it is TCP's segments that get lost.
    let mut rng = Rng::new(seed);
    sim.on_wire(move |wire| {
        wire.set_filter(move |frame| {
            let lost = tcp_flags(frame.bytes).is_some() && rng.next_u64().is_multiple_of(10);
            if lost { Verdict::Drop } else { Verdict::Pass }
        });
    });
    server(&mut sim, Some(2));
    sim.host("client", "10.0.0.2/24", || async {
        for number in 0..REQUESTS {
            // A connection whose last acknowledgement was lost may have left the server a doubled SYN: it waits for that one.
            request(number).await?;
        }
        Ok::<_, io::Error>(())
    });
    sim
}

#[test]
fn what_goes_with_syns_arrives_whole_over_a_bad_wire() {
    sweep("fast_open", build);
}
