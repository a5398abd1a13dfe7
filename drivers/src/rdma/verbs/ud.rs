//! The queue pair of datagrams: one for all peers, each of which is a way that a request names.
//!
//! Slots wait in a queue of its own: those of the shared one are promised to connections. Requests are put in line and
//! posted together, with one doorbell, and only the last one asks for a completion, which tells of all before it. Owns the slots, and
//! the memory and the ways of requests, until the adapter is through with them or the queue pair is destroyed.

use std::collections::VecDeque;
use std::io;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as sys;

use super::check;
use super::cm::Found;
use super::cq::CompletionQueue;
use super::device::Port;
use super::last_error;
use super::memory::{Domain, Region};
use super::qp::Gather;
use crate::mem::{BufMut, HEADROOM, Pool, RawSlot};
use crate::rdma::proto::datagram::GRH_BYTES;

/// The key that receivers of datagrams have which the connection manager finds (`RDMA_UDP_QKEY` in `rdma_cma.h`).
const KEY: u32 = 0x0123_4567;
/// Receives posted with one doorbell.
const POST: usize = 32;
/// Pieces of a datagram: its header, and what follows.
const PIECES: usize = 2;
/// Requests after which one asks for a completion, so that memory comes back though the line never ends.
const UNTOLD: usize = 32;
/// Bit of a request's name, beside the queue's own, that says it is one that sends.
const SEND: u64 = 1 << 32;

/// Bytes in front of what an adapter writes.
pub(crate) const FRONT: usize = HEADROOM - 64;

/// A way to a peer.
#[derive(Debug)]
pub(crate) struct Way {
    ah: NonNull<sys::ibv_ah>,
    queue: u32,
    key: u32,
    _domain: Rc<Domain>,
}

impl Way {
    /// The way to whom the connection manager has found. It has just resolved the address, so nothing is waited for.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn new(domain: &Rc<Domain>, found: &Found) -> io::Result<Rc<Way>> {
        let mut attr = found.way;
        // SAFETY: the domain lives, and the description is readable during the call.
        let ah = NonNull::new(unsafe { sys::ibv_create_ah(domain.raw(), &raw mut attr) });
        let ah = ah.ok_or_else(|| last_error("make an address handle"))?;
        Ok(Rc::new(Way { ah, queue: found.queue, key: found.key, _domain: Rc::clone(domain) }))
    }

    /// The peer's queue pair.
    pub(crate) fn queue(&self) -> u32 {
        self.queue
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // SAFETY: it was made once; requests that name it hold it, so none is with the adapter.
        unsafe { sys::ibv_destroy_ah(self.ah.as_ptr()) };
    }
}

/// What the queue is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Datagrams that may be with the adapter to be sent.
    pub(crate) sends: u32,
    /// Slots that wait for datagrams.
    pub(crate) receives: u32,
    /// Bytes that are handed over with the request itself.
    pub(crate) inline_bytes: u32,
    /// Set in the names of all its requests.
    pub(crate) mark: u64,
}

/// What a completion was of.
#[derive(Debug)]
pub(crate) enum Done {
    /// A datagram came; the slot shows it, behind [`GRH_BYTES`].
    Received(BufMut),
    /// So many datagrams are sent.
    Sent(usize),
    /// Nothing that is known here.
    Nothing,
}

#[derive(Debug)]
struct Request {
    pieces: Gather,
    keys: [u32; PIECES],
    way: Rc<Way>,
}

/// The queue pair.
#[derive(Debug)]
pub(crate) struct DatagramQueue {
    queue: NonNull<sys::ibv_qp>,
    shape: Shape,
    port: Port,
    requests: VecDeque<Request>,
    /// Of those, how many are with the adapter.
    posted: usize,
    /// Number of the first of those.
    first: u16,
    /// By the number that a receive was posted as.
    slots: Vec<Option<RawSlot>>,
    /// Numbers that are not posted.
    free: Vec<u32>,
    described: Described,
    region: Rc<Region>,
    heads: Rc<Region>,
    _completions: Rc<CompletionQueue>,
    _domain: Rc<Domain>,
}

