//! Cancelling over `rdma:`: each future of a socket's is polled once and dropped, then polled twice and dropped, and so on, until one is
//! ready. What was sent is what comes, whole and in order, and in the end no buffer is missing. In a guest: `cargo xtask test --tier rdma`.
#![cfg(feature = "rdma")]

use std::io::IoSlice;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi::net::{TcpListener, TcpStream, rdma};
use demi::{Buf, Config, Drained, Runtime};

const SERVER: &str = "10.77.0.2:0";
/// Bytes that go one way.
const BYTES: usize = 120_000;
/// Who has looked so often, 10 ms apart, or asked so often, will do so in vain.
const FOREVER: usize = 12_000;

/// Whether this is a guest with `rxe0` and `rxe1` at the ends of a cable; says `SKIP` if not.
fn machine_has_rdma() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with RDMA: cargo xtask test --tier rdma");
    }
    ours
}

/// Runs `test` on a device; when it is over, all that it had is given back, and every buffer is where it was.
fn on(device: &str, test: impl AsyncFnOnce()) {
    let config = Config::new().device(device).log("off");
    let runtime = Runtime::new(config.pool_slots(1024).pool_large_slots(16).huge_pages(false)).unwrap();
    let before = runtime.usage().buffers;
    runtime.block_on(async {
        test().await;
        let begun = std::time::Instant::now();
        for _ in 0..FOREVER {
            let usage = demi::usage();
            if usage.streams == 0 && usage.in_flight == 0 && usage.buffers == before {
                println!("{device}: settled after {:?}", begun.elapsed());
                return;
            }
            demi::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} buffers at first, and in the end {}", before, demi::usage());
    });
    let drained = runtime.shut_down();
    assert!(matches!(drained, Drained::Clean), "{drained:?}");
}

/// Both ends, each in a thread and a runtime of its own; the client is told where the server listens.
fn both(server: impl AsyncFnOnce(TcpListener) + Send + 'static, client: impl AsyncFnOnce(SocketAddr)) {
    let (told, address) = mpsc::channel();
    let serving = std::thread::spawn(move || {
        on("rdma:rxe1", async move || {
            let listener = TcpListener::bind(SERVER).await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            server(listener).await;
        });
    });
    let address = address.recv().unwrap();
    on("rdma:rxe0", async move || client(address).await);
    serving.join().unwrap();
}

/// Polls a future `polls` times, with a turn of the loop between, and drops it; `None` when it would have waited on.
async fn poll_times<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    for turn in 0..polls {
        if turn > 0 {
            demi::task::yield_now().await;
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Some(output);
        }
    }
    None
}

/// Makes the same call again and again, and drops it after one poll, after two, and so on until one is ready. Answers how many were
/// dropped, too.
async fn insist<T>(mut call: impl AsyncFnMut() -> T) -> (T, usize) {
    for dropped in 0..FOREVER {
        if let Some(output) = poll_times(call(), dropped + 1).await {
            return (output, dropped);
        }
        demi::task::yield_now().await;
    }
    panic!("dropped {FOREVER} times, and never ready");
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at as u32).wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

async fn filled(bytes: &[u8]) -> Buf {
    let (mut buf, _) = insist(async || demi::alloc(bytes.len()).await.unwrap()).await;
    buf.put_slice(bytes);
    buf.freeze()
}

/// Every cancel-safe way to write, in turn, short and by rendezvous; answers how often it was dropped.
async fn write_by_every_means(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let (mut rest, mut dropped) = (bytes, 0);
    for turn in 0.. {
        if rest.is_empty() {
            break;
        }
        let chunk = &rest[..rest.len().min(if turn % 2 == 0 { 900 } else { 12_000 })];
        let (written, more) = match turn % 5 {
            0 => insist(async || stream.write(chunk).await.unwrap()).await,
            1 => {
                let buf = filled(chunk).await;
                let ((), more) = insist(async || stream.push(buf.clone()).await.unwrap()).await;
                (chunk.len(), more)
            }
            2 => {
                let mut left = chunk;
                let ((), more) = insist(async || stream.write_from(&mut left).await.unwrap()).await;
                (chunk.len(), more)
            }
            3 => {
                let (a, b) = chunk.split_at(chunk.len() / 2);
                let slices = [IoSlice::new(a), IoSlice::new(b)];
                insist(async || stream.write_vectored(&slices).await.unwrap()).await
            }
            _ => {
                let ((), more) = insist(async || stream.writable().await.unwrap()).await;
                (stream.try_write(chunk).unwrap_or(0), more)
            }
        };
        rest = &rest[written..];
        dropped += more;
    }
    dropped + insist(async || stream.drained().await.unwrap()).await.1
}

