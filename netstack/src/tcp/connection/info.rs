//! What a connection looks like from outside: why it ended, its options, and Linux's `tcp_info`.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use demi_drivers::Instant;
use demi_drivers::transport::{
    Protocol, SocketEntry, SocketTimer, StreamOptions, TcpInfo, TcpState, TimerKind,
};

use super::super::IcmpError;
use super::super::config::TcpConfig;
use super::super::seq::SeqNumber;
use super::{Connection, Retransmit};
use crate::gone::Gone;

/// Why a connection ended other than by FIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A RST answered the SYN.
    Refused,
    /// A RST ended it.
    Reset,
    /// A RST ended our side, after the peer's FIN.
    BrokenPipe,
    /// The peer did not answer for too long.
    TimedOut,
    /// No way to the peer.
    HostUnreachable,
    /// No way to the peer's network.
    NetworkUnreachable,
    /// A firewall on the way said no.
    Prohibited,
    /// Our own device is no more.
    Gone(Rc<Gone>),
}

impl Failure {
    pub(crate) fn to_error(&self) -> io::Error {
        let (kind, text) = match self {
            Failure::Refused => (
                io::ErrorKind::ConnectionRefused,
                "connection refused: the host answered, but nobody listens on that port",
            ),
            Failure::Reset => (io::ErrorKind::ConnectionReset, "connection reset by peer"),
            Failure::BrokenPipe => {
                (io::ErrorKind::BrokenPipe, "the peer has closed and reset the connection")
            }
            Failure::TimedOut => (
                io::ErrorKind::TimedOut,
                "connection timed out: the peer stopped answering, or a firewall drops its packets",
            ),
            Failure::HostUnreachable => (
                io::ErrorKind::HostUnreachable,
                "no route to host: its link address did not resolve, or a router gave up on it",
            ),
            Failure::NetworkUnreachable => {
                (io::ErrorKind::NetworkUnreachable, "network is unreachable: a router has no route to it")
            }
            Failure::Prohibited => {
                (io::ErrorKind::HostUnreachable, "host is unreachable: a firewall prohibits it")
            }
            Failure::Gone(gone) => return gone.to_error(),
        };
        io::Error::new(kind, text)
    }
}

