//! A TCP socket before it connects or listens: where its options are set.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use demi_drivers::transport::{CongestionControl, KeepAlive, ListenOptions, StreamOptions};

use super::{TcpListener, TcpStream};

/// A TCP socket that neither connects nor listens yet.
///
/// It is a plain value: its address is taken, and its options are put in force, when it connects or listens.
///
/// ```
/// use demi::net::TcpSocket;
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let socket = TcpSocket::new_v4()?;
/// socket.bind("127.0.0.1:0".parse().unwrap())?;
/// let listener = socket.listen(16)?;
///
/// let socket = TcpSocket::new_v4()?;
/// socket.set_nodelay(true)?;
/// let stream = socket.connect(listener.local_addr()?).await?;
/// assert!(stream.nodelay()?);
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct TcpSocket {
    v6: bool,
    local: std::cell::Cell<Option<SocketAddr>>,
    only_v6: std::cell::Cell<bool>,
    fast_open: std::cell::Cell<Option<u32>>,
    defer_accept: std::cell::Cell<Option<Duration>>,
    options: std::cell::RefCell<StreamOptions>,
}

impl TcpSocket {
    /// A socket for IPv4.
    ///
    /// # Errors
    /// None today.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new_v4() -> io::Result<TcpSocket> {
        Ok(Self::new(false))
    }

    /// A socket for IPv6.
    ///
    /// # Errors
    /// None today.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new_v6() -> io::Result<TcpSocket> {
        Ok(Self::new(true))
    }

    fn new(v6: bool) -> TcpSocket {
        let options = super::current().stream_options().clone();
        TcpSocket {
            v6,
            local: None.into(),
            only_v6: false.into(),
            fast_open: None.into(),
            defer_accept: None.into(),
            options: options.into(),
        }
    }

    /// Takes `local` as this end's address once the socket connects or listens. Port 0 takes a free one.
    ///
    /// # Errors
    /// `InvalidInput` when the address is of the other IP version, or one is set already. Whether it is free shows when it
    /// is taken.
    pub fn bind(&self, local: SocketAddr) -> io::Result<()> {
        self.check_version(local)?;
        if self.local.get().is_some() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this socket is bound already"));
        }
        self.local.set(Some(local));
        Ok(())
    }

    /// Connects to `remote`.
    ///
    /// # Errors
    /// As [`TcpStream::connect`]; `InvalidInput` when the address is of the other IP version; `AddrInUse` and
    /// `AddrNotAvailable` of the address given to [`bind`](Self::bind).
    ///
    /// # Cancel safety
    /// As [`TcpStream::connect`].
    pub async fn connect(self, remote: SocketAddr) -> io::Result<TcpStream> {
        self.check_version(remote)?;
        let set = super::current();
        let local = self.local.get();
        let cell = match local.filter(|local| !local.ip().is_unspecified()) {
            Some(local) => set.owning(local.ip())?.first().ok_or(io::ErrorKind::AddrNotAvailable)?,
            None => set.towards(remote.ip())?,
        };
        TcpStream::connect_on(cell.clone(), remote, local, &self.options.into_inner()).await
    }

    /// Listens, with up to `backlog` connections waiting to be accepted.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn listen(self, backlog: u32) -> io::Result<TcpListener> {
        let local = self.local.get().unwrap_or_else(|| self.unspecified());
        let mut options = ListenOptions::default();
        options.backlog = backlog;
        options.only_v6 = self.only_v6.get();
        options.fast_open = self.fast_open.get();
        options.defer_accept = self.defer_accept.get();
        options.stream = self.options.into_inner();
        TcpListener::bind_on(&super::current(), local, &options)
    }

    /// The address given to [`bind`](Self::bind), its port 0 if it was given as such.
    ///
    /// # Errors
    /// None today.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local.get().unwrap_or_else(|| self.unspecified()))
    }

    fn unspecified(&self) -> SocketAddr {
        match self.v6 {
            true => (Ipv6Addr::UNSPECIFIED, 0).into(),
            false => (Ipv4Addr::UNSPECIFIED, 0).into(),
        }
    }

    fn check_version(&self, address: SocketAddr) -> io::Result<()> {
        if address.is_ipv6() == self.v6 {
            return Ok(());
        }
        let (own, other) = if self.v6 { ("v6", "v4") } else { ("v4", "v6") };
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{address} on a socket for IP{own}: make it with TcpSocket::new_{other}"),
        ))
    }

    /// Changes options.
    fn change(&self, change: impl FnOnce(&mut StreamOptions)) -> io::Result<()> {
        change(&mut self.options.borrow_mut());
        Ok(())
    }
}

