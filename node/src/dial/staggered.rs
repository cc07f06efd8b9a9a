//! Staggered attempts: several ways to the same node are tried in sequence, and a slow one does not hold up
//! the next ("happy eyeballs", RFC 8305). An address that does not answer costs a quarter of a second, not a
//! time-out.

use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

/// Time after which the next way is tried although the earlier attempts still run: the "connection attempt
/// delay" of RFC 8305, section 8.
const STAGGER: Duration = Duration::from_millis(250);

/// Tries at most `max` of `ways` until one succeeds. The next way is tried as soon as an attempt fails, or
/// after a quarter of a second. Attempts that still run after a success are cancelled. Copies of a way are
/// skipped and not counted: a list from the network must not make this node dial an address several times,
/// or keep it from trying another one.
///
/// # Errors
/// The failures of all attempts, in the order in which they occurred. The list is empty if `ways` is.
pub(crate) async fn first_success<W, T, E, F>(
    ways: impl IntoIterator<Item = W>,
    max: usize,
    attempt: impl Fn(W) -> F,
) -> Result<T, Vec<E>>
where
    W: PartialEq,
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    staggered_success(ways, max, STAGGER, attempt).await
}

/// Does the same as [`first_success`], with another time after which the next way is tried. If it is zero, all ways are
/// tried at the same moment.
///
/// # Errors
/// As for [`first_success`].
pub(crate) async fn staggered_success<W, T, E, F>(
    ways: impl IntoIterator<Item = W>,
    max: usize,
    stagger: Duration,
    attempt: impl Fn(W) -> F,
) -> Result<T, Vec<E>>
where
    W: PartialEq,
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let mut distinct: Vec<W> = Vec::new();
    for way in ways {
        if distinct.len() == max {
            break;
        }
        if !distinct.contains(&way) {
            distinct.push(way);
        }
    }
    let mut waiting = distinct.into_iter().peekable();
    let mut attempts = JoinSet::new();
    let mut errors = Vec::new();
    loop {
        if let Some(way) = waiting.next() {
            attempts.spawn(attempt(way));
        }
        let joined = match waiting.peek() {
            None => attempts.join_next().await,
            Some(_) => {
                let joined = timeout(stagger, attempts.join_next()).await;
                // The attempts are slow, so the next way is tried beside them.
                let Ok(joined) = joined else { continue };
                joined
            }
        };
        match joined {
            Some(Ok(Ok(success))) => return Ok(success),
            Some(Ok(Err(error))) => errors.push(error),
            // A task that panicked has no error to report.
            Some(Err(_)) => {}
            None => return Err(errors),
        }
    }
}

/// Tries a second way to the same node beside the first one, once the first one has failed or has taken as long as
/// `patience`. Cancels the one that is slower.
///
/// # Errors
/// The failures of both ways, if both have failed.
pub(crate) async fn with_second_way<T, E, F>(
    first: impl Future<Output = Result<T, E>>,
    second: impl Future<Output = Result<T, F>>,
    patience: Duration,
) -> Result<T, (E, F)> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    match timeout(patience, &mut first).await {
        Ok(Ok(success)) => return Ok(success),
        Ok(Err(failure)) => return second.await.map_err(|failed| (failure, failed)),
        Err(_) => {}
    }
    tokio::select! {
        ended = &mut first => match ended {
            Ok(success) => Ok(success),
            Err(failure) => second.await.map_err(|failed| (failure, failed)),
        },
        ended = &mut second => match ended {
            Ok(success) => Ok(success),
            Err(failed) => first.await.map_err(|failure| (failure, failed)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails or succeeds after some milliseconds.
    async fn after(millis: u64, succeeds: bool) -> Result<u64, u64> {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        if succeeds { Ok(millis) } else { Err(millis) }
    }

    async fn first(ways: &[(u64, bool)]) -> (Result<u64, Vec<u64>>, u128) {
        let begun = tokio::time::Instant::now();
        let attempt = |(millis, succeeds)| after(millis, succeeds);
        let found = first_success(ways.to_vec(), ways.len(), attempt).await;
        (found, begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn dead_ways_cost_a_quarter_of_a_second_each_and_refused_ones_nothing() {
        const DEAD: (u64, bool) = (10_000, false);
        assert_eq!(first(&[(5, true)]).await, (Ok(5), 5));
        let dead = |n: u64| (10_000 + n, false);
        let seven_dead = [dead(1), dead(2), dead(3), dead(4), dead(5), dead(6), dead(7), (5, true)];
        assert_eq!(first(&seven_dead).await, (Ok(5), 7 * 250 + 5));
        assert_eq!(first(&[(1, false), (2, false), (5, true)]).await, (Ok(5), 8));
        // A slow attempt continues when the next one begins.
        assert_eq!(first(&[(400, true), DEAD]).await, (Ok(400), 400));
        assert_eq!(first(&[(1, false), (2, false)]).await, (Err(vec![1, 2]), 3));
        assert_eq!(first(&[]).await, (Err(vec![]), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn copies_of_a_way_are_tried_once() {
        const DEAD: (u64, bool) = (10_000, false);
        assert_eq!(first(&[DEAD; 32]).await, (Err(vec![10_000]), 10_000));
        assert_eq!(first(&[(1, false), DEAD, (1, false), (5, true)]).await, (Ok(5), 1 + 250 + 5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_counts_distinct_ways() {
        let first_two = |ways: Vec<(u64, bool)>| {
            first_success(ways, 2, |(millis, succeeds)| after(millis, succeeds))
        };
        // Copies of a dead way do not use up the bound.
        let ways = vec![(1, false), (1, false), (1, false), (5, true)];
        assert_eq!(first_two(ways).await, Ok(5));
        let ways = vec![(1, false), (2, false), (5, true)];
        assert_eq!(first_two(ways).await, Err(vec![1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_way_begins_when_the_first_one_fails_or_is_slow() {
        let both = async |first, second| {
            let begun = tokio::time::Instant::now();
            let (first, second) = (after_pair(first), after_pair(second));
            let found = with_second_way(first, second, Duration::from_millis(500)).await;
            (found, begun.elapsed().as_millis())
        };
        assert_eq!(both((400, true), (1, true)).await, (Ok(400), 400));
        assert_eq!(both((100, false), (30, true)).await, (Ok(30), 130));
        assert_eq!(both((9_000, true), (30, true)).await, (Ok(30), 530));
        assert_eq!(both((600, true), (1_000, true)).await, (Ok(600), 600));
        assert_eq!(both((600, false), (1_000, true)).await, (Ok(1_000), 1_500));
        assert_eq!(both((9_000, true), (30, false)).await, (Ok(9_000), 9_000));
        assert_eq!(both((9_000, false), (30, false)).await, (Err((9_000, 30)), 9_000));
    }

    async fn after_pair((millis, succeeds): (u64, bool)) -> Result<u64, u64> {
        after(millis, succeeds).await
    }
}
