//! Views that a device holds while it reads what they show.
//!
//! A view given to hardware by address alone is forgotten here, so that its slot stays out, and dropped when the device says that it
//! is done. Only whoever knows that may say so.

use std::ptr::NonNull;

use super::buf::Buf;

/// A view that exists for a device only. Dropping the value leaks the view: [`Lent::end`] gives it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent(NonNull<u8>);

impl Buf {
    /// Makes one more view for a device to hold. Its slot stays out until [`Lent::end`].
    #[cfg(feature = "dpdk")]
    #[inline]
    pub(crate) fn lend(&self) -> Lent {
        core::mem::forget(self.clone());
        Lent(self.slot_start())
    }

    /// Leaves this view to a device. Its slot stays out until [`Lent::end`].
    #[cfg(feature = "xdp")]
    #[inline]
    pub(crate) fn into_lent(self) -> Lent {
        let lent = Lent(self.slot_start());
        core::mem::forget(self);
        lent
    }
}

impl Lent {
    /// The view as one word, to pass through foreign code.
    #[cfg(feature = "dpdk")]
    #[inline]
    pub(crate) fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// What [`into_raw`](Self::into_raw) made.
    ///
    /// # Safety
    /// It was made by that, and has not been ended.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut u8) -> Lent {
        // SAFETY: `into_raw` answers no null.
        Lent(unsafe { NonNull::new_unchecked(raw) })
    }

    /// Drops the view.
    ///
    /// # Safety
    /// The device is done with it, it has not been ended before, and the calling thread is the pool's.
    #[inline]
    pub(crate) unsafe fn end(self) {
        // SAFETY: the view was forgotten by `lend`, and is dropped once, says the caller.
        drop(unsafe { Buf::of_slot(self.0) });
    }
}
