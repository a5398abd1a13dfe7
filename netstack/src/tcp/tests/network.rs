//! Two layers over a network that loses, delays, reorders and duplicates, on virtual time and one seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use demi_drivers::transport::{ListenOptions, ListenerId, StreamId, StreamOptions};
use demi_drivers::{Instant, Pool};

use super::script::{ListOutput, cx};
use crate::tcp::{IpMeta, Tcp, TcpConfig};
use crate::wire::tcp::{HEADER_BYTES, Header, Options};

/// SplitMix64: small, and the same everywhere.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

/// What the network does to segments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    pub(super) loss_percent: u64,
    pub(super) duplicate_percent: u64,
    pub(super) delay_us: u64,
    /// Added to the delay at random: what comes later may arrive first.
    pub(super) jitter_us: u64,
}

pub(super) struct Host {
    pub(super) tcp: Tcp<()>,
    pub(super) out: ListOutput,
    pub(super) addr: SocketAddr,
}

pub(super) struct Network {
    pub(super) hosts: [Host; 2],
    pub(super) now: Instant,
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    /// By arrival, then by order of sending: the receiving host and the segment.
    wire: BinaryHeap<Reverse<(Instant, u64, usize, Vec<u8>)>>,
    sent: u64,
    pub(super) trace: bool,
}

/// Prints a segment, for whoever looks into a failing seed.
fn trace(now: Instant, from: usize, bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    let header_bytes = usize::from(header.header_bytes);
    let options = Options::parse(&bytes[HEADER_BYTES..header_bytes]);
    let (len, sack) = (bytes.len() - header_bytes, options.sack);
    eprintln!("{now:?} host {from} len {len} {header:?} {:?}", sack.as_slice());
}

impl Network {
    pub(super) fn new(seed: u64, v6: bool, config: &TcpConfig, faults: Faults) -> Self {
        let mut rng = Rng(seed);
        let now = Instant::from_nanos(rng.below(1 << 50));
        let addrs = if v6 { ["[fd00::1]:80", "[fd00::2]:80"] } else { ["10.0.0.1:80", "10.0.0.2:80"] };
        let hosts = addrs.map(|addr| {
            let addr: SocketAddr = addr.parse().unwrap();
            let mut secret = [0; 16];
            secret.fill_with(|| rng.next() as u8);
            Host { tcp: Tcp::new(config.clone(), secret, now), out: ListOutput::new(vec![addr.ip()]), addr }
        });
        Network {
            hosts,
            now,
            rng,
            faults,
            wire: BinaryHeap::new(),
            sent: 0,
            trace: std::env::var_os("DEMI_TRACE").is_some(),
        }
    }

    /// Puts what both hosts have sent on the wire.
    pub(super) fn carry(&mut self) {
        for from in 0..2 {
            self.hosts[from].tcp.flush(self.now, &mut self.hosts[from].out);
            for (_, bytes) in core::mem::take(&mut self.hosts[from].out.sent) {
                let copies = 1 + u64::from(self.rng.below(100) < self.faults.duplicate_percent);
                for _ in 0..copies {
                    if self.trace {
                        trace(self.now, from, &bytes);
                    }
                    if self.rng.below(100) < self.faults.loss_percent {
                        continue;
                    }
                    let delay = self.faults.delay_us + self.rng.below(self.faults.jitter_us + 1);
                    let at = self.now + Duration::from_micros(delay);
                    self.sent += 1;
                    self.wire.push(Reverse((at, self.sent, 1 - from, bytes.clone())));
                }
            }
        }
    }

