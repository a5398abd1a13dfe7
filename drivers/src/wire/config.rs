//! What a wire is like: its ends, and what each direction between two of them does to frames.

use std::time::Duration;

use crate::mem::PoolConfig;

/// How frames find the ends they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topology {
    /// By destination address: a unicast frame goes to the end that has it, everything else to all others. Between two
    /// ends that is a cable: each frame goes to the other one.
    #[default]
    Switch,
    /// Every frame goes to all other ends.
    Hub,
}

/// Shape of a [`Wire`](super::Wire).
#[derive(Clone, Debug, PartialEq)]
pub struct WireConfig {
    /// Number of ends; at least 2, at most 65,535.
    pub ends: usize,
    /// How frames find their way.
    pub topology: Topology,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Frames each end holds that its stack has not taken yet.
    pub ring_frames: usize,
    /// Memory of each end.
    pub pool: PoolConfig,
    /// Memory of the first ends, one by one, where it is not to be [`pool`](Self::pool).
    pub end_pools: Vec<PoolConfig>,
    /// What every direction does to frames, until [`WireHandle::set_link`](super::WireHandle::set_link) changes one.
    pub link: LinkConfig,
    /// Ends compute the TCP and UDP checksums they are asked to ([`Capabilities::tx_checksum`]), and tell of frames whose
    /// checksum the sender left to them ([`Capabilities::rx_checksum`]) that they are valid. No sum is ever computed for
    /// that, unless a frame is to be damaged.
    ///
    /// [`Capabilities::tx_checksum`]: crate::Capabilities::tx_checksum
    /// [`Capabilities::rx_checksum`]: crate::Capabilities::rx_checksum
    pub checksum_offload: bool,
    /// Ends say that checksums are not needed at all
    /// ([`Capabilities::lossless_memory`](crate::Capabilities::lossless_memory)). Not together with corruption.
    pub lossless_memory: bool,
    /// Largest TCP payload, in bytes, that may be sent as one frame with
    /// [`Offload::gso_bytes`](crate::Offload::gso_bytes); it arrives as one, too, as between two ends of a Linux veth. 0:
    /// none. Such a frame needs a large slot, and `checksum_offload`.
    pub tso_max_bytes: u32,
}

impl Default for WireConfig {
    /// A perfect cable of MTU 1500 between two ends.
    fn default() -> Self {
        WireConfig {
            ends: 2,
            topology: Topology::Switch,
            mtu: 1500,
            ring_frames: 1024,
            pool: PoolConfig::default(),
            end_pools: Vec::new(),
            link: LinkConfig::default(),
            checksum_offload: false,
            lossless_memory: false,
            tso_max_bytes: 0,
        }
    }
}

impl WireConfig {
    /// Memory of an end.
    pub(super) fn pool_of(&self, index: usize) -> &PoolConfig {
        self.end_pools.get(index).unwrap_or(&self.pool)
    }
}

/// What one direction between two ends does to frames. The default does nothing to them and takes no time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkConfig {
    /// Time on the way.
    pub delay: Duration,
    /// Up to this much more, evenly distributed, drawn for each frame: frames overtake each other.
    pub jitter: Duration,
    /// Frames never overtake each other: jitter delays those behind, too.
    pub keep_order: bool,
    /// Probability that a frame is held back by `reorder_delay`, so that those behind overtake it.
    pub reorder: f64,
    /// How long a reordered frame is held back.
    pub reorder_delay: Duration,
    /// Probability that a frame is lost.
    pub loss: f64,
    /// Loss in bursts, in addition to `loss`.
    pub burst_loss: Option<BurstLoss>,
    /// Probability that a frame arrives twice; the copy draws its own jitter.
    pub duplicate: f64,
    /// Probability that one bit of a frame is flipped.
    ///
    /// One bit, since the Internet checksum is certain to find that; and never in the Ethernet header nor in ARP, which
    /// nothing protects but the Ethernet checksum that a frame has already passed here.
    pub corrupt: f64,
    /// Probability that a frame loses its end: cut behind the Ethernet header at the earliest.
    pub truncate: f64,
    /// Bits a second that the link carries; 0: no limit.
    pub rate_bits_per_s: u64,
    /// Bytes that wait for the link at most, when `rate_bits_per_s` is set; what comes on top is lost. 0: no limit.
    pub queue_bytes: usize,
    /// Largest IP packet that passes, when it is less than the device's MTU: larger ones are lost without a word, as
    /// behind a misconfigured router.
    pub mtu: Option<u16>,
}

impl LinkConfig {
    /// Whether frames pass at once and unharmed.
    pub fn is_plain(&self) -> bool {
        *self == LinkConfig { keep_order: self.keep_order, ..LinkConfig::default() }
    }
}

/// Loss that comes in bursts: the Gilbert-Elliott model, a link that is now good and now bad. While it is good it loses
/// what [`LinkConfig::loss`] says, while it is bad what this says on top.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BurstLoss {
    /// Probability that a burst begins with a frame.
    pub begin: f64,
    /// Probability that the burst is over with a frame: bursts are `1 / end` frames long on average.
    pub end: f64,
    /// Probability that a frame is lost in a burst: 1 is the Gilbert model, in which nothing passes then.
    pub loss: f64,
}
