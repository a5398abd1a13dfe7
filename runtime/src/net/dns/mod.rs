//! Names to addresses: a stub resolver over the runtime's own sockets.
//!
//! Numeric addresses and `localhost` are known without asking anybody, and so is what `/etc/hosts` has; for all else name
//! servers are asked, over UDP and TCP, on the transport that reaches them: on a stack of ours the kernel never hears of a
//! lookup. The files and what they say are `files`, `hosts` and `resolv_conf`; whom to ask is `plan`; one question to
//! servers is `exchange`, its bytes are `wire`; `resolver` joins lookups and remembers answers (`cache`). Everything but
//! `localhost` is behind the feature `dns`.
//!
//! Differences from a kernel's host with glibc: `nsswitch.conf` is not read (files, then DNS, always), nor are
//! `LOCALDOMAIN` and `RES_OPTIONS`; there is no multicast DNS; without any name server 127.0.0.1 is not asked.

#[cfg(feature = "dns")]
mod cache;
#[cfg(feature = "dns")]
mod exchange;
#[cfg(feature = "dns")]
mod files;
#[cfg(all(fuzzing, feature = "dns"))]
pub(crate) mod fuzzing;
#[cfg(feature = "dns")]
mod hosts;
#[cfg(feature = "dns")]
mod order;
#[cfg(feature = "dns")]
mod plan;
#[cfg(feature = "dns")]
mod resolv_conf;
#[cfg(feature = "dns")]
mod resolver;
#[cfg(feature = "dns")]
mod wire;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::addr::{Addresses, ToSocketAddrs};

#[cfg(feature = "dns")]
pub(crate) use resolver::Resolver;

/// What is known of a name when a connection to it can begin.
#[derive(Default)]
pub(super) struct Found {
    /// Its addresses, in the order in which they are tried.
    pub(super) addresses: Addresses,
    /// Those that are still being asked for, and the port to give them.
    #[cfg(feature = "dns")]
    rest: Option<(resolver::Rest, u16)>,
}

impl Found {
    /// Whether more addresses may come.
    pub(super) fn is_partial(&self) -> bool {
        #[cfg(feature = "dns")]
        return self.rest.is_some();
        #[cfg(not(feature = "dns"))]
        false
    }

    /// The addresses that come later; none, if nothing is missing or what is missing cannot be had.
    pub(super) async fn rest(self) -> Addresses {
        #[cfg(feature = "dns")]
        if let Some((rest, port)) = &self.rest {
            return with_port(rest.addresses().await, *port);
        }
        Addresses::new()
    }
}

/// The addresses that `host`, a name without a port, has; all of them.
///
/// # Errors
/// As [`ToSocketAddrs`] says.
pub(super) async fn resolve(host: &str, port: u16) -> io::Result<Addresses> {
    Ok(find(host, port, false).await?.addresses)
}

/// As [`resolve`], as soon as a connection can begin.
pub(super) async fn resolve_soon(host: &str, port: u16) -> io::Result<Found> {
    find(host, port, true).await
}

async fn find(host: &str, port: u16, eager: bool) -> io::Result<Found> {
    // RFC 6761 §6.3: localhost is loopback, whatever a name server would say. IPv4 first: what listens on both versions'
    // loopback by one name is rarer than what listens on 127.0.0.1 alone.
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let mut found = Found::default();
        found.addresses.extend(loopback.map(|address| SocketAddr::new(address, port)));
        return Ok(found);
    }
    ask(host, port, eager).await
}

#[cfg(not(feature = "dns"))]
async fn ask(host: &str, _port: u16, _eager: bool) -> io::Result<Found> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        format!("cannot look `{host}` up: not built in: build with the feature `dns`, or give an IP address"),
    ))
}

#[cfg(feature = "dns")]
async fn ask(host: &str, port: u16, eager: bool) -> io::Result<Found> {
    let resolver = crate::context::with(|runtime| runtime.resolver().clone());
    let mut found = resolver.lookup(host, eager).await?;
    order::sort(&mut found.addresses);
    let addresses = with_port(found.addresses, port);
    Ok(Found { addresses, rest: found.rest.map(|rest| (rest, port)) })
}

#[cfg(feature = "dns")]
fn with_port(addresses: Vec<IpAddr>, port: u16) -> Addresses {
    addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect()
}

/// The addresses that `host` stands for, as tokio's `lookup_host`: those of names are asked of name servers over the
/// runtime's own sockets (feature `dns`), once for all who ask at the same time, and remembered for as long as the servers
/// say. Of both IP versions, the one that there is a route for comes first.
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
