//! Logs of the broadcasts that each node of a network has received. They are checked against the broadcasts
//! that were sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::messages::number;

/// The first bytes of a broadcast of an attacker, in place of a number.
pub(crate) const HOSTILE: [u8; 8] = *b"attacker";

/// The broadcasts that one node has received. The node and the measurement share the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct BroadcastLog {
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    /// Number of broadcasts of attackers.
    hostile: Arc<AtomicU64>,
}

/// One received broadcast.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    number: u64,
    at: Instant,
}

impl BroadcastLog {
    /// Records the broadcast that has just been received.
    pub(crate) fn record(&self, message: &[u8]) {
        if message.starts_with(&HOSTILE) {
            self.hostile.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A message without a number was never broadcast. It is recorded with a number that is never used, so
        // that the check fails.
        let delivery = Delivery { number: number(message).unwrap_or(u64::MAX), at: Instant::now() };
        self.lock().push(delivery);
    }

    /// Returns the number of received broadcasts, without those of attackers.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Returns the number of received broadcasts of attackers.
    pub(crate) fn hostile(&self) -> u64 {
        self.hostile.load(Ordering::Relaxed)
    }

    /// Empties the log, and checks that each broadcast arrived at most once, and in order if `ordered` is
    /// true. The broadcasts are numbered from `first`, and `sent` has the time at which each was sent.
    ///
    /// `latest` has one entry for each broadcast: the number of nodes that have received it, and the longest
    /// delay so far. Adds the deliveries of this node to `latest`.
    fn check(
        &self,
        first: u64,
        sent: &[Instant],
        ordered: bool,
        latest: &mut [(usize, Duration)],
    ) -> Result<()> {
        let mut deliveries = std::mem::take(&mut *self.lock());
        if !ordered {
            // Sorting puts duplicates next to each other, so the checks below still find them.
            deliveries.sort_by_key(|delivery| delivery.number);
        }
        let mut previous = None;
        for Delivery { number, at } in deliveries {
            ensure!(previous != Some(number), "broadcast {number} arrived twice");
            ensure!(previous < Some(number), "broadcast {number} arrived after {previous:?}");
            previous = Some(number);
            let index = number.checked_sub(first).and_then(|index| usize::try_from(index).ok());
            let index = index.filter(|index| *index < sent.len());
            let Some(index) = index else { anyhow::bail!("broadcast {number} was never sent") };
            // All nodes are in this process, so all times come from one clock.
            let (nodes, last) = &mut latest[index];
            *nodes += 1;
            *last = (*last).max(at - sent[index]);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties the `logs`. Returns the delay of each broadcast until the last node has received it, shortest
/// first. Returns `None` if a node has not received every broadcast. See [`times_of_complete`].
pub(crate) fn times_to_last_node(
    logs: &[BroadcastLog],
    first: u64,
    sent: &[Instant],
    ordered: bool,
) -> Result<Option<Vec<Duration>>> {
    let times = times_of_complete(logs, first, sent, ordered)?;
    Ok((times.len() == sent.len()).then_some(times))
}

/// Empties the `logs`. Returns the delay of each broadcast until the last node has received it, shortest
/// first. Leaves out the broadcasts that did not reach every node. The broadcasts are numbered from `first`,
/// and `sent` has the time at which each was sent.
///
/// # Errors
/// Fails if a node has received a broadcast twice, or a broadcast that was never sent. If `ordered` is true,
/// also fails if a node has received a broadcast out of order.
pub(crate) fn times_of_complete(
    logs: &[BroadcastLog],
    first: u64,
    sent: &[Instant],
    ordered: bool,
) -> Result<Vec<Duration>> {
    let mut latest = vec![(0, Duration::ZERO); sent.len()];
    for log in logs {
        log.check(first, sent, ordered, &mut latest)?;
    }
    let complete = latest.into_iter().filter(|(nodes, _)| *nodes == logs.len());
    let mut times: Vec<_> = complete.map(|(_, last)| last).collect();
    times.sort_unstable();
    Ok(times)
}

/// Totals over all nodes of a network. A total that the system does not report is `None`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NetworkTotals {
    /// Number of received copies of broadcasts, including duplicates.
    pub copies: Option<u64>,
    /// Number of all received bytes.
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
        // The other node receives the broadcast after 5 ms.
        let times = times_to_last_node(&[log(&[0]), early], 0, &sent, true).unwrap().unwrap();
        assert!(times[0] >= Duration::from_millis(5));
    }

    #[test]
    fn a_missing_broadcast_is_found() {
        assert_eq!(check(&[&[7, 8, 9], &[7, 9]], true).unwrap(), None);
        assert_eq!(check(&[&[7, 8, 9], &[]], true).unwrap(), None);
    }

    #[test]
    fn broadcasts_of_attackers_are_only_counted() {
        let log = log(&[7]);
        log.record(&crate::attackers::payload(b"unique"));
        log.record(&crate::attackers::payload(b""));
        assert_eq!((log.len(), log.hostile()), (1, 2));
    }

    #[test]
    fn incomplete_broadcasts_are_left_out() {
        let (one, both) = (log(&[7, 9]), log(&[7, 8, 9]));
        let times = times_of_complete(&[one, both], 7, &[Instant::now(); 3], false).unwrap();
        assert_eq!(times.len(), 2);
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
