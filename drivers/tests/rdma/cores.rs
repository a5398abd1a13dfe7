//! Several cores of a program on one device, here on one thread: each a transport of its own, with the ports in common.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::rdma::{Fellows, Rdma, RdmaConfig};
use demi_drivers::transport::{
    DatagramId, DatagramOptions, ListenOptions, ListenerId, StreamId, StreamOptions,
};
use demi_drivers::{Instant, PoolConfig, Transport};

use crate::support::{Ip, machine_has_rdma};

/// The client.
const CLIENT: usize = 0;

/// A client on one device, and a program of some cores on the other.
struct Program {
    /// The client, then the cores. One that has ended is gone.
    ends: Vec<Option<Rdma>>,
    start: std::time::Instant,
}

fn config(device: &str) -> RdmaConfig {
    let pool = PoolConfig { slots: 512, large_slots: 8, huge_pages: false, ..PoolConfig::default() };
    RdmaConfig { pool, ..RdmaConfig::new(device) }
}

impl Program {
    fn new(cores: usize) -> Program {
        let fellows = Fellows::new(cores);
        let core = |index| Some(Rdma::open_among(&config("rxe1"), &fellows, index).unwrap());
        let client = Some(Rdma::open(&config("rxe0")).unwrap());
        Program {
            ends: std::iter::once(client).chain((0..cores).map(core)).collect(),
            start: std::time::Instant::now(),
        }
    }

    fn end(&mut self, at: usize) -> &mut Rdma {
        self.ends[at].as_mut().unwrap()
    }

