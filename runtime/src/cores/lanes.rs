//! Frames on their way from one core's stack to another's: copies, in a ring from each to each.
//!
//! Frames that take this way are the exception (see [`Shared`](demi_netstack::Shared)), so each costs an allocation, and one
//! that finds the ring full is dropped, as a network drops. A stack that nothing was sent to finds that out by one load
//! a burst: the bell. It also wakes a parked core, through an ordinary task that has nothing else to do.

use core::future::poll_fn;
use core::task::Poll;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use demi_drivers::device::RxChecksum;
#[cfg(feature = "rdma")]
use demi_drivers::rdma::Fellows;
use demi_drivers::{Pool, RxFrame};

use crate::mesh::{self, Receiver, Sender, Waiting};

/// Frames on the way from one stack to one other.
const RING: usize = 512;

/// A copy of a received frame.
struct Parcel {
    bytes: Box<[u8]>,
    checksum: RxChecksum,
    gro_bytes: u16,
}

/// Says that frames lie ready for a core.
pub(crate) struct Bell {
    rung: AtomicBool,
    core: Waiting,
}

impl Bell {
    pub(super) fn new() -> Arc<Bell> {
        Arc::new(Bell { rung: AtomicBool::new(false), core: Waiting::new() })
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        self.core.wake();
    }
}

/// Has the loop of the core that `bell` is for turn once more when it rings, for ever: a task that is woken ends a sleep, and
/// a turn in which a task has run is followed by another one, which begins with the devices.
pub(crate) async fn listen(bell: Arc<Bell>) {
    poll_fn(|cx| {
        bell.core.leave(cx.waker());
        Poll::Pending
    })
    .await
}

/// The ways of one stack to and from its fellows.
pub(crate) struct Lanes {
    to: Vec<Option<(Sender<Parcel>, Arc<Bell>)>>,
    from: Vec<Receiver<Parcel>>,
    bell: Arc<Bell>,
    /// The receiver to go on with.
    next: usize,
    /// What the cores share of a device that is no device of frames.
    #[cfg(feature = "rdma")]
    fellows: Arc<Fellows>,
}

/// One for each stack that shares a device, a bell each.
pub(super) fn all(bells: &[Arc<Bell>]) -> Vec<Lanes> {
    #[cfg(feature = "rdma")]
    let fellows = Fellows::new(bells.len());
    let mut all: Vec<Lanes> = bells
        .iter()
        .map(|bell| Lanes {
            to: Vec::new(),
            from: Vec::new(),
            bell: Arc::clone(bell),
            next: 0,
            #[cfg(feature = "rdma")]
            fellows: Arc::clone(&fellows),
        })
        .collect();
    for from in 0..bells.len() {
        for (to, bell) in bells.iter().enumerate() {
            let (sender, receiver) = if from == to {
                (None, None)
            } else {
                let (sender, receiver) = mesh::channel(RING);
                (Some((sender, Arc::clone(bell))), Some(receiver))
            };
            if let Some(lanes) = all.get_mut(from) {
                lanes.to.push(sender);
            }
            if let Some(lanes) = all.get_mut(to) {
                lanes.from.extend(receiver);
            }
        }
    }
    all
}

impl demi_netstack::Lanes for Lanes {
    fn send(&mut self, to: u16, frame: &RxFrame) -> bool {
        let Some((sender, bell)) = self.to.get_mut(usize::from(to)).and_then(Option::as_mut) else {
            return false;
        };
        let parcel =
            Parcel { bytes: (*frame.buf).into(), checksum: frame.checksum, gro_bytes: frame.gro_bytes };
        let sent = sender.try_send(parcel).is_ok();
        bell.ring();
        sent
    }

    #[inline]
    fn receive(&mut self, pool: &Pool, into: &mut Vec<RxFrame>, max: usize) -> usize {
        if !self.bell.rung.load(Ordering::Relaxed) {
            return 0;
        }
        self.take(pool, into, max)
    }
}

impl Lanes {
    /// What the cores share of an RDMA device.
    #[cfg(feature = "rdma")]
    pub(crate) fn fellows(&self) -> &Arc<Fellows> {
        &self.fellows
    }

    #[cold]
    fn take(&mut self, pool: &Pool, into: &mut Vec<RxFrame>, max: usize) -> usize {
        // Before the rings are looked at: what comes after that rings again.
        self.bell.rung.swap(false, Ordering::AcqRel);
        let (mut taken, mut silent) = (0, 0);
        while silent < self.from.len() {
            if taken == max {
                // The rest is for the next turn.
                self.bell.ring();
                break;
            }
            self.next = (self.next + 1) % self.from.len();
            let Some(Ok(parcel)) = self.from.get_mut(self.next).map(Receiver::try_recv) else {
                silent += 1;
                continue;
            };
            silent = 0;
            // Without memory it is lost, as on a full ring.
            if let Some(mut slot) = pool.alloc(parcel.bytes.len()) {
                slot.put_slice(&parcel.bytes);
                into.push(RxFrame {
                    buf: slot.freeze(),
                    checksum: parcel.checksum,
                    gro_bytes: parcel.gro_bytes,
                });
                taken += 1;
            }
        }
        taken
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use demi_drivers::PoolConfig;
    use demi_netstack::Lanes as _;

    fn frame(pool: &Pool, byte: u8) -> RxFrame {
        let mut slot = pool.alloc(60).unwrap();
        slot.put_slice(&[byte; 60]);
        RxFrame::new(slot.freeze())
    }

    #[test]
    fn frames_arrive_as_copies_in_order_and_a_full_ring_drops() {
        let pool =
            Pool::new(&PoolConfig { slots: 1024, huge_pages: false, ..PoolConfig::default() }).unwrap();
        let bells: Vec<_> = (0..3).map(|_| Bell::new()).collect();
        let mut lanes = all(&bells);
        let mut received = Vec::new();
        assert_eq!(lanes[2].receive(&pool, &mut received, 64), 0);
        for byte in 0..3 {
            assert!(lanes[0].send(2, &frame(&pool, byte)));
        }
        assert!(lanes[1].send(2, &frame(&pool, 9)));
        assert!(!lanes[0].send(0, &frame(&pool, 7)) && !lanes[0].send(5, &frame(&pool, 7)));
        assert_eq!(lanes[2].receive(&pool, &mut received, 3), 3);
        assert_eq!(lanes[2].receive(&pool, &mut received, 3), 1);
        assert_eq!(lanes[2].receive(&pool, &mut received, 3), 0);
        let from_first: Vec<u8> =
            received.iter().map(|frame| frame.buf[0]).filter(|byte| *byte < 9).collect();
        assert_eq!(from_first, [0, 1, 2]);
        let sent = (0..600).filter(|_| lanes[1].send(0, &frame(&pool, 1))).count();
        assert_eq!(sent, RING);
    }
}
