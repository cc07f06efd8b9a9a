//! x

pub mod key;
pub mod shares;
pub mod store;
pub mod transfer;
