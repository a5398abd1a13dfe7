//! The target `tcp_options` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| demi_fuzz::targets::tcp_options::run(bytes));
