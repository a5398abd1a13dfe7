//! # demi: a datapath OS for microsecond-scale services, as an async runtime
//!
//! A service is an ordinary async program. demi runs it to completion on one core, or on each of several, over a user-space TCP/UDP stack or the
//! kernel's sockets, on whatever device is there.
//!
//! | module | is |
//! |---|---|
//! | [`task`] | spawn tasks, await them, move blocking work away |
//! | [`time`] | sleep, time out, tick; virtual time |
//! | [`net`] | TCP and UDP sockets |
//! | [`io`] | buffers, readiness, the ecosystem's reading and writing traits |
//! | [`compat`] | what other crates need beside those traits |
//! | [`sync`] | channels and counters between tasks of one thread |
//! | [`mesh`] | channels between cores; [`core`](fn@core) and [`run`] for the rest of it |
//! | [`sim`] | whole hosts on one seed and one virtual clock |
//! | [`signal`] | ctrl-C and its kin |
//! | [`config`] | all that a runtime can be told |
//!
//! Inside, `turn` is the loop, `executor` runs tasks, `context` is where tasks find their runtime, `transports` is what
//! carries sockets.

pub mod compat;
pub mod config;
mod context;
mod cores;
#[cfg(feature = "macros")]
mod entry;
mod executor;
mod failure;
#[cfg(all(fuzzing, feature = "dns"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod io;
pub mod mesh;
mod metrics;
pub mod net;
mod report;
mod runtime;
pub mod signal;
pub mod sim;
mod spin;
pub mod sync;
pub mod task;
pub mod time;
pub mod transports;
mod turn;

pub use config::Config;
pub use cores::{Core, core, cores, run, this_core};
pub use demi_drivers::{Buf, BufMut};
pub use io::{alloc, buf};
pub use metrics::{Metrics, Usage, metrics, usage};
pub use runtime::{Builder, Drained, Runtime};
pub use task::spawn;

#[cfg(feature = "macros")]
pub use demi_macros::{main, test};

/// What the macros expand to.
#[cfg(feature = "macros")]
#[doc(hidden)]
pub mod __private {
    pub use crate::entry::{macro_keys, main, test};
}
