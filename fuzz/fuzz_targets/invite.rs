//! Invites, as people paste them, and proofs of membership, as peers send them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::invite(data));
