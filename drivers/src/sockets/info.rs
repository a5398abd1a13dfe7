//! `TCP_INFO`, translated.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::transport::{FastOpenFailure, TcpInfo, TcpState};

/// The kernel's `struct tcp_info` (linux/tcp.h): it only ever grows at its end, and the kernel fills as much as it is given.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct KernelInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    options: u8,
    window_scales: u8,
    flags: u8,
    rto_us: u32,
    ato_us: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    sacked: u32,
    lost: u32,
    retrans: u32,
    fackets: u32,
    last_data_sent: u32,
    last_ack_sent: u32,
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt_us: u32,
    rttvar_us: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    bytes_acked: u64,
    bytes_received: u64,
    segs_out: u32,
    segs_in: u32,
    notsent_bytes: u32,
    min_rtt_us: u32,
    data_segs_in: u32,
    data_segs_out: u32,
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: u32,
    delivered_ce: u32,
    bytes_sent: u64,
    bytes_retrans: u64,
    dsack_dups: u32,
    reord_seen: u32,
    rcv_ooopack: u32,
    snd_wnd: u32,
    rcv_wnd: u32,
    rehash: u32,
    total_rto: u16,
    total_rto_recoveries: u16,
    total_rto_time: u32,
    received_ce: u32,
    delivered_e1_bytes: u32,
    delivered_e0_bytes: u32,
    delivered_ce_bytes: u32,
    received_e1_bytes: u32,
    received_e0_bytes: u32,
    received_ce_bytes: u32,
}

const OPTION_TIMESTAMPS: u8 = 1;
const OPTION_SACK: u8 = 2;
const OPTION_SYN_DATA: u8 = 32;
const OPTION_ECN: u8 = 8;
const OPTION_ECN_SEEN: u8 = 16;

/// What the kernel knows of a connection.
pub(crate) fn tcp_info(socket: &impl AsFd) -> io::Result<TcpInfo> {
    let fd = socket.as_fd().as_raw_fd();
    let mut raw = KernelInfo::default();
    let mut len = size_of::<KernelInfo>() as libc::socklen_t;
    // SAFETY: `raw` is writable for `len` bytes, and any bytes are a valid `KernelInfo`.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut raw).cast(), &mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mss = u64::from(raw.snd_mss);
    let not_sent_bytes = u64::from(raw.notsent_bytes);
    Ok(TcpInfo {
        state: state(raw.state),
        timestamps: raw.options & OPTION_TIMESTAMPS != 0,
        sack: raw.options & OPTION_SACK != 0,
        syn_data: raw.options & OPTION_SYN_DATA != 0,
        // Linux keeps it in two bits of a bit field.
        fast_open_failure: match raw.flags >> 1 & 3 {
            1 => FastOpenFailure::CookieUnavailable,
            2 => FastOpenFailure::DataNotAcked,
            3 => FastOpenFailure::SynRetransmitted,
            _ => FastOpenFailure::None,
        },
        send_window_scale: raw.window_scales & 15,
        recv_window_scale: raw.window_scales >> 4,
        rto_us: raw.rto_us,
        rtt_us: raw.rtt_us,
        rttvar_us: raw.rttvar_us,
        min_rtt_us: raw.min_rtt_us,
        send_mss_bytes: raw.snd_mss,
        recv_mss_bytes: raw.rcv_mss,
        advertised_mss_bytes: raw.advmss,
        ack_timeout_us: raw.ato_us,
        path_mtu_bytes: raw.pmtu,
        cwnd_bytes: u64::from(raw.snd_cwnd) * mss,
        ssthresh_bytes: u64::from(raw.snd_ssthresh).saturating_mul(mss),
        send_window_bytes: u64::from(raw.snd_wnd),
        recv_window_bytes: u64::from(raw.rcv_wnd),
        unacked_bytes: queued(fd, libc::TIOCOUTQ).saturating_sub(not_sent_bytes),
        not_sent_bytes,
        unread_bytes: queued(fd, libc::FIONREAD),
        unacked_segments: raw.unacked,
        congestion_state: raw.ca_state,
        lost_segments: raw.lost,
        sacked_segments: raw.sacked,
        retransmissions_in_flight: raw.retrans,
        reordering_segments: raw.reordering,
        reordering_seen: raw.reord_seen,
        duplicate_segments: raw.dsack_dups,
        out_of_order_segments: raw.rcv_ooopack,
        timeouts: u32::from(raw.retransmits),
        backoff: u32::from(raw.backoff),
        retransmitted_segments: u64::from(raw.total_retrans),
        bytes_acked: raw.bytes_acked,
        pacing_rate: raw.pacing_rate,
        max_pacing_rate: raw.max_pacing_rate,
        delivery_rate: raw.delivery_rate,
        delivery_rate_app_limited: raw.flags & 1 != 0,
        recv_rtt_us: raw.rcv_rtt,
        recv_space_bytes: raw.rcv_space,
        ecn: raw.options & OPTION_ECN != 0,
        ecn_seen: raw.options & OPTION_ECN_SEEN != 0,
        bytes_acked_ce: u64::from(raw.delivered_ce) * mss,
        delivered_ce_segments: u64::from(raw.delivered_ce),
        received_ce_segments: u64::from(raw.received_ce),
        delivered_ecn_bytes: [raw.delivered_e1_bytes, raw.delivered_e0_bytes, raw.delivered_ce_bytes],
        received_ecn_bytes: [raw.received_e1_bytes, raw.received_e0_bytes, raw.received_ce_bytes],
        // Kernels do not agree on where they tell these.
        accurate_ecn: false,
        accurate_ecn_failures: 0,
        accurate_ecn_option: 0,
        // The kernel counts segments, and the SYN among them.
        bytes_delivered: u64::from(raw.delivered.saturating_sub(1)) * mss,
        bytes_received: raw.bytes_received,
        segments_out: u64::from(raw.segs_out),
        segments_in: u64::from(raw.segs_in),
    })
}

/// Bytes in the socket's send (`SIOCOUTQ`) or receive (`SIOCINQ`) queue; 0 where there is none.
fn queued(fd: libc::c_int, request: libc::Ioctl) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both requests write one `int`.
    let result = unsafe { libc::ioctl(fd, request, &mut bytes) };
    if result == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

fn state(number: u8) -> TcpState {
    match number {
        1 => TcpState::Established,
        2 => TcpState::SynSent,
        3 | 12 => TcpState::SynReceived,
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        10 => TcpState::Listen,
        11 => TcpState::Closing,
        _ => TcpState::Closed,
    }
}
