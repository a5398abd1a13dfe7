//! Linux's `tcp_info` under the names that assertions use, in Linux's units.

use std::collections::HashMap;

use demi_drivers::transport::TcpInfo;

use demi_netstack::tcp::TcpStats;

use crate::eval::Value;

/// Names and values for one connection.
pub(crate) fn names(info: &TcpInfo) -> HashMap<String, Value> {
    // Linux counts windows in segments, we in bytes.
    let mss = u64::from(info.send_mss_bytes.max(1));
    let options = u64::from(info.timestamps)
        | u64::from(info.sack) << 1
        | u64::from(info.send_window_scale > 0 || info.recv_window_scale > 0) << 2
        | u64::from(info.ecn) << 3
        | u64::from(info.ecn_seen) << 4
        | u64::from(info.syn_data) << 5;
    // No threshold is Linux's largest.
    let infinite = 0x7fff_ffff;
    let threshold = if info.ssthresh_bytes >= 1 << 30 { infinite } else { info.ssthresh_bytes / mss };
    let pairs: &[(&str, u64)] = &[
        ("tcpi_pmtu", info.path_mtu_bytes.into()),
        ("tcpi_fastopen_client_fail", info.fast_open_failure as u64),
        ("tcpi_state", info.state as u64),
        ("tcpi_options", options),
        ("tcpi_snd_wscale", info.send_window_scale.into()),
        ("tcpi_rcv_wscale", info.recv_window_scale.into()),
        ("tcpi_rto", info.rto_us.into()),
        ("tcpi_rtt", info.rtt_us.into()),
        ("tcpi_rttvar", info.rttvar_us.into()),
        ("tcpi_min_rtt", info.min_rtt_us.into()),
        ("tcpi_snd_mss", info.send_mss_bytes.into()),
        ("tcpi_rcv_mss", info.recv_mss_bytes.into()),
        ("tcpi_advmss", info.advertised_mss_bytes.into()),
        ("tcpi_ato", info.ack_timeout_us.into()),
        ("tcpi_snd_cwnd", info.cwnd_bytes / mss),
        ("tcpi_snd_ssthresh", threshold),
        ("tcpi_snd_wnd", info.send_window_bytes),
        ("tcpi_rcv_wnd", info.recv_window_bytes),
        ("tcpi_unacked", info.unacked_segments.into()),
        ("tcpi_notsent_bytes", info.not_sent_bytes),
        ("tcpi_lost", info.lost_segments.into()),
        ("tcpi_backoff", info.backoff.into()),
        ("tcpi_retransmits", info.timeouts.into()),
        ("tcpi_ca_state", info.congestion_state.into()),
        ("tcpi_sacked", info.sacked_segments.into()),
        ("tcpi_retrans", info.retransmissions_in_flight.into()),
        ("tcpi_reordering", info.reordering_segments.into()),
        ("tcpi_reord_seen", info.reordering_seen.into()),
        ("tcpi_dsack_dups", info.duplicate_segments.into()),
        ("tcpi_rcv_ooopack", info.out_of_order_segments.into()),
        ("tcpi_total_retrans", info.retransmitted_segments),
        ("tcpi_bytes_acked", info.bytes_acked),
        ("tcpi_pacing_rate", info.pacing_rate),
        ("tcpi_max_pacing_rate", info.max_pacing_rate),
        ("tcpi_delivery_rate", info.delivery_rate),
        ("tcpi_delivery_rate_app_limited", info.delivery_rate_app_limited.into()),
        ("tcpi_rcv_rtt", info.recv_rtt_us.into()),
        ("tcpi_rcv_space", info.recv_space_bytes.into()),
        ("tcpi_delivered_ce", info.delivered_ce_segments),
        ("tcpi_received_ce", info.received_ce_segments),
        ("tcpi_delivered_e1_bytes", info.delivered_ecn_bytes[0].into()),
        ("tcpi_delivered_e0_bytes", info.delivered_ecn_bytes[1].into()),
        ("tcpi_delivered_ce_bytes", info.delivered_ecn_bytes[2].into()),
        ("tcpi_received_e1_bytes", info.received_ecn_bytes[0].into()),
        ("tcpi_received_e0_bytes", info.received_ecn_bytes[1].into()),
        ("tcpi_received_ce_bytes", info.received_ecn_bytes[2].into()),
        ("tcpi_accecn_fail_mode", info.accurate_ecn_failures.into()),
        ("tcpi_accecn_opt_seen", info.accurate_ecn_option.into()),
        // As Linux numbers it: none, ECN, Accurate ECN.
        ("tcpi_ecn_mode", u64::from(info.ecn) * (1 + u64::from(info.accurate_ecn))),
        ("tcpi_bytes_received", info.bytes_received),
        ("tcpi_segs_out", info.segments_out),
        ("tcpi_segs_in", info.segments_in),
        // Names of our own, for what Linux does not tell.
        ("demi_cwnd_bytes", info.cwnd_bytes),
        ("demi_ssthresh_bytes", info.ssthresh_bytes),
    ];
    let mut names: HashMap<String, Value> =
        pairs.iter().map(|&(name, value)| (name.to_owned(), Value::Int(value.into()))).collect();
    names.insert("demi_unread_bytes".to_owned(), Value::Int(info.unread_bytes.into()));
    names.insert("demi_unacked_bytes".to_owned(), Value::Int(info.unacked_bytes.into()));
    names
}

/// The counters of TCP, as `nstat` names them.
pub(crate) fn counters(stats: &TcpStats) -> impl Iterator<Item = (String, Value)> {
    stats.iter().map(|(name, value)| (name.to_owned(), Value::Int(value.into())))
}
