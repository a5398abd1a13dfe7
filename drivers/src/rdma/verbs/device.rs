//! Finding and opening an RDMA device, and what it can do.
//!
//! The connection manager opens every device once a process and hands its own contexts out; queues must be made on those, or
//! they could not be connected. Owns the list of them that keeps ours open.

use std::ffi::CStr;
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::rc::Rc;

use rdma_sys as sys;

use super::{check, explained};

/// `IBV_LINK_LAYER_ETHERNET`.
const ETHERNET: u8 = 2;

/// What a device can do, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Work requests of a queue.
    pub(crate) queue_requests: u32,
    /// Pieces of memory that one work request gathers.
    pub(crate) gather: u32,
    /// Entries of a completion queue.
    pub(crate) completions: u32,
    /// Receives of a shared queue; 0: there are none.
    pub(crate) shared_receives: u32,
    /// READs and atomic operations that a queue pair may have in flight, and may serve.
    pub(crate) reads: u8,
    /// Memory windows that are bound by a work request and invalidated by another (type 2).
    pub(crate) memory_windows: bool,
    /// Compare-and-swap and fetch-and-add.
    pub(crate) atomics: bool,
    /// iWARP: no immediate data, and a READ's target must be open to remote writes.
    pub(crate) iwarp: bool,
}

/// What a device can do with memory that is paged in as it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnDemand {
    /// All that connections do.
    pub(crate) connections: bool,
    /// All that datagrams do.
    pub(crate) datagrams: bool,
}

impl OnDemand {
    /// By what verbs say: of the device, of reliable connections, of datagrams.
    fn of(general: u64, connections: u32, datagrams: u32) -> OnDemand {
        use sys::ibv_odp_transport_cap_bits as cap;
        /// `IBV_ODP_SUPPORT`
        const AT_ALL: u64 = 1;
        let has = |caps: u32, wanted: u32| general & AT_ALL != 0 && caps & wanted == wanted;
        let both = cap::IBV_ODP_SUPPORT_SEND.0 | cap::IBV_ODP_SUPPORT_RECV.0;
        let more = cap::IBV_ODP_SUPPORT_READ.0
            | cap::IBV_ODP_SUPPORT_WRITE.0
            | cap::IBV_ODP_SUPPORT_ATOMIC.0
            | cap::IBV_ODP_SUPPORT_SRQ_RECV.0;
        OnDemand { connections: has(connections, both | more), datagrams: has(datagrams, both) }
    }
}

/// What a port of a device is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Its number.
    pub(crate) number: u8,
    /// Payload of the longest packet that it sends now.
    pub(crate) mtu: u16,
    /// Ethernet, whose packets have IP addresses in front.
    pub(crate) ethernet: bool,
}

/// An open device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Every context of the connection manager, which keeps them open.
    list: NonNull<*mut sys::ibv_context>,
    context: NonNull<sys::ibv_context>,
    name: String,
    limits: Limits,
}

