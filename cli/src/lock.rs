//! Locks that a panic does not poison.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A panic under a lock never leaves the data half changed, so a poisoned lock is
/// used like any other.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `news` is notified. The lock of `guard` is released during the wait.
pub(crate) fn wait<'a, T>(news: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    news.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
