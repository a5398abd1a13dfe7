//! smoltcp: two interfaces over rings of preallocated frames, polled in turn.
//!
//! Its `poll` visits every socket, so a case of many pairs costs by their number; callers cap it.

use std::cell::RefCell;
use std::rc::Rc;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Address};

use super::{BULK_BYTES, ECHO_BYTES, Echo, Protocol};
use crate::kit::Run;
use crate::kit::sample::timed;

/// Frames a direction of the wire holds.
const RING: usize = 256;
const FRAME: usize = 1514;

/// One direction of the wire.
struct Ring {
    frames: Vec<[u8; FRAME]>,
    lengths: [usize; RING],
    head: usize,
    tail: usize,
}

impl Ring {
    fn new() -> Rc<RefCell<Ring>> {
        Rc::new(RefCell::new(Ring { frames: vec![[0; FRAME]; RING], lengths: [0; RING], head: 0, tail: 0 }))
    }

    fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    fn is_full(&self) -> bool {
        self.tail - self.head == RING
    }
}

struct End {
    rx: Rc<RefCell<Ring>>,
    tx: Rc<RefCell<Ring>>,
    checksums: bool,
}

struct Rx<'a>(&'a RefCell<Ring>);
struct Tx<'a>(&'a RefCell<Ring>);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let mut ring = self.0.borrow_mut();
        let at = ring.head % RING;
        let result = read(&ring.frames[at][..ring.lengths[at]]);
        ring.head += 1;
        result
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut ring = self.0.borrow_mut();
        let at = ring.tail % RING;
        ring.lengths[at] = length;
        ring.tail += 1;
        write(&mut ring.frames[at][..length])
    }
}

impl Device for End {
    type RxToken<'a> = Rx<'a>;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        let ready = !self.rx.borrow().is_empty() && !self.tx.borrow().is_full();
        ready.then_some((Rx(&self.rx), Tx(&self.tx)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Tx<'_>> {
        (!self.tx.borrow().is_full()).then_some(Tx(&self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        if !self.checksums {
            capabilities.checksum = ChecksumCapabilities::ignored();
        }
        capabilities
    }
}

struct Host {
    interface: Interface,
    device: End,
    sockets: SocketSet<'static>,
}

impl Host {
    fn new(number: u8, rx: &Rc<RefCell<Ring>>, tx: &Rc<RefCell<Ring>>, checksums: bool) -> Host {
        let mut device = End { rx: rx.clone(), tx: tx.clone(), checksums };
        let address = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, number]));
        let mut interface = Interface::new(Config::new(address), &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list holds at least two; this is the first.
            let _ = addresses.push(IpCidr::new(ip(number), 24));
        });
        Host { interface, device, sockets: SocketSet::new(Vec::new()) }
    }

    #[inline]
    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.device, &mut self.sockets);
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    fn add_tcp(&mut self, buffer: usize) -> SocketHandle {
        let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(ring(), ring());
        socket.set_nagle_enabled(false);
        // It would choose one, now that it has any: nothing is lost here.
        socket.set_congestion_control(tcp::CongestionControl::None);
        self.sockets.add(socket)
    }

    fn add_udp(&mut self, port: u16) -> SocketHandle {
        let ring = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 2048]);
        let mut socket = udp::Socket::new(ring(), ring());
        socket.bind(port).expect("a port other than 0");
        self.sockets.add(socket)
    }

    fn connect(&mut self, handle: SocketHandle, local_port: u16) {
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (ip(2), PORT), local_port).expect("a closed socket");
    }
}

const PORT: u16 = 7000;

fn ip(host: u8) -> IpAddress {
    IpAddress::Ipv4(Ipv4Address::new(10, 0, 0, host))
}

struct Pair {
    client: Host,
    server: Host,
    now: Instant,
}

impl Pair {
    fn new(checksums: bool) -> Pair {
        let (there, back) = (Ring::new(), Ring::new());
        Pair {
            client: Host::new(1, &back, &there, checksums),
            server: Host::new(2, &there, &back, checksums),
            now: Instant::ZERO,
        }
    }

    /// Both hosts once.
    fn step(&mut self) {
        self.client.poll(self.now);
        self.server.poll(self.now);
    }

