//! A queue of values from many tasks to one, bounded or not.
//!
//! ```
//! # let runtime = demi::Runtime::new(demi::Config::default())?;
//! # runtime.block_on(async {
//! let (sender, mut receiver) = demi::sync::mpsc::channel(2);
//! demi::spawn(async move {
//!     for number in 0..5 {
//!         sender.send(number).await.unwrap();
//!     }
//! });
//! let mut sum = 0;
//! while let Some(number) = receiver.recv().await {
//!     sum += number;
//! }
//! assert_eq!(sum, 10);
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Notify, Semaphore, TryAcquireError};

/// A queue that holds up to `capacity` values; senders wait while it is full.
///
/// # Panics
/// When `capacity` is zero.
#[track_caller]
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel's capacity must not be zero");
    let shared = Shared::new(capacity);
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

/// A queue without a bound: senders never wait, and memory is the limit.
pub fn unbounded_channel<T>() -> (UnboundedSender<T>, UnboundedReceiver<T>) {
    let shared = Shared::new(usize::MAX);
    (UnboundedSender { shared: Rc::clone(&shared) }, UnboundedReceiver(Receiver { shared }))
}

struct Shared<T> {
    queue: RefCell<VecDeque<T>>,
    /// One permit a free place.
    places: Semaphore,
    capacity: usize,
    senders: Cell<usize>,
    /// The receiver takes no more.
    closed: Cell<bool>,
    receiver: Cell<Option<Waker>>,
    closing: Notify,
}

impl<T> Shared<T> {
    fn new(capacity: usize) -> Rc<Self> {
        Rc::new(Shared {
            queue: RefCell::default(),
            places: Semaphore::new(capacity),
            capacity,
            senders: Cell::new(1),
            closed: Cell::new(false),
            receiver: Cell::new(None),
            closing: Notify::new(),
        })
    }

    /// Appends a value for which there is a place.
    fn push(&self, value: T) {
        self.queue.borrow_mut().push_back(value);
        self.wake_receiver();
    }

    fn pop(&self) -> Option<T> {
        let value = self.queue.borrow_mut().pop_front()?;
        self.places.add_permits(1);
        Some(value)
    }

    fn wake_receiver(&self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }

    fn join(&self) {
        self.senders.set(self.senders.get() + 1);
    }

    fn leave(&self) {
        self.senders.set(self.senders.get() - 1);
        if self.senders.get() == 0 {
            self.wake_receiver();
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.places.close();
        self.closing.notify_waiters();
    }

    async fn closed(&self) {
        let notified = self.closing.notified();
        if !self.closed.get() {
            notified.await;
        }
    }
}

/// Sends into a bounded queue; clone it for more senders.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Waits for a place and appends the value. Senders that wait are served in their order.
    ///
    /// # Errors
    /// The value itself, when the receiver is gone.
    ///
    /// # Cancel safety
    /// Dropping the wait drops the value, and appends nothing; the place in line is lost. To keep the value, wait with
    /// [`reserve`](Self::reserve).
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        match self.reserve().await {
            Ok(place) => {
                place.send(value);
                Ok(())
            }
            Err(SendError(())) => Err(SendError(value)),
        }
    }

    /// Waits for a place, to be used without waiting later.
    ///
    /// # Errors
    /// The receiver is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let (sender, mut receiver) = demi::sync::mpsc::channel(1);
    /// // A place first, the value once there is one: nothing is lost if the wait is given up.
    /// let place = sender.reserve().await.expect("the receiver lives");
    /// place.send("value");
    /// assert_eq!(receiver.recv().await, Some("value"));
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn reserve(&self) -> Result<Place<'_, T>, SendError<()>> {
        match self.shared.places.acquire().await {
            Ok(permit) => {
                permit.forget();
                Ok(Place { shared: &self.shared })
            }
            Err(_) => Err(SendError(())),
        }
    }

    /// Appends the value if there is a place and nobody waits for one.
    ///
    /// # Errors
    /// The value itself: the queue is full, or the receiver gone.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// use demi::sync::mpsc::{TrySendError, channel};
    /// let (sender, _receiver) = channel(1);
    /// sender.try_send(1).unwrap();
    /// assert!(matches!(sender.try_send(2), Err(TrySendError::Full(2))));
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        match self.shared.places.try_take(1) {
            Ok(()) => {
                self.shared.push(value);
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(TrySendError::Full(value)),
            Err(TryAcquireError::Closed) => Err(TrySendError::Closed(value)),
        }
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Waits until the receiver is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) {
        self.shared.closed().await;
    }

    /// Places that are free.
    pub fn capacity(&self) -> usize {
        self.shared.places.available_permits()
    }

    /// Places in all.
    pub fn max_capacity(&self) -> usize {
        self.shared.capacity
    }
}

