//! Configuration: one table of keys, from which the builder's methods, the macro's keys, the `DEMI_*` variables and the
//! TOML file's keys all come.
//!
//! Code gives defaults, the file that `DEMI_CONFIG` names overrides them, the environment overrides both: whoever runs a
//! program has the last word. A key that does not exist is an error that lists those that do; a value that cannot be is
//! an error that says what was written where, and what to write instead.
//!
//! ```
//! use demi::config::{Config, DeviceSpec, Idle};
//!
//! let config = Config::new().device("tap:demi0").address("10.0.0.2/24").idle(Idle::Park).check()?;
//! assert_eq!(config.device, [DeviceSpec::Tap { name: "demi0".into() }]);
//!
//! let error = Config::new().device("tap").check().unwrap_err();
//! assert_eq!(error.to_string(), "device = tap: `tap` lacks its NAME: write tap:NAME");
//! # Ok::<(), std::io::Error>(())
//! ```

mod device;
mod kinds;
mod load;
mod value;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use demi_drivers::PoolConfig;
use demi_drivers::transport::{CongestionControl, ListenOptions, StreamOptions};

pub use demi_netstack::tcp::{EcnMode, MtuProbing, SynCookies};
pub use device::DeviceSpec;
pub use kinds::{Address, Cidr, CoreSet, Idle, Log, ReportSignal};
pub use value::Setting;

/// A key of the configuration, for help texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The word, as in the builder, in the macro and in a file; in the environment in capitals behind `DEMI_`.
    pub name: &'static str,
    /// What it sets.
    pub about: &'static str,
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $default:expr, $parse:expr;)*) => {
        /// Everything a runtime can be told. See the [module](self) for where values come from.
        ///
        /// The fields hold checked values; the methods of the same names take anything that can be written for the key, and
        /// keep what is wrong with it for [`check`](Self::check).
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $kind,)*
            /// The first wrong value that code gave.
            problem: Option<String>,
        }

        impl Default for Config {
            fn default() -> Self {
                Config { $($name: $default,)* problem: None }
            }
        }

        impl Config {
            /// Every key there is.
            pub const KEYS: &'static [Key] =
                &[$(Key { name: stringify!($name), about: concat!($($doc, "\n"),+) }),*];

            /// Puts one value in force; answers what is wrong with it.
            fn apply(&mut self, key: &str, value: &Setting) -> Result<(), String> {
                match key {
                    $(stringify!($name) => self.$name = $parse(value)?,)*
                    _ => return Err(format!("no such key: the keys are {}", Self::key_list())),
                }
                Ok(())
            }

            $($(#[doc = $doc])+
            #[must_use]
            pub fn $name(self, value: impl Into<Setting>) -> Self {
                self.set(stringify!($name), value)
            })*
        }
    };
}

