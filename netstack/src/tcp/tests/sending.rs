//! What goes out when: segmentation, Nagle, cork, windows, probes, retransmission, recovery.

use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use demi_drivers::transport::{CongestionControl, KeepAlive, StreamOptions};

use super::script::{Script, cx};
use crate::tcp::TcpConfig;

const NONE: [&str; 0] = [];

fn open() -> Script {
    Script::accepted(Script::plain(), "mss 1000")
}

fn open_with_window(window: u16) -> Script {
    let mut t = Script::new(Script::plain());
    t.accept_with_window("mss 1000", window);
    t
}

fn with_options(t: &mut Script, set: impl FnOnce(&mut StreamOptions)) {
    let mut options = t.tcp.stream_options(t.stream()).unwrap();
    set(&mut options);
    t.tcp.set_stream_options(t.now, t.stream(), &options).unwrap();
}

#[test]
fn a_push_larger_than_the_mss_goes_out_whole() {
    let mut t = open();
    let pool = demi_drivers::Pool::new(&Default::default()).unwrap();
    let mut buf = pool.copy_from_slice(&[b'x'; 5500]);
    let stream = t.stream();
    assert!(t.tcp.poll_push(&mut cx(), &t.out, stream, &mut buf).is_ready() && buf.is_none());
    assert_eq!(
        t.end(),
        [
            ". 1:1001 ack 1",
            ". 1001:2001 ack 1",
            ". 2001:3001 ack 1",
            ". 3001:4001 ack 1",
            ". 4001:5001 ack 1",
            "P. 5001:5501 ack 1"
        ]
    );
}

#[test]
fn writes_of_one_turn_share_a_segment_and_carry_the_ack() {
    let mut t = open();
    t.recv("P. 1:101 ack 1");
    t.write(10);
    t.write(20);
    let mut buf = t.out.pool.copy_from_slice(&[b'x'; 30]);
    let stream = t.stream();
    assert!(t.tcp.poll_push(&mut cx(), &t.out, stream, &mut buf).is_ready());
    assert_eq!(t.end(), ["P. 1:61 ack 101"]);
}

#[test]
fn the_initial_window_is_ten_segments_and_slow_start_doubles_it() {
    let mut t = open();
    t.write(60_000);
    assert_eq!(t.end().len(), 10);
    assert_eq!(t.turn(". 1 ack 5001").len(), 10, "five acknowledged, five more");
    assert_eq!(t.turn(". 1 ack 10001").len(), 10);
}

#[test]
fn nagle_holds_a_partial_segment_while_another_is_in_flight() {
    let mut t = open();
    t.write(100);
    assert_eq!(t.end(), ["P. 1:101 ack 1"]);
    t.write(100);
    t.write(100);
    assert_eq!(t.end(), NONE);
    t.write(1000);
    assert_eq!(t.end(), [". 101:1101 ack 1"], "a full one goes");
    assert_eq!(t.turn(". 1 ack 101"), ["P. 1101:1301 ack 1"]);

    let mut t = open();
    with_options(&mut t, |options| options.nodelay = true);
    t.write(100);
    assert_eq!(t.end(), ["P. 1:101 ack 1"]);
    t.write(100);
    assert_eq!(t.end(), ["P. 101:201 ack 1"]);
}

#[test]
fn minshall_lets_the_tail_of_a_large_write_go() {
    let mut t = open();
    t.write(2500);
    assert_eq!(t.end(), [". 1:1001 ack 1", ". 1001:2001 ack 1", "P. 2001:2501 ack 1"]);
}

#[test]
fn cork_holds_back_until_it_is_pulled_or_its_time_is_up() {
    let mut t = open();
    with_options(&mut t, |options| options.cork = true);
    t.write(1100);
    assert_eq!(t.end(), [". 1:1001 ack 1"]);
    with_options(&mut t, |options| options.cork = false);
    assert_eq!(t.end(), ["P. 1001:1101 ack 1"]);
    t.turn(". 1 ack 1101");
    with_options(&mut t, |options| options.cork = true);
    t.write(10);
    assert_eq!(t.wait_ms(190), NONE);
    assert_eq!(t.wait_ms(20), ["P. 1101:1111 ack 1"]);
    t.turn(". 1 ack 1111");
    t.write(10);
    assert_eq!(t.wait_ms(190), NONE, "corked again");
    t.close();
    assert_eq!(t.end(), ["FP. 1111:1121 ack 1"], "a close pulls it");
}

