//! What the tests share.

use std::process::Command;

use demi::Config;

/// The numbers of up to `count` processors that this process may run on.
fn processors(count: usize) -> Vec<usize> {
    // SAFETY: an all-zero set is a valid, empty one.
    let mut set: libc::cpu_set_t = unsafe { core::mem::zeroed() };
    // SAFETY: the set lives on the stack and its size is given.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) }, 0);
    // SAFETY: each processor's bit lies within the set.
    let allowed = (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) });
    allowed.take(count).collect()
}

/// A configuration of two cores over `device`; `None` on a machine that has one.
pub(crate) fn two_cores(device: &str) -> Option<Config> {
    let cpus = processors(2);
    let [first, second] = cpus[..] else { return None };
    let config = Config::new().device(device).pool_slots(1024).pool_large_slots(16).huge_pages(false);
    // Two busy loops beside a test's own threads would starve those on a small machine.
    Some(config.cores(format!("{first},{second}")).idle("park"))
}

/// This program once more, to run the test called `name` alone: a process to be ended.
pub(crate) fn again(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command
}
