//! What a real transport cannot show: calls that arrive while it runs, and the choice among several.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use demi_drivers::transport::{
    DatagramId, DatagramOptions, Handle, ListenOptions, ListenerId, ReadCursor, StreamId, StreamOptions,
    TcpInfo, TransportUsage,
};
use demi_drivers::{Buf, Instant, Pool, PoolConfig, Transport};

use super::*;
use crate::compat::Pinned;

/// What happens to a mock, told to the test.
#[derive(Default)]
struct Log {
    calls: RefCell<Vec<String>>,
    /// Woken and dropped in the middle of `poll`.
    wakers: RefCell<Vec<Waker>>,
    /// The device is gone.
    dead: Cell<bool>,
}

impl Log {
    fn note(&self, call: String) {
        self.calls.borrow_mut().push(call);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.borrow_mut())
    }
}

/// A transport that carries nothing, and writes down what it is asked to give up.
struct Mock {
    name: &'static str,
    pool: Pool,
    own: Vec<IpAddr>,
    network: Option<(IpAddr, u8)>,
    fd: Option<UnixStream>,
    log: Rc<Log>,
}

impl Mock {
    fn new(name: &'static str) -> Mock {
        let pool = Pool::new(&PoolConfig::small(4)).unwrap();
        Mock { name, pool, own: Vec::new(), network: None, fd: None, log: Rc::default() }
    }

    /// With an address of its own, in a network of the first `bits`.
    fn at(mut self, own: &str, bits: u8) -> Mock {
        let own = own.parse().unwrap();
        self.own.push(own);
        self.network = Some((own, bits));
        self
    }
}

