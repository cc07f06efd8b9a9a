//! Whether a member hangs together with others: the node with the least identity gives a sign of
//! life now and then, and everyone passes it on. Who hears of another least one is not connected.

use std::time::Duration;

use crate::config::Config;
use crate::frame::membership::Beacon;
use crate::id::NodeId;
use crate::overlay::Turn;
use crate::time::Instant;

/// Signs of life that may be missing before the least node is taken to be gone.
const PATIENCE: u32 = 3;

/// The least node that is heard of.
#[derive(Debug)]
pub(super) struct Horizon {
    me: NodeId,
    every: Duration,
    heard: Beacon,
    at: Instant,
    /// Since when it is the same node.
    since: Instant,
}

impl Horizon {
    pub(super) fn new(me: NodeId, config: &Config) -> Self {
        let heard = Beacon { least: me, count: 0 };
        let (at, since) = (Instant::ZERO, Instant::ZERO);
        Self { me, every: config.beacon_every, heard, at, since }
    }

    /// Begins anew, alone.
    pub(super) fn reset(&mut self, now: Instant) {
        self.set(now, Beacon { least: self.me, count: self.heard.count });
        self.since = now;
    }

    pub(super) fn heard(&self) -> Beacon {
        self.heard
    }

    /// Takes a beacon in; true where it is news, to be passed on.
    pub(super) fn receive(&mut self, now: Instant, beacon: Beacon) -> bool {
        let Beacon { least, count } = beacon;
        let same = least == self.heard.least && count > self.heard.count;
        let news = least != self.me && (least < self.heard.least || same);
        if news {
            self.set(now, beacon);
        }
        news
    }

    /// Our own beacon, where we are the least that is heard of.
    pub(super) fn beat(&mut self, now: Instant, unix: u64) -> Option<Beacon> {
        if self.heard.least != self.me && now.since(self.at) < self.every * PATIENCE {
            return None;
        }
        let before = if self.heard.least == self.me { self.heard.count } else { 0 };
        // The wall clock, so that a node that was restarted is above what it has said before.
        let count = unix.max(before.saturating_add(1));
        self.set(now, Beacon { least: self.me, count });
        Some(self.heard)
    }

    /// Whether what is heard is fresh enough to be told to a new neighbour.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        now.since(self.at) < self.every * 3 / 2
    }

    /// Whether a node that hears `theirs` does not hang together with us. What changes just now
    /// says nothing.
    pub(super) fn is_apart(&self, turn: &Turn<'_>, theirs: Beacon) -> bool {
        theirs.least != self.heard.least && turn.now.since(self.since) > self.every * 3 / 2
    }

    fn set(&mut self, now: Instant, beacon: Beacon) {
        if beacon.least != self.heard.least {
            self.since = now;
        }
        (self.heard, self.at) = (beacon, now);
    }
}