    /// One event: time moves to the next arrival or deadline, and both hosts do what is due. Answers whether there was one
    /// before `limit`.
    pub(super) fn step(&mut self, limit: Instant) -> bool {
        self.carry();
        let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
        let deadline = self.hosts.iter().filter_map(|host| host.tcp.deadline()).min();
        let Some(next) = arrival.into_iter().chain(deadline).min().filter(|&next| next <= limit) else {
            return false;
        };
        self.now = self.now.max(next);
        for host in &mut self.hosts {
            host.tcp.poll_timers(self.now, &mut host.out);
        }
        while let Some(Reverse((at, ..))) = self.wire.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, to, bytes))) = self.wire.pop() else { break };
            let src = self.hosts[1 - to].addr.ip();
            let host = &mut self.hosts[to];
            let meta = IpMeta { src, dst: host.addr.ip(), tos: 0, ttl: 64 };
            // A pool that is exhausted drops, as a device does.
            if let Some(buf) = host.out.pool.copy_from_slice(&bytes) {
                host.tcp.on_segment(self.now, &mut host.out, &meta, buf);
            }
        }
        true
    }

    pub(super) fn pool(&self, host: usize) -> &Pool {
        &self.hosts[host].out.pool
    }

    pub(super) fn listen(&mut self, host: usize) -> ListenerId {
        let host = &mut self.hosts[host];
        host.tcp.listen(&host.out, host.addr, &ListenOptions::default()).unwrap()
    }

    pub(super) fn connect(&mut self, from: usize, options: &StreamOptions) -> StreamId {
        let remote = self.hosts[1 - from].addr;
        let host = &mut self.hosts[from];
        host.tcp.connect(self.now, &mut host.out, remote, None, options).unwrap()
    }

    /// Runs until `ready` answers something; panics when nothing happens any more, or after a virtual hour.
    pub(super) fn until<R>(&mut self, what: &str, mut ready: impl FnMut(&mut Network) -> Option<R>) -> R {
        let limit = self.now + Duration::from_secs(3600);
        let mut quiet = 0;
        loop {
            if let Some(result) = ready(self) {
                return result;
            }
            if self.step(limit) {
                quiet = 0;
            } else {
                // The applications may have looked away: their next turn comes soon.
                quiet += 1;
                self.now += Duration::from_millis(1);
                assert!(quiet < 1000, "{what}: nothing happens any more");
            }
        }
    }

    /// A connection from host 0 to host 1, accepted.
    pub(super) fn pair(&mut self, options: &StreamOptions) -> (StreamId, StreamId) {
        let listener = self.listen(1);
        let client = self.connect(0, options);
        let server = self.until("accept", |net| match net.hosts[1].tcp.poll_accept(&mut cx(), listener) {
            Poll::Ready(accepted) => Some(accepted.unwrap().0),
            Poll::Pending => None,
        });
        self.until("connect", |net| match net.hosts[0].tcp.poll_connect(&mut cx(), client) {
            Poll::Ready(result) => {
                result.unwrap();
                Some(())
            }
            Poll::Pending => None,
        });
        (client, server)
    }

    /// Writes what fits of `bytes`, by copying or by pushing; answers how much.
    pub(super) fn send(&mut self, host: usize, stream: StreamId, bytes: &[u8], push: bool) -> usize {
        let host = &mut self.hosts[host];
        if push {
            let len = bytes.len().min(host.out.pool.small_capacity());
            let Some(buf) = host.out.pool.copy_from_slice(&bytes[..len]) else { return 0 };
            let mut buf = Some(buf);
            return match host.tcp.poll_push(&mut cx(), &host.out, stream, &mut buf) {
                Poll::Ready(result) => {
                    result.unwrap();
                    assert!(buf.is_none());
                    len
                }
                Poll::Pending => 0,
            };
        }
        match host.tcp.poll_write(&mut cx(), &host.out, stream, &[io::IoSlice::new(bytes)]) {
            Poll::Ready(result) => result.unwrap(),
            Poll::Pending => 0,
        }
    }

    /// Reads what is there, at most `max` bytes; answers whether the end has come.
    pub(super) fn receive(&mut self, host: usize, stream: StreamId, max: usize, into: &mut Vec<u8>) -> bool {
        let mut left = max;
        while left > 0 {
            match self.hosts[host].tcp.poll_pop(&mut cx(), stream, left) {
                Poll::Ready(Ok(Some(buf))) => {
                    left -= buf.len();
                    into.extend_from_slice(&buf);
                }
                Poll::Ready(Ok(None)) => return true,
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => break,
            }
        }
        false
    }
}
