//! What lies between the ends: their rings, the links, and the frames on the way.
//!
//! Shared by all ends and handles of a wire, on one thread. Never calls a filter or an observer itself: whoever does has
//! let go of it, so that they may use a handle.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::config::{Topology, WireConfig};
use super::handle::{Filter, Observer};
use super::link::{Fate, Link};
use crate::checksum;
use crate::damage::{self, ETHERNET_BYTES};
use crate::device::{DeviceStats, Offload, RxChecksum, RxFrame, TxFrame, TxQueue};
use crate::mem::{Buf, Pool};
use crate::time::Instant;

/// Bytes by which a frame may exceed the MTU: Ethernet header and one VLAN tag.
const FRAME_OVERHEAD: usize = ETHERNET_BYTES + 4;

/// A frame on the way, in memory of the medium's own.
pub(super) struct InFlight {
    at: Instant,
    /// Order of sending, among frames that arrive at the same time.
    seq: u64,
    from: usize,
    bytes: Vec<u8>,
    checksum: RxChecksum,
    gro_bytes: u16,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
    }
}

impl Eq for InFlight {}

impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// The medium's side of an end.
struct End {
    pool: Pool,
    /// Frames that have arrived, all later than those in `left`. Usually handed over as a whole.
    ready: Vec<RxFrame>,
    /// Frames that a burst had no room for.
    left: VecDeque<RxFrame>,
    /// When the oldest of them came, at the latest.
    ready_since: Instant,
    arriving: BinaryHeap<Reverse<InFlight>>,
    gone: bool,
    /// Frames that arrived, and their bytes; frames that found no slot or no room.
    rx_frames: u64,
    rx_bytes: u64,
    rx_dropped: u64,
}

impl End {
    fn new(pool: Pool) -> End {
        End {
            pool,
            ready: Vec::new(),
            left: VecDeque::new(),
            ready_since: Instant::ZERO,
            arriving: BinaryHeap::new(),
            gone: false,
            rx_frames: 0,
            rx_bytes: 0,
            rx_dropped: 0,
        }
    }

    /// Frames that have arrived and were not taken yet.
    #[inline]
    fn waiting(&self) -> usize {
        self.ready.len() + self.left.len()
    }
}

/// Who is asked about frames, and who is told of them.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) filter: Option<Filter>,
    pub(super) observer: Option<Observer>,
}

impl Hooks {
    fn any(&self) -> bool {
        self.filter.is_some() || self.observer.is_some()
    }
}

pub(super) struct Medium {
    /// Frames sent by an end can go straight into the ring of the only other one, by sender.
    straight: [bool; 2],
    topology: Topology,
    ends: Vec<End>,
    /// Of the direction from `a` to `b` at `a * ends + b`.
    links: Vec<Link>,
    ring_frames: usize,
    /// Longest frame that is not to be cut into segments.
    frame_bytes: usize,
    tso_max_bytes: usize,
    checksum_offload: bool,
    hooks: Hooks,
    /// Whether there is a filter or an observer, also while they are out being called.
    hooked: bool,
    /// Whether the filter, or the observer, was replaced since they were last taken.
    replaced: (bool, bool),
    next_seq: u64,
    /// Buffers of frames that have arrived.
    spare: Vec<Vec<u8>>,
    /// What the wire was made as, for ends that come back.
    config: WireConfig,
}

impl Medium {
    pub(super) fn new(seed: u64, config: &WireConfig, pools: &[Pool]) -> Medium {
        let count = pools.len();
        let link = |stream: usize| Link::new(config.link.clone(), seed, stream as u64);
        let mut medium = Medium {
            straight: [false; 2],
            topology: config.topology,
            ends: pools.iter().cloned().map(End::new).collect(),
            links: (0..count * count).map(link).collect(),
            ring_frames: config.ring_frames,
            frame_bytes: usize::from(config.mtu) + FRAME_OVERHEAD,
            tso_max_bytes: config.tso_max_bytes as usize,
            checksum_offload: config.checksum_offload,
            hooks: Hooks::default(),
            hooked: false,
            replaced: (false, false),
            next_seq: 0,
            spare: Vec::new(),
            config: config.clone(),
        };
        medium.find_straight();
        medium
    }

