//! How many threads are worth it.

use std::num::NonZero;
use std::thread::available_parallelism;

/// As many threads as can run at the same time, `most` at the most: more would wait for the disk or
/// for memory. One where the system does not say.
pub(crate) fn cores(most: usize) -> usize {
    available_parallelism().map_or(1, NonZero::get).min(most)
}
