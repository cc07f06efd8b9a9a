//! Tests that run the real program, with text and JSON output, and send it signals.

// The lint recognises tests by their attribute, which functions called by tests do not have.
#![allow(clippy::unwrap_used)]

mod access;
mod api;
mod bans;
mod demo;
mod disk;
mod doctor;
mod documents;
mod faults;
mod full_disk;
mod harness;
#[cfg(unix)]
mod held;
mod https;
mod line;
mod log;
mod members;
mod metrics;
mod names;
mod network;
mod prompt;
mod resume;
mod send;
mod shell;
mod sim;
mod start;
mod state;
mod stop;
mod strangers;
