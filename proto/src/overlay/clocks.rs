//! Detection of clocks that are far apart: when two nodes link, and when a broadcast is refused for its time.
//!
//! A node refuses a broadcast if the author's clock is more than [`Config::clock_skew`] ahead of its own, or
//! too far behind. Neither user would notice: for the author the broadcast was sent over its links, and the
//! receiver shows nothing. So nodes exchange the time in Hello. If their clocks differ by half of the
//! tolerance or more, both report it before a broadcast is lost.
//!
//! A clock may also be set while a link is up. If this node's own clock is set, it is compared with those of
//! all peers again. If a peer's clock is set, that peer refuses broadcasts for their time, and then sends its
//! time to the node that it received them from.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::event::{Event, Peer};
use crate::frame::Frame;
use crate::id::NodeId;
use crate::overlay::OverlayContext;
use crate::time::Instant;

/// Minimum interval between two frames that send a peer the time. One minute: a wrong clock usually stays
/// wrong for longer.
const SEND_EVERY: Duration = Duration::from_secs(60);

/// The known clocks of peers.
#[derive(Debug)]
pub(super) struct Clocks {
    /// Difference of two clocks from which on it is reported, in milliseconds.
    reported_from: u64,
    /// Reading of each peer's wall clock at the moment when this node's monotonic clock was at zero, in
    /// milliseconds since 1970.
    peers: BTreeMap<NodeId, i64>,
    /// Peers whose clocks were reported, with how far each is ahead of this node's, in milliseconds.
    apart: BTreeMap<NodeId, i64>,
    /// Time of the last frame that sent each peer the time.
    sent_at: BTreeMap<NodeId, Instant>,
}

/// Comparison of this node's clock with those of its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockStatus {
    /// Number of peers whose clock is far from this node's.
    pub apart: usize,
    /// The largest difference between such a clock and this node's, in milliseconds. Positive if the peer's
    /// clock is ahead.
    pub farthest: i64,
}

impl Clocks {
    pub(super) fn new(config: &Config) -> Self {
        let tolerated = u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX);
        Self {
            // At least a second, as a Hello may take most of a second to arrive.
            reported_from: (tolerated / 2).max(1000),
            peers: BTreeMap::new(),
            apart: BTreeMap::new(),
            sent_at: BTreeMap::new(),
        }
    }

    pub(super) fn status(&self) -> ClockStatus {
        let farthest = self.apart.values().copied().max_by_key(|skew| skew.unsigned_abs());
        ClockStatus { apart: self.apart.len(), farthest: farthest.unwrap_or_default() }
    }

    /// Compares this node's clock with the clock of a peer, which shows `unix`. Reports a large difference
    /// once, and again only after it has changed by as much.
    pub(super) fn compare(&mut self, cx: &mut OverlayContext<'_>, peer: &Peer, unix: u64) {
        // Stored as what the peer's clock showed when this node's monotonic clock was at zero. That stays
        // right while both clocks run, so `own_clock_set` can compare again without a new frame.
        self.peers.insert(peer.id(), signed(unix).saturating_sub(since_origin(cx.now)));
        self.report_if_apart(cx, peer);
    }

    /// Compares this node's clock with those of all peers, after it was set.
    pub(super) fn own_clock_set(&mut self, cx: &mut OverlayContext<'_>) {
        for peer in cx.links.values() {
            self.report_if_apart(cx, peer);
        }
    }

    /// Returns whether a clock that shows `unix` but should show `expected` was set by an amount that
    /// matters.
    pub(super) fn is_jump(&self, expected: u64, unix: u64) -> bool {
        expected.abs_diff(unix) >= self.reported_from / 2
    }

    fn report_if_apart(&mut self, cx: &mut OverlayContext<'_>, peer: &Peer) {
        let Some(origin) = self.peers.get(&peer.id()) else { return };
        let theirs = origin.saturating_add(since_origin(cx.now));
        let skew = theirs.saturating_sub(signed(cx.unix));
        if skew.unsigned_abs() < self.reported_from {
            self.apart.remove(&peer.id());
            return;
        }
        let before = self.apart.insert(peer.id(), skew);
        if before.is_none_or(|before| before.abs_diff(skew) >= self.reported_from) {
            let event = Event::NodeClockSkew { peer: peer.clone(), seconds: skew / 1000 };
            cx.event(event);
        }
    }

    /// Sends this node's time to a peer after a broadcast from it was refused for its time, at most once
    /// every [`SEND_EVERY`].
    pub(super) fn broadcast_refused(&mut self, cx: &mut OverlayContext<'_>, from: NodeId) {
        let is_due = self.sent_at.get(&from).is_none_or(|at| cx.now.since(*at) >= SEND_EVERY);
        if is_due && cx.links.contains_key(&from) {
            self.sent_at.insert(from, cx.now);
            cx.send(from, Frame::Clock(cx.unix));
        }
    }

    pub(super) fn link_down(&mut self, id: NodeId) {
        self.peers.remove(&id);
        self.apart.remove(&id);
        self.sent_at.remove(&id);
    }
}

fn signed(unix: u64) -> i64 {
    i64::try_from(unix).unwrap_or(i64::MAX)
}

fn since_origin(now: Instant) -> i64 {
    i64::try_from(now.since_origin().as_millis()).unwrap_or(i64::MAX)
}
