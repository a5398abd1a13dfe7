//! The commands: each reads its arguments, touches the store, and appends its reply.

use std::time::Duration;

use demi::time::Instant;
use demi_examples::kv::layout::Layout;

use crate::resp;
#[cfg(any(test, feature = "rdma"))]
use crate::store::Mirror;
use crate::store::{Store, after};

/// What becomes of the connection after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It goes on.
    Continue,
    /// It is closed once the reply is out.
    Close,
}

/// What peers have to know to read the keys by themselves.
pub(crate) struct Announcement {
    /// Opens the memory.
    pub(crate) key: Box<[u8]>,
    /// What is in it.
    pub(crate) layout: Layout,
}

/// The store and what `INFO` tells about it.
pub(crate) struct Server {
    store: Store,
    announcement: Option<Announcement>,
    started: Instant,
    clients: usize,
    connections: u64,
    commands: u64,
}

/// Commands, their least number of arguments (the name included), and their greatest.
const COMMANDS: &[(&str, usize, usize)] = &[
    ("append", 3, 3),
    ("client", 2, usize::MAX),
    ("command", 1, usize::MAX),
    ("config", 2, usize::MAX),
    ("dbsize", 1, 1),
    ("decr", 2, 2),
    ("decrby", 3, 3),
    ("del", 2, usize::MAX),
    ("echo", 2, 2),
    ("exists", 2, usize::MAX),
    ("expire", 3, 3),
    ("flushall", 1, 2),
    ("get", 2, 2),
    ("incr", 2, 2),
    ("incrby", 3, 3),
    ("info", 1, 2),
    ("mget", 2, usize::MAX),
    ("mset", 3, usize::MAX),
    ("persist", 2, 2),
    ("pexpire", 3, 3),
    ("ping", 1, 2),
    ("pttl", 2, 2),
    ("quit", 1, 1),
    ("region", 1, 1),
    ("select", 2, 2),
    ("set", 3, usize::MAX),
    ("strlen", 2, 2),
    ("ttl", 2, 2),
];

impl Server {
    /// An empty one.
    pub(crate) fn new(now: Instant) -> Self {
        Server {
            store: Store::default(),
            announcement: None,
            started: now,
            clients: 0,
            connections: 0,
            commands: 0,
        }
    }

    /// Has `mirror` told of all keys, and `REGION` answered with how peers read what it makes of them.
    #[cfg(any(test, feature = "rdma"))]
    pub(crate) fn publish(&mut self, announcement: Announcement, mirror: Box<dyn Mirror>) {
        self.store.mirror_to(mirror);
        self.announcement = Some(announcement);
    }

    /// Ends that.
    #[cfg(feature = "rdma")]
    pub(crate) fn unpublish(&mut self) {
        self.announcement = None;
        self.store.mirror_no_more();
    }

    /// Counts a client in.
    pub(crate) fn client_came(&mut self) {
        self.clients += 1;
        self.connections += 1;
    }

    /// Counts a client out.
    pub(crate) fn client_left(&mut self) {
        self.clients -= 1;
    }

