//! The environment abstraction layer: started once a process, by the first device; later devices use what is there.
//!
//! Owns that state, the calling thread's affinity while DPDK starts, and what it logs. When the last user is gone, every port has
//! been closed and its device detached, and DPDK idles until the next one; it is cleaned up when the process exits, since it
//! cannot be started a second time.

use std::ffi::CString;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use demi_dpdk_sys as sys;

use super::args::{self, Arguments, PortChoice};
use super::explain;

/// What DPDK is in this process.
enum State {
    Never,
    Failed(String),
    Running(Running),
}

struct Running {
    /// What it was started with, defaults left out.
    arguments: Vec<String>,
    users: usize,
    /// Ports that somebody has open.
    taken: Vec<u16>,
}

static STATE: Mutex<State> = Mutex::new(State::Never);

fn state() -> MutexGuard<'static, State> {
    // Nothing that could panic runs under the lock.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// DPDK, running as long as anybody has one of these.
#[derive(Debug)]
pub(super) struct Eal(());

impl Eal {
    /// Starts DPDK, or joins what runs already.
    pub(super) fn join(arguments: &Arguments) -> io::Result<Eal> {
        let mut state = state();
        match &mut *state {
            State::Failed(why) => {
                return Err(io::Error::other(format!(
                    "dpdk: it can be started once a process only, and failed: {why}"
                )));
            }
            State::Running(running) => {
                if !arguments.eal.is_empty() && arguments.eal != running.arguments {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!(
                            "dpdk: DPDK runs in this process already, with `{}`: give every dpdk: device the same arguments, \
                             and choose with port=",
                            running.arguments.join(" ")
                        ),
                    ));
                }
                running.users += 1;
                return Ok(Eal(()));
            }
            State::Never => {}
        }
        match start(&arguments.eal) {
            Ok(()) => {
                let arguments = arguments.eal.clone();
                *state = State::Running(Running { arguments, users: 1, taken: Vec::new() });
                // SAFETY: `at_exit` takes nothing and touches only state that lives until the end.
                unsafe { libc::atexit(at_exit) };
                Ok(Eal(()))
            }
            Err(error) => {
                *state = State::Failed(error.to_string());
                Err(error)
            }
        }
    }

    /// Another user of what runs.
    pub(super) fn again(&self) -> Eal {
        if let State::Running(running) = &mut *state() {
            running.users += 1;
        }
        Eal(())
    }

    /// Takes the port that was chosen, attaching its device again if it was closed before.
    pub(super) fn take_port(&self, choice: &PortChoice) -> io::Result<u16> {
        let mut state = state();
        let State::Running(running) = &mut *state else {
            return Err(io::Error::other("dpdk: it does not run"));
        };
        for device in Arguments::devices(&running.arguments) {
            let name = device.split(',').next().unwrap_or(device);
            if named(name).is_none()
                && let Ok(arguments) = CString::new(device)
            {
                // What cannot be attached is missed below, where it is known whether anybody wants it.
                // SAFETY: DPDK runs, and the string lives until the call is over.
                unsafe { sys::demi_dpdk_attach(arguments.as_ptr()) };
            }
        }
        let all = ports();
        let port = match choice {
            PortChoice::First => all.iter().copied().find(|port| !running.taken.contains(port)),
            PortChoice::Number(number) => Some(*number).filter(|number| all.contains(number)),
            PortChoice::Name(name) => named(name),
        };
        let Some(port) = port else {
            let log = take_log();
            let wanted = match choice {
                PortChoice::First => "there is no port".to_owned(),
                PortChoice::Number(number) => format!("there is no port {number}"),
                PortChoice::Name(name) => format!("there is no port {name}"),
            };
            let which = match all.len() {
                0 => "name a device with -a ADDRESS or --vdev=NAME, and bind a NIC to vfio-pci first (dpdk-devbind.py)".to_owned(),
                count => format!("DPDK has {count}, {} in use: choose with port=", running.taken.len()),
            };
            return Err(explain::error_or(&format!("dpdk: {wanted}"), io::ErrorKind::NotFound, &which, &log));
        };
        if running.taken.contains(&port) {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("dpdk: port {port} is open already in this process: choose another with port="),
            ));
        }
        running.taken.push(port);
        Ok(port)
    }

    /// Gives a port back that has been closed.
    pub(super) fn give_port(&self, port: u16) {
        if let State::Running(running) = &mut *state() {
            running.taken.retain(|taken| *taken != port);
        }
    }
}

