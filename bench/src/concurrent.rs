//! Runs tasks concurrently, with a limit on their number.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

/// Maximum number of tasks at the same time.
const MAX_TASKS: usize = 64;

/// Runs `work` on each of `items`, in up to [`MAX_TASKS`] concurrent tasks. Returns the results in the order
/// of completion.
pub(crate) async fn run_concurrently<I, T, W>(
    items: impl IntoIterator<Item = I>,
    work: impl Fn(I) -> W,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    W: Future<Output = Result<T>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut results = Vec::new();
    for item in items {
        if tasks.len() == MAX_TASKS {
            results.push(tasks.join_next().await.context("no task")???);
        }
        tasks.spawn(work(item));
    }
    results.extend(join_all(tasks).await?);
    Ok(results)
}

/// Waits for all `tasks`. Returns their results in the order of completion.
pub(crate) async fn join_all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}
