//! Listening sockets: which one a SYN is for, and how many handshakes and finished connections may wait at it.
//!
//! Half-open connections and those waiting to be accepted are counted apart, each against the backlog. A connection that has
//! been accepted is nobody's backlog any more. As Linux, a listener with a backlog of N lets N connections wait to be accepted, and
//! N - 1 be half-open. What a SYN that finds no room is answered, the [handshake](super::handshake) decides.

use core::task::Waker;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use demi_drivers::Instant;
use demi_drivers::transport::{Handle, ListenOptions, StreamOptions};
use smallvec::SmallVec;

use super::slots::Slots;

/// One listening socket.
pub(crate) struct Listener {
    pub(crate) local: SocketAddr,
    pub(crate) options: ListenOptions,
    /// The options of its connections, for all of them to share.
    pub(crate) stream: Rc<StreamOptions>,
    /// Connections whose handshake is under way.
    pub(crate) half_open: u32,
    /// When a SYN was last answered with a cookie.
    pub(crate) cookies_at: Option<Instant>,
    /// Connections made of a SYN with data whose handshake is not done.
    pub(crate) fast_opens: u32,
    /// When those of them that were reset are forgotten (RFC 7413 §5.1).
    pub(crate) fast_open_resets: VecDeque<Instant>,
    /// Connections that wait to be accepted, oldest first.
    pub(crate) ready: VecDeque<Handle>,
    pub(crate) waker: Option<Waker>,
}

impl Listener {
    /// Whether another handshake may begin and be remembered.
    pub(crate) fn takes_syn(&self) -> bool {
        self.half_open < self.syn_backlog()
    }

    /// Handshakes that may be under way.
    pub(crate) fn syn_backlog(&self) -> u32 {
        self.options.backlog.saturating_sub(1).max(1)
    }

    /// Whether another finished handshake may wait to be accepted.
    pub(crate) fn takes_connection(&self) -> bool {
        self.ready.len() < self.options.backlog.max(1) as usize
    }

    /// Timeouts of a SYN-ACK for which the end of a handshake has to bring data (Linux counts `TCP_DEFER_ACCEPT` so); 0: it has
    /// not. The first timeout comes after `initial_ns`, the others after twice the one before, at most `max_ns`.
    pub(crate) fn deferred_timeouts(&self, initial_ns: u64, max_ns: u64) -> u8 {
        let Some(wait) = self.options.defer_accept.filter(|wait| !wait.is_zero()) else { return 0 };
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let (mut timeouts, mut step_ns, mut passed_ns) = (1u8, initial_ns, initial_ns);
        while wait_ns > passed_ns && timeouts < u8::MAX {
            timeouts += 1;
            step_ns = step_ns.saturating_mul(2).min(max_ns);
            passed_ns = passed_ns.saturating_add(step_ns);
        }
        timeouts
    }

    /// Whether another SYN's data may be taken, of at most `limit` at a time.
    pub(crate) fn takes_fast_open(&mut self, limit: u32, now: Instant) -> bool {
        while self.fast_open_resets.front().is_some_and(|&end| end <= now) {
            self.fast_open_resets.pop_front();
        }
        (self.fast_opens as usize).saturating_add(self.fast_open_resets.len()) < limit as usize
    }

    /// How well the listener fits a segment to `dst`; `None`: not at all.
    fn fit(&self, dst: IpAddr) -> Option<u8> {
        let bound = self.local.ip();
        if bound == dst {
            return Some(2);
        }
        if !bound.is_unspecified() {
            return None;
        }
        match (bound.is_ipv6(), dst.is_ipv6()) {
            (true, true) | (false, false) => Some(1),
            (true, false) if !self.options.only_v6 => Some(0),
            _ => None,
        }
    }

    /// Whether both could be meant by one segment.
    fn overlaps(&self, local: SocketAddr, only_v6: bool) -> bool {
        let (a, b) = (self.local.ip(), local.ip());
        if a.is_ipv6() == b.is_ipv6() {
            return a == b || a.is_unspecified() || b.is_unspecified();
        }
        // An unspecified IPv6 address that is not for IPv6 only is IPv4's unspecified one, too.
        let dual = |ip: IpAddr, only_v6: bool| ip.is_ipv6() && ip.is_unspecified() && !only_v6;
        dual(a, self.options.only_v6) || dual(b, only_v6)
    }
}

/// All listening sockets.
pub(crate) struct Listeners {
    pub(crate) slots: Slots<Listener>,
    by_port: BTreeMap<u16, SmallVec<[u32; 2]>>,
}

