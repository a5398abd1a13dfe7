//! The ground on which floods happen: a victim with a service, a friend with one connection to it, and a hand that sends what it
//! likes. A millisecond at a time, all on virtual time.

use std::cell::RefCell;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::transport::{ListenOptions, ListenerId, StreamId, StreamOptions, Transport};
use demi_drivers::wire::{LinkConfig, Wire, WireConfig, WireEnd};
use demi_drivers::{Device, Instant, Offload, PoolConfig, RxFrame, TxQueue};
use demi_netstack::tcp::TcpConfig;
use demi_netstack::{Stack, StackConfig};

use crate::allocator::counted;

/// Packet slots of the victim.
pub(crate) const SLOTS: usize = 4096;
/// Link addresses: the victim's, the hand's.
pub(crate) const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const HAND: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// The friend's service at the victim, which echoes.
pub(crate) const ECHO: u16 = 7;
/// How long the good connection is measured, with a flood and without, in milliseconds.
const MEASURED: u64 = 2000;
/// Bits a second between victim and friend, whose link loses nothing: what gets through is then this rate, with or without a flood, and
/// not what a congestion window happened to be.
const RATE: u64 = 40_000_000;

/// Polls once without a task behind it.
pub(crate) fn once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// What a flood may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ceilings {
    /// Packet slots of the victim that are out.
    pub(crate) slots: usize,
    /// Bytes from the allocator beyond those before the flood.
    pub(crate) bytes: i64,
    /// Calls of the allocator in the victim a junk packet.
    pub(crate) calls: f64,
    /// Frames that the victim sends to the hand a junk packet.
    pub(crate) answers: f64,
    /// Bytes of the good connection that must get through, of a hundred without the flood.
    pub(crate) percent: u64,
}

/// The victim's side of a connection that strangers make: what the application does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Accepts and leaves it.
    Idle,
    /// Accepts and closes at once.
    Closing,
    /// Accepts and writes a short answer.
    Answering,
    /// Accepts and writes all that the send buffer takes, again and again.
    Sending,
}

/// Victim, friend and hand.
pub(crate) struct Ground {
    pub(crate) victim: Stack,
    friend: Stack,
    hand: WireEnd,
    queue: TxQueue,
    pub(crate) now: Instant,
    echo: ListenerId,
    server: Option<StreamId>,
    client: StreamId,
    backlog: Vec<u8>,
    sent: u64,
    received: u64,
    strangers: Option<(ListenerId, Service)>,
    pub(crate) accepted: Vec<StreamId>,
    /// The friend's latest segment to the victim, and the victim's to the friend.
    pub(crate) latest: Rc<RefCell<[Vec<u8>; 2]>>,
    calls: u64,
    peak_slots: usize,
    peak_bytes: i64,
    answers: u64,
}

fn byte_of(offset: u64) -> u8 {
    (offset ^ offset >> 8 ^ offset >> 16) as u8
}

/// Buffers that do not grow: what the good connection took would hide what the flood takes.
fn fixed_buffers() -> TcpConfig {
    let bytes = 512 << 10;
    TcpConfig {
        send_buffer_bytes: bytes,
        send_buffer_max_bytes: bytes,
        recv_buffer_bytes: bytes,
        moderate_recv_buffer: false,
        ..TcpConfig::default()
    }
}

/// The configuration of the victim: two addresses, and the hand as its router.
pub(crate) fn victim() -> StackConfig {
    let mut config = StackConfig {
        addresses: ["10.0.0.1/24", "fd00::1/64"].map(|cidr| cidr.parse().unwrap()).to_vec(),
        gateways: ["10.0.0.3", "fd00::3"].map(|gateway| gateway.parse().unwrap()).to_vec(),
        secret: [1; 16],
        ..StackConfig::default()
    };
    config.tcp = fixed_buffers();
    config.tcp.max_connections = 1024;
    config.tcp.max_time_wait = 256;
    config
}

/// What the good connection carries, and the victim's calls of the allocator, in the same time without a flood.
fn peace() -> (u64, u64) {
    static PEACE: OnceLock<(u64, u64)> = OnceLock::new();
    *PEACE.get_or_init(|| {
        let mut ground = Ground::new(victim());
        let (received, calls) = (ground.received, ground.calls);
        for _ in 0..MEASURED {
            ground.millisecond();
        }
        (ground.received - received, ground.calls - calls)
    })
}

