//! Which runtime runs on this thread right now.
//!
//! A runtime enters its context for as long as it runs tasks or drops them; what a task calls finds its runtime here.
//! Contexts nest: a simulation enters one host after the other, and a task may run another runtime. Entering is scoped by
//! a closure, never by a guard that a caller could drop in the wrong order, so the pointers below are valid whenever they
//! are not null.

use core::cell::Cell;
use core::ptr;
use std::rc::Rc;

use crate::executor::{Executor, Key};
use crate::runtime::Inner;

#[derive(Clone, Copy)]
struct Current {
    /// The executor of `runtime`, one load nearer: each wake asks for it.
    executor: *const Executor,
    runtime: *const Rc<Inner>,
}

const NOBODY: Current = Current { executor: ptr::null(), runtime: ptr::null() };

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(NOBODY) };
}

/// Runs `f` with `runtime` as this thread's current one.
pub(crate) fn enter<R>(runtime: &Rc<Inner>, f: impl FnOnce() -> R) -> R {
    struct Restore(Current);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let here = Current { executor: Rc::as_ptr(runtime.executor()), runtime };
    let _restore = Restore(CURRENT.replace(here));
    f()
}

/// Wakes a task of the current executor; `false`: the task is another executor's.
#[inline]
pub(crate) fn wake_current(key: Key) -> bool {
    let executor = CURRENT.get().executor;
    if executor.is_null() {
        return false;
    }
    // SAFETY: not null, so we are inside of `enter`, whose caller keeps the runtime and with it the executor alive.
    let executor = unsafe { &*executor };
    executor.wake_local(key) || executor.number() == key.executor()
}

/// Calls `f` with the current runtime; `None` outside of one.
#[inline]
pub(crate) fn try_with<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> Option<R> {
    let runtime = CURRENT.get().runtime;
    if runtime.is_null() {
        return None;
    }
    // SAFETY: not null, so we are inside of `enter`, whose caller keeps the reference valid until it returns; `f` cannot
    // keep it longer than this call, which is within.
    Some(f(unsafe { &*runtime }))
}

/// Calls `f` with the current runtime.
///
/// # Panics
/// Outside of a runtime: there is nothing to spawn on, wait for or send through.
#[inline]
#[track_caller]
pub(crate) fn with<R>(f: impl FnOnce(&Rc<Inner>) -> R) -> R {
    match try_with(f) {
        Some(result) => result,
        None => outside(),
    }
}

#[cold]
#[track_caller]
fn outside() -> ! {
    panic!(
        "there is no demi runtime running on this thread: call this from within #[demi::main], \
         demi::Runtime::block_on or a task spawned there"
    )
}
