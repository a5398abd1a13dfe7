//! The wrappers against the kernel's own adapter: two `rxe` devices at the ends of a cable, in a guest. Both ends of each
//! connection are driven by one thread, in turns.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smallvec::smallvec;

use super::cm::{Channel, Id, News, Reads};
use super::cq::{Batch, CompletionQueue, Status};
use super::device::Device;
use super::memory::{Access, Domain, Region, Window};
use super::qp::{Done, QueuePair, SEQUENCE_BITS, Scratch, Shape};
use super::srq::SharedReceives;
use crate::mem::{BufMut, Pool, PoolConfig};
use crate::rdma::tests::machine_has_rdma;

const SHAPE: Shape = Shape { depth: 16, inline_bytes: 128 };
const LIMIT: Duration = Duration::from_secs(10);
const TAG: u64 = 1 << 40;

/// One end: a device and all its queues.
struct End {
    device: Rc<Device>,
    domain: Rc<Domain>,
    pool: Pool,
    region: Rc<Region>,
    completions: Rc<CompletionQueue>,
    receives: Rc<SharedReceives>,
    channel: Arc<Channel>,
    batch: Batch,
    scratch: Scratch,
}

impl End {
    fn new(device: &str) -> End {
        let device = Device::open(device).unwrap();
        let domain = Domain::new(&device).unwrap();
        let pool = Pool::new(&PoolConfig::small(64)).unwrap();
        let access = Access { remote_read: true, windows: true, ..Access::default() };
        let region = Region::of_pool(&domain, &pool, access).unwrap();
        let completions = CompletionQueue::new(&device, 128).unwrap();
        let receives = SharedReceives::new(&domain, &region, 16, 1024).unwrap();
        receives.fill(&pool).unwrap();
        assert_eq!((receives.posted(), receives.missing()), (16, 0));
        let channel = Channel::new().unwrap();
        let (batch, scratch) = (Batch::new(), Scratch::default());
        End { device, domain, pool, region, completions, receives, channel, batch, scratch }
    }

    fn pair(&self, id: Id) -> QueuePair {
        assert!(id.is_on(&self.device));
        QueuePair::new(
            id,
            &self.domain,
            &self.completions,
            &self.receives,
            [&self.region, &self.region],
            SHAPE,
            TAG,
        )
        .unwrap()
    }

