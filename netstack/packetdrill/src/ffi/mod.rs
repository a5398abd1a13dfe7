//! The shared object that packetdrill loads with `--so_filename`: its table of functions, filled with this stack's.
//!
//! The layout and meaning of the table are packetdrill's interface. What it does not say, but relies on: descriptors are real, for it
//! closes leftovers with `close(2)`; its clock moves by `usleep` and `gettimeofday` alone, and it spins on the latter; a receive
//! that fails is tried for ever, one of no bytes ends the script.

mod convert;
mod shared;

use std::ffi::CStr;
use std::slice;
use std::time::Duration;

use libc::{
    c_char, c_int, c_uint, c_ulong, c_void, epoll_event, iovec, msghdr, nfds_t, off64_t, pollfd, sockaddr,
    socklen_t, ssize_t, timeval, useconds_t,
};

use crate::host::{Done, EpollChange, Errno, Op, Result};
use shared::Shared;

type Data = *mut c_void;

/// packetdrill's table of functions. The first argument of each is `userdata`.
#[repr(C)]
pub(crate) struct PacketdrillInterface {
    pub(crate) userdata: Data,
    pub(crate) free: unsafe extern "C" fn(Data),
    pub(crate) socket: unsafe extern "C" fn(Data, c_int, c_int, c_int) -> c_int,
    pub(crate) bind: unsafe extern "C" fn(Data, c_int, *const sockaddr, socklen_t) -> c_int,
    pub(crate) listen: unsafe extern "C" fn(Data, c_int, c_int) -> c_int,
    pub(crate) accept: unsafe extern "C" fn(Data, c_int, *mut sockaddr, *mut socklen_t) -> c_int,
    pub(crate) connect: unsafe extern "C" fn(Data, c_int, *const sockaddr, socklen_t) -> c_int,
    pub(crate) read: unsafe extern "C" fn(Data, c_int, *mut c_void, usize) -> ssize_t,
    pub(crate) readv: unsafe extern "C" fn(Data, c_int, *const iovec, c_int) -> ssize_t,
    pub(crate) recv: unsafe extern "C" fn(Data, c_int, *mut c_void, usize, c_int) -> ssize_t,
    pub(crate) recvfrom: unsafe extern "C" fn(
        Data,
        c_int,
        *mut c_void,
        usize,
        c_int,
        *mut sockaddr,
        *mut socklen_t,
    ) -> ssize_t,
    pub(crate) recvmsg: unsafe extern "C" fn(Data, c_int, *mut msghdr, c_int) -> ssize_t,
    pub(crate) write: unsafe extern "C" fn(Data, c_int, *const c_void, usize) -> ssize_t,
    pub(crate) writev: unsafe extern "C" fn(Data, c_int, *const iovec, c_int) -> ssize_t,
    pub(crate) send: unsafe extern "C" fn(Data, c_int, *const c_void, usize, c_int) -> ssize_t,
    pub(crate) sendto:
        unsafe extern "C" fn(Data, c_int, *const c_void, usize, c_int, *const sockaddr, socklen_t) -> ssize_t,
    pub(crate) sendmsg: unsafe extern "C" fn(Data, c_int, *const msghdr, c_int) -> ssize_t,
    // These two are variadic in C; an integer or pointer behind the dots comes in the same register as a fixed one.
    pub(crate) fcntl: unsafe extern "C" fn(Data, c_int, c_int, c_int) -> c_int,
    pub(crate) ioctl: unsafe extern "C" fn(Data, c_int, c_ulong, *mut c_int) -> c_int,
    pub(crate) close: unsafe extern "C" fn(Data, c_int) -> c_int,
    pub(crate) shutdown: unsafe extern "C" fn(Data, c_int, c_int) -> c_int,
    pub(crate) getsockopt:
        unsafe extern "C" fn(Data, c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
    pub(crate) setsockopt: unsafe extern "C" fn(Data, c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
    pub(crate) poll: unsafe extern "C" fn(Data, *mut pollfd, nfds_t, c_int) -> c_int,
    pub(crate) netdev_send: unsafe extern "C" fn(Data, *const c_void, usize) -> c_int,
    pub(crate) netdev_receive: unsafe extern "C" fn(Data, *mut c_void, *mut usize, *mut i64) -> c_int,
    pub(crate) usleep: unsafe extern "C" fn(Data, useconds_t) -> c_int,
    pub(crate) gettimeofday: unsafe extern "C" fn(Data, *mut timeval, *mut c_void) -> c_int,
    pub(crate) epoll_create: unsafe extern "C" fn(Data, c_int) -> c_int,
    pub(crate) epoll_ctl: unsafe extern "C" fn(Data, c_int, c_int, c_int, *mut epoll_event) -> c_int,
    pub(crate) epoll_wait: unsafe extern "C" fn(Data, c_int, *mut epoll_event, c_int, c_int) -> c_int,
    pub(crate) pipe: unsafe extern "C" fn(Data, *mut c_int) -> c_int,
    pub(crate) splice:
        unsafe extern "C" fn(Data, c_int, *mut off64_t, c_int, *mut off64_t, usize, c_uint) -> ssize_t,
}

/// Fills in packetdrill's table. `flags` are those of `--so_flags`: words of `--name=value` as scripts carry, and of
/// `name=value` for sysctls. On an error, which goes to the standard error, `userdata` is null and every call fails.
///
/// # Safety
/// `flags` is null or a string of C, and `interface` leads to a table that may be written.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn packetdrill_interface_init(
    flags: *const c_char,
    interface: *mut PacketdrillInterface,
) {
    let text = match flags.is_null() {
        true => String::new(),
        // SAFETY: a string of C, as the caller promises.
        false => unsafe { CStr::from_ptr(flags) }.to_string_lossy().into_owned(),
    };
    let userdata = match Shared::new(&text) {
        Ok(shared) => Box::into_raw(Box::new(shared)).cast(),
        Err(message) => {
            eprintln!("demi-packetdrill: {message}");
            std::ptr::null_mut()
        }
    };
    let table = PacketdrillInterface {
        userdata,
        free,
        socket,
        bind,
        listen,
        accept,
        connect,
        read,
        readv,
        recv,
        recvfrom,
        recvmsg,
        write,
        writev,
        send,
        sendto,
        sendmsg,
        fcntl,
        ioctl,
        close,
        shutdown,
        getsockopt,
        setsockopt,
        poll,
        netdev_send,
        netdev_receive,
        usleep,
        gettimeofday,
        epoll_create,
        epoll_ctl,
        epoll_wait,
        pipe,
        splice,
    };
    if !interface.is_null() {
        // SAFETY: it may be written, as the caller promises, and what was there is not ours to drop.
        unsafe { interface.write(table) };
    }
}

/// Calls `call` on the host behind `data` and answers as C does: -1 and `errno` for an error.
fn answer(data: Data, call: impl FnOnce(&Shared) -> Result<i64>) -> i64 {
    let shared: *const Shared = data.cast::<Shared>();
    let result = match shared.is_null() {
        true => Err(Errno(libc::EIO)),
        // SAFETY: `data` is what `packetdrill_interface_init` has put into the table, until `free`.
        false => call(unsafe { &*shared }),
    };
    match result {
        Ok(value) => value,
        Err(Errno(number)) => {
            // SAFETY: the calling thread's own `errno`.
            unsafe { *libc::__errno_location() = number };
            -1
        }
    }
}

/// Makes the descriptor that a call has answered a real one.
fn real_fd(shared: &Shared, fd: i32) -> Result<i64> {
    // SAFETY: a string of C.
    let real = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if real < 0 {
        return Err(Errno(libc::EMFILE));
    }
    shared.call(|host| {
        host.renumber(fd, real);
        Ok(i64::from(real))
    })
}

fn receive(
    shared: &Shared,
    fd: c_int,
    buffers: &[iovec],
    flags: c_int,
    then: impl FnOnce(&Done),
) -> Result<i64> {
    let max = buffers.iter().map(|buffer| buffer.iov_len).sum();
    let done = shared.wait(Op::Receive { fd, max, flags, got: Vec::new() })?;
    // SAFETY: the buffers are the caller's of the call, who vouches for their lengths.
    unsafe { convert::scatter(&done.bytes, buffers) };
    then(&done);
    Ok(done.value)
}

fn transmit(
    shared: &Shared,
    fd: c_int,
    bytes: Vec<u8>,
    flags: c_int,
    to: Option<std::net::SocketAddr>,
) -> Result<i64> {
    shared.wait(Op::Send { fd, bytes, to, flags, sent: 0 }).map(|done| done.value)
}

fn one(buffer: *const c_void, len: usize) -> iovec {
    iovec { iov_base: buffer.cast_mut(), iov_len: len }
}

fn until(shared: &Shared, millis: c_int) -> Result<Option<demi_drivers::Instant>> {
    let Ok(millis) = u64::try_from(millis) else { return Ok(None) };
    shared.call(|host| Ok(Some(host.now + Duration::from_millis(millis))))
}

// Each of the functions below is called by packetdrill with the arguments of the call it is named after: pointers are null or lead
// to as many bytes as that call says, and `data` is the table's `userdata`.

unsafe extern "C" fn free(data: Data) {
    if !data.is_null() {
        // SAFETY: it came from `Box::into_raw`, and the table is not used after this.
        drop(unsafe { Box::from_raw(data.cast::<Shared>()) });
    }
}

unsafe extern "C" fn socket(data: Data, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    answer(data, |shared| {
        let fd = shared.call(|host| host.socket(domain, kind, protocol))?;
        real_fd(shared, fd)
    }) as c_int
}

unsafe extern "C" fn bind(data: Data, fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    answer(data, |shared| {
        // SAFETY: as bind(2) has it.
        let local = unsafe { convert::address(address, len)? };
        shared.call(|host| host.bind(fd, local).map(|()| 0))
    }) as c_int
}

unsafe extern "C" fn listen(data: Data, fd: c_int, backlog: c_int) -> c_int {
    answer(data, |shared| shared.call(|host| host.listen(fd, backlog).map(|()| 0))) as c_int
}

unsafe extern "C" fn accept(data: Data, fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    answer(data, |shared| {
        let done = shared.wait(Op::Accept { fd, flags: 0 })?;
        if let Some(peer) = done.address {
            // SAFETY: as accept(2) has it.
            unsafe { convert::put_address(peer, address, len) };
        }
        real_fd(shared, done.value as i32)
    }) as c_int
}

unsafe extern "C" fn connect(data: Data, fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    answer(data, |shared| {
        // SAFETY: as connect(2) has it.
        let to = unsafe { convert::address(address, len)? };
        shared.wait(Op::Connect { fd, to: Some(to), begun: false }).map(|done| done.value)
    }) as c_int
}

unsafe extern "C" fn read(data: Data, fd: c_int, buffer: *mut c_void, len: usize) -> ssize_t {
    answer(data, |shared| receive(shared, fd, &[one(buffer, len)], 0, |_| {})) as ssize_t
}

unsafe extern "C" fn readv(data: Data, fd: c_int, buffers: *const iovec, count: c_int) -> ssize_t {
    answer(data, |shared| {
        // SAFETY: as readv(2) has it.
        let buffers = unsafe { convert::vectors(buffers, count.max(0) as usize)? };
        receive(shared, fd, buffers, 0, |_| {})
    }) as ssize_t
}

unsafe extern "C" fn recv(data: Data, fd: c_int, buffer: *mut c_void, len: usize, flags: c_int) -> ssize_t {
    answer(data, |shared| receive(shared, fd, &[one(buffer, len)], flags, |_| {})) as ssize_t
}

unsafe extern "C" fn recvfrom(
    data: Data,
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
    flags: c_int,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
) -> ssize_t {
    answer(data, |shared| {
        receive(shared, fd, &[one(buffer, len)], flags, |done| {
            if let Some(peer) = done.address {
                // SAFETY: as recvfrom(2) has it.
                unsafe { convert::put_address(peer, address, address_len) };
            }
        })
    }) as ssize_t
}

unsafe extern "C" fn recvmsg(data: Data, fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    answer(data, |shared| {
        // SAFETY: null or a message, as recvmsg(2) has it.
        let message = unsafe { message.as_mut() }.ok_or(Errno(libc::EFAULT))?;
        // SAFETY: the message says how many there are.
        let buffers = unsafe { convert::vectors(message.msg_iov, message.msg_iovlen)? };
        receive(shared, fd, buffers, flags, |done| {
            message.msg_flags = done.flags;
            message.msg_controllen = 0;
            if let Some(peer) = done.address {
                // SAFETY: the message says how long the memory for the name is.
                unsafe { convert::put_address(peer, message.msg_name.cast(), &mut message.msg_namelen) };
            }
        })
    }) as ssize_t
}

unsafe extern "C" fn write(data: Data, fd: c_int, buffer: *const c_void, len: usize) -> ssize_t {
    // SAFETY: as write(2) has it, which is send(2) without flags.
    unsafe { send(data, fd, buffer, len, 0) }
}

unsafe extern "C" fn writev(data: Data, fd: c_int, buffers: *const iovec, count: c_int) -> ssize_t {
    answer(data, |shared| {
        // SAFETY: as writev(2) has it.
        let bytes = unsafe { convert::gather(convert::vectors(buffers, count.max(0) as usize)?) };
        transmit(shared, fd, bytes, 0, None)
    }) as ssize_t
}

unsafe extern "C" fn send(data: Data, fd: c_int, buffer: *const c_void, len: usize, flags: c_int) -> ssize_t {
    // SAFETY: as send(2) has it.
    answer(data, |shared| transmit(shared, fd, unsafe { convert::gather(&[one(buffer, len)]) }, flags, None))
        as ssize_t
}

unsafe extern "C" fn sendto(
    data: Data,
    fd: c_int,
    buffer: *const c_void,
    len: usize,
    flags: c_int,
    address: *const sockaddr,
    address_len: socklen_t,
) -> ssize_t {
    answer(data, |shared| {
        let to = match address.is_null() {
            true => None,
            // SAFETY: as sendto(2) has it.
            false => Some(unsafe { convert::address(address, address_len)? }),
        };
        // SAFETY: as sendto(2) has it.
        transmit(shared, fd, unsafe { convert::gather(&[one(buffer, len)]) }, flags, to)
    }) as ssize_t
}

unsafe extern "C" fn sendmsg(data: Data, fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    answer(data, |shared| {
        // SAFETY: null or a message, as sendmsg(2) has it.
        let message = unsafe { message.as_ref() }.ok_or(Errno(libc::EFAULT))?;
        let to = match message.msg_name.is_null() {
            true => None,
            // SAFETY: the message says how long the name is.
            false => Some(unsafe { convert::address(message.msg_name.cast(), message.msg_namelen)? }),
        };
        // SAFETY: the message says how many there are.
        let bytes = unsafe { convert::gather(convert::vectors(message.msg_iov, message.msg_iovlen)?) };
        transmit(shared, fd, bytes, flags, to)
    }) as ssize_t
}

unsafe extern "C" fn fcntl(data: Data, fd: c_int, command: c_int, argument: c_int) -> c_int {
    answer(data, |shared| shared.call(|host| host.fcntl(fd, command, argument).map(i64::from))) as c_int
}

unsafe extern "C" fn ioctl(data: Data, fd: c_int, request: c_ulong, argument: *mut c_int) -> c_int {
    answer(data, |shared| {
        // SAFETY: null or a number, as the requests that are known have it.
        let argument = unsafe { argument.as_mut() }.ok_or(Errno(libc::EFAULT))?;
        *argument = shared.call(|host| host.ioctl(fd, request, *argument))?;
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn close(data: Data, fd: c_int) -> c_int {
    answer(data, |shared| {
        shared.call(|host| host.close(fd))?;
        // SAFETY: it was opened by `real_fd`, and the host has forgotten it.
        Ok(i64::from(unsafe { libc::close(fd) }))
    }) as c_int
}

unsafe extern "C" fn shutdown(data: Data, fd: c_int, how: c_int) -> c_int {
    answer(data, |shared| shared.call(|host| host.shutdown(fd, how).map(|()| 0))) as c_int
}

unsafe extern "C" fn getsockopt(
    data: Data,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    answer(data, |shared| {
        let bytes = shared.call(|host| match (level, name) {
            (libc::IPPROTO_TCP, libc::TCP_INFO) => host.info(fd).map(|info| convert::tcp_info(&info)),
            _ => host.option(fd, level, name).map(|value| convert::option_bytes(&value)),
        })?;
        // SAFETY: as getsockopt(2) has it.
        unsafe { convert::put_bytes(&bytes, value, len) };
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn setsockopt(
    data: Data,
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    answer(data, |shared| {
        // SAFETY: as setsockopt(2) has it.
        let value = unsafe { convert::option(level, name, value, len)? };
        shared.call(|host| host.set_option(fd, level, name, &value).map(|()| 0))
    }) as c_int
}

unsafe extern "C" fn poll(data: Data, fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    answer(data, |shared| {
        let entries: &mut [pollfd] = match (fds.is_null(), count) {
            (_, 0) => &mut [],
            (true, _) => return Err(Errno(libc::EFAULT)),
            // SAFETY: as poll(2) has it.
            (false, count) => unsafe { slice::from_raw_parts_mut(fds, count as usize) },
        };
        let wanted = entries.iter().map(|entry| (entry.fd, entry.events)).collect();
        let done = shared.wait(Op::Poll { fds: wanted, until: until(shared, timeout)? })?;
        for (entry, revents) in entries.iter_mut().zip(&done.revents) {
            entry.revents = *revents;
        }
        Ok(done.value)
    }) as c_int
}

unsafe extern "C" fn netdev_send(data: Data, packet: *const c_void, len: usize) -> c_int {
    answer(data, |shared| {
        // SAFETY: a packet of that length.
        shared.send(&unsafe { convert::gather(&[one(packet, len)]) })?;
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn netdev_receive(
    data: Data,
    packet: *mut c_void,
    len: *mut usize,
    at_us: *mut i64,
) -> c_int {
    // SAFETY: null or numbers that may be written.
    let (Some(len), Some(at_us)) = (unsafe { len.as_mut() }, unsafe { at_us.as_mut() }) else { return 0 };
    let room = core::mem::take(len);
    answer(data, |shared| {
        if let Some((at, bytes)) = shared.receive()? {
            *len = bytes.len().min(room);
            *at_us = at.as_micros() as i64;
            // SAFETY: memory of the length that came in.
            unsafe { convert::scatter(&bytes, &[one(packet, room)]) };
        }
        Ok(0)
    });
    // A failure would be tried again for ever; no bytes are the end.
    0
}

unsafe extern "C" fn usleep(data: Data, micros: useconds_t) -> c_int {
    answer(data, |shared| shared.advance(Duration::from_micros(micros.into())).map(|_| 0)) as c_int
}

unsafe extern "C" fn gettimeofday(data: Data, time: *mut timeval, _zone: *mut c_void) -> c_int {
    answer(data, |shared| {
        // Whoever spins on the clock has to see it move.
        let now_us = shared.advance(Duration::from_micros(1))?.as_micros() as i64;
        // SAFETY: null or a time that may be written.
        if let Some(time) = unsafe { time.as_mut() } {
            *time = timeval { tv_sec: now_us / 1_000_000, tv_usec: now_us % 1_000_000 };
        }
        Ok(0)
    }) as c_int
}

unsafe extern "C" fn epoll_create(data: Data, _size: c_int) -> c_int {
    answer(data, |shared| {
        let fd = shared.call(|host| Ok(host.epoll_create()))?;
        real_fd(shared, fd)
    }) as c_int
}

unsafe extern "C" fn epoll_ctl(
    data: Data,
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    answer(data, |shared| {
        // SAFETY: null or an event.
        let event = unsafe { event.as_ref() }.map(|event| (event.events, event.u64));
        let change = match (operation, event) {
            (libc::EPOLL_CTL_DEL, _) => EpollChange::Remove,
            (libc::EPOLL_CTL_ADD, Some((events, data))) => EpollChange::Add { events, data },
            (libc::EPOLL_CTL_MOD, Some((events, data))) => EpollChange::Modify { events, data },
            (_, None) => return Err(Errno(libc::EFAULT)),
            _ => return Err(Errno(libc::EINVAL)),
        };
        shared.call(|host| host.epoll_ctl(epoll, fd, change).map(|()| 0))
    }) as c_int
}

unsafe extern "C" fn epoll_wait(
    data: Data,
    fd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: c_int,
) -> c_int {
    answer(data, |shared| {
        let max = usize::try_from(max).ok().filter(|max| *max > 0).ok_or(Errno(libc::EINVAL))?;
        if events.is_null() {
            return Err(Errno(libc::EFAULT));
        }
        let done = shared.wait(Op::EpollWait { fd, max, until: until(shared, timeout)? })?;
        for (at, (found, data)) in done.events.iter().enumerate() {
            // SAFETY: no more than `max` are found, and as many may be written.
            unsafe { events.add(at).write_unaligned(epoll_event { events: *found, u64: *data }) };
        }
        Ok(done.value)
    }) as c_int
}

unsafe extern "C" fn pipe(data: Data, _fds: *mut c_int) -> c_int {
    answer(data, |_| Err(Errno(libc::ENOSYS))) as c_int
}

unsafe extern "C" fn splice(
    data: Data,
    _from: c_int,
    _from_offset: *mut off64_t,
    _to: c_int,
    _to_offset: *mut off64_t,
    _len: usize,
    _flags: c_uint,
) -> ssize_t {
    answer(data, |_| Err(Errno(libc::ENOSYS))) as ssize_t
}

#[cfg(test)]
mod tests;
