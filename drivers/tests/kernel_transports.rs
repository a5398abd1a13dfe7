//! What every transport over the kernel's sockets must do, against plain sockets of the standard library: one suite, run on
//! each of them.

mod support;

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use demi_drivers::PoolConfig;
use demi_drivers::posix::{Posix, PosixConfig};
use demi_drivers::transport::{
    CongestionControl, DatagramId, DatagramOptions, ListenOptions, ListenerId, ReadCursor, StreamId,
    StreamOptions, TcpState,
};
#[cfg(feature = "uring")]
use demi_drivers::uring::{Uring, UringConfig};

use support::{Driver, descriptors, patterned};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

/// What a scenario wants otherwise than by default.
#[derive(Default)]
struct Limits {
    sockets: Option<usize>,
    slots: Option<usize>,
    /// Entries of a ring, for a transport that has one.
    #[cfg_attr(not(feature = "uring"), allow(dead_code, reason = "only a ring has entries"))]
    entries: Option<u32>,
}

/// Opens a transport.
type Open = fn(Limits) -> Driver;

fn posix(limits: Limits) -> Driver {
    let mut config = PosixConfig::default();
    config.max_sockets = limits.sockets.unwrap_or(config.max_sockets);
    config.pool = limits.slots.map_or(config.pool, PoolConfig::small);
    Driver::new(|| Box::new(Posix::open(&config).unwrap()))
}

#[cfg(feature = "uring")]
fn uring(limits: Limits) -> Driver {
    let mut config = UringConfig::default();
    config.max_sockets = limits.sockets.unwrap_or(config.max_sockets);
    config.pool = limits.slots.map_or(config.pool, PoolConfig::small);
    config.entries = limits.entries.unwrap_or(config.entries);
    Driver::new(|| Box::new(Uring::open(&config).unwrap()))
}

/// One test a scenario and transport.
macro_rules! suite {
    ($($scenario:ident),+ $(,)?) => {
        mod on_posix {
            $(#[test] fn $scenario() { super::$scenario(super::posix); })+
        }
        #[cfg(feature = "uring")]
        mod on_uring {
            $(#[test] fn $scenario() { super::$scenario(super::uring); })+
        }
    };
}

suite![
    echoes_views_over_both_families,
    echoes_copies_over_both_families,
    a_mebibyte_reaches_a_slow_reader_and_comes_back,
    bytes_behind_a_shutdown_are_refused_while_reads_go_on,
    the_peers_fin_ends_reading_and_stays,
    shutting_down_reading_wakes_the_reader_with_the_end,
    a_reset_is_seen_as_connection_reset,
    abort_resets_the_peer,
    closing_with_unread_bytes_resets_the_peer,
    a_refused_connection_names_the_address,
    connects_from_a_given_address,
    the_backlog_holds_connections_until_they_are_accepted,
    an_address_in_use_is_refused_by_name,
    stale_handles_are_not_connected,
    five_hundred_connections_leave_nothing_behind,
    peeking_leaves_the_bytes,
    vectored_writes_arrive_in_order,
    small_pushes_and_writes_keep_their_order,
    readable_and_writable_wait_for_what_they_say,
    drained_waits_for_the_kernel_to_take_the_bytes,
    a_connection_we_opened_waits_for_a_peer_that_reads_late,
    closing_delivers_what_is_queued,
    a_closed_connection_whose_peer_never_reads_is_given_up,
    options_are_taken_and_reported,
    tcp_info_describes_the_connection,
    a_pop_takes_no_more_than_asked,
    an_empty_pool_waits_for_a_slot,
    a_reader_that_pauses_holds_the_peer_back,
    received_views_are_as_large_as_the_flow,
    a_small_pool_serves_many_connections,
    a_small_ring_serves_many_connections,
    datagrams_are_echoed_over_both_families,
    a_connected_datagram_socket_hears_its_peer_only,
    a_refused_datagram_is_reported,
    peeking_at_a_datagram_leaves_it,
    datagrams_of_any_size_arrive_whole,
    dropped_waits_lose_nothing,
    a_watched_descriptor_ends_the_park,
    a_descriptor_no_longer_watched_does_not_end_the_park,
    the_wait_descriptor_tells_that_something_came,
    a_transport_is_dropped_with_everything_open,
    the_limit_of_sockets_is_an_error_with_a_cure,
    running_out_of_descriptors_is_told_and_survived,
];

// ---- shapes that many scenarios share ----

fn listen(net: &mut Driver, address: &str) -> (ListenerId, SocketAddr) {
    let listener = net.transport.listen(address.parse().unwrap(), &ListenOptions::default()).unwrap();
    let address = net.transport.listener_addr(listener).unwrap();
    (listener, address)
}

fn accept(net: &mut Driver, listener: ListenerId) -> StreamId {
    net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap().0
}

/// A connection: our end, and a plain one.
fn pair(net: &mut Driver) -> (StreamId, TcpStream) {
    let (listener, address) = listen(net, V4);
    let peer = TcpStream::connect(address).unwrap();
    let stream = accept(net, listener);
    net.transport.close_listener(listener);
    (stream, peer)
}

fn bind(net: &mut Driver, address: &str) -> (DatagramId, SocketAddr) {
    let socket = net.transport.bind_datagram(address.parse().unwrap(), &DatagramOptions::default()).unwrap();
    let address = net.transport.datagram_addr(socket).unwrap();
    (socket, address)
}

fn pop(net: &mut Driver, stream: StreamId) -> std::io::Result<Option<Vec<u8>>> {
    net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).map(|buf| buf.map(|buf| buf.to_vec()))
}

fn pop_exactly(net: &mut Driver, stream: StreamId, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < len {
        let more = pop(net, stream).unwrap();
        got.extend(more.unwrap_or_else(|| panic!("the stream ended after {} of {len} bytes", got.len())));
    }
    got
}

fn read(net: &mut Driver, stream: StreamId, max: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; max];
    let count = net.wait(|t, cx| {
        let mut cursor = ReadCursor::new(&mut bytes);
        t.poll_read(cx, stream, &mut cursor).map_ok(|()| cursor.filled())
    })?;
    bytes.truncate(count);
    Ok(bytes)
}