/// A getter and a setter an option; whether the transport has it shows when the socket connects or listens.
macro_rules! options {
    ($($(#[doc = $doc:literal])+ $get:ident $set:ident $field:ident: $kind:ty,
        $from:expr, $into:expr;)*) => {
        /// Options. None of these fails here: an option that the transport does not have is `Unsupported` when the socket
        /// connects or listens.
        impl TcpSocket {
            $($(#[doc = $doc])+
            ///
            /// # Errors
            /// None today.
            pub fn $get(&self) -> io::Result<$kind> {
                Ok($from(self.options.borrow().$field.clone()))
            }

            /// Sets what the method without `set_` answers.
            ///
            /// # Errors
            /// `InvalidInput` for a value that cannot be.
            pub fn $set(&self, value: $kind) -> io::Result<()> {
                let value = $into(value)?;
                self.change(|options| options.$field = value)
            })*
        }
    };
}

/// Bytes of a buffer as `TcpSocket`'s methods give them; 0: the transport's own choice.
fn size(bytes: Option<usize>) -> u32 {
    bytes.map_or(0, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
}

fn some_size(bytes: u32) -> io::Result<Option<usize>> {
    Ok((bytes > 0).then_some(bytes as usize))
}

fn checked_syn_retries(retries: Option<u32>) -> io::Result<Option<u32>> {
    match retries {
        Some(0 | 128..) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "SYNs sent again: write 1 to 127, or None"))
        }
        retries => Ok(retries),
    }
}

options! {
    /// Whether an address that an old connection still occupies in TIME_WAIT can be bound (`SO_REUSEADDR`).
    reuseaddr set_reuseaddr reuse_address: bool, |v| v, Ok::<_, io::Error>;
    /// Whether several sockets may share the address (`SO_REUSEPORT`).
    reuseport set_reuseport reuse_port: bool, |v| v, Ok::<_, io::Error>;
    /// Whether small segments are sent at once (`TCP_NODELAY`).
    nodelay set_nodelay nodelay: bool, |v| v, Ok::<_, io::Error>;
    /// Bytes the send buffer may hold; 0: the transport's own choice.
    send_buffer_size set_send_buffer_size send_buffer_bytes: u32, size, some_size;
    /// Bytes the receive buffer may hold; 0: the transport's own choice.
    recv_buffer_size set_recv_buffer_size recv_buffer_bytes: u32, size, some_size;
    /// What closing does with unsent bytes: `None` delivers them in the background, zero drops them and resets.
    linger set_linger linger: Option<Duration>, |v| v, Ok::<_, io::Error>;
    /// When a silent connection is probed; `None`: never.
    keepalive_probes set_keepalive_probes keepalive: Option<KeepAlive>, |v| v, Ok::<_, io::Error>;
    /// Whether a silent connection is probed, at Linux's default times.
    keepalive set_keepalive keepalive: bool, |v: Option<KeepAlive>| v.is_some(),
        |on: bool| Ok::<_, io::Error>(on.then(KeepAlive::default));
    /// Type of service, or traffic class, of outgoing packets.
    tos set_tos tos: u32, u32::from, super::checked_tos;
    /// Time To Live, or Hop Limit, of outgoing packets.
    ttl set_ttl ttl: u32, |v: Option<u8>| v.unwrap_or(super::DEFAULT_TTL).into(),
        |ttl| super::checked_ttl(ttl).map(Some);
    /// How long sent bytes may stay unacknowledged before the connection is given up (RFC 5482).
    user_timeout set_user_timeout user_timeout: Option<Duration>, |v| v, Ok::<_, io::Error>;
    /// Whether a connect waits for the first write and sends that with the SYN, where the server has given us a Fast Open
    /// cookie before, and asks for one where it has not (RFC 7413; `TCP_FASTOPEN_CONNECT`): a round trip less.
    ///
    /// A connect that waits counts as done; what is wrong shows with the first write or read. The network may bring what
    /// goes with a SYN to the server twice: write what may be done twice. On the kernel's sockets write before you read.
    fastopen_connect set_fastopen_connect fast_open_connect: bool, |v| v, Ok::<_, io::Error>;
    /// SYNs that are sent again before a connect fails, 1 to 127, and a listener's SYN-ACKs before a handshake is forgotten
    /// (`TCP_SYNCNT`); `None`: the transport's default.
    syn_retries set_syn_retries syn_retries: Option<u32>, |v| v, checked_syn_retries;
    /// How long a connection that was closed waits for the peer to close, too (`TCP_LINGER2`); zero resets it at once, `None` is
    /// the transport's default. The kernel counts in seconds, up to 120.
    fin_wait_2 set_fin_wait_2 fin_wait_2: Option<Duration>, |v| v, Ok::<_, io::Error>;
    /// Congestion control; `None`: the transport's default.
    congestion set_congestion congestion: Option<CongestionControl>, |v| v, Ok::<_, io::Error>;
    /// The most bytes a second to send at, spread over time (`SO_MAX_PACING_RATE`); `None`: no limit.
    max_pacing_rate set_max_pacing_rate max_pacing_rate: Option<u64>, |v| v, Ok::<_, io::Error>;
}

