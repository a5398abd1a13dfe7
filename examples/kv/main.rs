//! A key-value server that speaks RESP2: `redis-cli` and `redis-benchmark` are its clients.
//!
//! ```text
//! cargo run --release --example kv -- --listen 127.0.0.1:6379
//! redis-cli set greeting hello
//! redis-benchmark -t set,get,incr,mset -P 16 -q
//! ```
//!
//! No lock: all connections of a core are tasks of one executor, so its map is in a `RefCell`. On several cores
//! (`DEMI_CORES=0-3`) each has a part of the map, see `shards`. Each turn of a connection answers every command that has arrived
//! with one write, whatever the client pipelines.
//!
//! On an RDMA device (`--features rdma`, `DEMI_DEVICE=rdma:rxe0`), `--published SLOTS` has each core mirror its small keys in memory
//! that clients read by themselves: they ask for its key by `REGION`, and the example `kv_get` does all that. See `published`.

mod commands;
#[cfg(any(test, feature = "rdma"))]
mod published;
mod resp;
mod shards;
mod store;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

#[cfg(feature = "rdma")]
use anyhow::Context;
use bytes::{Buf, BytesMut};
use clap::Parser;
use demi::net::{TcpListener, TcpStream};
use demi::task::JoinSet;
use demi::time::{Instant, sleep, timeout};
use demi_examples::kv::layout::MAX_SLOTS;
use futures::future::{Either, select};

use commands::{Outcome, Server};
use resp::{Limits, Request};
use shards::Pending;

/// Key-value server that speaks RESP2 (redis-cli, redis-benchmark).
#[derive(Parser)]
#[command(after_help = "The device is chosen by DEMI_DEVICE: auto, uring, posix, tap:NAME, packet:IF, …")]
struct Args {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:6379")]
    listen: SocketAddr,
    /// Connections at most, on each core; more are closed as they come.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    clients: usize,
    /// Bytes at most of one key or value.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    max_value: usize,
    /// Slots of the table in memory that clients read over RDMA by themselves, on each core; 256 bytes each.
    #[arg(long, value_name = "SLOTS", value_parser = clap::value_parser!(u32).range(1..=MAX_SLOTS as i64))]
    published: Option<u32>,
    /// Seconds that open connections get to finish after ctrl-C.
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    grace: u64,
}

/// Bytes of requests gathered before they are looked at even though more have come.
const READ_BATCH: usize = 64 * 1024;
/// Bytes of answers gathered before they are written even though more commands wait.
const WRITE_BATCH: usize = 64 * 1024;

#[demi::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let server = shards::here();
    let listener = TcpListener::bind(args.listen).await?;
    if let Some(slots) = args.published {
        publish(&mut server.borrow_mut(), args.listen.ip(), slots as usize)?;
    }
    if demi::this_core().index() == 0 {
        println!("listening on {} ({})", listener.local_addr()?, listener.device());
    }
    let limits = Limits { argument_bytes: args.max_value, ..Limits::default() };
    demi::spawn(expire(server.clone()));

    let mut connections = JoinSet::new();
    let mut ctrl_c = pin!(demi::signal::ctrl_c());
    loop {
        match select(ctrl_c.as_mut(), pin!(listener.accept())).await {
            Either::Left((signal, _)) => break signal?,
            Either::Right((Ok((stream, _peer)), _)) => {
                while connections.try_join_next().is_some() {}
                if connections.len() < args.clients {
                    connections.spawn(serve(stream, server.clone(), limits));
                }
            }
            Either::Right((Err(error), _)) => {
                eprintln!("accept: {error}");
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(args.grace), drained).await.is_err() {
        eprintln!("{} connections did not finish", connections.len());
    }
    // While the device is there.
    #[cfg(feature = "rdma")]
    server.borrow_mut().unpublish();
    Ok(())
}

/// Publishes the small keys of this core on the RDMA device that has the address `local`.
fn publish(server: &mut Server, local: IpAddr, slots: usize) -> anyhow::Result<()> {
    #[cfg(feature = "rdma")]
    return published::publish(server, local, slots).context("--published");
    #[cfg(not(feature = "rdma"))]
    {
        let _ = (server, local, slots);
        anyhow::bail!("--published: this program was built without RDMA: build it with `--features rdma`")
    }
}

/// Serves one client until it leaves. An I/O error is its way of leaving.
async fn serve(mut stream: TcpStream, server: Rc<RefCell<Server>>, limits: Limits) {
    let _ = stream.set_nodelay(true);
    server.borrow_mut().client_came();
    let _ = converse(&mut stream, &server, limits).await;
    server.borrow_mut().client_left();
}

async fn converse(stream: &mut TcpStream, server: &RefCell<Server>, limits: Limits) -> std::io::Result<()> {
    let (mut input, mut output) = (BytesMut::new(), Vec::new());
    let mut pending = Pending::default();
    // Bytes that the input must have before it is worth a look.
    let mut needed = 1;
    while let Some(received) = stream.pop().await? {
        input.extend_from_slice(&received);
        drop(received);
        // What else has come is answered by the same write.
        while input.len() < READ_BATCH
            && let Ok(Some(more)) = stream.try_pop()
        {
            input.extend_from_slice(&more);
        }
        let mut outcome = Outcome::Continue;
        while outcome == Outcome::Continue && input.len() >= needed {
            let taken = match resp::parse(&input, limits) {
                Ok(Request::Incomplete { bytes }) => {
                    needed = bytes;
                    break;
                }
                Ok(Request::Complete { arguments, bytes }) => {
                    if !pending.send(&arguments, &output) {
                        outcome = server.borrow_mut().run(&arguments, Instant::now(), &mut output);
                    }
                    bytes
                }
                Err(error) => {
                    resp::error(&mut output, &format!("ERR Protocol error: {error}"));
                    outcome = Outcome::Close;
                    0
                }
            };
            input.advance(taken);
            needed = 1;
            if output.len() >= WRITE_BATCH {
                pending.settle(&mut output).await;
                stream.write_all(&output).await?;
                output.clear();
            }
        }
        if !pending.is_empty() {
            pending.settle(&mut output).await;
        }
        stream.write_all(&output).await?;
        output.clear();
        if outcome == Outcome::Close {
            return stream.shutdown().await;
        }
        // An idle connection keeps no more than a page.
        if input.is_empty() && input.capacity() > 4096 {
            input = BytesMut::new();
        }
        if output.capacity() > WRITE_BATCH * 2 {
            output = Vec::new();
        }
    }
    Ok(())
}

/// Drops keys whose time is over and that nobody asks for: a bounded look at the map ten times a second.
async fn expire(server: Rc<RefCell<Server>>) {
    loop {
        sleep(Duration::from_millis(100)).await;
        server.borrow_mut().expire(Instant::now());
    }
}
