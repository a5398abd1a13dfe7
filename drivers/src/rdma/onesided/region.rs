//! A region: memory that peers may reach, registered with a device for as long as it exists.

use core::fmt;
use core::mem;
use core::ops::Deref;
use std::io;
use std::rc::Rc;

use super::key::{Access, RegionKey};
use super::memory::Memory;

/// A device's registration of a region's memory. For drivers.
pub trait Registration {
    /// What opens the memory to peers.
    fn key(&self) -> u32;

    /// Ends it: when this succeeds, no adapter touches the memory any more. Called once.
    ///
    /// # Errors
    /// What the device said; then the memory is never freed.
    fn deregister(&mut self) -> io::Result<()>;
}

/// Memory of this side that peers read and write. Dropping it deregisters it, and only then lets the memory go, so that no peer ever
/// reaches what has become somebody else's.
///
/// It is looked at and changed through [`Memory`]'s methods, which copy.
pub struct Region {
    registration: Box<dyn Registration>,
    /// Its only owner, unless deregistering fails.
    memory: Rc<Memory>,
    key: RegionKey,
}

impl Region {
    /// The region of `memory`, registered as `registration`, which opens it for `access`. For drivers.
    pub fn new(memory: Memory, registration: Box<dyn Registration>, access: Access) -> Region {
        let (address, bytes) = (memory.address().addr() as u64, memory.len() as u64);
        let key = RegionKey::new(address, bytes, registration.key(), access);
        Region { registration, memory: Rc::new(memory), key }
    }

    /// The key to hand out: whoever has it can reach this region until it is dropped.
    pub fn key(&self) -> RegionKey {
        self.key
    }
}

impl Deref for Region {
    type Target = Memory;

    fn deref(&self) -> &Memory {
        &self.memory
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.registration.deregister().is_err() {
            // An adapter may go on reaching it: better never free than somebody else's.
            mem::forget(Rc::clone(&self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Weak;

    use super::*;

    struct Device {
        memory: Rc<std::cell::RefCell<Weak<Memory>>>,
        lets_go: bool,
    }

    impl Registration for Device {
        fn key(&self) -> u32 {
            7
        }

        fn deregister(&mut self) -> io::Result<()> {
            assert!(self.memory.borrow().upgrade().is_some(), "freed while an adapter may reach it");
            if self.lets_go { Ok(()) } else { Err(io::ErrorKind::ResourceBusy.into()) }
        }
    }

    #[test]
    fn memory_is_freed_after_it_is_deregistered_and_never_if_that_fails() {
        for lets_go in [true, false] {
            let watch = Rc::<std::cell::RefCell<Weak<Memory>>>::default();
            let device = Device { memory: Rc::clone(&watch), lets_go };
            let region = Region::new(Memory::new(64).unwrap(), Box::new(device), Access::READ);
            *watch.borrow_mut() = Rc::downgrade(&region.memory);
            assert_eq!((region.key().len(), region.len()), (64, 64));
            assert_eq!(region.key().to_read(8, 8).unwrap(), (region.address().addr() as u64 + 8, 7));
            region.store(8, 5).unwrap();
            assert_eq!(region.load(8).unwrap(), 5);
            drop(region);
            let left = watch.borrow().upgrade();
            assert_eq!(left.is_none(), lets_go);
            if let Some(left) = left {
                // SAFETY: the region has forgotten one of them, and there is no device that would reach the memory.
                unsafe { Rc::decrement_strong_count(Rc::as_ptr(&left)) };
            }
        }
    }
}