impl<P> Connection<P> {
    /// Our address.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        SocketAddr::new(self.flow.local, self.flow.local_port)
    }

    /// The peer's.
    pub(crate) fn peer_addr(&self) -> SocketAddr {
        SocketAddr::new(self.flow.remote, self.flow.remote_port)
    }

    /// Why the connection ended: once, but for a device that is gone, which no half of a stream may take for an orderly end.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        let failure = self.cold.failure.take()?;
        if let Failure::Gone(gone) = &failure {
            self.cold.failure = Some(Failure::Gone(Rc::clone(gone)));
        }
        Some(failure.to_error())
    }

    /// An ICMP error quoted a segment of ours that began with `seq`.
    /// Answers whether it is to be believed.
    pub(crate) fn on_icmp_error(&mut self, seq: SeqNumber, error: IcmpError) -> bool {
        // RFC 5927 §4.1: whoever cannot quote a number in flight has not seen our segments.
        let in_flight = seq.at_or_after(self.snd_una) && seq.before(self.snd_max);
        if !in_flight || matches!(self.state, TcpState::Closed | TcpState::TimeWait) {
            return in_flight;
        }
        let failure = match error {
            IcmpError::NetworkUnreachable => Failure::NetworkUnreachable,
            IcmpError::HostUnreachable | IcmpError::TimeExceeded => Failure::HostUnreachable,
            IcmpError::ConnectionRefused | IcmpError::ParameterProblem => Failure::Refused,
            IcmpError::Prohibited => Failure::Prohibited,
        };
        match self.state {
            // RFC 1122 §4.2.3.9 lets errors end a connection that has not begun, as Linux does.
            TcpState::SynSent if error != IcmpError::TimeExceeded => self.fail(failure),
            // RFC 5927 §5: on a living one they are only the reason to give if it dies.
            _ => self.cold.soft_failure = Some(failure),
        }
        true
    }

    /// Puts options in force. Ports and addresses are taken already.
    pub(crate) fn set_options(&mut self, options: &Rc<StreamOptions>, config: &TcpConfig) {
        let old = core::mem::replace(&mut self.cold.options, Rc::clone(options));
        self.nodelay = options.nodelay;
        self.set_tos(options.tos);
        self.ttl = options.ttl.unwrap_or(64);
        self.cork = options.cork;
        if (old.cork && !options.cork) || (!old.nodelay && options.nodelay) {
            self.cold.cork_until = Instant::FAR_FUTURE;
            // What was held back goes out.
            self.flush_due |= self.is_synchronized() && self.has_unsent();
        }
        if old.keepalive != options.keepalive {
            self.cold.keepalive_probes = 0;
            self.cold.keepalive_not_before = Instant::ZERO;
        }
        if let Some(kind) = options.congestion
            && kind != self.cold.congestion.kind()
        {
            self.set_congestion(kind, config);
        }
        self.update_pacing();
        self.set_buffers(&old, config);
        if !matches!(self.state, TcpState::Closed | TcpState::TimeWait) {
            self.update_rare_timer();
        }
    }

    /// The connection as `ss` lists it.
    pub(crate) fn entry(&self, now: Instant, config: &TcpConfig) -> SocketEntry {
        let mut entry = SocketEntry::new(Protocol::Tcp, self.state, self.local_addr());
        entry.remote = Some(self.peer_addr());
        let info = self.info(config);
        entry.recv_queue = info.unread_bytes;
        entry.send_queue = info.unacked_bytes + info.not_sent_bytes;
        entry.timer = self.listed_timer(now);
        entry.orphan = self.orphan;
        entry.congestion = Some(self.cold.congestion.kind());
        entry.info = Some(info);
        entry
    }

    /// What it waits for first, as `ss -o` shows it.
    fn listed_timer(&self, now: Instant) -> Option<SocketTimer> {
        let timer = |kind, at, retries| {
            Some(SocketTimer { kind, left: super::super::listing::left(now, at), retries })
        };
        let cold = &self.cold;
        match self.retransmit {
            Retransmit::Persist => timer(TimerKind::Persist, self.retransmit_at, cold.window_probes),
            Retransmit::Off if self.rare_at < Instant::FAR_FUTURE => {
                timer(TimerKind::KeepAlive, self.rare_at, cold.keepalive_probes)
            }
            Retransmit::Off => None,
            _ => timer(TimerKind::Retransmit, self.retransmit_at, cold.timeouts),
        }
    }

    /// Linux's `tcp_info`.
    pub(crate) fn info(&self, config: &TcpConfig) -> TcpInfo {
        let micros = |ns: u64| u32::try_from(ns / 1000).unwrap_or(u32::MAX);
        let mss = u32::from(self.snd_mss);
        let mut info = TcpInfo::default();
        info.state = self.state;
        info.timestamps = self.ts_ok;
        info.sack = self.sack_ok;
        (info.syn_data, info.fast_open_failure) = self.fast_open_outcome();
        info.send_window_scale = self.snd_scale;
        info.recv_window_scale = self.rcv_scale;
        info.rto_us = micros(self.rtt.rto_ns());
        info.rtt_us = micros(self.rtt.srtt_ns());
        info.rttvar_us = micros(self.rtt.rttvar_ns());
        info.min_rtt_us = self.rtt.min_rtt_ns().map_or(0, micros);
        info.send_mss_bytes = mss;
        info.recv_mss_bytes = u32::from(self.rcv_mss);
        info.advertised_mss_bytes = u32::from(self.cold.local_mss);
        info.ack_timeout_us = micros(self.cold.ack_delay_ns);
        info.path_mtu_bytes = u32::from(self.path_mtu_bytes());
        info.cwnd_bytes = u64::from(self.window.cwnd);
        info.ssthresh_bytes = u64::from(self.window.ssthresh);
        info.send_window_bytes = u64::from(self.snd_wnd);
        info.recv_window_bytes = u64::from(self.offered_window());
        info.unacked_bytes = u64::from(self.snd_max - self.snd_una);
        info.not_sent_bytes = u64::from(self.tx.end().since(self.snd_max));
        info.unread_bytes = u64::from(self.rx.bytes());
        info.unacked_segments = self.segments_outstanding();
        let recovery = &self.cold.recovery;
        if let Some(log) = self.cold.sent.as_ref().filter(|log| !self.timing && !log.is_empty()) {
            info.lost_segments = log.lost().segments;
            info.sacked_segments = log.sacked().segments;
            info.retransmissions_in_flight = log.retrans().segments;
        }
        if !self.sack_ok {
            info.sacked_segments = recovery.duplicates;
        }
        info.congestion_state = recovery.phase as u8;
        info.reordering_segments = self.cold.reordering;
        info.reordering_seen = recovery.reord_seen;
        info.duplicate_segments = recovery.dsack_dups;
        info.out_of_order_segments = self.cold.out_of_order;
        info.timeouts = self.cold.timeouts;
        if let Some(log) = &self.cold.sent
            && log.delivery.rate.1 > 0
        {
            let (bytes, ns, limited) = log.delivery.rate;
            let rate = u128::from(bytes) * 1_000_000_000 / u128::from(ns);
            info.delivery_rate = u64::try_from(rate).unwrap_or(u64::MAX);
            info.delivery_rate_app_limited = limited;
        }
        info.backoff = u32::from(self.rtt.backoff());
        info.retransmitted_segments = self.cold.retransmitted;
        info.bytes_acked = self.bytes_acked;
        info.pacing_rate = self.rate_to_pace_at(config);
        info.max_pacing_rate = self.cold.options.max_pacing_rate.unwrap_or(u64::MAX);
        let (recv_rtt_ns, recv_space_bytes) = self.recv_space();
        info.recv_rtt_us = micros(recv_rtt_ns);
        info.recv_space_bytes = recv_space_bytes;
        (info.ecn, info.ecn_seen) = self.ecn_in_use();
        info.bytes_acked_ce = self.cold.ecn.delivered_ce;
        self.tell_counts(&mut info);
        info.bytes_delivered = self.delivered();
        info.bytes_received = self.bytes_received;
        info.segments_out = self.segments_out;
        info.segments_in = self.segments_in;
        info
    }
}

impl<P> Connection<P> {
    /// What is left of the connection in TIME-WAIT.
    pub(crate) fn record(&mut self, now: Instant) -> super::super::time_wait::Record {
        let window_field = self.advance_window();
        super::super::time_wait::Record {
            flow: self.flow,
            hash: self.hash,
            snd_nxt: self.snd_max,
            rcv_nxt: self.rcv_nxt,
            window_field,
            ts_recent: self.ts_ok.then_some(self.ts_recent),
            ts_offset: self.ts_offset,
            ttl: self.ttl,
            tos: self.control_tos(),
            since: now,
        }
    }
}
