//! What a driver decides for all its connections, from the device's limits and the user's settings, before the first one.

use std::time::Duration;

use super::hello::{Hello, LEAST_CREDITS, LEAST_MESSAGE_BYTES, LEAST_VERSION, READS_OFFERS, VERSION};
use super::message::HEADER_BYTES;
use crate::transport::KeepAlive;

/// Limits of one side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest message this side receives, header included: what its receives hold.
    pub message_bytes: u32,
    /// Data messages that the peer may send before the first is consumed. At least [`LEAST_CREDITS`]; what
    /// [`Promises::grant`](super::Promises::grant) gave.
    pub credits: u16,
    /// SENDs in flight at most, control messages not counted.
    pub sends: u16,
    /// READs in flight at most: the lesser of the device's limit and what the connection was given by rdma_cm
    /// (`initiator_depth`). 0: this side takes no offers.
    pub reads: u16,
    /// The longest READ: what one slot holds.
    pub read_bytes: u32,
    /// Messages of up to so many bytes are sent inline, so that no memory is held for them.
    pub inline_bytes: u32,
    /// Offers that the peer may have open, and that this side has open with it.
    pub offers: u16,
    /// [`Buf`](crate::Buf)s of so many bytes or more are offered instead of sent; `None`: never, which is right wherever the device has no type 2
    /// memory windows and peers are not trusted.
    pub offer_from_bytes: Option<u32>,
    /// Bytes pushed and not yet with the peer, before pushing waits.
    pub send_buffer_bytes: usize,
    /// Bytes read from the peer's offers ahead of this side's reader.
    pub receive_buffer_bytes: usize,
    /// When a silent peer is probed; `None`: never.
    pub keepalive: Option<KeepAlive>,
    /// How long a connection that this side has closed may take to end.
    pub closing: Duration,
}

impl Default for Config {
    /// 32 receives of 8 KiB; offers from 32 KiB on, in READs of 64 KiB.
    fn default() -> Self {
        Config {
            message_bytes: 8192,
            credits: 32,
            sends: 64,
            reads: 16,
            read_bytes: 64 << 10,
            inline_bytes: 128,
            offers: 16,
            offer_from_bytes: Some(32 << 10),
            send_buffer_bytes: 1 << 20,
            receive_buffer_bytes: 1 << 20,
            keepalive: None,
            closing: Duration::from_secs(60),
        }
    }
}

impl Config {
    /// What this side tells the other.
    pub fn hello(&self) -> Hello {
        let reads = self.reads > 0 && self.offers > 0 && self.read_bytes > 0;
        Hello {
            version: VERSION,
            least_version: LEAST_VERSION,
            features: if reads { READS_OFFERS } else { 0 },
            credits: self.credits.max(LEAST_CREDITS),
            offers: if reads { self.offers } else { 0 },
            message_bytes: self.message_bytes.clamp(LEAST_MESSAGE_BYTES, i32::MAX as u32),
            offer_bytes: if reads { i32::MAX as u32 } else { 0 },
            inline_bytes: self.inline_bytes,
        }
    }

    /// Requests that a queue pair's send queue must have room for: messages, control messages and answers, READs and a probe, and a
    /// bind and an invalidation for each offer.
    pub fn send_queue_depth(&self, peer: &Hello) -> u32 {
        u32::from(self.sends.max(1)) + 2 + u32::from(self.reads) + 1 + 2 * self.exposures(peer)
    }

    /// Offers that this side may have open: what the peer takes, but no more windows than this side wants to give it.
    pub(super) fn exposures(&self, peer: &Hello) -> u32 {
        let offers = self.offer_from_bytes.is_some() && peer.features & READS_OFFERS != 0;
        if offers { peer.offers.min(self.offers).into() } else { 0 }
    }

    /// Whether a message of so much payload is sent inline.
    pub(super) fn is_inline(&self, head_bytes: usize, payload_bytes: usize) -> bool {
        debug_assert!(head_bytes >= HEADER_BYTES);
        head_bytes + payload_bytes <= self.inline_bytes as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_of_any_configuration_is_one_that_the_other_side_takes() {
        let odd = Config { message_bytes: 1, credits: 0, reads: 0, ..Config::default() };
        for config in [Config::default(), odd] {
            let hello = config.hello();
            assert_eq!(Hello::parse(&hello.emit()), Ok(hello));
        }
    }

    #[test]
    fn a_side_that_reads_nothing_takes_no_offers_and_one_that_offers_nothing_needs_no_room_for_windows() {
        let hello = Config { reads: 0, ..Config::default() }.hello();
        assert_eq!((hello.features, hello.offers, hello.offer_bytes), (0, 0, 0));
        let eager = Config { offer_from_bytes: None, ..Config::default() };
        assert_eq!(eager.send_queue_depth(&Config::default().hello()), 64 + 2 + 16 + 1);
        assert_eq!(Config::default().send_queue_depth(&eager.hello()), 64 + 2 + 16 + 1 + 32);
        let greedy = Hello { offers: u16::MAX, ..eager.hello() };
        assert_eq!(
            Config::default().send_queue_depth(&greedy),
            64 + 2 + 16 + 1 + 32,
            "whatever a peer would take"
        );
    }
}
