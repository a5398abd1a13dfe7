//! One stack between a fuzzer's hands: a device in memory, the clock, and the invariants that hold whatever arrives.
//!
//! After every step: what was sent is right to the last bit ([`frames::judge`]) and fits the MTU, no more was sent than a step may
//! cause, the memory that is out is within the pool, and the stack becomes quiet: its next deadline is later than now. When it is
//! dropped, nothing of the pool is kept.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::device::Capabilities;
use demi_drivers::{Device, Instant, Pool, PoolConfig, RxFrame, Transport, TxQueue};
use demi_netstack::{Limits, Stack, StackConfig};

use crate::frames;

/// Ethernet address of the stack.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Slots of the pool.
const SLOTS: usize = 512;
/// Turns in which a stack to which nothing comes has to become quiet.
const TURNS: usize = 400;
/// Frames that one step may make a stack send: a window's worth of a send buffer in the smallest segments is the most there is.
const FRAMES_A_STEP: usize = 20_000;
/// Deadlines that are visited when time passes.
const DEADLINES: usize = 50_000;

/// With `DEMI_FUZZ_TRACE` in the environment, every frame is shown: what one wants to see of an input that was found.
fn trace(now: Instant, direction: &str, frame: &[u8]) {
    thread_local! {
        static TRACES: bool = std::env::var_os("DEMI_FUZZ_TRACE").is_some();
    }
    if TRACES.with(|traces| *traces) {
        eprintln!("{now:?} {direction} {}", frames::describe(frame));
    }
}

/// What is on its way to a device, and what it has sent.
#[derive(Debug, Default)]
pub struct Queues {
    /// Frames on their way to the stack.
    pub rx: VecDeque<Vec<u8>>,
    /// Frames that the stack has sent.
    pub tx: VecDeque<Vec<u8>>,
}

/// The device.
#[derive(Debug)]
pub struct Memory {
    queues: Rc<RefCell<Queues>>,
    pool: Pool,
    capabilities: Capabilities,
}

impl Memory {
    /// A device with that address, and its other side.
    pub fn new(mac: [u8; 6], mtu: u16) -> (Memory, Rc<RefCell<Queues>>) {
        thread_local! {
            /// One for all runs: nothing of a run is left in it, which is checked.
            static POOLS: RefCell<Vec<Pool>> = const { RefCell::new(Vec::new()) };
        }
        let pool = POOLS.with(|pools| {
            let mut pools = pools.borrow_mut();
            let index = usize::from(mac[5]);
            while pools.len() <= index {
                pools.push(Pool::new(&PoolConfig::small(SLOTS)).expect("memory for a small pool"));
            }
            pools[index].clone()
        });
        assert_eq!(pool.stats().slots_out, 0, "an earlier run kept slots");
        let queues = Rc::new(RefCell::new(Queues::default()));
        let capabilities = Capabilities::new(mac, mtu);
        (Memory { queues: queues.clone(), pool, capabilities }, queues)
    }
}

impl Device for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        let mut queues = self.queues.borrow_mut();
        let before = into.len();
        while into.len() - before < max {
            let Some(frame) = queues.rx.pop_front() else { break };
            // As a NIC without a free slot: the frame is lost.
            trace(now, "<", &frame);
            if let Some(buf) = self.pool.copy_from_slice(&frame) {
                into.push(RxFrame::new(buf));
            }
        }
        Ok(into.len() - before)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut queues = self.queues.borrow_mut();
        Ok(queue.pop_while(|frame| {
            let mut bytes = vec![0; frame.len()];
            frame.copy_to(&mut bytes);
            trace(now, ">", &bytes);
            queues.tx.push_back(bytes);
            true
        }))
    }
}

/// Polls once without a task behind it.
pub fn once<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// The configuration that targets begin with: 10.0.0.1/24 and fd00::1/64, small tables.
pub fn config() -> StackConfig {
    let mut config = StackConfig {
        addresses: ["10.0.0.1/24", "fd00::1/64"].map(|cidr| cidr.parse().expect("an address")).to_vec(),
        gateways: ["10.0.0.254", "fd00::fe"].map(|gateway| gateway.parse().expect("an address")).to_vec(),
        secret: [7; 16],
        limits: Limits { neighbors: 32, neighbor_packets: 64, ..Limits::default() },
        ..StackConfig::default()
    };
    config.tcp.max_connections = 64;
    config.tcp.max_time_wait = 16;
    config
}

