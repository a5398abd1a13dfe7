//! A story: how a state is reached, then three steps by chance.

use std::fmt::Write;

use crate::answer::Answer;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;

/// Timestamps of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stamp {
    None,
    /// The right ones.
    Good,
    /// From before the connection began (RFC 7323 §5: PAWS).
    Old,
}

/// A segment, by its distance from what is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spoken {
    pub(crate) flags: u8,
    /// From the next byte of the peer.
    pub(crate) seq: i64,
    /// From the end of what was heard.
    pub(crate) ack: i64,
    pub(crate) len: usize,
    pub(crate) window: u16,
    pub(crate) stamp: Stamp,
    /// It is part of the peer's stream, which goes on behind it.
    pub(crate) counts: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Segment(Spoken),
    /// The application accepts, if there is somebody.
    Accept,
    /// It connects.
    Connect,
    /// It reads all there is.
    Read,
    /// It writes so many bytes.
    Write(usize),
    /// It ends its side.
    Shutdown,
    /// It closes.
    Close,
}

const fn spoken(flags: u8) -> Step {
    Step::Segment(Spoken { flags, seq: 0, ack: 0, len: 0, window: 65535, stamp: Stamp::Good, counts: true })
}

const fn unacked(flags: u8, ack: i64) -> Step {
    Step::Segment(Spoken { flags, seq: 0, ack, len: 0, window: 65535, stamp: Stamp::Good, counts: true })
}

/// Every state, and how it is reached.
pub(crate) const STATES: [(&str, &[Step]); 12] = [
    ("CLOSED", &[Step::Close]),
    ("LISTEN", &[]),
    ("SYN-SENT", &[Step::Connect]),
    ("SYN-RECEIVED", &[spoken(SYN)]),
    ("ESTABLISHED", &[spoken(SYN), spoken(ACK), Step::Accept]),
    ("ESTABLISHED, data outstanding", &[spoken(SYN), spoken(ACK), Step::Accept, Step::Write(1000)]),
    ("FIN-WAIT-1", &[spoken(SYN), spoken(ACK), Step::Accept, Step::Shutdown]),
    ("FIN-WAIT-2", &[spoken(SYN), spoken(ACK), Step::Accept, Step::Shutdown, spoken(ACK)]),
    ("CLOSE-WAIT", &[spoken(SYN), spoken(ACK), Step::Accept, spoken(FIN | ACK)]),
    ("CLOSING", &[spoken(SYN), spoken(ACK), Step::Accept, Step::Shutdown, unacked(FIN | ACK, -1)]),
    ("LAST-ACK", &[spoken(SYN), spoken(ACK), Step::Accept, spoken(FIN | ACK), Step::Shutdown]),
    ("TIME-WAIT", &[spoken(SYN), spoken(ACK), Step::Accept, Step::Shutdown, spoken(ACK), spoken(FIN | ACK)]),
];

/// A story.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) state: &'static str,
    pub(crate) number: u64,
    /// The peer offers timestamps.
    pub(crate) stamps: bool,
    pub(crate) steps: Vec<Step>,
}

impl Story {
    /// The `number`th story of a state: always the same one.
    pub(crate) fn new(state: &'static str, prologue: &[Step], number: u64) -> Story {
        let mut seed = state.bytes().fold(number, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let mut roll = move |below: u64| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ mixed >> 31) % below
        };
        let stamps = roll(2) == 0;
        let mut steps = prologue.to_vec();
        for _ in 0..3 {
            let pick = |choices: &[i64], roll: &mut dyn FnMut(u64) -> u64| {
                choices[roll(choices.len() as u64) as usize]
            };
            steps.push(match roll(12) {
                0 => Step::Read,
                1 => Step::Write(100),
                2 => Step::Accept,
                // In order, as an honest peer would.
                3 | 4 => Step::Segment(Spoken {
                    flags: ACK | PSH,
                    seq: 0,
                    ack: 0,
                    len: roll(3) as usize * 10,
                    window: 65535,
                    stamp: Stamp::Good,
                    counts: true,
                }),
                _ => {
                    let flags =
                        [ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, SYN, SYN | ACK, 0, FIN, SYN | FIN]
                            [roll(10) as usize];
                    let seq = pick(
                        &[0, 0, 0, 1, -1, 10, -10, 1000, -1000, 60_000, 70_000, 1 << 30, -(1 << 30)],
                        &mut roll,
                    );
                    let ack = pick(&[0, 0, 0, -1, 1, -500, 1000, -100_000, 100_000, 1 << 30], &mut roll);
                    let len = if flags & (SYN | RST) == 0 { [0, 1, 10][roll(3) as usize] } else { 0 };
                    let stamp =
                        [Stamp::Good, Stamp::Good, Stamp::Good, Stamp::Old, Stamp::None][roll(5) as usize];
                    Step::Segment(Spoken { flags, seq, ack, len, window: 65535, stamp, counts: false })
                }
            });
        }
        Story { state, number, stamps, steps }
    }

    /// What was told and what was answered, for whoever looks for the difference.
    pub(crate) fn report(&self, ours: &[Vec<Answer>], theirs: &[Vec<Answer>]) -> String {
        let mut text = format!("{} {} (timestamps {}):\n", self.state, self.number, self.stamps);
        for (step, (ours, theirs)) in self.steps.iter().zip(ours.iter().zip(theirs)) {
            let mark = if ours == theirs { ' ' } else { '!' };
            let _ = writeln!(text, " {mark} {step:?}");
            let _ = writeln!(text, "     we {ours:?}");
            if ours != theirs {
                let _ = writeln!(text, "  Linux {theirs:?}");
            }
        }
        text
    }
}

