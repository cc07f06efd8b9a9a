//! The log: the broadcasts that a node keeps for other nodes that missed them. Their number, total size and
//! age are limited.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::config::Config;
use crate::frame::broadcast::{Batch, RunId};

/// The kept broadcasts, in the batches in which they were received.
#[derive(Debug)]
pub(super) struct Log {
    max_count: usize,
    max_bytes: usize,
    /// Maximum age of a broadcast, in milliseconds.
    max_age: u64,
    /// The batches of all runs, by the run and the number of their first broadcast. One map, because a stranger
    /// can make thousands of runs with one broadcast each.
    batches: BTreeMap<(RunId, u64), LoggedBatch>,
    /// The run and the first number of each batch, in the order of arrival.
    order: VecDeque<(RunId, u64)>,
    count: usize,
    bytes: usize,
}

/// A kept batch.
#[derive(Debug)]
struct LoggedBatch {
    /// The encoded batch. It is decoded when a peer asks for it, as a decoded batch takes twice the memory.
    body: Bytes,
    /// Number of its broadcasts.
    count: usize,
    /// The time that the author has given its last and newest broadcast.
    time: u64,
}

impl Log {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            max_count: config.log_count,
            max_bytes: config.log_bytes,
            max_age: u64::try_from(config.log_age.as_millis()).unwrap_or(u64::MAX),
            batches: BTreeMap::new(),
            order: VecDeque::new(),
            count: 0,
            bytes: 0,
        }
    }

    /// Adds a batch, which has to be in memory of its own: see [`Batch::detach`]. Drops the oldest batches while there
    /// are too many broadcasts or too many bytes. `unix` is the time, in milliseconds since 1970.
    pub(super) fn insert(&mut self, batch: &Batch, unix: u64) {
        let name = (batch.run, batch.first);
        let body = batch.body().clone();
        let time = batch.items.last().map_or(0, |item| item.time);
        self.count += batch.items.len();
        self.bytes += body.len();
        match self.batches.insert(name, LoggedBatch { body, count: batch.items.len(), time }) {
            // The author may have signed a second, longer batch that begins with the same number. It replaces
            // the first, and stands at the first one's position in `order`.
            Some(old) => self.uncount(&old),
            None => self.order.push_back(name),
        }
        while self.count > self.max_count || self.bytes > self.max_bytes {
            self.drop_oldest();
        }
        self.expire(unix);
    }

    /// Drops batches that are too old.
    pub(super) fn expire(&mut self, unix: u64) {
        // The batches are checked in the order of arrival. So an old batch stays while there is a younger one
        // that arrived before it.
        while let Some(name) = self.order.front() {
            let batch = self.batches.get(name);
            if batch.is_some_and(|batch| batch.time.saturating_add(self.max_age) >= unix) {
                break;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(name) = self.order.pop_front() else { return };
        if let Some(batch) = self.batches.remove(&name) {
            self.uncount(&batch);
        }
    }

    fn uncount(&mut self, batch: &LoggedBatch) {
        self.count -= batch.count;
        self.bytes -= batch.body.len();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn has(&self, run: RunId) -> bool {
        self.first_of(run).is_some()
    }

    /// Returns the runs of which broadcasts are kept.
    pub(super) fn runs(&self) -> Vec<RunId> {
        let mut runs: Vec<_> = self.batches.keys().map(|(run, _)| *run).collect();
        runs.dedup();
        runs
    }

    /// Returns the number of the first kept broadcast of a run.
    pub(super) fn first_of(&self, run: RunId) -> Option<u64> {
        self.batches.range((run, 0)..=(run, u64::MAX)).next().map(|((_, first), _)| *first)
    }

    /// Returns the batches of a run that contain broadcasts after `number`, in order.
    pub(super) fn after(&self, run: RunId, number: u64) -> impl Iterator<Item = Batch> {
        // The last batch that begins at or before `number` may also contain later broadcasts, so the search
        // starts with it.
        let before = self.batches.range((run, 0)..=(run, number)).next_back();
        let from = before.map_or(number, |((_, first), _)| *first);
        let candidates = self.batches.range((run, from)..=(run, u64::MAX));
        let batches = candidates.filter_map(|(_, logged)| Batch::decode(logged.body.clone()).ok());
        batches.filter(move |batch| batch.last() > number)
    }
}
