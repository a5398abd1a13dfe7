//! A port from opening to close: what it offers, what is agreed on, its queues' memory.
//!
//! Owns the port in DPDK; the last queue that goes stops and closes it and detaches its device. Frames are the queues' business.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use demi_dpdk_sys as sys;

use super::args::Arguments;
use super::eal::{self, Eal};
use super::memory::{Memory, MemoryConfig};
use super::rss;
use super::{DpdkConfig, explain};
use crate::device::Capabilities;
use crate::spread::{Hash, Spread};
use crate::vnet::TSO_MAX_BYTES;

/// Descriptors of each queue unless the device string says otherwise.
const DESCRIPTORS: u16 = 1024;
/// Parts of a frame at most: what the stack gathers.
const MAX_PARTS: u16 = 16;
/// Frames in a burst.
pub(super) const BURST: usize = 32;

/// A started port.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) number: u16,
    pub(super) name: String,
    pub(super) capabilities: Capabilities,
    /// What the port had counted when it was opened.
    pub(super) before: sys::demi_dpdk_stats,
    pub(super) driver: String,
    started: bool,
    /// The queues' memory, which the port may write as long as it runs.
    pub(super) memories: Vec<Arc<Memory>>,
    pub(super) interrupts: bool,
    eal: Eal,
}

