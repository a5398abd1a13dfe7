//! A peer of another make: one that speaks the protocol as it is written down is served, and one that breaks it loses its own connection and
//! nothing else. The rules themselves are tested and fuzzed without adapters (`rdma::proto`); here they meet one.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use demi_drivers::Transport;
use demi_drivers::rdma::proto::Refusal;
use demi_drivers::transport::{ListenerId, StreamId, StreamOptions};

use crate::raw_peer::{ANSWER, CONTROL, DATA, FIN, HEARD, Header, Heard, OFFER, RawPeer, credits_of, hello};
use crate::support::{Cable, Ip, machine_has_rdma, pattern};

/// A server at the second end, and an honest client at the first that is served all the while.
struct Served {
    cable: Cable,
    listener: ListenerId,
    address: SocketAddr,
    honest: (StreamId, StreamId),
    slots: (usize, usize),
}

impl Served {
    fn new() -> Served {
        let mut cable = Cable::new();
        let (listener, address) = cable.listen(Ip::V4, 1);
        let honest = cable.connect(listener, address);
        let mut served = Served { cable, listener, address, honest, slots: (0, 0) };
        served.is_well();
        served.slots = served.slots_out();
        served
    }

    fn slots_out(&self) -> (usize, usize) {
        let stats = self.cable.ends[1].pool().stats();
        (stats.slots_out, stats.large_slots_out)
    }

    /// The honest client is answered, and nothing of anybody else is left.
    #[track_caller]
    fn is_well(&mut self) {
        let (one, other) = self.honest;
        for size in [1, 3000] {
            let bytes = pattern(size, size);
            self.cable.write_all(0, one, &bytes);
            assert_eq!(self.cable.read_exact(1, other, size), bytes);
            self.cable.write_all(1, other, &bytes);
            assert_eq!(self.cable.read_exact(0, one, size), bytes);
        }
        // What was sent is held until a completion tells of it, which one that waits has asked for.
        self.cable.wait(|ends, cx| ends[1].poll_drained(cx, other)).unwrap();
        self.cable.wait(|ends, cx| ends[0].poll_drained(cx, one)).unwrap();
    }

    /// Waits until nothing is out but what was in the beginning, and nobody is there but the honest client.
    #[track_caller]
    fn is_clean(&mut self) {
        let slots = self.slots;
        self.cable.wait(|ends, _| {
            let stats = ends[1].pool().stats();
            let same = (stats.slots_out, stats.large_slots_out) == slots;
            if ends[1].usage().streams == 1 && same { Poll::Ready(()) } else { Poll::Pending }
        });
    }

    fn ask(&mut self, private: &[u8]) -> (RawPeer, Heard) {
        let from = SocketAddr::new(Ip::V4.of(0), 0);
        RawPeer::connect(&mut self.cable, (from, self.address), private)
    }

    /// A connection that was accepted, introduced if `introduced`; the credits it was given.
    #[track_caller]
    fn connected(&mut self, credits: u16) -> (RawPeer, u16) {
        let (peer, heard) = self.ask(&hello(credits));
        let Heard::Established(theirs) = heard else { panic!("not accepted: {heard:?}") };
        assert_eq!(&theirs[..6], b"demi\x01\x01");
        (peer, credits_of(&theirs))
    }

    #[track_caller]
    fn accept(&mut self) -> StreamId {
        let listener = self.listener;
        self.cable.wait(|ends, cx| ends[1].poll_accept(cx, listener)).unwrap().0
    }

    /// Sees that the server has given `other` up, and that nothing is left of it or of its peer.
    #[track_caller]
    fn is_over(&mut self, other: StreamId, mut peer: RawPeer) -> std::io::Error {
        let error = loop {
            match self.cable.read(1, other, 1 << 16) {
                Ok(bytes) if !bytes.is_empty() => {}
                // Behind the end of a stream there is no error to read.
                Ok(_) => {
                    break self.cable.wait(|ends, _| match ends[1].take_error(other).unwrap() {
                        Some(error) => Poll::Ready(error),
                        None => Poll::Pending,
                    });
                }
                Err(error) => break error,
            }
        };
        while peer.receive(&mut self.cable).is_some() {}
        drop(peer);
        self.cable.ends[1].close(other);
        self.is_well();
        self.is_clean();
        error
    }
}

