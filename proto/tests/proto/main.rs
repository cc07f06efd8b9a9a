//! Tests of the wire protocol against PROTOCOL.md and recordings, and of whole simulated networks.

#![allow(clippy::unwrap_used)]

mod members;
mod membership_vectors;
mod replay;
mod simulation;
mod vectors;
mod versions;