    pub(super) fn ends(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn config(&self) -> &WireConfig {
        &self.config
    }

    pub(super) fn link_mut(&mut self, from: usize, to: usize) -> Option<&mut Link> {
        let count = self.ends.len();
        if from >= count || to >= count || from == to {
            return None;
        }
        self.links.get_mut(from * count + to)
    }

    pub(super) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.links.iter_mut()
    }

    /// Sets the filter; answers the one before, to be dropped when the medium is not borrowed.
    pub(super) fn set_filter(&mut self, filter: Option<Filter>) -> Option<Filter> {
        self.replaced.0 = true;
        let before = std::mem::replace(&mut self.hooks.filter, filter);
        self.hooked = self.hooks.any();
        self.find_straight();
        before
    }

    /// Sets the observer; answers the one before, as [`set_filter`](Self::set_filter).
    pub(super) fn set_observer(&mut self, observer: Option<Observer>) -> Option<Observer> {
        self.replaced.1 = true;
        let before = std::mem::replace(&mut self.hooks.observer, observer);
        self.hooked = self.hooks.any();
        self.find_straight();
        before
    }

    /// Takes the hooks out, so that they can be called while nobody borrows the medium.
    pub(super) fn take_hooks(&mut self) -> Hooks {
        self.replaced = (false, false);
        std::mem::take(&mut self.hooks)
    }

    /// Puts hooks back that were taken, save those that have been replaced meanwhile: they are answered, to be dropped when
    /// the medium is not borrowed.
    pub(super) fn put_hooks(&mut self, mut hooks: Hooks) -> Hooks {
        if !self.replaced.0 {
            std::mem::swap(&mut self.hooks.filter, &mut hooks.filter);
        }
        if !self.replaced.1 {
            std::mem::swap(&mut self.hooks.observer, &mut hooks.observer);
        }
        self.hooked = self.hooks.any();
        self.find_straight();
        hooks
    }

    /// The only other end, when frames sent by `from` can go straight into its ring.
    #[inline]
    pub(super) fn straight_to(&self, from: usize) -> Option<usize> {
        (self.straight.get(from) == Some(&true)).then_some(from ^ 1)
    }

    /// Finds out anew who may send straight: to be called whenever a link, a hook, an end or what is on the way changes.
    pub(super) fn find_straight(&mut self) {
        for from in 0..2 {
            let to = from ^ 1;
            let plain = self.links.get(from * 2 + to).is_some_and(|link| link.plain);
            let ready = self.ends.get(to).is_some_and(|end| {
                // Frames that still travel are not to be overtaken by ones sent after a link was mended.
                !end.gone && end.arriving.is_empty()
            });
            self.straight[from] = self.ends.len() == 2 && !self.hooked && plain && ready;
        }
    }

    /// The fast path: copies frames from the queue into slots of the receiver until its ring is full. Answers how many
    /// were taken from the queue.
    #[inline]
    pub(super) fn send_straight(
        &mut self,
        from: usize,
        to: usize,
        now: Instant,
        queue: &mut TxQueue,
        stats: &mut DeviceStats,
    ) -> usize {
        let mut taken = 0;
        loop {
            taken += self.send_plain(from, to, now, queue, stats);
            if queue.is_empty() {
                return taken;
            }
            match self.send_any(from, to, now, queue, stats) {
                true => taken += 1,
                false => return taken,
            }
        }
    }

