//! A device made ready for connections: its memory registered, receives posted, and queues whose sizes go together.
//!
//! Owns the budget of requests: no more are with the adapter than the completion queue has entries for, all connections
//! together, however many there are. Knows nothing of the streams.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::RdmaConfig;
use super::abilities::Abilities;
use super::counts::Counts;
use super::networks::Networks;
use super::onesided::{self, Memory};
use super::proto::datagram::GRH_BYTES;
use super::proto::{HEAD_BYTES, Message, Promises};
use super::verbs::cm::{Channel, Found, Id, Reads};
use super::verbs::cq::{Batch, Completion, CompletionQueue};
use super::verbs::device::Device;
use super::verbs::memory::{Access, Domain, Region, Registered, Window};
use super::verbs::qp::{Gather, QueuePair, Scratch, Shape};
use super::verbs::srq::{FRONT, SharedReceives};
use super::verbs::ud::{self, DatagramQueue, Way};
use crate::mem::{Buf, BufMut, HEADROOM, Pool, PoolConfig, SLOT_HEADER};

/// Bytes of a slot for the head of a message.
const HEAD_SLOT: usize = SLOT_HEADER + HEADROOM + 64;

const _: () = assert!(HEAD_BYTES <= 64 && HEAD_SLOT.is_multiple_of(64));

/// The device and all that connections share.
#[derive(Debug)]
pub(super) struct Adapter {
    scratch: Scratch,
    batch: Batch,
    pub(super) completions: Rc<CompletionQueue>,
    pub(super) receives: Rc<SharedReceives>,
    /// Windows that are closed and can be opened again.
    windows: Vec<Window>,
    region: Rc<Region>,
    head_region: Rc<Region>,
    pub(super) pool: Pool,
    heads: Pool,
    domain: Rc<Domain>,
    pub(super) networks: Networks,
    pub(super) promises: Promises,
    pub(super) channel: Arc<Channel>,
    pub(super) device: Rc<Device>,
    inline_bytes: u32,
    /// Requests that may be with the adapter, and that are.
    budget: usize,
    pub(super) posted: usize,
    pub(super) counts: Counts,
    can: Abilities,
}

