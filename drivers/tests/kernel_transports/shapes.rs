//! Shapes that many scenarios share: short calls that wait until they are done.

use std::io::{IoSlice, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::task::Poll;
use std::thread;

use demi_drivers::transport::{DatagramId, DatagramOptions, ListenOptions, ListenerId, ReadCursor, StreamId};

use crate::support::{Driver, patterned};

/// Any port of the loopback interface.
pub(crate) const V4: &str = "127.0.0.1:0";
/// As [`V4`], in IPv6.
pub(crate) const V6: &str = "[::1]:0";

pub(crate) fn listen(net: &mut Driver, address: &str) -> (ListenerId, SocketAddr) {
    let listener = net.transport.listen(address.parse().unwrap(), &ListenOptions::default()).unwrap();
    let address = net.transport.listener_addr(listener).unwrap();
    (listener, address)
}

pub(crate) fn accept(net: &mut Driver, listener: ListenerId) -> StreamId {
    net.wait(|t, cx| t.poll_accept(cx, listener)).unwrap().0
}

/// A connection: our end, and a plain one.
pub(crate) fn pair(net: &mut Driver) -> (StreamId, TcpStream) {
    let (listener, address) = listen(net, V4);
    let peer = TcpStream::connect(address).unwrap();
    let stream = accept(net, listener);
    net.transport.close_listener(listener);
    (stream, peer)
}

pub(crate) fn bind(net: &mut Driver, address: &str) -> (DatagramId, SocketAddr) {
    let socket = net.transport.bind_datagram(address.parse().unwrap(), &DatagramOptions::default()).unwrap();
    let address = net.transport.datagram_addr(socket).unwrap();
    (socket, address)
}

pub(crate) fn pop(net: &mut Driver, stream: StreamId) -> std::io::Result<Option<Vec<u8>>> {
    net.wait(|t, cx| t.poll_pop(cx, stream, usize::MAX)).map(|buf| buf.map(|buf| buf.to_vec()))
}

pub(crate) fn pop_exactly(net: &mut Driver, stream: StreamId, len: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < len {
        let more = pop(net, stream).unwrap();
        got.extend(more.unwrap_or_else(|| panic!("the stream ended after {} of {len} bytes", got.len())));
    }
    got
}

pub(crate) fn read(net: &mut Driver, stream: StreamId, max: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; max];
    let count = net.wait(|t, cx| {
        let mut cursor = ReadCursor::new(&mut bytes);
        t.poll_read(cx, stream, &mut cursor).map_ok(|()| cursor.filled())
    })?;
    bytes.truncate(count);
    Ok(bytes)
}

pub(crate) fn push(net: &mut Driver, stream: StreamId, bytes: &[u8]) -> std::io::Result<()> {
    let mut buf = net.transport.pool().copy_from_slice(bytes);
    assert!(buf.is_some(), "the pool has a slot for {} bytes", bytes.len());
    net.wait(|t, cx| t.poll_push(cx, stream, &mut buf))
}

pub(crate) fn write_all(net: &mut Driver, stream: StreamId, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let count = net.wait(|t, cx| t.poll_write(cx, stream, &[IoSlice::new(bytes)]))?;
        assert!(count > 0, "a write that is done has written something");
        bytes = &bytes[count..];
    }
    Ok(())
}

/// Pushes `part` until a push would wait; answers how many bytes were taken.
pub(crate) fn push_until_full(net: &mut Driver, stream: StreamId, part: &[u8]) -> usize {
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

/// Fills `stream`, waits until the kernel has taken all of it, which it does once `peer` reads, and closes.
pub(crate) fn drains_once_the_peer_reads(mut net: Driver, stream: StreamId, mut peer: TcpStream) {
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
