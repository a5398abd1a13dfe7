//! One connection: the state machine of RFC 9293, as data and as what segments, timers and calls do to it.
//!
//! The struct begins with what an expected segment needs; what only loss, set-up and curiosity need lies in a box apart. Methods
//! change the connection and send through an [`Env`]; they leave notes (`flush_due`, `lifecycle`, deadlines) that the layer
//! above acts on after each call. A connection knows neither its position in tables nor any other connection.
//!
//! - `expected`: the short way for nearly all segments, in and out. `input`: other segments in, by state. `receive`: their payload and FIN. `delayed_ack`: when to acknowledge it. `ack`: their acknowledgement. `news`: those that tell more than success. `recovery`: losses; by time: `rack`; by timeout: `loss`; the window meanwhile: `prr`; taken back: `undo`; a lost tail: `probe`.
//! - `logged`: what is in flight, once that is more than one burst. `cwnd`: the congestion window. `ecn`: marks; `accurate`: counted.
//! - `pacing`: when data goes out. `buffers`: their sizes.
//! - `transmit`: segments out. `timers`: deadlines. `user`: the application's calls. `info`: what it looks like from outside.

mod accurate;
mod ack;
mod buffers;
mod cwnd;
mod delayed_ack;
mod ecn;
mod expected;
mod fast_open;
mod info;
mod input;
mod layout;
mod logged;
mod loss;
mod mtu;
mod news;
mod pacing;
mod probe;
mod prr;
mod rack;
mod receive;
mod recovery;
mod timers;
mod transmit;
mod undo;
mod user;

use core::task::Waker;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use demi_drivers::Instant;
use demi_drivers::transport::{Handle, StreamOptions, TcpState};

use super::common::Common;
use super::config::TcpConfig;
use super::congestion::{Congestion, Window};
use super::flow_table::FlowV4;
use super::half_open::HalfOpen;
use super::output::{Flow, Output};
use super::rare::Rare;
use super::reassembly::Reassembly;
use super::recv_queue::RecvQueue;
use super::rto::RttEstimator;
use super::send_queue::SendQueue;
use super::sent_log::SentLog;
use super::seq::SeqNumber;
use crate::wire::tcp::{MAX_WINDOW_SCALE, Options};

use buffers::Buffers;
use cwnd::Usage;
use ecn::Ecn;
pub(crate) use ecn::agrees_to_ecn;
pub(crate) use expected::Incoming;
use fast_open::FastOpenPart;
pub(crate) use fast_open::Hatched;
pub(crate) use info::Failure;
use mtu::PathSize;
use pacing::Pacing;
use recovery::Recovery;

/// What a connection acts through.
pub(crate) struct Env<'a, O> {
    pub(crate) now: Instant,
    pub(crate) out: &'a mut O,
    pub(crate) common: &'a mut Common,
}

/// Whether the peer waits for an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AckDue {
    /// No.
    No,
    /// With the next data, or when a timer says so.
    Delayed,
    /// With the next flush.
    Now,
}

/// What the retransmission timer is armed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retransmit {
    /// Nothing.
    Off,
    /// An acknowledgement is awaited (RFC 6298).
    Rto,
    /// The peer's window is closed (RFC 9293 §3.8.6.1).
    Persist,
    /// The tail may be lost (RFC 8985 §7).
    Probe,
    /// What has been overtaken counts as lost before long (RFC 8985 §6.3).
    Reorder,
}

/// Reasons to leave the short path, as bits.
mod slow {
    /// Data has arrived out of order.
    pub(super) const REORDERED: u8 = 1;
    /// Duplicate acknowledgements, SACK blocks or a timeout: recovery looks at each acknowledgement.
    pub(super) const RECOVERY: u8 = 2;
    /// Received data is not wanted any more.
    pub(super) const UNREAD: u8 = 4;
    /// It was made of a SYN with data, and the handshake is not done (RFC 7413): the SYN-ACK is still to be acknowledged.
    pub(super) const EMBRYO: u8 = 128;
    /// The size of segments is being searched for (RFC 4821).
    pub(super) const SEARCH: u8 = 64;
    /// Marks of the network, or what we did about them, are to be told.
    pub(super) const ECN: u8 = 8;
    /// Acknowledgements wait for longer than usual, or nothing has come for a while.
    pub(super) const DELAY: u8 = 32;
    /// Data goes out at a rate.
    pub(super) const PACED: u8 = 16;
}