#[test]
fn a_retransmission_takes_nothing_new_beyond_the_window_along() {
    let mut t = Script::new(Script::plain());
    t.accept_with_window("win 800 mss 1000", 800);
    t.write(2000);
    assert_eq!(t.end(), [". 1:801 ack 1"]);
    let again = t.wait(Duration::from_secs(2));
    assert_eq!(again.first().map(String::as_str), Some(". 1:801 ack 1"), "the window ends there");
    assert_eq!(t.turn(". 1 ack 801 win 800"), [". 801:1601 ack 1"]);
}

#[test]
fn the_peers_window_is_respected_and_used_in_bulk() {
    let mut t = open_with_window(2500);
    t.write(5000);
    assert_eq!(t.end(), [". 1:1001 ack 1", ". 1001:2001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 2001 win 300"), NONE, "sender SWS: 300 bytes are not worth a segment");
    assert_eq!(
        t.turn(". 1 ack 2001 win 3000"),
        [". 2001:3001 ack 1", ". 3001:4001 ack 1", "P. 4001:5001 ack 1"]
    );
}

#[test]
fn a_window_taken_back_does_not_stop_what_was_sent_in_it() {
    let mut t = open();
    t.write(3000);
    t.end();
    t.turn(". 1 ack 1001 win 0");
    assert_eq!(t.wait_ms(201), [". 1001:2001 ack 1"], "RFC 9293 §3.8.6: retransmissions probe");
    assert_eq!(t.wait_ms(401), [". 1001:2001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 2001 win 5000"), ["P. 2001:3001 ack 1"]);
}

#[test]
fn from_beyond_a_window_taken_back_nothing_is_acknowledged() {
    let mut t = open();
    t.write(3000);
    t.end();
    t.turn(". 1 ack 1001 win 0");
    assert_eq!(t.turn("P. 1:101 ack 1001 win 0"), [". 1001 ack 101"], "from where the peer looks");
    assert_eq!(t.turn("P. 1:101 ack 1001 win 0"), [". 1001 ack 101"], "sent again for nothing");
    assert_eq!(t.turn(". 101 ack 1001 win 500"), NONE);
    assert_eq!(t.turn("P. 101:201 ack 1001 win 500"), [". 1501 ack 201"], "part of it was");
    t.turn(". 201 ack 1001 win 3000");
    assert_eq!(t.turn("P. 201:301 ack 1001 win 3000"), [". 3001 ack 301"]);
    t.turn(". 301 ack 1001 win 0");
    let stream = t.stream();
    t.tcp.abort(t.now, &mut t.out, stream);
    assert_eq!(t.sent(), ["R. 1001 ack 301"], "nor is a reset believed from there");
}

#[test]
fn a_scaled_window_hides_what_was_taken_back_until_a_timeout_shows_it() {
    let config = TcpConfig { window_scaling: true, ..Script::plain() };
    let mut t = Script::accepted(config, "mss 1000 wscale 10");
    t.turn(". 1 ack 1 win 10");
    t.write(500);
    t.end();
    t.recv("P. 1:101 ack 1 win 0");
    assert_eq!(t.end(), [". 501 ack 101"], "it may have up to 1023 bytes of room and be unable to say so");
    assert_eq!(t.wait_ms(201), ["P. 1:501 ack 101"]);
    assert_eq!(t.turn("P. 1:101 ack 1 win 0"), [". 1 ack 101"], "it has not");
}

