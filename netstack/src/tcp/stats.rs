//! Counters of the TCP layer, under the names `nstat` shows on Linux.

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)*) => {
        /// What the TCP layer has counted since it was made. The names are Linux's (RFC 4022 and `TcpExt`).
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct TcpStats {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl TcpStats {
            /// Every counter with its `nstat` name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connects started.
    active_opens => "TcpActiveOpens",
    /// Handshakes that a listener finished.
    passive_opens => "TcpPassiveOpens",
    /// Handshakes that failed.
    attempt_fails => "TcpAttemptFails",
    /// Established connections that ended in a reset.
    estab_resets => "TcpEstabResets",
    /// Segments received, bad ones included.
    in_segs => "TcpInSegs",
    /// Segments sent, retransmissions not included.
    out_segs => "TcpOutSegs",
    /// Segments sent again.
    retrans_segs => "TcpRetransSegs",
    /// Segments received whose header made no sense.
    in_errs => "TcpInErrs",
    /// RSTs sent.
    out_rsts => "TcpOutRsts",
    /// SYNs and last acknowledgements dropped because too many connections waited to be accepted.
    listen_overflows => "TcpExtListenOverflows",
    /// SYNs and handshakes dropped by listeners for any reason.
    listen_drops => "TcpExtListenDrops",
    /// Handshakes whose end was not looked at, since data was to come with it (`TCP_DEFER_ACCEPT`).
    defer_accept_drop => "TcpExtTCPDeferAcceptDrop",
    /// SYNs dropped because too many handshakes were under way.
    req_queue_full_drop => "TcpExtTCPReqQFullDrop",
    /// SYNs answered with a cookie because of that.
    req_queue_full_cookies => "TcpExtTCPReqQFullDoCookies",
    /// SYN cookies sent (RFC 4987).
    syncookies_sent => "TcpExtSyncookiesSent",
    /// SYN cookies that came back and were good.
    syncookies_recv => "TcpExtSyncookiesRecv",
    /// Acknowledgements taken for a SYN cookie that were none, or too old.
    syncookies_failed => "TcpExtSyncookiesFailed",
    /// Connects whose data with the SYN was acknowledged (RFC 7413).
    fast_open_active => "TcpExtTCPFastOpenActive",
    /// Connects whose data with the SYN was not.
    fast_open_active_fail => "TcpExtTCPFastOpenActiveFail",
    /// Connections that a listener has made of a SYN with data.
    fast_open_passive => "TcpExtTCPFastOpenPassive",
    /// SYNs with data whose cookie was wrong.
    fast_open_passive_fail => "TcpExtTCPFastOpenPassiveFail",
    /// Of the former, those whose cookie was made with the key before.
    fast_open_passive_alt_key => "TcpExtTCPFastOpenPassiveAltKey",
    /// SYNs with data that were taken for ordinary ones because too many handshakes with data were under way.
    fast_open_listen_overflow => "TcpExtTCPFastOpenListenOverflow",
    /// SYNs that asked for a cookie.
    fast_open_cookie_reqd => "TcpExtTCPFastOpenCookieReqd",
    /// Times the network has swallowed what Fast Open had sent.
    fast_open_blackhole => "TcpExtTCPFastOpenBlackhole",
    /// Segments sent to find out whether the path carries larger ones (RFC 4821) that arrived.
    mtu_probe_success => "TcpExtTCPMTUPSuccess",
    /// Such segments that did not.
    mtu_probe_fail => "TcpExtTCPMTUPFail",
    /// ICMP errors that quoted no segment in flight (RFC 5927).
    out_of_window_icmps => "TcpExtOutOfWindowIcmps",
    /// SYNs and SYN-ACKs sent again.
    syn_retrans => "TcpExtTCPSynRetrans",
    /// Segments dropped by PAWS (RFC 7323 §5).
    paws_estab => "TcpExtPAWSEstab",
    /// SYNs answered from TIME-WAIT (RFC 6191).
    time_wait_recycled => "TcpExtTWRecycled",
    /// Connections that ended in TIME-WAIT.
    time_wait => "TcpExtTW",
    /// TIME-WAIT records dropped because there were too many.
    time_wait_overflow => "TcpExtTCPTimeWaitOverflow",
    /// Pure acknowledgements taken on the short path.
    hp_acks => "TcpExtTCPHPAcks",
    /// In-order data taken on the short path.
    hp_hits => "TcpExtTCPHPHits",
    /// Segments of in-order data that were joined to the one before them.
    recv_coalesce => "TcpExtTCPRcvCoalesce",
    /// Acknowledgements that waited for a timer.
    delayed_acks => "TcpExtDelayedACKs",
    /// Data that came again though it was here: its acknowledgement was lost, or late.
    delayed_ack_lost => "TcpExtDelayedACKLost",
    /// Retransmission timeouts.
    timeouts => "TcpExtTCPTimeouts",
    /// Fast retransmissions.
    fast_retrans => "TcpExtTCPFastRetrans",
    /// Retransmissions in slow start, after a timeout.
    slow_start_retrans => "TcpExtTCPSlowStartRetrans",
    /// Slow starts that ended because the round trip rose (RFC 9406), and the sum of their windows, in segments.
    hystart_delay_detect => "TcpExtTCPHystartDelayDetect",
    /// See `hystart_delay_detect`.
    hystart_delay_cwnd => "TcpExtTCPHystartDelayCwnd",
    /// Segments acknowledged together with the echo of a mark (RFC 3168).
    delivered_ce => "TcpExtTCPDeliveredCE",
    /// Times a buffer could not grow because all together held too much.
    memory_pressures => "TcpExtTCPMemoryPressures",
    /// Recoveries that selective acknowledgements started.
    sack_recovery => "TcpExtTCPSackRecovery",
    /// Recoveries that duplicate acknowledgements started.
    reno_recovery => "TcpExtTCPRenoRecovery",
    /// Recoveries that a timeout ended, with SACK and without.
    sack_recovery_fail => "TcpExtTCPSackRecoveryFail",
    /// See `sack_recovery_fail`.
    reno_recovery_fail => "TcpExtTCPRenoRecoveryFail",
    /// Timeouts while recovering from one.
    loss_failures => "TcpExtTCPLossFailures",
    /// Timeouts while something was missing, with SACK and without.
    sack_failures => "TcpExtTCPSackFailures",
    /// See `sack_failures`.
    reno_failures => "TcpExtTCPRenoFailures",
    /// Retransmissions that were lost, too.
    lost_retransmit => "TcpExtTCPLostRetransmit",
    /// Tail loss probes sent.
    loss_probes => "TcpExtTCPLossProbes",
    /// Losses that such a probe repaired.
    loss_probe_recovery => "TcpExtTCPLossProbeRecovery",
    /// Reordering seen by SACK, by duplicate acknowledgements, and by timestamps.
    sack_reorder => "TcpExtTCPSACKReorder",
    /// See `sack_reorder`.
    reno_reorder => "TcpExtTCPRenoReorder",
    /// See `sack_reorder`.
    ts_reorder => "TcpExtTCPTSReorder",
    /// Reductions taken back: at the end of a recovery, during one, by D-SACKs, and after a timeout.
    full_undo => "TcpExtTCPFullUndo",
    /// See `full_undo`.
    partial_undo => "TcpExtTCPPartialUndo",
    /// See `full_undo`.
    dsack_undo => "TcpExtTCPDSACKUndo",
    /// See `full_undo`.
    loss_undo => "TcpExtTCPLossUndo",
    /// Timeouts that F-RTO found spurious.
    spurious_rtos => "TcpExtTCPSpuriousRTOs",
    /// SACK blocks ignored because they made no sense.
    sack_discard => "TcpExtTCPSACKDiscard",
    /// Times a peer took back what it had selectively acknowledged.
    sack_reneging => "TcpExtTCPSACKReneging",
    /// D-SACKs sent (RFC 2883).
    dsack_sent => "TcpExtTCPDSACKOldSent",
    /// D-SACKs sent of what was queued out of order.
    dsack_ofo_sent => "TcpExtTCPDSACKOfoSent",
    /// D-SACKs received of what was acknowledged.
    dsack_recv => "TcpExtTCPDSACKRecv",
    /// D-SACKs received of what was out of order.
    dsack_ofo_recv => "TcpExtTCPDSACKOfoRecv",
    /// Segments that they told of.
    dsack_recv_segs => "TcpExtTCPDSACKRecvSegs",
    /// D-SACKs ignored: of before the last recovery, without a recovery, and beyond belief.
    dsack_ignored_old => "TcpExtTCPDSACKIgnoredOld",
    /// See `dsack_ignored_old`.
    dsack_ignored_no_undo => "TcpExtTCPDSACKIgnoredNoUndo",
    /// See `dsack_ignored_old`.
    dsack_ignored_dubious => "TcpExtTCPDSACKIgnoredDubious",
    /// Segments queued out of order.
    ofo_queue => "TcpExtTCPOFOQueue",
    /// Out-of-order segments dropped for want of room.
    ofo_drop => "TcpExtTCPOFODrop",
    /// Times what was queued out of order was dropped for want of memory.
    ofo_pruned => "TcpExtOfoPruned",
    /// Out-of-order segments that brought nothing new.
    ofo_merge => "TcpExtTCPOFOMerge",
    /// Segments dropped because the receive buffer was full.
    rcvq_drop => "TcpExtTCPRcvQDrop",
    /// Challenge ACKs sent (RFC 5961).
    challenge_acks => "TcpExtTCPChallengeACK",
    /// SYNs that came in on synchronised connections.
    syn_challenge => "TcpExtTCPSYNChallenge",
    /// Keepalive probes sent.
    keepalives => "TcpExtTCPKeepAlive",
    /// Zero-window and keepalive probes sent.
    win_probes => "TcpExtTCPWinProbe",
    /// Connections given up because nothing was acknowledged for too long.
    abort_on_timeout => "TcpExtTCPAbortOnTimeout",
    /// Connections reset because data came after the application had closed.
    abort_on_data => "TcpExtTCPAbortOnData",
    /// Connections reset because the application closed with data unread.
    abort_on_close => "TcpExtTCPAbortOnClose",
    /// Connections reset because linger was zero.
    abort_on_linger => "TcpExtTCPAbortOnLinger",
    /// Closed connections reset because there were too many of them.
    abort_on_memory => "TcpExtTCPAbortOnMemory",
    /// Sends that the layers below had no room for.
    send_refused => "TcpExtTCPBacklogDrop",
}
