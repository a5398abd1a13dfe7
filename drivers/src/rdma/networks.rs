//! Which of this machine's addresses are a device's, and which networks they are in.
//!
//! The connection manager knows: an identifier that is bound to an address is on the device that has it, be that an Ethernet
//! interface's (RoCE, iWARP) or an InfiniBand port's.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::verbs::cm::{Channel, Id};
use super::verbs::device::Device;
use crate::sockets::reach::{common_bits, interfaces, leading_ones, width};

/// A device's addresses, each with the bits of its network.
#[derive(Debug)]
pub(super) struct Networks(Vec<(IpAddr, u8)>);

impl Networks {
    /// Those that `device` has now. Asks the kernel about each of the machine's.
    ///
    /// # Errors
    /// `AddrNotAvailable` when there are none: nothing can be connected by it.
    pub(super) fn of(device: &Device, channel: &Arc<Channel>) -> io::Result<Networks> {
        let mut own = Vec::new();
        for (address, mask) in interfaces() {
            if !is_usable(address) || own.iter().any(|(known, _)| *known == address) {
                continue;
            }
            let id = Id::new(channel, u64::MAX)?;
            if id.bind(SocketAddr::new(address, 0)).is_ok() && id.is_on(device) {
                own.push((address, mask.map_or(width(address), leading_ones)));
            }
        }
        if own.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!(
                    "device rdma:{}: it has no address: give its interface one, and set it up",
                    device.name()
                ),
            ));
        }
        Ok(Networks(own))
    }

    /// The addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().map(|(address, _)| *address)
    }

    /// The address that a connection to `remote` comes from: the one in its network, or else any of its family.
    pub(super) fn towards(&self, remote: IpAddr) -> Option<IpAddr> {
        let remote = remote.to_canonical();
        let family = self.0.iter().filter(|(own, _)| own.is_ipv4() == remote.is_ipv4());
        let near = |(own, bits): &&(IpAddr, u8)| common_bits(*own, remote).filter(|common| common >= bits);
        family.max_by_key(near).map(|(own, _)| *own)
    }

    /// Bits of the longest network that `remote` is in; 0 for none of them: routers may know.
    pub(super) fn bits(&self, remote: IpAddr) -> Option<u8> {
        let remote = remote.to_canonical();
        if remote.is_loopback() || !self.0.iter().any(|(own, _)| own.is_ipv4() == remote.is_ipv4()) {
            return None;
        }
        let matching = self.0.iter().filter_map(|(own, bits)| {
            let bits = if *own == remote { width(remote) } else { *bits };
            (common_bits(*own, remote)? >= bits).then_some(bits)
        });
        Some(matching.max().unwrap_or(0))
    }
}

/// Loopback is nobody's device, and an address of a link means nothing without its interface.
fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_own_network_is_reached_and_others_by_routers() {
        let networks = Networks(vec![("10.77.0.1".parse().unwrap(), 24), ("fd77::1".parse().unwrap(), 64)]);
        let bits = |text: &str| networks.bits(text.parse().unwrap());
        assert_eq!(bits("10.77.0.1"), Some(32));
        assert_eq!(bits("10.77.0.9"), Some(24));
        assert_eq!(bits("::ffff:10.77.0.9"), Some(24));
        assert_eq!(bits("fd77::9"), Some(64));
        assert_eq!(bits("192.0.2.1"), Some(0));
        assert_eq!(bits("127.0.0.1"), None);
        assert_eq!(Networks(vec![("10.77.0.1".parse().unwrap(), 24)]).bits("fd77::9".parse().unwrap()), None);
    }
}
