//! Link addresses of neighbours, for both IP versions: what ARP (RFC 826) and neighbour discovery (RFC 4861) fill in.
//!
//! Owns the table, the packets that wait for an address, and the times to ask (again). Decides when to ask and what to believe;
//! never builds a packet: it answers with [`Solicit`]s, which the egress sends as ARP or ICMPv6. Everything is bounded: entries,
//! packets an entry and in all, the work of a lookup.
//!
//! ```text
//!            lookup                 answer                   30 s, unused
//!  (none) ──────────► Incomplete ────────────► Reachable ────────────────► Stale
//!                      │ 3 requests unanswered    ▲  │ 30 s, used            │ used, after 5 s
//!                      ▼                   answer │  ▼                       │
//!                   removed ◄──────────────────── Probe ◄────────────────────┘
//!                              3 unanswered
//! ```
//!
//! A connection remembers (slot, generation) of its neighbour next to its header template, and asks with one load and one
//! compare whether that still holds. The generation changes when the link address does, and when an entry turns stale: so the next
//! packet comes through [`lookup`](Neighbors::lookup), which sets the time of the probe.

use core::time::Duration;
use std::collections::VecDeque;
use std::net::IpAddr;

use demi_drivers::{Buf, Instant, Offload};
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::addr::key_of;
use crate::hash::Keyed;
use crate::wire::ethernet::Mac;

/// How long an address is trusted without another sign of life (RFC 4861 §10, REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);
/// Time between two solicitations (RFC 4861 §10, RETRANS_TIMER).
const RETRANS: Duration = Duration::from_secs(1);
/// How long a stale address is used before it is probed (RFC 4861 §10, DELAY_FIRST_PROBE_TIME).
const DELAY_FIRST_PROBE: Duration = Duration::from_secs(5);
/// Solicitations before a neighbour is given up (RFC 4861 §10, MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
const MAX_SOLICITS: u8 = 3;
/// Entries looked at to find one to evict: bounds what a flood of strangers can cost.
const EVICTION_STEPS: usize = 32;
/// Silent neighbours that are remembered until somebody asks for them.
const MAX_LOST: usize = 16;
/// Deadlines are rounded up to this, so that many entries expire in one scan.
const TICK_NANOS: u64 = 50_000_000;

/// The slot of packets to our own addresses.
pub(crate) const LOOPBACK: u16 = 0;
/// The slot of packets to groups, whose link address is computed.
pub(crate) const GROUP: u16 = 1;
/// Slots that are no neighbours.
const RESERVED: u16 = 2;

/// A packet that waits for a link address: its parts without the Ethernet header.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) parts: SmallVec<[Buf; 2]>,
    /// As it will be for the whole frame.
    pub(crate) offload: Offload,
}

/// A solicitation to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Solicit {
    /// Whose link address is wanted.
    pub(crate) target: IpAddr,
    /// Where to ask: the neighbour itself, to see whether it is still there, or everybody.
    pub(crate) unicast: Option<Mac>,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The link address, valid as long as the slot's generation stays.
    Ready { slot: u16, generation: u32, mac: Mac },
    /// The address is being asked for: packets may wait in the slot.
    Unresolved { slot: u16 },
    /// There is no slot to be had.
    TableFull,
}

/// How a link address came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// It answers a question of ours.
    pub(crate) solicited: bool,
    /// It replaces what is cached (RFC 4861 §7.2.5); always so in ARP.
    pub(crate) overriding: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Loopback or group.
    Permanent,
    Incomplete,
    Reachable,
    Stale,
    Probe,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    state: State,
    /// A packet was sent here since the bit was last cleared.
    used: bool,
    solicits: u8,
    mac: Mac,
    address: IpAddr,
    deadline: Instant,
    waiting: VecDeque<Waiting>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Neighbors {
    entries: Vec<Entry>,
    slots: HashMap<u128, u16, Keyed>,
    free: Vec<u16>,
    /// Where the search for an entry to evict goes on.
    hand: usize,
    /// Not later than any entry's deadline, nor than `alarm`.
    next_deadline: Instant,
    /// When somebody else wants the stack's attention: one comparison a turn then serves all that is rare.
    alarm: Instant,
    waiting: usize,
    limits: NeighborLimits,
    /// Trust and patience in IPv6, which routers may change.
    reachable_v6: Duration,
    retrans_v6: Duration,
    /// Neighbours that stopped to answer, until somebody asks: one of them may have been a router.
    pub(crate) lost: SmallVec<[IpAddr; 4]>,
    pub(crate) counters: NeighborCounters,
}

