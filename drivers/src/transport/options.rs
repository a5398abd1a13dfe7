//! Socket options and connection information, under the names the field uses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Which congestion control a connection uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CongestionControl {
    /// CUBIC (RFC 9438), the default of Linux and of ours.
    #[default]
    Cubic,
    /// NewReno (RFC 5681, RFC 6582).
    NewReno,
    /// DCTCP (RFC 8257): for networks of one operator, whose switches mark early. It asks for ECN by itself.
    Dctcp,
    /// BBR (version 1): the window and the rate from a model of the path, not from losses.
    Bbr,
    /// None: the window is the peer's alone. For tests and for links that are known to be ours.
    None,
}

impl CongestionControl {
    /// Linux's name of it; `none` for none.
    pub fn name(self) -> &'static str {
        match self {
            CongestionControl::Cubic => "cubic",
            CongestionControl::NewReno => "reno",
            CongestionControl::Dctcp => "dctcp",
            CongestionControl::Bbr => "bbr",
            CongestionControl::None => "none",
        }
    }

    /// The one of a name; `newreno` is another name of `reno`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "cubic" => Some(CongestionControl::Cubic),
            "reno" | "newreno" => Some(CongestionControl::NewReno),
            "dctcp" => Some(CongestionControl::Dctcp),
            "bbr" => Some(CongestionControl::Bbr),
            "none" => Some(CongestionControl::None),
            _ => None,
        }
    }
}

/// When a silent connection is probed (RFC 9293 §3.8.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes before the connection is dropped.
    pub probes: u32,
}

impl Default for KeepAlive {
    /// Linux's: 2 h, 75 s, 9 probes.
    fn default() -> Self {
        KeepAlive { idle: Duration::from_secs(7200), interval: Duration::from_secs(75), probes: 9 }
    }
}

/// Options of a TCP connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamOptions {
    /// Send small segments at once instead of waiting for acknowledgements (off: Nagle, RFC 896).
    pub nodelay: bool,
    /// Hold partial segments back until it is cleared, or 200 ms have passed (Linux's `TCP_CORK`).
    pub cork: bool,
    /// Probe a silent connection.
    pub keepalive: Option<KeepAlive>,
    /// What close does with unsent bytes: `None`: deliver them in the background; zero: drop them and send a RST.
    pub linger: Option<Duration>,
    /// Time To Live or Hop Limit of outgoing packets; `None`: 64.
    pub ttl: Option<u8>,
    /// Type of service or traffic class of outgoing packets.
    pub tos: u8,
    /// Bytes the send buffer may hold; `None`: the transport's default.
    pub send_buffer_bytes: Option<usize>,
    /// Bytes the receive buffer may hold; `None`: the transport's default.
    pub recv_buffer_bytes: Option<usize>,
    /// Give the connection up when sent bytes stay unacknowledged this long (RFC 5482).
    pub user_timeout: Option<Duration>,
    /// SYNs that are sent again before a connect fails, and a listener's SYN-ACKs before a handshake is forgotten (Linux's
    /// `TCP_SYNCNT`): 1 to 127. `None`: the transport's default.
    pub syn_retries: Option<u32>,
    /// How long a connection that has been closed waits for the peer to close, too, once everything is acknowledged (Linux's
    /// `TCP_LINGER2`): zero resets it at once. The kernel counts whole seconds up to 120. `None`: the transport's default.
    pub fin_wait_2: Option<Duration>,
    /// Congestion control; `None`: the transport's default.
    pub congestion: Option<CongestionControl>,
    /// Send at this rate at most, in bytes a second, and spread data over time rather than a window at a time (Linux's
    /// `SO_MAX_PACING_RATE`); `None`: no limit, and paced only if the congestion control is.
    pub max_pacing_rate: Option<u64>,
    /// Allow binding to an address that an old connection still occupies in TIME_WAIT.
    pub reuse_address: bool,
    /// Allow several sockets on one address.
    pub reuse_port: bool,
    /// Let a connect wait for the first write, and send that with the SYN, where the peer has given us a Fast Open cookie before;
    /// ask for one where it has not (RFC 7413; Linux's `TCP_FASTOPEN_CONNECT`).
    ///
    /// Only for what may reach the peer twice. A connect that waits counts as done, and what is wrong shows with the write.
    pub fast_open_connect: bool,
}

/// Options of a listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenOptions {
    /// Connections that may wait to be accepted.
    pub backlog: u32,
    /// Accept IPv6 only, when the address is IPv6's unspecified one; otherwise both.
    pub only_v6: bool,
    /// Take data with the SYN from clients that show a Fast Open cookie, and give cookies to those that ask (RFC 7413; Linux's
    /// `TCP_FASTOPEN`): for so many connections at a time whose handshake is not done. `None`: don't.
    ///
    /// A request may then be taken twice: the SYN's data counts before anybody has shown that the client exists.
    pub fast_open: Option<u32>,
    /// Accept a connection only when it has brought data, or has not for this long (Linux's `TCP_DEFER_ACCEPT`): until then only
    /// a half-open record is kept, and the client believes itself connected. Rounded up to the times at which a SYN-ACK is sent
    /// again: 1 s, 3 s, 7 s, ... `None`: don't wait.
    pub defer_accept: Option<Duration>,
    /// What accepted connections start with. `reuse_address` and `reuse_port` are the listener's own.
    pub stream: StreamOptions,
}

