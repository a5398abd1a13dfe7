//! Opening what a device string names: one arm each.
//!
//! A device of frames gets a stack on it, and a capture around it if one is asked for; the kernel's sockets are
//! transports as they are. An error names the device, the cause and the cure, and leaves nothing open.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(feature = "dpdk")]
use demi_drivers::dpdk::{Dpdk, DpdkConfig};
use demi_drivers::packet::{Fanout, Packet, PacketConfig};
use demi_drivers::posix::{Posix, PosixConfig};
#[cfg(feature = "rdma")]
use demi_drivers::rdma::{Rdma, RdmaConfig};
use demi_drivers::spread::{Hash, Spread};
use demi_drivers::tap::{Tap, TapConfig};
#[cfg(feature = "uring")]
use demi_drivers::uring::{Uring, UringConfig};
use demi_drivers::wire::{Wire, WireConfig};
use demi_drivers::wrap::pcap::{Capture, Pcap};
#[cfg(feature = "xdp")]
use demi_drivers::xdp::{Xdp, XdpConfig};
use demi_drivers::{Device, PoolConfig, Transport};
use demi_netstack::{Stack, StackConfig};

use super::Queue;
#[cfg(feature = "xdp")]
use crate::config::Address;
use crate::config::{Config, DeviceSpec, Log};
use crate::cores::Lanes;
use crate::time::Clock;

/// The longest that a driver is asked to look for frames at a time, with `busy`: as long as nothing of a burst is missed, no longer.
#[cfg(feature = "xdp")]
const BUSY_POLL_US: u32 = 20;

/// Opens every device of `config`, in order, and of each that has several the queue that is meant. `seed` keys everything
/// random.
pub(super) fn open(
    config: &Config,
    seed: u64,
    queue: Queue,
    lanes: &dyn Fn() -> Option<Lanes>,
) -> io::Result<Vec<Box<dyn Transport>>> {
    let capture = capture(config, queue)?;
    let mut transports = Vec::with_capacity(config.device.len());
    for (at, spec) in config.device.iter().enumerate() {
        let opening = Opening {
            spec,
            at,
            config,
            seed: seed.wrapping_add(at as u64),
            queue,
            lanes,
            capture: capture.as_ref(),
        };
        let transport = opening.open()?;
        if config.log >= Log::Info {
            eprintln!("demi: device {spec}: opened {}", transport.name());
        }
        transports.push(transport);
    }
    Ok(transports)
}

/// One device about to be opened.
struct Opening<'a> {
    spec: &'a DeviceSpec,
    /// Its place in the list.
    at: usize,
    config: &'a Config,
    seed: u64,
    queue: Queue,
    lanes: &'a dyn Fn() -> Option<Lanes>,
    capture: Option<&'a Capture>,
}

