//! Networks and peers that go away: partitions, reboots, timeouts, and the errors they end in.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi::net::{KeepAlive, TcpListener, TcpSocket, TcpStream};
use demi::sim::Sim;
use demi::sim::wire::{Topology, Verdict, WireEnd};
use demi::time::{Instant, sleep};
use demi_drivers::device::DeviceStats;
use demi_drivers::{Capabilities, Device, Instant as Time, Pool, RxFrame, TxQueue};

use crate::hosts::{ADDRESS, CLIENT, RST, SERVER, answer, ask, flow, tcp_flags, two};
use crate::support::{Hand, run, soon};

#[test]
fn a_partition_that_heals_after_seconds_or_minutes_costs_only_time() {
    for outage in [1, 10, 60, 400].map(Duration::from_secs) {
        let mut sim = soon(1);
        let hand = Hand::on(&mut sim);
        two(
            &mut sim,
            async |mut stream| answer(&mut stream, &flow(2 << 20), &flow(1 << 20)).await,
            async |mut stream| {
                let mut slow = flow(2 << 20);
                slow.send_rest = Some((100_000, Duration::from_millis(100)));
                ask(&mut stream, &slow, &flow(1 << 20)).await
            },
        );
        sim.host_over("fate", Vec::new(), move || async move {
            sleep(Duration::from_secs(1)).await;
            hand.wire().set_partitioned(SERVER, CLIENT, true);
            sleep(outage).await;
            hand.wire().set_partitioned(SERVER, CLIENT, false);
            Ok(())
        });
        let report = run(sim);
        assert!(report.elapsed < outage + Duration::from_secs(130), "{:?}", report.elapsed);
    }
}

#[test]
fn nobody_at_the_address_is_host_unreachable() {
    let mut sim = soon(2);
    sim.host("client", "10.0.0.2/24", async || {
        let start = Instant::now();
        let error = TcpStream::connect(ADDRESS).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        Ok(())
    });
    run(sim);
}

#[test]
fn a_peer_that_says_nothing_times_out_and_no_network_is_unreachable() {
    let mut sim = soon(3);
    sim.on_wire(|wire| {
        wire.set_filter(|frame| if tcp_flags(frame.bytes).is_some() { Verdict::Drop } else { Verdict::Pass });
    });
    sim.server("server", "10.0.0.1/24", std::future::pending);
    sim.host("client", "10.0.0.2/24", async || {
        let start = Instant::now();
        let error = TcpStream::connect(ADDRESS).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        // Six SYNs more, each waited for twice as long: Linux's 127 seconds.
        assert!((100..140).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        let error = TcpStream::connect("192.0.2.1:7").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable, "{error}");
        Ok(())
    });
    run(sim);
}

/// Connects, cuts the wire, writes, and answers what ends the connection, and when.
fn cut_off(prepare: fn(&TcpStream) -> io::Result<()>, write: bool) -> (io::ErrorKind, Duration) {
    let seen = Rc::new(Cell::new(None));
    let tell = seen.clone();
    let mut sim = soon(4);
    sim.time_limit(Duration::from_secs(100_000));
    let hand = Hand::on(&mut sim);
    sim.server("server", "10.0.0.1/24", async || {
        let listener = TcpListener::bind(ADDRESS).await?;
        let _stream = listener.accept().await?;
        std::future::pending().await
    });
    sim.host("client", "10.0.0.2/24", move || async move {
        let mut stream = TcpStream::connect(ADDRESS).await?;
        prepare(&stream)?;
        sleep(Duration::from_secs(1)).await;
        hand.wire().set_partitioned(SERVER, CLIENT, true);
        let start = Instant::now();
        if write {
            stream.write_all(b"anybody?").await?;
        }
        let error = stream.read(&mut [0]).await.unwrap_err();
        tell.set(Some((error.kind(), start.elapsed())));
        Ok(())
    });
    let _ = sim.run().unwrap();
    seen.take().unwrap()
}

#[test]
fn unacknowledged_bytes_end_a_connection_after_the_user_timeout() {
    let (kind, after) = cut_off(|stream| stream.set_user_timeout(Some(Duration::from_secs(20))), true);
    assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable), "{kind:?}");
    assert!((19..=21).contains(&after.as_secs()), "{after:?}");
}

