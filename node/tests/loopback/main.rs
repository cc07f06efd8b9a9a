//! Nodes that talk over real sockets on loopback.

#![allow(clippy::unwrap_used)]

// Written for the tests of `hostile`, and good for one of these too.
mod actions;
mod addresses;
#[path = "../hostile/attacker/mod.rs"]
mod attacker;
mod changed;
mod common;
mod connections;
mod direct;
mod file_names;
mod files;
mod handlers;
mod links;
mod messages;
mod names;
mod network;
mod owner;
mod proxy;
mod queries;
mod requests;
mod resumed;
mod shares;
mod sources;
mod state;
mod stop;
mod styles;
mod uploads;