#[test]
fn what_probes_a_window_taken_back_acknowledges_nothing() {
    let mut t = open();
    // Past the acknowledgements at once of a beginning.
    for start in (1..2001).step_by(100) {
        t.turn(&format!("P. {start}:{} ack 1", start + 100));
    }
    t.wait_ms(100);
    t.write(2000);
    t.end();
    t.turn(". 2001 ack 1 win 0");
    t.wait_ms(190);
    assert_eq!(t.turn("P. 2001:2101 ack 1 win 0"), NONE, "its acknowledgement may wait");
    assert_eq!(t.wait_ms(15), [". 1:1001 ack 2101"], "which the peer drops with all that it says");
    assert_eq!(t.wait_ms(30), [". 1 ack 2101"]);
}

#[test]
fn a_peer_that_took_its_window_back_and_answers_is_never_given_up() {
    let config = TcpConfig { retries: 3, max_rto: Duration::from_secs(2), ..Script::plain() };
    let mut t = Script::accepted(config, "mss 1000");
    t.write(2000);
    t.end();
    t.turn(". 1 ack 1 win 0");
    for _ in 0..50 {
        if !t.wait_ms(2100).is_empty() {
            t.turn(". 1 ack 1 win 0");
        }
    }
    assert_eq!(
        t.tcp.tcp_info(t.stream()).unwrap().send_mss_bytes,
        1000,
        "and does not look like a black hole"
    );
    // Once it has room the next try does not wait for as long as the last did.
    t.turn(". 1 ack 1 win 5000");
    assert_eq!(t.wait_ms(201).first().map(String::as_str), Some(". 1:1001 ack 1"));
    // One that says nothing is.
    t.turn(". 1 ack 1 win 0");
    t.wait_ms(30_000);
    assert_eq!(t.read_error(), Some(ErrorKind::TimedOut));
}

#[test]
fn of_windows_that_tell_nothing_else_the_larger_is_the_later() {
    let mut t = open();
    t.turn(". 1 ack 1 win 5000");
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().send_window_bytes, 65535);
    t.turn("P. 1:11 ack 1 win 5000");
    t.turn(". 11 ack 1 win 6000");
    t.turn(". 11 ack 1 win 5000");
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().send_window_bytes, 6000);
}

#[test]
fn a_dribble_of_window_is_used_after_the_persist_time() {
    let mut t = open_with_window(300);
    t.write(1000);
    assert_eq!(t.end(), NONE);
    assert_eq!(t.wait_ms(201), [". 1:301 ack 1"]);
    assert_eq!(t.turn(". 1 ack 301 win 5000"), ["P. 301:1001 ack 1"]);
}

