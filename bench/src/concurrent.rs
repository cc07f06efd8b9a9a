//! Concurrent tasks with a limit.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

/// Largest number of tasks at once.
const MAX_TASKS: usize = 64;

/// Runs `work` on each of `items` in a task of its own, at most 64 at once. Returns the results in
/// order of completion.
pub(crate) async fn run_concurrently<I, T, W>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> W,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut done = Vec::new();
    for item in items {
        if tasks.len() == MAX_TASKS {
            done.push(tasks.join_next().await.context("no task")???);
        }
        tasks.spawn(work(item));
    }
    done.extend(join_all(tasks).await?);
    Ok(done)
}

/// Waits for all `tasks`. Returns their results in order of completion.
pub(crate) async fn join_all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}