keys! {
    /// What carries the sockets: `auto` (uring, else posix), `uring`, `posix`, `tap:NAME`, `packet:IF`, `xdp:IF[@QUEUE][,busy]`,
    /// `dpdk:EAL ARGS`, `rdma:DEV`, `wire`; or a list of them (in one string: with `;` between them).
    device: Vec<DeviceSpec> = vec![DeviceSpec::Auto], value::devices;
    /// Addresses of a stack's interface, each with its prefix length: `10.0.0.2/24`. `dhcp` leases one of IPv4, `auto` takes
    /// those of IPv6 that routers advertise. When not given, a stack on a network does both.
    address: Vec<Address> = Vec::new(), value::interface;
    /// See that nobody else has an address before it is used (IPv6), and announce it (IPv4). When not given: on a network,
    /// not on a wire in memory.
    detect_duplicates: Option<bool> = None, value::some_switch;
    /// How long the start waits for addresses that are leased, advertised or tried out, in milliseconds; then the program
    /// begins without them.
    address_wait_ms: Duration = Duration::from_secs(10), value::time::<1_000_000>;
    /// Routers of a stack's interface, at most one of IPv4 and one of IPv6.
    gateway: Vec<IpAddr> = Vec::new(), gateways;
    /// Largest IP packet of a stack, in bytes; the device's own when not given.
    mtu: Option<u16> = None, value::some_number::<u16, 576, 65535>;
    /// Ethernet address of a stack's interface; the device's own when not given.
    mac: Option<[u8; 6]> = None, value::mac;
    /// VLAN of a stack's interface, 1 to 4094 (802.1Q): its frames carry the tag, and others are not taken. No tag when not
    /// given.
    vlan: Option<u16> = None, value::some_number::<u16, 1, 4094>;
    /// Priority of the frames sent on that VLAN, 0 to 7.
    vlan_priority: u8 = 0, value::number::<u8, 0, 7>;
    /// Name servers. When not given: those that a stack's network tells of, else those of `resolv_conf`. Needs the feature
    /// `dns`, as the next three do.
    dns: Vec<IpAddr> = Vec::new(), value::addresses;
    /// Domains that short names are looked up in. When not given: the one that a stack's network tells of, else those of
    /// `resolv_conf`.
    dns_search: Vec<String> = Vec::new(), value::domains;
    /// File of names whose addresses are known, as hosts(5); empty: none.
    hosts_file: Option<PathBuf> = Some("/etc/hosts".into()), value::path;
    /// File of name servers, a search list and options, as resolv.conf(5); empty: none.
    resolv_conf: Option<PathBuf> = Some("/etc/resolv.conf".into()), value::path;
    /// What the loop does when nothing is ready: `spin`, `adaptive` or `park`. When not given: `spin` where the kernel is
    /// bypassed, else `adaptive`.
    idle: Option<Idle> = None, value::some_word;
    /// How long `adaptive` polls before it blocks, in microseconds, after up to four events; after `n` times as many it is an
    /// `n`th of that. Less, down to nothing, while most events come further apart than that.
    spin_us: Duration = Duration::from_micros(50), value::time::<1_000>;
    /// Cores to run on, `2` or `0-3`: each has a thread, pinned there, that runs `main` on a runtime and a device queue of its own.
    /// When not given, there is one, which runs where the kernel puts it.
    cores: Option<CoreSet> = None, value::some_word;
    /// Packet buffers in a pool. While no more than a quarter of them is free, a stack keeps what arrives over a connection only if it has
    /// little unread there, and the peer sends the rest again: a program that leaves much unread wants more of them.
    pool_slots: usize = PoolConfig::default().slots, value::number::<usize, 64, { 1 << 24 }>;
    /// Bytes of a packet buffer, its header and headroom included: a multiple of 64.
    pool_slot_bytes: usize = PoolConfig::default().slot_bytes, slot_bytes;
    /// Large buffers in a pool; they carry what a device coalesces or cuts by itself.
    pool_large_slots: usize = PoolConfig::default().large_slots, value::number::<usize, 0, { 1 << 20 }>;
    /// Bytes of a large buffer, its header and headroom included: a multiple of 64.
    pool_large_slot_bytes: usize = PoolConfig::default().large_slot_bytes, slot_bytes;
    /// Put pools on huge pages when the machine has them free.
    huge_pages: bool = true, value::switch;
    /// Connections that may wait to be accepted, a listener.
    backlog: u32 = 1024, value::number::<u32, 1, 65535>;
    /// Bytes a connection's send buffer may hold; the transport's own choice when not given.
    send_buffer_bytes: Option<usize> = None, value::some_bytes::<2048, { 1 << 30 }>;
    /// Bytes a connection's receive buffer may hold; the transport's own choice when not given.
    recv_buffer_bytes: Option<usize> = None, value::some_bytes::<2048, { 1 << 30 }>;
    /// Congestion control of a stack's connections: `cubic`, `newreno`, `dctcp`, `bbr` or `none`.
    congestion: CongestionControl = CongestionControl::Cubic, value::congestion;
    /// Connections a stack holds at once; more are refused.
    max_connections: usize = 1 << 20, value::number::<usize, 1, { 1 << 26 }>;
    /// Bytes that a stack's buffers may grow to by themselves, when a connection is given no size: the send buffer with the congestion
    /// window, the receive buffer with what is read in a round trip.
    send_buffer_max_bytes: usize = 4 << 20, value::bytes::<2048, { 1 << 30 }>;
    /// See `send_buffer_max_bytes`.
    recv_buffer_max_bytes: usize = 6 << 20, value::bytes::<2048, { 1 << 30 }>;
    /// Explicit congestion notification of a stack's connections: `off`, `on` (asked for, and agreed to) or `passive` (agreed to);
    /// `accurate`: Accurate ECN (RFC 9768) asked for, and both agreed to; `accurate-on` and `accurate-passive`: as `on` and `passive`,
    /// and Accurate ECN agreed to.
    ecn: EcnMode = EcnMode::Passive, ecn;
    /// When a stack answers SYNs with cookies instead of remembering them: `never`, `overflow` (when a listener's backlog of
    /// handshakes is full) or `always`.
    syn_cookies: SynCookies = SynCookies::OnOverflow, syn_cookies;
    /// Handshakes that all of a stack's listeners together may have under way, less than 180 bytes each.
    max_half_open: usize = 1 << 16, value::number::<usize, 1, { 1 << 24 }>;
    /// Connections that the program has closed and that may linger until the peer has everything; more are reset.
    max_orphans: usize = 1 << 16, value::number::<usize, 0, { 1 << 26 }>;
    /// Whether a stack tries smaller and larger packets where routers do not say what the path carries (RFC 4821): `never`,
    /// `blackhole` (when nothing gets through for long) or `always`.
    mtu_probing: MtuProbing = MtuProbing::OnBlackHole, mtu_probing;
    /// Key of a stack's Fast Open cookies, 32 hexadecimal digits: hosts behind one name share it. A random one when not given.
    fast_open_key: Option<[u8; 16]> = None, fast_open_key;
    /// The next ones have the names and the values of Linux's sysctls, for a stack's connections; kernel sockets have the
    /// kernel's. Timestamps are offered and used (RFC 7323).
    tcp_timestamps: bool = true, value::switch;
    /// Windows beyond 64 KiB are offered and used (RFC 7323).
    tcp_window_scaling: bool = true, value::switch;
    /// Selective acknowledgements are offered and used (RFC 2018).
    tcp_sack: bool = true, value::switch;
    /// The peer is told what arrived twice (RFC 2883).
    tcp_dsack: bool = true, value::switch;
    /// How losses are found, a sum of bits. 1: by time (RFC 8985), else three segments behind a hole tell (RFC 6675). 2: the wait
    /// for what may be reordered does not adapt. 4: it is waited for even where reordering was never seen.
    tcp_recovery: u8 = 1, value::number::<u8, 0, 7>;
    /// 3 or 4: a lost tail is probed for before the retransmission timeout (RFC 8985 §7). Less: it is not.
    tcp_early_retrans: u8 = 3, value::number::<u8, 0, 4>;
    /// Whether a retransmission timeout was spurious is found out (RFC 5682): 0 for no, 1 or 2 for yes.
    tcp_frto: u8 = 2, value::number::<u8, 0, 2>;
    /// Segments that may overtake another before that is taken for lost, to begin with.
    tcp_reordering: u32 = 3, value::number::<u32, 1, 300>;
    /// The most that this adapts to.
    tcp_max_reordering: u32 = 300, value::number::<u32, 1, 65535>;
    /// A congestion window that was not used for a timeout begins anew (RFC 2861).
    tcp_slow_start_after_idle: bool = true, value::switch;
    /// Rate at which paced data is sent, in percent of a window a round trip: in slow start.
    tcp_pacing_ss_ratio: u32 = 200, value::number::<u32, 1, 1000>;
    /// And after it.
    tcp_pacing_ca_ratio: u32 = 120, value::number::<u32, 1, 1000>;
    /// Receive buffers grow to what is read in a round trip.
    tcp_moderate_rcvbuf: bool = true, value::switch;
    /// Smallest retransmission timeout, in microseconds, at most a second.
    tcp_rto_min_us: Duration = Duration::from_millis(200), value::time_within::<1_000, 1_000, 1_000_000_000>;
    /// Largest retransmission timeout, in milliseconds, from one second to 120.
    tcp_rto_max_ms: Duration = Duration::from_secs(120), value::time_within::<1_000_000, 1_000_000_000, 120_000_000_000>;
    /// SYNs sent again before a connect fails.
    tcp_syn_retries: u32 = 6, value::number::<u32, 0, 127>;
    /// SYN-ACKs sent again before a handshake is forgotten.
    tcp_synack_retries: u32 = 5, value::number::<u32, 0, 127>;
    /// Timeouts in a row before a connection is given up.
    tcp_retries2: u32 = 15, value::number::<u32, 0, 255>;
    /// As `tcp_retries2`, for connections that the program has closed; 0: 8.
    tcp_orphan_retries: u32 = 0, value::number::<u32, 0, 255>;
    /// How long a closed connection waits for the peer to close, too, in seconds.
    tcp_fin_timeout: Duration = Duration::from_secs(60), value::time_within::<1_000_000_000, 0, 86_400_000_000_000>;
    /// A SYN that is sent again no longer asks for ECN (RFC 3168 §6.1.1.1).
    tcp_ecn_fallback: bool = true, value::switch;
    /// Which segments carry the option of Accurate ECN: 0 none, 1 those after a change, 2 all until the path seems to drop them for
    /// it, 3 all.
    tcp_ecn_option: u8 = 2, value::number::<u8, 0, 3>;
    /// How often in a round trip they do at least, with `tcp_ecn_option = 1`; 0: only after a change.
    tcp_ecn_option_beacon: u32 = 3, value::number::<u32, 0, 255>;
    /// Whether a connect may follow on a connection in TIME-WAIT (RFC 6191): 0 no, 1 yes, 2 to addresses of this host.
    tcp_tw_reuse: u8 = 1, value::number::<u8, 0, 2>;
    /// Connections remembered in TIME-WAIT; for more, the oldest is forgotten.
    tcp_max_tw_buckets: usize = 1 << 18, value::number::<usize, 0, { 1 << 26 }>;
    /// Fast Open (RFC 7413), a sum of bits: 1 connects may, 2 listeners may; 4 connects send data even without a cookie, 0x200
    /// listeners take it even so; 0x400 every listener does.
    tcp_fastopen: u32 = 3, fast_open_bits;
    /// A handshake that ends while too many connections wait to be accepted is answered with a RST, not with silence.
    tcp_abort_on_overflow: bool = false, value::switch;
    /// The next ones are for `rdma:DEV`, whose messages land in slots of the pool. Receives that wait in the queue which all connections of
    /// a device share: at most this many, and at most half of the pool's slots.
    rdma_receives: u32 = 4096, value::number::<u32, 1, { 1 << 20 }>;
    /// Messages that a peer may send ahead of its reader; fewer while many connections share the receives.
    rdma_credits: u16 = 32, value::number::<u16, 2, 4096>;
    /// Requests of all connections of a device that may be with the adapter at a time.
    rdma_requests: u32 = 8192, value::number::<u32, 64, { 1 << 20 }>;
    /// Bytes that are handed to the adapter inside of a request; fewer if it takes no more.
    rdma_inline_bytes: u32 = 128, value::number::<u32, 0, 4096>;
    /// Let peers read long buffers by a key of the whole pool where the device has no memory windows. Whoever is connected can then read
    /// everything in the pool, other connections' bytes included.
    rdma_trust_peers: bool = false, value::switch;
    /// Have the adapter page the pool in as it reaches it, instead of locking it into memory; an error where the device cannot.
    rdma_on_demand: bool = false, value::switch;
    /// How long the set-up of a connection may take, in milliseconds.
    rdma_connect_timeout_ms: Duration = Duration::from_secs(30), value::time_within::<1_000_000, 1_000_000, 600_000_000_000>;
    /// How long a closed connection's last bytes may wait for the peer to take them, in milliseconds; then it is reset.
    rdma_close_timeout_ms: Duration = Duration::from_secs(60), value::time_within::<1_000_000, 1_000_000, 600_000_000_000>;
    /// File that every frame of a stack's device is written to, as pcapng.
    pcap: Option<PathBuf> = None, value::path;
    /// Seed of everything random; drawn from the kernel when not given. A stack's secrets come from it: give one in tests
    /// only.
    seed: Option<u64> = None, value::seed;
    /// Signal at which a running program prints its sockets, counters and metrics on standard error: `usr1`, `usr2` or `off`.
    report_signal: ReportSignal = ReportSignal::Off, value::word;
    /// How long a runtime that ends waits for its connections to deliver what was written, in milliseconds.
    drain_ms: Duration = Duration::from_secs(2), value::time::<1_000_000>;
    /// What is said on standard error: `off`, `error`, `warn`, `info` or `debug`.
    log: Log = Log::Warn, value::word;
}

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Config::default()
    }

    /// Sets the key named `key`: what the methods named after the keys do.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Setting>) -> Self {
        let value = value.into();
        if let Err(problem) = self.apply(key, &value)
            && self.problem.is_none()
        {
            self.problem = Some(format!("{key} = {}: {problem}", value.text()));
        }
        self
    }

    /// This configuration, if all that code gave it can be.
    ///
    /// # Errors
    /// `InvalidInput` with the first value that cannot be, or with values that exclude each other.
    pub fn check(self) -> io::Result<Config> {
        match self.problem.clone().or_else(|| self.contradiction()) {
            Some(problem) => Err(io::Error::new(io::ErrorKind::InvalidInput, problem)),
            None => Ok(self),
        }
    }

    /// This configuration as whoever runs the program wants it: overridden by the file that `DEMI_CONFIG` names, and that by
    /// the `DEMI_*` variables.
    ///
    /// # Errors
    /// As [`check`](Self::check); `InvalidInput` for a variable or a line of the file that names no key or gives a value
    /// that cannot be; what opening the file said.
    ///
    /// ```
    /// // DEMI_MTU=1400 in the environment would win over the 9000.
    /// let config = demi::Config::new().mtu(9000).load()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn load(self) -> io::Result<Config> {
        load::overlay(self, std::env::vars_os())
    }

    /// Values that are right alone and wrong together.
    fn contradiction(&self) -> Option<String> {
        if let Some(gateway) =
            self.gateway.iter().find(|gateway| !self.address.is_empty() && !self.same_family(gateway))
        {
            return Some(format!("gateway = {gateway}: no address of the same IP version is given: add one"));
        }
        None
    }

    fn same_family(&self, gateway: &IpAddr) -> bool {
        self.address.iter().any(|own| match own {
            Address::Fixed(own) => own.address.is_ipv4() == gateway.is_ipv4(),
            Address::Dhcp => gateway.is_ipv4(),
            Address::Auto => gateway.is_ipv6(),
        })
    }

    fn key_list() -> String {
        Self::KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
    }

    /// What the loop does when nothing is ready, decided: a single bypassed device is enough to spin.
    pub fn idle_policy(&self) -> Idle {
        let spins = self.device.iter().any(|device| device.default_idle() == Idle::Spin);
        self.idle.unwrap_or(if spins { Idle::Spin } else { Idle::Adaptive })
    }

    /// The pool that each device gets.
    pub fn pool(&self) -> PoolConfig {
        PoolConfig {
            slot_bytes: self.pool_slot_bytes,
            slots: self.pool_slots,
            large_slot_bytes: self.pool_large_slot_bytes,
            large_slots: self.pool_large_slots,
            huge_pages: self.huge_pages,
        }
    }

    /// What connections start with.
    pub(crate) fn stream_options(&self) -> StreamOptions {
        let mut options = StreamOptions::default();
        options.send_buffer_bytes = self.send_buffer_bytes;
        options.recv_buffer_bytes = self.recv_buffer_bytes;
        options
    }

    /// What listeners start with.
    pub(crate) fn listen_options(&self) -> ListenOptions {
        let mut options = ListenOptions::default();
        options.backlog = self.backlog;
        options.stream = self.stream_options();
        options.stream.reuse_address = true;
        options
    }
}

