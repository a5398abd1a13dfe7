//! What the hottest functions were compiled to: they may neither panic nor call for a copy.
//!
//! A bounds check that the compiler could not remove, a slice that is asked for beyond its end, an `unwrap`: each is a branch, and
//! a path that a peer might find. A call of `memcpy` in their midst moves what registers could have held. What is rare is called
//! out of line, and may do as it likes; so may the ends of a panic that somebody else began.

use std::io;
use std::path::Path;
use std::process::Command;

/// The functions, by how their names end. Each is where several layers were inlined into: a burst in, a burst out, a turn of the
/// loop, and its run of tasks.
pub const FUNCTIONS: &[&str] = &[
    "demi_netstack::stack::Stack::take_burst",
    "demi_netstack::stack::Stack::send_burst",
    "demi::turn::<impl demi::runtime::Inner>::turn",
    "demi::executor::Executor::run",
];

/// What none of them may call.
const FORBIDDEN: &[&str] = &[
    "core::panicking::panic",
    "core::slice::index",
    "core::option::unwrap_failed",
    "core::option::expect_failed",
    "core::result::unwrap_failed",
    "core::cell::panic_already",
    "core::str::slice_error_fail",
    "memcpy",
    "memmove",
    "memset",
];

/// Calls that look like those and are not: a panic that goes on through a function that has something to drop.
const ALLOWED: &[&str] = &["panic_in_cleanup", "panic_cleanup"];

/// What is wrong with the functions in `program`, a line each; nothing when all is well.
///
/// # Errors
/// `nm` or `objdump` of binutils is not there, or fails.
pub fn check(program: &Path) -> io::Result<Vec<String>> {
    let symbols = tool("nm", &["-C", "--print-size"], program)?;
    let mut wrong = Vec::new();
    for name in FUNCTIONS {
        let Some((start, bytes)) = find(&symbols, name) else {
            wrong.push(format!("{name}: not in the program: inlined or renamed, and to be named anew here"));
            continue;
        };
        let range = [format!("--start-address={start}"), format!("--stop-address={}", start + bytes)];
        let code = tool("objdump", &["-d", "-C", "--no-show-raw-insn", &range[0], &range[1]], program)?;
        wrong.extend(forbidden(&code).map(|call| format!("{name} calls {call}")));
    }
    Ok(wrong)
}

fn tool(name: &str, args: &[&str], program: &Path) -> io::Result<String> {
    let output = Command::new(name).args(args).arg(program).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            io::Error::new(error.kind(), format!("{name} is not installed (Debian: binutils)"))
        }
        _ => error,
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// Where a function begins, and its bytes, by what `nm` says: `ADDRESS SIZE KIND NAME`.
fn find(symbols: &str, name: &str) -> Option<(u64, u64)> {
    symbols.lines().find_map(|line| {
        let mut fields = line.splitn(4, ' ');
        let (start, bytes) = (fields.next()?, fields.next()?);
        let found = fields.next().is_some() && fields.next()? == name;
        let number = |text| u64::from_str_radix(text, 16).ok();
        if found { Some((number(start)?, number(bytes)?)) } else { None }
    })
}

/// The targets of calls and jumps that are forbidden.
fn forbidden(code: &str) -> impl Iterator<Item = &str> {
    let calls = code.lines().filter(|line| line.contains("call") || line.contains("jmp"));
    let targets =
        calls.filter_map(|line| line.split_once('<').map(|(_, target)| target.trim_end_matches('>')));
    targets.filter(|target| {
        FORBIDDEN.iter().any(|name| target.contains(name))
            && !ALLOWED.iter().any(|name| target.contains(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_by_its_whole_name() {
        let symbols = "0000000000001000 0000000000000020 t a::run_all\n0000000000002000 0000000000000010 t a::run\n         U memcpy\n";
        assert_eq!(find(symbols, "a::run"), Some((0x2000, 0x10)));
        assert_eq!(find(symbols, "a::walk"), None);
    }

    #[test]
    fn panics_and_copies_are_found_and_what_only_sounds_like_them_is_not() {
        let code = "  10: call   63c13 <core::panicking::panic_in_cleanup>\n  \
                    15: call   60f20 <core::slice::index::slice_index_fail>\n  \
                    1a: call   *0x6c4cb(%rip)        # 200e48 <memmove@GLIBC_2.2.5>\n  \
                    1f: call   *0x8(%rax)\n  \
                    24: jmp    5f310 <core::panicking::panic_bounds_check>\n  \
                    29: mov    %rax,%rbx\n  \
                    2e: jne    40 <a::run+0x30>\n";
        let found: Vec<_> = forbidden(code).collect();
        assert_eq!(
            found,
            [
                "core::slice::index::slice_index_fail",
                "memmove@GLIBC_2.2.5",
                "core::panicking::panic_bounds_check"
            ]
        );
    }

    #[test]
    fn a_program_without_the_functions_is_told_of() {
        let wrong = check(Path::new("/proc/self/exe"));
        // This test's own program is built without inlining and may have them, or not: it is read either way.
        assert!(wrong.is_ok(), "{wrong:?}");
        assert!(check(Path::new("/nonexistent")).is_err());
    }
}
