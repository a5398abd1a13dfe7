//! What the stack has counted, under the names that `nstat` shows on Linux. Plain numbers: one stack, one core.

macro_rules! counters {
    ($(#[$outer:meta])* $group:ident { $($(#[$doc:meta])* $field:ident => $name:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $group {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $group {
            /// Every counter with the part of its name that follows the protocol's.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$(($name, self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Counters of the link: what was dropped before it was a packet, and neighbour resolution.
    LinkStats {
        /// Frames received.
        in_frames => "InFrames",
        /// Frames too short for a header.
        in_truncated => "InTruncated",
        /// Frames for another station, or for a group we are not in.
        in_other_host => "InOtherHost",
        /// Frames that carry no protocol of ours.
        in_unknown_type => "InUnknownType",
        /// ARP packets received.
        in_arp => "InArp",
        /// ARP and neighbour discovery messages that made no sense or that nobody asked for.
        in_neighbor_ignored => "InNeighborIgnored",
        /// Solicitations (ARP requests, neighbour solicitations) sent.
        out_solicits => "OutSolicits",
        /// Solicitations answered.
        out_advertisements => "OutAdvertisements",
        /// Our IPv4 addresses announced (gratuitous ARP), in defence, too.
        out_announcements => "OutAnnouncements",
        /// Times that another station had, or claimed, an address of ours.
        address_conflicts => "AddressConflicts",
        /// Router advertisements taken.
        in_router_advertisements => "InRouterAdvertisements",
        /// Neighbours that did not answer.
        neighbor_failures => "NeighborFailures",
        /// Packets dropped because too many waited for a neighbour's address.
        neighbor_queue_drops => "NeighborQueueDrops",
        /// Neighbours not learnt or looked up because the table was full of ones in use.
        neighbor_table_overflows => "NeighborTableOverflows",
        /// Frames of the stack's own (ARP, ICMP) dropped because the transmit queue was full or no slot was free.
        out_discards => "OutDiscards",
        /// Frames handed to the device.
        out_frames => "OutFrames",
    }
}

counters! {
    /// Counters of one IP version.
    IpStats {
        /// Packets received, bad ones included.
        in_receives => "InReceives",
        /// Packets with a header that made no sense.
        in_hdr_errors => "InHdrErrors",
        /// Packets to an address that is not ours, or from one that nobody can have (martians).
        in_addr_errors => "InAddrErrors",
        /// Packets for a protocol that nobody handles.
        in_unknown_protos => "InUnknownProtos",
        /// Good packets dropped for lack of memory or room.
        in_discards => "InDiscards",
        /// Packets handed to their protocol.
        in_delivers => "InDelivers",
        /// Datagrams to groups received and sent.
        in_mcast_pkts => "InMcastPkts",
        /// See `in_mcast_pkts`.
        out_mcast_pkts => "OutMcastPkts",
        /// Reports of group membership sent.
        out_mcast_reports => "OutMcastReports",
        /// Queries of group membership received.
        in_mcast_queries => "InMcastQueries",
        /// Packets received that are capable of ECN, by code point, and those that the network has marked (RFC 3168 §5).
        in_ect0_pkts => "InECT0Pkts",
        /// See `in_ect0_pkts`.
        in_ect1_pkts => "InECT1Pkts",
        /// See `in_ect0_pkts`.
        in_ce_pkts => "InCEPkts",
        /// Fragments received.
        reasm_reqds => "ReasmReqds",
        /// Packets made whole of their fragments.
        reasm_oks => "ReasmOKs",
        /// Failures: fragments dropped, and packets given up.
        reasm_fails => "ReasmFails",
        /// Packets given up because a fragment did not arrive in time.
        reasm_timeout => "ReasmTimeout",
        /// Fragments dropped because they overlapped with others (RFC 5722).
        reasm_overlaps => "ReasmOverlaps",
        /// Packets cut into fragments.
        frag_oks => "FragOKs",
        /// Packets that were to be cut and could not be sent.
        frag_fails => "FragFails",
        /// Fragments made.
        frag_creates => "FragCreates",
        /// Packets that protocols asked to send.
        out_requests => "OutRequests",
        /// Good packets not sent for lack of memory or room.
        out_discards => "OutDiscards",
        /// Packets not sent because there is no route.
        out_no_routes => "OutNoRoutes",
    }
}

counters! {
    /// Counters of ICMP or ICMPv6.
    IcmpStats {
        /// Messages received, bad ones included.
        in_msgs => "InMsgs",
        /// Messages that made no sense.
        in_errors => "InErrors",
        /// Messages with a wrong checksum.
        in_csum_errors => "InCsumErrors",
        /// "Destination unreachable" received.
        in_dest_unreachs => "InDestUnreachs",
        /// "Packet too big" or "fragmentation needed" received.
        in_pkt_too_bigs => "InPktTooBigs",
        /// "Time exceeded" received.
        in_time_excds => "InTimeExcds",
        /// "Parameter problem" received.
        in_parm_probs => "InParmProblems",
        /// Echo requests received.
        in_echos => "InEchos",
        /// Echo replies received.
        in_echo_replies => "InEchoReplies",
        /// Messages sent.
        out_msgs => "OutMsgs",
        /// Echo replies sent.
        out_echo_replies => "OutEchoReplies",
        /// "Destination unreachable" sent.
        out_dest_unreachs => "OutDestUnreachs",
        /// "Time exceeded" sent: a packet's fragments did not all arrive.
        out_time_excds => "OutTimeExcds",
        /// "Parameter problem" sent.
        out_parm_probs => "OutParmProblems",
        /// Errors not sent because too many were.
        out_rate_limited => "OutRateLimitGlobal",
    }
}

counters! {
    /// Counters of UDP over one IP version.
    UdpStats {
        /// Datagrams handed to a socket.
        in_datagrams => "InDatagrams",
        /// Datagrams to a port where nobody listens.
        no_ports => "NoPorts",
        /// Datagrams dropped for any other reason.
        in_errors => "InErrors",
        /// Datagrams with a wrong checksum.
        in_csum_errors => "InCsumErrors",
        /// Datagrams dropped because a socket's receive buffer was full.
        rcvbuf_errors => "RcvbufErrors",
        /// Datagrams dropped because all sockets together held too many.
        mem_errors => "MemErrors",
        /// Datagrams sent.
        out_datagrams => "OutDatagrams",
        /// Times a send had to wait for room below.
        sndbuf_errors => "SndbufErrors",
    }
}

/// Counters of one IP version and what it carries, TCP apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionStats {
    /// IP.
    pub ip: IpStats,
    /// ICMP.
    pub icmp: IcmpStats,
    /// UDP.
    pub udp: UdpStats,
}

/// Counters of a stack since it was made, TCP's apart: those are [`TcpStats`](crate::tcp::TcpStats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// The link.
    pub link: LinkStats,
    /// IPv4 and what it carries.
    pub v4: VersionStats,
    /// IPv6 and what it carries.
    pub v6: VersionStats,
    /// TCP segments dropped for a wrong checksum, which TCP itself never sees.
    pub tcp_in_csum_errors: u64,
}

