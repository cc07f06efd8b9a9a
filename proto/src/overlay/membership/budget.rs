//! The budget that limits how many records a node accepts from each other node.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bucket::Bucket;
use crate::id::NodeId;
use crate::time::Instant;

/// Number of records that a full bucket allows: four shuffles.
const FULL_BUCKET: u32 = 64;

/// Time in which a bucket gains one record. For comparison: Bitcoin Core accepts one address in ten seconds
/// from each peer, with a bucket that holds a thousand.
const RECORD_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of buckets. The fullest is removed to make room for a new one.
const MAX_BUCKETS: usize = 256;

/// A bucket for each node that has sent records, and one, `None`, for all nodes that have sent probes to this
/// one. Those have no link, and a new identity costs nothing, so they share one budget.
#[derive(Debug, Default)]
pub(super) struct RecordBudgets(BTreeMap<Option<NodeId>, Bucket>);

impl RecordBudgets {
    /// Charges the budget of the sender `id` for up to `wanted` records. Returns the number of records that it allows.
    pub(super) fn take(&mut self, now: Instant, id: Option<NodeId>, wanted: usize) -> usize {
        if self.0.len() >= MAX_BUCKETS && !self.0.contains_key(&id) {
            // A node whose bucket is removed starts again with a full one, so removing the fullest gives away
            // least. A node can't refill its own bucket by sending under other identities.
            let fullest =
                self.0.iter().min_by_key(|(_, bucket)| bucket.full_at()).map(|(id, _)| *id);
            fullest.map(|id| self.0.remove(&id));
        }
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let bucket = self.0.entry(id).or_default();
        bucket.take_up_to(wanted, now, RECORD_INTERVAL, RECORD_INTERVAL * FULL_BUCKET) as usize
    }
}