/// Limits of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NeighborLimits {
    pub(crate) entries: u16,
    pub(crate) packets_per_entry: usize,
    pub(crate) packets: usize,
}

/// What the table has counted since the stack last collected it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NeighborCounters {
    pub(crate) failures: u64,
    pub(crate) queue_drops: u64,
    pub(crate) table_overflows: u64,
}

impl Neighbors {
    pub(crate) fn new(limits: NeighborLimits, keyed: Keyed) -> Neighbors {
        let mut neighbors = Neighbors {
            entries: Vec::new(),
            slots: HashMap::with_hasher(keyed),
            free: Vec::new(),
            hand: 0,
            next_deadline: Instant::FAR_FUTURE,
            alarm: Instant::FAR_FUTURE,
            waiting: 0,
            limits: NeighborLimits {
                entries: limits.entries.clamp(1, u16::MAX - RESERVED),
                packets_per_entry: limits.packets_per_entry,
                packets: limits.packets,
            },
            reachable_v6: REACHABLE,
            retrans_v6: RETRANS,
            lost: SmallVec::new(),
            counters: NeighborCounters::default(),
        };
        for _ in 0..RESERVED {
            neighbors.entries.push(Entry::new(State::Permanent));
        }
        neighbors
    }

    /// Whether what was found at `slot` still holds; counts as use of the entry.
    #[inline]
    pub(crate) fn is_current(&mut self, slot: u16, generation: u32) -> bool {
        match self.entries.get_mut(usize::from(slot)) {
            Some(entry) => {
                entry.used = true;
                entry.generation == generation
            }
            None => false,
        }
    }

    /// The generation of a permanent slot.
    pub(crate) fn generation(&self, slot: u16) -> u32 {
        self.entries.get(usize::from(slot)).map_or(0, |entry| entry.generation)
    }

    /// Makes everybody look his neighbour up again: routes or addresses have changed.
    pub(crate) fn forget_paths(&mut self) {
        self.entries.iter_mut().for_each(Entry::bump);
    }

    /// Takes a router's word for how long IPv6 neighbours are trusted and waited for (RFC 4861 §6.3.4); 0: as before. Within
    /// bounds: a router that lies is not to make us flood the link, nor believe for ever.
    pub(crate) fn set_times(&mut self, reachable_ms: u32, retrans_ms: u32) {
        let bounded = |ms: u32, low: u64, high: u64| Duration::from_millis(u64::from(ms).clamp(low, high));
        if reachable_ms != 0 {
            self.reachable_v6 = bounded(reachable_ms, 5_000, 3_600_000);
        }
        if retrans_ms != 0 {
            self.retrans_v6 = bounded(retrans_ms, 100, 10_000);
        }
    }

    /// Finds the link address of `address`, or begins to ask for it. The second value is a solicitation to send now.
    pub(crate) fn lookup(&mut self, now: Instant, address: IpAddr) -> (Found, Option<Solicit>) {
        let slot = match self.slots.get(&key_of(address)) {
            Some(slot) => *slot,
            None => {
                let Some(slot) = self.insert(address) else {
                    self.counters.table_overflows += 1;
                    return (Found::TableFull, None);
                };
                self.entry(slot).state = State::Incomplete;
                let solicit = self.solicit(now, slot);
                return (Found::Unresolved { slot }, solicit);
            }
        };
        let entry = self.entry(slot);
        entry.used = true;
        let ready = Found::Ready { slot, generation: entry.generation, mac: entry.mac };
        match entry.state {
            State::Incomplete => (Found::Unresolved { slot }, None),
            State::Stale => {
                entry.state = State::Probe;
                entry.solicits = 0;
                self.set_deadline(slot, now + DELAY_FIRST_PROBE);
                (ready, None)
            }
            _ => (ready, None),
        }
    }