fn push(net: &mut Driver, stream: StreamId, bytes: &[u8]) -> std::io::Result<()> {
    let mut buf = net.transport.pool().copy_from_slice(bytes);
    assert!(buf.is_some(), "the pool has a slot for {} bytes", bytes.len());
    net.wait(|t, cx| t.poll_push(cx, stream, &mut buf))
}

fn write_all(net: &mut Driver, stream: StreamId, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = net.wait(|t, cx| t.poll_write(cx, stream, &[IoSlice::new(bytes)]))?;
        assert!(count > 0, "a write that is done has written something");
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Pushes `part` until a push would wait; answers how many bytes were taken.
fn push_until_full(net: &mut Driver, stream: StreamId, part: &[u8]) -> usize {
    let flag = net.flag();
    let mut sent = 0;
    // What the kernel's buffers hold grows while the peer's window opens: full is full for several turns.
    let mut refusals = 0;
    while refusals < 5 {
        let mut buf = net.transport.pool().copy_from_slice(part);
        match net.poll_with(&flag, |t, cx| t.poll_push(cx, stream, &mut buf)) {
            Poll::Ready(result) => {
                result.unwrap();
                sent += part.len();
                refusals = 0;
            }
            Poll::Pending => refusals += 1,
        }
        net.turn();
    }
    sent
}

// ---- streams ----

fn echoes_views_over_both_families(open: Open) {
    for address in [V4, V6] {
        let mut net = open(Limits::default());
        let (listener, address) = listen(&mut net, address);
        let peer = thread::spawn(move || {
            let mut peer = TcpStream::connect(address).unwrap();
            for round in 0..100_u8 {
                peer.write_all(&[round; 64]).unwrap();
                let mut back = [0; 64];
                peer.read_exact(&mut back).unwrap();
                assert_eq!(back, [round; 64]);
            }
            peer.local_addr().unwrap()
        });
        let (stream, remote) = net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap();
        assert_eq!(net.transport.local_addr(stream).unwrap(), address);
        while let Some(buf) = net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).unwrap() {
            assert_eq!(net.transport.peer_addr(stream).unwrap(), remote);
            let mut buf = Some(buf);
            net.wait(|t, cx| t.poll_push(cx, stream, &mut buf)).unwrap();
            assert!(buf.is_none(), "a pushed view is the transport's");
        }
        assert_eq!(peer.join().unwrap(), remote);
        net.transport.close(stream);
        net.transport.close_listener(listener);
        net.settle();
    }
}

fn echoes_copies_over_both_families(open: Open) {
    for address in [V4, V6] {
        let mut net = open(Limits::default());
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let peer = thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut bytes = [0; 1000];
            while let Ok(count) = peer.read(&mut bytes)
                && count > 0
            {
                peer.write_all(&bytes[..count]).unwrap();
            }
        });
        let stream = net.transport.connect(address, None, &StreamOptions::default()).unwrap();
        net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap();
        assert_eq!(net.transport.peer_addr(stream).unwrap(), address);
        for round in 0..100_u8 {
            write_all(&mut net, stream, &[round; 64]).unwrap();
            let mut back = Vec::new();
            while back.len() < 64 {
                back.extend(read(&mut net, stream, 64).unwrap());
            }
            assert_eq!(back, [round; 64]);
        }
        net.transport.shutdown(stream, Shutdown::Write).unwrap();
        assert_eq!(read(&mut net, stream, 1).unwrap(), b"");
        peer.join().unwrap();
        net.transport.close(stream);
        net.settle();
    }
}

fn a_mebibyte_reaches_a_slow_reader_and_comes_back(open: Open) {
    const LEN: usize = 1 << 20;
    for by_push in [true, false] {
        let mut net = open(Limits::default());
        let (stream, mut peer) = pair(&mut net);
        let echo = thread::spawn(move || {
            // Everything is read before anything is sent: each side must hold out while the other doesn't read.
            let mut got = vec![0; LEN];
            for part in got.chunks_mut(10_000) {
                peer.read_exact(part).unwrap();
                thread::yield_now();
            }
            peer.write_all(&got).unwrap();
        });
        let sent = patterned(LEN);
        for part in sent.chunks(1500) {
            if by_push {
                push(&mut net, stream, part).unwrap();
            } else {
                write_all(&mut net, stream, part).unwrap();
            }
        }
        let mut got = Vec::new();
        while got.len() < LEN {
            let more =
                if by_push { pop(&mut net, stream).unwrap() } else { read(&mut net, stream, 70_000).ok() };
            got.extend(more.expect("the stream goes on"));
        }
        assert!(got == sent, "what came back differs from what was sent");
        echo.join().unwrap();
        net.transport.close(stream);
        net.settle();
    }
}

fn bytes_behind_a_shutdown_are_refused_while_reads_go_on(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    push(&mut net, stream, b"last words").unwrap();
    net.transport.shutdown(stream, Shutdown::Write).unwrap();
    assert_eq!(push(&mut net, stream, b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    assert_eq!(write_all(&mut net, stream, b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"last words");
    peer.write_all(b"answer").unwrap();
    assert_eq!(pop(&mut net, stream).unwrap().as_deref(), Some(&b"answer"[..]));
    drop(peer);
    assert_eq!(pop(&mut net, stream).unwrap(), None);
    net.transport.close(stream);
    net.settle();
}

fn the_peers_fin_ends_reading_and_stays(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(b"bye").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 3), b"bye");
    for _ in 0..3 {
        assert_eq!(pop(&mut net, stream).unwrap(), None);
        assert_eq!(read(&mut net, stream, 10).unwrap(), b"");
        net.wait(|t, cx| t.poll_readable(cx, stream)).unwrap();
    }
    push(&mut net, stream, b"still here").unwrap();
    net.transport.close(stream);
    net.settle();
    let mut got = Vec::new();
    peer.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"still here");
}

