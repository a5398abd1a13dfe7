//! A listener: an identifier for each address of the device that it hears, and the connections that nobody has taken yet.

use core::task::Waker;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::adapter::Adapter;
use super::fellows::Fellow;
use super::verbs::cm::{Id, Kind};
use crate::transport::{Handle, ListenOptions, StreamOptions};

/// How often another port is chosen, when one that is free at an address is not at the next.
const TRIES: usize = 16;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// Its own.
    pub(super) handle: Handle,
    /// Held for what dropping them does: listening ends. None where another core hears for this one.
    pub(super) ids: Vec<Id>,
    pub(super) address: SocketAddr,
    pub(super) waiter: Option<Waker>,
    /// Connections that are open and wait to be accepted.
    pub(super) queue: VecDeque<Handle>,
    /// Connections that are on their way there.
    pub(super) pending: usize,
    pub(super) backlog: usize,
    pub(super) options: StreamOptions,
}

impl Listener {
    /// Listens at `address` with what hears it; at all of the device's when that is unspecified. Events name `token`, which is that of
    /// `own`, its handle.
    pub(super) fn open(
        adapter: &Adapter,
        fellow: Option<&Fellow>,
        address: SocketAddr,
        options: &ListenOptions,
        (own, token): (Handle, u64),
    ) -> io::Result<Listener> {
        let backlog = options.backlog.max(1);
        let open = || hear(adapter, address, options.only_v6, backlog, token, Kind::Connections);
        let (ids, port) = match fellow {
            Some(fellow) => fellow.serve(Kind::Connections, address, own, open)?,
            None => open()?,
        };
        Ok(Listener {
            handle: own,
            ids,
            address: SocketAddr::new(address.ip(), port),
            waiter: None,
            queue: VecDeque::new(),
            pending: 0,
            backlog: backlog as usize,
            options: options.stream.clone(),
        })
    }

    /// Whether another connection may come.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() + self.pending < self.backlog
    }
}

/// Identifiers that hear what is for `address`, or for all of the device's when that is unspecified, and the port they have.
pub(super) fn hear(
    adapter: &Adapter,
    address: SocketAddr,
    only_v6: bool,
    backlog: u32,
    token: u64,
    kind: Kind,
) -> io::Result<(Vec<Id>, u16)> {
    let heard: Vec<IpAddr> = match address.ip().is_unspecified() {
        false => vec![address.ip()],
        true => {
            let both = address.is_ipv6() && !only_v6;
            adapter.networks.addresses().filter(|own| both || own.is_ipv4() == address.is_ipv4()).collect()
        }
    };
    let mut tries = 1;
    loop {
        match listen(adapter, &heard, address.port(), backlog, token, kind) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && address.port() == 0 && tries < TRIES =>
            {
                tries += 1;
            }
            result => return result,
        }
    }
}

fn listen(
    adapter: &Adapter,
    heard: &[IpAddr],
    mut port: u16,
    backlog: u32,
    token: u64,
    kind: Kind,
) -> io::Result<(Vec<Id>, u16)> {
    let mut ids = Vec::with_capacity(heard.len());
    for &address in heard {
        let id = Id::of_kind(&adapter.channel, token, kind)?;
        id.bind(SocketAddr::new(address, port))?;
        if !id.is_on(&adapter.device) {
            return Err(not_ours(adapter, address));
        }
        id.listen(backlog)?;
        port = id.local_addr().map_or(port, |address| address.port());
        ids.push(id);
    }
    match ids.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("device rdma:{} has no address of that family", adapter.device.name()),
        )),
        false => Ok((ids, port)),
    }
}

#[cold]
pub(super) fn not_ours(adapter: &Adapter, address: IpAddr) -> io::Error {
    let own: Vec<String> = adapter.networks.addresses().map(|own| own.to_string()).collect();
    io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!(
            "{address} is not reached by device rdma:{}, which has {}",
            adapter.device.name(),
            own.join(", ")
        ),
    )
}
