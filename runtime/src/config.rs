//! Configuration of a runtime.

use std::time::Duration;

/// What the loop does when nothing is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idle {
    /// Poll on and on.
    Spin,
    /// Poll for `spin_us` microseconds, then block.
    Adaptive,
    /// Block at once.
    Park,
}

/// Everything a runtime can be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// What the loop does when nothing is ready.
    pub idle: Option<Idle>,
    /// How long `adaptive` polls before it blocks.
    pub spin_us: Duration,
    /// How long a runtime that ends waits for its connections to deliver what was written.
    pub drain_ms: Duration,
    /// Seed of everything random; drawn from the kernel when not given.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            idle: None,
            spin_us: Duration::from_micros(50),
            drain_ms: Duration::from_secs(2),
            seed: None,
        }
    }
}
