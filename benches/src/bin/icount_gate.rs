//! The gate on instruction counts: builds `icount`, counts each hot path under callgrind, compares with `baseline.json`.
//!
//! A path that costs more than 2 % above its baseline, has none, or was dropped and left there, fails the gate.
//! `--write` makes the baseline what was counted. What the hottest functions were compiled to is looked at, too.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use demi_benches::icount::{self, Baseline, OPERATIONS, TOLERANCE, Verdict};
use demi_benches::kit::json::Object;
use demi_benches::kit::{Args, Flag};
use demi_benches::{codegen, floods, paths, profile};

const FLAGS: &[Flag] = &[
    Flag { name: "write", value: None, help: "write the baseline instead of comparing with it" },
    Flag { name: "baseline", value: Some("FILE"), help: "the baseline (benches/baseline.json)" },
    Flag {
        name: "profile",
        value: Some("PATH"),
        help: "show where one path's instructions go, and nothing else",
    },
    Flag { name: "icount", value: Some("FILE"), help: "a built icount binary (built by this otherwise)" },
];

fn main() {
    let args = Args::parse("Compares instruction counts of the hot paths with the baseline.", FLAGS);
    match run(&args) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("icount_gate: {error}");
            std::process::exit(1);
        }
    }
}

fn run(args: &Args) -> io::Result<bool> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = args.text("baseline").map_or_else(|| folder.join("baseline.json"), PathBuf::from);
    let program = match args.text("icount") {
        Some(program) => PathBuf::from(program),
        None => build(folder)?,
    };
    if let Some(path) = args.text("profile") {
        return profile(&program, path);
    }
    let write = args.has("write");
    let known = if write && !file.exists() { Baseline::default() } else { Baseline::read(&file)? };
    let mut counted = Baseline::default();
    let mut passed = true;
    if !args.has("json") {
        println!("{:<20} {:>12} {:>12} {:>8}", "path", "instructions", "baseline", "change");
    }
    for (name, _) in paths::PATHS.iter().filter(|(name, _)| args.wants_case(name)) {
        let count = icount::count(&program, name, OPERATIONS)?;
        counted.set(name, count);
        let verdict = known.judge(name, count, TOLERANCE);
        passed &= write || verdict.passes();
        print(args.has("json"), name, count, known.get(name), verdict);
    }
    passed &= floods(args, &program)?;
    passed &= codegen(args, &program)?;
    if write {
        // With `--case`, what was not counted stays as it was.
        let mut all = if args.has("case") { known } else { Baseline::default() };
        for (name, _) in paths::PATHS {
            if let Some(count) = counted.get(name) {
                all.set(name, count);
            }
        }
        std::fs::write(&file, all.to_text())?;
        return Ok(true);
    }
    let names: Vec<&str> = paths::PATHS.iter().map(|(name, _)| *name).collect();
    for name in known.missing(&names) {
        eprintln!("{name} is in the baseline but no longer counted: run with --write");
        passed = false;
    }
    if !passed {
        eprintln!(
            "A hot path grew by more than {:.0} %, or has no baseline. If the growth is meant, write the baseline anew \
             with --write and say why in the commit.",
            TOLERANCE * 100.0
        );
    }
    Ok(passed)
}

/// Prints the functions that a path runs through.
fn profile(program: &Path, path: &str) -> io::Result<bool> {
    let functions = profile::functions(program, path, OPERATIONS)?;
    for (name, count) in &functions {
        println!("{count:>10.1}  {name}");
    }
    let sum: f64 = functions.iter().map(|(_, count)| count).sum();
    println!("{sum:>10.1}  in all, an operation of {path}");
    Ok(true)
}

/// Counts what a junk packet of each flood takes; whether all are below their ceilings.
fn floods(args: &Args, program: &Path) -> io::Result<bool> {
    let mut passed = true;
    for (name, _, ceiling) in floods::FLOODS.iter().filter(|(name, ..)| args.wants_case(name)) {
        let count = icount::count(program, name, OPERATIONS)?;
        let below = count <= *ceiling;
        passed &= below;
        if args.has("json") {
            print(true, name, count, Some(*ceiling), Verdict::Same);
        } else {
            let remark = if below { "" } else { "  ABOVE ITS CEILING" };
            println!("{name:<20} {count:>12.1} {ceiling:>12.1}  ceiling{remark}");
        }
    }
    if !passed {
        eprintln!(
            "A junk packet takes more than the ceiling in benches/src/floods.rs: that is what a flood is made of."
        );
    }
    Ok(passed)
}

/// Looks at what the hottest functions were compiled to; whether none of them panics or calls for a copy.
fn codegen(args: &Args, program: &Path) -> io::Result<bool> {
    let wrong = codegen::check(program)?;
    for line in &wrong {
        eprintln!("{line}");
    }
    if !wrong.is_empty() {
        eprintln!("The hottest functions may not do that; benches/src/codegen.rs says why.");
    } else if !args.has("json") {
        println!("{} functions without panics and copies", codegen::FUNCTIONS.len());
    }
    Ok(wrong.is_empty())
}

fn print(json: bool, name: &str, count: f64, known: Option<f64>, verdict: Verdict) {
    let change = known.map(|known| (count / known - 1.0) * 100.0);
    if json {
        let line = Object::default()
            .text("bench", "icount")
            .text("peer", "demi")
            .text("case", name)
            .text("unit", "instructions")
            .number("median", count)
            .number("min", count)
            .number("samples", 1.0)
            .number("baseline", known.unwrap_or(0.0));
        println!("{}", line.finish());
        return;
    }
    let known = known.map_or("-".to_string(), |known| format!("{known:.1}"));
    let change = change.map_or("-".to_string(), |change| format!("{change:+.1} %"));
    let remark = match verdict {
        Verdict::Same => "",
        Verdict::Better => "  better: keep it with --write",
        Verdict::Worse => "  WORSE",
        Verdict::New => "  NEW",
    };
    println!("{name:<20} {count:>12.1} {known:>12} {change:>8}{remark}");
}

/// Builds `icount` as it is released, without the peers, and answers where it is.
fn build(folder: &Path) -> io::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(folder)
        .args(["build", "--release", "--no-default-features", "--bin", "icount", "--message-format=json"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other("icount does not build"));
    }
    // Cargo says where it put the executable; the field is the last of that message that we need.
    let text = String::from_utf8_lossy(&output.stdout);
    let executable = text.lines().rev().find_map(|line| {
        let (_, after) = line.split_once("\"executable\":\"")?;
        after.split('"').next()
    });
    executable.map(PathBuf::from).ok_or_else(|| io::Error::other("cargo did not say where it put icount"))
}
