//! A node whose neighbours send any frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| peerkit_fuzz::overlay(data));
