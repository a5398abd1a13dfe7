//! Data with the SYN, on both ends (RFC 7413): a connect that waits for its first write, and a connection made of a SYN alone.

use demi_drivers::Buf;
use demi_drivers::transport::{FastOpenFailure, Handle, TcpState};

use super::super::fast_open::{OPTION_ROOM, Ticket};
use super::super::seq::SeqNumber;
use super::{Connection, Env, Failure, slow};
use crate::wire::tcp::{FastOpen, Options};

/// What a connection that uses Fast Open remembers.
#[derive(Debug, Default)]
pub(super) struct FastOpenPart {
    /// The connect waits for the first write.
    deferred: bool,
    /// What the first SYN carries: a cookie, or the request for one.
    option: Option<FastOpen>,
    /// Data may go with the SYN even without a cookie.
    without_cookie: bool,
    /// Payload bytes that a SYN may carry.
    room: u32,
    /// Payload bytes that the SYN has carried.
    sent: u32,
    /// The data with the SYN was taken: by the peer, or by us.
    acked: bool,
    failure: FastOpenFailure,
    /// The listener that counts it until its handshake is done.
    listener: Option<Handle>,
}

/// What has become of a connection that was made of a SYN with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hatched {
    /// Its handshake is done.
    Yes,
    /// A RST has ended it before.
    Reset,
    /// It has ended before for another reason.
    No,
}

impl<P> Connection<P> {
    // ---- client ----

    /// Has the SYN carry the option of `ticket`. With a cookie (or where none is needed) it waits for the first write.
    pub(crate) fn connect_fast(&mut self, ticket: &Ticket, without_cookie: bool) {
        let has_cookie = !ticket.option.cookie().is_empty();
        let mss = ticket.mss.map_or(self.cold.local_mss, |mss| mss.min(self.cold.local_mss));
        let deferred = has_cookie || without_cookie;
        let part = FastOpenPart {
            deferred,
            option: (has_cookie || !without_cookie).then_some(ticket.option),
            without_cookie,
            room: u32::from(mss.saturating_sub(OPTION_ROOM)),
            failure: if deferred { FastOpenFailure::None } else { FastOpenFailure::CookieUnavailable },
            ..FastOpenPart::default()
        };
        self.cold.fast_open = Some(Box::new(part));
        self.cold.syn_due = !deferred;
        self.flush_due = !deferred;
    }

    /// Whether the connect waits for the first write.
    pub(super) fn is_deferred(&self) -> bool {
        self.cold.fast_open.as_ref().is_some_and(|part| part.deferred)
    }

    /// Bytes that may be written to go with a SYN that waits for them.
    pub(super) fn deferred_room(&self) -> Option<u32> {
        self.cold.fast_open.as_ref().filter(|part| part.deferred).map(|part| part.room.max(1))
    }

    /// The SYN waits no longer: something has been written, or somebody wants to read.
    pub(super) fn start_deferred(&mut self) {
        if let Some(part) = &mut self.cold.fast_open
            && core::mem::take(&mut part.deferred)
        {
            self.cold.syn_due = true;
            self.flush_due = true;
        }
    }

    /// What the SYN that is to be sent carries: an option, and so many bytes of payload. The first one alone does.
    pub(super) fn syn_carries(&self) -> (Option<FastOpen>, u32) {
        let Some(part) = self.cold.fast_open.as_ref().filter(|_| self.cold.syn_sent == 0) else {
            return (None, 0);
        };
        let may_carry = part.without_cookie || part.option.is_some_and(|option| !option.cookie().is_empty());
        let len = if may_carry { self.tx.len().min(part.room) } else { 0 };
        // As Linux: a cookie without data says nothing; another one is asked for.
        let option = part.option.map(|option| {
            if len == 0 { FastOpen::REQUEST.as_experiment(option.experimental) } else { option }
        });
        (option, len)
    }

    /// The SYN has gone out with `len` bytes of payload.
    pub(super) fn syn_carried(&mut self, len: u32) {
        if let Some(part) = &mut self.cold.fast_open
            && len > 0
        {
            part.sent = len;
        }
    }

    /// The SYN-ACK has come, its acknowledgement is taken: learns the cookie, and sees what became of the SYN's data (RFC 7413
    /// §4.2.2).
    pub(super) fn fast_open_answered<O>(&mut self, env: &mut Env<'_, O>, options: &Options) {
        let retransmitted = self.cold.syn_sent > 1;
        let mss = self.cold.peer_mss;
        let Some(part) = &mut self.cold.fast_open else { return };
        let asked = part.option.filter(|_| part.sent == 0 && !retransmitted && options.fast_open.is_none());
        if part.option.is_some() {
            env.common.fast_opens.learn(&self.flow, options.fast_open, mss, asked);
        }
        self.syn_data_answered(env);
    }

