//! One side of the model: a session, the pools it draws from, and a queue pair.

use std::collections::{BTreeMap, VecDeque};

use super::super::{Action, CONTROL_RECEIVES, Config, Failure, Hello, OfferId, Popped, Read, Role, Session};
use super::{copy_of, pool, stream_buf, stream_byte};
use crate::mem::{Buf, Pool};
use crate::time::Instant;

/// A request in a send queue. What it needs is with it until it completes.
#[derive(Debug)]
pub(in super::super) enum Request {
    Send { head: Vec<u8>, pieces: Vec<Buf>, signal: bool },
    Read(Read),
    Probe,
    Invalidate(OfferId),
}

/// A request that has executed, or a message that was received.
#[derive(Debug)]
pub(in super::super) enum Completion {
    Sent(usize),
    Read(Buf),
    Probed,
    Concealed(OfferId),
    Received(Buf),
}

/// A side.
pub(in super::super) struct Side {
    which: usize,
    pub(in super::super) session: Session,
    config: Config,
    /// Exactly as many slots as were promised: a message that finds none is one too many.
    receives: Pool,
    /// What the application pushes, and what READs land in.
    heap: Pool,
    requests: VecDeque<Request>,
    /// Executed, with the data that READs brought; the completion is still on its way.
    executed: VecDeque<(Request, Option<Buf>)>,
    pub(in super::super) completions: VecDeque<Completion>,
    /// Executed SENDs whose completion was not asked for.
    unsignalled: usize,
    /// What the peer may read.
    open: BTreeMap<u32, Buf>,
    deaf: bool,
    pub(in super::super) disconnecting: bool,
    pub(in super::super) pushed: usize,
    pub(in super::super) popped: usize,
    pub(in super::super) saw_end: bool,
    pub(in super::super) reads_no_more: bool,
    actions: Vec<Action>,
}

impl Side {
    pub(in super::super) fn new(which: usize, role: Role, config: &Config, peer: &Config) -> Side {
        let hello = Hello::parse(&peer.hello().emit()).expect("a hello of ours");
        let receives = usize::from(config.credits + CONTROL_RECEIVES);
        Side {
            which,
            session: Session::new(role, config, &hello, Instant::ZERO),
            config: config.clone(),
            receives: pool(receives, config.message_bytes as usize),
            heap: pool(512, 6000),
            requests: VecDeque::new(),
            executed: VecDeque::new(),
            completions: VecDeque::new(),
            unsignalled: 0,
            open: BTreeMap::new(),
            deaf: false,
            disconnecting: false,
            pushed: 0,
            popped: 0,
            saw_end: false,
            reads_no_more: false,
            actions: Vec::new(),
        }
    }

    // ---- the application ----

    pub(in super::super) fn push(&mut self, len: usize) -> bool {
        let Some(buf) = stream_buf(&self.heap, self.which, self.pushed, len) else { return false };
        let accepted = self.session.push(buf).is_ok();
        if accepted {
            self.pushed += len;
        }
        accepted
    }

    /// Takes up to `most` bytes, which are those that the peer pushed.
    pub(in super::super) fn pop(&mut self, most: usize) -> bool {
        match self.session.pop(most) {
            Popped::Bytes(buf) => {
                assert!(!self.saw_end, "bytes behind the end");
                assert!(!buf.is_empty() && buf.len() <= most);
                for (at, byte) in buf.iter().enumerate() {
                    let expected = stream_byte(1 - self.which, self.popped + at);
                    assert_eq!(*byte, expected, "byte {} of stream {}", self.popped + at, 1 - self.which);
                }
                self.popped += buf.len();
                true
            }
            Popped::End => {
                self.saw_end = true;
                false
            }
            Popped::Nothing | Popped::Ended(_) => false,
        }
    }

    // ---- the driver ----

    /// Flushes until the session has nothing more to say; `exposes` says which exposures succeed.
    pub(in super::super) fn flush(&mut self, now: Instant, mut exposes: impl FnMut() -> bool) {
        while self.session.wants_flush() {
            let mut actions = core::mem::take(&mut self.actions);
            self.session.flush(now, &mut actions);
            for action in actions.drain(..) {
                assert!(!self.disconnecting, "{action:?} behind a disconnection");
                self.post(action, &mut exposes);
            }
            self.actions = actions;
        }
        let depth = self.requests.len() + self.executed.len();
        assert!(
            depth
                <= self.config.send_queue_depth(&Config { offers: 16, ..Config::default() }.hello()) as usize
        );
    }

