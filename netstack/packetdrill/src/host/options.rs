//! `setsockopt` and `getsockopt`.

use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::transport::{CongestionControl, KeepAlive, StreamOptions, TcpState};

use super::{Descriptor, Errno, Host, Kind, Result, State, Tcp};

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OptionValue {
    Int(i32),
    Text(String),
    /// `struct linger`
    Linger {
        on: bool,
        seconds: i32,
    },
    /// `struct timeval`
    Time {
        seconds: i64,
        micros: i64,
    },
}

impl OptionValue {
    fn int(&self) -> Result<i32> {
        match self {
            OptionValue::Int(value) => Ok(*value),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    fn flag(&self) -> Result<bool> {
        self.int().map(|value| value != 0)
    }

    /// A number from `low` to `high`.
    fn within(&self, low: i32, high: i32) -> Result<i32> {
        self.int().and_then(
            |value| if (low..=high).contains(&value) { Ok(value) } else { Err(Errno(libc::EINVAL)) },
        )
    }
}

/// Bounds of Linux's keepalive options, in seconds.
const MAX_KEEPALIVE_SECONDS: i32 = 32_767;
/// Linux counts its own overhead, too: it sets, and answers, twice what it is asked for.
const BUFFER_FACTOR: i32 = 2;

fn seconds(value: i32) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

/// `TCP_DEFER_ACCEPT` as Linux tells it: the time that so many timeouts take.
fn deferred_seconds(wait: Option<Duration>) -> i32 {
    let Some(wait) = wait else { return 0 };
    let (mut step, mut period) = (1, 1);
    while wait > Duration::from_secs(period) && period < 1 << 16 {
        step = (step * 2).min(120);
        period += step;
    }
    period as i32
}

fn buffer(value: i32) -> Option<usize> {
    Some(usize::try_from(value).unwrap_or(0).max(1152))
}

impl Host {
    /// `setsockopt(2)`
    pub(crate) fn set_option(&mut self, fd: i32, level: i32, name: i32, value: &OptionValue) -> Result<()> {
        if matches!(self.descriptor(fd)?.kind, Kind::Udp(_)) {
            return self.set_datagram_option(fd, level, name, value);
        }
        let tcp = self.tcp(fd)?;
        if (level, name) == (libc::IPPROTO_TCP, libc::TCP_QUICKACK) {
            let quickack = value.flag()?;
            return match tcp.stream() {
                Some(stream) => Ok(self.stack.set_quickack(stream, quickack)?),
                None => Ok(()),
            };
        }
        let mut options = tcp.options.clone();
        match (level, name) {
            (libc::SOL_SOCKET, _) => set_socket_option(tcp, &mut options, name, value)?,
            (libc::IPPROTO_TCP, _) => set_tcp_option(tcp, &mut options, name, value)?,
            (libc::IPPROTO_IP, libc::IP_TOS) => options.tos = value.within(0, 255)? as u8,
            (libc::IPPROTO_IP, libc::IP_TTL) => {
                options.ttl = if value.int()? == -1 { None } else { Some(value.within(1, 255)? as u8) };
            }
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER | libc::IP_RECVERR | libc::IP_BIND_ADDRESS_NO_PORT) => {}
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => options.tos = value.within(0, 255)? as u8,
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                options.ttl = if value.int()? == -1 { None } else { Some(value.within(0, 255)? as u8) };
            }
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if tcp.v6 => {
                if !matches!(tcp.state, State::Fresh) || tcp.local.is_some() {
                    return Err(Errno(libc::EINVAL));
                }
                tcp.only_v6 = value.flag()?;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER | libc::IPV6_RECVERR) => {}
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        tcp.options = options.clone();
        if let State::Listening(id) = tcp.state {
            let (fast_open, defer_accept) = (tcp.fast_open, tcp.defer_accept);
            self.stack.set_fast_open(id, fast_open)?;
            self.stack.set_defer_accept(id, defer_accept)?;
            return Ok(());
        }
        match tcp.stream() {
            Some(stream) => Ok(self.stack.set_stream_options(stream, &options)?),
            None => Ok(()),
        }
    }

    fn set_datagram_option(&mut self, fd: i32, level: i32, name: i32, value: &OptionValue) -> Result<()> {
        let Descriptor { kind: Kind::Udp(udp), .. } = self.descriptor(fd)? else {
            return Err(Errno(libc::ENOTSOCK));
        };
        let options = &mut udp.options;
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_BROADCAST) => options.broadcast = value.flag()?,
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address = value.flag()?,
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => options.reuse_port = value.flag()?,
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => options.recv_buffer_bytes = buffer(value.int()?),
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => options.send_buffer_bytes = buffer(value.int()?),
            (libc::IPPROTO_IP, libc::IP_TOS) => options.tos = value.within(0, 255)? as u8,
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => options.tos = value.within(0, 255)? as u8,
            (libc::IPPROTO_IP, libc::IP_TTL) => options.ttl = Some(value.within(1, 255)? as u8),
            (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => options.ttl = Some(value.within(0, 255)? as u8),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) if udp.v6 && udp.id.is_none() => {
                udp.only_v6 = value.flag()?
            }
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER | libc::IP_RECVERR) => {}
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }
        let (id, options) = (udp.id, udp.options.clone());
        match id {
            Some(id) => Ok(self.stack.set_datagram_options(id, &options)?),
            None => Ok(()),
        }
    }

    /// `getsockopt(2)`, but for `TCP_INFO`.
    pub(crate) fn option(&mut self, fd: i32, level: i32, name: i32) -> Result<OptionValue> {
        if let Kind::Udp(udp) = &self.descriptor(fd)?.kind {
            let options = &udp.options;
            return Ok(OptionValue::Int(match (level, name) {
                (libc::SOL_SOCKET, libc::SO_ERROR) => 0,
                (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_DGRAM,
                (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_UDP,
                (libc::SOL_SOCKET, libc::SO_BROADCAST) => options.broadcast.into(),
                (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address.into(),
                (libc::IPPROTO_IP, libc::IP_TOS) => options.tos.into(),
                (libc::IPPROTO_IP, libc::IP_TTL) => options.ttl.unwrap_or(64).into(),
                _ => return Err(Errno(libc::ENOPROTOOPT)),
            }));
        }
        if (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR) {
            return Ok(OptionValue::Int(self.take_error(fd)?));
        }
        let info = self.info(fd).unwrap_or_default();
        let tcp = self.tcp(fd)?;
        let options = match tcp.stream() {
            Some(stream) => self.stack.stream_options(stream)?,
            None => tcp.options.clone(),
        };
        let tcp = self.tcp(fd)?;
        let keepalive = options.keepalive.unwrap_or(tcp.keepalive);
        let congestion = options.congestion.unwrap_or_default().name();
        Ok(OptionValue::Int(match (level, name) {
            (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM,
            (libc::SOL_SOCKET, libc::SO_PROTOCOL) => libc::IPPROTO_TCP,
            (libc::SOL_SOCKET, libc::SO_DOMAIN) => {
                if tcp.v6 {
                    libc::AF_INET6
                } else {
                    libc::AF_INET
                }
            }
            (libc::SOL_SOCKET, libc::SO_ACCEPTCONN) => matches!(tcp.state, State::Listening(_)).into(),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR) => options.reuse_address.into(),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT) => options.reuse_port.into(),
            (libc::SOL_SOCKET, libc::SO_KEEPALIVE) => options.keepalive.is_some().into(),
            (libc::SOL_SOCKET, libc::SO_RCVBUF) => {
                BUFFER_FACTOR * options.recv_buffer_bytes.map_or(65_536, |bytes| bytes as i32)
            }
            (libc::SOL_SOCKET, libc::SO_SNDBUF) => {
                BUFFER_FACTOR * options.send_buffer_bytes.map_or(8_192, |bytes| bytes as i32)
            }
            (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE) => {
                options.max_pacing_rate.map_or(-1, |rate| rate as u32 as i32)
            }
            (libc::SOL_SOCKET, libc::SO_LINGER) => {
                let seconds = options.linger.map_or(0, |linger| linger.as_secs() as i32);
                return Ok(OptionValue::Linger { on: options.linger.is_some(), seconds });
            }
            (libc::IPPROTO_TCP, libc::TCP_NODELAY) => options.nodelay.into(),
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN) => tcp.fast_open.unwrap_or(0) as i32,
            (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT) => deferred_seconds(tcp.defer_accept),
            (libc::IPPROTO_TCP, libc::TCP_SYNCNT) => options.syn_retries.unwrap_or(6) as i32,
            (libc::IPPROTO_TCP, libc::TCP_LINGER2) => {
                options.fin_wait_2.map_or(60, |wait| if wait.is_zero() { -1 } else { wait.as_secs() as i32 })
            }
            (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT) => options.fast_open_connect.into(),
            (libc::IPPROTO_TCP, libc::TCP_CORK) => options.cork.into(),
            (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE) => keepalive.idle.as_secs() as i32,
            (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL) => keepalive.interval.as_secs() as i32,
            (libc::IPPROTO_TCP, libc::TCP_KEEPCNT) => keepalive.probes as i32,
            (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
                options.user_timeout.map_or(0, |timeout| timeout.as_millis() as i32)
            }
            (libc::IPPROTO_TCP, libc::TCP_MAXSEG) => match info.state {
                TcpState::Closed | TcpState::Listen => 536,
                _ => info.send_mss_bytes as i32,
            },
            (libc::IPPROTO_TCP, libc::TCP_CONGESTION) => return Ok(OptionValue::Text(congestion.to_owned())),
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => options.tos.into(),
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                options.ttl.unwrap_or(64).into()
            }
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => tcp.only_v6.into(),
            _ => return Err(Errno(libc::ENOPROTOOPT)),
        }))
    }

    /// The pending error of a socket as a number, once.
    fn take_error(&mut self, fd: i32) -> Result<i32> {
        let tcp = self.tcp(fd)?;
        if let Some(errno) = tcp.error.take() {
            return Ok(errno.0);
        }
        let Some(stream) = tcp.stream() else { return Ok(0) };
        Ok(self.stack.take_error(stream)?.map_or(0, |error| Errno::from(error).0))
    }
}

