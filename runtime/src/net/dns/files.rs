//! The two files that a machine keeps names in, as they are on the disk: read when a lookup needs them, and again when they
//! have changed.
//!
//! Reading is bounded, touches nothing but regular files, and never fails: a file that is not there or cannot be read is an
//! empty one. It blocks, so it is done on a thread that may.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::hosts::Hosts;
use super::resolv_conf::ResolvConf;

/// What is read of a file at most: lists of a million blocked names fit.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// Where the files are; `None`: they are not to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Paths {
    pub(super) hosts: Option<PathBuf>,
    pub(super) resolv_conf: Option<PathBuf>,
}

/// What the files say.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) hosts: Hosts,
    pub(super) conf: ResolvConf,
    stamps: Stamps,
}

/// Tells two states of the files apart: when each was changed, and how long it is.
pub(super) type Stamps = [Option<(SystemTime, u64)>; 2];

impl Paths {
    /// Whether there is nothing to read.
    pub(super) fn is_empty(&self) -> bool {
        self.hosts.is_none() && self.resolv_conf.is_none()
    }

    /// How the files look from outside.
    fn stamps(&self) -> Stamps {
        [&self.hosts, &self.resolv_conf].map(|path| {
            let meta = std::fs::metadata(path.as_ref()?).ok().filter(|meta| meta.is_file())?;
            Some((meta.modified().ok()?, meta.len()))
        })
    }

    /// Reads both, unless they look as they did when what is `known` was read: then `None`.
    pub(super) fn read(&self, known: Option<Stamps>) -> Option<Files> {
        let stamps = self.stamps();
        if known == Some(stamps) {
            return None;
        }
        Some(Files {
            hosts: Hosts::parse(&text(self.hosts.as_deref())),
            conf: ResolvConf::parse(&text(self.resolv_conf.as_deref()), interface_number),
            stamps,
        })
    }
}

impl Files {
    /// How the files looked when they were read.
    pub(super) fn stamps(&self) -> Stamps {
        self.stamps
    }
}

/// The beginning of a file, as text; what is no UTF-8 in it is no name either.
fn text(path: Option<&Path>) -> String {
    let read = |path: &Path| {
        // A pipe or a device in a file's place would block, or never end.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(Vec::new());
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = path.and_then(|path| read(path).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number of the interface called `name`, for a link-local server.
fn interface_number(name: &str) -> Option<u32> {
    if name.contains('/') || name.starts_with('.') {
        return None;
    }
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_there_or_no_files_are_empty_ones() {
        for odd in ["/nonexistent", "/dev", "/dev/zero"] {
            let paths = Paths { hosts: Some(odd.into()), resolv_conf: Some(odd.into()) };
            let files = paths.read(None).unwrap();
            assert_eq!((files.hosts, files.conf), (Hosts::default(), ResolvConf::default()), "{odd}");
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed_and_not_before() {
        let path = std::env::temp_dir().join(format!("demi-hosts-{}", std::process::id()));
        std::fs::write(&path, "10.0.0.1 web\n").unwrap();
        let paths = Paths { hosts: Some(path.clone()), resolv_conf: None };
        let first = paths.read(None).unwrap();
        assert!(first.hosts.get("web").is_some());
        assert!(paths.read(Some(first.stamps())).is_none());
        std::fs::write(&path, "10.0.0.1 web mail\n").unwrap();
        let second = paths.read(Some(first.stamps())).unwrap();
        assert!(second.hosts.get("mail").is_some());
        std::fs::remove_file(&path).unwrap();
    }
}
