//! Runs short commands that must work (`ip`, `nft`, `sysctl`): a failure panics with all the command said.

use std::fs;
use std::process::{Command, Stdio};

/// Runs `line`, split at spaces, and answers what it printed.
///
/// # Panics
/// It cannot be run or exits with anything but 0.
#[track_caller]
pub(crate) fn must(line: &str) -> String {
    match try_run(line) {
        Ok(output) => output,
        Err(error) => panic!("{error}"),
    }
}

/// Runs `line`, split at spaces; the error is all it said.
pub(crate) fn try_run(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    Err(format!("`{line}`: {}\n{stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Sends `signal` (`INT`, `KILL`) to a process; a process that is gone already is no error.
pub(crate) fn signal(pid: u32, signal: &str) {
    // The shell's own `kill`: std alone can signal nothing but its own children, and those only with KILL.
    let _ = Command::new("sh").arg("-c").arg(format!("kill -{signal} {pid} 2>/dev/null")).status();
}

/// Whether the process `pid` exists.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return false };
    // proc(5), `Uid: real effective saved filesystem`.
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .is_some_and(|effective| effective == "0")
}
