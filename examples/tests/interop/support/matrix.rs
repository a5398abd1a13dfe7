//! The dimensions a scenario is run over: device, IP version, loss.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What the program under test runs on, as `DEMI_DEVICE` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// Our stack on a TAP; the peer is the kernel at the TAP's other side.
    Tap,
    /// Our stack on AF_PACKET over a veth; the peer is the kernel of another namespace, behind a switch.
    Packet,
    /// Our stack on AF_XDP over a veth, peer behind a switch.
    Xdp,
    /// Our stack on a DPDK port, DPDK's own driver of AF_PACKET over a veth, peer behind a switch.
    #[cfg_attr(not(feature = "dpdk"), allow(dead_code))]
    Dpdk,
    /// Kernel sockets through io_uring, peer behind a switch.
    Uring,
    /// Kernel sockets through epoll, peer behind a switch.
    Posix,
}

/// The IP version a scenario speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One cell of the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// What the program under test runs on.
    pub(crate) device: Device,
    /// The IP version spoken.
    pub(crate) ip: Ip,
    /// Frames lost in each direction, of a thousand.
    pub(crate) loss_permille: u32,
}

impl Case {
    /// A case of the matrix.
    pub(crate) fn new(device: Device, ip: Ip, loss_permille: u32) -> Case {
        Case { device, ip, loss_permille }
    }

    /// The address of the host under test.
    pub(crate) fn server_ip(&self) -> IpAddr {
        self.ip.host(1)
    }

    /// `port` at the host under test.
    pub(crate) fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.server_ip(), port)
    }

    /// `port` at the foreign host.
    pub(crate) fn foreign(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip.host(2), port)
    }

    /// What socat calls an address of the case's IP version: `TCP` gives `TCP4`.
    pub(crate) fn socat(&self, protocol: &str) -> String {
        format!("{protocol}{}", if self.ip == Ip::V4 { '4' } else { '6' })
    }
}

impl Ip {
    /// The address of host `number` in a lab's one subnet.
    pub(crate) fn host(self, number: u8) -> IpAddr {
        match self {
            Ip::V4 => Ipv4Addr::new(10, 77, 0, number).into(),
            Ip::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// Bits of the subnet's prefix.
    pub(crate) fn prefix_bits(self) -> u8 {
        match self {
            Ip::V4 => 24,
            Ip::V6 => 64,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {}‰ loss", self.device, self.ip, self.loss_permille)
    }
}

/// Makes tests out of `fn check(&Lab)`, given by its path from the crate's root: one of each cell of the matrix, named
/// `scenario::tap::v4`, `scenario::tap::v4_loss` and so on. With `own_stack` only the devices below our own stack; with
/// `lossless` only the cells without loss.
macro_rules! matrix {
    ($scenario:ident, $check:path) => {
        mod $scenario {
            $crate::support::matrix!(@lossy $check, tap Tap);
            $crate::support::matrix!(@lossy $check, packet Packet);
            $crate::support::matrix!(@lossy $check, xdp Xdp);
            #[cfg(feature = "dpdk")]
            $crate::support::matrix!(@lossy $check, dpdk Dpdk);
            $crate::support::matrix!(@lossy $check, uring Uring);
            $crate::support::matrix!(@lossy $check, posix Posix);
        }
    };
    ($scenario:ident, $check:path, lossless) => {
        mod $scenario {
            $crate::support::matrix!(@lossless $check, tap Tap);
            $crate::support::matrix!(@lossless $check, packet Packet);
            $crate::support::matrix!(@lossless $check, xdp Xdp);
            #[cfg(feature = "dpdk")]
            $crate::support::matrix!(@lossless $check, dpdk Dpdk);
            $crate::support::matrix!(@lossless $check, uring Uring);
            $crate::support::matrix!(@lossless $check, posix Posix);
        }
    };
    ($scenario:ident, $check:path, own_stack lossless) => {
        mod $scenario {
            $crate::support::matrix!(@lossless $check, tap Tap);
            $crate::support::matrix!(@lossless $check, packet Packet);
            $crate::support::matrix!(@lossless $check, xdp Xdp);
            #[cfg(feature = "dpdk")]
            $crate::support::matrix!(@lossless $check, dpdk Dpdk);
        }
    };
    (@lossy $check:path, $module:ident $device:ident) => {
        mod $module {
            $crate::support::matrix!(@cell $check, v4, $device, V4, 0);
            $crate::support::matrix!(@cell $check, v6, $device, V6, 0);
            $crate::support::matrix!(@cell $check, v4_loss, $device, V4, 10);
            $crate::support::matrix!(@cell $check, v6_loss, $device, V6, 10);
        }
    };
    (@lossless $check:path, $module:ident $device:ident) => {
        mod $module {
            $crate::support::matrix!(@cell $check, v4, $device, V4, 0);
            $crate::support::matrix!(@cell $check, v6, $device, V6, 0);
        }
    };
    (@cell $check:path, $name:ident, $device:ident, $ip:ident, $loss:literal) => {
        #[test]
        fn $name() {
            use $crate::support::{Case, Device, Ip, Lab, machine_is_ours};
            if machine_is_ours() {
                $check(&Lab::new(Case::new(Device::$device, Ip::$ip, $loss)));
            }
        }
    };
}
pub(crate) use matrix;
