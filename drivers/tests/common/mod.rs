//! Network namespaces for tests, and a hand-made host that speaks just enough ARP, UDP and TCP to talk to the kernel.

pub(crate) mod host;
pub(crate) mod scenarios;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::process::Command;

/// Why kernel tests cannot run here, if they cannot.
fn obstacle() -> Option<String> {
    match std::env::var("DEMI_TIER") {
        Ok(tier) if tier != "kernel" && tier != "dpdk" => {
            return Some(format!("tier {tier} is being run, these are tiers kernel and dpdk"));
        }
        _ => (),
    }
    // SAFETY: always succeeds.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root, and namespaces take root".to_string());
    }
    match Command::new("ip").arg("-V").output() {
        Ok(_) => None,
        Err(error) => Some(format!("no ip command: {error}: apt-get install iproute2")),
    }
}

/// Says on standard error, where no harness captures it, that a test does not run, and why.
pub(crate) fn skip(name: &str, reason: &str) {
    let _ = writeln!(io::stderr(), "SKIP {name}: {reason}");
}

/// Runs `test` on a thread of its own in a new network namespace, which is gone when the thread is; or says
/// why not.
pub(crate) fn in_namespace(name: &str, test: impl FnOnce() + Send + 'static) {
    if let Some(reason) = obstacle() {
        skip(name, &reason);
        return;
    }
    let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || {
        enter_new();
        run("ip link set lo up");
        test();
    });
    if let Err(panic) = thread.unwrap().join() {
        resume_unwind(panic);
    }
}

/// Moves the calling thread to a new network namespace.
pub(crate) fn enter_new() {
    // SAFETY: changes the calling thread's namespace, and no memory.
    let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "unshare: {}", io::Error::last_os_error());
}

/// Makes the calling thread, and no other, one of a user without any privilege.
pub(crate) fn drop_privileges() {
    let nobody: libc::c_long = 65_534;
    // SAFETY: the system call itself, unlike libc's function of that name, changes the calling thread's identity alone.
    let answer = unsafe { libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody) };
    assert_eq!(answer, 0, "setresuid: {}", io::Error::last_os_error());
}

/// The calling thread's network namespace.
pub(crate) fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// Moves the calling thread to a namespace it was in before.
pub(crate) fn enter(namespace: &File) {
    // SAFETY: changes the calling thread's namespace, and no memory.
    let answer = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(answer, 0, "setns: {}", io::Error::last_os_error());
}

/// A path by which a child process finds a namespace.
pub(crate) fn path_of(namespace: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// Runs a command in the calling thread's namespace.
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the calling thread's namespace has an interface of that name.
pub(crate) fn has_interface(name: &str) -> bool {
    Command::new("ip").args(["link", "show", name]).output().unwrap().status.success()
}

/// Whether the calling thread's namespace loses the interface, now or soon: a process that another test starts holds
/// every descriptor of this one between its fork and its exec, and the interface lives until the last is closed.
pub(crate) fn loses_interface(name: &str) -> bool {
    let gone = || !has_interface(name);
    (0..500).any(|_| {
        gone() || {
            std::thread::sleep(std::time::Duration::from_millis(10));
            false
        }
    })
}

/// The Ethernet address of an interface in the calling thread's namespace.
pub(crate) fn mac_of(interface: &str) -> [u8; 6] {
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let mut bytes = words.next().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
    std::array::from_fn(|_| bytes.next().unwrap())
}
