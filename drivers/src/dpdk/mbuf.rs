//! The fields of an mbuf that each frame passes through: read when it was received, written when it is sent.
//!
//! DPDK moves them between releases, so where they lie comes from the headers this was built against. Everything rarer than a
//! frame is the shim's.

use demi_dpdk_sys as sys;

use crate::device::RxChecksum;

const AT_DATA_OFF: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_DATA_OFF as usize;
const AT_REFCNT: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_REFCNT as usize;
const AT_NB_SEGS: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_NB_SEGS as usize;
const AT_OL_FLAGS: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_OL_FLAGS as usize;
const AT_PKT_LEN: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_PKT_LEN as usize;
const AT_DATA_LEN: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_DATA_LEN as usize;
const AT_POOL: usize = sys::demi_dpdk_mbuf_DEMI_DPDK_AT_POOL as usize;

/// An mbuf that is ours alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mbuf(*mut sys::rte_mbuf);

impl Mbuf {
    /// # Safety
    /// It is an mbuf, and as long as the value is used, nobody else's.
    #[inline(always)]
    pub(super) unsafe fn new(raw: *mut sys::rte_mbuf) -> Mbuf {
        Mbuf(raw)
    }

    #[inline(always)]
    fn get<T: Copy>(self, at: usize) -> T {
        // SAFETY: the field lies there, says the installation's header, and has that type, which the shim asserts.
        unsafe { self.0.cast::<u8>().add(at).cast::<T>().read() }
    }

    #[inline(always)]
    fn set<T: Copy>(self, at: usize, value: T) {
        // SAFETY: as above, and nobody else looks at it.
        unsafe { self.0.cast::<u8>().add(at).cast::<T>().write(value) };
    }

    /// Bytes of the whole frame.
    #[inline(always)]
    pub(super) fn bytes(self) -> usize {
        self.get::<u32>(AT_PKT_LEN) as usize
    }

    /// Where the first segment begins in its room.
    #[inline(always)]
    pub(super) fn offset(self) -> usize {
        usize::from(self.get::<u16>(AT_DATA_OFF))
    }

    /// Whether it is one segment in a room of its own, that of an mbuf of `pool`, which nobody else refers to.
    #[inline(always)]
    pub(super) fn is_whole_of(self, pool: *const sys::rte_mempool) -> bool {
        self.get::<*const sys::rte_mempool>(AT_POOL) == pool
            && self.get::<u16>(AT_REFCNT) == 1
            && self.get::<u16>(AT_NB_SEGS) == 1
            && self.get::<u64>(AT_OL_FLAGS) & sys::DEMI_DPDK_NOT_DIRECT == 0
    }

    /// What the driver says of the transport checksum.
    #[inline(always)]
    pub(super) fn checksum(self) -> RxChecksum {
        let state = self.get::<u64>(AT_OL_FLAGS) & sys::DEMI_DPDK_CHECKSUM_MASK;
        if state == 0 {
            RxChecksum::Unknown
        } else if state == sys::DEMI_DPDK_CHECKSUM_BAD {
            RxChecksum::Bad
        } else {
            // Verified, or a partial one of a sender on this machine.
            debug_assert!(state == sys::DEMI_DPDK_CHECKSUM_GOOD || state == sys::DEMI_DPDK_CHECKSUM_NONE);
            RxChecksum::Valid
        }
    }

    /// Payload bytes of each segment, if the driver has joined several to this frame; else 0.
    #[inline(always)]
    pub(super) fn gro_bytes(self) -> u16 {
        if self.get::<u64>(AT_OL_FLAGS) & sys::DEMI_DPDK_JOINED == 0 {
            return 0;
        }
        // SAFETY: an mbuf that was received.
        unsafe { sys::demi_dpdk_segment_bytes(self.0) }
    }

    /// Shows `bytes` from `offset` of its room on, to be sent as they are.
    #[inline(always)]
    pub(super) fn show(self, offset: usize, bytes: usize) {
        self.set(AT_DATA_OFF, offset as u16);
        self.set(AT_DATA_LEN, bytes as u16);
        self.set(AT_PKT_LEN, bytes as u32);
        self.set(AT_OL_FLAGS, 0u64);
    }
}
