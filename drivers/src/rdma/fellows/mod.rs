//! Several cores of a program on one device: who listens where, and connections on their way from the core that hears them to the one
//! that serves them.
//!
//! Each core has queues, memory and a channel of events of its own; only a port is one for all of them, since the connection manager
//! gives it to one identifier. The core that takes a port first hears for all that take it after; who asks for a connection there is
//! handed on to the core whose turn it is, and never comes back. Whoever asks for datagrams is told the queue of one core, always the same.
//! When the core that hears closes its socket, the identifiers move on to another. Owns what is on the way between cores, and the list of
//! who listens; locks are held for set-ups, never for data.

mod routing;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::verbs::cm::{Id, Kind, Told};
use crate::sockets::explain;
use crate::transport::Handle;

/// What the cores of a program share of an RDMA device. See [`Rdma::open_among`](super::Rdma::open_among).
#[derive(Debug)]
pub struct Fellows {
    members: Box<[Member]>,
    hearings: Mutex<Vec<Hearing>>,
    lost: AtomicBool,
    spread: RandomState,
}

/// One core.
#[derive(Debug)]
struct Member {
    /// Something was left in the inbox.
    rung: AtomicBool,
    /// Ends a wait when it is written to; there from when the core has opened its device.
    bell: OnceLock<OwnedFd>,
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    /// Somebody will look.
    open: bool,
    parcels: Vec<Parcel>,
}

/// Something that one core leaves for another.
#[derive(Debug)]
pub(super) enum Parcel {
    /// Somebody wants a connection.
    Request(Request),
    /// What hears a port, for the listener or socket `to`.
    Ears { kind: Kind, to: Handle, ids: Vec<Id> },
}

/// Somebody wants a connection of the listener `to`, which is the receiving core's.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) to: Handle,
    pub(super) id: Id,
    pub(super) told: Told,
    /// Cores that had no room.
    pub(super) refusals: usize,
}

/// A port, and who serves it, in the order in which they came.
#[derive(Debug)]
struct Hearing {
    kind: Kind,
    address: SocketAddr,
    places: Vec<Place>,
    /// Whose turn it is.
    next: usize,
}

/// A core's part in serving a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its index.
    pub(super) core: usize,
    /// Its listener, or socket of datagrams.
    pub(super) socket: Handle,
    /// The queue pair of its datagrams; 0 while it has none.
    pub(super) queue: u32,
}

/// Whose turn it is, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) place: Place,
    pub(super) of: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic half-way runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fellows {
    /// For a program on so many cores, each of which opens the device with its own index.
    pub fn new(cores: usize) -> Arc<Fellows> {
        let member = || Member {
            rung: AtomicBool::new(false),
            bell: OnceLock::new(),
            inbox: Mutex::new(Inbox { open: false, parcels: Vec::new() }),
        };
        Arc::new(Fellows {
            members: (0..cores).map(|_| member()).collect(),
            hearings: Mutex::new(Vec::new()),
            lost: AtomicBool::new(false),
            spread: RandomState::new(),
        })
    }

    /// Rings for one core, or for all of them.
    fn ring(&self, core: Option<usize>) {
        for (index, member) in self.members.iter().enumerate() {
            if core.is_none_or(|core| core == index)
                && !member.rung.swap(true, Ordering::AcqRel)
                && let Some(bell) = member.bell.get()
            {
                let one = 1u64;
                // SAFETY: the value is readable during the call. A counter that is full rings as well.
                unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
            }
        }
    }

    /// Leaves `parcel` for a core.
    ///
    /// # Errors
    /// The parcel, when that core has ended.
    fn send(&self, core: usize, parcel: Parcel) -> Result<(), Parcel> {
        let Some(member) = self.members.get(core) else { return Err(parcel) };
        {
            let mut inbox = lock(&member.inbox);
            if !inbox.open {
                return Err(parcel);
            }
            inbox.parcels.push(parcel);
        }
        self.ring(Some(core));
        Ok(())
    }
}

/// A core's own view of its fellows.
#[derive(Debug)]
pub(super) struct Fellow {
    all: Arc<Fellows>,
    index: usize,
}

