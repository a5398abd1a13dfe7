//! Sockets listed as `ss -tuanoi` lists them: one value a socket, which prints as its lines.
//!
//! A listing is a copy of what a transport knew at one moment. It is for people and for tests; nothing on a datapath makes one.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::options::{CongestionControl, TcpInfo, TcpState};

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What a connection's timer waits for, under `ss`'s names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerKind {
    /// `on`: an acknowledgement.
    Retransmit,
    /// `keepalive`: the next question whether the peer is there; or a FIN that does not come.
    KeepAlive,
    /// `timewait`: the end of TIME-WAIT.
    TimeWait,
    /// `persist`: the peer's window to open.
    Persist,
}

/// The timer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketTimer {
    /// What it waits for.
    pub kind: TimerKind,
    /// Time until it ends.
    pub left: Duration,
    /// How often it has ended in vain.
    pub retries: u32,
}

/// One socket.
///
/// It prints as `ss -ti` shows it: one line, and for a connection that is alive a second one with what TCP knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketEntry {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its state; of a UDP socket: established when it is connected, else closed.
    pub state: TcpState,
    /// Bytes received and not read; of a listener: connections that wait to be accepted.
    pub recv_queue: u64,
    /// Bytes not acknowledged; of a listener: how many may wait.
    pub send_queue: u64,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// What is waited for.
    pub timer: Option<SocketTimer>,
    /// The application has closed it.
    pub orphan: bool,
    /// How its congestion is controlled.
    pub congestion: Option<CongestionControl>,
    /// What TCP knows of the connection.
    pub info: Option<TcpInfo>,
}

impl SocketEntry {
    /// A socket of which no more is known.
    pub fn new(protocol: Protocol, state: TcpState, local: SocketAddr) -> SocketEntry {
        SocketEntry {
            protocol,
            state,
            recv_queue: 0,
            send_queue: 0,
            local,
            remote: None,
            timer: None,
            orphan: false,
            congestion: None,
            info: None,
        }
    }

    /// The first line of a listing.
    pub const HEADER: &'static str =
        "Netid State      Recv-Q Send-Q       Local Address:Port         Peer Address:Port ";

    fn state_name(&self) -> &'static str {
        match (self.protocol, self.state) {
            (Protocol::Udp, TcpState::Closed) => "UNCONN",
            (_, TcpState::Established) => "ESTAB",
            (_, TcpState::SynSent) => "SYN-SENT",
            (_, TcpState::SynReceived) => "SYN-RECV",
            (_, TcpState::FinWait1) => "FIN-WAIT-1",
            (_, TcpState::FinWait2) => "FIN-WAIT-2",
            (_, TcpState::TimeWait) => "TIME-WAIT",
            (_, TcpState::Closed) => "CLOSED",
            (_, TcpState::CloseWait) => "CLOSE-WAIT",
            (_, TcpState::LastAck) => "LAST-ACK",
            (_, TcpState::Listen) => "LISTEN",
            (_, TcpState::Closing) => "CLOSING",
        }
    }
}

/// An address as `ss` writes it: `*` for a port that is open.
fn show(address: SocketAddr) -> String {
    match address.port() {
        0 => format!("{}:*", host(address)),
        port => format!("{}:{port}", host(address)),
    }
}

fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

/// A time as `ss` writes it: `340ms`, `1.2sec`, `2min3sec`.
fn show_time(time: Duration) -> String {
    let (seconds, millis) = (time.as_secs(), time.subsec_millis());
    match seconds {
        60.. => match (seconds / 60, seconds % 60) {
            (minutes, 0) => format!("{minutes}min"),
            (minutes, seconds) => format!("{minutes}min{seconds}sec"),
        },
        10.. => format!("{seconds}sec"),
        1.. => format!("{seconds}.{:01}sec", millis / 100),
        0 => format!("{millis}ms"),
    }
}

