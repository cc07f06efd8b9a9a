//! The protocol of peerkit as pure state machines.
//!
//! Nothing here reads a clock, opens a socket, starts a task, touches a file or takes chance from
//! its surroundings: time, bytes and a seed are handed in, so the same inputs give the same outputs
//! on a real node, in a test and in the simulator.
//!
//! Every state machine is driven in one way: *handle one thing, poll until `None`, sleep until
//! `poll_timeout`*.

pub mod address;
pub mod codec;
pub mod config;
pub mod files;
pub mod id;
pub mod message;
pub mod time;
