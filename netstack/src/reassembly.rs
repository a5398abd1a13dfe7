//! Fragments of packets that wait for the others of their packet (RFC 791 §3.2, RFC 8200 §4.5), for both IP versions.
//!
//! Owns the fragments, as views of the memory they were received into, and the time each packet has. Says when a packet is
//! complete and joins it; what the packet means, and who is told that one was given up, is [`ingress`](crate::ingress)'s.
//!
//! What arrives here is an attacker's favourite, so everything is bounded: packets, fragments in all and of one packet, and
//! what one source may hold of each. What finds no room pushes out the oldest packet of the same source, else the oldest of
//! all, which is the least likely to be completed. Fragments that overlap are never joined (RFC 5722 §4): the packet is given
//! up, and its record stays without memory until its time is over, so that what is still under way does not begin it anew.

use core::time::Duration;
use std::net::IpAddr;

use demi_drivers::{Buf, Instant, Pool};
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;

use crate::addr::key_of;
use crate::hash::Keyed;
use crate::wire::ipv6;

/// How long a packet of IPv4 and of IPv6 has to become complete: Linux's `ipfrag_time`, and RFC 8200 §4.5.
const TIMEOUTS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(60)];
/// Fragments of one packet: 64 KiB over the smallest MTU that IPv4 hosts use (576 bytes), rounded up.
const MAX_PIECES: usize = 128;
/// Largest packet of IPv4, and of IPv6, whose length does not count the fixed header.
const MAX_PACKET: [usize; 2] = [u16::MAX as usize, u16::MAX as usize + ipv6::HEADER_LEN];
/// Records looked at to find the oldest one of a source.
const EVICTION_STEPS: usize = 32;
/// No record.
const NONE: u32 = u32::MAX;

/// What tells a packet's fragments from others' (RFC 791 §3.2, RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ident: u32,
    /// 0 in IPv6, where the protocol is no part of it.
    pub(crate) protocol: u8,
}

impl core::hash::Hash for Key {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        state.write_u128(key_of(self.src));
        state.write_u128(key_of(self.dst));
        state.write_u64(u64::from(self.ident) << 8 | u64::from(self.protocol));
    }
}

impl Key {
    fn version(&self) -> usize {
        usize::from(self.src.is_ipv6())
    }

    /// Who is held to account: an IPv4 address, or an IPv6 network, of which one station has all addresses.
    fn source(&self) -> u128 {
        match self.src {
            IpAddr::V4(_) => key_of(self.src),
            IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
        }
    }
}

/// A fragment as it came.
#[derive(Debug)]
pub(crate) struct Fragment {
    pub(crate) key: Key,
    /// Where the payload goes, in bytes.
    pub(crate) offset: usize,
    /// Another one follows.
    pub(crate) more: bool,
    /// The two ECN bits.
    pub(crate) ecn: u8,
    /// The packet was sent to a group.
    pub(crate) group: bool,
    /// Bytes of the headers that the whole packet begins with.
    pub(crate) header_len: usize,
    /// Where in those headers the payload's protocol is named, and how: a Fragment header, which stood between, is left out.
    pub(crate) names: (usize, u8),
    /// Where the payload begins in the packet.
    pub(crate) payload_at: usize,
    /// The packet.
    pub(crate) packet: Buf,
}

/// What became of a fragment.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It waits for others.
    Held,
    /// It was the last one missing: the packet's headers as its first fragment had them, and its whole payload.
    Whole {
        packet: Buf,
        /// The ECN bits that the packet is to have (RFC 3168 §5.3).
        ecn: u8,
    },
    /// It was dropped, and perhaps the others with it.
    Failed {
        /// It overlapped with another one.
        overlap: bool,
    },
}

/// A packet whose time is over.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) key: Key,
    pub(crate) group: bool,
    /// Its first fragment, if that was received.
    pub(crate) first: Option<Buf>,
}

/// Limits of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReassemblyLimits {
    pub(crate) packets: usize,
    pub(crate) fragments: usize,
}

#[derive(Debug)]
struct Piece {
    offset: usize,
    payload: Buf,
}

impl Piece {
    fn end(&self) -> usize {
        self.offset + self.payload.len()
    }
}

/// A packet of which fragments have been received.
#[derive(Debug)]
struct Partial {
    key: Key,
    deadline: Instant,
    group: bool,
    /// Overlapped: nothing of it is kept, nor accepted.
    refused: bool,
    /// Which ECN values were seen, a bit each.
    ecn_seen: u8,
    header_len: usize,
    names: (usize, u8),
    /// Bytes of the payload, once the last fragment is here.
    total: Option<usize>,
    held: usize,
    first: Option<Buf>,
    /// In order, without overlap.
    pieces: SmallVec<[Piece; 4]>,
    older: u32,
    newer: u32,
}

/// What a source holds.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    packets: usize,
    fragments: usize,
}

