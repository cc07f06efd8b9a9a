//! Attacks on a node. The attackers send hand-made frames, many of which no node would send. These tests have
//! a binary of their own, because they count the tasks and the open sockets of the process.

#![allow(clippy::unwrap_used)]

mod attacker;
mod broadcast;
mod dials;
mod direct;
mod eclipse;
mod flood;
mod honest;
mod link;
mod measured;
mod overlay;
mod record;
mod start;
mod strangers;
mod stream;
mod udp;
