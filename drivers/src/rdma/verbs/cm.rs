//! The connection manager: identifiers of connections and listeners, and the channel their events come by.
//!
//! Nothing here waits: what takes time is begun, and an event tells of its end. Events are acknowledged as they are taken, so
//! an identifier can be destroyed at any time between two of them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdma_sys as sys;
use smallvec::SmallVec;

use super::device::{Device, set_nonblocking};
use super::{check, last_error};
use crate::sockets::address::RawAddress;

/// Options of identifiers, as `rdma_cma.h` numbers them.
const LEVEL_ID: libc::c_int = 0;
const ONE_FAMILY_ONLY: libc::c_int = 2;

/// How often an adapter sends a request again that nobody acknowledges, before it gives the connection up. Not 7, which is the most there
/// is: rxe takes that to mean that it never does.
const RETRIES: u8 = 6;
/// How often it does so while the peer has no receive posted: 7 stands for ever.
const RECEIVER_NOT_READY_RETRIES: u8 = 7;

/// What one end tells the other with a connection's set-up.
pub(crate) type PrivateData = SmallVec<[u8; 64]>;

/// What the other end has said of a connection.
#[derive(Debug)]
pub(crate) struct Told {
    /// Its own words.
    pub(crate) private: PrivateData,
    /// READs that this end may have in flight, and that it is to serve.
    pub(crate) reads: Reads,
}

/// READs (and atomic operations) of a connection that may be in flight at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Of this end.
    pub(crate) own: u8,
    /// Of the other one.
    pub(crate) served: u8,
}

impl Reads {
    /// As many either way.
    pub(crate) fn both(reads: u8) -> Reads {
        Reads { own: reads, served: reads }
    }

    /// The lesser of two.
    pub(crate) fn min(self, other: Reads) -> Reads {
        Reads { own: self.own.min(other.own), served: self.served.min(other.served) }
    }
}

