//! The one's complement sum of packet memory (RFC 1071), by the widest registers the processor has.
//!
//! Sums of the payloads that stacks and devices check and fill in: a pass over the bytes and nothing else, so the width decides.
//! Knows no protocol, and neither folds nor swaps: what the words mean is the caller's.

/// Bytes whose words are summed before the 32-bit lanes are emptied: no more than 2^12 additions to a lane, each of at most 2^16 in
/// amount.
const BLOCK_BYTES: usize = 1 << 16;

/// Bytes from which wide registers pay: below, emptying their lanes costs more than they save.
const WIDE_FROM_BYTES: usize = 192;

/// The sum of `bytes` as 16-bit words in native order, an odd last byte padded with zero. Not folded: it is congruent to the sum
/// modulo 65,535 (and not zero unless all bytes are).
///
/// ```
/// use demi_drivers::mem::sum;
///
/// assert_eq!(sum(&[1, 0, 2, 0, 3]), u64::from(u16::from_ne_bytes([6, 0])));
/// let bytes = [0x5a; 1460];
/// assert_eq!(sum(&bytes) % 0xffff, (730 * 0x5a5a) % 0xffff);
/// ```
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    if bytes.len() < WIDE_FROM_BYTES { narrow(bytes, 0) } else { wide(bytes) }
}

/// `words` and the sum of `bytes`: whole machine words, the carry added back in, in two chains that do not wait for each other.
#[inline(always)]
fn narrow(bytes: &[u8], mut words: u64) -> u64 {
    let mut other = 0u64;
    let (blocks, tail) = bytes.as_chunks::<32>();
    for block in blocks {
        let (octets, _) = block.as_chunks::<8>();
        let &[a, b, c, d] = octets else { break };
        words = add(add(words, u64::from_ne_bytes(a)), u64::from_ne_bytes(c));
        other = add(add(other, u64::from_ne_bytes(b)), u64::from_ne_bytes(d));
    }
    words = add(words, other);
    if !tail.is_empty() {
        let (octets, tail) = tail.as_chunks::<8>();
        for octet in octets {
            words = add(words, u64::from_ne_bytes(*octet));
        }
        if !tail.is_empty() {
            let (pairs, last) = tail.as_chunks::<2>();
            let mut rest = 0u64;
            for pair in pairs {
                rest += u64::from(u16::from_ne_bytes(*pair));
            }
            if let [byte] = last {
                rest += u64::from(u16::from_ne_bytes([*byte, 0]));
            }
            words = add(words, rest);
        }
    }
    words
}