    /// Lets a packet wait at an unresolved slot; the oldest there makes room.
    pub(crate) fn wait(&mut self, slot: u16, packet: Waiting) {
        let (per_entry, in_all) = (self.limits.packets_per_entry, self.limits.packets);
        let full = self.waiting >= in_all;
        let entry = self.entry(slot);
        if entry.state != State::Incomplete {
            return;
        }
        if entry.waiting.len() >= per_entry || full {
            let made_room = entry.waiting.pop_front().is_some();
            self.counters.queue_drops += 1;
            if !made_room {
                return;
            }
            self.waiting -= 1;
        }
        self.entry(slot).waiting.push_back(packet);
        self.waiting += 1;
    }

    /// Drops the packets that wait anywhere.
    pub(crate) fn drop_waiting(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.waiting.clear());
        self.waiting = 0;
    }

    /// A neighbour told its link address (ARP reply, neighbour advertisement, gratuitous ARP). Believed for known entries only.
    /// Answers the slot whose waiting packets can go, if any.
    pub(crate) fn advertised(
        &mut self,
        now: Instant,
        address: IpAddr,
        mac: Option<Mac>,
        evidence: Evidence,
    ) -> Option<u16> {
        let slot = *self.slots.get(&key_of(address))?;
        let entry = self.entry(slot);
        if entry.state == State::Incomplete {
            entry.mac = mac?;
            entry.bump();
            if evidence.solicited {
                self.reached(now, slot);
            } else {
                entry.state = State::Stale;
                entry.deadline = Instant::FAR_FUTURE;
            }
            return Some(slot);
        }
        let changes = mac.is_some_and(|mac| mac != entry.mac);
        if changes && !evidence.overriding {
            // RFC 4861 §7.2.5 I: doubt the entry, but keep its address.
            if entry.state == State::Reachable {
                entry.make_stale();
            }
            return None;
        }
        if let (true, Some(mac)) = (changes, mac) {
            entry.mac = mac;
            entry.bump();
        }
        if evidence.solicited {
            self.reached(now, slot);
        } else if changes {
            entry.make_stale();
        }
        None
    }

    /// A neighbour that asked for us told its link address on the way. Answers the slot whose waiting packets can go, if any.
    pub(crate) fn learned(&mut self, now: Instant, address: IpAddr, mac: Mac) -> Option<u16> {
        let unsolicited = Evidence { solicited: false, overriding: true };
        if self.slots.contains_key(&key_of(address)) {
            return self.advertised(now, address, Some(mac), unsolicited);
        }
        match self.insert(address) {
            Some(slot) => {
                let entry = self.entry(slot);
                entry.mac = mac;
                entry.state = State::Stale;
                entry.used = false;
            }
            None => self.counters.table_overflows += 1,
        }
        None
    }

    /// Takes the next packet that waits at `slot`.
    pub(crate) fn next_waiting(&mut self, slot: u16) -> Option<Waiting> {
        let packet = self.entries.get_mut(usize::from(slot))?.waiting.pop_front()?;
        self.waiting -= 1;
        Some(packet)
    }

    /// Link address at `slot`.
    pub(crate) fn mac(&self, slot: u16) -> Mac {
        self.entries.get(usize::from(slot)).map_or(Mac::default(), |entry| entry.mac)
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (self.next_deadline != Instant::FAR_FUTURE).then_some(self.next_deadline)
    }

    /// Makes the table due at `at`, too, for somebody else's sake; in place of what was set before.
    pub(crate) fn set_alarm(&mut self, at: Instant) {
        self.alarm = at;
        // Too early does no harm: the next poll puts it right.
        self.next_deadline = self.next_deadline.min(at);
    }

    /// Whether [`poll`](Self::poll), or whoever set the alarm, has something to do.
    #[inline]
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_deadline
    }

    /// Runs what is due: asks again, probes entries in use, forgets neighbours that do not answer. Their packets go to `failed`.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        mut ask: impl FnMut(Solicit),
        failed: &mut Vec<Waiting>,
    ) -> usize {
        if now < self.next_deadline {
            return 0;
        }
        self.next_deadline = self.alarm;
        let mut events = 0;
        for slot in RESERVED..self.entries.len() as u16 {
            if now >= self.entry(slot).deadline {
                events += 1;
                self.expire(now, slot, &mut ask, failed);
            }
            self.next_deadline = self.next_deadline.min(self.entry(slot).deadline);
        }
        events
    }

    fn expire(&mut self, now: Instant, slot: u16, ask: &mut impl FnMut(Solicit), failed: &mut Vec<Waiting>) {
        let entry = self.entry(slot);
        match entry.state {
            State::Reachable if entry.used => {
                entry.state = State::Probe;
                entry.solicits = 0;
                entry.used = false;
            }
            State::Reachable => return entry.make_stale(),
            State::Incomplete | State::Probe if entry.solicits < MAX_SOLICITS => {}
            State::Incomplete | State::Probe => {
                if self.lost.len() < MAX_LOST {
                    let address = self.entry(slot).address;
                    self.lost.push(address);
                }
                self.counters.failures += 1;
                while let Some(packet) = self.next_waiting(slot) {
                    failed.push(packet);
                }
                return self.remove(slot);
            }
            State::Free | State::Permanent | State::Stale => {
                entry.deadline = Instant::FAR_FUTURE;
                return;
            }
        }
        if let Some(solicit) = self.solicit(now, slot) {
            ask(solicit);
        }
    }

    /// Counts one more question and sets the time of the next.
    fn solicit(&mut self, now: Instant, slot: u16) -> Option<Solicit> {
        let v6 = self.entry(slot).address.is_ipv6();
        self.set_deadline(slot, now + if v6 { self.retrans_v6 } else { RETRANS });
        let entry = self.entry(slot);
        entry.solicits += 1;
        let unicast = (entry.state == State::Probe).then_some(entry.mac);
        Some(Solicit { target: entry.address, unicast })
    }

    fn reached(&mut self, now: Instant, slot: u16) {
        let entry = self.entry(slot);
        entry.state = State::Reachable;
        entry.solicits = 0;
        let v6 = entry.address.is_ipv6();
        self.set_deadline(slot, now + if v6 { self.reachable_v6 } else { REACHABLE });
    }

    fn set_deadline(&mut self, slot: u16, deadline: Instant) {
        let deadline =
            Instant::from_nanos(deadline.as_nanos().checked_next_multiple_of(TICK_NANOS).unwrap_or(u64::MAX));
        self.entry(slot).deadline = deadline;
        self.next_deadline = self.next_deadline.min(deadline);
    }

    /// A slot for `address`, evicting an entry that nobody has used for a while if need be.
    fn insert(&mut self, address: IpAddr) -> Option<u16> {
        let limit = usize::from(self.limits.entries) + usize::from(RESERVED);
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else if self.entries.len() < limit {
            self.entries.push(Entry::new(State::Free));
            (self.entries.len() - 1) as u16
        } else {
            let slot = self.evict()?;
            self.remove(slot);
            self.free.pop()?
        };
        let entry = self.entry(slot);
        entry.bump();
        entry.address = address;
        entry.used = true;
        entry.solicits = 0;
        entry.deadline = Instant::FAR_FUTURE;
        self.slots.insert(key_of(address), slot);
        Some(slot)
    }

    /// The clock algorithm, a bounded number of steps: an entry not used since the hand last passed it goes.
    fn evict(&mut self) -> Option<u16> {
        let count = self.entries.len() - usize::from(RESERVED);
        for _ in 0..EVICTION_STEPS.min(count * 2) {
            let slot = (self.hand % count) as u16 + RESERVED;
            self.hand = (self.hand + 1) % count;
            let entry = self.entry(slot);
            if entry.state == State::Incomplete {
                continue;
            }
            if !entry.used {
                return Some(slot);
            }
            entry.used = false;
        }
        None
    }

    fn remove(&mut self, slot: u16) {
        let entry = self.entry(slot);
        entry.bump();
        entry.state = State::Free;
        entry.deadline = Instant::FAR_FUTURE;
        let dropped = entry.waiting.len();
        entry.waiting.clear();
        let key = key_of(entry.address);
        self.waiting -= dropped;
        self.slots.remove(&key);
        self.free.push(slot);
    }

    /// The entry of a slot that this table has handed out. A slot it has not is answered with the loopback entry, whose state no
    /// operation changes.
    #[inline]
    fn entry(&mut self, slot: u16) -> &mut Entry {
        let slot = usize::from(slot);
        let slot = if slot < self.entries.len() { slot } else { usize::from(LOOPBACK) };
        &mut self.entries[slot]
    }
}

