//! Limits and defaults of the TCP layer. What is not said here is what Linux does.
//!
//! **What bounds what**, when somebody means harm. A flood of SYNs: `max_half_open` records and each listener's backlog; beyond
//! them cookies. Connections that are made and left: `max_connections`, beyond which new ones are dropped (`ListenDrops`) and
//! connects refused; a server that serves strangers gives its sockets keepalive or a user timeout, and its requests a deadline
//! of their own, since a peer that says one byte a minute breaks no rule of TCP. A window that stays closed: the send buffer, and
//! the user timeout while the application holds on; once it has closed, `orphan_retries` probes. Closed connections that linger:
//! `max_orphans`, beyond which a close resets (`TCPAbortOnMemory`), and `fin_wait_2`. Churn: `max_time_wait`, the oldest of which
//! makes room. Strangers who make us answer: `resets_per_second` and `challenge_acks_per_second`.

use std::time::Duration;

use demi_drivers::transport::CongestionControl;

use crate::wire::tcp::Options;

/// When a SYN is answered with a cookie instead of being remembered (RFC 4987; Linux's `tcp_syncookies`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SynCookies {
    /// Never: what cannot be remembered is dropped.
    Never,
    /// When a listener has too many handshakes under way, or all listeners together.
    #[default]
    OnOverflow,
    /// Always: for tests.
    Always,
}

/// Fast Open (RFC 7413): what a client and a server may do. A listener takes data with the SYN, and a connect sends it, when the
/// socket asks for that, too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastOpenConfig {
    /// Connects may (1 in Linux's `tcp_fastopen`).
    pub client: bool,
    /// Connects send data even without a cookie (4): where the network is known to be one's own.
    pub client_without_cookie: bool,
    /// Listeners may (2). Linux's default is that they may not.
    pub server: bool,
    /// Listeners take data from whoever sends it (0x200): where the network is known to be one's own.
    pub server_without_cookie: bool,
    /// All listeners do, for as many connections as their backlog (0x400).
    pub all_listeners: bool,
    /// The key of the cookies that are given out (`tcp_fastopen_key`); hosts behind one name share it. `None`: a random one.
    pub key: Option<[u8; 16]>,
    /// The key before, whose cookies are still taken.
    pub backup_key: Option<[u8; 16]>,
    /// Servers whose cookies are remembered, about 100 bytes each.
    pub max_servers: usize,
    /// How long connects do without after the network has swallowed them three times, doubled each time (Linux's
    /// `tcp_fastopen_blackhole_timeout_sec`); zero, as there: not at all.
    pub blackhole_pause: Duration,
}

impl Default for FastOpenConfig {
    fn default() -> Self {
        FastOpenConfig {
            client: true,
            client_without_cookie: false,
            server: true,
            server_without_cookie: false,
            all_listeners: false,
            key: None,
            backup_key: None,
            max_servers: 1024,
            blackhole_pause: Duration::ZERO,
        }
    }
}

/// When a connect may take the four-tuple of a connection in TIME-WAIT whose peer has timestamps, after a second (RFC 6191; Linux's
/// `tcp_tw_reuse`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeWaitReuse {
    /// Never: it waits out its time.
    Never,
    /// To one of our own addresses, as Linux if nobody tells it otherwise.
    Local,
    /// To anybody.
    #[default]
    Always,
}

/// Finding out what a path carries by trying, where routers do not say (RFC 4821; Linux's `tcp_mtu_probing`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuProbing {
    /// Never, as Linux if nobody tells it otherwise.
    Never,
    /// On connections whose segments are lost again and again, which then begin small and grow.
    #[default]
    OnBlackHole,
    /// On all connections, from the start.
    Always,
}

/// What is done about explicit congestion notification (RFC 3168, RFC 9768), with Linux's numbers of `tcp_ecn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcnMode {
    /// Neither asked for nor agreed to.
    Off = 0,
    /// Asked for by connections we open, and agreed to when others ask.
    On = 1,
    /// Agreed to when others ask.
    #[default]
    Passive = 2,
    /// Accurate ECN (RFC 9768) asked for by connections we open, and agreed to when others ask; ECN as it was before with who knows
    /// no better.
    Accurate = 3,
    /// As `On`, and Accurate ECN agreed to when others ask.
    AccurateOn = 4,
    /// As `Passive`, and Accurate ECN agreed to when others ask.
    AccuratePassive = 5,
}

