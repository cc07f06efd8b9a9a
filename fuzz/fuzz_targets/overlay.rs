//! An overlay whose neighbours send anything.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::overlay(data));
