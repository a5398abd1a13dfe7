//! State that most connections never need: nothing until it is first written, then a box.
//!
//! Reading it before that finds what it would begin as. So an idle connection, and one that never loses anything, costs a
//! pointer where the state would lie, and nobody asks whether it is there.

use core::ops::{Deref, DerefMut};

/// What has a beginning that does not depend on the connection.
pub(crate) trait Quiet: Sized + 'static {
    /// What it is before anything has happened.
    const QUIET: &'static Self;

    /// The same, to be written to.
    fn quiet() -> Self;
}

/// A state that lies in a box of its own once it is not [`Quiet`] any more.
#[derive(Clone, Debug)]
pub(crate) struct Rare<T: Quiet>(Option<Box<T>>);

impl<T: Quiet> Rare<T> {
    /// What nothing has happened to.
    pub(crate) const fn quiet() -> Self {
        Rare(None)
    }

    /// It, if anything was ever written to it: for what is only to be reset.
    #[inline]
    pub(crate) fn written(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: Quiet> Deref for Rare<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::QUIET)
    }
}

impl<T: Quiet> DerefMut for Rare<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(new)
    }
}

#[cold]
fn new<T: Quiet>() -> Box<T> {
    Box::new(T::quiet())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(u32);

    impl Quiet for Count {
        const QUIET: &'static Self = &Count(7);

        fn quiet() -> Self {
            Count(7)
        }
    }

    #[test]
    fn it_reads_as_what_it_begins_as_and_is_there_once_it_is_written() {
        let mut count = Rare::<Count>::quiet();
        assert_eq!(count.deref().0, 7);
        assert!(count.written().is_none() && size_of_val(&count) == size_of::<usize>());
        count.deref_mut().0 += 1;
        assert_eq!(count.written().map(|count| count.0), Some(8));
        assert_eq!(count.deref().0, 8);
        count = Rare::quiet();
        assert_eq!(count.deref().0, 7);
    }
}
