//! The fuzz targets, each a plain function that takes any bytes and panics on a fault.
//!
//! `fuzz_targets/` passes them to libFuzzer. `tests/smoke.rs` runs them on the committed corpus and on
//! mutations of it, with a stable compiler. A target does not only look for panics inside the decoder:
//! decoded values, encoded and decoded again, have to be the same, and the frames of a state machine
//! have to be valid for its peers.

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
pub use wire::{address, files, frame, hello, message, tls};

/// A target. It takes any bytes.
pub type Target = fn(&[u8]);

/// All targets with their names, which are also those of their corpus folders and programs.
pub const TARGETS: [(&str, Target); 10] = [
    ("address", address),
    ("message", message),
    ("frame", frame),
    ("hello", hello),
    ("link", link),
    ("overlay", overlay),
    ("files", files),
    ("tls", tls),
    ("records", records),
    ("fetch", fetch),
];
