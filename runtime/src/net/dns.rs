//! Names to addresses. Numeric addresses and `localhost` are known without asking anybody; the resolver that asks name
//! servers over the runtime's own sockets has its place here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::addr::{Addresses, ToSocketAddrs};

/// The addresses that `host`, a name without a port, has.
///
/// # Errors
/// `Unsupported` for a name other than `localhost`.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Addresses> {
    // RFC 6761 §6.3: localhost is loopback, whatever a name server would say. IPv4 first: what listens on both versions'
    // loopback by one name is rarer than what listens on 127.0.0.1 alone.
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        return Ok(loopback.into_iter().map(|address| SocketAddr::new(address, port)).collect());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("cannot look `{host}` up: this version resolves no names: give an IP address"),
    ))
}

/// The addresses that `host` stands for, as tokio's `lookup_host`.
///
/// # Errors
/// As [`ToSocketAddrs`] says.
///
/// # Cancel safety
/// Nothing is lost when the future is dropped.
///
/// ```
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let addresses: Vec<_> = demi::net::lookup_host("localhost:80").await?.collect();
/// assert_eq!(addresses[0], "127.0.0.1:80".parse().unwrap());
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub async fn lookup_host(host: impl ToSocketAddrs) -> io::Result<impl Iterator<Item = SocketAddr>> {
    Ok(super::addr::addresses(host).await?.into_iter())
}
