//! The target `dhcp` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| demi_fuzz::targets::dhcp::run(bytes));
