//! Locks that a panic does not poison.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A panic under a lock does not leave the data half changed, so the next caller
/// takes it as if nothing had happened.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for `news` with the lock of `guard` released.
pub(crate) fn wait<'a, T>(news: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    news.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
