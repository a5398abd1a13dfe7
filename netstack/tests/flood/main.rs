//! Floods, one behaviour a test: what strangers send by the ten thousand, and what it may cost.
//!
//! Every test asserts three things: the memory of the flooded host stays under a ceiling (packet slots, and bytes from the allocator),
//! the work on a junk packet stays under a ceiling (calls of the allocator: steps that any machine counts alike; instructions are
//! counted in `benches`), and a good connection carries as many bytes in the same virtual time as without the flood. Nothing here
//! reads a clock or asserts on real time.

mod allocator;
mod ground;
mod link;
mod packets;
mod segments;
mod stranger;
mod strangers;
