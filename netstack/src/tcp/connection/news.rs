//! Acknowledgements that tell of more than success: what they say is entered in the sent log, and summed up for recovery.

use demi_drivers::Instant;

use super::super::rto::{clock_ms, elapsed_ns, rtt_from_echo};
use super::super::sack::{self, Bounds, Duplicate};
use super::super::sent_log::{Position, mark};
use super::super::seq::{SeqNumber, timestamp_before};
use super::input::Segment;
use super::recovery::{News, Phase};
use super::{Connection, Env};
use crate::wire::tcp::{SackBlock, Timestamps, flags};

/// When what an acknowledgement tells of was sent: the first and the last of it.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Sent {
    fn note(&mut self, at: Instant) {
        self.first.get_or_insert(at);
        self.last = Some(at);
    }
}

impl<P> Connection<P> {
    /// Takes an acknowledgement while something is missing or doubtful, or that tells of it. `marked`: it echoes a mark.
    #[cold]
    #[inline(never)]
    pub(super) fn take_news<O>(&mut self, env: &mut Env<'_, O>, segment: &Segment, marked: bool) {
        let ack = segment.ack;
        let acked = ack - self.snd_una;
        let outstanding = self.snd_una != self.snd_max;
        if outstanding {
            self.log();
        }
        let prior_in_flight = self.in_flight_in_recovery();
        let mut news = News {
            advanced: acked > 0,
            marked,
            data: segment.len > 0 || segment.flags & flags::FIN != 0,
            echo: segment.timestamps.filter(|_| self.ts_ok).map(|timestamps| timestamps.echo),
            prior_una_position: self.bytes_acked,
            ..News::default()
        };
        news.window = self.take_window(segment.seq, ack, segment.window);
        // What the last acknowledgement asked to go out first has gone out, or will not.
        if let Some(recovery) = self.cold.recovery.written() {
            recovery.new_first = false;
            recovery.held = false;
            recovery.no_probe &= acked == 0;
        }
        let highest = self.highest_sacked();
        let untold = self.counts_marks() && !marked;
        let mut sacked = Sent::default();
        if self.sack_ok && !segment.sack.is_empty() {
            sacked = self.take_blocks(env, &mut news, segment.sack.as_slice(), ack);
        }
        if outstanding {
            let acked_sent = match acked {
                0 => Sent::default(),
                _ => self.take_acknowledged(env, &mut news, ack, highest),
            };
            if untold {
                let before = news.prior_una_position;
                news.marked = self.take_ace(env, segment, (news.delivered, acked), before);
            }
            self.take_round_trips(env, &mut news, segment.timestamps, acked_sent, sacked);
            self.adapt_reordering_window(env);
            self.take_probe_answer(env, &news, ack);
            let dubious = !news.is_no_duplicate()
                || news.sacked
                || news.duplicate
                || news.marked
                || self.cold.recovery.phase != Phase::Open;
            if dubious {
                self.alert(env, &mut news);
            }
            if news.timer {
                self.restart_timer(env);
            }
        } else {
            if news.duplicate {
                self.alert(env, &mut news);
            }
            self.take_probe_answer(env, &news, ack);
        }
        self.conclude_news(env, &news, prior_in_flight);
        if acked > 0 && self.write_waker.is_some() && self.tx.len() <= self.send_cap - self.send_cap / 3 {
            self.wake_writer();
        }
    }

    /// Takes the SACK blocks of an acknowledgement that others have overtaken.
    #[cold]
    pub(super) fn take_old_blocks<O>(&mut self, env: &mut Env<'_, O>, segment: &Segment) {
        if self.snd_una != self.snd_max {
            self.log();
        }
        let prior_in_flight = self.in_flight_in_recovery();
        let mut news = News {
            // Of an old acknowledgement nobody can tell whether it is a duplicate.
            data: true,
            prior_una_position: self.bytes_acked,
            ..News::default()
        };
        self.take_blocks(env, &mut news, segment.sack.as_slice(), segment.ack);
        if news.sacked || news.duplicate || self.cold.recovery.phase != Phase::Open {
            self.alert(env, &mut news);
        }
        self.conclude_news(env, &news, prior_in_flight);
    }

