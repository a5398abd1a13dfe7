//! Names: our resolver, over our stack and over kernel sockets, against a real dnsmasq. Its log says who asked: off a
//! kernel transport it is our stack's address, never the machine's.

use std::fs;
use std::time::Duration;

use crate::support::running::example;
use crate::support::{Case, Client, Device, Ip, Lab, Running, machine_is_ours, matrix};

/// Addresses of the name that has more of them than fit a datagram.
const MANY: u8 = 100;

/// Starts a name server at the foreign host's address `at`.
fn dnsmasq(lab: &Lab, at: &str, more: &str) -> Running {
    let many: String = (1..=MANY).map(|last| format!(" --host-record=many.lab,10.77.1.{last}")).collect();
    let args = format!(
        "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
         --log-facility=- --log-queries --bind-interfaces --listen-address={at} --local=/lab/ \
         --host-record=web.lab,10.77.0.2,fd77::2 --cname=www.lab,web.lab{many} {more}"
    );
    lab.start_foreign("dnsmasq", &args).ready_when("started, version")
}

fn names_are_looked_up(lab: &Lab) {
    let at = lab.case.foreign(53).ip().to_string();
    let mut server = dnsmasq(lab, &at, "");
    let resolve = |args: &str| lab.program(&example("resolve")).env("DEMI_DNS", &at).args(args).run();

    // A name, an alias of it, and one that is cut off over UDP.
    let ended = resolve("web.lab www.lab many.lab");
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(
        ended.status.is_some_and(|status| status.success()),
        "{said}{}\n{}",
        ended.stderr,
        server.report()
    );
    let line = |name: &str| {
        said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    for name in ["web.lab: ", "www.lab: "] {
        assert!(line(name).contains("10.77.0.2") && line(name).contains("fd77::2"), "{said}");
    }
    assert_eq!(line("many.lab: ").matches("10.77.1.").count(), usize::from(MANY), "{said}");

    let ended = resolve("no.lab");
    assert!(ended.stderr.contains("there is no such name"), "{}", ended.stderr);
    let asker = format!("from {}", lab.case.server_ip());
    // Its log comes in order: what was asked before is there, too.
    assert!(server.wait_for(" is NXDOMAIN", Duration::from_secs(5)).is_some(), "{}", server.report());
    // Names are asked for in mixed cases.
    let log = server.report().to_lowercase();
    assert!(log.lines().any(|line| line.contains("query[a] web.lab") && line.ends_with(&asker)), "{log}");
    assert!(log.lines().filter(|line| line.contains("query[")).all(|line| line.ends_with(&asker)), "{log}");
}

matrix!(lookups, crate::names::names_are_looked_up, lossless);

#[test]
fn kernel_sockets_take_name_servers_from_resolv_conf_and_connect_by_name() {
    if !machine_is_ours() {
        return;
    }
    for device in [Device::Posix, Device::Uring] {
        let lab = Lab::new(Case::new(device, Ip::V4, 0));
        let _server = dnsmasq(&lab, "10.77.0.2", "");
        let _web = lab.start_foreign("socat", "-d -d TCP6-LISTEN:80,fork PIPE").ready_when("listening on");
        let path = std::env::temp_dir().join(format!("demi-it-{}-resolv.conf", std::process::id()));
        let written = fs::write(&path, "# of a test\nnameserver 10.77.0.2\nsearch lab\noptions timeout:2\n");
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let client = lab.program(&example("resolve")).env("DEMI_RESOLV_CONF", &path.display().to_string());
        let said = client.args("--connect 80 web").must();
        let _ = fs::remove_file(&path);
        assert!(said.contains("web: connected to "), "{said}");
    }
}

#[test]
fn a_stack_asks_the_name_server_that_dhcp_told_of_and_searches_its_domain() {
    if !machine_is_ours() {
        return;
    }
    let lab = Lab::new(Case::new(Device::Tap, Ip::V4, 0));
    let leases = "--dhcp-range=10.77.0.100,10.77.0.120 --dhcp-authoritative --no-ping --leasefile-ro \
                  --dhcp-option=option:dns-server,10.77.0.2 --domain=lab --log-dhcp --interface=demi0";
    let mut server = dnsmasq(&lab, "10.77.0.2", leases);
    let ended = Client::new(lab.host(), &example("resolve"))
        .env("DEMI_DEVICE", "tap:demi0")
        .env("DEMI_ADDRESS", "dhcp")
        .args("web")
        .run();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(
        said.starts_with("web: ") && said.contains("10.77.0.2"),
        "{said}{}\n{}",
        ended.stderr,
        server.report()
    );
    let asked = server.wait_for("query[A]", Duration::from_secs(5));
    let asked = asked.unwrap_or_else(|| panic!("nobody asked: {}", server.report())).to_lowercase();
    assert!(asked.contains("web.lab from 10.77.0.1"), "{asked}");
}
