//! How connections begin: RFC 9293 §3.5, options, refusals, retries, backlog.

use std::io::ErrorKind;
use std::task::Poll;

use demi_drivers::transport::{ListenOptions, StreamOptions, TcpState};

use super::script::{Script, cx};
use crate::tcp::TcpConfig;

#[test]
fn an_active_open_offers_linuxs_options_and_finishes() {
    let mut t = Script::new(TcpConfig::default());
    t.connect(&StreamOptions::default());
    assert_eq!(t.sent(), ["S 0 mss 1460 sackOK ts wscale 7"]);
    let stream = t.stream();
    assert!(t.tcp.poll_connect(&mut cx(), stream).is_pending());
    assert_eq!(t.turn("S. 0 ack 1 win 1000 mss 1400 sackOK ts 9 last wscale 4"), [". 1 ack 1"]);
    assert!(matches!(t.tcp.poll_connect(&mut cx(), stream), Poll::Ready(Ok(()))));
    let info = t.tcp.tcp_info(stream).unwrap();
    assert_eq!((info.state, info.send_mss_bytes), (TcpState::Established, 1388));
    assert_eq!((info.send_window_scale, info.recv_window_scale), (4, 7));
    assert_eq!(info.send_window_bytes, 1000, "the window of a SYN is not scaled");
    t.turn(". 1 ack 1 win 1000 ts 9 last");
    assert_eq!(t.tcp.tcp_info(stream).unwrap().send_window_bytes, 16_000);
}

#[test]
fn a_passive_open_answers_only_what_was_offered() {
    for (syn, reply) in [
        ("mss 1460", "S. 0 ack 1 mss 1460"),
        ("mss 1460 sackOK", "S. 0 ack 1 mss 1460 sackOK"),
        ("mss 1460 ts 5 0", "S. 0 ack 1 mss 1460 ts"),
        ("mss 1460 sackOK ts 5 0 wscale 14", "S. 0 ack 1 mss 1460 sackOK ts wscale 7"),
        ("", "S. 0 ack 1 mss 1460"),
    ] {
        let mut t = Script::new(TcpConfig::default());
        t.listen(&ListenOptions::default());
        assert_eq!(t.turn(&format!("S 0 {syn}")), [reply]);
        let listener = t.listener.unwrap();
        assert!(t.tcp.poll_accept(&mut cx(), listener).is_pending());
        t.recv(". 1 ack 1");
        assert!(t.tcp.poll_accept(&mut cx(), listener).is_ready());
    }
}

#[test]
fn a_syn_to_a_closed_port_and_strays_are_reset() {
    let mut t = Script::new(TcpConfig::default());
    t.iss = Some(0);
    assert_eq!(t.turn("S 0 mss 1460"), ["R. 0 ack 1"]);
    assert_eq!(t.turn("F. 7:17 ack 500"), ["R 500"]);
    assert_eq!(t.turn("S. 7 ack 500"), ["R 500"]);
    assert_eq!(t.turn("- 7:17"), ["R. 0 ack 17"]);
    assert_eq!(t.turn("R 7"), [""; 0], "a reset is never answered");
    assert_eq!(t.tcp.stats().out_rsts, 4);
}

#[test]
fn a_refused_connect_says_so() {
    let mut t = Script::new(TcpConfig::default());
    t.connect(&StreamOptions::default());
    t.sent();
    assert_eq!(t.turn("R. 0 ack 1"), [""; 0]);
    let stream = t.stream();
    let Poll::Ready(Err(error)) = t.tcp.poll_connect(&mut cx(), stream) else { panic!() };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    t.close();
    assert_eq!(t.tcp.usage(), Default::default());
}

#[test]
fn a_connect_is_only_refused_by_who_has_seen_the_syn() {
    let mut t = Script::new(TcpConfig::default());
    t.connect(&StreamOptions::default());
    t.sent();
    assert_eq!(t.turn("R 0"), [""; 0], "RFC 5961: a RST without a good ACK");
    assert_eq!(t.turn("R. 0 ack 2"), [""; 0]);
    assert_eq!(t.turn(". 0 ack 700"), ["R 700"], "half-open connections of old");
    assert_eq!(t.turn("S. 0 ack 1 mss 1460"), [". 1 ack 1"]);
}

