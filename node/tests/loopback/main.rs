//! Tests of nodes that are connected by real sockets on the loopback interface.

#![allow(clippy::unwrap_used)]

mod actions;
mod addresses;
// The tests about the network's owner use the attacker of the `hostile` tests to forge frames.
#[path = "../hostile/attacker/mod.rs"]
mod attacker;
mod bans;
mod changed;
mod common;
mod connections;
mod direct;
mod file_names;
mod files;
mod handlers;
mod links;
mod members;
mod messages;
mod names;
mod network;
mod owner;
mod proxy;
mod queries;
mod quic;
mod reach;
mod requests;
mod resumed;
mod shares;
mod sources;
mod state;
mod stop;
mod styles;
mod uploads;