impl Adapter {
    pub(super) fn open(config: &RdmaConfig) -> io::Result<Adapter> {
        let device = Device::open(&config.device)?;
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("device rdma:{}: {error}", config.device))
        };
        let channel = Channel::new().map_err(named)?;
        let networks = Networks::of(&device, &channel)?;
        let on_demand = config.on_demand.then(|| device.on_demand()).transpose().map_err(named)?;
        let can = Abilities::of(config, device.limits(), on_demand).map_err(named)?;
        let pool = Pool::new(&config.pool)?;
        let domain = Domain::new(&device).map_err(named)?;
        let region = Region::of_pool(&domain, &pool, can.pool).map_err(named)?;
        let heads = PoolConfig { slot_bytes: HEAD_SLOT, ..PoolConfig::small(can.budget as usize) };
        let heads = Pool::new(&heads)?;
        let head_region = Region::of_pool(&domain, &heads, Access::default()).map_err(named)?;
        let completions = CompletionQueue::new(&device, can.reserved + can.budget).map_err(named)?;
        let bytes =
            u32::try_from(config.pool.slot_bytes.saturating_sub(SLOT_HEADER + FRONT)).unwrap_or(u32::MAX);
        let receives = SharedReceives::new(&domain, &region, can.receives, bytes).map_err(named)?;
        receives.fill(&pool).map_err(named)?;
        let shape = Shape { depth: 16, inline_bytes: config.inline_bytes };
        let inline_bytes = QueuePair::probe_inline(&domain, &completions, &receives, shape);
        Ok(Adapter {
            scratch: Scratch::default(),
            batch: Batch::new(),
            completions,
            receives,
            windows: Vec::new(),
            region,
            head_region,
            pool,
            heads,
            domain,
            networks,
            promises: Promises::new(can.receives),
            channel,
            device,
            inline_bytes,
            budget: can.budget as usize,
            posted: 0,
            counts: Counts::default(),
            can,
        })
    }

    /// Looks which addresses the device has now, if `wanted` is none that it is known to have: interfaces are given more, and lose some, while
    /// programs run. What it had stays known if it has none any more.
    pub(super) fn look_for(&mut self, wanted: IpAddr) {
        let known = self.networks.addresses().any(|own| own == wanted.to_canonical());
        if !known && let Ok(now) = Networks::of(&self.device, &self.channel) {
            self.networks = now;
        }
    }

    /// A queue pair for datagrams, on the device's port numbered `port`, whose requests have `mark` in their names.
    pub(super) fn datagram_queue(&self, port: u8, mark: u64) -> io::Result<DatagramQueue> {
        if self.can.datagrams_locked {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the device has no on-demand paging for datagrams: leave on_demand off, or take a kernel transport for them",
            ));
        }
        let port = self.device.port(port)?;
        // Long packets take large slots, of which there are few.
        let stats = self.pool.stats();
        let receives = match usize::from(port.mtu) + GRH_BYTES > self.pool.small_capacity() {
            true => self.can.datagrams.min(u32::try_from(stats.large_slots / 4).unwrap_or(u32::MAX)),
            false => self.can.datagrams,
        };
        let shape = ud::Shape {
            sends: self.can.datagrams,
            receives: receives.max(1),
            inline_bytes: self.inline_bytes,
            mark,
        };
        let regions = [&self.region, &self.head_region];
        let mut queue = DatagramQueue::new(&self.domain, &self.completions, regions, port, shape)?;
        queue.fill(&self.pool)?;
        Ok(queue)
    }

    /// A way for datagrams.
    pub(super) fn way(&self, found: &Found) -> io::Result<Rc<Way>> {
        Way::new(&self.domain, found)
    }

    /// A slot that shows `head`, to be sent in front of something.
    pub(super) fn head(&self, head: &[u8]) -> Option<Buf> {
        self.heads.copy_from_slice(head).or_else(|| self.pool.copy_from_slice(head))
    }

    /// Bytes that go with a request itself.
    pub(super) fn inline_bytes(&self) -> u32 {
        self.inline_bytes
    }

    /// Offers of a peer's that may be read at a time.
    pub(super) fn offers_read(&self) -> u16 {
        if self.can.reads { self.device.limits().reads.into() } else { 0 }
    }

    /// READs that a connection may have in flight, either way.
    pub(super) fn reads(&self) -> Reads {
        Reads::both(self.device.limits().reads)
    }

    /// Whether memory can be opened to peers.
    pub(super) fn can_expose(&self) -> bool {
        self.can.can_expose()
    }

    /// One-sided operations that bring something back.
    pub(super) fn fetches(&self) -> onesided::Fetches {
        onesided::Fetches { reads: self.can.reads, atomics: self.device.limits().atomics && self.can.reads }
    }

    /// Memory that peers reach.
    pub(super) fn register(&self, bytes: usize, access: onesided::Access) -> io::Result<onesided::Region> {
        let memory = Memory::new(bytes)?;
        // Whoever writes or swaps there remotely has to be able to do so locally, which all of ours are.
        let remote = Access {
            remote_read: access.read,
            remote_write: access.write,
            remote_atomic: access.atomic,
            windows: false,
            on_demand: false,
        };
        // SAFETY: the memory is on the heap and stays there while the region has it, which is until it is deregistered, or for ever; and
        // it gives out no references but to atomics.
        let registered = unsafe { Registered::new(&self.domain, &memory, remote)? };
        Ok(onesided::Region::new(memory, Box::new(registered), access))
    }

    /// Queues for a connection.
    pub(super) fn pair(&self, id: Id, depth: u32, tag: u64) -> io::Result<QueuePair> {
        let depth = depth.min(self.device.limits().queue_requests).max(1);
        let shape = Shape { depth, inline_bytes: self.inline_bytes };
        let regions = [&self.region, &self.head_region];
        QueuePair::new(id, &self.domain, &self.completions, &self.receives, regions, shape, tag)
    }

    /// The next completion.
    #[inline]
    pub(super) fn completion(&mut self) -> io::Result<Option<Completion>> {
        self.batch.next(&self.completions)
    }

    /// Puts `message` in line; not, and leaves it as it is, when there is no slot for its head. Whether it did.
    pub(super) fn send(&mut self, pair: &mut QueuePair, message: &mut Message) -> bool {
        let mut head = [0; HEAD_BYTES];
        let head = {
            let len = message.head().len();
            head[..len].copy_from_slice(message.head());
            &head[..len]
        };
        let mut gather = Gather::new();
        // In front of the first piece, if nobody else looks at that.
        let first = message.pieces.first_mut();
        let wide =
            first.and_then(|piece| piece.with_header(head.len(), |front, _| front.copy_from_slice(head)));
        match wide {
            Some(wide) => gather.push(wide),
            None => {
                let Some(slot) = self.head(head) else { return false };
                gather.push(slot);
                gather.extend(message.pieces.first().cloned());
            }
        }
        self.counts.out_messages += 1;
        self.counts.out_octets += message.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        gather.extend(message.pieces.drain(..).skip(1));
        let sent = pair.send(gather, message.signal);
        debug_assert!(sent.is_ok(), "pieces of another pool were copied as they were pushed");
        true
    }

    /// A slot to read `bytes` into.
    pub(super) fn slot(&self, bytes: u32) -> Option<BufMut> {
        self.pool.alloc(bytes as usize)
    }

    /// Whether `bytes` can be sent from where they lie.
    #[inline]
    pub(super) fn covers(&self, bytes: &[u8]) -> bool {
        self.region.covers(bytes)
    }

    /// Opens `bytes` to the peer under `name`, until [`QueuePair::invalidate`] closes them; answers their key.
    pub(super) fn expose(&mut self, pair: &mut QueuePair, name: u32, bytes: &Buf) -> Option<u32> {
        if !self.can.windows {
            return self.can.open_to_all.then(|| self.region.remote_key());
        }
        let window = self.windows.pop().or_else(|| Window::new(&self.domain).ok())?;
        match pair.bind(name, window, bytes) {
            Ok(key) => Some(key),
            Err(window) => {
                self.windows.push(window);
                None
            }
        }
    }

    /// A window that was closed.
    pub(super) fn give_back(&mut self, window: Window) {
        self.windows.push(window);
    }

    /// Hands over what is in line, as far as the budget goes; whether all of it went.
    ///
    /// Once half of the budget is out, or of the memory to send from, every request is asked to tell of its end: else all of it could be with
    /// requests whose end is told by what their connections post next, which they never could.
    pub(super) fn post(&mut self, pair: &mut QueuePair) -> io::Result<bool> {
        let before = pair.posted();
        let telling = self.posted >= self.budget / 2 || self.is_half_out();
        let result = pair.post(&mut self.scratch, self.budget - self.posted, telling);
        self.posted += pair.posted() - before;
        let whole = pair.unposted() == 0;
        self.counts.request_stalls += u64::from(!whole && self.posted >= self.budget);
        result.map(|_| whole)
    }

    /// Whether half of the slots that do not wait for messages are out.
    fn is_half_out(&self) -> bool {
        let stats = self.pool.stats();
        stats.slots_out > (stats.slots + self.can.receives as usize) / 2
            || (stats.large_slots > 0 && stats.large_slots_out > stats.large_slots / 2)
    }

    /// Posts slots in place of those that messages came in.
    pub(super) fn refill(&mut self) -> io::Result<()> {
        if self.receives.missing() > 0 { self.receives.fill(&self.pool) } else { Ok(()) }
    }
}
