//! Whom datagrams go to: what is known of each, what waits until it is, and for how long it holds.
//!
//! Owns the table, the datagrams that wait, and the times; asks nobody. A peer has a new handle each time it is asked for, so that what
//! an earlier question brings finds nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::super::timers::Timers;
use super::super::verbs::cm::Id;
use super::super::verbs::ud::Way;
use crate::mem::Buf;
use crate::sockets::table::Table;
use crate::time::Instant;
use crate::transport::Handle;

/// How long an answer is waited for, and how often it is asked for. The kernel repeats itself, too, but after seconds.
pub(super) const QUESTION: Duration = Duration::from_secs(1);
pub(super) const QUESTIONS: u8 = 4;
/// How long an answer holds: a program that was started again has another queue pair.
pub(super) const FRESH: Duration = Duration::from_secs(5);
/// How long it holds that nobody is there.
pub(super) const ABSENT: Duration = Duration::from_secs(1);
/// Datagrams that wait for one peer, and for all of them.
const WAITING_EACH: usize = 64;
const WAITING: usize = 1024;
/// Peers that are known or asked for.
const PEERS: usize = 65_536;
/// Peers that are asked for at a time: each is an identifier of the kernel's.
const ASKED: usize = 256;

/// Our address, and the peer's.
pub(super) type Key = (IpAddr, SocketAddr);

/// A datagram whose receiver is being looked for.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) payload: Buf,
    pub(super) from_port: u16,
}

/// What is known of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) key: Key,
    /// The way there, once it is known, and the longest datagram that it takes, header included.
    pub(super) way: Option<Rc<Way>>,
    pub(super) most: usize,
    /// The question that is being asked, and how many may follow.
    pub(super) question: Option<Id>,
    pub(super) questions: u8,
    /// One was rejected, without a word: there is a machine at least.
    pub(super) rejected: bool,
    /// Nobody is there, for now.
    pub(super) absent: Option<io::ErrorKind>,
    /// Something was sent since it was last asked for.
    pub(super) used: bool,
    pub(super) waiting: VecDeque<Waiting>,
    /// When it is to be looked at.
    at: Instant,
    armed: Option<Instant>,
}

/// What is to be done about a peer whose time is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its question was not answered.
    Unanswered(Handle),
    /// It is in use and was not asked for lately.
    Stale(Handle),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Peers {
    table: Table<Peer>,
    by_key: HashMap<Key, Handle>,
    timers: Timers,
    waiting: usize,
    asked: usize,
}

