//! One value, once, from one task to another.
//!
//! ```
//! # let runtime = demi::Runtime::new(demi::Config::default())?;
//! # runtime.block_on(async {
//! let (sender, receiver) = demi::sync::oneshot::channel();
//! demi::spawn(async move { sender.send(7).unwrap() });
//! assert_eq!(receiver.await, Ok(7));
//! # });
//! # Ok::<(), std::io::Error>(())
//! ```

use core::cell::Cell;
use core::fmt;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::rc::Rc;

/// A channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: Cell::new(None),
        sender_left: Cell::new(false),
        receiver_left: Cell::new(false),
        receiver: Cell::new(None),
        sender: Cell::new(None),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

struct Shared<T> {
    value: Cell<Option<T>>,
    sender_left: Cell<bool>,
    receiver_left: Cell<bool>,
    /// Waits for the value.
    receiver: Cell<Option<Waker>>,
    /// Waits for the receiver to leave.
    sender: Cell<Option<Waker>>,
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Remembers whom to wake. Cloning and dropping wakers is foreign code: the cell holds a whole value meanwhile.
fn wait(place: &Cell<Option<Waker>>, cx: &Context<'_>) {
    let known = match place.take() {
        Some(known) if known.will_wake(cx.waker()) => known,
        _ => cx.waker().clone(),
    };
    place.set(Some(known));
}

/// Sends the value.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// The value itself, when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.shared.receiver_left.get() {
            return Err(value);
        }
        self.shared.value.set(Some(value));
        // Dropping `self` wakes the receiver.
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_left.get()
    }

    /// Waits until the receiver is gone: nobody wants the value any more.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn closed(&mut self) {
        poll_fn(|cx| self.poll_closed(cx)).await;
    }

    /// As [`closed`](Self::closed), for hand-written futures.
    pub fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_closed() {
            return Poll::Ready(());
        }
        wait(&self.shared.sender, cx);
        Poll::Pending
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_left.set(true);
        drop(self.shared.sender.take());
        wake(&self.shared.receiver);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish()
    }
}

/// Receives the value: await it.
///
/// # Cancel safety
/// Polling by `&mut` is cancel safe.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The value, if it was sent.
    ///
    /// # Errors
    /// It was not sent yet, or never will be.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        match self.shared.value.take() {
            Some(value) => Ok(value),
            None if self.shared.sender_left.get() => Err(TryRecvError::Closed),
            None => Err(TryRecvError::Empty),
        }
    }

    /// Takes no value that was not sent already.
    pub fn close(&mut self) {
        self.shared.receiver_left.set(true);
        wake(&self.shared.sender);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, RecvError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.try_recv() {
            Ok(value) => Poll::Ready(Ok(value)),
            Err(TryRecvError::Closed) => Poll::Ready(Err(RecvError(()))),
            Err(TryRecvError::Empty) if self.shared.receiver_left.get() => Poll::Ready(Err(RecvError(()))),
            Err(TryRecvError::Empty) => {
                wait(&self.shared.receiver, cx);
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        drop(self.shared.receiver.take());
        self.close();
        drop(self.shared.value.take());
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// The sender is gone and has sent nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError(());

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("channel closed")
    }
}

impl std::error::Error for RecvError {}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// It was not sent yet.
    Empty,
    /// It was taken, or never will be sent.
    Closed,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TryRecvError::Empty => "channel empty",
            TryRecvError::Closed => "channel closed",
        })
    }
}

impl std::error::Error for TryRecvError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::task::{spawn, yield_now};

    #[test]
    fn a_value_arrives_before_and_after_the_wait() {
        Runtime::for_tests().block_on(async {
            let (sender, receiver) = channel();
            sender.send(1).unwrap();
            assert_eq!(receiver.await, Ok(1));
            let (sender, receiver) = channel();
            let task = spawn(receiver);
            yield_now().await;
            sender.send(2).unwrap();
            assert_eq!(task.await.unwrap(), Ok(2));
        });
    }

    #[test]
    fn each_end_learns_that_the_other_is_gone() {
        Runtime::for_tests().block_on(async {
            let (sender, receiver) = channel::<u8>();
            let task = spawn(receiver);
            yield_now().await;
            drop(sender);
            assert!(task.await.unwrap().is_err());

            let (mut sender, receiver) = channel();
            let task = spawn(async move {
                sender.closed().await;
                sender.send(3)
            });
            yield_now().await;
            drop(receiver);
            assert_eq!(task.await.unwrap(), Err(3), "the value comes back");
        });
    }

    #[test]
    fn a_closed_receiver_takes_what_was_sent_before() {
        let (sender, mut receiver) = channel();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        sender.send(4).unwrap();
        receiver.close();
        assert_eq!(receiver.try_recv(), Ok(4));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
    }
}
