//! The table of keys and values that a server publishes in memory, as those who read it over RDMA find it. Plain bytes in, plain
//! bytes out: this knows neither the server nor RDMA.
//!
//! The table is buckets of [`BUCKET_SLOTS`] slots, and a key is in a slot of the bucket that its hash names, or nowhere. So one
//! READ of [`BUCKET_BYTES`] says all that the table knows of a key. A key that is not found is not known not to exist: the table has
//! what fits a slot, is not to expire, and was not crowded out by others of its bucket. For the rest the server is asked.
//!
//! A slot, its numbers in little-endian:
//!
//! | byte | what |
//! |---|---|
//! | 0 | version: 0 for an empty slot, odd while the slot is written; of two slots in a table the later written one has the higher |
//! | 8 | checksum of all the other bytes |
//! | 16, 18 | bytes of the key, bytes of the value |
//! | 20 | zeros |
//! | 24 | the key, the value, zeros up to the end |
//!
//! An adapter that reads a slot while the server writes it sees, of each eight bytes, the old or the new ones, in no order. No version
//! comes twice, so whatever is not one writing of a slot as a whole has a checksum of neither: it is [torn](Slot::Torn), and
//! read again. (By chance one of 2^64 is not; nothing defends against a server that lies.)

/// Counts changes of all that is said here; a reader that knows another one leaves the table alone.
pub const VERSION: i64 = 1;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 256;
/// Slots of a bucket.
pub const BUCKET_SLOTS: usize = 4;
/// Bytes of a bucket: what is read at once.
pub const BUCKET_BYTES: usize = SLOT_BYTES * BUCKET_SLOTS;
/// Bytes of a slot before its key: what has to be seen to know whose it is.
pub const HEADER_BYTES: usize = 24;
/// Bytes that a key and its value may have together.
pub const ROOM_BYTES: usize = SLOT_BYTES - HEADER_BYTES;
/// Slots at most.
pub const MAX_SLOTS: usize = 1 << 24;

const WORD: usize = 8;
const CHECKSUM: std::ops::Range<usize> = 8..16;

/// How many slots a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    buckets: usize,
}

impl Layout {
    /// A table of `slots` slots, rounded up to whole buckets, at most [`MAX_SLOTS`].
    pub fn of_slots(slots: usize) -> Layout {
        Layout { buckets: slots.clamp(1, MAX_SLOTS).div_ceil(BUCKET_SLOTS) }
    }

    /// What a server says of its table: version, slots, bytes of a slot, slots of a bucket.
    ///
    /// # Errors
    /// What of that this reader does not know.
    pub fn from_numbers(numbers: [i64; 4]) -> Result<Layout, String> {
        let slots = numbers[1];
        let layout = usize::try_from(slots).ok().filter(|slots| *slots <= MAX_SLOTS).map(Layout::of_slots);
        match layout {
            Some(layout) if layout.numbers() == numbers => Ok(layout),
            _ => Err(format!(
                "a table of layout {numbers:?} (version, slots, bytes of a slot, slots of a bucket): this program reads [{VERSION}, N, \
                 {SLOT_BYTES}, {BUCKET_SLOTS}]"
            )),
        }
    }

    /// As [`from_numbers`](Self::from_numbers) takes it.
    pub fn numbers(&self) -> [i64; 4] {
        [VERSION, self.slots() as i64, SLOT_BYTES as i64, BUCKET_SLOTS as i64]
    }

    /// Slots.
    pub fn slots(&self) -> usize {
        self.buckets * BUCKET_SLOTS
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.buckets * BUCKET_BYTES
    }