#[test]
fn an_unanswered_syn_is_repeated_and_given_up() {
    let mut t = Script::new(TcpConfig { syn_retries: 3, ..TcpConfig::default() });
    t.connect(&StreamOptions::default());
    t.sent();
    let syn = "S 0 mss 1460 sackOK ts wscale 7";
    assert_eq!(t.wait_ms(990), [""; 0]);
    assert_eq!(t.wait_ms(20), [syn]);
    assert_eq!(t.wait_ms(1980), [""; 0]);
    assert_eq!(t.wait_ms(20), [syn]);
    assert_eq!(t.wait_ms(4000), [syn]);
    let stream = t.stream();
    assert!(t.tcp.poll_connect(&mut cx(), stream).is_pending());
    assert_eq!(t.wait_ms(8010), [""; 0]);
    let Poll::Ready(Err(error)) = t.tcp.poll_connect(&mut cx(), stream) else { panic!() };
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(t.tcp.deadline(), None);
}

#[test]
fn a_syn_ack_is_repeated_when_the_syn_is_or_time_passes_and_then_forgotten() {
    let mut t = Script::new(TcpConfig { syn_ack_retries: 2, ..Script::plain() });
    t.listen(&ListenOptions::default());
    let syn_ack = "S. 0 ack 1 mss 1460";
    assert_eq!(t.turn("S 0 mss 1460"), [syn_ack]);
    assert_eq!(t.turn("S 0 mss 1460"), [syn_ack]);
    assert_eq!(t.turn("S 0 mss 1460"), [""; 0], "not more often than the limit lets it");
    assert_eq!(t.wait_ms(1010), [syn_ack]);
    assert_eq!(t.wait_ms(2010), [syn_ack]);
    assert_eq!(t.tcp.usage().streams, 1);
    assert_eq!(t.wait_ms(4010), [""; 0]);
    assert_eq!(t.tcp.usage().streams, 0);
}

#[test]
fn simultaneous_opens_meet() {
    let mut t = Script::new(Script::plain());
    t.connect(&StreamOptions::default());
    assert_eq!(t.sent(), ["S 0 mss 1460"]);
    assert_eq!(t.turn("S 0 mss 1460"), ["S. 0 ack 1 mss 1460"]);
    t.turn("S. 0 ack 1 mss 1460");
    let stream = t.stream();
    assert!(matches!(t.tcp.poll_connect(&mut cx(), stream), Poll::Ready(Ok(()))));
    t.recv("P. 1:11 ack 1");
    assert_eq!(t.read(), (10, false));
}

#[test]
fn data_and_fin_with_the_handshake_are_taken() {
    let mut t = Script::new(Script::plain());
    t.listen(&ListenOptions::default());
    t.turn("S 0:5 mss 1460");
    t.recv("P. 1:11 ack 1");
    let Poll::Ready(Ok((stream, _))) = t.tcp.poll_accept(&mut cx(), t.listener.unwrap()) else { panic!() };
    t.stream = Some(stream);
    assert_eq!(t.read(), (10, false));
    assert_eq!(t.end(), [". 1 ack 11"]);

    let mut t = Script::new(Script::plain());
    t.connect(&StreamOptions::default());
    t.sent();
    t.recv("SF. 0 ack 1 mss 1460");
    assert_eq!(t.end(), [". 1 ack 2"]);
    assert_eq!(t.read(), (0, true));
}

#[test]
fn a_handshake_ack_of_something_else_is_reset_and_the_handshake_goes_on() {
    let mut t = Script::new(Script::plain());
    t.listen(&ListenOptions::default());
    t.turn("S 0 mss 1460");
    assert_eq!(t.turn(". 1 ack 77"), ["R 77"]);
    t.recv(". 1 ack 1");
    assert!(t.tcp.poll_accept(&mut cx(), t.listener.unwrap()).is_ready());
}

