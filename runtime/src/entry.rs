//! What `#[demi::main]` and `#[demi::test]` expand to. Not for use by hand.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process;

use crate::{Config, Drained, Runtime};

/// Runs a program's `main`.
pub fn main<F: Future>(config: Config, paused: bool, future: F) -> F::Output {
    let runtime = match Runtime::builder().config(config).start_paused(paused).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("demi: {error}");
            process::exit(1);
        }
    };
    let output = runtime.block_on(future);
    if let Drained::TimedOut { closing } = runtime.shut_down() {
        eprintln!("demi: {closing} connections had bytes left to deliver when the drain time was over");
    }
    output
}

/// Runs a test.
///
/// # Panics
/// When the runtime cannot be made, and with the test's panic.
#[track_caller]
pub fn test<F: Future>(config: Config, paused: bool, future: F) -> F::Output {
    let runtime = match Runtime::builder().config(config).start_paused(paused).build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("{error}"),
    };
    match catch_unwind(AssertUnwindSafe(|| runtime.block_on(future))) {
        Ok(output) => output,
        Err(payload) => {
            eprintln!("the seed was {0}: DEMI_SEED={0} runs the test with it again", runtime.seed());
            resume_unwind(payload)
        }
    }
}

/// The configuration keys that the macros accept.
pub fn macro_keys() -> Vec<&'static str> {
    demi_macros::__keys!().to_vec()
}
