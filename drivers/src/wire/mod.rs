//! `wire`: a network in memory, with as many ends as there are hosts, that can be as bad as one likes.
//!
//! Each [`WireEnd`] is a [`Device`] with a [`Pool`] of its own; a frame is copied into a slot of its receiver as a NIC's
//! DMA would do it, so two hosts on one thread share nothing but the medium. What each direction does to frames is a
//! [`LinkConfig`]: loss, delay, jitter and reordering, duplication, corruption, truncation, a rate and a queue. A
//! [`WireHandle`] changes that while hosts are talking, cuts links, filters and observes frames, and reads counters.
//!
//! Time is an argument, so a wire runs on a virtual clock as well as on a real one, and everything drawn by chance comes
//! from the seed: the same calls at the same times see the same frames. A wire that does nothing to frames is a bounded
//! ring between its two ends, and a full ring leaves frames with the sender. Nothing here looks into a frame behind its
//! Ethernet header, save to fill in a checksum it was asked to.

mod config;
mod handle;
mod link;
mod medium;
mod queues;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

pub use config::{BurstLoss, LinkConfig, Topology, WireConfig};
pub use handle::{LinkStats, Outcome, Verdict, WireEvent, WireFrame, WireHandle};
pub use queues::WireQueue;

use crate::device::{Capabilities, Device, DeviceStats, Offload, RxFrame, TxQueue};
use crate::mem::Pool;
use crate::time::Instant;
use medium::{Hooks, Medium};

/// Makes wires.
#[derive(Debug)]
pub struct Wire;

impl Wire {
    /// A wire as `config` says, as its ends. End `i` has the address `02:00:00:00:hi:lo` of the number `i + 1`. Everything
    /// drawn by chance comes from `seed`.
    ///
    /// # Errors
    /// `InvalidInput` when the number of ends is not in `2..=65535`, when the ring has no room, or when the pool's
    /// configuration is unusable; what `mmap` said when there is no memory for the pools.
    ///
    /// ```
    /// use demi_drivers::wire::{LinkConfig, Wire, WireConfig};
    /// use demi_drivers::{Device, Instant, Offload, TxQueue};
    /// use std::time::Duration;
    ///
    /// let link = LinkConfig { delay: Duration::from_millis(5), ..LinkConfig::default() };
    /// let mut ends = Wire::new(42, WireConfig { link, ..WireConfig::default() })?;
    /// let (mut b, mut a) = (ends.pop().unwrap(), ends.pop().unwrap());
    /// let mut queue = TxQueue::new(8);
    /// queue.push(a.pool().copy_from_slice(&[0xff; 60]).unwrap(), Offload::default());
    /// a.tx_burst(Instant::ZERO, &mut queue)?;
    ///
    /// let mut frames = Vec::new();
    /// assert_eq!(b.rx_burst(Instant::from_millis(4), &mut frames, 32)?, 0, "still on the way");
    /// assert_eq!(b.deadline(), Some(Instant::from_millis(5)));
    /// assert_eq!(b.rx_burst(Instant::from_millis(5), &mut frames, 32)?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(clippy::new_ret_no_self)] // The wire is its ends; there is nothing else to hold.
    pub fn new(seed: u64, config: WireConfig) -> io::Result<Vec<WireEnd>> {
        if !(2..=usize::from(u16::MAX)).contains(&config.ends) || config.ring_frames == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a wire of {} ends with rings of {} frames: it takes 2 to 65535 ends and rings of at least 1 frame",
                    config.ends, config.ring_frames
                ),
            ));
        }
        let pools =
            (0..config.ends).map(|index| Pool::new(config.pool_of(index))).collect::<io::Result<Vec<_>>>()?;
        let medium = Rc::new(RefCell::new(Medium::new(seed, &config, &pools)));
        let ends = pools.into_iter().enumerate();
        let ends = ends.map(|(index, pool)| WireEnd::new(index, &config, pool, medium.clone()));
        Ok(ends.collect())
    }
}

/// One end of a wire.
pub struct WireEnd {
    name: String,
    index: usize,
    capabilities: Capabilities,
    pool: Pool,
    medium: Rc<RefCell<Medium>>,
    stats: DeviceStats,
    /// The frame being sent, in one piece.
    scratch: Vec<u8>,
}

impl WireEnd {
    fn new(index: usize, config: &WireConfig, pool: Pool, medium: Rc<RefCell<Medium>>) -> WireEnd {
        let [high, low] = (index as u16 + 1).to_be_bytes();
        let mut capabilities = Capabilities::new([0x02, 0, 0, 0, high, low], config.mtu);
        capabilities.tx_checksum = config.checksum_offload;
        capabilities.rx_checksum = config.checksum_offload;
        capabilities.lossless_memory = config.lossless_memory;
        capabilities.tso_max_bytes = if config.checksum_offload { config.tso_max_bytes } else { 0 };
        WireEnd {
            name: format!("wire:{index}"),
            index,
            capabilities,
            pool,
            medium,
            stats: DeviceStats::default(),
            scratch: Vec::new(),
        }
    }