/// One connection. `P` is what the layers below remember of its path.
///
/// It lies on cache lines of its own, and each line is one thing: sequence numbers; windows and flags; who waits, and what they
/// read; what is sent; the timeout; deadlines and counters; the path.
#[repr(C, align(64))]
pub(crate) struct Connection<P> {
    /// Who it is, for IPv4; see `flow`.
    pub(crate) v4: FlowV4,
    pub(crate) state: TcpState,
    /// Bits of [`slow`]; zero in the expected case.
    slow: u8,
    /// Timestamps are in use.
    ts_ok: bool,
    /// Its packets go over the wire, not back to ourselves.
    pub(crate) wired: bool,
    snd_scale: u8,
    rcv_scale: u8,
    /// Largest payload of a segment that carries the usual options.
    snd_mss: u16,
    /// Next number expected from the peer.
    rcv_nxt: SeqNumber,
    /// The right edge of the window we offered: never moves left.
    rcv_adv: SeqNumber,
    /// The last acknowledgement we sent.
    rcv_acked: SeqNumber,
    /// The timestamp to echo.
    ts_recent: u32,
    /// First number not acknowledged.
    snd_una: SeqNumber,
    /// Next number to send: `snd_max`, but for a SYN that is to be sent again.
    snd_nxt: SeqNumber,
    /// The number behind the highest sent.
    snd_max: SeqNumber,
    /// The peer's window.
    snd_wnd: u32,
    /// Sequence and acknowledgement number of the segment that told it.
    snd_wl1: SeqNumber,
    snd_wl2: SeqNumber,
    window: Window,
    sack_ok: bool,
    /// The next acknowledgement may have SACK blocks to carry.
    sack_due: bool,
    /// Type of service and time to live of outgoing packets.
    tos: u8,
    ttl: u8,
    nodelay: bool,
    cork: bool,
    ack_due: AckDue,
    /// Acknowledgements still sent at once because the connection is new.
    quick_acks: u8,
    /// Data goes both ways in turns: acknowledgements wait for the reply.
    interactive: bool,
    retransmit: Retransmit,
    /// Sending is limited by the congestion window.
    cwnd_limited: bool,
    /// A round trip is being timed.
    timing: bool,
    /// The application has ended its direction: a FIN follows the queued data.
    fin_queued: bool,
    /// The peer's FIN has arrived, in order.
    fin_received: bool,
    /// The application has given the handle up.
    pub(crate) orphan: bool,
    /// Something is to be sent at the next flush.
    pub(crate) flush_due: bool,
    /// Is in the list of connections to be flushed.
    pub(crate) flush_queued: bool,
    /// The state has changed: the layer above has to look.
    pub(crate) lifecycle: bool,
    /// Largest payload received.
    rcv_mss: u16,
    /// What is added to the clock in timestamps.
    ts_offset: u32,
    /// Largest window the peer ever offered.
    max_snd_wnd: u32,
    /// End of the last partial segment sent (Minshall's variant of Nagle).
    snd_small: SeqNumber,
    /// End of the segment being timed, and when it was sent.
    timed_seq: SeqNumber,
    timed_at: Instant,
    recv_cap: u32,
    send_cap: u32,
    pub(crate) read_waker: Option<Waker>,
    pub(crate) write_waker: Option<Waker>,
    rx: RecvQueue,
    tx: SendQueue,
    last_recv_at: Instant,
    last_send_at: Instant,
    rtt: RttEstimator,
    retransmit_at: Instant,
    ack_at: Instant,
    /// The earliest of the rare timers.
    rare_at: Instant,
    /// When the wheel will call.
    pub(crate) armed_at: Instant,
    bytes_acked: u64,
    bytes_received: u64,
    segments_in: u64,
    segments_out: u64,
    pub(crate) cold: Box<Cold>,
    /// Hash of `flow` in the flow table.
    pub(crate) hash: u32,
    /// The flow table does not lead here any more.
    pub(crate) detached: bool,
    pub(crate) path: P,
    /// Who it is. Only IPv6 looks here for each segment.
    pub(crate) flow: Flow,
}