impl Opening<'_> {
    fn open(&self) -> io::Result<Box<dyn Transport>> {
        if self.queue.of > 1 && !self.has_queues() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("device {}: it has one queue, for one core: give cores one number", self.spec),
            ));
        }
        let pool = self.config.pool();
        match self.spec {
            DeviceSpec::Auto => self.auto(),
            DeviceSpec::Uring => self.uring(),
            DeviceSpec::Posix => self.posix(),
            DeviceSpec::Tap { name } => {
                let mut tap = TapConfig::new(name);
                (tap.mac, tap.mtu, tap.pool) = (self.config.mac, self.config.mtu, pool);
                tap.spread = self.spread();
                self.networked(Box::new(Tap::open(&tap)?))
            }
            DeviceSpec::Packet { interface } => {
                let mut packet = PacketConfig::new(interface);
                (packet.mac, packet.pool) = (self.config.mac, pool);
                packet.fanout = self.fanout();
                self.networked(Box::new(Packet::open(&packet)?))
            }
            DeviceSpec::Wire => {
                let mut wire = WireConfig { pool, ..WireConfig::default() };
                wire.mtu = self.config.mtu.unwrap_or(wire.mtu);
                let end = Wire::new(self.seed, wire)?.into_iter().next();
                self.stack(Box::new(end.ok_or(io::ErrorKind::NotFound)?))
            }
            DeviceSpec::Dpdk { arguments } => self.dpdk(arguments, pool),
            DeviceSpec::Xdp { interface, queue, busy } => self.xdp(interface, *queue, *busy, pool),
            DeviceSpec::Rdma { device } => self.rdma(device, pool),
        }
    }

    /// Whether several cores can drive the device, a queue each.
    fn has_queues(&self) -> bool {
        let devices = matches!(
            self.spec,
            DeviceSpec::Packet { .. }
                | DeviceSpec::Tap { .. }
                | DeviceSpec::Xdp { .. }
                | DeviceSpec::Dpdk { .. }
                | DeviceSpec::Rdma { .. }
        );
        self.spec.is_kernel() || devices
    }

    /// A queue of an interface a core, from the one that is named on.
    #[cfg(feature = "xdp")]
    fn xdp(
        &self,
        interface: &str,
        queue: u32,
        busy: bool,
        pool: PoolConfig,
    ) -> io::Result<Box<dyn Transport>> {
        let mut xdp = XdpConfig::new(interface);
        (xdp.mac, xdp.vlan, xdp.pool) = (self.config.mac, self.config.vlan, pool);
        xdp.queue = queue.saturating_add(u32::try_from(self.queue.index).unwrap_or(u32::MAX));
        let told = |what| self.config.address.is_empty() || self.config.address.contains(&what);
        (xdp.dhcp, xdp.router_discovery) = (told(Address::Dhcp), told(Address::Auto));
        xdp.busy_poll_us = if busy { BUSY_POLL_US } else { 0 };
        xdp.spread = self.spread();
        self.networked(Box::new(Xdp::open(&xdp)?))
    }

    #[cfg(not(feature = "xdp"))]
    fn xdp(&self, _: &str, _: u32, _: bool, _: PoolConfig) -> io::Result<Box<dyn Transport>> {
        Err(self.not_built_in("build with the feature `xdp`"))
    }

    /// How the kernel is to spread an interface's frames over cores; alike on all of them.
    fn fanout(&self) -> Option<Fanout> {
        let Queue { index, of, secret } = self.queue;
        let [_, _, spread] = secret;
        let (group, seed) = ((spread >> 32) as u16, spread as u32);
        (of > 1).then_some(Fanout { group, seed, queue: index as u16, queues: of as u16 })
    }

    /// The same, as devices say it that leave it to us to pass on what comes to another core's queue.
    fn spread(&self) -> Option<Spread> {
        self.fanout().map(|fanout| Spread {
            queue: fanout.queue,
            queues: fanout.queues,
            hash: Hash::Mix { seed: fanout.seed },
        })
    }

    /// io_uring where the kernel has it and allows it, else epoll.
    fn auto(&self) -> io::Result<Box<dyn Transport>> {
        self.uring().or_else(|error| {
            if self.config.log >= Log::Info {
                eprintln!("demi: device auto: taking posix: {error}");
            }
            self.posix()
        })
    }

    fn posix(&self) -> io::Result<Box<dyn Transport>> {
        let posix = PosixConfig {
            pool: self.config.pool(),
            max_sockets: self.config.max_connections,
            ..PosixConfig::default()
        };
        Ok(Box::new(Posix::open(&posix)?))
    }

    #[cfg(feature = "uring")]
    fn uring(&self) -> io::Result<Box<dyn Transport>> {
        let uring = UringConfig {
            pool: self.config.pool(),
            max_sockets: self.config.max_connections,
            ..UringConfig::default()
        };
        Ok(Box::new(Uring::open(&uring)?))
    }

    #[cfg(not(feature = "uring"))]
    fn uring(&self) -> io::Result<Box<dyn Transport>> {
        Err(self.not_built_in("build with the feature `uring`, or take posix"))
    }

    #[cfg(feature = "dpdk")]
    fn dpdk(&self, arguments: &str, pool: PoolConfig) -> io::Result<Box<dyn Transport>> {
        let mut dpdk = DpdkConfig::new(arguments);
        (dpdk.mac, dpdk.mtu, dpdk.pool) = (self.config.mac, self.config.mtu, pool);
        dpdk.queues = u16::try_from(self.queue.of).unwrap_or(u16::MAX).max(1);
        let index = u16::try_from(self.queue.index).unwrap_or(u16::MAX);
        self.networked(Box::new(Dpdk::open_shared(&dpdk, index)?))
    }

    #[cfg(not(feature = "dpdk"))]
    fn dpdk(&self, _arguments: &str, _pool: PoolConfig) -> io::Result<Box<dyn Transport>> {
        Err(self
            .not_built_in("build with the feature `dpdk`, on a machine with DPDK's headers (libdpdk-dev)"))
    }

    /// Reliable connections of an adapter, which has its addresses from the interface below it.
    #[cfg(feature = "rdma")]
    fn rdma(&self, device: &str, pool: PoolConfig) -> io::Result<Box<dyn Transport>> {
        let config = self.config;
        let rdma = RdmaConfig {
            device: device.to_owned(),
            pool,
            receives: config.rdma_receives,
            credits: config.rdma_credits,
            requests: config.rdma_requests,
            inline_bytes: config.rdma_inline_bytes,
            trust_peers: config.rdma_trust_peers,
            on_demand: config.rdma_on_demand,
            max_sockets: config.max_connections,
            connect_timeout: config.rdma_connect_timeout_ms,
            close_timeout: config.rdma_close_timeout_ms,
        };
        if self.queue.of == 1 {
            return Ok(Box::new(Rdma::open(&rdma)?));
        }
        let lanes = (self.lanes)().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(Rdma::open_among(&rdma, lanes.fellows(), self.queue.index)?))
    }

    #[cfg(not(feature = "rdma"))]
    fn rdma(&self, _device: &str, _pool: PoolConfig) -> io::Result<Box<dyn Transport>> {
        Err(self.not_built_in(
            "build with the feature `rdma`, on a machine with rdma-core's headers (libibverbs-dev, librdmacm-dev)",
        ))
    }

    /// Our stack on a device that has a network behind it: others may have its addresses, and give it some.
    fn networked(&self, device: Box<dyn Device>) -> io::Result<Box<dyn Transport>> {
        self.stack_with(device, |config| {
            config.detect_duplicates = self.config.detect_duplicates.unwrap_or(true);
            if self.config.address.is_empty() {
                (config.dhcp, config.router_discovery) = (true, true);
            }
        })
    }

    /// Our stack on a device.
    fn stack(&self, device: Box<dyn Device>) -> io::Result<Box<dyn Transport>> {
        self.stack_with(device, |_| {})
    }

    fn stack_with(
        &self,
        device: Box<dyn Device>,
        change: impl FnOnce(&mut StackConfig),
    ) -> io::Result<Box<dyn Transport>> {
        let name = device.name().to_owned();
        let device = match self.capture {
            Some(capture) => Box::new(Pcap::into_capture(device, capture.clone())),
            None => device,
        };
        // What is captured has its tags.
        let mut device = super::stack::on_vlan(device, self.config)?;
        let mut config = super::stack::told(self.config, self.secret()?);
        change(&mut config);
        if self.queue.of > 1 {
            let lanes = (self.lanes)().ok_or(io::ErrorKind::InvalidInput)?;
            device = super::stack::share(device, &mut config, self.queue, lanes)?;
        }
        let stack = Stack::new(device, config)
            .map_err(|error| io::Error::new(error.kind(), format!("device {name}: {error}")))?;
        Ok(Box::new(stack))
    }

    /// What keys the stack's sequence numbers, ports and tables: the kernel's randomness, unless a run is to be repeated.
    fn secret(&self) -> io::Result<[u8; 16]> {
        let halves = match self.config.seed {
            _ if self.queue.of > 1 => return Ok(self.queue.stack_secret(self.at)),
            Some(_) => [self.seed, !self.seed],
            None => [crate::runtime::random_seed()?, crate::runtime::random_seed()?],
        };
        Ok(super::in_bytes(halves))
    }

    #[cold]
    fn not_built_in(&self, cure: &str) -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, format!("device {}: not built in: {cure}", self.spec))
    }
}

