//! The places of a node's neighbours: who takes one, who has to leave one, and what becomes of the
//! link.

use crate::event::{Direction, Reason};
use crate::frame::Frame;
use crate::frame::membership::Disconnect;
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::{Effect, Turn};
use crate::time::Instant;

use super::{Membership, SPLIT_MIN};

impl Membership {
    /// Takes a node among the neighbours.
    pub(super) fn welcome(&mut self, turn: &mut Turn<'_>, id: NodeId, record: NodeRecord) {
        self.passive.remove(id);
        if self.active.insert(id, record).is_none() && self.horizon.is_fresh(turn.now) {
            turn.send(id, Frame::Beacon(self.horizon.heard()));
        }
        if self.active.len() < self.max_active {
            self.seek_later(turn);
        } else {
            self.split_wait = SPLIT_MIN;
        }
    }

    /// Has one of the neighbours go, for the one that comes.
    pub(super) fn make_room(&mut self, turn: &mut Turn<'_>, for_whom: &NodeRecord) {
        let others = self.active.keys().filter(|id| **id != for_whom.node);
        let Some(id) = turn.pick(others.copied().collect()) else { return };
        if let Some(record) = self.active.remove(&id) {
            let dialable = !for_whom.addresses.is_empty();
            self.part_from(turn, id, dialable.then(|| for_whom.clone()).into_iter().collect());
            self.passive.reached(turn, record);
            self.passive.refused(turn.now, id);
        }
    }

    pub(super) fn part_from(&mut self, turn: &mut Turn<'_>, id: NodeId, instead: Vec<NodeRecord>) {
        turn.send(id, Frame::Disconnect(Disconnect { instead, leaves: false }));
        self.close(turn, id, Reason::Traded);
    }

    /// Ends a link that we have made and that nobody wants otherwise. The side that was dialled
    /// leaves it to the other, which may have its reasons.
    pub(super) fn close(&self, turn: &mut Turn<'_>, id: NodeId, reason: Reason) {
        if is_ours(turn, id) && !self.pinned.contains(&id) {
            turn.put(Effect::HangUp(id, reason));
        }
    }

    /// Whether there is a place beside those that are kept.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        self.kept.retain(|_, until| *until > now);
        self.active.len() + self.kept.len() < self.max_active
    }
}

/// Whether there is a link that we have dialled.
pub(super) fn is_ours(turn: &Turn<'_>, id: NodeId) -> bool {
    turn.links.get(&id).is_some_and(|peer| peer.direction() == Direction::Outbound)
}
