//! One queue of a port, before it has a thread.
//!
//! A [`DpdkQueue`] may move between threads; [`start`](DpdkQueue::start) makes the device of it, which stays where that happened.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::DpdkConfig;
use super::device::Dpdk;
use super::memory::Memory;
use super::port::Port;

/// A receive and a transmit queue of a started port, with memory of their own.
#[derive(Debug)]
pub struct DpdkQueue {
    // The port first: what it still has goes back to the memory when it is closed.
    pub(super) port: Arc<Port>,
    pub(super) memory: Arc<Memory>,
    pub(super) index: u16,
}

/// Queues of ports that one thread has opened for several, by what each of them names.
static WAITING: Mutex<Vec<(String, DpdkQueue)>> = Mutex::new(Vec::new());

/// Queue `index` of a port that as many threads open as `config` has queues, each with the same arguments: the first to come opens
/// it, the others find theirs.
pub(super) fn shared(config: &DpdkConfig, index: u16) -> io::Result<DpdkQueue> {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let is_ours =
        |(arguments, queue): &(String, DpdkQueue)| *arguments == config.arguments && queue.index == index;
    if let Some(at) = waiting.iter().position(is_ours) {
        return Ok(waiting.swap_remove(at).1);
    }
    // What is left of threads that never came must not keep the port open.
    waiting.retain(|(arguments, _)| *arguments != config.arguments);
    let all = DpdkQueue::all(Port::open(config)?);
    if all.len() != usize::from(config.queues.max(1)) {
        // What nobody polls would lose every frame that the port puts there.
        let message = format!("dpdk: queues={} for {} cores: leave queues= out", all.len(), config.queues);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let mut ours = None;
    for queue in all {
        if queue.index == index {
            ours = Some(queue);
        } else {
            waiting.push((config.arguments.clone(), queue));
        }
    }
    ours.ok_or_else(|| {
        waiting.retain(|(arguments, _)| *arguments != config.arguments);
        let message = format!("dpdk: there is no queue {index} among {}", config.queues);
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })
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

    /// Makes the device: from now on the queue belongs to the calling thread.
    ///
    /// # Errors
    /// None that a queue of [`Dpdk::open_queues`](super::Dpdk::open_queues) has.
    pub fn start(self) -> io::Result<Dpdk> {
        Dpdk::over(self)
    }
}
