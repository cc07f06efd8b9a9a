//! Places: how a node becomes another node's neighbour, and how it stops being one.

use crate::event::{Direction, Reason};
use crate::frame::Frame;
use crate::frame::membership::{
    Disconnect, ForwardJoin, Need, NeighbourOutcome, NeighbourReply, NeighbourRequest,
};
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::{Effect, OverlayContext};
use crate::time::Instant;

use super::{
    JOIN_STEPS, MAX_SUGGESTED, Membership, PASSIVE_STEPS, PlaceRequest, SHUFFLE_PASSIVE, SPLICE_MIN,
};

/// A neighbour of this node.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) record: NodeRecord,
    /// This node has dialled the link.
    pub(super) dialled: bool,
}

impl Membership {
    /// Handles a request for a place, and answers it.
    pub(super) fn receive_request(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        request: NeighbourRequest,
    ) {
        let NeighbourRequest { need, record } = request;
        if !self.is_senders_own(cx, from, &record) {
            return;
        }
        if !self.may_join {
            self.reply(cx, from, NeighbourOutcome::Manual, Vec::new());
            return;
        }
        // The first node of a network has no node to join through. The first request for a place makes it a
        // member.
        self.become_member(cx);
        if cx.away.contains(cx.now, from) {
            // The other node is kept away, so the link was made only for a message.
            self.reply(cx, from, NeighbourOutcome::Full, Vec::new());
            return;
        }
        // The other node may have disconnected this one earlier. By now it wants the link.
        self.avoided.remove(from);
        // Removed before `has_room` is called, which would otherwise count the place reserved for this very
        // node as taken.
        let is_reserved = self.reserved.remove(&from).is_some_and(|until| until > cx.now);
        let known = self.active.contains_key(&from);
        if !known && need == Need::Low && !is_reserved && !self.has_room(cx.now) {
            let records = self.passive.draw_records(cx, SHUFFLE_PASSIVE);
            self.reply(cx, from, NeighbourOutcome::Full, records);
            return;
        }
        if !known && self.active.len() >= self.max_active {
            self.make_room(cx, &record);
        }
        // Drawn before the node becomes a neighbour, so that its own record is not sent to it.
        let records = self.draw_records(cx, from);
        self.reply(cx, from, NeighbourOutcome::Accepted, records);
        // The node at the end of a walk dials the new node, so there must be an address.
        if need == Need::Join && !known && !record.addresses.is_empty() {
            for other in self.active.keys() {
                let join = ForwardJoin { steps: JOIN_STEPS, record: record.clone() };
                cx.send(*other, Frame::ForwardJoin(join));
            }
        }
        self.add_neighbour(cx, from, record);
    }

    /// Handles the answer of a node that was asked for a place.
    pub(super) fn receive_reply(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        reply: NeighbourReply,
    ) {
        let Some(PlaceRequest { need, makes_room, .. }) = self.asked.remove(&from) else { return };
        let NeighbourReply { outcome, record, records } = reply;
        if !self.is_senders_own(cx, from, &record) {
            return;
        }
        match outcome {
            NeighbourOutcome::Accepted => {
                let known = self.active.contains_key(&from);
                if !known && self.active.len() >= self.max_active {
                    // Another node took the last place while this request was under way.
                    if !makes_room {
                        self.drop_neighbour(cx, from, Vec::new());
                        self.keep_known(cx, Neighbour::new(cx, record));
                        return;
                    }
                    self.make_room(cx, &record);
                }
                self.add_neighbour(cx, from, record);
                if need == Need::Join {
                    cx.put(Effect::Joined(from));
                }
            }
            NeighbourOutcome::Full | NeighbourOutcome::Manual => {
                if outcome == NeighbourOutcome::Full {
                    self.keep_known(cx, Neighbour::new(cx, record));
                    self.passive.note_refusal(cx.now, from);
                } else {
                    self.forget(from);
                }
                self.close(cx, from, Reason::NotNeeded);
                if need == Need::Join {
                    cx.put(Effect::JoinRefused(from, outcome));
                }
                self.seek_later(cx);
            }
        }
        self.learn(cx, from, records);
    }

    /// Handles a walk that announces a new node: ends it here, or passes it on.
    pub(super) fn receive_join(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        join: ForwardJoin,
    ) {
        let ForwardJoin { steps, record } = join;
        let id = record.node;
        // Each walk is charged to the sender's budget for records, so that no neighbour can flood the network
        // with new nodes.
        let neighbour = self.active.contains_key(&from);
        if !neighbour || id == self.me || self.budgets.take(cx.now, from, 1) == 0 {
            return;
        }
        let steps = steps.min(JOIN_STEPS);
        let others = self.active.keys().filter(|other| **other != from && **other != id);
        let onward = cx.pick(others.copied().collect());
        match onward {
            // A node that only passes the record on does not check its signature. Nodes that use the record
            // do.
            Some(onward) if steps > 0 && !self.has_room(cx.now) => {
                if steps == PASSIVE_STEPS {
                    self.learn(cx, from, vec![record.clone()]);
                }
                let join = ForwardJoin { steps: steps - 1, record };
                cx.send(onward, Frame::ForwardJoin(join));
            }
            _ if self.is_candidate(cx.now, cx.away, id) && self.is_valid(cx, &record) => {
                let addresses = record.addresses.into_iter().map(|at| at.with_id(id)).collect();
                self.ask_or_dial(cx, id, addresses, Need::Low, true);
            }
            _ => {}
        }
    }

