//! Code that the Criterion bench `hot` and the program `pieces` share.

pub mod pieces;
