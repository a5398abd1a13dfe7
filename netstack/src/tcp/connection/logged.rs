//! The connection's side of the sent log: what goes into it, and what acknowledgements take out.
//!
//! One burst alone is not logged: `timed_seq` and `timed_at` tell all there is to know of it, and most exchanges never have more
//! outstanding. When a second goes out behind it, both are entered; from there on each acknowledgement passes through the log
//! until nothing is outstanding. `timing` says which of the two it is.

use demi_drivers::Instant;

use super::super::rto::{RtoBounds, elapsed_ns};
use super::super::sent_log::{Burst, Position, SentLog};
use super::super::seq::SeqNumber;
use super::Connection;

impl<P> Connection<P> {
    /// The place in the stream of `seq`, which has not been acknowledged.
    pub(super) fn position(&self, seq: SeqNumber) -> Position {
        self.bytes_acked + u64::from(seq - self.snd_una)
    }

    /// The sequence number of the byte at `position`.
    pub(super) fn sequence(&self, position: Position) -> SeqNumber {
        self.snd_una + (position.saturating_sub(self.bytes_acked)) as u32
    }

    /// Bytes that have arrived at the peer in all, as far as we know.
    pub(super) fn delivered(&self) -> u64 {
        let told = self.cold.sent.as_ref().map_or(0, |log| log.delivered_out_of_order());
        self.bytes_acked + told
    }

    /// The log, with all in it that is outstanding.
    #[inline(never)]
    pub(super) fn log(&mut self) -> &mut SentLog {
        let (una, end) = (self.bytes_acked, self.position(self.snd_max));
        let (size, at) = (u32::from(self.snd_mss), self.last_send_at);
        let log = self.cold.sent.get_or_insert_default();
        if log.head().is_some_and(|head| head.start < una) {
            // Left over from when acknowledgements last passed through it.
            log.acknowledge(una, |_| {});
        }
        if log.is_empty() && una < end {
            log.push(Burst { start: una, end, size, at }, una);
            self.timing = false;
        }
        debug_assert!(log.end().is_none_or(|logged| logged == end), "{:?} of {end}", log.end());
        log
    }

    /// The bytes from the highest sent so far to `end` are sent, behind others that are outstanding, in segments of `size`.
    #[cold]
    #[inline(never)]
    pub(super) fn log_sent(&mut self, now: Instant, end: SeqNumber, size: u32) {
        let (from, upto) = (self.position(self.snd_max), self.position(end));
        let delivered = self.delivered();
        let burst = Burst { start: from, end: upto, size, at: now };
        if self.cold.sent.as_mut().is_some_and(|log| log.push_on(&burst, delivered)) {
            return;
        }
        self.log().push(burst, delivered);
    }

    /// The bytes from `start` to `end` are sent again. `counted`: for they are lost; else as a probe.
    #[cold]
    pub(super) fn log_resent(&mut self, now: Instant, start: SeqNumber, end: SeqNumber, counted: bool) {
        let (start, end) = (self.position(start), self.position(end));
        let delivered = self.delivered();
        self.log().resent(start, end, now, delivered, counted);
        self.timing = false;
    }

    /// The left edge has moved while nothing was missing: what the log knows of the round trip is measured.
    #[cold]
    #[inline(never)]
    pub(super) fn acked_logged(&mut self, now: Instant, bounds: RtoBounds) {
        if let Some((first, last)) = self.log_acknowledge() {
            self.rtt.sample(elapsed_ns(now, first), bounds);
            self.rtt.note_min(elapsed_ns(now, last));
        }
        self.finish_sample(now);
    }

    /// Takes what is acknowledged out of the log. Answers when the first and the last of it were sent, if all was sent once.
    fn log_acknowledge(&mut self) -> Option<(Instant, Instant)> {
        let una = self.bytes_acked;
        let all = self.snd_una == self.snd_max;
        let log = self.cold.sent.as_mut()?;
        let (mut sent, mut again) = (None, false);
        // The FIN is no byte of the stream: what ends with it ends all.
        log.acknowledge(if all { Position::MAX } else { una }, |piece| {
            again |= !piece.is_timed();
            sent = Some((sent.map_or(piece.sent_at, |(first, _)| first), piece.sent_at));
        });
        sent.filter(|_| !again)
    }

    /// Concludes what an acknowledgement tells of the path, once all of it has been taken in. Congestion control finds it in
    /// [`SentLog::sample`]; while but one burst is outstanding there is none.
    pub(super) fn finish_sample(&mut self, now: Instant) {
        let (delivered, min_rtt_ns) = (self.delivered(), self.rtt.min_rtt_ns());
        if let Some(log) = self.cold.sent.as_mut().filter(|log| log.delivery.has_news()) {
            log.sample = log.delivery.sample(now, delivered, min_rtt_ns);
        }
    }
}
