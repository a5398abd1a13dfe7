//! What strangers send: floods of SYNs, of fragments, blind resets, frames for others, connections to closed ports.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi::net::{TcpSocket, TcpStream, UdpSocket};
use demi::sim::wire::{Topology, Verdict};
use demi::task::JoinSet;
use demi::time::{Instant, sleep, timeout};

use crate::hosts::{ADDRESS, CLIENT, RST, SERVER, SYN, answer, ask, flow, tcp_flags, tcp_payload, two};
use crate::support::{run, soon};

#[test]
fn a_closed_port_refuses_at_once() {
    for (address, remote) in [("10.0.0.2/24", "10.0.0.1:9"), ("fd00::2/64", "[fd00::1]:9")] {
        let mut sim = soon(1);
        sim.server("server", ["10.0.0.1/24", "fd00::1/64"], std::future::pending);
        sim.host("client", address, move || async move {
            // A neighbour's address that is still being checked for duplicates answers later.
            sleep(Duration::from_secs(5)).await;
            let start = Instant::now();
            let error = TcpStream::connect(remote).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
            // Two round trips: the first one asks for the Ethernet address.
            assert_eq!(start.elapsed(), Duration::from_millis(4));
            Ok(())
        });
        run(sim);
    }
}

#[test]
fn a_flood_of_lone_syns_harms_neither_live_connections_nor_the_listener_for_long() {
    const FLOOD: usize = 2;
    let mut sim = soon(2);
    sim.on_wire(|wire| {
        // The flooder never hears the answers, so its SYNs are lone ones.
        wire.set_filter(|frame| match tcp_flags(frame.bytes) {
            Some(_) if frame.to == FLOOD => Verdict::Drop,
            _ => Verdict::Pass,
        });
    });
    sim.host("server", "10.0.0.1/24", async || {
        let socket = TcpSocket::new_v4()?;
        socket.bind(ADDRESS.parse().unwrap())?;
        let listener = socket.listen(16)?;
        let (mut live, _) = listener.accept().await?;
        let busy = demi::spawn(async move { answer(&mut live, &flow(900_000), &flow(900_000)).await });
        let (mut late, _) = listener.accept().await?;
        answer(&mut late, &flow(10), &flow(20)).await?;
        busy.await.map_err(io::Error::other)?
    });
    sim.host("client", "10.0.0.2/24", async || {
        let mut live = TcpStream::connect(ADDRESS).await?;
        let mut slow = flow(900_000);
        slow.send_rest = Some((9_000, Duration::from_millis(200)));
        let busy = demi::spawn(async move { ask(&mut live, &slow, &flow(900_000)).await });
        // The flood lasts ten seconds; half-open connections are forgotten after about a minute.
        sleep(Duration::from_secs(90)).await;
        let mut late = timeout(Duration::from_secs(10), TcpStream::connect(ADDRESS)).await??;
        ask(&mut late, &flow(10), &flow(20)).await?;
        busy.await.map_err(io::Error::other)?
    });
    sim.host("flooder", "10.0.0.3/24", async || {
        sleep(Duration::from_secs(1)).await;
        let mut flood = JoinSet::new();
        for _ in 0..1000 {
            flood.spawn(async {
                let _ = timeout(Duration::from_secs(3), TcpStream::connect(ADDRESS)).await;
            });
            sleep(Duration::from_millis(10)).await;
        }
        flood.join_all().await;
        Ok(())
    });
    run(sim);
}

#[test]
fn connections_that_live_do_not_count_as_backlog() {
    let mut sim = soon(3);
    sim.host("server", "10.0.0.1/24", async || {
        let socket = TcpSocket::new_v4()?;
        socket.bind(ADDRESS.parse().unwrap())?;
        let listener = socket.listen(2)?;
        let mut all = Vec::new();
        for _ in 0..100 {
            all.push(listener.accept().await?.0);
        }
        for stream in &mut all {
            answer(stream, &flow(1), &flow(2)).await?;
        }
        Ok(())
    });
    sim.host("client", "10.0.0.2/24", async || {
        let mut all = Vec::new();
        for _ in 0..100 {
            let start = Instant::now();
            all.push(TcpStream::connect(ADDRESS).await?);
            assert!(start.elapsed() < Duration::from_millis(10), "no SYN was dropped");
        }
        for stream in &mut all {
            ask(stream, &flow(1), &flow(2)).await?;
        }
        Ok(())
    });
    run(sim);
}

