//! Memory that is short, and who gets it: a pool is shared by connections whose peers take what they are sent and by others.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpSocket, TcpStream};
use demi::sim::Sim;
use demi::time::{sleep, timeout};
use demi_drivers::PoolConfig;

use crate::support::run;

const STALLED: usize = 1024;
const WATCHED: Duration = Duration::from_secs(5);

/// Bytes that one connection delivers in [`WATCHED`] while so many others write to peers that read nothing.
fn delivered_beside(stalled: usize) -> u64 {
    let mut sim = Sim::new(7);
    sim.time_limit(Duration::from_secs(600));
    let wire = sim.wire();
    // Of both ends: what travels stays where it lies.
    wire.pool = PoolConfig { slots: 12_288, huge_pages: false, ..PoolConfig::default() };
    wire.ring_frames = 2048;
    wire.link.rate_bits_per_s = 100_000_000;
    wire.link.queue_bytes = 512 << 10;
    wire.link.delay = Duration::from_millis(5);
    let host = |address: &str| Config::new().address(address).max_connections(4096);
    let delivered = Rc::new(Cell::new(0));
    let count = delivered.clone();
    sim.host_with("server", host("10.0.0.1/24"), move || async move {
        let deaf = TcpSocket::new_v4()?;
        // What nobody reads is not to fill this end's memory: the other end's is in question.
        deaf.set_recv_buffer_size(4096)?;
        deaf.bind("10.0.0.1:81".parse().unwrap())?;
        let deaf = deaf.listen(2048)?;
        demi::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = deaf.accept().await {
                held.push(stream);
            }
        });
        let (mut stream, _) = TcpListener::bind("10.0.0.1:80").await?.accept().await?;
        let read = async {
            while let Some(bytes) = stream.pop().await? {
                count.set(count.get() + bytes.len() as u64);
            }
            io::Result::Ok(())
        };
        timeout(WATCHED, read).await.unwrap_or(Ok(()))
    });
    sim.server_with("client", host("10.0.0.2/24"), move || async move {
        for _ in 0..stalled {
            let mut stream = TcpStream::connect("10.0.0.1:81").await?;
            demi::spawn(async move {
                let bytes = [1; 16 << 10];
                while stream.write_all(&bytes).await.is_ok() {}
            });
        }
        // Until each has got all it can get.
        sleep(Duration::from_secs(2)).await;
        let mut stream = TcpStream::connect("10.0.0.1:80").await?;
        let bytes = [7; 64 << 10];
        while stream.write_all(&bytes).await.is_ok() {}
        Ok(())
    });
    run(sim);
    delivered.get()
}

#[test]
fn peers_that_take_nothing_leave_the_memory_to_those_that_do() {
    let (alone, beside) = (delivered_beside(0), delivered_beside(STALLED));
    assert!(beside * 10 >= alone * 9, "{beside} bytes beside {STALLED} stalled peers, {alone} without");
}
