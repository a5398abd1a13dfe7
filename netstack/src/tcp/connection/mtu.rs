//! The size of segments: what the path carries, as routers tell (RFC 1191, RFC 8201) and as trying shows (RFC 4821).
//!
//! A search has two bounds: what has got through and what may. It begins when nothing gets through any more, as Linux's with
//! `tcp_mtu_probing` of 1, or with the connection; a larger segment goes out whenever there is enough to send, and narrows the bounds.
//! Its loss is nobody's congestion. Nothing here runs for a segment while there is no search.

use demi_drivers::Instant;

use super::super::config::{MtuProbing, TcpConfig};
use super::super::output::Output;
use super::super::rto::elapsed_ns;
use super::super::seq::SeqNumber;
use super::{Connection, Env, fixed_header_bytes, local_mss, nanos, slow};
use crate::path_mtu;

/// Timeouts after which a path is taken for a black hole, as a power of two of the least timeout (Linux's `tcp_retries1`).
const BLACK_HOLE_RETRIES: u32 = 3;
/// Segments that must fit the congestion window, the probe aside, lest its loss leave too few to notice (RFC 4821 §7.4).
const MIN_CWND_SEGMENTS: u32 = 11;
/// Segments behind a probe whose acknowledgements tell of its loss.
const BEHIND_PROBE: u32 = 4;

/// What a connection remembers of its path.
#[derive(Debug)]
pub(super) struct PathSize {
    /// When what a router said is forgotten.
    raise_at: Instant,
    search: Option<Search>,
}

/// A search for the largest payload that gets through.
#[derive(Clone, Copy, Debug)]
struct Search {
    /// Payload that gets through, and payload that may.
    low: u16,
    high: u16,
    /// The probe that is on its way: its first number, and its payload.
    probe: Option<(SeqNumber, u16)>,
    /// When a search that has ended begins anew.
    again_at: Instant,
}

/// What a search wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// Nothing: send as usual.
    No,
    /// Nothing to be sent until there is room for a probe.
    Wait,
    /// A segment with so much payload.
    Send(u32),
}

impl Default for PathSize {
    fn default() -> Self {
        PathSize { raise_at: Instant::FAR_FUTURE, search: None }
    }
}

impl<P> Connection<P> {
    /// Payload bytes a segment: what both ends allow, less the options that every segment carries (RFC 6691 §3.1).
    fn largest_payload(&self) -> u16 {
        let options = if self.ts_ok { 12 } else { 0 };
        self.cold.peer_mss.min(self.cold.local_mss).saturating_sub(options).max(16)
    }

    /// Computes the payload of segments anew.
    pub(super) fn update_mss(&mut self) {
        let largest = self.largest_payload();
        self.snd_mss = match self.cold.path_size.as_mut().and_then(|size| size.search.as_mut()) {
            Some(search) => {
                search.high = search.high.min(largest);
                search.low = search.low.min(search.high);
                search.low
            }
            None => largest,
        };
    }

    /// The path carries packets of at most `mtu` bytes (RFC 1191 §6.5, RFC 8201 §5.4), said a router that quoted `seq`. Answers
    /// whether that is to be believed.
    pub(crate) fn on_path_mtu(&mut self, now: Instant, seq: SeqNumber, mtu: u16) -> bool {
        // RFC 5927 §4.1: the quoted segment must be one of those in flight.
        if !self.is_synchronized() || !seq.within(self.snd_una, self.snd_max) {
            return false;
        }
        let mtu = path_mtu::believed(self.flow.local.is_ipv6(), mtu);
        let mss = local_mss(mtu, &self.flow);
        if mss < self.cold.local_mss {
            if self.snd_una != self.snd_max {
                self.log();
            }
            self.cold.local_mss = mss;
            self.cold.path_size.get_or_insert_default().raise_at = now + path_mtu::EXPIRY;
            let before = self.snd_mss;
            self.update_mss();
            self.update_rare_timer();
            if self.snd_mss < before {
                // What was too big is lost without a doubt; send it again in the new size, without blaming congestion.
                self.lose_oversize();
            }
        }
        true
    }

    /// When the path has to be looked at again.
    pub(super) fn path_size_at(&self) -> Instant {
        self.cold.path_size.as_ref().map_or(Instant::FAR_FUTURE, |size| size.raise_at)
    }

    /// What a router said is forgotten: the path may carry more by now (RFC 1191 §6.3).
    pub(super) fn raise_path_mtu<O: Output<Path = P>>(&mut self, env: &mut Env<'_, O>) {
        let Some(size) = self.cold.path_size.as_mut().filter(|size| size.raise_at <= env.now) else { return };
        size.raise_at = Instant::FAR_FUTURE;
        self.cold.local_mss = local_mss(env.out.mtu(self.flow.remote), &self.flow);
        self.update_mss();
    }

    /// The IP packets that the connection sends have at most so many bytes.
    pub(super) fn path_mtu_bytes(&self) -> u16 {
        self.cold.local_mss + fixed_header_bytes(&self.flow)
    }

