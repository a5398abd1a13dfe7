//! What is asked of the machine: pinning to a core, CPU time of another process, descriptor limits.

use std::io;
use std::time::Duration;

/// Pins the calling thread (and what it starts from then on) to `core`.
///
/// # Errors
/// The core does not exist, or the process may not run on it.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: a `cpu_set_t` is a plain bit array; all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("core {core} is beyond what Linux can name"),
        ));
    }
    // SAFETY: `core` was checked to lie within the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set outlives the call and its size is given; pid 0 is the calling thread.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } != 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("cannot pin to core {core}: {error}")));
    }
    Ok(())
}

/// CPU time that process `pid` has used so far, all threads, user and kernel, to the nanosecond.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place for the answer.
    let error = unsafe { libc::clock_getcpuclockid(pid, &mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
}

/// Raises the limit of open descriptors to what the process may have.
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer, then a valid argument. A refusal leaves the limit as it was, and
    // opening the descriptor that is one too many will say so.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_this_process_grows_with_work() {
        let before = cpu_time(std::process::id()).unwrap();
        let mut sum = 0u64;
        for value in 0..2_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(value));
        }
        assert!(cpu_time(std::process::id()).unwrap() > before);
    }

    #[test]
    fn a_core_that_no_machine_has_is_refused() {
        assert!(pin(1_000_000).is_err());
    }
}
