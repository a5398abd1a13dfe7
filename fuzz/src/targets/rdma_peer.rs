//! The byte stream on RDMA messages: a session with a peer that says whatever it likes, and two sessions joined by queue pairs that
//! reorder what verbs let them.
//!
//! Both stories, and their judges, are the driver's own models; its property tests tell them with random bytes, this target with bytes that
//! coverage found. Hellos and rejections, which are read before there is a session, are told in a third, and so are datagrams.

use demi_drivers::rdma::proto::{Hello, Refusal, datagram, model};

/// The first byte says which story it is.
pub fn run(bytes: &[u8]) {
    let Some((which, story)) = bytes.split_first() else { return };
    match which % 4 {
        0 | 1 => model::hostile(story),
        2 => model::pair(story),
        _ => {
            private_data(story);
            datagram(story);
        }
    }
}

/// A datagram's header that is taken is one that would be written, and lies where it says; what is in front of it may be anything.
fn datagram(bytes: &[u8]) {
    let _ = datagram::introduced(bytes);
    let network = bytes.first_chunk::<{ datagram::GRH_BYTES }>();
    for received in [bytes, bytes.get(datagram::GRH_BYTES..).unwrap_or(&[])] {
        let Ok(head) = datagram::Head::parse(received) else { continue };
        assert_eq!(head.len() + usize::from(head.bytes), received.len());
        let mut written = received.to_vec();
        head.emit(&mut written);
        assert_eq!(written, received);
        if let Some(network) = network
            && head.check(network).is_ok()
        {
            assert_eq!(datagram::ends(network), Some((head.from.ip(), head.to.ip())));
        }
    }
}

/// A hello that is taken is one that would be written; a refusal can be told to the other side.
fn private_data(bytes: &[u8]) {
    match Hello::parse(bytes) {
        Ok(hello) => {
            assert_eq!(Hello::parse(&hello.emit()), Ok(hello));
            assert!(hello.payload_bytes() > 0 && hello.credits > 0);
        }
        Err(refusal) => assert_eq!(Refusal::parse(&refusal.emit()), Some(refusal)),
    }
    if let Some(refusal) = Refusal::parse(bytes) {
        assert!(!refusal.error().to_string().contains('\n'));
    }
}
