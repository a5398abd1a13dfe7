//! So many at a time.

use core::cell::{Cell, RefCell};
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::rc::Rc;

use super::wait_list::WaitList;

/// Hands out permits, first come first served.
///
/// A waiter that wants many permits keeps those behind it waiting: none is starved.
///
/// ```
/// # let runtime = demi::Runtime::new(demi::Config::default())?;
/// # runtime.block_on(async {
/// let semaphore = demi::sync::Semaphore::new(2);
/// let first = semaphore.acquire().await.unwrap();
/// let second = semaphore.acquire().await.unwrap();
/// assert!(semaphore.try_acquire().is_err());
/// drop(first);
/// assert_eq!(semaphore.available_permits(), 1);
/// # drop(second);
/// # });
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Semaphore {
    permits: Cell<usize>,
    closed: Cell<bool>,
    waiters: RefCell<WaitList>,
}

impl Semaphore {
    /// A semaphore with this many permits.
    pub const fn new(permits: usize) -> Self {
        Semaphore {
            permits: Cell::new(permits),
            closed: Cell::new(false),
            waiters: RefCell::new(WaitList::new()),
        }
    }

    /// Permits that are free.
    pub fn available_permits(&self) -> usize {
        self.permits.get()
    }

    /// Adds permits. Their number saturates.
    pub fn add_permits(&self, permits: usize) {
        self.permits.set(self.permits.get().saturating_add(permits));
        self.grant();
    }

    /// Waits for a permit, which is given back when it is dropped.
    ///
    /// # Errors
    /// The semaphore is closed.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the wait loses the place in line, and no permit.
    pub fn acquire(&self) -> Acquire<'_> {
        self.acquire_many(1)
    }

    /// As [`acquire`](Self::acquire), for several permits at once.
    pub fn acquire_many(&self, permits: usize) -> Acquire<'_> {
        Acquire { semaphore: self, need: permits, place: None }
    }

    /// A permit, if one is free and nobody waits.
    ///
    /// # Errors
    /// None is free; the semaphore is closed.
    ///
    /// ```
    /// # demi::Runtime::new(demi::Config::new())?.block_on(async {
    /// let semaphore = demi::sync::Semaphore::new(1);
    /// let permit = semaphore.try_acquire().unwrap();
    /// assert!(semaphore.try_acquire().is_err());
    /// drop(permit);
    /// assert!(semaphore.try_acquire().is_ok());
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn try_acquire(&self) -> Result<Permit<'_>, TryAcquireError> {
        self.try_acquire_many(1)
    }

    /// As [`try_acquire`](Self::try_acquire), for several permits at once.
    ///
    /// # Errors
    /// Not that many are free; the semaphore is closed.
    pub fn try_acquire_many(&self, permits: usize) -> Result<Permit<'_>, TryAcquireError> {
        self.try_take(permits).map(|()| Permit { semaphore: self, permits })
    }

    /// As [`acquire`](Self::acquire); the permit keeps the semaphore alive and borrows nothing.
    ///
    /// # Errors
    /// The semaphore is closed.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn acquire_owned(self: Rc<Self>) -> Result<OwnedPermit, AcquireError> {
        let permit = self.acquire().await?;
        let permits = permit.permits;
        permit.forget();
        Ok(OwnedPermit { semaphore: self, permits })
    }

    /// Lets nobody wait any more: those who do, and those who will, are answered with an error.
    pub fn close(&self) {
        self.closed.set(true);
        loop {
            let waker = self.waiters.borrow_mut().grant_first();
            match waker {
                // Told by the flag, not by the grant; see `Acquire`.
                Some(waker) => waker.wake(),
                None => break,
            }
        }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(super) fn try_take(&self, permits: usize) -> Result<(), TryAcquireError> {
        if self.closed.get() {
            return Err(TryAcquireError::Closed);
        }
        match self.permits.get().checked_sub(permits) {
            Some(rest) if self.waiters.borrow().is_empty() => {
                self.permits.set(rest);
                Ok(())
            }
            _ => Err(TryAcquireError::NoPermits),
        }
    }

    /// Gives permits to those at the head of the line who can be served.
    fn grant(&self) {
        while !self.closed.get() {
            let mut waiters = self.waiters.borrow_mut();
            let Some(rest) = waiters.first_need().and_then(|need| self.permits.get().checked_sub(need))
            else {
                break;
            };
            self.permits.set(rest);
            let waker = waiters.grant_first();
            drop(waiters);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("permits", &self.permits.get()).finish_non_exhaustive()
    }
}

/// The future of [`Semaphore::acquire`].
#[must_use = "futures do nothing unless you `.await` or poll them"]
pub struct Acquire<'s> {
    semaphore: &'s Semaphore,
    need: usize,
    place: Option<usize>,
}

