//! Partition repair: how parts of a network that lost each other are noticed, and meet again.
//!
//! The member with the least identity floods a beacon from time to time. Two nodes that know different
//! least identities are in different parts. Members look for such nodes with probes, and join the other part
//! through the first that they find: see `seek.rs`.

use std::time::Duration;

use crate::config::Config;
use crate::frame::membership::Beacon;
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::time::Instant;

/// Beacons that may be missing before the least node counts as gone.
const MISSED_BEACONS: u32 = 3;

/// The least identity that this node has a beacon of.
#[derive(Debug)]
pub(super) struct PartitionCheck {
    me: NodeId,
    every: Duration,
    beacon: Beacon,
    received_at: Instant,
    /// Time since which it is the same node.
    least_since: Instant,
}

impl PartitionCheck {
    pub(super) fn new(me: NodeId, config: &Config) -> Self {
        let beacon = Beacon { least: me, count: 0 };
        let (received_at, least_since) = (Instant::ZERO, Instant::ZERO);
        Self { me, every: config.beacon_every, beacon, received_at, least_since }
    }

    /// Starts again with this node as the only one.
    pub(super) fn reset(&mut self, now: Instant) {
        // The count goes on, as others ignore a beacon that does not exceed the last one.
        self.set(now, Beacon { least: self.me, count: self.beacon.count });
        self.least_since = now;
    }

    pub(super) fn beacon(&self) -> Beacon {
        self.beacon
    }

    /// Takes a beacon. Returns whether it is news, which is to be passed on.
    pub(super) fn receive(&mut self, now: Instant, beacon: Beacon) -> bool {
        let Beacon { least, count } = beacon;
        let same = least == self.beacon.least && count > self.beacon.count;
        // A beacon in this node's name is one of its own that comes back, or forged.
        let news = least != self.me && (least < self.beacon.least || same);
        if news {
            self.set(now, beacon);
        }
        news
    }

    /// Starts a new beacon of this node if it is the least node known, or if the beacons of the least node
    /// have stopped. Returns whether it did.
    pub(super) fn start_beacon(&mut self, now: Instant, unix: u64) -> bool {
        if self.beacon.least != self.me && now.since(self.received_at) < self.every * MISSED_BEACONS
        {
            return false;
        }
        // All nodes that miss the least node's beacons start one. The least of these replaces the
        // others as it spreads.
        let before = if self.beacon.least == self.me { self.beacon.count } else { 0 };
        // Taken from the wall clock, so that a restarted node counts on from above its earlier beacons.
        let count = unix.max(before.saturating_add(1));
        self.set(now, Beacon { least: self.me, count });
        true
    }

    /// Returns whether the beacon is recent enough for a new neighbour.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        // Beacons are at most five quarters of the interval apart (`OverlayContext::around`). The rest is for
        // their way.
        now.since(self.received_at) < self.every * 3 / 2
    }

    /// Returns whether a node with the beacon `theirs` is in another part of the network. A least node
    /// that has changed a moment ago proves nothing: its beacon is still spreading.
    pub(super) fn is_partitioned(&self, cx: &OverlayContext<'_>, theirs: Beacon) -> bool {
        theirs.least != self.beacon.least && cx.now.since(self.least_since) > self.every * 3 / 2
    }

    fn set(&mut self, now: Instant, beacon: Beacon) {
        if beacon.least != self.beacon.least {
            self.least_since = now;
        }
        self.beacon = beacon;
        self.received_at = now;
    }
}
