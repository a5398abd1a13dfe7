//! Memory that is short, and who gets it: a pool is shared by connections whose peers take what they are sent and by others.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi::config::Config;
use demi::net::{TcpListener, TcpSocket, TcpStream};
use demi::sim::Sim;
use demi::task::JoinSet;
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

/// Bytes that one connection delivers in [`WATCHED`] to a server that has so many others and reads nothing of what comes over them,
/// until that is over: then each of them must bring all that was sent.
fn delivered_beside_unread(unread: usize) -> u64 {
    const EACH: usize = 96 << 10;
    let mut sim = Sim::new(8);
    sim.time_limit(Duration::from_secs(600));
    let wire = sim.wire();
    wire.pool = PoolConfig { slots: 12_288, huge_pages: false, ..PoolConfig::default() };
    wire.ring_frames = 2048;
    wire.link.rate_bits_per_s = 100_000_000;
    wire.link.queue_bytes = 512 << 10;
    wire.link.delay = Duration::from_millis(5);
    let host = |address: &str| Config::new().address(address).max_connections(4096);
    let delivered = Rc::new(Cell::new(0));
    let count = delivered.clone();
    sim.host_with("server", host("10.0.0.1/24"), move || async move {
        let busy = TcpSocket::new_v4()?;
        busy.bind("10.0.0.1:81".parse().unwrap())?;
        let busy = busy.listen(2048)?;
        let watched = TcpListener::bind("10.0.0.1:80").await?;
        let mut held = Vec::new();
        for _ in 0..unread {
            held.push(busy.accept().await?.0);
        }
        let (mut stream, _) = watched.accept().await?;
        let read = async {
            while let Some(bytes) = stream.pop().await? {
                count.set(count.get() + bytes.len() as u64);
            }
            io::Result::Ok(())
        };
        timeout(WATCHED, read).await.unwrap_or(Ok(()))?;
        drop(stream);
        let mut all = JoinSet::new();
        for mut stream in held {
            all.spawn(async move {
                let mut all = Vec::new();
                while let Some(bytes) = stream.pop().await? {
                    all.extend_from_slice(&bytes);
                }
                io::Result::Ok(all)
            });
        }
        while let Some(bytes) = all.join_next().await {
            let bytes = bytes.map_err(io::Error::other)??;
            assert!(bytes.len() == EACH && bytes.iter().all(|byte| *byte == 1), "{} bytes", bytes.len());
        }
        Ok(())
    });
    sim.host_with("client", host("10.0.0.2/24"), move || async move {
        let mut writers = JoinSet::new();
        for _ in 0..unread {
            let socket = TcpSocket::new_v4()?;
            // What is not acknowledged is not to fill this end's memory.
            socket.set_send_buffer_size(8192)?;
            let mut stream = socket.connect("10.0.0.1:81".parse().unwrap()).await?;
            writers.spawn(async move { stream.write_all(&[1; EACH]).await });
        }
        sleep(Duration::from_secs(4)).await;
        let mut stream = TcpStream::connect("10.0.0.1:80").await?;
        let bytes = [7; 64 << 10];
        while stream.write_all(&bytes).await.is_ok() {}
        while let Some(written) = writers.join_next().await {
            written.map_err(io::Error::other)??;
        }
        Ok(())
    });
    run(sim);
    delivered.get()
}

#[test]
fn what_is_not_read_leaves_memory_to_what_is() {
    let (alone, beside) = (delivered_beside_unread(0), delivered_beside_unread(STALLED));
    assert!(beside * 10 >= alone * 9, "{beside} bytes beside {STALLED} unread connections, {alone} without");
}

#[test]
fn peers_that_take_nothing_leave_the_memory_to_those_that_do() {
    let (alone, beside) = (delivered_beside(0), delivered_beside(STALLED));
    assert!(beside * 10 >= alone * 9, "{beside} bytes beside {STALLED} stalled peers, {alone} without");
}
