//! Recovery: from what an acknowledgement tells to what is lost, to the phase that follows, to what may go out again.
//!
//! The phases and what leads from one to the next are Linux's (`tcp_fastretrans_alert`), which obey RFC 5681, RFC 6582, RFC 6675 and
//! RFC 8985:
//!
//! ```text
//!          gap told of                loss proven                    point acknowledged
//!  Open ──────────────► Disorder ─────────────────► Recovery ────────────────────────────► Open
//!   │ ▲                    │                            │   undone: what was lost is here ──► Open or Disorder
//!   │ └── congestion told of (ECN), or a probe repaired a loss: Cwr ◄── Open, Disorder
//!   └──────────────────────┴── retransmission timeout ──┴──► Loss ── point acknowledged, or undone ──► Open
//! ```
//!
//! Losses are told by time (`rack`), by three duplicates, or by a timeout (`loss`). What is in flight, lost or held by the peer
//! is in the sent log; congestion control is told, never asked.

use super::super::congestion::Cause;
use super::super::rare::Quiet;
use super::super::sent_log::{Position, TimedOut};
use super::probe::Probe;
use super::prr::Reduction;
use super::rack::Rack;
use super::undo::Undo;
use super::{Connection, Env, slow};
use demi_drivers::Instant;

/// What recovery is up to. The order is Linux's `tcp_ca_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Nothing is missing.
    Open,
    /// Something may be, or has been reordered.
    Disorder,
    /// The window is being reduced, though nothing is missing.
    Cwr,
    /// Something is lost and being repaired, until everything sent before is acknowledged.
    Recovery,
    /// A retransmission timed out.
    Loss,
}

/// The state of recovery.
pub(super) struct Recovery {
    pub(super) phase: Phase,
    /// Without SACK: segments that must have arrived for there to be so many duplicate acknowledgements.
    pub(super) duplicates: u32,
    /// How often it was seen.
    pub(super) reord_seen: u32,
    /// Segments that the peer has told of as arrived twice.
    pub(super) dsack_dups: u32,
    pub(super) undo: Undo,
    pub(super) reduction: Reduction,
    pub(super) rack: Rack,
    pub(super) probe: Option<Probe>,
    /// No probe could go out: a timeout is what comes next.
    pub(super) no_probe: bool,
    /// Whether the timeout was spurious is still to be seen (RFC 5682).
    pub(super) frto: bool,
    /// New data goes out before anything is repaired (RFC 5682 §2.1, step 2b).
    pub(super) new_first: bool,
    /// What the last acknowledgement told lets nothing more be sent again for now.
    pub(super) held: bool,
    /// The peer has thrown away what it held.
    pub(super) reneged: bool,
    /// When something was last sent again.
    pub(super) repaired_at: Instant,
}

/// What one acknowledgement tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct News {
    /// The left edge has moved.
    pub(super) advanced: bool,
    /// It echoes a mark of the network.
    pub(super) marked: bool,
    /// It came with data, or with a new window: it is no duplicate.
    pub(super) data: bool,
    pub(super) window: bool,
    /// Something is held for the first time.
    pub(super) sacked: bool,
    /// Something arrived twice; and that was the probe.
    pub(super) duplicate: bool,
    pub(super) duplicate_of_probe: bool,
    /// Something sent before the phase's point, and only once, has arrived.
    pub(super) original: bool,
    /// Something sent again has been acknowledged.
    pub(super) retransmitted: bool,
    /// The peer holds what follows the acknowledgement: it has thrown it away.
    pub(super) reneging: bool,
    /// Retransmissions have come to count as lost.
    pub(super) lost_again: bool,
    /// The timer is to start anew.
    pub(super) timer: bool,
    /// Bytes newly delivered, in order or not; bytes newly lost.
    pub(super) delivered: u32,
    pub(super) lost: u32,
    /// The timestamp it echoes.
    pub(super) echo: Option<u32>,
    /// Where the left edge was.
    pub(super) prior_una_position: Position,
}

