//! Clocks that are far apart: found when two nodes link, and when a broadcast is refused for its time.
//!
//! A broadcast is refused if its author's clock is [`Config::clock_skew`] ahead of the receiver's, or
//! too far behind it. Neither end would notice: the author sees that its links took the broadcast, and
//! the receiver's user sees nothing. So nodes tell each other the time in Hello. If their clocks are
//! more than half of the tolerance apart, both report it, before anything is lost.
//!
//! A clock may also be set while a link is up. A node that refuses a broadcast for its time therefore
//! tells the peer that it came from its own time once more.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Config;
use crate::event::{Event, Peer};
use crate::frame::Frame;
use crate::id::NodeId;
use crate::overlay::{Output, Turn};
use crate::time::Instant;

/// How often a link is told the time at most. A minute: a clock that is wrong stays so for longer.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What is known of the clocks at the other ends of the links.
#[derive(Debug)]
pub(super) struct Clocks {
    /// Two clocks that are this far apart, in milliseconds, are reported.
    reported_from: u64,
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
        let skew = i64::try_from(i128::from(unix) - i128::from(turn.unix));
        let skew = skew.unwrap_or(if unix > turn.unix { i64::MAX } else { i64::MIN });
        if skew.unsigned_abs() < self.reported_from {
            self.apart.remove(&peer.id());
            return;
        }
        let before = self.apart.insert(peer.id(), skew);
        if before.is_none_or(|before| before.abs_diff(skew) >= self.reported_from) {
            let event = Event::NodeClockSkew { peer: peer.clone(), seconds: skew / 1000 };
            turn.out.push_back(Output::Event(event));
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
        self.apart.remove(&id);
        self.told.remove(&id);
    }
}
