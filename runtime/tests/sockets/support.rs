//! What the tests share.

use std::future::Future;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use demi::net::{TcpListener, TcpSocket, TcpStream};
use demi::{Config, Drained, Runtime};

/// Runs `test` in a fresh runtime on each transport: the kernel's sockets, and our own stack, which has a loopback, too; or on the RDMA
/// device of a guest that was made for that, which reaches itself. At the end all that was written is delivered and closed.
pub(crate) fn on_each<F: Future<Output = ()>>(test: impl Fn() -> F) {
    if is_of_rdma() {
        return on("rdma:rxe0", &test);
    }
    for device in KERNEL.iter().chain(&["wire"]) {
        on(device, &test);
    }
}

/// Whether this is the RDMA tier's turn, whose devices are a guest's.
fn is_of_rdma() -> bool {
    std::env::var("DEMI_TIER").as_deref() == Ok("rdma") && std::env::var_os("XTASK_GUEST").is_some()
}

/// An address of the transport under test, and any port of it.
pub(crate) fn here() -> SocketAddr {
    SocketAddr::from((if is_of_rdma() { [10, 77, 0, 1] } else { [127, 0, 0, 1] }, 0))
}

/// [`on_each`], for what only the kernel's sockets do.
#[cfg_attr(feature = "rdma", allow(dead_code))] // Those of RDMA have no kernel to run on.
pub(crate) fn on_kernel<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for device in KERNEL {
        on(device, &test);
    }
}

const KERNEL: &[&str] = if cfg!(feature = "uring") { &["posix", "uring"] } else { &["posix"] };

fn on<F: Future<Output = ()>>(device: &str, test: impl Fn() -> F) {
    eprintln!("on {device}");
    let config = Config::new().device(device).pool_slots(4096).pool_large_slots(32).huge_pages(false);
    // In a guest whose every instruction is translated, ends take their time.
    let config = if is_of_rdma() { config.drain_ms("60s") } else { config };
    let runtime = Runtime::new(config).unwrap();
    runtime.block_on(test());
    let drained = runtime.shut_down();
    assert!(matches!(drained, Drained::Clean), "{drained:?}");
}

/// Two connected streams: the one that connected, and the one that was accepted.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(here()).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, peer) = listener.accept().await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    (client, server)
}

/// [`pair`], with buffers so small that everything waits for everything.
pub(crate) async fn tight_pair() -> (TcpStream, TcpStream) {
    let socket = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
    };
    let listening = socket();
    listening.bind(here()).unwrap();
    let listener = listening.listen(8).unwrap();
    let client = socket().connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

/// Polls a future once, and drops it; `None` when it would have waited.
pub(crate) fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Makes the same call again and again until one is ready at its first poll; the others are dropped where they wait.
/// Answers how many were dropped, too.
pub(crate) async fn insist<T>(mut call: impl AsyncFnMut() -> T) -> (T, usize) {
    let mut dropped = 0;
    loop {
        if let Some(output) = poll_once(call()) {
            return (output, dropped);
        }
        dropped += 1;
        demi::task::yield_now().await;
    }
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64 / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    (0..len).map(|at| word(at).to_le_bytes()[at % 8]).collect()
}

/// Everything up to the peer's end.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(buf) = stream.pop().await? {
        all.extend_from_slice(&buf);
    }
    Ok(all)
}