#[test]
fn a_reset_half_open_connection_is_gone() {
    let mut t = Script::new(Script::plain());
    t.listen(&ListenOptions::default());
    t.turn("S 0 mss 1460");
    t.turn("R 5");
    assert_eq!(t.tcp.usage().streams, 1, "not the expected number");
    t.turn("R 1");
    assert_eq!(t.tcp.usage().streams, 0);
    assert_eq!(t.turn("S 0 mss 1460"), ["S. 0 ack 1 mss 1460"]);
}

#[test]
fn lone_syns_do_not_disable_a_listener_beyond_its_backlog_and_its_patience() {
    let config =
        TcpConfig { syn_ack_retries: 1, syn_cookies: crate::tcp::SynCookies::Never, ..Script::plain() };
    let mut t = Script::new(config);
    let mut options = ListenOptions::default();
    options.backlog = 17;
    t.listen(&options);
    for port in 0..40 {
        t.peer.set_port(10_000 + port);
        t.turn("S 0 mss 1460");
    }
    assert_eq!(t.tcp.usage().streams, 16);
    assert_eq!((t.tcp.stats().req_queue_full_drop, t.tcp.stats().listen_drops), (24, 24));
    t.wait_ms(4000);
    assert_eq!(t.tcp.usage().streams, 0);
    assert_eq!(t.turn("S 0 mss 1460"), ["S. 0 ack 1 mss 1460"]);
}

#[test]
fn a_flood_of_syns_holds_no_more_than_the_backlog_and_a_handshake_still_succeeds() {
    let mut t = Script::new(TcpConfig::default());
    let mut options = ListenOptions::default();
    options.backlog = 9;
    t.listen(&options);
    for port in 0..1000 {
        t.peer.set_port(10_000 + port);
        assert_eq!(t.turn("S 0 mss 1460 sackOK ts 5 0 wscale 9").len(), 1);
    }
    assert_eq!(t.tcp.usage().streams, 8);
    assert_eq!(t.tcp.stats().syncookies_sent, 992);
    let syn_acks = t.wait_ms(4000);
    assert_eq!(syn_acks.len(), 16, "those that are remembered go out again, cookies do not");
    t.peer.set_port(999);
    assert_eq!(t.turn("S 0 mss 1400 sackOK ts 50 0 wscale 9"), ["S. 0 ack 1 mss 1460 sackOK ts wscale 7"]);
    assert_eq!(t.turn("P. 1:101 ack 1 win 100 ts 51 last"), [". 1 ack 101"]);
    let Poll::Ready(Ok((stream, _))) = t.tcp.poll_accept(&mut cx(), t.listener.unwrap()) else { panic!() };
    t.stream = Some(stream);
    assert_eq!(t.read(), (100, false));
    let info = t.tcp.tcp_info(stream).unwrap();
    assert_eq!((info.send_mss_bytes, info.send_window_scale, info.recv_window_scale), (1288, 9, 7));
    assert_eq!((info.sack, info.timestamps, info.send_window_bytes), (true, true, 51_200));
    let stats = t.tcp.stats();
    assert_eq!((stats.syncookies_recv, stats.syncookies_failed, stats.passive_opens), (1, 0, 1));
}

#[test]
fn forged_cookies_are_reset_and_counted() {
    let mut t = Script::new(TcpConfig { syn_cookies: crate::tcp::SynCookies::Always, ..Script::plain() });
    t.listen(&ListenOptions::default());
    t.iss = Some(0);
    assert_eq!(t.turn(". 1 ack 1"), ["R 1"]);
    assert_eq!(t.tcp.stats().syncookies_failed, 0, "none has been handed out");
    t.turn("S 0 mss 1460");
    for guess in 2..1000 {
        assert_eq!(t.turn(&format!(". 1 ack {}", guess * 77)).len(), 1);
    }
    assert_eq!((t.tcp.stats().syncookies_failed, t.tcp.usage().streams), (998, 0));
    t.recv(". 1 ack 1");
    assert!(t.tcp.poll_accept(&mut cx(), t.listener.unwrap()).is_ready());
}

