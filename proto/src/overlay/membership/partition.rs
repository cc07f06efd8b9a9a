//! Detection and repair of partitions: two parts of a network that have no link with each other.
//!
//! The member with the least identity floods a beacon through its part from time to time. Two nodes with
//! beacons of different nodes are in different parts. For the repair, members find such nodes with probes, and
//! make a link to the first that they find: see [`seek`](super::seek).

use std::time::Duration;

use crate::config::Config;
use crate::frame::membership::Beacon;
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::time::Instant;

/// Number of missing beacons after which the least node counts as gone.
const MISSED_BEACONS: u32 = 3;

/// The latest beacon of the node with the least identity.
#[derive(Debug)]
pub(super) struct PartitionCheck {
    me: NodeId,
    every: Duration,
    beacon: Beacon,
    /// Time at which the latest beacon was received or sent.
    received_at: Instant,
    /// Time since which the same node is the least.
    least_since: Instant,
}

impl PartitionCheck {
    pub(super) fn new(me: NodeId, config: &Config) -> Self {
        let beacon = Beacon { least: me, count: 0 };
        let (received_at, least_since) = (Instant::ZERO, Instant::ZERO);
        Self { me, every: config.beacon_every, beacon, received_at, least_since }
    }

    /// Forgets the beacons of other nodes, when this node becomes a member.
    pub(super) fn reset(&mut self, now: Instant) {
        // The count is not reset, as other nodes ignore a beacon whose count is not greater than that of the
        // last one.
        self.set(now, Beacon { least: self.me, count: self.beacon.count });
        self.least_since = now;
    }

    pub(super) fn beacon(&self) -> Beacon {
        self.beacon
    }

    /// Handles a beacon. Returns whether it is new, so that it has to be passed on.
    pub(super) fn receive(&mut self, now: Instant, beacon: Beacon) -> bool {
        let Beacon { least, count } = beacon;
        let same = least == self.beacon.least && count > self.beacon.count;
        // A beacon in this node's name is its own beacon that comes back, or a forged one.
        let is_new = least != self.me && (least < self.beacon.least || same);
        if is_new {
            self.set(now, beacon);
        }
        is_new
    }

    /// Makes a new beacon of this node, if this node is the least one known or the beacons of the least node
    /// have stopped. Returns whether it made one.
    pub(super) fn start_beacon(&mut self, now: Instant, unix: u64) -> bool {
        if self.beacon.least != self.me && now.since(self.received_at) < self.every * MISSED_BEACONS
        {
            return false;
        }
        // All nodes that miss the least node's beacons send beacons of their own. The one with the least
        // identity replaces the others as it spreads.
        let before = if self.beacon.least == self.me { self.beacon.count } else { 0 };
        // Taken from the wall clock, so that after a restart the count is greater than in earlier beacons.
        let count = unix.max(before.saturating_add(1));
        self.set(now, Beacon { least: self.me, count });
        true
    }

    /// Returns whether the beacon is recent enough to be sent to a new neighbour.
    pub(super) fn is_fresh(&self, now: Instant) -> bool {
        // Two beacons are at most five quarters of the interval apart (`OverlayContext::around`). The rest is
        // time for the beacon to spread.
        now.since(self.received_at) < self.every * 3 / 2
    }

    /// Returns whether a node with the beacon `theirs` is in another part of the network. Returns
    /// false for one and a half intervals after the least node has changed, as its beacon may still be
    /// spreading.
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