fn shutting_down_reading_wakes_the_reader_with_the_end(open: Open) {
    let mut net = open(Limits::default());
    let (stream, peer) = pair(&mut net);
    let flag = net.flag();
    assert!(net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 100)).is_pending());
    net.transport.shutdown(stream, Shutdown::Read).unwrap();
    assert!(flag.take(), "the reader is woken");
    assert_eq!(pop(&mut net, stream).unwrap(), None);
    drop(peer);
    net.transport.close(stream);
    net.settle();
}

fn a_reset_is_seen_as_connection_reset(open: Open) {
    let mut net = open(Limits::default());
    let (stream, peer) = pair(&mut net);
    socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    assert_eq!(pop(&mut net, stream).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let lost = push(&mut net, stream, b"anybody?")
        .and_then(|()| net.wait(|t, cx| t.poll_drained(cx, stream)))
        .and_then(|()| push(&mut net, stream, b"no?"))
        .and_then(|()| net.wait(|t, cx| t.poll_drained(cx, stream)));
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::BrokenPipe);
    net.transport.close(stream);
    net.settle();
}

fn abort_resets_the_peer(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    net.transport.abort(stream);
    assert_eq!(net.transport.peer_addr(stream).unwrap_err().kind(), ErrorKind::NotConnected);
    net.settle();
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Even with a view that the kernel has taken a part of.
    let (stream, mut peer) = pair(&mut net);
    push_until_full(&mut net, stream, &patterned(60_000));
    net.transport.abort(stream);
    net.settle();
    let lost = std::iter::repeat_with(|| peer.read(&mut [0; 60_000])).find(|got| !matches!(got, Ok(1..)));
    assert_eq!(lost.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn closing_with_unread_bytes_resets_the_peer(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(b"never read").unwrap();
    net.wait(|t, cx| t.poll_readable(cx, stream)).unwrap();
    net.transport.close(stream);
    net.settle();
    assert_eq!(peer.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn a_refused_connection_names_the_address(open: Open) {
    let mut net = open(Limits::default());
    let vacant = TcpListener::bind(V4).unwrap().local_addr().unwrap();
    let stream = net.transport.connect(vacant, None, &StreamOptions::default()).unwrap();
    let error = net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains(&vacant.to_string()), "{error}");
    assert_eq!(push(&mut net, stream, b"x").unwrap_err().kind(), ErrorKind::NotConnected);
    net.transport.close(stream);
    net.settle();
}

fn connects_from_a_given_address(open: Open) {
    let mut net = open(Limits::default());
    let listener = TcpListener::bind(V4).unwrap();
    let from: SocketAddr = "127.0.0.77:0".parse().unwrap();
    let address = listener.local_addr().unwrap();
    let stream = net.transport.connect(address, Some(from), &StreamOptions::default()).unwrap();
    net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap();
    let (_peer, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip(), from.ip());
    assert_eq!(net.transport.local_addr(stream).unwrap(), seen);
    // TEST-NET-3 (RFC 5737) is nobody's, this machine's neither.
    let nowhere: SocketAddr = "203.0.113.1:0".parse().unwrap();
    let error = net.transport.connect(address, Some(nowhere), &StreamOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("203.0.113.1"), "{error}");
    net.transport.close(stream);
    net.settle();
}

fn the_backlog_holds_connections_until_they_are_accepted(open: Open) {
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let mut peers: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.write_all(&[index as u8]).unwrap();
    }
    net.turn();
    let mut seen: Vec<u8> = Vec::new();
    for _ in 0..50 {
        let stream = accept(&mut net, listener);
        seen.extend(pop_exactly(&mut net, stream, 1));
        net.transport.close(stream);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u8>>());
    // Connections that nobody accepts are reset with the listener.
    let mut forgotten = TcpStream::connect(address).unwrap();
    net.turn();
    net.transport.close_listener(listener);
    net.settle();
    assert_eq!(forgotten.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn an_address_in_use_is_refused_by_name(open: Open) {
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let error = net.transport.listen(address, &ListenOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    let (datagram, address) = bind(&mut net, V4);
    let error = net.transport.bind_datagram(address, &DatagramOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    net.transport.close_datagram(datagram);
    net.transport.close_listener(listener);
    net.settle();
}

fn stale_handles_are_not_connected(open: Open) {
    let mut net = open(Limits::default());
    let (stream, _peer) = pair(&mut net);
    let (listener, _) = listen(&mut net, V4);
    let (datagram, _) = bind(&mut net, V4);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    net.settle();
    // Newcomers take the positions; the old handles must not find them.
    let (_other, _other_peer) = pair(&mut net);
    let (_other_listener, _) = listen(&mut net, V4);
    let _other_datagram = bind(&mut net, V4);
    let gone = ErrorKind::NotConnected;
    assert_eq!(pop(&mut net, stream).unwrap_err().kind(), gone);
    assert_eq!(read(&mut net, stream, 1).unwrap_err().kind(), gone);
    assert_eq!(push(&mut net, stream, b"x").unwrap_err().kind(), gone);
    assert_eq!(write_all(&mut net, stream, b"x").unwrap_err().kind(), gone);
    assert_eq!(net.transport.shutdown(stream, Shutdown::Both).unwrap_err().kind(), gone);
    assert_eq!(net.transport.local_addr(stream).unwrap_err().kind(), gone);
    assert_eq!(net.transport.take_error(stream).unwrap_err().kind(), gone);
    assert_eq!(net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap_err().kind(), gone);
    assert_eq!(net.transport.listener_addr(listener).unwrap_err().kind(), gone);
    assert_eq!(net.wait(|t, cx| t.poll_recv_from(cx, datagram)).unwrap_err().kind(), gone);
    assert_eq!(net.transport.datagram_addr(datagram).unwrap_err().kind(), gone);
    // Giving up twice harms nobody.
    net.transport.close(stream);
    net.transport.abort(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    let usage = net.transport.usage();
    assert_eq!((usage.streams, usage.listeners, usage.datagrams), (1, 1, 1));
}

fn five_hundred_connections_leave_nothing_behind(open: Open) {
    let _alone = support::alone();
    let before = descriptors();
    let mut net = open(Limits::default());
    let idle = descriptors();
    let (listener, address) = listen(&mut net, V4);
    let mut connections = Vec::new();
    for _ in 0..500 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(b"hello").unwrap();
        let stream = accept(&mut net, listener);
        assert_eq!(pop_exactly(&mut net, stream, 5), b"hello");
        push(&mut net, stream, b"hello").unwrap();
        connections.push((stream, peer));
    }
    assert_eq!(net.transport.usage().streams, 500);
    assert_eq!(net.transport.usage().descriptors, 501);
    net.turn();
    for (index, (stream, mut peer)) in connections.into_iter().enumerate() {
        let mut back = [0; 5];
        peer.read_exact(&mut back).unwrap();
        match index % 3 {
            0 => net.transport.close(stream),
            1 => net.transport.abort(stream),
            _ => {
                drop(peer);
                assert_eq!(pop(&mut net, stream).unwrap(), None);
                net.transport.close(stream);
            }
        }
    }
    net.transport.close_listener(listener);
    net.settle();
    assert_eq!(descriptors(), idle);
    drop(net);
    assert_eq!(descriptors(), before);
}

fn peeking_leaves_the_bytes(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(b"look, don't touch").unwrap();
    for _ in 0..3 {
        let mut bytes = [0; 4];
        let count = net.wait(|t, cx| {
            let mut cursor = ReadCursor::new(&mut bytes);
            t.poll_peek(cx, stream, &mut cursor).map_ok(|()| cursor.filled())
        });
        assert_eq!((count.unwrap(), &bytes), (4, b"look"));
    }
    assert_eq!(pop_exactly(&mut net, stream, 17), b"look, don't touch");
    net.transport.close(stream);
    net.settle();
}

fn vectored_writes_arrive_in_order(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let parts: Vec<Vec<u8>> = (0..2000_usize).map(|n| patterned(n % 7 * 100)).collect();
    let whole: Vec<u8> = parts.concat();
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    let mut views: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = &mut views[..];
    while !rest.is_empty() {
        let count = net.wait(|t, cx| t.poll_write(cx, stream, rest)).unwrap();
        IoSlice::advance_slices(&mut rest, count);
    }
    assert_eq!(net.wait(|t, cx| t.poll_write(cx, stream, &[])).unwrap(), 0);
    assert_eq!(net.wait(|t, cx| t.poll_write(cx, stream, &[IoSlice::new(b"")])).unwrap(), 0);
    net.transport.close(stream);
    net.settle();
    assert!(reader.join().unwrap() == whole, "the parts arrived in another order");
}

fn small_pushes_and_writes_keep_their_order(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let mut whole = Vec::new();
    for number in 0..3000_u32 {
        let bytes = format!("{number},");
        whole.extend(bytes.as_bytes());
        if number % 3 == 0 {
            push(&mut net, stream, bytes.as_bytes()).unwrap();
        } else {
            write_all(&mut net, stream, bytes.as_bytes()).unwrap();
        }
        if number % 100 == 0 {
            let large = patterned(40_000);
            whole.extend(&large);
            write_all(&mut net, stream, &large[..30_000]).unwrap();
            push(&mut net, stream, &large[30_000..]).unwrap();
        }
        if number % 7 == 0 {
            net.turn();
        }
    }
    push(&mut net, stream, b"").unwrap();
    net.transport.close(stream);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    net.settle();
    assert!(reader.join().unwrap() == whole, "the bytes arrived in another order");
}

fn readable_and_writable_wait_for_what_they_say(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    net.wait(|t, cx| t.poll_writable(cx, stream)).unwrap();
    let flag = net.flag();
    for _ in 0..3 {
        net.turn();
        assert!(net.poll_with(&flag, |t, cx| t.poll_readable(cx, stream)).is_pending());
    }
    peer.write_all(b"x").unwrap();
    net.wait(|t, cx| t.poll_readable(cx, stream)).unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 1), b"x");
    let sent = push_until_full(&mut net, stream, &patterned(60_000));
    assert!(net.poll_with(&flag, |t, cx| t.poll_writable(cx, stream)).is_pending());
    let reader = thread::spawn(move || {
        let mut left = sent;
        let mut bytes = vec![0; 1 << 16];
        while left > 0 {
            left -= peer.read(&mut bytes).unwrap();
        }
        peer
    });
    net.wait(|t, cx| t.poll_writable(cx, stream)).unwrap();
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    drop(reader.join().unwrap());
    net.transport.close(stream);
    net.settle();
}

fn drained_waits_for_the_kernel_to_take_the_bytes(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    let sent = push_until_full(&mut net, stream, &patterned(60_000));
    let flag = net.flag();
    assert!(net.poll_with(&flag, |t, cx| t.poll_drained(cx, stream)).is_pending());
    net.transport.shutdown(stream, Shutdown::Write).unwrap();
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got.len()
    });
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    assert_eq!(reader.join().unwrap(), sent);
    net.transport.close(stream);
    net.settle();
}

fn a_connection_we_opened_waits_for_a_peer_that_reads_late(open: Open) {
    let mut net = open(Limits::default());
    let listener = TcpListener::bind(V4).unwrap();
    let remote = listener.local_addr().unwrap();
    let stream = net.transport.connect(remote, None, &StreamOptions::default()).unwrap();
    net.wait(|t, cx| t.poll_connect(cx, stream)).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    let sent = push_until_full(&mut net, stream, &patterned(60_000));
    let flag = net.flag();
    assert!(net.poll_with(&flag, |t, cx| t.poll_drained(cx, stream)).is_pending());
    net.transport.shutdown(stream, Shutdown::Write).unwrap();
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got.len()
    });
    net.wait(|t, cx| t.poll_drained(cx, stream)).unwrap();
    assert_eq!(reader.join().unwrap(), sent);
    net.transport.close(stream);
    net.settle();
}

