//! Buffers that size themselves: the receive buffer, and with it the window, to what is read in a round trip; the send buffer to the
//! congestion window.
//!
//! Both begin small, grow up to a configured size each and a share of the pool all together, and are given back when the connection
//! is idle or memory runs out. A size that the application asked for stays as it is. What a window has offered is never taken
//! back: a smaller buffer shows as the window is used up. Only flushes off the short way come by here.

use demi_drivers::transport::{CongestionControl, StreamOptions};
use demi_drivers::{Instant, Pool};

use super::super::common::Scarce;
use super::super::config::TcpConfig;
use super::super::output::Output;
use super::super::rare::Rare;
use super::super::rto::elapsed_ns;
use super::super::seq::SeqNumber;
use super::{Connection, Env, cap_bytes};

/// A connection that has been silent for so long gives back what its buffers have grown by.
const IDLE_NS: u64 = 30_000_000_000;
/// As Linux: what is read in the first round trip is measured against an initial window.
const FIRST_SPACE_SEGMENTS: u32 = 10;
/// The send buffer of a connection without congestion control, which has no window to follow.
const UNCONTROLLED_SEND_BYTES: usize = 512 << 10;

/// Bytes that every connection may queue, however little memory is left.
pub(super) const UNSHARED_BYTES: u32 = 4096;
/// While memory is short, one connection gets at most this part of what is left.
const SHARE_DIVISOR: usize = 4;

/// What sizes the buffers of one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffers {
    /// The application has not asked for a size.
    auto_recv: bool,
    auto_send: bool,
    /// Bytes the two have grown by.
    grown_bytes: u32,
    /// The window's worth whose arrival is timed: a round trip, if the window is what limits the peer.
    window_end: SeqNumber,
    window_at: Instant,
    /// The shortest such time; 0: none yet.
    rtt_ns: u64,
    /// What had been read when the present round trip began, when that was, and what was read in the one before.
    read_seq: SeqNumber,
    read_at: Instant,
    space_bytes: u32,
    /// When a connection that has grown is looked at for idleness.
    idle_at: Instant,
    /// The turn in which the first was kept of what is unread, if memory was scarce then.
    kept_at: Instant,
}

impl Buffers {
    pub(super) fn new(options: &StreamOptions, config: &TcpConfig) -> Self {
        Buffers {
            auto_recv: options.recv_buffer_bytes.is_none() && config.moderate_recv_buffer,
            auto_send: options.send_buffer_bytes.is_none(),
            grown_bytes: 0,
            window_end: SeqNumber::default(),
            window_at: Instant::ZERO,
            rtt_ns: 0,
            read_seq: SeqNumber::default(),
            read_at: Instant::ZERO,
            space_bytes: 0,
            idle_at: Instant::FAR_FUTURE,
            kept_at: Instant::ZERO,
        }
    }

    /// When a connection that has grown is looked at.
    pub(super) fn idle_at(&self) -> Instant {
        self.idle_at
    }
}

/// Bytes that a receive and a send buffer begin with.
pub(super) fn first_caps(options: &StreamOptions, config: &TcpConfig) -> (u32, u32) {
    let recv = cap_bytes(options.recv_buffer_bytes, config.recv_buffer_bytes, config.recv_buffer_max_bytes);
    let free = options.congestion.unwrap_or(config.congestion) == CongestionControl::None;
    let send = config.send_buffer_bytes.max(if free { UNCONTROLLED_SEND_BYTES } else { 0 });
    (recv, cap_bytes(options.send_buffer_bytes, send, 1 << 30))
}

/// Payload bytes that the buffers of all connections may have grown by: half of the pool.
fn shared_limit(pool: &Pool) -> u64 {
    (pool.stats().slots / 2 * pool.small_capacity()) as u64
}

impl<P> Connection<P> {
    /// Another size may have been asked for.
    pub(super) fn set_buffers(&mut self, old: &StreamOptions, config: &TcpConfig) {
        let options = &self.cold.options;
        let (recv, send) = first_caps(options, config);
        let buffers = &mut self.cold.buffers;
        if old.send_buffer_bytes != options.send_buffer_bytes {
            buffers.auto_send = options.send_buffer_bytes.is_none();
            let more = send > self.send_cap;
            self.send_cap = send;
            if more {
                self.wake_writer();
            }
        }
        let options = &self.cold.options;
        if old.recv_buffer_bytes != options.recv_buffer_bytes {
            self.cold.buffers.auto_recv = options.recv_buffer_bytes.is_none() && config.moderate_recv_buffer;
            // A window once offered is not taken back: a smaller buffer shows as the old window is used up.
            self.recv_cap = recv;
            self.cold.recv_cap_peak = self.cold.recv_cap_peak.max(recv);
        }
    }

