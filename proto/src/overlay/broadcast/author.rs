//! This node's own broadcasts, until they are signed.
//!
//! The first goes out at once. Those that come soon after gather for a few milliseconds and go out
//! under one signature, as every node on the way has to check each.

use std::time::Duration;

use crate::config::Config;
use crate::frame::broadcast::{Item, MAX_BATCH};
use crate::time::Instant;

/// Bytes of an item beside title and content.
const ITEM_OVERHEAD: usize = 15;

/// What this node has said, and is about to say.
#[derive(Debug)]
pub(super) struct Author {
    delay: Duration,
    max_bytes: usize,
    /// Broadcasts made by now, those that wait among them.
    count: u64,
    waiting: Vec<Item>,
    bytes: usize,
    /// From when on broadcasts go out at once again.
    open: Instant,
}

impl Author {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            delay: config.batch_delay,
            max_bytes: config.max_broadcast,
            count: 0,
            waiting: Vec::new(),
            bytes: 0,
            open: Instant::ZERO,
        }
    }

    /// Whether `item` has to wait until what waits has gone out, as the two don't fit together.
    pub(super) fn is_full_for(&self, item: &Item) -> bool {
        !self.waiting.is_empty()
            && (self.bytes + size(item) > self.max_bytes || self.waiting.len() >= MAX_BATCH)
    }

    /// The place that the next broadcast has.
    pub(super) fn next(&self) -> u64 {
        self.count + 1
    }

    /// Lets a broadcast wait.
    pub(super) fn push(&mut self, item: Item) {
        self.count += 1;
        self.bytes += size(&item);
        self.waiting.push(item);
    }

    /// When what waits is due.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.open)
    }

    /// Takes what waits, with the place of the first. None where nothing does.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, Vec<Item>)> {
        if self.waiting.is_empty() {
            return None;
        }
        self.open = now + self.delay;
        self.bytes = 0;
        let items = std::mem::take(&mut self.waiting);
        Some((self.count + 1 - items.len() as u64, items))
    }
}

fn size(item: &Item) -> usize {
    ITEM_OVERHEAD + item.title.len() + item.content.payload.len()
}
