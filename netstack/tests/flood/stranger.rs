//! A stranger's own connection, as far as the hand keeps it: real numbers, and a dishonest use of them.

use crate::ground::{Ground, Service};
use crate::packets::{ACK, SYN, Segment, VICTIM_V4, read};

/// The stranger's address, which the victim knows.
pub(crate) const STRANGER: [u8; 4] = [10, 0, 0, 66];

/// A connection to port 80.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stranger {
    pub(crate) port: u16,
    /// Our next sequence number.
    pub(crate) seq: u32,
    /// The victim's first byte.
    pub(crate) first: u32,
    pub(crate) window: u16,
}

impl Stranger {
    /// A segment of it.
    pub(crate) fn segment(&self, seq: u32, ack: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let segment =
            Segment { ports: (self.port, 80), seq, ack, flags, window: self.window, options, payload };
        segment.frame(STRANGER.into(), VICTIM_V4.into())
    }

    /// Shakes hands: an MSS of `mss` and SACK are offered, nothing else.
    pub(crate) fn connect(ground: &mut Ground, port: u16, mss: u16, window: u16) -> Stranger {
        let mut stranger = Stranger { port, seq: 5000, first: 0, window };
        let [high, low] = mss.to_be_bytes();
        let syn = stranger.segment(5000, 0, SYN, &[2, 4, high, low, 4, 2, 1, 1], &[]);
        ground.inject(&syn);
        let answers = ground.millisecond();
        let answer = answers.iter().filter_map(|frame| read(frame)).find(|answer| answer.0 == (80, port));
        let (_, seq, ack, flags, _) = answer.expect("a SYN-ACK");
        assert_eq!((ack, flags), (5001, SYN | ACK));
        (stranger.seq, stranger.first) = (5001, seq.wrapping_add(1));
        let ack = stranger.segment(5001, stranger.first, ACK, &[], &[]);
        ground.inject(&ack);
        stranger
    }
}

/// A ground with that service and one stranger connected to it.
pub(crate) fn with_stranger(service: Service, mss: u16, window: u16) -> (Ground, Stranger) {
    let mut ground = Ground::new(crate::ground::victim());
    ground.serve(service, 128);
    let stranger = Stranger::connect(&mut ground, 4000, mss, window);
    for _ in 0..10 {
        ground.millisecond();
    }
    assert_eq!(ground.accepted.len(), 1);
    (ground, stranger)
}
