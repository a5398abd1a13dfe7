//! What name servers have said, for as long as they said that it holds: addresses, and that there are none.
//!
//! Bounded in entries and in time. Failures are never kept: the next lookup asks again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::wire::Kind;
use crate::time::Instant;

/// Answers kept at once.
const MAX_ENTRIES: usize = 1024;
/// How long addresses are kept at most, whatever their server says.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// How long it is remembered at most that there are none: RFC 2308 §5 would allow three hours.
const MAX_ABSENT_AGE: Duration = Duration::from_secs(15 * 60);

/// What is known of a name and a kind of address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Its addresses; at least one.
    Addresses(Vec<IpAddr>),
    /// The name is there, and has none of this kind.
    NoneOfKind,
    /// There is no such name.
    NoName,
}

/// A name in lower case without the dot at its end, and the kind of address asked for.
pub(super) type Key = (String, Kind);

/// Answers and when they end.
#[derive(Debug, Default)]
pub(super) struct Cache(BTreeMap<Key, (Instant, Answer)>);

impl Cache {
    /// What holds at `now`.
    pub(super) fn get(&mut self, key: &Key, now: Instant) -> Option<Answer> {
        let (until, answer) = self.0.get(key)?;
        if *until > now {
            return Some(answer.clone());
        }
        self.0.remove(key);
        None
    }

    /// Keeps `answer`, which holds for `ttl_s` seconds from `now`.
    pub(super) fn put(&mut self, key: Key, answer: &Answer, ttl_s: u32, now: Instant) {
        let most = if matches!(answer, Answer::Addresses(_)) { MAX_AGE } else { MAX_ABSENT_AGE };
        let age = Duration::from_secs(ttl_s.into()).min(most);
        if age.is_zero() {
            self.0.remove(&key);
            return;
        }
        if self.0.len() >= MAX_ENTRIES && !self.0.contains_key(&key) {
            self.make_room(now);
        }
        self.0.insert(key, (now + age, answer.clone()));
    }

    /// Drops what holds no longer, or else what would end first.
    fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, (until, _)| *until > now);
        if self.0.len() < MAX_ENTRIES {
            return;
        }
        let first = self.0.iter().min_by_key(|(_, (until, _))| *until).map(|(key, _)| key.clone());
        if let Some(key) = first {
            self.0.remove(&key);
        }
    }

    /// Forgets everything: other servers know other names.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        (format!("host{number}.example"), Kind::V4)
    }

    fn some() -> Answer {
        Answer::Addresses(vec![[10, 0, 0, 1].into()])
    }

    #[test]
    fn an_answer_holds_as_long_as_its_server_said_and_never_longer_than_the_bound() {
        let (mut cache, now) = (Cache::default(), crate::Runtime::for_tests().enter(Instant::now));
        cache.put(key(1), &some(), 60, now);
        assert_eq!(cache.get(&key(1), now + Duration::from_secs(59)), Some(some()));
        assert_eq!(cache.get(&key(1), now + Duration::from_secs(60)), None);
        cache.put(key(2), &some(), u32::MAX, now);
        assert_eq!(cache.get(&key(2), now + MAX_AGE), None);
        cache.put(key(3), &Answer::NoName, 100_000, now);
        assert_eq!(cache.get(&key(3), now + MAX_ABSENT_AGE), None);
        assert_eq!(cache.get(&(key(3).0, Kind::V6), now), None, "another kind is another question");
    }

    #[test]
    fn what_holds_for_no_time_is_not_kept() {
        let (mut cache, now) = (Cache::default(), crate::Runtime::for_tests().enter(Instant::now));
        cache.put(key(1), &some(), 60, now);
        cache.put(key(1), &some(), 0, now);
        assert_eq!(cache.get(&key(1), now), None);
    }

    #[test]
    fn a_full_cache_gives_up_what_ends_first() {
        let (mut cache, now) = (Cache::default(), crate::Runtime::for_tests().enter(Instant::now));
        for number in 0..MAX_ENTRIES as u32 + 10 {
            cache.put(key(number), &some(), 100 + number, now);
        }
        assert_eq!(cache.0.len(), MAX_ENTRIES);
        assert_eq!(cache.get(&key(9), now), None);
        assert_eq!(cache.get(&key(10), now), Some(some()));
    }
}