/// Where datagrams to somebody go.
pub(crate) struct Found {
    /// The way there.
    pub(super) way: sys::ibv_ah_attr,
    /// The peer's queue pair, and the key that it takes datagrams by.
    pub(super) queue: u32,
    pub(super) key: u32,
    /// What the peer has said.
    pub(crate) private: PrivateData,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Found").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// What an event says.
#[derive(Debug)]
pub(crate) enum News {
    /// The remote address is known, and with it the device.
    AddressResolved,
    /// So is the way there.
    RouteResolved,
    /// Somebody wants a connection, under an identifier of its own, which has the listener's token yet.
    Request(Id, Told),
    /// The connection is there; of one that we began, with what the peer has said.
    Established(Told),
    /// The peer refuses, or nobody listens there; with what the peer has said.
    Rejected(i32, PrivateData),
    /// Nobody answers.
    Unreachable,
    /// Where datagrams to that address and port go.
    Found(Found),
    /// Nobody takes datagrams there: why not (below 0, nobody has answered at all), and what the peer has said.
    Missing(i32, PrivateData),
    /// What was begun has failed, with an error number.
    Failed(i32),
    /// The peer has ended the connection, or is gone.
    Disconnected,
    /// The device is gone.
    DeviceRemoved,
    /// Nothing that concerns us.
    Other,
}

/// Where events come from.
#[derive(Debug)]
pub(crate) struct Channel {
    raw: NonNull<sys::rdma_event_channel>,
}

// SAFETY: a channel is a descriptor, which it never changes; the library takes events and makes identifiers from any thread.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    pub(crate) fn new() -> io::Result<Arc<Channel>> {
        // SAFETY: nothing is passed.
        let raw = NonNull::new(unsafe { sys::rdma_create_event_channel() });
        let raw = raw.ok_or_else(|| last_error("open the connection manager"))?;
        let channel = Channel { raw };
        set_nonblocking(channel.fd())?;
        Ok(Arc::new(channel))
    }

    /// The descriptor that is readable when there is an event.
    pub(crate) fn fd(&self) -> RawFd {
        // SAFETY: the channel lives.
        unsafe { self.raw.as_ref() }.fd
    }

    /// The next event, and the token of the identifier that it is about.
    ///
    /// # Errors
    /// What the system said; never that there is none.
    pub(crate) fn next(self: &Arc<Self>) -> io::Result<Option<(u64, News)>> {
        let mut event = ptr::null_mut();
        // SAFETY: the channel lives and does not block; the place is writable.
        if unsafe { sys::rdma_get_cm_event(self.raw.as_ptr(), &raw mut event) } != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // A connection that went away while its event was on its way has none.
                Some(libc::EAGAIN | libc::EINTR | libc::ENOENT) => Ok(None),
                _ => Err(super::explained(error, "take an event of the connection manager")),
            };
        }
        // SAFETY: the call has answered an event, which lives until it is acknowledged, below.
        let told = unsafe { self.told(&*event) };
        // SAFETY: the event was taken just now and is acknowledged once; what was kept of it was copied.
        unsafe { sys::rdma_ack_cm_event(event) };
        Ok(Some(told))
    }

    /// # Safety
    /// `event` has been taken and not acknowledged.
    unsafe fn told(self: &Arc<Self>, event: &sys::rdma_cm_event) -> (u64, News) {
        use sys::rdma_cm_event_type as kind;
        // SAFETY: an event's identifier lives until the event is acknowledged; its context is a token, never followed.
        let token = unsafe { (*event.id).context }.addr() as u64;
        // SAFETY: as above.
        if unsafe { (*event.id).ps } == sys::rdma_port_space::RDMA_PS_UDP {
            // SAFETY: the caller's promise; it is an identifier for datagrams, as was asked.
            return (token, unsafe { self.told_of_datagrams(event) });
        }
        let private = || {
            // SAFETY: events of these kinds have the parameters of a connection, whose private data lives as long as the event.
            unsafe {
                let conn = &event.param.conn;
                match conn.private_data.is_null() {
                    true => PrivateData::new(),
                    false => PrivateData::from_slice(std::slice::from_raw_parts(
                        conn.private_data.cast::<u8>(),
                        usize::from(conn.private_data_len),
                    )),
                }
            }
        };
        let told = || Told {
            private: private(),
            // SAFETY: as above.
            reads: unsafe {
                let conn = &event.param.conn;
                Reads { own: conn.initiator_depth, served: conn.responder_resources }
            },
        };
        let news = match event.event {
            kind::RDMA_CM_EVENT_ADDR_RESOLVED => News::AddressResolved,
            kind::RDMA_CM_EVENT_ROUTE_RESOLVED => News::RouteResolved,
            kind::RDMA_CM_EVENT_CONNECT_REQUEST => match NonNull::new(event.id) {
                Some(raw) => News::Request(Id { raw, channel: Arc::clone(self) }, told()),
                None => News::Other,
            },
            kind::RDMA_CM_EVENT_ESTABLISHED => News::Established(told()),
            kind::RDMA_CM_EVENT_REJECTED => News::Rejected(event.status, private()),
            kind::RDMA_CM_EVENT_UNREACHABLE => News::Unreachable,
            kind::RDMA_CM_EVENT_ADDR_ERROR
            | kind::RDMA_CM_EVENT_ROUTE_ERROR
            | kind::RDMA_CM_EVENT_CONNECT_ERROR => News::Failed(event.status.saturating_abs()),
            kind::RDMA_CM_EVENT_DISCONNECTED => News::Disconnected,
            kind::RDMA_CM_EVENT_DEVICE_REMOVAL => News::DeviceRemoved,
            _ => News::Other,
        };
        (token, news)
    }

    /// # Safety
    /// As [`told`](Self::told); the event is about datagrams.
    unsafe fn told_of_datagrams(self: &Arc<Self>, event: &sys::rdma_cm_event) -> News {
        use sys::rdma_cm_event_type as kind;
        let private = || {
            // SAFETY: events of these kinds have the parameters of a datagram's receiver, whose private data lives as long as the
            // event.
            unsafe {
                let ud = &event.param.ud;
                match ud.private_data.is_null() {
                    true => PrivateData::new(),
                    false => PrivateData::from_slice(std::slice::from_raw_parts(
                        ud.private_data.cast::<u8>(),
                        usize::from(ud.private_data_len),
                    )),
                }
            }
        };
        match event.event {
            kind::RDMA_CM_EVENT_ADDR_RESOLVED => News::AddressResolved,
            kind::RDMA_CM_EVENT_ROUTE_RESOLVED => News::RouteResolved,
            kind::RDMA_CM_EVENT_CONNECT_REQUEST => match NonNull::new(event.id) {
                Some(raw) => {
                    let told = Told { private: private(), reads: Reads::both(0) };
                    News::Request(Id { raw, channel: Arc::clone(self) }, told)
                }
                None => News::Other,
            },
            kind::RDMA_CM_EVENT_ESTABLISHED => {
                // SAFETY: such an event has the parameters of a datagram's receiver.
                let ud = unsafe { &event.param.ud };
                News::Found(Found { way: ud.ah_attr, queue: ud.qp_num, key: ud.qkey, private: private() })
            }
            kind::RDMA_CM_EVENT_UNREACHABLE | kind::RDMA_CM_EVENT_REJECTED => {
                News::Missing(event.status, private())
            }
            kind::RDMA_CM_EVENT_ADDR_ERROR
            | kind::RDMA_CM_EVENT_ROUTE_ERROR
            | kind::RDMA_CM_EVENT_CONNECT_ERROR => News::Failed(event.status.saturating_abs()),
            kind::RDMA_CM_EVENT_DEVICE_REMOVAL => News::DeviceRemoved,
            _ => News::Other,
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: every identifier of the channel holds it, so none is left.
        unsafe { sys::rdma_destroy_event_channel(self.raw.as_ptr()) };
    }
}