    // ---- the search ----

    fn search_mut(&mut self) -> Option<&mut Search> {
        self.cold.path_size.as_mut()?.search.as_mut()
    }

    /// Begins a search.
    fn begin_search(&mut self, config: &TcpConfig, now: Instant) {
        let high = self.largest_payload();
        let search = Search {
            low: config.base_mss_bytes.min(high),
            high,
            probe: None,
            again_at: now + config.mtu_probe_interval,
        };
        self.cold.path_size.get_or_insert_default().search = Some(search);
        self.slow |= slow::SEARCH;
        self.update_mss();
    }

    /// The handshake is done.
    pub(super) fn search_from_the_start<O>(&mut self, env: &Env<'_, O>) {
        if env.common.config.mtu_probing == MtuProbing::Always {
            self.begin_search(&env.common.config, env.now);
        }
    }

    /// Another timeout: a path on which nothing gets through for long may swallow what is large.
    pub(super) fn on_black_hole<O>(&mut self, env: &Env<'_, O>) {
        let config = &env.common.config;
        if let Some(search) = self.search_mut() {
            // As Linux: what has to be sent again decides nothing about the probe.
            search.probe = None;
        }
        let waited_ns = self.cold.stalled_since.map_or(0, |since| elapsed_ns(env.now, since));
        let patience_ns = nanos(config.min_rto).saturating_mul((2 << BLACK_HOLE_RETRIES) - 1);
        if config.mtu_probing == MtuProbing::Never || waited_ns < patience_ns {
            return;
        }
        let Some(search) = self.search_mut() else { return self.begin_search(config, env.now) };
        let smaller = (search.low / 2).min(config.base_mss_bytes);
        search.low = smaller.max(config.mtu_probe_floor_bytes).max(config.min_send_mss_bytes).min(search.low);
        self.update_mss();
    }

    /// What a search wants sent now (RFC 4821 §7.4, as Linux).
    #[cold]
    pub(super) fn next_probe<O>(&mut self, env: &Env<'_, O>) -> Probe {
        self.wanted_probe(env).unwrap_or(Probe::No)
    }

    fn wanted_probe<O>(&mut self, env: &Env<'_, O>) -> Option<Probe> {
        let (cwnd, in_flight) = (self.window.cwnd, self.in_flight());
        let quiet = self.slow & (slow::RECOVERY | slow::REORDERED) == 0;
        let unsent = self.tx.end().since(self.snd_nxt);
        let room = (self.snd_una + self.snd_wnd).since(self.snd_nxt);
        let (mss, again) = (u32::from(self.snd_mss), self.snd_nxt.before(self.snd_max));
        let largest = self.largest_payload();
        let seq = self.snd_nxt;
        let search = self.search_mut()?;
        if search.probe.is_some() || again || !quiet || cwnd < MIN_CWND_SEGMENTS * mss {
            return None;
        }
        if search.high.saturating_sub(search.low) < env.common.config.mtu_probe_threshold_bytes {
            if search.again_at <= env.now && search.low < largest {
                search.high = largest;
                search.again_at = env.now + env.common.config.mtu_probe_interval;
            }
            return None;
        }
        let size = u32::from(search.low).midpoint(u32::from(search.high)).max(mss + 1);
        let needed = size + BEHIND_PROBE * mss;
        let window = self.snd_wnd;
        if unsent < needed || window < needed || self.tx.gatherable(seq, size) < size {
            return None;
        }
        if room >= needed && in_flight + size + mss <= cwnd {
            return Some(Probe::Send(size));
        }
        // Acknowledgements make room, and flush again.
        (in_flight > 0).then_some(Probe::Wait)
    }

    /// A probe of `len` bytes has gone out.
    pub(super) fn probe_sent(&mut self, seq: SeqNumber, len: u32) {
        if let Some(search) = self.search_mut() {
            search.probe = Some((seq, len as u16));
        }
    }

    /// An acknowledgement has come: perhaps the probe's.
    pub(super) fn probe_acked<O>(&mut self, env: &mut Env<'_, O>) {
        let una = self.snd_una;
        let Some(search) = self.search_mut() else { return };
        if let Some((seq, len)) = search.probe
            && una.at_or_after(seq + u32::from(len))
        {
            search.probe = None;
            search.low = len;
            env.common.stats.mtu_probe_success += 1;
            self.update_mss();
        }
    }

    /// A loss has been found. Answers whether it was the probe's alone, so that congestion is not to blame (RFC 4821 §7.6.2).
    pub(super) fn probe_lost<O>(&mut self, env: &mut Env<'_, O>) -> bool {
        let una = self.snd_una;
        let Some(search) = self.search_mut() else { return false };
        match search.probe.take() {
            Some((seq, len)) if seq == una => {
                search.high = len - 1;
                env.common.stats.mtu_probe_fail += 1;
                true
            }
            _ => false,
        }
    }
}
