//! Loss recovery: when something counts as lost, and what goes out again (RFC 5681, RFC 6582, RFC 6675, RFC 3042).
//!
//! With SACK, holes below the lost edge are filled as the pipe drains; without, each partial acknowledgement names the next hole.
//! After a timeout everything not selectively acknowledged goes out again, in slow start. Congestion control is told, never
//! asked.

use demi_drivers::Instant;

use super::super::sack::{DUP_THRESHOLD, Scoreboard, Update};
use super::super::seq::SeqNumber;
use super::{Connection, Env, slow};

/// What recovery is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing is lost.
    Open,
    /// Fast recovery, until everything sent before it is acknowledged.
    Fast,
    /// A retransmission timed out: sending again from the left edge, until everything sent before it is acknowledged.
    Loss,
}

/// The state of recovery.
#[derive(Debug)]
pub(super) struct Recovery {
    phase: Phase,
    /// Duplicate acknowledgements in a row.
    dup_acks: u32,
    /// What had been sent when recovery last began: it ends when that is acknowledged (RFC 6582 §3.2, recover).
    point: SeqNumber,
    /// Holes below this have been filled once (RFC 6675 §2, HighRxt).
    high_rxt: SeqNumber,
    /// The hole at the left edge goes out at once, whatever the window says.
    first_due: bool,
    /// Bytes by which duplicate acknowledgements widen the congestion window, without SACK.
    inflation: u32,
    /// Bytes believed to be on the way, with SACK.
    pipe: u32,
    /// Below this every hole counts as lost.
    lost_below: SeqNumber,
    /// When something was last sent again.
    repaired_at: Instant,
}

impl Recovery {
    pub(super) fn new(iss: SeqNumber) -> Self {
        Recovery {
            phase: Phase::Open,
            dup_acks: 0,
            point: iss,
            high_rxt: iss,
            first_due: false,
            inflation: 0,
            pipe: 0,
            lost_below: iss,
            repaired_at: Instant::ZERO,
        }
    }

    /// Whether fast recovery is under way.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.phase == Phase::Fast
    }

    /// Whether the window has been reduced for what is being recovered from.
    pub(super) fn is_reducing(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Whether a timeout is being recovered from.
    pub(super) fn is_in_loss(&self) -> bool {
        self.phase == Phase::Loss
    }

    /// Whether the next repair goes out whatever the congestion window says.
    pub(super) fn first_due(&self) -> bool {
        self.first_due
    }

    #[inline]
    pub(super) fn inflation_bytes(&self) -> u32 {
        self.inflation
    }

    /// Segments believed lost and not sent again yet, for information.
    pub(super) fn lost_segments(&self, board: &Scoreboard, una: SeqNumber, mss: u32) -> u32 {
        if self.phase != Phase::Fast {
            return 0;
        }
        let from = self.high_rxt.later(una);
        self.lost_below.since(from).saturating_sub(board.bytes_below(self.lost_below)).div_ceil(mss.max(1))
    }

    /// The next hole to fill (RFC 6675 §4, NextSeg rule 1).
    pub(super) fn next_hole(&self, board: &Scoreboard, una: SeqNumber, max: SeqNumber) -> Option<SeqNumber> {
        if self.first_due {
            return una.before(max).then_some(una);
        }
        let seq = board.skip(self.high_rxt.later(una));
        (seq.before(self.lost_below) && seq.before(max)).then_some(seq)
    }

    /// When something was last sent again.
    pub(super) fn repaired_at(&self) -> Instant {
        self.repaired_at
    }

    /// Something has been sent again.
    pub(super) fn note_repair(&mut self, now: Instant) {
        self.repaired_at = now;
    }

    /// A hole has been filled from `seq` to `end`.
    pub(super) fn repaired(&mut self, seq: SeqNumber, end: SeqNumber) {
        self.high_rxt = self.high_rxt.later(end);
        self.first_due = false;
        self.pipe += end.since(seq);
    }

    /// New bytes have been sent during recovery.
    pub(super) fn sent(&mut self, bytes: u32) {
        self.pipe += bytes;
    }
}

impl<P> Connection<P> {
    /// Takes note of an acknowledgement of `acked` new bytes and of what its SACK blocks told. `duplicate`: it told nothing else
    /// new either.
    pub(super) fn recover<O>(&mut self, env: &mut Env<'_, O>, acked: u32, update: Update, duplicate: bool) {
        if acked > 0 {
            self.recover_advanced(acked);
        } else if duplicate || update.new_bytes > 0 {
            self.recover_duplicate();
        }
        if self.cold.recovery.phase == Phase::Open && self.loss_found() {
            self.enter_fast_recovery(env);
        }
        self.refresh_pipe();
        self.update_recovery_bit();
    }

    /// The left edge has moved.
    fn recover_advanced(&mut self, acked: u32) {
        let mss = u32::from(self.snd_mss);
        let sack = self.sack_ok;
        let una = self.snd_una;
        let flight = self.snd_max - una;
        let recovery = &mut self.cold.recovery;
        recovery.dup_acks = 0;
        match recovery.phase {
            Phase::Open => recovery.inflation = 0,
            Phase::Fast if una.at_or_after(recovery.point) => {
                // RFC 6582 §3.2 step 3: all is here. Without SACK the window shrinks to what is in flight, against a burst.
                if !sack {
                    self.window.cwnd = self.window.ssthresh.min(flight.max(mss) + mss);
                }
                recovery.phase = Phase::Open;
                recovery.inflation = 0;
                recovery.first_due = false;
            }
            Phase::Fast => {
                // A partial acknowledgement: the next hole begins where it ends (RFC 6582 §3.2 step 3).
                if recovery.high_rxt.at_or_before(una) {
                    recovery.first_due = true;
                }
                if !sack {
                    recovery.first_due = true;
                    recovery.inflation = recovery.inflation.saturating_sub(acked) + mss.min(acked);
                }
            }
            Phase::Loss if una.at_or_after(recovery.point) => recovery.phase = Phase::Open,
            Phase::Loss => {}
        }
    }

