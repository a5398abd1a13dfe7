//! The hand on a running wire: changing links, cutting them, watching and filtering what passes, reading counters.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::WireEnd;
use super::config::LinkConfig;
use super::medium::Medium;
use crate::device::RxChecksum;
use crate::mem::Pool;
use crate::time::Instant;

/// Counters of one direction. At any time
/// `sent + duplicated == delivered + lost + cut + too_long + queue_full + filtered + overflowed + in_flight`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Frames sent into the direction.
    pub sent: u64,
    /// Frames that have reached the receiving end's ring.
    pub delivered: u64,
    /// Frames lost by chance.
    pub lost: u64,
    /// Frames lost in a partition, or because the receiving end is gone.
    pub cut: u64,
    /// Frames longer than the link's MTU.
    pub too_long: u64,
    /// Frames lost because the link's queue was full.
    pub queue_full: u64,
    /// Frames that the filter dropped.
    pub filtered: u64,
    /// Frames lost because the receiving end's ring was full, or its pool empty.
    pub overflowed: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Frames with a bit flipped.
    pub corrupted: u64,
    /// Frames cut short.
    pub truncated: u64,
    /// Frames held back so that others overtake them.
    pub reordered: u64,
    /// Frames on the way.
    pub in_flight: u64,
}

/// A frame about to pass from one end to another, as the filter sees it. The filter may change its bytes.
#[derive(Debug)]
pub struct WireFrame<'a> {
    /// When it was sent.
    pub now: Instant,
    /// The sending end.
    pub from: usize,
    /// The receiving end.
    pub to: usize,
    /// The frame, from its Ethernet header on.
    pub bytes: &'a mut [u8],
}

/// What the filter wants with a frame. Links with faults do their part on what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It goes its way.
    Pass,
    /// It is gone.
    Drop,
    /// It goes its way this much later.
    Delay(Duration),
}

/// What became of a frame, as the observer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It arrives at that time, if the receiving end has room for it then.
    Arrives(Instant),
    /// It is lost.
    Lost,
}

/// A frame that was sent and what became of it, for captures of a whole simulation.
#[derive(Debug)]
pub struct WireEvent<'a> {
    /// When it was sent.
    pub now: Instant,
    /// The sending end.
    pub from: usize,
    /// The receiving end.
    pub to: usize,
    /// The frame's bytes, damage included.
    pub bytes: &'a [u8],
    /// What the receiver will know of its checksum. `Valid` means that the bytes' own checksum may be a partial one.
    pub checksum: RxChecksum,
    /// What became of it. A copy made by duplication is an event of its own.
    pub outcome: Outcome,
}

pub(super) type Filter = Box<dyn FnMut(&mut WireFrame<'_>) -> Verdict>;
pub(super) type Observer = Box<dyn FnMut(&WireEvent<'_>)>;

/// Changes a wire while it is in use. Cloning it is cheap; all clones control one wire.
#[derive(Clone)]
pub struct WireHandle {
    pub(super) medium: Rc<RefCell<Medium>>,
}

impl WireHandle {
    /// Number of ends the wire was made with.
    pub fn ends(&self) -> usize {
        self.medium.borrow().ends()
    }

    /// Changes what the direction from one end to another does to the frames sent from now on; does nothing when there is
    /// no such direction.
    pub fn set_link(&self, from: usize, to: usize, config: LinkConfig) {
        let mut medium = self.medium.borrow_mut();
        if let Some(link) = medium.link_mut(from, to) {
            link.set_config(config);
        }
        medium.find_straight();
    }

    /// Changes all directions.
    pub fn set_links(&self, config: &LinkConfig) {
        let mut medium = self.medium.borrow_mut();
        for link in medium.links_mut() {
            link.set_config(config.clone());
        }
        medium.find_straight();
    }

    /// What the direction from one end to another does.
    pub fn link(&self, from: usize, to: usize) -> Option<LinkConfig> {
        self.medium.borrow_mut().link_mut(from, to).map(|link| link.config().clone())
    }

    /// Cuts both directions between two ends, or mends them. Frames already on the way arrive.
    pub fn set_partitioned(&self, a: usize, b: usize, partitioned: bool) {
        let mut medium = self.medium.borrow_mut();
        for (from, to) in [(a, b), (b, a)] {
            if let Some(link) = medium.link_mut(from, to) {
                link.set_partitioned(partitioned);
            }
        }
        medium.find_straight();
    }

    /// Whether the direction from one end to another is cut.
    pub fn is_partitioned(&self, from: usize, to: usize) -> bool {
        self.medium.borrow_mut().link_mut(from, to).is_some_and(|link| link.is_partitioned())
    }

    /// The end of that number anew, with memory of its own, once the one before was dropped: the machine there has been
    /// started again, and has forgotten everything but its Ethernet address.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such end; `AddrInUse` when somebody still has it; what `mmap` said when there is no
    /// memory for its pool.
    pub fn reopen(&self, index: usize) -> io::Result<WireEnd> {
        let mut medium = self.medium.borrow_mut();
        let config = medium.config().clone();
        if index >= medium.ends() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the wire has no end {index}")));
        }
        let pool = Pool::new(config.pool_of(index))?;
        if !medium.rejoin(index, pool.clone()) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("end {index} of the wire is in use: drop it before it is opened again"),
            ));
        }
        drop(medium);
        Ok(WireEnd::new(index, &config, pool, self.medium.clone()))
    }

    /// Asks `filter` about every frame from now on, before its link decides: for tests that drop the third segment.
    /// It may use this handle.
    pub fn set_filter(&self, filter: impl FnMut(&mut WireFrame<'_>) -> Verdict + 'static) {
        let before = self.medium.borrow_mut().set_filter(Some(Box::new(filter)));
        drop(before);
    }

    /// Lets every frame pass again.
    pub fn clear_filter(&self) {
        let before = self.medium.borrow_mut().set_filter(None);
        drop(before);
    }

    /// Tells `observer` of every frame from now on, and of what becomes of it. It may use this handle.
    pub fn set_observer(&self, observer: impl FnMut(&WireEvent<'_>) + 'static) {
        let before = self.medium.borrow_mut().set_observer(Some(Box::new(observer)));
        drop(before);
    }

    /// Tells nobody any more.
    pub fn clear_observer(&self) {
        let before = self.medium.borrow_mut().set_observer(None);
        drop(before);
    }

    /// Counters of the direction from one end to another; zeros when there is no such direction.
    pub fn stats(&self, from: usize, to: usize) -> LinkStats {
        self.medium.borrow_mut().link_mut(from, to).map(|link| link.stats).unwrap_or_default()
    }
}

impl std::fmt::Debug for WireHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WireHandle({} ends)", self.ends())
    }
}
