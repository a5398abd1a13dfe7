//! Two transports at the ends of a cable, and one loop for both.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::rdma::{Rdma, RdmaConfig};
use demi_drivers::transport::{ListenOptions, ListenerId, ReadCursor, StreamId, StreamOptions};
use demi_drivers::{Buf, Instant, PoolConfig, Transport};

/// A wait that takes this long will never end.
const FOREVER: Duration = Duration::from_secs(60);

/// Whether this is a guest with `rxe0` and `rxe1` at the ends of a cable; says `SKIP` if not.
pub(crate) fn machine_has_rdma() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with RDMA: cargo xtask test --tier rdma");
    }
    ours
}

/// Which version of IP addresses are written in.
#[derive(Clone, Copy)]
pub(crate) enum Ip {
    V4,
    V6,
}

impl Ip {
    /// The address of one end's device.
    pub(crate) fn of(self, end: usize) -> IpAddr {
        let text = match (self, end) {
            (Ip::V4, 0) => "10.77.0.1",
            (Ip::V4, _) => "10.77.0.2",
            (Ip::V6, 0) => "fd77::1",
            (Ip::V6, _) => "fd77::2",
        };
        text.parse().unwrap()
    }

    pub(crate) fn any(self) -> SocketAddr {
        match self {
            Ip::V4 => "0.0.0.0:0".parse().unwrap(),
            Ip::V6 => "[::]:0".parse().unwrap(),
        }
    }
}

/// The two ends.
pub(crate) struct Cable {
    pub(crate) ends: [Rdma; 2],
    start: std::time::Instant,
}

impl Cable {
    pub(crate) fn new() -> Cable {
        Cable::with(|_| {})
    }

    /// As [`new`](Self::new), with both ends' configuration changed.
    pub(crate) fn with(change: impl Fn(&mut RdmaConfig)) -> Cable {
        let open = |device: &str| {
            let mut config = RdmaConfig::new(device);
            config.pool =
                PoolConfig { slots: 1024, large_slots: 32, huge_pages: false, ..PoolConfig::default() };
            change(&mut config);
            Rdma::open(&config).unwrap()
        };
        Cable { ends: [open("rxe0"), open("rxe1")], start: std::time::Instant::now() }
    }

    /// Clocks begin anywhere: this one, at an hour.
    pub(crate) fn now(&self) -> Instant {
        Instant::from_nanos(self.start.elapsed().as_nanos() as u64 + 3_600_000_000_000)
    }

    /// One turn of both loops.
    pub(crate) fn turn(&mut self) -> usize {
        let mut events = 0;
        for end in 0..2 {
            let now = self.now();
            self.ends[end].flush(now).unwrap();
            events += self.ends[end].poll(now).unwrap();
        }
        if events == 0 {
            // The kernel's adapters work on this processor, too.
            std::thread::sleep(Duration::from_micros(200));
        }
        events
    }

    /// Turns until `wait` is over.
    #[track_caller]
    pub(crate) fn wait<T>(&mut self, mut wait: impl FnMut(&mut [Rdma; 2], &mut Context<'_>) -> Poll<T>) -> T {
        let begun = std::time::Instant::now();
        loop {
            if let Poll::Ready(value) = wait(&mut self.ends, &mut Context::from_waker(Waker::noop())) {
                return value;
            }
            self.turn();
            assert!(
                begun.elapsed() < FOREVER,
                "waited in vain: {:?}",
                self.ends.each_ref().map(|end| end.sockets())
            );
        }
    }

    pub(crate) fn listen(&mut self, ip: Ip, end: usize) -> (ListenerId, SocketAddr) {
        let address = SocketAddr::new(ip.of(end), 0);
        let listener = self.ends[end].listen(address, &ListenOptions::default()).unwrap();
        let address = self.ends[end].listener_addr(listener).unwrap();
        (listener, address)
    }

    /// A connection from the first end to a listener of the second.
    #[track_caller]
    pub(crate) fn connect(&mut self, listener: ListenerId, address: SocketAddr) -> (StreamId, StreamId) {
        let one = self.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
        self.wait(|ends, cx| ends[0].poll_connect(cx, one)).unwrap();
        let (other, from) = self.wait(|ends, cx| ends[1].poll_accept(cx, listener)).unwrap();
        assert_eq!(self.ends[1].peer_addr(other).unwrap(), from);
        assert_eq!(self.ends[0].local_addr(one).unwrap(), from);
        assert_eq!(self.ends[0].peer_addr(one).unwrap(), address);
        (one, other)
    }

    #[track_caller]
    pub(crate) fn connected(&mut self, ip: Ip) -> (StreamId, StreamId) {
        let (listener, address) = self.listen(ip, 1);
        let pair = self.connect(listener, address);
        self.ends[1].close_listener(listener);
        pair
    }

    #[track_caller]
    pub(crate) fn push(&mut self, end: usize, stream: StreamId, buf: Buf) {
        let mut buf = Some(buf);
        self.wait(|ends, cx| ends[end].poll_push(cx, stream, &mut buf)).unwrap();
    }

    #[track_caller]
    pub(crate) fn write_all(&mut self, end: usize, stream: StreamId, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count =
                self.wait(|ends, cx| ends[end].poll_write(cx, stream, &[io::IoSlice::new(bytes)])).unwrap();
            bytes = &bytes[count..];
        }
    }

    pub(crate) fn read(&mut self, end: usize, stream: StreamId, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let count = self.wait(|ends, cx| {
            let mut cursor = ReadCursor::new(&mut bytes);
            ends[end].poll_read(cx, stream, &mut cursor).map(|result| result.map(|()| cursor.filled()))
        })?;
        bytes.truncate(count);
        Ok(bytes)
    }

    #[track_caller]
    pub(crate) fn read_exact(&mut self, end: usize, stream: StreamId, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let more = self.read(end, stream, count - bytes.len()).unwrap();
            assert!(!more.is_empty(), "the stream ended after {} bytes", bytes.len());
            bytes.extend(more);
        }
        bytes
    }

    /// What one end has counted under `name`.
    pub(crate) fn count(&self, end: usize, name: &str) -> u64 {
        let counters = self.ends[end].counters();
        counters.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }

    /// Turns until neither end has anything of a connection left.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.wait(|ends, _| {
            let usage = ends.each_ref().map(|end| end.usage());
            if usage.iter().all(|usage| usage.streams == 0 && usage.in_flight == 0) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        });
    }
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|at| ((at as u32).wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// What the wire does to packets, for as long as this lives.
pub(crate) struct Faults;

impl Faults {
    pub(crate) fn new(faults: &str) -> Faults {
        for end in ["cable0", "cable1"] {
            tc(&format!("qdisc replace dev {end} root netem {faults}"));
        }
        Faults
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        for end in ["cable0", "cable1"] {
            tc(&format!("qdisc del dev {end} root"));
        }
    }
}

fn tc(line: &str) {
    let status = Command::new("tc").args(line.split(' ')).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "tc {line}: {status:?}");
}