    /// Tells congestion control, and decides what comes next.
    fn conclude_news<O>(&mut self, env: &mut Env<'_, O>, news: &News, prior_in_flight: u32) {
        self.finish_sample(env.now);
        if let Some(log) = &mut self.cold.sent {
            log.sample.acked_bytes = news.delivered;
            log.sample.lost_bytes = news.lost;
            log.sample.prior_in_flight = prior_in_flight;
        }
        let recovery = &self.cold.recovery;
        if matches!(recovery.phase, Phase::Cwr | Phase::Recovery) {
            // Rounds pass meanwhile.
            self.cold.congestion.on_marked(0, self.snd_una, self.snd_max);
            self.reduce_window(news);
        } else if self.cwnd_limited && news.delivered > 0 {
            // RFC 5681: only what arrives in order lets the window grow, unless the path is known to reorder a lot.
            let reorders = self.cold.reordering > env.common.config.reordering_segments;
            if news.advanced || (reorders && news.sacked) {
                self.grow_window(env, news.delivered);
            }
        }
        self.update_recovery_bit();
        self.flush_due |= self.has_unsent() || self.has_repairs();
    }

    /// Behind the highest byte that the peer holds.
    fn highest_sacked(&self) -> Position {
        self.cold.sent.as_ref().and_then(|log| log.sacked_end()).unwrap_or(self.bytes_acked)
    }

    /// Enters what the blocks of an acknowledgement of `ack` tell. Answers when what they tell of was sent.
    fn take_blocks<O>(
        &mut self,
        env: &mut Env<'_, O>,
        news: &mut News,
        blocks: &[SackBlock],
        ack: SeqNumber,
    ) -> Sent {
        let una = ack.later(self.snd_una);
        let duplicate = sack::duplicate(blocks, ack).filter(|kind| {
            *match kind {
                Duplicate::Below => &mut env.common.stats.dsack_recv,
                Duplicate::OutOfOrder => &mut env.common.stats.dsack_ofo_recv,
            } += 1;
            self.take_duplicate(env, news, blocks)
        });
        let mut sent = Sent::default();
        if self.snd_una == self.snd_max {
            return sent;
        }
        let bounds = Bounds {
            una,
            max: self.snd_max,
            undo_from: self.cold.recovery.undo.marker,
            max_window: self.max_snd_wnd,
        };
        let mut low = Position::MAX;
        let mut ranges: [(Position, Position); 4] = [(0, 0); 4];
        let mut count = 0;
        for (at, block) in blocks.iter().enumerate() {
            let told_twice = at == 0 && duplicate.is_some();
            let (start, end) = sack::edges(block);
            if !sack::is_valid(block, told_twice, &bounds) {
                let counter = match (told_twice, bounds.undo_from) {
                    (true, Some(_)) => &mut env.common.stats.dsack_ignored_old,
                    (true, None) => &mut env.common.stats.dsack_ignored_no_undo,
                    // Overtaken acknowledgements tell of what is long known.
                    (false, _) if ack != self.snd_una && end.at_or_before(una) => continue,
                    (false, _) => &mut env.common.stats.sack_discard,
                };
                *counter += 1;
                continue;
            }
            if end.at_or_before(self.snd_una) {
                continue;
            }
            let (start, end) = (self.position(start.later(self.snd_una)), self.position(end));
            if told_twice && let Some(log) = &mut self.cold.sent {
                let (segments, held) = log.duplicate(start, end);
                self.cold.recovery.undo.needless(segments);
                low = low.min(held.unwrap_or(Position::MAX));
            }
            if let Some(range) = ranges.get_mut(count) {
                *range = (start.max(self.position(una)), end);
                count += 1;
            }
        }
        ranges[..count].sort_unstable();
        let point = self.position_of_point();
        let mut highest = self.highest_sacked();
        let (now, min_rtt_ns) = (env.now, self.rtt.min_rtt_ns());
        let cold = &mut *self.cold;
        let Some(log) = &mut cold.sent else { return sent };
        let rack = &mut cold.recovery.rack;
        for &(start, end) in ranges[..count].iter().filter(|(start, end)| start < end) {
            log.sack(start, end, |piece| {
                let again = piece.has(mark::EVER);
                rack.advance(now, piece, min_rtt_ns);
                if !again {
                    // Sent once, and behind it others have arrived before: reordered.
                    if piece.start < highest {
                        low = low.min(piece.start);
                    }
                    news.original |= piece.end <= point;
                }
                if piece.is_timed() {
                    sent.note(piece.sent_at);
                }
                news.sacked = true;
                news.delivered += piece.bytes();
                highest = highest.max(piece.end);
            });
        }
        if cold.recovery.phase != Phase::Loss || cold.recovery.undo.marker.is_some() {
            self.note_reordering(env, low, false);
        }
        sent
    }

