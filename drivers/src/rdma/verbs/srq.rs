//! The shared receive queue: slots that wait for messages of whichever connection they come on.
//!
//! Owns the slots from when they are posted until their completion names them, or the queue is destroyed.

use std::cell::RefCell;
use std::io;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as sys;

use super::memory::{Domain, Region};
use super::{check, last_error};
use crate::mem::{BufMut, HEADROOM, Pool, RawSlot};

/// Slots posted with one doorbell.
const POST: usize = 32;

/// Bytes in front of a received message: all of the headroom, but for what a message's header takes, so that a small slot takes a
/// message that carries as much as another small slot holds.
pub(crate) const FRONT: usize = HEADROOM - 64;

/// A queue of empty slots.
#[derive(Debug)]
pub(crate) struct SharedReceives {
    srq: NonNull<sys::ibv_srq>,
    slots: RefCell<Slots>,
    /// Longest message that a slot takes.
    bytes: u32,
    region: Rc<Region>,
    _domain: Rc<Domain>,
}

#[derive(Debug)]
struct Slots {
    /// By the number that a receive was posted as.
    posted: Vec<Option<RawSlot>>,
    /// Numbers that are not posted.
    free: Vec<u32>,
}

impl Slots {
    fn take_back(&mut self, id: u64) -> Option<RawSlot> {
        let slot = self.posted.get_mut(usize::try_from(id).ok()?)?.take()?;
        self.free.push(id as u32);
        Some(slot)
    }
}

impl SharedReceives {
    /// A queue of `depth` slots of the pool that `region` is the memory of, each for a message of up to `bytes`.
    pub(crate) fn new(
        domain: &Rc<Domain>,
        region: &Rc<Region>,
        depth: u32,
        bytes: u32,
    ) -> io::Result<Rc<SharedReceives>> {
        let mut attr = sys::ibv_srq_init_attr {
            srq_context: ptr::null_mut(),
            attr: sys::ibv_srq_attr { max_wr: depth, max_sge: 1, srq_limit: 0 },
        };
        // SAFETY: the domain lives, and `attr` is readable and writable.
        let srq = NonNull::new(unsafe { sys::ibv_create_srq(domain.raw(), &raw mut attr) });
        let srq = srq.ok_or_else(|| last_error(&format!("make a shared queue of {depth} receives")))?;
        Ok(Rc::new(SharedReceives {
            srq,
            slots: RefCell::new(Slots {
                posted: (0..depth).map(|_| None).collect(),
                free: (0..depth).rev().collect(),
            }),
            bytes,
            region: Rc::clone(region),
            _domain: Rc::clone(domain),
        }))
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_srq {
        self.srq.as_ptr()
    }

    /// Slots that wait.
    #[cfg(test)]
    pub(crate) fn posted(&self) -> usize {
        let slots = self.slots.borrow();
        slots.posted.len() - slots.free.len()
    }

    /// Slots that could wait and don't.
    pub(crate) fn missing(&self) -> usize {
        self.slots.borrow().free.len()
    }

    /// Longest message that a slot takes.
    pub(crate) fn message_bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Posts slots of `pool` until all wait, or there are no more slots.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn fill(&self, pool: &Pool) -> io::Result<()> {
        let mut slots = self.slots.borrow_mut();
        while !slots.free.is_empty() {
            if self.post(&mut slots, pool)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn post(&self, slots: &mut Slots, pool: &Pool) -> io::Result<usize> {
        // SAFETY: both are of integers and pointers, for which all zeroes is a value.
        let (mut requests, mut pieces): ([sys::ibv_recv_wr; POST], [sys::ibv_sge; POST]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut count = 0;
        while count < POST
            && let Some(&number) = slots.free.last()
        {
            let Some(mut slot) = pool.alloc((self.bytes as usize).saturating_sub(HEADROOM - FRONT)) else {
                break;
            };
            slot.reset(FRONT);
            if slot.tailroom() < self.bytes as usize || !self.region.covers(slot.tail_mut()) {
                break;
            }
            slots.free.pop();
            let slot = slot.into_raw();
            pieces[count] = sys::ibv_sge {
                addr: slot.address(FRONT).addr() as u64,
                length: self.bytes,
                lkey: self.region.local_key(),
            };
            requests[count].wr_id = u64::from(number);
            requests[count].num_sge = 1;
            slots.posted[number as usize] = Some(slot);
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let (first_request, first_piece) = (requests.as_mut_ptr(), pieces.as_mut_ptr());
        for at in 0..count {
            // SAFETY: `at` and, where it is used, `at + 1` are within the arrays.
            unsafe {
                let request = &mut *first_request.add(at);
                request.sg_list = first_piece.add(at);
                request.next = if at + 1 < count { first_request.add(at + 1) } else { ptr::null_mut() };
            }
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue lives; the list is as long as it says, and every piece is within a slot that is raw from here until its
        // completion, and in memory registered for it (asked above).
        let result = unsafe { sys::ibv_post_srq_recv(self.raw(), first_request, &raw mut bad) };
        if result != 0 {
            let refused = requests[..count].iter().skip_while(|request| !ptr::eq(*request, bad));
            for request in refused {
                if let Some(slot) = slots.take_back(request.wr_id) {
                    // SAFETY: the adapter has refused the request, and knows nothing of the slot.
                    drop(unsafe { BufMut::from_raw(slot, 0, 0) });
                }
            }
            check(result, "post receives")?;
        }
        Ok(count)
    }

    /// The slot that was posted as `id`, which a completion says holds a message of `bytes` now.
    pub(crate) fn completed(&self, id: u64, bytes: u32) -> Option<BufMut> {
        let slot = self.slots.borrow_mut().take_back(id)?;
        // SAFETY: the adapter is through with the slot, and it was taken out of the table, once.
        Some(unsafe { BufMut::from_raw(slot, FRONT, bytes.min(self.bytes) as usize) })
    }
}

impl Drop for SharedReceives {
    fn drop(&mut self) {
        // SAFETY: the queue pairs that receive from it hold it, and are gone.
        unsafe { sys::ibv_destroy_srq(self.srq.as_ptr()) };
        for slot in self.slots.get_mut().posted.iter_mut().filter_map(Option::take) {
            // SAFETY: no adapter knows the slot any more.
            drop(unsafe { BufMut::from_raw(slot, 0, 0) });
        }
    }
}
