//! smoltcp on an end of the wire: an interface with its sockets, and a program of its own that exchanges flows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Poll, Waker};

use demi::sim::wire::WireEnd;
use demi::sim::{Machine, Rng, START};
use demi_drivers::device::{Device as _, Offload, RxFrame, TxQueue};
use demi_drivers::{Buf, Instant as Time};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::support::{pick, scaled};
use crate::traffic::Flow;

/// What smoltcp's sockets are like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    send_bytes: usize,
    recv_bytes: usize,
    nagle: bool,
    delayed_ack: bool,
    timestamps: bool,
    congestion: CongestionControl,
    seed: u64,
}

impl Options {
    pub(crate) fn any(rng: &mut Rng) -> Options {
        Options {
            send_bytes: scaled(rng, 1024, 1 << 18) as usize,
            recv_bytes: scaled(rng, 1024, 1 << 18) as usize,
            nagle: rng.chance(0.5),
            delayed_ack: rng.chance(0.8),
            timestamps: rng.chance(0.7),
            congestion: pick(
                rng,
                &[CongestionControl::None, CongestionControl::Reno, CongestionControl::Cubic],
            ),
            seed: rng.next_u64(),
        }
    }
}

/// What smoltcp's program is to do, and what has come of it.
#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<Inner>>);

struct Inner {
    /// What it sends and receives, a connection each.
    exchanges: VecDeque<(Flow, Flow)>,
    result: Option<io::Result<()>>,
    waker: Option<Waker>,
}

impl Shared {
    pub(crate) fn new(exchanges: VecDeque<(Flow, Flow)>) -> Shared {
        Shared(Rc::new(RefCell::new(Inner { exchanges, result: None, waker: None })))
    }

    /// Waits until the program has ended.
    pub(crate) async fn done(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            match inner.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    inner.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn end(&self, result: io::Result<()>) {
        let mut inner = self.0.borrow_mut();
        inner.result = Some(result);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }
}

/// A connection under way.
struct Connection {
    socket: SocketHandle,
    out: Flow,
    sent: u64,
    back: Flow,
    received: u64,
    closed: bool,
    /// Whether it was ever established.
    open: bool,
}

/// A host with smoltcp.
pub(crate) struct Peer {
    interface: Interface,
    device: End,
    sockets: SocketSet<'static>,
    /// Where it listens; else it connects.
    listens: Option<u16>,
    remote: SocketAddr,
    options: Options,
    shared: Shared,
    rng: Rng,
    current: Option<Connection>,
    /// Sockets whose connections are over, but for TIME-WAIT.
    old: Vec<SocketHandle>,
    deadline: Option<Time>,
}

thread_local! {
    /// What smoltcp's timestamps are taken from: it asks a function that is told nothing.
    static CLOCK_MS: Cell<u32> = const { Cell::new(0) };
}

impl Peer {
    pub(crate) fn new(
        end: WireEnd,
        address: IpAddr,
        listens: Option<u16>,
        remote: SocketAddr,
        options: Options,
        shared: Shared,
    ) -> Peer {
        let mac = HardwareAddress::Ethernet(EthernetAddress(end.capabilities().mac));
        let mut device = End { end, arrived: VecDeque::new(), now: START, sent: false };
        let mut config = Config::new(mac);
        config.random_seed = options.seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let bits = if address.is_ipv6() { 64 } else { 24 };
            // The list holds at least two; this is the first.
            let _ = addresses.push(IpCidr::new(address.into(), bits));
        });
        Peer {
            interface,
            device,
            sockets: SocketSet::new(Vec::new()),
            listens,
            remote,
            options,
            shared,
            rng: Rng::new(options.seed),
            current: None,
            old: Vec::new(),
            deadline: Some(START),
        }
    }

    /// Opens the next connection, if there is one to come.
    fn open(&mut self) -> io::Result<bool> {
        let Some((out, back)) = self.shared.0.borrow_mut().exchanges.pop_front() else { return Ok(false) };
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let Options { send_bytes, recv_bytes, nagle, delayed_ack, timestamps, congestion, .. } = self.options;
        let mut socket = Socket::new(buffer(recv_bytes), buffer(send_bytes));
        socket.set_nagle_enabled(nagle);
        socket.set_congestion_control(congestion);
        if !delayed_ack {
            socket.set_ack_delay(None);
        }
        if timestamps {
            socket.set_tsval_generator(Some(|| CLOCK_MS.get()));
        }
        match self.listens {
            Some(port) => socket.listen(port).map_err(|error| io::Error::other(error.to_string()))?,
            None => {
                let port = 49152 + self.rng.below(16384) as u16;
                let context = self.interface.context();
                let remote = (self.remote.ip(), self.remote.port());
                socket.connect(context, remote, port).map_err(|error| io::Error::other(error.to_string()))?;
            }
        }
        let socket = self.sockets.add(socket);
        self.current =
            Some(Connection { socket, out, sent: 0, back, received: 0, closed: false, open: false });
        Ok(true)
    }

    /// One step of the program; answers whether it did anything.
    fn step(&mut self) -> io::Result<bool> {
        let Some(connection) = &mut self.current else { return Ok(false) };
        let socket: &mut Socket = self.sockets.get_mut(connection.socket);
        let mut busy = false;
        let Connection { out, sent, back, received, closed, open, .. } = connection;
        *open |= socket.may_send() || socket.may_recv();
        while *sent < out.bytes && socket.can_send() {
            let mut part = vec![0; (out.bytes - *sent).min(1 + self.rng.below(5000)) as usize];
            out.fill(*sent, &mut part);
            *sent += socket.send_slice(&part).map_err(|error| io::Error::other(error.to_string()))? as u64;
            busy = true;
        }
        while socket.can_recv() {
            let mut part = vec![0; 1 + self.rng.below(5000) as usize];
            let count = socket.recv_slice(&mut part).map_err(|error| io::Error::other(error.to_string()))?;
            back.check(*received, &part[..count])?;
            *received += count as u64;
            busy = true;
        }
        if *open && *sent == out.bytes && !*closed {
            socket.close();
            *closed = true;
            busy = true;
        }
        let over = matches!(socket.state(), State::TimeWait | State::Closed) && *open;
        if over {
            if *received != back.bytes {
                let message = format!("smoltcp received {received} of {} bytes, sent {sent}", back.bytes);
                return Err(io::Error::other(message));
            }
            self.old.push(connection.socket);
            self.current = None;
            busy = true;
        }
        Ok(busy)
    }
}