    /// Copies the frames at the front that ask for nothing, as long as there are slots and room.
    #[inline(always)]
    fn send_plain(
        &mut self,
        from: usize,
        to: usize,
        now: Instant,
        queue: &mut TxQueue,
        stats: &mut DeviceStats,
    ) -> usize {
        let (Some(end), Some(link)) = (self.ends.get_mut(to), self.links.get_mut(from * 2 + to)) else {
            return 0;
        };
        if end.waiting() == 0 {
            end.ready_since = now;
        }
        let before = end.rx_frames;
        // Counted in place: what would be kept in registers meanwhile is more than there are.
        while end.waiting() < self.ring_frames
            && let Some(frame) = queue.front()
            && frame.offload.checksum.is_none()
            && frame.offload.gso_bytes == 0
            && let Some(copy) = copied(&end.pool, &frame, self.frame_bytes)
        {
            let bytes = copy.len() as u64;
            end.rx_frames += 1;
            end.rx_bytes += bytes;
            stats.tx_frames += 1;
            stats.tx_bytes += bytes;
            link.stats.sent += 1;
            link.stats.delivered += 1;
            end.ready.push(RxFrame::new(copy));
            queue.pop();
        }
        (end.rx_frames - before) as usize
    }

    /// Sends the frame at the front, whatever it is: to be completed or kept whole by the receiver, too long, or one for which there
    /// is no slot. `false`: there is no room, and it stays.
    #[inline(never)]
    fn send_any(
        &mut self,
        from: usize,
        to: usize,
        now: Instant,
        queue: &mut TxQueue,
        stats: &mut DeviceStats,
    ) -> bool {
        let (Some(end), Some(frame)) = (self.ends.get_mut(to), queue.front()) else { return false };
        let bytes = frame.len();
        if bytes > self.frame_bytes && !fits_as_gso(&frame, bytes, self.tso_max_bytes) {
            stats.tx_dropped += 1;
            queue.pop();
            return true;
        }
        if end.waiting() >= self.ring_frames {
            stats.tx_full += 1;
            return false;
        }
        if end.waiting() == 0 {
            end.ready_since = now;
        }
        stats.tx_frames += 1;
        stats.tx_bytes += bytes as u64;
        let Some(link) = self.links.get_mut(from * 2 + to) else { return false };
        link.stats.sent += 1;
        match receive(&end.pool, &frame, self.checksum_offload) {
            Some(received) => {
                link.stats.delivered += 1;
                end.rx_frames += 1;
                end.rx_bytes += bytes as u64;
                end.ready.push(received);
            }
            None => {
                link.stats.overflowed += 1;
                end.rx_dropped += 1;
            }
        }
        queue.pop();
        true
    }

    /// Whether a frame is too long to be sent at all.
    pub(super) fn refuses(&self, frame: &TxFrame<'_>, bytes: usize) -> bool {
        bytes > self.frame_bytes && !fits_as_gso(frame, bytes, self.tso_max_bytes)
    }

    /// The ends a frame is for.
    pub(super) fn targets(&self, from: usize, frame: &[u8]) -> std::ops::Range<usize> {
        let everyone = 0..self.ends.len();
        if self.topology == Topology::Hub {
            return everyone;
        }
        match frame {
            // A switch that does not know an address sends its frames everywhere (IEEE 802.1D §7.7).
            [0x02, 0, 0, 0, high, low, ..] => {
                let owner = usize::from(u16::from_be_bytes([*high, *low]));
                if owner == 0 || owner > self.ends.len() || owner == from + 1 {
                    everyone
                } else {
                    owner - 1..owner
                }
            }
            _ => everyone,
        }
    }

