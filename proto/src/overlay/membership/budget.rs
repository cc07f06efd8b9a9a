//! The budget of records that a node accepts from each other node.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bucket::Bucket;
use crate::id::NodeId;
use crate::time::Instant;

/// Records that a full bucket allows: four shuffles.
const MAX: u32 = 64;

/// Time in which a bucket earns one record. 500 ms: Bitcoin Core accepts 0.1 a second from each of its
/// peers, in a network where each sends a thousand at once.
const EARN: Duration = Duration::from_millis(500);

/// Most buckets: of links and of nodes that probe. The fullest is removed for a new one.
const MAX_BUCKETS: usize = 256;

/// A bucket for each node that has sent records.
#[derive(Debug, Default)]
pub(super) struct RecordBudgets(BTreeMap<NodeId, Bucket>);

impl RecordBudgets {
    /// Takes up to `wanted` records from the budget of `id`, and returns their number.
    pub(super) fn take(&mut self, now: Instant, id: NodeId, wanted: usize) -> usize {
        if self.0.len() >= MAX_BUCKETS && !self.0.contains_key(&id) {
            // A new bucket is full. So forgetting the fullest one forgives least, and a node can't
            // refill its own bucket by adding others.
            let fullest =
                self.0.iter().min_by_key(|(_, bucket)| bucket.full_at()).map(|(id, _)| *id);
            fullest.map(|id| self.0.remove(&id));
        }
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let bucket = self.0.entry(id).or_default();
        bucket.take_up_to(wanted, now, EARN, EARN * MAX) as usize
    }
}
