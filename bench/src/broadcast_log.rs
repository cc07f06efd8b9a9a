//! Logs of the broadcasts that each node of a network received, and the check against those that
//! were sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::messages::number;

/// Broadcasts received by one node. Shared between the node and the measurement.
#[derive(Debug, Clone, Default)]
pub(crate) struct BroadcastLog(Arc<Mutex<Vec<Delivery>>>);

/// One received broadcast.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    number: u64,
    at: Instant,
}

impl BroadcastLog {
    /// Records that a broadcast has just been received.
    pub(crate) fn record(&self, message: &[u8]) {
        // A message without a number was never broadcast; this number fails the check.
        let deliveries =
            Delivery { number: number(message).unwrap_or(u64::MAX), at: Instant::now() };
        self.lock().push(deliveries);
    }

    /// Returns how many broadcasts have been received.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Empties the log and checks it against the broadcasts that were made from number `first` on,
    /// at the times `sent`: each arrived at most once, and in order if `ordered`. Adds this node to
    /// `latest`, which has one entry per broadcast: the number of nodes that received it, and its
    /// longest delay so far.
    fn check(
        &self,
        first: u64,
        sent: &[Instant],
        ordered: bool,
        latest: &mut [(usize, Duration)],
    ) -> Result<()> {
        let mut deliveries = std::mem::take(&mut *self.lock());
        if !ordered {
            deliveries.sort_by_key(|deliveries| deliveries.number);
        }
        let mut before = None;
        for Delivery { number, at } in deliveries {
            ensure!(before != Some(number), "broadcast {number} arrived twice");
            ensure!(before < Some(number), "broadcast {number} arrived after {before:?}");
            before = Some(number);
            let index = number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
            let index = index.filter(|index| *index < sent.len());
            let Some(index) = index else { anyhow::bail!("broadcast {number} was never sent") };
            let (nodes, last) = &mut latest[index];
            *nodes += 1;
            *last = (*last).max(at - sent[index]);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties the `logs` and returns for each broadcast the delay until the last node had it, shortest
/// first. Returns `None` if some node did not receive all of them. The broadcasts were made from
/// number `first` on, at the times `sent`.
///
/// # Errors
/// Fails if a node received a broadcast twice, one that was not made, or (if `ordered`) out of
/// order.
pub(crate) fn times_to_last_node(
    logs: &[BroadcastLog],
    first: u64,
    sent: &[Instant],
    ordered: bool,
) -> Result<Option<Vec<Duration>>> {
    let mut latest = vec![(0, Duration::ZERO); sent.len()];
    for log in logs {
        log.check(first, sent, ordered, &mut latest)?;
    }
    let complete = latest.iter().all(|(nodes, _)| *nodes == logs.len());
    let mut times: Vec<_> = latest.into_iter().map(|(_, last)| last).collect();
    times.sort_unstable();
    Ok(complete.then_some(times))
}

/// Totals of all nodes of a network; `None` for a number that the system does not report.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NetworkTotals {
    /// Received copies of broadcasts, duplicates included.
    pub copies: Option<u64>,
    /// Received bytes of all kinds.
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(numbers: &[u64]) -> BroadcastLog {
        let log = BroadcastLog::default();
        for number in numbers {
            log.record(&number.to_le_bytes());
        }
        log
    }

    fn check(logs: &[&[u64]], ordered: bool) -> Result<Option<Vec<Duration>>> {
        let sent = [Instant::now(); 3];
        let logs: Vec<_> = logs.iter().map(|numbers| log(numbers)).collect();
        times_to_last_node(&logs, 7, &sent, ordered)
    }

    #[test]
    fn broadcasts_that_reached_every_node_have_a_time() {
        assert_eq!(check(&[&[7, 8, 9], &[7, 8, 9]], true).unwrap().unwrap().len(), 3);
        assert_eq!(check(&[&[7, 8, 9], &[9, 7, 8]], false).unwrap().unwrap().len(), 3);
    }

    #[test]
    fn the_time_is_that_of_the_last_node() {
        let sent = [Instant::now()];
        let early = log(&[0]);
        std::thread::sleep(Duration::from_millis(5));
        let times = times_to_last_node(&[log(&[0]), early], 0, &sent, true).unwrap().unwrap();
        assert!(times[0] >= Duration::from_millis(5));
    }

    #[test]
    fn a_missing_broadcast_is_found() {
        assert_eq!(check(&[&[7, 8, 9], &[7, 9]], true).unwrap(), None);
        assert_eq!(check(&[&[7, 8, 9], &[]], true).unwrap(), None);
    }

    #[test]
    fn a_wrong_broadcast_is_an_error() {
        assert!(check(&[&[7, 8, 8, 9]], true).is_err());
        assert!(check(&[&[7, 9, 8]], true).is_err());
        assert!(check(&[&[7, 8, 9, 7]], false).is_err());
        assert!(check(&[&[6]], false).is_err());
        assert!(check(&[&[10]], false).is_err());
        assert!(
            times_to_last_node(&[BroadcastLog::default(), log(&[])], 0, &[], true)
                .unwrap()
                .is_some()
        );
        let unnumbered = BroadcastLog::default();
        unnumbered.record(b"short");
        assert!(times_to_last_node(&[unnumbered], 0, &[Instant::now()], true).is_err());
    }
}
