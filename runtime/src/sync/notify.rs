//! Waking somebody who waits.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::wait_list::WaitList;

/// Wakes tasks that wait, one or all; holds one notification for whoever waits next.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// use std::rc::Rc;
/// let notify = Rc::new(demi::sync::Notify::new());
/// let task = demi::spawn({
///     let notify = Rc::clone(&notify);
///     async move { notify.notified().await }
/// });
/// notify.notify_one();
/// task.await.unwrap();
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Notify {
    /// A notification that nobody has waited for yet.
    stored: Cell<bool>,
    /// Calls of `notify_waiters`.
    rounds: Cell<u64>,
    waiters: RefCell<WaitList>,
}

impl Notify {
    /// Nobody waits, nothing is stored.
    pub const fn new() -> Self {
        Notify { stored: Cell::new(false), rounds: Cell::new(0), waiters: RefCell::new(WaitList::new()) }
    }

    /// Wakes who has waited longest; when nobody waits, the next one to do so does not have to.
    pub fn notify_one(&self) {
        let granted = self.waiters.borrow_mut().grant_first();
        match granted {
            Some(waker) => waker.wake(),
            None => self.stored.set(true),
        }
    }

    /// Wakes all who wait, those included that have a [`Notified`] and have not polled it. Nothing is stored.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// use std::rc::Rc;
    /// let notify = Rc::new(demi::sync::Notify::new());
    /// let waiting = demi::spawn({
    ///     let notify = notify.clone();
    ///     async move { notify.notified().await }
    /// });
    /// demi::task::yield_now().await;
    /// notify.notify_waiters();
    /// waiting.await.unwrap();
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn notify_waiters(&self) {
        self.rounds.set(self.rounds.get() + 1);
        loop {
            let granted = self.waiters.borrow_mut().grant_first();
            match granted {
                Some(waker) => waker.wake(),
                None => break,
            }
        }
    }

    /// Waits to be notified.
    ///
    /// # Cancel safety
    /// Cancel safe: a notification of [`notify_one`](Self::notify_one) that a dropped wait had been given goes to the next
    /// one. Its place in line is lost.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, round: self.rounds.get(), place: None, done: false }
    }
}

impl Default for Notify {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("stored", &self.stored.get()).finish_non_exhaustive()
    }
}

/// The future of [`Notify::notified`].
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Notified<'n> {
    notify: &'n Notify,
    /// The rounds of `notify_waiters` before this began to wait.
    round: u64,
    place: Option<usize>,
    done: bool,
}

impl Notified<'_> {
    /// Stands in line from now on, before the first poll; `true`: it is notified already.
    pub fn enable(self: Pin<&mut Self>) -> bool {
        self.poll(&mut Context::from_waker(core::task::Waker::noop())).is_ready()
    }

    fn leave(&mut self) -> bool {
        let Some(place) = self.place.take() else { return false };
        let (granted, waker) = self.notify.waiters.borrow_mut().remove(place);
        drop(waker);
        granted
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        if !self.done {
            let granted = self.place.is_some_and(|place| notify.waiters.borrow().is_granted(place));
            self.done = granted
                || self.round != notify.rounds.get()
                || (self.place.is_none() && notify.stored.replace(false));
        }
        if self.done {
            self.leave();
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        match self.place {
            Some(place) => {
                let before = notify.waiters.borrow_mut().set_waker(place, waker);
                drop(before);
            }
            None => self.place = Some(notify.waiters.borrow_mut().push(1, waker)),
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        // What `notify_waiters` gave was for this one alone; what `notify_one` gave must reach somebody.
        if self.leave() && self.round == self.notify.rounds.get() {
            self.notify.notify_one();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::task::Waker;

    fn poll(notified: &mut Notified<'_>) -> bool {
        Pin::new(notified).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn one_notification_is_stored_and_no_more() {
        let notify = Notify::new();
        notify.notify_one();
        notify.notify_one();
        assert!(poll(&mut notify.notified()));
        assert!(!poll(&mut notify.notified()));
    }

    #[test]
    fn the_longest_wait_ends_first() {
        let notify = Notify::new();
        let (mut first, mut second) = (notify.notified(), notify.notified());
        assert!(!poll(&mut first) && !poll(&mut second));
        notify.notify_one();
        assert!(!poll(&mut second) && poll(&mut first));
        notify.notify_one();
        assert!(poll(&mut second));
    }

    #[test]
    fn a_dropped_wait_hands_its_notification_on() {
        let notify = Notify::new();
        let (mut first, mut second) = (notify.notified(), notify.notified());
        assert!(!poll(&mut first) && !poll(&mut second));
        notify.notify_one();
        drop(first);
        assert!(poll(&mut second));
        let mut third = notify.notified();
        assert!(!poll(&mut third));
        notify.notify_one();
        drop(third);
        assert!(poll(&mut notify.notified()), "it is stored when nobody waits");
    }

    #[test]
    fn notify_waiters_reaches_those_who_have_begun_and_stores_nothing() {
        let notify = Notify::new();
        let (mut polled, mut unpolled) = (notify.notified(), notify.notified());
        assert!(!poll(&mut polled));
        notify.notify_waiters();
        let mut late = notify.notified();
        assert!(poll(&mut polled) && poll(&mut unpolled) && !poll(&mut late));
        drop(polled);
        assert!(!poll(&mut late));
    }

    #[test]
    fn enabling_takes_a_place_in_line() {
        let notify = Notify::new();
        let mut enabled = notify.notified();
        assert!(!Pin::new(&mut enabled).enable());
        notify.notify_one();
        assert!(!poll(&mut notify.notified()), "it is the enabled one's");
        assert!(poll(&mut enabled));
    }
}