impl Default for ListenOptions {
    /// A backlog of 1,024, and an address that can be bound again at once after a restart.
    fn default() -> Self {
        let stream = StreamOptions { reuse_address: true, ..StreamOptions::default() };
        ListenOptions { backlog: 1024, only_v6: false, fast_open: None, defer_accept: None, stream }
    }
}

/// Options of a UDP socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramOptions {
    /// Allow sending to broadcast addresses.
    pub broadcast: bool,
    /// Time To Live or Hop Limit of outgoing packets; `None`: 64.
    pub ttl: Option<u8>,
    /// Type of service or traffic class of outgoing packets.
    pub tos: u8,
    /// Bytes of datagrams that may wait to be received; `None`: the transport's default.
    pub recv_buffer_bytes: Option<usize>,
    /// Bytes of datagrams that may wait to be sent; `None`: the transport's default.
    pub send_buffer_bytes: Option<usize>,
    /// Receive on IPv6 only, when the address is IPv6's unspecified one; otherwise both.
    pub only_v6: bool,
    /// Allow binding to an address in use.
    pub reuse_address: bool,
    /// Allow several sockets on one address.
    pub reuse_port: bool,
    /// Refuse datagrams that the path carries in fragments only, instead of cutting them (Linux's `IP_PMTUDISC_DO`).
    pub dont_fragment: bool,
    /// What is sent to an IPv4 group is heard by sockets of this host that are in it; `None`: it is.
    pub multicast_loop_v4: Option<bool>,
    /// As `multicast_loop_v4`, for IPv6.
    pub multicast_loop_v6: Option<bool>,
    /// Time To Live of datagrams to IPv4 groups; `None`: 1, no further than the link.
    pub multicast_ttl_v4: Option<u8>,
    /// Hop Limit of datagrams to IPv6 groups; `None`: 1.
    pub multicast_hops_v6: Option<u8>,
}

/// A multicast group that a UDP socket joins or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: IpAddr,
    /// The only sender that is listened to (RFC 4607); `None`: all of them.
    pub source: Option<IpAddr>,
    /// Where.
    pub interface: Interface,
}

/// An interface, as sockets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The one that routes lead to.
    Any,
    /// The one that has this address.
    Address(Ipv4Addr),
    /// The one with this number in the kernel.
    Index(u32),
}

/// States of RFC 9293 §3.3.2, with Linux's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// ESTABLISHED
    Established = 1,
    /// SYN-SENT
    SynSent = 2,
    /// SYN-RECEIVED
    SynReceived = 3,
    /// FIN-WAIT-1
    FinWait1 = 4,
    /// FIN-WAIT-2
    FinWait2 = 5,
    /// TIME-WAIT
    TimeWait = 6,
    /// CLOSED
    #[default]
    Closed = 7,
    /// CLOSE-WAIT
    CloseWait = 8,
    /// LAST-ACK
    LastAck = 9,
    /// LISTEN
    Listen = 10,
    /// CLOSING
    Closing = 11,
}

/// Why a connection that was to take its data with the SYN did not, with Linux's numbers (`tcpi_fastopen_client_fail`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum FastOpenFailure {
    /// It did, or was not to.
    #[default]
    None = 0,
    /// There was no cookie for the peer: one has been asked for.
    CookieUnavailable = 1,
    /// The peer took the SYN and not its data.
    DataNotAcked = 2,
    /// The SYN with data, or its answer, was lost.
    SynRetransmitted = 3,
}

