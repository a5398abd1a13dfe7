//! What comes in: acknowledgements and their delays, windows, reassembly, SACK, timestamps.

use demi_drivers::transport::{ListenOptions, StreamOptions};

use super::script::Script;
use crate::tcp::TcpConfig;

const NONE: [&str; 0] = [];

/// A connection that is past its quick acknowledgements.
fn settled(config: TcpConfig, syn: &str) -> Script {
    Script::accepted(TcpConfig { quick_acks: 0, ..config }, syn)
}

#[test]
fn a_young_connection_acknowledges_at_once_and_a_settled_one_waits() {
    let mut t = Script::accepted(TcpConfig { quick_acks: 2, ..Script::plain() }, "mss 1000");
    assert_eq!(t.turn("P. 1:101 ack 1"), [". 1 ack 101"]);
    assert_eq!(t.turn("P. 101:201 ack 1"), [". 1 ack 201"]);
    assert_eq!(t.turn("P. 201:301 ack 1"), NONE);
    assert_eq!(t.wait_ms(39), NONE);
    assert_eq!(t.wait_ms(2), [". 1 ack 301"]);
    assert_eq!(t.tcp.stats().delayed_acks, 1);
}

#[test]
fn quick_acknowledgements_can_be_asked_for_and_declined() {
    let mut t = settled(Script::plain(), "mss 1000");
    assert_eq!(t.turn("P. 1:101 ack 1"), NONE);
    t.tcp.set_quickack(t.stream(), true).unwrap();
    assert_eq!(t.end(), [". 1 ack 101"], "what waits goes at once");
    assert_eq!(t.turn("P. 101:201 ack 1"), [". 1 ack 201"]);
    assert!(t.tcp.quickack(t.stream()).unwrap());
    t.tcp.set_quickack(t.stream(), false).unwrap();
    assert!(!t.tcp.quickack(t.stream()).unwrap());
    assert_eq!(t.turn("P. 201:301 ack 1"), NONE, "a reply may carry it");
    assert_eq!(t.wait_ms(41), [". 1 ack 301"]);
    assert!(t.tcp.quickack(t.stream()).unwrap(), "no reply came: it does not last");
}

#[test]
fn every_second_full_segment_is_acknowledged_at_once() {
    let mut t = settled(Script::plain(), "mss 1000");
    t.turn("P. 1:1001 ack 1");
    t.wait_ms(50);
    assert_eq!(t.turn(". 1001:2001 ack 1"), NONE);
    assert_eq!(t.turn(". 2001:3001 ack 1"), [". 1 ack 3001"]);
    assert_eq!(t.turn(". 3001:4001 ack 1"), NONE);
    assert_eq!(t.turn(". 4001:5001 ack 1"), [". 1 ack 5001"]);
}

#[test]
fn a_reply_carries_the_acknowledgement_and_ends_the_quick_start() {
    let mut t = Script::accepted(Script::plain(), "mss 1000");
    t.recv("P. 1:101 ack 1");
    t.write(50);
    assert_eq!(t.end(), ["P. 1:51 ack 101"]);
    assert_eq!(t.wait_ms(100), NONE, "nothing is left to acknowledge");
    assert_eq!(t.turn("P. 101:201 ack 51"), NONE, "the connection answers: its replies are waited for");
    t.write(50);
    assert_eq!(t.end(), ["P. 51:101 ack 201"]);
}

#[test]
fn out_of_order_data_is_acknowledged_at_once_each_and_reassembled() {
    let mut t = settled(Script::plain(), "mss 1000");
    for _ in 0..2 {
        t.recv(". 2001:3001 ack 1");
    }
    t.recv(". 1001:2001 ack 1");
    assert_eq!(t.sent(), [". 1 ack 1", ". 1 ack 1", ". 1 ack 1"], "without waiting for the flush");
    assert_eq!(t.turn(". 1:1001 ack 1"), [". 1 ack 3001"]);
    assert_eq!(t.read(), (3000, false));
}

