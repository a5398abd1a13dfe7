//! How an [`Rdma`](super::Rdma) transport is set up.

use std::time::Duration;

use super::connect::CONNECT_TIMEOUT;
use crate::mem::PoolConfig;

/// How an [`Rdma`](super::Rdma) transport is set up.
#[derive(Clone, Debug)]
pub struct RdmaConfig {
    /// The verbs device, as `ibv_devices` names it: `mlx5_0`, `rxe0`.
    pub device: String,
    /// The memory that is registered: what is received lies in its small slots, so their size is that of the longest message.
    pub pool: PoolConfig,
    /// Receives that wait in the queue all connections share, at most; half of the pool's small slots, if that is less.
    pub receives: u32,
    /// Messages that a peer may send ahead of its reader, at most: fewer when many connections share the receives.
    pub credits: u16,
    /// Requests of all connections that may be with the adapter at a time.
    pub requests: u32,
    /// Bytes that are handed to the adapter with the request itself; fewer if it takes no more.
    pub inline_bytes: u32,
    /// Let peers read long buffers by a key of the whole pool where the device has no memory windows. Whoever is connected can then read
    /// everything in the pool, other connections' bytes included.
    pub trust_peers: bool,
    /// Have the adapter page the pool in as it reaches it, instead of locking it into memory, where the device can do that for all
    /// that connections do. Long buffers are then sent, unless peers are trusted: memory windows need locked memory.
    pub on_demand: bool,
    /// Sockets that may be open at once.
    pub max_sockets: usize,
    /// How long the set-up of a connection may take.
    pub connect_timeout: Duration,
    /// How long a closed connection's last bytes may wait for the peer to take them; then it is reset.
    pub close_timeout: Duration,
}

impl RdmaConfig {
    /// A device with everything else by default.
    pub fn new(device: impl Into<String>) -> RdmaConfig {
        RdmaConfig {
            device: device.into(),
            pool: PoolConfig::default(),
            receives: 4096,
            credits: 32,
            requests: 8192,
            inline_bytes: 128,
            trust_peers: false,
            on_demand: false,
            max_sockets: 1 << 20,
            connect_timeout: CONNECT_TIMEOUT,
            close_timeout: Duration::from_secs(60),
        }
    }
}