impl Device {
    /// Opens the device called `name`.
    ///
    /// # Errors
    /// `NotFound` with the names of those that are there, or how to get one; `PermissionDenied`.
    pub(crate) fn open(name: &str) -> io::Result<Rc<Device>> {
        let there = names();
        if !there.iter().any(|one| one == name) {
            return Err(absent(name, &there));
        }
        let mut count = 0;
        // SAFETY: `count` is writable; the list, if there is one, is ours to free.
        let list = unsafe { sys::rdma_get_devices(&raw mut count) };
        let Some(list) = NonNull::new(list) else { return Err(no_manager(name)) };
        let mut found = None;
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the list has `count` entries, each an open context.
            let context = unsafe { *list.as_ptr().add(at) };
            // SAFETY: an open context has a device, whose name is a string that lives as long.
            let called = unsafe { CStr::from_ptr(sys::ibv_get_device_name((*context).device)) };
            if called.to_bytes() == name.as_bytes() {
                found = NonNull::new(context);
            }
        }
        let Some(context) = found else {
            // SAFETY: the list came from `rdma_get_devices`, and none of its contexts is used any more.
            unsafe { sys::rdma_free_devices(list.as_ptr()) };
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "device rdma:{name}: it cannot be opened: run as root, or give the user /dev/infiniband/uverbs*"
                ),
            ));
        };
        // Freed by `Drop` from here on.
        let limits = Limits::NONE;
        let mut device = Device { list, context, name: name.to_owned(), limits };
        device.limits = device.query()?;
        set_nonblocking(device.async_fd())?;
        Ok(Rc::new(device))
    }

    fn query(&self) -> io::Result<Limits> {
        // SAFETY: a struct of integers, for which all zeroes is a value.
        let mut attr: sys::ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, `attr` is writable.
        check(unsafe { sys::ibv_query_device(self.raw(), &raw mut attr) }, "ask the device for its limits")?;
        // SAFETY: an open context has a device.
        let transport = unsafe { (*(*self.raw()).device).transport_type };
        let flags = attr.device_cap_flags;
        let windows = sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A.0
            | sys::ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0;
        let positive = |value: libc::c_int| u32::try_from(value).unwrap_or(0);
        let reads = attr.max_qp_rd_atom.min(attr.max_qp_init_rd_atom);
        Ok(Limits {
            queue_requests: positive(attr.max_qp_wr),
            gather: positive(attr.max_sge),
            completions: positive(attr.max_cqe),
            shared_receives: if attr.max_srq > 0 { positive(attr.max_srq_wr) } else { 0 },
            reads: u8::try_from(reads.clamp(0, 16)).unwrap_or(0),
            memory_windows: flags & windows != 0 && attr.max_mw > 0,
            atomics: attr.atomic_cap != sys::ibv_atomic_cap::IBV_ATOMIC_NONE,
            iwarp: transport == sys::ibv_transport_type::IBV_TRANSPORT_IWARP,
        })
    }

    /// What it can do with memory that is paged in as it is reached.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn on_demand(&self) -> io::Result<OnDemand> {
        // SAFETY: a struct of integers, for which all zeroes is a value.
        let mut attr: sys::ibv_device_attr_ex = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, and `attr` is writable; there is no input.
        let result = unsafe { sys::ibv_query_device_ex(self.raw(), std::ptr::null(), &raw mut attr) };
        check(result, "ask the device for on-demand paging")?;
        let caps = attr.odp_caps.per_transport_caps;
        Ok(OnDemand::of(attr.odp_caps.general_caps, caps.rc_odp_caps, caps.ud_odp_caps))
    }

    /// What its port `number` is like.
    ///
    /// # Errors
    /// What the device said.
    pub(crate) fn port(&self, number: u8) -> io::Result<Port> {
        // SAFETY: a struct of integers, for which all zeroes is a value.
        let mut attr: sys::ibv_port_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, `attr` is writable.
        let result = unsafe { sys::___ibv_query_port(self.raw(), number, &raw mut attr) };
        check(result, &format!("ask for port {number} of the device"))?;
        // 1 stands for 256 bytes, and each one more for twice as many, up to 5.
        let mtu = 128 << attr.active_mtu.clamp(1, 5);
        Ok(Port { number, mtu, ethernet: attr.link_layer == ETHERNET })
    }

    pub(super) fn raw(&self) -> *mut sys::ibv_context {
        self.context.as_ptr()
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What it can do.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The descriptor that is readable when something has happened to the device or a queue pair.
    pub(crate) fn async_fd(&self) -> RawFd {
        // SAFETY: the context is open.
        unsafe { (*self.raw()).async_fd }
    }

    /// Takes what has happened to the device, without waiting; whether it is gone.
    pub(crate) fn is_lost(&self) -> bool {
        loop {
            let mut event = std::mem::MaybeUninit::<sys::ibv_async_event>::zeroed();
            // SAFETY: the context is open, and the event is writable; the descriptor does not block.
            if unsafe { sys::ibv_get_async_event(self.raw(), event.as_mut_ptr()) } != 0 {
                return false;
            }
            // SAFETY: the call has filled it in. The kind is one that the library knows, or else is not looked at: it is read as
            // the number it is.
            let kind = unsafe { (&raw const (*event.as_ptr()).event_type).cast::<u32>().read() };
            // SAFETY: the event came from `ibv_get_async_event` just now and is acknowledged once.
            unsafe { sys::ibv_ack_async_event(event.as_mut_ptr()) };
            if kind == sys::ibv_event_type::IBV_EVENT_DEVICE_FATAL as u32 {
                return true;
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the list came from `rdma_get_devices`; whatever was made on the context held this device, and is gone.
        unsafe { sys::rdma_free_devices(self.list.as_ptr()) };
    }
}

impl Limits {
    const NONE: Limits = Limits {
        queue_requests: 0,
        gather: 0,
        completions: 0,
        shared_receives: 0,
        reads: 0,
        memory_windows: false,
        atomics: false,
        iwarp: false,
    };
}

/// The names of this machine's devices, which anybody may ask for.
pub(crate) fn names() -> Vec<String> {
    let mut count = 0;
    // SAFETY: `count` is writable; the list, if there is one, is ours to free.
    let list = unsafe { sys::ibv_get_device_list(&raw mut count) };
    if list.is_null() {
        return Vec::new();
    }
    let name = |at| {
        // SAFETY: the list has `count` devices, whose names are strings that live as long as it.
        unsafe { CStr::from_ptr(sys::ibv_get_device_name(*list.add(at))) }.to_string_lossy().into_owned()
    };
    let names = (0..usize::try_from(count).unwrap_or(0)).map(name).collect();
    // SAFETY: the list came from `ibv_get_device_list`, and nothing points into it any more.
    unsafe { sys::ibv_free_device_list(list) };
    names
}

#[cold]
fn absent(name: &str, there: &[String]) -> io::Error {
    let cure = match there {
        [] => {
            "this machine has no RDMA device: plug one in, or make one: rdma link add rxe0 type rxe netdev IF"
                .to_owned()
        }
        _ => format!("there are {}", there.join(", ")),
    };
    io::Error::new(io::ErrorKind::NotFound, format!("device rdma:{name}: there is no such device: {cure}"))
}

/// Why the connection manager has no list of devices.
#[cold]
fn no_manager(name: &str) -> io::Error {
    let error = io::Error::last_os_error();
    match std::path::Path::new("/dev/infiniband/rdma_cm").exists() {
        true => explained(error, &format!("device rdma:{name}: open the connection manager")),
        false => io::Error::new(
            io::ErrorKind::NotFound,
            format!("device rdma:{name}: there is no /dev/infiniband/rdma_cm: modprobe rdma_ucm"),
        ),
    }
}

/// Makes reads of `fd` answer `WouldBlock` instead of waiting.
pub(super) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed; `fd` is a descriptor that the caller holds open.
    let done = unsafe { libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paging_on_demand_is_used_where_all_of_it_is_there() {
        let (all, send_only) = (0x3f, 1);
        let of = |general, connections, datagrams| {
            let can = OnDemand::of(general, connections, datagrams);
            (can.connections, can.datagrams)
        };
        assert_eq!(of(1, all, all), (true, true));
        assert_eq!(of(3, all, send_only), (true, false), "implicit regions are more than is asked for");
        assert_eq!(of(1, all & !0x20, all), (false, true), "no queue of receives that connections share");
        assert_eq!(of(0, all, all), (false, false));
        assert_eq!(of(2, all, all), (false, false));
        assert_eq!(of(1, 0, 0), (false, false));
    }

    #[test]
    fn a_device_that_is_not_there_is_said_with_those_that_are() {
        let error = absent("mlx5_7", &["rxe0".to_owned(), "rxe1".to_owned()]);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(
            error.to_string().contains("rdma:mlx5_7") && error.to_string().ends_with("rxe0, rxe1"),
            "{error}"
        );
        let error = absent("rxe0", &[]);
        assert!(error.to_string().contains("rdma link add"), "{error}");
        let error = Device::open("no-such-device").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}
