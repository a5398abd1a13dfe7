//! Addresses that our stack finds by itself from a foreign DHCP server and router, multicast groups that it shares with the
//! kernel, and datagrams larger than the link's MTU, both ways.

use std::time::Duration;

use crate::support::running::example;
use crate::support::{Client, Device, Ip, Lab, Running, eventually, matrix};

/// Starts a foreign server that sends back what it receives on `port`, over TCP, or UDP.
fn foreign_echo(lab: &Lab, kind: &str, port: u16) -> Running {
    let family = match lab.case.ip {
        Ip::V4 => 4,
        Ip::V6 => 6,
    };
    let line = format!("socat -b 65536 -T 20 {kind}{family}-LISTEN:{port},fork,reuseaddr PIPE");
    let server = lab.start_foreign_shell(&line);
    assert!(
        eventually(|| lab.foreign().run("ss -Hlntu").contains(&format!(":{port} "))),
        "`{line}` is not there"
    );
    server
}

/// Our `ping` to a foreign server, with nothing of the lab's configuration but the device.
fn ping(lab: &Lab, to: &str) -> Client {
    Client::new(lab.host(), &example("ping"))
        .env("DEMI_DEVICE", &lab.ends().0)
        .args(&format!("--to {to} --count 5 --interval-us 1000"))
}

fn addresses_are_leased_or_advertised(lab: &Lab) {
    let (_, link) = lab.ends();
    let lease = "/dev/null";
    let line = format!(
        "--keep-in-foreground --conf-file=/dev/null --port=0 --pid-file= --log-facility=- --log-dhcp --no-ping --user=root \
         --dhcp-leasefile={lease} --interface={link} --bind-dynamic --enable-ra \
         --dhcp-range=10.99.0.50,10.99.0.60,255.255.255.0,2m --dhcp-range=fd99::,ra-only,64,10m \
         --dhcp-option=option:mtu,1400"
    );
    let foreign = lab.foreign();
    foreign.ip(&format!("addr add 10.99.0.1/24 dev {link}"));
    foreign.ip(&format!("addr add fd99::1/64 dev {link} nodad"));
    let mut server = lab.start_foreign("dnsmasq", &line).ready_when("started");
    let _echo = foreign_echo(lab, "TCP", 7000);
    let (address, to) = match lab.case.ip {
        Ip::V4 => ("dhcp", "10.99.0.1:7000"),
        Ip::V6 => ("auto", "[fd99::1]:7000"),
    };
    let report = ping(lab, to).env("DEMI_ADDRESS", address).must();
    assert!(report.contains("5 sent, 5 answered"), "{report}\n{}", server.report());
    if lab.case.ip == Ip::V4 {
        let acknowledged = server.wait_for("DHCPACK", Duration::from_secs(10));
        assert!(acknowledged.is_some(), "{}", server.report());
    }
}

matrix!(addresses_found, crate::addressing::addresses_are_leased_or_advertised, own_stack lossless);

fn large_datagrams_are_cut_and_joined_both_ways(lab: &Lab) {
    let server = lab.serve("echo", 7000, "");
    for &bytes in sizes_in(lab) {
        let line = format!("-c 5 -i 0.01 -W 5 -s {bytes} {}", lab.case.server_ip());
        let report = lab.client("ping").args(&line).must();
        assert!(report.contains("5 packets transmitted, 5 received"), "{report}");
    }
    drop(server);
    let _echo = foreign_echo(lab, "UDP", 7001);
    for &bytes in sizes_in(lab) {
        let to = lab.case.foreign(7001);
        let line = format!("--udp --to {to} --count 5 --interval-us 1000 --size {bytes}");
        let report = lab.program(&example("ping")).args(&line).must();
        assert!(report.contains("5 sent, 5 answered"), "{report}");
    }
}

/// Bytes of datagrams that reach us. DPDK's driver of AF_PACKET has the kernel join IPv4's fragments, and cuts what is longer than
/// a frame of its ring.
fn sizes_in(lab: &Lab) -> &'static [usize] {
    if lab.case.device == Device::Dpdk && lab.case.ip == Ip::V4 {
        &[1473]
    } else {
        &[1473, 4000, 20_000, 65_000]
    }
}

matrix!(large_datagrams, crate::addressing::large_datagrams_are_cut_and_joined_both_ways, own_stack lossless);

fn groups_are_shared_with_the_kernel(lab: &Lab) {
    let (_, link) = lab.ends();
    let foreign_ip = lab.case.ip.host(2);
    let (group, listen, speak) = match lab.case.ip {
        Ip::V4 => (
            "239.77.1.2",
            format!("UDP4-RECV:5000,reuseaddr,ip-add-membership=239.77.1.2:{foreign_ip}"),
            format!("UDP4-SENDTO:239.77.1.2:5000,ip-multicast-if={foreign_ip}"),
        ),
        Ip::V6 => (
            "ff15::7712",
            format!("UDP6-RECV:5000,reuseaddr,ipv6-join-group=[ff15::7712]:{link}"),
            "UDP6-SENDTO:[ff15::7712]:5000".to_owned(),
        ),
    };
    let shown = if lab.case.ip == Ip::V4 { format!("{group}:5000") } else { format!("[{group}]:5000") };
    let kernels = lab.start_foreign_shell(&format!("exec socat -u {listen} STDOUT"));
    let line = format!("--group {shown} --say from-us");
    let mut ours = lab.start(&example("group"), &line).ready();
    let mut kernels = kernels.ready_when("from-us");
    drop(kernels.report());
    let says = format!("while sleep 0.1; do echo from-the-kernel | socat -u STDIN {speak}; done");
    let voice = lab.start_foreign_shell(&says);
    let heard = ours.wait_for("from-the-kernel", Duration::from_secs(20));
    assert!(heard.is_some(), "{}", ours.report());
    // From a sender that is listened to, and from one that is not.
    drop(ours);
    let line = format!("--group {shown} --source {foreign_ip}");
    let mut ours = lab.start(&example("group"), &line).ready();
    assert!(ours.wait_for("from-the-kernel", Duration::from_secs(20)).is_some(), "{}", ours.report());
    drop(ours);
    let line = format!("--group {shown} --source {}", lab.case.ip.host(99));
    let mut ours = lab.start(&example("group"), &line).ready();
    assert!(ours.wait_for("from-the-kernel", Duration::from_secs(2)).is_none(), "{}", ours.report());
    drop(voice);
}

matrix!(groups, crate::addressing::groups_are_shared_with_the_kernel, own_stack lossless);