#[test]
fn sack_blocks_tell_the_latest_first_and_duplicates_before_all() {
    let mut t = settled(Script::sack(), "mss 1000 sackOK");
    assert_eq!(t.turn(". 1001:2001 ack 1"), [". 1 ack 1 sack 1001:2001"]);
    assert_eq!(t.turn(". 3001:4001 ack 1"), [". 1 ack 1 sack 3001:4001 sack 1001:2001"]);
    assert_eq!(t.turn(". 5001:6001 ack 1"), [". 1 ack 1 sack 5001:6001 sack 3001:4001 sack 1001:2001"]);
    assert_eq!(
        t.turn(". 3001:3501 ack 1")[0],
        ". 1 ack 1 sack 3001:3501 sack 3001:4001 sack 5001:6001 sack 1001:2001"
    );
    assert_eq!(t.turn(". 1:1001 ack 1"), [". 1 ack 2001 sack 3001:4001 sack 5001:6001"]);
    assert_eq!(t.turn(". 1:1001 ack 1"), [". 1 ack 2001 sack 1:1001 sack 3001:4001 sack 5001:6001"]);
    assert_eq!(t.turn(". 2001:3001 ack 1"), [". 1 ack 4001 sack 5001:6001"]);
    assert_eq!(t.turn(". 4001:5001 ack 1"), [". 1 ack 6001"]);
    assert_eq!(t.read(), (6000, false));
}

#[test]
fn data_with_sack_blocks_still_fits_the_packet() {
    let mut t = Script::accepted(TcpConfig::default(), "mss 1460 sackOK ts 100 0 wscale 7");
    t.recv(". 1001:2001 ack 1 ts 101 last");
    t.sent();
    t.write(4000);
    let sent = t.end();
    assert!(sent.iter().all(|line| line.contains("sack 1001:2001")), "{sent:?}");
}

#[test]
fn the_window_follows_the_reader_and_its_edge_never_moves_left() {
    let config = TcpConfig { recv_buffer_bytes: 10_000, ..Script::plain() };
    let mut t = settled(config, "mss 1000");
    let (mut edge, mut seq) = (10_001u32, 1u32);
    for _ in 0..10 {
        t.recv(&format!(". {seq}:{} ack 1", seq + 1000));
        seq += 1000;
        if !t.end().is_empty() {
            let now = seq + u32::from(t.window);
            assert!(now >= edge, "{now} after {edge}");
            edge = now;
        }
    }
    t.wait_ms(50);
    assert_eq!(t.window, 0);
    // A byte beyond the window is not taken, and answered.
    assert_eq!(t.turn(&format!(". {seq}:{} ack 1", seq + 1)), [". 1 ack 10001"]);
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().unread_bytes, 10_000);
}

#[test]
fn a_slow_reader_reopens_the_window_by_itself() {
    let config = TcpConfig { recv_buffer_bytes: 4000, ..Script::plain() };
    let mut t = settled(config, "mss 1000");
    for at in 0..4 {
        t.turn(&format!(". {}:{} ack 1", 1 + at * 1000, 1001 + at * 1000));
    }
    t.wait_ms(50);
    assert_eq!(t.window, 0);
    let stream = t.stream();
    let read = |t: &mut Script, max| {
        let _ = t.tcp.poll_pop(&mut super::script::cx(), stream, max);
        t.end()
    };
    assert_eq!(read(&mut t, 500), NONE, "receiver SWS: half a segment is no news");
    assert_eq!(read(&mut t, 500), [". 1 ack 4001"]);
    assert_eq!(t.window, 1000);
    assert_eq!(read(&mut t, 1000), [". 1 ack 4001"]);
    assert_eq!(t.window, 2000);
    assert_eq!(t.turn(". 4001:5001 ack 1").len(), 0);
}

#[test]
fn a_smaller_buffer_takes_back_no_window() {
    let mut t = settled(TcpConfig { recv_buffer_bytes: 8000, ..Script::plain() }, "mss 1000");
    let mut options = t.tcp.stream_options(t.stream()).unwrap();
    options.recv_buffer_bytes = Some(2048);
    t.tcp.set_stream_options(t.now, t.stream(), &options).unwrap();
    for at in 0..8 {
        t.turn(&format!(". {}:{} ack 1", 1 + at * 1000, 1001 + at * 1000));
    }
    t.wait_ms(50);
    assert_eq!((t.window, t.tcp.tcp_info(t.stream()).unwrap().unread_bytes), (0, 8000));
    assert_eq!(t.read(), (8000, false));
    t.end();
    assert_eq!(t.window, 2048);
}

