//! Blocking until a device has a frame: ppoll(2) over the device's descriptor and those of other transports.
//!
//! Owns the list of descriptors it watches, not the descriptors themselves. Never reads from any of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

/// Waits on a device's descriptor together with descriptors that others asked to be watched.
///
/// ```
/// use std::time::Duration;
/// let mut parker = demi_drivers::park::Parker::new();
/// parker.park(None, Some(Duration::from_micros(50)))?; // nothing to wait for but the time
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Parker {
    /// Never empty: entry 0 is kept for the device; poll(2) passes over entries whose descriptor is negative.
    entries: Vec<libc::pollfd>,
}

impl Parker {
    /// A parker that watches nothing yet.
    pub fn new() -> Parker {
        Parker { entries: vec![entry(-1, 0)] }
    }

    /// Ends every [`park`](Self::park) from now on as soon as `fd` is readable. The caller keeps `fd` open for as long as
    /// it is watched, and makes it unreadable again by itself. Watching it twice is watching it once.
    pub fn watch(&mut self, fd: RawFd) {
        if !self.entries.iter().skip(1).any(|entry| entry.fd == fd) {
            self.entries.push(entry(fd, libc::POLLIN));
        }
    }

    /// Ends what [`watch`](Self::watch) began.
    pub fn unwatch(&mut self, fd: RawFd) {
        let mut at = 0;
        self.entries.retain(|entry| {
            at += 1;
            at == 1 || entry.fd != fd
        });
    }

    /// Blocks until `device` or a watched descriptor is readable, a signal arrives, or `timeout` is over (`None`: no
    /// limit).
    ///
    /// # Errors
    /// What ppoll(2) said; never `Interrupted`, which only ends the wait.
    pub fn park(&mut self, device: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> io::Result<()> {
        self.wait(device, libc::POLLIN, timeout)
    }

    /// As [`park`](Self::park), and ends also when `device` takes frames again: for a sender whose last burst the device
    /// had no room for.
    ///
    /// # Errors
    /// As [`park`](Self::park).
    pub fn park_for_room(
        &mut self,
        device: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        self.wait(device, libc::POLLIN | libc::POLLOUT, timeout)
    }

    fn wait(
        &mut self,
        device: Option<BorrowedFd<'_>>,
        events: i16,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let device = entry(device.map_or(-1, |fd| fd.as_raw_fd()), events);
        self.entries[0] = device;
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `entries` is an array of that many initialised `pollfd`s, `limit` is null or a `timespec` that lives
        // until the end of this function, and a null signal mask leaves the thread's mask alone.
        let ready = unsafe {
            libc::ppoll(
                self.entries.as_mut_ptr(),
                self.entries.len() as libc::nfds_t,
                limit,
                std::ptr::null(),
            )
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Default for Parker {
    fn default() -> Self {
        Parker::new()
    }
}

fn entry(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn a_device_or_a_watched_descriptor_ends_the_wait() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (mut other, watched) = UnixStream::pair().unwrap();
        let mut parker = Parker::new();
        let start = Instant::now();
        near.write_all(b"x").unwrap();
        parker.park(Some(far.as_fd()), LONG).unwrap();
        parker.watch(watched.as_raw_fd());
        parker.watch(watched.as_raw_fd());
        other.write_all(b"x").unwrap();
        parker.park(None, LONG).unwrap();
        parker.park_for_room(Some(near.as_fd()), LONG).unwrap();
        assert!(start.elapsed() < Duration::from_secs(60), "something that was ready did not end the wait");
    }

    #[test]
    fn nothing_ready_waits_for_the_timeout() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut parker = Parker::new();
        far.write_all(b"x").unwrap();
        parker.watch(near.as_raw_fd());
        parker.unwatch(near.as_raw_fd());
        let start = Instant::now();
        parker.park(None, Some(Duration::from_millis(5))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(5), "a descriptor no longer watched ended the wait");
        (&near).read_exact(&mut [0]).unwrap();
        parker.park(Some(near.as_fd()), Some(Duration::from_millis(5))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(10));
    }

    #[test]
    fn a_signal_ends_the_wait_without_an_error() {
        extern "C" fn ignore(_: libc::c_int) {}
        // SAFETY: the handler does nothing, and SIGURG is used by nobody else in this process.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            assert_eq!(libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut()), 0);
        }
        // SAFETY: always succeeds.
        let waiting = unsafe { libc::pthread_self() };
        let (done, stop) = std::sync::mpsc::channel::<()>();
        let kicker = std::thread::spawn(move || {
            // Signals come until the wait has ended: one that came before it began would be lost.
            while stop.recv_timeout(Duration::from_millis(1))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                // SAFETY: the waiting thread joins this one, so it still runs.
                unsafe { libc::pthread_kill(waiting, libc::SIGURG) };
            }
        });
        let start = Instant::now();
        let parked = Parker::new().park(None, LONG);
        drop(done);
        kicker.join().unwrap();
        parked.unwrap();
        assert!(start.elapsed() < Duration::from_secs(60));
    }
}
