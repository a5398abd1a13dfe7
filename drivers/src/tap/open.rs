//! Opening and setting up a TAP interface, and saying what is wrong when that fails.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use super::{LONGEST_FRAME, MAX_PARTS, Tap, TapConfig, frame_bytes};
use crate::device::{Capabilities, DeviceStats};
use crate::mem::Pool;
use crate::netdev::{Interface, Request, explain};
use crate::vnet;

pub(super) fn open(config: &TapConfig) -> io::Result<Tap> {
    let name = format!("tap:{}", config.name);
    let interface = Interface::named(&config.name)?;
    let file = open_tun(&name)?;
    attach(&file, &name, &mut interface.request(), config.spread.is_some())?;
    let failed = |doing: &str, error: &io::Error| {
        let cure = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "it needs CAP_NET_ADMIN: run as root, or have it set up already"
            }
            _ => "",
        };
        explain(error, &format!("{name}: {doing}"), cure)
    };
    if let Some(mtu) = config.mtu {
        interface.set_mtu(mtu).map_err(|error| failed(&format!("set MTU {mtu}"), &error))?;
    }
    let mtu = interface.mtu().map_err(|error| failed("read the MTU", &error))?;
    let kernel_mac = interface.mac().map_err(|error| failed("read the Ethernet address", &error))?;

    let pool = Pool::new(&config.pool)?;
    let frame_bytes = frame_bytes(mtu);
    if pool.max_capacity() < frame_bytes {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{name}: the pool's slots hold {} bytes, a frame of MTU {mtu} is up to {frame_bytes}: \
                 make slots larger or the MTU smaller",
                pool.max_capacity()
            ),
        ));
    }
    let large = config.offload && config.pool.large_slots > 0 && pool.max_capacity() >= LONGEST_FRAME;
    set_offload(&file, config.offload, large).map_err(|error| failed("set offloads", &error))?;
    interface.bring_up().map_err(|error| failed("bring the interface up", &error))?;
    if let Some((address, prefix)) = config.host_address {
        interface
            .add_address(address, prefix)
            .map_err(|error| failed(&format!("give it the address {address}/{prefix}"), &error))?;
    }

    let mut capabilities =
        Capabilities::new(config.mac.unwrap_or_else(|| mac_of(&config.name, kernel_mac)), mtu);
    capabilities.tx_checksum = config.offload;
    capabilities.rx_checksum = config.offload;
    capabilities.tso_max_bytes = if config.offload { vnet::TSO_MAX_BYTES } else { 0 };
    capabilities.max_parts = MAX_PARTS;
    capabilities.spread = config.spread.clone();
    Ok(Tap {
        name,
        file,
        capabilities,
        pool,
        stats: DeviceStats::default(),
        frame_bytes,
        sink: if large { vec![0; LONGEST_FRAME] } else { Vec::new() },
    })
}

fn open_tun(name: &str) -> io::Result<File> {
    let path = "/dev/net/tun";
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|error| {
        let cure = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                "the kernel's module tun is missing: modprobe tun (in a container: --device /dev/net/tun)"
            }
            Some(libc::EACCES | libc::EPERM) => {
                "run as root, or have root let everybody open it: chmod 666 /dev/net/tun"
            }
            _ => "",
        };
        explain(&error, &format!("{name}: open {path}"), cure)
    })
}

/// Makes the descriptor one of the interface in `request`, which is created if there is none.
fn attach(file: &File, name: &str, request: &mut Request, queues: bool) -> io::Result<()> {
    let several = if queues { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several) as u16;
    request.value[..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF takes a `struct ifreq`, which `Request` is laid out as.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, std::ptr::from_mut(request)) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        let cure = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                "no CAP_NET_ADMIN: run as root, setcap cap_net_admin+ep the program, \
                 or have root make it yours: ip tuntap add NAME mode tap user YOU"
            }
            Some(libc::EINVAL) if queues => {
                "there is such an interface already, and it is no TAP of several queues: \
                 ip tuntap add NAME mode tap multi_queue, or take another name"
            }
            Some(libc::E2BIG) => "it has as many queues as it can have: name fewer cores",
            Some(libc::EBUSY) => "another process holds it: stop that one, or take another name",
            Some(libc::EINVAL) => {
                "there is such an interface already, and it is no plain TAP (of one queue): take another name"
            }
            _ => "",
        };
        return Err(explain(&error, &format!("{name}: attach"), cure));
    }
    let bytes = vnet::BYTES as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an `int`.
    let answer =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, std::ptr::from_ref(&bytes)) };
    if answer < 0 {
        return Err(explain(&io::Error::last_os_error(), &format!("{name}: set the header's size"), ""));
    }
    Ok(())
}

/// Says what we take from the kernel: partial checksums, and TCP segments larger than the MTU if `large`. UDP ones never:
/// the kernel cuts them for us.
fn set_offload(file: &File, checksum: bool, large: bool) -> io::Result<()> {
    let mut features = 0;
    if checksum {
        features |= libc::TUN_F_CSUM;
        if large {
            features |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        }
    }
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let answer =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(features)) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Our end's address: locally administered, from a hash (FNV-1a) of the interface's name, and never the kernel's.
fn mac_of(name: &str, kernel: [u8; 6]) -> [u8; 6] {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    let mac = [0x02, a, b, c, d, e];
    if mac == kernel { [0x02, a, b, c, d, e ^ 1] } else { mac }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_address_is_local_unicast_stable_and_not_the_kernels() {
        let mac = mac_of("demi0", [0; 6]);
        assert_eq!(mac[0] & 3, 2, "{mac:02x?} is not a locally administered unicast address");
        assert_eq!(mac, mac_of("demi0", [1; 6]));
        assert_ne!(mac, mac_of("demi1", [0; 6]));
        assert_ne!(mac, mac_of("demi0", mac));
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_before_anything_is_made() {
        let error = Tap::open(&TapConfig::new("sixteen-bytes-xx")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("15 bytes"), "{error}");
    }
}
