//! Deadlines by key, ordered by time.

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// A set of deadlines, at most one for each key.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    by_key: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Copy + Ord> Deadlines<K> {
    /// Sets or replaces the deadline of a key. `None` removes the deadline.
    pub(crate) fn set(&mut self, key: K, due: Option<Instant>) {
        if let Some(before) = self.by_key.remove(&key) {
            self.by_time.remove(&(before, key));
            if self.by_key.is_empty() {
                // An emptied map still keeps memory for eleven deadlines. A new one has none.
                *self = Self::default();
            }
        }
        if let Some(due) = due {
            self.by_key.insert(key, due);
            self.by_time.insert((due, key));
        }
    }

    /// Moves all deadlines that are later than `due` to that time.
    pub(crate) fn bring_forward(&mut self, due: Instant) {
        let later: Vec<K> =
            self.by_key.iter().filter(|(_, at)| **at > due).map(|(key, _)| *key).collect();
        later.into_iter().for_each(|key| self.set(key, Some(due)));
    }

    /// Returns the earliest deadline.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.by_time.first().map(|(due, _)| *due)
    }

    /// Removes the earliest deadline if it is not after `now`, and returns its key. Otherwise
    /// returns `None`.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (_, key) = *self.by_time.first().filter(|(due, _)| *due <= now)?;
        self.set(key, None);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_key_has_one_deadline_and_the_earliest_is_popped_first() {
        let at = |seconds| Instant::from_origin(Duration::from_secs(seconds));
        let mut deadlines = Deadlines::default();
        for (key, due) in [('a', 3), ('b', 1), ('c', 2), ('b', 4), ('d', 1)] {
            deadlines.set(key, Some(at(due)));
        }
        deadlines.set('d', None);
        assert_eq!(deadlines.first(), Some(at(2)));
        assert_eq!(deadlines.pop(at(1)), None);
        let due: Vec<_> = std::iter::from_fn(|| deadlines.pop(at(3))).collect();
        assert_eq!(due, ['c', 'a']);
        assert_eq!(deadlines.first(), Some(at(4)));
    }
}