impl Peers {
    pub(super) fn new() -> Peers {
        Peers { table: Table::new(), by_key: HashMap::new(), timers: Timers::default(), waiting: 0, asked: 0 }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut Peer> {
        self.table.get_mut(handle)
    }

    /// Whether a handle is still a peer's.
    #[inline]
    pub(super) fn knows(&self, handle: Handle) -> bool {
        self.table.get(handle).is_some()
    }

    /// What is known of a peer, if anything is.
    pub(super) fn find(&self, key: &Key) -> Option<Handle> {
        self.by_key.get(key).copied()
    }

    /// A peer that nothing is known of yet; `None` when there are too many.
    pub(super) fn enter(&mut self, key: Key) -> Option<Handle> {
        if self.by_key.len() >= PEERS || self.asked >= ASKED {
            return None;
        }
        let handle = self.table.insert(Peer {
            key,
            way: None,
            most: 0,
            question: None,
            questions: 0,
            rejected: false,
            absent: None,
            used: true,
            waiting: VecDeque::new(),
            at: Instant::ZERO,
            armed: None,
        });
        self.by_key.insert(key, handle);
        Some(handle)
    }

    /// Gives a peer that is to be asked for a new handle, which whatever `ask` begins is told; what was asked before is forgotten.
    ///
    /// # Errors
    /// What `ask` answers; the peer is then as after an answer that there is none.
    pub(super) fn ask(
        &mut self,
        handle: Handle,
        now: Instant,
        questions: u8,
        ask: impl FnOnce(Handle, Key) -> io::Result<Id>,
    ) -> Result<Handle, (Handle, io::Error)> {
        let Some(mut peer) = self.table.remove(handle) else { return Ok(handle) };
        self.asked -= usize::from(peer.question.take().is_some());
        (peer.questions, peer.armed, peer.used) = (questions, None, false);
        let key = peer.key;
        let handle = self.table.insert(peer);
        self.by_key.insert(key, handle);
        match ask(handle, key) {
            Ok(id) => {
                self.asked += 1;
                if let Some(peer) = self.get_mut(handle) {
                    peer.question = Some(id);
                }
                self.look_at(handle, now + QUESTION);
                Ok(handle)
            }
            Err(error) => Err((handle, error)),
        }
    }

    /// The question is answered, or given up.
    pub(super) fn end_question(&mut self, handle: Handle) {
        let Some(peer) = self.get_mut(handle) else { return };
        let ended = peer.question.take().is_some();
        self.asked -= usize::from(ended);
    }

    /// Looks at a peer at `at`, and not before.
    pub(super) fn look_at(&mut self, handle: Handle, at: Instant) {
        let Some(peer) = self.table.get_mut(handle) else { return };
        peer.at = at;
        self.timers.arm(&mut peer.armed, Some(at), handle);
    }

    /// Puts a datagram aside until its receiver is found; answers how many were dropped for it: the oldest, or itself.
    pub(super) fn put_aside(&mut self, handle: Handle, waiting: Waiting) -> u64 {
        let all = self.waiting;
        let Some(peer) = self.get_mut(handle) else { return 1 };
        let mut dropped = 0;
        if peer.waiting.len() >= WAITING_EACH || all >= WAITING {
            match peer.waiting.pop_front() {
                Some(_) => dropped = 1,
                None => return 1,
            }
        }
        peer.waiting.push_back(waiting);
        self.waiting += 1 - dropped;
        dropped as u64
    }

    /// What was put aside.
    pub(super) fn take_waiting(&mut self, handle: Handle) -> VecDeque<Waiting> {
        let waiting = self.get_mut(handle).map(|peer| std::mem::take(&mut peer.waiting)).unwrap_or_default();
        self.waiting -= waiting.len();
        waiting
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, handle: Handle) {
        self.end_question(handle);
        let _ = self.take_waiting(handle);
        if let Some(peer) = self.table.remove(handle) {
            self.by_key.remove(&peer.key);
        }
    }

    /// When the next peer is to be looked at.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// A peer that something is to be done about. Those whom nobody has sent to lately are forgotten on the way.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        while let Some((armed, handle)) = self.timers.due(now) {
            let Some(peer) = self.get_mut(handle).filter(|peer| peer.armed == Some(armed)) else { continue };
            peer.armed = None;
            let at = peer.at;
            if at > now {
                self.look_at(handle, at);
            } else if peer.question.is_some() {
                return Some(Due::Unanswered(handle));
            } else if peer.used && peer.way.is_some() {
                if self.asked < ASKED {
                    return Some(Due::Stale(handle));
                }
                self.look_at(handle, now + QUESTION);
            } else {
                self.remove(handle);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, PoolConfig};

    fn key(port: u16) -> Key {
        ("10.77.0.1".parse().unwrap(), SocketAddr::new("10.77.0.2".parse().unwrap(), port))
    }

    #[test]
    fn a_peer_whom_nobody_sends_to_is_forgotten_and_one_in_use_is_asked_for_again() {
        let at = Instant::from_millis;
        let mut peers = Peers::new();
        let one = peers.enter(key(1)).unwrap();
        peers.look_at(one, at(1000));
        assert_eq!(peers.due(at(999)), None);
        assert_eq!(peers.find(&key(1)), Some(one));
        // It moves back, which costs no second timer.
        peers.look_at(one, at(2000));
        assert_eq!(peers.due(at(1000)), None);
        assert_eq!(peers.deadline(), Some(at(2000)));
        assert_eq!(peers.due(at(2000)), None, "no way there, nobody asked");
        assert_eq!(peers.find(&key(1)), None);
        assert_eq!(peers.deadline(), None);
    }

    #[test]
    fn an_earlier_questions_answer_finds_nobody() {
        let mut peers = Peers::new();
        let one = peers.enter(key(1)).unwrap();
        let asked = peers.ask(one, Instant::ZERO, 3, |_, _| Err(io::ErrorKind::Other.into()));
        let (other, _) = asked.unwrap_err();
        assert_ne!(one, other);
        assert!(peers.get_mut(one).is_none());
        assert_eq!(peers.find(&key(1)), Some(other));
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let pool = Pool::new(&PoolConfig::small(2048)).unwrap();
        let waiting =
            |at: usize| Waiting { payload: pool.copy_from_slice(&at.to_be_bytes()).unwrap(), from_port: 1 };
        let mut peers = Peers::new();
        let first = peers.enter(key(1)).unwrap();
        let dropped: u64 = (0..WAITING_EACH + 3).map(|at| peers.put_aside(first, waiting(at))).sum();
        assert_eq!(dropped, 3);
        assert_eq!(pool.stats().slots_out, WAITING_EACH);
        for port in 2..40 {
            let other = peers.enter(key(port)).unwrap();
            for at in 0..WAITING_EACH {
                peers.put_aside(other, waiting(at));
            }
        }
        assert_eq!((peers.waiting, pool.stats().slots_out), (WAITING, WAITING));
        let kept = peers.take_waiting(first);
        assert_eq!(kept.front().map(|waiting| waiting.payload.to_vec()), Some(3usize.to_be_bytes().to_vec()));
        drop(kept);
        for port in 1..40 {
            let handle = peers.find(&key(port)).unwrap();
            peers.remove(handle);
        }
        assert_eq!((peers.waiting, pool.stats().slots_out), (0, 0));
    }
}
