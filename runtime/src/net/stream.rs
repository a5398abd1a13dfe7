//! A TCP connection.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use demi_drivers::transport::{KeepAlive, StreamId, StreamOptions, TcpInfo};

use super::addr::{self, Place, ToSocketAddrs};
use super::connection::{Connection, Held};
use super::eyeballs;
use super::methods::{connection_methods, reading_methods, writing_methods};
use super::owned::{self, OwnedReadHalf, OwnedWriteHalf};
use super::split::{ReadHalf, WriteHalf};
use crate::io::{Interest, Ready};
use crate::transports::TransportCell;

/// A TCP connection.
///
/// `push` and `pop` move [`Buf`](crate::Buf)s and copy nothing; `read` and `write` copy. The traits of the `futures` crate
/// are implemented, and behind the features `tokio` and `hyper` those of these crates. One task at a time reads and one
/// writes: [`split`](Self::split) and [`into_split`](Self::into_split) make two of one.
///
/// Dropping it closes it: what was written is still delivered, followed by a FIN, unless received bytes were never read
/// or linger is zero: then the peer gets a RST. It belongs to the thread it was made on.
///
/// ```
/// use demi::net::{TcpListener, TcpStream};
///
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let mut client = TcpStream::connect(listener.local_addr()?).await?;
/// let (mut server, _) = listener.accept().await?;
///
/// client.write_all(b"hello").await?;
/// let received = server.pop().await?.expect("the peer has not ended");
/// server.push(received).await?;
///
/// let mut echo = [0; 5];
/// client.read_exact(&mut echo).await?;
/// assert_eq!(&echo, b"hello");
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// ```compile_fail,E0277
/// fn wants_send<T: Send>() {}
/// wants_send::<demi::net::TcpStream>();
/// ```
#[repr(C)] // What every read asks for comes first, within one cache line.
pub struct TcpStream {
    held: Held,
    connection: Connection,
}

impl TcpStream {
    #[inline]
    pub(super) fn new(cell: Rc<TransportCell>, id: StreamId) -> Self {
        TcpStream { connection: Connection::new(cell, id), held: Held::default() }
    }

    pub(super) fn from_parts(connection: Connection, held: Held) -> Self {
        TcpStream { connection, held }
    }

    #[inline]
    pub(crate) fn reading(&self) -> (&Connection, &Held) {
        (&self.connection, &self.held)
    }

    #[inline]
    pub(crate) fn buffered(&mut self) -> (&Connection, &mut Held) {
        (&self.connection, &mut self.held)
    }

    #[inline]
    pub(crate) fn writing(&self) -> &Connection {
        &self.connection
    }

