//! The system call bpf(2), as far as steering takes it: maps, a program, a link to an interface, a trial run.
//!
//! Everything made here is a descriptor, and is gone when that is closed: a process that ends in whatever way leaves nothing
//! attached.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Commands, types and flags of linux/bpf.h and linux/if_link.h.
const MAP_CREATE: i32 = 0;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const LINK_CREATE: i32 = 28;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
const PROG_HAS_FRAGS: u32 = 1 << 5;
const XDP_SKB_MODE: u32 = 1 << 1;
const XDP_DRV_MODE: u32 = 1 << 2;

/// What a map is.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(super) enum MapKind {
    Hash = 1,
    Array = 2,
    /// Sockets, by queue.
    Sockets = 17,
}

/// `union bpf_attr`, whose fields are put where the command has them.
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    fn new() -> Attr {
        Attr([0; 128])
    }

    fn word(mut self, at: usize, value: u32) -> Attr {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn fd(self, at: usize, fd: BorrowedFd<'_>) -> Attr {
        self.word(at, fd.as_raw_fd() as u32)
    }

    fn pointer<T: ?Sized>(mut self, at: usize, value: *const T) -> Attr {
        self.0[at..at + 8].copy_from_slice(&(value.cast::<u8>().addr() as u64).to_ne_bytes());
        self
    }

    fn read(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// # Safety
    /// Every pointer in it is to memory that is as large as the command has it, and may be read and, where the command writes,
    /// written.
    unsafe fn call(&mut self, command: i32) -> io::Result<i32> {
        // SAFETY: the attributes are 128 bytes, zero where nothing was put; the pointers in them are good, says the caller.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
    }
}

/// # Safety
/// As [`Attr::call`], for a command that answers a new descriptor.
unsafe fn made(mut attr: Attr, command: i32) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; the descriptor is new and nobody else's.
    unsafe { attr.call(command).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// A map of `entries`.
pub(super) fn map(kind: MapKind, key_bytes: u32, value_bytes: u32, entries: u32) -> io::Result<OwnedFd> {
    let attr = Attr::new().word(0, kind as u32).word(4, key_bytes).word(8, value_bytes).word(12, entries);
    // SAFETY: no pointers.
    unsafe { made(attr, MAP_CREATE) }
}

/// Sets an entry. Key and value are as long as the map has them.
pub(super) fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    let mut attr =
        Attr::new().fd(0, map).pointer(8, std::ptr::from_ref(key)).pointer(16, std::ptr::from_ref(value));
    // SAFETY: both are read only, and as large as the map's, as its makers here see to.
    unsafe { attr.call(MAP_UPDATE_ELEM) }.map(drop)
}

/// Removes an entry.
pub(super) fn delete<K>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let mut attr = Attr::new().fd(0, map).pointer(8, std::ptr::from_ref(key));
    // SAFETY: the key is read only, and as large as the map's.
    unsafe { attr.call(MAP_DELETE_ELEM) }.map(drop)
}

/// Loads an XDP program; `frags`: it takes frames of several buffers.
///
/// # Errors
/// The kernel's, with the last line of what the verifier says, if it has read the program.
pub(super) fn load(code: &[u64], frags: bool) -> io::Result<OwnedFd> {
    let license: &CStr = c"Dual MIT/GPL";
    let attr = |log: &mut [u8]| {
        let attr = Attr::new()
            .word(0, PROG_TYPE_XDP)
            .word(4, code.len() as u32)
            .pointer(8, code.as_ptr())
            .pointer(16, license.as_ptr())
            .word(44, if frags { PROG_HAS_FRAGS } else { 0 })
            .word(68, ATTACH_TYPE_XDP);
        if log.is_empty() {
            return attr;
        }
        attr.word(24, 1).word(28, log.len() as u32).pointer(32, log.as_mut_ptr())
    };
    // SAFETY: code and license are read only, and live until the call is over.
    let error = match unsafe { made(attr(&mut []), PROG_LOAD) } {
        Ok(program) => return Ok(program),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOMEM)) => return Err(error),
        Err(error) => error,
    };
    let mut log = vec![0u8; 1 << 16];
    // SAFETY: as above, and the log is ours to be written.
    if let Ok(program) = unsafe { made(attr(&mut log), PROG_LOAD) } {
        return Ok(program);
    }
    let text = String::from_utf8_lossy(&log);
    let last =
        text.trim_end_matches('\0').lines().rfind(|line| !line.starts_with("processed ")).unwrap_or("");
    Err(io::Error::new(error.kind(), format!("{error}: the verifier says: {last}")))
}

/// Attaches a program to an interface, in its driver or in front of the stack.
pub(super) fn link(program: BorrowedFd<'_>, interface: u32, native: bool) -> io::Result<OwnedFd> {
    let mode = if native { XDP_DRV_MODE } else { XDP_SKB_MODE };
    let attr = Attr::new().fd(0, program).word(4, interface).word(8, ATTACH_TYPE_XDP).word(12, mode);
    // SAFETY: no pointers.
    unsafe { made(attr, LINK_CREATE) }
}

/// Runs a program on a frame, and answers what it answers.
pub(super) fn try_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut attr =
        Attr::new().fd(0, program).word(8, frame.len() as u32).pointer(16, frame.as_ptr()).word(32, 1);
    // SAFETY: the frame is read only; nothing is to be written.
    unsafe { attr.call(PROG_TEST_RUN) }?;
    Ok(attr.read(4))
}
