//! Unix signals as futures.
//!
//! The signal handler itself does one thing, and that is allowed in one: it writes the signal's number to a pipe. A small
//! thread reads the pipe and wakes whoever listens, in whichever runtime, parked or spinning; it exists once something
//! listens, and does nothing but wait. So any number of runtimes and threads may listen to the same signal.
//!
//! Listening to a signal replaces what it would do by default, for the rest of the process: a program that listens to
//! ctrl-C once and drops the listener is not ended by the next one.

mod hub;

use core::future::poll_fn;
use core::task::{Context, Poll};
use std::io;
use std::sync::Arc;

use hub::Listener;

/// Waits for ctrl-C: the next `SIGINT` from now on.
///
/// # Errors
/// What installing the handler said.
///
/// # Cancel safety
/// Cancel safe; a signal that comes while nobody waits is not remembered. Use [`signal`] to miss none.
///
/// ```no_run
/// # async fn serve() {}
/// # async fn example() -> std::io::Result<()> {
/// let server = demi::task::AbortOnDrop::from(demi::spawn(serve()));
/// demi::signal::ctrl_c().await?;
/// println!("ending");
/// # Ok(())
/// # }
/// ```
pub async fn ctrl_c() -> io::Result<()> {
    signal(SignalKind::interrupt())?.recv().await;
    Ok(())
}

/// Listens to signals of one kind from now on.
///
/// # Errors
/// `InvalidInput` for a signal that cannot be listened to; what installing the handler said.
///
/// ```no_run
/// # async fn example() -> std::io::Result<()> {
/// use demi::signal::{SignalKind, signal};
/// let mut hangups = signal(SignalKind::hangup())?;
/// loop {
///     hangups.recv().await;
///     println!("reading the configuration anew");
/// }
/// # }
/// ```
pub fn signal(kind: SignalKind) -> io::Result<Signal> {
    Ok(Signal { listener: hub::listen(kind.0)? })
}

/// A listener to signals of one kind; see [`signal`].
#[derive(Debug)]
pub struct Signal {
    listener: Arc<Listener>,
}

impl Signal {
    /// Waits for the next signal. Signals that came since the last call count as one, as they do for the kernel.
    ///
    /// It answers `Some` always; the `Option` is that of tokio's method.
    ///
    /// # Cancel safety
    /// Cancel safe: a signal stays until it is answered.
    pub async fn recv(&mut self) -> Option<()> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// As [`recv`](Self::recv), for hand-written futures.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        self.listener.poll(cx).map(Some)
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        hub::leave(&self.listener);
    }
}

/// A kind of signal, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SignalKind(libc::c_int);

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:ident;)*) => {
        impl SignalKind {
            $($(#[doc = $doc])+
            pub const fn $name() -> SignalKind {
                SignalKind(libc::$number)
            })*
        }
    };
}

kinds! {
    /// `SIGALRM`: a timer of `alarm(2)`.
    alarm = SIGALRM;
    /// `SIGCHLD`: a child process has stopped or ended.
    child = SIGCHLD;
    /// `SIGHUP`: the terminal is gone; for daemons by custom: read the configuration anew.
    hangup = SIGHUP;
    /// `SIGINT`: ctrl-C.
    interrupt = SIGINT;
    /// `SIGPIPE`: written to a pipe that nobody reads. Rust programs ignore it by default.
    pipe = SIGPIPE;
    /// `SIGQUIT`: ctrl-\.
    quit = SIGQUIT;
    /// `SIGTERM`: please end; what `kill` and service managers send.
    terminate = SIGTERM;
    /// `SIGUSR1`.
    user_defined1 = SIGUSR1;
    /// `SIGUSR2`.
    user_defined2 = SIGUSR2;
    /// `SIGWINCH`: the terminal has changed its size.
    window_change = SIGWINCH;
}

impl SignalKind {
    /// The signal with this number.
    pub const fn from_raw(number: i32) -> SignalKind {
        SignalKind(number)
    }

    /// The signal's number.
    pub const fn as_raw_value(&self) -> i32 {
        self.0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::runtime::Runtime;

    fn raise(kind: SignalKind) {
        // SAFETY: plain system call; a handler is installed, so the signal does not end the process.
        assert_eq!(unsafe { libc::raise(kind.as_raw_value()) }, 0);
    }

    fn runtime(idle: &str) -> Runtime {
        let config = crate::Config::new().idle(idle);
        Runtime::builder().config(config).transports(Vec::new()).build().unwrap()
    }

    #[test]
    fn signals_reach_all_listeners_of_their_kind_under_each_idle_policy() {
        for idle in ["spin", "adaptive", "park"] {
            runtime(idle).block_on(async {
                let mut first = signal(SignalKind::user_defined1()).unwrap();
                let mut second = signal(SignalKind::user_defined1()).unwrap();
                let mut other = signal(SignalKind::user_defined2()).unwrap();
                for _ in 0..3 {
                    raise(SignalKind::user_defined1());
                    assert_eq!((first.recv().await, second.recv().await), (Some(()), Some(())));
                }
                let none = poll_fn(|cx| Poll::Ready(other.poll_recv(cx))).await;
                assert!(none.is_pending());
            });
        }
    }

    #[test]
    fn a_parked_loop_is_woken_from_another_thread() {
        runtime("park").block_on(async {
            let mut windows = signal(SignalKind::window_change()).unwrap();
            let thread = std::thread::spawn(|| raise(SignalKind::window_change()));
            windows.recv().await;
            thread.join().unwrap();
        });
    }

    #[test]
    fn a_signal_that_came_while_nobody_waited_is_kept() {
        runtime("park").block_on(async {
            let mut hangups = signal(SignalKind::hangup()).unwrap();
            raise(SignalKind::hangup());
            crate::task::yield_now().await;
            hangups.recv().await;
        });
    }

    #[test]
    fn a_listener_may_be_dropped_while_others_stay() {
        runtime("park").block_on(async {
            let mut first = signal(SignalKind::quit()).unwrap();
            drop(signal(SignalKind::quit()).unwrap());
            raise(SignalKind::quit());
            first.recv().await;
            drop(first);
            // Nobody listens, and nothing happens.
            raise(SignalKind::quit());
        });
    }

    #[test]
    fn what_cannot_be_caught_is_refused() {
        for number in [libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, 0, -1, 1000] {
            let error = signal(SignalKind::from_raw(number)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{number}: {error}");
        }
    }
}
