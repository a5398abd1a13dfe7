//! The laboratory tested by itself, with programs of the system at both ends: what it says about our programs later is
//! worth what it says about these now.

use std::panic::{self, AssertUnwindSafe};
use std::process::Command;
use std::time::Duration;

use crate::support::command::is_alive;
use crate::support::running::example;
use crate::support::{Case, Device, Ip, Lab, Namespace, Running, machine_is_ours, matrix, namespace};

/// A kernel that answers pings and echoes what it is sent, in place of a program under test.
fn kernel_echo(lab: &Lab) {
    if matches!(lab.case.device, Device::Tap | Device::Packet | Device::Xdp | Device::Dpdk) {
        return frames_reach_the_device(lab);
    }
    let address = lab.case.server_ip();
    let args = format!("-d -d {}-LISTEN:7000,fork,reuseaddr EXEC:cat", lab.case.socat("TCP"));
    let _server = lab.start("socat", &args).ready();

    let pings = lab.client("ping").args(&format!("-c 20 -i 0.01 -W 2 {address}")).run();
    let report = pings.report();
    assert!(report.contains("20 packets transmitted"), "{report}");
    if lab.case.loss_permille == 0 {
        assert!(report.contains(" 0% packet loss"), "{report}");
    }

    let sent = vec![b'x'; 300_000];
    let reply = lab.client("nc").args(&format!("-N {address} 7000")).input(sent.clone()).run();
    assert!(
        reply.stdout == sent,
        "{} bytes came back of {}\n{}",
        reply.stdout.len(),
        sent.len(),
        reply.stderr
    );
}

/// Opens the device in place of our own stack, and prints every byte that passes.
fn hold_device(lab: &Lab) -> Running {
    let device = match lab.case.device {
        Device::Tap => "TUN,tun-name=demi0,tun-type=tap,iff-up",
        _ => "INTERFACE:eth0",
    };
    lab.start("socat", &format!("-d -d -x {device} EXEC:cat")).ready_when("starting data transfer")
}

/// The foreign host must be seen to ask for the address of the host under test, and no kernel may answer in its place.
fn frames_reach_the_device(lab: &Lab) {
    let mut holder = hold_device(lab);
    let pings = lab.client("ping").args(&format!("-c 3 -i 0.2 -W 1 {}", lab.case.server_ip())).run();
    assert!(pings.report().contains("100% packet loss"), "somebody answered\n{}", pings.report());
    let asked = match lab.case.ip {
        // ARP, who has 10.77.0.1; neighbour solicitation, who has fd77::1.
        Ip::V4 => "0a 4d 00 01",
        Ip::V6 => "fd 77 00 00 00 00 00 00 00 00 00 00 00 00 00 01",
    };
    let report = holder.report();
    assert!(report.contains(asked), "nobody asked for {}\n{report}", lab.case.server_ip());
}

matrix!(labs, crate::harness::kernel_echo);

#[test]
fn what_is_lost_is_counted() {
    if !machine_is_ours() {
        return;
    }
    for device in [Device::Posix, Device::Packet, Device::Tap] {
        let lab = Lab::new(Case::new(device, Ip::V4, 1000));
        let _holder = (device == Device::Tap).then(|| hold_device(&lab));
        let pings = lab.client("ping").args("-c 2 -i 0.1 -W 1 10.77.0.1").run();
        assert!(pings.report().contains("100% packet loss"), "{}", pings.report());
        assert!(lab.lost_frames() > 0, "{device:?} lost nothing");
    }
}

#[test]
fn a_lab_leaves_nothing_behind_even_after_a_panic() {
    if !machine_is_ours() {
        return;
    }
    let mut names = Vec::new();
    let mut pid = 0;
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::new(Case::new(Device::Posix, Ip::V6, 10));
        names = vec![lab.host().name().to_owned(), lab.foreign().name().to_owned()];
        assert_eq!(lab.host().links(), ["eth0"]);
        let server = Running::start(lab.host(), "sleep", "1000", &[]);
        pid = server.pid();
        panic!("on purpose");
    }));
    assert!(outcome.is_err());
    let left = namespace::existing();
    for name in names {
        assert!(!left.contains(&name), "{name} is left of {left:?}");
    }
    assert!(!is_alive(pid), "the server still runs");
}

#[test]
fn what_a_killed_run_left_is_removed_and_what_is_in_use_stays() {
    if !machine_is_ours() {
        return;
    }
    // A process that has ended stands for the killed run.
    let mut ended = Command::new("true").spawn().expect("true runs");
    let pid = ended.id();
    ended.wait().expect("it ends");
    let stale = format!("demi-it-{pid}-0-host");
    crate::support::command::must(&format!("ip netns add {stale}"));
    let used = Namespace::new("used");
    namespace::remove_stale();
    let left = namespace::existing();
    assert!(!left.contains(&stale), "{stale} is left of {left:?}");
    assert!(left.iter().any(|name| name == used.name()), "{} was taken away: {left:?}", used.name());
}

#[test]
fn a_server_that_dies_early_fails_the_test_with_what_it_said() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("dies");
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        Running::start(&namespace, "ls", "/no/such/folder", &[]).ready();
    }));
    let message = outcome.expect_err("it is not ready");
    let message = message.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(message.contains("/no/such/folder"), "{message}");
}

#[test]
fn an_example_that_is_not_built_is_named_with_the_cure() {
    let outcome = panic::catch_unwind(|| example("no-such-example"));
    let message = outcome.expect_err("there is none");
    let message = message.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(message.contains("examples/no-such-example is not there: cargo build --examples"), "{message}");
}

#[test]
fn a_client_over_its_time_is_killed() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("bound");
    let ended = crate::support::Client::new(&namespace, "sleep").args("1000").limit_s(1).run();
    assert!(ended.status.is_none(), "{}", ended.report());
}

#[test]
fn a_server_hears_ctrl_c_and_its_descriptors_are_counted() {
    if !machine_is_ours() {
        return;
    }
    let namespace = Namespace::new("ctrl-c");
    let mut server =
        Running::start(&namespace, "socat", "-d -d TCP4-LISTEN:7000 -", &[]).ready_when("listening on");
    assert!(server.descriptors() >= 4, "{} descriptors", server.descriptors());
    server.interrupt();
    let status = server.wait(Duration::from_secs(10));
    assert!(status.is_some(), "it did not end\n{}", server.report());
}

#[test]
fn a_program_under_test_learns_its_device_and_nothing_of_the_tests() {
    if !machine_is_ours() {
        return;
    }
    let lab = Lab::new(Case::new(Device::Packet, Ip::V6, 0));
    let environment = lab.program("env").must();
    let mut ours: Vec<&str> = environment.lines().filter(|line| line.starts_with("DEMI_")).collect();
    ours.sort_unstable();
    assert_eq!(
        ours,
        [
            "DEMI_ADDRESS=10.77.0.1/24,fd77::1/64",
            "DEMI_DETECT_DUPLICATES=false",
            "DEMI_DEVICE=packet:eth0",
            "DEMI_GATEWAY=10.77.0.2,fd77::2"
        ]
    );
}