#[test]
fn a_peer_that_speaks_the_protocol_as_it_is_written_down_is_served() {
    if !machine_has_rdma() {
        return;
    }
    let mut served = Served::new();
    let (mut peer, credits) = served.connected(8);
    assert!(credits >= 2);
    peer.introduce(&mut served.cable);
    let other = served.accept();
    let mut received = 0;
    // More than there are credits, so some have to come back.
    for round in 0..40u8 {
        peer.send(
            Header { kind: DATA, credits: u16::from(received > 0), ..Header::default() },
            &[round; 500],
        );
        assert_eq!(served.cable.read_exact(1, other, 500), [round; 500]);
        served.cable.write_all(1, other, &[round; 500]);
        let message = loop {
            let message = peer.receive(&mut served.cable).expect("a message");
            match Header::parse(&message).kind {
                DATA => break message,
                CONTROL => peer.send(Header { kind: ANSWER, flags: HEARD, ..Header::default() }, &[]),
                kind => assert_eq!(kind, ANSWER),
            }
        };
        assert_eq!(&message[16..], [round; 500]);
        assert_eq!(Header::parse(&message).length, 500);
        received = 1;
    }
    // An offer, which the server reads out of this one's memory.
    let bytes = pattern(7, 5000);
    let (address, key) = peer.exposed(&bytes);
    let mut offer = address.to_be_bytes().to_vec();
    offer.extend(key.to_be_bytes());
    offer.extend(5000u32.to_be_bytes());
    peer.send(Header { kind: OFFER, credits: 1, ..Header::default() }, &offer);
    assert_eq!(served.cable.read_exact(1, other, 5000), bytes);
    // And an orderly end: the server's, then this one's, which has to disconnect, since its end is acknowledged last.
    served.cable.ends[1].shutdown(other, std::net::Shutdown::Write).unwrap();
    let mut done = 0;
    loop {
        let header = Header::parse(&peer.receive(&mut served.cable).expect("the end"));
        done += header.done;
        match header.kind {
            CONTROL => peer.send(Header { kind: ANSWER, flags: HEARD, ..Header::default() }, &[]),
            DATA if header.flags & FIN != 0 => break,
            _ => {}
        }
    }
    peer.send(Header { kind: DATA, flags: FIN, ..Header::default() }, &[]);
    assert_eq!(served.cable.read(1, other, 10).unwrap(), b"");
    peer.disconnect();
    while let Some(message) = peer.receive(&mut served.cable) {
        done += Header::parse(&message).done;
    }
    assert_eq!(done, 1, "the offer was done with");
    served.cable.ends[1].close(other);
    drop(peer);
    served.cable.wait(|ends, _| match ends[1].usage().streams {
        1 => Poll::Ready(()),
        _ => Poll::Pending,
    });
    served.is_well();
}

#[test]
fn hellos_that_nobody_can_work_with_are_refused_with_the_reason() {
    if !machine_has_rdma() {
        return;
    }
    let mut served = Served::new();
    let changed = |at: usize, byte: u8| {
        let mut bytes = hello(8);
        bytes[at] = byte;
        bytes
    };
    let later = {
        let mut bytes = hello(8);
        (bytes[4], bytes[5]) = (9, 9);
        bytes
    };
    let no_credits = {
        let mut bytes = hello(0);
        bytes[9] = 0;
        bytes
    };
    for (private, refusal) in [
        (Vec::new(), Refusal::Stranger),
        (vec![0; 56], Refusal::Stranger),
        (hello(8)[..12].to_vec(), Refusal::Limits),
        (changed(0, b'D'), Refusal::Stranger),
        (later, Refusal::Version),
        (no_credits, Refusal::Limits),
    ] {
        let (_peer, heard) = served.ask(&private);
        let Heard::Rejected(said) = heard else { panic!("{private:?}: {heard:?}") };
        assert_eq!(Refusal::parse(&said), Some(refusal), "{private:?}");
    }
    assert_eq!(served.cable.count(1, "RdmaRefused"), 6);
    assert_eq!(served.cable.ends[1].usage().streams, 1);
    served.is_well();
}

