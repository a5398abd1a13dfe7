//! Many scripts: which there are, what became of each, and the table of states and events that they cover.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::flags::{Flags, IpVersion};
use crate::run::{self, Cells, Outcome, State, Stimulus};
use crate::script::Script;

/// Scripts that show a known fault lie in a folder of this name: they are expected to fail.
const KNOWN: &str = "known";

/// What became of one script with one IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every line held.
    Passed,
    /// A line did not, and says why: place and message.
    Failed(String),
    /// It failed, as is known.
    Known(String),
    /// It is listed as failing and passed: the list has to be shortened.
    Mended,
}

/// One run of one script.
#[derive(Clone, Debug)]
pub struct Run {
    /// The script.
    pub path: PathBuf,
    /// The IP version it was run with.
    pub version: &'static str,
    /// How it ended.
    pub verdict: Verdict,
}

/// What became of many scripts.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Every run, in the order of paths.
    pub runs: Vec<Run>,
    /// Cells covered by scripts that passed, and the first script of each.
    pub cells: std::collections::BTreeMap<(State, Stimulus), Vec<PathBuf>>,
}

impl Summary {
    /// Runs that ended so.
    pub fn count(&self, wanted: impl Fn(&Verdict) -> bool) -> usize {
        self.runs.iter().filter(|run| wanted(&run.verdict)).count()
    }

    /// Whether every script did what is expected of it.
    pub fn is_good(&self) -> bool {
        self.count(|verdict| matches!(verdict, Verdict::Failed(_) | Verdict::Mended)) == 0
    }
}

/// The scripts at and below `paths`, sorted.
///
/// # Errors
/// A path that cannot be read.
pub fn find(paths: &[PathBuf]) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.is_dir() {
            let mut below = std::fs::read_dir(path)?
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<std::io::Result<Vec<PathBuf>>>()?;
            below
                .retain(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "pkt"));
            below.sort();
            found.extend(find(&below)?);
        } else {
            found.push(path.clone());
        }
    }
    Ok(found)
}

/// Runs scripts, telling `told` of each run as it ends.
pub fn run_all(paths: &[PathBuf], flags: &Flags, mut told: impl FnMut(&Run)) -> Summary {
    let mut summary = Summary::default();
    for path in paths {
        let expected_to_fail = path.components().any(|part| part.as_os_str() == KNOWN);
        for (version, result) in run_file(path, flags) {
            let verdict = match (result, expected_to_fail) {
                (Ok(cells), false) => {
                    for cell in cells {
                        let scripts = summary.cells.entry(cell).or_default();
                        if scripts.last() != Some(path) {
                            scripts.push(path.clone());
                        }
                    }
                    Verdict::Passed
                }
                (Ok(_), true) => Verdict::Mended,
                (Err(message), false) => Verdict::Failed(message),
                (Err(message), true) => Verdict::Known(message),
            };
            let run = Run { path: path.clone(), version, verdict };
            told(&run);
            summary.runs.push(run);
        }
    }
    summary
}

/// Runs one script with each IP version it is for.
fn run_file(path: &Path, flags: &Flags) -> Vec<(&'static str, Result<Cells, String>)> {
    let name = path.display();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return vec![("-", Err(format!("{name}: {error}")))],
    };
    let script = match Script::parse_with(&text, &flags.defines) {
        Ok(script) => script,
        Err(error) => return vec![("-", Err(format!("{name}:{error}")))],
    };
    let one = |version: IpVersion| {
        let report = run::run(&script, flags, version);
        let result = match report.outcome {
            Outcome::Passed => Ok(report.cells),
            Outcome::Failed { place, message } => {
                Err(format!("{name}:{}:{}: {message}", place.line, place.column))
            }
        };
        (version.name(), result)
    };
    run::versions(&script, flags).into_iter().map(one).collect()
}

/// The table of states and events in Markdown: a row an event. A cell that scripts cover leads to one of them, told relative to
/// `root`; to one in a folder named after the state, if there is any.
pub fn table(summary: &Summary, root: &Path) -> String {
    let mut text = String::from("| event |");
    for state in State::ALL {
        let _ = write!(text, " {state} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(State::ALL.len()));
    text.push('\n');
    for stimulus in Stimulus::ALL {
        let _ = write!(text, "| {stimulus} |");
        for state in State::ALL {
            let scripts = summary.cells.get(&(state, stimulus)).map_or(&[][..], Vec::as_slice);
            let folder = state.to_string().to_lowercase();
            let own =
                scripts.iter().find(|path| path.components().any(|part| part.as_os_str() == folder.as_str()));
            match own.or(scripts.first()) {
                None => text.push_str("  |"),
                Some(path) => {
                    let _ = write!(text, " [✓]({}) |", path.strip_prefix(root).unwrap_or(path).display());
                }
            }
        }
        text.push('\n');
    }
    text
}