/// `a + b` with the carry out of the top added back in: one's complement addition survives it.
#[inline(always)]
fn add(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

#[inline(never)]
fn wide(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, as it was asked.
            unsafe { x86::avx2(bytes) }
        } else {
            // SAFETY: every x86-64 processor has SSE2.
            unsafe { x86::sse2(bytes) }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    blocks(bytes, block)
}

/// Sums `bytes` block by block. `block` sums a multiple of 64 bytes, at most [`BLOCK_BYTES`].
#[inline(always)]
fn blocks(bytes: &[u8], block: impl Fn(&[[u8; 64]]) -> u64) -> u64 {
    let (whole, rest) = bytes.as_chunks::<64>();
    let words = whole.chunks(BLOCK_BYTES / 64).fold(0, |words, chunks| add(words, block(chunks)));
    narrow(rest, words)
}

/// Plain vector additions that cannot carry: two sums a lane, of the low and of the high half of each 32-bit word.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline]
fn block(chunks: &[[u8; 64]]) -> u64 {
    let (mut low, mut high) = ([0u32; 8], [0u32; 8]);
    for chunk in chunks {
        let (words, _) = chunk.as_chunks::<4>();
        for (at, word) in words.iter().enumerate() {
            let word = u32::from_ne_bytes(*word);
            low[at % 8] += word & 0xffff;
            high[at % 8] += word >> 16;
        }
    }
    low.iter().chain(&high).map(|lane| u64::from(*lane)).sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use core::arch::x86_64::*;

    /// What is taken from each word, so that the processor's signed multiply-and-add can sum pairs of them.
    const BIAS: u64 = 0x8000;

    /// See [`super::wide`].
    #[target_feature(enable = "sse2")]
    pub(super) fn sse2(bytes: &[u8]) -> u64 {
        super::blocks(bytes, |chunks| sse2_block(chunks))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn sse2_block(chunks: &[[u8; 64]]) -> u64 {
        let (bias, ones) = (_mm_set1_epi16(i16::MIN), _mm_set1_epi16(1));
        let mut lanes = [_mm_setzero_si128(); 2];
        for chunk in chunks {
            let (parts, _) = chunk.as_chunks::<16>();
            for (at, part) in parts.iter().enumerate() {
                // SAFETY: sixteen bytes may be read there, at any alignment.
                let words = unsafe { _mm_loadu_si128(part.as_ptr().cast()) };
                // A word with its top bit turned is itself less 2^15, as a signed number.
                let pairs = _mm_madd_epi16(_mm_xor_si128(words, bias), ones);
                lanes[at % 2] = _mm_add_epi32(lanes[at % 2], pairs);
            }
        }
        let mut sums = [0i32; 8];
        let (first, second) = sums.split_at_mut(4);
        // SAFETY: each half has room for sixteen bytes, at any alignment.
        unsafe {
            _mm_storeu_si128(first.as_mut_ptr().cast(), lanes[0]);
            _mm_storeu_si128(second.as_mut_ptr().cast(), lanes[1]);
        }
        unbiased(&sums, chunks.len())
    }

    /// See [`super::wide`].
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(bytes: &[u8]) -> u64 {
        super::blocks(bytes, |chunks| avx2_block(chunks))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn avx2_block(chunks: &[[u8; 64]]) -> u64 {
        let (bias, ones) = (_mm256_set1_epi16(i16::MIN), _mm256_set1_epi16(1));
        let mut lanes = [_mm256_setzero_si256(); 2];
        for chunk in chunks {
            let (parts, _) = chunk.as_chunks::<32>();
            for (lane, part) in lanes.iter_mut().zip(parts) {
                // SAFETY: 32 bytes may be read there, at any alignment.
                let words = unsafe { _mm256_loadu_si256(part.as_ptr().cast()) };
                let pairs = _mm256_madd_epi16(_mm256_xor_si256(words, bias), ones);
                *lane = _mm256_add_epi32(*lane, pairs);
            }
        }
        let mut sums = [0i32; 8];
        let lanes = _mm256_add_epi32(lanes[0], lanes[1]);
        // SAFETY: there is room for 32 bytes, at any alignment.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), lanes) };
        unbiased(&sums, chunks.len())
    }

    /// The sum of a block's words, from the lanes' of the words less [`BIAS`].
    #[inline(always)]
    fn unbiased(lanes: &[i32; 8], chunks: usize) -> u64 {
        let sum: i64 = lanes.iter().map(|lane| i64::from(*lane)).sum();
        (sum + (chunks as u64 * 32 * BIAS) as i64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Word by word, as RFC 1071 §1 has it.
    fn naive(bytes: &[u8]) -> u64 {
        let words = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
        words.map(|word| u64::from(u16::from_ne_bytes(word))).sum()
    }

    fn bytes(len: usize, mut seed: u64) -> Vec<u8> {
        let next = |_| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (seed >> 56) as u8
        };
        (0..len).map(next).collect()
    }

    fn same(found: u64, wanted: u64) -> bool {
        found % 0xffff == wanted % 0xffff && (found == 0) == (wanted == 0)
    }

    #[test]
    fn every_width_sums_as_word_by_word() {
        for len in
            (0..700).chain([1447, 1448, 1460, 8999, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 77])
        {
            let bytes = bytes(len + 3, len as u64);
            for from in 0..3 {
                let part = &bytes[from..from + len];
                let wanted = naive(part);
                assert!(same(sum(part), wanted), "{len} bytes from {from}");
                assert!(same(narrow(part, 0), wanted), "{len} bytes from {from}, narrow");
                assert!(same(wide(part), wanted), "{len} bytes from {from}, wide");
                assert!(same(blocks(part, block), wanted), "{len} bytes from {from}, portable");
                #[cfg(target_arch = "x86_64")]
                // SAFETY: every x86-64 processor has SSE2.
                assert!(same(unsafe { x86::sse2(part) }, wanted), "{len} bytes from {from}, with SSE2");
            }
        }
    }

    #[test]
    fn neither_all_ones_nor_all_zeros_overflow_a_lane() {
        for byte in [0xff, 0, 0x80, 0x7f] {
            for len in [BLOCK_BYTES, 2 * BLOCK_BYTES + 64] {
                let bytes = vec![byte; len];
                assert_eq!(sum(&bytes), naive(&bytes), "{len} bytes of {byte:#x}");
                assert_eq!(
                    blocks(&bytes, block),
                    naive(&bytes),
                    "{len} bytes of {byte:#x}, without detection"
                );
            }
        }
    }
}
