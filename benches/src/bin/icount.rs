//! Runs a hot path so many times, for callgrind to count its instructions; `icount_gate` drives it.

use demi_benches::kit::{Args, Flag};
use demi_benches::paths;

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
        return;
    };
    let Some((_, build)) = paths::find(name) else {
        eprintln!("icount: no path {name}; without --path, all are listed");
        std::process::exit(1);
    };
    build()(args.number("operations", 1000));
}
