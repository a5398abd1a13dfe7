//! Our own stack over a device, as a configuration has it.

use std::io;

use demi_drivers::{Device, Transport};
use demi_netstack::{Cidr, Stack, StackConfig};

use crate::config::Config;

/// A stack over `device`. What must not be guessed is keyed with `seed`; `change` has the last word on what it is told.
///
/// # Errors
/// `InvalidInput` when an address, a gateway or the MTU cannot work, with what the key is called.
pub(crate) fn over(
    device: Box<dyn Device>,
    config: &Config,
    seed: u64,
    change: impl FnOnce(&mut StackConfig),
) -> io::Result<Box<dyn Transport>> {
    let mut stack =
        StackConfig { gateways: config.gateway.clone(), mtu: config.mtu, ..StackConfig::default() };
    for address in &config.address {
        // The prefix length was checked when the configuration was read.
        stack.addresses.extend(Cidr::new(address.address, address.prefix_len));
    }
    stack.secret = secret(seed);
    stack.tcp.congestion = config.congestion;
    stack.tcp.max_connections = config.max_connections;
    if let Some(bytes) = config.send_buffer_bytes {
        stack.tcp.send_buffer_bytes = bytes;
    }
    if let Some(bytes) = config.recv_buffer_bytes {
        stack.tcp.recv_buffer_bytes = bytes;
        stack.tcp.recv_buffer_max_bytes = stack.tcp.recv_buffer_max_bytes.max(bytes);
    }
    change(&mut stack);
    Ok(Box::new(Stack::new(device, stack)?))
}

/// Sixteen bytes from eight. A drawn seed has all the randomness that a stack's secret gets; a given one repeats a run.
fn secret(seed: u64) -> [u8; 16] {
    let mut rng = crate::sim::Rng::new(seed);
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    secret[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    secret
}
