//! How a simulation fails.

use core::fmt;
use std::io;
use std::time::Duration;

/// Why a simulation did not end well. Its text names the seed: `Sim::new` with it repeats the run exactly.
#[derive(Debug)]
pub struct SimError {
    pub(super) seed: u64,
    pub(super) after: Duration,
    pub(super) cause: Cause,
}

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Cause {
    /// The simulation could not be set up: an address, a configuration.
    Setup {
        /// The host.
        host: String,
        /// What was wrong.
        error: io::Error,
    },
    /// A host's main has returned an error.
    Failed {
        /// The host.
        host: String,
        /// What it returned.
        error: io::Error,
    },
    /// A host's main has panicked.
    Panicked {
        /// The host.
        host: String,
        /// The panic's message.
        message: String,
    },
    /// Hosts wait, and nothing is under way that could wake them: no frame, no timer.
    Deadlock {
        /// The hosts whose mains have not ended.
        waiting: Vec<String>,
    },
    /// The time limit was reached.
    TimeLimit {
        /// The hosts whose mains have not ended.
        waiting: Vec<String>,
    },
    /// Something is due at a time that has come, and nobody does it.
    Stuck {
        /// The hosts that are due.
        due: Vec<String>,
    },
}

impl SimError {
    /// The simulation's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time from the start.
    pub fn after(&self) -> Duration {
        self.after
    }

    /// What went wrong.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }
}

impl fmt::Display for SimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulation with seed {}, {:?} after its start: ", self.seed, self.after)?;
        match &self.cause {
            Cause::Setup { host, error } => write!(f, "host `{host}` cannot be set up: {error}"),
            Cause::Failed { host, error } => write!(f, "host `{host}` failed: {error}"),
            Cause::Panicked { host, message } => write!(f, "host `{host}` panicked: {message}"),
            Cause::Deadlock { waiting } => {
                write!(f, "deadlock: {} wait, and no frame or timer is under way", names(waiting))
            }
            Cause::TimeLimit { waiting } => {
                write!(f, "the time limit is reached, {} have not ended", names(waiting))
            }
            Cause::Stuck { due } => {
                write!(f, "stuck: {} have a deadline that has come, and do nothing", names(due))
            }
        }
    }
}

fn names(hosts: &[String]) -> String {
    hosts.iter().map(|host| format!("`{host}`")).collect::<Vec<_>>().join(", ")
}

impl std::error::Error for SimError {}

impl From<SimError> for io::Error {
    fn from(error: SimError) -> io::Error {
        io::Error::other(error)
    }
}
