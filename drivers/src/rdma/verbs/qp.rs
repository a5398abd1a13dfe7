//! Queue pairs: what is to be sent or read, in order, and the memory of it until the adapter is through.
//!
//! Requests are put in line and posted together, with one doorbell. Not all messages ask for a completion, since one says
//! that all before it are done as well. A request that has
//! completed is handed back with its memory. Owns that memory in between; destroying the pair gives it back, too.

use std::collections::VecDeque;
use std::io;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use rdma_sys as sys;
use smallvec::SmallVec;

use super::check;
use super::cm::Id;
use super::cq::{CompletionQueue, Status};
use super::memory::{Bind, Domain, Region, Window};
use super::srq::SharedReceives;
use crate::mem::{Buf, BufMut, RawSlot};
use crate::rdma::onesided::{Kind, Local, Operation, Remote};
use crate::transport::Handle;

/// Pieces of memory that a request gathers at most.
pub(crate) const GATHER: usize = 4;

/// What a queue pair is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Requests that may be with the adapter at a time.
    pub(crate) depth: u32,
    /// Bytes that are handed over with the request itself.
    pub(crate) inline_bytes: u32,
}

/// A request that has ended, with its memory.
#[derive(Debug)]
pub(crate) enum Done {
    /// A message, which is with the peer.
    Sent,
    /// A READ; the slot shows what was read.
    Read(BufMut),
    /// A READ of nothing.
    Probed,
    /// A window is open.
    Bound,
    /// A one-sided operation, with its memory.
    OneSided {
        /// Which one.
        operation: Handle,
        /// What it has read into, or written from.
        memory: Local,
    },
    /// A window is closed: nobody reads there any more.
    Invalidated {
        /// What it was opened under.
        name: u32,
        /// To be opened again.
        window: Window,
    },
}

/// The pieces of memory that make a message.
pub(crate) type Gather = SmallVec<[Buf; GATHER]>;

#[derive(Debug)]
enum Request {
    Send { pieces: Gather, keys: [u32; GATHER], signal: bool },
    Read { slot: RawSlot, at: usize, bytes: u32, key: u32, remote: (u64, u32) },
    Probe,
    OneSided { operation: Handle, kind: Kind, memory: Held, key: u32 },
    Bind(Bind),
    Invalidate { name: u32, window: Window },
}

/// Memory of a one-sided operation, while it is with the adapter.
#[derive(Debug)]
enum Held {
    /// To be read into, from `at` on.
    Into { slot: RawSlot, at: usize, bytes: u32 },
    /// To be written from.
    From(Buf),
}

impl Request {
    /// # Safety
    /// The adapter is through with the memory, or has never been told of it.
    unsafe fn done(self) -> Done {
        match self {
            Request::Send { .. } => Done::Sent,
            Request::Read { slot, at, bytes, .. } => {
                // SAFETY: the caller's promise; the slot is taken back once, since this consumes it.
                Done::Read(unsafe { BufMut::from_raw(slot, at, bytes as usize) })
            }
            Request::Probe => Done::Probed,
            Request::OneSided { operation, memory, .. } => {
                let memory = match memory {
                    Held::Into { slot, at, bytes } => {
                        // SAFETY: as above.
                        let slot = unsafe { BufMut::from_raw(slot, at, bytes as usize) };
                        Local::Into(slot)
                    }
                    Held::From(buf) => Local::From(buf),
                };
                Done::OneSided { operation, memory }
            }
            Request::Bind(_) => Done::Bound,
            Request::Invalidate { name, window } => Done::Invalidated { name, window },
        }
    }
}

/// Work requests as the adapter reads them, made anew for each doorbell. One serves all queue pairs.
#[derive(Default)]
pub(crate) struct Scratch {
    requests: Vec<sys::ibv_send_wr>,
    pieces: Vec<sys::ibv_sge>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scratch")
    }
}

/// A reliable connection's queues.
#[derive(Debug)]
pub(crate) struct QueuePair {
    id: Id,
    queue: NonNull<sys::ibv_qp>,
    /// Upper bits of what its requests are called; the lower [`SEQUENCE_BITS`] count them.
    tag: u64,
    requests: VecDeque<Request>,
    /// Of those, how many are with the adapter.
    posted: usize,
    /// Number of the first of those.
    first: u16,
    depth: usize,
    inline_bytes: usize,
    /// Windows that are open, or about to be, by the names they were opened under.
    windows: Vec<(u32, Window)>,
    destroyed: bool,
    /// The memory that requests may name: what slots are read into and windows opened on, and what heads of messages lie in.
    region: Rc<Region>,
    heads: Rc<Region>,
    _completions: Rc<CompletionQueue>,
    _receives: Rc<SharedReceives>,
}

