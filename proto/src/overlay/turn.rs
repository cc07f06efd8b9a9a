//! What the parts of the overlay act with: the time, chance, the links, and where outputs go.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::event::Peer;
use crate::frame::Frame;
use crate::id::NodeId;
use crate::overlay::Output;
use crate::time::Instant;

/// What a part of the overlay acts with.
pub(crate) struct Turn<'a> {
    pub(crate) now: Instant,
    /// The wall clock, in milliseconds since 1970.
    pub(crate) unix: u64,
    /// The links that there are.
    pub(crate) links: &'a BTreeMap<NodeId, Peer>,
    pub(crate) rng: &'a mut ChaCha8Rng,
    pub(crate) out: &'a mut VecDeque<Output>,
}

impl Turn<'_> {
    /// Puts a frame into a link's first lane.
    pub(crate) fn send(&mut self, to: NodeId, frame: Frame) {
        self.out.push_back(Output::Send(to, frame));
    }

    /// Any number.
    pub(crate) fn rng_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A number below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.rng.next_u64() % bound).unwrap_or_default()
    }

    /// One of them, drawn by chance.
    pub(crate) fn pick<T>(&mut self, mut from: Vec<T>) -> Option<T> {
        (!from.is_empty()).then(|| from.swap_remove(self.below(from.len())))
    }

    /// About `interval`: between three and five quarters of it, so that nodes don't act in step.
    pub(crate) fn around(&mut self, interval: Duration) -> Duration {
        let share = u32::try_from(self.below(501)).unwrap_or_default();
        interval * (750 + share) / 1000
    }
}

/// The wall clock as it was set last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) at: Instant,
    pub(super) unix: u64,
}

impl Clock {
    pub(super) fn unix(self, now: Instant) -> u64 {
        let since = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.unix.saturating_add(since)
    }
}
