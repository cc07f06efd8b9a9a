//! Clocks that are far apart: found when two nodes link, and when a broadcast is refused for its time.
//!
//! A broadcast is refused if its author's clock is [`Config::clock_skew`] ahead of the receiver's, or
//! too far behind it. Neither end would notice: the author sees that its links took the broadcast, and
//! the receiver's user sees nothing. So nodes tell each other the time in Hello. If their clocks are
//! more than half of the tolerance apart, both report it, before anything is lost.
//!
//! A clock may also be set while a link is up. If it is this node's own, all links are compared again.
//! If it is another's, a node that refuses a broadcast for its time tells the peer that it came from
//! its own time once more.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::event::{Event, Peer};
use crate::frame::Frame;
use crate::id::NodeId;
use crate::overlay::Turn;
use crate::time::Instant;

/// Shortest interval at which a link is sent the time. A minute: a clock that is wrong stays so for
/// longer.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Clocks at the other ends of the links, as far as they are known.
#[derive(Debug)]
pub(super) struct Clocks {
    /// Two clocks that are this far apart, in milliseconds, are reported.
    reported_from: u64,
    /// The time on each peer's clock when this node's time began, as far as it has said.
    peers: BTreeMap<NodeId, i64>,
    /// The links that were reported, and how far the peer's clock is ahead, in milliseconds.
    apart: BTreeMap<NodeId, i64>,
    /// When a link was last told the time.
    told: BTreeMap<NodeId, Instant>,
}

/// How this node's clock compares to those of the nodes that it is linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// Links whose other end has a clock far from this node's.
    pub apart: usize,
    /// Of those, the one that is the farthest from this node's, in milliseconds; positive if it is
    /// ahead.
    pub farthest: i64,
}

impl Clocks {
    pub(super) fn new(config: &Config) -> Self {
        let tolerated = u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX);
        Self {
            // At least a second, as a Hello may be under way for a part of one.
            reported_from: (tolerated / 2).max(1000),
            peers: BTreeMap::new(),
            apart: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    pub(super) fn status(&self) -> ClockStatus {
        let farthest = self.apart.values().copied().max_by_key(|skew| skew.unsigned_abs());
        ClockStatus { apart: self.apart.len(), farthest: farthest.unwrap_or_default() }
    }

    /// A peer says that its clock shows `unix`. Reports it if the clocks are far apart, and again only
    /// if it is by another amount.
    pub(super) fn compare(&mut self, turn: &mut Turn<'_>, peer: &Peer, unix: u64) {
        self.peers.insert(peer.id(), signed(unix).saturating_sub(since_origin(turn.now)));
        self.judge(turn, peer);
    }

    /// This node's clock was set: compares it to all peers' again.
    pub(super) fn was_set(&mut self, turn: &mut Turn<'_>) {
        for peer in turn.links.values() {
            self.judge(turn, peer);
        }
    }

    /// Returns whether a clock that shows `unix` and was to show `expected` was set by an amount
    /// that counts.
    pub(super) fn is_jump(&self, expected: u64, unix: u64) -> bool {
        expected.abs_diff(unix) >= self.reported_from / 2
    }

    fn judge(&mut self, turn: &mut Turn<'_>, peer: &Peer) {
        let Some(origin) = self.peers.get(&peer.id()) else { return };
        let theirs = origin.saturating_add(since_origin(turn.now));
        let skew = theirs.saturating_sub(signed(turn.unix));
        if skew.unsigned_abs() < self.reported_from {
            self.apart.remove(&peer.id());
            return;
        }
        let before = self.apart.insert(peer.id(), skew);
        if before.is_none_or(|before| before.abs_diff(skew) >= self.reported_from) {
            let event = Event::NodeClockSkew { peer: peer.clone(), seconds: skew / 1000 };
            turn.event(event);
        }
    }

    /// A broadcast that came by the link with `from` was refused for its time.
    pub(super) fn refused(&mut self, turn: &mut Turn<'_>, from: NodeId) {
        let is_due = self.told.get(&from).is_none_or(|at| turn.now.since(*at) >= TELL_EVERY);
        if is_due && turn.links.contains_key(&from) {
            self.told.insert(from, turn.now);
            turn.send(from, Frame::Clock(turn.unix));
        }
    }

    pub(super) fn link_down(&mut self, id: NodeId) {
        self.peers.remove(&id);
        self.apart.remove(&id);
        self.told.remove(&id);
    }
}

fn signed(unix: u64) -> i64 {
    i64::try_from(unix).unwrap_or(i64::MAX)
}

fn since_origin(now: Instant) -> i64 {
    i64::try_from(now.since_origin().as_millis()).unwrap_or(i64::MAX)
}