    /// A buffer holding `bytes`, of those that have been used before if there is one.
    pub(super) fn buffer(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        buffer
    }

    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < self.ring_frames {
            self.spare.push(buffer);
        }
    }

    /// Decides over a frame on the way from one end to another and damages it accordingly. Answers when it arrives, and
    /// when its copy does.
    pub(super) fn decide(
        &mut self,
        from: usize,
        to: usize,
        now: Instant,
        bytes: &mut Vec<u8>,
        offload: &Offload,
        checksum: &mut RxChecksum,
    ) -> Option<(Instant, Option<Instant>)> {
        let packet_bytes = match offload.gso_bytes {
            0 => bytes.len(),
            segment => usize::from(offload.header_bytes) + usize::from(segment),
        };
        let gone = self.ends.get(to).is_none_or(|end| end.gone);
        let link = self.link_mut(from, to)?;
        if gone {
            link.stats.cut += 1;
            return None;
        }
        match link.decide(now, bytes, packet_bytes.saturating_sub(ETHERNET_BYTES)) {
            Fate::Lost => None,
            Fate::Arrives { at, copy_at, flip_bit, cut_to } => {
                if let (true, Some(partial)) = (flip_bit.is_some() || cut_to.is_some(), offload.checksum) {
                    // The receiver must be able to tell: damage comes after the checksum was filled in.
                    checksum::complete(bytes, partial);
                    *checksum = RxChecksum::Unknown;
                }
                if let Some(bit) = flip_bit {
                    damage::flip(bytes, bit);
                }
                if let Some(len) = cut_to {
                    bytes.truncate(len);
                }
                Some((at, copy_at))
            }
        }
    }

    /// Puts a frame on its way.
    pub(super) fn launch(
        &mut self,
        from: usize,
        to: usize,
        now: Instant,
        at: Instant,
        bytes: Vec<u8>,
        checksum: RxChecksum,
        gro_bytes: u16,
    ) {
        let seq = self.next_seq;
        self.next_seq += 1;
        if let Some(link) = self.link_mut(from, to) {
            link.stats.in_flight += 1;
        }
        if let Some(straight) = self.straight.get_mut(to ^ 1) {
            *straight = false;
        }
        let end = &mut self.ends[to];
        end.arriving.push(Reverse(InFlight { at, seq, from, bytes, checksum, gro_bytes }));
        // An end that nobody polls holds a ring of frames and what is still on the way, not more.
        if end.arriving.len() > self.ring_frames {
            self.arrive(to, now);
        }
    }

    /// What checksum a frame arrives with, as its receiver is told.
    pub(super) fn checksum_of(&self, offload: &Offload, bytes: &mut [u8]) -> RxChecksum {
        match offload.checksum {
            Some(_) if self.checksum_offload => RxChecksum::Valid,
            Some(partial) => {
                checksum::complete(bytes, partial);
                RxChecksum::Unknown
            }
            None => RxChecksum::Unknown,
        }
    }

    /// Moves the frames that have arrived by `now` into the end's ring.
    fn arrive(&mut self, to: usize, now: Instant) {
        let count = self.ends.len();
        let end = &mut self.ends[to];
        while let Some(Reverse(next)) = end.arriving.peek() {
            if next.at > now {
                break;
            }
            let Some(Reverse(frame)) = end.arriving.pop() else { break };
            let stats = &mut self.links[frame.from * count + to].stats;
            stats.in_flight -= 1;
            let room = end.waiting() < self.ring_frames;
            match room.then(|| end.pool.copy_from_slice(&frame.bytes)).flatten() {
                Some(buf) => {
                    if end.waiting() == 0 {
                        end.ready_since = frame.at;
                    }
                    let InFlight { checksum, gro_bytes, .. } = frame;
                    end.rx_frames += 1;
                    end.rx_bytes += buf.len() as u64;
                    end.ready.push(RxFrame { buf, checksum, gro_bytes });
                    stats.delivered += 1;
                }
                None => {
                    stats.overflowed += 1;
                    end.rx_dropped += 1;
                }
            }
            if self.spare.len() < self.ring_frames {
                self.spare.push(frame.bytes);
            }
        }
        self.find_straight();
    }

    /// Hands over what an end has received, when that is all of it and all that there can be: nothing is on the way, `max` is
    /// enough, and `into` is empty.
    #[inline(always)]
    pub(super) fn take_all(&mut self, to: usize, into: &mut Vec<RxFrame>, max: usize) -> Option<usize> {
        let end = self.ends.get_mut(to)?;
        let ready = end.ready.len();
        let simple = end.arriving.is_empty() && end.left.is_empty() && into.is_empty() && ready <= max;
        if !simple {
            return None;
        }
        if ready > 0 {
            std::mem::swap(into, &mut end.ready);
        }
        Some(ready)
    }

    /// Hands over up to `max` frames that have arrived by `now`; answers how many.
    #[inline(never)]
    pub(super) fn take(&mut self, to: usize, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> usize {
        if !self.ends[to].arriving.is_empty() {
            self.arrive(to, now);
        }
        let end = &mut self.ends[to];
        let before = into.len();
        end.left.extend(end.ready.drain(..));
        into.extend(end.left.drain(..end.left.len().min(max)));
        into.len() - before
    }

    /// When the next frame for an end arrives, or arrived.
    pub(super) fn next_arrival(&self, to: usize) -> Option<Instant> {
        let end = &self.ends[to];
        if end.waiting() > 0 {
            return Some(end.ready_since);
        }
        end.arriving.peek().map(|Reverse(frame)| frame.at)
    }

    /// What an end has received, added to what it has sent.
    pub(super) fn stats(&self, to: usize, sent: DeviceStats) -> DeviceStats {
        let &End { rx_frames, rx_bytes, rx_dropped, .. } = &self.ends[to];
        DeviceStats { rx_frames, rx_bytes, rx_dropped, ..sent }
    }

    /// An end that was dropped is there again, with this memory; `false` when it was not dropped.
    pub(super) fn rejoin(&mut self, index: usize, pool: Pool) -> bool {
        let Some(end) = self.ends.get_mut(index).filter(|end| end.gone) else { return false };
        *end = End::new(pool);
        self.find_straight();
        true
    }

    /// An end was dropped: what was on its way there is lost. With the last end the hooks go, which may hold a handle of this
    /// very wire; they are answered, to be dropped when the medium is not borrowed.
    pub(super) fn leave(&mut self, index: usize) -> Hooks {
        let count = self.ends.len();
        let end = &mut self.ends[index];
        end.gone = true;
        end.ready.clear();
        end.left.clear();
        for Reverse(frame) in end.arriving.drain() {
            let stats = &mut self.links[frame.from * count + index].stats;
            stats.in_flight -= 1;
            stats.cut += 1;
        }
        self.find_straight();
        if self.ends.iter().all(|end| end.gone) { std::mem::take(&mut self.hooks) } else { Hooks::default() }
    }
}

