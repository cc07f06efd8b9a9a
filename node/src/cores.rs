//! The number of threads for work on all cores.

use std::num::NonZero;
use std::thread::available_parallelism;

/// Returns the number of threads that can run at the same time, at most `most`: more would wait for the
/// disk or for memory. Returns 1 if the system does not say.
pub(crate) fn cores(most: usize) -> usize {
    available_parallelism().map_or(1, NonZero::get).min(most)
}