/// What only set-up, loss and curiosity need.
pub(crate) struct Cold {
    /// Our initial sequence number, and the peer's.
    iss: SeqNumber,
    irs: SeqNumber,
    /// The listener a half-open or not yet accepted connection belongs to.
    pub(crate) listener: Option<Handle>,
    /// Has been handed to the application, or was made by it.
    pub(crate) accepted: bool,
    /// Waits in the listener's queue of finished handshakes.
    pub(crate) ready: bool,
    failure: Option<Failure>,
    /// An error that ICMP told of: the reason to give, should the connection time out.
    soft_failure: Option<Failure>,
    /// Shared by all that were given the same.
    pub(crate) options: Rc<StreamOptions>,
    congestion: Congestion,
    usage: Usage,
    ecn: Ecn,
    pacing: Pacing,
    buffers: Buffers,
    recovery: Rare<Recovery>,
    /// What had been sent when recovery's phase began: it ends when that is acknowledged (RFC 6582 §3.2, recover).
    recovery_point: SeqNumber,
    /// Segments by which reordering was seen to displace others, at least the configured.
    reordering: u32,
    /// What is in flight, once that is more than one burst.
    sent: Option<Box<SentLog>>,
    reassembly: Rare<Reassembly>,
    /// Where the peer's FIN lies, when it came ahead of a gap.
    fin_at: Option<SeqNumber>,
    /// The MSS that the path allows, as the SYN tells it, and the peer's.
    local_mss: u16,
    peer_mss: u16,
    /// Shift of our windows, when the peer agrees.
    offered_scale: Option<u8>,
    offered_timestamps: bool,
    offered_sack: bool,
    /// The SYN or SYN-ACK is to be sent at the next flush.
    syn_due: bool,
    /// Transmissions of the SYN or SYN-ACK.
    syn_sent: u32,
    /// Timeouts in a row, probes of a closed window in a row, keepalive probes in a row.
    timeouts: u32,
    window_probes: u32,
    keepalive_probes: u32,
    /// When the peer was last heard, as of the last keepalive timer, and the earliest time of the next probe.
    keepalive_heard: Instant,
    keepalive_not_before: Instant,
    /// When the data now unacknowledged first timed out, less that timeout.
    stalled_since: Option<Instant>,
    cork_until: Instant,
    fin_wait_2_until: Instant,
    last_challenge: Option<Instant>,
    retransmitted: u64,
    /// How long an acknowledgement would wait that nothing else limits; anything below the least: that.
    ack_delay_ns: u64,
    /// Segments that arrived out of order.
    out_of_order: u32,
    /// What Fast Open has to remember, where it is used.
    fast_open: Option<Box<FastOpenPart>>,
    /// What has been learnt of the path's packet size.
    path_size: Option<Box<PathSize>>,
    read_shut: bool,
    /// The largest receive buffer there has been: what was offered of it may still arrive.
    recv_cap_peak: u32,
}

/// What decides how a new connection starts.
pub(crate) struct Start<'a> {
    pub(crate) flow: Flow,
    pub(crate) hash: u32,
    pub(crate) iss: SeqNumber,
    pub(crate) ts_offset: u32,
    /// The peer is somebody else.
    pub(crate) wired: bool,
    pub(crate) mtu: u16,
    pub(crate) options: &'a Rc<StreamOptions>,
    pub(crate) now: Instant,
}

/// Bytes of the IP header and the TCP header without options.
fn fixed_header_bytes(flow: &Flow) -> u16 {
    if flow.local.is_ipv6() { 60 } else { 40 }
}

/// What a peer's segments are taken to carry until one has been seen; as Linux, with either version of IP.
const FIRST_RECV_MSS: u16 = 536;

/// The MSS of peers that name none (RFC 9293 §3.7.1).
fn default_mss(flow: &Flow) -> u16 {
    if flow.local.is_ipv6() { 1220 } else { 536 }
}

