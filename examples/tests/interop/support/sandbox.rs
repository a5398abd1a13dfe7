//! What a container's sandbox takes away from a program: system calls, by a seccomp filter.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A filter's instruction.
const fn instruction(code: u32, k: u32, jump_true: u8) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: jump_true, jf: 0, k }
}

/// Lets `io_uring_setup(2)` fail with `EPERM` in the command and its children, and everything else pass.
pub(super) fn forbid_io_uring(command: &mut Command) {
    let install = || {
        // The number of the call is the first word of what a filter is shown.
        let filter = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32, 1),
            instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
            instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
        // SAFETY: `program` and the instructions it points to are readable during the call, which writes nothing.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec `install` makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(install) };
}
