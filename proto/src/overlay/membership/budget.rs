//! How many records a node takes from each other one: a bucket that fills with time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::Instant;

/// What a bucket holds: four shuffles.
const MAX: u64 = 64;

/// The time that it takes to earn one more. 500 ms: Bitcoin Core takes 0.1 a second of each of its
/// peers, in a network where each tells a thousand at once.
const EARN: Duration = Duration::from_millis(500);

/// Buckets at once: of links and of those who probe. The fullest gives way.
const MAX_BUCKETS: usize = 256;

/// The buckets.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    /// What was in it, and when.
    of: BTreeMap<NodeId, (u64, Instant)>,
}

impl Budgets {
    /// Takes up to `wanted` of what `id` has left; how many that are.
    pub(super) fn take(&mut self, now: Instant, id: NodeId, wanted: usize) -> usize {
        if self.of.len() >= MAX_BUCKETS && !self.of.contains_key(&id) {
            let oldest = self.of.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| *id);
            oldest.map(|id| self.of.remove(&id));
        }
        let (left, at) = self.of.entry(id).or_insert((MAX, now));
        let earned = now.since(*at).as_millis() / EARN.as_millis().max(1);
        if earned > 0 {
            *left = left.saturating_add(u64::try_from(earned).unwrap_or(u64::MAX)).min(MAX);
            *at = now;
        }
        let taken = (*left).min(wanted as u64);
        *left -= taken;
        usize::try_from(taken).unwrap_or_default()
    }
}
