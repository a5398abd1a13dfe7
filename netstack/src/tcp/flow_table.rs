//! Which connection, or record of one that begins or has ended, a segment belongs to: one table keyed by the four-tuple, one lookup a segment.
//!
//! The hash is a fast keyed one: whoever does not know the key cannot aim segments at one bucket. The table holds hashes and
//! positions; the four-tuples themselves lie with whom they belong to, on the cache line that is needed next anyway.

use std::net::IpAddr;

use super::output::Flow;

/// Whom a four-tuple belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The connection at a position.
    Connection(u32),
    /// The TIME-WAIT record at a position.
    TimeWait(u32),
    /// The half-open connection at a position.
    HalfOpen(u32),
}

/// What is no connection: a TIME-WAIT record, unless the next bit says that it is half-open.
const RECORD_BIT: u32 = 1 << 31;
const HALF_OPEN_BIT: u32 = 1 << 30;
/// The owner of an empty place: no position is this high.
const NOBODY: u32 = u32::MAX;
/// Places of the smallest table.
const PLACES_MIN: usize = 16;

#[derive(Clone, Copy)]
struct Entry {
    hash: u32,
    /// Position, and the bits of what is no connection; or `NOBODY`.
    owner: u32,
}

const EMPTY: Entry = Entry { hash: 0, owner: NOBODY };

/// Eight to a cache line.
const _: () = assert!(size_of::<Entry>() == 8);

impl Entry {
    #[inline]
    fn owner(self) -> Owner {
        let index = self.owner & !(RECORD_BIT | HALF_OPEN_BIT);
        if self.owner & RECORD_BIT == 0 {
            Owner::Connection(self.owner)
        } else if self.owner & HALF_OPEN_BIT == 0 {
            Owner::TimeWait(index)
        } else {
            Owner::HalfOpen(index)
        }
    }
}

fn encode(owner: Owner) -> u32 {
    match owner {
        Owner::Connection(index) => index,
        Owner::TimeWait(index) => index | RECORD_BIT,
        Owner::HalfOpen(index) => index | RECORD_BIT | HALF_OPEN_BIT,
    }
}

/// A four-tuple of IPv4 in two words, as they lie in the headers of what the peer sends: compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowV4 {
    /// The peer's address in the upper half, ours in the lower.
    addresses: u64,
    /// The peer's port in the upper half, ours in the lower.
    ports: u32,
    /// It is IPv4: what stands for another flow equals none that is.
    v4: bool,
}

impl FlowV4 {
    /// A four-tuple of a packet.
    #[inline(always)]
    pub(crate) fn new(addresses: u64, ports: u32) -> FlowV4 {
        FlowV4 { addresses, ports, v4: true }
    }

    /// `flow` in two words; only its ports when it is not IPv4.
    pub(crate) fn of(flow: &Flow) -> FlowV4 {
        let ports = ports(flow);
        match (flow.remote, flow.local) {
            (IpAddr::V4(remote), IpAddr::V4(local)) => {
                FlowV4::new(u64::from(remote.to_bits()) << 32 | u64::from(local.to_bits()), ports)
            }
            _ => FlowV4 { addresses: 0, ports, v4: false },
        }
    }

    /// Addresses and ports, mixed: for tables that need not hide where something lies.
    #[inline(always)]
    pub(crate) fn bits(&self) -> u64 {
        self.addresses.rotate_left(32) ^ u64::from(self.ports).rotate_left(21)
    }

    /// Both ports as a header that goes to the peer has them.
    #[inline(always)]
    pub(crate) fn ports_out(self) -> u32 {
        self.ports.rotate_left(16)
    }
}

