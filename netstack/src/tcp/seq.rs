//! Sequence numbers: a circle of 2^32 on which "before" means "less than half the circle behind" (RFC 9293 §3.4).

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// A position in a byte stream, modulo 2^32.
///
/// It has no `Ord`: on a circle "less" is no total order. Comparisons hold between numbers at most 2^31 apart.
///
/// ```
/// use demi_netstack::tcp::SeqNumber;
/// let last = SeqNumber::new(u32::MAX);
/// assert!(last.before(last + 2));
/// assert_eq!(last + 2, SeqNumber::new(1));
/// assert_eq!((last + 2) - last, 2);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SeqNumber(u32);

impl SeqNumber {
    /// The number with the given value on the wire.
    #[inline]
    pub const fn new(value: u32) -> Self {
        SeqNumber(value)
    }

    /// The value on the wire.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Whether this number comes before `other`.
    #[inline]
    pub const fn before(self, other: SeqNumber) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether this number comes after `other`.
    #[inline]
    pub const fn after(self, other: SeqNumber) -> bool {
        other.before(self)
    }

    /// Whether this number is `other` or comes before it.
    #[inline]
    pub const fn at_or_before(self, other: SeqNumber) -> bool {
        !other.before(self)
    }

    /// Whether this number is `other` or comes after it.
    #[inline]
    pub const fn at_or_after(self, other: SeqNumber) -> bool {
        !self.before(other)
    }

    /// Whether this number lies in the half-open range from `start` to `end`.
    #[inline]
    pub const fn within(self, start: SeqNumber, end: SeqNumber) -> bool {
        self.0.wrapping_sub(start.0) < end.0.wrapping_sub(start.0)
    }

    /// The later of the two.
    #[inline]
    pub const fn later(self, other: SeqNumber) -> SeqNumber {
        if self.before(other) { other } else { self }
    }

    /// The earlier of the two.
    #[inline]
    pub const fn earlier(self, other: SeqNumber) -> SeqNumber {
        if other.before(self) { other } else { self }
    }

    /// Bytes from `start` to this number, 0 when it does not come after it.
    #[inline]
    pub const fn since(self, start: SeqNumber) -> u32 {
        if start.before(self) { self.0.wrapping_sub(start.0) } else { 0 }
    }
}

impl Add<u32> for SeqNumber {
    type Output = SeqNumber;
    #[inline]
    fn add(self, by: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_add(by))
    }
}

impl AddAssign<u32> for SeqNumber {
    #[inline]
    fn add_assign(&mut self, by: u32) {
        *self = *self + by;
    }
}

impl Sub<u32> for SeqNumber {
    type Output = SeqNumber;
    #[inline]
    fn sub(self, by: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_sub(by))
    }
}

impl Sub<SeqNumber> for SeqNumber {
    type Output = u32;
    /// Bytes from `start` to this number, going up.
    #[inline]
    fn sub(self, start: SeqNumber) -> u32 {
        self.0.wrapping_sub(start.0)
    }
}

impl fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Whether timestamp `a` is older than `b` (RFC 7323 §5.2): the same circle.
#[inline]
pub(crate) const fn timestamp_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn order_survives_the_wrap() {
        let (a, b) = (SeqNumber::new(u32::MAX - 1), SeqNumber::new(3));
        assert!(a.before(b) && b.after(a) && !b.before(a) && a.at_or_before(a) && a.at_or_after(a));
        assert_eq!((b - a, b.since(a), a.since(b)), (5, 5, 0));
        assert!(SeqNumber::new(0).within(a, b) && a.within(a, b) && !b.within(a, b));
        assert_eq!((a.later(b), a.earlier(b)), (b, a));
    }

    proptest! {
        #[test]
        fn order_is_that_of_the_distance(start in any::<u32>(), step in 1u32..1 << 31) {
            let (a, b) = (SeqNumber::new(start), SeqNumber::new(start) + step);
            prop_assert!(a.before(b) && !b.before(a) && b.after(a));
            prop_assert_eq!(b - a, step);
            prop_assert_eq!(b - step, a);
            prop_assert!(timestamp_before(a.get(), b.get()));
        }
    }
}
