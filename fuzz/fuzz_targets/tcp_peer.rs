//! The target `tcp_peer` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| demi_fuzz::targets::tcp_peer::run(bytes));
