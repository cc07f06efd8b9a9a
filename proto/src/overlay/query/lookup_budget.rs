//! The budget of searches through the shared files on behalf of other nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bucket::{Bucket, time_to_earn};
use crate::id::NodeId;
use crate::overlay::budgets::Standing;
use crate::time::Instant;

/// Time in which an empty bucket fills up. Ten seconds' worth: people search several times in a row, then not
/// for a while.
const SIZE: Duration = Duration::from_secs(10);

/// Rate for all links together, as a multiple of the rate of one link.
const ALL: u64 = 2;

/// A bucket for each link that has asked, one for all strangers together, and one for all links.
#[derive(Debug)]
pub(super) struct LookupBudget {
    rate: u64,
    all: Bucket,
    /// The bucket of all strangers. It is half as large as that of all links, so that strangers can't use up
    /// the look-ups of relays.
    strangers: Bucket,
    of: BTreeMap<NodeId, Bucket>,
}

impl LookupBudget {
    pub(super) fn new(rate: usize) -> Self {
        Self {
            rate: rate as u64,
            all: Bucket::default(),
            strangers: Bucket::default(),
            of: BTreeMap::new(),
        }
    }

    /// Charges `from` for one search. Returns whether its own budget and that of all links together allow it.
    pub(super) fn take(&mut self, now: Instant, from: NodeId, standing: Standing) -> bool {
        // `time_to_earn` treats a rate of 0 as one a second.
        if self.rate == 0 {
            return false;
        }
        let (mut all, mut strangers) = (self.all, self.strangers);
        let mut own = self.of.get(&from).copied().unwrap_or_default();
        let each = time_to_earn(1, self.rate);
        // No bucket is charged if another is empty.
        let enough = own.take(now, each, SIZE)
            && (standing != Standing::Stranger || strangers.take(now, each, SIZE))
            && all.take(now, time_to_earn(1, self.rate.saturating_mul(ALL)), SIZE);
        if enough {
            (self.all, self.strangers) = (all, strangers);
            self.of.insert(from, own);
        }
        enough
    }

    /// Forgets a link that has ended.
    pub(super) fn forget(&mut self, peer: NodeId) {
        // A new link starts with a full bucket, so a peer could gain searches by linking again. The bucket of
        // all links bounds that.
        self.of.remove(&peer);
    }
}
