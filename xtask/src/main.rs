//! The project's own build and test driver, run as `cargo xtask`: it holds what one has to know to check a change, so
//! that nobody has to remember it. This file dispatches commands; it never runs a tool itself.
//!
//! `args` reads the command line, `packages` installs what the machine lacks, `process` runs one command into a log,
//! `counts` reads results out of logs, `sim` runs many seeds of simulations, `bench` runs all benchmarks and has their
//! figures written down, `guest` boots a virtual machine, `tiers` says what each tier consists of, `report` prints the table.

mod args;
mod bench;
mod counts;
mod guest;
mod packages;
mod process;
mod report;
mod sim;
mod tiers;
mod workspace;

use std::process::ExitCode;

use args::Command;
use workspace::Workspace;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let workspace = match Workspace::open() {
        Ok(workspace) => workspace,
        Err(error) => {
            eprintln!("no folder for logs: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ok = match command {
        Command::Help => {
            println!("{}", args::USAGE);
            true
        }
        Command::Test { tiers } => tiers::run(&workspace, &tiers),
        Command::List { tiers } => tiers::list(&workspace, &tiers),
        Command::Sim(options) => sim::run(&workspace, &options),
        Command::Fmt => process::passthrough(&workspace, &tiers::unit::fmt(false)),
        Command::Clippy => process::passthrough(&workspace, &tiers::unit::clippy()),
        Command::Doc => process::passthrough(&workspace, &tiers::unit::doc()),
        Command::Bench { programs, seconds } => bench::run(&workspace, &programs, seconds),
        Command::Fuzz { targets, seconds } => tiers::fuzz::run(&workspace, &targets, seconds),
        Command::Guest(options) => return ExitCode::from(guest::run(&workspace, &options)),
        Command::Setup => packages::setup(&workspace),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
