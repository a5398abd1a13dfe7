//! What every transport over the kernel's sockets must do, against plain sockets of the standard library: one suite, run on
//! each of them. A module is a concept; a scenario is a function of what opens the transport.

/// One test a scenario and transport.
macro_rules! suite {
    ($($scenario:ident),+ $(,)?) => {
        mod on_posix {
            $(#[test] fn $scenario() { super::$scenario(crate::posix); })+
        }
        #[cfg(feature = "uring")]
        mod on_uring {
            $(#[test] fn $scenario() { super::$scenario(crate::uring); })+
        }
    };
}

mod bytes;
mod connecting;
mod datagrams;
mod endings;
mod limits;
mod shapes;
mod support;
mod waiting;

use demi_drivers::PoolConfig;
use demi_drivers::posix::{Posix, PosixConfig};
#[cfg(feature = "uring")]
use demi_drivers::uring::{Uring, UringConfig};

use support::Driver;

/// What a scenario wants otherwise than by default.
#[derive(Default)]
struct Limits {
    sockets: Option<usize>,
    slots: Option<usize>,
    /// Entries of a ring, for a transport that has one.
    #[cfg_attr(not(feature = "uring"), allow(dead_code, reason = "only a ring has entries"))]
    entries: Option<u32>,
}

/// Opens a transport.
type Open = fn(Limits) -> Driver;

fn posix(limits: Limits) -> Driver {
    let mut config = PosixConfig::default();
    config.max_sockets = limits.sockets.unwrap_or(config.max_sockets);
    config.pool = limits.slots.map_or(config.pool, PoolConfig::small);
    Driver::new(|| Box::new(Posix::open(&config).unwrap()))
}

#[cfg(feature = "uring")]
fn uring(limits: Limits) -> Driver {
    let mut config = UringConfig::default();
    config.max_sockets = limits.sockets.unwrap_or(config.max_sockets);
    config.pool = limits.slots.map_or(config.pool, PoolConfig::small);
    config.entries = limits.entries.unwrap_or(config.entries);
    Driver::new(|| Box::new(Uring::open(&config).unwrap()))
}