/// Text in a C array.
fn text(bytes: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Port {
    /// Opens and starts a port as `config` has it.
    pub(super) fn open(config: &DpdkConfig) -> io::Result<Port> {
        let more = std::env::var("DEMI_DPDK_ARGS").unwrap_or_default();
        let arguments = Arguments::parse(&config.arguments, &more)?;
        let eal = Eal::join(&arguments)?;
        let number = eal.take_port(&arguments.port)?;
        // From here on dropping it closes it.
        let mut port = Port {
            number,
            name: format!("dpdk:{number}"),
            capabilities: Capabilities::new([0; 6], 1500),
            before: sys::demi_dpdk_stats::default(),
            driver: String::new(),
            started: false,
            memories: Vec::new(),
            interrupts: false,
            eal,
        };
        port.set_up(config, &arguments)?;
        Ok(port)
    }

    /// An error about a step of setting up, with what DPDK logged of it.
    fn failed(&self, step: &str, answer: i32) -> io::Error {
        explain::error(&format!("{}: {step}", self.name), -answer, &eal::take_log())
    }

    fn check(&self, step: &str, answer: i32) -> io::Result<()> {
        if answer < 0 { Err(self.failed(step, answer)) } else { Ok(()) }
    }

    fn set_up(&mut self, config: &DpdkConfig, arguments: &Arguments) -> io::Result<()> {
        let number = self.number;
        let mut agreed = sys::demi_dpdk_port::default();
        // SAFETY: the port is there, and the structure is ours to be written.
        self.check("look at it", unsafe { sys::demi_dpdk_port_look(number, &raw mut agreed) })?;
        self.name = format!("dpdk:{}", text(&agreed.device));
        self.driver = text(&agreed.driver);
        let queues = arguments.queues.unwrap_or(config.queues).max(1);
        if queues > agreed.max_queues {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{}: queues={queues}: its driver {} has {}",
                    self.name, self.driver, agreed.max_queues
                ),
            ));
        }
        agreed.rx_descriptors = arguments.rx_descriptors.unwrap_or(DESCRIPTORS);
        agreed.tx_descriptors = arguments.tx_descriptors.unwrap_or(DESCRIPTORS);
        let mtu = config.mtu.unwrap_or(0);
        // SAFETY: the port is not started, and the structure is what `look` filled.
        let answer = unsafe { sys::demi_dpdk_port_configure(number, queues, mtu, &raw mut agreed) };
        self.check("configure it", answer)?;
        for queue in 0..queues {
            let memory = Memory::new(
                &self.eal,
                &MemoryConfig {
                    name: &self.name,
                    port: number,
                    queue,
                    mtu: agreed.mtu,
                    rx_descriptors: agreed.rx_descriptors,
                    tx_descriptors: agreed.tx_descriptors,
                    socket: agreed.socket.into(),
                    pool: &config.pool,
                },
            )?;
            // SAFETY: the port is configured with that many queues, and the memory is kept as long as it is open.
            let answer =
                unsafe { sys::demi_dpdk_port_queue(number, queue, &raw const agreed, memory.small()) };
            self.memories.push(memory);
            self.check("set up its queues", answer)?;
        }
        let mac = self.choose_mac(config, agreed.mac)?;
        // SAFETY: configured, with all its queues set up.
        self.check("start it", unsafe { sys::demi_dpdk_port_start(number) })?;
        self.started = true;
        self.receive_groups();
        self.wait_for_link(config.link_wait);
        // SAFETY: the port is started, and the structure is ours to be written.
        unsafe { sys::demi_dpdk_port_stats(number, &raw mut self.before) };
        self.interrupts = agreed.rx_interrupts;
        self.capabilities = capabilities(mac, &agreed, queues);
        if queues > 1 {
            let known = if agreed.rss { rss::hash_of(number) } else { None };
            // Whose a flow is has to be agreed on, also when the port spreads in a way of its own.
            let own = || Hash::Mix { seed: std::ptr::from_ref(self).addr() as u32 };
            let hash = known.unwrap_or_else(own);
            self.capabilities.spread = Some(Spread { queue: 0, queues, hash });
        }
        Ok(())
    }

    /// Our Ethernet address: the one asked for, or the port's own, or, for ports in memory, which have none, one that follows from
    /// the name.
    fn choose_mac(&self, config: &DpdkConfig, own: [u8; 6]) -> io::Result<[u8; 6]> {
        let Some(mac) = config.mac.filter(|mac| *mac != own) else {
            return Ok(if own == [0; 6] { derived_mac(&self.name) } else { own });
        };
        if mac[0] & 1 != 0 || mac == [0; 6] {
            let message = format!("{}: mac: it must not be zero, nor a group's", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // SAFETY: the port is configured; six bytes are read.
        let answer = unsafe { sys::demi_dpdk_port_set_mac(self.number, mac.as_ptr()) };
        if answer != 0 {
            // What has no filter to set receives everything.
            // SAFETY: the port is configured.
            let answer = unsafe { sys::demi_dpdk_port_promiscuous(self.number, true) };
            self.check("receive for the address given with mac", answer)?;
        }
        Ok(mac)
    }

    /// Multicast is received whole: the stack drops what no group of it wants. A port that cannot do that may be able to receive
    /// everything; one that can do neither filters nothing, as ports in memory do.
    fn receive_groups(&self) {
        // SAFETY: the port is started.
        unsafe {
            if sys::demi_dpdk_port_all_multicast(self.number) != 0 {
                sys::demi_dpdk_port_promiscuous(self.number, true);
            }
        }
    }

    /// Waits for the link, if the driver knows it.
    fn wait_for_link(&self, limit: Duration) {
        let start = Instant::now();
        while self.link().is_some_and(|link| !link.up) && start.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The link, if the driver knows.
    pub(super) fn link(&self) -> Option<super::Link> {
        let mut link = sys::demi_dpdk_link::default();
        // SAFETY: the port is started, and the structure is ours to be written.
        let answer = unsafe { sys::demi_dpdk_port_link(self.number, &raw mut link) };
        (answer == 0).then_some(super::Link {
            up: link.up,
            full_duplex: link.full_duplex,
            // DPDK writes all ones for a speed that is not known.
            speed_mbps: if link.speed_mbps == u32::MAX { 0 } else { link.speed_mbps },
        })
    }

    /// What the port has counted since it was opened.
    pub(super) fn counted(&self) -> sys::demi_dpdk_stats {
        let (mut now, before) = (sys::demi_dpdk_stats::default(), self.before);
        // SAFETY: the port is started, and the structure is ours to be written.
        unsafe { sys::demi_dpdk_port_stats(self.number, &raw mut now) };
        sys::demi_dpdk_stats {
            rx_missed: now.rx_missed.saturating_sub(before.rx_missed),
            rx_errors: now.rx_errors.saturating_sub(before.rx_errors),
            rx_no_buffer: now.rx_no_buffer.saturating_sub(before.rx_no_buffer),
            tx_errors: now.tx_errors.saturating_sub(before.tx_errors),
            ..now
        }
    }

    /// The driver's own counters, by name.
    pub(super) fn extended(&self) -> Vec<(String, u64)> {
        // SAFETY: no room is given, so nothing is written.
        let count = unsafe { sys::demi_dpdk_port_xstats(self.number, std::ptr::null_mut(), 0) };
        let mut stats =
            vec![sys::demi_dpdk_xstat { name: [0; 64], value: 0 }; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the vector has that many places.
        let count =
            unsafe { sys::demi_dpdk_port_xstats(self.number, stats.as_mut_ptr(), stats.len() as u32) };
        stats.truncate(usize::try_from(count).unwrap_or(0));
        stats.iter().map(|stat| (text(&stat.name), stat.value)).collect()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Also when opening has failed half-way: an unstarted port closes as well.
        // SAFETY: the port is ours alone and no queue of it is used any more. Its memory goes after it.
        unsafe { sys::demi_dpdk_port_close(self.number) };
        self.eal.give_port(self.number);
        self.started = false;
    }
}

/// What a stack may rely on.
fn capabilities(mac: [u8; 6], agreed: &sys::demi_dpdk_port, queues: u16) -> Capabilities {
    let mut capabilities = Capabilities::new(mac, agreed.mtu);
    capabilities.tx_checksum = agreed.tx_checksum;
    capabilities.rx_checksum = agreed.rx_checksum;
    capabilities.tso_max_bytes = if agreed.tso { TSO_MAX_BYTES } else { 0 };
    capabilities.max_parts = usize::from(agreed.max_segments.clamp(1, MAX_PARTS));
    capabilities.burst = BURST;
    capabilities.queues = queues;
    capabilities
}

/// A locally administered address that is the same each time the name is (FNV-1a).
fn derived_mac(name: &str) -> [u8; 6] {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    [2, a, b, c, d, e]
}
