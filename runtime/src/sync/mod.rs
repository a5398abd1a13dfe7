//! Channels and counters between tasks of one thread.
//!
//! They share by `Rc` and count in `Cell`s: no atomic, no lock, and nothing here is `Send`. What has to cross threads goes
//! through `tokio::sync`, `futures::channel` or `std::sync`, whose wakes reach demi's tasks from anywhere.
//!
//! Each wait is cancel safe, and says so: dropping it loses no value, no permit and no notification.
//!
//! | | |
//! |---|---|
//! | [`oneshot`] | one value, once |
//! | [`mpsc`] | a queue of values, bounded or not |
//! | [`Notify`] | wake somebody who waits |
//! | [`Semaphore`] | so many at a time |

pub mod mpsc;
mod notify;
pub mod oneshot;
mod semaphore;
mod wait_list;

pub use notify::{Notified, Notify};
pub use semaphore::{Acquire, AcquireError, OwnedPermit, Permit, Semaphore, TryAcquireError};
