//! What a device lets us do, and how many of what: decided once, when it is opened, from its limits and the user's wishes.
//!
//! A pure function, so that devices which are not at hand (iWARP, one without memory windows, a small one) are decided for in tests.

use std::io;

use super::RdmaConfig;
use super::verbs::device::{Limits, OnDemand};
use super::verbs::memory::Access;

/// Datagrams either way at most.
const DATAGRAMS: u32 = 512;

/// What an adapter is set up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Receives in the queue that connections share.
    pub(super) receives: u32,
    /// Datagrams that may be on their way out of the program, and that may come while it is away, each: some of the pool's slots.
    pub(super) datagrams: u32,
    /// Entries of the completion queue for all of those.
    pub(super) reserved: u32,
    /// Requests that may be with the adapter at a time.
    pub(super) budget: u32,
    /// How the pool is registered.
    pub(super) pool: Access,
    /// Peers are trusted with the key of all of the pool.
    pub(super) open_to_all: bool,
    /// Memory windows can be bound to the pool.
    pub(super) windows: bool,
    /// Peers' memory can be read into the pool.
    pub(super) reads: bool,
    /// Datagrams need the pool locked, which it is not.
    pub(super) datagrams_locked: bool,
}

impl Abilities {
    /// By a device's limits, and by what it pages in on demand, if that was asked of it.
    ///
    /// # Errors
    /// `Unsupported`, with the cure, for a device without what connections need.
    pub(super) fn of(
        config: &RdmaConfig,
        limits: &Limits,
        on_demand: Option<OnDemand>,
    ) -> io::Result<Abilities> {
        if on_demand.is_some_and(|can| !can.connections) {
            return Err(unsupported(
                "it cannot page memory in for connections: leave on_demand off, and raise the limit on locked memory instead",
            ));
        }
        let of_pool = |part: usize| u32::try_from(config.pool.slots / part).unwrap_or(u32::MAX);
        let receives = config.receives.min(of_pool(2)).min(limits.shared_receives);
        if receives == 0 {
            return Err(unsupported(
                "it has no shared queues of receives, or the pool no small slots: take another device, or more slots",
            ));
        }
        let datagrams = of_pool(16).clamp(1, DATAGRAMS).min(limits.queue_requests);
        let reserved = receives + 2 * datagrams;
        let budget = config.requests.min(limits.completions.saturating_sub(reserved));
        if budget == 0 {
            return Err(unsupported("its completion queues are too short: take fewer receives"));
        }
        // Windows can be bound to locked memory only.
        let windows = limits.memory_windows && on_demand.is_none();
        let open_to_all = config.trust_peers && !windows;
        let reads = config.trust_peers || !limits.iwarp;
        let pool = Access {
            // An iWARP adapter tells the peer the key of what is read into, which has to be open to writes (RFC 5040 §5.1).
            remote_write: limits.iwarp && reads,
            // A window needs no more of its region than that it may be bound there.
            remote_read: open_to_all,
            windows,
            on_demand: on_demand.is_some(),
            ..Access::default()
        };
        let datagrams_locked = on_demand.is_some_and(|can| !can.datagrams);
        Ok(Abilities {
            receives,
            datagrams,
            reserved,
            budget,
            pool,
            open_to_all,
            windows,
            reads,
            datagrams_locked,
        })
    }

    /// Whether the bytes of long buffers can be opened to peers.
    pub(super) fn can_expose(&self) -> bool {
        self.windows || self.open_to_all
    }
}

#[cold]
fn unsupported(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::PoolConfig;

    /// A device with everything.
    const ALL: Limits = Limits {
        queue_requests: 16_384,
        gather: 32,
        completions: 32_767,
        shared_receives: 32_768,
        reads: 16,
        memory_windows: true,
        atomics: true,
        iwarp: false,
    };

    fn of(limits: Limits, on_demand: Option<OnDemand>, config: &RdmaConfig) -> io::Result<Abilities> {
        Abilities::of(config, &limits, on_demand)
    }

    fn config(slots: usize) -> RdmaConfig {
        let pool = PoolConfig { slots, ..PoolConfig::default() };
        RdmaConfig { pool, ..RdmaConfig::new("any") }
    }

    #[test]
    fn windows_open_the_pool_to_nobody_and_trust_is_of_no_use_beside_them() {
        for trust_peers in [false, true] {
            let config = RdmaConfig { trust_peers, ..config(16_384) };
            let can = of(ALL, None, &config).unwrap();
            assert!(can.windows && can.pool.windows && can.can_expose());
            assert!(!can.open_to_all && !can.pool.remote_read && !can.pool.remote_write);
        }
    }

    #[test]
    fn without_windows_long_buffers_are_sent_unless_peers_are_trusted() {
        let plain = Limits { memory_windows: false, ..ALL };
        let wary = of(plain, None, &config(16_384)).unwrap();
        assert!(!wary.can_expose() && !wary.pool.remote_read);
        let trusting = of(plain, None, &RdmaConfig { trust_peers: true, ..config(16_384) }).unwrap();
        assert!(trusting.can_expose() && trusting.open_to_all && trusting.pool.remote_read);
    }

    #[test]
    fn iwarp_reads_only_from_peers_that_may_write_to_all_of_the_pool() {
        let iwarp = Limits { iwarp: true, memory_windows: false, atomics: false, ..ALL };
        let wary = of(iwarp, None, &config(16_384)).unwrap();
        assert!(!wary.reads && !wary.pool.remote_write && !wary.pool.remote_read && !wary.can_expose());
        let trusting = of(iwarp, None, &RdmaConfig { trust_peers: true, ..config(16_384) }).unwrap();
        assert!(trusting.reads && trusting.pool.remote_write && trusting.can_expose());
        assert!(of(ALL, None, &config(16_384)).unwrap().reads, "others read into what nobody can write to");
    }

    #[test]
    fn memory_that_is_paged_in_has_no_windows() {
        let paged = OnDemand { connections: true, datagrams: false };
        let can = of(ALL, Some(paged), &config(16_384)).unwrap();
        assert!(can.pool.on_demand && !can.pool.windows && !can.can_expose() && can.datagrams_locked);
        let error = of(ALL, Some(OnDemand { connections: false, datagrams: true }), &config(64)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("on_demand"), "{error}");
    }

    #[test]
    fn what_is_with_the_adapter_fits_the_completion_queue() {
        for completions in [1, 100, 4096, 10_000, 1 << 22] {
            for slots in [2, 64, 1024, 1 << 20] {
                let limits = Limits { completions, ..ALL };
                match of(limits, None, &config(slots)) {
                    Ok(can) => {
                        assert!(can.budget >= 1 && can.receives as usize <= slots / 2);
                        assert!(can.receives + 2 * can.datagrams + can.budget <= completions);
                    }
                    Err(error) => assert!(error.to_string().contains("fewer receives"), "{error}"),
                }
            }
        }
    }

    #[test]
    fn a_device_without_shared_receives_is_refused_with_the_cure() {
        for (limits, slots) in [(Limits { shared_receives: 0, ..ALL }, 64), (ALL, 1)] {
            let error = of(limits, None, &config(slots)).unwrap_err();
            assert!(error.to_string().contains("another device, or more slots"), "{error}");
        }
    }
}
