//! Many small tasks, of which a limited number run at once.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

/// Dials or pings under way at once.
const AT_ONCE: usize = 64;

/// Works on each of `items` in a task of its own, a limited number of them at once.
pub(crate) async fn side_by_side<I, T, W>(
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
        if tasks.len() == AT_ONCE {
            done.push(tasks.join_next().await.context("no task")???);
        }
        tasks.spawn(work(item));
    }
    done.extend(all(tasks).await?);
    Ok(done)
}

/// Waits for all `tasks`. Returns their results in the order in which they came.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut results = Vec::new();
    while let Some(result) = tasks.join_next().await {
        results.push(result??);
    }
    Ok(results)
}
