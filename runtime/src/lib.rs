//! demi.

pub mod config;
mod context;
mod executor;
mod runtime;
pub mod task;
pub mod time;
mod transports;

pub use config::Config;
pub use runtime::Runtime;
pub use task::spawn;
