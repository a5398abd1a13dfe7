//! `#[demi::main]` and `#[demi::test]`: an `async fn` with a runtime around it.
//!
//! The macros turn each key they are given into the call of the configuration builder's method of the same name, and the
//! function's body into a future that the runtime runs. They know the names of the keys, to tell of a wrong one in words;
//! they know nothing of the runtime's inside.

mod args;
mod entry;

use proc_macro::TokenStream;
use quote::quote;

/// Runs an `async fn main` on a runtime.
///
/// Every key of `demi::Config` can be given, with a value that the builder's method of that name takes:
///
/// ```no_run
/// #[demi::main(device = "tap:demi0", address = ["10.0.0.2/24", "fd00::2/64"], cores = 1, idle = "spin")]
/// async fn main() -> std::io::Result<()> {
///     Ok(())
/// }
/// ```
///
/// What is given here are defaults: the file that `DEMI_CONFIG` names overrides them, and the `DEMI_*` variables override
/// both. The device is opened when `main` first uses a socket or waits for something, so that a program can read its
/// arguments before. When it cannot be opened, or the configuration cannot be, the program then writes one line that names
/// cause and cure, and exits with code 1.
/// When `main` returns, what is written is delivered before the program ends; see `demi::Runtime`.
///
/// With several `cores`, `main` runs on each of them, on a runtime and a device queue of its own: that of a server needs no
/// change to serve with all. The others begin when the first core's `main` first uses a socket or waits. The program ends when
/// all have ended, with what the first core's `main` returned; or with the first that returns an error or panics, which ends
/// the others where they wait.
///
/// Two more keys: `paused = true` starts with time paused, `crate = some::path` is where `demi` is found.
#[proc_macro_attribute]
pub fn main(args: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand(entry::Kind::Main, args.into(), item.into()).into()
}

/// Runs an `async fn` as a test, on a runtime of its own whose time is virtual.
///
/// Time stands still while a task can run, and jumps to the next deadline when none can: a test of hours of time-outs
/// takes no time, and none depends on how fast the machine is. `paused = false` gives real time.
///
/// ```
/// #[demi::test(seed = 7)]
/// async fn an_hour_passes() {
///     demi::time::sleep(std::time::Duration::from_secs(3600)).await;
/// }
/// ```
///
/// Keys are those of [`macro@main`]. `seed` is 1 unless given; a test that fails says which it was, and
/// `DEMI_SEED` overrides it.
#[proc_macro_attribute]
pub fn test(args: TokenStream, item: TokenStream) -> TokenStream {
    entry::expand(entry::Kind::Test, args.into(), item.into()).into()
}

/// The configuration keys that the macros know, as a list of strings: the runtime tests that they are the builder's.
#[doc(hidden)]
#[proc_macro]
pub fn __keys(_: TokenStream) -> TokenStream {
    let keys = args::CONFIG_KEYS;
    quote!([#(#keys),*]).into()
}