impl Drop for Eal {
    fn drop(&mut self) {
        if let State::Running(running) = &mut *state() {
            running.users -= 1;
        }
    }
}

fn ports() -> Vec<u16> {
    let mut ports = Vec::new();
    let mut from = 0;
    loop {
        // SAFETY: DPDK runs; any number may be asked for.
        let port = unsafe { sys::demi_dpdk_port_next(from) };
        if u32::from(port) == sys::DEMI_DPDK_NO_PORT {
            return ports;
        }
        ports.push(port);
        from = port + 1;
    }
}

fn named(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    // SAFETY: DPDK runs, and the string lives until the call is over.
    let port = unsafe { sys::demi_dpdk_port_named(name.as_ptr()) };
    (u32::from(port) != sys::DEMI_DPDK_NO_PORT).then_some(port)
}

/// What DPDK has logged since the last call.
pub(super) fn take_log() -> String {
    let mut bytes = vec![0u8; 16 * 1024];
    // SAFETY: the vector has that many bytes.
    let count = unsafe { sys::demi_dpdk_take_log(bytes.as_mut_ptr().cast(), bytes.len()) };
    bytes.truncate(count);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn start(eal: &[String]) -> io::Result<()> {
    let before = Affinity::current()?;
    // SAFETY: takes nothing.
    let core = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
    let words = args::with_defaults(eal, core).into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let words = words
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "dpdk: an argument holds a zero byte"))?;
    // The strings stay: DPDK keeps pointers to some of them, and reorders the array.
    let words: &'static [CString] = words.leak();
    let pointers = words.iter().map(|word| word.as_ptr().cast_mut()).chain([std::ptr::null_mut()]);
    let pointers: &'static mut [*mut libc::c_char] = pointers.collect::<Vec<_>>().leak();
    let capture = !args::wants_log(eal);
    // SAFETY: `pointers` are that many strings and a null behind them, all of which live for ever. Strings are not written to:
    // the EAL changes the order of the pointers only.
    let answer = unsafe { sys::demi_dpdk_start(words.len() as i32, pointers.as_mut_ptr(), capture) };
    // DPDK has confined the thread to its first core. Whoever pins threads in this process is not DPDK.
    before.apply();
    let log = take_log();
    if answer == 0 { Ok(()) } else { Err(explain::error("dpdk", -answer, &log)) }
}

/// Cleans up at the end of the process, if no port is open any more.
extern "C" fn at_exit() {
    // Whoever holds the lock at exit is a thread that is about to be ended with the process.
    if let Ok(state) = STATE.try_lock()
        && let State::Running(running) = &*state
        && running.users == 0
    {
        // SAFETY: DPDK runs, nothing of it is in use, and it is not called afterwards: the lock is never released again.
        unsafe { sys::demi_dpdk_stop() };
        std::mem::forget(state);
    }
}

/// Where a thread may run.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn current() -> io::Result<Affinity> {
        // SAFETY: an all-zero set is a valid, empty one.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set lives on the stack and its size is given.
        match unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } {
            0 => Ok(Affinity(set)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn apply(&self) {
        // The thread could run there before, so nothing can go wrong that matters.
        // SAFETY: the set is valid and its size is given.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const self.0) };
    }
}

/// Makes the calling thread known to DPDK for as long as this lives: its allocators then keep a cache for it.
#[derive(Debug)]
pub(super) struct Attached {
    ours: bool,
    /// A thread answers for itself.
    thread: std::marker::PhantomData<*const ()>,
}

impl Attached {
    /// Without a place among DPDK's threads everything works, slower.
    pub(super) fn here() -> Attached {
        // SAFETY: DPDK runs.
        let ours = unsafe { sys::demi_dpdk_thread_enter() } == 0;
        Attached { ours, thread: std::marker::PhantomData }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.ours {
            // SAFETY: this thread was registered by `here`.
            unsafe { sys::demi_dpdk_thread_leave() };
        }
    }
}