/// Ends of a list of records in order of age.
#[derive(Clone, Copy, Debug)]
struct Ages {
    oldest: u32,
    newest: u32,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Reassembly {
    partials: Slab<Partial>,
    by_key: HashMap<Key, u32, Keyed>,
    shares: HashMap<u128, Share, Keyed>,
    /// Of IPv4 and of IPv6: in each, all have the same time.
    ages: [Ages; 2],
    fragments: usize,
    limits: ReassemblyLimits,
    limits_per_source: ReassemblyLimits,
}

impl Reassembly {
    pub(crate) fn new(limits: ReassemblyLimits, keyed: Keyed) -> Reassembly {
        let limits = ReassemblyLimits { packets: limits.packets.max(1), fragments: limits.fragments.max(2) };
        // A quarter each, as long as that lets one large packet through.
        let share = |all: usize, enough: usize| (all / 4).max(enough.min(all));
        Reassembly {
            partials: Slab::new(),
            by_key: HashMap::with_hasher(keyed),
            shares: HashMap::with_hasher(keyed),
            ages: [Ages { oldest: NONE, newest: NONE }; 2],
            fragments: 0,
            limits,
            limits_per_source: ReassemblyLimits {
                packets: share(limits.packets, 1),
                fragments: share(limits.fragments, MAX_PIECES),
            },
        }
    }

    /// Takes a fragment, the caller having checked its header.
    pub(crate) fn add(&mut self, now: Instant, fragment: Fragment, pool: &Pool) -> Outcome {
        let failed = Outcome::Failed { overlap: false };
        let Fragment { key, offset, more, ecn, group, header_len, names, payload_at, packet } = fragment;
        let mut payload = packet.clone();
        payload.advance(payload_at);
        let end = offset + payload.len();
        if payload.is_empty() || end + header_len > MAX_PACKET[key.version()] {
            return failed;
        }
        let index = match self.by_key.get(&key) {
            Some(index) => *index,
            None => match self.begin(now, key, group) {
                Some(index) => index,
                None => return failed,
            },
        };
        let Some(partial) = self.partials.get_mut(index as usize) else { return failed };
        if partial.refused {
            return Outcome::Failed { overlap: true };
        }
        let at = partial.pieces.partition_point(|piece| piece.offset < offset);
        let twice = partial.pieces.get(at).is_some_and(|piece| {
            piece.offset == offset && piece.payload == payload && more == (partial.total != Some(end))
        });
        if twice {
            // RFC 8200 §4.5: an exact duplicate may be dropped alone.
            return failed;
        }
        let before = at.checked_sub(1).and_then(|before| partial.pieces.get(before));
        let overlaps = before.is_some_and(|piece| piece.end() > offset)
            || partial.pieces.get(at).is_some_and(|piece| piece.offset < end)
            // Two ends, or bytes beyond the end.
            || partial.total.is_some_and(|total| if more { end > total } else { end != total })
            || !more && partial.pieces.last().is_some_and(|piece| piece.end() > end);
        if overlaps {
            self.refuse(index);
            return Outcome::Failed { overlap: true };
        }
        if partial.pieces.len() >= MAX_PIECES {
            self.refuse(index);
            return failed;
        }
        if !self.make_room(index) {
            return failed;
        }
        let Some(partial) = self.partials.get_mut(index as usize) else { return failed };
        partial.ecn_seen |= 1 << (ecn & 3);
        partial.held += payload.len();
        if !more {
            partial.total = Some(end);
        }
        if offset == 0 {
            partial.first = Some(packet);
            (partial.header_len, partial.names) = (header_len, names);
        }
        partial.pieces.insert(at, Piece { offset, payload });
        self.fragments += 1;
        self.shares.entry(key.source()).or_default().fragments += 1;
        if partial.total != Some(partial.held) {
            return Outcome::Held;
        }
        match self.remove(index).and_then(|partial| join(&partial, pool)) {
            Some((packet, ecn)) => Outcome::Whole { packet, ecn },
            None => failed,
        }
    }

    /// A record for a packet of which nothing was known.
    fn begin(&mut self, now: Instant, key: Key, group: bool) -> Option<u32> {
        let share = self.shares.get(&key.source()).copied().unwrap_or_default();
        if share.packets >= self.limits_per_source.packets {
            let victim = self.oldest_of(key.source(), NONE)?;
            self.remove(victim);
        }
        if self.partials.len() >= self.limits.packets {
            let victim = self.oldest(NONE)?;
            self.remove(victim);
        }
        let version = key.version();
        let older = self.ages[version].newest;
        let index = self.partials.insert(Partial {
            key,
            deadline: now + TIMEOUTS[version],
            group,
            refused: false,
            ecn_seen: 0,
            header_len: 0,
            names: (0, 0),
            total: None,
            held: 0,
            first: None,
            pieces: SmallVec::new(),
            older,
            newer: NONE,
        }) as u32;
        match self.partials.get_mut(older as usize) {
            Some(older) => older.newer = index,
            None => self.ages[version].oldest = index,
        }
        self.ages[version].newest = index;
        self.by_key.insert(key, index);
        self.shares.entry(key.source()).or_default().packets += 1;
        Some(index)
    }

