//! Code shared by the Criterion bench `hot` and the program `pieces`.

pub mod pieces;