fn set_socket_option(
    tcp: &mut Tcp,
    options: &mut StreamOptions,
    name: i32,
    value: &OptionValue,
) -> Result<()> {
    match name {
        libc::SO_REUSEADDR => options.reuse_address = value.flag()?,
        libc::SO_REUSEPORT => options.reuse_port = value.flag()?,
        libc::SO_KEEPALIVE => options.keepalive = value.flag()?.then_some(tcp.keepalive),
        libc::SO_RCVBUF => options.recv_buffer_bytes = buffer(value.int()?),
        libc::SO_SNDBUF => options.send_buffer_bytes = buffer(value.int()?),
        // All ones are no limit.
        libc::SO_MAX_PACING_RATE => {
            let rate = value.int()?;
            options.max_pacing_rate = (rate != -1).then_some(u64::from(rate as u32));
        }
        libc::SO_LINGER => match value {
            OptionValue::Linger { on, seconds: time } => options.linger = on.then(|| seconds(*time)),
            _ => return Err(Errno(libc::EINVAL)),
        },
        libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => {
            let OptionValue::Time { seconds, micros } = *value else { return Err(Errno(libc::EINVAL)) };
            if !(0..1_000_000).contains(&micros) {
                return Err(Errno(libc::EDOM));
            }
            let time = Duration::new(u64::try_from(seconds).unwrap_or(0), micros as u32 * 1000);
            let time = (!time.is_zero()).then_some(time);
            if name == libc::SO_RCVTIMEO { tcp.recv_timeout = time } else { tcp.send_timeout = time }
        }
        // What no packet shows.
        libc::SO_PRIORITY | libc::SO_MARK | libc::SO_TIMESTAMP | libc::SO_DONTROUTE | libc::SO_BROADCAST => {}
        libc::SO_ERROR | libc::SO_TYPE | libc::SO_ACCEPTCONN => return Err(Errno(libc::ENOPROTOOPT)),
        _ => return Err(Errno(libc::ENOPROTOOPT)),
    }
    Ok(())
}

