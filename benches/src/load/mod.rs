//! The load generator: many connections to an echo server from one core, and how long each reply took.
//!
//! A closed loop keeps so many requests of each connection under way and sends the next when a reply is complete. An
//! open loop sends by the clock whatever the server does, and a request's latency runs from when it was *due*: a server
//! that stalls is charged with every request that had to wait, not with the one it stalled on (no coordinated omission).
//! Plain non-blocking sockets and epoll, so that the generator owes nothing to any runtime it measures.

mod connection;
pub mod epoll;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use connection::Connection;
use epoll::Epoll;

/// What to load a server with.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// The server.
    pub address: SocketAddr,
    /// Connections, opened one after the other before any time is taken.
    pub connections: usize,
    /// Bytes a request; the reply is the same bytes.
    pub payload_bytes: usize,
    /// Requests under way at once on a connection.
    pub depth: usize,
    /// Requests a second over all connections, sent by the clock; `None`: a closed loop.
    pub rate: Option<f64>,
    /// Poll without blocking while replies are waited for.
    pub spin: bool,
}

impl Default for LoadConfig {
    fn default() -> Self {
        LoadConfig {
            address: SocketAddr::from(([127, 0, 0, 1], 7000)),
            connections: 1,
            payload_bytes: 64,
            depth: 1,
            rate: None,
            spin: false,
        }
    }
}

/// What a measured time of load came to.
#[derive(Clone, Debug)]
pub struct LoadResult {
    /// Replies that were complete within the time.
    pub replies: u64,
    /// The time.
    pub elapsed: Duration,
    /// Latency of each reply, in nanoseconds, to three digits.
    pub latency: Histogram<u64>,
}

impl LoadResult {
    /// Replies a second.
    pub fn rate(&self) -> f64 {
        self.replies as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency that `percent` of the replies did not exceed, in microseconds.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        self.latency.value_at_percentile(percent) as f64 / 1000.0
    }
}

/// Connections to a server, ready to be loaded again and again.
pub struct Load {
    config: LoadConfig,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// The time that every `u64` of nanoseconds below counts from.
    start: Instant,
    /// Who sends the next request of an open loop.
    turn: usize,
}

/// Latencies are told up to a minute; a longer one counts as that.
const LONGEST_NS: u64 = 60_000_000_000;
/// Bytes asked of the kernel at a time.
const READ_BYTES: usize = 64 * 1024;