/// Milliseconds of `micros`, with as few digits as `%g` writes.
fn millis(micros: u32) -> String {
    let text = format!("{:.3}", f64::from(micros) / 1000.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn show_rate(bits: f64) -> String {
    let units = [(1e9, "Gbps"), (1e6, "Mbps"), (1e3, "Kbps")];
    match units.into_iter().find(|(size, _)| bits >= *size) {
        Some((size, unit)) => format!("{:.1}{unit}", bits / size),
        None => format!("{bits:.0}bps"),
    }
}

impl fmt::Display for SocketEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = if self.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        let open = SocketAddr::new(
            if self.local.is_ipv6() {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            },
            0,
        );
        write!(
            f,
            "{protocol:<5} {:<10} {:<6} {:<6} {:>25} {:>25} ",
            self.state_name(),
            self.recv_queue,
            self.send_queue,
            show(self.local),
            show(self.remote.unwrap_or(open))
        )?;
        if let Some(timer) = &self.timer {
            let kind = match timer.kind {
                TimerKind::Retransmit => "on",
                TimerKind::KeepAlive => "keepalive",
                TimerKind::TimeWait => "timewait",
                TimerKind::Persist => "persist",
            };
            write!(f, "timer:({kind},{},{})", show_time(timer.left), timer.retries)?;
        }
        if self.orphan {
            f.write_str(" orphan")?;
        }
        match &self.info {
            Some(info) => {
                f.write_str("\n\t")?;
                self.write_info(f, info)
            }
            None => Ok(()),
        }
    }
}

