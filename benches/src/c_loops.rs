//! The least that a program in C does for a frame: reflectors over AF_PACKET and AF_XDP, in `c/`.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::ptr::{NonNull, null_mut};

/// What a loop in C keeps.
#[repr(C)]
struct State {
    private: [u8; 0],
}

type Open = unsafe extern "C" fn(*const c_char, *mut *mut State) -> c_int;
type Step = unsafe extern "C" fn(*mut State, u32) -> c_int;
type Close = unsafe extern "C" fn(*mut State);

// SAFETY: these are the signatures of `c/loops.h`, whose two structures are opaque here.
unsafe extern "C" {
    fn packet_loop_open(interface: *const c_char, state: *mut *mut State) -> c_int;
    fn packet_loop_run(state: *mut State, frames: u32) -> c_int;
    fn packet_loop_close(state: *mut State);
    fn xdp_loop_open(interface: *const c_char, state: *mut *mut State) -> c_int;
    fn xdp_loop_run(state: *mut State, frames: u32) -> c_int;
    fn xdp_loop_close(state: *mut State);
}

/// A reflector in C: what arrives at its interface goes back to who sent it.
#[derive(Debug)]
pub struct Reflector {
    state: NonNull<State>,
    run: Step,
    close: Close,
}

impl Reflector {
    /// Over AF_PACKET, with TPACKET_V2 rings.
    ///
    /// # Errors
    /// The kernel's: it takes root, and an interface that is up.
    pub fn packet(interface: &str) -> io::Result<Reflector> {
        Reflector::open(interface, packet_loop_open, packet_loop_run, packet_loop_close)
    }

    /// Over AF_XDP, queue 0, with a program in the driver.
    ///
    /// # Errors
    /// As [`packet`](Self::packet).
    pub fn xdp(interface: &str) -> io::Result<Reflector> {
        Reflector::open(interface, xdp_loop_open, xdp_loop_run, xdp_loop_close)
    }

    fn open(interface: &str, open: Open, run: Step, close: Close) -> io::Result<Reflector> {
        let name = CString::new(interface)?;
        let mut state = null_mut();
        // SAFETY: a string that ends in zero, and a place for the answer, both alive for the call.
        check(unsafe { open(name.as_ptr(), &mut state) })?;
        let state = NonNull::new(state).ok_or_else(|| io::Error::other("a loop in C opened nothing"))?;
        Ok(Reflector { state, run, close })
    }

    /// Sends back the next `frames` frames, waiting for them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reflect(&mut self, frames: u32) -> io::Result<()> {
        // SAFETY: `state` is what `open` of the same loop made, and it is closed only when this is dropped.
        check(unsafe { (self.run)(self.state.as_ptr(), frames) })
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        // SAFETY: as in `reflect`; nobody uses it after this.
        unsafe { (self.close)(self.state.as_ptr()) }
    }
}

fn check(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::from_raw_os_error(-answer)) } else { Ok(()) }
}
