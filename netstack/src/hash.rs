//! Numbers nobody outside can guess: a fast keyed hash for tables whose keys come from the network, and random numbers.
//!
//! The hash keeps strangers from filling one bucket; it is no message authentication code. The random numbers come from SipHash
//! over a counter, so that one seen says nothing about the next.

use core::hash::{BuildHasher, Hasher};

use siphasher::sip::SipHasher13;

/// Keys of the hash, drawn from the stack's secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed {
    start: u64,
    factor: u64,
}

impl Keyed {
    pub(crate) fn new(random: &mut Random) -> Keyed {
        // An odd factor with bits set in both halves keeps the product mixing whatever the draw was.
        Keyed { start: random.next_u64(), factor: random.next_u64() | 0x8000_0001_0000_0001 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = Folding;
    #[inline]
    fn build_hasher(&self) -> Folding {
        Folding { state: self.start, factor: self.factor }
    }
}

/// Multiplies each word into the state and folds the 128-bit product.
pub(crate) struct Folding {
    state: u64,
    factor: u64,
}

impl Folding {
    #[inline]
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folding {
    #[inline]
    fn finish(&self) -> u64 {
        self.state.rotate_left(29).wrapping_mul(self.factor)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.mix(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    #[inline]
    fn write_u128(&mut self, value: u128) {
        self.mix(value as u64);
        self.mix((value >> 64) as u64);
    }
}

/// Random numbers from a secret; the same secret gives the same numbers, which is what a simulation wants.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    key: [u8; 16],
    counter: u64,
}

impl Random {
    pub(crate) fn new(key: [u8; 16]) -> Random {
        Random { key, counter: 0 }
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// A number below `bound`; 0 when that is 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// A key of its own for another user.
    pub(crate) fn next_key(&mut self) -> [u8; 16] {
        let (a, b) = (self.next_u64(), self.next_u64());
        (u128::from(a) << 64 | u128::from(b)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_differ_little_spread_over_all_buckets() {
        let keyed = Keyed::new(&mut Random::new([7; 16]));
        let mut buckets = [0u32; 256];
        for key in 0..25_600u128 {
            buckets[(keyed.hash_one(key << 32) & 255) as usize] += 1;
        }
        let most = buckets.iter().max().copied();
        assert!(most < Some(200), "100 were due, a bucket has {most:?}");
        assert_ne!(keyed.hash_one(5u128), Keyed::new(&mut Random::new([8; 16])).hash_one(5u128));
    }

    #[test]
    fn numbers_below_a_bound_reach_all_of_it() {
        let mut random = Random::new([1; 16]);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[random.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(random.below(0), 0);
    }
}