/// What an identifier is for; each kind has ports of its own, as TCP and UDP have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reliable connections.
    Connections,
    /// Datagrams: who listens is found, and no connection made.
    Datagrams,
}

/// A connection or a listener.
#[derive(Debug)]
pub(crate) struct Id {
    raw: NonNull<sys::rdma_cm_id>,
    channel: Arc<Channel>,
}

// SAFETY: the library ties an identifier to no thread, and locks what identifiers share; this is the only reference to it, and what it
// names (a queue pair, its channel) is destroyed after it or held by it.
unsafe impl Send for Id {}

impl Id {
    /// An identifier whose events will name `token`.
    pub(crate) fn new(channel: &Arc<Channel>, token: u64) -> io::Result<Id> {
        Id::of_kind(channel, token, Kind::Connections)
    }

    /// As [`new`](Self::new), of either kind.
    pub(crate) fn of_kind(channel: &Arc<Channel>, token: u64, kind: Kind) -> io::Result<Id> {
        let mut raw = ptr::null_mut();
        let space = match kind {
            Kind::Connections => sys::rdma_port_space::RDMA_PS_TCP,
            Kind::Datagrams => sys::rdma_port_space::RDMA_PS_UDP,
        };
        // SAFETY: the channel lives, the place is writable; the context is handed back and never followed.
        let result = unsafe {
            sys::rdma_create_id(
                channel.raw.as_ptr(),
                &raw mut raw,
                ptr::without_provenance_mut(token as usize),
                space,
            )
        };
        check(result, "make an identifier of a connection")?;
        let raw = NonNull::new(raw).ok_or_else(|| last_error("make an identifier of a connection"))?;
        Ok(Id { raw, channel: Arc::clone(channel) })
    }

    pub(super) fn raw(&self) -> *mut sys::rdma_cm_id {
        self.raw.as_ptr()
    }

    /// Has events come by another channel from now on, those that are on their way included.
    pub(crate) fn move_to(&mut self, channel: &Arc<Channel>) -> io::Result<()> {
        // SAFETY: the identifier and both channels live. It waits for events of this identifier that were taken and not acknowledged, which
        // there are none of between two calls of `Channel::next`, the one that takes them.
        let result = unsafe { sys::rdma_migrate_id(self.raw(), channel.raw.as_ptr()) };
        check(result, "hand a connection on to another core")?;
        self.channel = Arc::clone(channel);
        Ok(())
    }

    /// Events from now on name `token`.
    pub(crate) fn set_token(&self, token: u64) {
        // SAFETY: the identifier lives, and the library reads the field only to copy it, in calls of this thread.
        unsafe { (*self.raw()).context = ptr::without_provenance_mut(token as usize) };
    }

    /// Whether it is one of `device`, which it is from its being bound to an address, resolved or asked for.
    pub(crate) fn is_on(&self, device: &Device) -> bool {
        // SAFETY: the identifier lives.
        ptr::eq(unsafe { (*self.raw()).verbs }, device.raw())
    }