fn closing_delivers_what_is_queued(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let part = patterned(60_000);
    let sent = push_until_full(&mut net, stream, &part);
    net.transport.close(stream);
    let usage = net.transport.usage();
    assert_eq!((usage.streams, usage.closing, usage.descriptors), (1, 1, 1));
    assert_eq!(pop(&mut net, stream).unwrap_err().kind(), ErrorKind::NotConnected);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    net.settle();
    let got = reader.join().unwrap();
    assert_eq!(got.len(), sent);
    assert!(got.chunks(part.len()).all(|chunk| chunk == part), "what was delivered is what was pushed");
}

fn a_closed_connection_whose_peer_never_reads_is_given_up(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    push_until_full(&mut net, stream, &patterned(60_000));
    assert_eq!(net.transport.deadline(), None);
    net.transport.close(stream);
    let deadline = net.transport.deadline().expect("a closing connection has a deadline");
    net.transport.poll(deadline - Duration::from_nanos(1)).unwrap();
    assert_eq!(net.transport.usage().closing, 1);
    net.transport.poll(deadline).unwrap();
    net.settle();
    assert_eq!(net.transport.deadline(), None);
    let lost = std::iter::repeat_with(|| peer.read(&mut [0; 60_000])).find(|got| !matches!(got, Ok(1..)));
    assert_eq!(lost.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn options_are_taken_and_reported(open: Open) {
    let mut net = open(Limits::default());
    let mut listen_options = ListenOptions::default();
    listen_options.stream.nodelay = true;
    let listener = net.transport.listen(V4.parse().unwrap(), &listen_options).unwrap();
    let peer = TcpStream::connect(net.transport.listener_addr(listener).unwrap()).unwrap();
    let stream = accept(&mut net, listener);
    let mut options = net.transport.stream_options(stream).unwrap();
    assert!(options.nodelay, "accepted connections start with the listener's options");
    options.nodelay = false;
    options.ttl = Some(12);
    options.tos = 0x10;
    options.keepalive = Some(Default::default());
    options.user_timeout = Some(Duration::from_secs(3));
    net.transport.set_stream_options(stream, &options).unwrap();
    assert_eq!(net.transport.stream_options(stream).unwrap(), options);
    options.congestion = Some(CongestionControl::None);
    let error = net.transport.set_stream_options(stream, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let (datagram, _) = bind(&mut net, V6);
    let mut options = net.transport.datagram_options(datagram).unwrap();
    options.broadcast = true;
    options.ttl = Some(3);
    net.transport.set_datagram_options(datagram, &options).unwrap();
    assert_eq!(net.transport.datagram_options(datagram).unwrap(), options);
    drop(peer);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.transport.close_datagram(datagram);
    net.settle();
}

fn tcp_info_describes_the_connection(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    peer.write_all(&[7; 1000]).unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 1000).len(), 1000);
    let info = net.transport.tcp_info(stream).unwrap();
    assert_eq!(info.state, TcpState::Established);
    assert_eq!((info.bytes_received, info.unread_bytes), (1000, 0));
    assert!(info.send_mss_bytes > 0 && info.cwnd_bytes > 0 && info.rto_us > 0, "{info:?}");
    assert!(net.transport.take_error(stream).unwrap().is_none());
    net.transport.close(stream);
    net.settle();
}

fn a_pop_takes_no_more_than_asked(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let sent = patterned(10_000);
    peer.write_all(&sent).unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let part = net.wait(|t, cx| t.poll_pop(cx, stream, 999)).unwrap().unwrap();
        assert!((1..=999).contains(&part.len()), "{} bytes", part.len());
        got.extend_from_slice(&part);
    }
    assert!(got == sent, "the parts make the whole");
    net.transport.close(stream);
    net.settle();
}

