//! TCP (RFC 9293) as a pure state machine: segments, time and calls in; segments, wakes and a deadline out.
//!
//! [`Tcp`] owns every connection, listener and TIME-WAIT record of one stack. It never reads a clock, never parses IP, and
//! sends only through an [`output::Output`].
//!
//! **A turn.** [`Tcp::poll_timers`], then [`Tcp::on_segment`] for each segment of the burst; then the application's calls; then
//! [`Tcp::flush`]. Data and acknowledgements wait for the flush, so that a reply carries the acknowledgement of its request
//! and several writes share a segment. Only what the peer counts (duplicate acknowledgements, resets) goes out at once.
//!
//! **Cost.** A segment costs one lookup in the flow table. No call but [`Tcp::usage`] and closing a listener looks at more
//! than one connection, and the end of the device at all of them; a flush looks at those that have something to send.

mod accurate_ecn;
mod common;
mod config;
mod congestion;
mod connection;
mod demux;
mod fast_open;
mod fifo;
mod flow_table;
mod half_open;
mod handshake;
mod isn;
mod limits;
mod listener;
mod listing;
pub mod output;
mod ports;
mod rare;
mod reassembly;
mod recv_queue;
mod rto;
mod sack;
mod send_queue;
mod sent_log;
mod seq;
mod slots;
mod sockets;
mod stats;
mod syn_cookie;
mod time_wait;
mod timer;

use std::net::IpAddr;
use std::rc::Rc;

use demi_drivers::transport::TcpState;
use demi_drivers::{Instant, Pool};

pub use config::{EcnMode, EcnOption, FastOpenConfig, MtuProbing, SynCookies, TcpConfig, TimeWaitReuse};
pub use seq::SeqNumber;
pub use stats::TcpStats;

use common::{Common, Scarce};
pub(crate) use connection::Incoming;
use connection::{Connection, Failure, Hatched, nanos};
use flow_table::Owner;
pub(crate) use flow_table::{FlowTable, FlowV4};
use half_open::HalfOpens;
use isn::Secret;
use limits::RateLimit;
use listener::Listeners;
use output::{Output, Refused};
use slots::Slots;
use time_wait::TimeWait;
use timer::Wheel;

use crate::gone::Gone;

/// While memory is scarce, one connection gets no more of it than if there were so many.
const LEAST_SHARERS: usize = 4;

/// What the IP layer says of a received segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpMeta {
    /// Source address.
    pub src: IpAddr,
    /// Destination address: one of ours.
    pub dst: IpAddr,
    /// Type of service or traffic class, ECN bits included.
    pub tos: u8,
    /// Time To Live or Hop Limit.
    pub ttl: u8,
}

/// What an ICMP or ICMPv6 error says of a segment we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the network.
    NetworkUnreachable,
    /// No route to the host, or its link address did not resolve.
    HostUnreachable,
    /// The host has no TCP, or not on this port.
    ConnectionRefused,
    /// Filtered by an administrator.
    Prohibited,
    /// Time To Live or Hop Limit ran out, or reassembly did.
    TimeExceeded,
    /// A header field was not understood.
    ParameterProblem,
}

/// The TCP layer of one stack. `P` is what the layers below remember of a path ([`Output::Path`]).
pub struct Tcp<P> {
    connections: Slots<Connection<P>>,
    flows: FlowTable,
    /// Connections that have something to send, or believed so.
    dirty: Vec<u32>,
    common: Common,
    wheel: Wheel,
    listeners: Listeners,
    time_wait: TimeWait,
    half_open: HalfOpens,
    /// When something may be to be done about records: TIME-WAIT's and half-open ones.
    records_at: Instant,
    resets: RateLimit,
    /// Connections whose handle has been given up.
    orphans: usize,
    /// Why there is no device any more.
    gone: Option<Rc<Gone>>,
}

/// What a connection acts through, borrowed from a layer's field beside its connections.
macro_rules! env {
    ($tcp:expr, $now:expr, $out:expr) => {
        $crate::tcp::connection::Env { now: $now, out: $out, common: &mut $tcp.common }
    };
}
use env;

impl<P: Default> Tcp<P> {
    /// A TCP layer with no sockets. `secret` keys sequence numbers, ports and the flow table: it must be random and the
    /// layer's own.
    pub fn new(config: TcpConfig, secret: [u8; 16], now: Instant) -> Self {
        let mut secret = Secret::new(secret).with_fixed(&config);
        Tcp {
            connections: Slots::new(config.max_connections.min(1 << 30)),
            flows: FlowTable::new([secret.random(), secret.random()]),
            dirty: Vec::new(),
            wheel: Wheel::new(now),
            listeners: Listeners::new(config.max_listeners),
            time_wait: TimeWait::new(nanos(config.time_wait), config.max_time_wait),
            half_open: HalfOpens::new(config.max_half_open, now),
            records_at: Instant::FAR_FUTURE,
            resets: RateLimit::new(config.resets_per_second),
            common: Common::new(config, secret),
            orphans: 0,
            gone: None,
        }
    }

