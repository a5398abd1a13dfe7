//! Two whole hosts, executor included, over a bad wire: the stream that comes out is the stream that went in.
//!
//! Each seed is one run, on virtual time. A failure prints its seed; `DEMI_SEED=N` repeats it to the last frame.
//! `DEMI_SIM_SEEDS=N` runs that many seeds instead of a hundred.

use std::io;
use std::time::Duration;

use demi::net::{OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream};
use demi::sim::{Cause, Report, Rng, Sim, SimError};

const SERVER: &str = "10.0.0.1/24";
const CLIENT: &str = "10.0.0.2/24";

fn seeds() -> u64 {
    std::env::var("DEMI_SIM_SEEDS").ok().and_then(|count| count.parse().ok()).unwrap_or(100)
}

/// The bytes that direction `salt` of the run with `seed` carries.
fn payload(seed: u64, salt: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; bytes];
    Rng::new(seed ^ salt).fill(&mut payload);
    payload
}

async fn write_all(mut stream: OwnedWriteHalf, bytes: &[u8], rng: &mut Rng) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + 1 + rng.below(8000) as usize);
        at += stream.write(&bytes[at..end]).await?;
        if rng.chance(0.05) {
            demi::time::sleep(Duration::from_millis(rng.below(50))).await;
        }
    }
    stream.shutdown().await?;
    // A connection that was closed is given up after fewer retries than one that is waited for (Linux's
    // tcp_orphan_retries), few enough for one seed in a thousand.
    stream.drained().await
}

async fn read_all(mut stream: OwnedReadHalf, rng: &mut Rng) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 20_000];
    loop {
        let most = 1 + rng.below(part.len() as u64) as usize;
        match stream.read(&mut part[..most]).await? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&part[..count]),
        }
        if rng.chance(0.05) {
            demi::time::sleep(Duration::from_millis(rng.below(50))).await;
        }
    }
}

/// Sends and receives at the same time, and compares.
async fn exchange(stream: TcpStream, seed: u64, out: u64, back: u64, bytes: usize) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let sender = demi::spawn(async move {
        write_all(writer, &payload(seed, out, bytes), &mut Rng::new(seed ^ out << 32)).await
    });
    let received = read_all(reader, &mut Rng::new(seed ^ back << 48)).await?;
    sender.await??;
    if received != payload(seed, back, bytes) {
        let first = received.iter().zip(payload(seed, back, bytes)).take_while(|(a, b)| **a == *b).count();
        return Err(io::Error::other(format!("{} bytes came, wrong from byte {first} on", received.len())));
    }
    Ok(())
}

/// Connects, however often it takes: three lost questions for the Ethernet address end an attempt.
async fn connect() -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect("10.0.0.1:7000").await {
            Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {}
            result => return result,
        }
    }
}

fn bad_network(seed: u64, bytes: usize) -> Result<Report, SimError> {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(seed);
    let seed = sim.seed();
    let link = sim.link();
    link.delay = Duration::from_micros(rng.below(30_000));
    link.jitter = Duration::from_micros(rng.below(10_000));
    link.loss = rng.below(20) as f64 / 100.0;
    link.duplicate = rng.below(10) as f64 / 100.0;
    link.corrupt = rng.below(5) as f64 / 100.0;
    link.reorder = rng.below(10) as f64 / 100.0;
    link.reorder_delay = Duration::from_millis(rng.below(40));
    sim.host("server", SERVER, move || async move {
        let listener = TcpListener::bind("10.0.0.1:7000").await?;
        let (stream, _) = listener.accept().await?;
        exchange(stream, seed, 1, 2, bytes).await
    });
    sim.host("client", CLIENT, move || async move { exchange(connect().await?, seed, 2, 1, bytes).await });
    sim.run()
}

