//! Deadlines: retransmission, closed windows, delayed acknowledgements, keepalive, cork, FIN-WAIT-2.
//!
//! A deadline is a field; moving it later costs a store. The wheel calls at the earliest it was told, and what is not due yet
//! is armed again.

use demi_drivers::Instant;
use demi_drivers::transport::{KeepAlive, TcpState};

use super::super::output::Output;
use super::super::rto::elapsed_ns;
use super::recovery::Phase;
use super::transmit::Again;
use super::{Connection, Env, Retransmit, nanos};

impl<P> Connection<P> {
    /// The earliest deadline.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Instant {
        self.retransmit_at.min(self.ack_at).min(self.rare_at)
    }

    /// The earliest deadline, when the wheel would call too late for it; it is taken for armed then.
    #[inline(always)]
    pub(crate) fn wants_timer(&mut self) -> Option<Instant> {
        let deadline = self.next_deadline();
        (deadline < self.armed_at).then(|| {
            self.armed_at = deadline;
            deadline
        })
    }

    /// Does what is due.
    pub(crate) fn on_timer<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if self.ack_at <= env.now {
            self.on_ack_timer(env);
        }
        if self.retransmit_at <= env.now {
            match (self.retransmit, self.state) {
                (Retransmit::Off, _) => self.retransmit_at = Instant::FAR_FUTURE,
                (_, TcpState::SynSent | TcpState::SynReceived) => self.on_syn_timeout(env),
                _ if self.is_embryo() => self.on_syn_timeout(env),
                (Retransmit::Rto, _) if self.timeout_is_probe(env) => self.on_probe_timeout(env),
                (Retransmit::Rto, _) => self.on_retransmit_timeout(env),
                (Retransmit::Probe, _) => self.on_probe_timeout(env),
                (Retransmit::Reorder, _) => self.on_reorder_timeout(env),
                (Retransmit::Persist, _) => self.on_persist_timeout(env),
            }
        }
        if self.rare_at <= env.now && self.state != TcpState::Closed {
            self.on_rare_timer(env);
        }
        self.check_invariants();
    }

    /// The SYN or SYN-ACK was not answered.
    fn on_syn_timeout<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        let own = self.cold.options.syn_retries;
        let retries = match self.state {
            TcpState::SynSent => own.unwrap_or(env.common.config.syn_retries),
            // As Linux: somebody's data is at stake.
            _ if self.is_embryo() => own.unwrap_or(env.common.config.syn_ack_retries).saturating_add(1),
            _ => own.unwrap_or(env.common.config.syn_ack_retries),
        };
        env.common.stats.timeouts += 1;
        self.cold.timeouts += 1;
        let over = self.cold.timeouts > retries || self.user_timeout_is_over(env);
        self.fast_open_times_out(env, self.cold.timeouts, over);
        if over {
            env.common.stats.attempt_fails += 1;
            self.give_up();
            return;
        }
        self.rtt.back_off(env.common.bounds);
        self.retransmit_at = self.next_try_at(env);
        self.cold.syn_due = true;
        self.flush_due = true;
    }

    /// Data or the FIN was not acknowledged in time (RFC 6298 §5.4-5.6).
    fn on_retransmit_timeout<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if self.snd_una == self.snd_max {
            self.retransmit = Retransmit::Off;
            self.retransmit_at = Instant::FAR_FUTURE;
            return;
        }
        self.cold.timeouts = self.cold.timeouts.saturating_add(1);
        let retries = if self.orphan { env.common.config.orphan_retries } else { env.common.config.retries };
        // The peer has taken back the window that this was sent in: what goes out again probes it (RFC 9293 §3.8.6), and as with a closed
        // window, whoever answers may take their time, unless nobody waits any more. Linux's `tcp_rtx_probe0_timed_out`.
        let probes = self.snd_wnd == 0 && !self.orphan;
        let silent_ns = elapsed_ns(env.now, self.last_recv_at);
        let heard = probes && silent_ns <= env.common.bounds.max_ns.saturating_mul(2);
        let over = (self.cold.timeouts > retries && !heard) || self.user_timeout_is_over(env);
        self.fast_open_times_out(env, self.cold.timeouts, over);
        if over {
            env.common.stats.abort_on_timeout += 1;
            self.give_up();
            return;
        }
        if !probes {
            env.common.stats.timeouts += 1;
            self.count_failure(env);
            self.on_black_hole(env);
        }
        // RFC 5681 §3.1: the threshold falls once for data that times out again and again.
        self.enter_loss(env, self.cold.timeouts == 1);
        let head = self.cold.sent.as_ref().and_then(|log| log.head()).map_or(0, |head| head.bytes());
        self.send_again(env, self.snd_una, head.min(u32::from(self.snd_mss)), Again::Timeout);
        self.retransmit = Retransmit::Rto;
        self.rtt.back_off(env.common.bounds);
        self.retransmit_at = self.next_try_at(env);
    }

    /// What the first timeout of several has put an end to.
    fn count_failure<O>(&mut self, env: &mut Env<'_, O>) {
        if self.cold.timeouts > 1 {
            return;
        }
        let stats = &mut env.common.stats;
        *match (self.cold.recovery.phase, self.sack_ok) {
            (Phase::Recovery, true) => &mut stats.sack_recovery_fail,
            (Phase::Recovery, false) => &mut stats.reno_recovery_fail,
            (Phase::Loss, _) => &mut stats.loss_failures,
            (Phase::Disorder, true) => &mut stats.sack_failures,
            (Phase::Disorder, false) => &mut stats.reno_failures,
            _ => return,
        } += 1;
    }

    /// Whether what is outstanding has been so for longer than the application wants to wait (RFC 5482).
    fn user_timeout_is_over<O>(&mut self, env: &Env<'_, O>) -> bool {
        let waited_ns = self.rtt.rto_ns();
        let since = *self
            .cold
            .stalled_since
            .get_or_insert(Instant::from_nanos(env.now.as_nanos().saturating_sub(waited_ns)));
        self.cold.options.user_timeout.is_some_and(|limit| env.now.since(since) >= limit)
    }

    /// When to try again after a timeout: the time to give up, should that come first, so that a wait which has doubled does
    /// not double the user timeout, too (as Linux).
    pub(super) fn next_try_at<O>(&self, env: &Env<'_, O>) -> Instant {
        let backed_off = env.now.plus_nanos(self.rtt.rto_ns());
        match (self.cold.options.user_timeout, self.cold.stalled_since) {
            (Some(limit), Some(since)) => backed_off.min((since + limit).max(env.now)),
            _ => backed_off,
        }
    }

    /// The peer's window is still closed (RFC 9293 §3.8.6.1).
    fn on_persist_timeout<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if !self.has_unsent() {
            self.retransmit = Retransmit::Off;
            self.retransmit_at = Instant::FAR_FUTURE;
            return;
        }
        let probes = self.cold.window_probes;
        let limit = if self.orphan { env.common.config.orphan_retries } else { env.common.config.retries };
        // RFC 9293 §3.8.6.1: a peer that answers may keep its window closed for ever, unless nobody waits for it any more.
        let answered = elapsed_ns(env.now, self.last_recv_at) <= self.rtt.rto_ns();
        let user_timeout = self.cold.options.user_timeout.is_some() && self.user_timeout_is_over(env);
        if (probes > limit && (!answered || self.orphan)) || user_timeout {
            env.common.stats.abort_on_timeout += 1;
            self.give_up();
            return;
        }
        self.cold.window_probes += 1;
        if !self.send_into_small_window(env) {
            let _ = self.send_probe(env);
            self.rtt.back_off(env.common.bounds);
            self.retransmit = Retransmit::Persist;
            self.retransmit_at = self.next_try_at(env);
        }
    }

    fn on_rare_timer<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if self.cold.fin_wait_2_until <= env.now {
            // Nobody waits for what the peer may still say.
            self.finish();
            return;
        }
        if self.cold.cork_until <= env.now {
            self.cold.cork_until = Instant::FAR_FUTURE;
            self.push_corked(env);
        }
        self.raise_path_mtu(env);
        self.on_pacing_timer(env.now);
        self.on_idle_timer(env);
        self.probe_if_silent(env);
        if self.state != TcpState::Closed {
            self.update_rare_timer();
        }
    }

    /// RFC 9293 §3.8.4: asks a silent peer whether it is still there.
    fn probe_if_silent<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        let Some(keepalive) = self.keepalive() else { return };
        if self.cold.keepalive_heard != self.last_recv_at {
            // Whatever has come since answers the probes.
            self.cold.keepalive_heard = self.last_recv_at;
            self.cold.keepalive_probes = 0;
        }
        if self.keepalive_at().is_none_or(|at| at > env.now) {
            return;
        }
        self.cold.keepalive_not_before = env.now.plus_nanos(nanos(keepalive.interval));
        if self.snd_una != self.snd_max || self.has_unsent() {
            // Retransmissions and window probes ask already.
            return;
        }
        let over = match self.cold.options.user_timeout {
            Some(limit) => self.cold.keepalive_probes > 0 && env.now.since(self.last_recv_at) >= limit,
            None => self.cold.keepalive_probes >= keepalive.probes,
        };
        if over {
            env.common.stats.abort_on_timeout += 1;
            self.send_reset(env);
            self.give_up();
            return;
        }
        self.cold.keepalive_probes += 1;
        env.common.stats.keepalives += 1;
        let _ = self.send_probe(env);
    }

    /// How it is kept alive, if it is: nobody is there to be kept alive for once the application has closed, and retransmissions
    /// have their own end.
    fn keepalive(&self) -> Option<KeepAlive> {
        self.cold.options.keepalive.filter(|_| !self.orphan)
    }

    /// When the peer has to be asked next, if nothing comes until then.
    fn keepalive_at(&self) -> Option<Instant> {
        let keepalive = self.keepalive()?;
        if !self.is_synchronized() {
            return None;
        }
        let due = self.last_recv_at.plus_nanos(nanos(keepalive.idle));
        Some(due.max(self.cold.keepalive_not_before))
    }

    /// Computes when the earliest of the rare timers is due.
    pub(super) fn update_rare_timer(&mut self) {
        let keepalive = self.keepalive_at().unwrap_or(Instant::FAR_FUTURE);
        let cold = &self.cold;
        self.rare_at = keepalive
            .min(cold.cork_until)
            .min(cold.fin_wait_2_until)
            .min(cold.pacing.wakes_at())
            .min(cold.buffers.idle_at())
            .min(self.path_size_at());
    }

    /// Whether the application wants a closed connection not to wait for the peer's FIN (`TCP_LINGER2` below zero).
    pub(super) fn waits_for_no_fin(&self) -> bool {
        self.cold.options.fin_wait_2.is_some_and(|wait| wait.is_zero())
    }

    /// A closed connection waits for the peer's FIN, but not for ever (Linux's `tcp_fin_timeout` and `TCP_LINGER2`).
    pub(super) fn start_fin_wait_2<O>(&mut self, env: &Env<'_, O>) {
        let wait = self.cold.options.fin_wait_2.unwrap_or(env.common.config.fin_wait_2);
        // As Linux, long enough for a FIN that is lost once.
        let wait_ns = nanos(wait).max(self.rtt.rto_ns().saturating_mul(7) / 2);
        self.cold.fin_wait_2_until = env.now.plus_nanos(wait_ns);
        self.update_rare_timer();
    }
}
