//! Nodes that the application has disconnected, and that are kept away for a while.
//!
//! A member finds its own neighbours. Without this list it would link to a disconnected node again within
//! seconds, as the node is known and has room. So this node does not accept the other node as a neighbour and
//! refuses its connections, until [`KEEP_AWAY_TIME`] has passed or the application links to the node again.
//! The other node learns from the goodbye that it was disconnected on request, and does not ask this node for
//! a place during that time.
//!
//! Nodes that violated the protocol are kept away in the same way, and those that the user has banned until the
//! ban ends.
//!
//! Messages to such a node are still sent, because the application asks for each of them, and an on-demand
//! link closes by itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::event::Reason;
use crate::id::NodeId;
use crate::time::Instant;

mod faulty;
mod timed;

use faulty::FaultyNodes;
use timed::TimedSet;

/// Maximum number of bans. 4,096: far more than a user enters, and fewer than one MiB.
pub const MAX_BANS: usize = 4096;

/// Time for which a disconnected node is kept away. Ten minutes: long enough to have an effect, and short
/// enough that users need not remember to undo it.
pub const KEEP_AWAY_TIME: Duration = Duration::from_secs(600);

/// Maximum number of nodes that are kept away. If one more is added, the node whose time ends first is
/// removed.
const MAX_KEPT_AWAY: usize = 1024;

/// The nodes that are kept away, and until when.
#[derive(Debug)]
pub(super) struct KeptAwayNodes {
    disconnected: TimedSet<NodeId>,
    /// Number of times that a node was added or removed by the application so far. It changes if the list has
    /// to be stored anew.
    changes: u64,
    faulty: FaultyNodes,
    /// Banned nodes, and until when. `None` has no end.
    bans: BTreeMap<NodeId, Option<Instant>>,
}

impl Default for KeptAwayNodes {
    fn default() -> Self {
        Self {
            disconnected: TimedSet::new(MAX_KEPT_AWAY),
            changes: 0,
            faulty: FaultyNodes::default(),
            bans: BTreeMap::new(),
        }
    }
}

impl KeptAwayNodes {
    /// Remembers that a node has violated the protocol, or was reported. If it had dialled this node, its host
    /// is remembered too.
    pub(super) fn add_faulty(&mut self, now: Instant, id: NodeId, host: Option<IpAddr>) {
        self.faulty.add(now, id, host);
    }

    /// Returns whether a node of this host has violated the protocol a short time ago.
    pub(super) fn is_faulty_host(&self, now: Instant, host: IpAddr) -> bool {
        self.faulty.contains_host(now, host)
    }

    /// Bans a node for a time, or for ever. Does nothing if there are [`MAX_BANS`] already.
    pub(super) fn ban(&mut self, now: Instant, id: NodeId, time: Option<Duration>) {
        self.bans.retain(|_, until| until.is_none_or(|until| until > now));
        if self.bans.len() < MAX_BANS || self.bans.contains_key(&id) {
            self.bans.insert(id, time.map(|time| now + time));
        }
    }

    pub(super) fn unban(&mut self, id: NodeId) {
        self.bans.remove(&id);
    }

    pub(super) fn is_banned(&self, now: Instant, id: NodeId) -> bool {
        self.bans.get(&id).is_some_and(|until| until.is_none_or(|until| until > now))
    }

    /// Returns the reason why links with a node are refused, or `None` if they are not.
    pub(super) fn refusal(&self, now: Instant, id: NodeId) -> Option<Reason> {
        if self.is_banned(now, id) {
            Some(Reason::Banned)
        } else if self.faulty.contains(now, id) {
            Some(Reason::Discouraged)
        } else {
            self.disconnected.contains(now, id).then_some(Reason::KeptAway)
        }
    }

    /// Keeps a node away for [`KEEP_AWAY_TIME`].
    pub(super) fn add(&mut self, now: Instant, id: NodeId) {
        self.add_for(now, id, KEEP_AWAY_TIME);
    }