impl Fellow {
    /// Takes the place with this index.
    ///
    /// # Errors
    /// `InvalidInput` when there is none, or somebody has it; what the kernel said.
    pub(super) fn join(all: &Arc<Fellows>, index: usize) -> io::Result<Fellow> {
        let member = all.members.get(index).ok_or_else(|| no_place(index))?;
        // SAFETY: no memory is passed.
        let bell = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if bell < 0 {
            return Err(explain(io::Error::last_os_error(), "cannot open an event descriptor"));
        }
        // SAFETY: the kernel has just opened this descriptor for us.
        let bell = unsafe { OwnedFd::from_raw_fd(bell) };
        member.bell.set(bell).map_err(|_| no_place(index))?;
        lock(&member.inbox).open = true;
        Ok(Fellow { all: Arc::clone(all), index })
    }

    fn member(&self) -> Option<&Member> {
        self.all.members.get(self.index)
    }

    /// This core's index.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The descriptor that is readable when something was left for this core.
    pub(super) fn fd(&self) -> Option<RawFd> {
        self.member().and_then(|member| member.bell.get()).map(AsRawFd::as_raw_fd)
    }

    /// Whether something was.
    #[inline]
    pub(super) fn is_rung(&self) -> bool {
        self.member().is_some_and(|member| member.rung.load(Ordering::Relaxed))
    }

    /// Takes what was left for this core.
    pub(super) fn take(&self) -> Vec<Parcel> {
        let Some(member) = self.member() else { return Vec::new() };
        // Before the inbox is looked at: what comes after that rings again.
        if member.rung.swap(false, Ordering::AcqRel)
            && let Some(bell) = member.bell.get()
        {
            let mut count = 0u64;
            // SAFETY: the value is writable during the call, and the descriptor does not block.
            unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        }
        std::mem::take(&mut lock(&member.inbox).parcels)
    }

    /// This core takes nothing any more; what was left for it.
    pub(super) fn close(&self) -> Vec<Parcel> {
        let Some(member) = self.member() else { return Vec::new() };
        let mut inbox = lock(&member.inbox);
        inbox.open = false;
        std::mem::take(&mut inbox.parcels)
    }

    /// The device is gone, as one core was told for all.
    pub(super) fn lose(&self) {
        if !self.all.lost.swap(true, Ordering::AcqRel) {
            self.all.ring(None);
        }
    }

