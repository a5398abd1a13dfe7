//! The target `ipv4` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| demi_fuzz::targets::ipv4::run(bytes));
