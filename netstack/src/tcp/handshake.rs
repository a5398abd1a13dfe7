//! Connections that begin at a listener: a SYN becomes a half-open record or a cookie, and the acknowledgement that comes back
//! becomes a connection.
//!
//! SYN-ACKs go out at once, and again by a timer; they hold no more than the SYN did, so that nobody is hit through us by more than
//! was sent to us. What cannot be held is dropped or, by configuration, answered without being held (RFC 4987).

use std::rc::Rc;

use demi_drivers::transport::{Handle, StreamOptions};
use demi_drivers::{Buf, Instant};

use super::accurate_ecn::{self, Agreed};
use super::config::{EcnOption, SynCookies};
use super::connection::{self, Connection, Start, nanos};
use super::flow_table::Owner;
use super::half_open::{Answer, HalfOpen};
use super::listener::Listener;
use super::output::{Flow, Output, Refused, SegmentOut};
use super::rto::{clock_ms, elapsed_ns};
use super::seq::SeqNumber;
use super::{Tcp, env, syn_cookie};
use crate::wire::tcp::{FastOpen, HEADER_BYTES, Header, OptionBytes, Options, Timestamps, flags};

/// How soon a SYN-ACK goes out for which the transmit queue had no room, or the pool no slot.
const SYN_ACK_RETRY_NS: u64 = 1_000_000;

/// A segment and whom it concerns, as far as a listener needs to know.
pub(super) struct Arrived<'a> {
    pub(super) flow: &'a Flow,
    /// Of `flow`, in the flow table.
    pub(super) hash: u32,
    pub(super) header: &'a Header,
    /// Type of service of its packet.
    pub(super) tos: u8,
    /// From the header on.
    pub(super) segment: Buf,
}

/// What Fast Open makes of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// Its data is taken.
    Take,
    /// Its sender gets this cookie, for the next time.
    Give(FastOpen),
}

impl Arrived<'_> {
    fn options(&self) -> Options {
        let end = usize::from(self.header.header_bytes);
        Options::parse(self.segment.get(HEADER_BYTES..end).unwrap_or_default())
    }

    /// Bytes of payload.
    fn len(&self) -> u32 {
        (self.segment.len() - usize::from(self.header.header_bytes)) as u32
    }
}