    /// The place of the phase's point; whatever lies below it was sent before the phase began.
    fn position_of_point(&self) -> Position {
        let point = self.cold.recovery_point;
        if point.at_or_before(self.snd_una) { self.bytes_acked } else { self.position(point) }
    }

    /// The first block tells that bytes arrived twice (RFC 2883). Answers whether that is to be believed.
    fn take_duplicate<O>(&mut self, env: &mut Env<'_, O>, news: &mut News, blocks: &[SackBlock]) -> bool {
        let Some((start, end)) = blocks.first().map(sack::edges) else { return false };
        let bytes = end - start;
        if !start.before(end) || bytes > self.max_snd_wnd {
            env.common.stats.dsack_ignored_dubious += 1;
            return false;
        }
        let mss = u32::from(self.snd_mss).max(1);
        let segments = bytes.div_ceil(mss);
        let recovery = &mut self.cold.recovery;
        let of_probe = segments == 1 && recovery.probe.is_some_and(|probe| probe.end == end);
        news.duplicate_of_probe |= of_probe;
        recovery.dsack_dups = recovery.dsack_dups.saturating_add(segments);
        if u64::from(recovery.dsack_dups) > self.cold.retransmitted {
            // More than was ever sent twice: the network makes duplicates, or somebody lies.
            env.common.stats.dsack_ignored_dubious += 1;
            return false;
        }
        if recovery.reord_seen > 0 && !of_probe {
            recovery.rack.needless();
        }
        news.duplicate = true;
        news.delivered += segments * mss;
        env.common.stats.dsack_recv_segs += u64::from(segments);
        if let Some(marker) = recovery.undo.marker
            && end.at_or_before(self.snd_una)
            && end.after(marker)
        {
            recovery.undo.needless(segments);
        }
        if let Some(log) = &mut self.cold.sent {
            log.delivery.duplicate += u64::from(segments * mss);
        }
        true
    }

    /// Moves the left edge to `ack`. Answers when what is newly told of was sent; nothing, when a part of it was sent again.
    fn take_acknowledged<O>(
        &mut self,
        env: &mut Env<'_, O>,
        news: &mut News,
        ack: SeqNumber,
        highest: Position,
    ) -> Sent {
        let point = self.position_of_point();
        let queued = self.tx.len();
        let acked = ack - self.snd_una;
        let all = ack == self.snd_max;
        self.snd_una = ack;
        self.snd_nxt = self.snd_nxt.later(ack);
        self.tx.acknowledge(ack);
        self.bytes_acked += u64::from(queued - self.tx.len());
        self.heard_again();
        self.timing = false;
        news.timer = true;
        let upto = if all { Position::MAX } else { self.bytes_acked };
        let (now, min_rtt_ns, sack_ok, offset) =
            (env.now, self.rtt.min_rtt_ns(), self.sack_ok, self.ts_offset);
        let echo = news.echo;
        let cold = &mut *self.cold;
        let (mut sent, mut low, mut segments) = (Sent::default(), Position::MAX, 0);
        let Some(log) = &mut cold.sent else { return sent };
        let rack = &mut cold.recovery.rack;
        log.acknowledge(upto, |piece| {
            segments += piece.segments;
            let (again, held) = (piece.has(mark::EVER), piece.has(mark::SACKED));
            if again {
                news.retransmitted = true;
            } else if !held {
                if piece.is_timed() {
                    sent.note(piece.sent_at);
                }
                low = low.min(piece.start);
                news.original |= piece.end <= point;
            }
            if sack_ok && !held {
                news.delivered += piece.bytes();
                // What answers from before it was sent again is the first transmission's.
                let spurious = again
                    && echo.is_some_and(|echo| {
                        timestamp_before(echo, clock_ms(piece.sent_at).wrapping_add(offset))
                    });
                if !spurious {
                    rack.advance(now, piece, min_rtt_ns);
                }
            }
        });
        news.reneging = log.head().is_some_and(|head| head.has(mark::SACKED));
        if sack_ok {
            if low < highest {
                // A hole that was never sent again has been filled.
                self.note_reordering(env, low, false);
            }
        } else {
            self.eat_duplicates(env, news, acked, segments);
        }
        if news.retransmitted { Sent::default() } else { sent }
    }

