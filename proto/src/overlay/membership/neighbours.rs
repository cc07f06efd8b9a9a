//! The neighbours: how nodes ask for a place, get one, and lose one.

use crate::event::{Direction, Reason};
use crate::frame::Frame;
use crate::frame::membership::{
    Disconnect, ForwardJoin, Need, NeighbourReply, NeighbourRequest, Outcome,
};
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::{Effect, Turn};
use crate::time::Instant;

use super::{
    JOIN_STEPS, MAX_SUGGESTED, Membership, PASSIVE_STEPS, PlaceRequest, SHUFFLE_PASSIVE, SPLICE_MIN,
};

impl Membership {
    /// Answers a node that asks for a place.
    pub(super) fn receive_request(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        request: NeighbourRequest,
    ) {
        let NeighbourRequest { need, record } = request;
        if !self.is_own(turn, from, &record) {
            return;
        }
        if !self.open {
            self.reply(turn, from, Outcome::Manual, Vec::new());
            return;
        }
        // The first node of a network joins through no other: the first request makes it a member.
        self.start(turn);
        if turn.away.is_kept(turn.now, from) {
            // The link with it is for a message only.
            self.reply(turn, from, Outcome::Full, Vec::new());
            return;
        }
        // It had disconnected this node, and wants the link again.
        self.avoided.lift(from);
        // Removed before `has_room` counts, so that the place that it has reserved is not held against
        // it.
        let kept = self.reserved.remove(&from).is_some_and(|until| until > turn.now);
        let known = self.active.contains_key(&from);
        if !known && need == Need::Low && !kept && !self.has_room(turn.now) {
            let records = self.passive.sample(turn, SHUFFLE_PASSIVE);
            self.reply(turn, from, Outcome::Full, records);
            return;
        }
        if !known && self.active.len() >= self.max_active {
            self.make_room(turn, &record);
        }
        // Drawn before the node is a neighbour, so that it is not named to itself.
        let records = self.sample(turn, from);
        self.reply(turn, from, Outcome::Accepted, records);
        // The node at the end of a walk dials the new node, which takes an address.
        if need == Need::Join && !known && !record.addresses.is_empty() {
            for other in self.active.keys() {
                let join = ForwardJoin { steps: JOIN_STEPS, record: record.clone() };
                turn.send(*other, Frame::ForwardJoin(join));
            }
        }
        self.add_neighbour(turn, from, record);
    }

    /// Takes the answer of a node that was asked for a place.
    pub(super) fn receive_reply(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        reply: NeighbourReply,
    ) {
        let Some(PlaceRequest { need, makes_room, .. }) = self.asked.remove(&from) else { return };
        let NeighbourReply { outcome, record, records } = reply;
        if !self.is_own(turn, from, &record) {
            return;
        }
        match outcome {
            Outcome::Accepted => {
                let known = self.active.contains_key(&from);
                if !known && self.active.len() >= self.max_active {
                    // The last place was taken while this request was under way.
                    if !makes_room {
                        self.drop_neighbour(turn, from, Vec::new());
                        self.passive.add_reached(turn, record);
                        return;
                    }
                    self.make_room(turn, &record);
                }
                self.add_neighbour(turn, from, record);
                if need == Need::Join {
                    turn.put(Effect::Joined(from));
                }
            }
            Outcome::Full | Outcome::Manual => {
                if outcome == Outcome::Full {
                    self.passive.add_reached(turn, record);
                    self.passive.refused(turn.now, from);
                } else {
                    self.passive.remove(from);
                }
                self.close(turn, from, Reason::NotNeeded);
                if need == Need::Join {
                    turn.put(Effect::JoinRefused(from, outcome));
                }
                self.seek_later(turn);
            }
        }
        self.learn(turn, from, records);
    }