    /// The handshake is done: sends again what went with the SYN and was not taken.
    pub(super) fn syn_data_answered<O>(&mut self, env: &mut Env<'_, O>) {
        let retransmitted = self.cold.syn_sent > 1;
        let (una, max) = (self.snd_una, self.snd_max);
        let Some(part) = self.cold.fast_open.as_mut().filter(|part| part.sent > 0) else { return };
        if una == max {
            part.acked = true;
            env.common.stats.fast_open_active += 1;
            return;
        }
        part.failure =
            if retransmitted { FastOpenFailure::SynRetransmitted } else { FastOpenFailure::DataNotAcked };
        env.common.stats.fast_open_active_fail += 1;
        self.send_all_again();
    }

    /// The peer has ended its direction in order: the network lets through what Fast Open does.
    pub(super) fn fast_open_works<O>(&self, env: &mut Env<'_, O>) {
        if self.cold.fast_open.as_ref().is_some_and(|part| part.sent > 0) {
            env.common.fast_opens.went_well();
        }
    }

    /// A timeout, one of `timeouts` in a row, or the last (`over`): as Linux, the third on a connection that used Fast Open means
    /// that the network swallows what does.
    pub(super) fn fast_open_times_out<O>(&mut self, env: &mut Env<'_, O>, timeouts: u32, over: bool) {
        let Some(part) = &mut self.cold.fast_open else { return };
        let used = part.option.is_some() || part.sent > 0;
        if used && part.listener.is_none() && (timeouts == 3 || (timeouts < 3 && over)) {
            env.common.stats.fast_open_blackhole += 1;
            env.common.fast_opens.pause(env.now);
        }
    }

    /// Whether the data with the SYN was taken, and why not.
    pub(super) fn fast_open_outcome(&self) -> (bool, FastOpenFailure) {
        self.cold.fast_open.as_ref().map_or((false, FastOpenFailure::None), |part| (part.acked, part.failure))
    }

    // ---- server ----

    /// Makes it a connection of the SYN alone, whose data is `payload` and which `listener` counts.
    pub(crate) fn take_syn_data(&mut self, listener: Handle, payload: Buf) {
        let len = payload.len() as u32;
        let part = FastOpenPart { acked: len > 0, listener: Some(listener), ..FastOpenPart::default() };
        self.cold.fast_open = Some(Box::new(part));
        self.slow |= slow::EMBRYO;
        self.cold.ready = true;
        // The SYN is out of the way: what goes out next is data.
        self.snd_una = self.cold.iss + 1;
        self.rcv_nxt += len;
        self.rcv_acked = self.rcv_nxt;
        self.rcv_adv = self.rcv_adv.later(self.rcv_nxt);
        if len > 0 {
            self.rx.push(payload);
            self.bytes_received += u64::from(len);
        }
        self.cold.syn_sent = 0;
        self.cold.syn_due = true;
        self.flush_due = true;
    }

    /// Whether `ack` acknowledges our SYN-ACK, and perhaps data behind it.
    pub(super) fn acks_syn_ack(&self, ack: SeqNumber) -> bool {
        if self.is_embryo() || self.cold.fast_open.is_some() {
            ack.after(self.cold.iss) && ack.at_or_before(self.snd_max)
        } else {
            ack == self.snd_max
        }
    }

    /// The SYN-ACK has been acknowledged.
    pub(super) fn hatch(&mut self) {
        if self.is_embryo() {
            self.slow &= !slow::EMBRYO;
            self.lifecycle = true;
        }
    }

    /// Once, when a connection that was made of a SYN with data is that no more: the listener that counts it, and why.
    pub(crate) fn ends_as_embryo(&mut self) -> Option<(Handle, Hatched)> {
        let over = self.state == TcpState::Closed;
        if self.is_embryo() && !over {
            return None;
        }
        let reset = self.cold.failure == Some(Failure::Reset);
        let listener = self.cold.fast_open.as_mut()?.listener.take()?;
        let outcome = match (over && self.is_embryo(), reset) {
            (true, true) => Hatched::Reset,
            (true, false) => Hatched::No,
            (false, _) => Hatched::Yes,
        };
        self.slow &= !slow::EMBRYO;
        Some((listener, outcome))
    }
}
