//! The log: the broadcasts that a node keeps for other nodes that missed them. Their number, total size and
//! age are limited.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use crate::config::Config;
use crate::frame::broadcast::{Batch, RunId};

/// The kept broadcasts, in the batches in which they were received.
#[derive(Debug)]
pub(super) struct Log {
    max_count: usize,
    max_bytes: usize,
    /// Maximum age of a broadcast, in milliseconds.
    max_age: u64,
    /// The batches of each run, by the number of their first broadcast.
    runs: BTreeMap<RunId, BTreeMap<u64, Batch>>,
    /// The run and the first number of each batch, in the order of arrival.
    order: VecDeque<(RunId, u64)>,
    count: usize,
    bytes: usize,
}

impl Log {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            max_count: config.log_count,
            max_bytes: config.log_bytes,
            max_age: u64::try_from(config.log_age.as_millis()).unwrap_or(u64::MAX),
            runs: BTreeMap::new(),
            order: VecDeque::new(),
            count: 0,
            bytes: 0,
        }
    }

    /// Adds a batch. Drops the oldest ones while the number or the size of all broadcasts is over its limit.
    /// `unix` is the time, in milliseconds since 1970.
    pub(super) fn insert(&mut self, batch: Batch, unix: u64) {
        let (run, first) = (batch.run, batch.first);
        self.count += batch.items.len();
        self.bytes += batch.body().len();
        match self.runs.entry(run).or_default().insert(first, batch) {
            // The author may have signed a second, longer batch that begins with the same number. It replaces
            // the first, and stands at the first one's position in `order`.
            Some(old) => {
                self.count -= old.items.len();
                self.bytes -= old.body().len();
            }
            None => self.order.push_back((run, first)),
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
        while let Some((run, first)) = self.order.front() {
            let batch = self.runs.get(run).and_then(|run| run.get(first));
            if batch.is_some_and(|batch| !self.is_old(batch, unix)) {
                break;
            }
            self.drop_oldest();
        }
    }

    /// Returns whether a batch is too old to be kept, by the time that the author has given its last and
    /// newest broadcast.
    fn is_old(&self, batch: &Batch, unix: u64) -> bool {
        batch.items.last().is_none_or(|item| item.time.saturating_add(self.max_age) < unix)
    }

    fn drop_oldest(&mut self) {
        let Some((run, first)) = self.order.pop_front() else { return };
        let Some(batches) = self.runs.get_mut(&run) else { return };
        if let Some(batch) = batches.remove(&first) {
            self.count -= batch.items.len();
            self.bytes -= batch.body().len();
        }
        if batches.is_empty() {
            self.runs.remove(&run);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn has(&self, run: RunId) -> bool {
        self.runs.contains_key(&run)
    }

    /// Returns the runs of which broadcasts are kept.
    pub(super) fn runs(&self) -> impl Iterator<Item = RunId> {
        self.runs.keys().copied()
    }

    /// Returns the number of the first kept broadcast of a run.
    pub(super) fn first_of(&self, run: RunId) -> Option<u64> {
        self.runs.get(&run).and_then(|batches| batches.keys().next().copied())
    }

    /// Returns the batches of a run that contain broadcasts after `number`, in order.
    pub(super) fn after(&self, run: RunId, number: u64) -> impl Iterator<Item = &Batch> {
        // The last batch that begins at or before `number` may also contain later broadcasts, so the search
        // starts with it.
        let batches = self.runs.get(&run);
        let from = batches
            .and_then(|batches| batches.range(..=number).next_back())
            .map_or(number, |(first, _)| *first);
        let batches = batches.into_iter();
        let candidates =
            batches.flat_map(move |b| b.range((Bound::Included(from), Bound::Unbounded)));
        candidates.map(|(_, batch)| batch).filter(move |batch| batch.last() > number)
    }
}
