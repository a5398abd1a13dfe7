//! `cargo xtask guest -- COMMAND`: runs a command in a virtual machine that has a kernel of its own, and ends with the command's
//! exit code. The guest sees this machine's files, read-only below and its own writes above, so whatever was built here runs there as
//! it is; the folder the command starts in is the one `cargo xtask` was called in.
//!
//! What it is for: network cards on an emulated PCI bus behind an IOMMU, kernel modules, and anything else that one does not
//! do to the machine one works on. Nothing is measured in it: without KVM every instruction is translated.
//!
//! `kernel` fetches Debian's kernel, `initramfs` packs what mounts the machine's files, `machine` is QEMU's command line, `rxe.sh` makes
//! RDMA devices.

mod initramfs;
mod kernel;
mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::packages::{self, Tool};
use crate::process::{self, Invocation};
use crate::workspace::Workspace;

pub(crate) use machine::Nic;

/// What is called beside cargo, QEMU itself apart, which comes from where it fits ([`machine::ensure`]).
pub(crate) const TOOLS: &[Tool] = &[
    packages::tool("busybox", "busybox-static"),
    packages::tool("depmod", "kmod"),
    packages::tool("xz", "xz-utils"),
    packages::tool("zstd", "zstd"),
    packages::tool("ip", "iproute2"),
    packages::tool("lspci", "pciutils"),
];

/// What to run, and in what machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// A second network card, with one of the guest's kernel on the same segment.
    pub(crate) nic: Option<Nic>,
    /// Two RDMA devices, as `rxe.sh` makes them.
    pub(crate) rdma: bool,
    /// Memory in MiB.
    pub(crate) memory_mib: u32,
    /// Processors.
    pub(crate) cpus: u32,
    /// The longest it may take, boot included, in seconds.
    pub(crate) limit_s: u64,
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { nic: None, rdma: false, memory_mib: 2048, cpus: 2, limit_s: 300, command: Vec::new() }
    }
}

/// Everything that a boot needs, made once and kept in `target/guest/`.
struct Prepared {
    qemu: PathBuf,
    vmlinux: PathBuf,
    initramfs: PathBuf,
    /// The folder that holds `lib/modules/VERSION`.
    modules: PathBuf,
}

/// Installs and builds what is missing. The error says what to do by hand.
fn prepare(workspace: &Workspace) -> Result<Prepared, String> {
    packages::ensure(workspace, TOOLS)?;
    let qemu = machine::ensure(workspace)?;
    let folder = workspace.target().join("guest");
    let (folder, meta) = kernel::meant(&folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let kernel = kernel::ensure(workspace, &folder, &meta)?;
    let initramfs = initramfs::ensure(&kernel, &folder)?;
    Ok(Prepared { qemu, vmlinux: kernel.vmlinux, initramfs, modules: kernel.modules })
}

/// What a machine lacks for a guest, if that could not be installed.
pub(crate) fn obstacle(workspace: &Workspace) -> Option<String> {
    prepare(workspace).err()
}

/// Runs the command in a guest; its exit code, or 1 when there was no guest to run it in.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> u8 {
    let shared = std::env::temp_dir().join(format!("demi-guest-{}", std::process::id()));
    let result = prepare(workspace).and_then(|prepared| {
        fs::create_dir_all(&shared).map_err(|error| format!("{}: {error}", shared.display()))?;
        match boot(workspace, &prepared, options, &shared) {
            Err(message) if has_stalled(&shared) => {
                eprintln!("guest: {message}; a processor of it stood still, which is the emulator's doing: once more");
                boot(workspace, &prepared, options, &shared)
            }
            ended => ended,
        }
    });
    let _ = fs::remove_dir_all(&shared);
    result.unwrap_or_else(|message| {
        eprintln!("guest: {message}");
        1
    })
}

/// What the guest's kernel has said.
fn console(shared: &Path) -> String {
    let console = fs::read(shared.join("console")).unwrap_or_default();
    String::from_utf8_lossy(&console).into_owned()
}

/// Whether the guest's kernel has found that a processor of its did nothing for a minute.
fn has_stalled(shared: &Path) -> bool {
    let console = console(shared);
    console.contains("detected stalls on CPUs") || console.contains("self-detected stall on CPU")
}

/// Boots, waits for the end, and reads the exit code that the guest has left in `shared`.
fn boot(workspace: &Workspace, prepared: &Prepared, options: &Options, shared: &Path) -> Result<u8, String> {
    let here = std::env::current_dir().map_err(|error| format!("no current folder: {error}"))?;
    let before = if options.rdma { include_str!("rxe.sh") } else { "" };
    let script = script(&here, &prepared.modules, before, &options.command);
    fs::write(shared.join("run"), script).map_err(|error| format!("{}: {error}", shared.display()))?;
    let invocation = machine::invocation(prepared, options, shared);
    let invocation = Invocation { limit: Duration::from_secs(options.limit_s), ..invocation };
    let in_time = process::passthrough_in_time(workspace, &invocation);
    let code = fs::read_to_string(shared.join("code")).unwrap_or_default();
    if let Ok(code) = code.trim().parse() {
        return Ok(code);
    }
    let console = console(shared);
    let last: Vec<&str> = console.lines().rev().take(20).collect();
    for line in last.iter().rev() {
        eprintln!("guest console: {line}");
    }
    Err(match in_time {
        true => "the machine ended without an exit code: see its console above".to_owned(),
        false => format!("it took longer than {} s: give it more with --limit", options.limit_s),
    })
}

/// What the guest runs once its files are mounted: `before`, then the command.
fn script(here: &Path, modules: &Path, before: &str, command: &[String]) -> String {
    let words = command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let mut variables = String::new();
    // Those that tests and programs are told by; the rest of the environment is this machine's affair.
    for (name, value) in
        std::env::vars().filter(|(name, _)| name.starts_with("DEMI_") || name == "RUST_BACKTRACE")
    {
        variables += &format!("export {name}={}\n", quoted(&value));
    }
    include_str!("main.sh")
        .replace("@MODULES@", &quoted(&modules.display().to_string()))
        .replace("@HERE@", &quoted(&here.display().to_string()))
        .replace("@VARIABLES@", &variables)
        .replace("@BEFORE@", before)
        .replace("@COMMAND@", &words)
}

/// A word as a shell takes it literally.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_reach_the_guest_as_they_are() {
        let command = ["sh", "-c", "echo 'it''s' \"$HOME\""].map(str::to_owned);
        let script = script(Path::new("/a b"), Path::new("/modules"), "", &command);
        assert!(script.contains(r#"'sh' '-c' 'echo '\''it'\'''\''s'\'' "$HOME"'"#), "{script}");
        assert!(script.contains("cd '/a b'"), "{script}");
        assert!(!script.contains('@') || !script.contains("@COMMAND@"), "{script}");
    }
}
