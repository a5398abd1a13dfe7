//! The map: byte strings with an optional end of life.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use demi::time::Instant;

struct Entry {
    value: Box<[u8]>,
    expires: Option<Instant>,
}

impl Entry {
    fn live(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// Who is told of every change of a [`Store`], as it happens.
pub(crate) trait Mirror {
    /// `key` has this value now, until `expires`.
    fn set(&mut self, key: &[u8], value: &[u8], expires: Option<Instant>);

    /// `key` is gone.
    fn remove(&mut self, key: &[u8]);

    /// All are.
    fn clear(&mut self);
}

/// Keys and values. A key whose time is over is never seen again, and its memory is freed by the next sweeps.
#[derive(Default)]
pub(crate) struct Store {
    mirror: Option<Box<dyn Mirror>>,
    entries: HashMap<Rc<[u8]>, Entry>,
    /// Every key that has an end of life, in the order of those ends: exactly one for each such entry.
    ends: BTreeSet<(Instant, Rc<[u8]>)>,
}

/// Keys dropped by one sweep at most: what a task may hold the core for.
const SWEEP: usize = 1000;

impl Store {
    /// Has `mirror` told of every change from now on.
    #[cfg(any(test, feature = "rdma"))]
    pub(crate) fn mirror_to(&mut self, mut mirror: Box<dyn Mirror>) {
        for (key, entry) in &self.entries {
            mirror.set(key, &entry.value, entry.expires);
        }
        self.mirror = Some(mirror);
    }

    /// Lets the mirror go.
    #[cfg(feature = "rdma")]
    pub(crate) fn mirror_no_more(&mut self) {
        self.mirror = None;
    }

    /// Keys, those included whose time is over but which were not swept yet.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &[u8], now: Instant) -> Option<&[u8]> {
        self.entries.get(key).filter(|entry| entry.live(now)).map(|entry| &*entry.value)
    }

    /// Sets `key`, to live until `expires`.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8], expires: Option<Instant>) {
        if let Some(mirror) = &mut self.mirror {
            mirror.set(key, value, expires);
        }
        match self.entries.get_mut(key) {
            Some(entry) => {
                if entry.value.len() == value.len() {
                    entry.value.copy_from_slice(value);
                } else {
                    entry.value = value.into();
                }
                self.reschedule(key, expires);
            }
            None => {
                let key: Rc<[u8]> = key.into();
                self.ends.extend(expires.map(|end| (end, key.clone())));
                self.entries.insert(key, Entry { value: value.into(), expires });
            }
        }
    }

    /// Removes `key`; whether it was there.
    pub(crate) fn remove(&mut self, key: &[u8], now: Instant) -> bool {
        let Some((key, entry)) = self.entries.remove_entry(key) else { return false };
        if let Some(mirror) = &mut self.mirror {
            mirror.remove(&key);
        }
        if let Some(end) = entry.expires {
            self.ends.remove(&(end, key));
        }
        entry.live(now)
    }

    /// Removes everything.
    pub(crate) fn clear(&mut self) {
        *self = Store { mirror: self.mirror.take(), ..Store::default() };
        if let Some(mirror) = &mut self.mirror {
            mirror.clear();
        }
    }

    /// When `key` ends: `None` if there is no such key, `Some(None)` if it never does.
    pub(crate) fn expiry(&self, key: &[u8], now: Instant) -> Option<Option<Instant>> {
        self.entries.get(key).filter(|entry| entry.live(now)).map(|entry| entry.expires)
    }

    /// Lets `key` end at `expires`, or live on; whether it is there.
    pub(crate) fn set_expiry(&mut self, key: &[u8], expires: Option<Instant>, now: Instant) -> bool {
        let there = self.entries.get(key).is_some_and(|entry| entry.live(now));
        if there {
            self.reschedule(key, expires);
            if let (Some(mirror), Some(entry)) = (&mut self.mirror, self.entries.get(key)) {
                mirror.set(key, &entry.value, expires);
            }
        }
        there
    }

    fn reschedule(&mut self, key: &[u8], expires: Option<Instant>) {
        let old = self.entries.get(key).and_then(|entry| entry.expires);
        if old == expires {
            return;
        }
        let Some((shared, _)) = self.entries.get_key_value(key) else { return };
        let shared = shared.clone();
        if let Some(end) = old {
            self.ends.remove(&(end, shared.clone()));
        }
        self.ends.extend(expires.map(|end| (end, shared)));
        if let Some(entry) = self.entries.get_mut(key) {
            entry.expires = expires;
        }
    }

    /// Drops keys whose time is over: at most [`SWEEP`] of them.
    pub(crate) fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            if self.ends.first().is_none_or(|(end, _)| *end > now) {
                return;
            }
            if let Some((_, key)) = self.ends.pop_first() {
                self.entries.remove(&key);
                if let Some(mirror) = &mut self.mirror {
                    mirror.remove(&key);
                }
            }
        }
    }
}

/// `now + duration`, or never when that is beyond time.
pub(crate) fn after(now: Instant, duration: Duration) -> Option<Instant> {
    now.checked_add(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_gone_when_its_time_is_over_and_swept_without_being_asked_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut store = Store::default();
        store.set(b"a", b"1", Some(at(10)));
        store.set(b"b", b"2", None);
        assert_eq!(store.get(b"a", at(9)), Some(&b"1"[..]));
        assert_eq!(store.get(b"a", at(10)), None);
        assert_eq!((store.expiry(b"b", at(0)), store.expiry(b"c", at(0))), (Some(None), None));
        assert!(!store.set_expiry(b"a", None, at(11)), "no key comes back to life");
        assert_eq!(store.len(), 2);
        store.sweep(at(11));
        assert_eq!(store.len(), 1);
        assert!(store.remove(b"b", at(12)) && !store.remove(b"b", at(12)));
    }

    #[test]
    fn a_key_that_is_given_more_time_or_removed_leaves_no_end_behind() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut store = Store::default();
        store.set(b"a", b"1", Some(at(10)));
        store.set(b"a", b"22", Some(at(20)));
        assert!(store.set_expiry(b"a", Some(at(30)), at(0)));
        assert_eq!(store.ends.len(), 1);
        store.sweep(at(25));
        assert_eq!(store.get(b"a", at(25)), Some(&b"22"[..]));
        assert!(store.set_expiry(b"a", None, at(25)));
        assert_eq!(store.ends.len(), 0);
        store.set(b"a", b"3", Some(at(40)));
        assert!(store.remove(b"a", at(30)));
        assert_eq!((store.ends.len(), store.len()), (0, 0));
    }
}
