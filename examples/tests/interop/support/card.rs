//! The laboratory of the guest: a network card on a PCI bus, given to DPDK through vfio-pci, and the guest kernel's own card at
//! the other end of the cable. There is one card in the machine, so its tests run one after another.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use super::command::must;
use super::running::example;
use super::{Client, Ip, Namespace, Running};

/// Ethernet address of the kernel's card, as `cargo xtask guest --nic` makes it.
const PEER_MAC: &str = "52:54:00:aa:00:02";
/// Kernel drivers of both cards, what gives one away, and what faults are made by.
const MODULES: &str = "virtio_net vfio-pci vfio_iommu_type1 sch_netem";
/// Huge pages of 2 MiB for packet memory.
const HUGE_PAGES: u32 = 192;

/// Whether this is a guest with a card; says `SKIP` if not.
pub(crate) fn machine_has_a_card() -> bool {
    let ours =
        std::env::var("DEMI_TIER").as_deref() == Ok("guest") && std::env::var_os("XTASK_GUEST").is_some();
    if !ours {
        println!("SKIP not in a guest with a card: cargo xtask test --tier guest");
    }
    ours
}

/// A card that DPDK may have, and a foreign host at the other end of its cable.
#[derive(Debug)]
pub(crate) struct Card {
    /// Where it is on the bus.
    address: String,
    host: Namespace,
    foreign: Namespace,
    _alone: MutexGuard<'static, ()>,
}

impl Card {
    /// Takes the card from the kernel, and puts the kernel's own card into a namespace, with `faults` of netem on what it sends.
    pub(crate) fn new(faults: &str) -> Card {
        static ALONE: Mutex<()> = Mutex::new(());
        static READY: Once = Once::new();
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        READY.call_once(|| {
            must(&format!("modprobe -a {MODULES}"));
            write(Path::new("/proc/sys/vm/nr_hugepages"), &HUGE_PAGES.to_string());
        });
        let (peer, peer_address) = peer();
        let address = other_card(&peer_address);
        bind(&address);
        let (host, foreign) = (Namespace::new("host"), Namespace::new("foreign"));
        must(&format!("ip link set {peer} netns {} name eth0", foreign.name()));
        for ip in [Ip::V4, Ip::V6] {
            let nodad = if ip == Ip::V6 { "nodad" } else { "" };
            foreign.ip(&format!("addr add {}/{} dev eth0 {nodad}", ip.host(2), ip.prefix_bits()));
        }
        foreign.ip("link set eth0 up");
        if !faults.is_empty() {
            foreign.run(&format!("tc qdisc add dev eth0 root netem {faults}"));
        }
        Card { address, host, foreign, _alone: alone }
    }

    /// Starts one of the examples on the card and waits until it listens.
    #[track_caller]
    pub(crate) fn serve(&self, name: &str, ip: Ip, port: u16, args: &str) -> Running {
        let both = [Ip::V4, Ip::V6].map(|ip| format!("{}/{}", ip.host(1), ip.prefix_bits())).join(",");
        let environment = [
            ("DEMI_DEVICE", format!("dpdk:-a {}", self.address)),
            ("DEMI_ADDRESS", both),
            ("DEMI_DETECT_DUPLICATES", "false".to_owned()),
            // Clients run on the same few processors, none of which is a fast one.
            ("DEMI_IDLE", "adaptive".to_owned()),
        ];
        let listen = std::net::SocketAddr::new(ip.host(1), port);
        Running::start(&self.host, &example(name), &format!("--listen {listen} {args}"), &environment).ready()
    }

    /// A foreign program that ends by itself.
    pub(crate) fn client(&self, program: &str) -> Client {
        Client::new(&self.foreign, program).limit_s(240)
    }

    /// What netem has dropped.
    pub(crate) fn dropped(&self) -> u64 {
        let shown = self.foreign.run("tc -s qdisc show dev eth0");
        let after =
            shown.split_once("dropped ").map(|(_, rest)| rest.split([',', ' ']).next().unwrap_or_default());
        after.and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // It would come back by itself, some time after its namespace is gone: the next test needs it now.
        let name = self.foreign.name();
        let back = format!("ip -n {name} link set eth0 netns 1");
        let _ = super::command::try_run(&back);
    }
}

/// The kernel's card: its interface, and where it is on the bus.
fn peer() -> (String, String) {
    let interfaces = entries(Path::new("/sys/class/net"));
    let is_peer = |path: &PathBuf| {
        fs::read_to_string(path.join("address")).is_ok_and(|address| address.trim() == PEER_MAC)
    };
    let Some(path) = interfaces.into_iter().find(is_peer) else { panic!("no interface has {PEER_MAC}") };
    let device = fs::canonicalize(path.join("device")).unwrap_or_default();
    let on_bus = device.ancestors().find_map(|part| {
        let name = part.file_name()?.to_str()?;
        Path::new("/sys/bus/pci/devices").join(name).exists().then(|| name.to_owned())
    });
    let Some(address) = on_bus else { panic!("{} is on no PCI bus", device.display()) };
    (name_of(&path), address)
}

/// The other Ethernet card on the bus.
fn other_card(peer: &str) -> String {
    let is_other = |path: &PathBuf| {
        let class = fs::read_to_string(path.join("class")).unwrap_or_default();
        class.starts_with("0x0200") && name_of(path) != peer
    };
    let cards = entries(Path::new("/sys/bus/pci/devices"));
    let Some(card) = cards.into_iter().find(is_other) else { panic!("no card but the kernel's: --nic") };
    name_of(&card)
}

/// Has vfio-pci drive the card (Documentation/ABI/testing/sysfs-bus-pci).
fn bind(address: &str) {
    let device = Path::new("/sys/bus/pci/devices").join(address);
    let driver = fs::canonicalize(device.join("driver")).unwrap_or_default();
    if name_of(&driver) == "vfio-pci" {
        return;
    }
    if driver.exists() {
        write(&driver.join("unbind"), address);
    }
    write(&device.join("driver_override"), "vfio-pci");
    write(Path::new("/sys/bus/pci/drivers_probe"), address);
    let driver = fs::canonicalize(device.join("driver")).unwrap_or_default();
    assert_eq!(name_of(&driver), "vfio-pci", "the card's driver");
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { panic!("{} is not there", folder.display()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn write(path: &Path, text: &str) {
    if let Err(error) = fs::write(path, text) {
        panic!("{}: {error}", path.display());
    }
}
