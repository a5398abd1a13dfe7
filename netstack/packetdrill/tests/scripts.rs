//! Every script under `scripts/`, a test each and IP version, and the README's tables, which are made of what they did.
//!
//! `DEMI_WRITE=1 cargo test -p demi-packetdrill --test scripts` writes the tables anew.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use demi_packetdrill::Flags;
use demi_packetdrill::suite::{self, Summary, Verdict};

const BEGIN: &str = "<!-- tables: begin -->\n";
const END: &str = "<!-- tables: end -->\n";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = suite::find(&[root.join("scripts")]).expect("the folder of scripts");
    let chosen: Vec<PathBuf> = all
        .iter()
        .filter(|path| {
            filters.is_empty() || filters.iter().any(|filter| path.to_string_lossy().contains(*filter))
        })
        .cloned()
        .collect();
    let flags = Flags { strict_end: true, ..Flags::default() };
    println!("\nrunning {} scripts", chosen.len());
    let summary = suite::run_all(&chosen, &flags, |run| {
        let name = run.path.strip_prefix(root).unwrap_or(&run.path).display();
        match &run.verdict {
            Verdict::Passed => {}
            Verdict::Failed(message) => println!("test {name} ({}) ... FAILED\n  {message}", run.version),
            Verdict::Known(message) => println!("test {name} ({}) ... known\n  {message}", run.version),
            Verdict::Mended => {
                println!("test {name} ({}) ... FAILED\n  it passes: take it out of known/", run.version);
            }
        }
    });
    let mut passed = summary.count(|verdict| *verdict == Verdict::Passed);
    let mut failed = summary.count(|verdict| matches!(verdict, Verdict::Failed(_) | Verdict::Mended));
    let known = summary.count(|verdict| matches!(verdict, Verdict::Known(_)));
    if filters.is_empty() {
        match check_tables(root, &summary) {
            Ok(()) => passed += 1,
            Err(message) => {
                println!("test the README's tables ... FAILED\n  {message}");
                failed += 1;
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!("\nknown {known}");
    println!(
        "test result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Scripts by concept, and the table of states and events.
fn tables(root: &Path, summary: &Summary) -> String {
    let mut concepts: BTreeMap<String, usize> = BTreeMap::new();
    let mut seen: Option<&PathBuf> = None;
    for run in &summary.runs {
        if seen.replace(&run.path) != Some(&run.path) {
            let below = run.path.strip_prefix(root.join("scripts")).unwrap_or(&run.path);
            let concept =
                below.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
            *concepts.entry(concept.unwrap_or_default()).or_default() += 1;
        }
    }
    let mut text = String::from("\n| concept | scripts |\n|---|---|\n");
    for (concept, count) in &concepts {
        let _ = writeln!(text, "| [{concept}](scripts/{concept}) | {count} |");
    }
    let _ = writeln!(text, "| all | {} |\n", concepts.values().sum::<usize>());
    text + &suite::table(summary, root) + "\n"
}

fn check_tables(root: &Path, summary: &Summary) -> Result<(), String> {
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path).map_err(|error| format!("README.md: {error}"))?;
    let marks = readme.find(BEGIN).zip(readme.find(END));
    let (begin, end) = marks.ok_or_else(|| "README.md has lost its marks of the tables".to_owned())?;
    let (old, new) = (&readme[begin + BEGIN.len()..end], tables(root, summary));
    if old == new {
        return Ok(());
    }
    if std::env::var_os("DEMI_WRITE").is_some() {
        let text = format!("{}{new}{}", &readme[..begin + BEGIN.len()], &readme[end..]);
        return std::fs::write(&path, text).map_err(|error| format!("README.md: {error}"));
    }
    Err("README.md does not say what the scripts do: write it anew with DEMI_WRITE=1".to_owned())
}