    fn recover_duplicate(&mut self) {
        let mss = u32::from(self.snd_mss);
        let sack = self.sack_ok;
        let recovery = &mut self.cold.recovery;
        recovery.dup_acks = recovery.dup_acks.saturating_add(1);
        match recovery.phase {
            // RFC 3042: the first two let out a new segment each. SACK blocks do that by themselves.
            Phase::Open if !sack => recovery.inflation = recovery.dup_acks.min(2) * mss,
            // RFC 6582 §3.2 step 2: each says that a segment has left the network.
            Phase::Fast if !sack => recovery.inflation = recovery.inflation.saturating_add(mss).min(1 << 30),
            _ => {}
        }
        self.flush_due = true;
    }

    /// Whether what has been told means a loss (RFC 5681 §3.2, RFC 6675 §5).
    fn loss_found(&self) -> bool {
        let recovery = &self.cold.recovery;
        if self.snd_una == self.snd_max {
            return false;
        }
        let duplicates = recovery.dup_acks >= DUP_THRESHOLD;
        if self.sack_ok {
            return !self.cold.scoreboard.is_empty()
                && (duplicates || self.cold.scoreboard.lost_below(u32::from(self.snd_mss)).is_some());
        }
        // RFC 6582 §3.2 step 1: duplicates of what recovery itself sent twice are no new loss.
        duplicates && self.snd_una.at_or_after(recovery.point)
    }

    fn enter_fast_recovery<O>(&mut self, env: &mut Env<'_, O>) {
        let mss = u32::from(self.snd_mss);
        let flight = self.snd_max - self.snd_una;
        let probe_lost = self.slow & slow::SEARCH != 0 && self.probe_lost(env);
        if self.leave_cwr() {
            self.window.cwnd = self.window.ssthresh;
        } else if !probe_lost {
            self.cold.congestion.on_loss(&mut self.window, flight, mss);
            self.tell_reduced();
        }
        let recovery = &mut self.cold.recovery;
        recovery.phase = Phase::Fast;
        recovery.point = self.snd_max;
        recovery.high_rxt = self.snd_una;
        recovery.lost_below = self.snd_una;
        recovery.first_due = true;
        // RFC 5681 §3.2 step 3: the three segments that have left the network.
        recovery.inflation = if self.sack_ok { 0 } else { DUP_THRESHOLD * mss };
        self.timing = false;
        self.flush_due = true;
        if self.sack_ok {
            env.stats.sack_recovery += 1;
        } else {
            env.stats.reno_recovery += 1;
        }
    }

    /// Computes anew, with SACK, what counts as lost and what is on the way.
    fn refresh_pipe(&mut self) {
        if !self.sack_ok || self.cold.recovery.phase != Phase::Fast {
            return;
        }
        let mss = u32::from(self.snd_mss);
        let cold = &mut *self.cold;
        let (board, recovery) = (&cold.scoreboard, &mut cold.recovery);
        // The segment at the left edge is lost, or recovery would be over.
        let first = board.hole_end(self.snd_una, self.snd_max).earlier(self.snd_una + mss);
        let lost = board.lost_below(mss).unwrap_or(first).later(first);
        recovery.lost_below = lost;
        recovery.pipe =
            board.pipe(self.snd_una, self.snd_max, recovery.high_rxt.later(self.snd_una), Some(lost));
    }

    /// A retransmission has timed out (RFC 6298 §5.4, RFC 5681 §3.1).
    pub(super) fn enter_loss<O>(&mut self, env: &mut Env<'_, O>, first: bool) {
        let mss = u32::from(self.snd_mss);
        let flight = self.in_flight();
        self.leave_cwr();
        self.cold.congestion.on_timeout(&mut self.window, flight, mss, first);
        self.tell_reduced();
        if self.cold.scoreboard.reneged(self.snd_una) {
            // RFC 2018 §8: the peer has thrown away what it said it holds.
            self.cold.scoreboard.clear();
            env.stats.sack_reneging += 1;
        }
        let recovery = &mut self.cold.recovery;
        recovery.phase = Phase::Loss;
        recovery.point = self.snd_max;
        recovery.dup_acks = 0;
        recovery.inflation = 0;
        recovery.first_due = false;
        self.timing = false;
        // Everything that is not selectively acknowledged goes out again, from the left edge on.
        self.snd_nxt = self.snd_una;
        self.flush_due = true;
        self.update_recovery_bit();
    }

    /// Decides whether acknowledgements may take the short path.
    pub(super) fn update_recovery_bit(&mut self) {
        let recovery = &self.cold.recovery;
        let quiet = recovery.phase == Phase::Open
            && recovery.dup_acks == 0
            && self.cold.scoreboard.is_empty()
            && self.snd_nxt == self.snd_max;
        if quiet {
            self.slow &= !slow::RECOVERY;
        } else {
            self.slow |= slow::RECOVERY;
        }
    }

    /// Bytes believed to be on the way while not all is well.
    #[cold]
    pub(super) fn in_flight_in_recovery(&self) -> u32 {
        let recovery = &self.cold.recovery;
        if recovery.phase == Phase::Fast && self.sack_ok {
            return recovery.pipe;
        }
        let sent = self.snd_nxt - self.snd_una;
        sent.saturating_sub(self.cold.scoreboard.bytes_below(self.snd_nxt))
    }
}