    /// Whether a core was told that the device is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.all.lost.load(Ordering::Acquire)
    }

    /// Has `socket` serve `address`: beside others if they do so already, else with what `open` makes to hear it. Answers that, and the
    /// port, which is `socket`'s alone when it was for `open` to choose.
    ///
    /// # Errors
    /// `AddrInUse` when this core serves it already; what `open` said.
    pub(super) fn serve(
        &self,
        kind: Kind,
        address: SocketAddr,
        socket: Handle,
        open: impl FnOnce() -> io::Result<(Vec<Id>, u16)>,
    ) -> io::Result<(Vec<Id>, u16)> {
        if address.port() == 0 {
            return open();
        }
        let address = SocketAddr::new(address.ip(), address.port());
        let place = Place { core: self.index, socket, queue: 0 };
        let mut hearings = lock(&self.all.hearings);
        let known = |hearing: &&mut Hearing| hearing.kind == kind && hearing.address == address;
        if let Some(hearing) = hearings.iter_mut().find(known) {
            if hearing.places.iter().any(|place| place.core == self.index) {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "this core listens there already: close that socket or take another port",
                ));
            }
            hearing.places.push(place);
            return Ok((Vec::new(), address.port()));
        }
        let opened = open()?;
        hearings.push(Hearing { kind, address, places: vec![place], next: 0 });
        Ok(opened)
    }

    /// `socket` serves `address` no longer; what it had to hear that with goes to another core that does.
    pub(super) fn leave(&self, kind: Kind, address: SocketAddr, socket: Handle, mut ids: Vec<Id>) {
        let mut hearings = lock(&self.all.hearings);
        let known = |hearing: &Hearing| hearing.kind == kind && hearing.address == address;
        let Some(at) = hearings.iter().position(known) else { return };
        let Some(hearing) = hearings.get_mut(at) else { return };
        hearing.places.retain(|place| (place.core, place.socket) != (self.index, socket));
        // What was on its way to it goes along. Nobody sends more: that takes the lock that is held here.
        if let Some(member) = self.member() {
            let mut inbox = lock(&member.inbox);
            for parcel in std::mem::take(&mut inbox.parcels) {
                match parcel {
                    Parcel::Ears { kind: of, to, ids: more } if (of, to) == (kind, socket) => {
                        ids.extend(more)
                    }
                    other => inbox.parcels.push(other),
                }
            }
        }
        if !ids.is_empty() {
            hearing.places.retain(|place| {
                if ids.is_empty() {
                    return true;
                }
                let parcel = Parcel::Ears { kind, to: place.socket, ids: std::mem::take(&mut ids) };
                match self.all.send(place.core, parcel) {
                    Err(Parcel::Ears { ids: back, .. }) => {
                        ids = back;
                        false
                    }
                    _ => true,
                }
            });
        }
        if hearing.places.is_empty() {
            hearings.remove(at);
        }
        // Dropped before the lock is: whoever takes the port next finds it free.
        drop(ids);
    }

    /// The core whose turn it is to be asked for a connection at `local`; the one behind `after`, if that had no room.
    pub(super) fn turn(&self, local: SocketAddr, after: Option<usize>) -> Option<Turn> {
        self.with(Kind::Connections, local, |hearing| {
            let at = match after {
                Some(core) => 1 + hearing.places.iter().position(|place| place.core == core).unwrap_or(0),
                None => hearing.next,
            };
            let at = at % hearing.places.len().max(1);
            if after.is_none() {
                hearing.next = at + 1;
            }
            hearing.places.get(at).copied()
        })
    }

    /// The place of this core itself, for a request that was handed to its listener `socket`.
    pub(super) fn own_turn(&self, local: SocketAddr, socket: Handle) -> Turn {
        let place = Place { core: self.index, socket, queue: 0 };
        let others = self.with(Kind::Connections, local, |_| Some(place));
        others.unwrap_or(Turn { place, of: 1 })
    }

    /// The queue pair of the core that datagrams of `who` are for, at `local`: the same one each time that it asks.
    pub(super) fn chosen(&self, local: SocketAddr, who: (IpAddr, u64)) -> Option<u32> {
        let hash = self.all.spread.hash_one(who);
        let turn = self.with(Kind::Datagrams, local, |hearing| {
            // By rank, so that few have to move when a core comes or goes.
            let rank = |place: &&Place| self.all.spread.hash_one((hash, place.core));
            hearing.places.iter().filter(|place| place.queue != 0).max_by_key(rank).copied()
        });
        turn.map(|turn| turn.place.queue)
    }

    fn with(
        &self,
        kind: Kind,
        local: SocketAddr,
        choose: impl FnOnce(&mut Hearing) -> Option<Place>,
    ) -> Option<Turn> {
        let mut hearings = lock(&self.all.hearings);
        let heard = |hearing: &&mut Hearing| {
            let own = hearing.address;
            hearing.kind == kind
                && own.port() == local.port()
                && (own.ip().is_unspecified() || own.ip().to_canonical() == local.ip().to_canonical())
        };
        let hearing = hearings.iter_mut().find(heard)?;
        let of = hearing.places.len();
        choose(hearing).map(|place| Turn { place, of })
    }

    /// Hands a request on.
    ///
    /// # Errors
    /// The request, when that core has ended.
    pub(super) fn hand_on(&self, core: usize, request: Request) -> Result<(), Request> {
        match self.all.send(core, Parcel::Request(request)) {
            Err(Parcel::Request(request)) => Err(request),
            _ => Ok(()),
        }
    }

    /// The number of the queue pair that this core's datagrams come by.
    pub(super) fn set_queue(&self, queue: u32) {
        for hearing in lock(&self.all.hearings).iter_mut() {
            for place in hearing.places.iter_mut().filter(|place| place.core == self.index) {
                place.queue = queue;
            }
        }
    }
}

