//! One-sided operations: reading and writing a peer's memory, and atomic ones on words of it, while that peer's processor does
//! something else.
//!
//! It owns what has to be right whatever a device does: the [region](Region) that peers may reach, the [key](RegionKey) that opens it, the
//! operations on a [peer](Peer)'s regions, and the [table](Operations) that says where each one's buffer is. It knows no verbs: a driver
//! registers memory, posts what a connection's [line](Line) hands it, and gives back what completes.
//!
//! # Who has an operation's buffer
//! It is in one place at a time, and moves only forward:
//!
//! | state | the buffer is with | cancelling the future | the connection fails |
//! |---|---|---|---|
//! | queued | the table | lets it go: no adapter has heard of it | the future gets it back, with the error |
//! | posted | the adapter's request | leaves it there until the completion, then lets it go | as it completes, in error |
//! | done | the table | lets it go | the result stands |
//! | gone | the future's caller | | |
//!
//! So a dropped future never frees memory that an adapter may still read or write, and a buffer that is done comes back exactly once.
//!
//! # What may be reached
//! A region's key opens that region to every peer that knows it, until the region is dropped. Dropping deregisters first and frees
//! then, and only if deregistering succeeded; an operation with the key of a region that is gone is refused by the adapter, which
//! breaks the connection that it came on, as reliable connections do. A key is a few numbers, sent to a peer over whatever connects the
//! two.
//!
//! Reads and writes have no order between connections, and may be seen in part while they happen; eight aligned bytes are always seen
//! whole. Atomic operations exclude each other when they come through the same adapter, and not those of a processor.

mod key;
mod line;
mod memory;
mod operations;
mod peer;
mod region;
#[cfg(test)]
mod tests;

pub use key::{Access, RegionKey, Remote};
pub use line::{Doing, Line, Marked};
pub use memory::Memory;
pub use operations::{Aftermath, Kind, Operation, Operations, Outcome};
pub use peer::{Fetches, Local, Peer};
pub use region::{Region, Registration};
