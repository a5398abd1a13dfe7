//! One session, and a peer that says whatever it likes.

use std::collections::VecDeque;

use super::super::message::{HEADER_BYTES, Header, Kind, OFFER_BYTES, Offer};
use super::super::{Action, CONTROL_RECEIVES, Config, Ended, Failure, Hello, OfferId, Popped, Role, Session};
use super::{Decisions, config, copy_of, pool, stream_buf};
use crate::mem::Pool;
use crate::time::Instant;
use crate::transport::KeepAlive;

/// Plays the story that `bytes` tell.
///
/// # Panics
/// When the session sends more than it was allowed, takes more than it has allowed, reads what it was not offered, goes on after
/// it disconnected, or holds a slot when all is over.
pub fn hostile(bytes: &[u8]) {
    let mut decisions = Decisions(bytes);
    let ours = config(&mut decisions);
    let mut theirs = config(&mut decisions).hello();
    let role = decisions.byte();
    if role & 2 != 0 {
        // A hello of which every field is the peer's own.
        let mut bytes = theirs.emit();
        for _ in 0..decisions.below(6) {
            let at = decisions.below(bytes.len());
            bytes[at] = decisions.byte();
        }
        match Hello::parse(&bytes) {
            Ok(hello) => theirs = hello,
            Err(refusal) => {
                assert!(!refusal.error().to_string().is_empty());
                return;
            }
        }
    }
    let role = if role & 1 == 0 { Role::Connecting } else { Role::Accepting };
    let mut story = Story {
        session: Session::new(role, &ours, &theirs, Instant::ZERO),
        receives: pool(
            usize::from(ours.credits) + usize::from(CONTROL_RECEIVES),
            ours.message_bytes as usize,
        ),
        heap: pool(64, 6000),
        peer: Peer::new(&ours, &theirs),
        ours,
        now: Instant::ZERO,
        sequence: 0,
        sends: 0,
        reads: VecDeque::new(),
        exposed: Vec::new(),
        concealing: VecDeque::new(),
        probing: false,
        disconnected: false,
        pushed: 0,
    };
    while !decisions.is_over() {
        story.step(&mut decisions);
        story.flush();
    }
    story.end();
}

/// What an honest peer would know: what it has allowed, and been allowed.
struct Peer {
    /// Data messages that the session may send, and those that it has allowed.
    granted: u64,
    credits: u64,
    message_bytes: usize,
    sequence: u32,
    /// A control message of the session's waits for an answer; the peer's last one was not answered.
    asked: bool,
    asking: bool,
    /// Offers of the session's that are open, and how many may be.
    offers: u64,
    most_offers: u64,
    /// Offers of the peer's that are open, and the bytes of them.
    open: u64,
    ended: bool,
}

impl Peer {
    fn new(ours: &Config, theirs: &Hello) -> Peer {
        Peer {
            granted: theirs.credits.into(),
            credits: ours.credits.max(2).into(),
            message_bytes: theirs.message_bytes as usize,
            sequence: 0,
            asked: false,
            asking: false,
            offers: 0,
            most_offers: theirs.offers.into(),
            open: 0,
            ended: false,
        }
    }

    /// Judges a message of the session's.
    fn judge(&mut self, message: &[u8]) {
        let header = Header::parse(message).expect("a message that can be read");
        assert!(message.len() <= self.message_bytes, "a message longer than agreed");
        assert_eq!(header.sequence, self.sequence);
        self.sequence = self.sequence.wrapping_add(1);
        if matches!(header.kind, Kind::Data | Kind::Offer) {
            assert!(!self.ended, "a message behind the end");
            self.granted = self.granted.checked_sub(1).expect("a message without a credit");
            self.ended = header.fin;
        }
        if header.kind == Kind::Control {
            assert!(!self.asked, "a second control message before the answer to the first");
            self.asked = true;
        }
        if header.heard {
            assert!(self.asking, "an answer to nothing");
            self.asking = false;
        }
        if header.kind == Kind::Offer {
            self.offers += u64::from(header.length) / OFFER_BYTES as u64;
            assert!(self.offers <= self.most_offers, "more offers than agreed");
        }
        self.credits += u64::from(header.credits);
        self.open = self.open.checked_sub(header.done.into()).expect("more offers done than were made");
    }
}

struct Story {
    session: Session,
    receives: Pool,
    heap: Pool,
    peer: Peer,
    ours: Config,
    now: Instant,
    sequence: u32,
    sends: usize,
    reads: VecDeque<u32>,
    exposed: Vec<OfferId>,
    concealing: VecDeque<OfferId>,
    probing: bool,
    disconnected: bool,
    pushed: usize,
}

