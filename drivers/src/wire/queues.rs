//! An end of a wire with several queues, as a NIC has them: each is a device for another stack, with a pool of its own, and a hash of
//! addresses and ports says which queue a frame is received into.
//!
//! All queues of an end are on one thread, whoever drives them: what a simulated host of several cores has. What any of them sends
//! goes out of the one end.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::WireEnd;
use crate::device::{Capabilities, Device, DeviceStats, RxFrame, TxQueue};
use crate::mem::{Pool, PoolConfig};
use crate::spread::{Hash, Spread};
use crate::time::Instant;

/// What has arrived at a queue.
struct Arrived {
    pool: Pool,
    frames: VecDeque<RxFrame>,
    /// When the oldest of them came, at the latest.
    since: Instant,
    stats: DeviceStats,
}

struct Port {
    end: WireEnd,
    spread: Spread,
    queues: Vec<Arrived>,
    /// What the end has given and is to be spread.
    scratch: Vec<RxFrame>,
    ring_frames: usize,
}

impl Port {
    /// Receives all there is, each frame into its queue.
    fn receive(&mut self, now: Instant) -> io::Result<()> {
        while self.end.rx_burst(now, &mut self.scratch, 64)? > 0 {
            for frame in self.scratch.drain(..) {
                // What is neither TCP nor UDP in one piece is the first one's.
                let queue = self.spread.queue_of_frame(&frame.buf).unwrap_or(0);
                let Some(queue) = self.queues.get_mut(usize::from(queue)) else { continue };
                let copy = if queue.frames.len() < self.ring_frames {
                    queue.pool.copy_from_slice(&frame.buf)
                } else {
                    None
                };
                let Some(buf) = copy else {
                    queue.stats.rx_dropped += 1;
                    continue;
                };
                if queue.frames.is_empty() {
                    queue.since = now;
                }
                queue.stats.rx_frames += 1;
                queue.stats.rx_bytes += buf.len() as u64;
                queue.frames.push_back(RxFrame { buf, ..frame });
            }
        }
        Ok(())
    }
}

/// One queue of an end. Made by [`WireEnd::into_queues`].
pub struct WireQueue {
    name: String,
    index: usize,
    capabilities: Capabilities,
    pool: Pool,
    port: Rc<RefCell<Port>>,
}

impl WireEnd {
    /// The end as `count` queues, with `pool` for each. TCP and UDP in one piece are spread by `hash`; everything else arrives at
    /// the first one.
    ///
    /// # Errors
    /// `InvalidInput` for no queue, or when the pool's configuration is unusable; what `mmap` said when there is no memory.
    ///
    /// ```
    /// use demi_drivers::spread::Hash;
    /// use demi_drivers::wire::{Wire, WireConfig};
    /// use demi_drivers::{Device, PoolConfig};
    ///
    /// let end = Wire::new(42, WireConfig::default())?.swap_remove(0);
    /// let queues = end.into_queues(4, &Hash::Mix { seed: 7 }, &PoolConfig::small(256))?;
    /// assert_eq!(queues.len(), 4);
    /// assert_eq!(queues[3].capabilities().spread.as_ref().map(|spread| spread.queue), Some(3));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_queues(self, count: u16, hash: &Hash, pool: &PoolConfig) -> io::Result<Vec<WireQueue>> {
        if count == 0 {
            let message = format!("{}: an end has one queue at least", self.name);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let pools = (0..count).map(|_| Pool::new(pool)).collect::<io::Result<Vec<_>>>()?;
        let (name, capabilities) = (self.name.clone(), self.capabilities.clone());
        let ring_frames = self.medium.borrow().config().ring_frames;
        let arrived = |pool: &Pool| Arrived {
            pool: pool.clone(),
            frames: VecDeque::new(),
            since: Instant::ZERO,
            stats: DeviceStats::default(),
        };
        let spread = Spread { queue: 0, queues: count, hash: hash.clone() };
        let queues = pools.iter().map(arrived).collect();
        let port = Port { end: self, spread, queues, scratch: Vec::new(), ring_frames };
        let port = Rc::new(RefCell::new(port));
        let queue = |(index, pool): (usize, Pool)| {
            let mut capabilities = capabilities.clone();
            capabilities.queues = count;
            capabilities.spread = Some(Spread { queue: index as u16, queues: count, hash: hash.clone() });
            WireQueue { name: format!("{name}@{index}"), index, capabilities, pool, port: Rc::clone(&port) }
        };
        Ok(pools.into_iter().enumerate().map(queue).collect())
    }
}

impl Device for WireQueue {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        let mut port = self.port.borrow_mut();
        port.receive(now)?;
        let Some(queue) = port.queues.get_mut(self.index) else { return Ok(0) };
        let count = queue.frames.len().min(max);
        into.extend(queue.frames.drain(..count));
        Ok(count)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut port = self.port.borrow_mut();
        let before = port.end.stats();
        let taken = port.end.tx_burst(now, queue)?;
        let after = port.end.stats();
        if let Some(own) = port.queues.get_mut(self.index) {
            own.stats.tx_frames += after.tx_frames - before.tx_frames;
            own.stats.tx_bytes += after.tx_bytes - before.tx_bytes;
            own.stats.tx_dropped += after.tx_dropped - before.tx_dropped;
            own.stats.tx_full += after.tx_full - before.tx_full;
        }
        Ok(taken)
    }

    fn deadline(&self) -> Option<Instant> {
        let port = self.port.borrow();
        let waiting = port.queues.get(self.index).filter(|queue| !queue.frames.is_empty());
        waiting.map(|queue| queue.since).or_else(|| port.end.deadline())
    }

    fn stats(&self) -> DeviceStats {
        self.port.borrow().queues.get(self.index).map_or_else(DeviceStats::default, |queue| queue.stats)
    }
}