#[test]
fn unacknowledged_bytes_end_a_connection_in_the_end() {
    let (kind, after) = cut_off(|_| Ok(()), true);
    assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable), "{kind:?}");
    // Linux's fifteen retries: 924 seconds with its shortest timeout.
    assert!((800..=1100).contains(&after.as_secs()), "{after:?}");
}

#[test]
fn keepalive_finds_out_that_a_silent_peer_is_gone() {
    let probes = KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(5), probes: 4 };
    assert_eq!(probes.probes, 4);
    let (kind, after) = cut_off(
        |stream| {
            let (idle, interval) = (Duration::from_secs(30), Duration::from_secs(5));
            stream.set_keepalive(Some(KeepAlive { idle, interval, probes: 4 }))
        },
        false,
    );
    assert!(matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable), "{kind:?}");
    assert!((45..=55).contains(&after.as_secs()), "{after:?}");
}

/// An end of the wire that has another Ethernet address: the machine that was rebooted has the one it had before.
struct Renamed(WireEnd, Capabilities);

impl Device for Renamed {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.1
    }
    fn pool(&self) -> &Pool {
        self.0.pool()
    }
    fn rx_burst(&mut self, now: Time, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        self.0.rx_burst(now, into, max)
    }
    fn tx_burst(&mut self, now: Time, queue: &mut TxQueue) -> io::Result<usize> {
        self.0.tx_burst(now, queue)
    }
    fn deadline(&self) -> Option<Time> {
        self.0.deadline()
    }
    fn stats(&self) -> DeviceStats {
        self.0.stats()
    }
}

#[test]
fn a_peer_that_has_rebooted_resets_what_it_does_not_know_and_can_be_connected_to() {
    const REBOOTED: usize = 2;
    let mut sim: Sim = soon(5);
    sim.wire().topology = Topology::Hub;
    sim.drain_limit(Duration::from_secs(3000));
    let hand = Hand::on(&mut sim);
    let resets = Rc::new(Cell::new(0));
    sim.devices(|host, end| {
        let mut capabilities = end.capabilities().clone();
        if host == "rebooted" {
            capabilities.mac = [2, 0, 0, 0, 0, 1];
        }
        Box::new(Renamed(end, capabilities))
    });
    let serve = async || {
        let listener = TcpListener::bind(ADDRESS).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            demi::spawn(async move { answer(&mut stream, &flow(10), &flow(20)).await });
        }
    };
    sim.server("server", "10.0.0.1/24", serve);
    let seen = resets.clone();
    sim.host("client", "10.0.0.2/24", move || async move {
        let wire = hand.wire();
        for end in [SERVER, CLIENT] {
            wire.set_partitioned(end, REBOOTED, true);
        }
        wire.set_filter(move |frame| {
            let flags = tcp_flags(frame.bytes).unwrap_or(0);
            seen.set(
                seen.get() + u32::from((frame.from, frame.to) == (REBOOTED, CLIENT) && flags & RST != 0),
            );
            Verdict::Pass
        });
        let mut stream = TcpStream::connect(ADDRESS).await?;
        // The power fails, and comes back.
        wire.set_partitioned(SERVER, CLIENT, true);
        sleep(Duration::from_secs(40)).await;
        wire.set_partitioned(CLIENT, REBOOTED, false);
        stream.write_all(b"are you still there?").await?;
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        ask(&mut TcpStream::connect(ADDRESS).await?, &flow(10), &flow(20)).await
    });
    sim.server("rebooted", "10.0.0.1/24", serve);
    run(sim);
    assert_eq!(resets.get(), 1);
}

#[test]
fn a_port_in_use_and_an_address_of_nobodys_are_told_of() {
    let mut sim = soon(6);
    sim.host("host", "10.0.0.1/24", async || {
        let _first = TcpListener::bind(ADDRESS).await?;
        let error = TcpListener::bind(ADDRESS).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        let error = TcpListener::bind("10.0.0.77:1").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
        let socket = TcpSocket::new_v4()?;
        socket.bind("10.0.0.77:0".parse().unwrap())?;
        let error = socket.connect("10.0.0.5:1".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{error}");
        Ok(())
    });
    run(sim);
}