impl TcpSocket {
    /// For how many connections at a time the listener takes data with the SYN (RFC 7413; `TCP_FASTOPEN`); `None`: for none.
    ///
    /// # Errors
    /// None today.
    pub fn fastopen(&self) -> io::Result<Option<u32>> {
        Ok(self.fast_open.get())
    }

    /// Takes data with the SYN from clients that show a Fast Open cookie, and gives cookies to those that ask, for up to `queue`
    /// connections at a time whose handshake is not done (RFC 7413; `TCP_FASTOPEN`). `None`: doesn't.
    ///
    /// Such a connection is accepted, read from and answered a round trip earlier. A request may come twice, and from a client
    /// that never goes on.
    ///
    /// # Errors
    /// None today.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let socket = demi::net::TcpSocket::new_v4()?;
    /// socket.set_fastopen(Some(256))?;
    /// socket.bind("127.0.0.1:0".parse().unwrap())?;
    /// let listener = socket.listen(1024)?;
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_fastopen(&self, queue: Option<u32>) -> io::Result<()> {
        self.fast_open.set(queue.filter(|&queue| queue > 0));
        Ok(())
    }

    /// How long the listener waits for data before it accepts a connection (`TCP_DEFER_ACCEPT`); `None`: it does not.
    ///
    /// # Errors
    /// None today.
    pub fn defer_accept(&self) -> io::Result<Option<Duration>> {
        Ok(self.defer_accept.get())
    }

    /// Accepts a connection only when it has brought data, or has brought none for about this long (`TCP_DEFER_ACCEPT`): who
    /// connects and says nothing costs no more than a half-open record. For protocols whose client speaks first. `None`: doesn't.
    ///
    /// The time is rounded up to those at which a SYN-ACK is sent again: 1 s, 3 s, 7 s, ...
    ///
    /// # Errors
    /// None today.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let socket = demi::net::TcpSocket::new_v4()?;
    /// socket.set_defer_accept(Some(std::time::Duration::from_secs(3)))?;
    /// socket.bind("127.0.0.1:0".parse().unwrap())?;
    /// let listener = socket.listen(1024)?;
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_defer_accept(&self, wait: Option<Duration>) -> io::Result<()> {
        self.defer_accept.set(wait.filter(|wait| !wait.is_zero()));
        Ok(())
    }

    /// Accepts IPv6 only when it listens on `[::]`; otherwise IPv4, too.
    ///
    /// # Errors
    /// `InvalidInput` on a socket for IPv4.
    pub fn set_only_v6(&self, only_v6: bool) -> io::Result<()> {
        if !self.v6 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "only_v6 on a socket for IPv4: make it with TcpSocket::new_v6",
            ));
        }
        self.only_v6.set(only_v6);
        Ok(())
    }
}
