//! The table of [`layout`](demi_examples::kv::layout) that mirrors a map: what is small and has no end of life is in it, so that peers
//! find it by themselves.
//!
//! A key that expires is not: nobody would take it out at that very moment. It writes to one [`Memory`], in an order that a reader on
//! another processor can trust, see [`Table::write`].

use demi::time::Instant;
use demi_examples::kv::layout::{self, BUCKET_BYTES, HEADER_BYTES, Layout, ROOM_BYTES, SLOT_BYTES};

use crate::store::Mirror;

/// Memory that the table is in, and that nobody else writes. Zeros in the beginning.
pub(crate) trait Memory {
    /// Copies from it; `offset` and what follows are within.
    fn read(&self, offset: usize, into: &mut [u8]);

    /// Copies to it, aligned words whole and one after another; `offset` and what follows are within.
    fn write(&self, offset: usize, from: &[u8]);
}

/// A table in some memory.
pub(crate) struct Table<M> {
    memory: M,
    layout: Layout,
    /// Of the slot that was written last.
    version: u64,
}

impl<M: Memory> Table<M> {
    /// An empty one in `memory`, which has [`Layout::bytes`].
    pub(crate) fn new(memory: M, layout: Layout) -> Self {
        Table { memory, layout, version: 0 }
    }

    /// Where the slot of `key` begins, if it is in the table.
    fn place(&self, key: &[u8]) -> Option<usize> {
        self.slots(key).find(|at| {
            let Some((_, bytes)) = self.header(*at).filter(|(_, bytes)| *bytes == key.len()) else {
                return false;
            };
            let mut held = [0; ROOM_BYTES];
            held.get_mut(..bytes).is_some_and(|held| {
                self.memory.read(at + HEADER_BYTES, held);
                held == key
            })
        })
    }

    /// The slot that a new `key` is given: an empty one, or the one that was not written for longest.
    fn room(&self, key: &[u8]) -> usize {
        let oldest = self.slots(key).min_by_key(|at| self.header(*at).map_or(0, |(version, _)| version));
        oldest.unwrap_or_else(|| self.layout.bucket(key))
    }

    /// Where the slots that may be `key`'s begin.
    fn slots(&self, key: &[u8]) -> impl Iterator<Item = usize> + use<M> {
        let bucket = self.layout.bucket(key);
        (bucket..bucket + BUCKET_BYTES).step_by(SLOT_BYTES)
    }

    fn header(&self, at: usize) -> Option<(u64, usize)> {
        let mut header = [0; HEADER_BYTES];
        self.memory.read(at, &mut header);
        layout::header(&header)
    }

    /// Puts `key` into a slot; whether it fits one.
    ///
    /// The version goes odd first and even last, with the rest between: a reader that sees words in the order in which they were
    /// written never takes the rest for whole. An adapter may see them in any order, and is told by the checksum.
    fn write(&mut self, key: &[u8], value: &[u8]) -> bool {
        let Some(slot) = layout::encode(self.version + 2, key, value) else { return false };
        let at = self.place(key).unwrap_or_else(|| self.room(key));
        let (version, rest) = slot.split_at(size_of::<u64>());
        self.memory.write(at, &(self.version + 1).to_le_bytes());
        self.memory.write(at + version.len(), rest);
        self.memory.write(at, version);
        self.version += 2;
        true
    }

    /// Empties a slot by one word: whoever reads it meanwhile sees what was there, or nothing.
    fn empty(&self, at: usize) {
        self.memory.write(at, &0u64.to_le_bytes());
    }
}

impl<M: Memory> Mirror for Table<M> {
    fn set(&mut self, key: &[u8], value: &[u8], expires: Option<Instant>) {
        if expires.is_some() || !self.write(key, value) {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(at) = self.place(key) {
            self.empty(at);
        }
    }

    fn clear(&mut self) {
        (0..self.layout.bytes()).step_by(SLOT_BYTES).for_each(|at| self.empty(at));
    }
}

#[cfg(feature = "rdma")]
pub(crate) use over_rdma::publish;

/// The table in memory that peers reach over RDMA.
#[cfg(feature = "rdma")]
mod over_rdma {
    use std::io;
    use std::net::IpAddr;

    use demi::net::rdma::{Access, Region, register, register_at};
    use demi_examples::kv::layout::Layout;

    use super::{Memory, Table};
    use crate::commands::{Announcement, Server};

    impl Memory for Region {
        fn read(&self, offset: usize, into: &mut [u8]) {
            self.read_at(offset, into).expect("a table lies within its region");
        }

        fn write(&self, offset: usize, from: &[u8]) {
            self.write_at(offset, from).expect("a table lies within its region");
        }
    }

