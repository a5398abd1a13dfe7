//! Which multicast groups the interface is in, for whom, and what routers and switches are told of it (RFC 3376, RFC 3810).
//!
//! Owns the memberships of sockets with their source filters, and of our IPv6 addresses' own groups; from them follows the state
//! of the interface, which [`Routes`](crate::route) filter by. Every change of it is reported twice, queries are answered once each and
//! not at once, and a router that speaks an older version is answered in that. Bounded in memberships, sources, and reports in
//! waiting: one a group.

use core::time::Duration;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use demi_drivers::Instant;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::addr::key_of;
use crate::egress::Egress;
use crate::hash::{Keyed, Random};
use crate::link_out::Own;
use crate::wire::ethernet::Mac;
use crate::wire::membership::{
    Change, Query, REPORT_HEADER, Record, finish_igmp, finish_mld, old_igmp, old_mld,
};
use crate::wire::protocol;

/// Where version 3 of IGMP and 2 of MLD are spoken, and where their predecessors say farewell.
const IGMP_ROUTERS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_ROUTERS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 2);
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const ALL_ROUTERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Times a change is reported, and upper bound of the time between two (RFC 3376 §8.1, §8.11).
const ROBUSTNESS: u8 = 2;
const UNSOLICITED_MS: u32 = 1_000;
/// How long a router of an older version is remembered: two query intervals and a response (RFC 3376 §8.12).
const OLD_ROUTER: Duration = Duration::from_secs(260);
/// Shortest time in which a query is answered: routers cannot make us repeat each of theirs.
const MIN_RESPONSE_MS: u32 = 100;
/// Groups of a socket (Linux's `igmp_max_memberships`), sources of a group of a socket, groups in all.
const MAX_OF_SOCKET: usize = 20;
const MAX_SOURCES: usize = 64;
const MAX_GROUPS: usize = 1024;
/// Bytes of records in one report.
const REPORT_BYTES: usize = 1200;

/// The sources somebody listens to; `None`: to all.
type Filter = Option<SmallVec<[IpAddr; 2]>>;

#[derive(Debug, Default)]
struct Group {
    /// Who listens to all sources: sockets, and addresses of ours.
    any: u32,
    /// Who listens to some, source by source.
    sources: SmallVec<[(IpAddr, u32); 2]>,
    /// Changes that are to be reported (again).
    changes: SmallVec<[Record; 1]>,
    times: u8,
    change_at: Option<Instant>,
    /// When the state is to be told to a router that asked.
    answer_at: Option<Instant>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.any == 0 && self.sources.is_empty()
    }

    fn filter(&self) -> Filter {
        (self.any == 0).then(|| self.sources.iter().map(|(source, _)| *source).collect())
    }

    fn deadline(&self) -> Option<Instant> {
        [self.change_at, self.answer_at].into_iter().flatten().min()
    }
}

/// The memberships.
#[derive(Debug)]
pub(crate) struct Groups {
    /// By socket and group.
    members: HashMap<(u32, u128), Filter, Keyed>,
    groups: HashMap<IpAddr, Group, Keyed>,
    /// Groups of our addresses that are reported.
    own: Vec<Ipv6Addr>,
    /// Until when routers speak an older version, and which: of IPv4, of IPv6.
    old: [Option<(Instant, u8)>; 2],
    next: Instant,
    random: Random,
}

