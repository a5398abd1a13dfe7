//! The target `rdma_peer` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| demi_fuzz::targets::rdma_peer::run(bytes));
