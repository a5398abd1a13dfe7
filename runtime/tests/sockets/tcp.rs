//! TCP: connections, the ways to read and write, their ends, and what goes wrong.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use demi::io::Interest;
use demi::net::{KeepAlive, TcpListener, TcpStream};
use futures_util::{AsyncBufReadExt, StreamExt};

use super::support::{here, on_each, pair, pattern, poll_once, read_to_end, tight_pair};

#[test]
fn a_megabyte_comes_back_as_it_went_by_push_and_pop() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        let echo = demi::spawn(async move {
            while let Some(buf) = server.pop().await.unwrap() {
                server.push(buf).await.unwrap();
            }
        });
        let sent = pattern(1 << 20);
        let (mut read, mut write) = client.split();
        let writing = async {
            for chunk in sent.chunks(1500) {
                let mut buf = demi::alloc(chunk.len()).await.unwrap();
                buf.put_slice(chunk);
                write.push(buf.freeze()).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let reading = async {
            let mut all = Vec::new();
            while let Some(buf) = read.pop().await.unwrap() {
                all.extend_from_slice(&buf);
            }
            all
        };
        let ((), received) = futures_util::join!(writing, reading);
        assert!(received == sent, "the stream changed on its way");
        echo.await.unwrap();
    });
}

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut server).await.unwrap(), b"question");
        assert!(server.pop().await.unwrap().is_none(), "the end stays the end");
        assert_eq!(server.read(&mut [0; 4]).await.unwrap(), 0);
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(read_to_end(&mut client).await.unwrap(), b"answer");
        assert_eq!(client.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn several_slices_are_written_and_read_in_order() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        let slices = [IoSlice::new(b"one"), IoSlice::new(b""), IoSlice::new(b"two"), IoSlice::new(b"three")];
        assert_eq!(futures_util::AsyncWriteExt::write_vectored(&mut client, &slices).await.unwrap(), 11);
        server.readable().await.unwrap();
        let (mut a, mut b) = ([0; 4], [0; 20]);
        let mut into = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(futures_util::AsyncReadExt::read_vectored(&mut server, &mut into).await.unwrap(), 11);
        assert_eq!((&a, &b[..7]), (b"onet", &b"wothree"[..]));
        assert_eq!(server.try_write_vectored(&slices).unwrap(), 11);
        client.readable().await.unwrap();
        let mut into = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(client.try_read_vectored(&mut into).unwrap(), 11);
    });
}

#[test]
fn peeking_leaves_the_bytes_to_be_read() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        client.write_all(b"hello").await.unwrap();
        let mut seen = [0; 3];
        for _ in 0..2 {
            assert_eq!(server.peek(&mut seen).await.unwrap(), 3);
            assert_eq!(&seen, b"hel");
        }
        assert_eq!(&server.pop_max(2).await.unwrap().unwrap()[..], b"he");
        assert_eq!(server.peek(&mut seen).await.unwrap(), 3);
        assert_eq!(&seen, b"llo");
        assert_eq!(server.read(&mut [0; 9]).await.unwrap(), 3);
    });
}

#[test]
fn reading_by_lines_shows_the_received_memory_and_mixes_with_other_reads() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        client.write_all(b"first\nsecond\nrest").await.unwrap();
        client.shutdown().await.unwrap();
        let mut line = String::new();
        AsyncBufReadExt::read_line(&mut server, &mut line).await.unwrap();
        assert_eq!(line, "first\n");
        // The rest of what was shown is still there for every other way to read.
        let mut three = [0; 3];
        server.readable().await.unwrap();
        assert_eq!(server.try_read(&mut three).unwrap(), 3);
        assert_eq!(&three, b"sec");
        assert_eq!(server.peek(&mut three).await.unwrap(), 3);
        assert_eq!(&three, b"ond");
        line.clear();
        AsyncBufReadExt::read_line(&mut server, &mut line).await.unwrap();
        assert_eq!(line, "ond\n");
        assert_eq!(read_to_end(&mut server).await.unwrap(), b"rest");
        assert!(AsyncBufReadExt::fill_buf(&mut server).await.unwrap().is_empty(), "the end");
    });
}

