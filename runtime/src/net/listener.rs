//! A TCP socket that listens.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use demi_drivers::transport::{ListenOptions, ListenerId};
use futures_core::Stream;
use smallvec::SmallVec;

use super::addr::{self, ToSocketAddrs};
use super::waiters::Waiters;
use super::{TcpStream, bind_all};
use crate::transports::{Late, TransportCell, TransportSet};

/// A TCP socket that listens.
///
/// Bound to the unspecified address it listens on every transport of the runtime, otherwise on the one that owns the
/// address. Several tasks may accept from one listener. Dropping it closes it, and resets what was not accepted.
///
/// ```
/// # demi::Runtime::new(demi::Config::new())?.block_on(async {
/// let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
/// let addr = listener.local_addr()?;
/// demi::spawn(async move {
///     while let Ok((mut stream, peer)) = listener.accept().await {
///         let _ = stream.write_all(format!("you are {peer}").as_bytes()).await;
///     }
/// });
/// let mut stream = demi::net::TcpStream::connect(addr).await?;
/// let greeting = stream.pop().await?.unwrap();
/// assert_eq!(&greeting[..], format!("you are {}", stream.local_addr()?).as_bytes());
/// # Ok::<(), std::io::Error>(())
/// # })?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpListener {
    /// One a transport; never empty.
    members: SmallVec<[Member; 1]>,
    /// The member that is asked first: they take turns.
    first: Cell<usize>,
    waiters: Waiters,
}

struct Member {
    cell: Rc<TransportCell>,
    id: ListenerId,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.cell.give_up(Late::CloseListener(self.id));
    }
}

impl TcpListener {
    /// Listens on `addr`; on the first one that works, if it stands for several. Port 0 takes a free one. On several cores, each
    /// listens for itself: to a port that all of them name, connections are spread over them; a free one is the core's own. The backlog is the
    /// configuration's, and the address can be bound again at once after a restart; [`TcpSocket`](super::TcpSocket) sets
    /// more.
    ///
    /// # Errors
    /// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`, of the address tried last; what [`ToSocketAddrs`] says of the
    /// address.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped closes what it opened.
    ///
    /// # Panics
    /// Outside of a runtime.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// assert_ne!(listener.local_addr()?.port(), 0, "a free one");
    /// let error = demi::net::TcpListener::bind(listener.local_addr()?).await.unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<TcpListener> {
        let set = super::current();
        let mut failed = None;
        for local in addr::addresses(addr).await? {
            match Self::bind_on(&set, local, set.listen_options()) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::InvalidInput.into()))
    }

    pub(super) fn bind_on(
        set: &TransportSet,
        local: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<TcpListener> {
        let shared = set.shares_port(local);
        let open = |cell: &Rc<TransportCell>, local| {
            let id = if shared && cell.is_kernel() {
                let mut options = options.clone();
                options.stream.reuse_port = true;
                cell.call(|transport| transport.listen(local, &options))?
            } else {
                cell.call(|transport| transport.listen(local, options))?
            };
            let member = Member { cell: cell.clone(), id };
            let bound = cell.look(|transport| transport.listener_addr(id))?;
            Ok((member, bound))
        };
        let members = bind_all(set.owning(local.ip())?, local, open)
            .map_err(|error| super::with_context(error, format_args!("cannot listen on {local}")))?;
        Ok(TcpListener { members, first: Cell::new(0), waiters: Waiters::default() })
    }

    /// The next connection, and its peer's address.
    ///
    /// # Errors
    /// `OutOfMemory` and the like when a connection cannot be taken: later ones may be.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped before it is ready has accepted nothing.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// let (stream, peer) = listener.accept().await?;
    /// assert_eq!(peer, client.local_addr()?);
    /// assert_eq!(stream.peer_addr()?, peer);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept), polled.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.waiters.poll(cx, |cx| self.poll_members(cx))
    }

    fn poll_members(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let first = self.first.get();
        let (before, from) = self.members.split_at(first);
        for (at, member) in from.iter().chain(before).enumerate() {
            let accepted = member.cell.poll_with(cx, |transport, cx| transport.poll_accept(cx, member.id));
            if let Poll::Ready(accepted) = accepted {
                // The next call begins behind this one, so that a busy transport does not starve the others.
                self.first.set((first + at + 1) % self.members.len());
                let (id, peer) = accepted?;
                return Poll::Ready(Ok((TcpStream::new(member.cell.clone(), id), peer)));
            }
        }
        Poll::Pending
    }

    /// Connections as a stream, which never ends.
    ///
    /// ```
    /// use futures_util::StreamExt;
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let listener = demi::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let client = demi::net::TcpStream::connect(listener.local_addr()?).await?;
    /// let server = listener.incoming().next().await.expect("never ends")?;
    /// assert_eq!(server.peer_addr()?, client.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// # })?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// The address it is bound to, with the port that was taken for port 0.
    ///
    /// # Errors
    /// `NotConnected` when it is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let member = self.members.first().ok_or(io::ErrorKind::NotConnected)?;
        member.cell.look(|transport| transport.listener_addr(member.id))
    }

    /// The device string of the transport it listens on; of several, separated by commas.
    pub fn device(&self) -> String {
        self.members.iter().map(|member| member.cell.name()).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("TcpListener");
        if let Ok(local) = self.local_addr() {
            out.field("local", &local);
        }
        out.field("device", &self.device()).finish()
    }
}

/// The connections of a [`TcpListener`] as a [`Stream`]. Never ends; an error concerns one connection.
#[derive(Debug)]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Stream for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.listener.poll_accept(cx).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}

/// A listener is a stream of connections itself, for code that owns it.
impl Stream for TcpListener {
    type Item = io::Result<TcpStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(cx).map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}