/// The defaults, overridden by the text of a file.
#[cfg(all(fuzzing, feature = "dns"))]
pub(crate) fn fuzz_file(text: &str) -> io::Result<Config> {
    let mut config = Config::new();
    load::lines(&mut config, text, &"file")?;
    config.check()
}

/// Routers, no two of one IP version.
fn gateways(value: &Setting) -> value::Parsed<Vec<IpAddr>> {
    let gateways = value::addresses(value)?;
    let of_v4 = gateways.iter().filter(|gateway| gateway.is_ipv4()).count();
    if of_v4 > 1 || gateways.len() - of_v4 > 1 {
        return Err("several routers of one IP version: write one of IPv4, one of IPv6, or both".into());
    }
    Ok(gateways)
}

/// A word for [`EcnMode`].
fn ecn(value: &Setting) -> value::Parsed<EcnMode> {
    match value.text().as_str() {
        "off" => Ok(EcnMode::Off),
        "on" => Ok(EcnMode::On),
        "passive" => Ok(EcnMode::Passive),
        "accurate" => Ok(EcnMode::Accurate),
        "accurate-on" => Ok(EcnMode::AccurateOn),
        "accurate-passive" => Ok(EcnMode::AccuratePassive),
        _ => Err("write off, on, passive, accurate, accurate-on or accurate-passive".into()),
    }
}

