//! A peer whose process is killed: in the middle of a transfer, of one-sided operations, and while nothing is going on. What it had under
//! way ends with the kinds of errors that TCP's have, and every buffer is given back.

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::rdma::onesided::{Access, RegionKey};
use demi_drivers::transport::{KeepAlive, StreamId, StreamOptions};

use crate::support::{Cable, Ip, machine_has_rdma, pattern};

/// Says to this program, started anew, that it is the other process.
const ROLE: &str = "DEMI_TEST_OTHER_PROCESS";

/// The other process: killed when this is dropped, if not before.
struct Other {
    child: Child,
    address: SocketAddr,
    key: RegionKey,
}

impl Other {
    /// Starts this program anew, with the one test that is running.
    fn start(test: &str) -> Other {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, "1")
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("OTHER ")?.1.to_owned()));
        let told = told.expect("the other process says where it listens");
        let (address, key) = told.split_once(' ').unwrap();
        let bytes: Vec<u8> = key.split(',').map(|byte| byte.parse().unwrap()).collect();
        let key = RegionKey::from_bytes(&bytes.try_into().unwrap()).unwrap();
        Other { child, address: address.parse().unwrap(), key }
    }

    fn kill(&mut self) {
        // SIGKILL: nothing of it says goodbye.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the other process does, until it is killed: accepts, and takes what comes.
fn be_the_other() -> ! {
    let mut cable = Cable::new();
    let (listener, address) = cable.listen(Ip::V4, 1);
    let region = cable.ends[1].register(8192, Access::ALL).unwrap();
    let key = region.key().to_bytes().map(|byte| byte.to_string()).join(",");
    println!("\nOTHER {address} {key}");
    let mut streams = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(accepted) = cable.ends[1].poll_accept(&mut cx, listener) {
            streams.push(accepted.unwrap().0);
        }
        for &stream in &streams {
            let _ = cable.ends[1].poll_pop(&mut cx, stream, usize::MAX);
        }
        cable.turn();
    }
}

/// Connects to another process, has `act` kill it, and looks that the connection ends as it should and nothing is left of it.
fn killed(test: &str, act: impl FnOnce(&mut Cable, StreamId, &mut Other)) {
    if !machine_has_rdma() {
        return;
    }
    if std::env::var_os(ROLE).is_some() {
        be_the_other();
    }
    let mut cable = Cable::new();
    let out = cable.ends[0].pool().stats();
    let mut other = Other::start(test);
    let stream = cable.ends[0].connect(other.address, None, &StreamOptions::default()).unwrap();
    cable.wait(|ends, cx| ends[0].poll_connect(cx, stream)).unwrap();
    act(&mut cable, stream, &mut other);
    let error = cable.read(0, stream, 1).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::TimedOut), "{error:?}");
    assert_eq!(cable.read(0, stream, 1).unwrap(), b"", "said once");
    let error =
        cable.wait(|ends, cx| ends[0].poll_write(cx, stream, &[std::io::IoSlice::new(b"x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error:?}");
    cable.ends[0].close(stream);
    cable.settle();
    cable.wait(|ends, _| {
        let now = ends[0].pool().stats();
        let same = (now.slots_out, now.large_slots_out) == (out.slots_out, out.large_slots_out);
        if same { Poll::Ready(()) } else { Poll::Pending }
    });
    // The device has not suffered.
    let (one, two) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"again");
    assert_eq!(cable.read_exact(1, two, 5), b"again");
}

#[test]
fn a_peer_killed_in_the_middle_of_a_transfer_is_a_reset() {
    killed("killed::a_peer_killed_in_the_middle_of_a_transfer_is_a_reset", |cable, stream, other| {
        let mut cx = Context::from_waker(Waker::noop());
        let pool = cable.ends[0].pool().clone();
        let mut pushed = 0;
        // Short messages and long buffers, some of which are being read when it dies.
        while pushed < 2 << 20 {
            let len = if pushed % 3 == 0 { 60_000 } else { 1700 };
            if let Some(mut buf) = pool.alloc_spare(len) {
                buf.put_slice(&pattern(pushed, len));
                let mut buf = Some(buf.freeze());
                if let Poll::Ready(result) = cable.ends[0].poll_push(&mut cx, stream, &mut buf) {
                    result.unwrap();
                    pushed += len;
                }
            }
            cable.turn();
        }
        assert!(cable.ends[0].tcp_info(stream).unwrap().unacked_bytes > 0, "nothing is under way");
        other.kill();
    });
}

#[test]
fn a_peer_killed_in_the_middle_of_one_sided_operations_fails_them() {
    killed(
        "killed::a_peer_killed_in_the_middle_of_one_sided_operations_fails_them",
        |cable, stream, other| {
            let peer = cable.ends[0].one_sided(stream).unwrap();
            let key = other.key;
            let mut doing: Vec<Pin<Box<dyn Future<Output = bool>>>> = Vec::new();
            for at in 0..60 {
                let (read, add) = (peer.read(&key, at, 2000), peer.fetch_add(&key, 4096, 1));
                doing.push(Box::pin(async move { read.await.is_ok() }));
                doing.push(Box::pin(async move { add.await.is_ok() }));
            }
            let mut results = Vec::new();
            let mut alive = true;
            cable.wait(|_, cx| {
                doing.retain_mut(|doing| match doing.as_mut().poll(cx) {
                    Poll::Pending => true,
                    Poll::Ready(well) => {
                        results.push(well);
                        false
                    }
                });
                if alive && !results.is_empty() {
                    other.kill();
                    alive = false;
                }
                if doing.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            });
            assert!(results[0] && !results[results.len() - 1], "{results:?}");
        },
    );
}

#[test]
fn a_peer_killed_in_silence_is_found_out_by_who_keeps_alive() {
    killed("killed::a_peer_killed_in_silence_is_found_out_by_who_keeps_alive", |cable, stream, other| {
        let mut options = cable.ends[0].stream_options(stream).unwrap();
        let idle = Duration::from_millis(100);
        options.keepalive = Some(KeepAlive { idle, interval: Duration::from_secs(1), probes: 3 });
        cable.ends[0].set_stream_options(stream, &options).unwrap();
        cable.write_all(0, stream, b"hello");
        cable.wait(|ends, cx| ends[0].poll_drained(cx, stream)).unwrap();
        other.kill();
    });
}
