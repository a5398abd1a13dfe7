//! The transports of one runtime: opened from a [`Config`], driven together, chosen by address.
//!
//! Most runtimes have one. With several, a socket goes to the transport whose interface owns or routes its address;
//! loopback is the kernel's unless the runtime has no kernel transport. The loop polls each, and when it parks, the first
//! one waits for all. Owns the transports; never touches what their sockets carry.

mod cell;
mod open;
mod stack;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use demi_drivers::park::Parker;
use demi_drivers::transport::{ListenOptions, SocketEntry, StreamOptions, TransportUsage};
use demi_drivers::{Instant, Pool, Transport};

pub(crate) use cell::{Late, TransportCell};
pub(crate) use stack::{over as stack_over, over_shared as stack_over_shared};

use crate::config::Config;
use crate::cores::Lanes;

/// How long a park may last when a transport other than the first has nothing to wait on.
const BLIND_PARK: Duration = Duration::from_micros(100);

/// The transports of one runtime.
pub struct TransportSet {
    cells: Vec<Rc<TransportCell>>,
    /// The descriptor by which the first one waits for each of the others.
    watched: Vec<Cell<Option<RawFd>>>,
    stream: StreamOptions,
    listen: ListenOptions,
    /// Waits when there is no transport at all: a runtime of tasks and timers only.
    parker: RefCell<Parker>,
    /// The longest park that misses nothing.
    park_limit: Option<Duration>,
    shares_ports: bool,
}

/// Which queue of each device a core drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Counted from 0.
    pub(crate) index: usize,
    /// How many cores there are.
    pub(crate) of: usize,
    /// What the cores of this program share and nobody else knows.
    pub(crate) secret: [u64; 3],
}

impl Queue {
    /// That of a single core.
    pub(crate) const ONLY: Queue = Queue { index: 0, of: 1, secret: [0; 3] };

    /// What keys the stacks of the device that comes `at` that place, alike on all cores: what one of them has given out (an address
    /// made from it, a cookie), the others know.
    fn stack_secret(&self, at: usize) -> [u8; 16] {
        let [first, second, _] = self.secret;
        in_bytes([first.wrapping_add(at as u64), second])
    }
}

fn in_bytes(halves: [u64; 2]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, half) in bytes.chunks_exact_mut(8).zip(halves) {
        place.copy_from_slice(&half.to_le_bytes());
    }
    bytes
}

impl TransportSet {
    /// Opens what `config` names. `seed` keys everything random.
    ///
    /// # Errors
    /// One line that names the device, what is missing, and the cure.
    pub fn open(config: &Config, seed: u64) -> io::Result<TransportSet> {
        Self::open_at(config, seed, Queue::ONLY, || None)
    }

    /// As [`open`](Self::open), of each device that has several the queue that is meant.
    /// `lanes` gives each device of frames, in order, the ways to the other cores' stacks.
    pub(crate) fn open_at(
        config: &Config,
        seed: u64,
        queue: Queue,
        lanes: impl Fn() -> Option<Lanes>,
    ) -> io::Result<TransportSet> {
        let transports = open::open(config, seed, queue, &lanes)?;
        let mut set = TransportSet::from_vec(transports).with_options_of(config);
        set.shares_ports = queue.of > 1;
        Ok(set)
    }

    /// Whether other cores are to have a kernel socket at `local` as well: it has `SO_REUSEPORT` then, and the kernel spreads
    /// connections over them. A port that is chosen is this core's own; with the option set, the kernel might choose one
    /// that another core has.
    pub(crate) fn shares_port(&self, local: SocketAddr) -> bool {
        self.shares_ports && local.port() != 0
    }

    /// Gives sockets the options that `config` says they start with.
    #[must_use]
    pub fn with_options_of(mut self, config: &Config) -> TransportSet {
        self.stream = config.stream_options();
        self.listen = config.listen_options();
        self
    }

    /// A set of transports that are open already, the first of which will wait for all.
    pub fn from_vec(transports: Vec<Box<dyn Transport>>) -> TransportSet {
        let mut transports = transports.into_iter();
        let mut cells = Vec::with_capacity(transports.len());
        let (mut watched, mut park_limit) = (Vec::new(), None);
        if let Some(mut first) = transports.next() {
            let others: Vec<_> = transports.collect();
            for other in &others {
                let fd = other.wait_fd().map(|fd| fd.as_raw_fd()).filter(|fd| first.watch(*fd).is_ok());
                if fd.is_none() {
                    park_limit = Some(BLIND_PARK);
                }
                watched.push(Cell::new(fd));
            }
            cells.extend(std::iter::once(first).chain(others).map(|t| Rc::new(TransportCell::new(t))));
        }
        let config = Config::default();
        TransportSet {
            cells,
            watched,
            stream: config.stream_options(),
            listen: config.listen_options(),
            parker: RefCell::new(Parker::new()),
            park_limit,
            shares_ports: false,
        }
    }

