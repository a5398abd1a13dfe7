//! Strangers with tools: a port scan, an attempt to tell which system this is, malformed packets by the thousand, and a program that
//! reads a capture for what a TCP did wrong. After each of them, the server serves.

use std::path::PathBuf;

use crate::support::{Case, Device, Ip, Lab, Running, eventually, machine_is_ours, matrix};

/// Whether the server echoes, for somebody who comes now.
#[track_caller]
fn still_serves(lab: &Lab, server: &mut Running) {
    let said = b"still there?\n".repeat(1000);
    let echoed =
        || lab.client("nc").args(&format!("-N -w 5 {} 7000", lab.case.server_ip())).input(said.clone()).run();
    assert!(eventually(|| echoed().stdout == said), "the server does not echo any more\n{}", server.report());
}

/// Nothing that strangers sent is kept.
#[track_caller]
fn keeps_nothing(server: &mut Running) {
    for what in ["streams", "buffers"] {
        assert!(
            eventually(|| server.held(what).is_some_and(|count| count == 0)),
            "{what} are kept: {:?}\n{}",
            server.held(what),
            server.report()
        );
    }
}

fn a_port_scan(lab: &Lab) {
    let mut server = lab.serve("echo", 7000, "");
    let six = if lab.case.ip == Ip::V6 { "-6" } else { "" };
    let (_, link) = lab.ends();
    // The service's port, some beside it, and ports that scanners ask for first.
    let line =
        format!("-n -Pn -sS {six} -e {link} --max-retries 6 -p 6995-7005,22,80,443 {}", lab.case.server_ip());
    let report = lab.client("nmap").args(&line).limit_s(120).must();
    let open: Vec<&str> =
        report.lines().filter(|line| line.contains("/tcp") && line.contains("open")).collect();
    assert_eq!(open.len(), 1, "{report}");
    assert!(open[0].starts_with("7000/tcp"), "{report}");
    assert!(!report.contains("filtered"), "closed ports do not say so\n{report}");
    still_serves(lab, &mut server);
}

matrix!(port_scans, crate::strangers::a_port_scan, own_stack lossless);

#[test]
fn telling_which_system_this_is_does_no_harm() {
    if !machine_is_ours() {
        return;
    }
    for device in [Device::Tap, Device::Packet, Device::Xdp] {
        let lab = Lab::new(Case::new(device, Ip::V4, 0));
        let mut server = lab.serve("echo", 7000, "");
        let (_, link) = lab.ends();
        let line = format!("-n -Pn -O --osscan-guess -e {link} -p 7000,7001 {}", lab.case.server_ip());
        let report = lab.client("nmap").args(&line).limit_s(180).must();
        assert!(report.contains("7000/tcp open"), "{device:?}\n{report}");
        assert!(report.contains("7001/tcp closed"), "{device:?}\n{report}");
        // How hard it is to guess the next initial sequence number, in nmap's own words, is only said with -v; that it looked is enough.
        assert!(report.contains("OS detection performed"), "{device:?}\n{report}");
        still_serves(&lab, &mut server);
        keeps_nothing(&mut server);
    }
}

fn malformed_packets(lab: &Lab) {
    let mut server = lab.serve("echo", 7000, "");
    still_serves(lab, &mut server);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop/malformed.py");
    let (_, link) = lab.ends();
    for seed in [1, 2] {
        let line = format!("{} {link} {} 7000 {seed}", script.display(), lab.case.server_ip());
        let report = lab.client("/usr/bin/python3").args(&line).limit_s(180).must();
        let sent: usize =
            report.trim().strip_prefix("sent ").and_then(|count| count.parse().ok()).unwrap_or(0);
        assert!(sent > 1000, "{report}");
        still_serves(lab, &mut server);
    }
}

#[test]
fn malformed_packets_leave_the_server_serving() {
    if !machine_is_ours() {
        return;
    }
    for device in [Device::Tap, Device::Packet, Device::Xdp] {
        for ip in [Ip::V4, Ip::V6] {
            malformed_packets(&Lab::new(Case::new(device, ip, 0)));
        }
    }
}

/// What must not be in a clean transfer, in tcptrace's words.
const REPEATED: [&str; 5] =
    ["rexmt data pkts", "outoforder pkts", "zwnd probe pkts", "sack pkts sent", "dsack pkts sent"];

/// How often a transfer may be tried until one is clean: whoever is kept from running for longer than two round trips
/// has its last segment probed for (RFC 8985 §7.2), and a busy machine keeps somebody from running.
const TRANSFERS: usize = 8;

#[test]
fn a_capture_of_a_clean_transfer_has_nothing_to_complain_of() {
    if !machine_is_ours() {
        return;
    }
    for device in [Device::Tap, Device::Packet, Device::Xdp] {
        let unclean: Vec<String> = (0..TRANSFERS).map_while(|_| complaints_of_a_transfer(device)).collect();
        assert!(unclean.len() < TRANSFERS, "{device:?}: no transfer was clean\n{}", unclean.join("\n"));
    }
}

/// Echoes 3 MB and has the server's capture of it judged by tcptrace: its report, if it is not clean.
fn complaints_of_a_transfer(device: Device) -> Option<String> {
    let lab = Lab::new(Case::new(device, Ip::V4, 0));
    let capture =
        std::env::temp_dir().join(format!("demi-tcptrace-{}-{device:?}.pcapng", std::process::id()));
    let plain = capture.with_extension("pcap");
    let mut server = {
        let args = format!("--listen {}", lab.case.server(7000));
        let mut environment = lab.environment();
        environment.push(("DEMI_PCAP", capture.display().to_string()));
        let program = crate::support::running::example("echo");
        Running::start(lab.host(), &program, &args, &environment).ready()
    };
    let sent = vec![b'x'; 3_000_000];
    let echoed =
        lab.client("nc").args(&format!("-N -w 20 {} 7000", lab.case.server_ip())).input(sent.clone()).run();
    assert!(echoed.stdout == sent, "{} bytes came back\n{}", echoed.stdout.len(), server.report());
    server.interrupt();
    assert!(server.wait(std::time::Duration::from_secs(20)).is_some(), "{}", server.report());
    // tcptrace reads the older format alone.
    lab.client("tshark").args(&format!("-F pcap -r {} -w {}", capture.display(), plain.display())).must();
    let report = lab.client("tcptrace").args(&format!("-l -n {}", plain.display())).must();
    for file in [&capture, &plain] {
        let _ = std::fs::remove_file(file);
    }
    assert!(report.contains("complete conn: yes"), "{device:?}\n{report}");
    assert!(!report.contains("hardware duplicate"), "{device:?}\n{report}");
    let mut clean = true;
    for wrong in REPEATED {
        assert!(report.contains(wrong), "tcptrace says nothing of {wrong}\n{report}");
        clean &= report
            .lines()
            .filter(|line| line.contains(wrong))
            .all(|line| line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).eq(["0", "0"]));
    }
    (!clean).then_some(report)
}