fn no<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Transport for Mock {
    fn name(&self) -> &str {
        self.name
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn reach(&self, remote: IpAddr) -> Option<u8> {
        if matches!(self.name, "posix" | "uring") {
            return Some(0);
        }
        let (IpAddr::V4(own), bits) = self.network? else { return None };
        let IpAddr::V4(remote) = remote else { return None };
        let differ = u32::from(own) ^ u32::from(remote);
        (differ.leading_zeros() >= u32::from(bits)).then_some(bits)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.own.clone()
    }

    fn poll(&mut self, _: Instant) -> io::Result<usize> {
        let wakers = std::mem::take(&mut *self.log.wakers.borrow_mut());
        let count = wakers.len();
        wakers.iter().for_each(Waker::wake_by_ref);
        drop(wakers);
        self.log.note("polled".into());
        if self.log.dead.get() { no() } else { Ok(count) }
    }

    fn flush(&mut self, _: Instant) -> io::Result<()> {
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn park(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.log.note(format!("parked {timeout:?}"));
        Ok(())
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd).filter(|_| !self.log.dead.get())
    }

    fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        self.log.note(format!("watches {fd}"));
        Ok(())
    }

    fn unwatch(&mut self, fd: RawFd) {
        self.log.note(format!("unwatches {fd}"));
    }

    fn usage(&self) -> TransportUsage {
        let mut usage = TransportUsage::default();
        usage.streams = 1;
        usage
    }

    fn close(&mut self, stream: StreamId) {
        self.log.note(format!("closed stream {}", stream.0.index));
    }

    fn abort(&mut self, stream: StreamId) {
        self.log.note(format!("aborted stream {}", stream.0.index));
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.log.note(format!("closed listener {}", listener.0.index));
    }

    fn close_datagram(&mut self, socket: DatagramId) {
        self.log.note(format!("closed datagram {}", socket.0.index));
    }

    // Nothing below is ever reached with success.
    fn listen(&mut self, _: SocketAddr, _: &ListenOptions) -> io::Result<ListenerId> {
        no()
    }
    fn poll_accept(
        &mut self,
        _: &mut Context<'_>,
        _: ListenerId,
    ) -> Poll<io::Result<(StreamId, SocketAddr)>> {
        Poll::Ready(no())
    }
    fn listener_addr(&self, _: ListenerId) -> io::Result<SocketAddr> {
        no()
    }
    fn connect(&mut self, _: SocketAddr, _: Option<SocketAddr>, _: &StreamOptions) -> io::Result<StreamId> {
        no()
    }
    fn poll_connect(&mut self, _: &mut Context<'_>, _: StreamId) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_pop(&mut self, _: &mut Context<'_>, _: StreamId, _: usize) -> Poll<io::Result<Option<Buf>>> {
        Poll::Ready(no())
    }
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        _: StreamId,
        _: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_peek(
        &mut self,
        _: &mut Context<'_>,
        _: StreamId,
        _: &mut ReadCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_push(&mut self, _: &mut Context<'_>, _: StreamId, _: &mut Option<Buf>) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_write(&mut self, _: &mut Context<'_>, _: StreamId, _: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Ready(no())
    }
    fn poll_readable(&mut self, _: &mut Context<'_>, _: StreamId) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_writable(&mut self, _: &mut Context<'_>, _: StreamId) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_drained(&mut self, _: &mut Context<'_>, _: StreamId) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn shutdown(&mut self, _: StreamId, _: Shutdown) -> io::Result<()> {
        no()
    }
    fn local_addr(&self, _: StreamId) -> io::Result<SocketAddr> {
        no()
    }
    fn peer_addr(&self, _: StreamId) -> io::Result<SocketAddr> {
        no()
    }
    fn take_error(&mut self, _: StreamId) -> io::Result<Option<io::Error>> {
        no()
    }
    fn stream_options(&self, _: StreamId) -> io::Result<StreamOptions> {
        no()
    }
    fn set_stream_options(&mut self, _: StreamId, _: &StreamOptions) -> io::Result<()> {
        no()
    }
    fn tcp_info(&self, _: StreamId) -> io::Result<TcpInfo> {
        no()
    }
    fn quickack(&self, _: StreamId) -> io::Result<bool> {
        no()
    }
    fn set_quickack(&mut self, _: StreamId, _: bool) -> io::Result<()> {
        no()
    }
    fn bind_datagram(&mut self, _: SocketAddr, _: &DatagramOptions) -> io::Result<DatagramId> {
        no()
    }
    fn connect_datagram(&mut self, _: DatagramId, _: Option<SocketAddr>) -> io::Result<()> {
        no()
    }
    fn poll_send_to(
        &mut self,
        _: &mut Context<'_>,
        _: DatagramId,
        _: &mut Option<Buf>,
        _: Option<SocketAddr>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_recv(&mut self, _: &mut Context<'_>, _: DatagramId, _: &mut SocketAddr) -> Poll<io::Result<Buf>> {
        Poll::Ready(no())
    }
    fn poll_peek_from(&mut self, _: &mut Context<'_>, _: DatagramId) -> Poll<io::Result<(Buf, SocketAddr)>> {
        Poll::Ready(no())
    }
    fn poll_datagram_readable(&mut self, _: &mut Context<'_>, _: DatagramId) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn poll_datagram_writable(&mut self, _: &mut Context<'_>, _: DatagramId) -> Poll<io::Result<()>> {
        Poll::Ready(no())
    }
    fn datagram_addr(&self, _: DatagramId) -> io::Result<SocketAddr> {
        no()
    }
    fn datagram_peer(&self, _: DatagramId) -> io::Result<SocketAddr> {
        no()
    }
    fn datagram_options(&self, _: DatagramId) -> io::Result<DatagramOptions> {
        no()
    }
    fn set_datagram_options(&mut self, _: DatagramId, _: &DatagramOptions) -> io::Result<()> {
        no()
    }
}

fn handle(index: u32) -> Handle {
    Handle { index, generation: 1 }
}

/// A set of one mock, its cell, and what happens to it.
fn one() -> (TransportSet, Rc<TransportCell>, Rc<Log>) {
    let mock = Mock::new("mock");
    let log = mock.log.clone();
    let set = TransportSet::from_vec(vec![Box::new(mock)]);
    let cell = set.cells[0].clone();
    (set, cell, log)
}

/// A waker of somebody else's that owns sockets, or calls them when woken.
struct Foreign<F: Fn(bool)> {
    run: Pinned<F>,
}

impl<F: Fn(bool)> Wake for Foreign<F> {
    fn wake(self: Arc<Self>) {
        (self.run)(false);
    }
}

impl<F: Fn(bool)> Drop for Foreign<F> {
    fn drop(&mut self) {
        (self.run)(true);
    }
}

/// A waker that runs `run(false)` when woken and `run(true)` when dropped.
fn foreign(run: impl Fn(bool) + 'static) -> Waker {
    Arc::new(Foreign { run: Pinned::new(run) }).into()
}

#[test]
fn what_is_dropped_while_the_transport_runs_is_closed_behind_it() {
    let (set, cell, log) = one();
    let owner = cell.clone();
    log.wakers.borrow_mut().push(foreign(move |dropped| {
        if dropped {
            owner.give_up(Late::Abort(StreamId(handle(1))));
            owner.give_up(Late::Close(StreamId(handle(2))));
            owner.give_up(Late::CloseListener(ListenerId(handle(3))));
            owner.give_up(Late::CloseDatagram(DatagramId(handle(4))));
        }
    }));
    assert_eq!(set.poll(Instant::ZERO).unwrap(), 1);
    let expected =
        ["polled", "aborted stream 1", "closed stream 2", "closed listener 3", "closed datagram 4"];
    assert_eq!(log.take(), expected);
    cell.give_up(Late::Close(StreamId(handle(5))));
    assert_eq!(log.take(), ["closed stream 5"], "at once, when it does not run");
}

#[test]
fn a_call_from_inside_the_transport_is_told_to_come_again() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let (set, cell, log) = one();
    let count = Arc::new(Count(0.into()));
    let task = Waker::from(count.clone());
    log.wakers.borrow_mut().push(foreign(move |dropped| {
        if !dropped {
            let mut cx = Context::from_waker(&task);
            let polled =
                cell.poll_with(&mut cx, |transport, cx| transport.poll_pop(cx, StreamId(handle(1)), 9));
            assert!(polled.is_pending(), "not a panic, and not an answer");
            let called = cell.call(|transport| transport.shutdown(StreamId(handle(1)), Shutdown::Both));
            assert_eq!(called.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            assert_eq!(cell.deadline(), Some(Instant::ZERO), "due now: it is running");
        }
    }));
    set.poll(Instant::ZERO).unwrap();
    assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1, "woken once the transport is free");
}

/// A TAP, a second one, and the kernel.
fn three() -> TransportSet {
    TransportSet::from_vec(vec![
        Box::new(Mock::new("tap:a").at("10.0.0.2", 24)),
        Box::new(Mock::new("posix")),
        Box::new(Mock::new("tap:b").at("10.0.1.2", 16)),
    ])
}

#[test]
fn a_connection_takes_the_most_specific_route_and_loopback_is_the_kernels() {
    let set = three();
    let towards = |remote: &str| set.towards(remote.parse().unwrap()).unwrap().name().to_owned();
    assert_eq!(towards("10.0.0.9"), "tap:a", "24 bits beat 16");
    assert_eq!(towards("10.0.9.9"), "tap:b");
    assert_eq!(towards("192.0.2.1"), "posix", "the kernel has a default route");
    for loopback in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(towards(loopback), "posix", "{loopback}");
    }
    let alone = TransportSet::from_vec(vec![
        Box::new(Mock::new("tap:a").at("10.0.0.2", 24)),
        Box::new(Mock::new("tap:b").at("10.0.1.2", 24)),
    ]);
    let error = alone.towards("192.0.2.1".parse().unwrap()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::NetworkUnreachable);
    assert!(error.to_string().contains("tap:a, tap:b"), "{error}");
}

