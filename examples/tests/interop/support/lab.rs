//! Two hosts and what joins them, as a [`Case`] wants it.
//!
//! On a TAP there is one namespace: the program under test holds the TAP's file, the kernel at its other side is the
//! foreign host. On all else there are three: host, switch, host, joined by veth; loss is at the switch, since a device
//! that bypasses the kernel also bypasses the hooks of its own end.

use super::command::must;
use super::running::example;
use super::{Case, Client, Device, Ip, Namespace, Running};

/// The DPDK port: without huge pages, so that the machine needs none set aside.
const DPDK: &str = "dpdk:--no-huge -m 64 --vdev=net_af_packet0,iface=eth0";

/// The TAP in the labs that have one.
const TAP: &str = "demi0";

/// Two hosts joined as a case wants it.
#[derive(Debug)]
pub(crate) struct Lab {
    /// The cell of the matrix it was made for.
    pub(crate) case: Case,
    host: Namespace,
    /// Switch and foreign host; a TAP needs neither.
    behind: Option<(Namespace, Namespace)>,
}

impl Lab {
    /// Makes the namespaces, links, addresses and losses.
    pub(crate) fn new(case: Case) -> Lab {
        let host = Namespace::new("host");
        let lab = match case.device {
            Device::Tap => {
                host.ip(&format!("tuntap add dev {TAP} mode tap"));
                Lab { case, host, behind: None }
            }
            Device::Packet | Device::Xdp | Device::Dpdk | Device::Uring | Device::Posix => {
                let (switch, foreign) = (Namespace::new("switch"), Namespace::new("foreign"));
                switch.ip("link add bridge type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
                switch.ip("link set bridge up");
                for (end, port) in [(&host, "port1"), (&foreign, "port2")] {
                    end.ip(&format!("link add eth0 type veth peer name {port} netns {}", switch.name()));
                    switch.ip(&format!("link set {port} master bridge up"));
                }
                Lab { case, host, behind: Some((switch, foreign)) }
            }
        };
        match case.device {
            Device::Tap => assign(&lab.host, TAP, 2),
            Device::Packet | Device::Xdp | Device::Dpdk => {
                // The kernel of this host has no address here, so that it answers nothing in our stack's place.
                lab.host.sysctl("net.ipv6.conf.eth0.disable_ipv6=1");
                lab.host.ip("link set eth0 up");
                assign(lab.foreign(), "eth0", 2);
                if case.device == Device::Dpdk {
                    // DPDK's driver knows nothing of partial checksums, nor of frames that are larger than the MTU.
                    lab.foreign().run("ethtool -K eth0 tx off");
                }
            }
            Device::Uring | Device::Posix => {
                assign(&lab.host, "eth0", 1);
                assign(lab.foreign(), "eth0", 2);
            }
        }
        if case.loss_permille > 0 {
            lab.lose(case.loss_permille);
        }
        lab
    }

    /// Where the program under test runs.
    pub(crate) fn host(&self) -> &Namespace {
        &self.host
    }

    /// The device string of the program under test, and the foreign host's link to it.
    pub(crate) fn ends(&self) -> (String, &'static str) {
        match self.case.device {
            Device::Tap => (format!("tap:{TAP}"), TAP),
            Device::Packet => ("packet:eth0".to_owned(), "eth0"),
            Device::Xdp => ("xdp:eth0".to_owned(), "eth0"),
            Device::Dpdk => (DPDK.to_owned(), "eth0"),
            Device::Uring => ("uring".to_owned(), "eth0"),
            Device::Posix => ("posix".to_owned(), "eth0"),
        }
    }

    /// Where foreign programs run.
    pub(crate) fn foreign(&self) -> &Namespace {
        self.behind.as_ref().map_or(&self.host, |(_, foreign)| foreign)
    }

    /// Starts a program under test, told by its environment which device it has.
    #[track_caller]
    pub(crate) fn start(&self, program: &str, args: &str) -> Running {
        let mut environment = self.environment();
        environment.push(("DEMI_REPORT_SIGNAL", "usr2".to_owned()));
        Running::start(&self.host, program, args, &environment).that_reports()
    }

    /// Starts one of the examples and waits until it listens on `port`.
    #[track_caller]
    pub(crate) fn serve(&self, name: &str, port: u16, args: &str) -> Running {
        self.start(&example(name), &format!("--listen {} {args}", self.case.server(port))).ready()
    }

    /// A program under test that ends by itself, told by its environment which device it has.
    pub(crate) fn program(&self, program: &str) -> Client {
        let client = Client::new(&self.host, program);
        self.environment().into_iter().fold(client, |client, (name, value)| client.env(name, &value))
    }

    /// A foreign program that ends by itself.
    pub(crate) fn client(&self, program: &str) -> Client {
        Client::new(self.foreign(), program)
    }

    /// Starts a foreign program.
    #[track_caller]
    pub(crate) fn start_foreign(&self, program: &str, args: &str) -> Running {
        Running::start(self.foreign(), program, args, &[])
    }

    /// Starts a shell line at the foreign host.
    #[track_caller]
    pub(crate) fn start_foreign_shell(&self, line: &str) -> Running {
        Running::start_words(self.foreign(), "sh", &["-c", line], &[])
    }

    /// What tells a program under test which device and address it has.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let device = match self.case.device {
            Device::Tap => format!("tap:{TAP}"),
            Device::Packet => "packet:eth0".to_owned(),
            Device::Xdp => "xdp:eth0".to_owned(),
            Device::Dpdk => DPDK.to_owned(),
            Device::Uring => return vec![("DEMI_DEVICE", "uring".to_owned())],
            Device::Posix => return vec![("DEMI_DEVICE", "posix".to_owned())],
        };
        let both = |number, suffix: fn(Ip) -> String| {
            [Ip::V4, Ip::V6].map(|ip| format!("{}{}", ip.host(number), suffix(ip))).join(",")
        };
        let mut environment = vec![
            ("DEMI_DEVICE", device),
            ("DEMI_ADDRESS", both(1, |ip| format!("/{}", ip.prefix_bits()))),
            ("DEMI_GATEWAY", both(2, |_| String::new())),
            // As the namespaces do: addresses are usable at once.
            ("DEMI_DETECT_DUPLICATES", "false".to_owned()),
        ];
        if matches!(self.case.device, Device::Xdp | Device::Dpdk) {
            // Several programs on the cores of one machine: a loop that spins would keep its own peer from running.
            environment.push(("DEMI_IDLE", "adaptive".to_owned()));
        }
        environment
    }

    /// Frames lost so far, both directions together.
    pub(crate) fn lost_frames(&self) -> u64 {
        let (namespace, _) = self.hooks();
        let rules = namespace.run("nft list table netdev faults");
        // A rule prints as `… counter packets 3 bytes 294 drop`.
        let after =
            |line: &str| line.split_once("counter packets ")?.1.split(' ').next()?.parse::<u64>().ok();
        rules.lines().filter_map(after).sum()
    }

    /// Cuts the cable: every frame is lost, in both directions. Neither end is told.
    pub(crate) fn cut(&self) {
        self.lose(1000);
    }

    /// Mends what [`cut`](Self::cut) has cut. For cases without loss of their own.
    pub(crate) fn mend(&self) {
        let (namespace, _) = self.hooks();
        namespace.run("nft delete table netdev faults");
    }

    /// Takes the link of the host under test down, or up again: its device is told, as when somebody pulls a plug.
    pub(crate) fn set_link(&self, up: bool) {
        let link = if self.case.device == Device::Tap { TAP } else { "eth0" };
        self.host.ip(&format!("link set {link} {}", if up { "up" } else { "down" }));
    }

    /// From now on loses that many frames of a thousand, at random, in each direction.
    fn lose(&self, permille: u32) {
        let (namespace, hooks) = self.hooks();
        let nft = |line: &str| must(&format!("ip netns exec {} nft {line}", namespace.name()));
        nft("add table netdev faults");
        for (number, (hook, device)) in hooks.iter().enumerate() {
            nft(&format!(
                "add chain netdev faults direction{number} {{ type filter hook {hook} device {device} priority 0 ; }}"
            ));
            let mut some = String::new();
            if permille < 1000 {
                // Asking for link addresses is no part of what is tested, and three questions in a row are lost now and then.
                nft(&format!("add rule netdev faults direction{number} ether type arp accept"));
                let neighbours = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }";
                nft(&format!("add rule netdev faults direction{number} {neighbours} accept"));
                some = format!("numgen random mod 1000 < {permille}");
            }
            nft(&format!("add rule netdev faults direction{number} {some} counter drop"));
        }
    }

    /// Where every frame passes: the namespace, and hook and link for each direction.
    fn hooks(&self) -> (&Namespace, [(&'static str, &'static str); 2]) {
        match &self.behind {
            None => (&self.host, [("ingress", TAP), ("egress", TAP)]),
            Some((switch, _)) => (switch, [("ingress", "port1"), ("ingress", "port2")]),
        }
    }
}

/// Gives `link` the address of host `number` in both IP versions, and sets it up.
fn assign(namespace: &Namespace, link: &str, number: u8) {
    for ip in [Ip::V4, Ip::V6] {
        let nodad = if ip == Ip::V6 { "nodad" } else { "" };
        namespace.ip(&format!("addr add {}/{} dev {link} {nodad}", ip.host(number), ip.prefix_bits()));
    }
    namespace.ip(&format!("link set {link} up"));
}
