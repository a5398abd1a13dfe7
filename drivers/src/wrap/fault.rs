//! Faults on any device: frames dropped, doubled, held back, damaged, cut; a transmit ring that is full; a receive ring
//! that stays empty.
//!
//! Everything drawn by chance comes from the seed. Owns the frames it holds back, and hands them on at the next call, so
//! nothing stays behind for want of traffic. Never makes a frame longer, and never harms what the stack still holds: it
//! damages copies.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::checksum;
use crate::damage;
use crate::device::{Capabilities, Device, DeviceStats, Offload, RxChecksum, RxFrame, TxQueue};
use crate::mem::{Buf, Pool};
use crate::rng::Rng;
use crate::time::Instant;

/// What happens to frames on their way one way. The default does nothing to them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Probability that a frame is lost.
    pub drop: f64,
    /// Probability that a frame is passed on twice.
    pub duplicate: f64,
    /// Probability that a frame is held back, and passed on behind the next one.
    pub reorder: f64,
    /// Probability that one bit of a frame is flipped: behind the Ethernet header, and not in ARP.
    pub corrupt: f64,
    /// Probability that a frame loses its end: cut behind the Ethernet header at the earliest.
    pub truncate: f64,
    /// Probability that a whole burst does not take place: nothing has arrived, or there is no room to send.
    pub stall: f64,
}

/// Faults both ways, and where chance comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultConfig {
    /// Seed of everything drawn by chance.
    pub seed: u64,
    /// What happens to received frames.
    pub rx: Faults,
    /// What happens to sent frames.
    pub tx: Faults,
}

/// Faults that were injected so far, both ways together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultStats {
    /// Frames lost.
    pub dropped: u64,
    /// Extra copies passed on.
    pub duplicated: u64,
    /// Frames held back.
    pub reordered: u64,
    /// Frames with a bit flipped.
    pub corrupted: u64,
    /// Frames cut short.
    pub truncated: u64,
    /// Bursts that did not take place.
    pub stalled: u64,
}

#[derive(Debug)]
struct Shared {
    rx: Faults,
    tx: Faults,
    stats: FaultStats,
}

/// Changes the faults of a device that is in use, and reads their counters.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    shared: Rc<RefCell<Shared>>,
}

impl FaultHandle {
    /// Changes what happens to received frames.
    pub fn set_rx(&self, faults: Faults) {
        self.shared.borrow_mut().rx = faults;
    }

    /// Changes what happens to sent frames.
    pub fn set_tx(&self, faults: Faults) {
        self.shared.borrow_mut().tx = faults;
    }

    /// Faults injected so far.
    pub fn stats(&self) -> FaultStats {
        self.shared.borrow().stats
    }
}

/// A frame to be sent, out of its queue.
#[derive(Debug)]
struct Frame {
    parts: SmallVec<[Buf; 4]>,
    offload: Offload,
}

impl Frame {
    /// The frame in one piece of its own, its checksum filled in; `None` when no slot is free for it.
    fn flattened(&self, pool: &Pool) -> Option<crate::mem::BufMut> {
        let mut buf = pool.alloc(self.parts.iter().map(|part| part.len()).sum())?;
        for part in &self.parts {
            buf.put_slice(part);
        }
        if let Some(partial) = self.offload.checksum {
            checksum::complete(&mut buf, partial);
        }
        Some(buf)
    }

    fn queue(self, out: &mut TxQueue) {
        let mut parts = self.parts.into_iter();
        if let Some(head) = parts.next() {
            out.push_parts(head, parts, self.offload);
        }
    }
}

/// A device with faults.
#[derive(Debug)]
pub struct Fault {
    inner: Inner,
    rng: Rng,
    shared: Rc<RefCell<Shared>>,
    /// Frames that have had their faults, on the way to the device.
    out: TxQueue,
    held_tx: Option<Frame>,
    held_rx: Vec<RxFrame>,
    /// When the older of the held frames was put aside.
    held_since: Instant,
    received: Vec<RxFrame>,
}

struct Inner(Box<dyn Device>);

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

impl Fault {
    /// Puts `device` behind faults.
    pub fn new(device: Box<dyn Device>, config: FaultConfig) -> Fault {
        let out = TxQueue::new(device.capabilities().burst.max(1) * 2);
        let shared = Shared { rx: config.rx, tx: config.tx, stats: FaultStats::default() };
        Fault {
            inner: Inner(device),
            rng: Rng::new(config.seed, 0),
            shared: Rc::new(RefCell::new(shared)),
            out,
            held_tx: None,
            held_rx: Vec::new(),
            held_since: Instant::ZERO,
            received: Vec::new(),
        }
    }