#[cold]
fn no_place(index: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("core {index} has no place of its own on the device: open it once a core"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(index: u32) -> Handle {
        Handle { index, generation: 1 }
    }

    fn fellows(count: usize) -> Vec<Fellow> {
        let all = Fellows::new(count);
        (0..count).map(|index| Fellow::join(&all, index).unwrap()).collect()
    }

    fn nothing(address: SocketAddr) -> impl FnOnce() -> io::Result<(Vec<Id>, u16)> {
        move || Ok((Vec::new(), address.port()))
    }

    const ANY: &str = "0.0.0.0:7000";

    #[test]
    fn the_first_opens_and_all_have_their_turn() {
        let (cores, any) = (fellows(3), ANY.parse().unwrap());
        for (index, core) in cores.iter().enumerate() {
            let open = || match index {
                0 => Ok((Vec::new(), 7000)),
                _ => panic!("a port is opened once"),
            };
            core.serve(Kind::Connections, any, handle(index as u32), open).unwrap();
        }
        let local: SocketAddr = "10.77.0.2:7000".parse().unwrap();
        let turns = |count| -> Vec<usize> {
            (0..count).map(|_| cores[1].turn(local, None).unwrap().place.core).collect()
        };
        assert_eq!(turns(7), [0, 1, 2, 0, 1, 2, 0]);
        let behind = |core| cores[0].turn(local, Some(core)).unwrap();
        assert_eq!((behind(0).place.core, behind(2).place.core, behind(2).of), (1, 0, 3));
        assert_eq!(cores[0].turn("10.77.0.2:7001".parse().unwrap(), None), None);
        cores[0].leave(Kind::Connections, any, handle(0), Vec::new());
        let left = turns(10);
        assert!(!left.contains(&0) && left.contains(&1) && left.contains(&2), "{left:?}");
        cores[1].leave(Kind::Connections, any, handle(1), Vec::new());
        cores[2].leave(Kind::Connections, any, handle(2), Vec::new());
        assert_eq!(cores[0].turn(local, None), None);
    }

    #[test]
    fn a_core_has_a_port_once_and_ports_that_are_chosen_are_its_own() {
        let (cores, any) = (fellows(2), ANY.parse().unwrap());
        cores[0].serve(Kind::Connections, any, handle(0), nothing(any)).unwrap();
        let again = cores[0].serve(Kind::Connections, any, handle(1), nothing(any)).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        cores[0].serve(Kind::Datagrams, any, handle(1), nothing(any)).unwrap();
        let chosen = "0.0.0.0:0".parse().unwrap();
        for core in &cores {
            let (_, port) = core.serve(Kind::Connections, chosen, handle(5), nothing(any)).unwrap();
            assert_eq!(port, 7000);
        }
        assert_eq!(cores[0].turn("10.0.0.1:7000".parse().unwrap(), None).unwrap().of, 1);
    }

    #[test]
    fn who_asks_for_datagrams_is_sent_to_one_core_and_few_move_when_another_goes() {
        let (cores, any) = (fellows(4), ANY.parse().unwrap());
        for (index, core) in cores.iter().enumerate() {
            core.serve(Kind::Datagrams, any, handle(0), nothing(any)).unwrap();
            core.set_queue(index as u32 + 1);
        }
        let local = "10.77.0.2:7000".parse().unwrap();
        let chosen = || -> Vec<u32> {
            let who = |who| ("10.77.0.1".parse().unwrap(), who);
            (0..400).map(|number| cores[0].chosen(local, who(number)).unwrap()).collect()
        };
        let before = chosen();
        assert_eq!(before, chosen());
        assert!((1..5).all(|core| before.iter().filter(|chosen| **chosen == core).count() > 50));
        cores[3].leave(Kind::Datagrams, any, handle(0), Vec::new());
        let after = chosen();
        assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == 4));
        cores[1].set_queue(77);
        let renewed =
            |(before, after): (&u32, &u32)| if *before == 2 { *after == 77 } else { before == after };
        assert!(after.iter().zip(&chosen()).all(renewed));
    }

    #[test]
    fn a_place_is_taken_once_and_loss_is_told_to_all() {
        let all = Fellows::new(2);
        let first = Fellow::join(&all, 0).unwrap();
        for taken in [0, 2] {
            assert_eq!(Fellow::join(&all, taken).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let second = Fellow::join(&all, 1).unwrap();
        assert!(!second.is_rung() && !second.is_lost());
        first.lose();
        assert!(second.is_rung() && second.is_lost() && first.is_lost());
        assert!(second.take().is_empty() && !second.is_rung());
    }
}
