//! What the hosts of a scenario do: a client that makes connections, a server that answers them, and streams that tell
//! where their bytes belong.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use demi::net::{TcpListener, TcpStream};
use demi::sim::Rng;
use demi::sync::mpsc;
use demi::task::JoinSet;
use demi::time::sleep;

use super::file::{self, Number};
use crate::support::pick;
use crate::traffic::{Flow, Receiving, Sending};

/// Attempts at one connection.
const ATTEMPTS: usize = 1000;

/// What the client wants, drawn.
#[derive(Clone)]
pub(super) struct Load {
    style: Style,
    at_once: usize,
    connections: Vec<Connection>,
    retry_on: Vec<String>,
    must_fail: bool,
    hopeless: bool,
    resent_most: Option<f64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Both,
    Ask,
    /// With so many rounds.
    Echo(u64),
}

/// What passes over one connection; of an echo, in all rounds together.
#[derive(Clone)]
struct Connection {
    up: Flow,
    down: Flow,
}

impl Load {
    pub(super) fn draw(told: &file::Load, rng: &mut Rng) -> Load {
        let number =
            |number: &Option<Number>, rng: &mut Rng| number.as_ref().map(|number| number.draw(rng).max(0.0));
        let rounds = number(&told.rounds, rng).map_or(10, |rounds| rounds as u64);
        let style = match told.style.as_ref().and_then(|style| style.draw(rng)) {
            None | Some("both") => Style::Both,
            Some("ask") => Style::Ask,
            Some("echo") => Style::Echo(rounds),
            Some(other) => panic!("no style is called `{other}`: write both, ask or echo"),
        };
        let rest = |rest: &Option<file::Rest>, rng: &mut Rng| {
            rest.as_ref().map(|rest| ((rest.every_kib.draw(rng) * 1024.0) as u64, rest.for_s.seconds(rng)))
        };
        let flow = |kib: &Option<Number>, rests: &Option<file::Rest>, rng: &mut Rng| {
            let bytes = number(kib, rng).map_or(0, |kib| (kib * 1024.0) as u64);
            let bytes = if let Style::Echo(rounds) = style { bytes * rounds } else { bytes };
            let mut flow = Flow::plain(rng.next_u64(), bytes);
            flow.sending =
                pick(rng, &[Sending::Write(64 << 10), Sending::Vectored(16 << 10), Sending::Push(60_000)]);
            flow.receiving = pick(rng, &[Receiving::Read(64 << 10), Receiving::Pop]);
            flow.receive_rest = rest(rests, rng);
            flow
        };
        let count = number(&told.connections, rng).map_or(1, |count| count as usize);
        let at_once = number(&told.at_once, rng).map_or(1, |count| count as usize);
        let connections = (0..count).map(|_| Connection {
            up: flow(&told.up_kib, &told.server_rest, rng),
            down: flow(&told.down_kib, &told.client_rest, rng),
        });
        Load {
            style,
            at_once,
            connections: connections.collect(),
            retry_on: told.retry_on.clone(),
            must_fail: told.must_fail,
            hopeless: told.hopeless,
            resent_most: told.resent_most,
        }
    }

    /// Fails when an end has sent more again than it may.
    fn check(&self, stream: &TcpStream) -> io::Result<()> {
        let (Some(most), Ok(info)) = (self.resent_most, stream.info()) else { return Ok(()) };
        let (resent, all) = (info.retransmitted_segments, info.segments_out);
        // Of a handful of segments no share can be told.
        if resent > 5 && resent as f64 > most * all as f64 {
            return Err(io::Error::other(format!("{resent} of {all} segments were sent again")));
        }
        Ok(())
    }

    /// Whether a connection that ends so is one of those that the scenario breaks. Wrong bytes never are.
    fn forgives(&self, error: &io::Error) -> bool {
        let cut_short = error.kind() == io::ErrorKind::UnexpectedEof && !self.retry_on.is_empty();
        cut_short || self.retry_on.iter().any(|kind| *kind == format!("{:?}", error.kind()))
    }
}

/// The client's main: every connection, so many at a time.
pub(super) async fn ask(address: SocketAddr, load: Load) -> io::Result<()> {
    let (next, failed) = (Cell::new(0), Cell::new(0));
    let worker = async || {
        while let Some(connection) = load.connections.get(next.replace(next.get() + 1)) {
            let number = next.get() as u64 - 1;
            failed.set(failed.get() + insist(address, &load, connection, number).await?);
        }
        io::Result::Ok(())
    };
    let workers = (0..load.at_once.max(1)).map(|_| worker());
    futures_util::future::try_join_all(workers).await?;
    if load.must_fail && failed.get() == 0 {
        return Err(io::Error::other("no connection has failed"));
    }
    Ok(())
}