#[test]
fn all_listeners_together_hold_a_bounded_number_of_half_open_connections() {
    let config =
        TcpConfig { max_half_open: 20, syn_cookies: crate::tcp::SynCookies::Never, ..Script::plain() };
    let mut t = Script::new(config);
    t.listen(&ListenOptions::default());
    for port in 0..100 {
        t.peer.set_port(10_000 + port);
        t.turn("S 0 mss 1460");
    }
    assert_eq!((t.tcp.usage().streams, t.tcp.stats().req_queue_full_drop), (20, 80));
    let listener = t.listener.unwrap();
    t.tcp.close_listener(t.now, &mut t.out, listener);
    assert_eq!(t.sent().len(), 20, "each is reset");
    t.nothing_left();
}

#[test]
fn live_connections_are_no_backlog_and_finished_handshakes_are() {
    let mut t = Script::new(Script::plain());
    let mut options = ListenOptions::default();
    options.backlog = 2;
    t.listen(&options);
    let listener = t.listener.unwrap();
    for port in 0..10 {
        t.peer.set_port(10_000 + port);
        t.turn("S 0 mss 1460");
        t.turn(". 1 ack 1");
        assert!(t.tcp.poll_accept(&mut cx(), listener).is_ready(), "connection {port}");
    }
    for port in 0..3 {
        t.peer.set_port(20_000 + port);
        t.turn("S 0 mss 1460");
        t.turn(". 1 ack 1");
    }
    assert_eq!(t.tcp.usage().streams, 12);
    t.peer.set_port(20_003);
    assert_eq!(t.turn("S 0 mss 1460"), [""; 0]);
    assert!(t.tcp.poll_accept(&mut cx(), listener).is_ready());
    assert_eq!(t.turn("S 0 mss 1460"), ["S. 0 ack 1 mss 1460"]);
}

#[test]
fn closing_a_listener_resets_what_was_not_accepted() {
    let mut t = Script::new(Script::plain());
    t.listen(&ListenOptions::default());
    t.turn("S 0 mss 1460");
    t.turn(". 1 ack 1");
    t.peer.set_port(5001);
    t.turn("S 0 mss 1460");
    t.tcp.close_listener(t.now, &mut t.out, t.listener.unwrap());
    let resets = t.sent();
    assert!(resets.len() == 2 && resets.iter().all(|line| line.starts_with("R. ")), "{resets:?}");
    assert_eq!(t.tcp.usage(), Default::default());
    assert!(t.tcp.listener_addr(t.listener.unwrap()).is_err());
}

#[test]
fn a_peers_mss_is_believed_within_reason() {
    for (named, expected) in [(0, 536), (1, 48), (47, 48), (48, 48), (536, 536), (1460, 1460), (65535, 1460)]
    {
        let mut t = Script::accepted(Script::plain(), &format!("mss {named}"));
        let info = t.tcp.tcp_info(t.stream()).unwrap();
        assert_eq!(info.send_mss_bytes, expected, "MSS {named}");
        t.write(3000);
        let sent = t.end();
        assert!(!sent.is_empty() && sent.iter().all(|line| line.contains(':')), "{sent:?}");
    }
}

#[test]
fn a_peer_without_mss_gets_the_versions_default() {
    let t = Script::accepted(Script::plain(), "");
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().send_mss_bytes, 536);
    let mut t = Script::between(Script::plain(), "fd00::1", "fd00::2");
    t.accept("");
    assert_eq!(t.tcp.tcp_info(t.stream()).unwrap().send_mss_bytes, 1220);
}