    /// Connects to `addr`; to the first one that answers, if it stands for several. Those of a name are tried as RFC 8305
    /// says: the IP versions take turns, and an attempt that has not succeeded after 250 ms gets company. See
    /// [`TcpSocket`](super::TcpSocket) for options that must be set before.
    ///
    /// # Errors
    /// `ConnectionRefused`, `TimedOut`, `HostUnreachable`, `NetworkUnreachable`, of the address tried last; what
    /// [`ToSocketAddrs`] says of the address.
    ///
    /// # Cancel safety
    /// A future that is dropped gives the attempt up and closes what it opened.
    ///
    /// # Panics
    /// Outside of a runtime.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let stream = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// assert_eq!(stream.peer_addr()?, listener.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn connect(addr: impl ToSocketAddrs) -> io::Result<TcpStream> {
        let addresses = match addr.place()? {
            Place::Known(addresses) => addresses,
            // Boxed, so that a connection to an address carries nothing of this.
            Place::Named(host, port) => return Box::pin(eyeballs::connect(host, port)).await,
        };
        let mut failed = None;
        for remote in addresses {
            match Self::connect_to(remote).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(addr::none_given))
    }

    /// Connects on the transport that reaches `remote`.
    pub(super) async fn connect_to(remote: SocketAddr) -> io::Result<TcpStream> {
        let set = super::current();
        let cell = set.towards(remote.ip())?.clone();
        Self::connect_on(cell, remote, None, set.stream_options()).await
    }

    /// Connects on one transport.
    pub(super) async fn connect_on(
        cell: Rc<TransportCell>,
        remote: SocketAddr,
        local: Option<SocketAddr>,
        options: &StreamOptions,
    ) -> io::Result<TcpStream> {
        let id = cell.call(|transport| transport.connect(remote, local, options))?;
        // From here on dropping the future drops the stream, which closes the attempt.
        let stream = TcpStream::new(cell, id);
        poll_fn(|cx| stream.connection.poll_connect(cx))
            .await
            .map_err(|error| super::with_context(error, format_args!("cannot connect to {remote}")))?;
        Ok(stream)
    }

    reading_methods!();
    writing_methods!();
    connection_methods!(writing);

    /// Waits until reading or writing, as `interest` asks, would not wait; answers which.
    ///
    /// # Errors
    /// `NotConnected`.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        poll_fn(|cx| self.connection.poll_ready(cx, &self.held, interest)).await
    }

    /// Ends one or both directions, as [`std::net::TcpStream::shutdown`] does.
    ///
    /// # Errors
    /// What ended the connection before; a peer that is gone is no error.
    pub fn half_close(&self, how: Shutdown) -> io::Result<()> {
        self.connection.shutdown(how)
    }

    /// Resets the connection: what was written and not delivered is gone, and the peer gets a RST.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// # let (mut server, _) = listener.accept().await?;
    /// client.abort();
    /// let error = server.pop().await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn abort(self) {
        self.connection.abort();
    }

    /// Two halves for two futures of one task, without cost.
    ///
    /// Where `futures`' `AsyncReadExt` is in scope its `split` comes first: write `TcpStream::split(&mut stream)` there.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// # let (mut server, _) = listener.accept().await?;
    /// let (mut reader, mut writer) = client.split();
    /// let echo = async {
    ///     let buf = server.pop().await?.expect("bytes");
    ///     server.push(buf).await
    /// };
    /// let (echoed, written, read) = futures_util::join!(echo, writer.write_all(b"hello"), reader.pop());
    /// (echoed?, written?);
    /// assert_eq!(&*read?.expect("bytes"), b"hello");
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf::new(&self.connection, &mut self.held), WriteHalf::new(&self.connection))
    }

    /// Two halves for two tasks. Dropping the one that writes ends that direction;
    /// [`reunite`](OwnedReadHalf::reunite) puts them together again.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// # let (mut server, _) = listener.accept().await?;
    /// let (mut reader, mut writer) = server.into_split();
    /// // The halves may go to different tasks; the connection closes with the second.
    /// demi::spawn(async move { while let Ok(Some(_)) = reader.pop().await {} });
    /// demi::spawn(async move { writer.write_all(b"tick").await });
    /// assert_eq!(&*client.pop().await?.expect("bytes"), b"tick");
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        owned::split(self.connection, self.held)
    }

    /// What the transport knows of the connection, under Linux's names.
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone; `Unsupported` by the transport.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// # let (mut server, _) = listener.accept().await?;
    /// client.write_all(b"hello").await?;
    /// server.pop().await?;
    /// assert_eq!(server.info()?.bytes_received, 5);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn info(&self) -> io::Result<TcpInfo> {
        self.connection.call(|transport, id| transport.tcp_info(id))
    }

    /// The error that ended the connection, once.
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.connection.call(|transport, id| transport.take_error(id))
    }

    /// All options in force.
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone.
    pub fn options(&self) -> io::Result<StreamOptions> {
        self.connection.options()
    }

    /// Puts all of `options` in force.
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone; `Unsupported` for an option the transport does not have.
    pub fn set_options(&self, options: &StreamOptions) -> io::Result<()> {
        self.connection.call(|transport, id| transport.set_stream_options(id, options))
    }

    /// Whether small segments are sent at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.options()?.nodelay)
    }

    /// Sends small segments at once, instead of waiting for acknowledgements (Nagle, RFC 896).
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// client.set_nodelay(true)?;
    /// assert!(client.nodelay()?);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.connection.change_options(|options| options.nodelay = nodelay)
    }

    /// Whether what arrives is acknowledged at once, as things are now (`TCP_QUICKACK`).
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone.
    pub fn quickack(&self) -> io::Result<bool> {
        self.connection.call(|transport, id| transport.quickack(id))
    }

    /// Acknowledges what has arrived and what will at once, or waits for data to carry the acknowledgements
    /// (`TCP_QUICKACK`). It does not last: how the connection goes on decides anew, so set it after each receive that needs it.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let stream = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// stream.set_quickack(true)?;
    /// assert!(stream.quickack()?);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotConnected` when the connection is gone.
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.connection.call(|transport, id| transport.set_quickack(id, quickack))
    }

    /// Time To Live, or Hop Limit, of outgoing packets.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn ttl(&self) -> io::Result<u32> {
        Ok(self.options()?.ttl.unwrap_or(super::DEFAULT_TTL).into())
    }

    /// Sets the Time To Live, or Hop Limit, of outgoing packets: 1 to 255.
    ///
    /// # Errors
    /// `InvalidInput` beyond that; as [`set_options`](Self::set_options).
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = super::checked_ttl(ttl)?;
        self.connection.change_options(|options| options.ttl = Some(ttl))
    }

    /// Type of service, or traffic class, of outgoing packets.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn tos(&self) -> io::Result<u32> {
        Ok(self.options()?.tos.into())
    }

    /// Sets the type of service, or traffic class, of outgoing packets.
    ///
    /// # Errors
    /// `InvalidInput` above 255; as [`set_options`](Self::set_options).
    pub fn set_tos(&self, tos: u32) -> io::Result<()> {
        let tos = super::checked_tos(tos)?;
        self.connection.change_options(|options| options.tos = tos)
    }

    /// What closing does with unsent bytes: `None`: delivers them in the background.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        Ok(self.options()?.linger)
    }

    /// Sets what closing does with unsent bytes: `None` delivers them in the background, zero drops them and resets.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.connection.change_options(|options| options.linger = linger)
    }

    /// When a silent connection is probed.
    ///
    /// # Errors
    /// As [`options`](Self::options).
    pub fn keepalive(&self) -> io::Result<Option<KeepAlive>> {
        Ok(self.options()?.keepalive)
    }

    /// Sets when a silent connection is probed; `None`: never.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// use demi::net::KeepAlive;
    /// use std::time::Duration;
    /// // Asked after a minute of silence, every ten seconds, three times.
    /// let (idle, interval) = (Duration::from_secs(60), Duration::from_secs(10));
    /// client.set_keepalive(Some(KeepAlive { idle, interval, probes: 3 }))?;
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_keepalive(&self, keepalive: Option<KeepAlive>) -> io::Result<()> {
        self.connection.change_options(|options| options.keepalive = keepalive)
    }

    /// Gives the connection up when sent bytes stay unacknowledged this long (RFC 5482); `None`: after the transport's own
    /// time.
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// # let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let mut client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// client.set_user_timeout(Some(std::time::Duration::from_secs(30)))?;
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_user_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.connection.change_options(|options| options.user_timeout = timeout)
    }

    /// Holds partial segments back until it is cleared, or 200 ms have passed (`TCP_CORK`).
    ///
    /// # Errors
    /// As [`set_options`](Self::set_options).
    pub fn set_cork(&self, cork: bool) -> io::Result<()> {
        self.connection.change_options(|options| options.cork = cork)
    }

    /// A buffer with room for `capacity` bytes from the memory that this connection sends from, once one is free.
    ///
    /// # Errors
    /// `InvalidInput` when no buffer is that large.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn alloc(&self, capacity: usize) -> io::Result<crate::BufMut> {
        crate::io::alloc_from(self.connection.cell().pool(), capacity).await
    }

    /// [`alloc`](Self::alloc), polled.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    pub fn poll_alloc(&self, cx: &mut Context<'_>, capacity: usize) -> Poll<io::Result<crate::BufMut>> {
        crate::io::poll_alloc_from(self.connection.cell().pool(), cx, capacity)
    }
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::debug_connection(f, "TcpStream", &self.connection)
    }
}
