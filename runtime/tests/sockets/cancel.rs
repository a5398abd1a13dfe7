//! Cancelling: every async method is polled once and dropped, again and again, at each of its awaits, until it is ready at
//! its first poll. What was sent is what comes, whole and in order.

use std::collections::VecDeque;
use std::io::IoSlice;

use demi::net::{TcpListener, TcpStream, UdpSocket};
use futures_util::AsyncBufReadExt;

use super::support::{here, insist, on_each, pair, pattern, poll_once, read_to_end, tight_pair};

const BYTES: usize = 200_000;

/// A buffer that holds a copy of `bytes`, gone after with futures that are dropped.
async fn filled(bytes: &[u8]) -> demi::Buf {
    let (mut buf, _) = insist(async || demi::alloc(bytes.len()).await.unwrap()).await;
    buf.put_slice(bytes);
    buf.freeze()
}

/// Every cancel-safe way to write, in turn; answers how often it was dropped.
async fn write_by_every_means(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut rest = bytes;
    let mut dropped = 0;
    let mut turn = 0;
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(3000)];
        turn += 1;
        let (written, more) = match turn % 7 {
            0 => insist(async || stream.write(chunk).await.unwrap()).await,
            1 => {
                let buf = filled(chunk).await;
                let ((), more) = insist(async || stream.push(buf.clone()).await.unwrap()).await;
                (chunk.len(), more)
            }
            2 => {
                let mut buf = Some(filled(chunk).await);
                let ((), more) = insist(async || stream.push_from(&mut buf).await.unwrap()).await;
                assert!(buf.is_none());
                (chunk.len(), more)
            }
            3 => {
                let mut left = chunk;
                let ((), more) = insist(async || stream.write_from(&mut left).await.unwrap()).await;
                (chunk.len(), more)
            }
            4 => {
                let (a, b) = chunk.split_at(chunk.len() / 2);
                let slices = [IoSlice::new(a), IoSlice::new(b)];
                insist(async || stream.write_vectored(&slices).await.unwrap()).await
            }
            5 => {
                let ((), more) = insist(async || stream.writable().await.unwrap()).await;
                (stream.try_write(chunk).unwrap_or(0), more)
            }
            _ => insist(async || futures_util::AsyncWriteExt::write(stream, chunk).await.unwrap()).await,
        };
        rest = &rest[written..];
        dropped += more;
    }
    dropped + insist(async || stream.drained().await.unwrap()).await.1
}

/// Every cancel-safe way to read, in turn, to the end; answers what came, and how often it was dropped.
async fn read_by_every_means(stream: &mut TcpStream) -> (Vec<u8>, usize) {
    let mut all = Vec::new();
    let mut dropped = 0;
    for turn in 0.. {
        let mut dst = [0; 1000];
        let (count, more) = match turn % 7 {
            0 => insist(async || stream.read(&mut dst).await.unwrap()).await,
            1 | 2 => {
                let max = if turn % 7 == 1 { 700 } else { usize::MAX };
                let (buf, more) = insist(async || stream.pop_max(max).await.unwrap()).await;
                dropped += more;
                let Some(buf) = buf else { break };
                all.extend_from_slice(&buf);
                continue;
            }
            3 => {
                let (peeked, more) = insist(async || stream.peek(&mut dst).await.unwrap()).await;
                let mut again = [0; 1000];
                let count = stream.try_read(&mut again[..peeked]).unwrap();
                assert_eq!(dst[..count], again[..count], "what was peeked is what is read");
                (count, more)
            }
            4 => {
                let ((), more) = insist(async || stream.readable().await.unwrap()).await;
                (stream.try_read(&mut dst).unwrap(), more)
            }
            5 => {
                let (count, more) = insist(async || {
                    let shown = AsyncBufReadExt::fill_buf(stream).await.unwrap();
                    let count = shown.len().min(500);
                    dst[..count].copy_from_slice(&shown[..count]);
                    count
                })
                .await;
                stream.consume_unpin(count);
                (count, more)
            }
            _ => insist(async || futures_util::AsyncReadExt::read(stream, &mut dst).await.unwrap()).await,
        };
        dropped += more;
        if count == 0 {
            break;
        }
        all.extend_from_slice(&dst[..count]);
    }
    (all, dropped)
}

#[test]
fn a_stream_read_and_written_by_cancelled_futures_is_the_same_stream() {
    on_each(|| async {
        let (mut client, mut server) = tight_pair().await;
        let sent = pattern(BYTES);
        let expected = sent.clone();
        let writer = demi::spawn(async move {
            let dropped = write_by_every_means(&mut client, &sent).await;
            client.shutdown().await.unwrap();
            dropped
        });
        let (received, reads_dropped) = read_by_every_means(&mut server).await;
        let writes_dropped = writer.await.unwrap();
        assert!(received == expected, "{} of {BYTES} bytes came, or others", received.len());
        assert!(reads_dropped > 0 && writes_dropped > 0, "nothing ever waited, so nothing was tested");
    });
}

#[test]
fn halves_of_a_stream_lose_nothing_either() {
    on_each(|| async {
        let (mut client, server) = tight_pair().await;
        let (mut read, mut write) = server.into_split();
        let echo = demi::spawn(async move {
            let mut dropped = 0;
            loop {
                let (buf, more) = insist(async || read.pop_max(900).await.unwrap()).await;
                dropped += more;
                let Some(buf) = buf else { break dropped };
                dropped += insist(async || write.push(buf.clone()).await.unwrap()).await.1;
            }
        });
        let sent = pattern(BYTES);
        let (mut read, mut write) = client.split();
        let writing = async {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                let chunk = &rest[..rest.len().min(777)];
                rest = &rest[insist(async || write.write(chunk).await.unwrap()).await.0..];
            }
            write.shutdown().await.unwrap();
        };
        let reading = async {
            let mut all = Vec::new();
            loop {
                let mut dst = [0; 512];
                match insist(async || read.read(&mut dst).await.unwrap()).await.0 {
                    0 => break all,
                    count => all.extend_from_slice(&dst[..count]),
                }
            }
        };
        let ((), received) = futures_util::join!(writing, reading);
        assert!(received == sent);
        assert!(echo.await.unwrap() > 0, "nothing ever waited");
    });
}

