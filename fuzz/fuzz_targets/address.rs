//! Addresses, as people write them and peers send them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::address(data));
