//! How fast the network delivers: a sample for each acknowledgement (draft-ietf-ccwg-bbr, delivery rate estimation; as Linux's
//! `tcp_rate.c`).
//!
//! A sample spans from the last delivery before the newest of the delivered bytes was sent to now, or the time over which they were
//! sent, whichever is longer: neither acknowledgements that come compressed nor bursts make a path look faster than it is.

use demi_drivers::Instant;

use super::{Position, Record, mark};

/// What an acknowledgement tells of the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RateSample {
    /// Bytes delivered over `interval_ns`; `None` when nothing can be told: nothing was delivered, or faster than any round trip.
    pub(crate) delivered: Option<u64>,
    /// The time in which that was delivered.
    pub(crate) interval_ns: u64,
    /// Bytes delivered in all when the newest of what is acknowledged was sent: its round began there.
    pub(crate) prior_delivered: u64,
    /// Bytes this acknowledgement has newly told of, in order or not.
    pub(crate) acked_bytes: u32,
    /// Bytes that have come to count as lost by it.
    pub(crate) lost_bytes: u32,
    /// Bytes that were in flight before it.
    pub(crate) prior_in_flight: u32,
    /// The round trip of the newest bytes it acknowledges, if that is sure.
    pub(crate) rtt_ns: Option<u64>,
    /// The application had nothing more to send when they were sent.
    pub(crate) app_limited: bool,
    /// They had been sent before.
    pub(crate) retransmitted: bool,
}

/// The state of delivery.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delivery {
    /// When something was last delivered, and when that had been sent.
    pub(super) delivered_at: Instant,
    pub(super) first_sent_at: Instant,
    /// Until that many bytes are delivered in all, samples tell of the application's speed; 0: they do not.
    app_limited_until: u64,
    /// Bytes that arrived twice, and bytes the peer has taken back: both were delivered.
    pub(crate) duplicate: u64,
    pub(super) taken_back: u64,
    /// The newest of what this acknowledgement delivers.
    newest: Option<Newest>,
    /// The last sample that says what the path can do: bytes, nanoseconds, and whether the application was the limit.
    pub(crate) rate: (u64, u64, bool),
}

#[derive(Clone, Copy, Debug)]
struct Newest {
    sent_at: Instant,
    end: Position,
    delivered: u64,
    delivered_at: Instant,
    send_ns: u64,
    marks: u8,
}

impl Delivery {
    /// Something is sent while nothing is in flight: time starts here.
    pub(super) fn begin(&mut self, at: Instant) {
        self.delivered_at = at;
        self.first_sent_at = at;
        self.newest = None;
    }

    pub(super) fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0
    }

    /// A piece has been delivered.
    pub(super) fn note(&mut self, piece: &Record) {
        let later =
            self.newest.is_none_or(|newest| (piece.sent_at, piece.end) > (newest.sent_at, newest.end));
        if later {
            self.first_sent_at = piece.sent_at;
            self.newest = Some(Newest {
                sent_at: piece.sent_at,
                end: piece.end,
                delivered: piece.delivered,
                delivered_at: piece.delivered_at,
                send_ns: piece.sent_at.as_nanos().saturating_sub(piece.first_sent_at.as_nanos()),
                marks: piece.marks,
            });
        }
    }

    /// Bytes delivered in all when the newest of what the acknowledgement under way delivers was sent.
    pub(crate) fn newest_prior_delivered(&self) -> Option<u64> {
        self.newest.map(|newest| newest.delivered).filter(|&delivered| delivered > 0)
    }

    /// The application has nothing more to send though the windows would let it, when `delivered` bytes are delivered and
    /// `in_flight` on their way.
    pub(crate) fn limited_by_application(&mut self, delivered: u64, in_flight: u32) {
        self.app_limited_until = (delivered + u64::from(in_flight)).max(1);
    }

    /// Whether anything was delivered since the last sample.
    pub(crate) fn has_news(&self) -> bool {
        self.newest.is_some()
    }

    /// The sample of an acknowledgement all of whose pieces have been noted, now that `delivered` bytes are delivered in all.
    pub(crate) fn sample(&mut self, now: Instant, delivered: u64, min_rtt_ns: Option<u64>) -> RateSample {
        if delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let Some(newest) = self.newest.take() else { return RateSample::default() };
        self.delivered_at = now;
        let ack_ns = now.as_nanos().saturating_sub(newest.delivered_at.as_nanos());
        let interval_ns = newest.send_ns.max(ack_ns);
        let app_limited = newest.marks & mark::APP_LIMITED != 0;
        let bytes = delivered.saturating_sub(newest.delivered);
        let believable = interval_ns > 0 && min_rtt_ns.is_none_or(|min| interval_ns >= min);
        if believable {
            // The last that the application did not limit, or the fastest that it did.
            let faster = u128::from(bytes) * u128::from(self.rate.1)
                >= u128::from(self.rate.0) * u128::from(interval_ns);
            if !app_limited || faster {
                self.rate = (bytes, interval_ns, app_limited);
            }
        }
        let retransmitted = newest.marks & mark::EVER != 0;
        RateSample {
            delivered: believable.then_some(bytes),
            interval_ns,
            prior_delivered: newest.delivered,
            app_limited,
            retransmitted,
            rtt_ns: (newest.marks & (mark::EVER | mark::COARSE) == 0)
                .then(|| now.as_nanos().saturating_sub(newest.sent_at.as_nanos())),
            ..RateSample::default()
        }
    }
}