fn an_empty_pool_waits_for_a_slot(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let pool = net.transport.pool().clone();
    let mut hoard: Vec<_> = std::iter::from_fn(|| pool.alloc(1)).collect();
    let sent = patterned(3 << 20);
    let copy = sent.clone();
    let writer = thread::spawn(move || {
        peer.write_all(&copy).unwrap();
        peer
    });
    let mut got = Vec::new();
    while got.len() < sent.len() {
        let part = net.wait(|t, cx| {
            let part = t.poll_pop(cx, stream, usize::MAX);
            if part.is_pending() {
                // A slot comes back, as when the application drops what it had.
                hoard.pop();
            }
            part
        });
        got.extend_from_slice(&part.unwrap().unwrap());
    }
    assert!(got == sent, "what arrived is what was sent");
    drop(writer.join().unwrap());
    net.transport.close(stream);
    net.settle();
}

fn a_reader_that_pauses_holds_the_peer_back(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let sent = patterned(16 << 20);
    peer.set_nonblocking(true).unwrap();
    // What the peer may send while nobody reads is bounded by the kernel's buffers and by a few slots.
    let mut at = 0;
    let mut refusals = 0;
    while refusals < 5 {
        match peer.write(&sent[at..]) {
            Ok(count) => (at, refusals) = (at + count, 0),
            Err(_) => refusals += 1,
        }
        net.turn();
    }
    assert!(at < sent.len(), "nobody read, and yet all {at} bytes were taken");
    assert!(net.transport.pool().stats().slots_out < 2048, "{:?}", net.transport.pool().stats());
    peer.set_nonblocking(false).unwrap();
    let rest = sent[at..].to_vec();
    let writer = thread::spawn(move || {
        peer.write_all(&rest).unwrap();
        peer
    });
    assert!(pop_exactly(&mut net, stream, sent.len()) == sent, "what arrived is what was sent");
    drop(writer.join().unwrap());
    net.transport.close(stream);
    net.settle();
}

