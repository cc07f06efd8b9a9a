//! The broadcasts that the nodes of a network have received, and checks that they are those that were
//! sent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::messages::number;

/// The broadcasts that one node has received. The node and the measurement share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<Arrival>>>);

/// A received broadcast.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u64,
    at: Instant,
}

impl Log {
    /// Notes that a broadcast has come now.
    pub(crate) fn note(&self, message: &[u8]) {
        // A broadcast without a number was never sent.
        let arrival = Arrival { number: number(message).unwrap_or(u64::MAX), at: Instant::now() };
        self.lock().push(arrival);
    }

    /// Returns the number of broadcasts received.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Takes the received broadcasts, and checks that they were sent from number `first` on, at the
    /// times `sent`, and that each came at most once, in order if they are to be `ordered`. Puts the
    /// latest time of each broadcast so far, and the number of nodes that received it, into `latest`,
    /// which is as long as `sent`.
    fn check(
        &self,
        first: u64,
        sent: &[Instant],
        ordered: bool,
        latest: &mut [(usize, Duration)],
    ) -> Result<()> {
        let mut arrivals = std::mem::take(&mut *self.lock());
        if !ordered {
            arrivals.sort_by_key(|arrival| arrival.number);
        }
        let mut before = None;
        for Arrival { number, at } in arrivals {
            ensure!(before != Some(number), "broadcast {number} came twice");
            ensure!(before < Some(number), "broadcast {number} came after {before:?}");
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

    fn lock(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties the `logs`. Returns for each broadcast the time until the last of the nodes had it, shortest
/// first; none if a node has not received all of them. They were sent from number `first` on, at the
/// times `sent`.
///
/// # Errors
/// If a node has received a broadcast twice, or one that was not sent, or out of order if they are to
/// be `ordered`.
pub(crate) fn until_last(
    logs: &[Log],
    first: u64,
    sent: &[Instant],
    ordered: bool,
) -> Result<Option<Vec<Duration>>> {
    let mut latest = vec![(0, Duration::ZERO); sent.len()];
    for log in logs {
        log.check(first, sent, ordered, &mut latest)?;
    }
    let everywhere = latest.iter().all(|(nodes, _)| *nodes == logs.len());
    let mut times: Vec<_> = latest.into_iter().map(|(_, last)| last).collect();
    times.sort_unstable();
    Ok(everywhere.then_some(times))
}

/// The amounts that all nodes have received so far, as far as the system counts them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Received {
    /// Broadcasts, including those that a node already had.
    pub copies: Option<u64>,
    /// Bytes of all kinds.
    pub bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(numbers: &[u64]) -> Log {
        let log = Log::default();
        for number in numbers {
            log.note(&number.to_le_bytes());
        }
        log
    }

    fn check(logs: &[&[u64]], ordered: bool) -> Result<Option<Vec<Duration>>> {
        let sent = [Instant::now(); 3];
        let logs: Vec<_> = logs.iter().map(|numbers| log(numbers)).collect();
        until_last(&logs, 7, &sent, ordered)
    }

    #[test]
    fn all_that_came_everywhere_have_a_time() {
        assert_eq!(check(&[&[7, 8, 9], &[7, 8, 9]], true).unwrap().unwrap().len(), 3);
        assert_eq!(check(&[&[7, 8, 9], &[9, 7, 8]], false).unwrap().unwrap().len(), 3);
    }

    #[test]
    fn the_time_is_that_of_the_last_node() {
        let sent = [Instant::now()];
        let early = log(&[0]);
        std::thread::sleep(Duration::from_millis(5));
        let times = until_last(&[log(&[0]), early], 0, &sent, true).unwrap().unwrap();
        assert!(times[0] >= Duration::from_millis(5));
    }

    #[test]
    fn one_that_is_missing_is_found() {
        assert_eq!(check(&[&[7, 8, 9], &[7, 9]], true).unwrap(), None);
        assert_eq!(check(&[&[7, 8, 9], &[]], true).unwrap(), None);
    }

    #[test]
    fn what_should_not_come_is_found() {
        assert!(check(&[&[7, 8, 8, 9]], true).is_err());
        assert!(check(&[&[7, 9, 8]], true).is_err());
        assert!(check(&[&[7, 8, 9, 7]], false).is_err());
        assert!(check(&[&[6]], false).is_err());
        assert!(check(&[&[10]], false).is_err());
        assert!(until_last(&[Log::default(), log(&[])], 0, &[], true).unwrap().is_some());
        let nameless = Log::default();
        nameless.note(b"short");
        assert!(until_last(&[nameless], 0, &[Instant::now()], true).is_err());
    }
}
