//! What the benches share that are no programs of their own.

pub mod pieces;
