//! After a retransmission timeout: everything counts as lost, and whether that was true shows in what comes next (RFC 5681 §3.1,
//! RFC 5682).

use super::recovery::{News, Phase};
use super::{Connection, Env};

impl<P> Connection<P> {
    /// A retransmission has timed out (RFC 6298 §5.4, RFC 5681 §3.1). `first`: it is the first of several in a row.
    pub(super) fn enter_loss<O>(&mut self, env: &mut Env<'_, O>, first: bool) {
        let mss = u32::from(self.snd_mss);
        let flight = self.snd_max - self.snd_una;
        self.log();
        let prior = self.cold.recovery.phase;
        self.lose_outstanding(env);
        let una = self.snd_una;
        let before = una.at_or_after(self.cold.recovery_point);
        let prior_cwnd = self.window.cwnd;
        // The window falls once for what was in flight together.
        let reduces = prior <= Phase::Disorder || before || (prior == Phase::Loss && first);
        if reduces {
            self.cold.recovery.undo.prior_cwnd = prior_cwnd;
            self.cold.congestion.on_timeout(&mut self.window, flight, mss, true);
            self.begin_undo(true);
        } else {
            self.cold.congestion.on_timeout(&mut self.window, flight, mss, false);
        }
        self.tell_reduced();
        if self.reduces_window() {
            // One more than what may still be on its way.
            self.window.cwnd = self.in_flight_in_recovery().saturating_add(mss);
        }
        let sacked = self.sacked_segments();
        let recovery = &mut self.cold.recovery;
        if prior <= Phase::Disorder && sacked >= env.common.config.reordering_segments {
            // So many duplicates and still a timeout: reordering was believed to be worse than it is.
            self.cold.reordering = self.cold.reordering.min(env.common.config.reordering_segments);
        }
        recovery.phase = Phase::Loss;
        self.cold.recovery_point = self.snd_max;
        recovery.probe = None;
        recovery.new_first = false;
        recovery.held = false;
        // RFC 5682 §3.1 step 1: not when what timed out was recovery's own.
        recovery.frto = env.common.config.frto && (prior < Phase::Recovery || !first);
        self.timing = false;
        self.flush_due = true;
        self.update_recovery_bit();
    }

    fn sacked_segments(&self) -> u32 {
        match self.sack_ok {
            true => self.cold.sent.as_ref().map_or(0, |log| log.sacked().segments),
            false => self.cold.recovery.duplicates,
        }
    }

    /// Marks everything outstanding as lost, but for what was sent so recently that it cannot be told yet (RFC 8985 §6.3).
    fn lose_outstanding<O>(&mut self, env: &mut Env<'_, O>) {
        let mut news = News::default();
        let limit = match self.sack_ok && env.common.config.rack {
            true => self.cold.recovery.rack.round_trip_ago(env.now),
            false => env.now,
        };
        self.cold.recovery.duplicates = 0;
        let Some(log) = &mut self.cold.sent else { return };
        let reneged = log.head().is_some_and(|head| head.has(super::super::sent_log::mark::SACKED));
        if reneged {
            // RFC 2018 §8: the peer has thrown away what it said it holds.
            log.unsack();
            env.common.stats.sack_reneging += 1;
            self.cold.recovery.reneged = true;
        }
        let found = log.lose_all(if reneged { env.now } else { limit });
        self.note_lost(env, &found, &mut news);
    }

    /// An acknowledgement after a timeout.
    pub(super) fn take_in_loss<O>(&mut self, env: &mut Env<'_, O>, news: &mut News, duplicate: bool) {
        let recovered = self.snd_una.at_or_after(self.cold.recovery_point);
        if news.advanced && self.undo_loss(env, news, false) {
            return;
        }
        if self.cold.recovery.frto {
            // RFC 5682 §3.1 step 3b: something that was not sent again has arrived, so not everything was lost.
            if news.original && self.undo_loss(env, news, true) {
                return;
            }
            let beyond = self.snd_max.after(self.cold.recovery_point);
            if beyond {
                if news.sacked || duplicate {
                    // Step 3a: the loss was real.
                    self.cold.recovery.frto = false;
                }
            } else if news.advanced && !recovered {
                self.cold.recovery_point = self.snd_max;
                // Step 2b: new data shows what is true, if there is any that may go out.
                if self.has_unsent() && self.snd_wnd > self.snd_max - self.snd_una {
                    self.cold.recovery.new_first = true;
                    return;
                }
                self.cold.recovery.frto = false;
            }
        }
        if recovered {
            self.undo_recovery(env, news);
            return;
        }
        if !self.sack_ok {
            if self.snd_max.after(self.cold.recovery_point) && duplicate {
                self.cold.recovery.duplicates += 1;
                self.limit_duplicates(env, 0);
            } else if news.advanced {
                self.cold.recovery.duplicates = 0;
            }
        }
    }

    /// New data was to show whether the timeout was spurious. If none could go out, everything is repaired as usual.
    pub(super) fn new_data_went_first(&mut self) {
        let beyond = self.snd_max.after(self.cold.recovery_point);
        let recovery = &mut self.cold.recovery;
        if recovery.new_first && !beyond {
            recovery.new_first = false;
            recovery.frto = false;
        }
    }

    /// The path carries less than was sent: what is too large is lost without a doubt, and goes out again in smaller pieces
    /// without blaming congestion (RFC 1191 §6.5).
    pub(super) fn lose_oversize(&mut self) {
        let mss = u32::from(self.snd_mss);
        let Some(log) = &mut self.cold.sent else { return };
        log.lose_larger(mss);
        if log.lost().bytes > 0 {
            self.enter_loss_without_congestion();
        }
    }

    /// What has been marked as lost goes out again; congestion is not to blame (Linux's `tcp_non_congestion_loss_retransmit`).
    pub(super) fn enter_loss_without_congestion(&mut self) {
        if self.cold.recovery.phase != Phase::Loss {
            let ssthresh = self.window.current_threshold();
            let recovery = &mut self.cold.recovery;
            self.cold.recovery_point = self.snd_max;
            recovery.undo.marker = None;
            recovery.undo.restores = false;
            recovery.phase = Phase::Loss;
            recovery.frto = false;
            recovery.new_first = false;
            self.window.ssthresh = ssthresh;
        }
        self.timing = false;
        self.flush_due = true;
        self.update_recovery_bit();
    }
}