/// Both ports of `flow` as [`FlowV4`] has them.
fn ports(flow: &Flow) -> u32 {
    u32::from(flow.remote_port) << 16 | u32::from(flow.local_port)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The table: open addressing with linear probing, at most half full, so that a lookup nearly always ends on the cache line where
/// it began. An entry that leaves is replaced by one that had to step aside for it: there are no graves to step over.
pub(crate) struct FlowTable {
    /// A power of two of them.
    places: Box<[Entry]>,
    len: usize,
    key: [u64; 2],
}

/// Both halves of a 128-bit product, folded: every bit of both factors reaches the middle of it.
#[inline]
fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

impl FlowTable {
    /// An empty table whose hash is keyed by two random numbers.
    pub(crate) fn new(key: [u64; 2]) -> Self {
        FlowTable { places: vec![EMPTY; PLACES_MIN].into_boxed_slice(), len: 0, key }
    }

    /// The hash of a four-tuple.
    #[inline]
    pub(crate) fn hash(&self, flow: &Flow) -> u32 {
        match (flow.local, flow.remote) {
            (IpAddr::V4(_), IpAddr::V4(_)) => self.hash_v4(FlowV4::of(flow)),
            (local, remote) => self.hash_v6(bits(remote), bits(local), ports(flow)),
        }
    }

    /// The hash of a four-tuple of IPv4.
    #[inline(always)]
    pub(crate) fn hash_v4(&self, flow: FlowV4) -> u32 {
        let [key0, key1] = self.key;
        self.finish(fold_multiply(flow.addresses ^ key0, u64::from(flow.ports) ^ key1))
    }

    /// The hash of a four-tuple of IPv6, given as [`FlowV4`] has it.
    #[inline]
    pub(crate) fn hash_v6(&self, remote: u128, local: u128, ports: u32) -> u32 {
        let [key0, key1] = self.key;
        let mut state = u64::from(ports) ^ key1;
        for bits in [remote, local] {
            state = fold_multiply(bits as u64 ^ key0, state ^ key1);
            state = fold_multiply((bits >> 64) as u64 ^ key0, state ^ key1);
        }
        self.finish(state)
    }

    /// A second round: in the first, the ports of one pair of hosts reach too few bits.
    #[inline(always)]
    fn finish(&self, folded: u64) -> u32 {
        (fold_multiply(folded, self.key[0] | 1) >> 16) as u32
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }

    /// Whom `flow` belongs to; `is` says whether an owner's four-tuple is that of the lookup.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u32, mut is: impl FnMut(Owner) -> bool) -> Option<Owner> {
        let mut at = hash as usize;
        loop {
            let entry = *self.places.get(at & self.mask())?;
            if entry.hash == hash && entry.owner != NOBODY && is(entry.owner()) {
                return Some(entry.owner());
            }
            if entry.owner == NOBODY {
                return None;
            }
            at += 1;
        }
    }

    /// Has the processor fetch where a lookup of `hash` will begin. A table of many flows lies in no cache.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u32) {
        if let Some(place) = self.places.get(hash as usize & self.mask()) {
            demi_drivers::mem::prefetch(place);
        }
    }

    /// Adds an owner whose four-tuple is not in the table.
    pub(crate) fn insert(&mut self, hash: u32, owner: Owner) {
        if self.len >= self.places.len() / 2 {
            let larger = vec![EMPTY; self.places.len() * 2].into_boxed_slice();
            for entry in core::mem::replace(&mut self.places, larger) {
                if entry.owner != NOBODY {
                    self.place(entry);
                }
            }
        }
        self.len += 1;
        self.place(Entry { hash, owner: encode(owner) });
    }

    /// Puts an entry in the first empty place from its own on; there is one.
    fn place(&mut self, entry: Entry) {
        let (mask, mut at) = (self.mask(), entry.hash as usize);
        while self.places[at & mask].owner != NOBODY {
            at += 1;
        }
        self.places[at & mask] = entry;
    }

    /// Where an owner lies.
    fn locate(&self, hash: u32, owner: Owner) -> Option<usize> {
        let (mask, owner, mut at) = (self.mask(), encode(owner), hash as usize);
        while self.places[at & mask].owner != NOBODY {
            if self.places[at & mask].owner == owner {
                return Some(at & mask);
            }
            at += 1;
        }
        None
    }

    /// Takes an owner out.
    pub(crate) fn remove(&mut self, hash: u32, owner: Owner) {
        let Some(mut hole) = self.locate(hash, owner) else { return };
        self.len -= 1;
        let mask = self.mask();
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let entry = self.places[at];
            if entry.owner == NOBODY {
                break;
            }
            // One that would not be found any more, were it to stay behind the hole, moves into it.
            let stepped = at.wrapping_sub(entry.hash as usize) & mask;
            if stepped >= at.wrapping_sub(hole) & mask {
                self.places[hole] = entry;
                hole = at;
            }
        }
        self.places[hole] = EMPTY;
    }

    /// Puts `new` in the place of `old`, which has the same four-tuple.
    pub(crate) fn replace(&mut self, hash: u32, old: Owner, new: Owner) {
        if let Some(at) = self.locate(hash, old) {
            self.places[at].owner = encode(new);
        }
    }

    /// Four-tuples in the table.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn v4(a: u32, b: u32, ports: (u16, u16)) -> Flow {
        Flow {
            local: IpAddr::V4(a.into()),
            remote: IpAddr::V4(b.into()),
            local_port: ports.0,
            remote_port: ports.1,
        }
    }

    #[test]
    fn finds_replaces_and_removes_by_owner() {
        let mut table = FlowTable::new([1, 2]);
        let hash = table.hash(&v4(1, 2, (3, 4)));
        table.insert(hash, Owner::Connection(7));
        table.insert(hash, Owner::Connection(8));
        assert_eq!(table.find(hash, |owner| owner == Owner::Connection(8)), Some(Owner::Connection(8)));
        table.replace(hash, Owner::Connection(7), Owner::TimeWait(7));
        assert_eq!(table.find(hash, |owner| owner == Owner::TimeWait(7)), Some(Owner::TimeWait(7)));
        table.remove(hash, Owner::Connection(8));
        table.remove(hash, Owner::Connection(8));
        assert_eq!((table.len(), table.find(hash, |owner| owner == Owner::Connection(8))), (1, None));
    }

    proptest! {
        #[test]
        fn holds_what_a_map_holds(
            // Few hashes, so that entries step aside for each other and around the table's end.
            steps in proptest::collection::vec((any::<bool>(), 0u32..12, 0u32..40), 1..300),
        ) {
            let mut table = FlowTable::new([1, 2]);
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (add, hash, index) in steps {
                let hash = hash.wrapping_sub(6);
                match model.get(&index) {
                    None if add => {
                        table.insert(hash, Owner::Connection(index));
                        model.insert(index, hash);
                    }
                    Some(&hash) if !add => {
                        table.remove(hash, Owner::Connection(index));
                        model.remove(&index);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                for index in 0..40 {
                    let owner = Owner::Connection(index);
                    let found = (0..12).find_map(|hash: u32| table.find(hash.wrapping_sub(6), |it| it == owner));
                    prop_assert_eq!(found.is_some(), model.contains_key(&index));
                }
            }
        }
    }

    #[test]
    fn neighbouring_flows_spread_over_the_buckets() {
        let table = FlowTable::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321]);
        let mut flows = Vec::new();
        for port in 0..4000 {
            flows.push(v4(0x0a00_0001, 0x0a00_0002, (80, port)));
            flows.push(v4(0x0a00_0001, 0x0a00_0100 + u32::from(port), (80, 40000)));
            flows.push(Flow {
                local: "2001:db8::1".parse().unwrap(),
                remote: IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(port)).into()),
                local_port: 80,
                remote_port: 40000,
            });
        }
        let mut buckets: HashMap<(bool, u32), u32> = HashMap::new();
        for flow in &flows {
            let hash = table.hash(flow);
            *buckets.entry((false, hash & 0xfff)).or_default() += 1;
            *buckets.entry((true, hash >> 20)).or_default() += 1;
        }
        // 12,000 over 4,096 buckets: 3 on average.
        assert!(buckets.values().all(|count| *count < 16), "{:?}", buckets.values().max());
        assert!(buckets.len() > 2 * 3600, "{}", buckets.len());
    }

    #[test]
    fn the_key_decides_where_a_flow_lies() {
        let (a, b) = (FlowTable::new([1 << 40 | 77, 3]), FlowTable::new([1 << 41 | 99, 5]));
        let same =
            (0..1000).filter(|port| a.hash(&v4(1, 2, (80, *port))) == b.hash(&v4(1, 2, (80, *port)))).count();
        assert!(same < 3, "{same} alike");
    }
}
