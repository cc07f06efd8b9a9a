//! Stray answers: answers from a peer to which the query was not sent. They are counted, and too many of them
//! are a fault of the peer.
//!
//! Honest peers send a few, because an answer can be under way when its query ends or its link is replaced.
//! So the ids of queries are remembered for a while after the queries were removed from the table, and
//! answers to them do not count. All other stray answers are counted with a token bucket for each link.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::bucket::Bucket;
use crate::frame::query::QueryId;
use crate::id::NodeId;
use crate::time::Instant;

/// Maximum number of stray answers in a burst that are tolerated from one link. 100: as many as a node with
/// 10,000 shares sends in answer to one search, so that a single mix-up does not end a link.
const TOLERATED: u32 = 100;

/// Time after which a link may send one more stray answer.
const FORGIVEN_EVERY: Duration = Duration::from_secs(1);

/// The count of stray answers by link, and the recent queries whose late answers do not count.
#[derive(Debug)]
pub(super) struct StrayAnswers {
    max: usize,
    count: u64,
    links: BTreeMap<NodeId, Bucket>,
    recent_queries: BTreeSet<QueryId>,
    order: VecDeque<(Instant, QueryId)>,
    /// The last queries that were evicted.
    evicted: BTreeSet<QueryId>,
    evicted_order: VecDeque<QueryId>,
}

impl StrayAnswers {
    /// Returns an empty count that remembers at most `max` recent queries.
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            count: 0,
            links: BTreeMap::new(),
            recent_queries: BTreeSet::new(),
            order: VecDeque::new(),
            evicted: BTreeSet::new(),
            evicted_order: VecDeque::new(),
        }
    }

    /// Returns the number of stray answers since the node started.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Counts a stray answer. Returns whether its link has sent too many.
    pub(super) fn add(&mut self, now: Instant, from: NodeId) -> bool {
        self.count += 1;
        let bucket = self.links.entry(from).or_default();
        !bucket.take(now, FORGIVEN_EVERY, FORGIVEN_EVERY * TOLERATED)
    }

    /// Forgets a link that has ended.
    pub(super) fn forget_link(&mut self, peer: NodeId) {
        self.links.remove(&peer);
    }

    /// Remembers a query until `until`, so that late answers to it do not count.
    pub(super) fn remember(&mut self, until: Instant, query: QueryId) {
        if self.recent_queries.insert(query) {
            self.order.push_back((until, query));
        }
        while self.order.len() > self.max {
            self.pop();
        }
    }

    /// Remembers a query that was evicted from the table before its time.
    pub(super) fn evict(&mut self, query: QueryId) {
        if self.evicted.insert(query) {
            self.evicted_order.push_back(query);
        }
        if self.evicted_order.len() > self.max
            && let Some(oldest) = self.evicted_order.pop_front()
        {
            self.evicted.remove(&oldest);
        }
    }

    /// Returns whether the query was evicted from the table.
    pub(super) fn was_evicted(&self, query: QueryId) -> bool {
        self.evicted.contains(&query)
    }

    /// Returns whether the query was in the table a short time ago.
    pub(super) fn remembers(&self, query: QueryId) -> bool {
        self.recent_queries.contains(&query) || self.was_evicted(query)
    }

    /// Forgets the queries whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, query)) = self.order.pop_front() {
            self.recent_queries.remove(&query);
        }
    }
}