impl<P: Default> Tcp<P> {
    /// A SYN for a listener (RFC 9293 §3.10.7.2, third step). `beyond`: our sequence numbers have to begin behind it.
    pub(super) fn on_syn<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        handle: Handle,
        arrived: &Arrived<'_>,
        beyond: Option<SeqNumber>,
    ) {
        let Some(listener) = self.listeners.slots.get_mut(handle) else { return };
        let queue_full = self.half_open.slots.is_full() || !listener.takes_syn();
        // As Linux, one that follows a connection in TIME-WAIT is known not to be forged.
        let cookie = beyond.is_none()
            && match self.common.config.syn_cookies {
                SynCookies::Never => false,
                SynCookies::OnOverflow => queue_full,
                SynCookies::Always => true,
            };
        if queue_full && !cookie && (beyond.is_none() || self.half_open.slots.is_full()) {
            self.common.stats.req_queue_full_drop += 1;
            self.common.stats.listen_drops += 1;
            return;
        }
        self.common.stats.req_queue_full_cookies += u64::from(cookie);
        let connections = self.connections.len() + self.half_open.slots.len();
        if !listener.takes_connection() || connections >= self.common.config.max_connections {
            self.common.stats.listen_overflows += u64::from(!listener.takes_connection());
            self.common.stats.listen_drops += 1;
            return;
        }
        let options = self.common.config.agreed(&arrived.options());
        let (flow, irs) = (arrived.flow, SeqNumber::new(arrived.header.seq));
        let ts_offset = self.common.secret.timestamp_offset(flow.local, flow.remote);
        let offered = connection::first_window(&listener.options.stream, &self.common.config);
        let ecn = connection::agrees_to_ecn(
            (arrived.header.flags, arrived.tos),
            &listener.options.stream,
            &self.common.config,
        );
        let record = |options: &Options, iss, ecn| {
            let numbers = (iss, ts_offset, offered);
            HalfOpen::new(flow, (arrived.hash, handle), (arrived.header, options, ecn), numbers, now)
        };
        let fast_open = match cookie {
            true => None,
            false => self.fast_open(now, handle, arrived),
        };
        let Some(listener) = self.listeners.slots.get_mut(handle) else { return };
        if cookie {
            listener.cookies_at = Some(now);
            self.common.stats.syncookies_sent += 1;
            // What the timestamp has to keep is lost without one.
            let bare = Options { window_scale: None, sack_permitted: false, ..options };
            let kept = if options.timestamps.is_some() { options } else { bare };
            let mss = connection::believed_mss(flow, &kept);
            let iss = syn_cookie::make(&self.common.secret, flow, irs, mss, now);
            // What is agreed on without a timestamp is forgotten (as Linux).
            let ecn = if kept.timestamps.is_some() { ecn } else { Agreed::No };
            let value = syn_cookie::timestamp(clock_ms(now), &kept, ecn != Agreed::No);
            let _ = self.send_syn_ack(out, &record(&kept, iss, ecn), value, None);
            return;
        }
        let mut iss = self.common.secret.isn(flow, now);
        if let Some(beyond) = beyond.filter(|beyond| iss.before(*beyond)) {
            iss = beyond;
        }
        let mut half_open = record(&options, iss, ecn);
        let give = match fast_open {
            Some(Offer::Take) => return self.take_syn_data(now, out, &half_open, arrived),
            Some(Offer::Give(option)) => Some(option),
            None => None,
        };
        let sent = self.send_syn_ack(out, &half_open, clock_ms(now), give);
        half_open.sent = u8::from(sent != Err(Refused::Full));
        let Ok(place) = self.half_open.slots.insert(half_open) else { return };
        if let Some(listener) = self.listeners.slots.get_mut(handle) {
            listener.half_open += 1;
        }
        self.flows.insert(arrived.hash, Owner::HalfOpen(place.index));
        if sent == Err(Refused::Full) {
            self.try_syn_ack_soon(now, place.index);
        } else {
            self.arm_half_open(now, place.index, 0);
        }
    }

    /// There was no way out for a first SYN-ACK: it is tried again before its sender could miss it.
    fn try_syn_ack_soon(&mut self, now: Instant, index: u32) {
        self.half_open.wheel.arm(index, now.plus_nanos(SYN_ACK_RETRY_NS));
        self.note_records();
    }

    /// The first SYN-ACK of a half-open connection has not left yet.
    #[cold]
    fn retry_syn_ack<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, index: u32) {
        let Some(half_open) = self.half_open.slots.at(index).cloned() else { return };
        if elapsed_ns(now, half_open.sent_at) > nanos(self.common.config.initial_rto) {
            // As if the SYN had been lost: its sender tries again.
            self.common.stats.listen_drops += 1;
            self.forget_half_open(index);
            return;
        }
        if self.send_syn_ack(out, &half_open, clock_ms(now), None) == Err(Refused::Full) {
            return self.try_syn_ack_soon(now, index);
        }
        if let Some(half_open) = self.half_open.slots.at_mut(index) {
            (half_open.sent, half_open.sent_at) = (1, now);
        }
        self.arm_half_open(now, index, 0);
    }

    /// What Fast Open makes of a SYN (RFC 7413 §4.2.2); `None`: nothing, it is an ordinary one.
    fn fast_open(&mut self, now: Instant, handle: Handle, arrived: &Arrived<'_>) -> Option<Offer> {
        let config = &self.common.config.fast_open;
        let asked = arrived.options().fast_open;
        if asked.is_some_and(|option| option.cookie().is_empty()) {
            self.common.stats.fast_open_cookie_reqd += 1;
        }
        let listener = self.listeners.slots.get_mut(handle)?;
        let own = listener.options.fast_open;
        let limit = own.or_else(|| config.all_listeners.then_some(listener.syn_backlog()))?;
        if !config.server || limit == 0 || (asked.is_none() && arrived.len() == 0) {
            return None;
        }
        if !listener.takes_fast_open(limit, now) {
            self.common.stats.fast_open_listen_overflow += 1;
            return None;
        }
        if config.server_without_cookie {
            return Some(Offer::Take);
        }
        let option = asked?;
        let give = self.common.fast_opens.cookie_for(arrived.flow)?;
        let give = Some(Offer::Give(give.as_experiment(option.experimental)));
        if option.cookie().is_empty() {
            return give;
        }
        match self.common.fast_opens.check(arrived.flow, &option) {
            Some(in_force) => {
                self.common.stats.fast_open_passive_alt_key += u64::from(!in_force);
                Some(Offer::Take)
            }
            None => {
                self.common.stats.fast_open_passive_fail += 1;
                give
            }
        }
    }

    /// Makes a connection of a SYN alone, with its data, that waits to be accepted before its handshake is done.
    fn take_syn_data<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        half_open: &HalfOpen,
        arrived: &Arrived<'_>,
    ) {
        let handle = half_open.listener;
        let Some(listener) = self.listeners.slots.get_mut(handle) else { return };
        let start = start_of(now, out, half_open, &listener.stream);
        let mut connection = Connection::accepting(&start, &self.common.config, half_open);
        let mut payload = arrived.segment.clone();
        payload.advance(usize::from(arrived.header.header_bytes));
        connection.take_syn_data(handle, payload);
        let Ok(place) = self.connections.insert(connection) else { return };
        listener.fast_opens += 1;
        listener.ready.push_back(place);
        if let Some(waker) = listener.waker.take() {
            waker.wake();
        }
        self.common.stats.fast_open_passive += 1;
        self.flows.insert(half_open.hash, Owner::Connection(place.index));
        self.settle(now, place.index);
    }

    /// Arms the timer of a SYN-ACK that has timed out so many times (RFC 6298 §5.5).
    fn arm_half_open(&mut self, now: Instant, index: u32, timeouts: u8) {
        let rto_ns = nanos(self.common.config.initial_rto).saturating_mul(1 << timeouts.min(32));
        let at = now.plus_nanos(rto_ns.min(self.common.bounds.max_ns));
        self.half_open.wheel.arm(index, at);
        self.note_records();
    }

    /// Sends the SYN-ACK of a half-open connection. `clock`: what its timestamp says, our offset not yet added.
    fn send_syn_ack<O: Output<Path = P>>(
        &mut self,
        out: &mut O,
        half_open: &HalfOpen,
        clock: u32,
        fast_open: Option<FastOpen>,
    ) -> Result<(), Refused> {
        let Some(listener) = self.listeners.slots.get(half_open.listener) else { return Ok(()) };
        let syn = half_open.options();
        let timestamps = syn.timestamps.map(|timestamps| Timestamps {
            value: clock.wrapping_add(half_open.ts_offset),
            echo: timestamps.value,
        });
        let flow = &half_open.flow;
        let mss = connection::local_mss(out.mtu(flow.remote), flow);
        let scale = syn.window_scale.and(connection::offered_scale(&self.common.config));
        let (bits, counts) = self.tell_ecn(half_open);
        let sack = syn.sack_permitted;
        let mut options = OptionBytes::for_syn(mss, sack, timestamps, scale);
        if let Some(fast_open) = &fast_open {
            options = options.with_fast_open(fast_open);
        }
        if counts {
            let counts = accurate_ecn::first_option();
            let fast_open = fast_open.as_ref();
            options = OptionBytes::for_syn_ack(mss, sack, timestamps, scale, fast_open, &counts);
        }
        let stream = &listener.options.stream;
        let segment = SegmentOut {
            seq: half_open.iss.get(),
            ack: (half_open.irs + 1).get(),
            flags: flags::SYN | flags::ACK | bits,
            window: half_open.offered,
            urgent: 0,
            options: options.as_slice(),
            tos: stream.tos & !3,
            ttl: stream.ttl.unwrap_or(64),
            gso_bytes: 0,
        };
        out.send(flow, &mut P::default(), &segment, &mut [])?;
        if half_open.sent == 0 {
            self.common.stats.out_segs += 1;
        } else {
            self.common.stats.retrans_segs += 1;
            self.common.stats.syn_retrans += 1;
        }
        Ok(())
    }

    /// What a SYN-ACK says of ECN in its flags, and whether it carries the option of Accurate ECN. Either may be what a middlebox
    /// drops it for: the first that goes again has no option, those that follow a timeout of that neither (RFC 9768 §3.2.3.2.2,
    /// §3.1.5, as Linux).
    fn tell_ecn(&self, half_open: &HalfOpen) -> (u16, bool) {
        match half_open.ecn {
            Agreed::No => (0, false),
            Agreed::Classic => (flags::ECE, false),
            Agreed::Accurate { .. } if half_open.sent > 1 && half_open.timeouts > 1 => (0, false),
            Agreed::Accurate { arrived, .. } => {
                let first = half_open.sent == 0;
                (accurate_ecn::reflect(arrived), first && self.common.config.ecn_option != EcnOption::Never)
            }
        }
    }

    /// Sends a SYN-ACK again.
    fn repeat_syn_ack<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, index: u32) {
        let Some(half_open) = self.half_open.slots.at_mut(index) else { return };
        if half_open.sent == 0 {
            // It has not left yet, and will soon.
            return;
        }
        half_open.sent = half_open.sent.saturating_add(1);
        let half_open = half_open.clone();
        let _ = self.send_syn_ack(out, &half_open, clock_ms(now), None);
    }

    /// A SYN-ACK was not acknowledged in time.
    pub(super) fn on_half_open_timeout<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
    ) {
        let Some(half_open) = self.half_open.slots.at_mut(index) else { return };
        if half_open.sent == 0 {
            return self.retry_syn_ack(now, out, index);
        }
        let (before, acked) = (half_open.timeouts, half_open.acked);
        let timeouts = before.saturating_add(1);
        half_open.timeouts = timeouts;
        let listener = self.listeners.slots.get(half_open.listener);
        let own = listener.and_then(|listener| listener.options.stream.syn_retries);
        let deferred = self.deferred_timeouts(listener);
        self.common.stats.timeouts += 1;
        let tired = u32::from(before) >= own.unwrap_or(self.common.config.syn_ack_retries);
        // As Linux, whoever has only to send data may be late.
        if tired && !(acked && before < deferred) {
            self.common.stats.attempt_fails += 1;
            self.forget_half_open(index);
            return;
        }
        // And is not asked again before the last moment, whose acknowledgement makes a connection even without data.
        if !acked || before.saturating_add(1) >= deferred {
            self.repeat_syn_ack(now, out, index);
        }
        self.arm_half_open(now, index, timeouts);
    }

    /// Timeouts of a SYN-ACK for which a listener waits for data with the end of the handshake.
    fn deferred_timeouts(&self, listener: Option<&Listener>) -> u8 {
        let initial_ns = nanos(self.common.config.initial_rto);
        listener.map_or(0, |listener| listener.deferred_timeouts(initial_ns, self.common.bounds.max_ns))
    }

    /// Whether a listener would rather have data with the end of a handshake, and waits for it; noted, if so. `bare`: there is neither
    /// data nor a FIN.
    fn defers(&mut self, index: u32, bare: bool, timestamps: Option<Timestamps>) -> bool {
        let Some(half_open) = self.half_open.slots.at(index).filter(|_| bare) else { return false };
        let deferred = self.deferred_timeouts(self.listeners.slots.get(half_open.listener));
        let defers = half_open.timeouts < deferred;
        if defers && let Some(half_open) = self.half_open.slots.at_mut(index) {
            half_open.acked = true;
            half_open.ts_recent = timestamps.map_or(half_open.ts_recent, |timestamps| timestamps.value);
            self.common.stats.defer_accept_drop += 1;
        }
        defers
    }

    /// Takes a half-open connection out of all tables.
    pub(super) fn forget_half_open(&mut self, index: u32) -> Option<HalfOpen> {
        let half_open = self.half_open.remove(index)?;
        self.note_records();
        self.flows.remove(half_open.hash, Owner::HalfOpen(index));
        if let Some(listener) = self.listeners.slots.get_mut(half_open.listener) {
            listener.half_open = listener.half_open.saturating_sub(1);
        }
        Some(half_open)
    }

    /// Resets the half-open connections of a listener that is gone. A loop over all of them.
    pub(super) fn reset_half_open<O: Output<Path = P>>(&mut self, out: &mut O, listener: Handle) {
        for index in 0..self.half_open.slots.positions() {
            if self.half_open.slots.at(index).is_some_and(|half_open| half_open.listener == listener)
                && let Some(half_open) = self.forget_half_open(index)
            {
                self.answer_from(out, &half_open, flags::RST | flags::ACK, None);
            }
        }
    }

    /// Sends a segment without data from where a half-open connection stands. `clock`: of its timestamp.
    fn answer_from<O: Output<Path = P>>(
        &mut self,
        out: &mut O,
        half_open: &HalfOpen,
        bits: u16,
        clock: Option<u32>,
    ) {
        let options = half_open.options();
        let timestamps = options.timestamps.zip(clock).map(|(timestamps, clock)| Timestamps {
            value: clock.wrapping_add(half_open.ts_offset),
            echo: timestamps.value,
        });
        let scale = options.window_scale.and(connection::offered_scale(&self.common.config)).unwrap_or(0);
        let reset = bits & flags::RST != 0;
        let options = OptionBytes::for_segment(timestamps, &[]);
        let segment = SegmentOut {
            seq: (half_open.iss + 1).get(),
            ack: (half_open.irs + 1).get(),
            flags: bits,
            window: if reset { 0 } else { half_open.offered >> scale },
            urgent: 0,
            options: options.as_slice(),
            tos: 0,
            ttl: 64,
            gso_bytes: 0,
        };
        if out.send(&half_open.flow, &mut P::default(), &segment, &mut []).is_ok() {
            self.common.stats.out_segs += 1;
            self.common.stats.out_rsts += u64::from(reset);
        }
    }

    /// A segment of a half-open connection.
    #[inline(never)]
    pub(super) fn for_half_open<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        index: u32,
        arrived: Arrived<'_>,
    ) {
        let Some(half_open) = self.half_open.slots.at_mut(index) else { return };
        let interval_ns = nanos(self.common.config.challenge_ack_interval);
        let timestamps = arrived.options().timestamps.filter(|_| half_open.options().timestamps.is_some());
        let answer = half_open.on_segment(arrived.header, arrived.len(), timestamps);
        match answer {
            Answer::Ignore => {}
            Answer::SynAck => {
                half_open.syn_again(arrived.header.flags, arrived.tos);
                if half_open.may_challenge(now, interval_ns) {
                    self.repeat_syn_ack(now, out, index);
                }
            }
            Answer::Challenge | Answer::Paws | Answer::OtherSyn => {
                self.common.stats.paws_estab += u64::from(answer == Answer::Paws);
                self.common.stats.syn_challenge += u64::from(answer == Answer::OtherSyn);
                let secret = &mut self.common.secret;
                if half_open.may_challenge(now, interval_ns)
                    && self.common.challenges.allow(now, || secret.random())
                {
                    self.common.stats.challenge_acks += 1;
                    let half_open = half_open.clone();
                    self.answer_from(out, &half_open, flags::ACK, Some(clock_ms(now)));
                }
            }
            Answer::Reject(_) => {
                self.reset_stranger(now, out, arrived.flow, arrived.header, arrived.segment.len());
            }
            Answer::Forget => {
                self.common.stats.attempt_fails += 1;
                self.forget_half_open(index);
            }
            Answer::Complete => {
                let bare = arrived.len() == 0 && arrived.header.flags & flags::FIN == 0;
                if !self.defers(index, bare, timestamps) {
                    self.complete(now, out, index, arrived);
                }
            }
        }
    }

    /// The handshake's last acknowledgement: what was half-open becomes a connection, if anybody may wait for it.
    fn complete<O: Output<Path = P>>(&mut self, now: Instant, out: &mut O, index: u32, arrived: Arrived<'_>) {
        let Some(half_open) = self.half_open.slots.at(index).cloned() else { return };
        if !self.may_accept(half_open.listener) {
            if self.common.config.abort_on_overflow {
                self.forget_half_open(index);
                self.reset_stranger(now, out, arrived.flow, arrived.header, arrived.segment.len());
            }
            // Else the handshake stays open: the SYN-ACK's timer asks again.
            return;
        }
        self.forget_half_open(index);
        self.establish_from(now, out, &half_open, arrived);
    }

    /// Whether another finished handshake may wait at a listener; counted, if not.
    fn may_accept(&mut self, listener: Handle) -> bool {
        let takes = self.listeners.slots.get(listener).is_some_and(|listener| listener.takes_connection());
        self.common.stats.listen_overflows += u64::from(!takes);
        let room = takes && !self.connections.is_full();
        self.common.stats.listen_drops += u64::from(!room);
        room
    }

    /// Makes the connection that a half-open one has become, and hands it the segment that has made it so.
    fn establish_from<O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        half_open: &HalfOpen,
        arrived: Arrived<'_>,
    ) {
        let Some(listener) = self.listeners.slots.get(half_open.listener) else { return };
        let start = start_of(now, out, half_open, &listener.stream);
        let connection = Connection::accepting(&start, &self.common.config, half_open);
        let Ok(place) = self.connections.insert(connection) else { return };
        self.flows.insert(half_open.hash, Owner::Connection(place.index));
        if let Some(connection) = self.connections.at_mut(place.index) {
            connection.on_other(&mut env!(self, now, out), (arrived.header, arrived.tos), arrived.segment);
        }
        self.settle(now, place.index);
    }

    /// An acknowledgement of nothing that the listener remembers: perhaps of a cookie. Gives the segment back if it is not.
    pub(super) fn on_cookie<'a, O: Output<Path = P>>(
        &mut self,
        now: Instant,
        out: &mut O,
        handle: Handle,
        arrived: Arrived<'a>,
    ) -> Option<Arrived<'a>> {
        let Some(listener) = self.listeners.slots.get(handle) else { return Some(arrived) };
        let handed_out = listener
            .cookies_at
            .is_some_and(|at| now.as_nanos().saturating_sub(at.as_nanos()) <= syn_cookie::VALID_NS);
        if !handed_out || self.common.config.syn_cookies == SynCookies::Never {
            return Some(arrived);
        }
        let (flow, header) = (arrived.flow, arrived.header);
        let (irs, cookie) = (SeqNumber::new(header.seq) - 1, SeqNumber::new(header.ack) - 1);
        let Some(mss) = syn_cookie::check(&self.common.secret, flow, irs, cookie, now) else {
            self.common.stats.syncookies_failed += 1;
            return Some(arrived);
        };
        self.common.stats.syncookies_recv += 1;
        let ts_offset = self.common.secret.timestamp_offset(flow.local, flow.remote);
        let mut ecn = Agreed::No;
        let mut syn = Options { mss: Some(mss), ..Options::default() };
        if let Some(timestamps) = arrived.options().timestamps {
            let (scale, sack, asked) = syn_cookie::offered(timestamps.echo.wrapping_sub(ts_offset));
            // RFC 9768 §5.1: which of the two was agreed on is told by the acknowledgement's own flags.
            ecn = match (asked, accurate_ecn::ace(header.flags)) {
                (false, _) => Agreed::No,
                (true, 2..) if self.common.config.ecn.agrees_to_accurate() => {
                    Agreed::Accurate { arrived: accurate_ecn::NOT_ECT, doubtful: false }
                }
                (true, _) => Agreed::Classic,
            };
            syn = Options { window_scale: scale, sack_permitted: sack, timestamps: Some(timestamps), ..syn };
        }
        if self.common.config.agreed(&syn) != syn || header.flags & flags::SYN != 0 {
            // It echoes what we have never said.
            return Some(arrived);
        }
        if !self.may_accept(handle) {
            return None;
        }
        let offered =
            self.listeners.slots.get(handle).map_or(0, |listener| {
                connection::first_window(&listener.options.stream, &self.common.config)
            });
        let syn_header = Header { seq: irs.get(), ..*header };
        let numbers = (cookie, ts_offset, offered);
        let half_open = HalfOpen::new(flow, (arrived.hash, handle), (&syn_header, &syn, ecn), numbers, now);
        self.establish_from(now, out, &half_open, arrived);
        None
    }
}

/// How the connection starts that a half-open one becomes.
fn start_of<'a, O: Output>(
    now: Instant,
    out: &O,
    half_open: &HalfOpen,
    options: &'a Rc<StreamOptions>,
) -> Start<'a> {
    let flow = half_open.flow;
    Start {
        flow,
        hash: half_open.hash,
        iss: half_open.iss,
        ts_offset: half_open.ts_offset,
        wired: !out.is_local(flow.remote),
        mtu: out.mtu(flow.remote),
        options,
        now,
    }
}
