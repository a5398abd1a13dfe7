//! Payload and FIN: in order to the application, out of order to reassembly. When in-order data is acknowledged is `delayed_ack`'s.

use demi_drivers::Buf;
use demi_drivers::transport::TcpState;

use super::super::output::Output;
use super::super::rare::Rare;
use super::super::reassembly::Inserted;
use super::super::seq::SeqNumber;
use super::{AckDue, Connection, Env, slow};

/// A buffer out of order stands for at least this much of the window: it occupies a slot of memory however short it is.
const BYTES_A_BUFFER: u32 = 512;

impl<P> Connection<P> {
    /// Takes the payload and FIN of an acceptable segment (RFC 9293 §3.10.7.4, seventh and eighth step).
    pub(super) fn take_payload<O: Output<Path = P>>(
        &mut self,
        env: &mut Env<'_, O>,
        mut seq: SeqNumber,
        mut payload: Buf,
        mut fin: bool,
    ) {
        if self.fin_received {
            // Nothing follows a FIN: what claims to is ignored (RFC 9293 §3.10.7.4, seventh step). What begins before it is an
            // old segment sent again, and is acknowledged again.
            if seq.before(self.rcv_nxt) {
                self.ack_now();
            }
            return;
        }
        let sent_bytes = payload.len() as u32;
        if seq.before(self.rcv_nxt) {
            let known = self.rcv_nxt - seq;
            if sent_bytes > 0 {
                self.note_duplicate(env, seq, seq + known.min(sent_bytes));
                if sent_bytes <= known {
                    self.ack_was_lost(env);
                }
                self.ack_now();
            }
            payload.advance(known as usize);
            seq = self.rcv_nxt;
        }
        let room = self.rcv_adv.since(seq);
        if payload.len() as u32 > room {
            payload.truncate(room as usize);
            fin = false;
            if room == 0 {
                self.window_was_probed();
            }
            env.common.stats.rcvq_drop += 1;
            self.ack_now();
        }
        if env.common.scarce.is_some() && !payload.is_empty() && !self.may_keep(env, seq, payload.len()) {
            // As if it had been lost: the peer sends it again.
            payload.truncate(0);
            fin = false;
            self.shrink_recv_buffer(env);
            env.common.stats.rcvq_drop += 1;
            self.ack_now();
        }
        let end = seq + payload.len() as u32;
        if fin && self.cold.fin_at.is_none() {
            self.cold.fin_at = Some(end);
        }
        if let Some(fin_at) = self.cold.fin_at
            && end.after(fin_at)
        {
            // Data beyond the FIN: nonsense.
            payload.truncate(fin_at.since(seq) as usize);
        }
        if self.orphan && !payload.is_empty() {
            // Nobody will ever read it: the peer has to know (RFC 9293 §3.10.4, as Linux).
            env.common.stats.abort_on_data += 1;
            self.reject(env, self.snd_una);
            self.finish();
            return;
        }
        if seq == self.rcv_nxt {
            self.take_in_order(env, payload);
        } else if !payload.is_empty() || fin {
            self.take_out_of_order(env, seq, payload);
        }
        match self.cold.fin_at {
            Some(fin_at) if fin_at == self.rcv_nxt => self.take_fin(),
            // Whatever fills the gap before it has to look for the FIN.
            Some(_) => self.slow |= slow::REORDERED,
            None => {}
        }
    }

    fn take_in_order<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, payload: Buf) {
        let len = payload.len() as u32;
        if len == 0 {
            return;
        }
        let had_gap = !self.cold.reassembly.is_empty();
        let unread = self.slow & slow::UNREAD != 0;
        self.rcv_nxt += len;
        if !unread {
            match env.common.scarce {
                Some(_) => self.rx.push_packed(payload),
                None => self.rx.push(payload),
            }
        }
        if had_gap {
            let (rx, filled) = (&mut self.rx, self.rcv_nxt);
            self.rcv_nxt = self.cold.reassembly.deliver(self.rcv_nxt, |buf| {
                if !unread {
                    rx.push(buf);
                }
            });
            self.bytes_received += u64::from(self.rcv_nxt - filled);
            if self.cold.reassembly.is_empty() {
                self.slow &= !slow::REORDERED;
            }
            if !env.common.config.dsack {
                self.cold.reassembly.forget_duplicate();
            }
            self.sack_due |= self.sack_ok && self.cold.reassembly.has_blocks();
            // RFC 5681 §4.2: what fills a gap is acknowledged at once.
            self.ack_now();
        }
        let waited = self.ack_due == AckDue::Delayed;
        self.note_received(env, len);
        self.apply_delay(env, waited);
    }

    fn take_out_of_order<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, seq: SeqNumber, payload: Buf) {
        if !payload.is_empty() {
            // When memory runs out nothing is kept that cannot be read: what fills the gap must find a slot.
            let max_bufs = match env.out.pool().has_spare() {
                true => (self.recv_cap / BYTES_A_BUFFER).max(64) as usize,
                false => 0,
            };
            match self.cold.reassembly.insert(self.rcv_nxt, seq, payload, max_bufs) {
                Inserted::Queued => {
                    env.common.stats.ofo_queue += 1;
                    self.cold.out_of_order = self.cold.out_of_order.saturating_add(1);
                }
                Inserted::Duplicate => env.common.stats.ofo_merge += 1,
                Inserted::Dropped => env.common.stats.ofo_drop += 1,
            }
            if !env.common.config.dsack {
                self.cold.reassembly.forget_duplicate();
            }
            env.common.stats.dsack_ofo_sent +=
                u64::from(self.sack_ok && self.cold.reassembly.has_duplicate());
            if !self.cold.reassembly.is_empty() {
                self.slow |= slow::REORDERED;
            }
            self.sack_due = self.sack_ok;
        }
        // RFC 5681 §4.2: a duplicate acknowledgement for each, at once: the sender counts them.
        // If the way out is full it goes with the next flush.
        let _ = self.send_ack(env);
    }

    /// The next acknowledgement tells that the bytes from `start` to `end` arrived again (RFC 2883).
    pub(super) fn note_duplicate<O>(&mut self, env: &mut Env<'_, O>, start: SeqNumber, end: SeqNumber) {
        if self.sack_ok && env.common.config.dsack {
            self.cold.reassembly.note_duplicate(start, end);
            self.sack_due = true;
            env.common.stats.dsack_sent += 1;
        }
    }

    /// The peer's FIN, in order (RFC 9293 §3.10.7.4, eighth step).
    fn take_fin(&mut self) {
        self.rcv_nxt += 1;
        // The FIN lies in front of the window's edge even when no byte fits any more.
        self.rcv_adv = self.rcv_adv.later(self.rcv_nxt);
        self.fin_received = true;
        self.cold.reassembly = Rare::quiet();
        self.slow &= !slow::REORDERED;
        self.ack_now();
        match self.state {
            TcpState::Established => self.set_state(TcpState::CloseWait),
            TcpState::FinWait1 if self.fin_acked() => self.enter_time_wait(),
            TcpState::FinWait1 => self.set_state(TcpState::Closing),
            TcpState::FinWait2 => self.enter_time_wait(),
            _ => {}
        }
        self.wake_all();
    }
}
