//! The wire against its document, and whole networks in simulation.

#![allow(clippy::unwrap_used)]

mod replay;
mod simulation;
mod vectors;
mod versions;