impl Ground {
    pub(crate) fn new(config: StackConfig) -> Ground {
        let pools = [SLOTS, 4096, 8192].map(PoolConfig::small).to_vec();
        let wire = WireConfig { ends: 3, end_pools: pools, ring_frames: 8192, ..WireConfig::default() };
        let mut ends = Wire::new(1, wire).unwrap().into_iter();
        let (victim_end, friend_end, hand) =
            (ends.next().unwrap(), ends.next().unwrap(), ends.next().unwrap());
        let handle = hand.handle();
        let link =
            LinkConfig { delay: Duration::from_millis(1), rate_bits_per_s: RATE, ..LinkConfig::default() };
        handle.set_link(0, 1, link.clone());
        handle.set_link(1, 0, link);
        let latest = Rc::new(RefCell::new([Vec::new(), Vec::new()]));
        let seen = Rc::clone(&latest);
        handle.set_observer(move |event| {
            let slot = match (event.from, event.to) {
                (1, 0) => 0,
                (0, 1) => 1,
                _ => return,
            };
            if event.bytes.get(23) == Some(&6) {
                let kept: &mut Vec<u8> = &mut seen.borrow_mut()[slot];
                kept.clear();
                kept.extend_from_slice(event.bytes);
            }
        });
        let mut victim = Stack::new(Box::new(victim_end), config).unwrap();
        let friend = StackConfig {
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
            secret: [2; 16],
            tcp: fixed_buffers(),
            ..StackConfig::default()
        };
        let mut friend = Stack::new(Box::new(friend_end), friend).unwrap();
        let echo = victim.listen(format!("[::]:{ECHO}").parse().unwrap(), &ListenOptions::default()).unwrap();
        let client = friend
            .connect(format!("10.0.0.1:{ECHO}").parse().unwrap(), None, &StreamOptions::default())
            .unwrap();
        let mut ground = Ground {
            victim,
            friend,
            hand,
            queue: TxQueue::new(64),
            now: Instant::ZERO,
            echo,
            server: None,
            client,
            backlog: Vec::new(),
            sent: 0,
            received: 0,
            strangers: None,
            accepted: Vec::new(),
            latest,
            calls: 0,
            peak_slots: 0,
            peak_bytes: 0,
            answers: 0,
        };
        for address in [[10, 0, 0, 3], [10, 0, 0, 66]] {
            ground.inject(&crate::packets::arp(1, HAND, address, [10, 0, 0, 1]));
        }
        for address in ["fd00::3", "fd00::66"] {
            ground.inject(&crate::packets::solicit(HAND, address.parse().unwrap()));
        }
        for _ in 0..3000 {
            ground.millisecond();
        }
        assert!(ground.received > 0, "the friend's connection carries nothing");
        ground
    }

    /// Opens port 80 for strangers.
    pub(crate) fn serve(&mut self, service: Service, backlog: u32) {
        let mut options = ListenOptions::default();
        options.backlog = backlog;
        let listener = self.victim.listen("[::]:80".parse().unwrap(), &options).unwrap();
        self.strangers = Some((listener, service));
    }

    /// Puts a frame on the wire to the victim.
    pub(crate) fn inject(&mut self, frame: &[u8]) {
        let buf = self.hand.pool().copy_from_slice(frame).expect("a slot of the hand's");
        self.queue.push(buf, Offload::default());
        self.hand.tx_burst(self.now, &mut self.queue).unwrap();
        assert!(self.queue.is_empty(), "the victim's ring is full: send less at a time");
    }

    /// Lets the victim work, counting what that takes; answers what it sent to the hand.
    pub(crate) fn work(&mut self) -> Vec<Vec<u8>> {
        let before = counted();
        loop {
            let events = self.victim.poll(self.now).unwrap();
            self.victim.flush(self.now).unwrap();
            if events == 0 {
                break;
            }
        }
        let after = counted();
        self.calls += after.0 - before.0;
        self.peak_bytes = self.peak_bytes.max(after.1);
        self.peak_slots = self.peak_slots.max(self.victim.pool().stats().slots_out);
        let mut frames: Vec<RxFrame> = Vec::new();
        while self.hand.rx_burst(self.now, &mut frames, 256).unwrap() > 0 {}
        self.answers += frames.len() as u64;
        frames.into_iter().map(|frame| frame.buf.to_vec()).collect()
    }