#[test]
fn a_closed_window_is_probed_with_backoff_until_it_opens() {
    let mut t = open();
    t.turn(". 1 ack 1 win 0");
    t.write(500);
    assert_eq!(t.end(), NONE);
    for wait in [200, 400, 800, 1600] {
        assert_eq!(t.wait_ms(wait - 10), NONE);
        assert_eq!(t.wait_ms(11), [". 0 ack 1"], "after {wait} ms");
        assert_eq!(t.turn(". 1 ack 1 win 0"), NONE);
    }
    assert_eq!(t.turn(". 1 ack 1 win 1000"), ["P. 1:501 ack 1"]);
    t.turn(". 1 ack 501");
    assert_eq!(t.wait_ms(200_000), NONE);
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn a_peer_that_keeps_its_window_closed_and_answers_is_never_given_up() {
    let mut t = Script::accepted(
        TcpConfig { retries: 3, max_rto: Duration::from_secs(2), ..Script::plain() },
        "mss 1000",
    );
    t.turn(". 1 ack 1 win 0");
    t.write(500);
    t.end();
    for _ in 0..50 {
        if !t.wait_ms(2100).is_empty() {
            t.turn(". 1 ack 1 win 0");
        }
    }
    assert_eq!(t.turn(". 1 ack 1 win 1000"), ["P. 1:501 ack 1"]);
    // One that says nothing is.
    t.turn(". 1 ack 501 win 0");
    t.write(500);
    t.end();
    t.wait_ms(30_000);
    assert_eq!(t.read_error(), Some(ErrorKind::TimedOut));
}

#[test]
fn a_closed_window_does_not_keep_an_orphan_for_ever() {
    let config = TcpConfig { orphan_retries: 3, max_rto: Duration::from_secs(2), ..Script::plain() };
    let mut t = Script::accepted(config, "mss 1000");
    t.turn(". 1 ack 1 win 0");
    t.write(500);
    t.close();
    t.end();
    for _ in 0..20 {
        if !t.wait_ms(2100).is_empty() {
            t.turn(". 1 ack 1 win 0");
        }
    }
    t.nothing_left();
}

#[test]
fn a_timeout_repeats_with_backoff_and_gives_up() {
    let mut t = Script::accepted(TcpConfig { retries: 3, ..Script::plain() }, "mss 1000");
    t.write(100);
    assert_eq!(t.end(), ["P. 1:101 ack 1"]);
    // The handshake took no time: a timeout is the minimum.
    for wait in [200, 400, 800] {
        assert_eq!(t.wait_ms(wait - 10), NONE);
        assert_eq!(t.wait_ms(11), ["P. 1:101 ack 1"], "after {wait} ms");
    }
    t.wait_ms(1700);
    assert_eq!(t.read_error(), Some(ErrorKind::TimedOut));
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn the_user_timeout_ends_it_sooner() {
    let mut t = open();
    with_options(&mut t, |options| options.user_timeout = Some(Duration::from_secs(1)));
    t.write(100);
    t.end();
    // Tries after 200 and 600 ms; the next would be due at 1,400.
    t.wait_ms(990);
    assert_eq!(t.read_error(), None);
    t.wait_ms(20);
    assert_eq!(t.read_error(), Some(ErrorKind::TimedOut));
}

#[test]
fn a_timeout_goes_back_to_one_segment_and_recovers_in_slow_start() {
    let mut t = open();
    t.write(8000);
    assert_eq!(t.end().len(), 8);
    assert_eq!(t.wait_ms(210), [". 1:1001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 1001"), [". 1001:2001 ack 1", ". 2001:3001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 8001"), NONE, "the rest had arrived");
    assert_eq!(t.tcp.stats().timeouts, 1);
}

#[test]
fn three_duplicates_start_fast_retransmit_and_the_first_two_let_new_data_out() {
    let mut t = open();
    t.write(20_000);
    assert_eq!(t.end().len(), 10);
    assert_eq!(t.turn(". 1 ack 1001"), [". 10001:11001 ack 1", ". 11001:12001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 1001"), [". 12001:13001 ack 1"], "RFC 3042");
    assert_eq!(t.turn(". 1 ack 1001"), [". 13001:14001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 1001"), [". 1001:2001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 1001"), [". 14001:15001 ack 1"], "RFC 6937: seven go out for ten that arrive");
    assert_eq!(t.tcp.stats().reno_recovery, 1);
    // A partial acknowledgement names the next hole: RFC 6582.
    assert_eq!(t.turn(". 1 ack 5001"), NONE, "two have gone out for three that arrived");
    assert_eq!(t.turn(". 1 ack 5001"), NONE, "as much is in flight as may be");
    assert_eq!(t.turn(". 1 ack 5001"), [". 5001:6001 ack 1"]);
    let after = t.turn(". 1 ack 14001");
    assert!(after.iter().all(|line| !line.contains(" 5001:")), "{after:?}");
    assert!(t.wait_ms(100).is_empty());
}

#[test]
fn a_repair_takes_nothing_new_along() {
    let mut t = open();
    with_options(&mut t, |options| options.nodelay = true);
    t.write(1000);
    t.end();
    t.turn(". 1 ack 1001");
    for _ in 0..4 {
        t.write(100);
        t.end();
    }
    t.recv(". 1 ack 1001");
    t.recv(". 1 ack 1001");
    t.recv(". 1 ack 1001");
    t.write(500);
    let sent = t.end();
    assert_eq!(sent[0], ". 1001:1401 ack 1", "up to what had been sent, whatever has been written since");
    assert_eq!(t.turn(". 1 ack 1901"), NONE);
    t.write(10);
    assert_eq!(t.end(), ["P. 1901:1911 ack 1"]);
}

#[test]
fn duplicates_that_carry_data_or_windows_are_none() {
    let mut t = open();
    t.write(5000);
    t.end();
    for at in 0..5 {
        t.turn(&format!("P. {}:{} ack 1", 1 + at * 10, 11 + at * 10));
        t.turn(&format!(". {} ack 1 win {}", 11 + at * 10, 60_000 + at));
    }
    assert_eq!(t.tcp.stats().reno_recovery, 0);
}

#[test]
fn sack_blocks_have_exactly_the_holes_filled() {
    let config = TcpConfig { rack: false, ..Script::sack() };
    let mut t = Script::accepted(config, "mss 1000 sackOK");
    t.write(10_000);
    assert_eq!(t.end().len(), 10);
    // Lost: 1..1001 and 3001..4001.
    assert_eq!(t.turn(". 1 ack 1 sack 1001:2001"), NONE);
    assert_eq!(t.turn(". 1 ack 1 sack 1001:3001"), NONE);
    let mut repairs = t.turn(". 1 ack 1 sack 4001:5001 sack 1001:3001");
    repairs.extend(t.turn(". 1 ack 1 sack 4001:7001 sack 1001:3001"));
    repairs.extend(t.turn(". 1 ack 1 sack 4001:8001 sack 1001:3001"));
    repairs.extend(t.turn(". 1 ack 1 sack 4001:10001 sack 1001:3001"));
    assert_eq!(repairs, [". 1:1001 ack 1", ". 3001:4001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 3001 sack 4001:10001"), NONE, "each hole once");
    assert_eq!(t.turn(". 1 ack 10001"), NONE);
    assert_eq!((t.tcp.stats().sack_recovery, t.tcp.stats().timeouts), (1, 0));
    t.write(100);
    assert_eq!(t.end(), ["P. 10001:10101 ack 1"]);
}

#[test]
fn more_than_two_segments_above_a_hole_are_enough() {
    let mut t = Script::accepted(Script::sack(), "mss 1000 sackOK");
    t.write(10_000);
    t.end();
    assert_eq!(t.turn(". 1 ack 1 sack 1001:4001"), [". 1:1001 ack 1"], "one stretched SACK");
}

#[test]
fn a_timeout_skips_what_the_peer_holds() {
    let mut t = Script::accepted(Script::sack(), "mss 1000 sackOK");
    t.write(4000);
    t.end();
    t.turn(". 1 ack 1 sack 1001:2001");
    assert_eq!(t.wait_ms(210), [". 1:1001 ack 1"]);
    assert_eq!(t.turn(". 1 ack 2001"), [". 2001:3001 ack 1", "P. 3001:4001 ack 1"]);
}

#[test]
fn a_peer_that_takes_back_what_it_held_gets_it_again() {
    let mut t = Script::accepted(Script::sack(), "mss 1000 sackOK");
    t.write(4000);
    t.end();
    t.turn(". 1 ack 1 sack 1001:4001");
    t.turn(". 1 ack 1001");
    assert_eq!(t.wait_ms(410), [". 1001:2001 ack 1"], "RFC 2018 §8");
    assert_eq!(t.tcp.stats().sack_reneging, 1);
}

#[test]
fn senseless_sack_blocks_are_ignored() {
    let mut t = Script::accepted(Script::sack(), "mss 1000 sackOK");
    t.write(4000);
    t.end();
    t.turn(". 1 ack 1 sack 9001:9901 sack 3001:2001 sack -500:500");
    assert_eq!(t.tcp.stats().sack_discard, 3);
    t.turn(". 1 ack 1001 sack 1:501");
    assert_eq!(t.tcp.stats().dsack_recv, 1);
    assert_eq!(t.turn(". 1 ack 4001"), NONE);
}

#[test]
fn without_congestion_control_only_the_peers_window_limits() {
    let mut t = open();
    with_options(&mut t, |options| options.congestion = Some(CongestionControl::None));
    t.write(60_000);
    assert_eq!(t.end().len(), 60);
}

#[test]
fn an_idle_connection_starts_over_from_the_initial_window() {
    let mut t = open();
    t.write(60_000);
    t.end();
    for ack in [10_001, 30_001, 60_001] {
        t.turn(&format!(". 1 ack {ack}"));
    }
    assert!(t.tcp.tcp_info(t.stream()).unwrap().cwnd_bytes > 30_000);
    t.wait_ms(5000);
    t.write(60_000);
    assert_eq!(t.end().len(), 10);
}

#[test]
fn no_hidden_timeout_ends_an_idle_connection() {
    let mut t = open();
    assert_eq!(t.wait(Duration::from_secs(7 * 24 * 3600)), NONE);
    t.write(10);
    assert_eq!(t.end(), ["P. 1:11 ack 1"]);
}

#[test]
fn keepalive_probes_a_silent_peer_and_gives_it_up() {
    let keepalive = KeepAlive { idle: Duration::from_secs(10), interval: Duration::from_secs(2), probes: 3 };
    let mut t = open();
    with_options(&mut t, |options| options.keepalive = Some(keepalive));
    assert_eq!(t.wait_ms(9_900), NONE);
    assert_eq!(t.wait_ms(200), [". 0 ack 1"]);
    assert_eq!(t.turn(". 1 ack 1"), NONE);
    assert_eq!(t.wait_ms(9_800), NONE, "the answer starts the silence anew");
    assert_eq!(t.wait_ms(6_000), [". 0 ack 1"; 3]);
    assert_eq!(t.wait_ms(2_000), ["R. 1 ack 1"]);
    assert_eq!(t.read_error(), Some(ErrorKind::TimedOut));
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn a_full_way_out_loses_nothing() {
    let mut t = open();
    t.write(5000);
    t.out.room = 2;
    assert_eq!(t.end(), [". 1:1001 ack 1", ". 1001:2001 ack 1"]);
    assert!(t.tcp.wants_flush());
    t.recv("P. 1:101 ack 1");
    t.out.room = 1;
    assert_eq!(t.end(), [". 2001:3001 ack 101"]);
    t.out.room = usize::MAX;
    assert_eq!(t.end(), [". 3001:4001 ack 101", "P. 4001:5001 ack 101"]);
    assert!(!t.tcp.wants_flush());
}

#[test]
fn a_large_segment_is_left_to_a_device_that_cuts_it() {
    let mut t = open();
    t.out.tso_max_bytes = 60_000;
    t.write(6500);
    let before = t.out.room;
    assert_eq!(
        t.end(),
        [
            ". 1:1001 ack 1",
            ". 1001:2001 ack 1",
            ". 2001:3001 ack 1",
            ". 3001:4001 ack 1",
            ". 4001:5001 ack 1",
            ". 5001:6001 ack 1",
            "P. 6001:6501 ack 1"
        ]
    );
    assert_eq!(before - t.out.room, 2, "two calls");
}

#[test]
fn a_writer_waits_at_the_cap_and_is_woken_with_a_third_free() {
    let mut t = Script::accepted(
        TcpConfig { send_buffer_bytes: 3000, send_buffer_max_bytes: 3000, ..Script::plain() },
        "mss 1000",
    );
    let stream = t.stream();
    let woken = std::sync::Arc::new(Wakes::default());
    let waker = std::task::Waker::from(woken.clone());
    let mut cx = std::task::Context::from_waker(&waker);
    t.write(2999);
    let pool = demi_drivers::Pool::new(&Default::default()).unwrap();
    let mut buf = pool.copy_from_slice(&[b'x'; 4000]);
    assert!(
        t.tcp.poll_push(&mut cx, &t.out, stream, &mut buf).is_ready(),
        "below its cap it takes a buffer whole"
    );
    let mut more = pool.copy_from_slice(b"x");
    assert!(t.tcp.poll_push(&mut cx, &t.out, stream, &mut more).is_pending() && more.is_some());
    assert!(matches!(
        t.tcp.poll_write(&mut cx, &t.out, stream, &[std::io::IoSlice::new(b"x")]),
        Poll::Pending
    ));
    t.end();
    t.turn(". 1 ack 4001");
    assert_eq!(woken.count(), 0);
    t.turn(". 1 ack 5001");
    assert_eq!(woken.count(), 1);
    assert!(t.tcp.poll_push(&mut cx, &t.out, stream, &mut more).is_ready());
}

#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl Wakes {
    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}