#[test]
fn what_would_wait_says_so() {
    on_each(|| async {
        let (client, mut server) = pair().await;
        let mut dst = [0; 8];
        assert_eq!(server.try_read(&mut dst).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(server.try_pop().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(poll_once(server.readable()).is_none());
        let both = Interest::READABLE | Interest::WRITABLE;
        let ready = server.ready(both).await.unwrap();
        assert!(ready.is_writable() && !ready.is_readable(), "{ready:?}");

        client.writable().await.unwrap();
        assert_eq!(client.try_write(b"x").unwrap(), 1);
        server.readable().await.unwrap();
        let ready = server.ready(both).await.unwrap();
        assert!(ready.is_readable(), "{ready:?}");
        assert_eq!(server.try_read(&mut dst).unwrap(), 1);
        assert_eq!(server.read(&mut []).await.unwrap(), 0, "an empty read does not wait");
    });
}

#[test]
fn a_full_send_buffer_says_so_and_keeps_the_buffer() {
    on_each(|| async {
        let (client, mut server) = tight_pair().await;
        let mut sent = 0;
        let waiting = loop {
            let mut buf = Some(demi::io::copy_of(&[7; 1000]).unwrap());
            match client.try_push(&mut buf) {
                Ok(()) => sent += 1000,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break buf;
                }
            }
        };
        assert_eq!(waiting.as_deref(), Some(&[7; 1000][..]), "what was not sent is still here");
        let reader = demi::spawn(async move { read_to_end(&mut server).await.unwrap().len() });
        client.writable().await.unwrap();
        client.drained().await.unwrap();
        drop(client);
        assert_eq!(reader.await.unwrap(), sent);
    });
}

#[test]
fn nobody_listening_is_connection_refused() {
    on_each(|| async {
        let free = std::net::TcpListener::bind(here()).unwrap().local_addr().unwrap();
        let error = TcpStream::connect(free).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(&free.to_string()), "{error}");

        let listener = TcpListener::bind(here()).await.unwrap();
        let both = [free, listener.local_addr().unwrap()];
        let stream = TcpStream::connect(&both[..]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), both[1], "the next address is tried");
    });
}

