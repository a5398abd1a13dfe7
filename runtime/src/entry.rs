//! What `#[demi::main]` and `#[demi::test]` expand to. Not for use by hand.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::failure::end_program;
use crate::{Config, Drained, Runtime};

/// Runs a program's `main`.
pub fn main<F: Future>(config: Config, paused: bool, future: F) -> F::Output {
    let runtime = match Runtime::builder().config(config).start_paused(paused).build_late() {
        Ok(runtime) => runtime,
        Err(error) => end_program(&error),
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_needs_no_socket_opens_no_device() {
        // Opening it, or taking the mistake seriously, would end the process.
        let broken = || Config::new().device("packet:no-such-interface").address("10.0.0.2/24");
        assert_eq!(main(broken(), false, async { "help" }), "help");
        assert_eq!(main(Config::new().device("tape:demi0"), false, async { "help" }), "help");
        assert_eq!(main(broken().cores("4095"), false, async { "help" }), "help");
    }

    #[test]
    fn a_program_that_waits_has_its_device() {
        let config = || Config::new().device("wire").address("10.0.0.2/24");
        let woken = main(config(), true, async {
            crate::time::sleep(std::time::Duration::from_secs(1)).await;
            crate::spawn(async { 7 }).await.unwrap()
        });
        assert_eq!(woken, 7);
        let bound = main(config(), false, async { crate::net::TcpListener::bind("10.0.0.2:80").await });
        assert!(bound.unwrap().device().starts_with("wire"));
    }
}
