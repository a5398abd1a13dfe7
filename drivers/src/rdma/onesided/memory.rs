//! Memory that peers' adapters may read and write at any time.
//!
//! Rust's references promise that nobody else writes what they show, which is not so here: no reference to the bytes is ever given out.
//! They are atomic words, read and written by copying. This owns them; that they outlive every registration is its holder's duty.

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// A run of bytes that others may change while they are looked at. Begins as zeros.
#[derive(Debug)]
pub struct Memory {
    words: Box<[AtomicU64]>,
    bytes: usize,
    /// Words and bytes of one memory are accessed by one thread alone.
    _not_send: PhantomData<*const ()>,
}

const WORD: usize = size_of::<AtomicU64>();

impl Memory {
    /// `bytes` zeros.
    ///
    /// # Errors
    /// `InvalidInput` for none; `OutOfMemory`.
    pub fn new(bytes: usize) -> io::Result<Memory> {
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a region of no bytes"));
        }
        let count = bytes.div_ceil(WORD);
        let mut words = Vec::new();
        words.try_reserve_exact(count).map_err(|_| {
            io::Error::new(io::ErrorKind::OutOfMemory, format!("no memory for a region of {bytes} bytes"))
        })?;
        words.resize_with(count, || AtomicU64::new(0));
        Ok(Memory { words: words.into_boxed_slice(), bytes, _not_send: PhantomData })
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: there are bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Where it begins; aligned to a word.
    pub fn address(&self) -> *const u8 {
        self.words.as_ptr().cast()
    }

    fn range(&self, offset: usize, bytes: usize) -> io::Result<()> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{bytes} bytes from {offset} on: the region has {}", self.bytes),
            )),
        }
    }

    fn word(&self, offset: usize) -> io::Result<&AtomicU64> {
        self.range(offset, WORD)?;
        let word = if offset.is_multiple_of(WORD) { self.words.get(offset / WORD) } else { None };
        word.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a word at {offset}: words lie at multiples of 8"),
            )
        })
    }

    /// The bytes, one by one: for what covers no whole word.
    fn byte(&self, at: usize) -> Option<&AtomicU8> {
        if at >= self.bytes {
            return None;
        }
        // SAFETY: `at` is within the words, `bytes` being at most their length. A byte of an atomic word is a byte that may be
        // shared and changed, and needs no alignment. Accesses of both sizes come from one thread, since this is not `Send`, so they do
        // not race with each other; those of an adapter are no accesses of Rust's.
        Some(unsafe { AtomicU8::from_ptr(self.address().cast_mut().add(at)) })
    }

    /// Copies bytes from `offset` on into all of `into`. What a peer writes meanwhile may be seen in part; aligned words are seen whole.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> io::Result<()> {
        self.range(offset, into.len())?;
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let skip = at % WORD;
            let word = self.words.get(at / WORD).map_or(0, |word| word.load(Ordering::Acquire));
            let count = (WORD - skip).min(rest.len());
            let (part, behind) = rest.split_at_mut(count);
            part.copy_from_slice(&word.to_ne_bytes()[skip..skip + count]);
            rest = behind;
            at += count;
        }
        Ok(())
    }

    /// Copies all of `from` to `offset`. A peer may see a part of it before the rest; aligned words whole, and in order.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end.
    pub fn write_at(&self, offset: usize, from: &[u8]) -> io::Result<()> {
        self.range(offset, from.len())?;
        let mut at = offset;
        let mut rest = from;
        while let Some(&first) = rest.first() {
            if at.is_multiple_of(WORD)
                && let Some((whole, behind)) = rest.split_first_chunk::<WORD>()
                && let Some(word) = self.words.get(at / WORD)
            {
                word.store(u64::from_ne_bytes(*whole), Ordering::Release);
                rest = behind;
                at += WORD;
            } else if let Some(byte) = self.byte(at) {
                // Not the whole word: its other bytes may just be changing.
                byte.store(first, Ordering::Release);
                rest = &rest[1..];
                at += 1;
            }
        }
        Ok(())
    }

    /// The word at `offset`, in this machine's byte order, which is that of atomic operations on it.
    ///
    /// # Errors
    /// `InvalidInput` beyond the end, or when `offset` is no multiple of 8.
    pub fn load(&self, offset: usize) -> io::Result<u64> {
        Ok(self.word(offset)?.load(Ordering::Acquire))
    }

    /// Sets the word at `offset`; everything written before is seen before it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn store(&self, offset: usize, value: u64) -> io::Result<()> {
        self.word(offset)?.store(value, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_those_of_the_bytes() {
        let memory = Memory::new(20).unwrap();
        memory.write_at(0, &[1; 20]).unwrap();
        assert_eq!(memory.load(8).unwrap(), u64::from_ne_bytes([1; 8]));
        memory.store(8, 0).unwrap();
        let mut bytes = [9; 20];
        memory.read_at(0, &mut bytes).unwrap();
        assert_eq!((&bytes[..8], &bytes[8..16], &bytes[16..]), (&[1; 8][..], &[0; 8][..], &[1; 4][..]));
        assert!(memory.load(16).is_err() && memory.load(4).is_err() && memory.store(usize::MAX, 1).is_err());
        assert!(memory.read_at(1, &mut bytes).is_err() && memory.write_at(20, &[1]).is_err());
        assert!(memory.write_at(20, &[]).is_ok());
        assert!(Memory::new(0).is_err());
    }

    proptest! {
        #[test]
        fn it_is_an_array_of_bytes(
            bytes in 1usize..100,
            script in proptest::collection::vec((any::<bool>(), 0usize..110, 0usize..40, any::<u8>()), 0..40),
        ) {
            let memory = Memory::new(bytes).unwrap();
            let mut model = vec![0u8; bytes];
            for (write, offset, count, value) in script {
                let fits = offset + count <= bytes;
                if write {
                    let from: Vec<u8> = (0..count).map(|at| value.wrapping_add(at as u8)).collect();
                    prop_assert_eq!(memory.write_at(offset, &from).is_ok(), fits);
                    if fits {
                        model[offset..offset + count].copy_from_slice(&from);
                    }
                } else {
                    let mut into = vec![0; count];
                    prop_assert_eq!(memory.read_at(offset, &mut into).is_ok(), fits);
                    if fits {
                        prop_assert_eq!(&into[..], &model[offset..offset + count]);
                    }
                }
            }
        }
    }
}
