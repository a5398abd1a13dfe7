//! What users get wrong: one line that names cause and cure, exit code 1, and nothing left on the machine.

use crate::support::client::Ended;
use crate::support::running::example;
use crate::support::{Case, Client, Device, Ip, Lab, Namespace, Running, eventually, machine_is_ours};

/// Runs `echo` with one variable set, in an empty namespace.
fn echo_with(namespace: &Namespace, variable: &str, value: &str) -> Ended {
    let client =
        Client::new(namespace, &example("echo")).env(variable, value).env("DEMI_ADDRESS", "10.77.0.1/24");
    client.args("--listen 10.77.0.1:7000").limit_s(20).run()
}

#[track_caller]
fn assert_one_line(ended: &Ended, words: &[&str]) {
    let report = ended.report();
    assert_eq!(ended.status.and_then(|status| status.code()), Some(1), "{report}");
    assert_eq!(ended.stderr.trim().lines().count(), 1, "{report}");
    for word in words {
        assert!(ended.stderr.contains(word), "no `{word}` in: {report}");
    }
}

#[test]
fn an_unknown_device_is_answered_with_those_there_are() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    assert_one_line(
        &echo_with(&namespace, "DEMI_DEVICE", "tape:demi0"),
        &["tape:demi0", "tap:NAME", "posix"],
    );
}

#[test]
fn an_unknown_key_is_answered_with_those_there_are() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    assert_one_line(
        &echo_with(&namespace, "DEMI_DEVISE", "tap:demi0"),
        &["DEMI_DEVISE", "device", "address"],
    );
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    assert_one_line(&echo_with(&namespace, "DEMI_DEVICE", "packet:eth7"), &["eth7"]);
    assert_eq!(namespace.links(), Vec::<String>::new());
}

#[test]
fn without_the_capability_the_cure_is_told_and_no_tap_is_left() {
    if !machine_is_ours() {
        return;
    }
    let lab = Lab::new(Case::new(Device::Packet, Ip::V4, 0));
    for (device, capability) in
        [("packet:eth0", "CAP_NET_RAW"), ("xdp:eth0", "CAP_NET_RAW"), ("tap:demi7", "CAP_NET_ADMIN")]
    {
        let ended = Client::new(lab.host(), "setpriv")
            .args("--bounding-set -all --inh-caps -all")
            .args(&format!("{} --listen 10.77.0.1:7000", example("echo")))
            .env("DEMI_DEVICE", device)
            .env("DEMI_ADDRESS", "10.77.0.1/24")
            .limit_s(20)
            .run();
        assert_one_line(&ended, &[device, capability]);
    }
    assert_eq!(lab.host().links(), ["eth0"]);
}

#[test]
fn an_address_in_use_is_named() {
    if !machine_is_ours() {
        return;
    }
    for device in [Device::Posix, Device::Uring] {
        let lab = Lab::new(Case::new(device, Ip::V4, 0));
        let _first = lab.serve("echo", 7000, "");
        let ended = lab.program(&example("echo")).args("--listen 10.77.0.1:7000").limit_s(20).run();
        assert_one_line(&ended, &["10.77.0.1:7000", "in use"]);
    }
}

#[test]
fn a_stack_that_gets_no_address_says_so_and_goes_on() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    let environment = [("DEMI_DEVICE", "tap:demi7".to_owned()), ("DEMI_ADDRESS_WAIT_MS", "100".to_owned())];
    let mut server = Running::start(&namespace, &example("echo"), "", &environment).ready();
    // Said before, on standard error: the two may be read in either order.
    let told = |report: String| report.contains("no address within") && report.contains("address_wait_ms");
    assert!(eventually(|| told(server.report())), "{}", server.report());
    server.kill();
    assert!(eventually(|| namespace.links().is_empty()), "a TAP is left: {:?}", namespace.links());
}

#[test]
fn an_address_that_is_not_ours_is_named_and_no_tap_is_left() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    let ended = Client::new(&namespace, &example("echo"))
        .args("--listen 10.77.0.9:7000")
        .env("DEMI_DEVICE", "tap:demi7")
        .env("DEMI_ADDRESS", "10.77.0.1/24")
        .limit_s(20)
        .run();
    assert_one_line(&ended, &["10.77.0.9:7000"]);
    assert_eq!(namespace.links(), Vec::<String>::new());
}