/// The MSS that a SYN names; one of 0 is not believed.
pub(crate) fn believed_mss(flow: &Flow, syn: &Options) -> u16 {
    syn.mss.filter(|&mss| mss > 0).unwrap_or(default_mss(flow))
}

/// The MSS that packets of at most `mtu` bytes allow, as our SYN tells it.
pub(crate) fn local_mss(mtu: u16, flow: &Flow) -> u16 {
    mtu.saturating_sub(fixed_header_bytes(flow)).max(64)
}

/// The window scale that our SYN offers.
pub(crate) fn offered_scale(config: &TcpConfig) -> Option<u8> {
    config.window_scaling.then(|| scale_for(config.recv_buffer_max_bytes))
}

/// The window that our SYN offers, which is never scaled (RFC 7323 §2.2).
pub(crate) fn first_window(options: &StreamOptions, config: &TcpConfig) -> u16 {
    let asked = options.recv_buffer_bytes;
    cap_bytes(asked, config.recv_buffer_bytes, config.recv_buffer_max_bytes).min(65_535) as u16
}

/// The smallest shift that lets a window cover `bytes` (RFC 7323 §2).
fn scale_for(bytes: usize) -> u8 {
    let mut scale = 0;
    while scale < MAX_WINDOW_SCALE && (65_535usize << scale) < bytes {
        scale += 1;
    }
    scale
}

fn cap_bytes(asked: Option<usize>, default: usize, max: usize) -> u32 {
    asked.unwrap_or(default).clamp(2048, max.clamp(2048, 1 << 30)) as u32
}

impl<P: Default> Connection<P> {
    /// A connection that is about to send a SYN.
    pub(crate) fn connecting(start: &Start<'_>, config: &TcpConfig) -> Self {
        let mut connection = Connection::new(start, config);
        connection.state = TcpState::SynSent;
        connection.cold.accepted = true;
        connection.cold.syn_due = true;
        connection.flush_due = true;
        connection
    }

    /// The connection that a half-open one becomes with the acknowledgement of its SYN-ACK, which it has not seen yet.
    pub(crate) fn accepting(start: &Start<'_>, config: &TcpConfig, half_open: &HalfOpen) -> Self {
        let mut connection = Connection::new(start, config);
        connection.state = TcpState::SynReceived;
        connection.segments_in = 1;
        connection.segments_out = u64::from(half_open.sent);
        connection.cold.listener = Some(half_open.listener);
        connection.take_syn(half_open.irs, &half_open.options(), config);
        connection.take_first_window(half_open.irs, half_open.window);
        connection.rcv_adv = connection.rcv_nxt + u32::from(half_open.offered);
        connection.accept_ecn(half_open.ecn);
        connection.syn_ack_sent(half_open);
        connection
    }

    /// Takes over what a half-open connection has sent.
    fn syn_ack_sent(&mut self, half_open: &HalfOpen) {
        self.snd_nxt = half_open.iss + 1;
        self.snd_max = self.snd_nxt;
        self.cold.syn_sent = u32::from(half_open.sent);
        self.cold.retransmitted = u64::from(half_open.sent.saturating_sub(1));
        // RFC 6298 §3: what was sent once is measured; a cookie knows no time.
        self.timing = half_open.sent == 1;
        self.timed_seq = self.snd_nxt;
        self.timed_at = half_open.sent_at;
        self.last_send_at = half_open.sent_at;
    }