    /// Without SACK: one acknowledged segment was the hole, the others are those that duplicates told of.
    fn eat_duplicates<O>(&mut self, env: &mut Env<'_, O>, news: &mut News, acked: u32, segments: u32) {
        let mss = u32::from(self.snd_mss);
        let duplicates = &mut self.cold.recovery.duplicates;
        news.delivered += acked.saturating_sub(*duplicates * mss).max(acked.min(mss));
        *duplicates = duplicates.saturating_sub(segments.saturating_sub(1));
        if segments > 0 {
            self.limit_duplicates(env, segments);
        }
        if news.retransmitted {
            // Nothing tells whether the first transmission arrived or the second.
            news.original = false;
        }
    }

    /// Measures the round trip (RFC 6298 §3, RFC 7323 §4): of what was acknowledged, else of what was selectively, else by the
    /// timestamp.
    fn take_round_trips<O>(
        &mut self,
        env: &mut Env<'_, O>,
        news: &mut News,
        timestamps: Option<Timestamps>,
        acked: Sent,
        sacked: Sent,
    ) {
        let now = env.now;
        let least_ns = sacked.last.or(acked.last).map(|at| elapsed_ns(now, at));
        let mut rtt_ns = acked.first.or(sacked.first).map(|at| elapsed_ns(now, at));
        if rtt_ns.is_none() && news.advanced {
            rtt_ns = self.round_trip_by_timestamp(now, timestamps);
        }
        let Some(rtt_ns) = rtt_ns else { return };
        self.rtt.sample(rtt_ns, env.common.bounds);
        if let Some(least_ns) = least_ns {
            self.rtt.note_min(least_ns);
        }
        if !news.advanced
            && let Some(at) = sacked.first
            && let Some(head) = self.cold.sent.as_ref().and_then(|log| log.head())
        {
            // The head was sent later than what has just been measured: its timeout may start anew.
            news.timer |= at < head.sent_at;
        }
    }

    /// The round trip that an echoed timestamp tells, if it cannot be that of a transmission before the last.
    fn round_trip_by_timestamp(&self, now: Instant, timestamps: Option<Timestamps>) -> Option<u64> {
        let timestamps = timestamps.filter(|timestamps| self.ts_ok && timestamps.echo != 0)?;
        let clock = clock_ms(now).wrapping_add(self.ts_offset);
        rtt_from_echo(clock, timestamps.echo).filter(|&rtt_ns| {
            // An echo from before the last repair, in an acknowledgement that the repair may have caused: the first
            // acknowledgement was lost, and the time in between is our timeout, not the path's.
            let since_repair_ns = elapsed_ns(now, self.cold.recovery.repaired_at);
            // Timestamps are whole milliseconds.
            rtt_ns <= since_repair_ns + 1_000_000
                || since_repair_ns < self.rtt.min_rtt_ns().unwrap_or(u64::MAX)
        })
    }
}
