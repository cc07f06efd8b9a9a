//! The parts that the benches share.

pub mod pieces;
