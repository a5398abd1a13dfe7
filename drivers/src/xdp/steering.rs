//! Which frames come to us: the program on an interface, and its maps, shared by all queues of the interface that this process drives.
//!
//! The first queue to be opened attaches the program, the last to be closed takes it off; a process that is killed does as well,
//! for the link is a descriptor. What each queue's stack has for addresses is kept here, and the union of them is in the map.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::bpf::{self, MapKind};
use super::program::{self, Shape};
use crate::netdev::explain;

/// Addresses of ours that the map holds at most, their groups included.
const MAX_ADDRESSES: u32 = 1024;
/// Queues an interface has at most, as far as we are concerned.
pub(super) const MAX_QUEUES: u32 = 1024;
/// How long an interface that is just being left by another program is waited for.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(2);
const BUSY_STEP: Duration = Duration::from_millis(10);

/// What a program is to steer, alike for all queues of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) vlan: Option<u16>,
    /// Frames may come in several buffers.
    pub(super) frags: bool,
    /// Not in the driver, even if it could.
    pub(super) generic: bool,
}

/// Which answers a stack waits for that come to no address of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Awaited {
    /// DHCP servers', as long as it has no IPv4 address.
    pub(super) dhcp: bool,
    /// Routers'.
    pub(super) routers: bool,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The queue's socket gets it.
    Ours,
    /// The kernel gets it.
    Kernels,
}

/// A program on an interface.
#[derive(Debug)]
pub(super) struct Steering {
    wanted: Wanted,
    network: (u64, u64),
    addresses: OwnedFd,
    state: OwnedFd,
    sockets: OwnedFd,
    /// In the driver.
    pub(super) native: bool,
    _link: OwnedFd,
    queues: Mutex<Vec<Told>>,
}

/// What a queue's stack has told.
#[derive(Debug)]
struct Told {
    queue: u32,
    keys: HashSet<[u8; 16]>,
    state: u32,
}

static ATTACHED: Mutex<Vec<Weak<Steering>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network namespace of the calling thread: an interface's index means nothing without it.
fn network() -> io::Result<(u64, u64)> {
    let namespace = std::fs::metadata("/proc/thread-self/ns/net")?;
    Ok((namespace.dev(), namespace.ino()))
}

/// Does it again for a while, if what it wants is busy.
pub(super) fn patiently<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    loop {
        match attempt() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < BUSY_WAIT => {
                std::thread::sleep(BUSY_STEP);
            }
            done => return done,
        }
    }
}

impl Steering {
    /// The program of an interface: that which is there already, if another queue of this process has attached it, or a new one.
    pub(super) fn attach(name: &str, interface: &str, wanted: Wanted) -> io::Result<Arc<Steering>> {
        let network = network()?;
        let mut attached = lock(&ATTACHED);
        attached.retain(|one| one.strong_count() > 0);
        let there = attached.iter().filter_map(Weak::upgrade);
        if let Some(there) =
            there.into_iter().find(|one| (one.network, one.wanted.index) == (network, wanted.index))
        {
            if there.wanted == wanted {
                return Ok(there);
            }
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{name}: another queue is open with another mac, vlan or mode: give all queues the same"
                ),
            ));
        }
        let steering = Arc::new(Steering::new(name, interface, wanted, network)?);
        attached.push(Arc::downgrade(&steering));
        Ok(steering)
    }

    fn new(name: &str, interface: &str, wanted: Wanted, network: (u64, u64)) -> io::Result<Steering> {
        let failed = |doing: &str| {
            let doing = format!("{name}: {doing}");
            move |error: io::Error| explain(&error, &doing, cure(&error))
        };
        let addresses = bpf::map(MapKind::Hash, 16, 4, MAX_ADDRESSES).map_err(failed("make a BPF map"))?;
        let state = bpf::map(MapKind::Array, 4, 4, 1).map_err(failed("make a BPF map"))?;
        let sockets =
            bpf::map(MapKind::Sockets, 4, 4, MAX_QUEUES).map_err(failed("make a map of sockets"))?;
        let maps = [&addresses, &state, &sockets];
        let link = |frags: bool, native: bool| {
            let program = load(&Wanted { frags, ..wanted }, maps, program::PASS)?;
            patiently(|| bpf::link(program.as_fd(), wanted.index, native))
        };
        let in_driver = match wanted.generic {
            true => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
            false => link(wanted.frags, true),
        };
        let (native, link) = match in_driver {
            Ok(link) => (true, Ok(link)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST | libc::EPERM)) => {
                (true, Err(error))
            }
            // A driver without XDP, or one that has it for smaller frames, or with other queues. Before the stack, segments are not
            // cut yet; kernels before 5.18 know no frames of several buffers.
            Err(_) => (false, link(true, false).or_else(|_| link(false, false))),
        };
        let link = link.map_err(|error| {
            let cure = match error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => {
                    &*format!("another XDP program is attached: ip link set dev {interface} xdp off")
                }
                Some(libc::EINVAL) => "the kernel is older than 5.9, or the interface takes no XDP program",
                _ => cure(&error),
            };
            explain(&error, &format!("{name}: load and attach the XDP program"), cure)
        })?;
        let queues = Mutex::new(Vec::new());
        Ok(Steering { wanted, network, addresses, state, sockets, native, _link: link, queues })
    }

    /// Sends a queue's frames to a socket, which has to be bound to it.
    pub(super) fn add_queue(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        bpf::update(self.sockets.as_fd(), &queue, &socket.as_raw_fd())?;
        lock(&self.queues).push(Told { queue, keys: HashSet::new(), state: 0 });
        Ok(())
    }

    /// Sends a queue's frames to the kernel again.
    pub(super) fn remove_queue(&self, queue: u32) {
        // It may be gone with its socket already.
        let _ = bpf::delete(self.sockets.as_fd(), &queue);
        let _ = self.tell(|queues| queues.retain(|told| told.queue != queue));
    }

    /// Has the addresses and groups of a queue's stack come to us, and what it awaits.
    pub(super) fn set_addresses(&self, queue: u32, all: &[IpAddr], awaited: Awaited) -> io::Result<()> {
        let (keys, state) = (keys(all), state(all, awaited));
        self.tell(|queues| {
            for told in queues.iter_mut().filter(|told| told.queue == queue) {
                (told.keys, told.state) = (keys.clone(), state);
            }
        })
    }

    /// Changes what queues have told, and the maps accordingly: first what is new, so that nothing is missed in between.
    fn tell(&self, change: impl FnOnce(&mut Vec<Told>)) -> io::Result<()> {
        let union = |queues: &[Told]| -> HashSet<[u8; 16]> {
            queues.iter().flat_map(|told| told.keys.iter().copied()).collect()
        };
        let mut queues = lock(&self.queues);
        let before = union(&queues);
        change(&mut queues);
        let after = union(&queues);
        let state = queues.iter().fold(0, |state, told| state | told.state);
        for key in after.difference(&before) {
            bpf::update(self.addresses.as_fd(), key, &1u32)?;
        }
        for key in before.difference(&after) {
            bpf::delete(self.addresses.as_fd(), key)?;
        }
        bpf::update(self.state.as_fd(), &0u32, &state)
    }

    /// What the program says of a frame.
    pub(super) fn verdict(&self, frame: &[u8]) -> io::Result<Verdict> {
        let maps = [&self.addresses, &self.state, &self.sockets];
        // A trial run is at no queue of ours, so there is no socket, and the fall-back tells.
        let program = load(&self.wanted, maps, program::DROP)?;
        match bpf::try_run(program.as_fd(), frame)? {
            program::PASS => Ok(Verdict::Kernels),
            _ => Ok(Verdict::Ours),
        }
    }
}