#[test]
fn a_bound_socket_goes_where_its_address_is_and_an_unbound_one_everywhere() {
    let set = three();
    let owning = |local: &str| {
        let cells = set.owning(local.parse().unwrap()).unwrap();
        cells.iter().map(|cell| cell.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(owning("10.0.1.2"), ["tap:b"]);
    assert_eq!(owning("127.0.0.1"), ["posix"]);
    assert_eq!(owning("192.0.2.1"), ["posix"], "it knows addresses of its own, and says when it does not");
    assert_eq!(owning("0.0.0.0"), ["tap:a", "posix", "tap:b"]);
    let alone = TransportSet::from_vec(vec![
        Box::new(Mock::new("tap:a").at("10.0.0.2", 24)),
        Box::new(Mock::new("tap:b").at("10.0.1.2", 24)),
    ]);
    let error = alone.owning("127.0.0.1".parse().unwrap()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
}

#[test]
fn the_first_transport_parks_for_all() {
    let (kept, other) = UnixStream::pair().unwrap();
    let first = Mock::new("tap:a");
    let log = first.log.clone();
    let mut second = Mock::new("posix");
    let fd = AsRawFd::as_raw_fd(&other);
    second.fd = Some(other);
    let set = TransportSet::from_vec(vec![Box::new(first), Box::new(second)]);
    set.park(None).unwrap();
    set.watch(7).unwrap();
    assert_eq!(log.take(), [format!("watches {fd}"), "parked None".into(), "watches 7".into()]);
    drop(kept);

    let first = Mock::new("tap:a");
    let log = first.log.clone();
    let set = TransportSet::from_vec(vec![Box::new(first), Box::new(Mock::new("blind"))]);
    set.park(None).unwrap();
    set.park(Some(Duration::from_micros(1))).unwrap();
    assert_eq!(
        log.take(),
        ["parked Some(100µs)", "parked Some(1µs)"],
        "one with nothing to wait on is polled"
    );
    assert_eq!(set.usage().streams, 2);
}

#[test]
fn the_first_transport_stops_watching_one_that_is_dead() {
    let (_kept, other) = UnixStream::pair().unwrap();
    let (first, mut second) = (Mock::new("posix"), Mock::new("tap:a"));
    let (log, log_of_second) = (first.log.clone(), second.log.clone());
    let fd = AsRawFd::as_raw_fd(&other);
    second.fd = Some(other);
    let set = TransportSet::from_vec(vec![Box::new(first), Box::new(second)]);
    log_of_second.dead.set(true);
    for _ in 0..2 {
        set.poll(Instant::ZERO).unwrap_err();
    }
    set.park(None).unwrap();
    let told = log.take();
    let expected = [format!("watches {fd}"), "polled".into(), format!("unwatches {fd}"), "polled".into()];
    assert_eq!(told[..4], expected);
    assert_eq!(told[4..], ["parked None"], "once, and the loop sleeps");
}

#[test]
fn without_a_transport_there_is_still_a_place_to_wait() {
    let set = TransportSet::from_vec(Vec::new());
    let (mut ring, bell) = UnixStream::pair().unwrap();
    set.watch(AsRawFd::as_raw_fd(&bell)).unwrap();
    io::Write::write_all(&mut ring, b"x").unwrap();
    set.park(None).unwrap();
    assert_eq!(set.poll(Instant::ZERO).unwrap(), 0);
    let error = set.towards("127.0.0.1".parse().unwrap()).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}
