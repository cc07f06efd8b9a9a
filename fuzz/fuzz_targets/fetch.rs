//! A fetch from sources that send anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::fetch(data));