/// Bits of a request's name that are its number.
pub(crate) const SEQUENCE_BITS: u32 = 16;

impl QueuePair {
    /// Makes queues for the connection `id`, whose device is known. Messages come to `receives`, completions to `completions`; of
    /// requests, under `tag << SEQUENCE_BITS`, plus a number. Requests name memory of the two `regions`: what is read goes to the first.
    pub(crate) fn new(
        id: Id,
        domain: &Rc<Domain>,
        completions: &Rc<CompletionQueue>,
        receives: &Rc<SharedReceives>,
        regions: [&Rc<Region>; 2],
        shape: Shape,
        tag: u64,
    ) -> io::Result<QueuePair> {
        let mut attr = attributes(completions, receives, shape);
        // SAFETY: the identifier and the domain live, and are of one device, as the caller has asked; `attr` is readable and
        // writable.
        let result = unsafe { sys::rdma_create_qp(id.raw(), domain.raw(), &raw mut attr) };
        check(result, &format!("make a queue pair of {} requests", shape.depth))?;
        // SAFETY: the identifier lives.
        let queue = NonNull::new(unsafe { (*id.raw()).qp });
        let queue = queue.ok_or_else(|| super::last_error("make a queue pair"))?;
        Ok(QueuePair {
            id,
            queue,
            tag,
            requests: VecDeque::new(),
            posted: 0,
            first: 0,
            depth: shape.depth as usize,
            inline_bytes: shape.inline_bytes.min(attr.cap.max_inline_data) as usize,
            windows: Vec::new(),
            destroyed: false,
            region: Rc::clone(regions[0]),
            heads: Rc::clone(regions[1]),
            _completions: Rc::clone(completions),
            _receives: Rc::clone(receives),
        })
    }

    /// The most of `wanted` bytes that the device takes with a request itself.
    pub(crate) fn probe_inline(
        domain: &Rc<Domain>,
        completions: &Rc<CompletionQueue>,
        receives: &SharedReceives,
        wanted: Shape,
    ) -> u32 {
        let mut shape = wanted;
        loop {
            let mut attr = attributes(completions, receives, shape);
            // SAFETY: the domain and the queues live and are of one device; `attr` is readable and writable.
            let queue = unsafe { sys::ibv_create_qp(domain.raw(), &raw mut attr) };
            if !queue.is_null() {
                // SAFETY: it was made just now, and nothing was posted to it.
                unsafe { sys::ibv_destroy_qp(queue) };
                return shape.inline_bytes;
            }
            match shape.inline_bytes {
                0 => return 0,
                bytes => shape.inline_bytes = bytes / 2,
            }
        }
    }

