//! The guest's kernel: Debian's own package of it, fetched and unpacked, never installed. Owns `target/guest/kernel-*`.
//!
//! QEMU starts an uncompressed kernel at once by its PVH entry, without firmware that would take longer than the kernel does; the
//! package holds a compressed one (Documentation/arch/x86/boot.rst says where in the file its payload lies).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{self, Invocation};
use crate::workspace::Workspace;

/// The package that names the newest kernel of the distribution.
const META_PACKAGE: &str = "linux-image-amd64";
/// The variable that names another such package, to run what runs in a guest on that kernel: `linux-image-6.12-amd64`.
const ANOTHER: &str = "XTASK_GUEST_KERNEL";

/// A kernel that was unpacked.
pub(super) struct Kernel {
    /// Uncompressed.
    pub(super) vmlinux: PathBuf,
    /// The folder that holds `lib/modules/VERSION`, dependencies listed.
    pub(super) modules: PathBuf,
    /// What `uname -r` will say.
    pub(super) version: String,
}

/// The folder of the kernel that is meant, within `folder`, and the package that names it.
pub(super) fn meant(folder: &Path) -> (PathBuf, String) {
    match std::env::var(ANOTHER).ok().filter(|name| !name.is_empty() && name != META_PACKAGE) {
        Some(another) => (folder.join(file_name(Path::new(&another))), another),
        None => (folder.to_owned(), META_PACKAGE.to_owned()),
    }
}

/// The kernel of `folder`, fetched if there is none yet: the newest that the package `meta` names.
pub(super) fn ensure(workspace: &Workspace, folder: &Path, meta: &str) -> Result<Kernel, String> {
    if let Some(kernel) = unpacked(folder) {
        return Ok(kernel);
    }
    let package = match newest(meta) {
        Some(package) => package,
        None => {
            // A machine whose package lists were never fetched knows of none.
            apt(workspace, folder, "apt-update", "apt-get -q update")?;
            newest(meta).ok_or_else(|| format!("apt knows no {meta}: a guest takes a kernel of Debian's"))?
        }
    };
    println!("fetching {package}");
    let parts = folder.join("packages");
    let fresh = folder.join("unpacked");
    let _ = fs::remove_dir_all(&parts);
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&parts).map_err(|error| format!("{}: {error}", parts.display()))?;
    if apt(workspace, &parts, "guest-kernel", &format!("apt-get -q download {package}")).is_err() {
        // The lists may name a version that the archive has replaced since.
        apt(workspace, folder, "apt-update", "apt-get -q update")?;
        apt(workspace, &parts, "guest-kernel", &format!("apt-get -q download {package}"))?;
    }
    let archive = only_entry(&parts)?;
    must(Command::new("dpkg").arg("-x").arg(&archive).arg(&fresh))?;
    let _ = fs::remove_dir_all(&parts);
    let version = file_name(&only_entry(&fresh.join("lib/modules"))?);
    must(Command::new("depmod").arg("-b").arg(&fresh).arg(&version))?;
    let image = fresh.join("boot").join(format!("vmlinuz-{version}"));
    let image = fs::read(&image).map_err(|error| format!("{}: {error}", image.display()))?;
    let vmlinux = fresh.join("vmlinux");
    fs::write(&vmlinux, decompressed(&image)?).map_err(|error| format!("{}: {error}", vmlinux.display()))?;
    // Only a whole one gets its name.
    let home = folder.join(format!("kernel-{version}"));
    let _ = fs::remove_dir_all(&home);
    fs::rename(&fresh, &home).map_err(|error| format!("{}: {error}", home.display()))?;
    unpacked(folder).ok_or_else(|| format!("{}: no kernel after unpacking one", folder.display()))
}

/// The kernel that an earlier run unpacked.
fn unpacked(folder: &Path) -> Option<Kernel> {
    let entries = fs::read_dir(folder).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let version = entry.file_name().to_str()?.strip_prefix("kernel-")?.to_owned();
        let (vmlinux, modules) = (entry.path().join("vmlinux"), entry.path());
        vmlinux.is_file().then_some(Kernel { vmlinux, modules, version })
    })
}

/// The package of the newest kernel that apt knows.
fn newest(meta: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", meta]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    depends_on(&text)
}

fn depends_on(text: &str) -> Option<String> {
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// Runs apt in `folder`, which may be one that only root may read.
fn apt(workspace: &Workspace, folder: &Path, log: &str, line: &str) -> Result<(), String> {
    let invocation = Invocation::new("env")
        .args(&format!(
            "--chdir={} {line} -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=300",
            folder.display()
        ))
        .limit_s(15 * 60);
    match process::run(workspace, log, &invocation) {
        Ok(outcome) if outcome.success => Ok(()),
        Ok(outcome) => Err(format!("{line} failed, see {}", outcome.log.display())),
        Err(error) => Err(format!("{line}: {error}")),
    }
}

/// The kernel inside a bzImage.
fn decompressed(image: &[u8]) -> Result<Vec<u8>, String> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| u32::from_le_bytes(bytes) as usize)
    };
    let payload = || {
        // setup_sects counts the 512-byte sectors behind the first; 0 stands for 4.
        let setup = match *image.get(0x1f1)? {
            0 => 5 * 512,
            sectors => (usize::from(sectors) + 1) * 512,
        };
        let start = setup + word(0x248)?;
        // The last four bytes are the size of what comes out, and no part of what goes in.
        image.get(start..start + word(0x24c)?.checked_sub(4)?)
    };
    let payload = payload().ok_or("the kernel's image has no payload: is it a bzImage?")?;
    let mut command = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Command::new("xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Command::new("zstd"),
        [0x1f, 0x8b, ..] => Command::new("gzip"),
        [first, second, ..] => {
            return Err(format!("the kernel is packed by a format that begins {first:02x} {second:02x}"));
        }
        _ => return Err("the kernel's image has an empty payload".to_owned()),
    };
    let unpacked = filtered(command.arg("-dc"), payload)?;
    match unpacked.starts_with(b"\x7fELF") {
        true => Ok(unpacked),
        false => Err("the kernel's payload is no ELF file".to_owned()),
    }
}

/// What `command` makes of `input`.
fn filtered(command: &mut Command, input: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("unpack the kernel: {error}");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut stdin = child.stdin.take().ok_or("unpack the kernel: no pipe")?;
    std::thread::scope(|scope| {
        let feed = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output().map_err(failed)?;
        let fed = feed.join().map_err(|_| "unpack the kernel: the pipe broke")?;
        match (fed, output.status.success()) {
            (Ok(()), true) => Ok(output.stdout),
            (Err(error), _) => Err(failed(error)),
            (_, false) => Err(format!("unpack the kernel: {}", output.status)),
        }
    })
}

fn must(command: &mut Command) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

fn only_entry(folder: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.next().ok_or_else(|| format!("{}: empty", folder.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_behind_the_name_is_found() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\n  Recommends: <something>\n";
        assert_eq!(depends_on(text).as_deref(), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(depends_on("linux-image-amd64\n"), None);
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused_by_name() {
        assert!(decompressed(b"").unwrap_err().contains("bzImage"));
        let mut image = vec![0; 8192];
        image[0x1f1] = 1;
        image[0x24c] = 64;
        assert!(decompressed(&image).unwrap_err().contains("00 00"));
    }
}
