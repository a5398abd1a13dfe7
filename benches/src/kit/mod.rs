//! The measuring kit: what every bench binary does the same way.

pub mod args;
pub mod json;
pub mod machine;
pub mod report;
pub mod sample;

pub use args::{Args, Flag};
pub use report::{Figure, Reporter};
pub use sample::{Group, Run, Unit, measure};