impl Story {
    fn step(&mut self, decisions: &mut Decisions<'_>) {
        let code = decisions.byte();
        self.now = self.now.plus_nanos(1_000_000 * u64::from(code));
        match code & 15 {
            0..6 => self.message(code >> 4, decisions),
            6 if code >> 4 == 0 => self.noise(decisions),
            6 => self.message(code >> 4, decisions),
            7 => {
                let count = self.sends.min(decisions.below(8));
                self.sends -= count;
                self.session.sent(self.now, count);
            }
            8 => self.complete(decisions),
            9 | 10 => {
                let len = decisions.length();
                if let Some(buf) = stream_buf(&self.heap, 0, self.pushed, len)
                    && self.session.push(buf).is_ok()
                {
                    self.pushed += len;
                }
            }
            11 | 12 => {
                if let Popped::Bytes(buf) = self.session.pop(decisions.length()) {
                    assert!(!buf.is_empty());
                }
            }
            13 => self.call(code >> 4, decisions),
            14 => {
                let idle = core::time::Duration::from_millis(decisions.byte().into());
                let keepalive = KeepAlive { idle, interval: idle, probes: u32::from(code >> 4) };
                self.session.set_keepalive(Some(keepalive));
            }
            _ => {
                if decisions.byte() & 7 == 7
                    && let Some(at) = self.session.deadline()
                {
                    self.now = self.now.max(at);
                    self.session.tick(self.now);
                }
            }
        }
    }