impl Groups {
    pub(crate) fn new(random: &mut Random) -> Groups {
        let keyed = Keyed::new(random);
        Groups {
            members: HashMap::with_hasher(keyed),
            groups: HashMap::with_hasher(keyed),
            own: Vec::new(),
            old: [None; 2],
            next: Instant::FAR_FUTURE,
            random: Random::new(random.next_key()),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next
    }

    /// Whether the interface takes what `source` sends to `group`; in groups that everybody is in, it does.
    pub(crate) fn admits(&self, group: IpAddr, source: IpAddr) -> bool {
        self.groups
            .get(&group)
            .is_none_or(|state| state.any > 0 || state.sources.iter().any(|(wanted, _)| *wanted == source))
    }

    /// Whether the interface is in `group`.
    pub(crate) fn contains(&self, group: IpAddr) -> bool {
        self.groups.get(&group).is_some_and(|state| !state.is_empty())
    }

    /// Whether a socket wants what `source` sends to `group`. One that is in no such group takes what others have the interface
    /// listen to, as in Linux (`IP_MULTICAST_ALL`).
    #[inline]
    pub(crate) fn wants(&self, socket: u32, group: IpAddr, source: IpAddr) -> bool {
        match self.members.get(&(socket, key_of(group))) {
            Some(Some(sources)) => sources.contains(&source),
            Some(None) | None => true,
        }
    }

    /// Puts a socket into a group: for all of its sources, or for one (more).
    ///
    /// # Errors
    /// `AddrInUse` when it is already; `InvalidInput` for what is no group; `OutOfMemory` at the bounds.
    pub(crate) fn join(
        &mut self,
        egress: &mut Egress,
        socket: u32,
        group: IpAddr,
        source: Option<IpAddr>,
    ) -> io::Result<()> {
        check(group, source)?;
        let key = (socket, key_of(group));
        match (self.members.get_mut(&key), source) {
            (None, _) => {
                let of_socket = self.members.keys().filter(|(member, _)| *member == socket).count();
                if of_socket >= MAX_OF_SOCKET || self.groups.len() >= MAX_GROUPS {
                    let message = format!("{group}: a socket is in at most {MAX_OF_SOCKET} groups");
                    return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
                }
                self.members.insert(key, source.map(|source| SmallVec::from_slice(&[source])));
            }
            (Some(Some(sources)), Some(source)) if !sources.contains(&source) => {
                if sources.len() >= MAX_SOURCES {
                    let message = format!("{group}: a socket hears at most {MAX_SOURCES} sources of a group");
                    return Err(io::Error::new(io::ErrorKind::OutOfMemory, message));
                }
                sources.push(source);
            }
            // Linux says EADDRINUSE, too, also for one source of a group whose sources are all taken.
            _ => {
                let message = format!("the socket is in the group {group} already");
                return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
            }
        }
        self.add(egress, group, source);
        Ok(())
    }

    /// Takes a socket out of a group, or out of one source of it.
    ///
    /// # Errors
    /// `AddrNotAvailable` when it is not in it; `InvalidInput` for what is no group.
    pub(crate) fn leave(
        &mut self,
        egress: &mut Egress,
        socket: u32,
        group: IpAddr,
        source: Option<IpAddr>,
    ) -> io::Result<()> {
        check(group, source)?;
        let absent = || {
            let message = format!("the socket is not in the group {group}");
            io::Error::new(io::ErrorKind::AddrNotAvailable, message)
        };
        let key = (socket, key_of(group));
        let filter = self.members.get_mut(&key).ok_or_else(absent)?;
        let left: SmallVec<[Option<IpAddr>; 2]> = match (&mut *filter, source) {
            (None, None) => SmallVec::from_slice(&[None]),
            (Some(sources), None) => sources.drain(..).map(Some).collect(),
            (Some(sources), Some(source)) => {
                let at = sources.iter().position(|other| *other == source).ok_or_else(absent)?;
                SmallVec::from_slice(&[Some(sources.remove(at))])
            }
            (None, Some(_)) => return Err(absent()),
        };
        if filter.as_ref().is_none_or(|sources| sources.is_empty()) {
            self.members.remove(&key);
        }
        for source in left {
            self.remove(egress, group, source);
        }
        Ok(())
    }

    /// Takes a socket that is closed out of all of its groups.
    pub(crate) fn leave_all(&mut self, egress: &mut Egress, socket: u32) {
        if self.members.is_empty() {
            return;
        }
        let keys: SmallVec<[(u32, u128); 4]> =
            self.members.keys().filter(|(member, _)| *member == socket).copied().collect();
        for key in keys {
            let group = crate::addr::canonical(IpAddr::V6(Ipv6Addr::from_bits(key.1)));
            // It is in the group: the key says so.
            let _ = self.leave(egress, socket, group, None);
        }
    }

    /// Reports the groups of our IPv6 addresses: switches that listen pass on what was asked for alone (RFC 4862 §5.4.2).
    pub(crate) fn follow_addresses(&mut self, egress: &mut Egress) {
        let wanted: Vec<Ipv6Addr> = egress.routes.address_groups().collect();
        if wanted == self.own {
            return;
        }
        let before = core::mem::replace(&mut self.own, wanted.clone());
        for group in wanted.iter().filter(|group| !before.contains(group)) {
            self.add(egress, IpAddr::V6(*group), None);
        }
        for group in before.iter().filter(|group| !wanted.contains(group)) {
            self.remove(egress, IpAddr::V6(*group), None);
        }
    }

    // ---- the interface's state ----

    fn add(&mut self, egress: &mut Egress, group: IpAddr, source: Option<IpAddr>) {
        let state = self.groups.entry(group).or_default();
        // Nobody in it is the same as some who listen to no source.
        let (before, fresh) = (state.filter(), state.is_empty());
        match source {
            None => state.any += 1,
            Some(source) => match state.sources.iter_mut().find(|(other, _)| *other == source) {
                Some((_, users)) => *users += 1,
                None => state.sources.push((source, 1)),
            },
        }
        if fresh {
            egress.routes.join(group);
        }
        self.changed(egress, group, before);
    }

    fn remove(&mut self, egress: &mut Egress, group: IpAddr, source: Option<IpAddr>) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let before = state.filter();
        match source {
            None => state.any = state.any.saturating_sub(1),
            Some(source) => {
                for (other, users) in &mut state.sources {
                    *users -= u32::from(*other == source);
                }
                state.sources.retain(|(_, users)| *users > 0);
            }
        }
        if state.is_empty() {
            egress.routes.leave(group);
        }
        self.changed(egress, group, before);
    }

