//! The first messages of links, streams and probes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::hello(data));