/// What a peer that has been introduced sends, of which the last message is one too many, or wrong.
type Crime = fn(&mut RawPeer, credits: u16);

#[test]
fn whoever_breaks_a_rule_loses_its_connection_and_nobody_elses() {
    if !machine_has_rdma() {
        return;
    }
    let crimes: [(&str, Crime); 16] = [
        ("shorter than its header", |peer, _| peer.send_bytes(&[1; 15])),
        ("shorter than its header", |peer, _| peer.send_bytes(&[])),
        ("unknown kind", |peer, _| peer.send(Header { kind: 9, ..Header::default() }, b"x")),
        ("flags", |peer, _| peer.send(Header { kind: DATA, flags: 0x80, ..Header::default() }, b"x")),
        ("lies about its length", |peer, _| {
            peer.send_numbered(Header { kind: DATA, sequence: 1, length: 1000, ..Header::default() }, b"x");
        }),
        ("lies about its length", |peer, _| {
            peer.send_numbered(Header { kind: DATA, sequence: 1, length: 1, ..Header::default() }, &[0; 500]);
        }),
        ("out of turn", |peer, _| {
            peer.send_numbered(Header { kind: DATA, sequence: 7, length: 1, ..Header::default() }, b"x");
        }),
        ("says nothing", |peer, _| peer.send(Header { kind: DATA, ..Header::default() }, &[])),
        ("control message or an answer out of turn", |peer, _| {
            peer.send(Header { kind: ANSWER, flags: HEARD, ..Header::default() }, &[]);
        }),
        ("end of an offer that is not open", |peer, _| {
            peer.send(Header { kind: DATA, done: 1, ..Header::default() }, b"x");
        }),
        ("more credits than can be counted", |peer, _| {
            peer.send(Header { kind: DATA, credits: u16::MAX, ..Header::default() }, b"x");
        }),
        ("behind the end", |peer, _| {
            peer.send(Header { kind: DATA, flags: FIN, ..Header::default() }, b"x");
            peer.send(Header { kind: DATA, ..Header::default() }, b"y");
        }),
        ("more messages than it had credits for", |peer, credits| {
            for _ in 0..=credits {
                peer.send(Header { kind: DATA, ..Header::default() }, &[1; 100]);
            }
        }),
        ("impossible length", |peer, _| {
            let mut offer = u64::MAX.to_be_bytes().to_vec();
            offer.extend([0, 0, 0, 1, 0, 0, 0x10, 0]);
            peer.send(Header { kind: OFFER, ..Header::default() }, &offer);
        }),
        ("impossible length", |peer, _| {
            peer.send(Header { kind: OFFER, ..Header::default() }, &[0; 16]);
        }),
        ("lies about its length", |peer, _| peer.send(Header { kind: OFFER, ..Header::default() }, &[1; 17])),
    ];
    let mut served = Served::new();
    for (number, (says, crime)) in crimes.into_iter().enumerate() {
        let (mut peer, credits) = served.connected(8);
        peer.introduce(&mut served.cable);
        let other = served.accept();
        crime(&mut peer, credits);
        let error = served.is_over(other, peer);
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{number}, {says}: {error}");
        assert!(error.to_string().contains(says), "{number}, {says}: {error}");
    }
    assert_eq!(served.cable.count(1, "RdmaResets"), 16);
}

