//! Many connections, and none.

use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpStream};
use demi::task::JoinSet;
use demi::time::sleep;

use crate::hosts::{ADDRESS, answer, ask, flow};
use crate::support::{run, soon};

#[test]
fn ten_thousand_connections_are_opened_used_and_closed_and_nothing_is_left() {
    const CONNECTIONS: usize = 10_000;
    let mut sim = soon(1);
    sim.wire().pool.slots = 1 << 16;
    sim.wire().pool.huge_pages = false;
    sim.wire().ring_frames = 1 << 15;
    sim.host_with("server", Config::new().address("10.0.0.1/24").backlog(4096), async || {
        let listener = TcpListener::bind(ADDRESS).await?;
        let mut all = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (mut stream, _) = listener.accept().await?;
            all.spawn(async move { answer(&mut stream, &flow(100), &flow(200)).await });
        }
        all.join_all().await.into_iter().collect()
    });
    sim.host("client", "10.0.0.2/24", async || {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS / 100 {
            let mut batch = JoinSet::new();
            (0..100).for_each(|_| {
                batch.spawn(TcpStream::connect(ADDRESS));
            });
            for stream in batch.join_all().await {
                streams.push(stream?);
            }
        }
        // All of them live at once.
        sleep(Duration::from_secs(1)).await;
        let mut all = JoinSet::new();
        for mut stream in streams {
            all.spawn(async move { ask(&mut stream, &flow(100), &flow(200)).await });
        }
        all.join_all().await.into_iter().collect()
    });
    run(sim);
}

#[test]
fn an_idle_host_does_nothing() {
    let mut sim = soon(2);
    sim.time_limit(Duration::from_secs(1 << 20));
    sim.host("idle", "10.0.0.1/24", async || {
        let _listener = TcpListener::bind(ADDRESS).await?;
        sleep(Duration::from_secs(60)).await;
        let before = demi::metrics();
        sleep(Duration::from_secs(100 * 3600)).await;
        let turns = demi::metrics().turns - before.turns;
        assert!(turns < 50, "{turns} turns in a hundred hours");
        Ok(())
    });
    run(sim);
}