    /// Drops some of the keys whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.store.sweep(now);
    }

    /// Runs one command and appends its reply to `out`.
    pub(crate) fn run(&mut self, arguments: &[&[u8]], now: Instant, out: &mut Vec<u8>) -> Outcome {
        let Some((name, rest)) = arguments.split_first() else { return Outcome::Continue };
        self.commands += 1;
        let mut lower = [0u8; 16];
        let name_lower = match lower.get_mut(..name.len()) {
            Some(lower) => {
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                std::str::from_utf8(lower).unwrap_or("")
            }
            None => "",
        };
        let Ok(found) = COMMANDS.binary_search_by_key(&name_lower, |(name, ..)| name) else {
            resp::error(out, &format!("ERR unknown command '{}'", shown(name)));
            return Outcome::Continue;
        };
        let (name, least, most) = COMMANDS[found];
        if arguments.len() < least || arguments.len() > most || (name == "mset" && rest.len() % 2 == 1) {
            resp::error(out, &format!("ERR wrong number of arguments for '{name}' command"));
            return Outcome::Continue;
        }
        if let Err(message) = self.dispatch(name, rest, now, out) {
            resp::error(out, &message);
        }
        if name == "quit" { Outcome::Close } else { Outcome::Continue }
    }

    fn dispatch(
        &mut self,
        name: &str,
        rest: &[&[u8]],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        match (name, rest) {
            ("ping", []) => resp::simple(out, "PONG"),
            ("ping" | "echo", [message, ..]) => resp::bulk(out, Some(message)),
            ("get", [key]) => resp::bulk(out, self.store.get(key, now)),
            ("set", [key, value, options @ ..]) => self.set(key, value, options, now, out)?,
            ("strlen", [key]) => {
                resp::integer(out, self.store.get(key, now).map_or(0, |value| value.len() as i64))
            }
            ("append", [key, more]) => {
                let value = [self.store.get(key, now).unwrap_or_default(), more].concat();
                let expires = self.store.expiry(key, now).flatten();
                self.store.set(key, &value, expires);
                resp::integer(out, value.len() as i64);
            }
            ("incr", [key]) => self.add(key, 1, now, out)?,
            ("decr", [key]) => self.add(key, -1, now, out)?,
            ("incrby", [key, by]) => self.add(key, integer(by)?, now, out)?,
            ("decrby", [key, by]) => {
                let by = integer(by)?.checked_neg().ok_or("ERR decrement would overflow")?;
                self.add(key, by, now, out)?;
            }
            ("del", keys) => {
                resp::integer(out, keys.iter().filter(|key| self.store.remove(key, now)).count() as i64);
            }
            ("exists", keys) => {
                resp::integer(
                    out,
                    keys.iter().filter(|key| self.store.get(key, now).is_some()).count() as i64,
                );
            }
            ("mget", keys) => {
                resp::array(out, keys.len());
                keys.iter().for_each(|key| resp::bulk(out, self.store.get(key, now)));
            }
            ("mset", pairs) => {
                for pair in pairs.chunks_exact(2) {
                    self.store.set(pair[0], pair[1], None);
                }
                resp::simple(out, "OK");
            }
            ("expire", [key, seconds]) => {
                self.expire_in(key, integer(seconds)?.saturating_mul(1000), now, out)
            }
            ("pexpire", [key, millis]) => self.expire_in(key, integer(millis)?, now, out),
            ("persist", [key]) => {
                let mortal = self.store.expiry(key, now).flatten().is_some();
                resp::integer(out, i64::from(mortal && self.store.set_expiry(key, None, now)));
            }
            ("ttl", [key]) => {
                // Rounded as Redis does: to the nearest second.
                let millis = self.millis_left(key, now);
                resp::integer(out, if millis < 0 { millis } else { (millis + 500) / 1000 });
            }
            ("pttl", [key]) => resp::integer(out, self.millis_left(key, now)),
            ("dbsize", _) => resp::integer(out, self.store.len() as i64),
            ("flushall", _) => {
                self.store.clear();
                resp::simple(out, "OK");
            }
            ("select", [index]) if integer(index)? == 0 => resp::simple(out, "OK"),
            ("select", _) => return Err("ERR DB index is out of range".into()),
            ("quit", _) => resp::simple(out, "OK"),
            ("region", _) => {
                let nothing =
                    "ERR nothing is published: start the server with --published SLOTS on an RDMA device";
                let Announcement { key, layout } = self.announcement.as_ref().ok_or(nothing)?;
                let numbers = layout.numbers();
                resp::array(out, 1 + numbers.len());
                resp::bulk(out, Some(key));
                numbers.iter().for_each(|number| resp::integer(out, *number));
            }
            ("client", [what, ..]) if what.eq_ignore_ascii_case(b"getname") => resp::bulk(out, None),
            ("client", _) => resp::simple(out, "OK"),
            ("command", [what, ..]) if what.eq_ignore_ascii_case(b"count") => {
                resp::integer(out, COMMANDS.len() as i64);
            }
            ("command", [what, ..]) if what.eq_ignore_ascii_case(b"docs") => resp::array(out, 0),
            ("command", _) => command_table(out),
            ("config", [what, patterns @ ..]) if what.eq_ignore_ascii_case(b"get") => {
                config_get(patterns, out)
            }
            ("config", [what, ..]) => return Err(format!("ERR CONFIG {} is not supported", shown(what))),
            ("info", _) => resp::bulk(out, Some(self.info(now).as_bytes())),
            // The table above admits nothing else.
            (name, _) => return Err(format!("ERR '{name}' is not understood")),
        }
        Ok(())
    }

    /// `SET key value [NX|XX] [GET] [EX s|PX ms|KEEPTTL]`
    fn set(
        &mut self,
        key: &[u8],
        value: &[u8],
        mut options: &[&[u8]],
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let (mut expires, mut only_new, mut only_old, mut get) = (None, false, false, false);
        while let [option, rest @ ..] = options {
            options = rest;
            let is = |name: &str| option.eq_ignore_ascii_case(name.as_bytes());
            if is("nx") {
                only_new = true;
            } else if is("xx") {
                only_old = true;
            } else if is("get") {
                get = true;
            } else if is("keepttl") {
                expires = self.store.expiry(key, now).flatten();
            } else if is("ex") || is("px") {
                let [time, rest @ ..] = rest else { return Err("ERR syntax error".into()) };
                options = rest;
                let unit = if is("ex") { 1000 } else { 1 };
                let millis = integer(time)?.checked_mul(unit).and_then(|millis| u64::try_from(millis).ok());
                let millis =
                    millis.filter(|millis| *millis > 0).ok_or("ERR invalid expire time in 'set' command")?;
                expires = after(now, Duration::from_millis(millis));
            } else {
                return Err("ERR syntax error".into());
            }
        }
        if only_new && only_old {
            return Err("ERR syntax error".into());
        }
        let old = self.store.get(key, now);
        let wanted = if old.is_some() { !only_new } else { !only_old };
        if get {
            resp::bulk(out, old);
        } else if wanted {
            resp::simple(out, "OK");
        } else {
            resp::bulk(out, None);
        }
        if wanted {
            self.store.set(key, value, expires);
        }
        Ok(())
    }

    fn add(&mut self, key: &[u8], by: i64, now: Instant, out: &mut Vec<u8>) -> Result<(), String> {
        let old = self.store.get(key, now).map_or(Ok(0), integer)?;
        let new = old.checked_add(by).ok_or("ERR increment or decrement would overflow")?;
        let expires = self.store.expiry(key, now).flatten();
        self.store.set(key, itoa::Buffer::new().format(new).as_bytes(), expires);
        resp::integer(out, new);
        Ok(())
    }

    fn expire_in(&mut self, key: &[u8], millis: i64, now: Instant, out: &mut Vec<u8>) {
        let done = match u64::try_from(millis) {
            Ok(millis) if millis > 0 => {
                self.store.set_expiry(key, after(now, Duration::from_millis(millis)), now)
            }
            // A time in the past: the key is gone.
            _ => self.store.remove(key, now),
        };
        resp::integer(out, i64::from(done));
    }

    /// Milliseconds `key` has to live; -1: for ever, -2: no such key.
    fn millis_left(&self, key: &[u8], now: Instant) -> i64 {
        match self.store.expiry(key, now) {
            None => -2,
            Some(None) => -1,
            Some(Some(expires)) => expires.saturating_duration_since(now).as_millis() as i64,
        }
    }

    fn info(&self, now: Instant) -> String {
        let held = demi::usage().to_string().replace('=', ":").replace(' ', "\r\n");
        let uptime = now.saturating_duration_since(self.started).as_secs();
        format!(
            "# Server\r\nserver_name:demi-kv\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nprocess_id:{}\r\n\
             uptime_in_seconds:{uptime}\r\n\r\n# Clients\r\nconnected_clients:{}\r\n\r\n# Stats\r\n\
             total_connections_received:{}\r\ntotal_commands_processed:{}\r\n\r\n# Replication\r\nrole:master\r\n\r\n\
             # Keyspace\r\ndb0:keys={}\r\n\r\n# Demi\r\n{held}\r\n",
            std::process::id(),
            self.clients,
            self.connections,
            self.commands,
            self.store.len(),
        )
    }
}