impl Entry {
    fn new(state: State) -> Entry {
        Entry {
            generation: 1,
            state,
            used: false,
            solicits: 0,
            mac: Mac::default(),
            address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            deadline: Instant::FAR_FUTURE,
            waiting: VecDeque::new(),
        }
    }

    /// Makes everybody who remembers this entry look it up again. 0 is what a path that was never looked up holds.
    fn bump(&mut self) {
        self.generation = self.generation.wrapping_add(1).max(1);
    }

    fn make_stale(&mut self) {
        self.state = State::Stale;
        self.deadline = Instant::FAR_FUTURE;
        self.bump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Random;

    const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
    const ANSWER: Evidence = Evidence { solicited: true, overriding: true };
    const GRATUITOUS: Evidence = Evidence { solicited: false, overriding: true };

    fn table(entries: u16) -> Neighbors {
        let limits = NeighborLimits { entries, packets_per_entry: 2, packets: 3 };
        Neighbors::new(limits, Keyed::new(&mut Random::new([3; 16])))
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    fn packet() -> Waiting {
        Waiting { parts: SmallVec::new(), offload: Offload::default() }
    }

    /// Runs due timers; answers what was asked and how many packets failed.
    fn poll(table: &mut Neighbors, now: Instant) -> (Vec<Solicit>, usize) {
        let (mut asked, mut failed) = (Vec::new(), Vec::new());
        table.poll(now, |solicit| asked.push(solicit), &mut failed);
        (asked, failed.len())
    }

    fn slot_of(found: Found) -> u16 {
        match found {
            Found::Ready { slot, .. } | Found::Unresolved { slot } => slot,
            Found::TableFull => panic!("no slot"),
        }
    }

    #[test]
    fn an_answer_resolves_and_lets_waiting_packets_go() {
        let mut table = table(8);
        let (found, ask) = table.lookup(at(0), ip(1));
        let slot = slot_of(found);
        assert_eq!(ask, Some(Solicit { target: ip(1), unicast: None }));
        assert_eq!(table.lookup(at(0), ip(1)), (Found::Unresolved { slot }, None), "it is being asked for");
        table.wait(slot, packet());
        assert_eq!(table.advertised(at(0), ip(1), Some(A), ANSWER), Some(slot));
        assert!(table.next_waiting(slot).is_some() && table.next_waiting(slot).is_none());
        let (Found::Ready { generation, mac, .. }, None) = table.lookup(at(1), ip(1)) else {
            panic!("not resolved")
        };
        assert_eq!(mac, A);
        assert!(table.is_current(slot, generation));
    }

    #[test]
    fn a_neighbour_that_never_answers_is_asked_three_times_and_given_up() {
        let mut table = table(8);
        let slot = slot_of(table.lookup(at(0), ip(1)).0);
        table.wait(slot, packet());
        let again = (vec![Solicit { target: ip(1), unicast: None }], 0);
        assert_eq!(poll(&mut table, Instant::from_millis(999)), (vec![], 0));
        assert_eq!(poll(&mut table, at(2)), again);
        assert_eq!(poll(&mut table, at(4)), again);
        assert_eq!(poll(&mut table, at(6)), (vec![], 1), "its packet is handed back");
        assert_eq!((table.counters.failures, table.deadline()), (1, None));
        assert!(table.lookup(at(7), ip(1)).1.is_some(), "and asked for anew when wanted again");
    }

    #[test]
    fn waiting_packets_are_bounded_and_the_oldest_goes() {
        let mut table = table(8);
        let (one, two) = (slot_of(table.lookup(at(0), ip(1)).0), slot_of(table.lookup(at(0), ip(2)).0));
        for _ in 0..5 {
            table.wait(one, packet());
        }
        assert_eq!((table.waiting, table.counters.queue_drops), (2, 3));
        table.wait(two, packet());
        table.wait(two, packet());
        assert_eq!((table.waiting, table.counters.queue_drops), (3, 4), "three in all");
    }

    #[test]
    fn an_entry_in_use_is_probed_and_an_unused_one_turns_stale() {
        let mut table = table(8);
        for last in [1, 2] {
            table.lookup(at(0), ip(last));
            table.advertised(at(0), ip(last), Some(A), ANSWER);
        }
        let Found::Ready { slot, generation, .. } = table.lookup(at(0), ip(1)).0 else { panic!("not ready") };
        table.entry(slot + 1).used = false;
        assert!(table.is_current(slot, generation));
        assert_eq!(poll(&mut table, at(31)).0, [Solicit { target: ip(1), unicast: Some(A) }]);
        assert!(table.is_current(slot, generation), "still good while it is probed");
        assert!(!table.is_current(slot + 1, generation), "the stale one is to be looked up again");
        let (found, ask) = table.lookup(at(32), ip(2));
        assert!(matches!(found, Found::Ready { mac: A, .. }), "stale, but used meanwhile");
        assert_eq!(ask, None, "not probed at once");
        table.advertised(at(32), ip(1), None, ANSWER);
        let probe = (vec![Solicit { target: ip(2), unicast: Some(A) }], 0);
        for seconds in [38, 40, 42] {
            assert_eq!(poll(&mut table, at(seconds)), probe);
        }
        poll(&mut table, at(44));
        assert!(table.is_current(slot, generation), "it answered");
        assert!(matches!(table.lookup(at(44), ip(2)).0, Found::Unresolved { .. }), "it did not");
    }

    #[test]
    fn unsolicited_addresses_change_known_entries_only() {
        let mut table = table(8);
        assert_eq!(table.advertised(at(0), ip(1), Some(A), GRATUITOUS), None);
        assert!(matches!(table.lookup(at(0), ip(1)).0, Found::Unresolved { .. }), "nothing was learnt");
        table.advertised(at(0), ip(1), Some(A), ANSWER);
        let Found::Ready { slot, generation, .. } = table.lookup(at(0), ip(1)).0 else { panic!("not ready") };
        let doubtful = Evidence { solicited: false, overriding: false };
        table.advertised(at(0), ip(1), Some(B), doubtful);
        let (found, _) = table.lookup(at(0), ip(1));
        assert!(matches!(found, Found::Ready { mac: A, .. }), "kept, but doubted");
        assert!(table.deadline() < Some(at(6)), "and to be probed soon");
        table.advertised(at(0), ip(1), Some(B), GRATUITOUS);
        assert!(!table.is_current(slot, generation));
        assert!(matches!(table.lookup(at(0), ip(1)).0, Found::Ready { mac: B, .. }));
    }

    #[test]
    fn strangers_push_out_strangers_and_never_what_is_in_use() {
        let mut table = table(4);
        table.lookup(at(0), ip(1));
        table.advertised(at(0), ip(1), Some(A), ANSWER);
        let Found::Ready { slot, generation, .. } = table.lookup(at(0), ip(1)).0 else { panic!("not ready") };
        for stranger in 0..=u8::MAX {
            assert!(table.is_current(slot, generation), "evicted by stranger {stranger}");
            table.learned(at(0), IpAddr::from([10, 0, 1, stranger]), B);
        }
        assert_eq!(table.slots.len(), 4);
        assert_eq!(table.entries.len(), 4 + usize::from(RESERVED));
    }

    #[test]
    fn addresses_being_asked_for_are_not_evicted() {
        let mut table = table(2);
        table.lookup(at(0), ip(1));
        table.lookup(at(0), ip(2));
        assert_eq!(table.lookup(at(0), ip(3)), (Found::TableFull, None));
        assert_eq!(table.counters.table_overflows, 1);
    }
}