    fn turn(&mut self) {
        let now = Instant::from_nanos(self.start.elapsed().as_nanos() as u64 + 3_600_000_000_000);
        let mut events = 0;
        for end in self.ends.iter_mut().flatten() {
            end.flush(now).unwrap();
            events += end.poll(now).unwrap();
        }
        if events == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    #[track_caller]
    fn wait<T>(&mut self, mut wait: impl FnMut(&mut Program, &mut Context<'_>) -> Poll<T>) -> T {
        let begun = std::time::Instant::now();
        loop {
            if let Poll::Ready(value) = wait(self, &mut Context::from_waker(Waker::noop())) {
                return value;
            }
            self.turn();
            assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain");
        }
    }

    fn listen(&mut self, core: usize, address: SocketAddr, backlog: u32) -> ListenerId {
        let mut options = ListenOptions::default();
        options.backlog = backlog;
        self.end(core).listen(address, &options).unwrap()
    }

    /// Begins to listen on all cores at a port that is free.
    fn listen_on_all(&mut self, backlog: u32) -> (Vec<ListenerId>, SocketAddr) {
        let first = self.listen(1, SocketAddr::new(Ip::V4.of(1), 0), backlog);
        let address = self.end(1).listener_addr(first).unwrap();
        self.end(1).close_listener(first);
        let cores = 1..self.ends.len();
        (cores.map(|core| self.listen(core, address, backlog)).collect(), address)
    }

    #[track_caller]
    fn connect(&mut self, address: SocketAddr) -> StreamId {
        let stream = self.end(CLIENT).connect(address, None, &StreamOptions::default()).unwrap();
        self.wait(|program, cx| program.end(CLIENT).poll_connect(cx, stream)).unwrap();
        stream
    }

    #[track_caller]
    fn accept(&mut self, core: usize, listener: ListenerId) -> StreamId {
        self.wait(|program, cx| program.end(core).poll_accept(cx, listener)).unwrap().0
    }

    /// Sends something from one end, and sees that the other has it.
    #[track_caller]
    fn send(&mut self, (from, one): (usize, StreamId), (to, other): (usize, StreamId), bytes: &[u8]) {
        let mut buf = self.end(from).pool().copy_from_slice(bytes);
        self.wait(|program, cx| program.end(from).poll_push(cx, one, &mut buf)).unwrap();
        let came = self.wait(|program, cx| program.end(to).poll_pop(cx, other, usize::MAX)).unwrap();
        assert_eq!(&came.unwrap()[..], bytes);
    }

    fn bind(&mut self, at: usize, address: SocketAddr) -> DatagramId {
        self.end(at).bind_datagram(address, &DatagramOptions::default()).unwrap()
    }
}

#[test]
fn connections_to_one_port_go_to_each_core_in_turn() {
    if !machine_has_rdma() {
        return;
    }
    let mut program = Program::new(3);
    let (listeners, address) = program.listen_on_all(16);
    let mut streams = Vec::new();
    for round in 0..3u8 {
        let ours: Vec<_> = (0..3).map(|_| program.connect(address)).collect();
        for (at, listener) in listeners.iter().enumerate() {
            let theirs = program.accept(at + 1, *listener);
            assert_eq!(program.end(at + 1).local_addr(theirs).unwrap(), address);
            streams.push((at + 1, theirs));
            // Which of ours that is, the bytes tell.
            let from = program.end(at + 1).peer_addr(theirs).unwrap();
            let client = program.end(CLIENT);
            let one = ours.iter().find(|one| client.local_addr(**one).unwrap() == from);
            let one = *one.expect("it is one of this round's");
            program.send((CLIENT, one), (at + 1, theirs), &[round; 1500]);
            program.send((at + 1, theirs), (CLIENT, one), &[!round; 40_000]);
        }
    }
    for (core, stream) in streams {
        program.end(core).abort(stream);
    }
    program.wait(|program, _| {
        let usage = program.ends.iter().flatten().skip(1).map(|end| end.usage().streams).sum::<usize>();
        if usage == 0 { Poll::Ready(()) } else { Poll::Pending }
    });
}

#[test]
fn a_core_that_is_full_passes_on_to_one_that_is_not_and_all_full_refuse() {
    if !machine_has_rdma() {
        return;
    }
    let mut program = Program::new(2);
    let (listeners, address) = program.listen_on_all(2);
    // The second core takes none of its own: the first two of each are its backlog.
    for _ in 0..2 {
        program.connect(address);
        program.connect(address);
        program.accept(1, listeners[0]);
    }
    for _ in 0..3 {
        program.connect(address);
        program.accept(1, listeners[0]);
    }
    program.connect(address);
    program.connect(address);
    let stream = program.end(CLIENT).connect(address, None, &StreamOptions::default()).unwrap();
    let error = program.wait(|program, cx| program.end(CLIENT).poll_connect(cx, stream)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(error.to_string().contains("backlog"), "{error}");
}

#[test]
fn a_port_outlives_the_listener_and_the_core_that_took_it_first() {
    if !machine_has_rdma() {
        return;
    }
    let mut program = Program::new(3);
    let (listeners, address) = program.listen_on_all(16);
    // A connection that stays.
    let ours = program.connect(address);
    let theirs = program.accept(1, listeners[0]);
    program.send((CLIENT, ours), (1, theirs), b"hello");

    // The first closes its listener: its connection stays, and the others serve.
    program.end(1).close_listener(listeners[0]);
    for _ in 0..2 {
        let (one, two) = (program.connect(address), program.connect(address));
        program.accept(2, listeners[1]);
        program.accept(3, listeners[2]);
        program.send((1, theirs), (CLIENT, ours), b"still there");
        program.end(CLIENT).abort(one);
        program.end(CLIENT).abort(two);
    }
    // The one that hears now ends as a whole, with somebody on the way to it.
    let asked = program.end(CLIENT).connect(address, None, &StreamOptions::default()).unwrap();
    program.ends[2] = None;
    let answered = program.wait(|program, cx| program.end(CLIENT).poll_connect(cx, asked));
    assert!(answered.is_ok() || answered.is_err_and(|error| error.kind() != ErrorKind::TimedOut));
    let last = program.connect(address);
    let mut known = BTreeSet::new();
    let other = loop {
        let other = program.accept(3, listeners[2]);
        let from = program.end(3).peer_addr(other).unwrap();
        assert!(known.insert(from), "each is accepted once");
        if program.end(CLIENT).local_addr(last).unwrap() == from {
            break other;
        }
    };
    program.send((CLIENT, last), (3, other), b"and here");
    // The last one leaves, and nobody listens.
    program.end(3).close_listener(listeners[2]);
    let stream = program.end(CLIENT).connect(address, None, &StreamOptions::default()).unwrap();
    let error = program.wait(|program, cx| program.end(CLIENT).poll_connect(cx, stream)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    // The port is free for whoever comes.
    let again = program.listen(3, address, 16);
    let one = program.connect(address);
    let other = program.accept(3, again);
    program.send((3, other), (CLIENT, one), b"again");
    program.send((CLIENT, ours), (1, theirs), b"to the first, all the while");
}

#[test]
fn a_core_has_a_port_once() {
    if !machine_has_rdma() {
        return;
    }
    let mut program = Program::new(2);
    let (_, address) = program.listen_on_all(16);
    let error = program.end(2).listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
    // For other programs it is in use as ever.
    let mut other = Rdma::open(&config("rxe1")).unwrap();
    let error = other.listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse, "{error}");
}

#[test]
fn datagrams_of_one_peer_come_to_one_core_and_are_answered_from_there() {
    if !machine_has_rdma() {
        return;
    }
    let mut program = Program::new(2);
    let first = program.bind(1, SocketAddr::new(Ip::V4.of(1), 0));
    let address = program.end(1).datagram_addr(first).unwrap();
    program.end(1).close_datagram(first);
    let sockets = [program.bind(1, address), program.bind(2, address)];
    let mut served = BTreeSet::new();
    for _ in 0..16 {
        // Another program each time.
        let ours = program.bind(CLIENT, SocketAddr::new(Ip::V4.of(0), 0));
        let mut cores = BTreeSet::new();
        for number in 0..3u8 {
            let mut buf = program.end(CLIENT).pool().copy_from_slice(&[number; 100]);
            program
                .wait(|program, cx| program.end(CLIENT).poll_send_to(cx, ours, &mut buf, Some(address)))
                .unwrap();
            let (core, datagram, from) = program.wait(|program, cx| {
                for (at, socket) in sockets.iter().enumerate() {
                    if let Poll::Ready(came) = program.end(at + 1).poll_recv_from(cx, *socket) {
                        let (datagram, from) = came.unwrap();
                        return Poll::Ready((at + 1, datagram, from));
                    }
                }
                Poll::Pending
            });
            assert_eq!(datagram[..], [number; 100]);
            cores.insert(core);
            let mut buf = program.end(core).pool().copy_from_slice(&[!number; 50]);
            program
                .wait(|program, cx| {
                    program.end(core).poll_send_to(cx, sockets[core - 1], &mut buf, Some(from))
                })
                .unwrap();
            let answer = program.wait(|program, cx| program.end(CLIENT).poll_recv_from(cx, ours)).unwrap();
            assert_eq!((&answer.0[..], answer.1), (&[!number; 50][..], address));
        }
        assert_eq!(cores.len(), 1, "one peer, one core");
        served.extend(cores);
        program.ends[CLIENT] = Some(Rdma::open(&config("rxe0")).unwrap());
    }
    assert_eq!(served.len(), 2, "sixteen peers, and all came to one core");
    // The core that hears for both closes its socket: the other one has all of them, as soon as peers ask again.
    program.end(1).close_datagram(sockets[0]);
    let ours = program.bind(CLIENT, SocketAddr::new(Ip::V4.of(0), 0));
    let mut buf = program.end(CLIENT).pool().copy_from_slice(b"who is left?");
    program.wait(|program, cx| program.end(CLIENT).poll_send_to(cx, ours, &mut buf, Some(address))).unwrap();
    let (datagram, _) = program.wait(|program, cx| program.end(2).poll_recv_from(cx, sockets[1])).unwrap();
    assert_eq!(&datagram[..], b"who is left?");
}