impl SocketEntry {
    /// The second line, in `ss`'s order.
    fn write_info(&self, f: &mut fmt::Formatter<'_>, info: &TcpInfo) -> fmt::Result {
        let mss = u64::from(info.send_mss_bytes.max(1));
        let segments = |bytes: u64| bytes.div_ceil(mss);
        let words = [
            (info.timestamps, " ts"),
            (info.sack, " sack"),
            (info.ecn, " ecn"),
            (info.ecn_seen, " ecnseen"),
            (info.syn_data, " fastopen"),
        ];
        for (on, word) in words {
            f.write_str(if on { word } else { "" })?;
        }
        if let Some(congestion) = self.congestion {
            write!(f, " {}", congestion.name())?;
        }
        if info.send_window_scale > 0 || info.recv_window_scale > 0 {
            write!(f, " wscale:{},{}", info.send_window_scale, info.recv_window_scale)?;
        }
        write!(f, " rto:{}", millis(info.rto_us))?;
        if info.backoff > 0 {
            write!(f, " backoff:{}", info.backoff)?;
        }
        if info.rtt_us > 0 {
            write!(f, " rtt:{}/{}", millis(info.rtt_us), millis(info.rttvar_us))?;
        }
        if info.ack_timeout_us > 0 {
            write!(f, " ato:{}", millis(info.ack_timeout_us))?;
        }
        write!(f, " mss:{mss}")?;
        if info.path_mtu_bytes > 0 {
            write!(f, " pmtu:{}", info.path_mtu_bytes)?;
        }
        write!(f, " rcvmss:{}", info.recv_mss_bytes)?;
        if info.advertised_mss_bytes > 0 {
            write!(f, " advmss:{}", info.advertised_mss_bytes)?;
        }
        write!(f, " cwnd:{}", info.cwnd_bytes / mss)?;
        // No threshold is a very large one.
        if info.ssthresh_bytes < 1 << 30 {
            write!(f, " ssthresh:{}", info.ssthresh_bytes / mss)?;
        }
        for (name, value) in [
            ("bytes_acked", info.bytes_acked),
            ("bytes_received", info.bytes_received),
            ("segs_out", info.segments_out),
            ("segs_in", info.segments_in),
        ] {
            if value > 0 {
                write!(f, " {name}:{value}")?;
            }
        }
        if info.rtt_us > 0 {
            let bits = info.cwnd_bytes as f64 * 8.0 * 1e6 / f64::from(info.rtt_us);
            write!(f, " send {}", show_rate(bits))?;
        }
        for (name, bytes_a_second) in
            [("pacing_rate", info.pacing_rate), ("delivery_rate", info.delivery_rate)]
        {
            if bytes_a_second > 0 && bytes_a_second < u64::MAX {
                write!(f, " {name} {}", show_rate(bytes_a_second as f64 * 8.0))?;
            }
        }
        if info.bytes_delivered > 0 {
            write!(f, " delivered:{}", segments(info.bytes_delivered))?;
        }
        if info.delivery_rate_app_limited {
            f.write_str(" app_limited")?;
        }
        if info.unacked_bytes > 0 {
            write!(f, " unacked:{}", segments(info.unacked_bytes))?;
        }
        if info.retransmitted_segments > 0 {
            write!(f, " retrans:{}/{}", info.backoff, info.retransmitted_segments)?;
        }
        if info.lost_segments > 0 {
            write!(f, " lost:{}", info.lost_segments)?;
        }
        if info.recv_rtt_us > 0 {
            write!(f, " rcv_rtt:{}", millis(info.recv_rtt_us))?;
        }
        if info.recv_space_bytes > 0 {
            write!(f, " rcv_space:{}", info.recv_space_bytes)?;
        }
        if info.not_sent_bytes > 0 {
            write!(f, " notsent:{}", info.not_sent_bytes)?;
        }
        if info.min_rtt_us > 0 {
            write!(f, " minrtt:{}", millis(info.min_rtt_us))?;
        }
        write!(f, " snd_wnd:{} rcv_wnd:{}", info.send_window_bytes, info.recv_window_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_reads_as_ss_shows_it() {
        let mut entry =
            SocketEntry::new(Protocol::Tcp, TcpState::Established, "10.0.0.1:7000".parse().unwrap());
        entry.remote = Some("10.0.0.2:40000".parse().unwrap());
        entry.send_queue = 2000;
        entry.timer =
            Some(SocketTimer { kind: TimerKind::Retransmit, left: Duration::from_millis(204), retries: 0 });
        entry.congestion = Some(CongestionControl::Cubic);
        let mut info = TcpInfo { timestamps: true, sack: true, ..TcpInfo::default() };
        (info.send_window_scale, info.recv_window_scale) = (7, 8);
        (info.rto_us, info.rtt_us, info.rttvar_us, info.min_rtt_us) = (204_000, 4_250, 1_000, 4_000);
        (info.send_mss_bytes, info.path_mtu_bytes, info.recv_mss_bytes) = (1448, 1500, 536);
        (info.cwnd_bytes, info.ssthresh_bytes) = (14_480, u64::MAX);
        (info.unacked_bytes, info.bytes_acked, info.segments_out) = (2000, 100, 4);
        (info.retransmitted_segments, info.backoff) = (3, 1);
        (info.ack_timeout_us, info.advertised_mss_bytes, info.bytes_delivered) = (40_000, 1460, 1500);
        entry.info = Some(info);
        assert_eq!(
            entry.to_string(),
            "tcp   ESTAB      0      2000               10.0.0.1:7000            10.0.0.2:40000 timer:(on,204ms,0)\n\t \
             ts sack cubic wscale:7,8 rto:204 backoff:1 rtt:4.25/1 ato:40 mss:1448 pmtu:1500 rcvmss:536 advmss:1460 cwnd:10 \
             bytes_acked:100 segs_out:4 send 27.3Mbps delivered:2 unacked:2 retrans:1/3 minrtt:4 snd_wnd:0 rcv_wnd:0"
        );
    }

    #[test]
    fn a_listener_and_a_datagram_socket_take_a_line() {
        let mut listener = SocketEntry::new(Protocol::Tcp, TcpState::Listen, "[::]:80".parse().unwrap());
        (listener.recv_queue, listener.send_queue) = (3, 1024);
        assert_eq!(
            listener.to_string().split_whitespace().collect::<Vec<_>>(),
            ["tcp", "LISTEN", "3", "1024", "[::]:80", "[::]:*"]
        );
        let socket = SocketEntry::new(Protocol::Udp, TcpState::Closed, "10.0.0.1:53".parse().unwrap());
        assert_eq!(
            socket.to_string().split_whitespace().collect::<Vec<_>>(),
            ["udp", "UNCONN", "0", "0", "10.0.0.1:53", "0.0.0.0:*"]
        );
    }

    #[test]
    fn times_read_as_ss_writes_them() {
        for (millis, text) in
            [(5, "5ms"), (1250, "1.2sec"), (12_000, "12sec"), (60_000, "1min"), (125_000, "2min5sec")]
        {
            assert_eq!(show_time(Duration::from_millis(millis)), text);
        }
    }
}
