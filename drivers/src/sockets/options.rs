//! Socket options of the seam, applied to the kernel's sockets. Only what differs from what is in force costs a call.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use socket2::{InterfaceIndexOrAddress, SockAddr, SockAddrStorage, SockRef, TcpKeepalive};

use super::explain;
use crate::transport::{CongestionControl, DatagramOptions, Interface, Membership, StreamOptions};

/// Linux's default Time To Live and Hop Limit.
const DEFAULT_TTL: u8 = 64;

/// Puts `new` in force on a stream or listener where `old` was. `reuse_address`, `reuse_port` and `fast_open_connect` count before binding only
/// and are left alone here; a linger time above zero is the transport's business, since the kernel would block in `close`.
pub(crate) fn apply_stream(
    socket: &impl AsFd,
    v6: bool,
    old: &StreamOptions,
    new: &StreamOptions,
) -> io::Result<()> {
    let sock = SockRef::from(socket);
    if old.nodelay != new.nodelay {
        sock.set_tcp_nodelay(new.nodelay).map_err(|e| explain(e, "cannot set TCP_NODELAY"))?;
    }
    if old.cork != new.cork {
        sock.set_tcp_cork(new.cork).map_err(|e| explain(e, "cannot set TCP_CORK"))?;
    }
    if old.keepalive != new.keepalive {
        let result = match new.keepalive {
            None => sock.set_keepalive(false),
            Some(keepalive) => sock.set_tcp_keepalive(
                &TcpKeepalive::new()
                    .with_time(whole_seconds(keepalive.idle))
                    .with_interval(whole_seconds(keepalive.interval))
                    .with_retries(keepalive.probes),
            ),
        };
        result.map_err(|e| {
            explain(e, "cannot set keepalive (idle and interval: 1 to 32767 s, probes: 1 to 127)")
        })?;
    }
    if old.linger != new.linger {
        let reset = new.linger.filter(|linger| linger.is_zero());
        sock.set_linger(reset).map_err(|e| explain(e, "cannot set SO_LINGER"))?;
    }
    if old.ttl != new.ttl || old.tos != new.tos {
        apply_ip(socket, v6, (old.ttl, old.tos), (new.ttl, new.tos))?;
    }
    apply_buffers(
        &sock,
        (old.send_buffer_bytes, old.recv_buffer_bytes),
        (new.send_buffer_bytes, new.recv_buffer_bytes),
    )?;
    if old.max_pacing_rate != new.max_pacing_rate {
        set_max_pacing_rate(socket, new.max_pacing_rate)?;
    }
    if old.user_timeout != new.user_timeout {
        sock.set_tcp_user_timeout(new.user_timeout).map_err(|e| explain(e, "cannot set TCP_USER_TIMEOUT"))?;
    }
    if old.syn_retries != new.syn_retries {
        apply_syn_retries(socket, new.syn_retries)?;
    }
    if old.fin_wait_2 != new.fin_wait_2 {
        set_number(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, linger2(new.fin_wait_2)?)
            .map_err(|e| explain(e, "cannot set TCP_LINGER2"))?;
    }
    if old.congestion != new.congestion
        && let Some(congestion) = new.congestion
    {
        if congestion == CongestionControl::None {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel's TCP cannot do without congestion control: take cubic or newreno",
            ));
        }
        let name = congestion.name();
        sock.set_tcp_congestion(name.as_bytes()).map_err(|e| {
            explain(e, format!("the kernel does not offer the congestion control {name} here"))
        })?;
    }
    Ok(())
}

/// `TCP_SYNCNT`. The kernel has no word for its own choice, so that it cannot be gone back to.
fn apply_syn_retries(socket: &impl AsFd, retries: Option<u32>) -> io::Result<()> {
    let retries = retries.and_then(|retries| libc::c_int::try_from(retries).ok()).unwrap_or(0);
    set_number(socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, retries)
        .map_err(|e| explain(e, "cannot set TCP_SYNCNT: write 1 to 127"))
}

