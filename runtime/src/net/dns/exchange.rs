//! One question put to name servers, over UDP and over TCP, until one of them answers it.
//!
//! Each question to each server goes out with a number of its own from a socket of its own, whose port the transport draws.
//! Datagrams that are not the answer are passed over; when there are many of them, somebody is guessing, and the question
//! goes over TCP. So it does when the answer is cut off, or when the server does not keep the case of names.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use smallvec::SmallVec;

use super::plan::Plan;
use super::wire::{Kind, Query, Reply, Verdict};
use crate::net::{TcpStream, UdpSocket};
use crate::time::{Duration, Instant, timeout, timeout_at};

/// Datagrams that are passed over before the question goes over TCP instead.
const MAX_FOREIGN: u32 = 32;
/// When a question without an answer goes out again, within the time that a server has.
const RESEND: Duration = Duration::from_secs(1);

/// Why nobody has answered.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: io::ErrorKind,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(kind: io::ErrorKind, text: impl fmt::Display) -> Failure {
        Failure { kind, text: text.to_string() }
    }
}

/// Asks `plan`'s servers, beginning with the `first`th, and answers what the first one says that knows.
pub(super) async fn ask(
    plan: &Plan,
    first: usize,
    name: &str,
    kind: Kind,
    random: &dyn Fn() -> io::Result<u64>,
) -> Result<Reply, Failure> {
    let count = plan.servers.len();
    let mut failed: Option<Failure> = None;
    // Whoever has said that it cannot answer is not asked again.
    let mut refused: SmallVec<[bool; 8]> = SmallVec::from_elem(false, count);
    for _round in 0..plan.attempts {
        for turn in 0..count {
            let at = (first + turn) % count;
            let (Some(server), Some(refused)) = (plan.servers.get(at), refused.get_mut(at)) else { continue };
            if *refused {
                continue;
            }
            match one(plan, *server, name, kind, random).await {
                Ok(Reply::Failed(says)) => {
                    *refused = true;
                    let says = format!("name server {} {says}", server.ip());
                    failed.get_or_insert(Failure::new(io::ErrorKind::Other, says));
                }
                Ok(Reply::NotUnderstood) => {
                    *refused = true;
                    let says = format!("name server {} does not understand the question", server.ip());
                    failed.get_or_insert(Failure::new(io::ErrorKind::Other, says));
                }
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    let says = format!("name server {}: {error}", server.ip());
                    failed.get_or_insert(Failure::new(error.kind(), says));
                }
            }
        }
    }
    Err(failed.unwrap_or_else(|| {
        let cure = "no name server is known: set dns (DEMI_DNS), or a nameserver in /etc/resolv.conf";
        Failure::new(io::ErrorKind::Unsupported, cure)
    }))
}

/// Asks one server, with EDNS and, if it does not understand that, without.
async fn one(
    plan: &Plan,
    server: SocketAddr,
    name: &str,
    kind: Kind,
    random: &dyn Fn() -> io::Result<u64>,
) -> io::Result<Reply> {
    let mut last = Reply::NotUnderstood;
    for edns in [true, false] {
        let query = Query::new(name, kind, edns, random()?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name is too long"))?;
        let answered = match plan.use_tcp {
            true => None,
            false => over_udp(&query, server, plan.timeout).await?,
        };
        last = match answered {
            Some(reply) => reply,
            None => {
                timeout(plan.timeout, over_tcp(&query, server)).await.map_err(|_| silent(plan.timeout))??
            }
        };
        if last != Reply::NotUnderstood {
            break;
        }
    }
    Ok(last)
}

/// Asks in a datagram; `None`: ask over TCP.
async fn over_udp(query: &Query, server: SocketAddr, limit: Duration) -> io::Result<Option<Reply>> {
    let socket = UdpSocket::towards(server)?;
    let end = Instant::now() + limit;
    let mut resend = (limit > RESEND).then(|| Instant::now() + RESEND);
    let mut foreign = 0;
    socket.send(query.bytes()).await?;
    while foreign < MAX_FOREIGN {
        let received = match timeout_at(resend.unwrap_or(end), socket.pop_from()).await {
            Ok(received) => received?,
            Err(_) if resend.take().is_some() => {
                socket.send(query.bytes()).await?;
                continue;
            }
            Err(_) => return Err(silent(limit)),
        };
        // What came before the socket had its peer can be anybody's.
        let (bytes, from) = received;
        let verdict = if from == server { query.judge(&bytes) } else { Verdict::Foreign };
        match verdict {
            Verdict::Foreign => foreign += 1,
            Verdict::CaseLost | Verdict::Truncated => return Ok(None),
            Verdict::Reply(reply) => return Ok(Some(reply)),
        }
    }
    Ok(None)
}

/// Asks over a connection of its own (RFC 7766).
async fn over_tcp(query: &Query, server: SocketAddr) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_to(server).await?;
    let length = u16::try_from(query.bytes().len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(query.bytes());
    stream.write_all(&message).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).await?;
    Ok(match query.judge_any_case(&answer) {
        Verdict::Reply(reply) => reply,
        Verdict::Truncated => Reply::Failed("cuts its answer off over TCP, too".into()),
        Verdict::CaseLost | Verdict::Foreign => Reply::Failed("answers another question".into()),
    })
}

#[cold]
fn silent(limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"))
}