#[test]
fn a_cancelled_accept_leaves_the_connection_for_the_next() {
    on_each(|| async {
        let listener = TcpListener::bind(here()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        assert!(poll_once(listener.accept()).is_none());
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        for client in &clients {
            let ((_, peer), _) = insist(async || listener.accept().await.unwrap()).await;
            assert_eq!(peer, client.local_addr().unwrap());
        }
    });
}

#[test]
fn a_cancelled_connect_closes_what_it_opened() {
    on_each(|| async {
        let listener = TcpListener::bind(here()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        for _ in 0..20 {
            let _ = poll_once(TcpStream::connect(addr));
        }
        // Behind the attempts given up comes one that is not; each of the others, if it came through at all, is at its end.
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(b"here").await.unwrap();
        loop {
            let (mut server, peer) = listener.accept().await.unwrap();
            if peer == client.local_addr().unwrap() {
                assert_eq!(&server.pop().await.unwrap().unwrap()[..], b"here");
                break;
            }
            match server.pop().await {
                Ok(None) | Err(_) => {}
                Ok(Some(buf)) => panic!("{} bytes from a connection that was given up", buf.len()),
            }
        }
    });
}

#[test]
fn a_buffer_pushed_by_a_cancelled_future_was_not_sent() {
    on_each(|| async {
        let (mut client, mut server) = tight_pair().await;
        let full = demi::io::copy_of(&[1; 1000]).unwrap();
        let mut sent = 0;
        while poll_once(client.push(full.clone())).is_some() {
            sent += 1000;
        }
        assert!(full.is_unique() || sent > 0);
        let reader = demi::spawn(async move { read_to_end(&mut server).await.unwrap().len() });
        client.drained().await.unwrap();
        drop(client);
        assert_eq!(reader.await.unwrap(), sent, "exactly what was accepted");
    });
}

#[test]
fn reads_that_are_not_cancel_safe_still_leave_the_stream_in_order() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        client.write_all(b"abc").await.unwrap();
        server.readable().await.unwrap();
        let mut six = [0; 6];
        assert!(poll_once(server.read_exact(&mut six)).is_none());
        assert_eq!(&six, b"abc\0\0\0", "documented: what was read is in the caller's memory");
        client.write_all(b"def").await.unwrap();
        assert_eq!(&server.pop().await.unwrap().unwrap()[..], b"def");
    });
}

#[test]
fn datagrams_are_neither_lost_nor_doubled() {
    on_each(|| async {
        let (one, two) = (UdpSocket::bind(here()).await.unwrap(), UdpSocket::bind(here()).await.unwrap());
        let (from, to) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        one.connect(to).await.unwrap();
        for n in 0..100_u8 {
            let message = [n; 10];
            let buf = demi::io::copy_of(&message).unwrap();
            // The receiver gives up once before anything is there.
            assert!(poll_once(two.pop_from()).is_none());
            match n % 4 {
                0 => drop(insist(async || one.send(&message).await.unwrap()).await),
                1 => drop(insist(async || one.send_to(&message, to).await.unwrap()).await),
                2 => drop(insist(async || one.push(buf.clone()).await.unwrap()).await),
                _ => {
                    let mut queue = VecDeque::from([(buf, to)]);
                    insist(async || one.send_many(&mut queue).await.unwrap()).await;
                    assert!(queue.is_empty());
                }
            }
            insist(async || two.readable().await.unwrap()).await;
            let mut dst = [0; 16];
            assert_eq!(insist(async || two.peek_from(&mut dst).await.unwrap()).await.0, (10, from));
            match n % 3 {
                0 => {
                    let (got, _) = insist(async || two.recv_from(&mut dst).await.unwrap()).await;
                    assert_eq!((got, &dst[..10]), ((10, from), &message[..]));
                }
                1 => {
                    let ((buf, peer), _) = insist(async || two.pop_from().await.unwrap()).await;
                    assert_eq!((&buf[..], peer), (&message[..], from));
                }
                _ => {
                    let mut burst = Vec::new();
                    assert_eq!(insist(async || two.recv_many(&mut burst, 9).await.unwrap()).await.0, 1);
                    assert_eq!(&burst[0].0[..], &message);
                }
            }
        }
    });
}

#[test]
fn a_read_that_loses_a_race_takes_nothing() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        let sent = pattern(20_000);
        let expected = sent.clone();
        let writer = demi::spawn(async move {
            for chunk in sent.chunks(97) {
                client.write_all(chunk).await.unwrap();
                demi::task::yield_now().await;
            }
        });
        let mut received = Vec::new();
        loop {
            let mut dst = [0; 64];
            // The other branch of the race is a yield: it wins whenever the read has to wait.
            let count = {
                let read = std::pin::pin!(server.read(&mut dst));
                let other = std::pin::pin!(demi::task::yield_now());
                match futures_util::future::select(read, other).await {
                    futures_util::future::Either::Left((count, _)) => count.unwrap(),
                    futures_util::future::Either::Right(_) => continue,
                }
            };
            if count == 0 {
                break;
            }
            received.extend_from_slice(&dst[..count]);
        }
        assert!(received == expected);
        writer.await.unwrap();
    });
}