impl News {
    pub(super) fn is_no_duplicate(&self) -> bool {
        self.data || self.window || self.advanced
    }
}

impl Recovery {
    /// Nothing is missing, and never was.
    const fn quiet() -> Self {
        Recovery {
            phase: Phase::Open,
            duplicates: 0,
            reord_seen: 0,
            dsack_dups: 0,
            undo: Undo::quiet(),
            reduction: Reduction::quiet(),
            rack: Rack::quiet(),
            probe: None,
            no_probe: false,
            frto: false,
            new_first: false,
            held: false,
            reneged: false,
            repaired_at: Instant::ZERO,
        }
    }
}

impl Quiet for Recovery {
    const QUIET: &'static Self = &Recovery::quiet();

    fn quiet() -> Self {
        Recovery::quiet()
    }
}

impl<P> Connection<P> {
    /// Takes note of an acknowledgement that tells more than that all is well.
    pub(super) fn alert<O>(&mut self, env: &mut Env<'_, O>, news: &mut News) {
        // RFC 5681 §2: a duplicate tells nothing else.
        let duplicate = !news.is_no_duplicate() && !news.duplicate;
        if news.marked {
            // Congestion is real, whatever becomes of the loss.
            self.cold.recovery.undo.restores = false;
        }
        if news.reneging && news.advanced {
            // RFC 2018 §8: not believed at once, for the acknowledgement may just be late; but not waited for long either.
            let wait_ns = (self.rtt.srtt_ns() / 2).max(10_000_000);
            self.retransmit = super::Retransmit::Rto;
            self.retransmit_at = env.now.plus_nanos(wait_ns);
            news.timer = false;
            self.cold.recovery.held = true;
            return;
        }
        if self.cold.recovery.phase == Phase::Open {
            self.cold.recovery.undo.stamp = None;
        } else if self.snd_una.at_or_after(self.cold.recovery_point) {
            match self.cold.recovery.phase {
                // Something beyond the point tells that the peer knows of the reduction.
                Phase::Cwr if self.snd_una != self.cold.recovery_point => {
                    self.end_reduction();
                    self.cold.recovery.phase = Phase::Open;
                }
                Phase::Recovery => {
                    self.cold.recovery.duplicates = 0;
                    if self.undo_recovery(env, news) {
                        return;
                    }
                    self.end_reduction();
                }
                _ => {}
            }
        }
        match self.cold.recovery.phase {
            Phase::Recovery => {
                if !news.advanced {
                    self.count_duplicate(env, duplicate, news);
                } else if self.undo_partial(env, news) {
                    self.cold.recovery.held = true;
                    return;
                }
                if self.undo_by_duplicates(env) {
                    self.try_open(news);
                }
                self.identify_losses(env, news);
                if self.cold.recovery.phase != Phase::Recovery {
                    if !self.loss_is_proven() {
                        return;
                    }
                    self.enter_recovery(env, news.marked);
                }
            }
            Phase::Loss => {
                self.take_in_loss(env, news, duplicate);
                self.identify_losses(env, news);
                if self.cold.recovery.phase != Phase::Open && !news.lost_again {
                    return;
                }
                self.conclude(env, news, duplicate);
            }
            _ => self.conclude(env, news, duplicate),
        }
    }

    /// What an acknowledgement leads to outside of recovery.
    fn conclude<O>(&mut self, env: &mut Env<'_, O>, news: &mut News, duplicate: bool) {
        if !self.sack_ok {
            if news.advanced {
                self.cold.recovery.duplicates = 0;
            }
            self.count_duplicate(env, duplicate, news);
        }
        if self.cold.recovery.phase <= Phase::Disorder {
            self.undo_by_duplicates(env);
        }
        self.identify_losses(env, news);
        if !self.loss_is_proven() {
            self.try_open(news);
        } else if self.cold.recovery.phase < Phase::Cwr && self.probe_lost(env) {
            // RFC 4821 §7.6.2: only too large.
            self.update_mss();
            self.lose_oversize();
        } else {
            self.enter_recovery(env, news.marked);
        }
    }

