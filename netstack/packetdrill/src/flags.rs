//! The flags that scripts and command lines carry, under packetdrill's names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which IP version carries the packets, and which one the sockets are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpVersion {
    /// IPv4 sockets and packets.
    V4,
    /// IPv6 sockets and packets.
    V6,
    /// IPv6 sockets that reach IPv4 peers, and IPv4 packets.
    V4MappedV6,
}

impl IpVersion {
    /// As the flag `--ip_version` writes it.
    pub fn name(self) -> &'static str {
        match self {
            IpVersion::V4 => "ipv4",
            IpVersion::V6 => "ipv6",
            IpVersion::V4MappedV6 => "ipv4-mapped-ipv6",
        }
    }

    /// Whether packets are IPv6.
    pub(crate) fn is_v6(self) -> bool {
        self == IpVersion::V6
    }
}

/// How a script is read and run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// IP version; `None`: each that the script can be run with.
    pub ip_version: Option<IpVersion>,
    /// Names in the script that stand for values (`--define=NAME=VALUE`).
    pub defines: Vec<(String, String)>,
    /// How far from its time a packet or a return may be, in microseconds.
    pub tolerance_us: i64,
    /// A clock tick of TCP timestamps, in microseconds: with it the timestamps sent are compared; 0: they are not.
    pub timestamp_tick_us: i64,
    /// Of TCP options neither order nor padding is compared: for scripts that were written for another system than Linux.
    pub any_option_order: bool,
    /// Packets that no line expects fail the script even at its end.
    pub strict_end: bool,
    /// The stack's address; `None`: one of 192.168.0.0/16 or of fd3d:0a0b:17d6::/48.
    pub local_ip: Option<IpAddr>,
    /// The peer's; `None`: 192.0.2.1 or 2001:db8::1.
    pub remote_ip: Option<IpAddr>,
    /// The router between them.
    pub gateway_ip: Option<IpAddr>,
    /// Port that `bind` takes where the script leaves it open.
    pub bind_port: u16,
    /// Port that `connect` goes to where the script leaves it open.
    pub connect_port: u16,
    /// Payload of the segments that an inbound packet longer than the link's MTU counts as having been coalesced of
    /// (`--mss`); 0: it is one.
    pub segment_bytes: u16,
    /// Largest IP packet of the link, in bytes; `None`: 1500 with IPv4 and 1520 with IPv6, so that scripts see one MSS.
    pub mtu: Option<u16>,
}

impl Default for Flags {
    /// packetdrill's defaults.
    fn default() -> Self {
        Flags {
            ip_version: None,
            defines: Vec::new(),
            tolerance_us: 4000,
            timestamp_tick_us: 0,
            any_option_order: false,
            strict_end: false,
            local_ip: None,
            remote_ip: None,
            gateway_ip: None,
            bind_port: 8080,
            connect_port: 8080,
            segment_bytes: 0,
            mtu: None,
        }
    }
}

/// Flags that change nothing in a process of its own: they are about packetdrill's devices, privileges and output.
const WITHOUT_EFFECT: [&str; 13] = [
    "dry_run",
    "verbose",
    "debug",
    "speed",
    "netmask_ip",
    "wire_protocol",
    "init_scripts",
    "non_fatal",
    "send_omit_free",
    "persistent_tun_dev",
    "code_command",
    "code_format",
    "tcp_ts_ecr_scaled",
];