#[test]
fn a_window_probe_of_one_byte_is_answered_and_not_taken() {
    let config = TcpConfig { recv_buffer_bytes: 2048, ..Script::plain() };
    let mut t = settled(config, "mss 1000");
    t.turn(". 1:1001 ack 1");
    t.turn(". 1001:2049 ack 1");
    t.wait_ms(50);
    assert_eq!(t.window, 0);
    assert_eq!(t.turn(". 2049:2050 ack 1"), [". 1 ack 2049"]);
    assert_eq!(t.turn(". 2048 ack 1"), [". 1 ack 2049"], "Linux's probe");
    t.write(10);
    assert_eq!(t.end(), ["P. 1:11 ack 2049"]);
    t.turn(". 2049:2050 ack 11");
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().unacked_bytes, 0, "its acknowledgement counts");
}

#[test]
fn overlaps_are_trimmed_and_duplicates_answered() {
    let mut t = settled(Script::plain(), "mss 1000");
    t.turn("P. 1:501 ack 1");
    assert_eq!(t.turn("P. 1:501 ack 1"), [". 1 ack 501"]);
    assert_eq!(t.turn("P. 301:801 ack 1"), [". 1 ack 801"]);
    assert_eq!(t.read(), (800, false));
}

#[test]
fn one_byte_segments_with_gaps_are_bounded() {
    let mut t = settled(TcpConfig { recv_buffer_bytes: 60_000, ..Script::sack() }, "mss 1000 sackOK");
    for at in 0..20_000 {
        t.recv(&format!(". {}:{} ack 1", 3 + at * 2, 4 + at * 2));
        t.sent();
    }
    let held = t.out.pool.stats().slots_out;
    assert!(held <= 60_000 / 512 + 1, "{held} slots");
    assert!(t.tcp.stats().ofo_drop > 19_000);
}

#[test]
fn single_bytes_in_order_share_slots() {
    let mut t = settled(Script::plain(), "mss 1000");
    for at in 0..1000 {
        t.turn(&format!("P. {}:{} ack 1", 1 + at, 2 + at));
    }
    assert!(t.out.pool.stats().slots_out <= 2);
    assert_eq!(t.read(), (1000, false));
}

#[test]
fn timestamps_are_echoed_as_the_rfc_says() {
    let mut t = settled(
        TcpConfig { sack: false, window_scaling: false, ..TcpConfig::default() },
        "mss 1000 ts 100 0",
    );
    let echo = |t: &Script| t.timestamps.unwrap().echo;
    t.turn("P. 1:101 ack 1 ts 110 last");
    t.turn("P. 101:201 ack 1 ts 120 last");
    t.wait_ms(50);
    assert_eq!(echo(&t), 110, "of delayed ones the first: RFC 7323 §4.3");
    t.turn(". 301:401 ack 1 ts 130 last");
    assert_eq!(echo(&t), 110, "not that of a segment beyond a gap");
    t.turn(". 201:301 ack 1 ts 140 last");
    assert_eq!(echo(&t), 140);
}

#[test]
fn reading_sends_no_update_of_a_window_that_the_field_cannot_say() {
    let mut t = Script::accepted(Script::plain(), "mss 1000");
    for at in [1, 1001, 2001] {
        assert_eq!(t.turn(&format!(". {at}:{} ack 1", at + 1000)), [format!(". 1 ack {}", at + 1000)]);
        assert_eq!(t.window, 65535);
    }
    assert_eq!(t.read(), (3000, false));
    assert_eq!(t.end(), [""; 0]);
}

#[test]
fn two_small_segments_under_way_do_not_push_a_full_window_on() {
    let config = TcpConfig { recv_buffer_bytes: 2000, timestamps: false, ..TcpConfig::default() };
    let mut t = Script::accepted(config, "mss 1000 sackOK wscale 7");
    // A peer that sends whatever the window lets it, in segments smaller than its unit, before the one before is answered.
    let (mut next, mut edge, mut under_way) = (1u32, 2001u32, Vec::new());
    for _ in 0..1000 {
        let end = edge.min(next + if next < 1900 { 500 } else { 43 });
        let more = end > next;
        if more {
            under_way.push((next, end));
            next = end;
        }
        if more && under_way.len() < 2 {
            continue;
        }
        if under_way.is_empty() {
            break;
        }
        let (from, to) = under_way.remove(0);
        t.turn(&format!("P. {from}:{to} ack 1"));
        t.wait_ms(50);
        edge = edge.max(to + (u32::from(t.window) << 7));
    }
    assert!(edge <= 2001 + 2 * 128, "the edge is at {edge}, the buffer ends at 2001");
}