fn received_views_are_as_large_as_the_flow(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let small = net.transport.pool().small_capacity();
    for _ in 0..3 {
        let sent = patterned(8 << 20);
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            peer.write_all(&copy).unwrap();
            peer
        });
        let (mut got, mut largest) = (Vec::new(), 0);
        while got.len() < sent.len() {
            let part = pop(&mut net, stream).unwrap().expect("the stream goes on");
            largest = largest.max(part.len());
            got.extend(part);
        }
        assert!(got == sent, "what arrived is what was sent");
        assert!(largest > small, "eight mebibytes came in views of at most {largest} bytes");
        peer = writer.join().unwrap();
        for round in 0..50_u8 {
            peer.write_all(&[round; 100]).unwrap();
            let part =
                net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).unwrap().expect("the stream goes on");
            assert_eq!(&part[..], [round; 100]);
        }
        // Nothing small keeps a large slot.
        peer.write_all(b"held").unwrap();
        let taken = net.transport.pool().stats().large_slots_out;
        let held = net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).unwrap();
        assert_eq!(net.transport.pool().stats().large_slots_out, taken);
        drop(held);
    }
    drop(peer);
    net.transport.close(stream);
    net.settle();
}

fn a_small_pool_serves_many_connections(open: Open) {
    serve_many(open(Limits { slots: Some(32), ..Limits::default() }));
}

fn a_small_ring_serves_many_connections(open: Open) {
    serve_many(open(Limits { entries: Some(8), ..Limits::default() }));
}

/// Echoes what forty peers send at once.
fn serve_many(mut net: Driver) {
    let (listener, address) = listen(&mut net, V4);
    let peers: Vec<_> = (0..40_u8)
        .map(|number| {
            thread::spawn(move || {
                let mut peer = TcpStream::connect(address).unwrap();
                let mut reader = peer.try_clone().unwrap();
                let sent: Vec<u8> = patterned(50_000).iter().map(|byte| byte ^ number).collect();
                let copy = sent.clone();
                let writer = thread::spawn(move || {
                    peer.write_all(&copy).unwrap();
                    peer.shutdown(Shutdown::Write).unwrap();
                });
                let mut got = Vec::new();
                reader.read_to_end(&mut got).unwrap();
                writer.join().unwrap();
                assert!(got == sent, "connection {number} got back what it sent");
            })
        })
        .collect();
    // One task's work for all connections, as fair as a loop over them is.
    let flag = net.flag();
    let (mut open_ones, mut left) = (Vec::new(), peers.len());
    while left > 0 {
        while let Poll::Ready(accepted) = net.poll_with(&flag, |t, cx| t.poll_accept(cx, listener)) {
            open_ones.push((accepted.unwrap().0, None));
        }
        for (stream, kept) in &mut open_ones {
            if kept.is_none() {
                match net.poll_with(&flag, |t, cx| t.poll_pop(cx, *stream, usize::MAX)) {
                    Poll::Ready(Ok(Some(buf))) => *kept = Some(buf),
                    Poll::Ready(Ok(None)) => {
                        net.transport.close(*stream);
                        left -= 1;
                    }
                    Poll::Ready(Err(error)) if error.kind() == ErrorKind::NotConnected => {}
                    Poll::Ready(Err(error)) => panic!("{error}"),
                    Poll::Pending => {}
                }
            }
            if kept.is_some()
                && let Poll::Ready(result) = net.poll_with(&flag, |t, cx| t.poll_push(cx, *stream, kept))
            {
                result.unwrap();
            }
        }
        net.turn();
    }
    for peer in peers {
        peer.join().unwrap();
    }
    drop(open_ones);
    net.transport.close_listener(listener);
    net.settle();
}

// ---- datagrams ----