/// A place in a queue, given back when dropped unused.
#[must_use = "dropping it gives the place back"]
pub struct Place<'s, T> {
    shared: &'s Shared<T>,
}

impl<T> Place<'_, T> {
    /// Appends a value. When the receiver has gone meanwhile, the value is dropped.
    pub fn send(self, value: T) {
        let shared = self.shared;
        core::mem::forget(self);
        if !shared.closed.get() {
            shared.push(value);
        }
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.shared.places.add_permits(1);
    }
}

impl<T> fmt::Debug for Place<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.join();
        Sender { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("capacity", &self.capacity())
            .field("closed", &self.is_closed())
            .finish()
    }
}

/// Sends into a queue without a bound; clone it for more senders.
pub struct UnboundedSender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> UnboundedSender<T> {
    /// Appends the value.
    ///
    /// # Errors
    /// The value itself, when the receiver is gone.
    pub fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.closed.get() {
            return Err(SendError(value));
        }
        // The number of values never reaches the number of permits; they are only counted to be given back.
        match self.shared.places.try_take(1) {
            Ok(()) => {
                self.shared.push(value);
                Ok(())
            }
            Err(_) => Err(SendError(value)),
        }
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Waits until the receiver is gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&self) {
        self.shared.closed().await;
    }
}

impl<T> Clone for UnboundedSender<T> {
    fn clone(&self) -> Self {
        self.shared.join();
        UnboundedSender { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for UnboundedSender<T> {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

impl<T> fmt::Debug for UnboundedSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnboundedSender").field("closed", &self.is_closed()).finish()
    }
}

/// Receives from a bounded queue.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Waits for the next value; `None` when all senders are gone, or [`close`](Self::close) was called, and the queue is
    /// empty.
    ///
    /// # Cancel safety
    /// Cancel safe: a value is only taken when it is answered.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self.try_recv() {
            Ok(value) => Poll::Ready(Some(value)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => {
                let waker = cx.waker().clone();
                drop(self.shared.receiver.replace(Some(waker)));
                Poll::Pending
            }
        }
    }

    /// Waits for a value and takes up to `limit` of them at once, appending them to `into`; answers how many, 0 at the end.
    ///
    /// # Cancel safety
    /// Cancel safe: values are only taken when they are answered.
    pub async fn recv_many(&mut self, into: &mut Vec<T>, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        let Some(first) = self.recv().await else { return 0 };
        into.push(first);
        let mut count = 1;
        while count < limit
            && let Ok(value) = self.try_recv()
        {
            into.push(value);
            count += 1;
        }
        count
    }

    /// The next value, if there is one.
    ///
    /// # Errors
    /// The queue is empty, for now or for good.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.shared.pop() {
            Some(value) => Ok(value),
            None if self.shared.senders.get() == 0 || self.shared.closed.get() => {
                Err(TryRecvError::Disconnected)
            }
            None => Err(TryRecvError::Empty),
        }
    }

    /// Takes no more than what is queued.
    pub fn close(&mut self) {
        self.shared.close();
        self.shared.wake_receiver();
    }

    /// Values queued.
    pub fn len(&self) -> usize {
        self.shared.queue.borrow().len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        drop(self.shared.receiver.take());
        self.shared.close();
        // Values may be dropped by foreign code that sends: it finds the channel closed.
        let queued = core::mem::take(&mut *self.shared.queue.borrow_mut());
        drop(queued);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).finish()
    }
}

/// Receives from a queue without a bound.
#[derive(Debug)]
pub struct UnboundedReceiver<T>(Receiver<T>);

impl<T> UnboundedReceiver<T> {
    /// As [`Receiver::recv`].
    pub async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    /// As [`Receiver::poll_recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_recv(cx)
    }

    /// As [`Receiver::recv_many`].
    pub async fn recv_many(&mut self, into: &mut Vec<T>, limit: usize) -> usize {
        self.0.recv_many(into, limit).await
    }

    /// As [`Receiver::try_recv`].
    ///
    /// # Errors
    /// The queue is empty, for now or for good.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv()
    }

    /// As [`Receiver::close`].
    pub fn close(&mut self) {
        self.0.close();
    }

    /// Values queued.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The receiver is gone; here is the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendError(..)")
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("channel closed")
    }
}

