//! Two of our hosts over a link whose every misdeed is an input's choice: loss, duplication, reordering, damage, replays, cuts, and a
//! stranger's resets. The stream that comes out is the stream that went in.
//!
//! Damage is of one byte, which no Internet checksum misses. When the input has ended the link is good, and what was begun is finished,
//! unless so much was lost that a host gave up, which it must say.

use std::cell::RefCell;
use std::io::IoSlice;
use std::net::Shutdown;
use std::rc::Rc;

use demi_drivers::transport::{ListenOptions, ReadCursor, StreamId, StreamOptions};
use demi_drivers::{Instant, Transport};
use demi_netstack::Stack;
use demi_netstack::tcp::EcnMode;

use crate::frames::{judge, parts, protocol};
use crate::host::{Memory, Queues, config, once};
use crate::input::Input;
use crate::peer::{sent_byte, written_byte};

/// Turns before a story that goes nowhere is a stall.
const TURNS: usize = 20_000;
/// Frames that are held back, or kept for replays.
const KEPT: usize = 12;
/// Losses, both directions together, that a connection must survive: fewer than the tries of any timer, those for a neighbour among them.
const SURVIVABLE: u32 = 3;

struct End {
    stack: Stack,
    queues: Rc<RefCell<Queues>>,
    stream: Option<StreamId>,
    /// Bytes to write, written and read so far.
    plan: u32,
    written: u32,
    read: u32,
    /// The peer's end was seen.
    ended: bool,
    failed: bool,
    shut: bool,
}

struct Link {
    held: Vec<(usize, Vec<u8>)>,
    old: Vec<(usize, Vec<u8>)>,
    lost: [u32; 2],
    /// Something was injected that a host may rightly act on.
    forged: bool,
}

fn end(number: u8, ecn: EcnMode) -> End {
    let mac = [2, 0, 0, 0, 0, number];
    let (device, queues) = Memory::new(mac, 1500);
    let mut config = config();
    config.addresses = [format!("10.0.0.{number}/24"), format!("fd00::{number}/64")]
        .map(|cidr| cidr.parse().expect("an address"))
        .to_vec();
    config.secret = [number; 16];
    config.tcp.ecn = ecn;
    let stack = Stack::new(Box::new(device), config).expect("a configuration that works");
    End {
        stack,
        queues,
        stream: None,
        plan: 0,
        written: 0,
        read: 0,
        ended: false,
        failed: false,
        shut: false,
    }
}

fn byte_of(from: usize, offset: u32) -> u8 {
    if from == 0 { sent_byte(offset) } else { written_byte(offset) }
}

/// What both ends write, then a fate a frame.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    // Over IPv6 every segment counts marks.
    let ecn = if how & 1 == 0 { EcnMode::Passive } else { EcnMode::Accurate };
    let mut ends = [end(1, ecn), end(2, ecn)];
    ends[0].plan = u32::from(input.u16()) * 4;
    ends[1].plan = u32::from(input.u16()) * 4;
    let server = if how & 1 == 0 { "10.0.0.2:80" } else { "[fd00::2]:80" };
    let listener = ends[1]
        .stack
        .listen("[::]:80".parse().expect("an address"), &ListenOptions::default())
        .expect("a free port");
    let mut options = StreamOptions::default();
    options.nodelay = how & 2 != 0;
    let client = ends[0].stack.connect(server.parse().expect("an address"), None, &options).expect("a route");
    ends[0].stream = Some(client);
    let mut link = Link { held: Vec::new(), old: Vec::new(), lost: [0; 2], forged: false };
    let mut now = Instant::ZERO;
    let chunk = usize::from(how >> 2) * 100 + 50;
    for turn in 0.. {
        assert!(turn < TURNS, "a stall: {}", describe(&ends));
        if ends[1].stream.is_none()
            && let Some(accepted) = once(|cx| ends[1].stack.poll_accept(cx, listener))
        {
            ends[1].stream = Some(accepted.expect("a listener that is open").0);
        }
        for (which, end) in ends.iter_mut().enumerate() {
            work(end, which, chunk);
        }
        let mut busy = false;
        for which in 0..2 {
            let end = &mut ends[which];
            busy |= end.stack.poll(now).expect("the device is there") > 0;
            end.stack.flush(now).expect("the device is there");
            let sent: Vec<Vec<u8>> = end.queues.borrow_mut().tx.drain(..).collect();
            for frame in sent {
                busy = true;
                judge(&frame, [2, 0, 0, 0, 0, which as u8 + 1], 1500);
                link.carry(which, frame, &mut ends, &mut input);
            }
        }
        // A host that nobody has reached has nothing to end.
        if ends.iter().all(|end| end.ended || end.failed || end.stream.is_none() && ends[0].failed) {
            break;
        }
        if busy {
            continue;
        }
        if !link.held.is_empty() {
            // What was held back arrives when nothing else does.
            for (to, frame) in std::mem::take(&mut link.held) {
                ends[to].queues.borrow_mut().rx.push_back(frame);
            }
            continue;
        }
        let next = ends.iter().filter_map(|end| end.stack.deadline()).min();
        match next {
            Some(next) => now = now.max(next),
            None => panic!("nothing more will happen: {}", describe(&ends)),
        }
    }
    let failed = ends.iter().any(|end| end.failed);
    let lossy = link.lost.iter().sum::<u32>() >= SURVIVABLE;
    assert!(!failed || lossy || link.forged, "a connection failed on a good link: {}", describe(&ends));
    if !failed {
        assert_eq!((ends[0].read, ends[1].read), (ends[1].plan, ends[0].plan), "read beside planned");
    }
}