impl Machine for Peer {
    fn poll(&mut self, now: Time) -> bool {
        let at = Instant::from_micros((now.as_nanos() - START.as_nanos()) as i64 / 1000);
        CLOCK_MS.set(at.total_millis() as u32);
        self.device.now = now;
        self.device.sent = false;
        let mut busy = false;
        if self.current.is_none() {
            match self.open() {
                Ok(opened) => busy |= opened,
                Err(error) => self.shared.end(Err(error)),
            }
        }
        busy |= self.device.take();
        self.interface.poll(at, &mut self.device, &mut self.sockets);
        let before = self.current.is_some();
        match self.step() {
            Ok(true) => {
                busy = true;
                self.interface.poll(at, &mut self.device, &mut self.sockets);
                if before && self.current.is_none() && self.shared.0.borrow().exchanges.is_empty() {
                    self.shared.end(Ok(()));
                }
            }
            Ok(false) => {}
            Err(error) => {
                self.current = None;
                self.shared.end(Err(error));
            }
        }
        let sockets = &mut self.sockets;
        self.old.retain(|socket| {
            let closed = sockets.get::<Socket>(*socket).state() == State::Closed;
            if closed {
                sockets.remove(*socket);
            }
            !closed
        });
        // What it says is due and is not done by now is not done by asking again at once.
        let due =
            self.interface.poll_at(at, &self.sockets).map(|due| due.max(at + Duration::from_micros(100)));
        let due = due.map(|due| Time::from_nanos(START.as_nanos() + due.total_micros() as u64 * 1000));
        self.deadline = due.into_iter().chain(self.device.end.deadline()).min();
        busy || self.device.sent
    }

    fn deadline(&self) -> Option<Time> {
        // A frame that was sent since the last poll has not been asked about then.
        self.deadline.into_iter().chain(self.device.end.deadline()).min()
    }
}

/// smoltcp's device over an end of the wire.
struct End {
    end: WireEnd,
    arrived: VecDeque<Buf>,
    now: Time,
    sent: bool,
}

impl End {
    /// Takes what has arrived; answers whether anything has.
    fn take(&mut self) -> bool {
        let mut frames: Vec<RxFrame> = Vec::new();
        // A wire in memory is never gone.
        let taken = self.end.rx_burst(self.now, &mut frames, 1024).unwrap_or(0);
        self.arrived.extend(frames.into_iter().map(|frame| frame.buf));
        taken > 0
    }
}

struct Rx(Buf);
struct Tx<'a>(&'a mut End);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut bytes = vec![0; length];
        let result = write(&mut bytes);
        let mut queue = TxQueue::new(1);
        if let Some(buf) = self.0.end.pool().copy_from_slice(&bytes) {
            queue.push(buf, Offload::default());
            // What has no room is lost, as on a wire.
            let _ = self.0.end.tx_burst(self.0.now, &mut queue);
        }
        self.0.sent = true;
        result
    }
}

impl Device for End {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Rx, Tx<'_>)> {
        let buf = self.arrived.pop_front()?;
        Some((Rx(buf), Tx(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        Some(Tx(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}
