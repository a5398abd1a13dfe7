//! Writes the document on all figures: tables and plots from the lines that benchmarks printed with `--json`.
//!
//! `cargo xtask bench` runs it behind them. It measures nothing.

use std::io;
use std::path::Path;

use demi_benches::kit::{Args, Flag};
use demi_benches::numbers::{facts, plots, read, tables};

const FLAGS: &[Flag] = &[
    Flag { name: "from", value: Some("FILE"), help: "lines of JSON (docs/numbers.jsonl)" },
    Flag { name: "out", value: Some("DIR"), help: "where numbers.md and plots/ go (docs)" },
];

fn main() {
    let args = Args::parse("Tables and plots of what benchmarks have measured.", FLAGS);
    let from = args.text("from").unwrap_or("docs/numbers.jsonl");
    let out = args.text("out").unwrap_or("docs");
    if let Err(error) = run(Path::new(from), Path::new(out)) {
        eprintln!("numbers: {error}");
        std::process::exit(1);
    }
}

fn run(from: &Path, out: &Path) -> io::Result<()> {
    let text = std::fs::read_to_string(from)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", from.display())))?;
    let lines = read(&text);
    if lines.is_empty() {
        return Err(io::Error::other(format!("{}: not one figure", from.display())));
    }
    let folder = out.join("plots");
    std::fs::create_dir_all(&folder)?;
    let mut names = Vec::new();
    for (file, title, svg) in plots::draw(&lines)? {
        std::fs::write(folder.join(&file), svg)?;
        names.push((file, title));
    }
    let document = tables::document(&lines, &facts::of_this_machine(), &names);
    std::fs::write(out.join("numbers.md"), document)?;
    println!("{} figures and {} plots: {}", lines.len(), names.len(), out.join("numbers.md").display());
    Ok(())
}
