//! The messages of a fetch, manifests, piece lists and tickets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::files(data));
