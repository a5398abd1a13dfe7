//! One queue of a port, before it has a thread.
//!
//! A [`DpdkQueue`] may move between threads; [`start`](DpdkQueue::start) makes the device of it, which stays where that happened.

use std::io;
use std::sync::Arc;

use super::device::Dpdk;
use super::memory::Memory;
use super::port::Port;
use super::rss::Rss;

/// A receive and a transmit queue of a started port, with memory of their own.
#[derive(Debug)]
pub struct DpdkQueue {
    // The port first: what it still has goes back to the memory when it is closed.
    pub(super) port: Arc<Port>,
    pub(super) memory: Arc<Memory>,
    pub(super) index: u16,
}

impl DpdkQueue {
    /// All queues of a port that was just opened.
    pub(super) fn all(port: Port) -> Vec<DpdkQueue> {
        let port = Arc::new(port);
        let queue = |index: usize| DpdkQueue {
            port: Arc::clone(&port),
            memory: Arc::clone(&port.memories[index]),
            index: index as u16,
        };
        (0..port.memories.len()).map(queue).collect()
    }

    /// Position among the port's queues.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// How the port spreads received flows over its queues, if it says: with one queue there is nothing to spread.
    pub fn rss(&self) -> Option<&Rss> {
        self.port.rss.as_ref()
    }

    /// Makes the device: from now on the queue belongs to the calling thread.
    ///
    /// # Errors
    /// None that a queue of [`Dpdk::open_queues`](super::Dpdk::open_queues) has.
    pub fn start(self) -> io::Result<Dpdk> {
        Dpdk::over(self)
    }
}