/// A stack, its device's other side, and the clock.
pub struct Host {
    /// The stack.
    pub stack: Stack,
    /// The time.
    pub now: Instant,
    /// Whoever the stack looks for on its link is at the peer's address. Without it, a peer is forgotten after some seconds.
    pub neighbours: bool,
    queues: Rc<RefCell<Queues>>,
    mtu: u16,
}

impl Host {
    /// A stack as `config` says, at time zero.
    pub fn new(config: StackConfig) -> Host {
        Host::with_mtu(config, 1500)
    }

    /// A stack over a device of that MTU.
    pub fn with_mtu(config: StackConfig, mtu: u16) -> Host {
        let (device, queues) = Memory::new(OUR_MAC, mtu);
        let stack = Stack::new(Box::new(device), config).expect("a configuration that works");
        Host { stack, now: Instant::ZERO, neighbours: false, queues, mtu }
    }

    /// Puts a frame on the wire.
    pub fn inject(&mut self, frame: Vec<u8>) {
        self.queues.borrow_mut().rx.push_back(frame);
    }

    /// Lets the stack work until it is quiet; answers what it sent.
    pub fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for turn in 0.. {
            let events = self.stack.poll(self.now).expect("the device is there");
            self.stack.flush(self.now).expect("the device is there");
            let mut queues = self.queues.borrow_mut();
            let before = sent.len();
            sent.extend(queues.tx.drain(..));
            if self.neighbours {
                let answers: Vec<Vec<u8>> =
                    sent[before..].iter().filter_map(|frame| frames::neighbour(frame)).collect();
                queues.rx.extend(answers);
            }
            let idle = queues.rx.is_empty() && events == 0 && sent.len() == before;
            if idle && self.stack.deadline().is_none_or(|deadline| deadline > self.now) {
                break;
            }
            assert!(
                turn < TURNS,
                "the stack never becomes quiet: deadline {:?}, now {:?}",
                self.stack.deadline(),
                self.now
            );
            assert!(sent.len() < FRAMES_A_STEP, "one step made it send {} frames", sent.len());
        }
        for frame in &sent {
            frames::judge(frame, OUR_MAC, self.mtu);
        }
        let stats = self.stack.pool().stats();
        assert!(stats.slots_out <= stats.slots);
        sent
    }

    /// Injects, and answers what that made the stack send.
    pub fn ask(&mut self, frame: Vec<u8>) -> Vec<Vec<u8>> {
        self.inject(frame);
        self.settle()
    }

    /// Lets time pass, stopping at the deadlines on the way; answers what was sent meanwhile.
    pub fn pass(&mut self, time: Duration) -> Vec<Vec<u8>> {
        let end = self.now + time;
        let mut sent = self.settle();
        for stop in 0.. {
            let Some(next) = self.stack.deadline().filter(|next| *next <= end) else { break };
            assert!(
                stop < DEADLINES,
                "{stop} deadlines within {time:?}: the last one is {next:?}, now {:?}",
                self.now
            );
            self.now = self.now.max(next);
            sent.extend(self.settle());
        }
        self.now = end;
        sent.extend(self.settle());
        sent
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let pool = self.stack.pool().clone();
        // A stack without its device has nothing left: put another one in its place and drop this one.
        let (device, _) = Memory::idle();
        let empty = Stack::new(Box::new(device), StackConfig::default()).expect("the default works");
        drop(std::mem::replace(&mut self.stack, empty));
        assert_eq!(pool.stats().slots_out, 0, "the stack kept slots");
    }
}

impl Memory {
    /// A device for a stack that is dropped at once.
    fn idle() -> (Memory, Rc<RefCell<Queues>>) {
        Memory::new([2, 0, 0, 0, 0, 0], 1500)
    }
}
