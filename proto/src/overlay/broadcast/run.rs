//! The state of one run of an author: this node's progress, the links that are pruned, and the progress of
//! its peers.

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::broadcast::Batch;
use crate::id::{Hash, NodeId, PublicKey};
use crate::time::Instant;

/// The state of one run of an author.
#[derive(Debug)]
pub(super) struct RunState {
    /// The number of the next broadcast to deliver; 0 while that is not known.
    pub(super) next: u64,
    /// The author's key, decoded when its first signature was checked.
    pub(super) key: Option<PublicKey>,
    /// A signature of the author was checked. If false, the run is known only from summaries.
    pub(super) verified: bool,
    /// The link over which the run's first batch came, or its first summary while no batch has come. `None`
    /// for this node's own and restored runs, and once that link has ended.
    pub(super) from: Option<NodeId>,
    /// Time at which the last batch arrived.
    pub(super) active_at: Instant,
    /// Batches that wait for earlier ones, by their first number, with the ids of their broadcasts.
    pub(super) pending: BTreeMap<u64, (Batch, Vec<Hash>)>,
    /// Time since which batches wait in `pending`.
    pub(super) gap_since: Option<Instant>,
    /// Pruned links: the peers that receive the run from another node. Only summaries are sent to them.
    pub(super) lazy: BTreeSet<NodeId>,
    /// Known progress of the peers.
    pub(super) has: BTreeMap<NodeId, u64>,
    /// The search for missing broadcasts, while a peer has more than this node.
    pub(super) missing: Option<Missing>,
}

/// The search for missing broadcasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    /// Time of the next step.
    pub(super) due: Instant,
    /// The peer that was asked last, and this node's progress at that time.
    pub(super) asked: Option<(NodeId, u64)>,
    /// Number of requests since the last batch arrived.
    pub(super) tries: usize,
}

impl RunState {
    pub(super) fn new(next: u64, now: Instant) -> Self {
        Self {
            next,
            key: None,
            verified: false,
            from: None,
            active_at: now,
            pending: BTreeMap::new(),
            gap_since: None,
            lazy: BTreeSet::new(),
            has: BTreeMap::new(),
            missing: None,
        }
    }

    /// Returns this node's progress: the number up to which no broadcast is missing.
    pub(super) fn upto(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Notes that a peer has all broadcasts up to a number.
    pub(super) fn note_progress(&mut self, link: NodeId, upto: u64) {
        let has = self.has.entry(link).or_default();
        *has = (*has).max(upto);
    }

    /// Returns whether a peer has more than this node.
    pub(super) fn is_behind(&self) -> bool {
        self.has.values().any(|upto| *upto >= self.next.max(1))
    }

    /// Returns the peer to ask for the missing broadcasts. The peers that have them take turns.
    pub(super) fn next_source(&self) -> Option<NodeId> {
        // The numbers start at 1. `next` is 0 for a run of which no batch has arrived.
        let wanted = self.next.max(1);
        let sources =
            || self.has.iter().filter(move |(_, upto)| **upto >= wanted).map(|(id, _)| *id);
        let last = self.missing.and_then(|missing| missing.asked).map(|(id, _)| id);
        sources().find(|id| Some(*id) > last).or_else(|| sources().next())
    }

    /// Returns whether all broadcasts of a batch were delivered, or wait to be.
    pub(super) fn holds(&self, batch: &Batch) -> bool {
        batch.last() < self.next
            || self.pending.get(&batch.first).is_some_and(|(held, _)| held.last() >= batch.last())
    }

    pub(super) fn forget(&mut self, link: NodeId) {
        self.lazy.remove(&link);
        self.has.remove(&link);
    }
}