/// What `TCP_LINGER2` is for `wait`: -1 for not at all, 0 for the kernel's own choice.
fn linger2(wait: Option<Duration>) -> io::Result<libc::c_int> {
    /// The kernel's `TCP_FIN_TIMEOUT_MAX`; for more it would silently take its own choice.
    const MOST: Duration = Duration::from_secs(120);
    match wait {
        None => Ok(0),
        Some(wait) if wait.is_zero() => Ok(-1),
        Some(wait) if wait <= MOST => Ok(whole_seconds(wait).as_secs() as libc::c_int),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the kernel waits 120 s for a peer's FIN at most: write a shorter time",
        )),
    }
}

/// As [`apply_stream`], for a UDP socket.
pub(crate) fn apply_datagram(
    socket: &impl AsFd,
    v6: bool,
    old: &DatagramOptions,
    new: &DatagramOptions,
) -> io::Result<()> {
    let sock = SockRef::from(socket);
    if old.broadcast != new.broadcast {
        sock.set_broadcast(new.broadcast).map_err(|e| explain(e, "cannot set SO_BROADCAST"))?;
    }
    if old.ttl != new.ttl || old.tos != new.tos {
        apply_ip(socket, v6, (old.ttl, old.tos), (new.ttl, new.tos))?;
    }
    if old.dont_fragment != new.dont_fragment {
        // ip(7): WANT, the default, cuts what is larger than the path's MTU; DO refuses it.
        let discover = if new.dont_fragment { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_WANT };
        set_number(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover)
            .map_err(|e| explain(e, "cannot set IP_MTU_DISCOVER"))?;
        if v6 {
            set_number(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover)
                .map_err(|e| explain(e, "cannot set IPV6_MTU_DISCOVER"))?;
        }
    }
    apply_multicast(&sock, v6, old, new)?;
    apply_buffers(
        &sock,
        (old.send_buffer_bytes, old.recv_buffer_bytes),
        (new.send_buffer_bytes, new.recv_buffer_bytes),
    )
}

/// What becomes of datagrams to groups. An IPv6 socket may send to IPv4 groups as well.
fn apply_multicast(
    sock: &SockRef<'_>,
    v6: bool,
    old: &DatagramOptions,
    new: &DatagramOptions,
) -> io::Result<()> {
    if old.multicast_loop_v4 != new.multicast_loop_v4 {
        sock.set_multicast_loop_v4(new.multicast_loop_v4.unwrap_or(true))
            .map_err(|e| explain(e, "cannot set IP_MULTICAST_LOOP"))?;
    }
    if old.multicast_ttl_v4 != new.multicast_ttl_v4 {
        sock.set_multicast_ttl_v4(new.multicast_ttl_v4.unwrap_or(1).into())
            .map_err(|e| explain(e, "cannot set IP_MULTICAST_TTL"))?;
    }
    if v6 && old.multicast_loop_v6 != new.multicast_loop_v6 {
        sock.set_multicast_loop_v6(new.multicast_loop_v6.unwrap_or(true))
            .map_err(|e| explain(e, "cannot set IPV6_MULTICAST_LOOP"))?;
    }
    if v6 && old.multicast_hops_v6 != new.multicast_hops_v6 {
        sock.set_multicast_hops_v6(new.multicast_hops_v6.unwrap_or(1).into())
            .map_err(|e| explain(e, "cannot set IPV6_MULTICAST_HOPS"))?;
    }
    Ok(())
}