    /// Has `server` mirror its keys in a table of `slots` slots, on the RDMA device that has the address `local`, or the first one.
    ///
    /// # Errors
    /// There is no such device; no memory, or none that may be locked.
    pub(crate) fn publish(server: &mut Server, local: IpAddr, slots: usize) -> io::Result<()> {
        let layout = Layout::of_slots(slots);
        let region = match local.is_unspecified() {
            true => register(layout.bytes(), Access::READ)?,
            false => register_at(local, layout.bytes(), Access::READ)?,
        };
        let announcement = Announcement { key: region.key().to_bytes().into(), layout };
        server.publish(announcement, Box::new(Table::new(region, layout)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::rc::Rc;
    use std::time::Duration;

    use demi_examples::kv::layout::{Answer, BUCKET_SLOTS};
    use proptest::prelude::*;

    use super::*;
    use crate::store::Store;

    impl Memory for Rc<RefCell<Vec<u8>>> {
        fn read(&self, offset: usize, into: &mut [u8]) {
            into.copy_from_slice(&self.borrow()[offset..offset + into.len()]);
        }

        fn write(&self, offset: usize, from: &[u8]) {
            self.borrow_mut()[offset..offset + from.len()].copy_from_slice(from);
        }
    }

    /// A map and the memory that mirrors it.
    fn mirrored(slots: usize) -> (Store, Reader) {
        let layout = Layout::of_slots(slots);
        let memory = Rc::new(RefCell::new(vec![0; layout.bytes()]));
        let mut store = Store::default();
        store.mirror_to(Box::new(Table::new(memory.clone(), layout)));
        (store, Reader { memory, layout })
    }

    struct Reader {
        memory: Rc<RefCell<Vec<u8>>>,
        layout: Layout,
    }

    impl Reader {
        fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
            let memory = self.memory.borrow();
            match layout::find(memory[self.layout.bucket(key)..].first_chunk().unwrap(), key) {
                Answer::Value(value) => Some(value.to_vec()),
                Answer::Unknown => None,
                Answer::Torn => panic!("nobody writes"),
            }
        }
    }

    #[test]
    fn what_is_small_and_lives_for_ever_is_found_and_nothing_else() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let (mut store, reader) = mirrored(64);
        let is = |key: &str, value: Option<&str>| {
            assert_eq!(reader.get(key.as_bytes()).as_deref(), value.map(str::as_bytes), "{key}");
        };
        store.set(b"a", b"1", None);
        is("a", Some("1"));
        store.set(b"a", b"another", None);
        is("a", Some("another"));
        store.set(b"a", &[b'x'; SLOT_BYTES], None);
        is("a", None);
        store.set(b"a", b"small again", None);
        assert!(store.remove(b"a", start));
        is("a", None);

        store.set(b"b", b"mortal", Some(later));
        is("b", None);
        assert!(store.set_expiry(b"b", None, start));
        is("b", Some("mortal"));
        assert!(store.set_expiry(b"b", Some(later), start));
        is("b", None);
        store.set(b"b", b"immortal", None);
        is("b", Some("immortal"));
        store.set(b"", b"", None);
        is("", Some(""));

        store.clear();
        is("b", None);
        store.set(b"b", b"still mirrored", None);
        is("b", Some("still mirrored"));
    }

    #[test]
    fn a_full_bucket_crowds_out_the_key_that_was_written_first() {
        let (mut store, reader) = mirrored(BUCKET_SLOTS);
        for key in ["a", "b", "c", "d", "a", "e"] {
            store.set(key.as_bytes(), key.as_bytes(), None);
        }
        let found: String = ["a", "b", "c", "d", "e"]
            .iter()
            .filter(|key| reader.get(key.as_bytes()).is_some())
            .copied()
            .collect();
        assert_eq!(found, "acde");
        assert_eq!(store.len(), 5);
    }

    proptest! {
        /// The table knows a key as the map does, or not at all; and what was just set is there if it can be.
        #[test]
        fn the_table_never_says_what_the_map_does_not(
            slots in 1usize..20,
            script in proptest::collection::vec((0u8..8, 0u8..30, 0usize..300), 0..200),
        ) {
            let now = Instant::now();
            let end = Some(now + Duration::from_secs(1));
            let (mut store, reader) = mirrored(slots);
            let mut model = HashMap::new();
            for (at, (what, key, length)) in script.into_iter().enumerate() {
                let key = format!("key{key}").into_bytes();
                let value = vec![at as u8; length];
                match what {
                    0..4 => {
                        store.set(&key, &value, None);
                        let fits = key.len() + length <= ROOM_BYTES;
                        prop_assert_eq!(reader.get(&key), fits.then(|| value.clone()));
                        model.insert(key, value);
                    }
                    4 => {
                        store.set(&key, &value, end);
                        prop_assert_eq!(reader.get(&key), None);
                        model.insert(key, value);
                    }
                    5 => {
                        let _ = store.set_expiry(&key, end.filter(|_| length > 150), now);
                    }
                    6 => prop_assert_eq!(store.remove(&key, now), model.remove(&key).is_some()),
                    _ if length < 10 => {
                        store.clear();
                        model.clear();
                    }
                    _ => {}
                }
                for key in 0..30 {
                    let key = format!("key{key}").into_bytes();
                    if let Some(value) = reader.get(&key) {
                        prop_assert_eq!(Some(&value), model.get(&key));
                        prop_assert_eq!(store.expiry(&key, now), Some(None), "what is to end is not in the table");
                    }
                }
            }
        }
    }
}