    /// The connection.
    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    /// What the adapter calls it.
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: the queue pair lives.
        unsafe { self.queue.as_ref() }.qp_num
    }

    /// Requests that are in line.
    pub(crate) fn unposted(&self) -> usize {
        self.requests.len() - self.posted
    }

    /// The key of the region that `part` lies in.
    fn key_of(&self, part: &[u8]) -> Option<u32> {
        [&self.region, &self.heads].iter().find(|region| region.covers(part)).map(|region| region.local_key())
    }

    /// Puts a message in line, made of `pieces`. With `signal` a completion tells of its end, and of that of all before it.
    ///
    /// # Errors
    /// The pieces, when there are too many or one is of no region that this knows.
    pub(crate) fn send(&mut self, pieces: Gather, signal: bool) -> Result<(), Gather> {
        if pieces.len() > GATHER {
            return Err(pieces);
        }
        let mut keys = [0; GATHER];
        for (key, piece) in keys.iter_mut().zip(&pieces) {
            match self.key_of(piece) {
                Some(found) => *key = found,
                None => return Err(pieces),
            }
        }
        self.requests.push_back(Request::Send { pieces, keys, signal });
        Ok(())
    }

    /// Puts a READ of no bytes in line: whether the peer's adapter answers.
    pub(crate) fn probe(&mut self) {
        self.requests.push_back(Request::Probe);
    }

    /// Has `window` open `bytes` to the peer, for reading, once what is in line before is done; answers the key they will have. The
    /// caller sees to it that the slot becomes nobody else's while it is open.
    ///
    /// # Errors
    /// The window, when the bytes are none of the first region's.
    pub(crate) fn bind(&mut self, name: u32, mut window: Window, bytes: &Buf) -> Result<u32, Window> {
        if !self.region.covers(bytes) {
            return Err(window);
        }
        let bind = window.bind(&self.region, bytes);
        self.requests.push_back(Request::Bind(bind));
        self.windows.push((name, window));
        Ok(bind.key)
    }

    /// Closes the window that was opened under `name`; [`Done::Invalidated`] gives it back. Whether there is one.
    pub(crate) fn invalidate(&mut self, name: u32) -> bool {
        let Some(at) = self.windows.iter().position(|(called, _)| *called == name) else { return false };
        let (name, window) = self.windows.swap_remove(at);
        self.requests.push_back(Request::Invalidate { name, window });
        true
    }

    /// Puts a READ in line, of all that fits in the tailroom of `slot` up to `bytes`, from what the peer calls `remote` (address,
    /// key).
    ///
    /// # Errors
    /// The slot, when it is none of the first region's.
    pub(crate) fn read(&mut self, mut slot: BufMut, bytes: u32, remote: (u64, u32)) -> Result<(), BufMut> {
        let bytes = bytes.min(u32::try_from(slot.tailroom()).unwrap_or(u32::MAX));
        if !self.region.covers(slot.tail_mut()) {
            return Err(slot);
        }
        let at = slot.headroom() + slot.len();
        let (slot, key) = (slot.into_raw(), self.region.local_key());
        self.requests.push_back(Request::Read { slot, at, bytes, key, remote });
        Ok(())
    }

    /// Puts a one-sided operation in line. Its completion is asked for.
    ///
    /// # Errors
    /// Its memory, when that is none of the first region's, or not what an operation of that kind takes.
    pub(crate) fn one_sided(&mut self, operation: Handle, what: Operation<Local>) -> Result<(), Local> {
        let Operation { kind, memory } = what;
        let bytes = match kind {
            Kind::Read { bytes, .. } => bytes as usize,
            Kind::CompareSwap { .. } | Kind::FetchAdd { .. } => size_of::<u64>(),
            Kind::Write { .. } => 0,
        };
        let held = match memory {
            Local::Into(mut slot) if bytes > 0 => {
                let fits = slot.tailroom() >= bytes && self.region.covers(slot.tail_mut());
                let (Ok(bytes), true) = (u32::try_from(bytes), fits) else { return Err(Local::Into(slot)) };
                let at = slot.headroom() + slot.len();
                Held::Into { slot: slot.into_raw(), at, bytes }
            }
            Local::From(buf) if bytes == 0 && self.region.covers(&buf) => Held::From(buf),
            other => return Err(other),
        };
        let key = self.region.local_key();
        self.requests.push_back(Request::OneSided { operation, kind, memory: held, key });
        Ok(())
    }

    /// Hands what is in line to the adapter, as much as it has room for and at most `budget`; answers how much. `telling`: the end of
    /// each has a completion, wanted or not.
    ///
    /// # Errors
    /// The queue pair has failed. What was handed over is so all the same.
    pub(crate) fn post(&mut self, scratch: &mut Scratch, budget: usize, telling: bool) -> io::Result<usize> {
        let count = self.unposted().min(self.depth - self.posted).min(budget);
        if count == 0 {
            return Ok(0);
        }
        self.describe(scratch, count, telling);
        let mut bad = ptr::null_mut();
        let first = scratch.requests.as_mut_ptr();
        // SAFETY: the queue pair lives. The list ends with its last request; every piece of it names memory in the region of its key
        // (asked, or promised, as it was put in line) that this owns until the completion.
        let result = unsafe { sys::ibv_post_send(self.queue.as_ptr(), first, &raw mut bad) };
        let taken = match result {
            0 => count,
            _ => scratch.requests.iter().position(|request| ptr::eq(request, bad)).unwrap_or(0),
        };
        self.posted += taken;
        check(result, "post requests").map(|()| taken)
    }

    /// Writes the next `count` requests of the line down as the adapter reads them.
    fn describe(&self, scratch: &mut Scratch, count: usize, telling: bool) {
        scratch.requests.clear();
        scratch.pieces.clear();
        // Pointers into both are taken once neither moves any more.
        scratch.requests.reserve(count);
        scratch.pieces.reserve(count * GATHER);
        for (at, request) in self.requests.iter().enumerate().skip(self.posted).take(count) {
            // SAFETY: it is of integers, pointers and unions of those, for which all zeroes is a value.
            let mut wr: sys::ibv_send_wr = unsafe { std::mem::zeroed() };
            let number = self.first.wrapping_add(at as u16);
            wr.wr_id = self.tag << SEQUENCE_BITS | u64::from(number);
            // Within the capacity, which was reserved.
            let from = scratch.pieces.len();
            let mut bytes = 0;
            let mut ask = true;
            match request {
                Request::Send { pieces, keys, signal } => {
                    wr.opcode = sys::ibv_wr_opcode::IBV_WR_SEND;
                    for (piece, key) in pieces.iter().zip(keys) {
                        bytes += piece.len();
                        scratch.pieces.push(sys::ibv_sge {
                            addr: piece.as_ptr().addr() as u64,
                            length: piece.len() as u32,
                            lkey: *key,
                        });
                    }
                    if bytes <= self.inline_bytes {
                        wr.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
                    }
                    ask = *signal || telling;
                }
                Request::Read { slot, at, bytes, key, remote: (address, remote_key) } => {
                    wr.opcode = sys::ibv_wr_opcode::IBV_WR_RDMA_READ;
                    wr.wr.rdma = sys::rdma_t { remote_addr: *address, rkey: *remote_key };
                    let addr = slot.address(*at).addr() as u64;
                    scratch.pieces.push(sys::ibv_sge { addr, length: *bytes, lkey: *key });
                }
                Request::Probe => {
                    wr.opcode = sys::ibv_wr_opcode::IBV_WR_RDMA_READ;
                    wr.wr.rdma = sys::rdma_t { remote_addr: 0, rkey: 0 };
                }
                Request::OneSided { kind, memory, key, .. } => {
                    let (addr, length) = match memory {
                        Held::Into { slot, at, bytes } => (slot.address(*at).addr() as u64, *bytes),
                        Held::From(buf) => (buf.as_ptr().addr() as u64, buf.len() as u32),
                    };
                    scratch.pieces.push(sys::ibv_sge { addr, length, lkey: *key });
                    describe_one_sided(&mut wr, kind);
                    let inline = matches!(memory, Held::From(_)) && length as usize <= self.inline_bytes;
                    if inline {
                        wr.send_flags |= sys::ibv_send_flags::IBV_SEND_INLINE.0;
                    }
                }
                Request::Bind(bind) => {
                    wr.opcode = sys::ibv_wr_opcode::IBV_WR_BIND_MW;
                    wr.bind_mw_tso_union.bind_mw = bind.described();
                    // What follows tells of it.
                    ask = false;
                }
                Request::Invalidate { window, .. } => {
                    wr.opcode = sys::ibv_wr_opcode::IBV_WR_LOCAL_INV;
                    wr.imm_data_invalidated_rkey_union.invalidated_rkey = window.key();
                    // Peers' READs that came before are answered first.
                    wr.send_flags |= sys::ibv_send_flags::IBV_SEND_FENCE.0;
                }
            }
            if ask {
                wr.send_flags |= sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
            }
            wr.num_sge = (scratch.pieces.len() - from) as libc::c_int;
            // Made a pointer below.
            wr.sg_list = ptr::without_provenance_mut(from);
            scratch.requests.push(wr);
        }
        let (requests, pieces) = (scratch.requests.as_mut_ptr(), scratch.pieces.as_mut_ptr());
        for at in 0..count {
            // SAFETY: `at`, where it is used `at + 1`, and the index that stands in `sg_list` are within the two lists, which do not
            // move from here on.
            unsafe {
                let request = &mut *requests.add(at);
                request.sg_list = pieces.add(request.sg_list.addr());
                request.next = if at + 1 < count { requests.add(at + 1) } else { ptr::null_mut() };
            }
        }
    }

    /// What a completion of the request numbered `number` says has ended, in order: those before it were done without one.
    /// A number that is with the adapter no more says nothing.
    pub(crate) fn completed(
        &mut self,
        number: u16,
        status: Status,
        mut each: impl FnMut(Done, Status),
    ) -> usize {
        let ahead = usize::from(number.wrapping_sub(self.first));
        if ahead >= self.posted {
            return 0;
        }
        for at in 0..=ahead {
            let Some(request) = self.requests.pop_front() else { break };
            // SAFETY: the adapter completes the requests of a queue pair in order, so it is through with this one.
            let done = unsafe { request.done() };
            each(done, if at == ahead { status } else { Status::Success });
        }
        self.posted -= ahead + 1;
        self.first = self.first.wrapping_add(ahead as u16 + 1);
        ahead + 1
    }

    /// Destroys the queues. What was in line or with the adapter comes back by `each`, in order; there is nothing after this.
    pub(crate) fn destroy(mut self, mut each: impl FnMut(Done)) {
        self.undo();
        for request in std::mem::take(&mut self.requests) {
            // SAFETY: the adapter knows the queue pair no more, and so is through with what was posted to it.
            each(unsafe { request.done() });
        }
    }

    fn undo(&mut self) {
        // Windows first: one that is open holds its queue pair, whose destruction would wait for it (rxe does, for a minute).
        self.windows.clear();
        for request in &mut self.requests {
            if matches!(request, Request::Invalidate { .. }) {
                *request = Request::Probe;
            }
        }
        if !std::mem::replace(&mut self.destroyed, true) {
            // SAFETY: the queue pair was made for the identifier, and is destroyed once, before it.
            unsafe { sys::rdma_destroy_qp(self.id.raw()) };
        }
    }

    /// Takes back what is in line.
    pub(crate) fn withdraw(&mut self, mut each: impl FnMut(Done)) {
        while self.requests.len() > self.posted {
            let Some(request) = self.requests.pop_back() else { break };
            // SAFETY: the adapter has never been told of it.
            each(unsafe { request.done() });
        }
    }

    /// Requests that are with the adapter.
    pub(crate) fn posted(&self) -> usize {
        self.posted
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.undo();
        for request in self.requests.drain(..) {
            // SAFETY: the adapter knows the queue pair no more, and so is through with what was posted to it.
            drop(unsafe { request.done() });
        }
    }
}

