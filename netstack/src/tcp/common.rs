//! What all connections of a layer act with: its configuration, its counters, its secrets, its limits.
//!
//! One place, so that a connection is lent it by one pointer. Owns no connection and no socket.

use std::rc::Rc;

use demi_drivers::transport::StreamOptions;

use super::config::TcpConfig;
use super::connection::nanos;
use super::fast_open::FastOpens;
use super::isn::Secret;
use super::limits::RateLimit;
use super::rto::RtoBounds;
use super::stats::TcpStats;

/// What a layer's connections share.
pub(crate) struct Common {
    pub(crate) stats: TcpStats,
    pub(crate) bounds: RtoBounds,
    pub(crate) delayed_ack_ns: u64,
    /// What the buffers of all connections have grown by.
    pub(crate) grown_bytes: u64,
    /// While little memory is left.
    pub(crate) scarce: Option<Scarce>,
    pub(crate) secret: Secret,
    pub(crate) challenges: RateLimit,
    pub(crate) fast_opens: FastOpens,
    pub(crate) config: TcpConfig,
    /// The options last asked for: those who ask for the same share them. Two, for what connections are made with and what most of
    /// them are then given.
    options: [Rc<StreamOptions>; 2],
}

/// What is left of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scarce {
    /// Free slots, those of frames that have yet to be looked at included.
    pub(crate) free: usize,
    /// Slots that what can wait must leave.
    pub(crate) kept: usize,
    /// Bytes that one connection may have unread.
    pub(crate) share_bytes: usize,
}

impl Common {
    pub(crate) fn new(config: TcpConfig, secret: Secret) -> Common {
        let fast_open = &config.fast_open;
        Common {
            stats: TcpStats::default(),
            bounds: RtoBounds { min_ns: nanos(config.min_rto), max_ns: nanos(config.max_rto) },
            delayed_ack_ns: nanos(config.delayed_ack),
            grown_bytes: 0,
            scarce: None,
            challenges: RateLimit::new(config.challenge_acks_per_second),
            fast_opens: FastOpens::new(
                fast_open.key.unwrap_or_else(|| secret.fast_open_key()),
                fast_open.backup_key,
                fast_open.max_servers,
                fast_open.blackhole_pause,
            ),
            secret,
            config,
            options: Default::default(),
        }
    }

    /// `options`, shared with whoever asked for the same just before: connections that are given the same one by one have them
    /// in memory once.
    pub(crate) fn shared(&mut self, options: &StreamOptions) -> Rc<StreamOptions> {
        let [last, other] = &mut self.options;
        if **last != *options {
            core::mem::swap(last, other);
            if **last != *options {
                *last = Rc::new(options.clone());
            }
        }
        Rc::clone(last)
    }
}
