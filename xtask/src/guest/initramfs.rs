//! The first files the guest sees: one shell, one script, and the modules that its disk needs, which is this machine's own. Writes
//! the archive itself (cpio's `newc` form, Documentation/driver-api/early-userspace/buffer-format.rst); the kernel takes it as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::Kernel;
use crate::packages;

/// What the script needs to mount the machine's files; each brings what it depends on.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];
const SCRIPT: &str = include_str!("init.sh");

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// The archive for `kernel`, made anew each time: it takes a blink.
pub(super) fn ensure(kernel: &Kernel, folder: &Path) -> Result<PathBuf, String> {
    let path = folder.join(format!("initramfs-{}", kernel.version));
    let archive = pack(kernel)?;
    // Another guest may be reading it: what is there already is left alone.
    if fs::read(&path).is_ok_and(|there| there == archive) {
        return Ok(path);
    }
    let fresh = folder.join(format!("initramfs-new-{}", std::process::id()));
    fs::write(&fresh, archive)
        .and_then(|()| fs::rename(&fresh, &path))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

fn pack(kernel: &Kernel) -> Result<Vec<u8>, String> {
    let busybox = packages::find("busybox").ok_or("no busybox: apt-get install busybox-static")?;
    let busybox = fs::read(&busybox).map_err(|error| format!("{}: {error}", busybox.display()))?;
    let mut archive = Archive::default();
    for name in ["bin", "proc", "sys", "dev", "machine", "layer", "root", "modules"] {
        archive.entry(name, FOLDER, &[]);
    }
    archive.entry("bin/busybox", PROGRAM, &busybox);
    archive.entry("init", PROGRAM, SCRIPT.as_bytes());
    let mut order = String::new();
    for path in modules(kernel)? {
        let (name, bytes) = module(&path)?;
        order += &format!("{name}\n");
        archive.entry(&format!("modules/{name}"), FILE, &bytes);
    }
    archive.entry("modules/order", FILE, order.as_bytes());
    Ok(archive.finish())
}

/// The files of [`MODULES`] in the order they can be loaded in.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>, String> {
    let mut files: Vec<PathBuf> = Vec::new();
    for name in MODULES {
        let mut command = Command::new("modprobe");
        command.arg("-d").arg(&kernel.modules).args(["-S", &kernel.version, "--show-depends", name]);
        let output = command.output().map_err(|error| format!("modprobe: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "the kernel has no {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        for path in text.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = PathBuf::from(path.trim());
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// A module's name without compression, and its bytes.
fn module(path: &Path) -> Result<(String, Vec<u8>), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let program = match name.rsplit_once('.') {
        Some((_, "xz")) => "xz",
        Some((_, "zst")) => "zstd",
        _ => {
            let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
            return Ok((name, bytes));
        }
    };
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok((name.trim_end_matches(".xz").trim_end_matches(".zst").to_owned(), output.stdout)),
        false => Err(format!("{}: {program} cannot unpack it", path.display())),
    }
}

/// A cpio archive in the making.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name_bytes = name.len() + 1;
        let header = [self.entries, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, name_bytes as u32, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in header {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_headers_names_and_contents_in_words_of_four() {
        let mut archive = Archive::default();
        archive.entry("a", FILE, b"hello");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(&bytes[110..112], b"a\0", "the header is 110 bytes");
        assert_eq!(&bytes[112..120], b"hello\0\0\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(10).any(|window| window == b"TRAILER!!!"));
    }
}