    fn new(start: &Start<'_>, config: &TcpConfig) -> Self {
        let options = start.options;
        let congestion = Congestion::new(options.congestion.unwrap_or(config.congestion), config.hystart);
        let local_mss = local_mss(start.mtu, &start.flow);
        let (recv_cap, send_cap) = buffers::first_caps(options, config);
        let window = congestion.initial(config.initial_window_segments, u32::from(default_mss(&start.flow)));
        let cold = Cold {
            iss: start.iss,
            irs: SeqNumber::default(),
            listener: None,
            accepted: false,
            ready: false,
            failure: None,
            soft_failure: None,
            options: Rc::clone(options),
            congestion,
            usage: Usage::new(start.iss, start.now),
            ecn: Ecn::new(options, config),
            pacing: Pacing::default(),
            buffers: Buffers::new(options, config),
            recovery: Rare::quiet(),
            recovery_point: start.iss,
            reordering: config.reordering_segments,
            sent: None,
            reassembly: Rare::quiet(),
            fin_at: None,
            local_mss,
            peer_mss: default_mss(&start.flow),
            offered_scale: offered_scale(config),
            offered_timestamps: config.timestamps,
            offered_sack: config.sack,
            syn_due: false,
            syn_sent: 0,
            timeouts: 0,
            window_probes: 0,
            keepalive_probes: 0,
            keepalive_heard: start.now,
            keepalive_not_before: Instant::ZERO,
            stalled_since: None,
            cork_until: Instant::FAR_FUTURE,
            fin_wait_2_until: Instant::FAR_FUTURE,
            last_challenge: None,
            retransmitted: 0,
            ack_delay_ns: 0,
            out_of_order: 0,
            fast_open: None,
            path_size: None,
            read_shut: false,
            recv_cap_peak: recv_cap,
        };
        let mut connection = Connection {
            v4: FlowV4::of(&start.flow),
            flow: start.flow,
            wired: start.wired,
            state: TcpState::Closed,
            slow: 0,
            rcv_nxt: SeqNumber::default(),
            rcv_adv: SeqNumber::default(),
            rcv_acked: SeqNumber::default(),
            ts_recent: 0,
            snd_una: start.iss,
            snd_nxt: start.iss,
            snd_max: start.iss,
            snd_wnd: 0,
            snd_wl1: SeqNumber::default(),
            snd_wl2: start.iss,
            window,
            snd_mss: default_mss(&start.flow).min(local_mss),
            snd_scale: 0,
            rcv_scale: 0,
            ts_ok: false,
            sack_ok: false,
            sack_due: false,
            tos: options.tos & !3,
            ttl: options.ttl.unwrap_or(64),
            nodelay: options.nodelay,
            cork: options.cork,
            ack_due: AckDue::No,
            quick_acks: config.quick_acks,
            interactive: false,
            retransmit: Retransmit::Off,
            cwnd_limited: false,
            timing: false,
            fin_queued: false,
            fin_received: false,
            orphan: false,
            flush_due: false,
            flush_queued: false,
            lifecycle: false,
            rcv_mss: FIRST_RECV_MSS.min(local_mss),
            ts_offset: start.ts_offset,
            max_snd_wnd: 0,
            snd_small: start.iss,
            timed_seq: start.iss,
            timed_at: Instant::ZERO,
            recv_cap,
            send_cap,
            read_waker: None,
            write_waker: None,
            rx: RecvQueue::default(),
            tx: SendQueue::new(start.iss + 1),
            rtt: RttEstimator::new(config.initial_rto),
            retransmit_at: Instant::FAR_FUTURE,
            ack_at: Instant::FAR_FUTURE,
            rare_at: Instant::FAR_FUTURE,
            armed_at: Instant::FAR_FUTURE,
            last_recv_at: start.now,
            last_send_at: start.now,
            bytes_acked: 0,
            bytes_received: 0,
            segments_in: 0,
            segments_out: 0,
            hash: start.hash,
            detached: false,
            path: P::default(),
            cold: Box::new(cold),
        };
        connection.update_pacing();
        connection
    }
}

impl<P> Connection<P> {
    fn set_state(&mut self, state: TcpState) {
        self.state = state;
        self.lifecycle = true;
    }

    /// Whether it was made of a SYN with data and its handshake is not done.
    #[inline]
    fn is_embryo(&self) -> bool {
        self.slow & slow::EMBRYO != 0
    }

    /// Whether the handshake is behind us and the connection not over.
    #[inline]
    fn is_synchronized(&self) -> bool {
        !matches!(
            self.state,
            TcpState::Closed
                | TcpState::Listen
                | TcpState::SynSent
                | TcpState::SynReceived
                | TcpState::TimeWait
        )
    }