    /// Whether [`poll_timers`](Self::poll_timers) has nothing to do.
    #[inline(always)]
    pub(crate) fn is_quiet(&mut self, now: Instant) -> bool {
        now < self.records_at && !self.wheel.may_be_due(now)
    }

    /// Runs due timers, a bounded number a call; answers how many. What they want sent goes out with the next flush.
    #[inline]
    pub fn poll_timers<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O) -> usize {
        if self.is_quiet(now) { 0 } else { self.run_timers(now, out) }
    }

    #[inline(never)]
    fn run_timers<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O) -> usize {
        let mut ran = 0;
        while ran < self.common.config.timers_per_turn
            && let Some(index) = self.wheel.pop(now)
        {
            ran += 1;
            let Some(connection) = self.connections.at_mut(index) else { continue };
            connection.armed_at = Instant::FAR_FUTURE;
            if connection.next_deadline() <= now {
                connection.on_timer(&mut env!(self, now, out));
            } else {
                // What it was armed for has been done.
                connection.watch_for_silence(&env!(self, now, out));
            }
            self.settle(now, index);
        }
        while ran < self.common.config.timers_per_turn
            && let Some((index, record)) = self.time_wait.expire(now)
        {
            ran += 1;
            self.flows.remove(record.hash, Owner::TimeWait(index));
        }
        while ran < self.common.config.timers_per_turn
            && let Some(index) = self.half_open.wheel.pop(now)
        {
            ran += 1;
            self.on_half_open_timeout(now, out, index);
        }
        self.note_records();
        ran
    }

    /// Records have come or gone: computes when something is to be done about them.
    fn note_records(&mut self) {
        let deadlines = [self.time_wait.deadline(), self.half_open.wheel.deadline()];
        self.records_at = deadlines.into_iter().flatten().fold(Instant::FAR_FUTURE, Instant::min);
    }

    /// Sends what calls and segments since the last flush have caused: data, FINs, and acknowledgements that no data carried.
    /// What finds no room below stays for the next flush.
    pub fn flush<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O) {
        if self.dirty.is_empty() {
            return;
        }
        // Those that want more queue themselves again, behind the others, and are not reached this time.
        let queued = self.dirty.len();
        let mut done = 0;
        while let Some(&index) = self.dirty.get(done).filter(|_| done < queued) {
            done += 1;
            if self.flush_one(now, out, index) == Err(Refused::Full) {
                break;
            }
        }
        if done == self.dirty.len() {
            self.dirty.clear();
        } else {
            self.keep_dirty(done);
        }
    }

    /// Keeps those that want to be flushed from the `done`th on.
    #[cold]
    #[inline(never)]
    fn keep_dirty(&mut self, done: usize) {
        self.dirty.drain(..done.min(self.dirty.len()));
    }

    #[inline(always)]
    fn flush_one<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
    ) -> Result<(), Refused> {
        let Some(connection) = self.connections.at_mut(index) else { return Ok(()) };
        if !core::mem::take(&mut connection.flush_queued) {
            return Ok(());
        }
        if !connection.flush_due || connection.flush_expected(now, out, &mut self.common.stats) {
            if let Some(deadline) = connection.wants_timer() {
                self.wheel.arm(index, deadline);
            }
            return Ok(());
        }
        self.flush_any(now, out, index)
    }

    #[inline(never)]
    fn flush_any<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
    ) -> Result<(), Refused> {
        let Some(connection) = self.connections.at_mut(index) else { return Ok(()) };
        let result = connection.flush(&mut env!(self, now, out));
        self.settle(now, index);
        result
    }

    /// Whether [`flush`](Self::flush) has something to do.
    #[inline]
    pub fn wants_flush(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// When [`poll_timers`](Self::poll_timers) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        let records = Some(self.records_at).filter(|&at| at != Instant::FAR_FUTURE);
        match (self.wheel.deadline(), records) {
            (Some(timer), Some(record)) => Some(timer.min(record)),
            (timer, record) => timer.or(record),
        }
    }

    /// The layer's counters.
    pub fn stats(&self) -> &TcpStats {
        &self.common.stats
    }

    /// The layer's limits and defaults.
    pub fn config(&self) -> &TcpConfig {
        &self.common.config
    }

    /// Looks at what is left of memory, before segments of so many frames come: while it is scarce, connections keep what arrives
    /// only where it is soon read.
    pub(crate) fn look_at_memory(&mut self, pool: &Pool, frames: usize) {
        self.common.scarce = pool.is_scarce().then(|| {
            let (free, kept) = pool.left();
            let free = free + frames;
            let among = self.connections.len().max(LEAST_SHARERS);
            Scarce { free, kept, share_bytes: free.saturating_sub(kept) * pool.small_capacity() / among }
        });
    }

    /// What came after [`look_at_memory`](Self::look_at_memory) has been taken.
    pub(crate) fn forget_memory(&mut self) {
        self.common.scarce = None;
    }

    /// The device is gone: every connection and listener ends with the error that ended it, and whoever waits is woken. What
    /// was received in order stays readable; nothing is sent any more.
    pub(crate) fn fail_all(&mut self, now: Instant, gone: &Rc<Gone>) {
        self.gone = Some(Rc::clone(gone));
        for index in 0..self.connections.positions() {
            let Some(connection) = self.connections.at_mut(index) else { continue };
            connection.flush_queued = false;
            if !matches!(connection.state, TcpState::Closed | TcpState::TimeWait) {
                connection.fail(Failure::Gone(Rc::clone(gone)));
                self.settle(now, index);
            }
        }
        self.dirty.clear();
        while let Some((index, record)) = self.time_wait.evict() {
            self.flows.remove(record.hash, Owner::TimeWait(index));
        }
        for index in 0..self.half_open.slots.positions() {
            self.forget_half_open(index);
        }
        self.note_records();
        for listener in self.listeners.slots.iter_mut() {
            if let Some(waker) = listener.waker.take() {
                waker.wake();
            }
        }
    }

    /// Acts on what a connection has left behind: something to send, an earlier deadline, a new state.
    #[inline]
    fn settle(&mut self, now: Instant, index: u32) {
        let Some(connection) = self.connections.at_mut(index) else { return };
        if connection.flush_due && !connection.flush_queued {
            connection.flush_queued = true;
            self.dirty.push(index);
        }
        if let Some(deadline) = connection.wants_timer() {
            self.wheel.arm(index, deadline);
        }
        if connection.lifecycle {
            self.on_lifecycle(now, index);
        }
    }

    /// A connection's state has changed.
    #[inline(never)]
    fn on_lifecycle(&mut self, now: Instant, index: u32) {
        let handle = self.connections.handle_of(index);
        let (Some(connection), Some(handle)) = (self.connections.at_mut(index), handle) else { return };
        connection.lifecycle = false;
        if let Some((listener, outcome)) = connection.ends_as_embryo() {
            self.common.stats.passive_opens += u64::from(outcome == Hatched::Yes);
            if let Some(listener) = self.listeners.slots.get_mut(listener) {
                listener.fast_opens = listener.fast_opens.saturating_sub(1);
                if outcome == Hatched::Reset {
                    listener.fast_open_resets.push_back(now.plus_nanos(fast_open::RESET_NS));
                }
            }
        }
        match connection.state {
            TcpState::Closed => self.on_closed(index),
            TcpState::TimeWait => self.on_time_wait(now, index),
            TcpState::SynSent | TcpState::SynReceived => {}
            _ => {
                let cold = &mut connection.cold;
                if !cold.accepted
                    && !cold.ready
                    && let Some(listener) =
                        cold.listener.and_then(|handle| self.listeners.slots.get_mut(handle))
                {
                    cold.ready = true;
                    listener.ready.push_back(handle);
                    self.common.stats.passive_opens += 1;
                    if let Some(waker) = listener.waker.take() {
                        waker.wake();
                    }
                }
            }
        }
    }

    fn on_closed(&mut self, index: u32) {
        self.detach(index);
        let Some(connection) = self.connections.at_mut(index) else { return };
        // One that ends before it has begun is nobody's.
        let unborn = !connection.cold.accepted && !connection.cold.ready;
        if connection.orphan || unborn {
            self.remove(index);
        }
    }

    fn on_time_wait(&mut self, now: Instant, index: u32) {
        self.common.stats.time_wait += 1;
        self.wheel.disarm(index);
        if self.time_wait.is_full() {
            self.common.stats.time_wait_overflow += 1;
            if let Some((oldest, record)) = self.time_wait.evict() {
                self.flows.remove(record.hash, Owner::TimeWait(oldest));
            }
            // The next one that makes room does so a connection later: its place has been fetched by then.
            if let Some(hash) = self.time_wait.oldest_hash() {
                self.flows.prefetch(hash);
            }
        }
        let Some(connection) = self.connections.at_mut(index) else { return };
        if !self.time_wait.is_full() {
            let record = self.time_wait.insert(connection.record(now));
            self.flows.replace(connection.hash, Owner::Connection(index), Owner::TimeWait(record));
            connection.detached = true;
        }
        self.note_records();
        let Some(connection) = self.connections.at_mut(index) else { return };
        connection.armed_at = Instant::FAR_FUTURE;
        let orphan = connection.orphan;
        self.detach(index);
        if orphan {
            self.remove(index);
        }
    }

    /// Takes a connection out of the flow table and the wheel: nothing comes in for it any more.
    fn detach(&mut self, index: u32) {
        let Some(connection) = self.connections.at_mut(index) else { return };
        connection.armed_at = Instant::FAR_FUTURE;
        self.common.grown_bytes = self.common.grown_bytes.saturating_sub(connection.give_back());
        self.wheel.disarm(index);
        if !connection.detached {
            connection.detached = true;
            self.flows.remove(connection.hash, Owner::Connection(index));
        }
    }

    /// Forgets a connection.
    fn remove(&mut self, index: u32) {
        self.detach(index);
        if self.connections.at(index).is_some_and(|connection| connection.orphan) {
            self.orphans = self.orphans.saturating_sub(1);
        }
        self.connections.clear(index);
    }
}

#[cfg(test)]
mod tests;