    /// Reports what is different from `before` (RFC 3376 §5.1).
    fn changed(&mut self, egress: &mut Egress, group: IpAddr, before: Filter) {
        let Some(state) = self.groups.get_mut(&group) else { return };
        let record = |change, sources| Record { change, group, sources };
        let mut changes: SmallVec<[Record; 1]> = SmallVec::new();
        match (before, state.filter()) {
            (None, None) => {}
            (None, Some(now)) => changes.push(record(Change::ToInclude, now)),
            (Some(_), None) => changes.push(record(Change::ToExclude, SmallVec::new())),
            (Some(before), Some(now)) => {
                let more: SmallVec<_> =
                    now.iter().filter(|source| !before.contains(source)).copied().collect();
                let less: SmallVec<_> =
                    before.iter().filter(|source| !now.contains(source)).copied().collect();
                for (change, sources) in [(Change::Allow, more), (Change::Block, less)] {
                    if !sources.is_empty() {
                        changes.push(record(change, sources));
                    }
                }
            }
        }
        if changes.is_empty() || is_silent(group) {
            if state.is_empty() {
                self.groups.remove(&group);
            }
            return;
        }
        (state.changes, state.times, state.change_at) = (changes, ROBUSTNESS, Some(egress.now));
        self.next = self.next.min(egress.now);
    }

    // ---- queries ----

    /// A router asks.
    pub(crate) fn on_query(&mut self, now: Instant, query: &Query, v6: bool) {
        let newest = if v6 { 2 } else { 3 };
        if query.version < newest {
            self.old[usize::from(v6)] = Some((now + OLD_ROUTER, query.version));
        }
        let max_ms = (query.max_response.as_millis() as u32).max(MIN_RESPONSE_MS);
        for (group, state) in &mut self.groups {
            let asked = query.group.is_none_or(|asked| asked == *group);
            if !asked || group.is_ipv6() != v6 || state.is_empty() || is_silent(*group) {
                continue;
            }
            let delay = MIN_RESPONSE_MS + self.random.below(max_ms - MIN_RESPONSE_MS + 1);
            let at = now + Duration::from_millis(delay.into());
            let at = state.answer_at.map_or(at, |before| before.min(at));
            state.answer_at = Some(at);
            self.next = self.next.min(at);
        }
    }

    /// Sends the reports that are due.
    pub(crate) fn poll(&mut self, egress: &mut Egress) -> usize {
        let now = egress.now;
        if now < self.next {
            return 0;
        }
        let mut records: [Vec<Record>; 2] = [Vec::new(), Vec::new()];
        for (group, state) in &mut self.groups {
            let records = &mut records[usize::from(group.is_ipv6())];
            if state.change_at.is_some_and(|at| now >= at) {
                records.extend(state.changes.iter().cloned());
                state.times -= 1;
                let delay = Duration::from_millis((1 + self.random.below(UNSOLICITED_MS)).into());
                state.change_at = (state.times > 0).then_some(now + delay);
            }
            if state.answer_at.is_some_and(|at| now >= at) {
                state.answer_at = None;
                let (change, sources) = match state.filter() {
                    None => (Change::IsExclude, SmallVec::new()),
                    Some(sources) => (Change::IsInclude, sources),
                };
                records.push(Record { change, group: *group, sources });
            }
        }
        self.groups.retain(|_, state| !state.is_empty() || state.change_at.is_some());
        let deadlines = self.groups.values().filter_map(Group::deadline);
        self.next = deadlines.min().unwrap_or(Instant::FAR_FUTURE);
        for (v6, records) in [false, true].into_iter().zip(records) {
            self.report(egress, v6, &records);
        }
        1
    }

