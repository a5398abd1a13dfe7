//! What can be given where an address is asked for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use smallvec::{SmallVec, smallvec};

use super::dns;

/// The addresses one destination has, in the order they are tried.
pub(crate) type Addresses = SmallVec<[SocketAddr; 2]>;

/// What can be turned into addresses: a [`SocketAddr`] of either version, `(IpAddr, u16)`, `(&str, u16)`, `"host:port"`, or
/// a slice of addresses that are tried in turn.
///
/// A host is numeric, `localhost`, or a name that [`/etc/hosts`](crate::Config::hosts_file) or [name servers](crate::Config::dns)
/// know, asked over the runtime's own sockets (feature `dns`; `Unsupported` without it). A name that does not exist or has no
/// address is `NotFound`; no answer is `TimedOut`, or what the way to the server said; a server that cannot answer is
/// `Other`; no server known is `Unsupported`. A text that is neither address nor name is `InvalidInput`. Sealed: its method
/// is this crate's own.
pub trait ToSocketAddrs: sealed::Sealed {}

mod sealed {
    /// See [`ToSocketAddrs`](super::ToSocketAddrs).
    pub trait Sealed {
        #[doc(hidden)]
        fn place(&self) -> std::io::Result<super::Place<'_>>;
    }
}

/// Where a destination is, or who knows.
#[doc(hidden)]
#[derive(Debug)]
pub enum Place<'a> {
    /// It is here.
    Known(Addresses),
    /// The resolver knows.
    Named(&'a str, u16),
}

/// The addresses that `of` stands for; at least one.
pub(super) async fn addresses(of: impl ToSocketAddrs) -> io::Result<Addresses> {
    let found = match of.place()? {
        Place::Known(addresses) => addresses,
        // Boxed, so that whoever is given an address carries nothing of this.
        Place::Named(host, port) => Box::pin(dns::resolve(host, port)).await?,
    };
    if found.is_empty() { Err(none_given()) } else { Ok(found) }
}

/// What is said of an empty slice.
#[cold]
pub(super) fn none_given() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "no address was given")
}

/// A host without its port: an address, also in brackets, or a name.
fn host(text: &str, port: u16) -> Place<'_> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Place::Known(smallvec![SocketAddr::new(address, port)]),
        Err(_) => Place::Named(text, port),
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {}
impl<T: ToSocketAddrs + ?Sized> sealed::Sealed for &T {
    fn place(&self) -> io::Result<Place<'_>> {
        (**self).place()
    }
}

impl ToSocketAddrs for str {}
impl sealed::Sealed for str {
    fn place(&self) -> io::Result<Place<'_>> {
        if let Ok(address) = self.parse::<SocketAddr>() {
            return Ok(Place::Known(smallvec![address]));
        }
        let split = self.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        match split {
            Some((name, port)) if !name.is_empty() && !name.contains(':') => Ok(host(name, port)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{self}` is no address: write 127.0.0.1:7000, [::1]:7000 or localhost:7000"),
            )),
        }
    }
}

impl ToSocketAddrs for String {}
impl sealed::Sealed for String {
    fn place(&self) -> io::Result<Place<'_>> {
        self.as_str().place()
    }
}

impl ToSocketAddrs for (&str, u16) {}
impl sealed::Sealed for (&str, u16) {
    fn place(&self) -> io::Result<Place<'_>> {
        Ok(host(self.0, self.1))
    }
}

impl ToSocketAddrs for (String, u16) {}
impl sealed::Sealed for (String, u16) {
    fn place(&self) -> io::Result<Place<'_>> {
        Ok(host(&self.0, self.1))
    }
}

impl ToSocketAddrs for [SocketAddr] {}
impl sealed::Sealed for [SocketAddr] {
    fn place(&self) -> io::Result<Place<'_>> {
        Ok(Place::Known(self.iter().copied().collect()))
    }
}

macro_rules! known {
    ($($kind:ty),*) => {$(
        impl ToSocketAddrs for $kind {}
        impl sealed::Sealed for $kind {
            fn place(&self) -> io::Result<Place<'_>> {
                Ok(Place::Known(smallvec![SocketAddr::from(*self)]))
            }
        }
    )*};
}
known!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));

#[cfg(test)]
mod tests {
    use super::*;

    fn now(of: impl ToSocketAddrs) -> io::Result<Vec<String>> {
        let mut future = std::pin::pin!(addresses(of));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(found) => Ok(found?.iter().map(SocketAddr::to_string).collect()),
            std::task::Poll::Pending => panic!("a numeric address waits for nobody"),
        }
    }

    #[test]
    fn every_way_to_write_an_address_is_understood() {
        let v4 = SocketAddr::from(([10, 0, 0, 1], 7));
        assert_eq!(now("10.0.0.1:7").unwrap(), ["10.0.0.1:7"]);
        assert_eq!(now(String::from("[fd00::1]:7")).unwrap(), ["[fd00::1]:7"]);
        assert_eq!(now(("fd00::1", 7)).unwrap(), ["[fd00::1]:7"]);
        assert_eq!(now(("[fd00::1]".to_owned(), 7)).unwrap(), ["[fd00::1]:7"]);
        assert_eq!(now(v4).unwrap(), ["10.0.0.1:7"]);
        assert_eq!(now((Ipv6Addr::LOCALHOST, 7)).unwrap(), ["[::1]:7"]);
        assert_eq!(now(&[v4, v4][..]).unwrap().len(), 2);
        assert_eq!(now("localhost:7").unwrap(), ["127.0.0.1:7", "[::1]:7"]);
        assert_eq!(now(("LocalHost.", 7)).unwrap(), ["127.0.0.1:7", "[::1]:7"]);
    }

    #[test]
    fn what_is_no_address_is_told_apart_from_what_cannot_be_looked_up() {
        for (text, kind) in [
            #[cfg(not(feature = "dns"))]
            ("example.com:80", io::ErrorKind::Unsupported),
            ("10.0.0.1", io::ErrorKind::InvalidInput),
            ("10.0.0.1:65536", io::ErrorKind::InvalidInput),
            ("fd00::1:80x", io::ErrorKind::InvalidInput),
            (":80", io::ErrorKind::InvalidInput),
            ("", io::ErrorKind::InvalidInput),
        ] {
            assert_eq!(now(text).unwrap_err().kind(), kind, "{text}");
        }
        assert_eq!(now(&[][..]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