    /// Where the bucket of `key` begins, in bytes.
    ///
    /// Whoever chooses the keys can choose ones of the same bucket: they crowd each other out and the server is asked for them,
    /// which is all that comes of it.
    pub fn bucket(&self, key: &[u8]) -> usize {
        let words = key.chunks(WORD).map(|chunk| {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let hash = digest(std::iter::once(key.len() as u64).chain(words));
        let bucket = (u128::from(hash) * self.buckets as u128) >> 64;
        bucket as usize * BUCKET_BYTES
    }
}

/// What the bytes of a slot say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<'a> {
    /// There is nothing in it.
    Empty,
    /// It was being written: to be read again.
    Torn,
    /// A key and its value.
    Holds {
        /// Higher than that of any slot of the table that was written before.
        version: u64,
        /// The key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
}

/// What a bucket says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Its value, at some time between the beginning and the end of the READ.
    Value(&'a [u8]),
    /// It is not in the table, which says nothing about whether the server has it.
    Unknown,
    /// A slot was being written, and may be the key's.
    Torn,
}

/// The slot that holds `key` and `value`; `None`: they do not fit.
///
/// `version` is even, not 0, and higher than any before.
pub fn encode(version: u64, key: &[u8], value: &[u8]) -> Option<[u8; SLOT_BYTES]> {
    debug_assert!(version > 0 && version.is_multiple_of(2), "version {version} of a slot that is whole");
    let value_at = HEADER_BYTES.checked_add(key.len())?;
    let end = value_at.checked_add(value.len()).filter(|end| *end <= SLOT_BYTES)?;
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&version.to_le_bytes());
    slot[16..18].copy_from_slice(&(key.len() as u16).to_le_bytes());
    slot[18..20].copy_from_slice(&(value.len() as u16).to_le_bytes());
    slot[HEADER_BYTES..value_at].copy_from_slice(key);
    slot[value_at..end].copy_from_slice(value);
    let sum = checksum(&slot);
    slot[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
    Some(slot)
}

/// The version of a slot that begins with `header`, and the bytes of its key; `None`: it is empty. For whoever writes the table, and so
/// never sees a torn slot.
pub fn header(header: &[u8; HEADER_BYTES]) -> Option<(u64, usize)> {
    let version = word(header, 0);
    (version > 0).then(|| (version, usize::from(u16::from_le_bytes([header[16], header[17]]))))
}

/// What `slot` says.
pub fn decode(slot: &[u8; SLOT_BYTES]) -> Slot<'_> {
    let version = word(slot, 0);
    if version == 0 {
        return Slot::Empty;
    }
    if !version.is_multiple_of(2) || checksum(slot) != word(slot, CHECKSUM.start) {
        return Slot::Torn;
    }
    let length = |at: usize| usize::from(u16::from_le_bytes([slot[at], slot[at + 1]]));
    let (key, value) = (length(16), length(18));
    let room = &slot[HEADER_BYTES..];
    match (room.get(..key), room.get(key..key + value)) {
        (Some(key), Some(value)) => Slot::Holds { version, key, value },
        // Nobody writes such a slot.
        _ => Slot::Torn,
    }
}

/// What a bucket, as it was read, says of `key`.
pub fn find<'a>(bucket: &'a [u8; BUCKET_BYTES], key: &[u8]) -> Answer<'a> {
    let (mut newest, mut torn) = (None, false);
    let (slots, _) = bucket.as_chunks::<SLOT_BYTES>();
    for slot in slots {
        match decode(slot) {
            // A key that moves to another slot while the bucket is read may be seen in both.
            Slot::Holds { version, key: held, value }
                if held == key && newest.is_none_or(|(newest, _)| newest < version) =>
            {
                newest = Some((version, value));
            }
            Slot::Torn => torn = true,
            Slot::Holds { .. } | Slot::Empty => {}
        }
    }
    match newest {
        Some((_, value)) => Answer::Value(value),
        None if torn => Answer::Torn,
        None => Answer::Unknown,
    }
}

fn checksum(slot: &[u8; SLOT_BYTES]) -> u64 {
    let (words, _) = slot.as_chunks::<WORD>();
    let others = words.iter().enumerate().filter(|(at, _)| at * WORD != CHECKSUM.start);
    digest(others.map(|(_, word)| u64::from_le_bytes(*word)))
}

