//! One hierarchical timing wheel for all connections: an entry a connection, at the earliest of its deadlines.
//!
//! Timers are lazy: a deadline that moves later does not touch the wheel. The entry fires at the old time, and whoever it
//! fires for looks at its deadlines and arms itself again. The wheel knows slot numbers and ticks, nothing of TCP.

use demi_drivers::Instant;

/// Nanoseconds of a tick, as a shift: 262 µs. A timer fires at most that much late.
const TICK_SHIFT: u32 = 18;
/// Slots a level, as a shift.
const LEVEL_SHIFT: u32 = 6;
const SLOTS: usize = 1 << LEVEL_SHIFT;
/// Six levels of 64 slots reach 2^36 ticks: 208 days. What is further away fires then, and arms itself again.
const LEVELS: usize = 6;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    prev: u32,
    next: u32,
    /// Absolute tick the entry is due at.
    tick: u64,
    /// Level and slot, `NONE` when not armed.
    place: u32,
}

const UNARMED: Node = Node { prev: NONE, next: NONE, tick: 0, place: NONE };

/// The wheel. Entries are numbers below some bound; each is armed at most once.
pub(crate) struct Wheel {
    nodes: Vec<Node>,
    heads: [u32; LEVELS * SLOTS],
    /// One bit a slot that is not empty.
    occupied: [u64; LEVELS],
    /// Everything due before this tick has been taken out.
    tick: u64,
    /// No slot has to be looked at before this tick: what spares a turn in which nothing is due the search for one.
    quiet_until: u64,
    armed: usize,
}

impl Wheel {
    /// Memory of an entry.
    pub(crate) const ENTRY_BYTES: usize = size_of::<Node>();

