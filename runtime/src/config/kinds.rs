//! The types of configuration values that nothing else has: idle policies, core sets, addresses with prefixes, log levels.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What the loop does when nothing is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idle {
    /// Poll on and on: the lowest latency, for a whole core. The default on devices that bypass the kernel.
    Spin,
    /// Poll for `spin_us` microseconds, then block until something arrives; for less after a burst of many events, and for less and less,
    /// down to not at all, while most events come further apart than that. The default elsewhere.
    Adaptive,
    /// Block at once.
    Park,
}

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Log {
    /// Nothing.
    Off,
    /// What went wrong.
    Error,
    /// And what will surprise.
    Warn,
    /// And which devices were opened, how, and when they are closed.
    Info,
    /// And everything else worth a line. Nothing on the datapath is.
    Debug,
}

/// The signal at which a program says what its sockets are up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReportSignal {
    /// None: both are the program's own.
    #[default]
    Off,
    /// `SIGUSR1`.
    Usr1,
    /// `SIGUSR2`.
    Usr2,
}

/// An address and the length of its network's prefix: `10.0.0.2/24`.
///
/// ```
/// let address: demi::config::Cidr = "fd00::2/64".parse().unwrap();
/// assert_eq!(address.prefix_len, 64);
/// assert_eq!(address.to_string(), "fd00::2/64");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The host's own address.
    pub address: IpAddr,
    /// Leading bits that its network shares.
    pub prefix_len: u8,
}

/// How a stack's interface comes by an address.
///
/// ```
/// use demi::config::Address;
/// let address: Address = "dhcp".parse().unwrap();
/// assert_eq!(address, Address::Dhcp);
/// assert_eq!("10.0.0.2/24".parse::<Address>().unwrap().to_string(), "10.0.0.2/24");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// It has this one.
    Fixed(Cidr),
    /// `dhcp`: IPv4 from a DHCP server (RFC 2131).
    Dhcp,
    /// `auto`: IPv6 from what routers advertise (RFC 4862).
    Auto,
}

/// Cores by their numbers, ascending, each once: `0-3,6`.
///
/// ```
/// let cores: demi::config::CoreSet = "0-2,6".parse().unwrap();
/// assert_eq!(cores.numbers(), [0, 1, 2, 6]);
/// assert_eq!(cores.to_string(), "0-2,6");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CoreSet(Vec<usize>);

/// Cores are numbered below this, as in Linux's `CPU_SETSIZE`.
const MAX_CORES: usize = 1024;

impl CoreSet {
    /// The cores' numbers, ascending.
    pub fn numbers(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CoreSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not a set of cores below {MAX_CORES}: write 2, or 0-3, or 0,2,4-7");
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let core =
                |text: &str| text.trim().parse().ok().filter(|core| *core < MAX_CORES).ok_or_else(wrong);
            let (first, last): (usize, usize) = (core(first)?, core(last)?);
            if first > last {
                return Err(wrong());
            }
            numbers.extend(first..=last);
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(CoreSet(numbers))
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (at, run) in runs.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [only] => write!(f, "{comma}{only}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text
            .trim()
            .split_once('/')
            .ok_or_else(|| format!("`{text}` lacks its prefix length: write 10.0.0.2/24 or fd00::2/64"))?;
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no IP address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix.parse().ok().filter(|len| *len <= longest);
        let prefix_len =
            prefix_len.ok_or_else(|| format!("`/{prefix}` is no prefix length: write 0 to {longest}"))?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!("`{address}` cannot be a host's address"));
        }
        Ok(Cidr { address, prefix_len })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "dhcp" => Ok(Address::Dhcp),
            "auto" => Ok(Address::Auto),
            other => other.parse().map(Address::Fixed).map_err(|error| format!("{error}; or dhcp, or auto")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Fixed(cidr) => cidr.fmt(f),
            Address::Dhcp => f.write_str("dhcp"),
            Address::Auto => f.write_str("auto"),
        }
    }
}

/// Words of an enumeration: parsed, and written, one way.
macro_rules! words {
    ($kind:ident, $what:literal, $($word:literal => $variant:ident),*) => {
        impl FromStr for $kind {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok($kind::$variant),)*
                    _ => Err(format!("no such {}: write {}", $what, [$($word),*].join(", "))),
                }
            }
        }
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($kind::$variant => $word),* })
            }
        }
    };
}
words!(Idle, "idle policy", "spin" => Spin, "adaptive" => Adaptive, "park" => Park);
words!(ReportSignal, "signal", "off" => Off, "usr1" => Usr1, "usr2" => Usr2);
words!(Log, "log level", "off" => Off, "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_sets_are_read_and_written() {
        for (text, numbers, written) in
            [("2", vec![2], "2"), ("3,0-1", vec![0, 1, 3], "0-1,3"), ("1,1,1", vec![1], "1")]
        {
            let cores: CoreSet = text.parse().unwrap();
            assert_eq!(cores.numbers(), numbers, "{text}");
            assert_eq!(cores.to_string(), written);
        }
        for wrong in ["", "3-1", "a", "0-", "1024", "0-99999999999"] {
            assert!(wrong.parse::<CoreSet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_needs_a_prefix_that_fits_it() {
        assert_eq!("10.0.0.2/24".parse::<Cidr>().unwrap().to_string(), "10.0.0.2/24");
        for wrong in ["10.0.0.2", "10.0.0.2/33", "::1/129", "x/8", "0.0.0.0/0", "224.0.0.1/4", "10.0.0.2/-1"]
        {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        assert_eq!("Park".parse::<Idle>(), Ok(Idle::Park));
        assert_eq!("x".parse::<Idle>().unwrap_err(), "no such idle policy: write spin, adaptive, park");
    }
}
