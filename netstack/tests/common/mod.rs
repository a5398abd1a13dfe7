//! Hosts for tests: stacks on the ends of a wire, a clock that the test owns, and a hand on the wire itself.

#![allow(dead_code)] // Each test file uses its part.

use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::device::RxChecksum;
use demi_drivers::transport::{DatagramId, DatagramOptions, Transport};
use demi_drivers::wire::{Wire, WireConfig, WireEnd};
use demi_drivers::{Buf, Device, Instant, Offload, RxFrame, TxQueue};
use demi_netstack::{Stack, StackConfig};

/// Ethernet address of the end with this number.
pub(crate) fn mac(end: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, end as u8 + 1]
}

/// The configuration of host `number`: 10.0.0.`number`/24 and fd00::`number`/64.
pub(crate) fn config(number: u8) -> StackConfig {
    StackConfig {
        addresses: vec![
            format!("10.0.0.{number}/24").parse().unwrap(),
            format!("fd00::{number:x}/64").parse().unwrap(),
        ],
        secret: [number; 16],
        ..StackConfig::default()
    }
}

/// Polls once without a task behind it.
pub(crate) fn once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Two hosts, 10.0.0.1 and 10.0.0.2, on one wire.
pub(crate) struct Hosts {
    pub(crate) hosts: [Stack; 2],
    pub(crate) now: Instant,
}

impl Hosts {
    pub(crate) fn new(wire: WireConfig) -> Hosts {
        Hosts::with(wire, [config(1), config(2)])
    }

    pub(crate) fn with(wire: WireConfig, configs: [StackConfig; 2]) -> Hosts {
        let mut ends = Wire::new(1, wire).unwrap().into_iter();
        let hosts = configs.map(|config| Stack::new(Box::new(ends.next().unwrap()), config).unwrap());
        Hosts { hosts, now: Instant::ZERO }
    }

    /// One turn of both hosts; answers how much there was to do.
    pub(crate) fn turn(&mut self) -> usize {
        let mut events = 0;
        for host in &mut self.hosts {
            events += host.poll(self.now).unwrap();
            host.flush(self.now).unwrap();
        }
        events
    }

    /// Turns until both are quiet.
    pub(crate) fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < 10_000, "the hosts never become quiet");
            if self.turn() == 0 && self.turn() == 0 {
                return;
            }
        }
    }

    /// Lets `time` pass, stopping at each deadline on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) = self.hosts.iter().filter_map(|host| host.deadline()).min()
            && next <= end
        {
            assert!(next >= self.now, "a deadline in the past: {next:?}, now {:?}", self.now);
            self.now = next;
            self.settle();
        }
        self.now = end;
        self.settle();
    }
}

/// Opens a UDP socket.
pub(crate) fn bind(host: &mut Stack, local: &str) -> DatagramId {
    host.bind_datagram(local.parse().unwrap(), &DatagramOptions::default()).unwrap()
}

/// Sends a datagram; the error if that is refused, `WouldBlock` if it has to wait.
pub(crate) fn send(
    host: &mut Stack,
    from: DatagramId,
    bytes: &[u8],
    to: Option<&str>,
) -> std::io::Result<()> {
    let mut buf = Some(host.pool().copy_from_slice(bytes).expect("a slot"));
    let to = to.map(|to| to.parse().unwrap());
    let sent = once(|cx| host.poll_send_to(cx, from, &mut buf, to));
    assert_eq!(buf.is_none(), matches!(sent, Some(Ok(()))), "the buffer is taken exactly when it is sent");
    sent.unwrap_or_else(|| Err(std::io::ErrorKind::WouldBlock.into()))
}

/// Receives a datagram, if one waits.
pub(crate) fn recv(host: &mut Stack, socket: DatagramId) -> Option<std::io::Result<(Vec<u8>, SocketAddr)>> {
    let received = once(|cx| host.poll_recv_from(cx, socket))?;
    Some(received.map(|(buf, from)| (buf.to_vec(), from)))
}

/// One host, 10.0.0.1, and a bare hand on the other end of its wire.
pub(crate) struct Bench {
    pub(crate) host: Stack,
    pub(crate) now: Instant,
    hand: WireEnd,
    queue: TxQueue,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(config(1))
    }

    pub(crate) fn with(config: StackConfig) -> Bench {
        Bench::over(config, |end| Box::new(end))
    }

    /// As [`with`](Self::with), the host's end of the wire being wrapped.
    pub(crate) fn over(config: StackConfig, wrap: impl FnOnce(WireEnd) -> Box<dyn Device>) -> Bench {
        let mut ends = Wire::new(1, WireConfig::default()).unwrap().into_iter();
        let host = Stack::new(wrap(ends.next().unwrap()), config).unwrap();
        Bench { host, now: Instant::ZERO, hand: ends.next().unwrap(), queue: TxQueue::new(64) }
    }

    /// Puts a frame on the wire.
    pub(crate) fn inject(&mut self, frame: &[u8]) {
        let buf: Buf = self.hand.pool().copy_from_slice(frame).expect("a slot");
        self.queue.push(buf, Offload::default());
        self.hand.tx_burst(self.now, &mut self.queue).unwrap();
        assert!(self.queue.is_empty());
    }

    /// Lets the host see what is on the wire, and answers what it sent.
    pub(crate) fn answers(&mut self) -> Vec<Vec<u8>> {
        while self.host.poll(self.now).unwrap() > 0 {}
        self.host.flush(self.now).unwrap();
        let mut frames: Vec<RxFrame> = Vec::new();
        while self.hand.rx_burst(self.now, &mut frames, 64).unwrap() > 0 {}
        frames
            .into_iter()
            .map(|frame| {
                assert_ne!(frame.checksum, RxChecksum::Bad);
                frame.buf.to_vec()
            })
            .collect()
    }

    /// What the host sends in answer to `frame`.
    pub(crate) fn ask(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.inject(frame);
        self.answers()
    }

    /// Lets `time` pass.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}
