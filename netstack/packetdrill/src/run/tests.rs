use super::*;

fn outcome(text: &str) -> Outcome {
    let script = Script::parse(text).unwrap_or_else(|error| panic!("{error}"));
    run(&script, &Flags::default(), IpVersion::V4).outcome
}

fn failure(text: &str) -> String {
    match outcome(text) {
        Outcome::Passed => panic!("it passed"),
        Outcome::Failed { place, message } => format!("{}: {message}", place.line),
    }
}

const ACCEPT: &str = "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0 bind(3, ..., ...) = 0
+0 listen(3, 1) = 0
+0 < S 0:0(0) win 32792 <mss 1000,sackOK,nop,nop,nop,wscale 7>
+0 > S. 0:0(0) ack 1 <mss 1460,nop,nop,sackOK,nop,wscale 7>
+.1 < . 1:1(0) ack 1 win 257
+0 accept(3, ..., ...) = 4
";

#[test]
fn a_script_that_holds_passes() {
    assert_eq!(
        outcome(&format!("{ACCEPT}+0 write(4, ..., 1000) = 1000\n+0 > P. 1:1001(1000) ack 1")),
        Outcome::Passed
    );
}

#[test]
fn a_packet_that_differs_is_shown_beside_the_one_expected() {
    assert_eq!(
        failure(&format!("{ACCEPT}+0 write(4, ..., 1000) = 1000\n+0 > . 1:1001(1000) ack 2 win 5")),
        "9: its flags are P., not .; ack is 1, not 2; win is 1024, not 5\n    expected > . 1:1001(1000) ack 2 win 5\n    \
         actual   > P. 1:1001(1000) ack 1 win 1024"
    );
}

#[test]
fn a_packet_that_does_not_come_and_one_that_is_late_are_told() {
    assert_eq!(
        failure(&format!("{ACCEPT}+.5 > . 1:1(0) ack 1")),
        "8: nothing was sent until 0.600000:\n    expected > . 1:1(0) ack 1"
    );
    let late = failure(&format!("{ACCEPT}+0 write(4, ..., 10) = 10\n+1 > P. 1:11(10) ack 1"));
    assert!(late.starts_with("9: it was due at 1.100000 and sent at 0.100000\n"), "{late}");
}

#[test]
fn options_are_compared_to_the_byte() {
    let text = ACCEPT.replace("nop,nop,sackOK,nop,wscale 7>\n+.1", "nop,nop,sackOK,nop,wscale 6>\n+.1");
    let message = failure(&text);
    assert!(message.contains("its options are <mss 1460,nop,nop,sackOK,nop,wscale 7>"), "{message}");
}

#[test]
fn options_may_be_compared_without_their_order() {
    let text = ACCEPT.replace("nop,nop,sackOK,nop,wscale 7>\n+.1", "nop,wscale 7,sackOK,eol,eol>\n+.1");
    assert!(failure(&text).contains("its options are"));
    assert_eq!(outcome(&format!("--any_option_order\n{text}")), Outcome::Passed);
}

#[test]
fn answers_and_errors_of_calls_are_compared() {
    assert_eq!(failure(&format!("{ACCEPT}+0 write(4, ..., 10) = 11")), "8: write's answer is 10, not 11");
    let nonblocking = format!("{ACCEPT}+0 fcntl(4, F_SETFL, O_RDWR|O_NONBLOCK) = 0\n+0 read(4, ..., 10)");
    assert_eq!(
        outcome(&format!("{nonblocking} = -1 EAGAIN (Resource temporarily unavailable)")),
        Outcome::Passed
    );
    assert_eq!(failure(&format!("{nonblocking} = -1 EINVAL (no)")), "9: read failed with EAGAIN, not EINVAL");
    assert_eq!(failure(&format!("{nonblocking} = 5")), "9: read failed with EAGAIN, not 5");
}

#[test]
fn blocking_calls_return_when_the_script_says() {
    let script = |end: &str| {
        format!(
            "{ACCEPT}+0...{end} read(4, ..., 10) = 10\n+.2 < P. 1:11(10) ack 1 win 257\n+0 > . 1:1(0) ack 11"
        )
    };
    assert_eq!(outcome(&script("0.2")), Outcome::Passed);
    assert_eq!(failure(&script("0.4")), "8: read was to return at 0.500000 and did at 0.300000");
    let blocks = failure(&format!("{ACCEPT}+0 read(4, ..., 10) = 10"));
    assert!(blocks.contains("read blocks"), "{blocks}");
}

#[test]
fn assertions_see_the_connection() {
    assert_eq!(outcome(&format!("{ACCEPT}+0 %{{ assert tcpi_snd_cwnd == 10 }}%")), Outcome::Passed);
    let message = failure(&format!("{ACCEPT}+0 %{{ assert tcpi_snd_cwnd == 3 }}%"));
    assert!(message.contains("tcpi_snd_cwnd = 10"), "{message}");
}

#[test]
fn conditions_that_cannot_be_met_are_errors() {
    assert!(failure(&format!("`sysctl -q net.ipv4.tcp_rfc1337=1`\n{ACCEPT}")).contains("tcp_rfc1337=1"));
    assert!(failure(&format!("--nonsense=1\n{ACCEPT}")).contains("--nonsense"));
    assert!(failure("0 splice(3) = 0").contains("splice is not supported"));
}

#[test]
fn the_end_may_be_strict() {
    let text = format!("{ACCEPT}+0 write(4, ..., 10) = 10");
    assert_eq!(outcome(&text), Outcome::Passed);
    let message = failure(&format!("--strict_end\n{text}"));
    assert!(message.contains("the stack sent at 0.100000:\n    > P. 1:11(10) ack 1"), "{message}");
}

#[test]
fn cells_are_noted_from_what_happened() {
    let script = Script::parse(&format!("{ACCEPT}+0 < R. 1:1(0) ack 1 win 0")).unwrap();
    let cells = run(&script, &Flags::default(), IpVersion::V6).cells;
    for cell in [
        (State::Closed, Stimulus::Listen),
        (State::Listen, Stimulus::Syn),
        (State::SynReceived, Stimulus::Ack),
        (State::Established, Stimulus::Reset),
    ] {
        assert!(cells.contains(&cell), "{cell:?} of {cells:?}");
    }
}