impl<'s> Future for Acquire<'s> {
    type Output = Result<Permit<'s>, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let semaphore = self.semaphore;
        if semaphore.closed.get() {
            return Poll::Ready(Err(AcquireError(())));
        }
        let permit = Permit { semaphore, permits: self.need };
        match self.place {
            Some(place) if semaphore.waiters.borrow().is_granted(place) => {
                semaphore.waiters.borrow_mut().remove(place);
                self.place = None;
                Poll::Ready(Ok(permit))
            }
            Some(place) => {
                permit.forget();
                let waker = cx.waker().clone();
                let before = semaphore.waiters.borrow_mut().set_waker(place, waker);
                drop(before);
                Poll::Pending
            }
            None if semaphore.try_take(self.need).is_ok() => Poll::Ready(Ok(permit)),
            None => {
                permit.forget();
                let waker = cx.waker().clone();
                self.place = Some(semaphore.waiters.borrow_mut().push(self.need, waker));
                Poll::Pending
            }
        }
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let (granted, waker) = self.semaphore.waiters.borrow_mut().remove(place);
        drop(waker);
        if granted && !self.semaphore.closed.get() {
            // Granted, and nobody took it.
            self.semaphore.add_permits(self.need);
        } else {
            // Those behind may want less.
            self.semaphore.grant();
        }
    }
}

/// Permits of a [`Semaphore`], given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the permit back"]
pub struct Permit<'s> {
    semaphore: &'s Semaphore,
    permits: usize,
}

impl Permit<'_> {
    /// Keeps the permits for good.
    pub fn forget(mut self) {
        self.permits = 0;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.semaphore.add_permits(self.permits);
        }
    }
}

/// A permit that keeps its semaphore alive.
#[derive(Debug)]
#[must_use = "dropping it gives the permit back"]
pub struct OwnedPermit {
    semaphore: Rc<Semaphore>,
    permits: usize,
}

impl OwnedPermit {
    /// Keeps the permit for good.
    pub fn forget(mut self) {
        self.permits = 0;
    }
}

impl Drop for OwnedPermit {
    fn drop(&mut self) {
        if self.permits > 0 {
            self.semaphore.add_permits(self.permits);
        }
    }
}

/// The semaphore is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcquireError(());

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("semaphore closed")
    }
}

impl std::error::Error for AcquireError {}

/// Why no permit was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryAcquireError {
    /// The semaphore is closed.
    Closed,
    /// Not enough permits are free, or others wait for them.
    NoPermits,
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TryAcquireError::Closed => "semaphore closed",
            TryAcquireError::NoPermits => "no permits available",
        })
    }
}

impl std::error::Error for TryAcquireError {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::task::Waker;

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn permits_are_given_in_the_order_of_asking() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire().unwrap();
        let (mut first, mut second) = (semaphore.acquire_many(2), semaphore.acquire());
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        drop(held);
        assert!(poll(&mut second).is_pending(), "the first wants more, and comes first");
        assert_eq!(semaphore.try_acquire().unwrap_err(), TryAcquireError::NoPermits);
        semaphore.add_permits(1);
        let Poll::Ready(Ok(two)) = poll(&mut first) else { panic!("it has its two") };
        assert!(poll(&mut second).is_pending());
        drop(two);
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
        assert_eq!(semaphore.available_permits(), 2);
    }

    #[test]
    fn a_dropped_wait_loses_no_permit() {
        let semaphore = Semaphore::new(0);
        let (mut first, mut second) = (semaphore.acquire(), semaphore.acquire());
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        semaphore.add_permits(1);
        drop(first);
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))), "the grant moves on");

        let _held = semaphore.try_acquire().unwrap();
        let (mut many, mut one) = (semaphore.acquire_many(5), semaphore.acquire());
        assert!(poll(&mut many).is_pending() && poll(&mut one).is_pending());
        semaphore.add_permits(1);
        drop(many);
        assert!(matches!(poll(&mut one), Poll::Ready(Ok(_))), "nobody is in its way any more");
    }

    #[test]
    fn closing_answers_everybody() {
        let semaphore = Semaphore::new(0);
        let mut waiting = semaphore.acquire();
        assert!(poll(&mut waiting).is_pending());
        semaphore.close();
        assert!(matches!(poll(&mut waiting), Poll::Ready(Err(_))));
        assert!(matches!(poll(&mut semaphore.acquire()), Poll::Ready(Err(_))));
        assert_eq!(semaphore.try_acquire().unwrap_err(), TryAcquireError::Closed);
        drop(waiting);
        assert_eq!(semaphore.available_permits(), 0);
    }

    #[test]
    fn an_owned_permit_outlives_the_borrow() {
        let semaphore = Rc::new(Semaphore::new(1));
        let mut acquire = Box::pin(Rc::clone(&semaphore).acquire_owned());
        let Poll::Ready(Ok(permit)) = poll(&mut acquire) else { panic!("one is free") };
        assert_eq!(semaphore.available_permits(), 0);
        drop(permit);
        assert_eq!(semaphore.available_permits(), 1);
    }
}
