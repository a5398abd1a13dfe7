//! Protection domains, and memory that an adapter may reach.
//!
//! The pool is registered once, as a whole; a registration holds the pool, so its memory stays mapped as long as an adapter
//! may look at it. Owns registrations; says nothing of who may use which slot.

use std::io;
use std::ptr::NonNull;
use std::rc::Rc;

use rdma_sys as sys;

use super::device::Device;
use super::last_error;
use crate::mem::Pool;
use crate::rdma::onesided::{Memory, Registration};

/// What belongs together: queues and memory of one domain may be used with each other.
#[derive(Debug)]
pub(crate) struct Domain {
    pd: NonNull<sys::ibv_pd>,
    _device: Rc<Device>,
}

impl Domain {
    pub(crate) fn new(device: &Rc<Device>) -> io::Result<Rc<Domain>> {
        // SAFETY: the device is open.
        let pd = NonNull::new(unsafe { sys::ibv_alloc_pd(device.raw()) });
        let pd = pd.ok_or_else(|| last_error("make a protection domain"))?;
        Ok(Rc::new(Domain { pd, _device: Rc::clone(device) }))
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_pd {
        self.pd.as_ptr()
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: whatever was made in the domain held it, and is gone.
        unsafe { sys::ibv_dealloc_pd(self.pd.as_ptr()) };
    }
}

/// Who may do what with registered memory, beside this end's queues sending from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// The peers that know the key may read all of it.
    pub(crate) remote_read: bool,
    /// The peers that know the key may write all of it.
    pub(crate) remote_write: bool,
    /// The peers that know the key may do atomic operations on it.
    pub(crate) remote_atomic: bool,
    /// Windows may be bound to parts of it.
    pub(crate) windows: bool,
    /// It is paged in as it is reached, and not locked.
    pub(crate) on_demand: bool,
}

impl Access {
    fn flags(self) -> u32 {
        let flag = |on: bool, flag: sys::ibv_access_flags| if on { flag.0 } else { 0 };
        sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0
            | flag(self.remote_read, sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ)
            | flag(self.remote_write, sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE)
            | flag(self.remote_atomic, sys::ibv_access_flags::IBV_ACCESS_REMOTE_ATOMIC)
            | flag(self.windows, sys::ibv_access_flags::IBV_ACCESS_MW_BIND)
            | flag(self.on_demand, sys::ibv_access_flags::IBV_ACCESS_ON_DEMAND)
    }
}

/// The memory of a pool, registered.
#[derive(Debug)]
pub(crate) struct Region {
    mr: NonNull<sys::ibv_mr>,
    _domain: Rc<Domain>,
    pool: Pool,
}

impl Region {
    /// Registers all of `pool`.
    ///
    /// # Errors
    /// `OutOfMemory` with the limit to raise; `InvalidInput` for a pool whose memory is another device's.
    pub(crate) fn of_pool(domain: &Rc<Domain>, pool: &Pool, access: Access) -> io::Result<Rc<Region>> {
        let (base, bytes) = pool.region();
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the pool's memory is another device's"));
        }
        let flags = access.flags() as libc::c_int;
        // SAFETY: the range is mapped and stays so: the region holds the pool until after it is deregistered. That an adapter
        // writes there is right: only slots that were posted to a queue of this domain, which owns them, and what a peer
        // was given a key of.
        let mr = unsafe { sys::ibv_reg_mr(domain.raw(), base.as_ptr().cast(), bytes, flags) };
        let mr = NonNull::new(mr)
            .ok_or_else(|| last_error(&format!("register {} KiB of packet memory", bytes >> 10)))?;
        Ok(Rc::new(Region { mr, _domain: Rc::clone(domain), pool: pool.clone() }))
    }

    /// Whether all of `part` is registered.
    pub(crate) fn covers(&self, part: &[u8]) -> bool {
        self.pool.covers(part)
    }

    /// What work requests of this end name the memory by.
    pub(crate) fn local_key(&self) -> u32 {
        // SAFETY: the registration lives as long as this.
        unsafe { self.mr.as_ref() }.lkey
    }

    /// What peers name the memory by.
    pub(crate) fn remote_key(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.mr.as_ref() }.rkey
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: it was registered once; queues that name it hold it, so none is left.
        unsafe { sys::ibv_dereg_mr(self.mr.as_ptr()) };
    }
}