    fn news(&self) -> News {
        for _ in 0..10_000 {
            if let Some((_, news)) = self.channel.next().unwrap() {
                return news;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no event came");
    }

    fn send(&mut self, pair: &mut QueuePair, message: &[u8], signal: bool) {
        let buf = self.pool.copy_from_slice(message).unwrap();
        pair.send(smallvec![buf], signal).unwrap();
    }

    fn post(&mut self, pair: &mut QueuePair) -> usize {
        pair.post(&mut self.scratch, usize::MAX, false).unwrap()
    }

    /// The next message, and what has been done before it.
    fn receive(&mut self, pair: &mut QueuePair, done: &mut Vec<(Done, Status)>) -> BufMut {
        loop {
            let completion = self.completion();
            match completion.id >> SEQUENCE_BITS {
                TAG => {
                    pair.completed(completion.id as u16, completion.status, |one, status| {
                        done.push((one, status));
                    });
                }
                _ => {
                    assert_eq!(completion.status, Status::Success);
                    return self.receives.completed(completion.id, completion.bytes).unwrap();
                }
            }
        }
    }

    /// Waits until all that was posted is done.
    fn settle(&mut self, pair: &mut QueuePair, done: &mut Vec<(Done, Status)>) {
        while pair.posted() > 0 {
            let completion = self.completion();
            assert_eq!(completion.id >> SEQUENCE_BITS, TAG, "no message is expected");
            pair.completed(completion.id as u16, completion.status, |one, status| done.push((one, status)));
        }
    }

    fn completion(&mut self) -> super::cq::Completion {
        for _ in 0..10_000 {
            if let Some(completion) = self.batch.next(&self.completions).unwrap() {
                return completion;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no completion came");
    }
}

/// Two ends, connected over `addresses`: the one that asked, and the one that was asked.
fn connected(one: &End, other: &End, from: &str, to: &str) -> (QueuePair, QueuePair) {
    let listener = Id::new(&other.channel, 7).unwrap();
    let any: SocketAddr = to.parse().unwrap();
    listener.bind(any).unwrap();
    assert!(listener.is_on(&other.device), "the address is the device's");
    listener.listen(4).unwrap();
    let address = listener.local_addr().unwrap();
    assert_ne!(address.port(), 0);

    let id = Id::new(&one.channel, 8).unwrap();
    id.resolve(Some(from.parse().unwrap()), address, LIMIT).unwrap();
    assert!(matches!(one.news(), News::AddressResolved));
    id.resolve_route(LIMIT).unwrap();
    assert!(matches!(one.news(), News::RouteResolved));
    let asking = one.pair(id);
    asking.id().connect(b"hello", Reads::both(4)).unwrap();

    let News::Request(id, told) = other.news() else { panic!("no request came") };
    assert!(told.private.starts_with(b"hello"));
    assert_eq!(told.reads, Reads::both(4));
    id.set_token(9);
    let asked = other.pair(id);
    asked.id().accept(b"well met", Reads::both(4).min(told.reads)).unwrap();
    let News::Established(told) = one.news() else { panic!("it was not accepted") };
    assert!(told.private.starts_with(b"well met"));
    assert!(matches!(other.news(), News::Established(_)));
    assert_eq!(asking.id().peer_addr(), Some(address));
    assert_eq!(asked.id().peer_addr(), asking.id().local_addr());
    (asking, asked)
}

fn messages_cross(from: &str, to: &str) {
    let (mut one, mut other) = (End::new("rxe0"), End::new("rxe1"));
    let (mut asking, mut asked) = connected(&one, &other, from, to);
    let (mut sent, mut answered) = (0, 0);
    let count = |done: &mut Vec<(Done, Status)>, counted: &mut usize| {
        assert!(done.iter().all(|(_, status)| *status == Status::Success), "{done:?}");
        *counted += done.drain(..).count();
    };
    let mut done = Vec::new();
    for round in 0..100_usize {
        // Some go inline, some don't; several go with one doorbell.
        let messages: Vec<Vec<u8>> =
            (0..4).map(|at| vec![(round + at) as u8; 1 + (round * 37 + at) % 1000]).collect();
        for (at, message) in messages.iter().enumerate() {
            one.send(&mut asking, message, at == 3);
        }
        assert_eq!(one.post(&mut asking), 4);
        for message in &messages {
            let received = other.receive(&mut asked, &mut done);
            count(&mut done, &mut answered);
            assert_eq!(&received[..], &message[..]);
            drop(received);
            other.receives.fill(&other.pool).unwrap();
        }
        other.send(&mut asked, b"got them", true);
        assert_eq!(other.post(&mut asked), 1);
        assert_eq!(&one.receive(&mut asking, &mut done)[..], b"got them");
        count(&mut done, &mut sent);
        one.receives.fill(&one.pool).unwrap();
    }
    one.settle(&mut asking, &mut done);
    count(&mut done, &mut sent);
    other.settle(&mut asked, &mut done);
    count(&mut done, &mut answered);
    assert_eq!((sent, answered), (400, 100));
    drop((asking, asked));
    let (pool, posted) = (one.pool.clone(), one.receives.posted());
    assert_eq!(pool.stats().slots_out, posted);
    drop((one, other));
    assert_eq!(pool.stats().slots_out, 0);
}

#[test]
fn messages_cross_over_ipv4() {
    if machine_has_rdma() {
        messages_cross("10.77.0.1:0", "10.77.0.2:0");
    }
}

#[test]
fn messages_cross_over_ipv6() {
    if machine_has_rdma() {
        messages_cross("[fd77::1]:0", "[fd77::2]:0");
    }
}

#[test]
fn a_read_fetches_what_the_peer_has_given_a_key_of() {
    if !machine_has_rdma() {
        return;
    }
    let (mut one, mut other) = (End::new("rxe0"), End::new("rxe1"));
    let (mut asking, mut asked) = connected(&one, &other, "10.77.0.1:0", "10.77.0.2:0");
    let treasure: Vec<u8> = (0..1500).map(|at| at as u8).collect();
    let treasure = other.pool.copy_from_slice(&treasure).unwrap();
    let remote = (treasure.as_ptr().addr() as u64, other.region.remote_key());
    let slot = one.pool.alloc(1500).unwrap();
    assert!(asking.read(slot, 1500, remote).is_ok());
    one.post(&mut asking);
    let mut done = Vec::new();
    one.settle(&mut asking, &mut done);
    let [(Done::Read(read), Status::Success)] = &done[..] else { panic!("{done:?}") };
    assert_eq!(read[..], treasure[..]);
    // A key that nobody has given is refused, and ends the connection.
    let slot = one.pool.alloc(1500).unwrap();
    assert!(asking.read(slot, 1500, (remote.0, remote.1 ^ 0xff00)).is_ok());
    one.send(&mut asking, b"behind it", true);
    one.post(&mut asking);
    done.clear();
    one.settle(&mut asking, &mut done);
    let [(Done::Read(_), first), (Done::Sent, second)] = &done[..] else { panic!("{done:?}") };
    assert_eq!((*first, *second), (Status::Refused, Status::Flushed));
    drop((asking, done));
    other.send(&mut asked, b"anybody there?", true);
    let _ = asked.post(&mut other.scratch, 1, false);
    while !matches!(other.news(), News::Disconnected) {}
}

#[test]
fn a_window_opens_what_it_is_bound_to_and_nothing_once_it_is_closed() {
    if !machine_has_rdma() {
        return;
    }
    let (mut one, mut other) = (End::new("rxe0"), End::new("rxe1"));
    assert!(one.device.limits().memory_windows);
    let (mut asking, mut asked) = connected(&one, &other, "10.77.0.1:0", "10.77.0.2:0");
    let treasure = other.pool.copy_from_slice(&[7; 1500]).unwrap();
    let mut window = Window::new(&other.domain).unwrap();
    let mut done = Vec::new();
    for round in 0..3 {
        let open = treasure.slice(100, 1000);
        let key = asked.bind(round, window, &open).unwrap();
        other.send(&mut asked, b"it is open", true);
        other.post(&mut asked);
        drop(one.receive(&mut asking, &mut done));
        let remote = (open.as_ptr().addr() as u64, key);
        assert!(asking.read(one.pool.alloc(1000).unwrap(), 1000, remote).is_ok());
        asking.probe();
        one.post(&mut asking);
        one.settle(&mut asking, &mut done);
        let [(Done::Read(read), Status::Success), (Done::Probed, Status::Success)] = &done[..] else {
            panic!("{round}: {done:?}")
        };
        assert_eq!(read[..], open[..]);
        done.clear();
        assert!(asked.invalidate(round));
        other.post(&mut asked);
        other.settle(&mut asked, &mut done);
        let Some((Done::Invalidated { name, window: closed }, Status::Success)) = done.pop() else {
            panic!("{round}: {done:?}")
        };
        assert_eq!(name, round);
        window = closed;
        done.clear();
    }
    let remote = (treasure.as_ptr().addr() as u64, window.key());
    assert!(asking.read(one.pool.alloc(100).unwrap(), 100, remote).is_ok());
    one.post(&mut asking);
    one.settle(&mut asking, &mut done);
    let [(Done::Read(_), status)] = &done[..] else { panic!("{done:?}") };
    assert_eq!(*status, Status::Refused);
}

#[test]
fn nobody_listening_is_a_rejection_and_a_refusal_carries_its_reason() {
    if !machine_has_rdma() {
        return;
    }
    let (one, other) = (End::new("rxe0"), End::new("rxe1"));
    let ask = |address: SocketAddr| {
        let id = Id::new(&one.channel, 1).unwrap();
        id.resolve(Some("10.77.0.1:0".parse().unwrap()), address, LIMIT).unwrap();
        assert!(matches!(one.news(), News::AddressResolved));
        id.resolve_route(LIMIT).unwrap();
        assert!(matches!(one.news(), News::RouteResolved));
        let pair = one.pair(id);
        pair.id().connect(b"", Reads::both(1)).unwrap();
        pair
    };
    let _asking = ask("10.77.0.2:9".parse().unwrap());
    let news = one.news();
    assert!(matches!(news, News::Rejected(..)), "{news:?}");

    let listener = Id::new(&other.channel, 7).unwrap();
    listener.bind("10.77.0.2:0".parse().unwrap()).unwrap();
    listener.listen(4).unwrap();
    let _asking = ask(listener.local_addr().unwrap());
    let News::Request(id, _) = other.news() else { panic!("no request came") };
    id.reject(b"not you").unwrap();
    let news = one.news();
    let News::Rejected(_, private) = news else { panic!("{news:?}") };
    assert!(private.starts_with(b"not you"));
}

#[test]
fn an_armed_queue_makes_its_descriptor_readable() {
    if !machine_has_rdma() {
        return;
    }
    let (mut one, mut other) = (End::new("rxe0"), End::new("rxe1"));
    let (mut asking, mut asked) = connected(&one, &other, "10.77.0.1:0", "10.77.0.2:0");
    let readable = |fd, wait_ms| {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry is readable and writable during the call.
        let count = unsafe { libc::poll(&raw mut poll, 1, wait_ms) };
        count == 1
    };
    for _ in 0..3 {
        other.completions.arm().unwrap();
        assert!(!readable(other.completions.fd(), 0), "nothing has come");
        one.send(&mut asking, b"ring", true);
        one.post(&mut asking);
        assert!(readable(other.completions.fd(), 10_000));
        other.completions.take_events();
        assert!(!readable(other.completions.fd(), 0));
        assert_eq!(&other.receive(&mut asked, &mut Vec::new())[..], b"ring");
    }
}
