//! Which cores a thread runs on.

use std::io;

/// A set of cores, as the kernel's scheduler takes it.
#[derive(Clone)]
pub(crate) struct Affinity(libc::cpu_set_t);

impl Affinity {
    /// Where the calling thread may run.
    ///
    /// # Errors
    /// `sched_getaffinity(2)`'s.
    pub(crate) fn current() -> io::Result<Affinity> {
        // SAFETY: an all-zero set is a valid, empty one.
        let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
        // SAFETY: the set lives on the stack and its size is given.
        match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } {
            0 => Ok(Affinity(set)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One core alone.
    pub(crate) fn only(core: usize) -> Affinity {
        // SAFETY: an all-zero set is a valid, empty one.
        let mut affinity = Affinity(unsafe { core::mem::zeroed() });
        if core < libc::CPU_SETSIZE as usize {
            // SAFETY: the core's bit lies within the set.
            unsafe { libc::CPU_SET(core, &mut affinity.0) };
        }
        affinity
    }

    /// This set without `cores`; the set itself if nothing would be left.
    pub(crate) fn without(&self, cores: impl Iterator<Item = usize>) -> Affinity {
        let mut rest = self.clone();
        for core in cores.filter(|core| *core < libc::CPU_SETSIZE as usize) {
            // SAFETY: the core's bit lies within the set.
            unsafe { libc::CPU_CLR(core, &mut rest.0) };
        }
        // SAFETY: both are valid sets.
        if unsafe { libc::CPU_COUNT(&rest.0) } == 0 { self.clone() } else { rest }
    }

    /// Confines the calling thread to this set.
    ///
    /// # Errors
    /// `InvalidInput` when the machine has none of these cores, or they are not the process's.
    pub(crate) fn apply(&self) -> io::Result<()> {
        // SAFETY: the set is valid and its size is given.
        match unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// A thread that is confined to one core until this is dropped.
pub(crate) struct Pinned {
    before: Affinity,
    /// A runtime stays on its thread, and so does what confines it.
    thread: core::marker::PhantomData<*const ()>,
}

impl Pinned {
    /// Confines the calling thread to `core`.
    ///
    /// # Errors
    /// `InvalidInput` naming the core when the machine, or the process, does not have it.
    pub(crate) fn to(core: usize) -> io::Result<Pinned> {
        let before = Affinity::current()?;
        Affinity::only(core).apply().map_err(|error| {
            let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
            io::Error::new(
                error.kind(),
                format!("cores = {core}: this process cannot run there ({error}): it has {cores} cores"),
            )
        })?;
        Ok(Pinned { before, thread: core::marker::PhantomData })
    }

    /// Where the thread could run before.
    pub(crate) fn before(&self) -> &Affinity {
        &self.before
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The thread could run there before; that it may not any more is nobody's to repair.
        let _ = self.before.apply();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn cores(affinity: &Affinity) -> Vec<usize> {
        // SAFETY: each core's bit lies within the set.
        (0..libc::CPU_SETSIZE as usize)
            .filter(|core| unsafe { libc::CPU_ISSET(*core, &affinity.0) })
            .collect()
    }

    #[test]
    fn pinning_lasts_as_long_as_its_value() {
        let before = cores(&Affinity::current().unwrap());
        let core = before[before.len() - 1];
        let pinned = Pinned::to(core).unwrap();
        assert_eq!(cores(&Affinity::current().unwrap()), [core]);
        let others = cores(&pinned.before().without([core].into_iter()));
        assert!(others == before || !others.contains(&core));
        drop(pinned);
        assert_eq!(cores(&Affinity::current().unwrap()), before);
    }

    #[test]
    fn a_core_that_does_not_exist_is_named() {
        let error = Pinned::to(1000).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().starts_with("cores = 1000: "), "{error}");
        assert!(Pinned::to(5000).is_err());
    }
}
