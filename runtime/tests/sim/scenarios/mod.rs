//! Scenarios, one a file: networks as they are met, and what must come of a transfer over them.
//!
//! A file says what the network, the hosts and the load are like, with numbers that are drawn for each seed, and what
//! happens meanwhile; see [`file`]. What is demanded is the same for all: each stream arrives as it was sent, in the time
//! that the file gives, out of the memory that it gives, and nothing is left at the end. Every file runs with many seeds,
//! and combinations of files run beside them. To add one: a file, and its name below.

mod build;
mod file;
mod load;

use demi::sim::{Report, Rng, Sim};
use file::Scenario;

use crate::support::{seeds_of, sweep_within};

/// Seeds of a sweep for one seed of a scenario: there are many of these.
const SHARE: u64 = 10;
/// Bytes that a combination sends in a direction of a connection: each must be done in a moment.
const COMBINED_KIB: i64 = 512;

/// Runs one scenario with many seeds.
fn run(name: &str, text: &str) {
    let scenario = read(name, &[text]);
    let memory = scenario.memory_slots;
    sweep_within(
        &format!("scenarios::{name}"),
        seeds_of(SHARE * scenario.cost),
        |seed| build::sim(&scenario, seed),
        |report| memory.and_then(|slots| beyond(report, slots)),
    );
}

/// What is wrong with the memory that was used, if anything is.
fn beyond(report: &Report, slots: usize) -> Option<String> {
    let host = report.hosts.iter().find(|host| host.slots_out_peak > slots)?;
    Some(format!("`{}` had {} of {slots} buffers out", host.name, host.slots_out_peak))
}

fn read(name: &str, texts: &[&str]) -> Scenario {
    let scenario = Scenario::of(texts).unwrap_or_else(|error| panic!("{name}.toml: {error}"));
    assert!(scenario.about.ends_with('.'), "{name}.toml: `about` is a sentence");
    scenario
}

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), include_str!(concat!(stringify!($name), ".toml")));
        })*

        /// Every scenario there is.
        const ALL: &[(&str, &str)] = &[$((stringify!($name), include_str!(concat!(stringify!($name), ".toml")))),*];
    };
}

scenarios! {
    ack_loss,
    asymmetric_loss,
    asymmetric_rates,
    bufferbloat,
    bursts,
    client_reboots,
    clock_leaps,
    clocks_stand_still,
    corruption,
    duplication,
    flapping_link,
    heavy_loss,
    link_changes,
    little_memory,
    long_fat_pipe,
    many_short_connections,
    mtu_black_hole,
    no_options,
    outage,
    reorder_by_delay,
    sequence_wrap,
    server_reboots,
    slow_link,
    timestamp_wrap,
    tiny_packets,
    unequal_mtus,
    window_scale_edges,
    zero_window_stalls,
}

/// Two or three scenarios at once, one load of theirs, small.
fn any_combination(seed: u64) -> Sim {
    let mut rng = Rng::new(seed ^ 0xc0b1);
    let mut parts: Vec<_> = ALL.iter().filter(|(name, text)| read(name, &[text]).combines).collect();
    rng.shuffle(&mut parts);
    parts.truncate(2 + rng.below(2) as usize);
    let texts: Vec<_> = parts.iter().map(|(_, text)| *text).collect();
    let load = format!(
        "patient = true\nwithin_s = 1e6\n[load]\nstyle = [\"both\", \"ask\"]\nconnections = [1, 4]\nat_once = 4\n\
         up_kib = [0.1, {COMBINED_KIB}]\ndown_kib = [0.1, {COMBINED_KIB}]"
    );
    let texts: Vec<_> = texts.into_iter().chain([&*load]).collect();
    let mut scenario = Scenario::of(&texts).unwrap_or_else(|error| panic!("{parts:?}: {error}"));
    // That bound is one scenario's own.
    scenario.load.resent_most = None;
    build::sim(&scenario, seed)
}

#[test]
fn combinations() {
    sweep_within("scenarios::combinations", seeds_of(1), any_combination, |_| None);
}

#[test]
fn every_file_is_a_scenario() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/scenarios");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let known: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, known);
}
