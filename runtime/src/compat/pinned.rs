//! `Send` by check: a value that stays on its thread, in code that asks for `Send`.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// This thread's number: never another thread's, not even one that has ended.
#[inline]
fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: Cell<u64> = const { Cell::new(0) };
    }
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// A value that never leaves its thread, made `Send` and `Sync` for interfaces that ask for it and do not use it: every
/// touch checks the thread, which costs one comparison.
///
/// A runtime's tasks, and all they own, stay on its thread, so the check never fails in code that only runs there.
///
/// ```
/// use demi::compat::Pinned;
/// use std::rc::Rc;
/// fn wants_send<T: Send>(value: T) -> T { value }
/// let pinned = wants_send(Pinned::new(Rc::new(7)));
/// assert_eq!(**pinned, 7);
///
/// let elsewhere = std::thread::spawn(move || pinned.try_get().is_none());
/// assert!(elsewhere.join().unwrap()); // and the `Rc` is leaked rather than dropped on the wrong thread
/// ```
pub struct Pinned<T> {
    thread: u64,
    value: ManuallyDrop<T>,
}

// SAFETY: the value is reached only through `get`, `get_mut`, `into_inner` and `drop`, each of which compares the thread that
// runs with the one the value was pinned on, and hands out nothing when they differ. Thread numbers are never reused, so a
// later thread is never mistaken for the owner. What moves between threads is the value's bytes alone, untouched.
unsafe impl<T> Send for Pinned<T> {}

// SAFETY: as above; other threads that share the reference get nothing out of it.
unsafe impl<T> Sync for Pinned<T> {}

impl<T> Pinned<T> {
    /// Pins `value` to this thread.
    pub fn new(value: T) -> Self {
        Pinned { thread: this_thread(), value: ManuallyDrop::new(value) }
    }

    /// Whether this is the value's thread.
    #[inline]
    pub fn is_here(&self) -> bool {
        self.thread == this_thread()
    }

    /// The value, on its own thread.
    #[inline]
    pub fn try_get(&self) -> Option<&T> {
        self.is_here().then_some(&*self.value)
    }

    /// The value, on its own thread.
    #[inline]
    pub fn try_get_mut(&mut self) -> Option<&mut T> {
        if self.is_here() { Some(&mut *self.value) } else { None }
    }

    /// The value itself.
    ///
    /// # Errors
    /// The pinned value, on another thread.
    pub fn try_into_inner(self) -> Result<T, Self> {
        if !self.is_here() {
            return Err(self);
        }
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never dropped nor used again, so the value is taken once.
        Ok(unsafe { ManuallyDrop::take(&mut this.value) })
    }
}

#[cold]
#[track_caller]
fn elsewhere() -> ! {
    panic!("a value pinned to one thread was used on another: keep it with the runtime that made it")
}

/// # Panics
/// On another thread.
impl<T> Deref for Pinned<T> {
    type Target = T;
    #[inline]
    #[track_caller]
    fn deref(&self) -> &T {
        match self.try_get() {
            Some(value) => value,
            None => elsewhere(),
        }
    }
}

/// # Panics
/// On another thread.
impl<T> DerefMut for Pinned<T> {
    #[inline]
    #[track_caller]
    fn deref_mut(&mut self) -> &mut T {
        match self.try_get_mut() {
            Some(value) => value,
            None => elsewhere(),
        }
    }
}

impl<T> Drop for Pinned<T> {
    /// On another thread the value is leaked: dropping it there would be unsound, and a panic in a drop aborts.
    fn drop(&mut self) {
        if self.is_here() {
            // SAFETY: this is the value's thread, and the last use of it.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

/// # Panics
/// When polled on another thread.
impl<F: Future> Future for Pinned<F> {
    type Output = F::Output;
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the value is structurally pinned: it is never moved out of a pinned `Pinned` (`try_into_inner` takes the
        // wrapper by value, which a pinned one of an `F: !Unpin` does not give), and `Drop` drops it in place.
        let value = unsafe { self.map_unchecked_mut(|this| &mut **this) };
        value.poll(cx)
    }
}

impl<T: fmt::Debug> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_get() {
            Some(value) => f.debug_tuple("Pinned").field(value).finish(),
            None => f.write_str("Pinned(on another thread)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn the_value_is_reached_and_dropped_on_its_own_thread_alone() {
        let value = Rc::new(());
        let mut pinned = Pinned::new(value.clone());
        assert!(pinned.try_get_mut().is_some());
        let pinned = std::thread::spawn(move || {
            assert!(pinned.try_get().is_none() && pinned.try_get_mut().is_none());
            assert_eq!(format!("{pinned:?}"), "Pinned(on another thread)");
            pinned.try_into_inner().unwrap_err()
        });
        let pinned = pinned.join().unwrap();
        assert_eq!(Rc::strong_count(&value), 2);
        drop(pinned.try_into_inner().unwrap());
        assert_eq!(Rc::strong_count(&value), 1);
        let pinned = Pinned::new(value.clone());
        std::thread::spawn(move || drop(pinned)).join().unwrap();
        assert_eq!(Rc::strong_count(&value), 2, "dropped elsewhere, it is leaked");
    }

    #[test]
    fn use_on_another_thread_panics() {
        let pinned = Pinned::new(7);
        assert!(std::thread::spawn(move || *pinned).join().is_err());
        let mut future = Pinned::new(async { 7 });
        let polled = std::thread::spawn(move || {
            // SAFETY: `future` is not moved until the end of this closure.
            let future = unsafe { Pin::new_unchecked(&mut future) };
            future.poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
        });
        assert!(polled.join().is_err());
    }
}
