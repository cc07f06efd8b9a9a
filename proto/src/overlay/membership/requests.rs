//! Places among the neighbours, as nodes ask for them, give them, and give them up.

use crate::event::Reason;
use crate::frame::Frame;
use crate::frame::membership::{
    Disconnect, ForwardJoin, Need, NeighbourReply, NeighbourRequest, Outcome,
};
use crate::id::NodeId;
use crate::overlay::{Effect, Turn};

use super::{Asked, JOIN_STEPS, MAX_NAMED, Membership, PASSIVE_STEPS, SHUFFLE_PASSIVE};

impl Membership {
    /// Answers a node that asks for a place among the neighbours.
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
        self.start(turn);
        if turn.away.is_kept(turn.now, from) {
            // The link that is there is for a message.
            self.reply(turn, from, Outcome::Full, Vec::new());
            return;
        }
        // One that had disconnected this node wants it again.
        self.avoided.lift(from);
        let kept = self.kept.remove(&from).is_some_and(|until| until > turn.now);
        let known = self.active.contains_key(&from);
        if !known && need == Need::Low && !kept && !self.has_room(turn.now) {
            let records = self.passive.sample(turn, SHUFFLE_PASSIVE);
            self.reply(turn, from, Outcome::Full, records);
            return;
        }
        if !known && self.active.len() >= self.max_active {
            self.make_room(turn, &record);
        }
        // Told before it is among them itself.
        let records = self.sample(turn, from);
        self.reply(turn, from, Outcome::Accepted, records);
        if need == Need::Join && !known && !record.addresses.is_empty() {
            for other in self.active.keys() {
                let join = ForwardJoin { steps: JOIN_STEPS, record: record.clone() };
                turn.send(*other, Frame::ForwardJoin(join));
            }
        }
        self.welcome(turn, from, record);
    }

    /// Takes the answer of a node that was asked for a place.
    pub(super) fn receive_reply(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        reply: NeighbourReply,
    ) {
        let Some(Asked { need, firmly, .. }) = self.asked.remove(&from) else { return };
        let NeighbourReply { outcome, record, records } = reply;
        if !self.is_own(turn, from, &record) {
            return;
        }
        match outcome {
            Outcome::Accepted => {
                let known = self.active.contains_key(&from);
                if !known && self.active.len() >= self.max_active {
                    if !firmly {
                        self.part_from(turn, from, Vec::new());
                        self.passive.reached(turn, record);
                        return;
                    }
                    self.make_room(turn, &record);
                }
                self.welcome(turn, from, record);
                if need == Need::Join {
                    turn.put(Effect::Joined(from));
                }
            }
            Outcome::Full | Outcome::Manual => {
                if outcome == Outcome::Full {
                    self.passive.reached(turn, record);
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

    /// Takes or passes on the walk that tells of a new node.
    pub(super) fn receive_join(&mut self, turn: &mut Turn<'_>, from: NodeId, join: ForwardJoin) {
        let ForwardJoin { steps, record } = join;
        let id = record.node;
        let neighbour = self.active.contains_key(&from);
        if !neighbour || id == self.me || self.budgets.take(turn.now, from, 1) == 0 {
            return;
        }
        let steps = steps.min(JOIN_STEPS);
        let others = self.active.keys().filter(|other| **other != from && **other != id);
        let onward = turn.pick(others.copied().collect());
        match onward {
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

    /// Takes the word of a neighbour that gives up its place.
    pub(super) fn receive_disconnect(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        disconnect: Disconnect,
    ) {
        let Disconnect { instead, leaves } = disconnect;
        let Some(record) = self.active.remove(&from) else { return };
        if leaves {
            self.passive.remove(from);
        } else {
            self.passive.reached(turn, record);
            self.passive.refused(turn.now, from);
            self.close(turn, from, Reason::Traded);
        }
        for record in instead {
            if self.named.len() < MAX_NAMED && record.node != self.me && self.is_true(turn, &record)
            {
                self.named.push_back(record);
            }
        }
        self.seek(turn.now);
    }
}
