//! One direction between two ends: what becomes of a frame that is sent into it.
//!
//! Owns the direction's generator and the state of its queue. Never touches a frame: it decides, the medium acts.

use super::config::LinkConfig;
use super::handle::LinkStats;
use crate::damage;
use crate::rng::Rng;
use crate::time::Instant;

/// What a link does to one frame.
pub(super) enum Fate {
    /// It is lost; the counter has been incremented.
    Lost,
    /// It arrives.
    Arrives {
        /// When.
        at: Instant,
        /// When a second copy arrives.
        copy_at: Option<Instant>,
        /// A bit to flip, counted from the first bit of the frame.
        flip_bit: Option<usize>,
        /// The length to cut it to.
        cut_to: Option<usize>,
    },
}

pub(super) struct Link {
    config: LinkConfig,
    /// Whether frames pass at once and unharmed: the one thing the fast path asks.
    pub(super) plain: bool,
    partitioned: bool,
    rng: Rng,
    /// When the last frame's last bit is on the wire, for the rate limit.
    busy_until: Instant,
    /// The latest arrival so far, for `keep_order`.
    latest: Instant,
    in_burst: bool,
    pub(super) stats: LinkStats,
}

impl Link {
    pub(super) fn new(config: LinkConfig, seed: u64, stream: u64) -> Link {
        Link {
            plain: config.is_plain(),
            config,
            partitioned: false,
            rng: Rng::new(seed, stream),
            busy_until: Instant::ZERO,
            latest: Instant::ZERO,
            in_burst: false,
            stats: LinkStats::default(),
        }
    }

    pub(super) fn set_config(&mut self, config: LinkConfig) {
        self.plain = config.is_plain() && !self.partitioned;
        self.config = config;
    }

    pub(super) fn config(&self) -> &LinkConfig {
        &self.config
    }

    pub(super) fn is_partitioned(&self) -> bool {
        self.partitioned
    }

    pub(super) fn set_partitioned(&mut self, partitioned: bool) {
        self.partitioned = partitioned;
        self.plain = self.config.is_plain() && !partitioned;
    }

    /// Decides over `frame`, which is sent at `now`. `packet_bytes` is the longest IP packet it is on the wire: less than
    /// the frame when that is to be cut into segments.
    pub(super) fn decide(&mut self, now: Instant, frame: &[u8], packet_bytes: usize) -> Fate {
        if self.partitioned {
            self.stats.cut += 1;
            return Fate::Lost;
        }
        let Link { config, rng, stats, .. } = self;
        if config.mtu.is_some_and(|mtu| packet_bytes > usize::from(mtu)) {
            stats.too_long += 1;
            return Fate::Lost;
        }
        if let Some(burst) = config.burst_loss {
            self.in_burst = if self.in_burst { !rng.chance(burst.end) } else { rng.chance(burst.begin) };
        } else {
            self.in_burst = false;
        }
        let in_burst = config.burst_loss.filter(|_| self.in_burst);
        if rng.chance(config.loss)
            || in_burst.is_some_and(|burst| burst.loss >= 1.0 || rng.chance(burst.loss))
        {
            stats.lost += 1;
            return Fate::Lost;
        }
        let Some(sent_at) = self.transmit(now, frame.len()) else {
            self.stats.queue_full += 1;
            return Fate::Lost;
        };
        let Link { config, rng, stats, .. } = self;
        let cut = rng.chance(config.truncate);
        let cut_to = cut.then(|| damage::length_to_cut_to(rng, frame.len())).flatten();
        let flip = rng.chance(config.corrupt);
        let flip_bit = flip.then(|| damage::bit_to_flip(rng, frame)).flatten();
        stats.truncated += u64::from(cut_to.is_some());
        stats.corrupted += u64::from(flip_bit.is_some());
        let twice = rng.chance(config.duplicate);
        let at = self.arrival(sent_at);
        let copy_at = twice.then(|| self.arrival(sent_at));
        self.stats.duplicated += u64::from(twice);
        Fate::Arrives { at, copy_at, flip_bit, cut_to }
    }

    /// When the last bit of a frame handed over at `now` has been sent; `None`: the queue is full.
    fn transmit(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.config.rate_bits_per_s;
        if rate == 0 {
            return Some(now);
        }
        let start = now.max(self.busy_until);
        if self.config.queue_bytes > 0 {
            let waiting_ns = u128::from(start.as_nanos() - now.as_nanos());
            let waiting_bytes = waiting_ns * u128::from(rate) / 8_000_000_000;
            if waiting_bytes + bytes as u128 > self.config.queue_bytes as u128 {
                return None;
            }
        }
        let nanos = bytes as u128 * 8_000_000_000 / u128::from(rate);
        self.busy_until = start.plus_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        Some(self.busy_until)
    }

    fn arrival(&mut self, sent_at: Instant) -> Instant {
        let Link { config, rng, stats, .. } = self;
        let mut at = sent_at + config.delay;
        let jitter_ns = u64::try_from(config.jitter.as_nanos()).unwrap_or(u64::MAX);
        if jitter_ns > 0 {
            at = at.plus_nanos(rng.below(jitter_ns.saturating_add(1)));
        }
        if config.keep_order {
            at = at.max(self.latest);
        }
        self.latest = self.latest.max(at);
        if rng.chance(config.reorder) {
            stats.reordered += 1;
            at += config.reorder_delay;
        }
        at
    }
}
