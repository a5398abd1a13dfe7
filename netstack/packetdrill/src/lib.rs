//! # demi-packetdrill: scripts in packetdrill's language, in process and on virtual time
//!
//! A script is a packet diary: what the application calls, what the network brings, and what the stack has to answer and when.
//! The runner plays application and network against a [`Stack`](demi_netstack::Stack) over a device in memory, through the
//! same [`Transport`](demi_drivers::Transport) that the runtime uses. Time is the script's: a test of an hour takes no time.
//!
//! ```
//! use demi_packetdrill::{Flags, IpVersion, Outcome, Script, run};
//! let script = Script::parse(
//!     "0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
//!      +0 bind(3, ..., ...) = 0
//!      +0 listen(3, 1) = 0
//!      +0 < S 0:0(0) win 65535 <mss 1460>
//!      +0 > S. 0:0(0) ack 1 <mss 1460>
//!      +.1 < . 1:1(0) ack 1 win 65535
//!      +0 accept(3, ..., ...) = 4",
//! )?;
//! assert_eq!(run(&script, &Flags::default(), IpVersion::V4).outcome, Outcome::Passed);
//! # Ok::<(), demi_packetdrill::SyntaxError>(())
//! ```
//!
//! - `script`: text to events. `eval`: what stands in `%{ }%`. `command`: what stands in backticks. `flags`: `--flags`.
//! - `packet`: packets as bytes. `host`: the socket interface of C over the stack, and the device below it.
//! - `run`: the runner. `suite`: many scripts, as the command line and the tests run them. `ffi`: the shared object that
//!   packetdrill itself loads (`--so_filename`).

mod command;
mod eval;
mod ffi;
mod flags;
mod host;
mod packet;
mod run;
mod script;
pub mod suite;

pub use flags::{Flags, IpVersion};
pub use run::{Cells, Outcome, Report, State, Stimulus, run};
pub use script::{Place, Script, SyntaxError};