/// Puts a socket into a group, or takes it out.
pub(crate) fn member(socket: &impl AsFd, membership: &Membership, joins: bool) -> io::Result<()> {
    let Membership { group, source, interface } = *membership;
    let sock = SockRef::from(socket);
    let any = Ipv4Addr::UNSPECIFIED;
    let index = match interface {
        Interface::Index(index) => index,
        _ => 0,
    };
    let result = match (group, source) {
        (IpAddr::V4(group), None) => {
            let interface = match interface {
                Interface::Any => InterfaceIndexOrAddress::Address(any),
                Interface::Address(own) => InterfaceIndexOrAddress::Address(own),
                Interface::Index(index) => InterfaceIndexOrAddress::Index(index),
            };
            if joins {
                sock.join_multicast_v4_n(&group, &interface)
            } else {
                sock.leave_multicast_v4_n(&group, &interface)
            }
        }
        (IpAddr::V6(group), None) if joins => sock.join_multicast_v6(&group, index),
        (IpAddr::V6(group), None) => sock.leave_multicast_v6(&group, index),
        (IpAddr::V4(group), Some(IpAddr::V4(source))) => {
            let own = match interface {
                Interface::Address(own) => own,
                _ => any,
            };
            if joins {
                sock.join_ssm_v4(&source, &group, &own)
            } else {
                sock.leave_ssm_v4(&source, &group, &own)
            }
        }
        (IpAddr::V6(group), Some(IpAddr::V6(source))) => source_of_v6(socket, index, group, source, joins),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    };
    let what = if joins { "join" } else { "leave" };
    let of = source.map_or(String::new(), |source| format!(" for source {source}"));
    result.map_err(|e| explain(e, format!("cannot {what} the group {group}{of}")))
}

/// RFC 3678 §5.1: `struct group_source_req`, which libc lacks.
#[repr(C)]
struct GroupSource {
    interface: u32,
    group: SockAddrStorage,
    source: SockAddrStorage,
}

