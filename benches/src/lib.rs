//! # demi-benches: figures beside those of our peers
//!
//! The measuring kit every binary under `src/bin/` shares: command line, interleaved sampling, tables and JSON lines,
//! core pinning, CPU time of other processes, and the instruction counts that CI gates on. One figure a binary; peers
//! run in the same process and the same minute as we do, because machines are shared and noisy and only ratios taken
//! side by side mean anything. Nothing here is needed by a test.
//!
//! Every binary takes `--json` (one object a line), `--seconds`, `--peer` and `--case`; `--help` lists the rest. The
//! peers are behind the feature `peers` (on by default), so that the instruction gate builds without them.

#[cfg(feature = "c-loops")]
pub mod c_loops;
pub mod codegen;
pub mod floods;
pub mod icount;
pub mod kit;
pub mod load;
#[cfg(feature = "plots")]
pub mod numbers;
pub mod paths;
pub mod profile;
pub mod stack;
pub mod veth;