    /// Before an acknowledgement may go out: sees how much is read in a round trip (Linux's `tcp_rcv_space_adjust`).
    pub(super) fn moderate<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        let buffers = &self.cold.buffers;
        if !buffers.auto_recv {
            return;
        }
        if buffers.window_at == Instant::ZERO || self.rcv_nxt.at_or_after(buffers.window_end) {
            self.time_window(env.now);
        }
        let read_seq = self.rcv_nxt - self.rx.bytes();
        let srtt_ns = self.rtt.srtt_ns();
        let buffers = &mut self.cold.buffers;
        let took_ns = elapsed_ns(env.now, buffers.read_at);
        // A window that fills slowly because the peer has little to say is no round trip.
        let rtt_ns = if srtt_ns > 0 { buffers.rtt_ns.min(4 * srtt_ns) } else { buffers.rtt_ns };
        if buffers.rtt_ns == 0 || took_ns < rtt_ns {
            return;
        }
        let all = u64::from(read_seq.since(buffers.read_seq));
        let read = if took_ns > 2 * rtt_ns { all * rtt_ns / took_ns } else { all } as u32;
        let before = buffers.space_bytes.max(1);
        (buffers.read_seq, buffers.read_at) = (read_seq, env.now);
        if read <= before {
            return;
        }
        buffers.space_bytes = read;
        // Room for the peer to double its window, as in slow start, and a little for the reader; more, as it speeds up.
        let mut want = 2 * u64::from(read) + 16 * u64::from(self.rcv_mss);
        want += 2 * (want * u64::from(read - before) / u64::from(before));
        let most = (env.common.config.recv_buffer_max_bytes as u64).min(65_535 << self.rcv_scale);
        let want = want.min(most) as u32;
        if want > self.recv_cap && self.may_grow(env, want - self.recv_cap) {
            self.recv_cap = want;
            self.cold.recv_cap_peak = self.cold.recv_cap_peak.max(want);
        }
    }

    /// A window's worth has arrived, or the first of one.
    fn time_window(&mut self, now: Instant) {
        let end = self.rcv_nxt + self.offered_window().max(1);
        let read_seq = self.rcv_nxt - self.rx.bytes();
        let first = FIRST_SPACE_SEGMENTS * u32::from(self.rcv_mss);
        let buffers = &mut self.cold.buffers;
        if buffers.window_at == Instant::ZERO {
            (buffers.read_seq, buffers.read_at, buffers.space_bytes) = (read_seq, now, first);
        } else {
            let took_ns = elapsed_ns(now, buffers.window_at).max(1000);
            buffers.rtt_ns = if buffers.rtt_ns == 0 { took_ns } else { buffers.rtt_ns.min(took_ns) };
        }
        (buffers.window_end, buffers.window_at) = (end, now);
    }

    /// When the congestion window has grown, so does what may be queued for it (Linux's `tcp_sndbuf_expand`).
    #[inline]
    pub(super) fn expand_send_buffer<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        if self.window.cwnd > self.send_cap / 2 && self.cold.buffers.auto_send {
            let most = env.common.config.send_buffer_max_bytes.min(1 << 30) as u32;
            let want = self.window.cwnd.saturating_mul(2).min(most);
            if want > self.send_cap && self.may_grow(env, want - self.send_cap) {
                self.send_cap = want;
                self.wake_writer();
            }
        }
    }

    /// Bytes that may be queued for sending as far as the pool is concerned. Once a quarter of it is out, memory is for those who can send
    /// what lies in it: twice what the windows let out, and at most a part of what is left. A peer that takes nothing then holds up
    /// a few segments and no more, however many of them there are. Whoever is refused has more than [`UNSHARED_BYTES`] queued, and hears
    /// of it when these are acknowledged.
    #[inline(never)]
    pub(super) fn share(&self, pool: &Pool) -> u32 {
        let stats = pool.stats();
        let free = stats.slots.saturating_sub(stats.slots_out);
        if free >= stats.slots / 4 * 3 {
            return u32::MAX;
        }
        let window = self.window.cwnd.min(self.snd_wnd);
        let sendable = 2 * window.min(1 << 30) + 2 * u32::from(self.snd_mss);
        let part = u32::try_from(free * pool.small_capacity() / SHARE_DIVISOR).unwrap_or(u32::MAX);
        sendable.min(part).max(UNSHARED_BYTES)
    }

    /// Whether `bytes` that have arrived at `seq` may be kept while memory is scarce. Whoever has less than its share unread may; whoever has
    /// nothing unread may have a segment, and all that comes in the same turn as long as there is enough; and when what is left is
    /// needed to hear at all, nobody may, but for what fills a gap: what lies behind that is dropped for it, and comes again. What an
    /// application does not read leaves room for what others do read, and for acknowledgements, which are what gives memory back.
    pub(super) fn may_keep<O>(&mut self, env: &mut Env<'_, O>, seq: SeqNumber, bytes: usize) -> bool {
        let Some(scarce) = &mut env.common.scarce else { return true };
        let Scarce { free, kept, share_bytes } = *scarce;
        let keep = if !self.rx.is_empty() {
            let all = self.rx.bytes() as usize + bytes;
            free > kept && all <= share_bytes || free > 2 * kept && self.cold.buffers.kept_at == env.now
        } else if free > kept / 2 {
            self.cold.buffers.kept_at = env.now;
            true
        } else if seq == self.rcv_nxt && !self.cold.reassembly.is_empty() {
            self.cold.reassembly = Rare::quiet();
            env.common.stats.ofo_pruned += 1;
            true
        } else {
            false
        };
        scarce.free -= usize::from(keep && free > 0);
        keep
    }

    /// What arrived could not be kept: offers no more than a few segments from now on, until more is read (Linux's `tcp_clamp_window`).
    pub(super) fn shrink_recv_buffer<O>(&mut self, env: &mut Env<'_, O>) {
        if !self.cold.buffers.auto_recv {
            return;
        }
        let (least, _) = first_caps(&self.cold.options, &env.common.config);
        let cap = self.rx.bytes().max(4 * u32::from(self.rcv_mss)).max(UNSHARED_BYTES);
        if cap < self.recv_cap {
            // What it had grown by is others' again.
            let back = self.recv_cap.saturating_sub(least.max(cap)).min(self.cold.buffers.grown_bytes);
            self.cold.buffers.grown_bytes -= back;
            env.common.grown_bytes = env.common.grown_bytes.saturating_sub(u64::from(back));
            self.recv_cap = cap;
            self.cold.buffers.space_bytes = 0;
        }
    }

    /// Takes `bytes` of what all connections may grow by, if there is so much left.
    fn may_grow<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>, bytes: u32) -> bool {
        let pool = env.out.pool();
        let limit = shared_limit(pool).min(env.common.config.buffers_max_bytes as u64);
        if env.common.grown_bytes + u64::from(bytes) > limit || !pool.has_spare() {
            env.common.stats.memory_pressures += 1;
            return false;
        }
        env.common.grown_bytes += u64::from(bytes);
        self.cold.buffers.grown_bytes += bytes;
        if self.cold.buffers.idle_at == Instant::FAR_FUTURE {
            self.cold.buffers.idle_at = env.now.plus_nanos(IDLE_NS);
            self.update_rare_timer();
        }
        true
    }

    /// Gives back what is not used any more, if the connection is idle.
    pub(super) fn on_idle_timer<O>(&mut self, env: &mut Env<'_, O>) {
        if self.cold.buffers.idle_at > env.now {
            return;
        }
        let quiet = self.snd_una == self.snd_max && self.rx.is_empty() && self.tx.len() == 0;
        let last = self.last_recv_at.max(self.last_send_at);
        if quiet && elapsed_ns(env.now, last) >= IDLE_NS {
            let (recv, send) = first_caps(&self.cold.options, &env.common.config);
            (self.recv_cap, self.send_cap) = (recv.min(self.recv_cap), send.min(self.send_cap));
            let taken = self.give_back();
            env.common.grown_bytes = env.common.grown_bytes.saturating_sub(taken);
            self.cold.buffers.space_bytes = 0;
            self.cold.buffers.rtt_ns = 0;
            self.cold.buffers.window_at = Instant::ZERO;
        } else {
            self.cold.buffers.idle_at = last.plus_nanos(IDLE_NS).max(env.now.plus_nanos(IDLE_NS / 4));
        }
    }

    /// What the buffers have grown by, which is not this connection's any more.
    pub(crate) fn give_back(&mut self) -> u64 {
        self.cold.buffers.idle_at = Instant::FAR_FUTURE;
        u64::from(core::mem::take(&mut self.cold.buffers.grown_bytes))
    }

    /// The round trip as the receiver's side sees it, in nanoseconds, and what is read in one.
    pub(super) fn recv_space(&self) -> (u64, u32) {
        (self.cold.buffers.rtt_ns, self.cold.buffers.space_bytes)
    }
}
