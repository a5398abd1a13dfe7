//! A device that dies under a stack: everything open over it ends with the error that names the cause, and holds nothing.

mod common;

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use common::{Hosts, bind, config, once, recv, send};
use demi_drivers::transport::{DatagramOptions, ListenOptions, StreamOptions, Transport};
use demi_drivers::wire::{Wire, WireConfig, WireEnd};
use demi_drivers::{Capabilities, Device, Instant, Pool, RxFrame, TxQueue};
use demi_netstack::Stack;

const CAUSE: &str = "wire0: somebody fell over the cable";

/// An end of a wire that can be unplugged.
struct Unpluggable {
    end: WireEnd,
    unplugged: Rc<Cell<bool>>,
}

impl Unpluggable {
    fn check(&self) -> io::Result<()> {
        if self.unplugged.get() { Err(io::Error::new(ErrorKind::NetworkDown, CAUSE)) } else { Ok(()) }
    }
}

impl Device for Unpluggable {
    fn name(&self) -> &str {
        self.end.name()
    }
    fn capabilities(&self) -> &Capabilities {
        self.end.capabilities()
    }
    fn pool(&self) -> &Pool {
        self.end.pool()
    }
    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        self.check()?;
        self.end.rx_burst(now, into, max)
    }
    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        self.check()?;
        self.end.tx_burst(now, queue)
    }
    fn deadline(&self) -> Option<Instant> {
        self.end.deadline()
    }
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Two hosts; the cable of the first can be pulled.
fn hosts() -> (Hosts, Rc<Cell<bool>>) {
    let mut ends = Wire::new(1, WireConfig::default()).unwrap().into_iter();
    let unplugged = Rc::new(Cell::new(false));
    let first = Unpluggable { end: ends.next().unwrap(), unplugged: Rc::clone(&unplugged) };
    let hosts = [
        Stack::new(Box::new(first), config(1)).unwrap(),
        Stack::new(Box::new(ends.next().unwrap()), config(2)).unwrap(),
    ];
    (Hosts { hosts, now: Instant::ZERO }, unplugged)
}

/// Waits in `poll`, with a waker of its own.
fn wait<T>(poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Arc<Woken> {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    assert!(poll(&mut Context::from_waker(&waker)).is_pending(), "there is nothing to wait for");
    woken
}

#[track_caller]
fn assert_gone<T: std::fmt::Debug>(what: &str, result: Option<io::Result<T>>) {
    let error = result.unwrap_or_else(|| panic!("{what}: still waits")).expect_err(what);
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::NetworkDown, CAUSE), "{what}");
}

#[test]
fn whoever_waits_is_woken_and_told_the_cause() {
    let (mut hosts, unplugged) = hosts();
    let stream_options = StreamOptions::default();
    let listener = hosts.hosts[0].listen("0.0.0.0:80".parse().unwrap(), &ListenOptions::default()).unwrap();
    hosts.hosts[1].connect("10.0.0.1:80".parse().unwrap(), None, &stream_options).unwrap();
    hosts.settle();
    let host = &mut hosts.hosts[0];
    let (reader, _) = once(|cx| host.poll_accept(cx, listener)).expect("a connection").unwrap();
    let connecting = host.connect("10.0.0.99:80".parse().unwrap(), None, &stream_options).unwrap();
    let socket = bind(host, "0.0.0.0:53");
    // More than windows and buffers hold, towards a peer that does not read.
    let block = vec![7; 64 << 10];
    loop {
        let written =
            once(|cx| hosts.hosts[0].poll_write(cx, reader, &[IoSlice::new(&block)])).map(Result::unwrap);
        hosts.settle();
        if written.is_none() && hosts.turn() == 0 {
            break;
        }
    }
    let host = &mut hosts.hosts[0];
    let mut buf = Some(host.pool().copy_from_slice(b"x").unwrap());
    let waits = [
        ("accept", wait(|cx| host.poll_accept(cx, listener))),
        ("pop", wait(|cx| host.poll_pop(cx, reader, 100))),
        ("push", wait(|cx| host.poll_push(cx, reader, &mut buf))),
        ("connect", wait(|cx| host.poll_connect(cx, connecting))),
        ("recv_from", wait(|cx| host.poll_recv_from(cx, socket))),
    ];

    unplugged.set(true);
    let now = hosts.now;
    let host = &mut hosts.hosts[0];
    assert_gone("the turn", Some(host.poll(now)));
    for (what, woken) in waits {
        assert!(woken.count() > 0, "{what} is not woken");
    }
    // Twice: neither half of a stream may take what the other has been told for an orderly end.
    for round in 0..2 {
        let which = |what: &str| format!("{what}, round {round}");
        assert_gone(&which("accept"), once(|cx| host.poll_accept(cx, listener)));
        assert_gone(&which("pop"), once(|cx| host.poll_pop(cx, reader, 100)));
        assert_gone(&which("push"), once(|cx| host.poll_push(cx, reader, &mut buf)));
        assert_gone(&which("write"), once(|cx| host.poll_write(cx, reader, &[IoSlice::new(b"x")])));
        assert_gone(&which("drained"), once(|cx| host.poll_drained(cx, reader)));
        assert_gone(&which("connect"), once(|cx| host.poll_connect(cx, connecting)));
        assert_gone(&which("recv_from"), recv(host, socket));
        assert_gone(&which("send_to"), Some(send(host, socket, b"x", Some("10.0.0.2:53"))));
        assert_gone(&which("flush"), Some(host.flush(now)));
    }
    assert!(buf.is_some(), "what could not be pushed is still the caller's");
    let again = host.listen("0.0.0.0:81".parse().unwrap(), &ListenOptions::default());
    assert_gone("listen", Some(again));
    assert_gone("connect", Some(host.connect("10.0.0.2:80".parse().unwrap(), None, &stream_options)));
    let bound = host.bind_datagram("0.0.0.0:54".parse().unwrap(), &DatagramOptions::default());
    assert_gone("bind", Some(bound));
    assert_gone("connect a datagram socket", Some(host.connect_datagram(socket, "10.0.0.2:53".parse().ok())));
}