    /// A message as an honest peer would send it, but for what the decisions change.
    fn message(&mut self, code: u8, decisions: &mut Decisions<'_>) {
        let shape = decisions.byte();
        let lie = decisions.byte() >= 250;
        let peer = &self.peer;
        let open = u64::from(self.ours.hello().offers).saturating_sub(peer.open);
        let kind = match shape & 3 {
            1 if lie || (peer.credits > 0 && open > 0) => Kind::Offer,
            2 if lie || !peer.asking => Kind::Control,
            3 if lie || peer.asked => Kind::Answer,
            _ if lie || peer.credits > 0 => Kind::Data,
            _ => return,
        };
        let most = self.ours.message_bytes as usize - HEADER_BYTES;
        let mut payload = match kind {
            Kind::Data if lie => vec![code; decisions.length()],
            Kind::Data => vec![code; 1 + decisions.length() % most],
            Kind::Offer => {
                let offer = |decisions: &mut Decisions<'_>| Offer {
                    address: u64::from(decisions.two()) << 20,
                    key: decisions.byte().into(),
                    bytes: decisions.length() as u32 + u32::from(!lie),
                };
                let count = u64::from(1 + code % 3);
                (0..if lie { count } else { count.min(open) }).flat_map(|_| offer(decisions).emit()).collect()
            }
            Kind::Control | Kind::Answer => Vec::new(),
        };
        let done = if lie { decisions.two() } else { peer.offers.min(decisions.below(3) as u64) as u16 };
        let header = Header {
            kind,
            fin: if lie { shape & 4 != 0 } else { kind == Kind::Data && shape >> 2 == 1 },
            heard: if lie { shape & 8 != 0 } else { peer.asked },
            credits: if lie { decisions.two() } else { decisions.below(3) as u16 },
            done,
            sequence: if lie { self.sequence ^ u32::from(decisions.byte() & 1) } else { self.sequence },
            length: payload.len() as u32 ^ u32::from(lie && decisions.byte() & 1 != 0),
        };
        let mut message = header.emit().to_vec();
        message.append(&mut payload);
        if lie && decisions.byte() & 1 != 0 {
            let at = decisions.below(HEADER_BYTES);
            message[at] = decisions.byte();
        }
        let header = Header::parse(&message);
        if self.give(&message)
            && let Ok(header) = header
            && self.session.ended().is_none()
        {
            self.account(&header);
        }
    }

    /// Believes what the session has believed.
    fn account(&mut self, header: &Header) {
        let peer = &mut self.peer;
        self.sequence = self.sequence.wrapping_add(1);
        peer.granted += u64::from(header.credits);
        peer.offers = peer.offers.checked_sub(header.done.into()).expect("a lie that was believed");
        if header.heard {
            assert!(peer.asked, "an answer to nothing that was believed");
            peer.asked = false;
        }
        match header.kind {
            Kind::Data | Kind::Offer => {
                peer.credits = peer.credits.checked_sub(1).expect("a message beyond the credits was taken");
            }
            Kind::Control => {
                assert!(!peer.asking, "a second control message was taken");
                peer.asking = true;
            }
            Kind::Answer => {}
        }
        if header.kind == Kind::Offer {
            peer.open += u64::from(header.length) / OFFER_BYTES as u64;
            assert!(peer.open <= u64::from(self.ours.hello().offers), "offers beyond the agreed were taken");
        }
    }

    /// Any bytes at all.
    fn noise(&mut self, decisions: &mut Decisions<'_>) {
        let len = decisions.below(100);
        let message: Vec<u8> = (0..len).map(|_| decisions.byte()).collect();
        let header = Header::parse(&message);
        if self.give(&message)
            && let Ok(header) = header
            && self.session.ended().is_none()
        {
            self.account(&header);
        }
    }

    /// Lets a message arrive, if the adapter has a receive for it that is long enough.
    fn give(&mut self, message: &[u8]) -> bool {
        let Some(slot) = copy_of(&self.receives, message) else { return false };
        self.session.received(self.now, slot);
        true
    }

    /// One of the completions that are due.
    fn complete(&mut self, decisions: &mut Decisions<'_>) {
        let choice = decisions.byte();
        if choice == 255 {
            if decisions.byte() & 3 != 0 {
                return;
            }
            let failures = [
                Failure::Disconnected,
                Failure::Unanswered,
                Failure::Refused,
                Failure::Broken,
                Failure::DeviceGone,
            ];
            return self.session.failed(failures[decisions.below(5)]);
        }
        if choice & 1 == 0
            && let Some(bytes) = self.reads.front().copied()
        {
            // What a READ brings is what the peer has there: nobody knows better.
            if let Some(slot) = copy_of(&self.heap, &vec![7; bytes as usize]) {
                self.reads.pop_front();
                self.session.read(self.now, slot);
            }
        } else if choice & 2 == 0
            && let Some(offer) = self.concealing.pop_front()
        {
            self.session.concealed(offer);
        } else if self.probing {
            self.probing = false;
            let sends = core::mem::take(&mut self.sends);
            self.session.sent(self.now, sends);
            self.session.probed(self.now);
        }
    }

    fn call(&mut self, code: u8, decisions: &mut Decisions<'_>) {
        match code {
            0..4 if decisions.byte() & 7 == 3 => self.session.shut_write(),
            4 if decisions.byte() & 7 == 3 => self.session.shut_read(),
            6 if decisions.byte() & 15 == 3 => self.session.abort(),
            7 if decisions.byte() & 7 == 3 => self.session.close(self.now),
            8..11 => self.session.want_drained(),
            11 => self.session.consume(decisions.length()),
            12 => assert_eq!(
                self.session.chunks().map(<[u8]>::len).sum::<usize>(),
                self.session.ready_bytes(),
                "what is there is what can be looked at"
            ),
            _ => {
                self.session.take_changes();
            }
        }
    }

    fn flush(&mut self) {
        while self.session.wants_flush() {
            let mut actions = Vec::new();
            self.session.flush(self.now, &mut actions);
            for action in actions {
                assert!(!self.disconnected, "{action:?} behind a disconnection");
                self.obey(action);
            }
        }
        assert!(self.sends <= usize::from(self.ours.sends.max(1) + CONTROL_RECEIVES));
        assert!(self.reads.len() <= usize::from(self.ours.reads));
        assert!(self.exposed.len() as u64 <= self.peer.most_offers);
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Send(message) => {
                let pieces = message.pieces.iter().flat_map(|piece| piece.to_vec());
                let bytes: Vec<u8> = message.head().iter().copied().chain(pieces).collect();
                self.peer.judge(&bytes);
                self.sends += 1;
            }
            Action::Read(read) => {
                assert!(self.peer.open > 0 && read.bytes > 0 && read.bytes <= self.ours.read_bytes);
                assert!(read.address.checked_add(read.bytes.into()).is_some());
                self.reads.push_back(read.bytes);
            }
            Action::Probe => {
                assert!(!core::mem::replace(&mut self.probing, true), "two probes in flight");
            }
            Action::Expose { offer, bytes } => {
                assert!(!self.exposed.contains(&offer) && !bytes.is_empty());
                if offer.0 % 5 == 4 {
                    self.session.not_exposed(offer);
                } else {
                    self.exposed.push(offer);
                    self.session.exposed(offer, 4096, offer.0);
                }
            }
            Action::Conceal { offer } => {
                let at =
                    self.exposed.iter().position(|known| *known == offer).expect("an offer that is open");
                self.exposed.swap_remove(at);
                self.concealing.push_back(offer);
            }
            Action::Disconnect => self.disconnected = true,
        }
    }

    fn end(mut self) {
        let violated = matches!(self.session.ended(), Some(Ended::Violated(_)));
        assert!(!violated || self.disconnected, "a peer that lies is left");
        self.session.abort();
        self.flush();
        assert!(self.disconnected);
        self.session.down();
        assert!(self.session.is_down() && !self.session.wants_flush() && self.session.deadline().is_none());
        while let Popped::Bytes(_) = self.session.pop(usize::MAX) {}
        let out = (self.receives.stats().slots_out, self.heap.stats().slots_out);
        assert_eq!(out, (0, 0), "receives and buffers held by a connection that is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use proptest::prelude::*;

    #[test]
    fn no_seeded_peer_does_harm() {
        for seed in 0..500 {
            let mut rng = Rng::new(seed, 2);
            let len = rng.below(600) as usize;
            let bytes: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            let told = std::panic::catch_unwind(|| hostile(&bytes));
            assert!(told.is_ok(), "seed {seed}");
        }
    }

    proptest! {
        #[test]
        fn no_peer_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            hostile(&bytes);
        }
    }
}