#[test]
fn an_offer_of_memory_that_is_not_given_ends_its_own_connection_alone() {
    if !machine_has_rdma() {
        return;
    }
    let mut served = Served::new();
    for wrong_key in [true, false] {
        let (mut peer, _) = served.connected(8);
        peer.introduce(&mut served.cable);
        let other = served.accept();
        let (address, key) = peer.exposed(&[7; 1000]);
        // Another key, or more than the key opens.
        let (key, bytes) = if wrong_key { (key ^ 0x55, 1000u32) } else { (key, 50_000) };
        let mut offer = address.to_be_bytes().to_vec();
        offer.extend(key.to_be_bytes());
        offer.extend(bytes.to_be_bytes());
        peer.send(Header { kind: OFFER, ..Header::default() }, &offer);
        let error = served.is_over(other, peer);
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn peers_that_vanish_at_any_point_leave_nothing() {
    if !machine_has_rdma() {
        return;
    }
    let mut served = Served::new();
    for round in 0..50 {
        let (mut peer, _) = served.connected(8);
        let mut other = None;
        if round % 5 > 0 {
            peer.introduce(&mut served.cable);
            other = Some(served.accept());
        }
        if round % 5 > 1 {
            peer.send(Header { kind: DATA, ..Header::default() }, &[1; 700]);
        }
        if round % 5 > 2 {
            // An offer whose memory is gone before it is read.
            let (address, key) = peer.exposed(&[7; 1000]);
            let mut offer = address.to_be_bytes().to_vec();
            offer.extend(key.to_be_bytes());
            offer.extend(1000u32.to_be_bytes());
            peer.send(Header { kind: OFFER, ..Header::default() }, &offer);
        }
        if round % 5 > 3 {
            peer.disconnect();
        }
        drop(peer);
        if let Some(other) = other {
            while reads_on(&mut served.cable, other) {}
            served.cable.ends[1].close(other);
        }
    }
    let listener = served.listener;
    served.cable.wait(|ends, cx| {
        // Those that never said a word.
        if let Poll::Ready(Ok((stream, _))) = ends[1].poll_accept(cx, listener) {
            ends[1].abort(stream);
        }
        if ends[1].usage().streams == 1 { Poll::Ready(()) } else { Poll::Pending }
    });
    served.is_well();
    served.is_clean();
}

/// Reads on; whether there is more to come.
fn reads_on(cable: &mut Cable, stream: StreamId) -> bool {
    cable.read(1, stream, 1 << 16).is_ok_and(|bytes| !bytes.is_empty())
}

#[test]
fn servers_of_another_make_are_told_apart_by_what_they_say() {
    if !machine_has_rdma() {
        return;
    }
    let mut cable = Cable::with(|config| config.connect_timeout = Duration::from_secs(3));
    let address = SocketAddr::new(Ip::V4.of(1), 7175);
    let mut peer = RawPeer::listen(address);
    let mut ask = |peer: &mut RawPeer, answer: &dyn Fn(&mut RawPeer)| {
        let stream = cable.ends[0].connect(address, None, &StreamOptions::default()).unwrap();
        let Heard::Request(hello) = peer.heard(&mut cable) else { panic!("no request") };
        assert_eq!(&hello[..6], b"demi\x01\x01");
        answer(peer);
        let error = cable.wait(|ends, cx| ends[0].poll_connect(cx, stream)).unwrap_err();
        cable.ends[0].close(stream);
        error
    };
    let error = ask(&mut peer, &|peer| peer.reject(&Refusal::Busy.emit()));
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    assert!(error.to_string().contains("backlog"), "{error}");
    let error = ask(&mut peer, &|peer| peer.reject(b"go away"));
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    let error = ask(&mut peer, &|_| {});
    assert_eq!(error.kind(), ErrorKind::TimedOut, "nobody answers: {error}");
    drop(peer);
    for (private, says) in [(&b"hello?"[..], "does not speak"), (&[0; 40][..], "does not speak")] {
        let mut peer = RawPeer::listen(address);
        let error = ask(&mut peer, &|peer| peer.accept(private));
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}