    fn post(&mut self, action: Action, exposes: &mut impl FnMut() -> bool) {
        match action {
            Action::Send(message) => {
                assert_eq!(
                    message.len(),
                    message.head().len() + message.pieces.iter().map(Buf::len).sum::<usize>()
                );
                self.requests.push_back(Request::Send {
                    head: message.head().to_vec(),
                    pieces: message.pieces.into_vec(),
                    signal: message.signal,
                });
            }
            Action::Read(read) => {
                assert!(read.bytes > 0 && read.bytes <= self.config.read_bytes);
                self.requests.push_back(Request::Read(read));
            }
            Action::Probe => self.requests.push_back(Request::Probe),
            Action::Expose { offer, bytes } if exposes() => {
                self.session.exposed(offer, u64::from(offer.0) << 32, offer.0);
                self.open.insert(offer.0, bytes);
            }
            Action::Expose { offer, .. } => self.session.not_exposed(offer),
            Action::Conceal { offer } => self.requests.push_back(Request::Invalidate(offer)),
            Action::Disconnect => self.disconnecting = true,
        }
    }

    /// Hands over one completion. False when there is none.
    pub(in super::super) fn complete(&mut self, now: Instant) -> bool {
        match self.completions.pop_front() {
            None => return false,
            Some(Completion::Sent(count)) => self.session.sent(now, count),
            Some(Completion::Read(buf)) => self.session.read(now, buf),
            Some(Completion::Probed) => self.session.probed(now),
            Some(Completion::Concealed(offer)) => self.session.concealed(offer),
            Some(Completion::Received(buf)) => self.session.received(now, buf),
        }
        true
    }

    // ---- the adapter ----

    /// Executes the oldest request, against `peer`. False when there is none, or it has no effect.
    pub(in super::super) fn execute(&mut self, peer: &mut Side) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        let mut landed = None;
        match &request {
            Request::Send { head, pieces, .. } => {
                if peer.deaf {
                    return false;
                }
                let message: Vec<u8> = head
                    .iter()
                    .copied()
                    .chain(pieces.iter().flat_map(|piece| piece.iter().copied()))
                    .collect();
                let slot = copy_of(&peer.receives, &message).expect("a message beyond what was promised");
                peer.completions.push_back(Completion::Received(slot));
            }
            Request::Read(read) => {
                if peer.deaf {
                    return false;
                }
                let open = peer.open.get(&read.key).expect("a READ of what is not open");
                let from = (read.address - (u64::from(read.key) << 32)) as usize;
                let bytes = open.slice(from, read.bytes as usize);
                assert_eq!(bytes.len(), read.bytes as usize, "a READ beyond an offer");
                landed = Some(copy_of(&self.heap, &bytes).expect("a slot for a READ"));
            }
            Request::Probe if peer.deaf => return false,
            Request::Probe => {}
            Request::Invalidate(offer) => {
                self.open.remove(&offer.0);
            }
        }
        self.executed.push_back((request, landed));
        true
    }

    /// Lets the completion of the oldest executed request arrive. False when there is none.
    pub(in super::super) fn acknowledge(&mut self) -> bool {
        let Some((request, landed)) = self.executed.pop_front() else { return false };
        if matches!(request, Request::Send { signal: false, .. }) {
            self.unsignalled += 1;
            return true;
        }
        let earlier = core::mem::take(&mut self.unsignalled);
        let sent = earlier + usize::from(matches!(request, Request::Send { .. }));
        if sent > 0 {
            self.completions.push_back(Completion::Sent(sent));
        }
        match request {
            Request::Send { .. } => {}
            Request::Read(_) => self.completions.extend(landed.map(Completion::Read)),
            Request::Probe => self.completions.push_back(Completion::Probed),
            Request::Invalidate(offer) => self.completions.push_back(Completion::Concealed(offer)),
        }
        true
    }

    /// Brings a disconnecting side down; its peer hears of it behind everything that it was sent.
    pub(in super::super) fn tear_down(&mut self) -> bool {
        if !self.disconnecting || self.deaf {
            return false;
        }
        self.deaf = true;
        self.requests.clear();
        self.executed.clear();
        self.completions.clear();
        self.session.down();
        self.open.clear();
        true
    }

    /// What rdma_cm tells of a peer that is down, once the queue holds nothing more.
    pub(in super::super) fn hear_of(&mut self, peer: &Side) -> bool {
        let told = !peer.deaf
            || !self.completions.is_empty()
            || !self.executed.is_empty()
            || self.session.ended().is_some();
        if !told {
            self.session.failed(Failure::Disconnected);
        }
        !told
    }

    pub(in super::super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    pub(in super::super) fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.executed.is_empty() && self.completions.is_empty()
    }

    #[cfg(test)]
    pub(in super::super) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Whether the peer can read anything.
    #[cfg(test)]
    pub(in super::super) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Promises receives for `credits`.
    #[cfg(test)]
    pub(in super::super) fn grow_receives(&mut self, credits: u16) {
        self.receives = pool(usize::from(credits + CONTROL_RECEIVES), self.config.message_bytes as usize);
    }

    /// When it is over, every slot is back.
    pub(in super::super) fn assert_nothing_is_held(&self) {
        let (receives, heap) = (self.receives.stats().slots_out, self.heap.stats().slots_out);
        assert_eq!((receives, heap), (0, 0), "receives and buffers held by side {}", self.which);
    }
}