impl std::fmt::Debug for WireQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireQueue({})", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::super::{Wire, WireConfig};
    use super::*;
    use crate::Offload;

    /// A UDP packet from 10.0.0.9 to 10.0.0.2:7 in a frame.
    fn frame(src_port: u16) -> Vec<u8> {
        let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 2];
        [&[0xff; 12][..], &[8, 0], &header, &src_port.to_be_bytes(), &[0, 7, 0, 8, 0, 0]].concat()
    }

    fn send(from: &mut dyn Device, frames: impl Iterator<Item = Vec<u8>>) {
        let mut queue = TxQueue::new(256);
        for frame in frames {
            queue.push(from.pool().copy_from_slice(&frame).unwrap(), Offload::default());
        }
        from.tx_burst(Instant::ZERO, &mut queue).unwrap();
        assert!(queue.is_empty());
    }

    fn ends(count: u16, pool: &PoolConfig) -> (Vec<WireQueue>, WireEnd) {
        let mut ends = Wire::new(1, WireConfig::default()).unwrap().into_iter();
        let (ours, far) = (ends.next().unwrap(), ends.next().unwrap());
        (ours.into_queues(count, &Hash::Mix { seed: 5 }, pool).unwrap(), far)
    }

    #[test]
    fn each_frame_arrives_at_its_queue_in_order_and_once() {
        let (mut queues, mut far) = ends(4, &PoolConfig::small(128));
        let arp = [&[0xff; 12][..], &[8, 6], &[0; 46]].concat();
        send(&mut far, (1000..1100).map(frame).chain([arp.clone()]));
        let mut all = Vec::new();
        // Whichever asks first receives for all.
        for at in [2, 0, 3, 1] {
            assert!(queues[at].deadline().is_some(), "queue {at} has something");
            let mut frames = Vec::new();
            while queues[at].rx_burst(Instant::ZERO, &mut frames, 8).unwrap() > 0 {}
            let spread = queues[at].capabilities().spread.clone().unwrap();
            let frames: Vec<_> = frames.iter().map(|frame| frame.buf.to_vec()).collect();
            assert!(frames.len() > 10, "queue {at}: {}", frames.len());
            for frame in &frames {
                assert_eq!(usize::from(spread.queue_of_frame(frame).unwrap_or(0)), at);
            }
            assert!(frames.is_sorted() || at == 0);
            assert_eq!(queues[at].stats().rx_frames, frames.len() as u64);
            all.extend(frames);
        }
        assert!(queues.iter().all(|queue| queue.deadline().is_none()));
        all.sort();
        let mut expected: Vec<_> = (1000..1100).map(frame).chain([arp]).collect();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn all_send_out_of_the_one_end_and_count_for_themselves() {
        let (mut queues, mut far) = ends(2, &PoolConfig::small(64));
        send(&mut queues[0], (0..3).map(frame));
        send(&mut queues[1], (3..8).map(frame));
        let mut frames = Vec::new();
        while far.rx_burst(Instant::ZERO, &mut frames, 64).unwrap() > 0 {}
        assert_eq!(frames.len(), 8);
        assert_eq!([0, 1].map(|at: usize| queues[at].stats().tx_frames), [3, 5]);
        drop(queues);
        send(&mut far, (0..3).map(frame));
    }

    #[test]
    fn a_queue_without_memory_drops_its_own_frames_alone() {
        let (mut queues, mut far) = ends(2, &PoolConfig::small(8));
        let spread = queues[0].capabilities().spread.clone().unwrap();
        let is_first = |port: &u16| {
            let [src, dst] = [[10, 0, 0, 9], [10, 0, 0, 2]].map(IpAddr::from);
            let (src_port, dst_port) = (*port, 7);
            spread.queue_of(&crate::spread::Arrival { src, dst, src_port, dst_port, udp: true }) == 0
        };
        send(&mut far, (1000..2000).filter(is_first).take(40).map(frame));
        send(&mut far, (1000..2000).filter(|port| !is_first(port)).take(5).map(frame));
        let counts = [0, 1].map(|at: usize| {
            let mut frames = Vec::new();
            while queues[at].rx_burst(Instant::ZERO, &mut frames, 64).unwrap() > 0 {}
            (frames.len(), queues[at].stats().rx_dropped)
        });
        assert_eq!(counts, [(8, 32), (5, 0)]);
    }

    #[test]
    fn an_end_has_one_queue_at_least() {
        let end = Wire::new(1, WireConfig::default()).unwrap().swap_remove(0);
        let error = end.into_queues(0, &Hash::Mix { seed: 5 }, &PoolConfig::small(8)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