    /// What changes the faults while the device is in use.
    pub fn handle(&self) -> FaultHandle {
        FaultHandle { shared: self.shared.clone() }
    }

    /// Passes one received frame on, with its faults.
    fn receive(&mut self, now: Instant, frame: RxFrame, into: &mut Vec<RxFrame>) {
        let mut shared = self.shared.borrow_mut();
        let Shared { rx, stats, .. } = &mut *shared;
        let rng = &mut self.rng;
        if rng.chance(rx.drop) {
            stats.dropped += 1;
            return;
        }
        let mut frame = frame;
        if rng.chance(rx.truncate)
            && let Some(bytes) = damage::length_to_cut_to(rng, frame.buf.len())
        {
            frame.buf.truncate(bytes);
            frame.checksum = RxChecksum::Unknown;
            stats.truncated += 1;
        }
        if rng.chance(rx.corrupt)
            && let Some(bit) = damage::bit_to_flip(rng, &frame.buf)
        {
            // Another view of the slot, the sender's on a wire or a copy of ours, is not to see the damage.
            let pool = self.inner.0.pool();
            let own = frame.buf.try_into_mut().or_else(|shared| match pool.alloc(shared.len()) {
                Some(mut copy) => {
                    copy.put_slice(&shared);
                    Ok(copy)
                }
                None => Err(shared),
            });
            frame.buf = match own {
                Ok(mut own) => {
                    damage::flip(&mut own, bit);
                    frame.checksum = RxChecksum::Unknown;
                    stats.corrupted += 1;
                    own.freeze()
                }
                Err(untouched) => untouched,
            };
        }
        if rng.chance(rx.duplicate) {
            stats.duplicated += 1;
            let RxFrame { buf, checksum, gro_bytes } = &frame;
            into.push(RxFrame { buf: buf.clone(), checksum: *checksum, gro_bytes: *gro_bytes });
        }
        if self.held_rx.is_empty() && rng.chance(rx.reorder) {
            stats.reordered += 1;
            self.held_rx.push(frame);
            self.held_since = now;
            return;
        }
        into.push(frame);
        into.append(&mut self.held_rx);
    }

    /// Moves one frame from the queue towards the device, with its faults.
    fn send(&mut self, now: Instant, queue: &mut TxQueue) {
        let Some(front) = queue.front() else { return };
        let mut frame = Frame { parts: SmallVec::new(), offload: front.offload };
        queue.pop_with(|part| frame.parts.push(part));
        let mut shared = self.shared.borrow_mut();
        let Shared { tx, stats, .. } = &mut *shared;
        let rng = &mut self.rng;
        if rng.chance(tx.drop) {
            stats.dropped += 1;
            return;
        }
        let (cut, flip) = (rng.chance(tx.truncate), rng.chance(tx.corrupt));
        // What the device is yet to cut into segments is left alone: harm would reach all of them, or none.
        if (cut || flip)
            && frame.offload.gso_bytes == 0
            && let Some(mut whole) = frame.flattened(self.inner.0.pool())
        {
            if cut && let Some(bytes) = damage::length_to_cut_to(rng, whole.len()) {
                whole.truncate(bytes);
                stats.truncated += 1;
            }
            if flip && let Some(bit) = damage::bit_to_flip(rng, &whole) {
                damage::flip(&mut whole, bit);
                stats.corrupted += 1;
            }
            frame = Frame { parts: SmallVec::from_iter([whole.freeze()]), offload: Offload::default() };
        }
        if rng.chance(tx.duplicate) {
            stats.duplicated += 1;
            Frame { parts: frame.parts.clone(), offload: frame.offload }.queue(&mut self.out);
        }
        if self.held_tx.is_none() && rng.chance(tx.reorder) {
            stats.reordered += 1;
            self.held_tx = Some(frame);
            self.held_since = now;
            return;
        }
        frame.queue(&mut self.out);
        if let Some(held) = self.held_tx.take() {
            held.queue(&mut self.out);
        }
    }