#[test]
fn an_address_in_use_is_said_with_the_address() {
    on_each(|| async {
        let listener = TcpListener::bind(here()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let error = TcpListener::bind(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        drop(listener);
        TcpListener::bind(addr).await.expect("free again");
        let error = TcpListener::bind("192.0.2.1:0").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    });
}

#[test]
fn five_hundred_connections_talk_at_once() {
    on_each(|| async {
        let listener = TcpListener::bind(here()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = demi::spawn(async move {
            for _ in 0..500 {
                let (mut stream, _) = listener.accept().await.unwrap();
                demi::spawn(async move {
                    while let Some(buf) = stream.pop().await.unwrap() {
                        stream.push(buf).await.unwrap();
                    }
                });
            }
        });
        let clients: Vec<_> = (0..500_u32)
            .map(|number| {
                demi::spawn(async move {
                    let mut stream = TcpStream::connect(addr).await.unwrap();
                    for round in 0..4_u32 {
                        let sent = (number * 7 + round).to_be_bytes();
                        stream.write_all(&sent).await.unwrap();
                        let mut received = [0; 4];
                        stream.read_exact(&mut received).await.unwrap();
                        assert_eq!(sent, received);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        server.await.unwrap();
    });
}

#[test]
fn tasks_that_accept_from_one_listener_all_get_their_turn() {
    on_each(|| async {
        let listener = Rc::new(TcpListener::bind(here()).await.unwrap());
        let addr = listener.local_addr().unwrap();
        let acceptors: Vec<_> = (0..8)
            .map(|_| {
                let listener = listener.clone();
                demi::spawn(async move { listener.accept().await.unwrap().1 })
            })
            .collect();
        demi::task::yield_now().await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        let mut accepted = Vec::new();
        for acceptor in acceptors {
            accepted.push(acceptor.await.unwrap());
        }
        let mut connected: Vec<SocketAddr> = clients.iter().map(|c| c.local_addr().unwrap()).collect();
        accepted.sort();
        connected.sort();
        assert_eq!(accepted, connected);
    });
}

#[test]
fn a_listener_is_a_stream_of_connections() {
    on_each(|| async {
        let listener = TcpListener::bind(here()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let clients = [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
        let servers: Vec<_> = listener.incoming().take(2).map(Result::unwrap).collect().await;
        for (client, server) in clients.iter().zip(&servers) {
            assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
        }
    });
}

#[test]
fn options_are_put_in_force_and_read_back() {
    on_each(|| async {
        let (client, server) = pair().await;
        assert!(!client.nodelay().unwrap());
        client.set_nodelay(true).unwrap();
        assert!(client.nodelay().unwrap());
        // An adapter speaks no TCP, and acknowledges by itself.
        let is_tcp = !client.device().starts_with("rdma:");
        for quickack in [true, false, true].into_iter().filter(|_| is_tcp) {
            client.set_quickack(quickack).unwrap();
            assert_eq!(client.quickack().unwrap(), quickack);
        }
        if is_tcp {
            client.set_ttl(9).unwrap();
            assert_eq!(client.ttl().unwrap(), 9);
        }
        assert_eq!(client.set_ttl(0).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(client.set_ttl(256).unwrap_err().kind(), ErrorKind::InvalidInput);
        let keepalive =
            KeepAlive { idle: Duration::from_secs(9), interval: Duration::from_secs(3), probes: 4 };
        client.set_keepalive(Some(keepalive)).unwrap();
        assert_eq!(client.keepalive().unwrap(), Some(keepalive));
        client.set_linger(Some(Duration::from_secs(1))).unwrap();
        assert_eq!(client.linger().unwrap(), Some(Duration::from_secs(1)));
        assert!(server.take_error().unwrap().is_none());
        assert!(
            ["posix", "uring", "wire:0", "rdma:rxe0"].contains(&server.device().as_str()),
            "{}",
            server.device()
        );
        if is_tcp {
            assert_eq!(client.info().unwrap().state, demi::net::TcpState::Established);
        }
        assert_eq!(client.options().unwrap().keepalive, Some(keepalive));
    });
}

#[test]
fn an_abort_resets_and_a_half_close_ends() {
    on_each(|| async {
        let (client, mut server) = pair().await;
        client.abort();
        assert_eq!(server.pop().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

        let (client, mut server) = pair().await;
        client.half_close(Shutdown::Write).unwrap();
        assert!(server.pop().await.unwrap().is_none());
        client.half_close(Shutdown::Write).unwrap();
    });
}

#[test]
fn closing_with_bytes_unread_resets_and_with_linger_zero_too() {
    on_each(|| async {
        let (mut client, server) = pair().await;
        client.write_all(b"never read").await.unwrap();
        server.readable().await.unwrap();
        drop(server);
        assert_eq!(client.pop().await.unwrap_err().kind(), ErrorKind::ConnectionReset);

        let (client, mut server) = pair().await;
        client.set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        assert_eq!(server.pop().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_was_written_before_a_drop_is_delivered() {
    on_each(|| async {
        let (mut client, mut server) = pair().await;
        let sent = pattern(300_000);
        let expected = sent.clone();
        let writer = demi::spawn(async move {
            client.write_all(&sent).await.unwrap();
            drop(client);
        });
        assert!(read_to_end(&mut server).await.unwrap() == expected);
        writer.await.unwrap();
    });
}

#[test]
fn buffers_are_as_large_as_asked_for_or_an_error_says_why() {
    on_each(|| async {
        let (client, _server) = pair().await;
        assert!(client.alloc(60_000).await.unwrap().tailroom() >= 60_000);
        let error = client.alloc(1 << 20).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("pool_large_slot_bytes"), "{error}");
        assert_eq!(demi::buf(1 << 20).unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut all = Vec::new();
        let error = loop {
            match demi::buf(1) {
                Ok(buf) => all.push(buf),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(poll_once(demi::alloc(1)).is_none(), "it waits for one");
        all.pop();
        assert!(poll_once(demi::alloc(1)).is_some());
    });
}
