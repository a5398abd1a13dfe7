//! The large files that transfers are made of, and their digests by a foreign hand.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::command::must;

/// A file to be sent.
#[derive(Debug)]
pub(crate) struct Large {
    /// The folder it is in, alone.
    pub(crate) folder: PathBuf,
    /// Its name.
    pub(crate) name: &'static str,
    /// SHA-256 of it, as `sha256sum` writes it.
    pub(crate) digest: String,
}

impl Large {
    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join(self.name)
    }

    /// Its first bytes.
    pub(crate) fn start(&self, bytes: usize) -> Vec<u8> {
        let mut start = vec![0; bytes];
        if let Err(error) = File::open(self.path()).and_then(|mut file| file.read_exact(&mut start)) {
            panic!("{}: {error}", self.path().display());
        }
        start
    }
}

/// A file of 1 GiB that no transfer can shorten or repeat unnoticed.
pub(crate) fn gibibyte() -> &'static Large {
    static FILE: OnceLock<Large> = OnceLock::new();
    FILE.get_or_init(|| make("gibibyte", 1 << 30))
}

/// As [`gibibyte`], an eighth of it.
pub(crate) fn eighth() -> &'static Large {
    static FILE: OnceLock<Large> = OnceLock::new();
    FILE.get_or_init(|| make("eighth", 1 << 27))
}

/// As [`gibibyte`], a thirty-second of it.
pub(crate) fn thirty_second() -> &'static Large {
    static FILE: OnceLock<Large> = OnceLock::new();
    FILE.get_or_init(|| make("thirty-second", 1 << 25))
}

/// Makes the file unless it is there already; it stays in the target folder.
fn make(name: &'static str, bytes: u64) -> Large {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("served");
    let large = Large { folder, name, digest: String::new() };
    let complete = fs::metadata(large.path()).is_ok_and(|meta| meta.len() == bytes);
    if !complete && let Err(error) = write(&large, bytes) {
        panic!("{}: {error}", large.path().display());
    }
    Large { digest: digest(&large.path()), ..large }
}

/// SHA-256 of a file.
pub(crate) fn digest(path: &Path) -> String {
    let line = must(&format!("sha256sum {}", path.display()));
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Writes words of a xorshift generator: incompressible, and the same in every run.
fn write(large: &Large, bytes: u64) -> io::Result<()> {
    fs::create_dir_all(&large.folder)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(large.path())?);
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..bytes / 8 {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        file.write_all(&word.to_le_bytes())?;
    }
    file.flush()
}
