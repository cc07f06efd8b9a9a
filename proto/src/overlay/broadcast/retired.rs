//! Runs that were removed from the table to make room for others.
//!
//! Such a run leaves the number of its next broadcast behind. So none of its broadcasts is delivered again,
//! whether it is replayed or arrives late. One run of each author is remembered: the one with the greatest
//! epoch. Runs of the author with smaller epochs are refused, so nothing else of them has to be remembered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::frame::broadcast::RunId;
use crate::id::NodeId;
use crate::time::Instant;

/// Maximum number of authors whose retired runs are remembered. Twice the number of runs in the table: with
/// about 100 bytes each they need about 3 MiB.
const MAX_RETIRED: usize = 32_768;

/// The retired runs.
#[derive(Debug, Default)]
pub(super) struct RetiredRuns {
    by_author: BTreeMap<NodeId, RetiredRun>,
    /// The authors in the order in which their runs were retired. An author may be listed several times.
    order: VecDeque<(Instant, NodeId)>,
}

#[derive(Debug, Clone, Copy)]
struct RetiredRun {
    epoch: u64,
    /// The number of the next broadcast to deliver.
    next: u64,
    retired_at: Instant,
}

impl RetiredRuns {
    /// Adds a run. If there are too many, forgets the one that was retired first.
    pub(super) fn add(&mut self, now: Instant, name: RunId, next: u64) {
        let RunId { author, epoch } = name;
        let run = RetiredRun { epoch, next, retired_at: now };
        let known = self.by_author.entry(author).or_insert(run);
        if epoch >= known.epoch {
            *known = run;
        }
        // The time counts from now even if a later run is known: broadcasts of the earlier one may be replayed
        // from now on.
        known.retired_at = now;
        self.order.push_back((now, author));
        while self.order.len() > MAX_RETIRED {
            self.forget_first();
        }
    }

    /// Returns the number of the next broadcast of a run that is not in the table: 0 if the run is new. Returns
    /// `None` if a later run of the author was retired, so that nothing is known about this one.
    pub(super) fn next_of(&self, name: RunId) -> Option<u64> {
        match self.by_author.get(&name.author) {
            Some(retired) if name.epoch < retired.epoch => None,
            Some(retired) if name.epoch == retired.epoch => Some(retired.next),
            _ => Some(0),
        }
    }

    /// Forgets the runs that were retired more than `memory` ago.
    pub(super) fn expire(&mut self, now: Instant, memory: Duration) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) >= memory) {
            self.forget_first();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn forget_first(&mut self) {
        let Some((at, author)) = self.order.pop_front() else { return };
        // The author may be listed again, further back.
        if self.by_author.get(&author).is_some_and(|retired| retired.retired_at == at) {
            self.by_author.remove(&author);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u32, epoch: u64) -> RunId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        RunId { author: NodeId::from_bytes(bytes), epoch }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_retired_run_continues_and_earlier_ones_are_refused() {
        let mut retired = RetiredRuns::default();
        retired.add(at(1), name(1, 5), 9);
        retired.add(at(2), name(1, 4), 3);
        let next = |epoch| retired.next_of(name(1, epoch));
        assert_eq!((next(4), next(5), next(6)), (None, Some(9), Some(0)));
        assert_eq!(retired.next_of(name(2, 1)), Some(0));
        retired.add(at(3), name(1, 7), 2);
        assert_eq!((retired.next_of(name(1, 5)), retired.next_of(name(1, 7))), (None, Some(2)));
    }

    #[test]
    fn retired_runs_expire_by_the_time_of_the_last() {
        let mut retired = RetiredRuns::default();
        let memory = Duration::from_secs(10);
        retired.add(at(1), name(1, 5), 9);
        retired.add(at(5), name(1, 4), 3);
        retired.expire(at(14), memory);
        assert_eq!(retired.next_of(name(1, 4)), None);
        retired.expire(at(15), memory);
        assert_eq!(retired.next_of(name(1, 4)), Some(0));
        assert!(retired.is_empty() && retired.by_author.is_empty());
    }

    #[test]
    fn the_number_of_retired_runs_is_bounded() {
        let mut retired = RetiredRuns::default();
        for n in 0..40_000 {
            retired.add(at(u64::from(n)), name(n, 1), 2);
            retired.add(at(u64::from(n)), name(0, u64::from(n)), 2);
        }
        assert_eq!(retired.order.len(), MAX_RETIRED);
        assert!(retired.by_author.len() <= MAX_RETIRED);
        assert_eq!(retired.next_of(name(0, 1)), None, "it was retired again and again");
        assert_eq!(retired.next_of(name(39_999, 1)), Some(2));
        assert_eq!(retired.next_of(name(1, 1)), Some(0));
    }
}