#[test]
fn a_tap_that_another_process_holds_is_named() {
    if !machine_is_ours() {
        return;
    }
    let lab = Lab::new(Case::new(Device::Tap, Ip::V4, 0));
    let _first = lab.serve("echo", 7000, "");
    let ended = lab.program(&example("echo")).args("--listen 10.77.0.1:7001").limit_s(20).run();
    assert_one_line(&ended, &["demi0"]);
}

#[test]
fn a_value_that_cannot_be_is_shown_with_what_can() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    assert_one_line(&echo_with(&namespace, "DEMI_MTU", "12"), &["DEMI_MTU=12", "576"]);
    assert_one_line(&echo_with(&namespace, "DEMI_IDLE", "sleep"), &["DEMI_IDLE=sleep", "spin", "park"]);
    assert_one_line(&echo_with(&namespace, "DEMI_GATEWAY", "fd77::2"), &["fd77::2"]);
    assert_one_line(&echo_with(&namespace, "DEMI_CONFIG", "/no/such/file"), &["/no/such/file"]);
}

#[test]
fn where_io_uring_is_forbidden_uring_says_so_and_auto_does_without() {
    if !machine_is_ours() {
        return;
    }
    let lab = Lab::new(Case::new(Device::Posix, Ip::V4, 0));
    let ping = |device: &str| {
        let line = format!("--to {} --count 1", lab.case.foreign(7000));
        lab.program(&example("ping")).args(&line).env("DEMI_DEVICE", device).without_io_uring().limit_s(20)
    };
    assert_one_line(&ping("uring").run(), &["io_uring is forbidden here", "posix"]);
    let _server = lab.start_foreign("socat", "-d -d TCP4-LISTEN:7000 EXEC:cat").ready_when("listening on");
    assert!(ping("auto").must().contains("1 sent, 1 answered"));
}

#[test]
fn help_is_printed_whatever_is_wrong_with_the_device() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    for name in ["echo", "relay", "kv", "http", "ping", "send"] {
        for (variable, value) in [
            ("DEMI_DEVICE", "tape:demi0"),
            ("DEMI_DEVICE", "packet:eth7"),
            ("DEMI_DEVICE", "tap:demi7"),
            ("DEMI_DEVISE", "posix"),
            ("DEMI_CONFIG", "/no/such/file"),
        ] {
            let help = Client::new(&namespace, &example(name)).env(variable, value).args("--help").must();
            assert!(
                help.contains("Usage:") && help.contains("--help"),
                "{name} with {variable}={value}: {help}"
            );
        }
    }
    assert_eq!(namespace.links(), Vec::<String>::new());
}

#[test]
fn a_wrong_argument_is_told_before_a_wrong_device() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    let client = Client::new(&namespace, &example("echo")).env("DEMI_DEVICE", "packet:eth7");
    let ended = client.args("--listen here").limit_s(20).run();
    assert_eq!(ended.status.and_then(|status| status.code()), Some(2), "{}", ended.report());
    assert!(ended.stderr.contains("--listen") && !ended.stderr.contains("eth7"), "{}", ended.report());
}

#[test]
fn an_interface_that_is_no_tap_is_named() {
    if !machine_is_ours() {
        return;
    }
    let lab = Lab::new(Case::new(Device::Packet, Ip::V4, 0));
    assert_one_line(&echo_with(lab.host(), "DEMI_DEVICE", "tap:eth0"), &["tap:eth0"]);
    assert_eq!(lab.host().links(), ["eth0"]);
}

#[test]
fn memory_that_is_not_there_is_told_with_what_was_asked_for() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("mistake");
    let ended = Client::new(&namespace, "prlimit")
        .args(&format!("--as={} {} --listen 127.0.0.1:7000", 1 << 30, example("echo")))
        .env("DEMI_DEVICE", "posix")
        .env("DEMI_POOL_SLOTS", "16777216")
        .limit_s(20)
        .run();
    assert_one_line(&ended, &["pool", "16777216"]);
}
