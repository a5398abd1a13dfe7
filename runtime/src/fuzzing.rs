//! Private parsers, for the fuzz targets alone: only built under `--cfg fuzzing`, and no part of the interface.

use std::io;

pub use crate::net::dns_fuzzing::{answer, hosts, name, resolv_conf};

use crate::Config;

/// Reads the text of a configuration file.
///
/// # Errors
/// What is wrong with it.
pub fn config_file(text: &str) -> io::Result<Config> {
    crate::config::fuzz_file(text)
}
