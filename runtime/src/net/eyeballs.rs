//! Connecting to a name that has several addresses (RFC 8305, "Happy Eyeballs"): the IP versions take turns, an attempt that
//! has not succeeded after a moment gets company, and the first connection that stands wins.
//!
//! Never asks for addresses: `dns` has them, those that come late included. The attempts that lose are closed.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::addr::Addresses;
use super::{TcpStream, dns};
use crate::time::{Instant, sleep};

/// How long an attempt is alone before the next one begins (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>>>>;

/// Connects to the first address of `host` that answers.
pub(super) async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let found = dns::resolve_soon(host, port).await?;
    let mut waiting = alternating(&found.addresses);
    let mut late = found.is_partial().then(|| Box::pin(found.rest()));
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut next_at = pin!(sleep(Duration::ZERO));
    let mut failed: Option<io::Error> = None;
    let mut tried = 0;
    let won = poll_fn(|cx| {
        // Whether the next attempt need not wait for its time.
        let mut at_once = false;
        loop {
            if let Some(Poll::Ready(more)) = late.as_mut().map(|late| late.as_mut().poll(cx)) {
                late = None;
                merge(&mut waiting, &more, tried > 0);
            }
            let mut at = 0;
            while let Some(attempt) = attempts.get_mut(at) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(Ok(stream)) => return Poll::Ready(Some(stream)),
                    Poll::Ready(Err(error)) => {
                        drop(attempts.swap_remove(at));
                        failed = Some(error);
                        at_once = true;
                    }
                    Poll::Pending => at += 1,
                }
            }
            if attempts.is_empty() && waiting.is_empty() && late.is_none() {
                return Poll::Ready(None);
            }
            let due = at_once || attempts.is_empty() || next_at.as_mut().poll(cx).is_ready();
            let Some(remote) = (if due { waiting.pop_front() } else { None }) else { return Poll::Pending };
            attempts.push(Box::pin(TcpStream::connect_to(remote)));
            tried += 1;
            at_once = false;
            next_at.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
        }
    })
    .await;
    won.ok_or_else(|| {
        let error = failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        if tried <= 1 {
            return super::with_context(error, format_args!("cannot connect to {host}:{port}"));
        }
        let text = format!(
            "cannot connect to {host}:{port}: none of {tried} addresses answers; the last one: {error}"
        );
        io::Error::new(error.kind(), text)
    })
}

/// `addresses`, beginning with the first one, the IP versions taking turns (RFC 8305 §4).
fn alternating(addresses: &Addresses) -> VecDeque<SocketAddr> {
    let v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let of = |v6: bool| addresses.iter().copied().filter(move |address| address.is_ipv6() == v6);
    take_turns(of(v6_first), of(!v6_first))
}

/// Lets `more`, which are of one version, take turns with those that wait: they come first once an attempt `began` with the
/// others.
fn merge(waiting: &mut VecDeque<SocketAddr>, more: &Addresses, began: bool) {
    let (old, new) = (waiting.iter().copied(), more.iter().copied());
    *waiting = if began { take_turns(new, old) } else { take_turns(old, new) };
}

fn take_turns(
    mut one: impl Iterator<Item = SocketAddr>,
    mut other: impl Iterator<Item = SocketAddr>,
) -> VecDeque<SocketAddr> {
    let mut all = VecDeque::new();
    loop {
        let pair = (one.next(), other.next());
        if pair == (None, None) {
            return all;
        }
        all.extend(pair.0);
        all.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Addresses {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn versions_take_turns_and_late_ones_come_next() {
        let mut waiting = alternating(&list(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1"]));
        let expected = list(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]);
        assert_eq!(waiting.iter().copied().collect::<Addresses>(), expected);
        waiting = alternating(&list(&["10.0.0.1:1", "10.0.0.2:1"]));
        merge(&mut waiting, &list(&["[::1]:1"]), true);
        let expected = list(&["[::1]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        assert_eq!(waiting.iter().copied().collect::<Addresses>(), expected);
        waiting = alternating(&list(&["[::1]:1", "[::2]:1"]));
        merge(&mut waiting, &list(&["10.0.0.1:1"]), false);
        let expected = list(&["[::1]:1", "10.0.0.1:1", "[::2]:1"]);
        assert_eq!(waiting.iter().copied().collect::<Addresses>(), expected, "none was tried yet");
    }
}