/// A word for [`SynCookies`].
fn syn_cookies(value: &Setting) -> value::Parsed<SynCookies> {
    match value.text().to_ascii_lowercase().as_str() {
        "never" => Ok(SynCookies::Never),
        "overflow" => Ok(SynCookies::OnOverflow),
        "always" => Ok(SynCookies::Always),
        _ => Err("no such use of SYN cookies: write never, overflow or always".into()),
    }
}

/// A word for [`MtuProbing`].
fn mtu_probing(value: &Setting) -> value::Parsed<MtuProbing> {
    match value.text().to_ascii_lowercase().as_str() {
        "never" => Ok(MtuProbing::Never),
        "blackhole" => Ok(MtuProbing::OnBlackHole),
        "always" => Ok(MtuProbing::Always),
        _ => Err("no such use of probes: write never, blackhole or always".into()),
    }
}

/// Sixteen bytes as hexadecimal digits, in groups or not.
fn fast_open_key(value: &Setting) -> value::Parsed<Option<[u8; 16]>> {
    let digits: String = value.text().chars().filter(|c| *c != '-').collect();
    let key = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32);
    match key {
        Some(key) => Ok(Some(key.to_be_bytes())),
        None => Err("not a key: write 32 hexadecimal digits".into()),
    }
}

/// The bits of Linux's `tcp_fastopen` that mean something here, in decimal or as `0x…`.
fn fast_open_bits(value: &Setting) -> value::Parsed<u32> {
    let text = value.text();
    let bits = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    bits.filter(|bits| bits & !0x607 == 0)
        .ok_or_else(|| "no such bits: write a sum of 1, 2, 4, 0x200 and 0x400".into())
}