/// A hash of words. Every step is a bijection of what came before and one of the word, so that two runs that differ in one word never have
/// the same; the last ones are MurmurHash3's finalizer.
fn digest(words: impl Iterator<Item = u64>) -> u64 {
    let mut hash = words.fold(0x9e37_79b9_7f4a_7c15_u64, |hash, word| {
        let hash = (hash ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^ (hash >> 29)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slot_says_what_was_put_into_it() {
        let slot = encode(2, b"key", b"value").unwrap();
        assert_eq!(decode(&slot), Slot::Holds { version: 2, key: b"key", value: b"value" });
        assert_eq!(decode(&encode(4, b"", b"").unwrap()), Slot::Holds { version: 4, key: b"", value: b"" });
        assert_eq!(decode(&[0; SLOT_BYTES]), Slot::Empty);
        assert_eq!(header(slot.first_chunk().unwrap()), Some((2, 3)));
        assert_eq!(header(&[0; HEADER_BYTES]), None);
    }

    #[test]
    fn what_does_not_fit_is_not_put_in() {
        let fits = |key: usize, value: usize| encode(2, &vec![1; key], &vec![2; value]).is_some();
        assert!(fits(0, ROOM_BYTES) && fits(ROOM_BYTES, 0) && fits(100, ROOM_BYTES - 100));
        assert!(!fits(1, ROOM_BYTES) && !fits(ROOM_BYTES + 1, 0) && !fits(100, 1 << 20));
    }

    #[test]
    fn a_slot_that_is_being_written_is_torn_and_one_whose_version_is_zero_is_empty() {
        let mut slot = encode(6, b"key", b"value").unwrap();
        slot[..8].copy_from_slice(&5u64.to_le_bytes());
        assert_eq!(decode(&slot), Slot::Torn);
        slot[..8].copy_from_slice(&0u64.to_le_bytes());
        assert_eq!(decode(&slot), Slot::Empty);
    }

    fn bucket_of(slots: [Option<[u8; SLOT_BYTES]>; BUCKET_SLOTS]) -> [u8; BUCKET_BYTES] {
        let mut bucket = [0; BUCKET_BYTES];
        for (place, slot) in bucket.chunks_exact_mut(SLOT_BYTES).zip(slots) {
            place.copy_from_slice(&slot.unwrap_or([0; SLOT_BYTES]));
        }
        bucket
    }

    #[test]
    fn a_bucket_gives_the_newest_value_and_is_read_again_only_for_a_key_it_does_not_show() {
        let torn = || {
            let mut slot = encode(8, b"b", b"?").unwrap();
            slot[0] = 7;
            Some(slot)
        };
        let bucket = bucket_of([encode(2, b"a", b"old"), None, encode(4, b"a", b"new"), torn()]);
        assert_eq!(find(&bucket, b"a"), Answer::Value(b"new"));
        assert_eq!(find(&bucket, b"b"), Answer::Torn);
        let bucket = bucket_of([None, encode(2, b"a", b"1"), None, None]);
        assert_eq!(find(&bucket, b"b"), Answer::Unknown);
    }

    #[test]
    fn a_table_is_whole_buckets_and_told_as_numbers() {
        for (slots, rounded) in [(0, 4), (1, 4), (4, 4), (5, 8), (MAX_SLOTS + 9, MAX_SLOTS)] {
            let layout = Layout::of_slots(slots);
            assert_eq!((layout.slots(), layout.bytes()), (rounded, rounded * SLOT_BYTES));
            assert_eq!(Layout::from_numbers(layout.numbers()), Ok(layout));
        }
        for wrong in [[2, 4, 256, 4], [1, 5, 256, 4], [1, 4, 128, 4], [1, 0, 256, 4], [1, -4, 256, 4]] {
            assert!(Layout::from_numbers(wrong).is_err_and(|error| error.contains("256")), "{wrong:?}");
        }
        assert!(Layout::from_numbers([1, 1 << 40, 256, 4]).is_err());
    }

    #[test]
    fn keys_spread_over_all_buckets() {
        let layout = Layout::of_slots(64 * BUCKET_SLOTS);
        let mut counts = [0; 64];
        for key in 0..6400 {
            counts[layout.bucket(format!("key:{key:012}").as_bytes()) / BUCKET_BYTES] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }

    fn short() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..=ROOM_BYTES / 2)
    }

    proptest! {
        /// Any mixture of words of two writings and of what lies between them.
        #[test]
        fn a_mixture_of_two_writings_is_torn_or_one_of_them(
            (key, value) in (short(), short()),
            (other_key, other_value) in (short(), short()),
            same in any::<bool>(),
            apart in 1u64..5,
            words in proptest::collection::vec(any::<bool>(), SLOT_BYTES / WORD),
            marked in any::<bool>(),
        ) {
            // Often the same key, and the same value again.
            let (other_key, other_value) = if same { (key.clone(), value.clone()) } else { (other_key, other_value) };
            let old = encode(2, &key, &value).unwrap();
            let new = encode(2 + 2 * apart, &other_key, &other_value).unwrap();
            let mut mixed = [0; SLOT_BYTES];
            for (at, new_word) in words.iter().enumerate() {
                let range = at * WORD..(at + 1) * WORD;
                mixed[range.clone()].copy_from_slice(if *new_word { &new[range] } else { &old[range] });
            }
            if marked {
                mixed[..WORD].copy_from_slice(&(1 + 2 * apart).to_le_bytes());
            }
            match decode(&mixed) {
                Slot::Torn => prop_assert!(mixed != old && mixed != new),
                Slot::Holds { version: 2, .. } => prop_assert!(mixed == old),
                Slot::Holds { .. } => prop_assert!(mixed == new),
                Slot::Empty => prop_assert!(false, "neither was empty"),
            }
        }

        /// Whatever a peer's memory holds, it is no panic.
        #[test]
        fn any_bytes_are_read(slot in proptest::collection::vec(any::<u8>(), SLOT_BYTES), sealed in any::<bool>()) {
            let mut slot: [u8; SLOT_BYTES] = slot.try_into().unwrap();
            if sealed {
                slot[0] &= !1;
                let sum = checksum(&slot).to_le_bytes();
                slot[CHECKSUM].copy_from_slice(&sum);
            }
            if let Slot::Holds { key, value, .. } = decode(&slot) {
                prop_assert!(key.len() + value.len() <= ROOM_BYTES);
            }
        }
    }
}