    /// Whether our FIN has been sent, at least once.
    #[inline]
    fn fin_sent(&self) -> bool {
        self.fin_queued && self.snd_max.after(self.tx.end())
    }

    /// Whether the peer has acknowledged our FIN.
    #[inline]
    fn fin_acked(&self) -> bool {
        self.fin_queued && self.snd_una.after(self.tx.end())
    }

    /// Whether bytes, or the FIN, have never been sent (or are to be sent again after a timeout).
    #[inline]
    fn has_unsent(&self) -> bool {
        self.snd_nxt.before(self.tx.end()) || (self.fin_queued && self.snd_nxt.at_or_before(self.tx.end()))
    }

    /// Takes the options and the sequence number of the peer's SYN.
    fn take_syn(&mut self, seq: SeqNumber, syn: &Options, config: &TcpConfig) {
        self.cold.irs = seq;
        self.rcv_nxt = seq + 1;
        self.rcv_acked = self.rcv_nxt;
        self.rcv_adv = self.rcv_nxt;
        // RFC 7323 §2.2, §3.2; RFC 2018 §2: in use when both SYNs carry the option.
        match (self.cold.offered_scale, syn.window_scale) {
            (Some(ours), Some(theirs)) => {
                self.rcv_scale = ours;
                self.snd_scale = theirs;
            }
            _ => self.cold.offered_scale = None,
        }
        self.ts_ok = self.cold.offered_timestamps && syn.timestamps.is_some();
        self.cold.offered_timestamps = self.ts_ok;
        if let Some(timestamps) = syn.timestamps {
            self.ts_recent = timestamps.value;
        }
        self.sack_ok = self.cold.offered_sack && syn.sack_permitted;
        self.cold.offered_sack = self.sack_ok;
        // Nor is one believed that would make us send dust.
        self.cold.peer_mss = believed_mss(&self.flow, syn).max(config.min_send_mss_bytes);
        self.update_mss();
        let mss = u32::from(self.snd_mss);
        self.window = self.cold.congestion.initial(config.initial_window_segments, mss);
    }

    /// Takes the window of the peer's SYN, which is never scaled (RFC 7323 §2.2).
    fn take_first_window(&mut self, seq: SeqNumber, window: u16) {
        self.snd_wnd = u32::from(window);
        self.max_snd_wnd = self.snd_wnd;
        self.snd_wl1 = seq;
        self.snd_wl2 = self.snd_una;
    }

    /// Sends again, at the next flush, everything that is not acknowledged: it is lost, and congestion not to blame.
    fn send_all_again(&mut self) {
        if self.snd_una != self.snd_max {
            self.log().lose_all(Instant::FAR_FUTURE);
            self.enter_loss_without_congestion();
        }
    }

    /// Bytes the peer may still send us, as it knows.
    #[inline]
    pub(crate) fn offered_window(&self) -> u32 {
        self.rcv_adv.since(self.rcv_nxt)
    }

    /// The window field of the next segment (RFC 9293 §3.8.6.2.2), and with it a new right edge.
    #[inline]
    fn advance_window(&mut self) -> u16 {
        let (field, edge) = self.next_window();
        self.rcv_adv = edge;
        field
    }

    /// The window field of the next segment, and the right edge it moves to.
    #[inline(always)]
    fn next_window(&self) -> (u16, SeqNumber) {
        let offered = self.offered_window();
        let free = self.recv_cap.saturating_sub(self.rx.bytes());
        let step = u32::from(self.rcv_mss).min(self.recv_cap / 2);
        let (scale, unit) = (self.rcv_scale, 1 << self.rcv_scale);
        // The edge moves right by a worthwhile step or not at all, and never left.
        let mut field = if free >= offered + step { free >> scale } else { 0 };
        if field << scale < offered {
            // What the scale cannot say is rounded up, so that the edge does not move left; but never beyond the buffer's end, or
            // segments smaller than the scale's unit would push the edge on for ever, whether anybody reads or not. Rounded down,
            // the field says less than was offered before, which RFC 7323 §2.4 allows for, and what was offered is still taken.
            let up = (offered + unit - 1) >> scale;
            let whole = self.rx.bytes() + (up << scale);
            field = if whole <= self.recv_cap + unit { up } else { offered >> scale };
        }
        let field = field.min(65_535);
        let edge = self.rcv_nxt + (field << scale);
        (field as u16, edge.later(self.rcv_adv))
    }