/// What a one-sided operation is to the adapter.
fn describe_one_sided(wr: &mut sys::ibv_send_wr, kind: &Kind) {
    let rdma = |(remote_addr, rkey): Remote| sys::rdma_t { remote_addr, rkey };
    let atomic = |(remote_addr, rkey): Remote, compare_add, swap| sys::atomic_t {
        remote_addr,
        compare_add,
        swap,
        rkey,
    };
    match *kind {
        Kind::Read { remote, .. } => {
            wr.opcode = sys::ibv_wr_opcode::IBV_WR_RDMA_READ;
            wr.wr.rdma = rdma(remote);
        }
        Kind::Write { remote } => {
            wr.opcode = sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE;
            wr.wr.rdma = rdma(remote);
        }
        Kind::CompareSwap { remote, expected, new } => {
            wr.opcode = sys::ibv_wr_opcode::IBV_WR_ATOMIC_CMP_AND_SWP;
            wr.wr.atomic = atomic(remote, expected, new);
        }
        Kind::FetchAdd { remote, add } => {
            wr.opcode = sys::ibv_wr_opcode::IBV_WR_ATOMIC_FETCH_AND_ADD;
            wr.wr.atomic = atomic(remote, add, 0);
        }
    }
}

fn attributes(
    completions: &CompletionQueue,
    receives: &SharedReceives,
    shape: Shape,
) -> sys::ibv_qp_init_attr {
    sys::ibv_qp_init_attr {
        qp_context: ptr::null_mut(),
        send_cq: completions.raw(),
        recv_cq: completions.raw(),
        srq: receives.raw(),
        cap: sys::ibv_qp_cap {
            max_send_wr: shape.depth,
            max_recv_wr: 0,
            max_send_sge: GATHER as u32,
            max_recv_sge: 0,
            max_inline_data: shape.inline_bytes,
        },
        qp_type: sys::ibv_qp_type::IBV_QPT_RC,
        sq_sig_all: 0,
    }
}