    /// A connection on each of so many pairs of sockets.
    fn connected(pairs: usize, buffer: usize, checksums: bool) -> (Pair, Vec<(SocketHandle, SocketHandle)>) {
        let mut hosts = Pair::new(checksums);
        let mut handles = Vec::with_capacity(pairs);
        for index in 0..pairs {
            let client = hosts.client.add_tcp(buffer);
            let server = hosts.server.add_tcp(buffer);
            hosts.server.tcp(server).listen(PORT).expect("a closed socket");
            let port = 1024 + u16::try_from(index).expect("fewer pairs than ports");
            hosts.client.connect(client, port);
            handles.push((client, server));
        }
        let mut steps = 0;
        while handles.iter().any(|&(client, _)| !hosts.client.tcp(client).may_send())
            || handles.iter().any(|&(_, server)| !hosts.server.tcp(server).may_send())
        {
            hosts.step();
            steps += 1;
            // Time passes only while something is waited for: the neighbour's answer, then a ring that was full.
            hosts.now += Duration::from_millis(1);
            assert!(steps < 100_000, "smoltcp's connections came up");
        }
        hosts.step();
        // Listeners take their clients in an order of their own: pair them up by port.
        let mut by_port: Vec<(u16, SocketHandle)> = handles
            .iter()
            .map(|&(_, server)| {
                (hosts.server.tcp(server).remote_endpoint().expect("it is connected").port, server)
            })
            .collect();
        by_port.sort_unstable_by_key(|&(port, _)| port);
        for ((_, server), (_, found)) in handles.iter_mut().zip(by_port) {
            *server = found;
        }
        (hosts, handles)
    }
}

/// A run of echoes.
pub fn echo(case: Echo) -> Run {
    match case.protocol {
        Protocol::Tcp => tcp_echo(case),
        Protocol::Udp => udp_echo(case),
    }
}

fn tcp_echo(case: Echo) -> Run {
    let (mut hosts, handles) = Pair::connected(case.pairs, 2048, case.checksums);
    let mut at = 0;
    Box::new(move |operations| {
        timed(|| {
            let mut buffer = [7u8; ECHO_BYTES];
            for _ in 0..operations {
                let (client, server) = handles[at];
                at = if at + 1 == handles.len() { 0 } else { at + 1 };
                hosts.now += Duration::from_micros(1);
                hosts.client.tcp(client).send_slice(&buffer).expect("an open stream");
                hosts.step();
                let count = hosts.server.tcp(server).recv_slice(&mut buffer).expect("an open stream");
                hosts.server.tcp(server).send_slice(&buffer[..count]).expect("an open stream");
                let now = hosts.now;
                hosts.server.poll(now);
                hosts.client.poll(now);
                let count = hosts.client.tcp(client).recv_slice(&mut buffer).expect("an open stream");
                assert_eq!(count, ECHO_BYTES);
            }
        })
    })
}

fn udp_echo(case: Echo) -> Run {
    let mut hosts = Pair::new(case.checksums);
    let handles: Vec<_> = (0..case.pairs)
        .map(|index| {
            let port = 1024 + u16::try_from(index).expect("fewer pairs than ports");
            (hosts.client.add_udp(port), hosts.server.add_udp(port), port)
        })
        .collect();
    // Both neighbours are known after the first exchange.
    for _ in 0..4 {
        let (client, server, port) = handles[0];
        hosts.client.udp(client).send_slice(&[1], (ip(2), port)).expect("a bound socket");
        hosts.server.udp(server).send_slice(&[1], (ip(1), port)).expect("a bound socket");
        hosts.now += Duration::from_secs(2);
        hosts.step();
        hosts.step();
    }
    let (client, server, _) = handles[0];
    while hosts.client.udp(client).recv().is_ok() || hosts.server.udp(server).recv().is_ok() {}
    let mut at = 0;
    Box::new(move |operations| {
        timed(|| {
            let mut buffer = [7u8; ECHO_BYTES];
            for _ in 0..operations {
                let (client, server, port) = handles[at];
                at = if at + 1 == handles.len() { 0 } else { at + 1 };
                hosts.client.udp(client).send_slice(&buffer, (ip(2), port)).expect("a bound socket");
                hosts.step();
                let (count, from) = hosts.server.udp(server).recv_slice(&mut buffer).expect("the request");
                hosts.server.udp(server).send_slice(&buffer[..count], from.endpoint).expect("a bound socket");
                let now = hosts.now;
                hosts.server.poll(now);
                hosts.client.poll(now);
                let (count, _) = hosts.client.udp(client).recv_slice(&mut buffer).expect("the reply");
                assert_eq!(count, ECHO_BYTES);
            }
        })
    })
}

