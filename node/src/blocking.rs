//! Work that waits for the disk or keeps a core busy, on the runtime's blocking threads.
//!
//! The callers bound the number of threads: one search at a time, eight streams that read, one write of each
//! download. A panic in the work is a bug, and continues in the task that waits for the work.

use std::num::NonZero;
use std::thread::available_parallelism;

use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::Error;

/// Runs `work`. If the runtime is shutting down, returns `None` and does not run it.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    finish(spawn_blocking(work)).await
}

/// Runs `work` that can fail.
///
/// # Errors
/// The error of `work`, or [`Error::Stopped`] if the runtime is shutting down.
pub(crate) async fn try_run<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Error>
where
    T: Send + 'static,
    E: Into<Error> + Send + 'static,
{
    run(work).await.ok_or(Error::Stopped)?.map_err(Into::into)
}

/// Waits for work that has been spawned. Returns `None` if the runtime is shutting down.
pub(crate) async fn finish<T>(work: JoinHandle<T>) -> Option<T> {
    match work.await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// Returns the number of threads that can run at the same time, but at most `max`, because more threads would
/// wait for the disk or for memory. Returns 1 if the system does not report the number.
pub(crate) fn cores(max: usize) -> usize {
    available_parallelism().map_or(1, NonZero::get).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_continues_in_the_task_that_waits() {
        assert_eq!(run(|| 5).await, Some(5));
        let failed = try_run(|| Err::<(), _>(Error::NoOwner)).await;
        assert!(matches!(failed, Err(Error::NoOwner)), "{failed:?}");
        let waiting = tokio::spawn(run(|| panic!("of the work")));
        let panic = waiting.await.unwrap_err().into_panic();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"of the work"));
    }

    #[test]
    fn work_that_a_stopping_runtime_does_not_begin_returns_none() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _entered = handle.enter();
        let outside = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let spawned = spawn_blocking(|| 5);
        assert_eq!(outside.block_on(finish(spawned)), None);
    }
}