/// Requests as the adapter reads them, made anew for each doorbell.
#[derive(Default)]
struct Described {
    requests: Vec<sys::ibv_send_wr>,
    pieces: Vec<sys::ibv_sge>,
}

impl std::fmt::Debug for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Described")
    }
}

impl DatagramQueue {
    /// A queue pair on `port` that receives into slots of the first of the `regions`, and sends from both.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn new(
        domain: &Rc<Domain>,
        completions: &Rc<CompletionQueue>,
        regions: [&Rc<Region>; 2],
        port: Port,
        mut shape: Shape,
    ) -> io::Result<DatagramQueue> {
        let mut attr = sys::ibv_qp_init_attr {
            qp_context: ptr::null_mut(),
            send_cq: completions.raw(),
            recv_cq: completions.raw(),
            srq: ptr::null_mut(),
            cap: sys::ibv_qp_cap {
                max_send_wr: shape.sends,
                max_recv_wr: shape.receives,
                max_send_sge: PIECES as u32,
                max_recv_sge: 1,
                max_inline_data: shape.inline_bytes,
            },
            qp_type: sys::ibv_qp_type::IBV_QPT_UD,
            sq_sig_all: 0,
        };
        // SAFETY: the domain and the completion queue live and are of one device; `attr` is readable and writable.
        let mut queue = NonNull::new(unsafe { sys::ibv_create_qp(domain.raw(), &raw mut attr) });
        if queue.is_none() && shape.inline_bytes > 0 {
            // A connection's request may have had more room for that.
            (shape.inline_bytes, attr.cap.max_inline_data) = (0, 0);
            // SAFETY: as above.
            queue = NonNull::new(unsafe { sys::ibv_create_qp(domain.raw(), &raw mut attr) });
        }
        let queue = queue.ok_or_else(|| last_error("make a queue pair for datagrams"))?;
        shape.inline_bytes = shape.inline_bytes.min(attr.cap.max_inline_data);
        let made = DatagramQueue {
            queue,
            shape,
            port,
            requests: VecDeque::new(),
            posted: 0,
            first: 0,
            slots: (0..shape.receives).map(|_| None).collect(),
            free: (0..shape.receives).rev().collect(),
            described: Described::default(),
            region: Rc::clone(regions[0]),
            heads: Rc::clone(regions[1]),
            _completions: Rc::clone(completions),
            _domain: Rc::clone(domain),
        };
        made.ready()?;
        Ok(made)
    }

    /// Takes the queue pair through its states (InfiniBand specification, §10.3.1) to the one in which it sends.
    fn ready(&self) -> io::Result<()> {
        use sys::ibv_qp_attr_mask as mask;
        // SAFETY: it is of integers, enumerations of C and unions of those, for which all zeroes is a value.
        let mut attr: sys::ibv_qp_attr = unsafe { std::mem::zeroed() };
        attr.port_num = self.port.number;
        attr.qkey = KEY;
        let first = mask::IBV_QP_PKEY_INDEX.0 | mask::IBV_QP_PORT.0 | mask::IBV_QP_QKEY.0;
        for (state, set) in [
            (sys::ibv_qp_state::IBV_QPS_INIT, first),
            (sys::ibv_qp_state::IBV_QPS_RTR, 0),
            (sys::ibv_qp_state::IBV_QPS_RTS, mask::IBV_QP_SQ_PSN.0),
        ] {
            attr.qp_state = state;
            let set = (mask::IBV_QP_STATE.0 | set) as libc::c_int;
            // SAFETY: the queue pair lives, and the attributes are readable during the call.
            let result = unsafe { sys::ibv_modify_qp(self.queue.as_ptr(), &raw mut attr, set) };
            check(result, "make a queue pair ready for datagrams")?;
        }
        Ok(())
    }

    /// What the adapter calls it.
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: the queue pair lives.
        unsafe { self.queue.as_ref() }.qp_num
    }

    /// The device's port that it is on.
    pub(crate) fn port(&self) -> Port {
        self.port
    }

    /// Slots that could wait and don't.
    pub(crate) fn missing(&self) -> usize {
        self.free.len()
    }

    /// Datagrams that are in line or with the adapter.
    pub(crate) fn unsent(&self) -> usize {
        self.requests.len()
    }

    /// Datagrams in line that the adapter does not know of.
    pub(crate) fn unposted(&self) -> usize {
        self.requests.len() - self.posted
    }

    /// Whether another datagram may be put in line: as many wait as are with the adapter, at most.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.requests.len() < 2 * self.shape.sends as usize
    }

    /// Puts a datagram in line, made of `pieces`: of one with the header in front, or of two.
    ///
    /// # Errors
    /// The pieces, when there are more or one is of no region that this knows.
    pub(crate) fn send(&mut self, pieces: Gather, way: &Rc<Way>) -> Result<(), Gather> {
        if pieces.len() > PIECES {
            return Err(pieces);
        }
        let mut keys = [0; PIECES];
        for (key, piece) in keys.iter_mut().zip(&pieces) {
            let region = [&self.region, &self.heads].into_iter().find(|region| region.covers(piece));
            match region {
                Some(region) => *key = region.local_key(),
                None => return Err(pieces),
            }
        }
        self.requests.push_back(Request { pieces, keys, way: Rc::clone(way) });
        Ok(())
    }

    /// Hands what is in line to the adapter, as far as it has room.
    ///
    /// # Errors
    /// The queue pair has failed. What was handed over is so all the same.
    pub(crate) fn post(&mut self) -> io::Result<()> {
        let count = self.unposted().min(self.shape.sends as usize - self.posted);
        if count == 0 {
            return Ok(());
        }
        self.describe(count);
        let first = self.described.requests.as_mut_ptr();
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives. The list ends with its last request; every piece of it names memory in the region of its key
        // (asked as it was put in line), and every way is held, until the completion.
        let result = unsafe { sys::ibv_post_send(self.queue.as_ptr(), first, &raw mut bad) };
        self.posted += match result {
            0 => count,
            _ => self.described.requests.iter().position(|request| ptr::eq(request, bad)).unwrap_or(0),
        };
        check(result, "post datagrams")
    }

    /// Writes the next `count` requests of the line down as the adapter reads them.
    fn describe(&mut self, count: usize) {
        let Described { requests, pieces: places } = &mut self.described;
        requests.clear();
        places.clear();
        // Pointers into both are taken once neither moves any more.
        requests.reserve(count);
        places.reserve(count * PIECES);
        for (at, request) in self.requests.iter().enumerate().skip(self.posted).take(count) {
            // SAFETY: it is of integers, pointers and unions of those, for which all zeroes is a value.
            let mut wr: sys::ibv_send_wr = unsafe { std::mem::zeroed() };
            let number = self.first.wrapping_add(at as u16);
            wr.wr_id = self.shape.mark | SEND | u64::from(number);
            wr.opcode = sys::ibv_wr_opcode::IBV_WR_SEND;
            wr.wr.ud = sys::ud_t {
                ah: request.way.ah.as_ptr(),
                remote_qpn: request.way.queue,
                remote_qkey: request.way.key,
            };
            let from = places.len();
            let mut bytes = 0;
            for (piece, key) in request.pieces.iter().zip(request.keys) {
                bytes += piece.len();
                let addr = piece.as_ptr().addr() as u64;
                places.push(sys::ibv_sge { addr, length: piece.len() as u32, lkey: key });
            }
            if bytes <= self.shape.inline_bytes as usize {
                wr.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
            }
            if at + 1 == self.posted + count || usize::from(number).is_multiple_of(UNTOLD) {
                wr.send_flags |= sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
            }
            wr.num_sge = (places.len() - from) as libc::c_int;
            // Made a pointer below.
            wr.sg_list = ptr::without_provenance_mut(from);
            requests.push(wr);
        }
        let (requests, places) = (requests.as_mut_ptr(), places.as_mut_ptr());
        for at in 0..count {
            // SAFETY: `at`, where it is used `at + 1`, and the index that stands in `sg_list` are within the two lists, which do not
            // move from here on.
            unsafe {
                let request = &mut *requests.add(at);
                request.sg_list = places.add(request.sg_list.addr());
                request.next = if at + 1 < count { requests.add(at + 1) } else { ptr::null_mut() };
            }
        }
    }

    /// What the completion called `id`, of a request of this queue, with `bytes` if it received them, was of.
    pub(crate) fn completed(&mut self, id: u64, bytes: u32) -> Done {
        if id & SEND != 0 {
            let ahead = usize::from((id as u16).wrapping_sub(self.first));
            if ahead >= self.posted {
                return Done::Nothing;
            }
            // The adapter completes what a queue pair sends in order, so it is through with these.
            self.requests.drain(..=ahead);
            self.posted -= ahead + 1;
            self.first = self.first.wrapping_add(ahead as u16 + 1);
            return Done::Sent(ahead + 1);
        }
        let number = id as u32;
        let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::take) else {
            return Done::Nothing;
        };
        self.free.push(number);
        let bytes = bytes.min(self.receive_bytes()) as usize;
        // SAFETY: the adapter is through with the slot, and it was taken out of the table, once.
        Done::Received(unsafe { BufMut::from_raw(slot, FRONT, bytes) })
    }

    /// Bytes that each slot has room for: no packet has more.
    fn receive_bytes(&self) -> u32 {
        u32::from(self.port.mtu) + GRH_BYTES as u32
    }

    /// Posts slots of `pool` until all wait, or there are no more slots.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn fill(&mut self, pool: &Pool) -> io::Result<()> {
        while !self.free.is_empty() && self.post_slots(pool)? > 0 {}
        Ok(())
    }

    fn post_slots(&mut self, pool: &Pool) -> io::Result<usize> {
        let length = self.receive_bytes();
        // SAFETY: both are of integers and pointers, for which all zeroes is a value.
        let (mut requests, mut places): ([sys::ibv_recv_wr; POST], [sys::ibv_sge; POST]) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let mut count = 0;
        while count < POST
            && let Some(&number) = self.free.last()
        {
            let Some(mut slot) = pool.alloc((length as usize).saturating_sub(HEADROOM - FRONT)) else {
                break;
            };
            slot.reset(FRONT);
            if slot.tailroom() < length as usize || !self.region.covers(slot.tail_mut()) {
                break;
            }
            self.free.pop();
            let slot = slot.into_raw();
            let addr = slot.address(FRONT).addr() as u64;
            places[count] = sys::ibv_sge { addr, length, lkey: self.region.local_key() };
            requests[count].wr_id = self.shape.mark | u64::from(number);
            requests[count].num_sge = 1;
            self.slots[number as usize] = Some(slot);
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let (first, first_place) = (requests.as_mut_ptr(), places.as_mut_ptr());
        for at in 0..count {
            // SAFETY: `at` and, where it is used, `at + 1` are within the arrays.
            unsafe {
                let request = &mut *first.add(at);
                request.sg_list = first_place.add(at);
                request.next = if at + 1 < count { first.add(at + 1) } else { ptr::null_mut() };
            }
        }
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives; the list is as long as it says, and every piece is within a slot that is raw from here until its
        // completion, and in memory registered for it (asked above).
        let result = unsafe { sys::ibv_post_recv(self.queue.as_ptr(), first, &raw mut bad) };
        if result != 0 {
            for request in requests[..count].iter().skip_while(|request| !ptr::eq(*request, bad)) {
                let number = request.wr_id as u32;
                if let Some(slot) = self.slots.get_mut(number as usize).and_then(Option::take) {
                    self.free.push(number);
                    // SAFETY: the adapter has refused the request, and knows nothing of the slot.
                    drop(unsafe { BufMut::from_raw(slot, 0, 0) });
                }
            }
            check(result, "post receives")?;
        }
        Ok(count)
    }
}

impl Drop for DatagramQueue {
    fn drop(&mut self) {
        // SAFETY: it was made once, and is destroyed once; requests' memory and slots are given back after that.
        unsafe { sys::ibv_destroy_qp(self.queue.as_ptr()) };
        for slot in self.slots.iter_mut().filter_map(Option::take) {
            // SAFETY: no adapter knows the slot any more.
            drop(unsafe { BufMut::from_raw(slot, 0, 0) });
        }
    }
}
