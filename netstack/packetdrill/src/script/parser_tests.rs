use super::*;

fn parse(text: &str) -> Result<Script> {
    super::parse(text, &[])
}

#[test]
fn defined_names_stand_for_their_values() {
    let defines = [("CC".to_owned(), "\"reno\"".to_owned()), ("N".to_owned(), "5".to_owned())];
    let script = super::parse("0 setsockopt(3, SOL_TCP, TCP_CONGESTION, CC, N) = 0", &defines).unwrap();
    let Action::Call(call) = &script.events[0].action else { panic!("a call") };
    assert_eq!(call.arguments[3..], [Expr::Str("reno".to_owned()), Expr::Int(5)]);
}

fn events(text: &str) -> Vec<Event> {
    parse(text).unwrap().events
}

fn one(text: &str) -> Action {
    let [event] = events(text).try_into().unwrap();
    event.action
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn a_script_is_its_flags_and_events() {
    let script = parse(
        "--tolerance_usecs=5000 --ip_version=ipv4\n`./defaults.sh`\n0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3\n\
         +.1 < S 0:0(0) win 100 <mss 1460,nop,wscale 7>\n* > S. 0:0(0) ack 1 <...>\n1~1.5 > . 1:1(0) ack 1\n`cleanup`",
    )
    .unwrap();
    assert_eq!(script.flags[0], ("tolerance_usecs".to_owned(), Some("5000".to_owned())));
    let times: Vec<Time> = script.events.iter().map(|event| event.time).collect();
    let range = Time::AbsoluteRange(1_000_000, 1_500_000);
    assert_eq!(
        times,
        [Time::Untimed, Time::Absolute(0), Time::Relative(100_000), Time::Any, range, Time::Untimed]
    );
    assert_eq!(script.events[3].place.line, 5);
}

#[test]
fn packets_say_flags_numbers_windows_and_options() {
    let Action::Packet(spec) =
        one("+0 < [ect0] 1001>8080 PE. 1:1001(1000) ack 1 win 5 urg 7 <sack 1:2 3:4,nop,nop>")
    else {
        panic!("a packet")
    };
    assert_eq!(
        (spec.direction, spec.ports, spec.ip.ecn),
        (Direction::In, Some((1001, 8080)), Some(Ecn::Ect0))
    );
    let PacketBody::Tcp(tcp) = spec.body else { panic!("TCP") };
    assert_eq!((tcp.seq, tcp.len, tcp.ack, tcp.window, tcp.urgent), (1, 1000, Some(1), Some(5), Some(7)));
    assert_eq!(tcp.flags, TcpFlags::parse("PE.").unwrap());
    assert_eq!(tcp.options.unwrap()[0], TcpOption::Sack(vec![(1, 2), (3, 4)]));
}

#[test]
fn flags_may_be_none_or_a_point_or_an_ace() {
    for (text, shown) in
        [("-", "-"), (".", "."), ("S.", "S."), ("FP.", "FP."), ("SEW", "SEW"), ("S.5", "SEA.")]
    {
        let Action::Packet(spec) = one(&format!("0 > {text} 0:0(0)")) else { panic!("a packet") };
        let PacketBody::Tcp(tcp) = spec.body else { panic!("TCP") };
        assert_eq!(tcp.flags.to_string(), shown, "{text}");
    }
}

#[test]
fn datagrams_and_messages_are_packets_too() {
    assert!(matches!(
        one("0 < udp 1>2 (100)"),
        Action::Packet(PacketSpec { body: PacketBody::Udp(100), .. })
    ));
    let Action::Packet(spec) = one("0 < icmp unreachable frag_needed mtu 1200 [1:1461(1460)]") else {
        panic!("a packet")
    };
    let PacketBody::Icmp(icmp) = spec.body else { panic!("ICMP") };
    assert_eq!((icmp.code.as_deref(), icmp.mtu), (Some("frag_needed"), Some(1200)));
    assert_eq!(icmp.quoted, Some(Quoted::Tcp { seq: 1, len: 1460 }));
}

#[test]
fn sequence_numbers_may_wrap_but_not_lie() {
    assert!(parse("0 < . 4294967295:9(10) ack 1 win 1").is_ok());
    assert_eq!(error("0 < . 1:10(10) ack 1"), "1:7: 1:10 is not 10 bytes long");
}

#[test]
fn calls_have_arguments_results_errors_and_an_end() {
    let Action::Call(call) =
        one("0...0.25 setsockopt(3, SOL_TCP, TCP_X, [1], 4) = -1 EINVAL (Invalid argument)")
    else {
        panic!("a call")
    };
    assert_eq!(
        (call.end_us, call.result, call.errno.as_deref()),
        (Some(250_000), Expr::Int(-1), Some("EINVAL"))
    );
    assert_eq!(call.arguments[3], Expr::List(vec![Expr::Int(1)]));
}

#[test]
fn structs_are_records_or_tuples() {
    let Action::Call(call) = one(
        "0 sendmsg(4, {msg_name(...)=..., msg_iov(2)=[{..., 10},{..., 20}], msg_flags=0}, MSG_A|MSG_B) = 30",
    ) else {
        panic!("a call")
    };
    let Expr::Record(fields) = &call.arguments[1] else { panic!("a record") };
    assert_eq!(fields[1].argument, Some(Expr::Int(2)));
    assert_eq!(
        fields[1].value,
        Expr::List(vec![
            Expr::Tuple(vec![Expr::Ellipsis, Expr::Int(10)]),
            Expr::Tuple(vec![Expr::Ellipsis, Expr::Int(20)])
        ])
    );
    assert!(matches!(&call.arguments[2], Expr::Or(..)));
    let Action::Call(call) = one(
        "0 bind(3, {sa_family = AF_INET, sin_port = htons(80), sin_addr = inet_addr(\"10.0.0.1\")}, ...) = 0",
    ) else {
        panic!("a call")
    };
    assert!(matches!(&call.arguments[1], Expr::Record(fields) if fields.len() == 3));
}

#[test]
fn errors_say_what_was_found_and_what_was_expected() {
    assert_eq!(
        error("0 < S 0:0(0) <mss 1460>\n+0 > Z 0:0(0)"),
        "2:6: 'Z' is no TCP flag: expected some of S F R P . U E W A 0-7"
    );
    assert_eq!(
        error("0 < S 0:0(0) <nop>"),
        "1:14: these options have 1 bytes: pad them with nop to a multiple of 4"
    );
    assert_eq!(error("0 < S 0:0 win 1"), "1:11: expected '(', found 'win'");
    assert_eq!(error("* < S 0:0(0)"), "1:1: '*' and ranges of time are for outbound packets only");
    assert_eq!(error("0 < S 0:0(0) <...>"), "1:14: <...> is for outbound packets only");
    assert_eq!(error("0 close(3)\n"), "2:1: expected '=', found the end of the script");
    assert_eq!(error("0 < S 0:0(0) win 65536"), "1:18: 65536 is out of range for a window of 16 bits");
    assert_eq!(error("0 < gre: S 0:0(0)"), "1:5: packets within packets (gre) are not supported");
    assert_eq!(error("close(3) = 0"), "1:1: expected a time in seconds, found 'close'");
}
