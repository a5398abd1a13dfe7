//! All figures by one command: builds the benchmarks for release, runs each beside its peers, keeps what they printed in
//! `docs/numbers.jsonl`, and has the program `numbers` make tables and plots of it. It measures nothing by itself.

use std::fs;

use crate::process::{self, Invocation};
use crate::tiers::bench::HELPERS;
use crate::workspace::Workspace;

/// Needs DPDK, which a plain build has not: `cargo run --release -p demi-benches --features dpdk --bin dpdk` by hand.
const BY_HAND: [&str; 1] = ["dpdk"];

/// What a benchmark is told beside how long a case may take.
fn more_args(program: &str) -> &'static str {
    match program {
        // Samples as long as its own default, so that the servers settle.
        "kernel_echo" => "--samples 12 --sample-ms 120",
        // Where Linux's and ours part lies between nothing and a few in a hundred.
        "goodput" => "--loss 0,0.1,0.5,1,2,5",
        // Those that the machine has; instructions, because the load generator needs one of them, too.
        "cores" => "--icount --cores 1,2,3,4",
        // Beside the time of system calls, a frame's own part is hard to see.
        "reflect" => "--icount",
        _ => "",
    }
}

/// Runs `programs`, or all if none is named; whether every one of them has figures, and they are written down.
pub(crate) fn run(workspace: &Workspace, programs: &[String], seconds: u32) -> bool {
    let known: Vec<String> = workspace
        .benchmarks()
        .into_iter()
        .filter(|name| !HELPERS.contains(&name.as_str()) && !BY_HAND.contains(&name.as_str()))
        .collect();
    if let Some(other) = programs.iter().find(|name| !known.contains(name)) {
        eprintln!("no benchmark `{other}`: {}", known.join(", "));
        return false;
    }
    let build = Invocation::new("cargo build --release -p demi-benches --bins");
    if !process::passthrough(workspace, &build) {
        return false;
    }
    let file = workspace.root().join("docs/numbers.jsonl");
    let mut kept = fs::read_to_string(&file).unwrap_or_default();
    let mut ok = true;
    for program in known.iter().filter(|name| programs.is_empty() || programs.contains(name)) {
        println!("{program} ...");
        match measure(workspace, program, seconds) {
            Ok(lines) => kept = replaced(&kept, program, &lines),
            Err(reason) => {
                eprintln!("{program}: {reason}");
                ok = false;
            }
        }
        // Each by itself, so that what an hour has measured is not lost to the next one's failure.
        if let Err(error) = fs::write(&file, &kept) {
            eprintln!("cannot write {}: {error}", file.display());
            return false;
        }
    }
    let numbers =
        Invocation::new(&release(workspace, "numbers")).args("--from docs/numbers.jsonl --out docs");
    process::passthrough(workspace, &numbers) && ok
}

fn release(workspace: &Workspace, program: &str) -> String {
    workspace.target().join("release").join(program).display().to_string()
}

/// The figures of one benchmark, or why there are none.
fn measure(workspace: &Workspace, program: &str, seconds: u32) -> Result<Vec<String>, String> {
    let run = Invocation::new(&release(workspace, program))
        .args(&format!("--json --seconds {seconds}"))
        .args(more_args(program))
        .limit_s(60 * 60);
    let outcome =
        process::run(workspace, &format!("numbers-{program}"), &run).map_err(|error| error.to_string())?;
    if !outcome.success {
        return Err(format!("failed, see {}", outcome.log.display()));
    }
    let lines: Vec<String> = figures(&outcome.output).map(str::to_owned).collect();
    if lines.is_empty() {
        return Err(format!("no figures, see {}", outcome.log.display()));
    }
    Ok(lines)
}

/// The lines that are figures.
fn figures(output: &str) -> impl Iterator<Item = &str> {
    output.lines().filter(|line| line.starts_with('{') && line.ends_with('}') && line.contains("\"median\":"))
}

/// `kept` with the lines of `program` in place of those it had.
fn replaced(kept: &str, program: &str, lines: &[String]) -> String {
    let own = format!("\"bench\":\"{program}\"");
    let others = kept.lines().filter(|line| !line.contains(&own));
    let mut text = String::new();
    for line in others.chain(lines.iter().map(String::as_str)) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_that_runs_again_replaces_its_own_figures_only() {
        let kept = "{\"bench\":\"a\",\"median\":1}\n{\"bench\":\"b\",\"median\":2}\n";
        let output = "noise\n{\"bench\":\"a\",\"median\":3}\n{\"bench\":\"a\",\"skipped\":\"needs root\"}\n";
        let lines: Vec<String> = figures(output).map(str::to_owned).collect();
        assert_eq!(
            replaced(kept, "a", &lines),
            "{\"bench\":\"b\",\"median\":2}\n{\"bench\":\"a\",\"median\":3}\n"
        );
    }
}