impl<T> std::error::Error for SendError<T> {}

/// Why a value was not sent; here it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The queue is full.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

impl<T> fmt::Debug for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "Full(..)",
            TrySendError::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "no available capacity",
            TrySendError::Closed(_) => "channel closed",
        })
    }
}

impl<T> std::error::Error for TrySendError<T> {}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// None is queued.
    Empty,
    /// None is queued, and none will be.
    Disconnected,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TryRecvError::Empty => "receiving on an empty channel",
            TryRecvError::Disconnected => "receiving on a closed channel",
        })
    }
}

impl std::error::Error for TryRecvError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::task::{spawn, yield_now};
    use core::pin::pin;

    #[test]
    fn a_bounded_queue_makes_senders_wait_in_their_order() {
        Runtime::for_tests().block_on(async {
            let (sender, mut receiver) = channel(2);
            let senders: Vec<_> = (0..6)
                .map(|number| {
                    let sender = sender.clone();
                    spawn(async move { sender.send(number).await })
                })
                .collect();
            drop(sender);
            yield_now().await;
            assert_eq!(receiver.len(), 2);
            let mut numbers = Vec::new();
            while let Some(number) = receiver.recv().await {
                numbers.push(number);
                yield_now().await;
                assert!(receiver.len() <= 2);
            }
            assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
            for sender in senders {
                sender.await.unwrap().unwrap();
            }
        });
    }

    #[test]
    fn a_cancelled_send_sends_nothing_and_frees_its_place() {
        Runtime::for_tests().block_on(async {
            let (sender, mut receiver) = channel(1);
            sender.try_send(1).unwrap();
            {
                let mut waiting = pin!(sender.send(2));
                assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
                assert_eq!(receiver.recv().await, Some(1));
                // Its place is granted, and given back.
            }
            assert_eq!(sender.capacity(), 1);
            sender.send(3).await.unwrap();
            assert_eq!(receiver.recv().await, Some(3));
        });
    }

    #[test]
    fn a_cancelled_receive_loses_nothing() {
        Runtime::for_tests().block_on(async {
            let (sender, mut receiver) = unbounded_channel();
            {
                let mut waiting = pin!(receiver.recv());
                assert!(poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await.is_pending());
                sender.send(1).unwrap();
            }
            assert_eq!(receiver.recv().await, Some(1));
        });
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        Runtime::for_tests().block_on(async {
            let (sender, mut receiver) = channel::<u8>(1);
            let other = sender.clone();
            drop(sender);
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
            other.try_send(1).unwrap();
            let waiting = spawn(async move { (other.send(2).await, other) });
            yield_now().await;
            drop(receiver);
            let (result, other) = waiting.await.unwrap();
            assert_eq!(result, Err(SendError(2)));
            assert_eq!(other.try_send(3), Err(TrySendError::Closed(3)));
            other.closed().await;

            let (sender, mut receiver) = unbounded_channel::<u8>();
            let waiting = spawn(async move { receiver.recv().await });
            yield_now().await;
            drop(sender);
            assert_eq!(waiting.await.unwrap(), None);
        });
    }

    #[test]
    fn a_closed_receiver_takes_what_is_queued() {
        Runtime::for_tests().block_on(async {
            let (sender, mut receiver) = channel(4);
            sender.try_send(1).unwrap();
            let place = sender.reserve().await.unwrap();
            receiver.close();
            place.send(2);
            assert!(sender.send(3).await.is_err());
            assert_eq!(receiver.recv().await, Some(1));
            assert_eq!(receiver.recv().await, None);
        });
    }

    #[test]
    fn many_are_taken_at_once() {
        Runtime::for_tests().block_on(async {
            let (sender, mut receiver) = unbounded_channel();
            (0..10).for_each(|number| sender.send(number).unwrap());
            drop(sender);
            let mut numbers = Vec::new();
            assert_eq!(receiver.recv_many(&mut numbers, 7).await, 7);
            assert_eq!(receiver.recv_many(&mut numbers, 7).await, 3);
            assert_eq!(receiver.recv_many(&mut numbers, 7).await, 0);
            assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        });
    }
}
