//! What a runtime's sockets are up to: all of them as `ss -ti` lists them, and counters as `nstat` prints them.

use std::fmt;

use demi_drivers::transport::SocketEntry;

use crate::transports::TransportSet;

/// The sockets of a runtime at one moment. Printed, it reads as `ss -tuanoi` does, a part a device.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// Devices, and their sockets.
    devices: Vec<(String, Vec<SocketEntry>)>,
}

impl Sockets {
    pub(crate) fn of(set: &TransportSet) -> Sockets {
        Sockets { devices: set.sockets() }
    }

    /// The sockets, each with the device that carries it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SocketEntry)> {
        self.devices.iter().flat_map(|(device, entries)| entries.iter().map(|entry| (device.as_str(), entry)))
    }
}

impl fmt::Display for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (device, entries) in &self.devices {
            writeln!(f, "# {device}\n{}", SocketEntry::HEADER.trim_end())?;
            for entry in entries {
                writeln!(f, "{entry}")?;
            }
        }
        Ok(())
    }
}

/// The counters of a runtime's stacks, under the names that `nstat` shows on Linux, at one moment. Printed, it reads as `nstat -a`
/// does: those that are not zero, a part a device.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    devices: Vec<(String, Vec<(String, u64)>)>,
}

impl Counters {
    pub(crate) fn of(set: &TransportSet) -> Counters {
        Counters { devices: set.counters() }
    }

    /// The sum of a counter over all devices: `TcpActiveOpens`, `TcpExtListenDrops`, …; 0 for a name there is not.
    pub fn get(&self, name: &str) -> u64 {
        let all = self.devices.iter().flat_map(|(_, counters)| counters);
        all.filter(|(counter, _)| counter == name).map(|(_, value)| value).sum()
    }

    /// Every counter, with the device that counted and its name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.devices.iter().flat_map(|(device, counters)| {
            counters.iter().map(|(name, value)| (device.as_str(), name.as_str(), *value))
        })
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (device, counters) in &self.devices {
            writeln!(f, "# {device}")?;
            for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
                writeln!(f, "{name:<32}{value}")?;
            }
        }
        Ok(())
    }
}

/// All sockets of the current runtime: those of its stacks, TIME-WAIT records and half-open connections included, and those it has
/// from the kernel, without.
///
/// It looks at each socket: for people and tests, not for a datapath.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// println!("{}", demi::net::sockets());
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn sockets() -> Sockets {
    Sockets::of(&super::current())
}

/// What the current runtime's stacks have counted. What the kernel has counted for its own sockets, `nstat` shows.
///
/// # Panics
/// Outside of a runtime.
///
/// ```
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let drops = demi::net::counters().get("TcpExtListenDrops");
/// assert_eq!(drops, 0);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
#[track_caller]
pub fn counters() -> Counters {
    Counters::of(&super::current())
}
