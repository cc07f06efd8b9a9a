//! This node's own broadcasts, from the call of the application until they are signed.
//!
//! The first broadcast is sent immediately. Those that follow within a few milliseconds are collected and
//! sent under one signature, because every node that receives them has to check each signature.

use std::time::Duration;

use crate::config::Config;
use crate::frame::broadcast::{Item, MAX_BATCH};
use crate::time::Instant;

/// Size of an item without its title and content, in bytes: 8 for the time, 2 and 4 for the lengths of title
/// and content, and 1 for the kind of the content.
const ITEM_OVERHEAD: usize = 15;

/// The broadcasts of this node that are not sent yet.
#[derive(Debug)]
pub(super) struct UnsentBroadcasts {
    delay: Duration,
    max_bytes: usize,
    /// Number of broadcasts in this run of the node, including those that wait.
    count: u64,
    waiting: Vec<Item>,
    bytes: usize,
    /// Time from which on a new broadcast is sent immediately. A broadcast that is made before then waits.
    send_at: Instant,
}

impl UnsentBroadcasts {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            delay: config.batch_delay,
            max_bytes: config.max_broadcast,
            count: 0,
            waiting: Vec::new(),
            bytes: 0,
            send_at: Instant::ZERO,
        }
    }

    /// Returns whether `item` does not fit into one batch with the waiting broadcasts, which then have to be
    /// sent first.
    pub(super) fn is_full_for(&self, item: &Item) -> bool {
        !self.waiting.is_empty()
            && (self.bytes + size(item) > self.max_bytes || self.waiting.len() >= MAX_BATCH)
    }

    /// Returns the number of the next broadcast.
    pub(super) fn next(&self) -> u64 {
        self.count + 1
    }

    /// Adds a broadcast to those that wait.
    pub(super) fn push(&mut self, item: Item) {
        self.count += 1;
        self.bytes += size(&item);
        self.waiting.push(item);
    }

    /// Returns when the waiting broadcasts have to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.send_at)
    }

    /// Takes the waiting broadcasts and the number of the first, or returns `None` if there are none.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, Vec<Item>)> {
        if self.waiting.is_empty() {
            return None;
        }
        self.send_at = now + self.delay;
        self.bytes = 0;
        let items = std::mem::take(&mut self.waiting);
        Some((self.count + 1 - items.len() as u64, items))
    }
}

fn size(item: &Item) -> usize {
    ITEM_OVERHEAD + item.title.len() + item.content.payload.len()
}
