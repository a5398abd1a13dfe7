//! Our own stack over a device, as a configuration has it.

use std::io;

use demi_drivers::wrap::vlan::{Vlan, VlanConfig};
use demi_drivers::{Device, Transport};
use demi_netstack::tcp::TcpConfig;
use demi_netstack::{Cidr, Stack, StackConfig};

use crate::config::{Address, Config};

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
    let device = on_vlan(device, config)?;
    let mut stack = told(config, secret(seed));
    change(&mut stack);
    Ok(Box::new(Stack::new(device, stack)?))
}

/// `device` as the configuration's VLAN has it, or as it is.
pub(super) fn on_vlan(device: Box<dyn Device>, config: &Config) -> io::Result<Box<dyn Device>> {
    Ok(match config.vlan {
        Some(id) => Box::new(Vlan::new(device, VlanConfig { id, priority: config.vlan_priority })?),
        None => device,
    })
}

/// What a stack is told by `config`. `secret` keys what must not be guessed.
pub(super) fn told(config: &Config, secret: [u8; 16]) -> StackConfig {
    // The prefix lengths were checked when the configuration was read.
    let own = config.address.iter().filter_map(|own| match own {
        Address::Fixed(own) => Cidr::new(own.address, own.prefix_len),
        Address::Dhcp | Address::Auto => None,
    });
    let mut tcp = TcpConfig {
        max_connections: config.max_connections,
        congestion: config.congestion,
        syn_cookies: config.syn_cookies,
        max_half_open: config.max_half_open,
        max_orphans: config.max_orphans,
        mtu_probing: config.mtu_probing,
        ecn: config.ecn,
        send_buffer_max_bytes: config.send_buffer_max_bytes,
        recv_buffer_max_bytes: config.recv_buffer_max_bytes,
        ..TcpConfig::default()
    };
    tcp.send_buffer_bytes = config.send_buffer_bytes.unwrap_or(tcp.send_buffer_bytes);
    tcp.recv_buffer_bytes = config.recv_buffer_bytes.unwrap_or(tcp.recv_buffer_bytes);
    tcp.recv_buffer_max_bytes = tcp.recv_buffer_max_bytes.max(tcp.recv_buffer_bytes);
    tcp.fast_open.key = config.fast_open_key;
    StackConfig {
        addresses: own.collect(),
        gateways: config.gateway.clone(),
        dhcp: config.address.contains(&Address::Dhcp),
        router_discovery: config.address.contains(&Address::Auto),
        detect_duplicates: config.detect_duplicates.unwrap_or(false),
        mtu: config.mtu,
        secret,
        tcp,
        ..StackConfig::default()
    }
}

/// Sixteen bytes from eight. A drawn seed has all the randomness that a stack's secret gets; a given one repeats a run.
fn secret(seed: u64) -> [u8; 16] {
    let mut rng = crate::sim::Rng::new(seed);
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    secret[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    secret
}
