//! `SocketAddr` to and from what system calls speak.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsFd;

use socket2::SockRef;

/// Room for an address of either family, as the kernel lays them out.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union RawAddress {
    any: libc::sockaddr,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Bytes of a [`RawAddress`].
pub(crate) const RAW_ADDRESS_BYTES: libc::socklen_t = size_of::<RawAddress>() as libc::socklen_t;

impl RawAddress {
    /// An address of no family, to be overwritten.
    #[inline]
    pub(crate) fn empty() -> Self {
        // SAFETY: all zeroes is a valid value of each of the union's fields, which are plain integers.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// Overwrites the front with what the kernel has put elsewhere; bytes beyond an address are left out.
    #[cfg(feature = "uring")]
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(RAW_ADDRESS_BYTES as usize);
        // SAFETY: `count` bytes are readable there and writable here, and any bytes are a valid value of each field.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), std::ptr::from_mut(self).cast::<u8>(), count)
        };
    }

    /// `address`, and how many bytes of this are it.
    #[inline]
    pub(crate) fn encode(address: &SocketAddr) -> (Self, libc::socklen_t) {
        let mut raw = RawAddress::empty();
        match address {
            SocketAddr::V4(v4) => {
                raw.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                raw.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The address that the kernel has written; `None` when it is of neither family.
    #[inline]
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        // SAFETY: every field of the union begins with the family, and all of its bytes are initialised.
        match libc::c_int::from(unsafe { self.any.sa_family }) {
            libc::AF_INET => {
                // SAFETY: the bytes are initialised, and any are a valid `sockaddr_in`.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the bytes are initialised, and any are a valid `sockaddr_in6`.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// The address `socket` is bound to.
pub(crate) fn local(socket: &impl AsFd) -> io::Result<SocketAddr> {
    internet(SockRef::from(socket).local_addr()?)
}

/// The address `socket` is connected to; `NotConnected` when it isn't.
pub(crate) fn peer(socket: &impl AsFd) -> io::Result<SocketAddr> {
    internet(SockRef::from(socket).peer_addr()?)
}

fn internet(address: socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "the socket's address is neither IPv4 nor IPv6")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["127.0.0.1:80", "255.1.2.3:65535", "[::1]:443", "[fe80::1%7]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::encode(&address).0.decode(), Some(address), "{text}");
        }
        assert_eq!(RawAddress::empty().decode(), None);
    }
}