impl IpStats {
    /// Packets received that are not capable of ECN: all the others.
    fn in_no_ect_pkts(&self) -> (&'static str, u64) {
        let others = self.in_hdr_errors + self.in_ect0_pkts + self.in_ect1_pkts + self.in_ce_pkts;
        ("InNoECTPkts", self.in_receives.saturating_sub(others))
    }

    /// A packet with these ECN bits is about to be counted a second time.
    pub(crate) fn discount_ecn(&mut self, ecn: u8) {
        let count = match ecn & 3 {
            1 => &mut self.in_ect1_pkts,
            2 => &mut self.in_ect0_pkts,
            3 => &mut self.in_ce_pkts,
            _ => return,
        };
        *count = count.saturating_sub(1);
    }

    /// Counts a packet that has arrived by its ECN bits, the lowest two of `tos`.
    #[inline]
    pub(crate) fn count_ecn(&mut self, tos: u8) {
        match tos & 3 {
            1 => self.in_ect1_pkts += 1,
            2 => self.in_ect0_pkts += 1,
            3 => self.in_ce_pkts += 1,
            _ => {}
        }
    }
}

impl Stats {
    /// The counters of one IP version.
    #[inline]
    pub(crate) fn version(&mut self, v6: bool) -> &mut VersionStats {
        if v6 { &mut self.v6 } else { &mut self.v4 }
    }

    /// Every counter with its full name: `IpInReceives`, `Udp6NoPorts`, `LinkInFrames`, …
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> + use<> {
        const ECN: [&str; 4] = ["InNoECTPkts", "InECT0Pkts", "InECT1Pkts", "InCEPkts"];
        let of = |prefix: &'static str| {
            move |(name, value): (&'static str, u64)| {
                // Of IPv4 Linux has these in a table of its own.
                let table = if prefix == "Ip" && ECN.contains(&name) { "Ext" } else { "" };
                (format!("{prefix}{table}{name}"), value)
            }
        };
        let Stats { link, v4, v6, tcp_in_csum_errors } = *self;
        let tcp = core::iter::once(("TcpInCsumErrors".to_owned(), tcp_in_csum_errors));
        let link = link.iter().map(of("Link"));
        let v4 = v4
            .ip
            .iter()
            .chain([v4.ip.in_no_ect_pkts()])
            .map(of("Ip"))
            .chain(v4.icmp.iter().map(of("Icmp")))
            .chain(v4.udp.iter().map(of("Udp")));
        let v6 = v6
            .ip
            .iter()
            .chain([v6.ip.in_no_ect_pkts()])
            .map(of("Ip6"))
            .chain(v6.icmp.iter().map(of("Icmp6")))
            .chain(v6.udp.iter().map(of("Udp6")));
        link.chain(v4).chain(v6).chain(tcp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_the_names_that_nstat_shows() {
        let mut stats = Stats::default();
        stats.v6.udp.no_ports = 3;
        stats.v4.ip.in_receives = 5;
        let find = |wanted: &str| stats.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        assert_eq!(find("Udp6NoPorts"), Some(3));
        assert_eq!(find("IpInReceives"), Some(5));
        assert_eq!(find("IcmpInEchos"), Some(0));
        stats.v4.ip.count_ecn(3);
        stats.v6.ip.count_ecn(2);
        let find = |wanted: &str| stats.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        assert_eq!((find("IpExtInCEPkts"), find("IpExtInNoECTPkts")), (Some(1), Some(4)));
        assert_eq!((find("Ip6InECT0Pkts"), find("Ip6InCEPkts")), (Some(1), Some(0)));
    }
}
