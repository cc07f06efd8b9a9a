//! Detection and repair of partitions: two parts of a network that have no link with each other.
//!
//! The member with the least identity floods a beacon through its part from time to time. Two nodes with
//! beacons of different nodes are in different parts. For the repair, members find such nodes with probes, and
//! make a link to the first that they find: see [`seek`](super::seek).
//!
//! Any stranger can have the least identity, as identities are free. So the least node has no power, and what
//! it can cause is bounded:
//! - A beacon is signed, so no node can speak for another. A beacon counts once: the greatest count of each
//!   recent least node is remembered.
//! - Each neighbour has a budget of beacons. So a flood of them, by one identity or by many, is passed on at a
//!   bounded rate.
//! - If the least node becomes silent, the next one takes its place.
//! - The beacon in a probe is only a claim. It causes at most one link, and the number of such links is bounded.

use std::collections::VecDeque;
use std::time::Duration;

use crate::bucket::Bucket;
use crate::config::Config;
use crate::frame::membership::{Beacon, SignedBeacon};
use crate::id::{Key, NodeId};
use crate::overlay::budgets::Work;
use crate::overlay::{NodeSetup, OverlayContext};
use crate::time::Instant;
use crate::verify::Verifier;

/// Number of missing beacons after which the least node counts as gone.
const MISSED_BEACONS: u32 = 3;

/// Maximum number of earlier least nodes whose counts are remembered. 64: a flood of beacons of new identities
/// takes two minutes to fill it.
const MAX_COUNTS: usize = 64;

/// Maximum number of links for repair in a burst, and the time after which one more is allowed. One such link
/// joins two parts, but it may lead to a node that crashes or lies.
const REPAIR_BURST: u32 = 8;
const REPAIR_INTERVAL: Duration = Duration::from_secs(30);

/// The latest beacon of the node with the least identity.
#[derive(Debug)]
pub(super) struct PartitionCheck {
    key: Key,
    me: NodeId,
    network: String,
    every: Duration,
    beacon: SignedBeacon,
    /// Time at which the latest beacon was received or sent.
    received_at: Instant,
    /// Time since which the same node is the least.
    least_since: Instant,
    /// The last beacons of nodes that were the least before, in the order in which others replaced them.
    earlier: VecDeque<Beacon>,
    repairs: Bucket,
}

/// The outcome of a received beacon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The beacon is new, and has to be passed on.
    New,
    /// The beacon is known, of a node that is not the least, or was dropped because of the budget.
    NotNew,
    /// The signature is wrong.
    Forged,
}

impl PartitionCheck {
    pub(super) fn new(setup: &NodeSetup, config: &Config) -> Self {
        let (key, network) = (setup.key.clone(), setup.network.clone());
        Self {
            me: key.id(),
            every: config.beacon_every,
            beacon: SignedBeacon::sign(&key, &network, 0),
            received_at: Instant::ZERO,
            least_since: Instant::ZERO,
            earlier: VecDeque::new(),
            repairs: Bucket::default(),
            key,
            network,
        }
    }

    /// Forgets the beacons of other nodes, when this node becomes a member.
    pub(super) fn reset(&mut self, now: Instant) {
        // The count is not reset, as other nodes ignore a beacon whose count is not greater than that of the
        // last one.
        let count = self.beacon().count;
        self.set(now, SignedBeacon::sign(&self.key, &self.network, count));
        self.least_since = now;
    }

    pub(super) fn beacon(&self) -> Beacon {
        self.beacon.beacon
    }

    pub(super) fn signed_beacon(&self) -> SignedBeacon {
        self.beacon
    }

    /// Handles a beacon from a neighbour.
    pub(super) fn receive(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        signed: SignedBeacon,
        verifier: &Verifier,
    ) -> Received {
        let beacon = signed.beacon;
        if !self.is_new(beacon) {
            return Received::NotNew;
        }
        // Charged before the signature is checked, as that is the costly part.
        if !cx.allows(from, Work::Beacon, 1) {
            return Received::NotNew;
        }
        if !verifier.verify(beacon.least, &beacon.signed(&self.network), &signed.signature) {
            return Received::Forged;
        }
        self.set(cx.now, signed);
        Received::New
    }

    /// Makes a new beacon of this node, if this node is the least one known or the beacons of the least node
    /// have stopped. Returns whether it made one.
    pub(super) fn start_beacon(&mut self, now: Instant, unix: u64) -> bool {
        let Beacon { least, count } = self.beacon();
        if least != self.me && now.since(self.received_at) < self.every * MISSED_BEACONS {
            return false;
        }
        // All nodes that miss the least node's beacons send beacons of their own. The one with the least
        // identity replaces the others as it spreads.
        let before = if least == self.me { count } else { 0 };
        // Taken from the wall clock, so that after a restart the count is greater than in earlier beacons.
        let count = unix.max(before.saturating_add(1));
        self.set(now, SignedBeacon::sign(&self.key, &self.network, count));
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
        theirs.least != self.beacon().least && cx.now.since(self.least_since) > self.every * 3 / 2
    }

    /// Returns whether a link for repair may be made now, and counts it.
    pub(super) fn may_repair(&mut self, now: Instant) -> bool {
        self.repairs.take(now, REPAIR_INTERVAL, REPAIR_INTERVAL * REPAIR_BURST)
    }

    /// Returns whether a beacon is of a lesser node than the last one, or a later one of the same node.
    fn is_new(&self, beacon: Beacon) -> bool {
        let Beacon { least, count } = self.beacon();
        // A beacon in this node's name is its own beacon that comes back, or a forged one.
        if beacon.least == self.me || beacon.least > least {
            return false;
        }
        let same = beacon.least == least;
        let last = self.earlier.iter().find(|earlier| earlier.least == beacon.least);
        let last = if same { Some(count) } else { last.map(|earlier| earlier.count) };
        last.is_none_or(|last| beacon.count > last)
    }

    fn set(&mut self, now: Instant, signed: SignedBeacon) {
        let before = self.beacon();
        if signed.beacon.least != before.least {
            self.least_since = now;
            self.earlier.retain(|earlier| earlier.least != signed.beacon.least);
            if before.least != self.me {
                while self.earlier.len() >= MAX_COUNTS {
                    self.earlier.pop_front();
                }
                self.earlier.push_back(before);
            }
        }
        self.beacon = signed;
        self.received_at = now;
    }
}
