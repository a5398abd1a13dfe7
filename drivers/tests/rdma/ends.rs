//! How connections end: half-close, close, reset, the peer's death; and that nothing is left.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{KeepAlive, StreamOptions};

use crate::support::{Cable, Ip, machine_has_rdma, pattern};

#[test]
fn a_half_closed_connection_still_answers() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"a question");
    cable.ends[0].shutdown(one, Shutdown::Write).unwrap();
    assert_eq!(cable.read_exact(1, other, 10), b"a question");
    assert_eq!(cable.read(1, other, 1).unwrap(), b"");
    let answer = pattern(0, 100_000);
    cable.write_all(1, other, &answer[..50_000]);
    assert_eq!(cable.read_exact(0, one, 50_000), answer[..50_000]);
    cable.write_all(1, other, &answer[50_000..]);
    cable.ends[1].close(other);
    assert_eq!(cable.read_exact(0, one, 50_000), answer[50_000..]);
    assert_eq!(cable.read(0, one, 1).unwrap(), b"");
    let error =
        cable.wait(|ends, cx| ends[0].poll_write(cx, one, &[std::io::IoSlice::new(b"x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    cable.ends[0].close(one);
    cable.settle();
}

#[test]
fn an_abort_is_a_reset() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
    cable.ends[0].abort(one);
    let error = cable.read(1, other, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    assert_eq!(cable.read(1, other, 1).unwrap(), b"", "said once");
    let error =
        cable.wait(|ends, cx| ends[1].poll_write(cx, other, &[std::io::IoSlice::new(b"x")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
    cable.ends[1].close(other);
    cable.settle();
}

#[test]
fn closing_with_bytes_unread_is_a_reset() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"nobody reads this");
    cable.wait(|ends, cx| ends[1].poll_readable(cx, other)).unwrap();
    cable.ends[1].close(other);
    let error = cable.read(0, one, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    cable.ends[0].close(one);
    cable.settle();
}

#[test]
fn bytes_that_came_before_a_reset_can_still_be_read() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"last words");
    cable.wait(|ends, cx| ends[0].poll_drained(cx, one)).unwrap();
    cable.ends[0].abort(one);
    cable.wait(|ends, _| {
        if ends[0].usage().streams == 0 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    assert_eq!(cable.read_exact(1, other, 10), b"last words");
    assert_eq!(cable.read(1, other, 1).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_transport_that_goes_away_resets_its_connections() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    cable.write_all(0, one, b"hello");
    assert_eq!(cable.read_exact(1, other, 5), b"hello");
    let config = demi_drivers::rdma::RdmaConfig::new("rxe0");
    cable.ends[0] = demi_drivers::rdma::Rdma::open(&config).unwrap();
    let error = cable.read(1, other, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn a_closed_listener_resets_what_nobody_has_accepted() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (listener, address) = cable.listen(Ip::V4, 1);
    let one = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
    cable.wait(|ends, cx| ends[0].poll_connect(cx, one)).unwrap();
    for _ in 0..50 {
        cable.turn();
    }
    cable.ends[1].close_listener(listener);
    let error = cable.read(0, one, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    cable.ends[0].close(one);
    cable.settle();
}

#[test]
fn a_silent_connection_is_probed_and_stays() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    let mut options = cable.ends[0].stream_options(one).unwrap();
    let quick = Duration::from_millis(50);
    options.keepalive = Some(KeepAlive { idle: quick, interval: Duration::from_secs(20), probes: 3 });
    cable.ends[0].set_stream_options(one, &options).unwrap();
    let begun = std::time::Instant::now();
    while begun.elapsed() < quick * 6 {
        cable.turn();
    }
    cable.write_all(0, one, b"still here");
    assert_eq!(cable.read_exact(1, other, 10), b"still here");
}

#[test]
fn nothing_of_a_hundred_connections_is_left() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (listener, address) = cable.listen(Ip::V4, 1);
    let before = cable.ends.each_ref().map(|end| end.pool().stats());
    for round in 0..100 {
        let (one, other) = cable.connect(listener, address);
        cable.write_all(0, one, &pattern(round, 100 + round * 37));
        let first = if round % 2 == 0 { (0, one) } else { (1, other) };
        if round % 3 > 0 {
            cable.read_exact(1, other, 100 + round * 37);
        }
        if round % 5 == 0 {
            cable.ends[first.0].abort(first.1);
        }
        cable.ends[0].close(one);
        cable.ends[1].close(other);
    }
    cable.settle();
    // Receives are posted anew, as many as before.
    cable.wait(|ends, _| {
        let now = ends.each_ref().map(|end| end.pool().stats());
        let same = now.iter().zip(&before).all(|(now, before)| {
            (now.slots_out, now.large_slots_out) == (before.slots_out, before.large_slots_out)
        });
        if same { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
}

#[test]
fn an_answer_by_rendezvous_to_a_reader_that_is_gone_ends_the_connection() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::new();
    let (one, other) = cable.connected(Ip::V4);
    let mut question = cable.ends[0].pool().alloc(60_000).unwrap();
    question.put_slice(&pattern(0, 60_000));
    cable.push(0, one, question.freeze());
    cable.ends[0].shutdown(one, Shutdown::Write).unwrap();
    cable.wait(|ends, cx| ends[0].poll_drained(cx, one)).unwrap();
    cable.ends[0].close(one);
    while let Ok(Some(buf)) = cable.wait(|ends, cx| ends[1].poll_pop(cx, other, usize::MAX)) {
        cable.push(1, other, buf);
    }
    cable.ends[1].close(other);
    cable.settle();
}
