//! What a stack is told when it is made: its addresses and gateways, its secret, and the limits of its tables.

use crate::addr::Cidr;
use crate::reassembly::ReassemblyLimits;
use crate::tcp::TcpConfig;
use std::net::IpAddr;

/// A network that is reached through a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// The network.
    pub destination: Cidr,
    /// The router, which must itself be on a network of ours; of the same IP version.
    pub gateway: IpAddr,
}

/// Everything a stack is told when it is made.
///
/// ```
/// use demi_netstack::StackConfig;
/// let config = StackConfig {
///     addresses: vec!["10.0.0.2/24".parse()?, "fd00::2/64".parse()?],
///     gateways: vec!["10.0.0.1".parse()?],
///     ..StackConfig::default()
/// };
/// assert!(config.link_local);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackConfig {
    /// Our addresses and the networks they are on. The first of a version is the preferred source.
    pub addresses: Vec<Cidr>,
    /// Default routers, of either version; the first of a version is used.
    pub gateways: Vec<IpAddr>,
    /// Other routes. The longest prefix wins.
    pub routes: Vec<StaticRoute>,
    /// Have the IPv6 link-local address that is made of the device's Ethernet address (RFC 4291 §2.5.6).
    pub link_local: bool,
    /// See that nobody else has an address before it is used, in IPv6 (RFC 4862 §5.4; a second or two), and announce it in IPv4
    /// (RFC 5227). Off, addresses are used at once and in silence. Disputed addresses are defended in any case.
    pub detect_duplicates: bool,
    /// Take default routers, on-link prefixes, addresses, MTU and name servers from what IPv6 routers advertise.
    pub router_discovery: bool,
    /// Lease an IPv4 address from a DHCP server.
    pub dhcp: bool,
    /// Another stack of the same host, on another queue of the device, answers ARP requests and neighbour solicitations: this one learns
    /// from them and says nothing; see [`Shared`](crate::Shared). With `dhcp` it takes the address that the other one has leased.
    pub silent: bool,
    /// Largest IP packet, in bytes; `None`: the device's. Never more than the device's.
    pub mtu: Option<u16>,
    /// Keys everything that must not be guessed: ports, sequence numbers, tables. Must be random, save where a run is to be
    /// repeated.
    pub secret: [u8; 16],
    /// TCP's limits and defaults.
    pub tcp: TcpConfig,
    /// Limits of everything else.
    pub limits: Limits,
}

impl Default for StackConfig {
    /// No addresses but the link-local one, and a secret that everybody knows: set both.
    fn default() -> Self {
        StackConfig {
            addresses: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            link_local: true,
            detect_duplicates: false,
            router_discovery: false,
            dhcp: false,
            silent: false,
            mtu: None,
            secret: [0; 16],
            tcp: TcpConfig::default(),
            limits: Limits::default(),
        }
    }
}

/// Limits of a stack's tables and queues below TCP: nothing grows beyond them, whatever arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames taken from the device in one turn.
    pub rx_burst: usize,
    /// Frames that may wait for the device before sockets wait.
    pub tx_queue_frames: usize,
    /// Packets to our own addresses that may be under way.
    pub loopback_packets: usize,
    /// Neighbours remembered.
    pub neighbors: u16,
    /// Packets that may wait for one neighbour's address; the oldest is dropped for a new one.
    pub packets_per_neighbor: usize,
    /// Packets that may wait for addresses in all.
    pub neighbor_packets: usize,
    /// UDP sockets.
    pub udp_sockets: usize,
    /// Bytes of datagrams that may wait in one UDP socket, each counted with what it costs to keep, unless the socket says
    /// otherwise.
    pub udp_recv_buffer_bytes: usize,
    /// Datagrams that may wait in all UDP sockets; `None`: half as many as the pool has slots.
    pub udp_datagrams: Option<usize>,
    /// First and last port given to UDP sockets that ask for any (RFC 6056).
    pub ephemeral_ports: (u16, u16),
    /// Packets that may wait for their other fragments; one source has a quarter of them.
    pub reassembly_packets: usize,
    /// Fragments that may wait in all; one source has a quarter of them. `None`: a quarter as many as the pool has slots, at
    /// most 2,048, which is what Linux lets them hold.
    pub reassembly_fragments: Option<usize>,
    /// ICMP errors sent a second (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f); the count is varied at random.
    pub icmp_errors_per_second: u32,
}

impl Limits {
    /// What fragments may hold, in a pool of so many slots.
    pub(crate) fn reassembly(&self, pool_slots: usize) -> ReassemblyLimits {
        let fragments = self.reassembly_fragments.unwrap_or((pool_slots / 4).min(2048));
        ReassemblyLimits { packets: self.reassembly_packets, fragments }
    }
}

impl Default for Limits {
    /// Linux's numbers where it has them.
    fn default() -> Self {
        Limits {
            rx_burst: 64,
            tx_queue_frames: 512,
            loopback_packets: 512,
            neighbors: 1024,
            packets_per_neighbor: 64,
            neighbor_packets: 1024,
            udp_sockets: 1 << 16,
            udp_recv_buffer_bytes: 212_992,
            udp_datagrams: None,
            ephemeral_ports: (32768, 60999),
            reassembly_packets: 256,
            reassembly_fragments: None,
            icmp_errors_per_second: 1000,
        }
    }
}
