//! Channels from one core to another: a ring of slots that one side fills and the other empties, without locks.
//!
//! What a core sends to another arrives in order, and nothing is lost: a full ring makes the sender wait. A waiting side
//! is woken as a task is woken from any other thread, so a parked core is rung, and a busy one notices in its next turn;
//! a core that nothing is sent to pays nothing.
//!
//! Tasks of one core talk through [`sync::mpsc`](crate::sync::mpsc), which costs less.
//!
//! ```
//! # demi::run(demi::Config::new(), || async {
//! let (mut questions, mut asked) = demi::mesh::channel::<u64>(64);
//! let (mut answers, mut answered) = demi::mesh::channel::<u64>(64);
//! let last = demi::cores().last().expect("there is always one");
//! last.spawn(move || async move {
//!     while let Some(question) = asked.recv().await {
//!         let _ = answers.send(question * 2).await;
//!     }
//! });
//! questions.send(21).await.expect("the other side listens");
//! assert_eq!(answered.recv().await, Some(42));
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod ring;
mod waiting;

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

use core::fmt;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll};

use futures_core::Stream;

pub use crate::sync::mpsc::{SendError, TryRecvError, TrySendError};
use ring::{Consumer, Producer, ring};
pub(crate) use waiting::Waiting;

/// A channel from one core to another that holds up to `capacity` values (the next power of two of them).
///
/// Both ends can be moved to any core, inside of what [`Core::spawn`](crate::Core::spawn) is given. Values are moved through
/// memory that is allocated now; sending allocates nothing.
///
/// # Panics
/// When `capacity` is zero.
#[track_caller]
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a channel's capacity must not be zero");
    let (producer, consumer) = ring(capacity);
    let ends = Arc::new(Ends {
        receiver: Waiting::new(),
        sender: Waiting::new(),
        sender_gone: AtomicBool::new(false),
        receiver_gone: AtomicBool::new(false),
    });
    (
        Sender { producer, ends: Arc::clone(&ends) },
        Receiver { woken_at: consumer.capacity() / 2, consumer, ends, taken: 0 },
    )
}

/// What both ends know of each other.
struct Ends {
    receiver: Waiting,
    sender: Waiting,
    sender_gone: AtomicBool,
    receiver_gone: AtomicBool,
}

/// The end of a [`channel`] that sends.
pub struct Sender<T> {
    producer: Producer<T>,
    ends: Arc<Ends>,
}

impl<T> Sender<T> {
    /// Sends a value; waits while the channel is full.
    ///
    /// # Errors
    /// The value, when the receiver is gone.
    ///
    /// # Cancel safety
    /// Cancel safe in that a future that is dropped before it is ready has sent nothing; its value is dropped with it. Wait with
    /// [`ready`](Self::ready) first to keep it.
    pub async fn send(&mut self, value: T) -> Result<(), SendError<T>> {
        match self.ready().await {
            Ok(()) => self.try_send(value).map_err(|error| match error {
                TrySendError::Full(value) | TrySendError::Closed(value) => SendError(value),
            }),
            Err(SendError(())) => Err(SendError(value)),
        }
    }

    /// Waits until there is room for a value: the next [`try_send`](Self::try_send) finds it.
    ///
    /// # Errors
    /// When the receiver is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn ready(&mut self) -> Result<(), SendError<()>> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// [`ready`](Self::ready), polled.
    ///
    /// # Errors
    /// As [`ready`](Self::ready).
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<()>>> {
        if self.is_closed() {
            return Poll::Ready(Err(SendError(())));
        }
        if !self.producer.is_full() {
            return Poll::Ready(Ok(()));
        }
        self.ends.sender.leave(cx.waker());
        if self.is_closed() {
            Poll::Ready(Err(SendError(())))
        } else if self.producer.is_full() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Sends a value if there is room.
    ///
    /// # Errors
    /// The value: when the channel is full, or the receiver is gone.
    #[inline]
    pub fn try_send(&mut self, value: T) -> Result<(), TrySendError<T>> {
        if self.is_closed() {
            return Err(TrySendError::Closed(value));
        }
        self.producer.push(value).map_err(TrySendError::Full)?;
        self.ends.receiver.wake();
        Ok(())
    }

    /// Whether the receiver is gone.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.ends.receiver_gone.load(Ordering::Acquire)
    }