/// The peer of one host: what it has said and heard, so that distances become numbers.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Ports: ours and the host's.
    pub(crate) ports: (u16, u16),
    stamps: bool,
    iss: u32,
    /// Next sequence number.
    next: u32,
    /// The host's initial sequence number, and the end of what it has sent.
    pub(crate) irs: Option<u32>,
    end: u32,
    /// The host uses timestamps, and this is its clock.
    pub(crate) echo: Option<u32>,
    clock: u32,
}

impl Peer {
    pub(crate) fn new(story: &Story, port: u16) -> Peer {
        Peer {
            ports: (port, 80),
            stamps: story.stamps,
            iss: 1_000_000,
            next: 1_000_000,
            irs: None,
            end: 0,
            echo: None,
            clock: 100_000,
        }
    }

    /// The bytes of a segment, its checksum zero.
    pub(crate) fn bytes(&mut self, spoken: &Spoken) -> Vec<u8> {
        self.clock += 1;
        let seq = self.next.wrapping_add(spoken.seq as u32);
        let answers = spoken.flags & SYN != 0 && spoken.counts && self.irs.is_some();
        let flags = if answers { spoken.flags | ACK } else { spoken.flags };
        let ack = if flags & ACK != 0 { self.end.wrapping_add(spoken.ack as u32) } else { 0 };
        let mut options = Vec::new();
        if flags & SYN != 0 {
            options.extend([2, 4, 5, 180]);
        }
        let agreed = flags & SYN != 0 && self.stamps || self.echo.is_some();
        if agreed && spoken.stamp != Stamp::None {
            let clock = if spoken.stamp == Stamp::Old { self.clock - 50_000 } else { self.clock };
            options.extend([1, 1, 8, 10]);
            options.extend(clock.to_be_bytes());
            options.extend(self.echo.unwrap_or(0).to_be_bytes());
        }
        if spoken.counts {
            let counted = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0) + spoken.len as u32;
            self.next = self.next.wrapping_add(counted);
        }
        let mut bytes = Vec::new();
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend(seq.to_be_bytes());
        bytes.extend(ack.to_be_bytes());
        bytes.extend([(((20 + options.len()) / 4) << 4) as u8, flags]);
        bytes.extend(spoken.window.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.extend(vec![b'x'; spoken.len]);
        bytes
    }

    /// Takes a segment of the host's apart, if it is one to this peer.
    pub(crate) fn hear(&mut self, segment: &[u8]) -> Option<Answer> {
        let word = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let long = |at: usize| u32::from(word(at)) << 16 | u32::from(word(at + 2));
        if word(2) != self.ports.0 {
            return None;
        }
        self.ports.1 = word(0);
        let (seq, ack, flags, window) = (long(4), long(8), segment[13], word(14));
        let header = usize::from(segment[12] >> 4) * 4;
        let len = segment.len() - header;
        let mut kinds = Vec::new();
        let mut options = &segment[20..header];
        while let [kind, rest @ ..] = options {
            if *kind < 2 {
                options = rest;
                continue;
            }
            let size = usize::from(rest[0]);
            kinds.push(*kind);
            if *kind == 8 && flags & RST == 0 {
                self.echo = Some(u32::from_be_bytes(options[2..6].try_into().unwrap()));
            }
            options = &options[size..];
        }
        if flags & SYN != 0 {
            if self.irs.is_none() || self.irs != Some(seq) {
                self.end = seq;
            }
            self.irs = Some(seq);
        }
        if flags & RST == 0 {
            let end = seq.wrapping_add(len as u32 + u32::from(flags & (SYN | FIN) != 0));
            if end.wrapping_sub(self.end) as i32 > 0 {
                self.end = end;
            }
        }
        Some(Answer {
            flags,
            // A RST in answer to what acknowledges nothing has the number 0 itself (RFC 9293 §3.10.7.1).
            seq: match self.irs {
                Some(irs) if seq != 0 => i64::from(seq.wrapping_sub(irs) as i32),
                _ => i64::from(seq),
            },
            ack: if flags & ACK != 0 { i64::from(ack.wrapping_sub(self.iss) as i32) } else { 0 },
            len,
            window: window > 0,
            options: kinds,
        })
    }
}
