//! The fuzz targets. Each target is a function that takes any bytes and panics if it finds a fault.
//!
//! `fuzz_targets/` passes them to libFuzzer. `tests/smoke.rs` runs them on the committed corpus and on
//! mutations of it, with a stable compiler. A target checks more than that decoders do not panic: values that
//! were decoded, encoded and decoded again have to be the same, and the frames that a state machine sends have
//! to be valid for its peers.

mod fetch;
mod machines;
pub mod mutate;
mod network;
mod records;
pub mod seeds;
mod wire;

pub use fetch::fetch;
pub use machines::{link, overlay};
pub use records::records;
pub use wire::{address, files, frame, hello, invite, message, tls};

/// A fuzz target. It takes any bytes.
pub type Target = fn(&[u8]);

/// All targets with their names. The corpus folder and the program of a target have the same name.
pub const TARGETS: [(&str, Target); 11] = [
    ("address", address),
    ("message", message),
    ("frame", frame),
    ("hello", hello),
    ("invite", invite),
    ("link", link),
    ("overlay", overlay),
    ("files", files),
    ("tls", tls),
    ("records", records),
    ("fetch", fetch),
];