fn set_tcp_option(tcp: &mut Tcp, options: &mut StreamOptions, name: i32, value: &OptionValue) -> Result<()> {
    match name {
        libc::TCP_NODELAY => options.nodelay = value.flag()?,
        libc::TCP_CORK => options.cork = value.flag()?,
        libc::TCP_KEEPIDLE | libc::TCP_KEEPINTVL | libc::TCP_KEEPCNT => {
            let mut keepalive = options.keepalive.unwrap_or(tcp.keepalive);
            match name {
                libc::TCP_KEEPIDLE => keepalive.idle = seconds(value.within(1, MAX_KEEPALIVE_SECONDS)?),
                libc::TCP_KEEPINTVL => keepalive.interval = seconds(value.within(1, MAX_KEEPALIVE_SECONDS)?),
                _ => keepalive.probes = value.within(1, 127)? as u32,
            }
            tcp.keepalive = keepalive;
            options.keepalive = options.keepalive.map(|_: KeepAlive| keepalive);
        }
        libc::TCP_USER_TIMEOUT => {
            let millis = u64::try_from(value.int()?).map_err(|_| Errno(libc::EINVAL))?;
            options.user_timeout = (millis > 0).then(|| Duration::from_millis(millis));
        }
        libc::TCP_SYNCNT => options.syn_retries = Some(value.within(1, 127)? as u32),
        // Below zero is not at all; none, or too long, is the system's.
        libc::TCP_LINGER2 => {
            options.fin_wait_2 = match value.int()? {
                time if time < 0 => Some(Duration::ZERO),
                time @ 1..=120 => Some(seconds(time)),
                _ => None,
            }
        }
        libc::TCP_DEFER_ACCEPT => {
            tcp.defer_accept = Some(seconds(value.int()?)).filter(|wait| !wait.is_zero());
        }
        libc::TCP_FASTOPEN => {
            let queue = u32::try_from(value.int()?).map_err(|_| Errno(libc::EINVAL))?;
            if matches!(tcp.state, State::Connecting(_) | State::Connected(_)) {
                return Err(Errno(libc::EINVAL));
            }
            tcp.fast_open = (queue > 0).then_some(queue);
        }
        libc::TCP_FASTOPEN_CONNECT => {
            if !matches!(tcp.state, State::Fresh) {
                return Err(Errno(libc::EINVAL));
            }
            options.fast_open_connect = value.within(0, 1)? == 1;
        }
        libc::TCP_CONGESTION => match value {
            OptionValue::Text(name) => match CongestionControl::from_name(name) {
                Some(kind) if kind.name() == name && kind != CongestionControl::None => {
                    options.congestion = Some(kind);
                }
                _ => return Err(Errno(libc::ENOENT)),
            },
            _ => return Err(Errno(libc::EINVAL)),
        },
        _ => return Err(Errno(libc::ENOPROTOOPT)),
    }
    Ok(())
}