    /// A millisecond of everybody's life; answers what the victim sent to the hand.
    pub(crate) fn millisecond(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        for _ in 0..4 {
            self.now += Duration::from_micros(250);
            answers.extend(self.work());
            self.application();
            answers.extend(self.work());
            while self.friend.poll(self.now).unwrap() > 0 {}
            self.friend.flush(self.now).unwrap();
        }
        answers
    }

    fn application(&mut self) {
        self.echo();
        self.client();
        let Some((listener, service)) = self.strangers else { return };
        while let Some(Ok((stream, _))) = once(|cx| self.victim.poll_accept(cx, listener)) {
            match service {
                Service::Closing => self.victim.close(stream),
                Service::Answering => {
                    let _ = once(|cx| self.victim.poll_write(cx, stream, &[IoSlice::new(&[7; 1000])]));
                    self.accepted.push(stream);
                }
                Service::Idle | Service::Sending => self.accepted.push(stream),
            }
        }
        if service == Service::Sending {
            let chunk = [7; 1000];
            let victim = &mut self.victim;
            self.accepted.retain(|stream| {
                match once(|cx| victim.poll_write(cx, *stream, &[IoSlice::new(&chunk)])) {
                    Some(Err(_)) => {
                        victim.close(*stream);
                        false
                    }
                    _ => true,
                }
            });
        }
    }

    fn echo(&mut self) {
        if self.server.is_none() {
            self.server =
                once(|cx| self.victim.poll_accept(cx, self.echo)).map(|accepted| accepted.unwrap().0);
        }
        let Some(server) = self.server else { return };
        while self.backlog.len() < 65_536 {
            match once(|cx| self.victim.poll_pop(cx, server, 65_536)) {
                Some(popped) => match popped.expect("the friend's connection") {
                    Some(buf) => self.backlog.extend_from_slice(&buf),
                    None => panic!("the friend's connection has ended"),
                },
                None => break,
            }
        }
        if !self.backlog.is_empty()
            && let Some(count) = once(|cx| self.victim.poll_write(cx, server, &[IoSlice::new(&self.backlog)]))
        {
            self.backlog.drain(..count.expect("the friend's connection"));
        }
    }

    fn client(&mut self) {
        if once(|cx| self.friend.poll_connect(cx, self.client)).is_none() {
            return;
        }
        let chunk: Vec<u8> = (0..8192).map(|at| byte_of(self.sent + at)).collect();
        if let Some(count) = once(|cx| self.friend.poll_write(cx, self.client, &[IoSlice::new(&chunk)])) {
            self.sent += count.expect("the good connection") as u64;
        }
        while let Some(popped) = once(|cx| self.friend.poll_pop(cx, self.client, 65_536)) {
            let buf = popped.expect("the good connection").expect("the good connection goes on");
            for byte in buf.iter() {
                assert_eq!(*byte, byte_of(self.received), "byte {} of the good connection", self.received);
                self.received += 1;
            }
        }
    }

    /// Two seconds of a call of `junk` each millisecond, held to `ceilings`. `junk` answers how many packets it sent, and is given what
    /// the victim sent to the hand meanwhile.
    pub(crate) fn flood(
        &mut self,
        ceilings: Ceilings,
        mut junk: impl FnMut(&mut Ground, u64, Vec<Vec<u8>>) -> u64,
    ) {
        let (good, usual_calls) = peace();
        let (_, held) = counted();
        (self.calls, self.peak_slots, self.peak_bytes, self.answers) = (0, 0, held, 0);
        let (before, mut packets, mut answers) = (self.received, 0, Vec::new());
        for number in 0..MEASURED {
            packets += junk(self, number, answers);
            answers = self.millisecond();
        }
        let flooded = self.received - before;
        let calls = self.calls.saturating_sub(usual_calls) as f64 / packets as f64;
        let answers = self.answers as f64 / packets as f64;
        let bytes = self.peak_bytes - held;
        println!(
            "{packets} junk packets: {} slots, {bytes} bytes, {calls:.3} calls and {answers:.3} answers a packet, \
             {flooded} good bytes beside {good}",
            self.peak_slots
        );
        assert!(packets >= 2000, "{packets} packets are no flood");
        assert!(self.peak_slots <= ceilings.slots, "{} slots", self.peak_slots);
        assert!(bytes <= ceilings.bytes, "{bytes} bytes");
        assert!(calls <= ceilings.calls, "{calls} calls a packet");
        assert!(answers <= ceilings.answers, "{answers} answers a packet");
        assert!(
            flooded * 100 >= good * ceilings.percent,
            "{flooded} good bytes in the flood, {good} without"
        );
    }
}
