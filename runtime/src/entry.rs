//! What `#[demi::main]` and `#[demi::test]` expand to. Not for use by hand.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{ExitCode, Termination};

use crate::failure::end_program;
use crate::{Config, Drained, Runtime};

/// Runs a program's `main`, on each of the configured cores; answers what the process is to end with.
pub fn main<F, Fut>(config: Config, paused: bool, main: F) -> ExitCode
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future + 'static,
    Fut::Output: Termination,
{
    let loaded = config.load();
    if let Ok(config) = &loaded
        && config.cores.as_ref().is_some_and(|cores| cores.numbers().len() > 1)
    {
        // Told where it ends, for an output need not be `Send`.
        let judge = |output: Fut::Output| {
            let code = output.report();
            (code, code != ExitCode::SUCCESS)
        };
        let code = match paused {
            false => crate::cores::run_main(config, main, judge),
            true => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "paused time is for one core: give cores one number",
            )),
        };
        return code.unwrap_or_else(|error| end_program(&error));
    }
    alone(loaded, paused, main()).report()
}

/// Runs a program on one core.
fn alone<F: Future>(loaded: io::Result<Config>, paused: bool, future: F) -> F::Output {
    let runtime = match Runtime::builder().start_paused(paused).build_late(loaded) {
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
        assert_eq!(alone(broken().load(), false, async { "help" }), "help");
        assert_eq!(alone(Config::new().device("tape:demi0").load(), false, async { "help" }), "help");
        assert_eq!(alone(broken().cores("4095").load(), false, async { "help" }), "help");
    }

    #[test]
    fn a_program_that_waits_has_its_device() {
        let config = || Config::new().device("wire").address("10.0.0.2/24");
        let woken = alone(config().load(), true, async {
            crate::time::sleep(std::time::Duration::from_secs(1)).await;
            crate::spawn(async { 7 }).await.unwrap()
        });
        assert_eq!(woken, 7);
        let bound =
            alone(config().load(), false, async { crate::net::TcpListener::bind("10.0.0.2:80").await });
        assert!(bound.unwrap().device().starts_with("wire"));
    }
}