/// Makes a connection until one of its kind has come to its end; answers how many have failed.
async fn insist(address: SocketAddr, load: &Load, connection: &Connection, number: u64) -> io::Result<usize> {
    let mut failed = 0;
    let mut unreachable = 0;
    while failed + unreachable < ATTEMPTS {
        match talk(address, load, connection, number).await {
            Ok(()) if load.hopeless => return Err(io::Error::other("it delivered what cannot be delivered")),
            Ok(()) => return Ok(failed),
            Err(error) if load.forgives(&error) && load.hopeless => return Ok(1),
            Err(error) if load.forgives(&error) => failed += 1,
            // A wire this bad loses all attempts to reach a neighbour now and then.
            Err(error) if error.kind() == io::ErrorKind::HostUnreachable => unreachable += 1,
            Err(error) => return Err(error),
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err(io::Error::other("the server cannot be reached"))
}

/// The client's side of a connection.
async fn talk(address: SocketAddr, load: &Load, connection: &Connection, number: u64) -> io::Result<()> {
    let Connection { up, down } = connection;
    let mut stream = TcpStream::connect(address).await?;
    let greeted = async {
        stream.write_all(&number.to_be_bytes()).await?;
        stream.read_exact(&mut [0]).await
    };
    // A half-open connection is given up when its neighbour is silent for seconds, as Linux does, and then resets a client that
    // believes itself connected. Once the server has answered, nothing may go wrong any more.
    greeted.await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::TimedOut => io::ErrorKind::HostUnreachable.into(),
        _ => error,
    })?;
    match load.style {
        Style::Both => {
            let (mut read, mut write) = stream.split();
            let send = async {
                up.send(&mut write).await?;
                write.shutdown().await
            };
            let (sent, received) = futures_util::join!(send, down.receive(&mut read));
            both(sent, received)?;
        }
        Style::Ask => {
            up.send(&mut stream).await?;
            stream.shutdown().await?;
            down.receive(&mut stream).await?;
        }
        Style::Echo(rounds) => {
            stream.set_nodelay(true)?;
            for round in 0..rounds {
                say(&mut stream, up, round, rounds).await?;
                hear(&mut stream, down, round, rounds).await?;
            }
            stream.shutdown().await?;
            Flow::plain(0, 0).receive(&mut stream).await?;
        }
    }
    load.check(&stream)
}

/// The server's side of a connection.
async fn answer(mut stream: TcpStream, load: &Load) -> io::Result<()> {
    let mut number = [0; 8];
    match stream.read_exact(&mut number).await {
        Ok(()) => {}
        // Its client has given it up before it said who it is: one that is seen again has another connection.
        Err(_) => return Ok(()),
    }
    let number = u64::from_be_bytes(number);
    stream.write_all(&[1]).await?;
    let Some(Connection { up, down }) = load.connections.get(number as usize) else {
        return Err(io::Error::other(format!("a connection that calls itself {number:#x}")));
    };
    match load.style {
        Style::Both => {
            let (mut read, mut write) = stream.split();
            let (sent, received) = futures_util::join!(down.send(&mut write), up.receive(&mut read));
            both(sent, received)?;
        }
        Style::Ask => {
            up.receive(&mut stream).await?;
            down.send(&mut stream).await?;
        }
        Style::Echo(rounds) => {
            stream.set_nodelay(true)?;
            for round in 0..rounds {
                hear(&mut stream, up, round, rounds).await?;
                say(&mut stream, down, round, rounds).await?;
            }
            Flow::plain(0, 0).receive(&mut stream).await?;
        }
    }
    load.check(&stream)?;
    // The end tells the client that all it sent has arrived as it was.
    stream.shutdown().await
}

/// What two directions have come to. An error is told once: whoever did not hear of it has seen nothing but the end.
fn both(sent: io::Result<()>, received: io::Result<()>) -> io::Result<()> {
    match (sent, received) {
        (Err(why), Err(end)) if end.kind() == io::ErrorKind::UnexpectedEof => Err(why),
        (sent, received) => received.and(sent),
    }
}

/// Sends a round's share of a flow.
async fn say(stream: &mut TcpStream, flow: &Flow, round: u64, rounds: u64) -> io::Result<()> {
    let mut share = vec![0; (flow.bytes / rounds) as usize];
    flow.fill(round * share.len() as u64, &mut share);
    stream.write_all(&share).await
}

/// Receives a round's share of a flow.
async fn hear(stream: &mut TcpStream, flow: &Flow, round: u64, rounds: u64) -> io::Result<()> {
    let mut share = vec![0; (flow.bytes / rounds) as usize];
    stream.read_exact(&mut share).await?;
    flow.check(round * share.len() as u64, &share)
}

/// The server's main: answers connections for ever, and fails with the first that fails, unless the scenario breaks some.
pub(super) async fn serve(address: SocketAddr, load: Load) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let accept = async {
        let mut all = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            let (load, tell) = (load.clone(), tell.clone());
            all.spawn(async move {
                if let Err(error) = answer(stream, &load).await
                    && !load.forgives(&error)
                {
                    let _ = tell.send(error);
                }
            });
        }
    };
    let fail = async { told.recv().await.map_or(Ok(()), Err) };
    match futures_util::future::select(std::pin::pin!(accept), std::pin::pin!(fail)).await {
        futures_util::future::Either::Left((ended, _)) => ended,
        futures_util::future::Either::Right((failed, _)) => failed,
    }
}