#[inline]
fn fits_as_gso(frame: &TxFrame<'_>, bytes: usize, tso_max_bytes: usize) -> bool {
    frame.offload.gso_bytes > 0 && bytes <= usize::from(frame.offload.header_bytes) + tso_max_bytes
}

/// Copies a queued frame into a slot of the receiver, as a NIC's DMA would.
/// A frame of at most `most` bytes in a slot of its own.
#[inline(always)]
fn copied(pool: &Pool, frame: &TxFrame<'_>, most: usize) -> Option<Buf> {
    match frame.single() {
        Some(part) if part.len() <= most => pool.copy_from_slice(part),
        Some(_) => None,
        None => copied_parts(pool, frame, most),
    }
}

#[inline(never)]
fn copied_parts(pool: &Pool, frame: &TxFrame<'_>, most: usize) -> Option<Buf> {
    let bytes = frame.len();
    if bytes > most {
        return None;
    }
    let mut buf = pool.alloc(bytes)?;
    frame.copy_to(buf.tail_mut());
    buf.grow(bytes);
    Some(buf.freeze())
}

fn receive(pool: &Pool, frame: &TxFrame<'_>, checksum_offload: bool) -> Option<RxFrame> {
    let mut buf = pool.alloc(frame.len())?;
    frame.parts().for_each(|part| {
        buf.put_slice(part);
    });
    let checksum = match frame.offload.checksum {
        None => RxChecksum::Unknown,
        Some(_) if checksum_offload => RxChecksum::Valid,
        Some(partial) => {
            checksum::complete(&mut buf, partial);
            RxChecksum::Unknown
        }
    };
    Some(RxFrame { buf: buf.freeze(), checksum, gro_bytes: frame.offload.gso_bytes })
}
