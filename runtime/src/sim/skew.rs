//! A device on a clock of its own: what a host whose clock has jumped has between its stack and the wire.
//!
//! It translates times and does nothing else.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use demi_drivers::device::DeviceStats;
use demi_drivers::{Capabilities, Device, Instant, Pool, RxFrame, TxQueue};

/// A device whose stack's clock is ahead of the wire's.
pub(super) struct Skewed {
    pub(super) device: Box<dyn Device>,
    /// By so much.
    pub(super) ahead: Rc<Cell<Duration>>,
}

impl Device for Skewed {
    fn name(&self) -> &str {
        self.device.name()
    }

    fn capabilities(&self) -> &Capabilities {
        self.device.capabilities()
    }

    fn pool(&self) -> &Pool {
        self.device.pool()
    }

    fn rx_burst(&mut self, now: Instant, into: &mut Vec<RxFrame>, max: usize) -> io::Result<usize> {
        self.device.rx_burst(now - self.ahead.get(), into, max)
    }

    fn tx_burst(&mut self, now: Instant, queue: &mut TxQueue) -> io::Result<usize> {
        self.device.tx_burst(now - self.ahead.get(), queue)
    }

    fn set_addresses(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        self.device.set_addresses(addresses)
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.device.wait_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.device.deadline().map(|at| at + self.ahead.get())
    }

    fn stats(&self) -> DeviceStats {
        self.device.stats()
    }
}