impl Load {
    /// Opens the connections.
    ///
    /// # Errors
    /// The server refuses one, or descriptors run out.
    pub fn connect(config: LoadConfig) -> io::Result<Load> {
        if config.payload_bytes == 0 || config.depth == 0 || config.connections == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "connections, payload and depth must each be at least 1",
            ));
        }
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(config.connections);
        for index in 0..config.connections {
            let connection = Connection::open(config.address, config.payload_bytes, config.depth)?;
            epoll.add(connection.stream(), index as u64)?;
            connections.push(connection);
        }
        Ok(Load { config, epoll, connections, start: Instant::now(), turn: 0 })
    }

    /// From the next measurement on, sends so many requests a second by the clock; `None`: as a closed loop.
    pub fn set_rate(&mut self, rate: Option<f64>) {
        self.config.rate = rate;
    }

    /// Loads the server for `time` and answers what came of it. Before it returns, every request under way has had its
    /// reply, so that the next measurement starts from silence; those last replies are not counted.
    ///
    /// # Errors
    /// A connection broke, a reply differs from its request, or replies stay away for five seconds.
    pub fn run(&mut self, time: Duration) -> io::Result<LoadResult> {
        let mut latency = Histogram::new_with_max(LONGEST_NS, 3).map_err(io::Error::other)?;
        let mut scratch = vec![0u8; READ_BYTES];
        let begin = self.now();
        let end = begin + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let gap = self.config.rate.map(|rate| (1e9 / rate.max(1e-6)) as u64);
        let mut due = begin;
        if gap.is_none() {
            for connection in &mut self.connections {
                connection.send(begin, self.config.depth)?;
            }
        }
        let mut replies = 0;
        let mut now = begin;
        let mut heard = begin;
        while now < end {
            if let Some(gap) = gap {
                self.send_due(&mut due, gap, now)?;
            }
            // An open loop's next request is microseconds away: no sleep is that short.
            let block = gap.is_none() && !self.config.spin;
            let got = self.receive(block, &mut scratch, Some(&mut latency), gap.is_none())?;
            now = self.now();
            if got > 0 {
                heard = now;
                replies += got;
            }
            self.check_alive(heard, now)?;
        }
        let elapsed = Duration::from_nanos(now - begin);
        self.drain(&mut scratch)?;
        Ok(LoadResult { replies, elapsed, latency })
    }

    /// Sends every request that is due by `now`, each connection in its turn. One whose pipeline is full keeps it, and
    /// its due time, until there is room.
    fn send_due(&mut self, due: &mut u64, gap: u64, now: u64) -> io::Result<()> {
        while *due <= now {
            let connection = &mut self.connections[self.turn];
            self.turn = (self.turn + 1) % self.config.connections;
            connection.queue(*due);
            connection.send_queued()?;
            *due += gap.max(1);
        }
        Ok(())
    }

    /// Takes what has arrived; answers how many replies that completed.
    fn receive(
        &mut self,
        block: bool,
        scratch: &mut [u8],
        mut latency: Option<&mut Histogram<u64>>,
        again: bool,
    ) -> io::Result<u64> {
        let timeout = if block { Some(Duration::from_secs(1)) } else { Some(Duration::ZERO) };
        let count = self.epoll.wait(timeout)?;
        let mut replies = 0;
        for event in 0..count {
            let index = self.epoll.token(event) as usize;
            let connection = &mut self.connections[index];
            let complete = connection.receive(scratch)?;
            if complete == 0 {
                continue;
            }
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            for _ in 0..complete {
                let sent = connection.answered();
                if let Some(latency) = latency.as_deref_mut() {
                    latency.saturating_record(now.saturating_sub(sent));
                }
            }
            replies += complete as u64;
            if again {
                connection.send(now, complete)?;
            } else {
                connection.send_queued()?;
            }
        }
        Ok(replies)
    }

    /// Waits for the replies that are still out.
    fn drain(&mut self, scratch: &mut [u8]) -> io::Result<()> {
        for connection in &mut self.connections {
            connection.forget_queued();
        }
        let mut heard = self.now();
        while self.connections.iter().any(|connection| connection.under_way() > 0) {
            if self.receive(true, scratch, None, false)? > 0 {
                heard = self.now();
            }
            self.check_alive(heard, self.now())?;
        }
        Ok(())
    }

    fn check_alive(&self, heard: u64, now: u64) -> io::Result<()> {
        let waiting = self.connections.iter().any(|connection| connection.under_way() > 0);
        if now - heard > 5_000_000_000 && waiting {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the server has not replied for five seconds",
            ));
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// An echo server on threads, which delays each reply by `delay`.
    fn server(delay: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        std::thread::sleep(delay);
                        if stream.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    #[test]
    fn a_closed_loop_gets_every_reply_and_can_run_again() {
        let address = server(Duration::ZERO);
        let config =
            LoadConfig { address, connections: 3, depth: 4, payload_bytes: 100, ..Default::default() };
        let mut load = Load::connect(config).unwrap();
        for _ in 0..2 {
            let result = load.run(Duration::from_millis(20)).unwrap();
            assert!(result.replies > 0);
            assert_eq!(result.latency.len(), result.replies);
            assert!(load.connections.iter().all(|connection| connection.under_way() == 0));
        }
    }

    #[test]
    fn an_open_loop_charges_a_slow_server_from_when_a_request_was_due() {
        // 2 ms a reply, a request each 0.2 ms, one at a time: the queue grows, and so must the latency.
        let address = server(Duration::from_millis(2));
        let config = LoadConfig { address, rate: Some(5_000.0), ..Default::default() };
        let mut load = Load::connect(config).unwrap();
        let result = load.run(Duration::from_millis(100)).unwrap();
        assert!(result.replies > 2);
        let longest = result.latency.max();
        assert!(longest > 20_000_000, "the last reply waited {longest} ns since it was due");
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(Load::connect(LoadConfig { address, ..Default::default() }).is_err());
    }
}
