//! Our stack on a wire in memory, a millisecond a step.

use std::io::IoSlice;
use std::net::Shutdown;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::transport::{ListenOptions, ListenerId, StreamId, StreamOptions, Transport};
use demi_drivers::wire::{Wire, WireConfig, WireEnd};
use demi_drivers::{Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};
use demi_netstack::{Stack, StackConfig};

use crate::Host;
use crate::answer::Answer;
use crate::family::Family;
use crate::story::{Peer, Step, Story};

pub(crate) struct Ours {
    family: Family,
    stack: Stack,
    hand: WireEnd,
    queue: TxQueue,
    now: Instant,
    peer: Peer,
    listener: Option<ListenerId>,
    stream: Option<StreamId>,
}

fn once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

impl Ours {
    pub(crate) fn new(family: Family, story: &Story) -> Ours {
        let wire = WireConfig { pool: PoolConfig::small(512), ..WireConfig::default() };
        let mut ends = Wire::new(1, wire).unwrap().into_iter();
        let config = StackConfig {
            addresses: vec![format!("{}/{}", family.host(), family.prefix_bits()).parse().unwrap()],
            secret: [9; 16],
            ..StackConfig::default()
        };
        let mut stack = Stack::new(Box::new(ends.next().unwrap()), config).unwrap();
        let listener = stack.listen((family.host(), 80).into(), &ListenOptions::default()).unwrap();
        let mut ours = Ours {
            family,
            stack,
            hand: ends.next().unwrap(),
            queue: TxQueue::new(8),
            now: Instant::from_millis(1000),
            peer: Peer::new(story, 40_000),
            listener: Some(listener),
            stream: None,
        };
        ours.send(&family.introduction());
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
        frames.iter().filter_map(|frame| self.peer.hear(self.family.segment(&frame.buf)?)).collect()
    }
}

impl Host for Ours {
    fn hear(&mut self, step: &Step) -> Vec<Answer> {
        self.now += Duration::from_millis(2);
        match *step {
            Step::Segment(spoken) => {
                let bytes = self.peer.bytes(&spoken);
                self.send(&self.family.frame([2, 0, 0, 0, 0, 1], bytes));
            }
            Step::Accept => {
                if let (None, Some(listener)) = (self.stream, self.listener) {
                    self.stream = once(|cx| self.stack.poll_accept(cx, listener))
                        .and_then(Result::ok)
                        .map(|(stream, _)| stream);
                }
            }
            Step::Connect => {
                let remote = (self.family.peer(), self.peer.ports.0).into();
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
