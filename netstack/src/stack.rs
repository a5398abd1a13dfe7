//! The stack: one device, its packets, and the sockets above them.
//!
//! Owns the layers and drives them: a burst in, due timers, a burst out, each of bounded work. What a frame means is
//! [`ingress`](crate::ingress)'s, how a packet leaves is [`egress`](crate::egress)'s, what a socket is are TCP's and UDP's; the calls of
//! [`Transport`](demi_drivers::Transport) are spread over them in [`transport`](crate::transport).

use core::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use demi_drivers::park::Parker;
use demi_drivers::{Buf, Device, Instant, RxFrame};

use crate::autoconf::Autoconf;
use crate::config::StackConfig;
use crate::egress::Egress;
use crate::gone::Gone;
use crate::groups::Groups;
use crate::hash::{Keyed, Random};
use crate::icmp::{self, Limiter};
use crate::path::Path;
use crate::reassembly::Reassembly;
use crate::route::Routes;
use crate::stats::Stats;
use crate::tcp::{Tcp, TcpStats};
use crate::udp::Udp;
use crate::wire::ethernet::Mac;

/// The smallest MTU IPv4 works with (RFC 791: every module must forward 68 bytes), and the smallest of IPv6.
const MIN_MTU: u16 = 576;
/// Times a flush fills the transmit queue anew when the device took all of it.
const FLUSH_ROUNDS: usize = 4;
/// How soon a device that had no room, and cannot say when it has, is asked again.
const TX_RETRY: Duration = Duration::from_micros(50);

/// A TCP/UDP stack for IPv4 and IPv6 over one device.
///
/// It is a [`Transport`](demi_drivers::Transport): the runtime drives it and calls its sockets. Its time is what it is told, its
/// randomness comes from [`StackConfig::secret`], so a run with the same frames, calls and times is the same run.
pub struct Stack {
    pub(crate) device: Box<dyn Device>,
    pub(crate) egress: Egress,
    pub(crate) tcp: Tcp<Path>,
    pub(crate) udp: Udp,
    pub(crate) icmp_limiter: Limiter,
    pub(crate) reassembly: Reassembly,
    pub(crate) autoconf: Autoconf,
    pub(crate) groups: Groups,
    /// How often addresses and groups had changed when the device was told of them.
    told: Option<(u32, u32)>,
    /// The groups of our addresses are reported.
    reports_own_groups: bool,
    pub(crate) parker: Parker,
    /// Received frames, the next one last: kept for its memory, as the payloads of a train.
    pub(crate) rx: Vec<RxFrame>,
    pub(crate) train: Vec<Buf>,
    rx_burst: usize,
    /// Why the device is gone.
    gone: Option<Rc<Gone>>,
}

