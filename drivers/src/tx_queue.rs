//! The transmit queue: frames on their way from a stack to its device.
//!
//! Owns the frames' views and what is to be done on them, nothing of their memory. Nearly all frames are one view; the further
//! parts of those that are not lie apart, so that the common one costs a single entry.

use std::collections::{VecDeque, vec_deque};

use crate::device::Offload;
use crate::mem::Buf;

/// Frames waiting to go out, in order.
///
/// The stack pushes at the back, the device takes from the front what it has room for and leaves the rest: a full ring is
/// back-pressure, not loss. Nothing is allocated once the queue has reached its working size.
#[derive(Debug)]
pub struct TxQueue {
    /// A ring of places, a power of two of them, each taken or empty. It begins small and grows to what is queued at once.
    places: Box<[Frame]>,
    /// Count frames that have come and gone since the queue was last empty.
    head: usize,
    tail: usize,
    /// All parts but the first, of all frames in order.
    rest: VecDeque<Buf>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Frame {
    /// `None`: the place is empty.
    head: Option<Buf>,
    offload: Offload,
    /// Parts behind the first.
    more: u16,
}

/// Two to a cache line.
const _: () = assert!(size_of::<Frame>() == 32);

/// A frame of a [`TxQueue`].
#[derive(Clone, Copy, Debug)]
pub struct TxFrame<'a> {
    head: &'a Buf,
    /// Where its further parts lie, and how many there are.
    rest: &'a VecDeque<Buf>,
    first: usize,
    more: usize,
    /// What the device is to do on it.
    pub offload: Offload,
}

/// The parts of a frame.
#[derive(Clone, Debug)]
struct Parts<'a> {
    head: Option<&'a Buf>,
    rest: vec_deque::Iter<'a, Buf>,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a Buf;

    #[inline]
    fn next(&mut self) -> Option<&'a Buf> {
        self.head.take().or_else(|| self.rest.next())
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let len = usize::from(self.head.is_some()) + self.rest.len();
        (len, Some(len))
    }
}

impl ExactSizeIterator for Parts<'_> {}

impl<'a> TxFrame<'a> {
    /// The frame's parts, in order; never empty.
    #[inline]
    pub fn parts(&self) -> impl ExactSizeIterator<Item = &'a Buf> + Clone + use<'a> {
        let end = self.rest.len().min(self.first + self.more);
        Parts { head: Some(self.head), rest: self.rest.range(self.first.min(end)..end) }
    }

    /// The frame's bytes, when it consists of a single part.
    #[inline]
    pub fn single(&self) -> Option<&'a Buf> {
        if self.more == 0 { Some(self.head) } else { None }
    }

    /// Bytes of all parts.
    #[inline]
    pub fn len(&self) -> usize {
        match self.pair() {
            Some((head, second)) => head.len() + second.map_or(0, |second| second.len()),
            None => self.parts().map(|part| part.len()).sum(),
        }
    }

    /// The parts of a frame of one or two, which nearly all frames are.
    #[inline]
    fn pair(&self) -> Option<(&'a Buf, Option<&'a Buf>)> {
        match self.more {
            0 => Some((self.head, None)),
            1 => Some((self.head, Some(self.rest.get(self.first)?))),
            _ => None,
        }
    }

    /// Whether the frame carries nothing; such a frame is never queued by the stack.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the frame into `to`, which must be at least [`len`](Self::len) bytes; answers the bytes copied.
    #[inline]
    pub fn copy_to(&self, to: &mut [u8]) -> usize {
        if let Some((head, second)) = self.pair() {
            let (first, behind) = to.split_at_mut(head.len());
            first.copy_from_slice(head);
            if let Some(second) = second {
                behind[..second.len()].copy_from_slice(second);
            }
            return head.len() + second.map_or(0, |second| second.len());
        }
        let mut at = 0;
        for part in self.parts() {
            let end = at + part.len();
            to[at..end].copy_from_slice(part);
            at = end;
        }
        at
    }
}

impl TxQueue {
    /// A queue that asks the stack to stop at `capacity` frames.
    pub fn new(capacity: usize) -> Self {
        TxQueue { places: Box::default(), head: 0, tail: 0, rest: VecDeque::new(), capacity }
    }

