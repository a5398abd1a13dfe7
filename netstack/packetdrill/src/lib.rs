//! # demi-packetdrill: scripts in packetdrill's language, in process and on virtual time
//!
//! A script is a packet diary: what the application calls, what the network brings, and what the stack has to answer and when.
//! The runner plays application and network against a [`Stack`](demi_netstack::Stack) over a device in memory, through the
//! same [`Transport`](demi_drivers::Transport) that the runtime uses. Time is the script's: a test of an hour takes no time.
//!
//! - `script`: text to events. `eval`: what stands in `%{ }%`. `command`: what stands in backticks. `flags`: `--flags`.

mod command;
mod eval;
mod flags;
mod packet;
mod script;

pub use flags::{Flags, IpVersion};
pub use script::{Place, Script, SyntaxError};