fn datagrams_are_echoed_over_both_families(open: Open) {
    for address in [V4, V6] {
        let mut net = open(Limits::default());
        let (socket, here) = bind(&mut net, address);
        let peer = UdpSocket::bind(address).unwrap();
        for round in 0..100_u8 {
            peer.send_to(&[round; 100], here).unwrap();
            let (buf, from) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
            assert_eq!((&buf[..], from), (&[round; 100][..], peer.local_addr().unwrap()));
            let mut buf = Some(buf);
            net.wait(|t, cx| t.poll_send_to(cx, socket, &mut buf, Some(from))).unwrap();
            assert!(buf.is_none(), "a sent view is the transport's");
            net.turn();
            let mut back = [0; 200];
            assert_eq!(peer.recv_from(&mut back).unwrap(), (100, here));
            assert_eq!(back[..100], [round; 100]);
        }
        peer.send_to(b"", here).unwrap();
        let (empty, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
        assert_eq!(empty.len(), 0);
        net.transport.close_datagram(socket);
        net.settle();
    }
}

fn a_connected_datagram_socket_hears_its_peer_only(open: Open) {
    let mut net = open(Limits::default());
    let (socket, here) = bind(&mut net, V4);
    let (friend, stranger) = (UdpSocket::bind(V4).unwrap(), UdpSocket::bind(V4).unwrap());
    assert_eq!(net.transport.datagram_peer(socket).unwrap_err().kind(), ErrorKind::NotConnected);
    net.transport.connect_datagram(socket, Some(friend.local_addr().unwrap())).unwrap();
    assert_eq!(net.transport.datagram_peer(socket).unwrap(), friend.local_addr().unwrap());
    stranger.send_to(b"spam", here).unwrap();
    friend.send_to(b"hello", here).unwrap();
    let (buf, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
    assert_eq!(&buf[..], b"hello");
    let mut buf = Some(buf);
    net.wait(|t, cx| t.poll_send_to(cx, socket, &mut buf, None)).unwrap();
    net.turn();
    let mut back = [0; 10];
    assert_eq!(friend.recv(&mut back).unwrap(), 5);
    net.transport.connect_datagram(socket, None).unwrap();
    assert_eq!(net.transport.datagram_peer(socket).unwrap_err().kind(), ErrorKind::NotConnected);
    stranger.send_to(b"welcome", here).unwrap();
    let (buf, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
    assert_eq!(&buf[..], b"welcome");
    net.transport.close_datagram(socket);
    net.settle();
}

fn a_refused_datagram_is_reported(open: Open) {
    let mut net = open(Limits::default());
    let (socket, _) = bind(&mut net, V4);
    let vacant = UdpSocket::bind(V4).unwrap().local_addr().unwrap();
    net.transport.connect_datagram(socket, Some(vacant)).unwrap();
    let mut buf = net.transport.pool().copy_from_slice(b"anybody?");
    net.wait(|t, cx| t.poll_send_to(cx, socket, &mut buf, None)).unwrap();
    let error = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // The socket lives on.
    let friend = UdpSocket::bind(vacant).unwrap();
    friend.send_to(b"here I am", net.transport.datagram_addr(socket).unwrap()).unwrap();
    assert_eq!(&net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap().0[..], b"here I am");
    net.transport.close_datagram(socket);
    net.settle();
}

fn peeking_at_a_datagram_leaves_it(open: Open) {
    let mut net = open(Limits::default());
    let (socket, here) = bind(&mut net, V4);
    let peer = UdpSocket::bind(V4).unwrap();
    let flag = net.flag();
    assert!(net.poll_with(&flag, |t, cx| t.poll_datagram_readable(cx, socket)).is_pending());
    peer.send_to(b"one", here).unwrap();
    peer.send_to(b"two", here).unwrap();
    net.wait(|t, cx| t.poll_datagram_readable(cx, socket)).unwrap();
    net.wait(|t, cx| t.poll_datagram_writable(cx, socket)).unwrap();
    for _ in 0..3 {
        let (shown, from) = net.wait(|t, cx| t.poll_peek_from(cx, socket)).unwrap();
        assert_eq!((&shown[..], from), (&b"one"[..], peer.local_addr().unwrap()));
    }
    assert_eq!(&net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap().0[..], b"one");
    assert_eq!(&net.wait(|t, cx| t.poll_peek_from(cx, socket)).unwrap().0[..], b"two");
    assert_eq!(&net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap().0[..], b"two");
    net.transport.close_datagram(socket);
    net.settle();
}

fn datagrams_of_any_size_arrive_whole(open: Open) {
    let mut net = open(Limits::default());
    let (socket, here) = bind(&mut net, V4);
    let peer = UdpSocket::bind(V4).unwrap();
    let small = net.transport.pool().small_capacity();
    for len in [1, 1472, small - 45, small - 44, small - 1, small, small + 1, 9000, 65_507] {
        let sent = patterned(len);
        peer.send_to(&sent, here).unwrap();
        let (shown, _) = net.wait(|t, cx| t.poll_peek_from(cx, socket)).unwrap();
        assert!(shown[..] == sent[..], "{len} bytes shown whole, not {}", shown.len());
        let (got, _) = net.wait(|t, cx| t.poll_recv_from(cx, socket)).unwrap();
        assert!(got[..] == sent[..], "{len} bytes arrive whole, not {}", got.len());
        let mut got = Some(got);
        let to = Some(peer.local_addr().unwrap());
        net.wait(|t, cx| t.poll_send_to(cx, socket, &mut got, to)).unwrap();
        net.turn();
        let mut back = vec![0; 1 << 16];
        assert_eq!(peer.recv(&mut back).unwrap(), len);
    }
    let mut too_long = net.transport.pool().copy_from_slice(&patterned(65_508));
    let to = Some(peer.local_addr().unwrap());
    let error = net.wait(|t, cx| t.poll_send_to(cx, socket, &mut too_long, to)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    net.transport.close_datagram(socket);
    net.settle();
}

// ---- the transport as a whole ----

fn dropped_waits_lose_nothing(open: Open) {
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let total = 200_000;
    let peer = thread::spawn(move || {
        let mut peer = TcpStream::connect(address).unwrap();
        let mut reader = peer.try_clone().unwrap();
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        let sent = patterned(total);
        for part in sent.chunks(1111) {
            peer.write_all(part).unwrap();
            thread::yield_now();
        }
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(reader.join().unwrap() == sent, "every byte came back, once and in order");
    });
    // Each wait is polled once with a waker that nobody keeps, then dropped and started anew: what was there for it must
    // be there for its successor.
    let stream = loop {
        let flag = net.flag();
        if let Poll::Ready(accepted) = net.poll_with(&flag, |t, cx| t.poll_accept(cx, listener)) {
            break accepted.unwrap().0;
        }
        drop(flag);
        net.turn();
    };
    let mut back = VecDeque::new();
    let (mut popped, mut pushed) = (0, 0);
    while pushed < total {
        let flag = net.flag();
        if popped < total
            && let Poll::Ready(got) = net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 700))
        {
            let buf = got.unwrap().expect("the stream goes on");
            popped += buf.len();
            back.push_back(buf);
        }
        if let Some(buf) = back.pop_front() {
            let len = buf.len();
            let mut given = Some(buf);
            match net.poll_with(&flag, |t, cx| t.poll_push(cx, stream, &mut given)) {
                Poll::Ready(result) => {
                    result.unwrap();
                    pushed += len;
                }
                Poll::Pending => {
                    let kept = given.expect("a push that waits has taken nothing");
                    assert_eq!(kept.len(), len);
                    back.push_front(kept);
                }
            }
        }
        drop(flag);
        net.turn();
    }
    assert_eq!(pop(&mut net, stream).unwrap(), None);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.settle();
    peer.join().unwrap();
}

fn a_watched_descriptor_ends_the_park(open: Open) {
    let mut net = open(Limits::default());
    let (mut bell, ringer) = std::os::unix::net::UnixStream::pair().unwrap();
    net.transport.watch(bell.as_raw_fd()).unwrap();
    for _ in 0..3 {
        let ringer = ringer.try_clone().unwrap();
        let ring = thread::spawn(move || (&ringer).write_all(b"!").unwrap());
        // Without the bell this would wait for ever.
        net.transport.park(None).unwrap();
        ring.join().unwrap();
        // It goes on ringing until somebody reads it.
        net.turn();
        net.transport.park(None).unwrap();
        bell.read_exact(&mut [0; 1]).unwrap();
        net.turn();
        net.turn();
        net.transport.park(Some(Duration::from_micros(10))).unwrap();
    }
}

fn a_descriptor_no_longer_watched_does_not_end_the_park(open: Open) {
    let mut net = open(Limits::default());
    let (bell, ringer) = std::os::unix::net::UnixStream::pair().unwrap();
    net.transport.watch(bell.as_raw_fd()).unwrap();
    net.transport.park(Some(Duration::from_micros(10))).unwrap();
    net.transport.unwatch(bell.as_raw_fd());
    while net.turn() > 0 {}
    // What the kernel has to say of the poll that was under way ends a park, once.
    net.transport.park(Some(Duration::from_micros(10))).unwrap();
    while net.turn() > 0 {}
    (&ringer).write_all(b"!").unwrap();
    // A wait may end early for reasons of its own; with the bell, each would.
    let limit = Duration::from_millis(5);
    let lasts = (0..100).any(|_| {
        let start = std::time::Instant::now();
        net.transport.park(Some(limit)).unwrap();
        net.turn();
        start.elapsed() >= limit
    });
    assert!(lasts, "every wait was ended");
    net.transport.unwatch(bell.as_raw_fd());
    net.settle();
}

fn the_wait_descriptor_tells_that_something_came(open: Open) {
    let mut net = open(Limits::default());
    let (stream, mut peer) = pair(&mut net);
    let flag = net.flag();
    for round in 0..3 {
        assert!(net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 100)).is_pending());
        while net.turn() > 0 {}
        let fd =
            net.transport.wait_fd().expect("a kernel transport can be waited for from outside").as_raw_fd();
        assert!(!support::is_readable(fd, 0), "round {round}: nothing has come");
        peer.write_all(b"ping").unwrap();
        assert!(support::is_readable(fd, 10_000), "round {round}: something has come");
        assert_eq!(pop_exactly(&mut net, stream, 4), b"ping");
    }
    net.transport.close(stream);
    net.settle();
}

