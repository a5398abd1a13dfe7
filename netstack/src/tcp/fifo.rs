//! A queue that is nearly always empty or one long: its front lies in place, only what follows it on the heap.
//!
//! Both queues of a connection are such: a request comes, is read, and the reply is acknowledged before the next. The cache line
//! that a ring of its own would cost each of them is most of what an echo among many connections waits for.

use std::collections::VecDeque;

/// The queue. While `front` is empty, so is `rest`.
pub(crate) struct Fifo<T> {
    front: Option<T>,
    /// A pointer instead of a ring's four words: most never need it.
    #[allow(clippy::box_collection)]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Fifo { front: None, rest: None }
    }
}

impl<T> Fifo<T> {
    /// What lies behind the front, when there is any.
    #[inline]
    fn behind(&self) -> Option<&VecDeque<T>> {
        self.rest.as_deref().filter(|rest| !rest.is_empty())
    }

    #[inline]
    fn behind_mut(&mut self) -> Option<&mut VecDeque<T>> {
        self.rest.as_deref_mut().filter(|rest| !rest.is_empty())
    }

    /// Whether nothing is queued.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    #[inline]
    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.front.as_mut()
    }

    #[inline]
    pub(crate) fn back(&self) -> Option<&T> {
        match self.behind() {
            None => self.front.as_ref(),
            Some(rest) => rest.back(),
        }
    }

    #[inline]
    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        let Fifo { front, rest } = self;
        match rest.as_deref_mut().filter(|rest| !rest.is_empty()) {
            None => front.as_mut(),
            Some(rest) => rest.back_mut(),
        }
    }

    /// The `index`th from the front.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        match index.checked_sub(1) {
            None => self.front.as_ref(),
            Some(behind) => self.rest.as_ref()?.get(behind),
        }
    }

    /// As [`get`](Self::get).
    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match index.checked_sub(1) {
            None => self.front.as_mut(),
            Some(behind) => self.rest.as_mut()?.get_mut(behind),
        }
    }

    #[inline]
    pub(crate) fn push_back(&mut self, value: T) {
        if self.front.is_none() {
            self.front = Some(value);
        } else {
            self.push_behind(value);
        }
    }

    #[inline(never)]
    fn push_behind(&mut self, value: T) {
        self.rest.get_or_insert_default().push_back(value);
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let front = self.front.take();
        if let Some(rest) = self.behind_mut() {
            self.front = rest.pop_front();
        }
        front
    }

    /// Drops the only one there is; `false`: there is none, or more.
    #[inline(always)]
    pub(crate) fn pop_only(&mut self) -> bool {
        self.behind().is_none() && self.front.take().is_some()
    }

    pub(crate) fn pop_back(&mut self) -> Option<T> {
        match self.behind_mut() {
            None => self.front.take(),
            Some(rest) => rest.pop_back(),
        }
    }

    /// All of them, from the `first`th on.
    pub(crate) fn iter_from(&self, first: usize) -> impl Iterator<Item = &T> {
        let front = self.front.as_ref().filter(|_| first == 0);
        let rest = self.rest.as_deref().into_iter().flat_map(move |rest| {
            let skipped = first.saturating_sub(1).min(rest.len());
            rest.range(skipped..)
        });
        front.into_iter().chain(rest)
    }

    /// How many at the front satisfy `is`, of a queue in which those that do come first. O(log n).
    pub(crate) fn partition_point(&self, mut is: impl FnMut(&T) -> bool) -> usize {
        match &self.front {
            Some(front) if is(front) => 1 + self.behind().map_or(0, |rest| rest.partition_point(is)),
            _ => 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.front = None;
        self.rest = None;
    }
}

impl<T> Extend<T> for Fifo<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.push_back(value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_queue_like_any_other(steps in proptest::collection::vec((0u8..4, any::<u8>()), 0..100)) {
            let (mut fifo, mut model) = (Fifo::default(), VecDeque::new());
            for (step, value) in steps {
                match step {
                    0 | 1 => {
                        fifo.push_back(value);
                        model.push_back(value);
                    }
                    2 if fifo.pop_only() => {
                        prop_assert_eq!(model.pop_front().map(|_| model.len()), Some(0));
                    }
                    2 => prop_assert_eq!(fifo.pop_front(), model.pop_front()),
                    _ => prop_assert_eq!(fifo.pop_back(), model.pop_back()),
                }
                prop_assert_eq!((fifo.iter_from(0).count(), fifo.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(fifo.back(), model.back());
                prop_assert_eq!(fifo.front_mut(), model.front_mut());
                prop_assert_eq!(fifo.back_mut(), model.back_mut());
                for at in 0..=model.len() {
                    prop_assert_eq!(fifo.get(at), model.get(at));
                    prop_assert_eq!(fifo.get_mut(at), model.get_mut(at));
                    prop_assert!(fifo.iter_from(at).eq(model.range(at..)));
                }
            }
            let mut sorted: Vec<u8> = model.into();
            sorted.sort_unstable();
            fifo.clear();
            fifo.extend(sorted.iter().copied());
            prop_assert_eq!(fifo.partition_point(|&at| at < 100), sorted.partition_point(|&at| at < 100));
        }
    }
}
