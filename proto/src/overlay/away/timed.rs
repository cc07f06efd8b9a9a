//! A bounded map in which each entry has an end.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::time::Instant;

/// Entries that count until their time ends. If one more than the maximum is added, the entry whose time ends
/// first is removed.
#[derive(Debug)]
pub(super) struct TimedSet<K> {
    until: BTreeMap<K, Instant>,
    max: usize,
}

impl<K: Copy + Ord> TimedSet<K> {
    /// Creates an empty set of at most `max` entries.
    pub(super) fn new(max: usize) -> Self {
        Self { until: BTreeMap::new(), max }
    }

    /// Adds an entry, or replaces its time.
    pub(super) fn add(&mut self, now: Instant, key: K, time: Duration) {
        // An entry that is there already takes no further room.
        if self.until.len() >= self.max && !self.until.contains_key(&key) {
            self.until.retain(|_, until| *until > now);
            let first = self.until.iter().min_by_key(|(_, until)| **until).map(|(key, _)| *key);
            if let Some(first) = first.filter(|_| self.until.len() >= self.max) {
                self.until.remove(&first);
            }
        }
        self.until.insert(key, now + time);
    }

    /// Removes an entry. Returns whether it was there.
    pub(super) fn remove(&mut self, key: K) -> bool {
        self.until.remove(&key).is_some()
    }

    /// Returns whether an entry is there and its time has not ended.
    pub(super) fn contains(&self, now: Instant, key: K) -> bool {
        self.until.get(&key).is_some_and(|until| *until > now)
    }

    /// Returns the entries whose time has not ended, each with the time that is left.
    pub(super) fn remaining(&self, now: Instant) -> impl Iterator<Item = (K, Duration)> {
        let all = self.until.iter().map(move |(key, until)| (*key, until.since(now)));
        all.filter(|(_, left)| !left.is_zero())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.until.len()
    }
}