    /// Handles a neighbour's notice that the two nodes are no longer neighbours.
    pub(super) fn receive_disconnect(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        disconnect: Disconnect,
    ) {
        let Disconnect { instead, leaves } = disconnect;
        let Some(neighbour) = self.active.remove(&from) else { return };
        if leaves {
            // The leaving node closes this link itself, together with its other links.
            self.forget(from);
        } else {
            self.keep_known(cx, neighbour);
            self.passive.note_refusal(cx.now, from);
            self.close(cx, from, Reason::NeighbourReplaced);
        }
        for record in instead {
            if self.suggested.len() < MAX_SUGGESTED
                && record.node != self.me
                && self.is_valid(cx, &record)
            {
                self.suggested.push_back(record);
            }
        }
        self.seek(cx.now);
    }

    /// Makes a node a neighbour.
    pub(super) fn add_neighbour(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        record: NodeRecord,
    ) {
        self.passive.remove(id);
        let neighbour = Neighbour::new(cx, record);
        if neighbour.dialled {
            self.book.reached(cx, &neighbour.record);
        }
        // An old beacon is not sent. The new neighbour would take it for a new one, and so believe that a
        // least node still exists that may be gone.
        if self.active.insert(id, neighbour).is_none() && self.partition.is_fresh(cx.now) {
            cx.send(id, Frame::SignedBeacon(self.partition.signed_beacon()));
        }
        if self.active.len() < self.max_active {
            self.seek_later(cx);
        } else {
            self.splice_wait = SPLICE_MIN;
        }
    }

    /// Drops a random neighbour to make room for `newcomer`, and sends it the newcomer's record.
    pub(super) fn make_room(&mut self, cx: &mut OverlayContext<'_>, newcomer: &NodeRecord) {
        let others = self.active.keys().filter(|id| **id != newcomer.node);
        let Some(id) = cx.pick(others.copied().collect()) else { return };
        if let Some(neighbour) = self.active.remove(&id) {
            let dialable = !newcomer.addresses.is_empty();
            self.drop_neighbour(cx, id, dialable.then(|| newcomer.clone()).into_iter().collect());
            self.keep_known(cx, neighbour);
            self.passive.note_refusal(cx.now, id);
        }
    }

    /// Keeps a node that is no neighbour, or no longer one, in the passive view. It counts as tested only if
    /// this node has reached it by a dial or a probe: the addresses that a node announces may be wrong.
    pub(super) fn keep_known(&mut self, cx: &mut OverlayContext<'_>, neighbour: Neighbour) {
        let Neighbour { record, dialled } = neighbour;
        if dialled {
            self.book.reached(cx, &record);
        }
        if dialled || self.book.is_tested(record.node) {
            self.passive.add_reached(cx, record);
        } else if self.passive.is_news(&record) {
            self.passive.learn(cx, record);
        }
    }

    /// Forgets a node that does not want to be a neighbour.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.passive.remove(id);
        self.book.remove(id);
    }

    /// Sends a node the notice that it is no longer a neighbour, with the records of nodes that it may ask
    /// instead, and closes the link.
    pub(super) fn drop_neighbour(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        instead: Vec<NodeRecord>,
    ) {
        cx.send(id, Frame::Disconnect(Disconnect { instead, leaves: false }));
        self.close(cx, id, Reason::NeighbourReplaced);
    }

    /// Closes the link with a node, if this node has dialled it and the application has not asked for it. A
    /// link that the other node has dialled is left to that node, which may need it for something else.
    pub(super) fn close(&self, cx: &mut OverlayContext<'_>, id: NodeId, reason: Reason) {
        if is_outbound_link(cx, id) && !self.pinned.contains(&id) {
            cx.put(Effect::CloseLink(id, reason));
        }
    }

    /// Returns whether there is a place that is neither taken nor reserved.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        self.reserved.retain(|_, until| *until > now);
        self.active.len() + self.reserved.len() < self.max_active
    }
}

impl Neighbour {
    /// Returns the neighbour with which there is a link.
    fn new(cx: &OverlayContext<'_>, record: NodeRecord) -> Self {
        let dialled = is_outbound_link(cx, record.node);
        Self { record, dialled }
    }
}

/// Returns whether there is a link with a node that this node has dialled.
pub(super) fn is_outbound_link(cx: &OverlayContext<'_>, id: NodeId) -> bool {
    cx.links.get(&id).is_some_and(|peer| peer.direction() == Direction::Outbound)
}
