//! The parsers of this folder for the fuzz targets: what must hold of their results whatever the bytes are.

use super::hosts::Hosts;
use super::resolv_conf::ResolvConf;
use super::wire::{self, Kind, Query, Reply, Verdict};

/// Makes a question about `name` and judges what `answer` makes of it.
///
/// # Panics
/// When the verdict cannot be.
pub fn answer(name: &str, v6: bool, tcp: bool, answer: impl FnOnce(&[u8]) -> Vec<u8>) {
    let kind = if v6 { Kind::V6 } else { Kind::V4 };
    let query = Query::new(name, kind, true, 0x1234_5678_9abc_def1).expect("a name that can be asked for");
    let bytes = answer(query.bytes());
    let verdict = if tcp { query.judge_any_case(&bytes) } else { query.judge(&bytes) };
    if !matches!(verdict, Verdict::Foreign) {
        assert_eq!(bytes[..2], query.bytes()[..2], "an answer to another question");
    }
    match verdict {
        Verdict::Reply(Reply::Addresses(addresses, _)) => {
            assert!(!addresses.is_empty() && addresses.len() <= 256);
            assert!(addresses.iter().all(|address| address.is_ipv6() == v6));
        }
        Verdict::Reply(Reply::Alias(target, _)) => {
            assert_eq!(
                wire::normal(&target).as_deref(),
                Some(&target[..]),
                "an alias that cannot be asked for"
            );
        }
        _ => {}
    }
}

/// Reads `resolv.conf`.
///
/// # Panics
/// When what it says is out of bounds.
pub fn resolv_conf(text: &str) {
    let conf = ResolvConf::parse(text, |zone| (zone == "eth0").then_some(2));
    assert!(conf.servers.len() <= 3 && conf.search.len() <= 16 && conf.attempts >= 1);
}

/// Reads `hosts`.
///
/// # Panics
/// When a name has too many addresses.
pub fn hosts(text: &str) {
    let hosts = Hosts::parse(text);
    for name in text.split_whitespace() {
        assert!(hosts.get(&name.to_ascii_lowercase()).unwrap_or_default().len() <= 32);
    }
}

/// Reads a name.
///
/// # Panics
/// When what it becomes is no name, or one that cannot be asked for.
pub fn name(text: &str) {
    let Some(name) = wire::normal(text) else { return };
    assert_eq!(wire::normal(&name).as_deref(), Some(&name[..]), "of {text:?}");
    if let Some(query) = Query::new(&name, Kind::V4, false, 1) {
        assert!(query.bytes().len() <= 12 + 255 + 4);
    }
}
