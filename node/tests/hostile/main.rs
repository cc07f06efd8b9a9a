//! Attacks on a node by peers that speak the protocol by hand. A binary of its own, because its
//! tests count the process's tasks and open descriptors.

#![allow(clippy::unwrap_used)]

mod attacker;
mod direct;
mod link;
mod overlay;
mod record;
mod start;
mod stream;