    /// Sees that one more fragment of the packet at `index` fits, at the expense of other packets.
    fn make_room(&mut self, index: u32) -> bool {
        let Some(source) = self.partials.get(index as usize).map(|partial| partial.key.source()) else {
            return false;
        };
        let share = self.shares.get(&source).copied().unwrap_or_default();
        if share.fragments >= self.limits_per_source.fragments {
            match self.oldest_of(source, index) {
                Some(victim) => drop(self.remove(victim)),
                None => return false,
            }
        }
        if self.fragments >= self.limits.fragments {
            match self.oldest(index) {
                Some(victim) => drop(self.remove(victim)),
                None => return false,
            }
        }
        true
    }

    /// The oldest record but `except`.
    fn oldest(&self, except: u32) -> Option<u32> {
        let oldest = self.ages.iter().filter_map(|ages| {
            let index = if ages.oldest == except {
                self.partials.get(except as usize).map_or(NONE, |partial| partial.newer)
            } else {
                ages.oldest
            };
            self.partials.get(index as usize).map(|partial| (partial.deadline, index))
        });
        oldest.min().map(|(_, index)| index)
    }

    /// An old record of `source`, but not `except`, if a short search finds one.
    fn oldest_of(&self, source: u128, except: u32) -> Option<u32> {
        for ages in &self.ages {
            let mut index = ages.oldest;
            for _ in 0..EVICTION_STEPS {
                let Some(partial) = self.partials.get(index as usize) else { break };
                if partial.key.source() == source && index != except {
                    return Some(index);
                }
                index = partial.newer;
            }
        }
        None
    }

    /// Gives a packet up and remembers that it was.
    fn refuse(&mut self, index: u32) {
        let Some(partial) = self.partials.get_mut(index as usize) else { return };
        partial.refused = true;
        partial.first = None;
        let dropped = partial.pieces.drain(..).count();
        let source = partial.key.source();
        self.fragments -= dropped;
        if let Some(share) = self.shares.get_mut(&source) {
            share.fragments -= dropped;
        }
    }

    fn remove(&mut self, index: u32) -> Option<Partial> {
        let partial = self.partials.try_remove(index as usize)?;
        self.by_key.remove(&partial.key);
        let ages = &mut self.ages[partial.key.version()];
        match self.partials.get_mut(partial.older as usize) {
            Some(older) => older.newer = partial.newer,
            None => ages.oldest = partial.newer,
        }
        match self.partials.get_mut(partial.newer as usize) {
            Some(newer) => newer.older = partial.older,
            None => ages.newest = partial.older,
        }
        self.fragments -= partial.pieces.len();
        let source = partial.key.source();
        if let Some(share) = self.shares.get_mut(&source) {
            share.packets -= 1;
            share.fragments -= partial.pieces.len();
            if share.packets == 0 {
                self.shares.remove(&source);
            }
        }
        Some(partial)
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn deadline(&self) -> Instant {
        let oldest = self.ages.iter().filter_map(|ages| self.partials.get(ages.oldest as usize));
        oldest.map(|partial| partial.deadline).min().unwrap_or(Instant::FAR_FUTURE)
    }

    /// Gives up a packet whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Expired> {
        let overdue = |ages: &Ages| {
            let partial = self.partials.get(ages.oldest as usize)?;
            (partial.deadline <= now).then_some(ages.oldest)
        };
        let index = self.ages.iter().find_map(overdue)?;
        let partial = self.remove(index)?;
        Some(Expired { key: partial.key, group: partial.group, first: partial.first })
    }
}

/// The whole packet, in one piece of memory, headers as in its first fragment.
fn join(partial: &Partial, pool: &Pool) -> Option<(Buf, u8)> {
    let ecn = joint_ecn(partial.ecn_seen)?;
    let header = partial.first.as_ref()?.get(..partial.header_len)?;
    let mut whole = pool.alloc(header.len() + partial.held)?;
    whole.put_slice(header);
    let (at, protocol) = partial.names;
    if let Some(name) = whole.get_mut(at) {
        *name = protocol;
    }
    for piece in &partial.pieces {
        whole.put_slice(&piece.payload);
    }
    Some((whole.freeze(), ecn))
}

/// The ECN bits of a packet whose fragments had those in `seen`; `None` when they contradict each other (RFC 3168 §5.3, and
/// Linux, which does not join what is capable of ECN with what is not).
fn joint_ecn(seen: u8) -> Option<u8> {
    const NOT_ECT: u8 = 1;
    const CE: u8 = 1 << 3;
    match seen {
        NOT_ECT => Some(0),
        _ if seen & NOT_ECT != 0 => None,
        _ if seen & CE != 0 => Some(3),
        // Both ECT values: any of them is right.
        _ => Some(seen.trailing_zeros() as u8 & 3),
    }
}

#[cfg(test)]
mod tests;