    fn report(&mut self, egress: &mut Egress, v6: bool, records: &[Record]) {
        let old = &mut self.old[usize::from(v6)];
        *old = old.filter(|(until, _)| egress.now < *until);
        let version = old.map(|(_, version)| version);
        let mut message = vec![0; REPORT_HEADER];
        let mut count = 0;
        for record in records {
            if let Some(version) = version {
                let leaves = self.groups.get(&record.group).is_none_or(Group::is_empty);
                report_old(egress, record.group, leaves, version);
                continue;
            }
            if message.len() + record.len() > REPORT_BYTES && count > 0 {
                send(egress, v6, &mut message, count);
                message.truncate(REPORT_HEADER);
                count = 0;
            }
            record.emit(&mut message);
            count += 1;
        }
        if count > 0 {
            send(egress, v6, &mut message, count);
        }
    }
}

fn check(group: IpAddr, source: Option<IpAddr>) -> io::Result<()> {
    let fits = group.is_multicast()
        && source.is_none_or(|source| {
            source.is_ipv4() == group.is_ipv4() && !source.is_multicast() && !source.is_unspecified()
        });
    if fits {
        return Ok(());
    }
    let source = source.map_or(String::new(), |source| format!(" of source {source}"));
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{group}{source} is no multicast group")))
}

/// Groups that are never reported: those of all hosts, and those that do not leave the interface (RFC 3376 §4.2.17, RFC 3810
/// §6).
fn is_silent(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(v4) => v4 == Ipv4Addr::new(224, 0, 0, 1),
        IpAddr::V6(v6) => v6.octets()[1] & 0x0f < 2 || v6 == crate::route::ALL_NODES,
    }
}

/// Our address on the link, or none (RFC 3376 §4.2.13, RFC 3810 §5.2.13).
fn source_v6(egress: &Egress) -> Ipv6Addr {
    let link_local = egress.routes.addresses().find_map(|address| match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
        _ => None,
    });
    link_local.unwrap_or(Ipv6Addr::UNSPECIFIED)
}

fn source_v4(egress: &Egress) -> Ipv4Addr {
    let own = egress.routes.addresses().find_map(|address| match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    });
    own.unwrap_or(Ipv4Addr::UNSPECIFIED)
}

fn send(egress: &mut Egress, v6: bool, message: &mut [u8], records: u16) {
    if v6 {
        let src = source_v6(egress);
        finish_mld(message, records, src, MLD_ROUTERS);
        send_v6(egress, src, MLD_ROUTERS, message);
    } else {
        finish_igmp(message, records);
        send_v4(egress, IGMP_ROUTERS, message);
    }
}

/// Tells an older router, which knows groups and no sources (RFC 3376 §7.2.1, RFC 3810 §8.2.1).
fn report_old(egress: &mut Egress, group: IpAddr, leaves: bool, version: u8) {
    match group {
        IpAddr::V4(group) if !leaves => send_v4(egress, group, &old_igmp(false, group)),
        // IGMPv1 knows no farewell.
        IpAddr::V4(group) if version == 2 => send_v4(egress, ALL_ROUTERS_V4, &old_igmp(true, group)),
        IpAddr::V4(_) => {}
        IpAddr::V6(group) => {
            let src = source_v6(egress);
            let dst = if leaves { ALL_ROUTERS_V6 } else { group };
            send_v6(egress, src, dst, &old_mld(leaves, group, src, dst));
        }
    }
}

/// RFC 3376 §4: hop limit 1, router alert, precedence of network control.
fn send_v4(egress: &mut Egress, dst: Ipv4Addr, message: &[u8]) {
    let src = source_v4(egress);
    let own = Own { src, dst, protocol: protocol::IGMP, ttl: 1, tos: 0xc0, alert: true };
    egress.stats.v4.ip.out_mcast_reports += 1;
    egress.send_own_v4(Mac::for_multicast_v4(dst), &own, message);
}

/// RFC 3810 §5
fn send_v6(egress: &mut Egress, src: Ipv6Addr, dst: Ipv6Addr, message: &[u8]) {
    let own = Own { src, dst, protocol: protocol::ICMPV6, ttl: 1, tos: 0, alert: true };
    egress.stats.v6.ip.out_mcast_reports += 1;
    egress.stats.v6.icmp.out_msgs += 1;
    egress.send_own_v6(Mac::for_multicast_v6(dst), &own, message);
}
