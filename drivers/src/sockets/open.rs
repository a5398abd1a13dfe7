//! Making sockets: non-blocking, closed on exec, with their options in force before anybody can see them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::explain;
use super::options;
use crate::transport::{DatagramOptions, ListenOptions, StreamOptions};

/// A listening TCP socket on `local`.
pub(crate) fn listener(local: SocketAddr, options: &ListenOptions) -> io::Result<OwnedFd> {
    let socket = fresh(local, Type::STREAM)?;
    if local.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    socket.set_reuse_address(options.stream.reuse_address)?;
    if options.stream.reuse_port {
        socket.set_reuse_port(true).map_err(|e| explain(e, "cannot set SO_REUSEPORT"))?;
    }
    // What accepted sockets start with, they inherit: setting it here makes it cost nothing there.
    options::apply_stream(&socket, local.is_ipv6(), &StreamOptions::default(), &options.stream)?;
    if let Some(queue) = options.fast_open {
        let queue = libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX);
        options::set_number(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
            .map_err(|e| explain(e, "cannot set TCP_FASTOPEN"))?;
    }
    if let Some(wait) = options.defer_accept {
        // In whole seconds, of which the kernel makes retransmissions; a part of one is one.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
        options::set_number(&socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
            .map_err(|e| explain(e, "cannot set TCP_DEFER_ACCEPT"))?;
    }
    socket.bind(&local.into()).map_err(|e| explain(e, format!("cannot listen on {local}")))?;
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    socket.listen(backlog).map_err(|e| explain(e, format!("cannot listen on {local}")))?;
    Ok(socket.into())
}

/// A TCP socket on its way to `remote`, and whether it is there already.
pub(crate) fn connecting(
    remote: SocketAddr,
    local: Option<SocketAddr>,
    options: &StreamOptions,
) -> io::Result<(OwnedFd, bool)> {
    let socket = fresh(remote, Type::STREAM)?;
    socket.set_reuse_address(options.reuse_address)?;
    if options.reuse_port {
        socket.set_reuse_port(true).map_err(|e| explain(e, "cannot set SO_REUSEPORT"))?;
    }
    options::apply_stream(&socket, remote.is_ipv6(), &StreamOptions::default(), options)?;
    if let Some(local) = local {
        if local.port() == 0 {
            late_port(&socket);
        }
        socket.bind(&local.into()).map_err(|e| explain(e, format!("cannot connect from {local}")))?;
    }
    if options.fast_open_connect {
        options::set_number(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
            .map_err(|e| explain(e, "cannot set TCP_FASTOPEN_CONNECT"))?;
    }
    match socket.connect(&remote.into()) {
        Ok(()) => Ok((socket.into(), true)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok((socket.into(), false)),
        Err(error) => Err(explain(error, format!("cannot connect to {remote}"))),
    }
}

/// A UDP socket on `local`.
pub(crate) fn datagram(local: SocketAddr, options: &DatagramOptions) -> io::Result<OwnedFd> {
    let socket = fresh(local, Type::DGRAM)?;
    if local.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    if options.reuse_address {
        socket.set_reuse_address(true)?;
    }
    if options.reuse_port {
        socket.set_reuse_port(true).map_err(|e| explain(e, "cannot set SO_REUSEPORT"))?;
    }
    options::apply_datagram(&socket, local.is_ipv6(), &DatagramOptions::default(), options)?;
    socket.bind(&local.into()).map_err(|e| explain(e, format!("cannot bind UDP to {local}")))?;
    Ok(socket.into())
}

fn fresh(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))
        .map_err(|e| explain(e, format!("cannot open a socket for {address}")))
}

/// Lets the kernel choose the port when the peer is known: then only the 4-tuple must be free, not the port.
fn late_port(socket: &impl AsFd) {
    let on: libc::c_int = 1;
    // SAFETY: `on` is readable for its size during the call. An old kernel refuses the option and chooses early: harmless.
    unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}
