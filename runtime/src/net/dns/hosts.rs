//! `/etc/hosts` (hosts(5)), parsed: names whose addresses need nobody to be asked. Never opens the file.

use std::collections::BTreeMap;
use std::net::IpAddr;

use smallvec::SmallVec;

/// Addresses that one name can have here.
const MAX_ADDRESSES: usize = 32;

/// Names and their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts(BTreeMap<Box<str>, SmallVec<[IpAddr; 1]>>);

impl Hosts {
    /// Reads the text of a file. A line that cannot be understood is passed over.
    pub(super) fn parse(text: &str) -> Hosts {
        let mut hosts = Hosts::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
            for name in words {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                let addresses = hosts.0.entry(name.into()).or_default();
                if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        hosts
    }

    /// The addresses of `name`, which is in lower case and has no dot at its end; in the file's order.
    pub(super) fn get(&self, name: &str) -> Option<&[IpAddr]> {
        self.0.get(name).map(|addresses| &addresses[..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(hosts: &Hosts, name: &str) -> Vec<String> {
        hosts.get(name).unwrap_or_default().iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn every_name_of_a_line_has_its_address_and_those_of_other_lines() {
        let hosts = Hosts::parse(
            "127.0.0.1\tlocalhost\n# 10.9.9.9 Web\n10.0.0.1 Web.example. web # no other\nfd00::1 web\r\n10.0.0.1 web\n",
        );
        assert_eq!(written(&hosts, "web"), ["10.0.0.1", "fd00::1"]);
        assert_eq!(written(&hosts, "web.example"), ["10.0.0.1"]);
        assert_eq!(hosts.get("other"), None);
    }

    #[test]
    fn what_cannot_be_is_passed_over() {
        assert_eq!(Hosts::parse("x web\n10.0.0.1\n10.0.0 web\n\0\n \n"), Hosts::default());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(?s)([0-9a-f:.]{1,9}|[ \t\r\n#]|.){0,200}") {
            let hosts = Hosts::parse(&text);
            prop_assert!(hosts.0.values().all(|addresses| (1..=MAX_ADDRESSES).contains(&addresses.len())));
        }
    }
}