impl Listeners {
    /// No listeners, and at most `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Listeners { slots: Slots::new(limit), by_port: BTreeMap::new() }
    }

    /// Whether a listener at `local` would clash with one that is there.
    pub(crate) fn clashes(&self, local: SocketAddr, options: &ListenOptions) -> bool {
        let Some(same_port) = self.by_port.get(&local.port()) else { return false };
        same_port.iter().filter_map(|&index| self.slots.at(index)).any(|other| {
            let shared = options.stream.reuse_port && other.options.stream.reuse_port;
            !shared && other.overlaps(local, options.only_v6)
        })
    }

    /// Adds a listener; `None` when there are too many.
    pub(crate) fn insert(&mut self, local: SocketAddr, options: &ListenOptions) -> Option<Handle> {
        let listener = Listener {
            local,
            stream: Rc::new(options.stream.clone()),
            options: options.clone(),
            half_open: 0,
            cookies_at: None,
            fast_opens: 0,
            fast_open_resets: VecDeque::new(),
            ready: VecDeque::new(),
            waker: None,
        };
        let handle = self.slots.insert(listener).ok()?;
        self.by_port.entry(local.port()).or_default().push(handle.index);
        Some(handle)
    }

    /// Takes a listener out.
    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Listener> {
        let port = self.slots.get(handle)?.local.port();
        if let Some(same_port) = self.by_port.get_mut(&port) {
            same_port.retain(|index| *index != handle.index);
            if same_port.is_empty() {
                self.by_port.remove(&port);
            }
        }
        self.slots.remove(handle.index)
    }

    /// The listener a segment to `dst` is for: the most specific one; of several alike, the one that `hash` falls on.
    pub(crate) fn find(&self, dst: IpAddr, port: u16, hash: u32) -> Option<Handle> {
        let same_port = self.by_port.get(&port)?;
        let fits = |index: u32| self.slots.at(index).and_then(|listener| listener.fit(dst));
        let best = same_port.iter().filter_map(|&index| fits(index)).max()?;
        let alike = || same_port.iter().copied().filter(|&index| fits(index) == Some(best));
        let count = alike().count().max(1);
        let chosen = alike().nth(hash as usize % count)?;
        self.slots.handle_of(chosen)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use demi_drivers::transport::StreamOptions;

    use super::*;

    fn add(all: &mut Listeners, local: &str, only_v6: bool, reuse_port: bool) -> Option<Handle> {
        let mut options = ListenOptions::default();
        options.only_v6 = only_v6;
        options.stream = StreamOptions::default();
        options.stream.reuse_port = reuse_port;
        let local = local.parse().unwrap();
        if all.clashes(local, &options) { None } else { all.insert(local, &options) }
    }

    #[test]
    fn a_wait_for_data_is_a_number_of_timeouts() {
        let mut all = Listeners::new(10);
        let place = add(&mut all, "0.0.0.0:80", false, false).unwrap();
        let timeouts = |wait: Option<Duration>, all: &mut Listeners| {
            let listener = all.slots.get_mut(place).unwrap();
            listener.options.defer_accept = wait;
            listener.deferred_timeouts(1_000_000_000, 120_000_000_000)
        };
        assert_eq!(timeouts(None, &mut all), 0);
        for (secs, expected) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4), (1 << 40, 255)] {
            assert_eq!(timeouts(Some(Duration::from_secs(secs)), &mut all), expected, "{secs} s");
        }
    }

    #[test]
    fn the_most_specific_listener_is_meant() {
        let mut all = Listeners::new(10);
        let any = add(&mut all, "[::]:80", true, false).unwrap();
        let any4 = add(&mut all, "0.0.0.0:81", false, false).unwrap();
        let one = add(&mut all, "10.0.0.1:80", false, false).unwrap();
        let find = |all: &Listeners, ip: &str, port| all.find(ip.parse().unwrap(), port, 0);
        assert_eq!(find(&all, "10.0.0.1", 80), Some(one));
        assert_eq!(find(&all, "10.0.0.2", 80), None, "for IPv6 only");
        assert_eq!(find(&all, "::1", 80), Some(any));
        assert_eq!(find(&all, "10.0.0.2", 81), Some(any4));
        assert_eq!(find(&all, "::1", 81), None);
        all.remove(any);
        assert_eq!(find(&all, "::1", 80), None);
    }

    #[test]
    fn a_dual_stack_listener_takes_both_versions() {
        let mut all = Listeners::new(10);
        let any = add(&mut all, "[::]:80", false, false).unwrap();
        assert_eq!(all.find("10.0.0.1".parse().unwrap(), 80, 0), Some(any));
        assert!(add(&mut all, "0.0.0.0:80", false, false).is_none(), "taken");
        assert!(add(&mut all, "10.0.0.1:80", false, false).is_none(), "taken");
    }

    #[test]
    fn listeners_that_share_a_port_share_the_flows() {
        let mut all = Listeners::new(10);
        let a = add(&mut all, "0.0.0.0:80", false, true).unwrap();
        let b = add(&mut all, "0.0.0.0:80", false, true).unwrap();
        assert!(add(&mut all, "0.0.0.0:80", false, false).is_none(), "one that does not share");
        let found: Vec<_> =
            (0..4).map(|hash| all.find("1.2.3.4".parse().unwrap(), 80, hash).unwrap()).collect();
        assert_eq!(found, [a, b, a, b]);
    }
}
