//! `/etc/resolv.conf` (resolv.conf(5)), parsed: name servers, search list, options.
//!
//! Owns the limits on what a file can ask for. A line that cannot be understood is passed over, as everywhere: a file with
//! a slip in it must not end a program. Never opens the file.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Where name servers listen.
pub(super) const PORT: u16 = 53;

/// Name servers that are asked; the ones behind are not (glibc's MAXNS).
const MAX_SERVERS: usize = 3;
/// Domains of a search list that are tried.
const MAX_SEARCH: usize = 16;
/// The longest name in text, without the dot at its end (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;
/// What the options are held to, as glibc does.
const MAX_NDOTS: u32 = 15;
const MAX_TIMEOUT_S: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;

/// What the file says, or what holds without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// In the order in which they are asked.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains that short names are looked up in, without dots at their ends.
    pub(super) search: Vec<String>,
    /// A name with at least as many dots is tried as it is before the search list.
    pub(super) ndots: u32,
    /// How long one server has for its answer.
    pub(super) timeout: Duration,
    /// Rounds through the servers.
    pub(super) attempts: u32,
    /// Lookups begin with one server after the other.
    pub(super) rotate: bool,
    /// Ask over TCP at once.
    pub(super) use_vc: bool,
    /// Do not ask for IPv6 addresses.
    pub(super) no_aaaa: bool,
}

impl Default for ResolvConf {
    fn default() -> Self {
        ResolvConf {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            use_vc: false,
            no_aaaa: false,
        }
    }
}

impl ResolvConf {
    /// Reads the text of a file. `zone` tells the number of an interface.
    pub(super) fn parse(text: &str, zone: impl Fn(&str) -> Option<u32>) -> ResolvConf {
        let mut conf = ResolvConf::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < MAX_SERVERS => {
                    conf.servers.extend(words.next().and_then(|word| server(word, &zone)));
                }
                // Of several lists the last one counts, and a domain is a list of one.
                Some("search") => conf.search = words.filter_map(domain).take(MAX_SEARCH).collect(),
                Some("domain") => conf.search = words.filter_map(domain).take(1).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        // Digits alone: a sign is none.
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| value.parse().unwrap_or(u32::MAX));
        match (name, number) {
            ("ndots", Some(number)) => self.ndots = number.min(MAX_NDOTS),
            ("timeout", Some(number)) => {
                self.timeout = Duration::from_secs(number.clamp(1, MAX_TIMEOUT_S).into());
            }
            ("attempts", Some(number)) => self.attempts = number.clamp(1, MAX_ATTEMPTS),
            ("rotate", None) => self.rotate = true,
            ("use-vc", None) => self.use_vc = true,
            ("no-aaaa", None) => self.no_aaaa = true,
            // `edns0` is how we ask anyway; the others are other resolvers' own.
            _ => {}
        }
    }
}

/// A name server's address; a link-local one of IPv6 with the zone it is in.
fn server(word: &str, zone: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((address, interface)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let scope = interface.parse().ok().or_else(|| zone(interface))?;
        return Some(SocketAddrV6::new(address, PORT, 0, scope).into());
    }
    word.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, PORT))
}

/// A domain that names can be looked up in, without the dot at its end. The root is none: it is every name as it is.
pub(super) fn domain(word: &str) -> Option<String> {
    let bare = word.strip_suffix('.').unwrap_or(word);
    let fits = !bare.is_empty() && bare.len() <= MAX_NAME_BYTES && !bare.starts_with('.');
    fits.then(|| bare.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text, |zone| (zone == "eth0").then_some(7))
    }

    #[test]
    fn servers_search_list_and_options_are_read() {
        let conf = parse(
            "# made by hand\n\
             nameserver 10.0.0.53 # the good one\n\
             nameserver fe80::1%eth0\r\n\
             nameserver fd00::53\n\
             nameserver 10.0.0.99\n\
             search One.example. two.example\n\
             options ndots:2 timeout:3 attempts:4 rotate edns0 use-vc no-aaaa\n",
        );
        let written: Vec<_> = conf.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(written, ["10.0.0.53:53", "[fe80::1%7]:53", "[fd00::53]:53"]);
        assert_eq!(conf.search, ["one.example", "two.example"]);
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (2, Duration::from_secs(3), 4));
        assert!(conf.rotate && conf.use_vc && conf.no_aaaa);
    }

    #[test]
    fn the_last_of_domain_and_search_counts() {
        assert_eq!(parse("search a b\ndomain c d\n").search, ["c"]);
        assert_eq!(parse("domain c\nsearch a b\n").search, ["a", "b"]);
        assert!(parse("search a\nsearch .\n").search.is_empty());
    }

    #[test]
    fn what_cannot_be_is_passed_over() {
        let conf = parse(
            "nameserver\nnameserver x\nnameserver fe80::1%no0\noptions ndots: timeout:x attempts:-1 rotate:1\nnonsense\n",
        );
        assert_eq!(conf, ResolvConf::default());
    }

    #[test]
    fn options_are_held_to_their_bounds() {
        let conf = parse("options ndots:99 timeout:0 attempts:99999999999999999999");
        assert_eq!((conf.ndots, conf.timeout, conf.attempts), (15, Duration::from_secs(1), 5));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(?s)(nameserver |search |domain |options |ndots:|[0-9a-f:%. \t\r\n#;]|.){0,200}") {
            let conf = parse(&text);
            prop_assert!(conf.servers.len() <= MAX_SERVERS && conf.search.len() <= MAX_SEARCH);
            prop_assert!(conf.ndots <= MAX_NDOTS && (1..=MAX_ATTEMPTS).contains(&conf.attempts));
            prop_assert!(conf.search.iter().all(|domain| !domain.is_empty() && !domain.contains(char::is_whitespace)));
        }
    }
}