#[test]
fn streams_survive_loss_reordering_duplication_and_corruption() {
    for seed in 0..seeds() {
        match bad_network(seed, 20_000 + (seed as usize * 7919) % 60_000) {
            Ok(report) => assert!(report.undrained.is_empty(), "{report:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_run_of_streams_is_repeated_by_its_seed() {
    for seed in [3, 1_000_003] {
        assert_eq!(bad_network(seed, 50_000).unwrap(), bad_network(seed, 50_000).unwrap());
    }
}

#[test]
fn what_main_has_written_is_delivered_after_it_returns() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed);
        (sim.link().delay, sim.link().loss) = (Duration::from_millis(40), 0.1);
        sim.host("reader", SERVER, || async {
            let listener = TcpListener::bind("10.0.0.1:7000").await?;
            let (stream, _) = listener.accept().await?;
            let bytes = read_all(stream.into_split().0, &mut Rng::new(1)).await?;
            if bytes == payload(9, 9, 100_000) {
                Ok(())
            } else {
                Err(io::Error::other("it is not what was sent"))
            }
        });
        sim.host("writer", CLIENT, || async {
            let mut stream = TcpStream::connect("10.0.0.1:7000").await?;
            stream.write_all(&payload(9, 9, 100_000)).await?;
            // Dropped with bytes on the way: the host goes on delivering them.
            Ok(())
        });
        let report = sim.run().unwrap();
        assert!(report.undrained.is_empty(), "{report:?}");
    }
}

#[test]
fn a_peer_behind_a_cut_link_is_given_up_in_virtual_time() {
    let mut sim = Sim::new(4);
    sim.link().delay = Duration::from_millis(5);
    sim.time_limit(Duration::from_secs(100_000));
    let hand = std::rc::Rc::new(std::cell::RefCell::new(None));
    sim.on_wire({
        let hand = hand.clone();
        move |wire| *hand.borrow_mut() = Some(wire)
    });
    sim.server("server", SERVER, || async {
        let listener = TcpListener::bind("10.0.0.1:7000").await?;
        let (_stream, _) = listener.accept().await?;
        std::future::pending().await
    });
    sim.host("client", CLIENT, move || async move {
        let mut stream = TcpStream::connect("10.0.0.1:7000").await?;
        if let Some(wire) = &*hand.borrow() {
            wire.set_partitioned(0, 1, true);
        }
        stream.write_all(b"anybody there?").await?;
        match stream.read(&mut [0]).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable) =>
            {
                Ok(())
            }
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    });
    // RFC 9293 §3.8.3: R2 is at least 100 seconds; Linux's fifteen retries take about a quarter of an hour.
    let elapsed = sim.run().unwrap().elapsed;
    assert!(elapsed > Duration::from_secs(100) && elapsed < Duration::from_secs(2000), "{elapsed:?}");
}

#[test]
fn what_cannot_be_delivered_is_told_of_when_the_drain_time_is_over() {
    let mut sim = Sim::new(6);
    sim.drain_limit(Duration::from_secs(3));
    let hand = std::rc::Rc::new(std::cell::RefCell::new(None));
    sim.on_wire({
        let hand = hand.clone();
        move |wire| *hand.borrow_mut() = Some(wire)
    });
    sim.server("server", SERVER, || async {
        let listener = TcpListener::bind("10.0.0.1:7000").await?;
        let (_stream, _) = listener.accept().await?;
        std::future::pending().await
    });
    sim.host("client", CLIENT, move || async move {
        let mut stream = TcpStream::connect("10.0.0.1:7000").await?;
        if let Some(wire) = &*hand.borrow() {
            wire.set_partitioned(0, 1, true);
        }
        stream.write_all(b"too late").await
    });
    let report = sim.run().unwrap();
    assert!(report.undrained.contains(&("client".to_owned(), 1)), "{report:?}");
}

#[test]
fn a_connection_that_nobody_answers_is_no_deadlock_but_one_that_waits_for_ever_is() {
    let mut sim = Sim::new(5);
    sim.host("server", SERVER, || async {
        let listener = TcpListener::bind("10.0.0.1:7000").await?;
        let (mut stream, _) = listener.accept().await?;
        // Never written to, and never closed: both ends wait.
        stream.read(&mut [0]).await.map(|_| ())
    });
    sim.host("client", CLIENT, || async {
        let mut stream = TcpStream::connect("10.0.0.1:7000").await?;
        stream.read(&mut [0]).await.map(|_| ())
    });
    let error = sim.run().unwrap_err();
    assert!(matches!(error.cause(), Cause::Deadlock { waiting } if waiting.len() == 2), "{error}");
}