/// Where a core's capture goes: beside the first one's, with the core's index at the end of the name.
fn of_queue(path: &Path, queue: Queue) -> PathBuf {
    match queue.index {
        0 => path.to_owned(),
        index => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{index}"));
            name.into()
        }
    }
}

/// The capture that `pcap` asks for, of all devices of frames.
fn capture(config: &Config, queue: Queue) -> io::Result<Option<Capture>> {
    let Some(path) = &config.pcap else { return Ok(None) };
    let path = &of_queue(path, queue);
    let shown = path.display();
    if config.device.iter().all(DeviceSpec::is_kernel) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "pcap = {shown}: the kernel's sockets show no frames: take tap:, packet: or wire, or use tcpdump"
            ),
        ));
    }
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("pcap = {shown}: {error}"));
    let file = File::create(path).map_err(failed)?;
    // Frames are stamped with the loop's clock, which begins anywhere: where that was in Unix time.
    let unix_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let zero_unix_ns =
        u64::try_from(unix_ns).unwrap_or(u64::MAX).saturating_sub(Clock::real().read().as_nanos());
    Capture::new(file, zero_unix_ns).map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What opening says; `pool` small, so that nothing is mapped for long.
    fn opened(config: Config) -> io::Result<Vec<String>> {
        let config = config.pool_slots(256).pool_large_slots(4).huge_pages(false).check()?;
        open(&config, 7, Queue::ONLY, &|| None)
            .map(|all| all.iter().map(|one| one.name().to_owned()).collect())
    }

    #[test]
    fn auto_takes_a_kernel_transport_and_a_list_opens_each() {
        let auto = opened(Config::new()).unwrap();
        assert!(matches!(&auto[..], [one] if one == "uring" || one == "posix"), "{auto:?}");
        let list = opened(Config::new().device(["posix", "wire"])).unwrap();
        assert_eq!(list[0], "posix");
        assert!(list[1].starts_with("wire"), "{list:?}");
    }

    #[test]
    fn what_cannot_be_opened_is_said_in_one_line_with_the_cure() {
        for (config, kind, says) in [
            (Config::new().pcap("/tmp/x.pcapng"), io::ErrorKind::InvalidInput, "tcpdump"),
            (
                Config::new().device("wire").pcap("/nonexistent/x.pcapng"),
                io::ErrorKind::NotFound,
                "pcap = /nonexistent/x.pcapng: ",
            ),
            (
                Config::new().device("packet:no-such-if").address("10.0.0.2/24"),
                io::ErrorKind::NotFound,
                "packet:no-such-if",
            ),
            (
                Config::new().device("wire").address("10.0.0.2/24").gateway("192.0.2.1"),
                io::ErrorKind::InvalidInput,
                "device wire",
            ),
        ] {
            let error = opened(config).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(text.contains(says) && !text.contains('\n'), "{text}");
        }
    }

    #[cfg(feature = "xdp")]
    #[test]
    fn an_interface_that_is_not_there_is_not_opened_through_af_xdp_either() {
        let error = opened(Config::new().device("xdp:no-such-if@1,busy").address("10.0.0.2/24")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("xdp:no-such-if@1: there is no such interface"), "{error}");
    }

    #[test]
    fn rdma_names_its_feature_or_what_the_device_lacks() {
        let error = opened(Config::new().device("rdma:no-such-device")).unwrap_err();
        let (kind, says) = match cfg!(feature = "rdma") {
            true => (io::ErrorKind::NotFound, "rdma:no-such-device: there is no such device"),
            false => (io::ErrorKind::Unsupported, "feature `rdma`"),
        };
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(says), "{error}");
    }

    #[cfg(not(feature = "dpdk"))]
    #[test]
    fn a_device_that_is_not_built_in_names_its_feature() {
        let error = opened(Config::new().device("dpdk:--no-huge --vdev=net_ring0")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("feature `dpdk`") && error.to_string().contains("libdpdk-dev"),
            "{error}"
        );
    }

    #[test]
    fn a_given_seed_gives_the_same_secret_and_none_gives_another_each_time() {
        let secret = |config: &Config, seed| {
            Opening {
                spec: &DeviceSpec::Wire,
                at: 0,
                config,
                seed,
                queue: Queue::ONLY,
                lanes: &|| None,
                capture: None,
            }
            .secret()
            .unwrap()
        };
        let (given, drawn) = (Config::new().seed(7), Config::new());
        assert_eq!(secret(&given, 7), secret(&given, 7));
        assert_ne!(secret(&given, 7), secret(&given, 8));
        assert_ne!(secret(&drawn, 7), secret(&drawn, 7));
    }
}