#[test]
fn unknown_options_on_a_syn_are_no_obstacle() {
    let mut t = Script::new(Script::plain());
    t.listen(&ListenOptions::default());
    let mut syn = [0u8; 40];
    let header = crate::wire::tcp::Header {
        src_port: 5000,
        dst_port: 80,
        seq: super::script::PEER_ISS,
        ack: 0,
        flags: 2,
        window: 1000,
        urgent: 0,
        header_bytes: 0,
    };
    let options = [2, 4, 5, 180, 253, 4, 1, 2, 34, 2, 77, 6, 1, 2, 3, 4, 1, 1, 0, 0];
    header.emit(&options, &mut syn).unwrap();
    t.recv_bytes(&syn);
    assert_eq!(t.end(), ["S. 0 ack 1 mss 1460"]);
}

#[test]
fn land_and_broadcast_syns_are_ignored() {
    let mut t = Script::new(Script::plain());
    t.listen(&ListenOptions::default());
    for peer in ["10.0.0.1:80", "0.0.0.0:5000", "255.255.255.255:5000", "224.0.0.1:5000"] {
        t.peer = peer.parse().unwrap();
        assert_eq!(t.turn("S 0 mss 1460"), [""; 0], "{peer}");
    }
    assert_eq!(t.tcp.usage().streams, 0);
}

#[test]
fn addresses_and_ports_are_checked_before_a_socket_is_made() {
    let mut t = Script::new(Script::plain());
    let kind = |result: std::io::Result<_>| {
        result.map(|_: demi_drivers::transport::StreamId| ()).unwrap_err().kind()
    };
    let options = StreamOptions::default();
    let elsewhere = Some("10.9.9.9:0".parse().unwrap());
    let v6 = "[fd00::2]:80".parse().unwrap();
    assert_eq!(
        kind(t.tcp.connect(t.now, &mut t.out, t.peer, elsewhere, &options)),
        ErrorKind::AddrNotAvailable
    );
    assert_eq!(kind(t.tcp.connect(t.now, &mut t.out, v6, None, &options)), ErrorKind::NetworkUnreachable);
    for remote in ["10.0.0.2:0", "0.0.0.0:80", "224.0.0.1:80"] {
        let remote = remote.parse().unwrap();
        assert_eq!(kind(t.tcp.connect(t.now, &mut t.out, remote, None, &options)), ErrorKind::InvalidInput);
    }
    t.connect(&options);
    assert_eq!(kind(t.tcp.connect(t.now, &mut t.out, t.peer, Some(t.us), &options)), ErrorKind::AddrInUse);
    let listen = ListenOptions::default();
    t.listen(&listen);
    assert_eq!(t.tcp.listen(&t.out, t.us, &listen).unwrap_err().kind(), ErrorKind::AddrInUse);
    let any = t.tcp.listen(&t.out, "0.0.0.0:0".parse().unwrap(), &listen).unwrap();
    assert!((32768..=60999).contains(&t.tcp.listener_addr(any).unwrap().port()));
}

#[test]
fn no_route_is_an_error_of_the_connect() {
    let mut t = Script::new(Script::plain());
    t.out.refuse = Some(crate::tcp::output::Refused::Unreachable);
    t.connect(&StreamOptions::default());
    let stream = t.stream();
    let Poll::Ready(Err(error)) = t.tcp.poll_connect(&mut cx(), stream) else { panic!() };
    assert_eq!(error.kind(), ErrorKind::HostUnreachable);
}

#[test]
fn isns_and_ports_differ_between_connections_and_layers() {
    let mut seen = std::collections::HashSet::new();
    let mut ports = std::collections::HashSet::new();
    for secret in 0..4 {
        let mut t = Script::new(Script::plain());
        t.tcp = crate::tcp::Tcp::new(Script::plain(), [secret; 16], t.now);
        for _ in 0..50 {
            let stream = t.tcp.connect(t.now, &mut t.out, t.peer, None, &StreamOptions::default()).unwrap();
            ports.insert(t.tcp.local_addr(stream).unwrap().port());
        }
        t.flush();
        for (_, bytes) in &t.out.sent {
            seen.insert(crate::wire::tcp::Header::parse(bytes).unwrap().seq);
        }
    }
    assert_eq!(seen.len(), 200);
    assert!(ports.len() > 195, "{}", ports.len());
}