impl EcnMode {
    /// Whether a listener agrees to Accurate ECN.
    pub(crate) fn agrees_to_accurate(self) -> bool {
        matches!(self, EcnMode::Accurate | EcnMode::AccurateOn | EcnMode::AccuratePassive)
    }
}

/// Which segments of a connection with Accurate ECN carry its option, which tells the bytes of each code point beside the three bits
/// of all segments (RFC 9768 §3.2.3; Linux's `tcp_ecn_option`). None do whose peer, or path, takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EcnOption {
    /// None.
    Never = 0,
    /// Those after a change, and some in each round trip.
    OnChange = 1,
    /// All, until the path seems to drop them for it.
    #[default]
    Always = 2,
    /// All, whatever the path seems to do.
    Persistent = 3,
}

/// Limits and defaults of the TCP layer: every table is bounded by one of them.
///
/// ```
/// use demi_netstack::tcp::TcpConfig;
/// let config = TcpConfig { max_connections: 10_000, ..TcpConfig::default() };
/// assert_eq!(config.time_wait.as_secs(), 60);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// Connections in any state, those whose handshake is under way included.
    pub max_connections: usize,
    /// Listening sockets.
    pub max_listeners: usize,
    /// Handshakes under way at all listeners together, less than 180 bytes each; a listener alone may have as many as its backlog.
    pub max_half_open: usize,
    /// What becomes of SYNs beyond that.
    pub syn_cookies: SynCookies,
    /// Reset a connection whose handshake ends while too many wait to be accepted, rather than let its peer try again (Linux's
    /// `tcp_abort_on_overflow`).
    pub abort_on_overflow: bool,
    /// Data with the SYN.
    pub fast_open: FastOpenConfig,
    /// Bytes a send buffer holds before pushes wait, to begin with, unless the connection says otherwise.
    pub send_buffer_bytes: usize,
    /// Bytes it may grow to with the congestion window.
    pub send_buffer_max_bytes: usize,
    /// Bytes a receive buffer holds, hence the largest window offered, to begin with, unless the connection says otherwise.
    pub recv_buffer_bytes: usize,
    /// Let it grow to what is read in a round trip (Linux's `tcp_moderate_rcvbuf`).
    pub moderate_recv_buffer: bool,
    /// Bytes that the buffers of all connections together may have grown by; never more than half of the pool.
    pub buffers_max_bytes: usize,
    /// The largest receive buffer a connection may ask for, or grow to; the window scale offered in a SYN is chosen for it.
    pub recv_buffer_max_bytes: usize,
    /// Congestion control of connections that name none.
    pub congestion: CongestionControl,
    /// End the first slow start of CUBIC when round trips rise, before it overflows the path (RFC 9406).
    pub hystart: bool,
    /// Take back a congestion window that is not used (RFC 2861; Linux's `tcp_slow_start_after_idle`).
    pub slow_start_after_idle: bool,
    /// The rate that data is paced at, in percent of a window a round trip: in slow start, and after (Linux's `tcp_pacing_ss_ratio` and
    /// `tcp_pacing_ca_ratio`).
    pub pacing_slow_start_percent: u32,
    /// See `pacing_slow_start_percent`.
    pub pacing_avoidance_percent: u32,
    /// Initial congestion window in segments (RFC 6928).
    pub initial_window_segments: u32,
    /// Offer and use timestamps (RFC 7323).
    pub timestamps: bool,
    /// What every new connection's sequence numbers begin with, instead of a number that nobody can guess (RFC 6528); for
    /// tests, to have them wrap when it is wanted.
    pub fixed_isn: Option<u32>,
    /// What is added to the millisecond clock in timestamps, instead of a number that nobody can guess (RFC 7323 §7.1); for
    /// tests, to have them wrap when it is wanted.
    pub fixed_timestamp_offset: Option<u32>,
    /// Offer and use selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Tell a sender that supports SACK what arrived twice (RFC 2883; Linux's `tcp_dsack`).
    pub dsack: bool,
    /// Find losses by time (RFC 8985; bit 0 of Linux's `tcp_recovery`). Off, three segments behind a hole say that it is lost
    /// (RFC 6675).
    pub rack: bool,
    /// Wait no longer for what may be reordered, however often that was for the better (bit 1 of Linux's `tcp_recovery`).
    pub rack_static_window: bool,
    /// Wait not at all once `reordering_segments` have arrived behind a hole and reordering was never seen (off by bit 2 of
    /// Linux's `tcp_recovery`).
    pub rack_dup_threshold: bool,
    /// Probe for a lost tail (RFC 8985 §7; Linux's `tcp_early_retrans`).
    pub loss_probes: bool,
    /// Find out whether a retransmission timeout was spurious (RFC 5682; Linux's `tcp_frto`).
    pub frto: bool,
    /// Segments that may overtake another before that is taken for lost (Linux's `tcp_reordering`).
    pub reordering_segments: u32,
    /// The most that this adapts to (Linux's `tcp_max_reordering`).
    pub max_reordering_segments: u32,
    /// Offer and use window scaling (RFC 7323).
    pub window_scaling: bool,
    /// Explicit congestion notification, where the congestion control leaves the choice.
    pub ecn: EcnMode,
    /// Ask for ECN in the first SYN only, for Accurate ECN in the first two, should a middlebox drop those that do (RFC 3168
    /// §6.1.1.1, RFC 9768 §3.1.4); and send nothing that is capable of ECN where code points change unlawfully on the way (RFC 9768
    /// §3.2.2.3).
    pub ecn_fallback: bool,
    /// Which segments carry the option of Accurate ECN.
    pub ecn_option: EcnOption,
    /// With [`EcnOption::OnChange`], how often in a round trip it goes out at least; 0: only after a change (Linux's
    /// `tcp_ecn_option_beacon`).
    pub ecn_option_beacon: u32,
    /// First and last port given to sockets that ask for any (RFC 6056).
    pub ephemeral_ports: (u16, u16),
    /// The smallest MSS a peer is believed to have; smaller ones are raised to it (CVE-2019-11479).
    pub min_send_mss_bytes: u16,
    /// Retransmission timeout before the first round trip is measured (RFC 6298 §2.1).
    pub initial_rto: Duration,
    /// Smallest retransmission timeout; Linux's 200 ms rather than RFC 6298's second.
    pub min_rto: Duration,
    /// Largest retransmission timeout.
    pub max_rto: Duration,
    /// Whether segments are made smaller and larger to find what the path carries.
    pub mtu_probing: MtuProbing,
    /// The payload that such a search begins with (Linux's `tcp_base_mss`).
    pub base_mss_bytes: u16,
    /// The least it goes down to (`tcp_mtu_probe_floor`; 48 in Linux). Packets of 576 bytes get through everywhere (RFC 791), and a
    /// peer that is short of memory looks like a path that loses: smaller segments would cost it a buffer each.
    pub mtu_probe_floor_bytes: u16,
    /// How near its bounds come before it ends (`tcp_probe_threshold`), and how long until it begins anew
    /// (`tcp_probe_interval`).
    pub mtu_probe_threshold_bytes: u16,
    /// See `mtu_probe_threshold_bytes`.
    pub mtu_probe_interval: Duration,
    /// SYNs sent again before a connect fails.
    pub syn_retries: u32,
    /// SYN-ACKs sent again before a half-open connection is forgotten.
    pub syn_ack_retries: u32,
    /// Timeouts in a row before an established connection is given up (Linux's `tcp_retries2`).
    pub retries: u32,
    /// As `retries`, for connections that the application has closed (Linux's `tcp_orphan_retries`).
    pub orphan_retries: u32,
    /// Closed connections that may linger; beyond it they are reset (Linux's `tcp_max_orphans`).
    pub max_orphans: usize,
    /// How long a closed connection waits for the peer's FIN (Linux's `tcp_fin_timeout`).
    pub fin_wait_2: Duration,
    /// How long a TIME-WAIT record lives.
    pub time_wait: Duration,
    /// When a connect may follow on a TIME-WAIT record.
    pub time_wait_reuse: TimeWaitReuse,
    /// TIME-WAIT records; beyond it the oldest is dropped.
    pub max_time_wait: usize,
    /// Longest an acknowledgement waits for data to ride on.
    pub delayed_ack: Duration,
    /// Acknowledgements sent without delay when a connection starts (Linux's quick ACKs).
    pub quick_acks: u8,
    /// Longest a partial segment is held back by `cork`.
    pub cork: Duration,
    /// Challenge ACKs a second, over all connections (RFC 5961 §7); the count is varied at random.
    pub challenge_acks_per_second: u32,
    /// Least time between two challenge or duplicate ACKs of one connection.
    pub challenge_ack_interval: Duration,
    /// RSTs a second sent to segments that belong to no connection.
    pub resets_per_second: u32,
    /// Timers run in one turn.
    pub timers_per_turn: usize,
}

