//! Opening what a device string names: one arm each.

use std::io;

use demi_drivers::Transport;
use demi_drivers::posix::{Posix, PosixConfig};

use crate::config::{Config, DeviceSpec, Log};

/// Opens every device of `config`, in order. `seed` keys everything random.
pub(super) fn open(config: &Config, seed: u64) -> io::Result<Vec<Box<dyn Transport>>> {
    let mut transports = Vec::with_capacity(config.device.len());
    for spec in &config.device {
        let transport = open_one(spec, config, seed)?;
        if config.log >= Log::Info {
            eprintln!("demi: {spec}: opened {}", transport.name());
        }
        transports.push(transport);
    }
    Ok(transports)
}

fn open_one(spec: &DeviceSpec, config: &Config, _seed: u64) -> io::Result<Box<dyn Transport>> {
    match spec {
        DeviceSpec::Auto => posix(config),
        DeviceSpec::Posix => posix(config),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, format!("{spec}: not built in"))),
    }
}

fn posix(config: &Config) -> io::Result<Box<dyn Transport>> {
    let posix =
        PosixConfig { pool: config.pool(), max_sockets: config.max_connections, ..PosixConfig::default() };
    Ok(Box::new(Posix::open(&posix)?))
}