/// Memory of a region that peers reach, registered until it is said to be no more.
#[derive(Debug)]
pub(crate) struct Registered {
    /// `None` once it is not any more.
    mr: Option<NonNull<sys::ibv_mr>>,
    key: u32,
    _domain: Rc<Domain>,
}

impl Registered {
    /// Registers all of `memory`, which the caller keeps until [`deregister`](Registration::deregister) has succeeded.
    ///
    /// # Errors
    /// `OutOfMemory` with the limit to raise; what the device said.
    ///
    /// # Safety
    /// The memory stays where it is, and nobody has a reference to its bytes but as atomics, until it is deregistered.
    pub(crate) unsafe fn new(domain: &Rc<Domain>, memory: &Memory, access: Access) -> io::Result<Registered> {
        let flags = access.flags() as libc::c_int;
        let address = memory.address().cast_mut().cast();
        // SAFETY: the range is mapped and stays so, says the caller, who also sees to it that an adapter may write there.
        let mr = unsafe { sys::ibv_reg_mr(domain.raw(), address, memory.len(), flags) };
        let mr = NonNull::new(mr)
            .ok_or_else(|| last_error(&format!("register a region of {} bytes", memory.len())))?;
        // SAFETY: it was made just now.
        let key = unsafe { mr.as_ref() }.rkey;
        Ok(Registered { mr: Some(mr), key, _domain: Rc::clone(domain) })
    }
}

impl Registration for Registered {
    fn key(&self) -> u32 {
        self.key
    }

    fn deregister(&mut self) -> io::Result<()> {
        let Some(mr) = self.mr.take() else { return Ok(()) };
        // SAFETY: it was registered once, and is not any more: it was taken.
        super::check(unsafe { sys::ibv_dereg_mr(mr.as_ptr()) }, "deregister a region")
    }
}

/// A window of type 2: opens a part of a region to one peer for a while, by a request of a queue pair, under a key of its own.
#[derive(Debug)]
pub(crate) struct Window {
    mw: NonNull<sys::ibv_mw>,
    /// The key that it has, or had last.
    key: u32,
    _domain: Rc<Domain>,
}

impl Window {
    /// A window that is closed.
    ///
    /// # Errors
    /// `Unsupported`; what the device said.
    pub(crate) fn new(domain: &Rc<Domain>) -> io::Result<Window> {
        // SAFETY: the domain lives.
        let mw = unsafe { sys::ibv_alloc_mw(domain.raw(), sys::ibv_mw_type::IBV_MW_TYPE_2) };
        let mw = mw.and_then(NonNull::new).ok_or_else(|| last_error("make a memory window"))?;
        // SAFETY: it was made just now.
        let key = unsafe { mw.as_ref() }.rkey;
        Ok(Window { mw, key, _domain: Rc::clone(domain) })
    }

    /// The key that it has, or had last.
    pub(crate) fn key(&self) -> u32 {
        self.key
    }

    /// Opens it for `bytes` of `region`, under the next key, once the request that this is has been done.
    pub(super) fn bind(&mut self, region: &Region, bytes: &[u8]) -> Bind {
        // The library tells the adapter which window is meant by the key that it has, and learns of a change from nobody else.
        // SAFETY: the window is this one's alone, and no request that reads the field is being posted.
        unsafe { (*self.mw.as_ptr()).rkey = self.key };
        // SAFETY: plain arithmetic on a number: the next of the keys that share its upper bits.
        self.key = unsafe { sys::ibv_inc_rkey(self.key) };
        let (address, bytes) = (bytes.as_ptr().addr() as u64, bytes.len() as u64);
        Bind { mw: self.mw, key: self.key, mr: region.mr, address, bytes }
    }
}

/// What a request says that opens a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bind {
    mw: NonNull<sys::ibv_mw>,
    pub(super) key: u32,
    mr: NonNull<sys::ibv_mr>,
    address: u64,
    bytes: u64,
}

impl Bind {
    /// As verbs spell it.
    pub(super) fn described(&self) -> sys::bind_mw_t {
        sys::bind_mw_t {
            mw: self.mw.as_ptr(),
            rkey: self.key,
            bind_info: sys::ibv_mw_bind_info {
                mr: self.mr.as_ptr(),
                addr: self.address,
                length: self.bytes,
                mw_access_flags: sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0,
            },
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it was made once. One that is open is closed by this, and by the destruction of its queue pair.
        unsafe { sys::ibv_dealloc_mw(self.mw.as_ptr()) };
    }
}