/// A slot's bytes: what a pool can be cut into.
fn slot_bytes(value: &Setting) -> value::Parsed<usize> {
    let bytes = value::bytes::<512, { 1 << 24 }>(value)?;
    if bytes % 64 != 0 {
        return Err("not a multiple of 64".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_can_be_set_by_name_and_by_method() {
        let by_name = Config::new().set("mtu", 1400).set("backlog", "7").check().unwrap();
        let by_method = Config::new().mtu("1400").backlog(7).check().unwrap();
        assert_eq!((by_name.mtu, by_name.backlog), (by_method.mtu, by_method.backlog));
        assert!(Config::KEYS.iter().all(|key| !key.about.trim().is_empty()));
    }

    #[test]
    fn an_unknown_key_is_answered_with_all_keys() {
        let error = Config::new().set("devise", "auto").check().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let says = error.to_string();
        assert!(Config::KEYS.iter().all(|key| says.contains(key.name)), "{says}");
    }

    #[test]
    fn knobs_of_tcp_are_words_and_keys() {
        let key = "00112233-44556677-8899aabb-ccddeeff";
        let config =
            Config::new().syn_cookies("always").mtu_probing("never").fast_open_key(key).check().unwrap();
        assert_eq!((config.syn_cookies, config.mtu_probing), (SynCookies::Always, MtuProbing::Never));
        assert_eq!(config.fast_open_key.map(|key| (key[0], key[15])), Some((0, 0xff)));
        assert!(
            Config::new()
                .fast_open_key("0011")
                .check()
                .unwrap_err()
                .to_string()
                .contains("32 hexadecimal digits")
        );
        assert!(Config::new().syn_cookies("maybe").check().is_err());
        let config = Config::new().ecn("on").congestion("bbr").recv_buffer_max_bytes("1m").check().unwrap();
        assert_eq!((config.ecn, config.recv_buffer_max_bytes), (EcnMode::On, 1 << 20));
        assert_eq!(config.congestion, CongestionControl::Bbr);
        assert!(Config::new().ecn("maybe").check().is_err());
        assert_eq!(Config::new().ecn("accurate-passive").check().unwrap().ecn, EcnMode::AccuratePassive);
    }

    #[test]
    fn knobs_of_tcp_have_the_values_of_their_sysctls() {
        let config =
            Config::new().tcp_recovery(7).tcp_fastopen("0x403").tcp_fin_timeout(5).tcp_rto_min_us(500);
        let config = config.tcp_rto_max_ms("2s").tcp_sack("off").check().unwrap();
        assert_eq!((config.tcp_recovery, config.tcp_fastopen, config.tcp_sack), (7, 0x403, false));
        assert_eq!(config.tcp_fin_timeout, Duration::from_secs(5));
        assert_eq!(config.tcp_rto_min_us, Duration::from_micros(500));
        assert_eq!(config.tcp_rto_max_ms, Duration::from_secs(2));
        for (key, wrong) in [
            ("tcp_recovery", "8"),
            ("tcp_fastopen", "8"),
            ("tcp_rto_max_ms", "500"),
            ("tcp_rto_min_us", "0"),
            ("tcp_reordering", "0"),
            ("tcp_tw_reuse", "3"),
        ] {
            assert!(Config::new().set(key, wrong).check().is_err(), "{key} = {wrong}");
        }
    }

    #[test]
    fn knobs_of_rdma_have_bounds() {
        let config = Config::new().rdma_receives(64).rdma_connect_timeout_ms("250ms").rdma_on_demand("on");
        let config = config.check().unwrap();
        assert_eq!((config.rdma_receives, config.rdma_on_demand), (64, true));
        assert_eq!(config.rdma_connect_timeout_ms, Duration::from_millis(250));
        for (key, wrong) in [
            ("rdma_receives", "0"),
            ("rdma_credits", "1"),
            ("rdma_requests", "8"),
            ("rdma_inline_bytes", "65536"),
            ("rdma_connect_timeout_ms", "0"),
            ("rdma_close_timeout_ms", "1h"),
        ] {
            assert!(Config::new().set(key, wrong).check().is_err(), "{key} = {wrong}");
        }
    }

    #[test]
    fn one_bypassed_device_makes_the_loop_spin() {
        assert_eq!(Config::new().idle_policy(), Idle::Adaptive);
        assert_eq!(Config::new().device(["posix", "xdp:eth0"]).idle_policy(), Idle::Spin);
        assert_eq!(Config::new().device("xdp:eth0").idle("park").idle_policy(), Idle::Park);
    }

    #[test]
    fn a_gateway_needs_an_address_of_its_version() {
        let config = Config::new().address("10.0.0.2/24").gateway("fd00::1");
        assert!(config.check().unwrap_err().to_string().starts_with("gateway = fd00::1: "));
        assert!(Config::new().gateway(["10.0.0.1", "10.0.0.9"]).check().is_err());
    }
}
