//! Time: sleep, time out, tick; nanosecond deadlines, and a clock that tests can stop.
//!
//! The names are tokio's. What differs: deadlines are exact to the nanosecond and end with the turn of the loop that
//! reaches them (a few hundred nanoseconds when it is busy) where tokio rounds to milliseconds; timers need no enabling.
//!
//! | file | concept |
//! |---|---|
//! | `clock` | what time it is |
//! | `wheel` | the timers of one runtime |
//! | `sleep`, `timeout`, `interval` | futures over it |
//! | `pause` | virtual time |
//! | `instant` | a point in time |

mod clock;
mod instant;
mod interval;
mod pause;
mod sleep;
mod timeout;
mod timers;
mod wheel;

#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use clock::{Clock, VIRTUAL_START};
pub(crate) use timers::Timers;

pub use instant::Instant;
pub use interval::{Interval, MissedTickBehavior, interval, interval_at};
pub use pause::{advance, pause, resume};
pub use sleep::{Sleep, sleep, sleep_until};
pub use std::time::Duration;
pub use timeout::{Timeout, timeout, timeout_at};

/// Errors of this module.
pub mod error {
    pub use super::timeout::Elapsed;
}
