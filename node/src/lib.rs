//! x

#[cfg_attr(not(test), expect(dead_code, reason = "links send and receive through it"))]
mod compress;
