//! The real program from outside: started, talked to through `--json`, signalled, killed.

// The lint knows tests by their attribute, and what tests call has none.
#![allow(clippy::unwrap_used)]

mod access;
mod demo;
mod disk;
mod faults;
mod harness;
mod line;
mod log;
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
