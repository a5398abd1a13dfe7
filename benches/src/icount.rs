//! Instruction counts of the hot paths, and how they compare with what is committed.
//!
//! A count is taken by running the binary `icount` under callgrind twice, for N and for 2N operations, and counting only
//! inside its function `measured`: opening a runtime calibrates clocks, which takes as long as it takes. The difference over
//! N is free of what a run costs once. It repeats to a tenth of a percent where times do not repeat to ten, so CI can hold
//! it to a few.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::kit::json;

/// How far a count may lie above its baseline.
pub const TOLERANCE: f64 = 0.02;
/// Operations of the shorter run.
pub const OPERATIONS: u64 = 5_000;

/// Instructions of one operation of `path`, counted by callgrind on `program` (the binary `icount`).
///
/// # Errors
/// valgrind is not installed, the program fails under it, or says nothing that can be understood.
pub fn count(program: &Path, path: &str, operations: u64) -> io::Result<f64> {
    let run = |operations: u64| {
        let args = ["--path", path, "--operations", &operations.to_string()].map(str::to_owned);
        collect(program, "icount::measured*", &args)
    };
    let (short, long) = (run(operations)?, run(2 * operations)?);
    if long <= short {
        return Err(io::Error::other(format!("twice the operations of {path} took no more instructions")));
    }
    Ok(long.saturating_sub(short) as f64 / operations as f64)
}

/// Instructions that `program`, given `args`, spends in functions called as the pattern `within` says, counted by callgrind.
///
/// # Errors
/// As [`count`].
pub fn collect(program: &Path, within: &str, args: &[String]) -> io::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", &format!("--toggle-collect={within}")])
        .arg(program)
        .args(args)
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                io::Error::new(error.kind(), "valgrind is not installed (Debian: apt-get install valgrind)")
            }
            _ => error,
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!(
            "{} {} failed under valgrind:\n{text}",
            program.display(),
            args.join(" ")
        )));
    }
    collected(&text).ok_or_else(|| io::Error::other(format!("valgrind gave no count:\n{text}")))
}

/// The number behind callgrind's `Collected : `.
pub fn collected(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(':').next()?.trim().parse().ok()
}

/// Counts by path, as committed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Baseline {
    counts: Vec<(String, f64)>,
}

/// What a count is, beside its baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Within the tolerance.
    Same,
    /// Further below than the tolerance: the baseline should be written anew, so that the gain is kept.
    Better,
    /// Further above than the tolerance.
    Worse,
    /// There is no baseline for it.
    New,
}

impl Verdict {
    /// Whether a gate lets it pass.
    pub fn passes(self) -> bool {
        matches!(self, Verdict::Same | Verdict::Better)
    }
}

impl Baseline {
    /// Reads a baseline file.
    ///
    /// # Errors
    /// It cannot be read, or is not one flat JSON object of numbers.
    pub fn read(path: &Path) -> io::Result<Baseline> {
        let context = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text =
            std::fs::read_to_string(path).map_err(|error| io::Error::new(error.kind(), context(&error)))?;
        let bad = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, context(error));
        let mut counts = Vec::new();
        for (name, value) in json::parse(&text).map_err(|error| bad(&error))? {
            counts.push((name, value.parse().map_err(|error| bad(&error))?));
        }
        Ok(Baseline { counts })
    }

    /// Adds a count, or replaces the one of that name.
    pub fn set(&mut self, name: &str, count: f64) {
        match self.counts.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = count,
            None => self.counts.push((name.into(), count)),
        }
    }

    /// The count of `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.counts.iter().find(|(known, _)| known == name).map(|(_, count)| *count)
    }

    /// Paths of the baseline that `measured` lacks: a path that was dropped must leave the baseline too.
    pub fn missing<'a>(&'a self, measured: &[&str]) -> Vec<&'a str> {
        self.counts.iter().map(|(name, _)| name.as_str()).filter(|name| !measured.contains(name)).collect()
    }

    /// How `count` compares.
    pub fn judge(&self, name: &str, count: f64, tolerance: f64) -> Verdict {
        match self.get(name) {
            None => Verdict::New,
            Some(known) if count > known * (1.0 + tolerance) => Verdict::Worse,
            Some(known) if count < known * (1.0 - tolerance) => Verdict::Better,
            Some(_) => Verdict::Same,
        }
    }

    /// The file's text: one path a line, so that a diff shows which one moved.
    pub fn to_text(&self) -> String {
        let lines: Vec<String> =
            self.counts.iter().map(|(name, count)| format!("  \"{name}\": {count:.1}")).collect();
        format!("{{\n{}\n}}\n", lines.join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let mut baseline = Baseline::default();
        baseline.set("tcp_echo", 1234.5);
        baseline.set("yield", 20.0);
        baseline.set("yield", 21.0);
        let file = std::env::temp_dir().join(format!("demi-baseline-{}.json", std::process::id()));
        std::fs::write(&file, baseline.to_text()).unwrap();
        let read = Baseline::read(&file);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read.unwrap(), baseline);
    }

    #[test]
    fn more_than_the_tolerance_above_is_worse_and_a_path_without_baseline_is_new() {
        let mut baseline = Baseline::default();
        baseline.set("path", 100.0);
        let judge = |count| baseline.judge("path", count, 0.03);
        assert_eq!([judge(96.0), judge(98.0), judge(102.9), judge(103.1)], {
            [Verdict::Better, Verdict::Same, Verdict::Same, Verdict::Worse]
        });
        assert_eq!(baseline.judge("other", 1.0, 0.03), Verdict::New);
        assert!(!Verdict::Worse.passes() && !Verdict::New.passes() && Verdict::Better.passes());
        assert_eq!(baseline.missing(&["other"]), ["path"]);
    }

    #[test]
    fn the_count_is_found_in_what_callgrind_says() {
        let text = "==7== Events    : Ir\n==7== Collected : 123456\n==7== \n==7== I   refs:      123,456\n";
        assert_eq!(collected(text), Some(123_456));
        assert_eq!(collected("==7== nothing"), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        assert!(count(Path::new("/nonexistent/icount"), "path", 1).is_err());
    }
}