#[test]
fn a_reset_or_a_syn_in_the_window_that_does_not_hit_the_next_byte_kills_nobody() {
    for forged_flags in [RST, RST | 0x10, SYN, SYN | 0x10] {
        let mut sim = soon(4);
        // Forged frames need no checksum here.
        sim.wire().lossless_memory = true;
        let forged = Rc::new(Cell::new(0));
        let count = forged.clone();
        sim.on_wire(move |wire| {
            wire.set_filter(move |frame| {
                let bytes = &mut *frame.bytes;
                // Timeouts make the sender try smaller segments.
                let carries = tcp_payload(bytes) > 0;
                if frame.from == CLIENT && carries && count.get() < 20 {
                    count.set(count.get() + 1);
                    // The segment, said to be somewhat further on, becomes the stranger's; its bytes are sent again.
                    let seq = u32::from_be_bytes([bytes[38], bytes[39], bytes[40], bytes[41]]);
                    bytes[38..42].copy_from_slice(&seq.wrapping_add(20_000).to_be_bytes());
                    bytes[47] = forged_flags;
                }
                Verdict::Pass
            });
        });
        two(
            &mut sim,
            async |mut stream| answer(&mut stream, &flow(500_000), &flow(500)).await,
            async |mut stream| ask(&mut stream, &flow(500_000), &flow(500)).await,
        );
        run(sim);
        assert_eq!(forged.get(), 20);
    }
}

#[test]
fn frames_for_other_stations_are_nobodys_business() {
    const BYSTANDER: usize = 2;
    let mut sim = soon(5);
    // Every frame reaches everybody.
    sim.wire().topology = Topology::Hub;
    let spoke = Rc::new(Cell::new(0));
    let count = spoke.clone();
    sim.on_wire(move |wire| {
        wire.set_filter(move |frame| {
            if frame.from == BYSTANDER && tcp_flags(frame.bytes).is_some() {
                count.set(count.get() + 1);
            }
            // Towards the bystander they carry its IP address: only the Ethernet address tells them apart.
            if frame.to == BYSTANDER && tcp_flags(frame.bytes).is_some() {
                frame.bytes[33] = 3;
            }
            Verdict::Pass
        });
    });
    sim.wire().lossless_memory = true;
    two(
        &mut sim,
        async |mut stream| answer(&mut stream, &flow(50_000), &flow(70_000)).await,
        async |mut stream| ask(&mut stream, &flow(50_000), &flow(70_000)).await,
    );
    sim.server("bystander", "10.0.0.3/24", std::future::pending);
    run(sim);
    assert_eq!(spoke.get(), 0, "segments, resets among them, that the bystander has sent");
    assert_ne!(SERVER, BYSTANDER);
}

#[test]
fn fragments_that_never_become_whole_leave_room_for_those_that_do() {
    const FLOOD: usize = 2;
    for (server, client, flooder, at) in [
        ("10.0.0.1/24", "10.0.0.2/24", "10.0.0.3/24", "10.0.0.1:7"),
        ("fd00::1/64", "fd00::2/64", "fd00:0:0:1::3/48", "[fd00::1]:7"),
    ] {
        let mut sim = soon(6);
        // A pool that the flood could fill many times over.
        sim.wire().pool.slots = 1024;
        let cut = Rc::new(Cell::new(0));
        let count = cut.clone();
        sim.on_wire(move |wire| {
            wire.set_filter(move |frame| {
                let bytes = &*frame.bytes;
                let is_last = match bytes.get(12..15) {
                    Some([8, 0, _]) => {
                        let field = u16::from_be_bytes([bytes[20], bytes[21]]);
                        field & 0x2000 == 0 && field & 0x1fff != 0
                    }
                    Some([0x86, 0xdd, _]) => bytes[20] == 44 && bytes[57] & 1 == 0,
                    _ => false,
                };
                if frame.from == FLOOD && is_last {
                    count.set(count.get() + 1);
                    return Verdict::Drop;
                }
                Verdict::Pass
            });
        });
        sim.server("server", server, move || async move {
            let socket = UdpSocket::bind(at).await?;
            loop {
                let (datagram, peer) = socket.pop_from().await?;
                socket.push_to(datagram, peer).await?;
            }
        });
        sim.host("client", client, move || async move {
            let socket = UdpSocket::bind(if at.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).await?;
            let mut answer = vec![0; 65_536];
            for round in 0..20 {
                let sent = vec![round; 20_000];
                socket.send_to(&sent, at).await?;
                let (count, _) = timeout(Duration::from_secs(2), socket.recv_from(&mut answer)).await??;
                assert!(answer[..count] == sent, "round {round}");
                sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        });
        sim.host("flooder", flooder, move || async move {
            let socket = UdpSocket::bind(if at.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).await?;
            for _ in 0..800 {
                let _ = socket.send_to(&[6; 9000], at).await;
                sleep(Duration::from_micros(2500)).await;
            }
            Ok(())
        });
        let report = run(sim);
        assert!(cut.get() > 750, "{} datagrams of the flood were cut", cut.get());
        for host in &report.hosts {
            assert!(host.slots_out <= 256, "{} keeps {} slots of the flood", host.name, host.slots_out);
        }
    }
}
