//! How often this node looks at what it shares because others ask: buckets that fill with time.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::time::Instant;

/// What a bucket holds, in seconds of its rate: somebody who searches after a while, often.
const SECONDS: u64 = 10;

/// Rate over all, in that of one link.
const ALL: u64 = 2;

/// The buckets. There is one for each link that has asked; a new link's is full.
#[derive(Debug)]
pub(super) struct Looks {
    rate: u64,
    all: Option<Bucket>,
    of: BTreeMap<NodeId, Bucket>,
}

/// What is in a bucket, in thousandths of a look, and since when.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u64,
    at: Instant,
}

impl Looks {
    pub(super) fn new(rate: usize) -> Self {
        Self { rate: rate as u64, all: None, of: BTreeMap::new() }
    }

    /// Whether `from` may have one more look.
    pub(super) fn take(&mut self, now: Instant, from: NodeId) -> bool {
        let all = filled(self.all, now, self.rate * ALL);
        let own = filled(self.of.get(&from).copied(), now, self.rate);
        let enough = all.left >= 1000 && own.left >= 1000;
        let cost = if enough { 1000 } else { 0 };
        self.all = Some(Bucket { left: all.left - cost, ..all });
        self.of.insert(from, Bucket { left: own.left - cost, ..own });
        enough
    }

    /// A link has ended.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.of.remove(&peer);
    }
}

fn filled(bucket: Option<Bucket>, now: Instant, rate: u64) -> Bucket {
    let full = rate * SECONDS * 1000;
    let left = bucket.map_or(full, |bucket| {
        let passed = u64::try_from(now.since(bucket.at).as_millis()).unwrap_or(u64::MAX);
        bucket.left.saturating_add(passed.saturating_mul(rate)).min(full)
    });
    // Those within one millisecond count from its start, or who asks often would never earn.
    let at = bucket.map(|bucket| bucket.at).filter(|at| now.since(*at).as_millis() == 0);
    Bucket { left, at: at.unwrap_or(now) }
}