/// The application of one end: writes its plan in chunks, shuts, reads to the end.
fn work(end: &mut End, which: usize, chunk: usize) {
    let Some(stream) = end.stream.filter(|_| !end.failed) else { return };
    match once(|cx| end.stack.poll_connect(cx, stream)) {
        Some(Ok(())) => {}
        Some(Err(_)) => {
            end.failed = true;
            return;
        }
        None => return,
    }
    let left = (end.plan - end.written).min(chunk as u32);
    if left > 0 {
        let bytes: Vec<u8> = (0..left).map(|at| byte_of(which, end.written + at)).collect();
        match once(|cx| end.stack.poll_write(cx, stream, &[IoSlice::new(&bytes)])) {
            Some(Ok(count)) => end.written += count as u32,
            Some(Err(_)) => end.failed = true,
            None => {}
        }
    } else if !end.shut {
        end.shut = true;
        if end.stack.shutdown(stream, Shutdown::Write).is_err() {
            end.failed = true;
        }
    }
    while !end.ended && !end.failed {
        let mut into = [0; 2048];
        let mut cursor = ReadCursor::new(&mut into);
        match once(|cx| end.stack.poll_read(cx, stream, &mut cursor)) {
            Some(Ok(())) => {
                let count = cursor.filled();
                for (at, byte) in into[..count].iter().enumerate() {
                    let offset = end.read + at as u32;
                    assert_eq!(
                        *byte,
                        byte_of(1 - which, offset),
                        "byte {offset} of what came to end {which}"
                    );
                }
                end.read += count as u32;
                end.ended = count == 0;
            }
            Some(Err(_)) => end.failed = true,
            None => break,
        }
    }
}

impl Link {
    fn carry(&mut self, from: usize, mut frame: Vec<u8>, ends: &mut [End; 2], input: &mut Input<'_>) {
        let to = 1 - from;
        let fate = if input.is_empty() { 0 } else { input.u8() };
        self.old.push((to, frame.clone()));
        if self.old.len() > KEPT {
            self.old.remove(0);
        }
        let put = |to: usize, frame: Vec<u8>| ends[to].queues.borrow_mut().rx.push_back(frame);
        match fate & 15 {
            0..=6 => put(to, frame),
            7 => self.lost[from] += 1,
            8 => {
                put(to, frame.clone());
                put(to, frame);
            }
            9 if self.held.len() < KEPT => self.held.push((to, frame)),
            10 => {
                let at = usize::from(input.u16()) % frame.len();
                let change = input.u8().max(1);
                // Not those of stations and of IPv6 that no checksum covers.
                let covered = if frame[12..14] == [8, 0] { 14..frame.len() } else { 18..frame.len() };
                if covered.contains(&at) && frame[12..14] != [8, 6] && !is_discovery(&frame) {
                    frame[at] ^= change;
                    self.lost[from] += 1;
                    // What lies in an IPv6 header outside of the pseudo header changes no meaning that matters here.
                    self.forged |= frame[12..14] == [0x86, 0xdd] && at < 54;
                }
                put(to, frame);
            }
            11 => {
                frame.truncate(usize::from(input.u16()) % frame.len());
                self.lost[from] += 1;
                put(to, frame);
            }
            12 => {
                put(to, frame);
                let (to, old) = self.old[input.below(self.old.len())].clone();
                put(to, old);
            }
            13 => {
                if let Some(forged) = forge(&frame, fate >> 4, input) {
                    put(to, forged);
                }
                put(to, frame);
            }
            // Lately held ones overtake.
            14 => {
                for (to, old) in std::mem::take(&mut self.held).into_iter().rev() {
                    put(to, old);
                }
                put(to, frame);
            }
            _ => put(to, frame),
        }
    }
}

fn is_discovery(frame: &[u8]) -> bool {
    parts(frame).is_some_and(|parts| parts.protocol == protocol::ICMPV6)
}

/// A stranger's segment of the same connection: a RST, a SYN or data far outside of the window.
fn forge(frame: &[u8], how: u8, input: &mut Input<'_>) -> Option<Vec<u8>> {
    let parts = parts(frame).filter(|parts| parts.protocol == protocol::TCP)?;
    if parts.message[13] & 2 != 0 {
        return None; // Before the handshake ends, any number is as good as another.
    }
    let mut message = parts.message.to_vec();
    let seq = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
    // No receive buffer here is larger than 8 MiB.
    let far = 0x1000_0000 + (input.u32() & 0x5fff_ffff);
    message[4..8].copy_from_slice(&seq.wrapping_add(far).to_be_bytes());
    message[13] = [4, 20, 2, 18, 16, 24, 17, 0][usize::from(how & 7)];
    if how & 8 != 0 {
        message.truncate(usize::from(message[12] >> 4) * 4);
    }
    let mut forged = crate::frames::ip(parts.src, parts.dst, protocol::TCP, 64, &message);
    forged[..12].copy_from_slice(&frame[..12]);
    Some(forged)
}

fn describe(ends: &[End; 2]) -> String {
    let one = |end: &End| {
        let info = end.stream.map(|stream| end.stack.tcp_info(stream));
        format!(
            "planned {}, written {}, read {}, ended {}, failed {}, {info:?}",
            end.plan, end.written, end.read, end.ended, end.failed
        )
    };
    format!("{}; {}", one(&ends[0]), one(&ends[1]))
}
