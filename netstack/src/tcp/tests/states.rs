//! States and events: closing in every order, resets, and what is answered to what (RFC 9293 §3.6, §3.10).

use std::io::ErrorKind;
use std::net::Shutdown;
use std::task::Poll;

use demi_drivers::transport::{StreamOptions, TcpState};

use super::script::{PEER_ISS, Script, cx};
use crate::tcp::TcpConfig;

fn open() -> Script {
    Script::accepted(Script::plain(), "mss 1000")
}

fn state(t: &Script) -> TcpState {
    t.tcp.tcp_info(t.stream()).unwrap().state
}

const NONE: [&str; 0] = [];

#[test]
fn the_active_closer_ends_in_time_wait() {
    let mut t = open();
    t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
    assert_eq!(t.end(), ["F. 1 ack 1"]);
    assert_eq!(state(&t), TcpState::FinWait1);
    assert_eq!(t.turn(". 1 ack 2"), NONE);
    assert_eq!(state(&t), TcpState::FinWait2);
    assert_eq!(t.turn("F. 1 ack 2"), [". 2 ack 2"]);
    assert_eq!(state(&t), TcpState::TimeWait);
    assert_eq!(t.read(), (0, true));
    let again = t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotConnected, "nothing is left to shut down");
    let usage = t.tcp.usage();
    assert_eq!((usage.streams, usage.time_wait), (0, 1));
    t.close();
    assert_eq!(t.turn("F. 1 ack 2"), [". 2 ack 2"], "the record answers for the connection");
    t.wait_ms(59_000);
    assert_eq!(t.tcp.usage().time_wait, 1);
    t.wait_ms(1_100);
    t.nothing_left();
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn the_passive_closer_ends_with_the_last_ack() {
    let mut t = open();
    assert_eq!(t.turn("F. 1 ack 1"), [". 1 ack 2"]);
    assert_eq!((state(&t), t.read()), (TcpState::CloseWait, (0, true)));
    t.close();
    assert_eq!(t.end(), ["F. 1 ack 2"]);
    assert_eq!(t.tcp.usage().closing, 1);
    assert_eq!(t.turn(". 2 ack 2"), NONE);
    t.nothing_left();
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn fins_that_cross_meet_in_closing() {
    let mut t = open();
    t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
    assert_eq!(t.end(), ["F. 1 ack 1"]);
    assert_eq!(t.turn("F. 1 ack 1"), [". 2 ack 2"]);
    assert_eq!(state(&t), TcpState::Closing);
    t.turn(". 2 ack 2");
    assert_eq!(state(&t), TcpState::TimeWait);
}

#[test]
fn a_fin_that_acknowledges_ours_goes_straight_to_time_wait() {
    let mut t = open();
    t.close();
    assert_eq!(t.end(), ["F. 1 ack 1"]);
    assert_eq!(t.turn("F. 1 ack 2"), [". 2 ack 2"]);
    let usage = t.tcp.usage();
    assert_eq!((usage.streams, usage.closing, usage.time_wait), (0, 0, 1));
}

#[test]
fn data_is_delivered_while_our_side_is_closed() {
    let mut t = open();
    t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
    t.end();
    t.recv("P. 1:101 ack 1");
    assert_eq!((state(&t), t.read()), (TcpState::FinWait1, (100, false)));
    t.recv("P. 101:201 ack 2");
    assert_eq!((state(&t), t.read()), (TcpState::FinWait2, (100, false)));
    assert_eq!(t.turn("FP. 201:301 ack 2"), [". 2 ack 302"]);
    assert_eq!(t.read(), (100, true));
}

#[test]
fn pushes_after_the_peers_half_close_finish() {
    let mut t = open();
    t.turn("F. 1 ack 1");
    t.write(2500);
    assert_eq!(t.end(), [". 1:1001 ack 2", ". 1001:2001 ack 2", "P. 2001:2501 ack 2"]);
    let stream = t.stream();
    assert!(t.tcp.poll_drained(&mut cx(), stream).is_pending());
    t.turn(". 2 ack 2501");
    assert!(matches!(t.tcp.poll_drained(&mut cx(), stream), Poll::Ready(Ok(()))));
    t.close();
    assert_eq!(t.end(), ["F. 2501 ack 2"]);
    t.turn(". 2 ack 2502");
    t.nothing_left();
}

#[test]
fn a_second_fin_changes_nothing() {
    let mut t = open();
    assert_eq!(t.turn("F. 1 ack 1"), [". 1 ack 2"]);
    assert_eq!(t.turn("F. 1 ack 1"), [". 1 ack 2"]);
    assert_eq!(t.turn("F. 2 ack 1"), NONE, "a FIN behind the FIN");
    assert_eq!(t.turn("FP. 2:50 ack 1"), NONE, "data behind the FIN");
    assert_eq!((state(&t), t.read()), (TcpState::CloseWait, (0, true)));
    t.close();
    assert_eq!(t.end(), ["F. 1 ack 2"]);
    assert_eq!(t.turn("F. 1 ack 2"), [". 2 ack 2"], "an old segment's acknowledgement is not looked at");
    t.turn(". 2 ack 2");
    t.nothing_left();
}

#[test]
fn a_fin_ahead_of_a_gap_waits_for_it() {
    let mut t = open();
    assert_eq!(t.turn("F. 101 ack 1"), [". 1 ack 1"]);
    assert_eq!(state(&t), TcpState::Established);
    assert_eq!(t.turn("P. 1:101 ack 1"), [". 1 ack 102"]);
    assert_eq!((state(&t), t.read()), (TcpState::CloseWait, (100, true)));
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut t = open();
    t.close();
    assert_eq!(t.end(), ["F. 1 ack 1"]);
    assert_eq!(t.wait_ms(201), ["F. 1 ack 1"]);
    assert_eq!(t.wait_ms(401), ["F. 1 ack 1"]);
    t.turn(". 1 ack 2");
    assert_eq!(t.wait_ms(5000), NONE);

    let mut t = open();
    t.write(100);
    t.close();
    assert_eq!(t.end(), ["FP. 1:101 ack 1"], "the FIN rides on the last data");
    assert_eq!(t.wait_ms(201), ["FP. 1:101 ack 1"]);
    assert_eq!(t.turn(". 1 ack 101"), NONE, "the FIN may still be on the way");
    assert_eq!(t.wait_ms(201), NONE, "no round trip has been measured that would end the backoff");
    assert_eq!(t.wait_ms(201), ["F. 101 ack 1"]);
}

#[test]
fn an_orphan_that_hears_nothing_is_given_up() {
    let mut t = Script::accepted(TcpConfig { orphan_retries: 2, ..Script::plain() }, "mss 1000");
    t.write(10);
    t.close();
    t.end();
    t.wait_ms(1000 + 2000 + 4000 + 100);
    t.nothing_left();
    assert_eq!(t.tcp.stats().abort_on_timeout, 1);
}

#[test]
fn a_closed_connection_waits_for_the_peers_fin_but_not_for_ever() {
    let mut t = open();
    t.close();
    t.end();
    t.turn(". 1 ack 2");
    t.wait_ms(59_000);
    assert_eq!(t.tcp.usage().closing, 1);
    t.wait_ms(1_100);
    t.nothing_left();

    // With its handle alive it waits as long as the application wants.
    let mut t = open();
    t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
    t.end();
    t.turn(". 1 ack 2");
    t.wait_ms(3_600_000);
    assert_eq!(state(&t), TcpState::FinWait2);
    t.recv("P. 1:11 ack 2");
    assert_eq!(t.read(), (10, false));
}

#[test]
fn a_listener_answers_acknowledgements_with_a_reset_and_drops_what_neither_opens_nor_acknowledges() {
    let mut t = Script::new(Script::plain());
    t.listen(&Default::default());
    for line in ["- 0:10", "P 0:10", "F 0", "SF 0 mss 1000", "R 0", "SR 0"] {
        assert_eq!(t.turn(line), NONE, "{line}");
    }
    assert_eq!(t.turn(". 5 ack 7"), ["R 7"]);
    assert_eq!(t.turn("F. 5 ack 7"), ["R 7"]);
    t.nothing_left();
}

#[test]
fn closing_with_unread_data_resets() {
    let mut t = open();
    t.turn("P. 1:101 ack 1");
    t.close();
    assert_eq!(t.sent(), ["R. 1 ack 101"]);
    t.nothing_left();
    assert_eq!(t.tcp.stats().abort_on_close, 1);
}

#[test]
fn data_for_a_closed_socket_resets() {
    let mut t = open();
    t.close();
    t.end();
    t.turn(". 1 ack 2");
    assert_eq!(t.turn("P. 1:11 ack 2"), ["R 2"], "an answer, from where the segment believes us to be");
    t.nothing_left();
    assert_eq!(t.tcp.stats().abort_on_data, 1);
}

#[test]
fn linger_zero_and_abort_reset() {
    let mut t = open();
    let mut options = StreamOptions::default();
    options.linger = Some(std::time::Duration::ZERO);
    t.tcp.set_stream_options(t.now, t.stream(), &options).unwrap();
    t.write(100);
    t.close();
    assert_eq!(t.sent(), ["R. 1 ack 1"]);
    t.nothing_left();

    let mut t = open();
    let stream = t.stream();
    t.tcp.abort(t.now, &mut t.out, stream);
    assert_eq!(t.sent(), ["R. 1 ack 1"]);
    assert_eq!(t.end(), NONE);
    t.nothing_left();
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn an_abort_after_both_sides_have_closed_sends_nothing() {
    for crossed in [true, false] {
        let mut t = open();
        if crossed {
            t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
            t.end();
            t.turn("F. 1 ack 1");
            assert_eq!(state(&t), TcpState::Closing);
        } else {
            t.turn("F. 1 ack 1");
            t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
            t.end();
            assert_eq!(state(&t), TcpState::LastAck);
        }
        let stream = t.stream();
        t.tcp.abort(t.now, &mut t.out, stream);
        assert_eq!(t.end(), NONE, "RFC 9293 §3.10.5");
        t.nothing_left();
    }
}

#[test]
fn only_a_reset_at_the_expected_number_is_believed() {
    for (at, believed) in [(0, false), (2, false), (60_000, false), (1, true)] {
        let mut t = open();
        t.recv(&format!("R {at}"));
        assert_eq!(state(&t) == TcpState::Closed, believed, "RST at {at}");
        let answer = t.end();
        if (1..65_000).contains(&at) && !believed {
            assert_eq!(answer, [". 1 ack 1"], "a challenge: RFC 5961 §3.2");
        } else {
            assert_eq!(answer, NONE);
        }
    }
}

#[test]
fn a_reset_connection_gives_its_data_then_the_error_once() {
    let mut t = open();
    t.write(500);
    t.end();
    t.turn("P. 1:101 ack 1");
    t.turn("R 101");
    let stream = t.stream();
    let Poll::Ready(Ok(Some(buf))) = t.tcp.poll_pop(&mut cx(), stream, 1000) else { panic!() };
    assert_eq!(buf.len(), 100);
    drop(buf);
    assert_eq!(t.read_error(), Some(ErrorKind::ConnectionReset));
    assert_eq!(t.read(), (0, true));
    let mut buf = Some(t.out.pool.copy_from_slice(b"x").unwrap());
    let Poll::Ready(Err(error)) = t.tcp.poll_push(&mut cx(), &t.out, stream, &mut buf) else { panic!() };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!(buf.take().is_some(), "a refused buffer stays the caller's");
    assert_eq!(t.tcp.peer_addr(stream).unwrap_err().kind(), ErrorKind::NotConnected);
    t.close();
    t.nothing_left();
    assert_eq!(t.tcp.local_addr(stream).unwrap_err().kind(), ErrorKind::NotConnected);
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn a_reset_after_the_peers_fin_is_the_end_to_readers_and_a_broken_pipe_to_writers() {
    let mut t = open();
    assert_eq!(t.turn("FP. 1:101 ack 1"), [". 1 ack 102"]);
    assert_eq!(t.turn("R 102"), NONE);
    assert_eq!(t.read(), (100, true));
    let stream = t.stream();
    let mut buf = Some(t.out.pool.copy_from_slice(b"x").unwrap());
    let Poll::Ready(Err(error)) = t.tcp.poll_push(&mut cx(), &t.out, stream, &mut buf) else {
        panic!("it was taken")
    };
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!(t.tcp.take_error(stream).unwrap().is_none(), "told once");
}

#[test]
fn writing_after_shutdown_is_a_broken_pipe_and_shutting_down_a_dead_one_not_connected() {
    let mut t = open();
    let stream = t.stream();
    t.tcp.shutdown(stream, Shutdown::Write).unwrap();
    let written = t.tcp.poll_write(&mut cx(), &t.out, stream, &[std::io::IoSlice::new(b"x")]);
    assert!(matches!(written, Poll::Ready(Err(error)) if error.kind() == ErrorKind::BrokenPipe));
    t.end();
    t.turn("R 1");
    assert_eq!(t.tcp.shutdown(stream, Shutdown::Write).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn what_comes_after_shutting_down_the_reading_side_is_dropped_and_acknowledged() {
    let mut t = open();
    t.turn("P. 1:101 ack 1");
    t.tcp.shutdown(t.stream(), Shutdown::Read).unwrap();
    assert_eq!(t.read(), (0, true));
    assert_eq!(t.turn("P. 101:201 ack 1"), [". 1 ack 201"]);
    assert_eq!(t.read(), (0, true));
    t.write(10);
    assert_eq!(t.end(), ["P. 1:11 ack 201"]);
}

#[test]
fn shutting_down_the_reading_side_sends_nothing() {
    let mut t = Script::accepted(TcpConfig::default(), "mss 1000 wscale 7");
    t.tcp.shutdown(t.stream(), Shutdown::Read).unwrap();
    assert_eq!(t.end(), NONE);
    assert_eq!(t.read(), (0, true));
}

#[test]
fn a_syn_in_the_window_is_challenged() {
    let mut t = open();
    assert_eq!(t.turn("S 50 mss 1000"), [". 1 ack 1"]);
    assert_eq!(t.turn("S 50 mss 1000"), NONE, "the connection's own limit");
    t.wait_ms(600);
    assert_eq!(t.turn("S. 0 ack 1 mss 1000"), [". 1 ack 1"], "outside of it, too");
    assert_eq!(state(&t), TcpState::Established);
    assert_eq!(t.tcp.stats().challenge_acks, 2);
}

#[test]
fn acknowledgements_of_what_was_never_sent_or_long_ago_are_challenged() {
    let mut t = open();
    assert_eq!(t.turn("P. 1:11 ack 2"), [". 1 ack 1"]);
    assert_eq!(t.read(), (0, false), "RFC 5961 §5: its data is not taken");
    t.wait_ms(600);
    assert_eq!(
        t.turn("P. 1:11 ack 0"),
        [". 1 ack 1"],
        "before the first byte, there was nothing to acknowledge"
    );
    assert_eq!(t.read(), (0, false));
    t.write(100);
    t.end();
    t.turn(". 1 ack 101");
    t.turn("P. 1:11 ack 1");
    assert_eq!(t.read(), (10, false), "an old one of what was acknowledged is merely late");
    t.wait_ms(600);
    assert_eq!(t.turn("P. 11:21 ack 0"), [". 101 ack 11"]);
    assert_eq!(t.read(), (0, false));
}

#[test]
fn a_segment_without_any_flag_tells_a_stranger_nothing() {
    let mut t = open();
    for segment in ["- 1:11", "- 900000:900001", "F 900000", "- -1000:-990"] {
        assert_eq!(t.turn(segment), NONE, "{segment}");
    }
}

#[test]
fn a_reset_that_does_not_count_the_fin_is_one() {
    let mut t = open();
    t.turn("F. 1 ack 1");
    assert_eq!(state(&t), TcpState::CloseWait);
    assert_eq!(t.turn("R 1"), NONE);
    assert_eq!(t.tcp.stats().estab_resets, 1);
}

#[test]
fn strange_segments_are_answered_from_time_wait_once_in_a_while() {
    let mut t = open();
    t.tcp.shutdown(t.stream(), Shutdown::Write).unwrap();
    t.end();
    t.turn(". 1 ack 2");
    t.turn("F. 1 ack 2");
    assert_eq!(t.tcp.usage().time_wait, 1);
    let answered = (0..100).filter(|_| t.turn(". 5000 ack 2") != NONE).count();
    assert_eq!(answered, 1, "two of them would answer each other for a minute");
    t.wait_ms(600);
    assert_eq!(t.turn(". 5000 ack 2"), [". 2 ack 2"]);
}

#[test]
fn segments_without_ack_are_dropped() {
    let mut t = open();
    assert_eq!(t.turn("- 1:11"), NONE);
    assert_eq!(t.turn("P 1:11"), NONE);
    assert_eq!(t.read(), (0, false));
}

#[test]
fn pure_acknowledgements_are_never_acknowledged() {
    let mut t = open();
    t.write(1000);
    t.end();
    assert_eq!(t.turn(". 1 ack 1001"), NONE);
    assert_eq!(t.turn(". 1 ack 1001"), NONE);
    assert_eq!(t.turn(". 1 ack 1001 win 100"), NONE);
    assert_eq!(t.wait_ms(1000), NONE);
}

#[test]
fn confused_ends_do_not_answer_each_other_for_ever() {
    let mut t = open();
    let answers: usize = (0..100).map(|_| t.turn(". 70000 ack 1").len()).sum();
    assert_eq!(answers, 1);
}

#[test]
fn time_wait_lets_a_newer_connection_in() {
    for (syn, taken) in [("S 10", true), ("S 1", false), ("S -5", false)] {
        let mut t = open();
        t.close();
        t.end();
        t.turn("F. 1 ack 2");
        let iss = t.iss.unwrap();
        let answer = t.turn(&format!("{syn} mss 1000"));
        if taken {
            let peer_seq = 11;
            assert_eq!(answer, [format!("S. 0 ack {peer_seq} mss 1460")]);
            assert!((t.iss.unwrap().wrapping_sub(iss) as i32) > 65_000, "beyond the old numbers");
            assert_eq!(t.tcp.usage().time_wait, 0);
        } else {
            assert_eq!(answer, [". 2 ack 2"]);
        }
    }
}

#[test]
fn a_connect_follows_a_time_wait_of_its_four_tuple_when_timestamps_tell_them_apart() {
    for (syn, taken) in [("mss 1000 ts 5 0", true), ("mss 1000", false)] {
        let mut t = Script::accepted(TcpConfig::default(), syn);
        t.close();
        t.end();
        let options = if taken { "ts 6 last" } else { "" };
        t.turn(&format!("F. 1 ack 2 {options}"));
        assert_eq!(t.tcp.usage().time_wait, 1);
        let iss = t.iss.unwrap();
        let remote = t.peer;
        let connect =
            |t: &mut Script| t.tcp.connect(t.now, &mut t.out, remote, Some(t.us), &StreamOptions::default());
        assert_eq!(connect(&mut t).unwrap_err().kind(), ErrorKind::AddrInUse, "not within a second");
        t.wait_ms(1100);
        assert_eq!(connect(&mut t).is_ok(), taken, "{syn}");
        t.end();
        let grown = t.iss.unwrap().wrapping_sub(iss) as i32;
        assert!(!taken || grown > 65_000, "numbers go on beyond the old ones: {grown}");
    }
}

#[test]
fn too_many_time_waits_drop_the_oldest() {
    let mut t = Script::new(TcpConfig { max_time_wait: 3, ..Script::plain() });
    t.listen(&Default::default());
    for port in 0..5 {
        t.peer.set_port(6000 + port);
        t.turn("S 0 mss 1000");
        t.turn(". 1 ack 1");
        let Poll::Ready(Ok((stream, _))) = t.tcp.poll_accept(&mut cx(), t.listener.unwrap()) else {
            panic!()
        };
        t.stream = Some(stream);
        t.close();
        t.end();
        t.turn("F. 1 ack 2");
    }
    assert_eq!((t.tcp.usage().time_wait, t.tcp.stats().time_wait_overflow), (3, 2));
    t.wait_ms(61_000);
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn icmp_errors_end_a_connect_and_not_a_connection() {
    let mut t = Script::new(Script::plain());
    t.connect(&StreamOptions::default());
    t.sent();
    let flow =
        crate::tcp::output::Flow { local: t.us.ip(), remote: t.peer.ip(), local_port: 80, remote_port: 5000 };
    let iss = t.iss.unwrap();
    let error = crate::tcp::IcmpError::HostUnreachable;
    t.tcp.on_icmp_error(t.now, &flow, iss.wrapping_add(5000), error);
    let stream = t.stream();
    assert!(t.tcp.poll_connect(&mut cx(), stream).is_pending(), "RFC 5927: not a number in flight");
    t.tcp.on_icmp_error(t.now, &flow, iss, error);
    let Poll::Ready(Err(error)) = t.tcp.poll_connect(&mut cx(), stream) else { panic!() };
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);

    let mut t = Script::accepted(TcpConfig { retries: 1, ..Script::plain() }, "mss 1000");
    t.write(10);
    t.end();
    let (stream, iss) = (t.stream(), t.iss.unwrap());
    let refused = crate::tcp::IcmpError::ConnectionRefused;
    t.tcp.on_icmp_error(t.now, &flow, iss.wrapping_add(1), refused);
    assert_eq!(state(&t), TcpState::Established);
    t.tcp.on_icmp_error(t.now, &flow, iss.wrapping_add(1), crate::tcp::IcmpError::HostUnreachable);
    t.wait_ms(4000);
    let error = t.tcp.take_error(stream).unwrap().unwrap();
    assert_eq!(error.kind(), ErrorKind::HostUnreachable, "the reason to give when it times out");
    assert!(t.tcp.take_error(stream).unwrap().is_none());
}

#[test]
fn a_smaller_path_cuts_the_segments_again() {
    let mut t = open();
    t.write(3000);
    assert_eq!(t.end().len(), 3);
    let flow =
        crate::tcp::output::Flow { local: t.us.ip(), remote: t.peer.ip(), local_port: 80, remote_port: 5000 };
    let iss = t.iss.unwrap();
    t.tcp.on_path_mtu(t.now, &flow, iss.wrapping_add(90_000), 600);
    assert_eq!(t.end(), NONE);
    t.tcp.on_path_mtu(t.now, &flow, iss.wrapping_add(1), 68);
    let sent = t.end();
    assert_eq!(sent[0], ". 1:513 ack 1", "not below what IP guarantees, whatever the router says");
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().send_mss_bytes, 512);
}

#[test]
fn headers_that_lie_are_counted_and_dropped() {
    let mut t = open();
    for bytes in [&[][..], &[0; 19], &[0; 20], &[0xff; 30]] {
        t.recv_bytes(bytes);
    }
    assert_eq!((t.end(), t.tcp.stats().in_errs), (vec![], 4));
    assert_eq!(PEER_ISS.wrapping_add(701), 0, "the peer's numbers wrap early");
}

#[test]
fn random_segments_harm_nothing() {
    let mut rng = super::network::Rng(5);
    let mut t = Script::accepted(TcpConfig::default(), "mss 1000 sackOK ts 1 0 wscale 3");
    for round in 0..6_000u32 {
        let near = |rng: &mut super::network::Rng| match rng.below(4) {
            0 => rng.below(4) as i64 - 1,
            1 => rng.below(5000) as i64 - 1000,
            2 => rng.below(200_000) as i64 - 100_000,
            _ => rng.next() as u32 as i64,
        };
        let (seq, ack, len) = (near(&mut rng), near(&mut rng), rng.below(200) * rng.below(2));
        let flags: String =
            ['S', 'F', 'R', 'P', '.', '.'].into_iter().filter(|_| rng.below(3) == 0).chain(['-']).collect();
        let mut line =
            format!("{flags} {seq}:{} ack {ack} win {}", seq + len as i64, rng.below(70_000) as u16);
        if rng.below(2) == 0 {
            line += &format!(" ts {} {}", rng.below(3000), rng.next() as u32);
        }
        for _ in 0..rng.below(3) {
            line += &format!(" sack {}:{}", near(&mut rng), near(&mut rng));
        }
        t.recv(&line);
        if rng.below(4) == 0 && t.tcp.usage().streams > 0 && state(&t) == TcpState::Established {
            let stream = t.stream();
            let _ = t.tcp.poll_write(&mut cx(), &t.out, stream, &[std::io::IoSlice::new(&[0; 100])]);
        }
        let _ = t.end();
        if rng.below(50) == 0 {
            t.wait_ms(rng.below(3000));
        }
        if matches!(state(&t), TcpState::Closed | TcpState::TimeWait) {
            t.close();
            t = Script::accepted(TcpConfig::default(), "mss 1000 sackOK ts 1 0 wscale 3");
        }
        assert!(t.out.pool.stats().slots_out < 1000, "round {round}: memory is bounded");
    }
}
