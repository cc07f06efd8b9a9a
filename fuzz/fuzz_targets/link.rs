//! A link whose peer sends any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::link(data));
