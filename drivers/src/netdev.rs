//! The kernel's network interfaces by name: reading and setting what ioctl(2) can (netdevice(7)).
//!
//! Owns a socket to ask through. Never keeps what it read: an interface may be renamed or vanish at any time.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Longest interface name, in bytes.
pub(crate) const NAME_BYTES: usize = 15;

/// `struct ifreq` as bytes: a name and a union that each request fills in its own way.
#[repr(C, align(8))]
pub(crate) struct Request {
    name: [u8; NAME_BYTES + 1],
    pub(crate) value: [u8; 24],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// An interface, which need not exist (any more).
pub(crate) struct Interface {
    name: String,
    socket: OwnedFd,
}

impl Interface {
    /// The interface called `name`.
    ///
    /// # Errors
    /// `InvalidInput` when no interface can be called that.
    pub(crate) fn named(name: &str) -> io::Result<Interface> {
        check_name(name)?;
        Ok(Interface { name: name.to_string(), socket: socket(libc::AF_INET)? })
    }

    /// A request about this interface.
    pub(crate) fn request(&self) -> Request {
        let mut request = Request { name: [0; NAME_BYTES + 1], value: [0; 24] };
        request.name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        request
    }

    fn ask(&self, code: libc::c_ulong, request: &mut Request) -> io::Result<()> {
        // SAFETY: all requests made here take a `struct ifreq`, which `Request` is laid out as.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), code as _, std::ptr::from_mut(request)) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn get(&self, code: libc::c_ulong) -> io::Result<[u8; 24]> {
        let mut request = self.request();
        self.ask(code, &mut request)?;
        Ok(request.value)
    }

    fn get_i32(&self, code: libc::c_ulong) -> io::Result<i32> {
        let value = self.get(code)?;
        Ok(i32::from_ne_bytes([value[0], value[1], value[2], value[3]]))
    }

    /// Its index.
    pub(crate) fn index(&self) -> io::Result<i32> {
        self.get_i32(libc::SIOCGIFINDEX)
    }

    /// Its MTU in bytes, at most 65,535.
    pub(crate) fn mtu(&self) -> io::Result<u16> {
        Ok(u16::try_from(self.get_i32(libc::SIOCGIFMTU)?.max(0)).unwrap_or(u16::MAX))
    }

    /// Sets its MTU; does nothing when that is its MTU already, which needs no privilege.
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        if self.mtu()? == mtu {
            return Ok(());
        }
        let mut request = self.request();
        request.value[..4].copy_from_slice(&i32::from(mtu).to_ne_bytes());
        self.ask(libc::SIOCSIFMTU, &mut request)
    }

    /// Its Ethernet address.
    pub(crate) fn mac(&self) -> io::Result<[u8; 6]> {
        // A `struct sockaddr`: two bytes of family, then the address.
        let value = self.get(libc::SIOCGIFHWADDR)?;
        Ok([value[2], value[3], value[4], value[5], value[6], value[7]])
    }

    /// Whether there is no hardware behind it: its driver names no bus (ethtool -i).
    #[cfg(feature = "xdp")]
    pub(crate) fn is_virtual(&self) -> bool {
        const GET_DRIVER_INFO: u32 = 3;
        const BUS_AT: usize = 4 + 3 * 32;
        // `struct ethtool_drvinfo`: a command, five texts of 32 bytes of which the bus is the fourth, and numbers.
        let mut info = [0u32; 49];
        info[0] = GET_DRIVER_INFO;
        let mut request = self.request();
        request.value[..8].copy_from_slice(&(info.as_mut_ptr().addr() as u64).to_ne_bytes());
        // SAFETY: SIOCETHTOOL takes a `struct ifreq` that points to what the command asks for, which is as large as `info`.
        let answer = unsafe {
            info.as_mut_ptr().expose_provenance();
            libc::ioctl(self.socket.as_raw_fd(), libc::SIOCETHTOOL as _, std::ptr::from_mut(&mut request))
        };
        answer < 0 || info[BUS_AT / 4].to_ne_bytes()[0] == 0
    }

    /// Its `IFF_…` flags.
    fn flags(&self) -> io::Result<i16> {
        let value = self.get(libc::SIOCGIFFLAGS)?;
        Ok(i16::from_ne_bytes([value[0], value[1]]))
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> io::Result<bool> {
        Ok(i32::from(self.flags()?) & libc::IFF_UP != 0)
    }

    /// Brings it up; does nothing when it is, which needs no privilege.
    pub(crate) fn bring_up(&self) -> io::Result<()> {
        let flags = self.flags()?;
        if i32::from(flags) & libc::IFF_UP != 0 {
            return Ok(());
        }
        let mut request = self.request();
        request.value[..2].copy_from_slice(&(flags | libc::IFF_UP as i16).to_ne_bytes());
        self.ask(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Gives the kernel's side of it an address, with a route to the `prefix` bits of network around it.
    pub(crate) fn add_address(&self, address: IpAddr, prefix: u8) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => {
                self.set_sockaddr(libc::SIOCSIFADDR, address.octets())?;
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
                self.set_sockaddr(libc::SIOCSIFNETMASK, mask.to_be_bytes())
            }
            IpAddr::V6(address) => {
                let mut request = libc::in6_ifreq {
                    ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
                    ifr6_prefixlen: prefix.min(128).into(),
                    ifr6_ifindex: self.index()?,
                };
                let socket = socket(libc::AF_INET6)?;
                // SAFETY: on an IPv6 socket this request takes a `struct in6_ifreq`.
                let answer = unsafe {
                    libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, std::ptr::from_mut(&mut request))
                };
                let error = io::Error::last_os_error();
                if answer < 0 && error.kind() != io::ErrorKind::AlreadyExists { Err(error) } else { Ok(()) }
            }
        }
    }

    /// Sends a request whose value is a `struct sockaddr_in`.
    fn set_sockaddr(&self, code: libc::c_ulong, octets: [u8; 4]) -> io::Result<()> {
        let mut request = self.request();
        request.value[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        request.value[4..8].copy_from_slice(&octets);
        self.ask(code, &mut request)
    }
}

fn check_name(name: &str) -> io::Result<()> {
    let wrong = match name {
        "" => "is empty",
        _ if name.len() > NAME_BYTES => "is longer than the 15 bytes the kernel allows",
        "." | ".." => "is not a name",
        _ if name.bytes().any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace()) => {
            "contains a slash, a colon, a space or a zero byte"
        }
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("interface name {name:?} {wrong}")))
}

fn socket(family: i32) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor and touches no memory.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `error` with what was being done and, after a colon, what to do about it.
pub(crate) fn explain(error: &io::Error, doing: &str, cure: &str) -> io::Error {
    let message =
        if cure.is_empty() { format!("{doing}: {error}") } else { format!("{doing}: {error}: {cure}") };
    io::Error::new(error.kind(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_its_values_are_plausible() {
        let lo = Interface::named("lo").unwrap();
        assert!(lo.index().unwrap() > 0);
        assert!(lo.mtu().unwrap() >= 1280);
        assert_eq!(lo.mac().unwrap(), [0; 6]);
        lo.is_up().unwrap();
    }

    #[test]
    fn names_that_cannot_be_are_told_apart_from_ones_that_are_not_there() {
        for name in ["", "a-name-of-16-byte", "a/b", "a b", ".."] {
            assert_eq!(Interface::named(name).err().unwrap().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        let absent = Interface::named("nosuchif0").unwrap();
        assert_eq!(absent.index().unwrap_err().raw_os_error(), Some(libc::ENODEV));
    }
}