    pub(crate) fn new(now: Instant) -> Self {
        Wheel {
            nodes: Vec::new(),
            heads: [NONE; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            tick: now.as_nanos() >> TICK_SHIFT,
            quiet_until: 0,
            armed: 0,
        }
    }

    /// Arms `entry` for `at`, wherever it was before.
    pub(crate) fn arm(&mut self, entry: u32, at: Instant) {
        self.disarm(entry);
        let index = entry as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, UNARMED);
        }
        // Rounded up: never early.
        let tick = (at.as_nanos() >> TICK_SHIFT) + u64::from(at.as_nanos() & ((1 << TICK_SHIFT) - 1) != 0);
        let slot_tick = self.insert(entry, tick);
        self.quiet_until = self.quiet_until.min(slot_tick);
        self.armed += 1;
    }

    /// When `entry` is due, if it is in.
    pub(crate) fn due(&self, entry: u32) -> Option<Instant> {
        let node = self.nodes.get(entry as usize).filter(|node| node.place != NONE)?;
        Some(Instant::from_nanos(node.tick << TICK_SHIFT))
    }

    /// Takes `entry` out, if it is in.
    pub(crate) fn disarm(&mut self, entry: u32) {
        let Some(&node) = self.nodes.get(entry as usize) else { return };
        if node.place != NONE {
            self.unlink(entry, node);
            self.armed -= 1;
        }
    }

    /// Answers the tick at which the entry's slot has to be looked at.
    fn insert(&mut self, entry: u32, tick: u64) -> u64 {
        // One slot short of a full turn of the last level: what lies in a level's current slot is due to be looked at.
        let reach = (SLOTS as u64 - 1) << (LEVEL_SHIFT * (LEVELS as u32 - 1));
        let due = tick.clamp(self.tick, self.tick + reach);
        let distance = due ^ self.tick;
        // The level is where the due tick first differs from the current one.
        let level = if distance == 0 { 0 } else { ((63 - distance.leading_zeros()) / LEVEL_SHIFT) as usize };
        let level = level.min(LEVELS - 1);
        let slot = (due >> (LEVEL_SHIFT * level as u32)) as usize % SLOTS;
        let place = level * SLOTS + slot;
        let head = self.heads[place];
        if let Some(node) = self.nodes.get_mut(head as usize) {
            node.prev = entry;
        }
        self.nodes[entry as usize] = Node { prev: NONE, next: head, tick, place: place as u32 };
        self.heads[place] = entry;
        self.occupied[level] |= 1 << slot;
        let shift = LEVEL_SHIFT * level as u32;
        (due >> shift) << shift
    }

    fn unlink(&mut self, entry: u32, node: Node) {
        let place = node.place as usize;
        match self.nodes.get_mut(node.prev as usize) {
            Some(prev) => prev.next = node.next,
            None => {
                self.heads[place] = node.next;
                if node.next == NONE {
                    self.occupied[place / SLOTS] &= !(1 << (place % SLOTS));
                }
            }
        }
        if let Some(next) = self.nodes.get_mut(node.next as usize) {
            next.prev = node.prev;
        }
        self.nodes[entry as usize] = UNARMED;
    }

    /// The first tick at which a slot has to be looked at, and that slot; `None` when nothing is armed.
    fn next_slot(&self) -> Option<(u64, usize)> {
        let mut first: Option<(u64, usize)> = None;
        for level in 0..LEVELS {
            let shift = LEVEL_SHIFT * level as u32;
            let current = (self.tick >> shift) as usize % SLOTS;
            let ahead = self.occupied[level].rotate_right(current as u32);
            if ahead == 0 {
                continue;
            }
            let steps = u64::from(ahead.trailing_zeros());
            let base = (self.tick >> shift) + steps;
            let at = (base << shift).max(self.tick);
            let place = level * SLOTS + (base as usize % SLOTS);
            if first.is_none_or(|(best, _)| at < best) {
                first = Some((at, place));
            }
        }
        first
    }

    /// When [`pop`](Self::pop) has something to do; `None` when nothing is armed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.armed == 0 {
            return None;
        }
        self.next_slot().map(|(tick, _)| Instant::from_nanos(tick << TICK_SHIFT))
    }

    /// Takes out one entry that is due at `now`.
    #[inline]
    pub(crate) fn pop(&mut self, now: Instant) -> Option<u32> {
        let now_tick = now.as_nanos() >> TICK_SHIFT;
        if self.is_quiet(now_tick) { None } else { self.pop_armed(now_tick) }
    }

    /// Whether [`pop`](Self::pop) may have something to do.
    #[inline]
    pub(crate) fn may_be_due(&mut self, now: Instant) -> bool {
        !self.is_quiet(now.as_nanos() >> TICK_SHIFT)
    }

    #[inline]
    fn is_quiet(&mut self, now_tick: u64) -> bool {
        let quiet = now_tick < self.quiet_until;
        if quiet {
            self.tick = self.tick.max(now_tick);
        }
        quiet
    }

    fn pop_armed(&mut self, now_tick: u64) -> Option<u32> {
        loop {
            let next = self.next_slot();
            let Some((at, place)) = next.filter(|&(at, _)| at <= now_tick) else {
                self.tick = self.tick.max(now_tick);
                self.quiet_until = next.map_or(u64::MAX, |(at, _)| at);
                return None;
            };
            self.tick = at;
            let entry = self.heads[place];
            let node = self.nodes[entry as usize];
            self.unlink(entry, node);
            if node.tick <= self.tick {
                self.armed -= 1;
                return Some(entry);
            }
            // The slot of a higher level has come: its entries belong further down now.
            self.insert(entry, node.tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn tick_of(at: Instant) -> u64 {
        at.as_nanos().div_ceil(1 << TICK_SHIFT)
    }

    #[test]
    fn an_empty_wheel_has_no_deadline_and_a_jump_of_the_clock_costs_nothing() {
        let mut wheel = Wheel::new(Instant::ZERO);
        assert_eq!(wheel.deadline(), None);
        assert_eq!(wheel.pop(Instant::from_nanos(u64::MAX)), None);
        wheel.arm(3, Instant::ZERO);
        assert_eq!(wheel.pop(Instant::from_nanos(u64::MAX)), Some(3), "the past is due");
    }

    #[test]
    fn an_entry_is_never_early_and_at_most_a_tick_late() {
        let mut wheel = Wheel::new(Instant::ZERO);
        for micros in [1, 262, 263, 10_000, 1_000_000, 86_400_000_000u64] {
            let at = Instant::from_micros(micros);
            wheel.arm(0, at);
            let mut fired = None;
            while fired.is_none() {
                let next = wheel.deadline().unwrap();
                fired = wheel.pop(next).map(|_| next);
            }
            let late = fired.unwrap().since(at).as_nanos();
            assert!(fired.unwrap() >= at && late <= 1 << TICK_SHIFT, "{micros} us: {late} ns late");
            wheel = Wheel::new(Instant::ZERO);
        }
    }

    proptest! {
        #[test]
        fn fires_what_a_sorted_list_fires(
            steps in proptest::collection::vec((0u32..40, 0u64..1 << 44, 0u64..1 << 40, any::<bool>()), 1..200),
        ) {
            let mut now = Instant::from_nanos(12_345_678_901);
            let mut wheel = Wheel::new(now);
            let mut model: BTreeMap<u32, Instant> = BTreeMap::new();
            for (entry, delay, advance, disarm) in steps {
                if disarm {
                    wheel.disarm(entry);
                    model.remove(&entry);
                } else {
                    let at = now.plus_nanos(delay);
                    wheel.arm(entry, at);
                    model.insert(entry, at);
                }
                prop_assert_eq!(wheel.deadline().is_none(), model.is_empty());
                if let Some(deadline) = wheel.deadline() {
                    let first = model.values().map(|&at| tick_of(at)).min().unwrap();
                    prop_assert!(deadline.as_nanos() >> TICK_SHIFT <= first.max(wheel.tick));
                }
                now = now.plus_nanos(advance);
                let mut fired = Vec::new();
                while let Some(entry) = wheel.pop(now) {
                    fired.push(entry);
                }
                let mut due: Vec<u32> = model
                    .iter()
                    .filter(|(_, at)| tick_of(**at) <= now.as_nanos() >> TICK_SHIFT)
                    .map(|(entry, _)| *entry)
                    .collect();
                model.retain(|entry, _| !due.contains(entry));
                fired.sort_unstable();
                due.sort_unstable();
                prop_assert_eq!(fired, due);
            }
        }
    }
}
