//! What a node knows of one run of an author: how far it is, who passes it on to whom, who has more.

use std::collections::{BTreeMap, BTreeSet};

use crate::frame::broadcast::Batch;
use crate::id::{Hash, NodeId, PublicKey};
use crate::time::Instant;

/// One run of an author.
#[derive(Debug)]
pub(super) struct Run {
    /// The first place that was not delivered; 0 while none can be told.
    pub(super) next: u64,
    /// The author's key, once it was needed.
    pub(super) key: Option<PublicKey>,
    /// Whether the author's signature was seen: else it is only known from what others say.
    pub(super) verified: bool,
    /// When something of it came last.
    pub(super) heard: Instant,
    /// Batches that came before what stands before them, with the names of what is in them.
    pub(super) pending: BTreeMap<u64, (Batch, Vec<Hash>)>,
    /// Since when something waits in `pending`.
    pub(super) gap_since: Option<Instant>,
    /// Links that get its broadcasts from others: they are told what there is, and not sent it.
    pub(super) lazy: BTreeSet<NodeId>,
    /// How far links are, as far as that is known.
    pub(super) has: BTreeMap<NodeId, u64>,
    /// Set while somebody has more of it than we.
    pub(super) missing: Option<Missing>,
}

/// What is done to get what is missing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    /// When to do the next thing.
    pub(super) due: Instant,
    /// Who was asked last, and what we had then.
    pub(super) asked: Option<(NodeId, u64)>,
    /// How often somebody was asked since anything came.
    pub(super) tries: usize,
}

impl Run {
    pub(super) fn new(next: u64, now: Instant) -> Self {
        Self {
            next,
            key: None,
            verified: false,
            heard: now,
            pending: BTreeMap::new(),
            gap_since: None,
            lazy: BTreeSet::new(),
            has: BTreeMap::new(),
            missing: None,
        }
    }

    /// The last place up to which nothing is missing.
    pub(super) fn upto(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Notes that a link is at least so far.
    pub(super) fn note(&mut self, link: NodeId, upto: u64) {
        let has = self.has.entry(link).or_default();
        *has = (*has).max(upto);
    }

    /// Whether somebody has more than we.
    pub(super) fn is_behind(&self) -> bool {
        self.has.values().any(|upto| *upto >= self.next.max(1))
    }

    /// Whom to ask for what is missing: of those who have it the next behind the one asked last.
    pub(super) fn candidate(&self) -> Option<NodeId> {
        let wanted = self.next.max(1);
        let able = || self.has.iter().filter(move |(_, upto)| **upto >= wanted).map(|(id, _)| *id);
        let last = self.missing.and_then(|missing| missing.asked).map(|(id, _)| id);
        able().find(|id| Some(*id) > last).or_else(|| able().next())
    }

    /// Whether a place was delivered, or waits to be.
    pub(super) fn holds(&self, batch: &Batch) -> bool {
        batch.last() < self.next
            || self.pending.get(&batch.first).is_some_and(|(held, _)| held.last() >= batch.last())
    }

    pub(super) fn forget(&mut self, link: NodeId) {
        self.lazy.remove(&link);
        self.has.remove(&link);
    }
}
