//! Our own stack over a device, as a configuration has it.

use std::io;

use demi_drivers::wrap::vlan::{Vlan, VlanConfig};
use demi_drivers::{Device, Transport};
use demi_netstack::tcp::{EcnOption, TcpConfig, TimeWaitReuse};
use demi_netstack::{Cidr, Shared, Stack, StackConfig};

use super::Queue;
use crate::config::{Address, Config};
use crate::cores::Lanes;

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

/// As [`over`], for one of several cores that drive a queue of the device each.
///
/// # Errors
/// As [`over`]; `InvalidInput` when the device does not say which queue a packet arrives at.
pub(crate) fn over_shared(
    device: Box<dyn Device>,
    config: &Config,
    (queue, lanes): (Queue, Lanes),
    change: impl FnOnce(&mut StackConfig),
) -> io::Result<Box<dyn Transport>> {
    let device = on_vlan(device, config)?;
    let mut stack = told(config, queue.stack_secret(0));
    change(&mut stack);
    let device = share(device, &mut stack, queue, lanes)?;
    Ok(Box::new(Stack::new(device, stack)?))
}

/// A queue of a device for one of several stacks with the same addresses, and what such a stack is told.
///
/// # Errors
/// `InvalidInput` when the device does not say which queue a packet arrives at.
pub(super) fn share(
    device: Box<dyn Device>,
    config: &mut StackConfig,
    queue: Queue,
    lanes: Lanes,
) -> io::Result<Box<dyn Device>> {
    if queue.index > 0 {
        // The first one does that for all, and leases an address for all.
        (config.silent, config.detect_duplicates) = (true, false);
    }
    Ok(Box::new(Shared::new(device, Box::new(lanes))?))
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
    StackConfig {
        addresses: own.collect(),
        gateways: config.gateway.clone(),
        dhcp: config.address.contains(&Address::Dhcp),
        router_discovery: config.address.contains(&Address::Auto),
        detect_duplicates: config.detect_duplicates.unwrap_or(false),
        mtu: config.mtu,
        secret,
        tcp: tcp_told(config),
        ..StackConfig::default()
    }
}

/// What the TCP of a stack is told by `config`.
fn tcp_told(config: &Config) -> TcpConfig {
    let mut tcp = TcpConfig {
        max_connections: config.max_connections,
        congestion: config.congestion,
        syn_cookies: config.syn_cookies,
        max_half_open: config.max_half_open,
        max_orphans: config.max_orphans,
        mtu_probing: config.mtu_probing,
        ecn: config.ecn,
        ecn_fallback: config.tcp_ecn_fallback,
        ecn_option: match config.tcp_ecn_option {
            0 => EcnOption::Never,
            1 => EcnOption::OnChange,
            2 => EcnOption::Always,
            _ => EcnOption::Persistent,
        },
        ecn_option_beacon: config.tcp_ecn_option_beacon,
        send_buffer_max_bytes: config.send_buffer_max_bytes,
        recv_buffer_max_bytes: config.recv_buffer_max_bytes,
        moderate_recv_buffer: config.tcp_moderate_rcvbuf,
        timestamps: config.tcp_timestamps,
        window_scaling: config.tcp_window_scaling,
        sack: config.tcp_sack,
        dsack: config.tcp_dsack,
        rack: config.tcp_recovery & 1 != 0,
        rack_static_window: config.tcp_recovery & 2 != 0,
        rack_dup_threshold: config.tcp_recovery & 4 == 0,
        // Linux has given up the early retransmit of 1 and 2; what is left of the values is the probe.
        loss_probes: config.tcp_early_retrans >= 3,
        frto: config.tcp_frto > 0,
        reordering_segments: config.tcp_reordering,
        max_reordering_segments: config.tcp_max_reordering.max(config.tcp_reordering),
        slow_start_after_idle: config.tcp_slow_start_after_idle,
        pacing_slow_start_percent: config.tcp_pacing_ss_ratio,
        pacing_avoidance_percent: config.tcp_pacing_ca_ratio,
        min_rto: config.tcp_rto_min_us,
        max_rto: config.tcp_rto_max_ms,
        syn_retries: config.tcp_syn_retries,
        syn_ack_retries: config.tcp_synack_retries,
        retries: config.tcp_retries2,
        fin_wait_2: config.tcp_fin_timeout,
        max_time_wait: config.tcp_max_tw_buckets,
        time_wait_reuse: match config.tcp_tw_reuse {
            0 => TimeWaitReuse::Never,
            1 => TimeWaitReuse::Always,
            _ => TimeWaitReuse::Local,
        },
        abort_on_overflow: config.tcp_abort_on_overflow,
        ..TcpConfig::default()
    };
    if config.tcp_orphan_retries > 0 {
        tcp.orphan_retries = config.tcp_orphan_retries;
    }
    tcp.send_buffer_bytes = config.send_buffer_bytes.unwrap_or(tcp.send_buffer_bytes);
    tcp.recv_buffer_bytes = config.recv_buffer_bytes.unwrap_or(tcp.recv_buffer_bytes);
    tcp.recv_buffer_max_bytes = tcp.recv_buffer_max_bytes.max(tcp.recv_buffer_bytes);
    let on = |bit: u32| config.tcp_fastopen & bit != 0;
    let fast_open = &mut tcp.fast_open;
    fast_open.key = config.fast_open_key;
    (fast_open.client, fast_open.server) = (on(1), on(2));
    (fast_open.client_without_cookie, fast_open.server_without_cookie) = (on(4), on(0x200));
    fast_open.all_listeners = on(0x400);
    tcp
}

/// Sixteen bytes from eight. A drawn seed has all the randomness that a stack's secret gets; a given one repeats a run.
fn secret(seed: u64) -> [u8; 16] {
    let mut rng = crate::sim::Rng::new(seed);
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
    secret[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
    secret
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_says_nothing_leaves_tcp_its_own_defaults() {
        assert_eq!(tcp_told(&Config::new()), TcpConfig::default());
    }

    #[test]
    fn the_bits_of_sysctls_are_told_apart() {
        let config = Config::new().tcp_recovery(6).tcp_early_retrans(0).tcp_fastopen(0x604).tcp_frto(0);
        let tcp = tcp_told(&config.tcp_tw_reuse(2).tcp_orphan_retries(3).check().unwrap());
        assert_eq!((tcp.rack, tcp.rack_static_window, tcp.rack_dup_threshold), (false, true, false));
        assert!(!tcp.loss_probes && !tcp.frto && !tcp.fast_open.client && !tcp.fast_open.server);
        let fast_open = &tcp.fast_open;
        assert!(
            fast_open.client_without_cookie && fast_open.server_without_cookie && fast_open.all_listeners
        );
        assert_eq!((tcp.time_wait_reuse, tcp.orphan_retries), (TimeWaitReuse::Local, 3));
    }
}
