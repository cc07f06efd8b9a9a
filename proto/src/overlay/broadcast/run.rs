//! The state of one run of an author: its progress, the links that it is passed on over, and the peers
//! that have more.

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::broadcast::Batch;
use crate::id::{Hash, NodeId, PublicKey};
use crate::time::Instant;

/// The state of one run of an author.
#[derive(Debug)]
pub(super) struct RunState {
    /// The first number that was not delivered; 0 while that is not known.
    pub(super) next: u64,
    /// The author's key, decoded for the first signature.
    pub(super) key: Option<PublicKey>,
    /// A signature of the author was seen. If not, the run is only known from summaries.
    pub(super) verified: bool,
    /// Time of the last batch.
    pub(super) active_at: Instant,
    /// Batches that arrived before earlier ones, by their first number, with the ids of their
    /// broadcasts.
    pub(super) pending: BTreeMap<u64, (Batch, Vec<Hash>)>,
    /// Time since which there are batches in `pending`.
    pub(super) gap_since: Option<Instant>,
    /// Links whose other end gets the run from another node. They get summaries only.
    pub(super) lazy: BTreeSet<NodeId>,
    /// Progress of the peers, as far as it is known.
    pub(super) has: BTreeMap<NodeId, u64>,
    /// Set while a peer has more than this node.
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
            active_at: now,
            pending: BTreeMap::new(),
            gap_since: None,
            lazy: BTreeSet::new(),
            has: BTreeMap::new(),
            missing: None,
        }
    }

    /// Returns the number up to which nothing is missing.
    pub(super) fn upto(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Notes that a peer has everything up to a number.
    pub(super) fn note_progress(&mut self, link: NodeId, upto: u64) {
        let has = self.has.entry(link).or_default();
        *has = (*has).max(upto);
    }

    /// Returns whether a peer has more than this node.
    pub(super) fn is_behind(&self) -> bool {
        self.has.values().any(|upto| *upto >= self.next.max(1))
    }

    /// Returns the peer to ask for what is missing: of those that have it, the next after the one asked
    /// last.
    pub(super) fn next_source(&self) -> Option<NodeId> {
        // Places count from 1, and 0 stands for a run of which nothing has arrived.
        let wanted = self.next.max(1);
        let able = || self.has.iter().filter(move |(_, upto)| **upto >= wanted).map(|(id, _)| *id);
        let last = self.missing.and_then(|missing| missing.asked).map(|(id, _)| id);
        able().find(|id| Some(*id) > last).or_else(|| able().next())
    }

    /// Returns whether a batch was delivered, or waits to be.
    pub(super) fn holds(&self, batch: &Batch) -> bool {
        batch.last() < self.next
            || self.pending.get(&batch.first).is_some_and(|(held, _)| held.last() >= batch.last())
    }

    pub(super) fn forget(&mut self, link: NodeId) {
        self.lazy.remove(&link);
        self.has.remove(&link);
    }
}