    /// Takes `address`, and the device that has it.
    ///
    /// # Errors
    /// `AddrNotAvailable`, `AddrInUse`.
    pub(crate) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        if address.is_ipv6() {
            let mut on: libc::c_int = 1;
            // SAFETY: the identifier lives; the option is an int, read during the call. Where it is not known, IPv4 is heard, too.
            unsafe {
                let value = (&raw mut on).cast();
                sys::rdma_set_option(self.raw(), LEVEL_ID, ONE_FAMILY_ONLY, value, size_of::<libc::c_int>())
            };
        }
        let (mut raw, _) = RawAddress::encode(&address);
        // SAFETY: the identifier lives; an address of its family is readable during the call.
        check(
            unsafe { sys::rdma_bind_addr(self.raw(), (&raw mut raw).cast()) },
            &format!("bind to {address}"),
        )
    }

    /// Lets others connect, `backlog` of whom may wait for an answer.
    pub(crate) fn listen(&self, backlog: u32) -> io::Result<()> {
        let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
        // SAFETY: the identifier lives.
        check(unsafe { sys::rdma_listen(self.raw(), backlog) }, "listen")
    }

    /// Begins to find out where `remote` is; [`News::AddressResolved`] follows.
    ///
    /// # Errors
    /// `NetworkUnreachable`, and as [`bind`](Self::bind).
    pub(crate) fn resolve(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        limit: Duration,
    ) -> io::Result<()> {
        let mut from = local.map(|local| RawAddress::encode(&local).0);
        let from = from.as_mut().map_or(ptr::null_mut(), |raw| ptr::from_mut(raw).cast());
        let (mut to, _) = RawAddress::encode(&remote);
        // SAFETY: the identifier lives; both addresses are readable during the call, or the first one null.
        let result = unsafe { sys::rdma_resolve_addr(self.raw(), from, (&raw mut to).cast(), millis(limit)) };
        check(result, &format!("find {remote}"))
    }

    /// Begins to find the way there; [`News::RouteResolved`] follows.
    pub(crate) fn resolve_route(&self, limit: Duration) -> io::Result<()> {
        // SAFETY: the identifier lives.
        check(unsafe { sys::rdma_resolve_route(self.raw(), millis(limit)) }, "find a route")
    }

    /// Asks the peer for a connection; [`News::Established`] or [`News::Rejected`] follows.
    pub(crate) fn connect(&self, private: &[u8], reads: Reads) -> io::Result<()> {
        let mut parameters = parameters(private, reads, 0);
        // SAFETY: the identifier lives; the parameters and what they point to are readable during the call.
        check(unsafe { sys::rdma_connect(self.raw(), &raw mut parameters) }, "connect")
    }

    /// Accepts the connection that was asked for; [`News::Established`] follows.
    pub(crate) fn accept(&self, private: &[u8], reads: Reads) -> io::Result<()> {
        let mut parameters = parameters(private, reads, 0);
        // SAFETY: as in `connect`.
        check(unsafe { sys::rdma_accept(self.raw(), &raw mut parameters) }, "accept")
    }

    /// Asks who takes datagrams at the address that was resolved; [`News::Found`] or [`News::Missing`] follows.
    pub(crate) fn look_for(&self, private: &[u8]) -> io::Result<()> {
        self.connect(private, Reads::both(0))
    }

    /// Answers who has looked for this: the queue pair numbered `queue` takes datagrams.
    pub(crate) fn be_found(&self, private: &[u8], queue: u32) -> io::Result<()> {
        let mut parameters = parameters(private, Reads::both(0), queue);
        // SAFETY: as in `connect`.
        check(unsafe { sys::rdma_accept(self.raw(), &raw mut parameters) }, "answer")
    }

    /// The device's port that it is on; 0 while it is on none.
    pub(crate) fn port(&self) -> u8 {
        // SAFETY: the identifier lives.
        unsafe { (*self.raw()).port_num }
    }

    /// Refuses the connection that was asked for.
    pub(crate) fn reject(&self, private: &[u8]) -> io::Result<()> {
        let len = u8::try_from(private.len()).unwrap_or(u8::MAX);
        // SAFETY: the identifier lives; so many bytes are readable during the call.
        check(unsafe { sys::rdma_reject(self.raw(), private.as_ptr().cast(), len) }, "reject")
    }

    /// Ends the connection: the peer is told, and what its queue pair has not done is flushed.
    pub(crate) fn disconnect(&self) -> io::Result<()> {
        // SAFETY: the identifier lives.
        check(unsafe { sys::rdma_disconnect(self.raw()) }, "disconnect")
    }

    /// This end's address.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        // SAFETY: the identifier lives, and has room for any address there, zero or one of a family.
        unsafe { read_address(&raw const (*self.raw()).route.addr.src_addr_union) }
    }

    /// The other end's address.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        // SAFETY: as above.
        unsafe { read_address(&raw const (*self.raw()).route.addr.dst_addr_union) }
    }
}

impl Drop for Id {
    fn drop(&mut self) {
        // SAFETY: it was made once; its queue pair is gone ([`QueuePair`](super::qp::QueuePair) sees to that), and no event of
        // it is left to be acknowledged.
        unsafe { sys::rdma_destroy_id(self.raw.as_ptr()) };
        let _ = &self.channel;
    }
}

/// # Safety
/// At `from` there is room for any address, with one of a family or zeroes in it.
unsafe fn read_address<T>(from: *const T) -> Option<SocketAddr> {
    // SAFETY: the caller's promise; a `RawAddress` is no longer than that.
    unsafe { from.cast::<RawAddress>().read() }.decode()
}

fn parameters(private: &[u8], reads: Reads, queue: u32) -> sys::rdma_conn_param {
    sys::rdma_conn_param {
        private_data: private.as_ptr().cast(),
        private_data_len: u8::try_from(private.len()).unwrap_or(u8::MAX),
        responder_resources: reads.served,
        initiator_depth: reads.own,
        flow_control: 0,
        retry_count: RETRIES,
        rnr_retry_count: RECEIVER_NOT_READY_RETRIES,
        srq: 0,
        qp_num: queue,
    }
}

fn millis(limit: Duration) -> libc::c_int {
    libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX)
}