    fn stalls(&mut self, chance: impl Fn(&Shared) -> f64) -> bool {
        let mut shared = self.shared.borrow_mut();
        let stalls = self.rng.chance(chance(&shared));
        shared.stats.stalled += u64::from(stalls);
        stalls
    }
}

impl Device for Fault {
    fn name(&self) -> &str {
        self.inner.0.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.0.capabilities()
    }

    fn pool(&self) -> &Pool {
        self.inner.0.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        // What waits to be sent is not to wait for something else to be sent.
        if let Some(held) = self.held_tx.take() {
            held.queue(&mut self.out);
        }
        if !self.out.is_empty() {
            self.inner.0.tx_burst(now, &mut self.out)?;
        }
        if self.stalls(|shared| shared.rx.stall) {
            return Ok(0);
        }
        let before = into.len();
        let mut late = std::mem::take(&mut self.held_rx);
        let mut received = std::mem::take(&mut self.received);
        self.inner.0.rx_burst(now, &mut received, max.saturating_sub(late.len()))?;
        for frame in received.drain(..) {
            self.receive(now, frame, into);
        }
        self.received = received;
        into.append(&mut late);
        // Copies may be more than was asked for.
        if into.len() - before > max {
            self.held_rx.extend(into.drain(before + max..));
            self.held_since = now;
        }
        Ok(into.len() - before)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        if self.stalls(|shared| shared.tx.stall) {
            return Ok(0);
        }
        if !self.out.is_empty() {
            self.inner.0.tx_burst(now, &mut self.out)?;
        }
        let mut taken = 0;
        while !queue.is_empty() {
            // Full as the device is: what it had no room for stays where it is.
            if self.out.room() < 3 {
                self.inner.0.tx_burst(now, &mut self.out)?;
                if self.out.room() < 3 {
                    break;
                }
            }
            self.send(now, queue);
            taken += 1;
        }
        if !self.out.is_empty() {
            self.inner.0.tx_burst(now, &mut self.out)?;
        }
        Ok(taken)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.inner.0.set_addresses(addresses)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.0.wait_fd()
    }

    fn max_wait(&self) -> Option<Duration> {
        self.inner.0.max_wait()
    }

    fn deadline(&self) -> Option<Instant> {
        let held = !self.held_rx.is_empty() || self.held_tx.is_some() || !self.out.is_empty();
        let held = held.then_some(self.held_since);
        [held, self.inner.0.deadline()].into_iter().flatten().min()
    }

