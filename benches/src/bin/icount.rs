//! Runs a hot path so many times, for callgrind to count its instructions; `icount_gate` drives it.

use demi_benches::kit::{Args, Flag};
use demi_benches::{floods, paths};

const FLAGS: &[Flag] = &[
    Flag { name: "path", value: Some("NAME"), help: "the path (without it: lists them)" },
    Flag { name: "operations", value: Some("N"), help: "how often to run it (1000)" },
];

fn main() {
    let args = Args::parse("Runs one hot path so many times.", FLAGS);
    let Some(name) = args.text("path") else {
        for (name, _) in paths::PATHS {
            println!("{name}");
        }
        for (name, ..) in floods::FLOODS {
            println!("{name}");
        }
        return;
    };
    let path = paths::find(name).map(|(_, build)| build);
    let Some(build) = path.or(floods::find(name).map(|(_, build, _)| build)) else {
        eprintln!("icount: no path {name}; without --path, all are listed");
        std::process::exit(1);
    };
    let mut run = build();
    run(WARM_UP);
    measured(&mut *run, args.number("operations", 1000));
}

/// Tables reach their size and connections their pace before anything is counted.
const WARM_UP: u64 = 500;

/// All that is counted: callgrind is told this function's name.
#[inline(never)]
fn measured(run: &mut dyn FnMut(u64), operations: u64) {
    run(operations);
    // Keeps the call above from becoming a jump, and this function on the stack while it runs.
    std::hint::black_box(operations);
}