impl Flags {
    /// Takes a flag.
    ///
    /// # Errors
    /// A message that names the flag, when it is unknown or its value makes no sense.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        let bad = |expected: &str| match value {
            Some(value) => format!("--{name}={value}: expected {expected}"),
            None => format!("--{name} needs a value: {expected}"),
        };
        let number = |expected: &str| {
            value.and_then(|value| value.parse::<i64>().ok()).filter(|n| *n >= 0).ok_or_else(|| bad(expected))
        };
        let port = || number("a port").and_then(|n| u16::try_from(n).map_err(|_| bad("a port")));
        let address = || value.and_then(|value| value.parse().ok()).ok_or_else(|| bad("an IP address"));
        match name {
            "ip_version" => {
                let all = [IpVersion::V4, IpVersion::V6, IpVersion::V4MappedV6];
                let found = all.into_iter().find(|version| Some(version.name()) == value);
                self.ip_version = Some(found.ok_or_else(|| bad("ipv4, ipv6 or ipv4-mapped-ipv6"))?);
            }
            "define" => {
                let pair = value.and_then(|value| value.split_once('='));
                let (symbol, value) = pair.ok_or_else(|| bad("NAME=VALUE"))?;
                self.defines.push((symbol.to_owned(), value.to_owned()));
            }
            "tolerance_usecs" => self.tolerance_us = number("microseconds")?,
            "tcp_ts_tick_usecs" => self.timestamp_tick_us = number("microseconds")?,
            "any_option_order" => self.any_option_order = true,
            "strict_end" => self.strict_end = true,
            "local_ip" => self.local_ip = Some(address()?),
            "remote_ip" => {
                // A prefix may follow: packets of others of that network are then the peer's, too.
                let plain =
                    value.and_then(|value| value.split('/').next()).and_then(|value| value.parse().ok());
                self.remote_ip = Some(plain.ok_or_else(|| bad("an IP address"))?);
            }
            "gateway_ip" => self.gateway_ip = Some(address()?),
            "bind_port" => self.bind_port = port()?,
            "connect_port" => self.connect_port = port()?,
            "mss" => {
                self.segment_bytes = u16::try_from(number("bytes")?).map_err(|_| bad("bytes"))?;
            }
            "mtu" => {
                let mtu = u16::try_from(number("bytes")?).ok().filter(|mtu| *mtu >= 68);
                self.mtu = Some(mtu.ok_or_else(|| bad("bytes"))?);
            }
            name if WITHOUT_EFFECT.contains(&name) => {}
            _ => return Err(format!("--{name} is not supported")),
        }
        Ok(())
    }

    pub(crate) fn mtu(&self, version: IpVersion) -> u16 {
        self.mtu.unwrap_or(if version.is_v6() { 1520 } else { 1500 })
    }

    pub(crate) fn local(&self, version: IpVersion) -> IpAddr {
        let default = if version.is_v6() {
            IpAddr::from(Ipv6Addr::new(0xfd3d, 0x0a0b, 0x17d6, 0, 0, 0, 0, 1))
        } else {
            Ipv4Addr::new(192, 168, 0, 1).into()
        };
        self.local_ip.filter(|ip| ip.is_ipv6() == version.is_v6()).unwrap_or(default)
    }

    pub(crate) fn remote(&self, version: IpVersion) -> IpAddr {
        let default = if version.is_v6() {
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))
        } else {
            Ipv4Addr::new(192, 0, 2, 1).into()
        };
        self.remote_ip.filter(|ip| ip.is_ipv6() == version.is_v6()).unwrap_or(default)
    }

    /// The router: one of the stack's network.
    pub(crate) fn gateway(&self, version: IpVersion) -> IpAddr {
        // On packetdrill's own device the router may be the machine itself.
        let fits = |ip: &IpAddr| ip.is_ipv6() == version.is_v6() && *ip != self.local(version);
        if let Some(gateway) = self.gateway_ip.filter(fits) {
            return gateway;
        }
        match self.local(version) {
            IpAddr::V4(local) => {
                let [a, b, c, d] = local.octets();
                Ipv4Addr::new(a, b, c, d ^ 3).into()
            }
            IpAddr::V6(local) => {
                let mut segments = local.segments();
                segments[7] ^= 3;
                Ipv6Addr::from(segments).into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_or_named_in_the_error() {
        let mut flags = Flags::default();
        flags.set("tolerance_usecs", Some("500")).unwrap();
        flags.set("ip_version", Some("ipv4-mapped-ipv6")).unwrap();
        flags.set("local_ip", Some("10.0.0.1")).unwrap();
        assert_eq!(flags.tolerance_us, 500);
        assert_eq!(flags.gateway(IpVersion::V4), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(flags.local(IpVersion::V6).to_string(), "fd3d:a0b:17d6::1");
        assert_eq!(flags.set("nonsense", Some("1")).unwrap_err(), "--nonsense is not supported");
        assert_eq!(flags.set("mtu", None).unwrap_err(), "--mtu needs a value: bytes");
        assert_eq!(flags.set("bind_port", Some("70000")).unwrap_err(), "--bind_port=70000: expected a port");
    }
}