    fn stats(&self) -> DeviceStats {
        self.inner.0.stats()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ChecksumOffload;
    use crate::mem::PoolConfig;
    use crate::wire::{Wire, WireConfig, WireEnd};

    fn pair(config: FaultConfig) -> (Fault, WireEnd) {
        let wire = WireConfig {
            pool: PoolConfig::small(1024),
            ring_frames: 256,
            checksum_offload: true,
            ..WireConfig::default()
        };
        let mut ends = Wire::new(1, wire).unwrap();
        let far = ends.pop().unwrap();
        (Fault::new(Box::new(ends.pop().unwrap()), config), far)
    }

    fn frame(number: u32) -> [u8; 60] {
        let mut frame = [0x11; 60];
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        frame[14..18].copy_from_slice(&number.to_be_bytes());
        frame
    }

    /// Sends frames numbered `0..count`, polls the other side till nothing comes, and answers what came.
    fn exchange(from: &mut dyn Device, to: &mut dyn Device, count: u32) -> Vec<Vec<u8>> {
        let mut queue = TxQueue::new(256);
        for number in 0..count {
            let pool = from.pool();
            queue.push(pool.copy_from_slice(&frame(number)).unwrap(), Offload::default());
        }
        let mut got = Vec::new();
        let mut quiet = 0;
        while quiet < 20 {
            from.tx_burst(Instant::ZERO, &mut queue).unwrap();
            from.rx_burst(Instant::ZERO, &mut Vec::new(), 32).unwrap();
            let count = to.rx_burst(Instant::ZERO, &mut got, 3).unwrap();
            assert!(count <= 3);
            quiet = if count == 0 { quiet + 1 } else { 0 };
        }
        assert!(queue.is_empty());
        got.iter().map(|frame| frame.buf.to_vec()).collect()
    }

    fn number(frame: &[u8]) -> u32 {
        u32::from_be_bytes([frame[14], frame[15], frame[16], frame[17]])
    }

    /// What comes through a device with `faults` when 100 frames go one way, and the counters.
    fn both_ways(faults: Faults) -> Vec<(Vec<Vec<u8>>, FaultStats)> {
        let config = FaultConfig { seed: 7, ..FaultConfig::default() };
        let (mut near, mut far) = pair(FaultConfig { tx: faults, ..config });
        let sent = (exchange(&mut near, &mut far, 100), near.handle().stats());
        assert_eq!(near.deadline(), None, "nothing is left behind");
        let (mut near, mut far) = pair(FaultConfig { rx: faults, ..config });
        let received = (exchange(&mut far, &mut near, 100), near.handle().stats());
        assert_eq!((near.deadline(), near.pool().stats().slots_out), (None, 0), "nothing is left behind");
        vec![sent, received]
    }

    #[test]
    fn without_faults_everything_passes_unharmed() {
        for (got, stats) in both_ways(Faults::default()) {
            assert_eq!(got, (0..100).map(|n| frame(n).to_vec()).collect::<Vec<_>>());
            assert_eq!(stats, FaultStats::default());
        }
    }

    #[test]
    fn dropped_and_doubled_frames_are_counted() {
        for (got, stats) in both_ways(Faults { drop: 0.3, duplicate: 0.3, ..Faults::default() }) {
            assert!(stats.dropped > 10 && stats.duplicated > 10, "{stats:?}");
            assert_eq!(got.len() as u64, 100 - stats.dropped + stats.duplicated);
        }
    }

    #[test]
    fn reordered_frames_come_late_and_all_come() {
        for (got, stats) in both_ways(Faults { reorder: 0.3, ..Faults::default() }) {
            let mut numbers: Vec<_> = got.iter().map(|frame| number(frame)).collect();
            assert!(stats.reordered > 10 && !numbers.is_sorted(), "{stats:?} {numbers:?}");
            numbers.sort_unstable();
            assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn damage_is_one_bit_or_a_shorter_frame() {
        for (got, stats) in both_ways(Faults { corrupt: 0.5, ..Faults::default() }) {
            let flipped: u32 =
                got.iter().enumerate().map(|(n, got)| bits_between(got, &frame(n as u32))).sum();
            assert!(stats.corrupted > 20);
            assert_eq!(u64::from(flipped), stats.corrupted);
        }
        for (got, stats) in both_ways(Faults { truncate: 0.5, ..Faults::default() }) {
            assert_eq!(got.iter().filter(|frame| frame.len() < 60).count() as u64, stats.truncated);
            assert!(stats.truncated > 20);
        }
    }

    fn bits_between(a: &[u8], b: &[u8]) -> u32 {
        a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    #[test]
    fn stalls_delay_and_lose_nothing() {
        for (got, stats) in both_ways(Faults { stall: 0.5, ..Faults::default() }) {
            assert_eq!(got.len(), 100);
            assert!(stats.stalled > 3, "{stats:?}");
        }
    }

    #[test]
    fn a_frame_that_the_stack_still_holds_is_damaged_in_a_copy_with_its_checksum_filled_in() {
        let tx = Faults { corrupt: 1.0, ..Faults::default() };
        let (mut near, mut far) = pair(FaultConfig { tx, ..FaultConfig::default() });
        let kept = near.pool().copy_from_slice(&frame(1)).unwrap();
        let partial =
            Offload { checksum: Some(ChecksumOffload { start: 14, offset: 10 }), ..Offload::default() };
        let mut queue = TxQueue::new(4);
        queue.push_parts(kept.slice(0, 20), [kept.slice(20, 40)], partial);
        near.tx_burst(Instant::ZERO, &mut queue).unwrap();
        let mut got = Vec::new();
        far.rx_burst(Instant::ZERO, &mut got, 1).unwrap();
        assert_eq!(&kept[..], &frame(1)[..]);
        assert_eq!(got[0].checksum, RxChecksum::Unknown);
        let mut whole = frame(1);
        checksum::complete(&mut whole, ChecksumOffload { start: 14, offset: 10 });
        assert_eq!(bits_between(&got[0].buf, &whole), 1);
    }

    #[test]
    fn the_same_seed_does_the_same_harm() {
        let everything =
            Faults { drop: 0.2, duplicate: 0.2, reorder: 0.2, corrupt: 0.2, truncate: 0.2, stall: 0.2 };
        assert_eq!(both_ways(everything), both_ways(everything));
    }
}
