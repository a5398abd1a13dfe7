//! Multicast: the groups a socket is in, and how far what it sends to groups goes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_drivers::Transport;
use demi_drivers::transport::{DatagramId, Interface, Membership};

use super::UdpSocket;

impl UdpSocket {
    /// Puts the socket into the IPv4 group `multiaddr`, on the interface that has the address `interface`; on each of its
    /// devices when that is the unspecified one.
    ///
    /// ```
    /// use demi::net::UdpSocket;
    /// use std::net::Ipv4Addr;
    /// # demi::Runtime::new(demi::Config::new().device("wire").address("10.0.0.2/24"))?.block_on(async {
    /// let socket = UdpSocket::bind("0.0.0.0:5000").await?;
    /// let group = Ipv4Addr::new(239, 1, 2, 3);
    /// socket.join_multicast_v4(group, Ipv4Addr::UNSPECIFIED)?;
    /// socket.send_to(b"to everybody", (group, 5000)).await?;
    /// let mut bytes = [0; 64];
    /// let (count, _) = socket.recv_from(&mut bytes).await?; // It is in the group itself.
    /// assert_eq!(&bytes[..count], b"to everybody");
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// `AddrInUse` when it is in the group already; `AddrNotAvailable` when no device has that interface; `InvalidInput` for what
    /// is no group; what the kernel said.
    pub fn join_multicast_v4(&self, multiaddr: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.join(&membership(multiaddr, None, by_address(interface)))
    }

    /// Puts the socket into the IPv6 group `multiaddr`, on the kernel's interface with the number `interface`; on each of its
    /// devices when that is 0.
    ///
    /// # Errors
    /// As [`join_multicast_v4`](Self::join_multicast_v4).
    pub fn join_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.join(&membership(*multiaddr, None, by_index(interface)))
    }

    /// Takes the socket out of the IPv4 group `multiaddr`.
    ///
    /// # Errors
    /// `AddrNotAvailable` when it is not in it; as [`join_multicast_v4`](Self::join_multicast_v4).
    pub fn leave_multicast_v4(&self, multiaddr: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.leave(&membership(multiaddr, None, by_address(interface)))
    }

    /// Takes the socket out of the IPv6 group `multiaddr`.
    ///
    /// # Errors
    /// As [`leave_multicast_v4`](Self::leave_multicast_v4).
    pub fn leave_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.leave(&membership(*multiaddr, None, by_index(interface)))
    }

    /// Puts the socket into the IPv4 group `multiaddr` for what `source` sends there, and nobody else (RFC 4607).
    ///
    /// # Errors
    /// As [`join_multicast_v4`](Self::join_multicast_v4).
    pub fn join_ssm_v4(&self, source: Ipv4Addr, multiaddr: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.join(&membership(multiaddr, Some(source.into()), by_address(interface)))
    }

    /// Undoes [`join_ssm_v4`](Self::join_ssm_v4).
    ///
    /// # Errors
    /// As [`leave_multicast_v4`](Self::leave_multicast_v4).
    pub fn leave_ssm_v4(&self, source: Ipv4Addr, multiaddr: Ipv4Addr, interface: Ipv4Addr) -> io::Result<()> {
        self.leave(&membership(multiaddr, Some(source.into()), by_address(interface)))
    }

    /// As [`join_ssm_v4`](Self::join_ssm_v4), for IPv6.
    ///
    /// # Errors
    /// As [`join_multicast_v4`](Self::join_multicast_v4).
    pub fn join_ssm_v6(&self, source: &Ipv6Addr, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.join(&membership(*multiaddr, Some((*source).into()), by_index(interface)))
    }

    /// Undoes [`join_ssm_v6`](Self::join_ssm_v6).
    ///
    /// # Errors
    /// As [`leave_multicast_v4`](Self::leave_multicast_v4).
    pub fn leave_ssm_v6(&self, source: &Ipv6Addr, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.leave(&membership(*multiaddr, Some((*source).into()), by_index(interface)))
    }

    /// Whether what it sends to IPv4 groups is heard by sockets of this host that are in them.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn multicast_loop_v4(&self) -> io::Result<bool> {
        Ok(self.options()?.multicast_loop_v4.unwrap_or(true))
    }

    /// Lets what it sends to IPv4 groups be heard by sockets of this host, or not. It is, unless changed.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    pub fn set_multicast_loop_v4(&self, on: bool) -> io::Result<()> {
        self.change_options(|options| options.multicast_loop_v4 = Some(on))
    }

    /// As [`multicast_loop_v4`](Self::multicast_loop_v4), for IPv6.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn multicast_loop_v6(&self) -> io::Result<bool> {
        Ok(self.options()?.multicast_loop_v6.unwrap_or(true))
    }

    /// As [`set_multicast_loop_v4`](Self::set_multicast_loop_v4), for IPv6.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    pub fn set_multicast_loop_v6(&self, on: bool) -> io::Result<()> {
        self.change_options(|options| options.multicast_loop_v6 = Some(on))
    }

    /// Hops that what it sends to IPv4 groups may take.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn multicast_ttl_v4(&self) -> io::Result<u32> {
        Ok(self.options()?.multicast_ttl_v4.unwrap_or(1).into())
    }

    /// Lets what it sends to IPv4 groups take so many hops, 0 to 255: with 0 it does not leave this host, with 1, as it is
    /// unless changed, not the link.
    ///
    /// # Errors
    /// `InvalidInput` beyond that; as [`set_options`](Self::set_options).
    pub fn set_multicast_ttl_v4(&self, ttl: u32) -> io::Result<()> {
        let ttl = hops(ttl)?;
        self.change_options(|options| options.multicast_ttl_v4 = Some(ttl))
    }

    /// As [`multicast_ttl_v4`](Self::multicast_ttl_v4), for IPv6.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn multicast_hops_v6(&self) -> io::Result<u32> {
        Ok(self.options()?.multicast_hops_v6.unwrap_or(1).into())
    }

    /// As [`set_multicast_ttl_v4`](Self::set_multicast_ttl_v4), for IPv6.
    ///
    /// # Errors
    /// As [`set_multicast_ttl_v4`](Self::set_multicast_ttl_v4).
    pub fn set_multicast_hops_v6(&self, hops: u32) -> io::Result<()> {
        let hops = self::hops(hops)?;
        self.change_options(|options| options.multicast_hops_v6 = Some(hops))
    }

    fn join(&self, membership: &Membership) -> io::Result<()> {
        self.on_each(|transport, id| transport.join_group(id, membership))
    }

    fn leave(&self, membership: &Membership) -> io::Result<()> {
        self.on_each(|transport, id| transport.leave_group(id, membership))
    }

    /// Calls a method of each member's transport: one that succeeds is enough, since an interface is one transport's.
    fn on_each(&self, method: impl Fn(&mut dyn Transport, DatagramId) -> io::Result<()>) -> io::Result<()> {
        let mut failed = None;
        let mut done = false;
        for at in 0..self.members.len() {
            match self.on(at, &method) {
                Ok(()) => done = true,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed.filter(|_| !done) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn membership(group: impl Into<IpAddr>, source: Option<IpAddr>, interface: Interface) -> Membership {
    Membership { group: group.into(), source, interface }
}

fn by_address(interface: Ipv4Addr) -> Interface {
    if interface.is_unspecified() { Interface::Any } else { Interface::Address(interface) }
}

fn by_index(interface: u32) -> Interface {
    if interface == 0 { Interface::Any } else { Interface::Index(interface) }
}

fn hops(hops: u32) -> io::Result<u8> {
    u8::try_from(hops).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{hops} hops: write a number of 0 to 255"))
    })
}