fn load(wanted: &Wanted, [addresses, state, sockets]: [&OwnedFd; 3], fallback: u32) -> io::Result<OwnedFd> {
    let code = program::assemble(Shape {
        mac: wanted.mac,
        vlan: wanted.vlan,
        addresses: addresses.as_raw_fd(),
        state: state.as_raw_fd(),
        sockets: sockets.as_raw_fd(),
        fallback,
    });
    bpf::load(&code.ok_or(io::ErrorKind::InvalidData)?, wanted.frags)
}

/// What helps against an error of bpf(2).
fn cure(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "no CAP_BPF and CAP_NET_ADMIN: run as root, or setcap cap_net_raw,cap_net_admin,cap_bpf+ep the program"
        }
        Some(libc::ENOSYS) => "the kernel was built without bpf(2)",
        Some(libc::ENOMEM) => "no memory for BPF: raise the limit of locked memory (ulimit -l)",
        _ => "",
    }
}

fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The keys of a stack's addresses and groups. Who is in a group that others tell of themselves hears what routers ask everybody
/// (IGMP's and MLD's queries), too.
fn keys(all: &[IpAddr]) -> HashSet<[u8; 16]> {
    let mut keys: HashSet<[u8; 16]> = all.iter().copied().map(key).collect();
    if all.iter().any(|address| address.is_ipv4() && address.is_multicast()) {
        keys.insert(key(Ipv4Addr::new(224, 0, 0, 1).into()));
    }
    let own = |v6: &Ipv6Addr| v6.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    if all.iter().any(|address| matches!(address, IpAddr::V6(v6) if v6.is_multicast() && !own(v6))) {
        keys.insert(key(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()));
    }
    keys
}

fn state(all: &[IpAddr], awaited: Awaited) -> u32 {
    let leased = all.iter().any(|address| address.is_ipv4() && !address.is_multicast());
    let leases = if awaited.dhcp && !leased { program::DHCP } else { 0 };
    leases | if awaited.routers { program::ROUTERS } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(all: &[&str]) -> Vec<IpAddr> {
        all.iter().map(|one| one.parse().unwrap()).collect()
    }

    #[test]
    fn members_of_groups_hear_what_everybody_is_asked() {
        let all_nodes = key("ff02::1".parse().unwrap());
        let alone = keys(&addresses(&["10.0.0.2", "fd00::2", "ff02::1:ff00:2"]));
        assert!(alone.len() == 3 && !alone.contains(&all_nodes));
        let member = keys(&addresses(&["10.0.0.2", "239.1.2.3", "ff05::7"]));
        assert!(member.len() == 5 && member.contains(&all_nodes));
        assert!(member.contains(&key("224.0.0.1".parse().unwrap())));
    }

    #[test]
    fn leases_are_awaited_until_there_is_one() {
        let both = Awaited { dhcp: true, routers: true };
        assert_eq!(state(&addresses(&["fe80::1"]), both), program::DHCP | program::ROUTERS);
        assert_eq!(state(&addresses(&["fe80::1", "10.0.0.2"]), both), program::ROUTERS);
        assert_eq!(state(&[], Awaited { dhcp: true, routers: false }), program::DHCP);
        assert_eq!(state(&[], Awaited::default()), 0);
    }

    #[test]
    fn what_is_busy_is_tried_again_and_what_is_wrong_is_not() {
        let mut times = 0;
        let done = patiently(|| {
            times += 1;
            if times < 3 { Err(io::Error::from_raw_os_error(libc::EBUSY)) } else { Ok(times) }
        });
        assert_eq!(done.unwrap(), 3);
        let mut times = 0;
        let wrong: io::Result<()> = patiently(|| {
            times += 1;
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        });
        assert_eq!((wrong.unwrap_err().raw_os_error(), times), (Some(libc::EINVAL), 1));
    }
}