impl TcpConfig {
    /// Of a SYN's options, those that are used when our answer has them, too (RFC 7323 §2.2, §3.2; RFC 2018 §2).
    pub(crate) fn agreed(&self, syn: &Options) -> Options {
        Options {
            window_scale: syn.window_scale.filter(|_| self.window_scaling),
            sack_permitted: syn.sack_permitted && self.sack,
            timestamps: syn.timestamps.filter(|_| self.timestamps),
            ..*syn
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        TcpConfig {
            max_connections: 1 << 20,
            max_listeners: 1 << 12,
            max_half_open: 1 << 16,
            syn_cookies: SynCookies::OnOverflow,
            abort_on_overflow: false,
            fast_open: FastOpenConfig::default(),
            send_buffer_bytes: 128 << 10,
            send_buffer_max_bytes: 4 << 20,
            recv_buffer_bytes: 128 << 10,
            moderate_recv_buffer: true,
            buffers_max_bytes: 1 << 30,
            recv_buffer_max_bytes: 6 << 20,
            congestion: CongestionControl::Cubic,
            hystart: true,
            pacing_slow_start_percent: 200,
            pacing_avoidance_percent: 120,
            slow_start_after_idle: true,
            initial_window_segments: 10,
            timestamps: true,
            fixed_isn: None,
            fixed_timestamp_offset: None,
            sack: true,
            dsack: true,
            rack: true,
            rack_static_window: false,
            rack_dup_threshold: true,
            loss_probes: true,
            frto: true,
            reordering_segments: 3,
            max_reordering_segments: 300,
            window_scaling: true,
            ecn: EcnMode::default(),
            ecn_fallback: true,
            ecn_option: EcnOption::default(),
            ecn_option_beacon: 3,
            ephemeral_ports: (32768, 60999),
            min_send_mss_bytes: 48,
            initial_rto: Duration::from_secs(1),
            min_rto: Duration::from_millis(200),
            max_rto: Duration::from_secs(120),
            mtu_probing: MtuProbing::OnBlackHole,
            base_mss_bytes: 1024,
            mtu_probe_floor_bytes: 512,
            mtu_probe_threshold_bytes: 8,
            mtu_probe_interval: Duration::from_secs(600),
            syn_retries: 6,
            syn_ack_retries: 5,
            retries: 15,
            orphan_retries: 8,
            max_orphans: 1 << 16,
            fin_wait_2: Duration::from_secs(60),
            time_wait: Duration::from_secs(60),
            time_wait_reuse: TimeWaitReuse::Always,
            max_time_wait: 1 << 18,
            delayed_ack: Duration::from_millis(40),
            quick_acks: 16,
            cork: Duration::from_millis(200),
            challenge_acks_per_second: 1000,
            challenge_ack_interval: Duration::from_millis(500),
            resets_per_second: 10_000,
            timers_per_turn: 1024,
        }
    }
}
