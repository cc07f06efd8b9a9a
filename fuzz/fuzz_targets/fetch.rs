//! A fetch whose sources send any answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::fetch(data));