/// What a transport knows of a connection: the fields of Linux's `struct tcp_info` that apply, units in the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// State of the connection.
    pub state: TcpState,
    /// Timestamps, SACK and window scaling are in use.
    pub timestamps: bool,
    /// See `timestamps`.
    pub sack: bool,
    /// The data on the SYN has been taken: by the peer, or by us (RFC 7413).
    pub syn_data: bool,
    /// Why a Fast Open did not come to pass.
    pub fast_open_failure: FastOpenFailure,
    /// Shift of the windows we receive and send (RFC 7323 §2).
    pub send_window_scale: u8,
    /// See `send_window_scale`.
    pub recv_window_scale: u8,
    /// Retransmission timeout.
    pub rto_us: u32,
    /// Bytes a second at which data is paced, or would be, and the most that the socket allows.
    pub pacing_rate: u64,
    /// See `pacing_rate`.
    pub max_pacing_rate: u64,
    /// Bytes a second that have last been delivered, and whether the application had more to send then.
    pub delivery_rate: u64,
    /// The application, not the network, was what limited `delivery_rate`.
    pub delivery_rate_app_limited: bool,
    /// Round-trip time as the receiver's side sees it, and the bytes that were read within one.
    pub recv_rtt_us: u32,
    /// See `recv_rtt_us`.
    pub recv_space_bytes: u32,
    /// ECN was agreed on, and the peer has sent packets that are capable of it.
    pub ecn: bool,
    /// See `ecn`.
    pub ecn_seen: bool,
    /// Smoothed round-trip time.
    pub rtt_us: u32,
    /// Its mean deviation.
    pub rttvar_us: u32,
    /// Smallest round-trip time seen.
    pub min_rtt_us: u32,
    /// Largest payload we send in a segment.
    pub send_mss_bytes: u32,
    /// Largest payload seen from the peer.
    pub recv_mss_bytes: u32,
    /// Largest payload that we told the peer we take.
    pub advertised_mss_bytes: u32,
    /// How long a delayed acknowledgement waits at present (`tcpi_ato`).
    pub ack_timeout_us: u32,
    /// Largest IP packet on the path, as far as it is known.
    pub path_mtu_bytes: u32,
    /// Congestion window.
    pub cwnd_bytes: u64,
    /// Slow start threshold.
    pub ssthresh_bytes: u64,
    /// The peer's window.
    pub send_window_bytes: u64,
    /// The window we offer.
    pub recv_window_bytes: u64,
    /// Sent and not acknowledged.
    pub unacked_bytes: u64,
    /// Written and not sent.
    pub not_sent_bytes: u64,
    /// Received and not read.
    pub unread_bytes: u64,
    /// Segments sent and not acknowledged.
    pub unacked_segments: u32,
    /// What recovery is up to, as Linux numbers it: 0 nothing is missing, 1 something may be, 2 the window is being reduced, 3
    /// something is lost and repaired, 4 a retransmission timed out.
    pub congestion_state: u8,
    /// Segments believed lost, sent again or not.
    pub lost_segments: u32,
    /// Segments that the peer holds out of order.
    pub sacked_segments: u32,
    /// Segments sent again that are believed to be on their way.
    pub retransmissions_in_flight: u32,
    /// Segments by which others were seen to be overtaken, and how often.
    pub reordering_segments: u32,
    /// See `reordering_segments`.
    pub reordering_seen: u32,
    /// Segments that the peer says arrived twice.
    pub duplicate_segments: u32,
    /// Segments received out of order.
    pub out_of_order_segments: u32,
    /// Retransmission timeouts in a row, now.
    pub timeouts: u32,
    /// Retransmissions of the segment at the left edge, now.
    pub backoff: u32,
    /// Segments sent again, ever.
    pub retransmitted_segments: u64,
    /// Payload bytes acknowledged, ever.
    pub bytes_acked: u64,
    /// Payload bytes acknowledged by segments that echoed a mark of the network (RFC 3168), ever.
    pub bytes_acked_ce: u64,
    /// Segments that this is; with Accurate ECN (RFC 9768) those of which the peer says that they arrived marked, acknowledgements
    /// included (`tcpi_delivered_ce`), ever.
    pub delivered_ce_segments: u64,
    /// Segments that arrived marked, ever; where Accurate ECN is in use (`tcpi_received_ce`).
    pub received_ce_segments: u64,
    /// Payload bytes that have arrived at the peer, as its Accurate ECN option says, by the code point of their packets: ECT(1),
    /// ECT(0), CE; modulo 2^32 (`tcpi_delivered_e1_bytes` and its neighbours).
    pub delivered_ecn_bytes: [u32; 3],
    /// As `delivered_ecn_bytes`, those that have arrived here (`tcpi_received_e1_bytes` and its neighbours).
    pub received_ecn_bytes: [u32; 3],
    /// It was Accurate ECN that was agreed on.
    pub accurate_ecn: bool,
    /// What of it does not get through, as bits with Linux's numbers: 2 the flags, so that nothing goes out capable of ECN; 4 our
    /// option; 8 the peer's (`tcpi_accecn_fail_mode`).
    pub accurate_ecn_failures: u8,
    /// What is known of the peer's option, as Linux numbers it: 0 it has not come, 1 only without counts, 2 with counts, 3 what comes
    /// is not to be believed (`tcpi_accecn_opt_seen`).
    pub accurate_ecn_option: u8,
    /// Payload bytes that the peer is known to have received, out of order, too, and each time (`tcpi_delivered`, in bytes), ever.
    pub bytes_delivered: u64,
    /// Payload bytes received in order, ever.
    pub bytes_received: u64,
    /// Segments sent, ever.
    pub segments_out: u64,
    /// Segments received, ever.
    pub segments_in: u64,
}