/// Every cancel-safe way to read, in turn, to the end; answers what came, and how often it was dropped.
async fn read_by_every_means(stream: &mut TcpStream) -> (Vec<u8>, usize) {
    let (mut all, mut dropped) = (Vec::new(), 0);
    for turn in 0.. {
        let mut dst = [0; 1000];
        let (count, more) = match turn % 5 {
            0 => insist(async || stream.read(&mut dst).await.unwrap()).await,
            1 | 2 => {
                let max = if turn % 5 == 1 { 700 } else { usize::MAX };
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
            _ => {
                let ((), more) = insist(async || stream.readable().await.unwrap()).await;
                (stream.try_read(&mut dst).unwrap(), more)
            }
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
    if !machine_has_rdma() {
        return;
    }
    both(
        async |listener| {
            let ((mut stream, _), _) = insist(async || listener.accept().await.unwrap()).await;
            let (received, dropped) = read_by_every_means(&mut stream).await;
            assert!(received == pattern(BYTES), "{} of {BYTES} bytes came, or others", received.len());
            assert!(dropped > 0, "no read ever waited, so nothing was tested");
            write_by_every_means(&mut stream, &received).await;
            insist(async || stream.shutdown().await.unwrap()).await;
            assert!(stream.pop().await.unwrap().is_none());
        },
        async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let sent = pattern(BYTES);
            let dropped = write_by_every_means(&mut stream, &sent).await;
            assert!(dropped > 0, "no write ever waited, so nothing was tested");
            insist(async || stream.shutdown().await.unwrap()).await;
            let (back, _) = read_by_every_means(&mut stream).await;
            assert!(back == sent, "{} of {BYTES} bytes came back, or others", back.len());
        },
    );
}

#[test]
fn connects_and_accepts_that_are_cancelled_leave_nothing() {
    if !machine_has_rdma() {
        return;
    }
    both(
        async |listener| {
            // Those that were given up come, if at all, at their end; the last one speaks.
            loop {
                let ((mut stream, _), _) = insist(async || listener.accept().await.unwrap()).await;
                match stream.pop().await {
                    Ok(None) | Err(_) => {}
                    Ok(Some(buf)) => {
                        assert_eq!(&buf[..], b"here");
                        stream.push(buf).await.unwrap();
                        stream.shutdown().await.unwrap();
                        while let Ok(Some(_)) = stream.pop().await {}
                        break;
                    }
                }
            }
        },
        async |address| {
            let (mut stream, dropped) = insist(async || TcpStream::connect(address).await.unwrap()).await;
            assert!(dropped > 0, "a connection that took no time");
            println!("{dropped} connects given up");
            stream.write_all(b"here").await.unwrap();
            assert_eq!(&stream.pop().await.unwrap().unwrap()[..], b"here");
            assert!(stream.pop().await.unwrap().is_none());
        },
    );
}

#[test]
fn one_sided_operations_that_are_cancelled_are_done_once_or_not_at_all() {
    if !machine_has_rdma() {
        return;
    }
    both(
        async |listener| {
            let region = rdma::register(4096, rdma::Access::ALL).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&region.key().to_bytes()).await.unwrap();
            assert!(stream.pop().await.unwrap().is_none());
        },
        async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut key = [0; rdma::RegionKey::BYTES];
            stream.read_exact(&mut key).await.unwrap();
            let key = rdma::RegionKey::from_bytes(&key).unwrap();
            let peer = rdma::peer(&stream).unwrap();

            let bytes = filled(&pattern(1500)).await;
            let mut dropped = [0; 4];
            dropped[0] = insist(async || peer.write(&key, 100, bytes.clone()).await.unwrap()).await.1;
            let (read, more) = insist(async || peer.read(&key, 100, 1500).await.unwrap()).await;
            dropped[1] = more;
            assert_eq!(read[..], bytes[..]);
            drop((read, bytes));
            // One connection's operations happen one after the other, those whose futures are gone included.
            let (was, more) = insist(async || peer.fetch_add(&key, 8, 1).await.unwrap()).await;
            dropped[2] = more;
            assert!(was <= more as u64, "added {was} times before, and asked {more} times");
            let now = peer.fetch_add(&key, 8, 0).await.unwrap();
            assert_eq!(now, was + 1, "what was dropped came before");
            let (was, more) = insist(async || peer.compare_swap(&key, 16, 0, 7).await.unwrap()).await;
            dropped[3] = more;
            assert!(was == 0 || (was == 7 && more > 0), "{was}");
            assert_eq!(peer.compare_swap(&key, 16, 7, 9).await.unwrap(), 7);
            assert!(dropped.iter().all(|&dropped| dropped > 0), "nothing waited: {dropped:?}");
            stream.shutdown().await.unwrap();
            assert!(stream.pop().await.unwrap().is_none());
        },
    );
}

#[test]
fn a_cancelled_push_was_not_sent_and_its_buffer_is_free() {
    if !machine_has_rdma() {
        return;
    }
    both(
        async |listener| {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Nothing is read until the writer has been stopped for a while.
            demi::time::sleep(Duration::from_millis(300)).await;
            let mut received = 0;
            while let Some(buf) = stream.pop().await.unwrap() {
                assert!(buf.iter().all(|&byte| byte == 1));
                received += buf.len() as u64;
            }
            stream.write_all(&received.to_be_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        },
        async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let full = filled(&[1; 1000]).await;
            let mut sent: u64 = 0;
            while poll_times(stream.push(full.clone()), 3).await.is_some() {
                sent += 1000;
            }
            for polls in 1..20 {
                if poll_times(stream.push(full.clone()), polls).await.is_some() {
                    sent += 1000;
                }
            }
            drop(full);
            stream.shutdown().await.unwrap();
            let mut counted = [0; 8];
            stream.read_exact(&mut counted).await.unwrap();
            assert_eq!(u64::from_be_bytes(counted), sent, "exactly what was accepted");
            assert!(stream.pop().await.unwrap().is_none());
        },
    );
}
