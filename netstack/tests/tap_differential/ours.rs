//! Our stack on a wire in memory, a millisecond a step.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::transport::{ListenOptions, ListenerId, StreamId, StreamOptions, Transport};
use demi_drivers::wire::{Wire, WireConfig, WireEnd};
use demi_drivers::{Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};
use demi_netstack::wire::checksum;
use demi_netstack::{Stack, StackConfig};

use crate::Host;
use crate::answer::Answer;
use crate::story::{Peer, Step, Story};

/// The host's address, and the peer's.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The peer's link address.
pub(crate) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) struct Ours {
    stack: Stack,
    hand: WireEnd,
    queue: TxQueue,
    now: Instant,
    peer: Peer,
    listener: Option<ListenerId>,
    stream: Option<StreamId>,
}

/// The frame of a segment from the peer to a host with that link address.
pub(crate) fn frame(mac: [u8; 6], mut segment: Vec<u8>) -> Vec<u8> {
    let sum = checksum::pseudo_v4(PEER, HOST, 6, segment.len() as u32).then(checksum::sum(&segment)).finish();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut header = vec![0x45, 0];
    header.extend((20 + segment.len() as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    header.extend(PEER.octets());
    header.extend(HOST.octets());
    let sum = checksum::sum(&header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&mac[..], &PEER_MAC, &[8, 0], &header, &segment].concat()
}

/// The segment in a frame to the peer, if it is one.
pub(crate) fn segment(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(14..)?;
    let is_tcp =
        frame[12..14] == [8, 0] && packet.len() >= 40 && packet[9] == 6 && packet[16..20] == PEER.octets();
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    packet.get(20..total).filter(|_| is_tcp)
}

fn once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl Ours {
    pub(crate) fn new(story: &Story) -> Ours {
        let wire = WireConfig { pool: PoolConfig::small(512), ..WireConfig::default() };
        let mut ends = Wire::new(1, wire).unwrap().into_iter();
        let config = StackConfig {
            addresses: vec![format!("{HOST}/24").parse().unwrap()],
            secret: [9; 16],
            ..StackConfig::default()
        };
        let mut stack = Stack::new(Box::new(ends.next().unwrap()), config).unwrap();
        let listener = stack.listen("0.0.0.0:80".parse().unwrap(), &ListenOptions::default()).unwrap();
        let mut ours = Ours {
            stack,
            hand: ends.next().unwrap(),
            queue: TxQueue::new(8),
            now: Instant::from_millis(1000),
            peer: Peer::new(story, 40_000),
            listener: Some(listener),
            stream: None,
        };
        let arp =
            [&[0, 1, 8, 0, 6, 4, 0, 1][..], &PEER_MAC, &PEER.octets(), &[0; 6], &HOST.octets()].concat();
        ours.send(&[&[0xff; 6][..], &PEER_MAC, &[8, 6], &arp].concat());
        ours.answers();
        ours
    }

    fn send(&mut self, frame: &[u8]) {
        self.queue.push(self.hand.pool().copy_from_slice(frame).unwrap(), Offload::default());
        self.hand.tx_burst(self.now, &mut self.queue).unwrap();
    }

    fn answers(&mut self) -> Vec<Answer> {
        loop {
            let events = self.stack.poll(self.now).unwrap();
            self.stack.flush(self.now).unwrap();
            if events == 0 {
                break;
            }
        }
        let mut frames: Vec<RxFrame> = Vec::new();
        while self.hand.rx_burst(self.now, &mut frames, 64).unwrap() > 0 {}
        frames.iter().filter_map(|frame| self.peer.hear(segment(&frame.buf)?)).collect()
    }
}

impl Host for Ours {
    fn hear(&mut self, step: &Step) -> Vec<Answer> {
        self.now += Duration::from_millis(2);
        match *step {
            Step::Segment(spoken) => {
                let bytes = self.peer.bytes(&spoken);
                self.send(&frame([2, 0, 0, 0, 0, 1], bytes));
            }
            Step::Accept => {
                if let (None, Some(listener)) = (self.stream, self.listener) {
                    self.stream = once(|cx| self.stack.poll_accept(cx, listener))
                        .and_then(Result::ok)
                        .map(|(stream, _)| stream);
                }
            }
            Step::Connect => {
                let remote = (IpAddr::V4(PEER), self.peer.ports.0).into();
                self.stream = self.stack.connect(remote, None, &StreamOptions::default()).ok();
            }
            Step::Read => {
                if let Some(stream) = self.stream {
                    while let Some(Ok(Some(_))) = once(|cx| self.stack.poll_pop(cx, stream, 65_536)) {}
                }
            }
            Step::Write(len) => {
                if let Some(stream) = self.stream {
                    let _ = once(|cx| self.stack.poll_write(cx, stream, &[IoSlice::new(&vec![b'y'; len])]));
                }
            }
            Step::Shutdown => {
                if let Some(stream) = self.stream {
                    let _ = self.stack.shutdown(stream, Shutdown::Write);
                }
            }
            Step::Close => match self.stream.take() {
                Some(stream) => self.stack.close(stream),
                None => {
                    if let Some(listener) = self.listener.take() {
                        self.stack.close_listener(listener);
                    }
                }
            },
        }
        self.answers()
    }
}
