//! The fuzz targets, each a plain function that takes any bytes and panics on a fault.
//!
//! `fuzz_targets/` hands them to libFuzzer; `tests/smoke.rs` runs them on the committed corpus and
//! on mutations of it, with a stable compiler. A target does not only wait for a panic inside the
//! decoder: what was decoded, encoded again and decoded again has to be the same, and what a state
//! machine sends has to be what its peers accept.

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

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also its corpus folder's and its program's.
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
