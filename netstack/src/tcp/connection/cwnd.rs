//! The congestion window's part in a connection: when it grows, whether it is used, and what a pause makes of it.
//!
//! Only what a window that limits sending needs is done here, so a connection with one segment outstanding never comes by. Which
//! bytes are lost is recovery's to say, how the window moves the algorithm's.

use demi_drivers::Instant;
use demi_drivers::transport::CongestionControl;

use super::super::config::TcpConfig;
use super::super::congestion::{Acked, Congestion, Delivered, Repair};
use super::super::rto::elapsed_ns;
use super::super::seq::SeqNumber;
use super::recovery::Phase;
use super::{Connection, Env, slow};

/// How much of the congestion window has been used of late (RFC 2861, RFC 7661; Linux's `tcp_cwnd_validate`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// In the present round the window was what limited sending.
    limited: bool,
    /// The most that was in flight in it, and where it ends.
    most_bytes: u32,
    round_end: SeqNumber,
    /// Since when the window has not been used up, and the most in flight since.
    since: Instant,
    used_bytes: u32,
}

impl Usage {
    pub(super) fn new(iss: SeqNumber, now: Instant) -> Self {
        Usage { limited: false, most_bytes: 0, round_end: iss, since: now, used_bytes: 0 }
    }
}

impl<P> Connection<P> {
    /// The initial window in bytes.
    pub(super) fn initial_window<O>(&self, env: &Env<'_, O>) -> u32 {
        env.common.config.initial_window_segments.saturating_mul(u32::from(self.snd_mss))
    }

    /// Another algorithm takes over, with the windows as they are, unless one of the two knows none.
    pub(super) fn set_congestion(&mut self, kind: CongestionControl, config: &TcpConfig) {
        let without = [kind, self.cold.congestion.kind()].contains(&CongestionControl::None);
        self.cold.congestion = Congestion::new(kind, config.hystart);
        self.mark_everywhere(kind == CongestionControl::Dctcp);
        if without {
            let mss = u32::from(self.snd_mss);
            self.window = self.cold.congestion.initial(config.initial_window_segments, mss);
        }
    }

    /// Grows the window that limited sending, for `bytes` newly acknowledged.
    #[inline(never)]
    pub(super) fn grow_window<O>(&mut self, env: &mut Env<'_, O>, bytes: u32) {
        if self.cold.congestion.is_model() {
            return;
        }
        let rtt_ns = self.cold.sent.as_mut().and_then(|log| log.sample.rtt_ns.take());
        let ack = Acked {
            bytes,
            mss: u32::from(self.snd_mss),
            now: env.now,
            srtt_ns: self.rtt.srtt_ns(),
            rtt_ns,
            una: self.snd_una,
            nxt: self.snd_max,
        };
        let unlimited = self.window.is_unlimited();
        self.cold.congestion.on_ack(&mut self.window, &ack);
        if unlimited && !self.window.is_unlimited() {
            env.common.stats.hystart_delay_detect += 1;
            env.common.stats.hystart_delay_cwnd += u64::from(self.window.cwnd / ack.mss.max(1));
        }
    }

    /// Tells a model of the path what an acknowledgement has told, all of which has been taken in (draft-cardwell-iccrg-bbr).
    #[inline]
    pub(super) fn model<O>(&mut self, env: &Env<'_, O>) {
        if self.slow & slow::PACED != 0 && self.cold.congestion.is_model() {
            self.tell_model(env);
        }
    }

    #[cold]
    fn tell_model<O>(&mut self, env: &Env<'_, O>) {
        let (total, in_flight) = (self.delivered(), self.in_flight());
        let repair = match self.cold.recovery.phase {
            Phase::Loss => Repair::Timeout,
            Phase::Recovery => Repair::Recovery,
            _ => Repair::None,
        };
        let log = self.cold.sent.as_mut();
        let sample = log.as_ref().map(|log| log.sample).unwrap_or_default();
        let ack = Delivered {
            now: env.now,
            mss: u32::from(self.snd_mss),
            total,
            lost: log.as_ref().map_or(0, |log| log.lost().bytes),
            rate: sample.delivered.map(|bytes| (bytes, sample.interval_ns, sample.prior_delivered)),
            app_limited: sample.app_limited,
            rtt_ns: sample.rtt_ns,
            srtt_ns: self.rtt.srtt_ns(),
            in_flight,
            repair,
        };
        let small = self.cold.congestion.on_delivered(&mut self.window, &ack);
        if let Some(log) = log.filter(|_| small) {
            log.delivery.limited_by_application(total, in_flight);
        }
    }

    /// Takes note, after sending, of how much of the window is used. `limited`: it has kept data from going out.
    pub(super) fn note_usage<O>(&mut self, env: &Env<'_, O>, limited: bool) {
        // Rounds pass for who does not use the window, too.
        self.cold.congestion.on_marked(0, self.snd_una, self.snd_nxt);
        let flight = self.in_flight();
        let cwnd = self.window.cwnd;
        let limited = limited || flight >= cwnd;
        let usage = &mut self.cold.usage;
        // The strongest sign in a round counts, not the last.
        if limited
            || self.snd_una.at_or_after(usage.round_end)
            || (!usage.limited && flight > usage.most_bytes)
        {
            usage.limited = limited;
            usage.most_bytes = flight;
            usage.round_end = self.snd_nxt;
        }
        // RFC 7661 §4.3, as Linux: in slow start half a window in flight is enough to let it double.
        self.cwnd_limited =
            usage.limited || (self.window.in_slow_start() && usage.most_bytes.saturating_mul(2) > cwnd);
        if self.cwnd_limited {
            usage.used_bytes = 0;
            usage.since = env.now;
            return;
        }
        usage.used_bytes = usage.used_bytes.max(flight);
        if env.common.config.slow_start_after_idle
            && self.slow & slow::RECOVERY == 0
            && elapsed_ns(env.now, usage.since) >= self.rtt.rto_ns()
        {
            let used = core::mem::take(&mut usage.used_bytes);
            usage.since = env.now;
            // Linux leaves those alone that the send buffer limits: its size is our doing.
            if self.write_waker.is_none() {
                let initial = self.initial_window(env);
                self.cold.congestion.on_unused(&mut self.window, used, initial);
            }
        }
    }

    /// After a pause longer than a timeout, what the congestion window says is out of date (RFC 5681 §4.1).
    #[inline]
    pub(super) fn restart_after_idle<O>(&mut self, env: &Env<'_, O>) {
        if self.slow & slow::PACED != 0 {
            self.cold.congestion.on_restart(env.now);
        }
        let (idle_ns, rto_ns) = (elapsed_ns(env.now, self.last_send_at), self.rtt.rto_ns());
        if idle_ns > rto_ns && env.common.config.slow_start_after_idle {
            let initial = self.initial_window(env);
            self.cold.congestion.on_idle(&mut self.window, initial, idle_ns, rto_ns);
            self.cold.usage.used_bytes = 0;
            self.cold.usage.since = env.now;
        }
    }
}
