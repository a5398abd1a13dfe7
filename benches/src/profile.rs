//! Where a hot path's instructions go: by function, an operation, as callgrind counts them.
//!
//! The functions are those of the released program, into which the compiler has inlined several layers each; that is what runs, and
//! what a budget can be written of. Counted as in [`icount`](crate::icount): over N and over 2N operations, and the difference.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::process::Command;

/// Instructions of one operation of `path` in each function of `program` (the binary `icount`), the largest first. What is called
/// from a function is counted there, not here.
///
/// # Errors
/// As [`icount::count`](crate::icount::count), and when the profile cannot be read.
pub fn functions(program: &Path, path: &str, operations: u64) -> io::Result<Vec<(String, f64)>> {
    let short = collect(program, path, operations)?;
    let long = collect(program, path, 2 * operations)?;
    let of_one = |(name, count): (String, u64)| {
        let before = short.get(&name).copied().unwrap_or(0);
        (name, count.saturating_sub(before) as f64 / operations as f64)
    };
    let mut all: Vec<_> = long.into_iter().map(of_one).filter(|(_, count)| *count >= 0.5).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(all)
}

fn collect(program: &Path, path: &str, operations: u64) -> io::Result<HashMap<String, u64>> {
    let file = std::env::temp_dir().join(format!("demi-profile-{}-{operations}", std::process::id()));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=icount::measured*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--path", path, "--operations", &operations.to_string()])
        .output()?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{} {path} failed under valgrind:\n{text}", program.display())));
    }
    let text = std::fs::read_to_string(&file)?;
    std::fs::remove_file(&file)?;
    Ok(parse(&text))
}

/// The cost of each function itself, of callgrind's format: `fn=(7) name` the first time and `fn=(7)` after that, then lines of a
/// position and a cost. A cost behind a line `calls=` is that of what is called.
fn parse(text: &str) -> HashMap<String, u64> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut costs: HashMap<String, u64> = HashMap::new();
    let (mut function, mut of_callee) = ("", false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (id, name) = rest.split_once(' ').unwrap_or((rest, ""));
            if !name.is_empty() {
                names.insert(id, name);
            }
            if line.starts_with("fn=") {
                function = names.get(id).copied().unwrap_or(id);
            }
        } else if line.starts_with("calls=") {
            of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split_once(' ').and_then(|(_, cost)| cost.parse::<u64>().ok());
            if let (Some(cost), false) = (cost, of_callee) {
                *costs.entry(function.to_owned()).or_default() += cost;
            }
            of_callee = false;
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_functions_cost_is_its_own_and_not_that_of_what_it_calls() {
        let text = "events: Ir\n\nfl=(1) a.rs\nfn=(1) outer\n10 5\n+1 2\ncfn=(2) inner\ncalls=3 20\n12 300\n* 1\n\n\
                    fn=(2)\n20 290\n21 10\n\nfn=(1)\n30 4\ntotals: 312\n";
        let costs = parse(text);
        assert_eq!((costs["outer"], costs["inner"], costs.len()), (12, 300, 2));
    }
}