impl Stack {
    /// A stack over `device`.
    ///
    /// # Errors
    /// `InvalidInput` when the configuration cannot work: an address nobody can have, a gateway on none of our networks, an MTU
    /// below 576 bytes (or, with IPv6 addresses, below 1280).
    pub fn new(device: Box<dyn Device>, config: StackConfig) -> io::Result<Stack> {
        let capabilities = device.capabilities();
        let mtu = config.mtu.map_or(capabilities.mtu, |mtu| mtu.min(capabilities.mtu));
        if mtu < MIN_MTU {
            let message = format!("mtu {mtu} of {}: IPv4 needs at least {MIN_MTU}", device.name());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let v6_mtu = crate::wire::ipv6::MIN_MTU;
        // RFC 8200 §5: a link with a smaller MTU does not carry IPv6. Asked for it by name, say so; else do without.
        let mut config = config;
        if mtu < v6_mtu {
            if let Some(address) = config.addresses.iter().find(|cidr| cidr.address().is_ipv6()) {
                let message =
                    format!("mtu {mtu} of {}: IPv6 ({address}) needs at least {v6_mtu}", device.name());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
            (config.link_local, config.router_discovery) = (false, false);
        }
        let mut random = Random::new(config.secret);
        let routes = Routes::new(&config, Mac(capabilities.mac))?;
        let pool_slots = device.pool().stats().slots;
        let mut egress = Egress::new(&*device, &config, routes, mtu, &mut random);
        let autoconf = Autoconf::new(&config, &mut egress, &mut random);
        let mut stack = Stack {
            autoconf,
            groups: Groups::new(&mut random),
            told: None,
            reports_own_groups: config.detect_duplicates,
            egress,
            tcp: Tcp::new(config.tcp, random.next_key(), Instant::ZERO),
            udp: Udp::new(&config.limits, pool_slots, device.capabilities().spread.as_ref(), &mut random),
            icmp_limiter: Limiter::new(config.limits.icmp_errors_per_second, &mut random),
            reassembly: Reassembly::new(config.limits.reassembly(pool_slots), Keyed::new(&mut random)),
            parker: Parker::new(),
            rx: Vec::with_capacity(config.limits.rx_burst),
            train: Vec::new(),
            rx_burst: config.limits.rx_burst.max(1),
            gone: None,
            device,
        };
        stack.tell_device()?;
        stack.set_alarm();
        Ok(stack)
    }

    /// Name servers that a lease or a router told of.
    pub fn name_servers(&self) -> Vec<IpAddr> {
        self.autoconf.name_servers()
    }

    /// The domain to look names up in, if a lease names one.
    pub fn domain(&self) -> Option<&str> {
        self.autoconf.domain()
    }

    /// Counters since the stack was made, TCP's apart.
    pub fn stats(&self) -> Stats {
        let mut stats = self.egress.stats;
        let neighbors = self.egress.neighbors.counters;
        stats.link.neighbor_failures = neighbors.failures;
        stats.link.neighbor_queue_drops = neighbors.queue_drops;
        stats.link.neighbor_table_overflows = neighbors.table_overflows;
        stats
    }

    /// For how many connections at a time a listener takes data with the SYN (RFC 7413), from now on.
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    pub fn set_fast_open(
        &mut self,
        listener: demi_drivers::transport::ListenerId,
        queue: Option<u32>,
    ) -> io::Result<()> {
        self.tcp.set_fast_open(listener, queue)
    }

    /// How long a listener waits for data with the end of a handshake (`TCP_DEFER_ACCEPT`), from now on.
    ///
    /// # Errors
    /// `NotConnected` when it is closed.
    pub fn set_defer_accept(
        &mut self,
        listener: demi_drivers::transport::ListenerId,
        wait: Option<Duration>,
    ) -> io::Result<()> {
        self.tcp.set_defer_accept(listener, wait)
    }

    /// TCP's counters since the stack was made.
    pub fn tcp_stats(&self) -> &TcpStats {
        self.tcp.stats()
    }

    /// The device below.
    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// Largest IP packet, in bytes, that the stack sends.
    pub fn mtu(&self) -> u16 {
        self.egress.mtu
    }

    pub(crate) fn poll_once(&mut self, now: Instant) -> io::Result<usize> {
        self.egress.now = now;
        self.check_alive()?;
        let received = self.device.rx_burst(now, &mut self.rx, self.rx_burst);
        let mut events = self.rx.len();
        if events > 0 {
            self.take_burst();
        }
        if let Err(error) = received {
            return Err(self.fail(error));
        }
        let at_rest = self.egress.loopback.is_empty()
            && !self.egress.neighbors.is_due(now)
            && self.tcp.is_quiet(now)
            && !self.udp.has_senders();
        if !at_rest {
            events += self.poll_due(now);
        }
        Ok(events)
    }

    /// Does what there is to do besides frames: what we have sent to ourselves, timers, room for those who wait to send.
    #[cold]
    #[inline(never)]
    fn poll_due(&mut self, now: Instant) -> usize {
        let mut events = 0;
        if !self.egress.loopback.is_empty() {
            events += self.take_loopback();
        }
        if self.egress.neighbors.is_due(now) {
            events += self.poll_rare();
        }
        events += self.tcp.poll_timers(now, &mut self.egress);
        self.wake_senders();
        events
    }

    /// Runs the timers of all that is off the datapath: neighbours, reassembly, addresses, groups.
    #[cold]
    #[inline(never)]
    fn poll_rare(&mut self) -> usize {
        let mut events = self.egress.poll_neighbors();
        self.report_unreachable();
        events += self.poll_reassembly();
        for silent in core::mem::take(&mut self.egress.neighbors.lost) {
            if let IpAddr::V6(silent) = silent {
                self.autoconf.on_router_lost(&mut self.egress, silent, false);
            }
        }
        events += self.autoconf.poll(&mut self.egress);
        if self.reports_own_groups {
            self.groups.follow_addresses(&mut self.egress);
        }
        events += self.groups.poll(&mut self.egress);
        self.set_alarm();
        events
    }

    /// Tells the device which addresses and groups are ours, if others are than it was told last.
    fn tell_device(&mut self) -> io::Result<()> {
        let routes = &self.egress.routes;
        let now = Some((routes.changes, routes.group_changes));
        if self.told != now {
            self.device.set_addresses(&routes.listened_to())?;
            self.told = now;
        }
        Ok(())
    }

    /// Tells the host's other stacks what is leased, if they do not know.
    fn tell_fellows(&mut self) {
        let now = self.egress.now;
        if let Some(notice) = self.autoconf.news(now) {
            let told = self.device.tell_fellows(notice);
            self.autoconf.told(now, told);
        }
    }

    /// Sees that [`poll_rare`](Self::poll_rare) runs when something of it is due: called by whoever sets a deadline of it.
    pub(crate) fn set_alarm(&mut self) {
        // What the device cannot take now (its kernel is short of memory), it is told again next time.
        let _ = self.tell_device();
        self.tell_fellows();
        let alarm = self.reassembly.deadline().min(self.autoconf.deadline()).min(self.groups.deadline());
        self.egress.neighbors.set_alarm(alarm);
    }

    #[inline(never)]
    fn take_burst(&mut self) {
        if self.egress.pool.is_scarce() {
            self.take_scarce();
        } else if self.rx.len() > 1 {
            self.take_trains();
        } else if let Some(frame) = self.rx.pop() {
            self.on_frame(frame);
        }
    }

    /// Takes a burst while memory is short: each frame the general way, where it is asked who may keep what arrives.
    #[cold]
    #[inline(never)]
    fn take_scarce(&mut self) {
        self.tcp.look_at_memory(&self.egress.pool, self.rx.len());
        self.rx.reverse();
        while let Some(frame) = self.rx.pop() {
            self.on_any(frame);
        }
        self.tcp.forget_memory();
    }

    /// Takes a burst of several frames.
    #[inline(never)]
    fn take_trains(&mut self) {
        // Taken from the end, which moves nothing.
        self.rx.reverse();
        let crowded = self.tcp.is_crowded();
        if crowded {
            self.look_ahead_at_first();
        }
        while let Some(frame) = self.rx.pop() {
            if crowded {
                self.look_ahead();
            }
            self.on_train(frame);
        }
    }

    /// Takes the packets we have sent to ourselves; what they cause to be sent there is for the next turn.
    #[inline(never)]
    fn take_loopback(&mut self) -> usize {
        let looped = self.egress.loopback.len();
        self.tcp.look_at_memory(&self.egress.pool, looped);
        for _ in 0..looped {
            if let Some(packet) = self.egress.loopback.pop_front() {
                self.on_loopback(packet);
            }
        }
        self.tcp.forget_memory();
        looped
    }

    pub(crate) fn flush_once(&mut self, now: Instant) -> io::Result<()> {
        self.egress.now = now;
        self.check_alive()?;
        if self.egress.tx.is_empty() && !self.tcp.wants_flush() {
            self.wake_senders();
            return Ok(());
        }
        self.send_burst(now)
    }

    #[inline(never)]
    fn send_burst(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..FLUSH_ROUNDS {
            self.tcp.flush(now, &mut self.egress);
            if self.egress.tx.is_empty() {
                break;
            }
            match self.device.tx_burst(now, &mut self.egress.tx) {
                Ok(sent) => self.egress.stats.link.out_frames += sent as u64,
                Err(error) => return Err(self.fail(error)),
            }
            self.egress.backlogged = !self.egress.tx.is_empty();
            if self.egress.backlogged || !self.tcp.wants_flush() {
                break;
            }
        }
        self.wake_senders();
        Ok(())
    }

    #[inline(always)]
    fn wake_senders(&mut self) {
        if self.udp.has_senders() {
            self.wake_waiting_senders();
        }
    }

    #[cold]
    #[inline(never)]
    fn wake_waiting_senders(&mut self) {
        if self.egress.tx.room() > 0 {
            self.udp.wake_senders();
        }
    }

    /// Tells the flows of packets whose neighbour did not answer (RFC 1122 §2.3.2.2: report it to the layers above).
    fn report_unreachable(&mut self) {
        let mut failed = core::mem::take(&mut self.egress.failed);
        for packet in failed.drain(..) {
            let head = packet.parts.first();
            if let Some(quoted) = head.and_then(|head| icmp::quoted(head)) {
                if quoted.protocol == crate::wire::protocol::UDP {
                    self.udp.on_error(&quoted.flow, io::ErrorKind::HostUnreachable);
                } else {
                    self.tcp.on_unresolved(self.egress.now, &quoted.flow, quoted.seq);
                }
            }
        }
        self.egress.failed = failed;
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if self.gone.is_some() {
            return None;
        }
        let now = self.egress.now;
        let own = (!self.egress.loopback.is_empty()).then_some(now);
        // A device with a descriptor ends the wait when it has room; without one, and for lack of slots, ask again soon.
        let full = !self.egress.tx.is_empty()
            && (self.device.max_wait().is_some() || self.device.wait_fd().is_none());
        let starved = self.egress.tx.is_empty() && self.tcp.wants_flush();
        let retry = (full || starved).then(|| now + TX_RETRY);
        let deadlines =
            [own, retry, self.egress.neighbors.deadline(), self.tcp.deadline(), self.device.deadline()];
        deadlines.into_iter().flatten().min()
    }

    pub(crate) fn park_on_device(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let fd = if self.gone.is_none() { self.device.wait_fd() } else { None };
        let limit = if self.gone.is_none() { self.device.max_wait() } else { None };
        if let Some(limit) = limit {
            return self.parker.park(fd, Some(timeout.map_or(limit, |timeout| timeout.min(limit))));
        }
        if self.egress.tx.is_empty() {
            self.parker.park(fd, timeout)
        } else {
            self.parker.park_for_room(fd, timeout)
        }
    }

    /// The descriptor that tells of frames. That of a device which is gone would end every wait at once; one that has to be asked for before
    /// each wait is of no use to others.
    pub(crate) fn live_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.gone.is_none() && self.device.max_wait().is_none() { self.device.wait_fd() } else { None }
    }

    /// Ends everything that was open over the device.
    #[cold]
    #[inline(never)]
    fn fail(&mut self, error: io::Error) -> io::Error {
        let gone = Rc::new(Gone::new(&error));
        self.gone = Some(Rc::clone(&gone));
        self.tcp.fail_all(self.egress.now, &gone);
        self.udp.fail_all(&gone);
        self.egress.clear();
        error
    }

    /// An error once the device is gone.
    #[inline]
    pub(crate) fn check_alive(&self) -> io::Result<()> {
        if self.gone.is_some() { self.failure() } else { Ok(()) }
    }

    #[cold]
    #[inline(never)]
    fn failure(&self) -> io::Result<()> {
        self.gone.as_ref().map_or(Ok(()), |gone| Err(gone.to_error()))
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("device", &self.device.name())
            .field("addresses", &self.egress.routes.addresses().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