    /// RFC 5681 §3.2: without SACK a duplicate acknowledgement says that a segment has arrived, but not which.
    fn count_duplicate<O>(&mut self, env: &mut Env<'_, O>, duplicate: bool, news: &mut News) {
        if self.sack_ok || !duplicate {
            return;
        }
        self.cold.recovery.duplicates += 1;
        if !self.limit_duplicates(env, 0) {
            news.delivered += u32::from(self.snd_mss);
        }
    }

    /// No more can have arrived out of order than is outstanding behind the hole: what exceeds it was reordered. Answers
    /// whether there was excess.
    pub(super) fn limit_duplicates<O>(&mut self, env: &mut Env<'_, O>, acked: u32) -> bool {
        let Some(log) = &self.cold.sent else { return false };
        let outstanding = log.segments();
        let holes = log.lost().segments.max(1).min(outstanding.max(1));
        let recovery = &mut self.cold.recovery;
        if recovery.duplicates + holes <= outstanding {
            return false;
        }
        recovery.duplicates = outstanding.saturating_sub(holes);
        self.cold.reordering =
            (outstanding + acked).min(env.common.config.max_reordering_segments).max(self.cold.reordering);
        recovery.reord_seen += 1;
        env.common.stats.reno_reorder += 1;
        true
    }

    /// Marks what counts as lost by now.
    fn identify_losses<O>(&mut self, env: &mut Env<'_, O>, news: &mut News) {
        if self.snd_una == self.snd_max {
            return;
        }
        if self.sack_ok && env.common.config.rack {
            return self.lose_by_time(env, news);
        }
        let recovery = &self.cold.recovery;
        let (phase, reordering) = (recovery.phase, self.cold.reordering);
        let mss = u32::from(self.snd_mss);
        let Some(log) = &mut self.cold.sent else { return };
        let mut found = TimedOut::default();
        if self.sack_ok {
            // RFC 6675 §4, IsLost; §5 step 4: what the three duplicates point to, in any case.
            if let Some(edge) = log.held_above(reordering) {
                found = log.lose_below(edge);
            }
        } else {
            let enough = phase < Phase::Recovery && recovery.duplicates >= reordering;
            // RFC 6582 §3.2 step 3: a partial acknowledgement names the next hole.
            if enough || (phase == Phase::Recovery && news.advanced) {
                found = log.lose_head(mss);
            }
        }
        self.note_lost(env, &found, news);
    }

    fn loss_is_proven(&self) -> bool {
        self.cold.sent.as_ref().is_some_and(|log| log.lost().segments > 0)
    }

    /// Whether anything is out of the ordinary decides between the two phases without repair.
    pub(super) fn keep_open(&mut self) {
        let recovery = &self.cold.recovery;
        let left_out =
            self.cold.sent.as_ref().is_some_and(|log| log.sacked().segments + log.lost().segments > 0)
                || recovery.duplicates > 0;
        let phase = if left_out || self.any_retransmission() { Phase::Disorder } else { Phase::Open };
        if recovery.phase != phase {
            self.cold.recovery.phase = phase;
            self.cold.recovery_point = self.snd_max;
        }
    }

    fn try_open(&mut self, news: &News) {
        if !self.any_retransmission() {
            self.cold.recovery.undo.stamp = None;
        }
        if news.marked {
            self.enter_cwr();
        }
        if self.cold.recovery.phase != Phase::Cwr {
            self.keep_open();
        }
    }