fn a_transport_is_dropped_with_everything_open(open: Open) {
    let _alone = support::alone();
    let before = descriptors();
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let mut peers = Vec::new();
    let flag = net.flag();
    for index in 0..20 {
        let mut peer = TcpStream::connect(address).unwrap();
        peer.write_all(&patterned(5000)).unwrap();
        let stream = accept(&mut net, listener);
        match index % 4 {
            // A reader that waits, after some bytes were taken.
            0 => {
                drop(pop_exactly(&mut net, stream, 5000));
                assert!(net.poll_with(&flag, |t, cx| t.poll_pop(cx, stream, 10)).is_pending());
            }
            // A writer that waits, with everything full.
            1 => drop(push_until_full(&mut net, stream, &patterned(60_000))),
            // Closed with bytes on the way.
            2 => {
                push_until_full(&mut net, stream, &patterned(60_000));
                net.transport.close(stream);
            }
            // Accepted and left alone.
            _ => {}
        }
        peers.push(peer);
    }
    let (socket, _) = bind(&mut net, V4);
    assert!(net.poll_with(&flag, |t, cx| t.poll_recv_from(cx, socket)).is_pending());
    // A connection attempt that nobody answers, where the machine has a route for it at all.
    let nowhere = "203.0.113.1:9".parse().unwrap();
    if let Ok(stream) = net.transport.connect(nowhere, None, &StreamOptions::default()) {
        let _ = net.poll_with(&flag, |t, cx| t.poll_connect(cx, stream));
    }
    let pool = net.transport.pool().clone();
    let kept = pool.copy_from_slice(b"outlives its transport").unwrap();
    drop(net);
    assert_eq!(&kept[..], b"outlives its transport");
    let stats = pool.stats();
    assert_eq!((stats.slots_out, stats.large_slots_out), (1, 0), "every other slot came back");
    // Nothing the peers do now reaches memory that was the transport's.
    let slots: Vec<_> = std::iter::from_fn(|| pool.copy_from_slice(&[0xa5; 1792])).collect();
    for peer in &mut peers {
        let _ = peer.write(&patterned(5000));
    }
    drop(peers);
    assert!(slots.iter().all(|slot| slot.iter().all(|byte| *byte == 0xa5)));
    assert_eq!(descriptors(), before);
}

fn running_out_of_descriptors_is_told_and_survived(open: Open) {
    let _alone = support::alone();
    let few = support::few_descriptors();
    let mut net = open(Limits::default());
    let (listener, address) = listen(&mut net, V4);
    let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    net.turn();
    let taken = few.take_all();
    peer.connect(&address.into()).unwrap();
    let error = net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap_err();
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    let error = net.transport.connect(address, None, &StreamOptions::default()).unwrap_err();
    assert!(error.to_string().contains("ulimit -n"), "{error}");
    drop(taken);
    let stream = accept(&mut net, listener);
    peer.send(b"patience").unwrap();
    assert_eq!(pop_exactly(&mut net, stream, 8), b"patience");
    drop(peer);
    net.transport.close(stream);
    net.transport.close_listener(listener);
    net.settle();
}

fn the_limit_of_sockets_is_an_error_with_a_cure(open: Open) {
    let mut net = open(Limits { sockets: Some(2), ..Limits::default() });
    let (listener, address) = listen(&mut net, V4);
    let _peers = [TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap()];
    let first = accept(&mut net, listener);
    let error = net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("max_sockets"), "{error}");
    let error = net.transport.bind_datagram(V4.parse().unwrap(), &DatagramOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    // The one that found no room is still in the queue.
    net.transport.close(first);
    while net.transport.usage().streams > 0 {
        net.turn();
    }
    let second = accept(&mut net, listener);
    net.transport.close(second);
    net.transport.close_listener(listener);
    net.settle();
}