    /// Ends the connection at once: nothing is sent, and whoever waits is told why.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.cold.failure.get_or_insert(failure);
        self.finish();
    }

    /// Ends a connection whose peer has not answered for too long, for the reason that routers gave, if any did.
    pub(crate) fn give_up(&mut self) {
        let failure = self.cold.soft_failure.take().unwrap_or(Failure::TimedOut);
        self.fail(failure);
    }

    /// Ends the connection at once.
    pub(crate) fn finish(&mut self) {
        self.set_state(TcpState::Closed);
        self.shed();
        self.wake_all();
    }

    /// Drops what only a living connection needs: timers, unsent data, gaps. What was received in order stays readable.
    fn shed(&mut self) {
        self.tx.clear();
        self.cold.reassembly = Rare::quiet();
        self.cold.sent = None;
        self.retransmit = Retransmit::Off;
        self.retransmit_at = Instant::FAR_FUTURE;
        self.ack_at = Instant::FAR_FUTURE;
        self.rare_at = Instant::FAR_FUTURE;
        self.ack_due = AckDue::No;
        self.flush_due = false;
    }

    fn wake_all(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }

    #[inline]
    fn wake_reader(&mut self) {
        if let Some(waker) = self.read_waker.take() {
            waker.wake();
        }
    }

    #[inline]
    fn wake_writer(&mut self) {
        if let Some(waker) = self.write_waker.take() {
            waker.wake();
        }
    }

    /// What must hold between any two events.
    #[inline]
    fn check_invariants(&self) {
        debug_assert!(
            self.snd_una.at_or_before(self.snd_nxt),
            "SND.UNA {:?} <= SND.NXT {:?}",
            self.snd_una,
            self.snd_nxt
        );
        debug_assert!(
            self.snd_nxt.at_or_before(self.snd_max),
            "SND.NXT {:?} <= SND.MAX {:?}",
            self.snd_nxt,
            self.snd_max
        );
        debug_assert!(
            u64::from(self.rx.bytes()) + self.cold.reassembly.bytes()
                <= u64::from(self.cold.recv_cap_peak) + (1 << self.rcv_scale) + u64::from(self.rcv_mss),
            "received bytes within the cap: {} unread and {} out of order of {}, scale {}, MSS {}",
            self.rx.bytes(),
            self.cold.reassembly.bytes(),
            self.cold.recv_cap_peak,
            self.rcv_scale,
            self.rcv_mss
        );
        debug_assert!(
            self.state != TcpState::Closed || self.next_deadline() == Instant::FAR_FUTURE,
            "no timer is armed when closed"
        );
    }
}

/// `duration` in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The error of calls on a connection whose sending side has ended.
fn broken_pipe() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the sending side of the connection is closed")
}

/// So that tests can be generic over the way out.
impl<O: Output> Env<'_, O> {
    /// Whether one more challenge ACK may go out (RFC 5961 §7).
    fn allow_challenge(&mut self) -> bool {
        let Common { secret, challenges, .. } = &mut *self.common;
        challenges.allow(self.now, || secret.random())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small_and_its_hot_part_leads() {
        let (hot, cold) = (size_of::<Connection<()>>(), size_of::<Cold>());
        assert!(hot + cold <= 1280, "{hot} + {cold} bytes");
        // Each concept begins where a cache line does.
        type Whole = Connection<[u64; 8]>;
        let lines = [
            core::mem::offset_of!(Whole, window),
            core::mem::offset_of!(Whole, read_waker),
            core::mem::offset_of!(Whole, tx),
            core::mem::offset_of!(Whole, rtt),
            core::mem::offset_of!(Whole, rare_at),
            core::mem::offset_of!(Whole, path),
            core::mem::offset_of!(Whole, flow),
            size_of::<Whole>(),
        ];
        assert_eq!(lines, core::array::from_fn(|line| 64 * (line + 1)));
    }
}
