//! Network namespaces that remove themselves. A name carries the process id of the run that made it, so that runs side
//! by side do not meet, and so that what a killed run left can be told from what is in use.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use super::command::{is_alive, must, signal, try_run};

const PREFIX: &str = "demi-it";

/// A network namespace; gone, with every process in it, when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A new, empty namespace with its loopback up; `role` is for people who look at the machine meanwhile.
    pub(crate) fn new(role: &str) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace { name: format!("{PREFIX}-{}-{number}-{role}", std::process::id()) };
        must(&format!("ip netns add {}", namespace.name));
        namespace.ip("link set lo up");
        // Addresses are usable at once, not after a second of duplicate address detection.
        namespace.sysctl("net.ipv6.conf.all.accept_dad=0");
        namespace.sysctl("net.ipv6.conf.default.accept_dad=0");
        // What most hosts have, whatever this one prefers, or what every namespace may have. The kernel's BBR takes a machine that is too
        // busy for a while for a path whose rate is policed, and then sends a few kilobytes a second for minutes.
        let _ = ["cubic", "reno"]
            .into_iter()
            .any(|name| namespace.tries(&format!("sysctl -qw net.ipv4.tcp_congestion_control={name}")));
        namespace
    }

    /// Its name, as `ip netns` knows it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on what the namespace holds.
    #[track_caller]
    pub(crate) fn ip(&self, line: &str) -> String {
        must(&format!("ip -n {} {line}", self.name))
    }

    /// Runs a short command inside.
    #[track_caller]
    pub(crate) fn run(&self, line: &str) -> String {
        must(&format!("ip netns exec {} {line}", self.name))
    }

    /// Whether a short command works inside.
    pub(crate) fn tries(&self, line: &str) -> bool {
        try_run(&format!("ip netns exec {} {line}", self.name)).is_ok()
    }

    /// Runs `call` inside, on a thread of its own, whose sockets are this namespace's.
    #[track_caller]
    pub(crate) fn inside<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name);
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let result = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: changes the calling thread's namespace, and no memory.
                let answer = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(answer, 0, "{path}: {}", io::Error::last_os_error());
                call()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Sets a kernel parameter inside.
    #[track_caller]
    pub(crate) fn sysctl(&self, setting: &str) {
        self.run(&format!("sysctl -qw {setting}"));
    }

    /// Names of the links inside, loopback excluded.
    pub(crate) fn links(&self) -> Vec<String> {
        self.ip("-brief link")
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .filter(|name| name != "lo")
            .collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Names of the namespaces that tests of any run have made and not removed.
pub(crate) fn existing() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| owner(name).is_some())
        .collect()
}

/// Removes the namespaces of runs that are no more.
pub(crate) fn remove_stale() {
    for name in existing() {
        if owner(&name).is_some_and(|pid| !is_alive(pid)) {
            remove(&name);
        }
    }
}

/// The process that made the namespace `name`, if a test did.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

/// Kills what runs in a namespace, then deletes it. It runs in `Drop`, so it reports instead of panicking.
fn remove(name: &str) {
    let pids = || try_run(&format!("ip netns pids {name}")).unwrap_or_default();
    for pid in pids().split_whitespace().filter_map(|pid| pid.parse().ok()) {
        signal(pid, "KILL");
    }
    // A namespace outlives its name while a process is in it, and its TAP and veth with it: give the killed a moment.
    for _ in 0..100 {
        if pids().trim().is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    if let Err(error) = try_run(&format!("ip netns del {name}")) {
        eprintln!("left behind: {error}");
    }
}