    /// What controls the wire this end is of.
    pub fn handle(&self) -> WireHandle {
        WireHandle { medium: self.medium.clone() }
    }

    /// Which end this is, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Sends everything queued through links that do something to it, or past hooks.
    #[inline(never)]
    fn send_through(&mut self, now: Instant, queue: &mut TxQueue) -> usize {
        let mut taken = 0;
        let mut hooks = self.medium.borrow_mut().take_hooks();
        while let Some(frame) = queue.front() {
            taken += 1;
            let bytes = frame.len();
            if self.medium.borrow().refuses(&frame, bytes) {
                self.stats.tx_dropped += 1;
                queue.pop();
                continue;
            }
            self.stats.tx_frames += 1;
            self.stats.tx_bytes += bytes as u64;
            let offload = frame.offload;
            self.scratch.clear();
            for part in frame.parts() {
                self.scratch.extend_from_slice(part);
            }
            queue.pop();
            let targets = self.medium.borrow().targets(self.index, &self.scratch);
            let from = self.index;
            for to in targets.filter(|&to| to != from) {
                self.send_to(to, now, &offload, &mut hooks);
            }
        }
        let replaced = self.medium.borrow_mut().put_hooks(hooks);
        drop(replaced);
        taken
    }

    /// Sends the frame in `scratch` to one end.
    fn send_to(&mut self, to: usize, now: Instant, offload: &Offload, hooks: &mut Hooks) {
        let from = self.index;
        let mut medium = self.medium.borrow_mut();
        let mut bytes = medium.buffer(&self.scratch);
        let mut checksum = medium.checksum_of(offload, &mut bytes);
        let Some(link) = medium.link_mut(from, to) else { return };
        link.stats.sent += 1;
        drop(medium);
        let verdict = match &mut hooks.filter {
            Some(filter) => filter(&mut WireFrame { now, from, to, bytes: &mut bytes }),
            None => Verdict::Pass,
        };
        let mut medium = self.medium.borrow_mut();
        let mut later = std::time::Duration::ZERO;
        let mut arrival = None;
        match verdict {
            Verdict::Drop => {
                if let Some(link) = medium.link_mut(from, to) {
                    link.stats.filtered += 1;
                }
            }
            Verdict::Pass | Verdict::Delay(_) => {
                if let Verdict::Delay(by) = verdict {
                    later = by;
                }
                arrival = medium.decide(from, to, now, &mut bytes, offload, &mut checksum);
            }
        }
        drop(medium);
        let arrivals = arrival.map(|(at, copy_at)| (at + later, copy_at.map(|at| at + later)));
        if let Some(observer) = &mut hooks.observer {
            let mut tell = |outcome| {
                observer(&WireEvent { now, from, to, bytes: &bytes, checksum, outcome });
            };
            match arrivals {
                None => tell(Outcome::Lost),
                Some((at, copy_at)) => {
                    tell(Outcome::Arrives(at));
                    if let Some(at) = copy_at {
                        tell(Outcome::Arrives(at));
                    }
                }
            }
        }
        let mut medium = self.medium.borrow_mut();
        let Some((at, copy_at)) = arrivals else {
            medium.recycle(bytes);
            return;
        };
        if let Some(copy_at) = copy_at {
            let copy = medium.buffer(&bytes);
            medium.launch(from, to, now, at, bytes, checksum, offload.gso_bytes);
            medium.launch(from, to, now, copy_at, copy, checksum, offload.gso_bytes);
        } else {
            medium.launch(from, to, now, at, bytes, checksum, offload.gso_bytes);
        }
    }
}

impl Device for WireEnd {
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
        let mut medium = self.medium.borrow_mut();
        match medium.take_all(self.index, into, max) {
            Some(taken) => Ok(taken),
            None => Ok(medium.take(self.index, now, into, max)),
        }
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        let mut medium = self.medium.borrow_mut();
        if let Some(to) = medium.straight_to(self.index) {
            return Ok(medium.send_straight(self.index, to, now, queue, &mut self.stats));
        }
        drop(medium);
        Ok(self.send_through(now, queue))
    }

    fn deadline(&self) -> Option<Instant> {
        self.medium.borrow().next_arrival(self.index)
    }

    fn stats(&self) -> DeviceStats {
        self.medium.borrow().stats(self.index, self.stats)
    }
}

impl Drop for WireEnd {
    fn drop(&mut self) {
        let hooks = self.medium.borrow_mut().leave(self.index);
        drop(hooks);
    }
}

impl std::fmt::Debug for WireEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireEnd({})", self.name)
    }
}
