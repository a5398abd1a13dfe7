//! One connection of the load generator: what it has sent, what is still out, and whether each reply is its request.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A connection and its pipeline.
pub(crate) struct Connection {
    stream: TcpStream,
    payload_bytes: usize,
    depth: usize,
    /// As many requests as go out at once; the replies are compared with it.
    requests: Vec<u8>,
    /// When each request under way was due, oldest first.
    out: VecDeque<u64>,
    /// When requests were due that wait for room in the pipeline.
    waiting: VecDeque<u64>,
    /// Bytes of sent requests that the kernel has not taken yet.
    unsent: usize,
    /// Bytes of the oldest reply that have arrived.
    partial: usize,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, payload_bytes: usize, depth: usize) -> io::Result<Connection> {
        let stream = TcpStream::connect(address)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot connect to {address}: {error}")))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let request: Vec<u8> = (0..payload_bytes).map(|at| (at % 251) as u8).collect();
        Ok(Connection {
            stream,
            payload_bytes,
            depth,
            requests: request.repeat(depth),
            out: VecDeque::with_capacity(depth),
            waiting: VecDeque::new(),
            unsent: 0,
            partial: 0,
        })
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Requests sent and not answered.
    pub(crate) fn under_way(&self) -> usize {
        self.out.len()
    }

    /// Sends `count` requests that were due at `due`.
    pub(crate) fn send(&mut self, due: u64, count: usize) -> io::Result<()> {
        self.out.extend(std::iter::repeat_n(due, count));
        self.unsent += count * self.payload_bytes;
        self.write()
    }

    /// Keeps a request that was due at `due` until there is room.
    pub(crate) fn queue(&mut self, due: u64) {
        self.waiting.push_back(due);
    }

    /// Sends the requests that wait, as far as the pipeline has room.
    pub(crate) fn send_queued(&mut self) -> io::Result<()> {
        let room = self.depth - self.out.len();
        let count = room.min(self.waiting.len());
        if count == 0 {
            // What the kernel had no room for is tried again here, whenever a reply shows that it has moved.
            return if self.unsent > 0 { self.write() } else { Ok(()) };
        }
        self.out.extend(self.waiting.drain(..count));
        self.unsent += count * self.payload_bytes;
        self.write()
    }

    /// Gives up the requests that were never sent.
    pub(crate) fn forget_queued(&mut self) {
        self.waiting.clear();
    }

    fn write(&mut self) -> io::Result<()> {
        while self.unsent > 0 {
            // The pipeline holds at most `depth` requests, so what is unsent is a tail of `requests`.
            let from = self.requests.len() - self.unsent;
            match self.stream.write(&self.requests[from..]) {
                Ok(count) => self.unsent -= count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once; answers how many replies are complete now.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        let count = match self.stream.read(scratch) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection"));
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let mut rest = &scratch[..count];
        let mut complete = 0;
        while !rest.is_empty() {
            let take = rest.len().min(self.payload_bytes - self.partial);
            let expected = &self.requests[self.partial..self.partial + take];
            if &rest[..take] != expected || complete == self.out.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply differs from its request"));
            }
            rest = &rest[take..];
            self.partial += take;
            if self.partial == self.payload_bytes {
                self.partial = 0;
                complete += 1;
            }
        }
        if self.unsent > 0 {
            self.write()?;
        }
        Ok(complete)
    }

    /// When the oldest request under way was due; it counts as answered from now on.
    pub(crate) fn answered(&mut self) -> u64 {
        self.out.pop_front().unwrap_or(0)
    }
}