    /// Keeps a node away for the time `left`, at most for [`KEEP_AWAY_TIME`].
    pub(super) fn add_for(&mut self, now: Instant, id: NodeId, left: Duration) {
        self.changes += 1;
        self.disconnected.add(now, id, left.min(KEEP_AWAY_TIME));
    }

    /// Stops keeping a node away, unless it is banned.
    pub(super) fn remove(&mut self, id: NodeId) {
        self.faulty.remove(id);
        self.changes += u64::from(self.disconnected.remove(id));
    }

    /// Returns the nodes that are kept away, each with the time that is left.
    pub(super) fn remaining(&self, now: Instant) -> impl Iterator<Item = (NodeId, Duration)> {
        self.disconnected.remaining(now)
    }

    /// Returns how many times a node was added or removed so far. Nodes whose time has ended, or that made room
    /// for another one, do not count.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns whether a node is kept away, for any reason.
    pub(super) fn contains(&self, now: Instant, id: NodeId) -> bool {
        self.refusal(now, id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    #[test]
    fn a_node_is_kept_away_until_its_time_is_over_or_it_is_removed() {
        let mut away = KeptAwayNodes::default();
        away.add(at(5), id(1));
        away.add(at(5), id(2));
        assert!(away.contains(at(604), id(1)) && !away.contains(at(605), id(1)));
        away.remove(id(2));
        assert!(!away.contains(at(6), id(2)) && !away.contains(at(6), id(3)));
        assert_eq!(away.remaining(at(604)).collect::<Vec<_>>(), [(id(1), Duration::from_secs(1))]);
        assert_eq!(away.remaining(at(605)).count(), 0);
        let changes = away.changes();
        away.remove(id(3));
        assert_eq!(away.changes(), changes, "it was not kept away");
        away.add_for(at(700), id(3), Duration::from_secs(50));
        away.add_for(at(700), id(4), Duration::MAX);
        assert!(away.contains(at(749), id(3)) && !away.contains(at(750), id(3)));
        assert!(away.contains(at(1299), id(4)) && !away.contains(at(1300), id(4)));
        assert_eq!(away.changes(), changes + 2);
        away.add(at(500), id(1));
        assert!(away.contains(at(1000), id(1)));
    }

    #[test]
    fn the_reason_for_a_refusal_is_the_strongest_one() {
        let mut away = KeptAwayNodes::default();
        let refusal = |away: &KeptAwayNodes, second| away.refusal(at(second), id(1));
        away.add(at(0), id(1));
        assert_eq!(refusal(&away, 1), Some(Reason::KeptAway));
        away.add_faulty(at(0), id(1), None);
        assert_eq!(refusal(&away, 1), Some(Reason::Discouraged));
        away.ban(at(0), id(1), Some(Duration::from_secs(1000)));
        assert_eq!(refusal(&away, 999), Some(Reason::Banned));
        assert_eq!(refusal(&away, 1000), None, "everything has ended");
        // A user who links to a node no longer keeps it away, but has to end a ban.
        away.remove(id(1));
        assert_eq!(refusal(&away, 1), Some(Reason::Banned));
        away.unban(id(1));
        assert_eq!(refusal(&away, 1), None);
        away.ban(at(0), id(1), None);
        assert!(away.is_banned(at(1_000_000_000), id(1)) && !away.is_banned(at(1), id(2)));
    }

    #[test]
    fn the_number_of_bans_is_limited() {
        let mut away = KeptAwayNodes::default();
        for n in 0..5000 {
            away.ban(at(0), id(n), Some(Duration::from_secs(9)));
        }
        assert_eq!(away.bans.len(), MAX_BANS);
        away.ban(at(10), id(4999), None);
        assert_eq!(away.bans.len(), 1, "bans that have ended make room");
    }

    #[test]
    fn the_number_of_nodes_that_are_kept_away_is_limited() {
        let mut away = KeptAwayNodes::default();
        for n in 0..=1024 {
            away.add(at(u64::from(n) / 10), id(n));
        }
        assert_eq!(away.disconnected.len(), MAX_KEPT_AWAY);
        assert!(!away.contains(at(103), id(0)) && away.contains(at(103), id(1024)));
    }
}
