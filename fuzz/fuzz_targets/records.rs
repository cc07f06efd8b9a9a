//! The receiving half of the record layer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::records(data));
