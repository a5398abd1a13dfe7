//! What no socket of ours would send.

use std::net::SocketAddr;
use std::rc::Rc;

use smallvec::smallvec;

use super::super::proto::datagram::Head;
use super::super::tests::machine_has_rdma;
use super::super::{Rdma, RdmaConfig};
use crate::time::Instant;
use crate::transport::{DatagramId, DatagramOptions, Transport};
use crate::{Buf, PoolConfig};

struct Cable {
    ends: [Rdma; 2],
    start: std::time::Instant,
}

impl Cable {
    fn turn_until(&mut self, what: &str, done: impl Fn(&[Rdma; 2]) -> bool) {
        let begun = std::time::Instant::now();
        while !done(&self.ends) {
            let now = Instant::from_nanos(self.start.elapsed().as_nanos() as u64 + 1_000_000_000);
            for end in &mut self.ends {
                end.flush(now).unwrap();
                end.poll(now).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_micros(200));
            assert!(begun.elapsed().as_secs() < 60, "waited in vain until {what}");
        }
    }

    fn bind(&mut self, end: usize, address: &str) -> (DatagramId, SocketAddr) {
        let end = &mut self.ends[end];
        let socket = end.bind_datagram(address.parse().unwrap(), &DatagramOptions::default()).unwrap();
        (socket, end.datagram_addr(socket).unwrap())
    }
}

#[test]
fn a_header_that_is_wrong_or_lies_is_counted_and_dropped() {
    if !machine_has_rdma() {
        return;
    }
    let open = |device: &str| {
        let mut config = RdmaConfig::new(device);
        config.pool = PoolConfig { slots: 512, large_slots: 0, huge_pages: false, ..PoolConfig::default() };
        Rdma::open(&config).unwrap()
    };
    let mut cable = Cable { ends: [open("rxe0"), open("rxe1")], start: std::time::Instant::now() };
    let (one, from) = cable.bind(0, "10.77.0.1:0");
    let (_, to) = cable.bind(1, "10.77.0.2:0");
    // An honest one first, by which the way is found.
    let mut buf = cable.ends[0].pool().copy_from_slice(b"honest");
    let cx = &mut core::task::Context::from_waker(core::task::Waker::noop());
    assert!(cable.ends[0].poll_send_to(cx, one, &mut buf, Some(to)).is_ready());
    cable.turn_until("the honest one is there", |ends| ends[1].datagrams.counters.in_datagrams == 1);
    let key = (from.ip(), to);
    let peer = cable.ends[0].datagrams.peers.find(&key).unwrap();
    let way = cable.ends[0].datagrams.peers.get_mut(peer).and_then(|peer| peer.way.clone()).unwrap();

    let honest = Head { from, to, bytes: 4 };
    let with = |head: Head| {
        let mut bytes = vec![7; head.len() + 4];
        head.emit(&mut bytes);
        bytes
    };
    let mut later_version = with(honest);
    later_version[0] += 1;
    let liar: SocketAddr = "10.77.0.9:5".parse().unwrap();
    let hostile: [Vec<u8>; 9] = [
        Vec::new(),
        vec![0xff; 3],
        vec![0; 1024],
        with(Head { bytes: 3, ..honest }),
        with(Head { bytes: 5, ..honest }),
        later_version,
        with(Head { from: liar, ..honest }),
        with(Head { to: SocketAddr::new(liar.ip(), to.port()), ..honest }),
        with(Head { from: "[fd77::1]:5".parse().unwrap(), to: "[fd77::2]:7".parse().unwrap(), bytes: 4 }),
    ];
    let count = hostile.len() as u64;
    for bytes in hostile {
        let buf: Buf = cable.ends[0].pool().copy_from_slice(&bytes).unwrap();
        let queue = cable.ends[0].datagrams.queue.as_mut().unwrap();
        queue.send(smallvec![buf], &Rc::clone(&way)).unwrap();
    }
    cable.turn_until("all are counted", |ends| ends[1].datagrams.counters.in_errors == count);
    assert_eq!(cable.ends[1].datagrams.counters.in_datagrams, 1);
    // A port that nobody has is no error of the sender's.
    let buf = cable.ends[0]
        .pool()
        .copy_from_slice(&with(Head { to: SocketAddr::new(to.ip(), 1), ..honest }))
        .unwrap();
    cable.ends[0].datagrams.queue.as_mut().unwrap().send(smallvec![buf], &way).unwrap();
    cable.turn_until("it is counted", |ends| ends[1].datagrams.counters.no_ports == 1);
    // Nothing of that is held: the queue is full again.
    cable.turn_until("slots wait again", |ends| !ends[1].datagrams.is_short());
    assert_eq!(cable.ends[1].datagrams.queued, 1);
}