    /// The network has marked what was sent: the window is reduced, though nothing is missing (RFC 3168 §6.1.2), and once a round
    /// trip: not by whoever recovers from a loss, and has reduced it already.
    fn enter_cwr(&mut self) {
        self.cold.recovery.undo.restores = false;
        if self.cold.recovery.phase < Phase::Cwr {
            self.cold.recovery.undo.marker = None;
            self.begin_reduction(Cause::Mark);
            self.cold.recovery.phase = Phase::Cwr;
        }
    }

    /// A loss is proven: fast retransmit and recovery (RFC 5681 §3.2, RFC 6675 §5). `marked`: what tells of it echoes a
    /// mark of the network, too.
    pub(super) fn enter_recovery<O>(&mut self, env: &mut Env<'_, O>, marked: bool) {
        if !self.any_retransmission() {
            self.cold.recovery.undo.stamp = None;
        }
        if self.sack_ok {
            env.common.stats.sack_recovery += 1;
        } else {
            env.common.stats.reno_recovery += 1;
        }
        // RFC 3168 §6.1.2: once a round trip is enough.
        let reducing = matches!(self.cold.recovery.phase, Phase::Cwr | Phase::Recovery);
        self.begin_undo(!(reducing || marked));
        if !reducing {
            self.begin_reduction(Cause::Loss);
        }
        self.cold.recovery.phase = Phase::Recovery;
        self.flush_due = true;
    }

    /// Bytes from `low` on arrived after others that lie behind them: that is how far segments overtake each other (RFC 4653,
    /// as Linux). `late`: an echoed timestamp told so.
    pub(super) fn note_reordering<O>(&mut self, env: &mut Env<'_, O>, low: Position, late: bool) {
        let Some(highest) = self.cold.sent.as_ref().map(|log| log.sacked_end().unwrap_or(self.bytes_acked))
        else {
            return;
        };
        if low >= highest {
            return;
        }
        let mss = u64::from(self.snd_mss).max(1);
        let segments = u32::try_from((highest - low).div_ceil(mss)).unwrap_or(u32::MAX);
        let recovery = &mut self.cold.recovery;
        if segments > self.cold.reordering {
            self.cold.reordering = segments.min(env.common.config.max_reordering_segments);
        }
        recovery.reord_seen += 1;
        *if late { &mut env.common.stats.ts_reorder } else { &mut env.common.stats.sack_reorder } += 1;
    }

    /// Decides whether acknowledgements may take the short path.
    pub(super) fn update_recovery_bit(&mut self) {
        let recovery = &self.cold.recovery;
        let told = self
            .cold
            .sent
            .as_ref()
            .is_some_and(|log| log.sacked().bytes + log.lost().bytes + log.retrans().bytes > 0);
        let probed = recovery.probe.is_some() || recovery.no_probe;
        let quiet = recovery.phase == Phase::Open && !probed && recovery.duplicates == 0 && !told;
        if quiet {
            self.slow &= !slow::RECOVERY;
        } else {
            self.slow |= slow::RECOVERY;
        }
    }

    /// Bytes believed to be on the way while not all is well.
    #[cold]
    pub(super) fn in_flight_in_recovery(&self) -> u32 {
        let outstanding = self.snd_max - self.snd_una;
        let pipe = match self.cold.sent.as_ref().filter(|_| !self.timing) {
            Some(log) if !log.is_empty() => log.pipe(),
            _ => outstanding,
        };
        // Each duplicate acknowledgement says that a segment has left the network.
        pipe.saturating_sub(self.cold.recovery.duplicates.saturating_mul(u32::from(self.snd_mss)))
    }

    /// Whether something that is lost may go out again.
    pub(super) fn has_repairs(&self) -> bool {
        self.slow & slow::RECOVERY != 0
            && self.cold.recovery.phase >= Phase::Recovery
            && !(self.cold.recovery.new_first || self.cold.recovery.held)
            && self.cold.sent.as_ref().is_some_and(|log| log.lost().bytes > log.retrans().bytes)
    }
}
