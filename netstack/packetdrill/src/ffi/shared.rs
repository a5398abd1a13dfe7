//! The host that packetdrill's two threads share: a lock, the call that waits, and virtual time that moves only when asked.
//!
//! packetdrill makes blocking calls from a second thread while its first one plays the network and asks for the time. The second
//! leaves its call here and sleeps; the first tries it in each turn of the stack, at the right virtual time, and does not let time
//! go on before the second has taken the answer.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use demi_drivers::Instant;

use crate::command::Settings;
use crate::flags::{Flags, IpVersion};
use crate::host::{Done, Errno, Host, Op, Result, Waiting};

/// How long a packet is waited for before the script fails for want of one.
const PATIENCE: Duration = Duration::from_secs(600);
/// Real time that the second thread gets to note when its call returned.
const HAND_OVER: Duration = Duration::from_millis(1);

/// A host and who waits in it.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    answered: Condvar,
}

struct Inner {
    host: Host,
    waiting: Option<Waiting>,
}

// SAFETY: what is not `Send` in a `Host` (counts of the packets' memory, the queues of its device) belongs to it alone, no part of
// it is handed out, and it is only touched under the lock.
unsafe impl Send for Inner {}

impl Inner {
    fn settle(&mut self) -> Result<()> {
        let waiting = &mut self.waiting;
        let settled = self.host.settle(|host| waiting.as_mut().is_some_and(|waiting| waiting.step(host)));
        settled.map_err(Errno::from)
    }

    /// The next time, not after `limit`, at which something happens by itself.
    fn next_event(&self, limit: Instant) -> Instant {
        let patience =
            self.waiting.as_ref().map(|waiting| waiting.until).filter(|until| *until > self.host.now);
        self.host.next_event(patience.map_or(limit, |until| until.min(limit)))
    }

    fn has_answer(&self) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.answer.is_some())
    }
}

impl Shared {
    /// A host as `flags` describe it: packetdrill's `--so_flags`, words of `--name=value` for the runner's flags and `name=value`
    /// for sysctls.
    pub(super) fn new(text: &str) -> std::result::Result<Shared, String> {
        let (mut flags, mut settings) = (Flags::default(), Settings::default());
        for word in text.split_whitespace() {
            match word.strip_prefix("--") {
                Some(flag) => {
                    let (name, value) =
                        flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
                    flags.set(name, value)?;
                }
                None => settings.apply(&format!("sysctl {word}"), false)?,
            }
        }
        let version = flags.ip_version.unwrap_or(IpVersion::V4);
        let host = Host::new(&flags, version, &settings).map_err(|error| error.to_string())?;
        let inner = Inner { host, waiting: None };
        Ok(Shared { inner: Mutex::new(inner), answered: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A host whose thread has panicked is as good as before: its calls are made anew.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the thread that waits take its answer, if there is one.
    fn hand_over<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        if !inner.has_answer() {
            return inner;
        }
        self.answered.notify_all();
        while inner.has_answer() {
            inner = self.answered.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        drop(inner);
        std::thread::sleep(HAND_OVER);
        self.lock()
    }

    /// A call that does not wait, and what it causes.
    pub(super) fn call<T>(&self, call: impl FnOnce(&mut Host) -> Result<T>) -> Result<T> {
        let mut inner = self.lock();
        let result = call(&mut inner.host);
        inner.settle()?;
        drop(self.hand_over(inner));
        result
    }

    /// A call that may wait.
    pub(super) fn wait(&self, mut op: Op) -> Result<Done> {
        let mut inner = self.lock();
        if let Some(result) = inner.host.step(&mut op) {
            inner.settle()?;
            return result;
        }
        match Waiting::new(&inner.host, op) {
            Ok(waiting) => inner.waiting = Some(waiting),
            Err(result) => {
                inner.settle()?;
                return result;
            }
        }
        inner.settle()?;
        loop {
            if let Some((_, answer)) = inner.waiting.as_mut().and_then(|waiting| waiting.answer.take()) {
                inner.waiting = None;
                self.answered.notify_all();
                return answer;
            }
            inner = self.answered.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The present, after `pause` has passed.
    pub(super) fn advance(&self, pause: Duration) -> Result<Instant> {
        let mut inner = self.lock();
        let until = inner.host.now + pause;
        inner.settle()?;
        inner = self.hand_over(inner);
        while inner.host.now < until {
            let next = inner.next_event(until);
            let now = inner.host.now;
            inner.host.now = if next == now { (now + Duration::from_micros(50)).min(until) } else { next };
            inner.settle()?;
            inner = self.hand_over(inner);
        }
        Ok(until)
    }

    /// Gives a packet to the stack.
    pub(super) fn send(&self, packet: &[u8]) -> Result<()> {
        self.call(|host| {
            host.link.send(packet);
            Ok(())
        })
    }

    /// The next packet of the stack's and when it was sent; `None`: nothing comes.
    pub(super) fn receive(&self) -> Result<Option<(Instant, Vec<u8>)>> {
        let until = self.lock().host.now + PATIENCE;
        loop {
            let inner = self.lock();
            if let Some(packet) = inner.host.link.receive() {
                return Ok(Some(packet));
            }
            let (now, next) = (inner.host.now, inner.next_event(until));
            drop(inner);
            if now >= until {
                return Ok(None);
            }
            let pause = Duration::from_nanos(next.as_nanos().saturating_sub(now.as_nanos()));
            self.advance(pause.max(Duration::from_micros(50)))?;
        }
    }
}