    /// Frames queued.
    #[inline]
    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    /// Whether nothing is queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tail == self.head
    }

    /// Frames that still fit before back-pressure.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len())
    }

    /// Queues a frame of one part.
    #[inline]
    pub fn push(&mut self, frame: Buf, offload: Offload) {
        self.push_frame(frame, offload, 0);
    }

    /// Queues a frame of two parts.
    #[inline]
    pub fn push_pair(&mut self, head: Buf, second: Buf, offload: Offload) {
        self.rest.push_back(second);
        self.push_frame(head, offload, 1);
    }

    /// Queues a frame made of `head` followed by `rest`.
    pub fn push_parts(&mut self, head: Buf, rest: impl IntoIterator<Item = Buf>, offload: Offload) {
        let before = self.rest.len();
        self.rest.extend(rest.into_iter().take(usize::from(u16::MAX)));
        self.push_frame(head, offload, (self.rest.len() - before) as u16);
    }

    #[inline(always)]
    fn push_frame(&mut self, head: Buf, offload: Offload, more: u16) {
        if self.len() == self.places.len() {
            self.grow();
        }
        let at = self.tail & self.places.len().wrapping_sub(1);
        if let Some(place) = self.places.get_mut(at) {
            // An empty place: there is nothing to drop.
            std::mem::forget(place.head.replace(head));
            place.offload = offload;
            place.more = more;
            self.tail += 1;
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let mut places: Vec<Frame> = Vec::with_capacity((self.places.len() * 2).max(16));
        for at in self.head..self.tail {
            places.push(std::mem::take(&mut self.places[at & (self.places.len() - 1)]));
        }
        (self.head, self.tail) = (0, places.len());
        places.resize_with(places.capacity().next_power_of_two(), Frame::default);
        self.places = places.into_boxed_slice();
    }

    #[inline(always)]
    fn place(&self, at: usize) -> Option<&Frame> {
        self.places.get(at & self.places.len().wrapping_sub(1))
    }

    /// The frame at the front.
    #[inline(always)]
    pub fn front(&self) -> Option<TxFrame<'_>> {
        self.view(self.place(self.head)?, 0)
    }

    /// `None`: the place is empty.
    #[inline(always)]
    fn view<'a>(&'a self, frame: &'a Frame, first: usize) -> Option<TxFrame<'a>> {
        Some(TxFrame {
            head: frame.head.as_ref()?,
            rest: &self.rest,
            first,
            more: usize::from(frame.more),
            offload: frame.offload,
        })
    }

    /// All frames, from the front on, for devices that look ahead to fill a burst.
    pub fn iter(&self) -> impl Iterator<Item = TxFrame<'_>> {
        let mut first = 0;
        (self.head..self.tail).filter_map(move |at| {
            let frame = self.place(at)?;
            let view = self.view(frame, first);
            first += usize::from(frame.more);
            view
        })
    }

    /// Shows frames to `send`, from the front on, until it answers `false` or all have been shown, and drops those for which
    /// it answered `true`: they have been sent, or never will be. Answers their number.
    #[inline]
    pub fn pop_while(&mut self, mut send: impl FnMut(&TxFrame<'_>) -> bool) -> usize {
        let mut sent = 0;
        while let Some(frame) = self.front()
            && send(&frame)
        {
            self.pop();
            sent += 1;
        }
        sent
    }

    /// Drops the frame at the front: it has been sent, or never will be.
    #[inline(always)]
    pub fn pop(&mut self) {
        if let Some((head, more)) = self.take_front() {
            drop(head);
            if more > 0 {
                self.drop_rest(more);
            }
        }
    }

    #[inline(never)]
    fn drop_rest(&mut self, more: u16) {
        for _ in 0..more {
            drop(self.rest.pop_front());
        }
    }

    /// Takes the frame at the front, handing each of its parts to `take`: for devices that keep the parts until the
    /// hardware has sent them.
    #[inline]
    pub fn pop_with(&mut self, mut take: impl FnMut(Buf)) {
        if let Some((head, more)) = self.take_front() {
            take(head);
            for _ in 0..more {
                self.rest.pop_front().into_iter().for_each(&mut take);
            }
        }
    }

    /// Takes the first part of the frame at the front; answers it, and how many others the frame has.
    #[inline(always)]
    fn take_front(&mut self) -> Option<(Buf, u16)> {
        let at = self.head & self.places.len().wrapping_sub(1);
        let place = self.places.get_mut(at)?;
        let head = place.head.take()?;
        let more = place.more;
        self.head += 1;
        if self.head == self.tail {
            // An empty queue begins again where it began: on a cache line that is at hand.
            (self.head, self.tail) = (0, 0);
        }
        Some((head, more))
    }

    /// Drops everything that is queued.
    pub fn clear(&mut self) {
        while !self.is_empty() {
            self.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::{Pool, PoolConfig};

    fn queue_of(pool: &Pool, frames: &[&[&str]]) -> TxQueue {
        let mut queue = TxQueue::new(3);
        for parts in frames {
            let mut parts = parts.iter().map(|part| pool.copy_from_slice(part.as_bytes()).unwrap());
            let head = parts.next().unwrap();
            queue.push_parts(head, parts, Offload::default());
        }
        queue
    }

    fn text(frame: &TxFrame<'_>) -> String {
        let mut bytes = vec![0; frame.len()];
        frame.copy_to(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn frames_are_popped_until_the_device_is_full_and_the_rest_stays_in_order() {
        let pool = Pool::new(&PoolConfig::small(16)).unwrap();
        let mut queue = queue_of(&pool, &[&["a", "b"], &["c"], &["d", "e", "f"], &["g"]]);
        let mut sent = Vec::new();
        let count = queue.pop_while(|frame| {
            let room = sent.len() < 2;
            if room {
                sent.push((text(frame), frame.single().is_some()));
            }
            room
        });
        assert_eq!((count, queue.len()), (2, 2));
        assert_eq!(sent, [("ab".to_string(), false), ("c".to_string(), true)]);
        assert_eq!(pool.stats().slots_out, 4, "what was sent is given back at once");
        queue.pop();
        assert_eq!(text(&queue.front().unwrap()), "g");
        queue.push(pool.copy_from_slice(b"h").unwrap(), Offload::default());
        let mut rest = String::new();
        assert_eq!(
            queue.pop_while(|frame| {
                rest += &text(frame);
                true
            }),
            2
        );
        assert_eq!((rest.as_str(), queue.is_empty(), pool.stats().slots_out), ("gh", true, 0));
    }

    #[test]
    fn a_queue_that_is_never_empty_does_not_grow() {
        let pool = Pool::new(&PoolConfig::small(16)).unwrap();
        let mut queue = queue_of(&pool, &[&["x"], &["x"]]);
        for _ in 0..1000 {
            queue.push(pool.copy_from_slice(b"x").unwrap(), Offload::default());
            let mut first = true;
            assert_eq!(queue.pop_while(|_| std::mem::take(&mut first)), 1);
        }
        assert_eq!((queue.places.len(), queue.rest.capacity()), (16, 0));
    }
}