fn source_of_v6(
    socket: &impl AsFd,
    interface: u32,
    group: Ipv6Addr,
    source: Ipv6Addr,
    joins: bool,
) -> io::Result<()> {
    const MCAST_JOIN_SOURCE_GROUP: libc::c_int = 46;
    const MCAST_LEAVE_SOURCE_GROUP: libc::c_int = 47;
    let storage = |address: Ipv6Addr| SockAddr::from(SocketAddrV6::new(address, 0, 0, 0)).as_storage();
    let request = GroupSource { interface, group: storage(group), source: storage(source) };
    let name = if joins { MCAST_JOIN_SOURCE_GROUP } else { MCAST_LEAVE_SOURCE_GROUP };
    // SAFETY: `request` is readable for its size during the call, and laid out as the kernel has it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IPV6,
            name,
            (&raw const request).cast(),
            size_of::<GroupSource>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets an option whose value is a number, for those that `socket2` has no call for.
pub(super) fn set_number(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` is readable for its size during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// TTL and type of service. An IPv6 socket may carry IPv4 as well, so it gets both families' options.
fn apply_ip(socket: &impl AsFd, v6: bool, old: (Option<u8>, u8), new: (Option<u8>, u8)) -> io::Result<()> {
    let fd = socket.as_fd();
    let sock = SockRef::from(&fd);
    if old.0 != new.0 {
        let ttl = u32::from(new.0.unwrap_or(DEFAULT_TTL));
        sock.set_ttl_v4(ttl).map_err(|e| explain(e, format!("cannot set IP_TTL to {ttl}")))?;
        if v6 {
            sock.set_unicast_hops_v6(ttl)
                .map_err(|e| explain(e, format!("cannot set IPV6_UNICAST_HOPS to {ttl}")))?;
        }
    }
    if old.1 != new.1 {
        let tos = u32::from(new.1);
        sock.set_tos_v4(tos).map_err(|e| explain(e, format!("cannot set IP_TOS to {tos}")))?;
        if v6 {
            sock.set_tclass_v6(tos).map_err(|e| explain(e, format!("cannot set IPV6_TCLASS to {tos}")))?;
        }
    }
    Ok(())
}

/// Send and receive buffer. `None` after `Some` leaves the size: the kernel cannot go back to sizing it by itself.
fn apply_buffers(
    sock: &SockRef<'_>,
    old: (Option<usize>, Option<usize>),
    new: (Option<usize>, Option<usize>),
) -> io::Result<()> {
    if let (true, Some(bytes)) = (old.0 != new.0, new.0) {
        sock.set_send_buffer_size(bytes).map_err(|e| explain(e, "cannot set SO_SNDBUF"))?;
    }
    if let (true, Some(bytes)) = (old.1 != new.1, new.1) {
        sock.set_recv_buffer_size(bytes).map_err(|e| explain(e, "cannot set SO_RCVBUF"))?;
    }
    Ok(())
}

/// The largest rate to send at, in bytes a second; `None`: no limit.
fn set_max_pacing_rate(socket: &impl AsFd, rate: Option<u64>) -> io::Result<()> {
    // An unsigned long, of which the largest is no limit.
    let rate = rate
        .map_or(libc::c_ulong::MAX, |rate| libc::c_ulong::try_from(rate).unwrap_or(libc::c_ulong::MAX - 1));
    // SAFETY: the option's value is one `c_ulong`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            size_of_val(&rate) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(explain(io::Error::last_os_error(), "cannot set SO_MAX_PACING_RATE")),
    }
}

/// Makes the kernel send a RST and forget what is unsent when `socket` is closed.
pub(crate) fn reset_on_close(socket: &impl AsFd) {
    // A socket that refuses the option is closed the gentle way: there is nobody left to tell.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Lets the kernel give up on bytes that stay unacknowledged for `limit` after the close.
pub(crate) fn bound_delivery(socket: &impl AsFd, limit: Duration) {
    // As above.
    let _ = SockRef::from(socket).set_tcp_user_timeout(Some(limit));
}

/// Whether the kernel acknowledges at once.
pub(crate) fn quickack(socket: &impl AsFd) -> io::Result<bool> {
    SockRef::from(socket).tcp_quickack().map_err(|e| explain(e, "cannot read TCP_QUICKACK"))
}

/// Makes the kernel acknowledge at once, or not, until it knows better.
pub(crate) fn set_quickack(socket: &impl AsFd, quickack: bool) -> io::Result<()> {
    SockRef::from(socket).set_tcp_quickack(quickack).map_err(|e| explain(e, "cannot set TCP_QUICKACK"))
}

/// Takes the error the kernel keeps for the socket (`SO_ERROR`).
pub(crate) fn take_error(socket: &impl AsFd) -> io::Result<Option<io::Error>> {
    SockRef::from(socket).take_error()
}

/// Sends a FIN, or stops receiving, or both.
pub(crate) fn shutdown(socket: &impl AsFd, how: std::net::Shutdown) -> io::Result<()> {
    SockRef::from(socket).shutdown(how)
}

/// Connects a UDP socket to `remote`, or dissolves the association with `None`.
pub(crate) fn associate(socket: &impl AsFd, remote: Option<std::net::SocketAddr>) -> io::Result<()> {
    if let Some(remote) = remote {
        return SockRef::from(socket)
            .connect(&remote.into())
            .map_err(|e| explain(e, format!("cannot make {remote} the only peer")));
    }
    let local = super::address::local(socket)?;
    // SAFETY: all zeroes is a valid `sockaddr`, and it is readable during the call. AF_UNSPEC dissolves (connect(2)).
    let result = unsafe {
        let mut nobody: libc::sockaddr = std::mem::zeroed();
        nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
        libc::connect(socket.as_fd().as_raw_fd(), &nobody, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // A port that the kernel had chosen is given up with the association: take it again.
    if super::address::local(socket)?.port() == 0 {
        SockRef::from(socket)
            .bind(&local.into())
            .map_err(|e| explain(e, format!("cannot bind UDP to {local} again")))?;
    }
    Ok(())
}

/// The kernel counts keepalive times in seconds, from 1 on.
fn whole_seconds(time: Duration) -> Duration {
    let rounded_up = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(rounded_up.clamp(1, 32_767))
}