    /// Values that the channel holds at most.
    pub fn capacity(&self) -> usize {
        self.producer.capacity()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.ends.sender_gone.store(true, Ordering::Release);
        self.ends.receiver.wake();
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

/// The end of a [`channel`] that receives. It is a [`Stream`], too.
pub struct Receiver<T> {
    consumer: Consumer<T>,
    ends: Arc<Ends>,
    /// Values taken since the sender was last woken, and after how many it is woken again.
    taken: usize,
    woken_at: usize,
}

impl<T> Receiver<T> {
    /// The next value; `None` when there is none and the sender is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: a future that is dropped before it is ready has taken nothing.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// [`recv`](Self::recv), polled.
    #[inline]
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(value) = self.pop() {
            return Poll::Ready(Some(value));
        }
        self.wait_for_value(cx)
    }

    #[inline(never)]
    fn wait_for_value(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.ends.receiver.leave(cx.waker());
        if let Some(value) = self.pop() {
            return Poll::Ready(Some(value));
        }
        if !self.ends.sender_gone.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // What was sent before the end is seen now at the latest.
        Poll::Ready(self.pop())
    }

    /// The next value, if there is one now.
    ///
    /// # Errors
    /// `Empty`, or `Disconnected` when the sender is gone as well.
    #[inline]
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        if let Some(value) = self.pop() {
            return Ok(value);
        }
        if !self.ends.sender_gone.load(Ordering::Acquire) {
            return Err(TryRecvError::Empty);
        }
        self.pop().ok_or(TryRecvError::Disconnected)
    }

    /// Takes a value. A sender that waits for room is woken when half of the ring was emptied, or all of it: it then has
    /// many values to send, and waking it costs something.
    #[inline]
    fn pop(&mut self) -> Option<T> {
        let value = self.consumer.pop();
        self.taken += 1;
        if value.is_none() || self.taken >= self.woken_at {
            self.taken = 0;
            self.ends.sender.wake();
        }
        value
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.ends.receiver_gone.store(true, Ordering::Release);
        self.ends.sender.wake();
        while self.consumer.pop().is_some() {}
    }
}

impl<T> Stream for Receiver<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.poll_recv(cx)
    }
}

// Nothing in it points to itself.
impl<T> Unpin for Receiver<T> {}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("capacity", &self.consumer.capacity()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    #[test]
    fn values_cross_in_order_with_a_sender_that_has_to_wait() {
        let (mut sender, mut receiver) = channel(4);
        let thread = std::thread::spawn(move || {
            Runtime::for_tests().block_on(async move {
                for value in 0..10_000u32 {
                    sender.send(value).await.unwrap();
                }
            });
        });
        Runtime::for_tests().block_on(async move {
            for expected in 0..10_000u32 {
                assert_eq!(receiver.recv().await, Some(expected));
            }
            assert_eq!(receiver.recv().await, None);
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_full_channel_gives_the_value_back_and_a_closed_one_too() {
        let (mut sender, mut receiver) = channel(2);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.try_recv(), Ok(1));
        assert_eq!(sender.try_send(3), Ok(()));
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));
        Runtime::for_tests().block_on(async {
            assert_eq!(sender.send(5).await, Err(SendError(5)));
        });
    }

    #[test]
    fn a_sender_that_waits_learns_that_the_receiver_is_gone() {
        let (mut sender, receiver) = channel(1);
        sender.try_send(1).unwrap();
        let thread = std::thread::spawn(move || drop(receiver));
        Runtime::for_tests().block_on(async move {
            assert_eq!(sender.send(2).await, Err(SendError(2)));
        });
        thread.join().unwrap();
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::{Wake, Waker};

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn counted() -> (std::sync::Arc<Count>, Waker) {
        let count = std::sync::Arc::new(Count(AtomicUsize::new(0)));
        (std::sync::Arc::clone(&count), count.into())
    }

    fn model(check: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound.get_or_insert(3);
        builder.check(check);
    }

    /// A receiver that found nothing is woken by the value, or by the sender's end.
    #[test]
    fn loom_a_waiting_receiver_is_woken() {
        model(|| {
            let (mut sender, mut receiver) = channel(2);
            let thread = loom::thread::spawn(move || sender.try_send(7).unwrap());
            let (woken, waker) = counted();
            let first = receiver.poll_recv(&mut Context::from_waker(&waker));
            thread.join().unwrap();
            match first {
                Poll::Ready(value) => assert_eq!(value, Some(7)),
                Poll::Pending => {
                    assert!(woken.0.load(SeqCst) > 0, "asleep for ever");
                    assert_eq!(receiver.try_recv(), Ok(7));
                }
            }
            assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        });
    }

    /// A sender that found no room is woken when there is some, or when nobody takes anything any more.
    #[test]
    fn loom_a_waiting_sender_is_woken() {
        model(|| {
            let (mut sender, mut receiver) = channel(1);
            sender.try_send(1).unwrap();
            let thread = loom::thread::spawn(move || {
                assert_eq!(receiver.try_recv(), Ok(1));
                receiver
            });
            let (woken, waker) = counted();
            let first = sender.poll_ready(&mut Context::from_waker(&waker));
            let receiver = thread.join().unwrap();
            match first {
                Poll::Ready(ready) => assert_eq!(ready, Ok(())),
                Poll::Pending => assert!(woken.0.load(SeqCst) > 0, "asleep for ever"),
            }
            drop(receiver);
            assert!(sender.is_closed());
        });
    }
}
