//! Every committed input, and every seed, through its target: what fuzzing once found stays found. Needs neither libFuzzer nor a
//! compiler for C++: `cargo test --no-default-features`.

use std::fs;
use std::path::Path;

use crate::{TARGETS, find, seeds};

#[test]
fn the_committed_corpus_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, run) in TARGETS {
        let mut inputs: Vec<_> = fs::read_dir(corpus.join(target))
            .unwrap_or_else(|error| panic!("the corpus of {target}: {error}"))
            .map(|entry| entry.expect("a folder that can be read").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "the corpus of {target} is empty");
        for input in &inputs {
            println!("{}", input.display());
            run(&fs::read(input).expect("a file that can be read"));
        }
    }
}

#[test]
fn every_seed_holds_and_is_of_a_target() {
    for (target, name, bytes) in seeds::all() {
        println!("{target} {name}");
        find(target).expect("a target")(&bytes);
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("the manifest");
    for (target, _) in TARGETS {
        let program =
            fs::read_to_string(folder.join(format!("fuzz_targets/{target}.rs"))).expect("a program");
        assert!(program.contains(&format!("targets::{target}::run")), "{target}");
        assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} in the manifest");
        assert!(seeds::all().iter().any(|seed| seed.0 == *target), "{target} has no seed");
    }
}
