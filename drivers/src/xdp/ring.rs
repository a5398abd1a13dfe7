//! The four rings that a socket shares with the kernel, each with one producer and one consumer (Documentation/networking/af_xdp.rst).
//!
//! Who produces writes descriptors and then, with release, how far it has come; who consumes reads that with acquire, the
//! descriptors, and then says with release that they may be written again. Each side keeps a copy of the other's index, and looks anew
//! only when the copy says that there is nothing to do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// The kernel wants to be called (`XDP_RING_NEED_WAKEUP`).
const NEED_WAKEUP: u32 = 1;

/// Where a ring's parts lie in its mapping, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub(super) producer: u64,
    pub(super) consumer: u64,
    pub(super) descriptors: u64,
    pub(super) flags: u64,
}

/// A frame in the rings of received and transmitted ones: `struct xdp_desc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Descriptor {
    /// How far into the area it begins.
    pub(super) address: u64,
    pub(super) bytes: u32,
    /// [`CONTINUED`] or nothing.
    pub(super) options: u32,
}

/// More of the frame is in the next descriptor.
pub(super) const CONTINUED: u32 = 1;

/// A mapping, unmapped on drop.
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: what mmap answered, and the ring that used it goes with it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// A ring of `T`.
pub(super) struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    descriptors: NonNull<T>,
    mask: u32,
    /// Our own index.
    ours: u32,
    /// The other side's, as far as we know.
    theirs: u32,
    _mapping: Option<Mapping>,
}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `entries`, a power of two, of a socket that has been told so.
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page: libc::off_t,
        offsets: &Offsets,
        entries: u32,
    ) -> io::Result<Ring<T>> {
        let bytes = offsets.descriptors as usize + entries as usize * size_of::<T>();
        // SAFETY: a shared mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mmap answered the null page"))?;
        let mapping = Mapping { base, bytes };
        // SAFETY: the offsets are the kernel's for this mapping, within its bytes, and each part is aligned as its type.
        unsafe {
            Ok(Ring {
                producer: base.add(offsets.producer as usize).cast(),
                consumer: base.add(offsets.consumer as usize).cast(),
                flags: base.add(offsets.flags as usize).cast(),
                descriptors: base.add(offsets.descriptors as usize).cast(),
                mask: entries - 1,
                ours: 0,
                theirs: 0,
                _mapping: Some(mapping),
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as the ring.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    /// Descriptors there is room for in all.
    pub(super) fn capacity(&self) -> u32 {
        self.mask + 1
    }

    /// Whether the kernel wants to be called.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    #[inline]
    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: the masked index is below the ring's number of descriptors.
        unsafe { self.descriptors.add((index & self.mask) as usize) }
    }

    // ---- producing ----

    /// Descriptors that can be put now; looks anew when they are fewer than `wanted`.
    #[inline]
    pub(super) fn room(&mut self, wanted: u32) -> u32 {
        let room = |ring: &Self| ring.capacity() - ring.ours.wrapping_sub(ring.theirs).min(ring.capacity());
        if room(self) < wanted {
            self.theirs = self.consumer().load(Ordering::Acquire);
        }
        room(self)
    }

    /// Puts a descriptor, which the kernel sees with the next [`publish`](Self::publish). There is room, as the caller has
    /// asked.
    #[inline]
    pub(super) fn put(&mut self, descriptor: T) {
        // SAFETY: the place is ours: the consumer is through with it (`room`), and is not told of it yet.
        unsafe { self.slot(self.ours).write(descriptor) };
        self.ours = self.ours.wrapping_add(1);
    }

    /// Shows the kernel what was put.
    #[inline]
    pub(super) fn publish(&self) {
        self.producer().store(self.ours, Ordering::Release);
    }

    /// Descriptors that the kernel has not consumed yet.
    pub(super) fn pending(&mut self) -> u32 {
        self.theirs = self.consumer().load(Ordering::Acquire);
        self.ours.wrapping_sub(self.theirs)
    }

    // ---- consuming ----

    /// The next descriptor; looks anew when there seems to be none.
    #[inline]
    pub(super) fn next(&mut self) -> Option<T> {
        if self.ours == self.theirs {
            self.theirs = self.producer().load(Ordering::Acquire);
            if self.ours == self.theirs {
                return None;
            }
        }
        // SAFETY: the producer has written it and shown it with release, and leaves it alone until `release`.
        let descriptor = unsafe { self.slot(self.ours).read() };
        self.ours = self.ours.wrapping_add(1);
        Some(descriptor)
    }

    /// Gives back what [`next`](Self::next) has answered.
    #[inline]
    pub(super) fn release(&self) {
        self.consumer().store(self.ours, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;

    use super::*;

    /// A ring's parts in ordinary memory.
    struct Memory {
        indices: [AtomicU32; 3],
        places: Box<[UnsafeCell<u64>]>,
    }

    impl Memory {
        fn new(entries: u32) -> Memory {
            Memory {
                indices: [const { AtomicU32::new(0) }; 3],
                places: (0..entries).map(|_| UnsafeCell::new(0)).collect(),
            }
        }

        /// Both ends, which must not be used when the memory is gone.
        fn ends(&self) -> (Ring<u64>, Ring<u64>) {
            let end = || Ring {
                producer: NonNull::from(&self.indices[0]),
                consumer: NonNull::from(&self.indices[1]),
                flags: NonNull::from(&self.indices[2]),
                descriptors: NonNull::from(&*self.places).cast(),
                mask: self.places.len() as u32 - 1,
                ours: 0,
                theirs: 0,
                _mapping: None,
            };
            (end(), end())
        }
    }

    #[test]
    fn what_is_put_comes_out_in_order_and_only_once_it_is_published() {
        let memory = Memory::new(4);
        let (mut to, mut from) = memory.ends();
        for value in 0..3 {
            assert!(to.room(1) > 0);
            to.put(value);
        }
        assert_eq!(from.next(), None);
        to.publish();
        assert_eq!([from.next(), from.next(), from.next(), from.next()], [Some(0), Some(1), Some(2), None]);
    }

    #[test]
    fn a_full_ring_has_room_again_when_the_other_side_has_released() {
        let memory = Memory::new(2);
        let (mut to, mut from) = memory.ends();
        for round in 0..1000u64 {
            assert_eq!(to.room(2), 2, "round {round}");
            to.put(round);
            to.put(round + 1);
            assert_eq!(to.room(1), 0);
            to.publish();
            assert_eq!(to.pending(), 2);
            assert_eq!((from.next(), from.next()), (Some(round), Some(round + 1)));
            assert_eq!(to.room(1), 0, "read is not released");
            from.release();
        }
    }

    #[test]
    fn indices_wrap() {
        let memory = Memory::new(4);
        let (mut to, mut from) = memory.ends();
        for ring in [&mut to, &mut from] {
            (ring.ours, ring.theirs) = (u32::MAX - 1, u32::MAX - 1);
        }
        to.publish();
        from.release();
        for value in 0..10 {
            assert_eq!(to.room(4), 4);
            to.put(value);
            to.publish();
            assert_eq!(from.next(), Some(value));
            from.release();
        }
    }
}
