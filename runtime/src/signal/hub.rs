//! From the handler to the listeners: a pipe, and a thread that reads it.
//!
//! Signals are the process's, so this is too: made when something first listens, and never undone. The handler touches an
//! atomic and the pipe; everything else is done by the thread, under a lock that no handler takes.

use core::task::{Context, Poll, Waker};
use std::io::{self, Read};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Signals are numbered below this.
const SIGNALS: usize = 65;

/// The pipe's writing end, for the handler; -1 before there is one.
static PIPE: AtomicI32 = AtomicI32::new(-1);
static HUB: Mutex<Hub> =
    Mutex::new(Hub { signals: [const { Vec::new() }; SIGNALS], handled: [false; SIGNALS] });

struct Hub {
    /// Who listens to which signal.
    signals: [Vec<Arc<Listener>>; SIGNALS],
    /// For which our handler is installed.
    handled: [bool; SIGNALS],
}

/// Somebody who listens to one signal.
#[derive(Debug)]
pub(super) struct Listener {
    number: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    arrived: bool,
    waker: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Wakers are called with no lock held, so nothing panics under one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a listener, and the handler if the signal has none yet.
pub(super) fn listen(number: libc::c_int) -> io::Result<Arc<Listener>> {
    let index = catchable(number)?;
    let mut hub = lock(&HUB);
    if PIPE.load(Ordering::Relaxed) < 0 {
        start()?;
    }
    if !hub.handled[index] {
        install(number)?;
        hub.handled[index] = true;
    }
    let listener = Arc::new(Listener { number: index, state: Mutex::default() });
    hub.signals[index].push(Arc::clone(&listener));
    Ok(listener)
}

/// Takes a listener out.
pub(super) fn leave(listener: &Arc<Listener>) {
    lock(&HUB).signals[listener.number].retain(|other| !Arc::ptr_eq(other, listener));
    drop(lock(&listener.state).waker.take());
}

impl Listener {
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let waker = cx.waker().clone();
        let mut state = lock(&self.state);
        if core::mem::take(&mut state.arrived) {
            return Poll::Ready(());
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }

    fn arrive(&self) {
        let mut state = lock(&self.state);
        state.arrived = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The signal's index, if a handler for it makes sense.
fn catchable(number: libc::c_int) -> io::Result<usize> {
    // Two that cannot be caught, and those that tell of a fault in the very instruction that the handler would return to.
    let refused = [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
    match usize::try_from(number) {
        Ok(index @ 1..SIGNALS) if !refused.contains(&number) => Ok(index),
        _ => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, format!("signal {number} cannot be listened to")))
        }
    }
}

/// Makes the pipe and the thread that reads it.
fn start() -> io::Result<()> {
    let mut ends = [-1; 2];
    // The writing end never blocks: a handler must not. When the pipe is full, thousands of signals are unread, and
    // one more of the same kind tells nothing new.
    // SAFETY: the array takes the two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both descriptors are new and ours.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: plain system call on our descriptor.
    if unsafe { libc::fcntl(ends[1], libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let reader = std::fs::File::from(reader);
    std::thread::Builder::new().name("demi-signal".into()).spawn(move || deliver(reader))?;
    // From now on it belongs to the handler, for as long as the process lives.
    PIPE.store(writer.into_raw_fd(), Ordering::Release);
    Ok(())
}

fn install(number: libc::c_int) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // System calls of other code go on where they were.
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the action is valid, and `handle` does nothing that is not async-signal-safe (signal-safety(7)).
    match unsafe { libc::sigaction(number, &raw const action, core::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handler.
extern "C" fn handle(number: libc::c_int) {
    let byte = number as u8;
    // SAFETY: `__errno_location` is this thread's own, and write(2) is async-signal-safe; it takes one byte from the
    // stack, and the descriptor is never closed. The interrupted code finds its errno unchanged.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(PIPE.load(Ordering::Acquire), (&raw const byte).cast(), 1);
        *libc::__errno_location() = errno;
    }
}

/// The thread: reads numbers and wakes listeners.
fn deliver(mut pipe: std::fs::File) {
    let mut numbers = [0; 64];
    // The writing end is never closed, so this ends with the process.
    while let Ok(count) = pipe.read(&mut numbers) {
        for number in &numbers[..count] {
            let listeners = lock(&HUB).signals.get(usize::from(*number)).cloned().unwrap_or_default();
            listeners.iter().for_each(|listener| listener.arrive());
        }
    }
}
