//! TLS records: their headers and contents.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::tls(data));