/// A run of echoes of `bytes` over one connection, checksums on.
pub fn payload(bytes: usize) -> Run {
    let (mut hosts, handles) = Pair::connected(1, 256 * 1024, true);
    let (client, server) = handles[0];
    let request = vec![7u8; bytes];
    let mut buffer = vec![0u8; 64 * 1024];
    Box::new(move |operations| {
        timed(|| {
            for _ in 0..operations {
                let (mut sent, mut received) = (0, 0);
                while received < bytes {
                    hosts.now += Duration::from_micros(1);
                    if sent < bytes {
                        sent +=
                            hosts.client.tcp(client).send_slice(&request[sent..]).expect("an open stream");
                    }
                    hosts.step();
                    let socket = hosts.server.tcp(server);
                    let room = (socket.send_capacity() - socket.send_queue()).min(buffer.len());
                    let count = socket.recv_slice(&mut buffer[..room]).expect("an open stream");
                    socket.send_slice(&buffer[..count]).expect("an open stream");
                    let now = hosts.now;
                    hosts.server.poll(now);
                    hosts.client.poll(now);
                    received += hosts.client.tcp(client).recv_slice(&mut buffer).expect("an open stream");
                }
            }
        })
    })
}

/// A run of transfers of [`BULK_BYTES`] over one connection with an MSS of 1460 bytes.
pub fn bulk(checksums: bool) -> Run {
    let (mut hosts, handles) = Pair::connected(1, 256 * 1024, checksums);
    let (client, server) = handles[0];
    let chunk = vec![7u8; 64 * 1024];
    Box::new(move |operations| {
        timed(|| {
            let total = operations * BULK_BYTES;
            let (mut sent, mut received) = (0u64, 0u64);
            while received < total {
                hosts.now += Duration::from_micros(10);
                let wanted = usize::try_from(total - sent).unwrap_or(usize::MAX).min(chunk.len());
                sent += hosts.client.tcp(client).send_slice(&chunk[..wanted]).expect("an open stream") as u64;
                hosts.step();
                while let Ok(count @ 1..) = hosts.server.tcp(server).recv(|data| {
                    std::hint::black_box(&*data);
                    (data.len(), data.len())
                }) {
                    received += count as u64;
                }
            }
        })
    })
}

/// A run of connections opened and closed by the client; its TIME_WAIT is cut short, for want of which the socket could
/// not be used again.
pub fn connect(checksums: bool) -> Run {
    let (mut hosts, handles) = Pair::connected(1, 2048, checksums);
    let (client, server) = handles[0];
    hosts.client.tcp(client).close();
    hosts.step();
    hosts.server.tcp(server).close();
    hosts.step();
    hosts.step();
    let mut port = 1024u16;
    Box::new(move |operations| {
        timed(|| {
            for _ in 0..operations {
                hosts.server.tcp(server).abort();
                hosts.server.tcp(server).listen(PORT).expect("a closed socket");
                port = if port == u16::MAX { 1024 } else { port + 1 };
                hosts.now += Duration::from_micros(1);
                hosts.client.tcp(client).abort();
                hosts.client.connect(client, port);
                hosts.step(); // SYN, SYN+ACK
                let now = hosts.now;
                hosts.client.poll(now); // ACK
                assert!(hosts.client.tcp(client).may_send(), "connected");
                hosts.client.tcp(client).close();
                hosts.step(); // FIN, ACK
                hosts.server.tcp(server).close();
                hosts.server.poll(now); // FIN
                hosts.step(); // ACK
                assert_eq!(hosts.server.tcp(server).state(), tcp::State::Closed);
                assert_eq!(hosts.client.tcp(client).state(), tcp::State::TimeWait);
            }
        })
    })
}