fn integer(text: &[u8]) -> Result<i64, String> {
    resp::number(text).ok_or_else(|| "ERR value is not an integer or out of range".into())
}

/// What a stranger sent, short enough for an error message.
fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(64)]).into_owned()
}

/// `COMMAND`: name, arity, flags and key positions of each.
fn command_table(out: &mut Vec<u8>) {
    resp::array(out, COMMANDS.len());
    for (name, least, most) in COMMANDS {
        let arity = if least == most { *least as i64 } else { -(*least as i64) };
        resp::array(out, 6);
        resp::bulk(out, Some(name.as_bytes()));
        resp::integer(out, arity);
        resp::array(out, 0);
        let (first, last, step) = match *name {
            "mset" => (1, -1, 2),
            "mget" | "del" | "exists" => (1, -1, 1),
            "client" | "command" | "config" | "dbsize" | "echo" | "flushall" | "info" | "ping" | "quit"
            | "region" | "select" => (0, 0, 0),
            _ => (1, 1, 1),
        };
        for position in [first, last, step] {
            resp::integer(out, position);
        }
    }
}

/// `CONFIG GET`: what benchmarks ask for. Nothing is ever saved to disk.
fn config_get(patterns: &[&[u8]], out: &mut Vec<u8>) {
    let known = [("save", ""), ("appendonly", "no"), ("maxmemory", "0"), ("databases", "1")];
    let wanted = |name: &str| {
        patterns.iter().any(|pattern| *pattern == b"*" || pattern.eq_ignore_ascii_case(name.as_bytes()))
    };
    let found: Vec<_> = known.iter().filter(|(name, _)| wanted(name)).collect();
    resp::array(out, found.len() * 2);
    for (name, value) in found {
        resp::bulk(out, Some(name.as_bytes()));
        resp::bulk(out, Some(value.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &mut Server, line: &str, now: Instant) -> String {
        let arguments: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut out = Vec::new();
        server.run(&arguments, now, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn commands_are_sorted_so_that_they_are_found() {
        assert!(COMMANDS.is_sorted_by_key(|(name, ..)| name));
    }

    #[test]
    fn values_are_set_read_counted_and_expire() {
        let start = Instant::now();
        let mut server = Server::new(start);
        let later = |ms| start + Duration::from_millis(ms);
        for (line, reply) in [
            ("SET a 1", "+OK\r\n"),
            ("get a", "$1\r\n1\r\n"),
            ("INCR a", ":2\r\n"),
            ("INCRBY a -5", ":-3\r\n"),
            ("SET a x NX", "$-1\r\n"),
            ("SET b x XX", "$-1\r\n"),
            ("SET a y GET", "$2\r\n-3\r\n"),
            ("INCR a", "-ERR value is not an integer or out of range\r\n"),
            ("MSET k1 v1 k2 v2", "+OK\r\n"),
            ("MSET k1 v1 k2", "-ERR wrong number of arguments for 'mset' command\r\n"),
            ("MGET k1 nope k2", "*3\r\n$2\r\nv1\r\n$-1\r\n$2\r\nv2\r\n"),
            ("EXISTS k1 k1 nope", ":2\r\n"),
            ("DEL k1 nope", ":1\r\n"),
            ("SET t 1 PX 1500", "+OK\r\n"),
            ("TTL t", ":2\r\n"),
            ("TTL k2", ":-1\r\n"),
            ("TTL nope", ":-2\r\n"),
            ("EXPIRE k2 10", ":1\r\n"),
            ("PTTL k2", ":10000\r\n"),
            ("NOSUCH", "-ERR unknown command 'NOSUCH'\r\n"),
            ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
            ("SET a 1 EX 0", "-ERR invalid expire time in 'set' command\r\n"),
            ("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
        ] {
            assert_eq!(ask(&mut server, line, start), reply, "{line}");
        }
        assert_eq!(ask(&mut server, "INCR t", later(1000)), ":2\r\n");
        assert_eq!(ask(&mut server, "GET t", later(1500)), "$-1\r\n", "a counter keeps its end of life");
        assert_eq!(ask(&mut server, "TTL k2", later(9600)), ":0\r\n");
        assert_eq!(ask(&mut server, "EXISTS k2", later(10_000)), ":0\r\n");
    }

    #[test]
    fn region_tells_what_is_published_and_how_to_publish_when_nothing_is() {
        struct Nobody;
        impl Mirror for Nobody {
            fn set(&mut self, _: &[u8], _: &[u8], _: Option<Instant>) {}
            fn remove(&mut self, _: &[u8]) {}
            fn clear(&mut self) {}
        }
        let now = Instant::now();
        let mut server = Server::new(now);
        let refused = ask(&mut server, "REGION", now);
        assert!(
            refused.starts_with("-ERR nothing is published") && refused.contains("--published"),
            "{refused}"
        );
        let announcement = Announcement { key: (*b"abc").into(), layout: Layout::of_slots(8) };
        server.publish(announcement, Box::new(Nobody));
        assert_eq!(ask(&mut server, "REGION", now), "*5\r\n$3\r\nabc\r\n:1\r\n:8\r\n:256\r\n:4\r\n");
    }

    #[test]
    fn quit_closes_after_its_reply() {
        let mut out = Vec::new();
        assert_eq!(Server::new(Instant::now()).run(&[b"QUIT"], Instant::now(), &mut out), Outcome::Close);
        assert_eq!(out, b"+OK\r\n");
    }
}
