//! Whom to ask and for what: from the configuration, the network and the files, put together for one lookup.
//!
//! Name servers come from the configuration (`dns`) if it has any, else from what the network of a stack has told (DHCP,
//! router advertisements), else from `resolv.conf`. Those of the machine itself (127.0.0.53 is in many files) are only asked
//! when the runtime has the kernel's sockets: a stack of ours cannot reach them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::resolv_conf::{self, PORT, ResolvConf};
use crate::transports::TransportSet;

/// Servers that are asked, in one lookup.
const MAX_SERVERS: usize = 8;

/// How to look a name up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order in which they are asked.
    pub(super) servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: u32,
    /// How long one server has for its answer.
    pub(super) timeout: Duration,
    /// Rounds through the servers.
    pub(super) attempts: u32,
    /// Lookups begin with one server after the other.
    pub(super) rotate: bool,
    /// Ask over TCP at once.
    pub(super) use_tcp: bool,
    /// Do not ask for IPv6 addresses.
    pub(super) no_aaaa: bool,
}

/// What the runtime's transports have heard.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) servers: Vec<IpAddr>,
    pub(super) domains: Vec<String>,
    /// One of them is the kernel's sockets.
    pub(super) kernel: bool,
}

impl Told {
    /// Asks the transports; one that is running just now has nothing to tell.
    pub(super) fn by(set: &TransportSet) -> Told {
        let mut told = Told::default();
        for cell in set.cells() {
            told.kernel |= cell.is_kernel();
            told.servers.extend(cell.look(|transport| Ok(transport.name_servers())).unwrap_or_default());
            told.domains.extend(cell.look(|transport| Ok(transport.domain())).unwrap_or_default());
        }
        told
    }
}

impl Plan {
    /// Puts together what the configuration's `dns` and `dns_search` say, what the network has told, and the file.
    pub(super) fn new(dns: &[IpAddr], search: &[String], told: &Told, conf: &ResolvConf) -> Plan {
        let given = if dns.is_empty() { &told.servers } else { dns };
        let mut servers: Vec<_> = given.iter().map(|address| SocketAddr::new(*address, PORT)).collect();
        if servers.is_empty() {
            let reached = conf.servers.iter().filter(|server| told.kernel || !server.ip().is_loopback());
            servers.extend(reached);
        }
        servers.truncate(MAX_SERVERS);
        let domains = told.domains.iter().filter_map(|domain| resolv_conf::domain(domain));
        let mut domains: Vec<_> = if search.is_empty() { domains.collect() } else { search.to_vec() };
        if domains.is_empty() {
            domains.clone_from(&conf.search);
        }
        Plan {
            servers,
            search: domains,
            ndots: conf.ndots,
            timeout: conf.timeout,
            attempts: conf.attempts,
            rotate: conf.rotate,
            use_tcp: conf.use_vc,
            no_aaaa: conf.no_aaaa,
        }
    }

    /// The names that `name` may be short for, in the order in which they are tried. An absolute one, written with a dot at
    /// its end, stands for itself.
    pub(super) fn candidates(&self, name: &str, absolute: bool) -> Vec<String> {
        let itself = name.to_owned();
        if absolute {
            return vec![itself];
        }
        let searched =
            self.search.iter().filter_map(|domain| super::wire::normal(&format!("{name}.{domain}")));
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        if dots >= self.ndots as usize {
            std::iter::once(itself).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(itself.clone())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf() -> ResolvConf {
        let text = "nameserver 127.0.0.53\nnameserver 10.0.0.3\nsearch file.example\n";
        ResolvConf::parse(text, |_| None)
    }

    fn told(kernel: bool, servers: &[&str]) -> Told {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        Told { servers, domains: Vec::new(), kernel }
    }

    fn servers(plan: &Plan) -> Vec<String> {
        plan.servers.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn configured_servers_come_before_those_of_the_network_and_those_before_the_file() {
        let dns = ["192.0.2.1".parse().unwrap()];
        let plan = Plan::new(&dns, &[], &told(false, &["10.0.0.2"]), &conf());
        assert_eq!(servers(&plan), ["192.0.2.1:53"]);
        let plan = Plan::new(&[], &[], &told(false, &["10.0.0.2", "fd00::2"]), &conf());
        assert_eq!(servers(&plan), ["10.0.0.2:53", "[fd00::2]:53"]);
        let plan = Plan::new(&[], &[], &told(true, &[]), &conf());
        assert_eq!(servers(&plan), ["127.0.0.53:53", "10.0.0.3:53"]);
    }

    #[test]
    fn a_stack_alone_does_not_ask_servers_of_the_machine() {
        let plan = Plan::new(&[], &[], &told(false, &[]), &conf());
        assert_eq!(servers(&plan), ["10.0.0.3:53"]);
    }

    #[test]
    fn short_names_are_searched_first_and_long_ones_last() {
        let plan = Plan::new(&[], &["a.example".into(), "b.example".into()], &told(false, &[]), &conf());
        assert_eq!(plan.candidates("web", false), ["web.a.example", "web.b.example", "web"]);
        assert_eq!(plan.candidates("web.c", false), ["web.c", "web.c.a.example", "web.c.b.example"]);
        assert_eq!(plan.candidates("web", true), ["web"]);
        let plan = Plan::new(&[], &[], &told(false, &[]), &conf());
        assert_eq!(plan.candidates("web", false), ["web.file.example", "web"]);
    }

    #[test]
    fn a_domain_of_the_network_is_searched_and_one_that_makes_a_name_too_long_is_not() {
        let mut told = told(false, &[]);
        told.domains = vec!["Lan.".into(), format!("{}x", "long.".repeat(49))];
        let plan = Plan::new(&[], &[], &told, &conf());
        let candidates = plan.candidates("a-longer-name", false);
        assert_eq!(candidates, ["a-longer-name.lan", "a-longer-name"]);
    }
}