#[test]
fn small_segments_move_the_window_with_either_version_of_ip() {
    for (us, peer) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let mut t = Script::between(TcpConfig { recv_buffer_bytes: 4000, ..Script::plain() }, us, peer);
        t.accept("mss 1000");
        t.turn(". 1:1001 ack 1");
        assert_eq!((t.window, t.read()), (3000, (1000, false)), "{us}");
        t.turn(". 1001:2001 ack 1");
        assert_eq!(t.window, 3000, "{us}");
    }
}

#[test]
fn resets_carry_timestamps_as_every_segment_does() {
    let mut t = Script::accepted(TcpConfig::default(), "mss 1000 sackOK ts 100 0");
    t.turn("P. 1:101 ack 1 ts 110 last");
    t.timestamps = None;
    t.close();
    assert_eq!(t.sent(), ["R. 1 ack 101"]);
    assert_eq!(t.timestamps.map(|timestamps| timestamps.echo), Some(110), "RFC 7323 §3.2");
}

#[test]
fn old_timestamps_mark_old_duplicates() {
    let mut t = settled(
        TcpConfig { sack: false, window_scaling: false, ..TcpConfig::default() },
        "mss 1000 ts 1000 0",
    );
    t.turn("P. 1:101 ack 1 ts 1010 last");
    t.wait_ms(50);
    assert_eq!(t.turn("P. 101:201 ack 1 ts 1009 last"), [". 1 ack 101"], "RFC 7323 §5.3");
    assert_eq!((t.read(), t.tcp.stats().paws_estab), ((100, false), 1));
    t.turn("P. 101:201 ack 1");
    assert_eq!(t.read(), (100, false), "a segment without timestamps is taken, as Linux does");
    t.wait(std::time::Duration::from_secs(25 * 24 * 3600));
    t.turn("P. 201:301 ack 1 ts 5 last");
    assert_eq!(t.read(), (100, false), "after 24 days the clock may have wrapped");
}

#[test]
fn round_trips_are_measured() {
    let config = TcpConfig { loss_probes: false, ..TcpConfig::default() };
    let mut t = Script::accepted(config, "mss 1000 sackOK ts 1 0 wscale 7");
    t.write(100);
    t.end();
    t.wait_ms(30);
    t.turn(". 1 ack 101 ts 2 last");
    let info = t.tcp.tcp_info(t.stream()).unwrap();
    assert!((3_000..31_000).contains(&info.rtt_us), "{}", info.rtt_us);
    assert!(info.rto_us >= 200_000 + info.rtt_us, "{}", info.rto_us);
    // What was sent twice is measured by its timestamp alone (Karn).
    t.write(100);
    t.end();
    t.wait_ms(400);
    let first = t.timestamps.unwrap();
    t.wait_ms(10);
    let before = t.tcp.tcp_info(t.stream()).unwrap();
    t.turn(&format!(". 1 ack 201 ts 3 {}", first.value));
    let after = t.tcp.tcp_info(t.stream()).unwrap();
    assert_eq!((before.backoff, after.backoff), (1, 0));
    assert!(after.rtt_us < 60_000, "{}", after.rtt_us);
}

#[test]
fn the_short_path_is_taken() {
    let mut t = Script::accepted(TcpConfig::default(), "mss 1000 sackOK ts 1 0 wscale 7");
    for at in 0..100 {
        t.recv(&format!("P. {}:{} ack {} ts {} last", 1 + at * 10, 11 + at * 10, 1 + at * 10, 2 + at));
        t.write(10);
        t.end();
        t.read();
    }
    assert_eq!(t.tcp.stats().hp_hits, 100);
    let info = t.tcp.tcp_info(t.stream()).unwrap();
    assert_eq!((info.bytes_received, info.bytes_acked, info.segments_in), (1000, 990, 102));
}

#[test]
fn both_ip_versions_behave_alike() {
    let mut t = Script::between(TcpConfig::default(), "fd00::1", "fd00::2");
    t.listen(&ListenOptions::default());
    assert_eq!(t.turn("S 0 mss 1440 sackOK ts 1 0 wscale 7"), ["S. 0 ack 1 mss 1440 sackOK ts wscale 7"]);
    let mut t = Script::between(Script::plain(), "fd00::1", "fd00::2");
    t.connect(&StreamOptions::default());
    assert_eq!(t.sent(), ["S 0 mss 1440"]);
    t.turn("S. 0 ack 1 mss 1440");
    t.write(2000);
    assert_eq!(t.end(), [". 1:1441 ack 1", "P. 1441:2001 ack 1"]);
}