    /// Waits until each transport has the addresses that it can have for now.
    pub(crate) fn poll_configured(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut waits = false;
        for cell in &self.cells {
            waits |= cell.poll_with(cx, |transport, cx| transport.poll_configured(cx).map(Ok)).is_pending();
        }
        if waits { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The transports' names, in order: their device strings.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.cells.iter().map(|cell| cell.name())
    }

    /// Receives on each, runs due timers and wakes tasks; answers how many events all of them saw.
    ///
    /// # Errors
    /// What the first one that failed said; the others have been polled all the same.
    #[inline]
    pub fn poll(&self, now: Instant) -> io::Result<usize> {
        let mut events = 0;
        let mut failed = None;
        for cell in &self.cells {
            match cell.poll(now) {
                Ok(seen) => events += seen,
                Err(error) => {
                    self.unwatch_dead();
                    keep_first(&mut failed, error);
                }
            }
        }
        match failed {
            None => Ok(events),
            Some(error) => Err(error),
        }
    }

    /// Waits no longer for transports that have nothing to wait for any more: the descriptor of a device that is gone would
    /// end every park at once.
    #[cold]
    fn unwatch_dead(&self) {
        let Some((first, others)) = self.cells.split_first() else { return };
        for (cell, watched) in others.iter().zip(&self.watched) {
            let dead = cell.look(|transport| Ok(transport.wait_fd().is_none()));
            if matches!(dead, Ok(true))
                && let Some(fd) = watched.take()
            {
                // A first transport that is running (its waker turned the loop) is told by the next error.
                let told = first.call(|transport| {
                    transport.unwatch(fd);
                    Ok(())
                });
                if told.is_err() {
                    watched.set(Some(fd));
                }
            }
        }
    }

    /// Sends what tasks have caused since the last flush.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    #[inline]
    pub fn flush(&self, now: Instant) -> io::Result<()> {
        let mut failed = None;
        for cell in &self.cells {
            if let Err(error) = cell.flush(now) {
                keep_first(&mut failed, error);
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// When [`poll`](Self::poll) has to be called even if nothing arrives.
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.cells.iter().filter_map(|cell| cell.deadline()).min()
    }

    /// Blocks until something arrives anywhere, a watched descriptor is readable, or `timeout` is over (`None`: no limit).
    /// May end early.
    ///
    /// # Errors
    /// What the waiting system call said.
    pub fn park(&self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = match (timeout, self.park_limit) {
            (Some(timeout), Some(limit)) => Some(timeout.min(limit)),
            (timeout, limit) => timeout.or(limit),
        };
        match self.cells.first() {
            Some(first) => first.call(|transport| transport.park(timeout)),
            None => self.parker.borrow_mut().park(None, timeout),
        }
    }

    /// Makes [`park`](Self::park) end when `fd` is readable, too. The caller keeps `fd` open as long as the set lives, and
    /// makes it unreadable again by itself.
    ///
    /// # Errors
    /// What the system call that registers the descriptor said.
    pub fn watch(&self, fd: RawFd) -> io::Result<()> {
        match self.cells.first() {
            Some(first) => first.call(|transport| transport.watch(fd)),
            None => {
                self.parker.borrow_mut().watch(fd);
                Ok(())
            }
        }
    }

    /// Connections of all of them that nobody has a handle of and that are still closing.
    pub(crate) fn closing(&self) -> usize {
        let closing =
            |cell: &Rc<TransportCell>| cell.look(|transport| Ok(transport.closing())).unwrap_or_default();
        self.cells.iter().map(closing).sum()
    }

    /// What all of them still hold, summed.
    pub fn usage(&self) -> TransportUsage {
        let mut sum = TransportUsage::default();
        for cell in &self.cells {
            // Nothing that runs inside a transport asks for its usage; if a foreign waker does, it sees the others'.
            let Ok(usage) = cell.look(|transport| Ok(transport.usage())) else { continue };
            sum.streams += usage.streams;
            sum.listeners += usage.listeners;
            sum.datagrams += usage.datagrams;
            sum.closing += usage.closing;
            sum.time_wait += usage.time_wait;
            sum.descriptors += usage.descriptors;
            sum.in_flight += usage.in_flight;
        }
        sum
    }

    /// The sockets of each stack, by device, and those of the kernel's that the runtime has.
    pub(crate) fn sockets(&self) -> Vec<(String, Vec<SocketEntry>)> {
        let sockets = self.cells.iter().filter_map(|cell| {
            let sockets = cell.look(|transport| Ok(transport.sockets())).ok()?;
            Some((cell.name().to_owned(), sockets))
                .filter(|(_, sockets)| !cell.is_kernel() || !sockets.is_empty())
        });
        sockets.collect()
    }

    /// The counters of each stack, by device.
    pub(crate) fn counters(&self) -> Vec<(String, Vec<(String, u64)>)> {
        let stacks = self.cells.iter().filter(|cell| !cell.is_kernel());
        stacks
            .filter_map(|cell| {
                let counters = cell.look(|transport| Ok(transport.counters())).ok()?;
                Some((cell.name().to_owned(), counters))
            })
            .collect()
    }

    /// Buffers of the transports' pools that somebody has.
    pub(crate) fn slots_out(&self) -> usize {
        let pools = self.cells.iter().map(|cell| cell.pool().stats());
        pools.map(|stats| stats.slots_out + stats.large_slots_out).sum()
    }

    /// Where buffers that no socket is known for come from: the first transport's memory.
    pub(crate) fn pool(&self) -> io::Result<&Pool> {
        self.cells.first().map(|cell| cell.pool()).ok_or_else(no_transport)
    }

    /// All of them.
    #[cfg(any(feature = "dns", feature = "rdma"))]
    pub(crate) fn cells(&self) -> &[Rc<TransportCell>] {
        &self.cells
    }

    /// What connections start with.
    pub(crate) fn stream_options(&self) -> &StreamOptions {
        &self.stream
    }

    /// What listeners start with.
    pub(crate) fn listen_options(&self) -> &ListenOptions {
        &self.listen
    }

    /// The transport that carries traffic to `remote`: loopback is the kernel's if it is there; otherwise the one with the
    /// most specific route, the first one of several equal ones.
    pub(crate) fn towards(&self, remote: IpAddr) -> io::Result<&Rc<TransportCell>> {
        let at = route(self.cells.iter(), remote)?.ok_or_else(|| self.unreachable(remote))?;
        self.cells.get(at).ok_or_else(no_transport)
    }

    /// The transports that a socket bound to `local` is opened on: all of them for the unspecified address, else the one
    /// that owns it; the kernel's, which knows addresses of its own, if none does.
    pub(crate) fn owning(&self, local: IpAddr) -> io::Result<&[Rc<TransportCell>]> {
        if self.cells.is_empty() {
            return Err(no_transport());
        }
        if self.cells.len() == 1 || local.is_unspecified() {
            return Ok(&self.cells);
        }
        let mut kernel = None;
        for (at, cell) in self.cells.iter().enumerate() {
            if cell.is_kernel() {
                kernel = kernel.or(Some(at));
            } else if cell.look(|transport| Ok(transport.has_address(local)))? {
                return Ok(&self.cells[at..=at]);
            }
        }
        let at = kernel.ok_or_else(|| {
            let names = self.names().collect::<Vec<_>>().join(", ");
            io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{local} is no address of {names}: bind to one of theirs, or to 0.0.0.0"),
            )
        })?;
        Ok(&self.cells[at..=at])
    }

    #[cold]
    fn unreachable(&self, remote: IpAddr) -> io::Error {
        if self.cells.is_empty() {
            return no_transport();
        }
        let names = self.names().collect::<Vec<_>>().join(", ");
        io::Error::new(
            io::ErrorKind::NetworkUnreachable,
            format!("no route to {remote} on {names}: set gateway, or an address in its network"),
        )
    }
}

impl fmt::Debug for TransportSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Which of `cells` carries traffic to `remote`; see [`TransportSet::towards`]. A single one is not asked: it knows best
/// what to answer.
pub(crate) fn route<'a>(
    cells: impl ExactSizeIterator<Item = &'a Rc<TransportCell>> + Clone,
    remote: IpAddr,
) -> io::Result<Option<usize>> {
    if cells.len() == 1 {
        return Ok(Some(0));
    }
    if is_loopback(remote)
        && let Some(kernel) = cells.clone().position(|cell| cell.is_kernel())
    {
        return Ok(Some(kernel));
    }
    let mut best: Option<(usize, u8)> = None;
    for (at, cell) in cells.enumerate() {
        if let Some(bits) = cell.look(|transport| Ok(transport.reach(remote)))?
            && best.is_none_or(|(_, most)| bits > most)
        {
            best = Some((at, bits));
        }
    }
    Ok(best.map(|(at, _)| at))
}

/// 127.0.0.0/8, `::1`, and the former as IPv6 writes it.
fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

/// Of several errors, the first is told.
#[cold]
fn keep_first(failed: &mut Option<io::Error>, error: io::Error) {
    failed.get_or_insert(error);
}

#[cold]
fn no_transport() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "this runtime has no transport: give it a device")
}

#[cfg(test)]
mod tests;
