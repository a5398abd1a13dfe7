//! Anonymous memory for a pool: huge pages if there are any, ordinary pages otherwise.

use std::io;
use std::ptr::NonNull;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// A private anonymous mapping, zeroed, unmapped on drop.
pub(super) struct Region {
    base: NonNull<u8>,
    bytes: usize,
    huge: bool,
}

impl Region {
    /// Maps at least `bytes`; on huge pages if `want_huge` and the machine has them free.
    pub(super) fn map(bytes: usize, want_huge: bool) -> io::Result<Region> {
        let rounded = bytes.max(1).next_multiple_of(HUGE_PAGE);
        if want_huge && let Ok(base) = map(rounded, libc::MAP_HUGETLB | libc::MAP_POPULATE) {
            return Ok(Region { base, bytes: rounded, huge: true });
        }
        let rounded = bytes.max(1).next_multiple_of(4096);
        let base = map(rounded, 0)?;
        // SAFETY: the range was just mapped; the advice changes no contents, and its failure is harmless.
        unsafe { libc::madvise(base.as_ptr().cast(), rounded, libc::MADV_HUGEPAGE) };
        Ok(Region { base, bytes: rounded, huge: false })
    }

    /// First byte.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the region lies on huge pages.
    pub(super) fn huge(&self) -> bool {
        self.huge
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are what `mmap` answered, and the pool that owned every slot in them is gone.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn map(bytes: usize, flags: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap answered the null page"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Huge pages that the machine has free now.
    fn free_huge_pages() -> usize {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }

    #[test]
    fn without_enough_huge_pages_ordinary_ones_do() {
        let bytes = (free_huge_pages() + 1) * HUGE_PAGE;
        let region = Region::map(bytes, true).unwrap();
        assert!(!region.huge(), "the machine has no {bytes} bytes of huge pages");
        assert!(region.bytes() >= bytes);
        for at in [0, bytes - 1] {
            // SAFETY: `at` lies in the mapping, which is writable and nobody else's.
            unsafe {
                let byte = region.base().as_ptr().add(at);
                assert_eq!(byte.read(), 0);
                byte.write(1);
                assert_eq!(byte.read(), 1);
            }
        }
    }
}