#[test]
fn what_was_received_before_is_read_first() {
    let (mut hosts, unplugged) = hosts();
    let listener = hosts.hosts[0].listen("0.0.0.0:80".parse().unwrap(), &ListenOptions::default()).unwrap();
    let client =
        hosts.hosts[1].connect("10.0.0.1:80".parse().unwrap(), None, &StreamOptions::default()).unwrap();
    let (server, sender) = (bind(&mut hosts.hosts[0], "0.0.0.0:53"), bind(&mut hosts.hosts[1], "0.0.0.0:0"));
    hosts.settle();
    once(|cx| hosts.hosts[1].poll_write(cx, client, &[IoSlice::new(b"last words")])).unwrap().unwrap();
    send(&mut hosts.hosts[1], sender, b"a datagram", Some("10.0.0.1:53")).unwrap();
    hosts.settle();
    let (stream, _) = once(|cx| hosts.hosts[0].poll_accept(cx, listener)).unwrap().unwrap();
    unplugged.set(true);
    let now = hosts.now;
    let host = &mut hosts.hosts[0];
    host.poll(now).unwrap_err();
    let words = once(|cx| host.poll_pop(cx, stream, 100)).unwrap().unwrap().expect("bytes");
    assert_eq!(&*words, b"last words");
    assert_gone("pop", once(|cx| host.poll_pop(cx, stream, 100)));
    assert_eq!(recv(host, server).unwrap().unwrap().0, b"a datagram");
    assert_gone("recv_from", recv(host, server));
}

#[test]
fn nothing_is_left_of_what_was_open_and_no_time_is_asked_for() {
    let (mut hosts, unplugged) = hosts();
    let listener = hosts.hosts[0].listen("0.0.0.0:80".parse().unwrap(), &ListenOptions::default()).unwrap();
    let connect = |hosts: &mut Hosts| {
        let remote = "10.0.0.1:80".parse().unwrap();
        hosts.hosts[1].connect(remote, None, &StreamOptions::default()).unwrap()
    };
    let accept = |hosts: &mut Hosts| {
        hosts.settle();
        once(|cx| hosts.hosts[0].poll_accept(cx, listener)).unwrap().unwrap().0
    };
    // One in TIME-WAIT, one closed with bytes that the peer has not read yet, one open, one not accepted, one half open.
    let client = connect(&mut hosts);
    let first = accept(&mut hosts);
    hosts.hosts[0].close(first);
    hosts.settle();
    hosts.hosts[1].close(client);
    hosts.settle();
    connect(&mut hosts);
    let second = accept(&mut hosts);
    once(|cx| hosts.hosts[0].poll_write(cx, second, &[IoSlice::new(&[1; 30_000])])).unwrap().unwrap();
    hosts.hosts[0].close(second);
    connect(&mut hosts);
    let third = accept(&mut hosts);
    once(|cx| hosts.hosts[0].poll_write(cx, third, &[IoSlice::new(&[1; 30_000])])).unwrap().unwrap();
    connect(&mut hosts);
    hosts.settle();
    hosts.hosts[0].connect("10.0.0.99:80".parse().unwrap(), None, &StreamOptions::default()).unwrap();
    let now = hosts.now;
    hosts.hosts[0].flush(now).unwrap();
    let before = hosts.hosts[0].usage();
    assert_eq!((before.time_wait, before.closing), (1, 1), "{before:?}");

    unplugged.set(true);
    let host = &mut hosts.hosts[0];
    host.poll(now).unwrap_err();
    let after = host.usage();
    assert_eq!((after.streams, after.time_wait, after.closing), (0, 0, 0), "{after:?}");
    assert_eq!(host.pool().stats().slots_out, 0, "slots are still out");
    assert_eq!(host.deadline(), None, "a dead stack has nothing to do");
    host.shutdown(third, Shutdown::Write).unwrap_err();
    host.close(third);
    host.close_listener(listener);
    let end = host.usage();
    assert_eq!((end.streams, end.listeners, end.closing), (0, 0, 0), "{end:?}");
}