    /// Ends the walk that announces a new node, or passes it on.
    pub(super) fn receive_join(&mut self, turn: &mut Turn<'_>, from: NodeId, join: ForwardJoin) {
        let ForwardJoin { steps, record } = join;
        let id = record.node;
        // Each walk is charged to the budget for records, so that a neighbour can't flood the network
        // with new nodes.
        let neighbour = self.active.contains_key(&from);
        if !neighbour || id == self.me || self.budgets.take(turn.now, from, 1) == 0 {
            return;
        }
        let steps = steps.min(JOIN_STEPS);
        let others = self.active.keys().filter(|other| **other != from && **other != id);
        let onward = turn.pick(others.copied().collect());
        match onward {
            // Nodes on the way do not check the record's signature. The nodes that use the record do.
            Some(onward) if steps > 0 && !self.has_room(turn.now) => {
                if steps == PASSIVE_STEPS {
                    self.learn(turn, from, vec![record.clone()]);
                }
                let join = ForwardJoin { steps: steps - 1, record };
                turn.send(onward, Frame::ForwardJoin(join));
            }
            _ if self.is_candidate(turn.now, turn.away, id) && self.is_true(turn, &record) => {
                let addresses = record.addresses.into_iter().map(|at| at.with_id(id)).collect();
                self.approach(turn, id, addresses, Need::Low, true);
            }
            _ => {}
        }
    }

    /// Notes that a neighbour gives up its place.
    pub(super) fn receive_disconnect(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        disconnect: Disconnect,
    ) {
        let Disconnect { instead, leaves } = disconnect;
        let Some(record) = self.active.remove(&from) else { return };
        if leaves {
            // It closes the link itself, together with all others.
            self.passive.remove(from);
        } else {
            self.passive.add_reached(turn, record);
            self.passive.refused(turn.now, from);
            self.close(turn, from, Reason::NeighbourReplaced);
        }
        for record in instead {
            if self.suggested.len() < MAX_SUGGESTED
                && record.node != self.me
                && self.is_true(turn, &record)
            {
                self.suggested.push_back(record);
            }
        }
        self.seek(turn.now);
    }

    /// Adds a node to the neighbours.
    pub(super) fn add_neighbour(&mut self, turn: &mut Turn<'_>, id: NodeId, record: NodeRecord) {
        self.passive.remove(id);
        // An old beacon would count as new there, and keep a least node known that may be gone.
        if self.active.insert(id, record).is_none() && self.partition.is_fresh(turn.now) {
            turn.send(id, Frame::Beacon(self.partition.beacon()));
        }
        if self.active.len() < self.max_active {
            self.seek_later(turn);
        } else {
            self.splice_wait = SPLICE_MIN;
        }
    }

    /// Drops one of the neighbours to make room for `newcomer`, and names the newcomer to it.
    pub(super) fn make_room(&mut self, turn: &mut Turn<'_>, newcomer: &NodeRecord) {
        let others = self.active.keys().filter(|id| **id != newcomer.node);
        let Some(id) = turn.pick(others.copied().collect()) else { return };
        if let Some(record) = self.active.remove(&id) {
            let dialable = !newcomer.addresses.is_empty();
            self.drop_neighbour(turn, id, dialable.then(|| newcomer.clone()).into_iter().collect());
            self.passive.add_reached(turn, record);
            self.passive.refused(turn.now, id);
        }
    }

    pub(super) fn drop_neighbour(
        &mut self,
        turn: &mut Turn<'_>,
        id: NodeId,
        instead: Vec<NodeRecord>,
    ) {
        turn.send(id, Frame::Disconnect(Disconnect { instead, leaves: false }));
        self.close(turn, id, Reason::NeighbourReplaced);
    }

    /// Ends a link that this node has dialled and that nothing else needs. The side that was dialled
    /// leaves that decision to the dialler, which may need the link for something else.
    pub(super) fn close(&self, turn: &mut Turn<'_>, id: NodeId, reason: Reason) {
        if is_ours(turn, id) && !self.pinned.contains(&id) {
            turn.put(Effect::HangUp(id, reason));
        }
    }

    /// Returns whether there is a place that is neither taken nor reserved.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        self.reserved.retain(|_, until| *until > now);
        self.active.len() + self.reserved.len() < self.max_active
    }
}

/// Returns whether there is a link that this node has dialled.
pub(super) fn is_ours(turn: &Turn<'_>, id: NodeId) -> bool {
    turn.links.get(&id).is_some_and(|peer| peer.direction() == Direction::Outbound)
}
