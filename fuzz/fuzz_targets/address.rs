//! Addresses of people and peers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::address(data));
