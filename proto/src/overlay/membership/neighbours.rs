//! Places: how a node becomes another node's neighbour, and how it stops being one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::address_group::AddressGroup;
use crate::bucket::Bucket;
use crate::event::{Direction, Reason};
use crate::frame::Frame;
use crate::frame::membership::{
    Disconnect, ForwardJoin, Need, NeighbourOutcome, NeighbourReply, NeighbourRequest,
};
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::budgets::Work;
use crate::overlay::{Effect, OverlayContext};
use crate::time::Instant;

use super::{
    JOIN_STEPS, MAX_SUGGESTED, Membership, Origin, PASSIVE_STEPS, PlaceRequest, SHUFFLE_PASSIVE,
    SPLICE_MIN,
};

/// Number of neighbours that requests from one group of addresses may displace at once, and the interval after
/// which they may displace one more. 16: a fleet of nodes that starts at one moment joins without a pause. Ten
/// seconds: a node that joins through a full node takes part in the network sooner than that.
pub(super) const EVICTIONS_BURST: u32 = 16;
pub(super) const EVICTION_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of groups whose displacements are remembered. The group that may displace most is forgotten
/// first: it loses nothing.
const MAX_EVICTING_GROUPS: usize = 256;

/// A neighbour of this node.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) record: NodeRecord,
    /// This node has dialled the link.
    pub(super) dialled: bool,
    /// The reason why this node has asked the neighbour for a place. `None` if the neighbour has asked.
    pub(super) origin: Option<Origin>,
    /// The group of the IP address at the other end of the link.
    pub(super) group: Option<AddressGroup>,
    /// Time since which the node is a neighbour.
    pub(super) since: Instant,
    /// Time of the last broadcast that arrived from the neighbour first.
    pub(super) useful_at: Option<Instant>,
}

/// A bucket for each group of addresses from which requests have displaced neighbours.
#[derive(Debug, Default)]
pub(super) struct Evictions(BTreeMap<AddressGroup, Bucket>);

impl Evictions {
    /// Charges a group for the displacement of a neighbour. Returns whether its budget allows that. Addresses
    /// without a group are not limited: the nodes of a private network share all their addresses' owners.
    fn allow(&mut self, now: Instant, group: Option<AddressGroup>) -> bool {
        let Some(group) = group else { return true };
        if self.0.len() >= MAX_EVICTING_GROUPS && !self.0.contains_key(&group) {
            let fullest = self.0.iter().min_by_key(|(_, bucket)| bucket.full_at());
            let fullest = fullest.map(|(group, _)| *group);
            fullest.map(|group| self.0.remove(&group));
        }
        let bucket = self.0.entry(group).or_default();
        bucket.take(now, EVICTION_INTERVAL, EVICTION_INTERVAL * EVICTIONS_BURST)
    }
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
        // Charged before the record's signature is checked, and before walks announce the node.
        if !cx.allows(from, Work::Record, 1) {
            self.reply(cx, from, NeighbourOutcome::Full, Vec::new());
            return;
        }
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
        let is_known = self.active.contains_key(&from);
        if !is_known && !self.find_place_for_asker(cx, need, is_reserved, &record) {
            let records = self.passive.draw_records(cx, SHUFFLE_PASSIVE);
            self.reply(cx, from, NeighbourOutcome::Full, records);
            return;
        }
        // Drawn before the node becomes a neighbour, so that its own record is not sent to it.
        let records = self.draw_records(cx, from);
        self.reply(cx, from, NeighbourOutcome::Accepted, records);
        // The node at the end of a walk dials the new node, so there must be an address.
        if need == Need::Join && !is_known && !record.addresses.is_empty() {
            for other in self.active.keys() {
                let join = ForwardJoin { steps: JOIN_STEPS, record: record.clone() };
                cx.send(*other, Frame::ForwardJoin(join));
            }
        }
        self.add_neighbour(cx, from, record, None);
    }

    /// Handles the answer of a node that was asked for a place.
    pub(super) fn receive_reply(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        reply: NeighbourReply,
    ) {
        let Some(PlaceRequest { need, origin, .. }) = self.asked.remove(&from) else { return };
        let NeighbourReply { outcome, record, records } = reply;
        if !self.is_senders_own(cx, from, &record) {
            return;
        }
        match outcome {
            NeighbourOutcome::Accepted => {
                if !self.find_place_for_asked(cx, need, origin, &record) {
                    self.drop_neighbour(cx, from, Vec::new());
                    let neighbour = self.neighbour(cx, record);
                    self.keep_known(cx, neighbour);
                    return;
                }
                self.add_neighbour(cx, from, record, Some(origin));
                self.begin_trial(from, &records);
                if need == Need::Join {
                    cx.put(Effect::Joined(from));
                }
            }
            NeighbourOutcome::Full | NeighbourOutcome::Manual => {
                if outcome == NeighbourOutcome::Full {
                    let neighbour = self.neighbour(cx, record);
                    self.keep_known(cx, neighbour);
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
        self.learn(cx, Some(from), records);
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
        if !neighbour || id == self.me || self.budgets.take(cx.now, Some(from), 1) == 0 {
            return;
        }
        if !cx.allows(from, Work::Record, 1) {
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
                    self.learn(cx, Some(from), vec![record.clone()]);
                }
                let join = ForwardJoin { steps: steps - 1, record };
                cx.send(onward, Frame::ForwardJoin(join));
            }
            _ if self.is_candidate(cx.now, cx.away, id) && self.is_valid(cx, &record) => {
                let addresses = record.addresses.into_iter().map(|at| at.with_id(id)).collect();
                self.ask_or_dial(cx, id, addresses, Need::Low, Origin::Walk);
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
        let are_paid = cx.allows(from, Work::Record, instead.len());
        if leaves {
            // The leaving node closes this link itself, together with its other links.
            self.forget(from);
        } else {
            self.keep_known(cx, neighbour);
            self.passive.note_refusal(cx.now, from);
            self.close(cx, from, Reason::NeighbourReplaced);
        }
        for record in instead.into_iter().filter(|_| are_paid) {
            if self.suggested.len() < MAX_SUGGESTED
                && record.node != self.me
                && self.is_valid(cx, &record)
            {
                self.suggested.push_back(record);
            }
        }
        self.seek(cx.now);
    }

    /// Makes a node a neighbour. `origin` is `None` if the node has asked for the place.
    pub(super) fn add_neighbour(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        record: NodeRecord,
        origin: Option<Origin>,
    ) {
        self.passive.remove(id);
        let mut neighbour = Neighbour { origin, ..self.neighbour(cx, record) };
        if let Some(known) = self.active.get(&id) {
            (neighbour.since, neighbour.useful_at) = (known.since, known.useful_at);
            neighbour.origin = known.origin.or(origin);
        }
        if neighbour.dialled {
            self.book.reached(cx, &neighbour.record, neighbour.group);
            self.trials.note(id, true);
        }
        if origin == Some(Origin::Chosen) {
            self.outbound_search.found();
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
        self.name_anchors(cx);
    }

    /// Finds a place for a node that has asked for one. Returns false if there is none.
    fn find_place_for_asker(
        &mut self,
        cx: &mut OverlayContext<'_>,
        need: Need,
        is_reserved: bool,
        newcomer: &NodeRecord,
    ) -> bool {
        let is_full = self.active.len() >= self.max_active;
        let insists = matches!(need, Need::High | Need::Join) || is_reserved;
        if !is_full && (insists || self.has_room(cx.now)) {
            return true;
        }
        let may_be_guest = match need {
            Need::Low => false,
            Need::High | Need::Chosen => true,
            // While nodes join, new links give way instead, so that they are mixed: the nodes that come at the same
            // time know few others.
            Need::Join => self.are_settled(cx.now),
        };
        if may_be_guest && self.has_room_for_guest(newcomer.node) {
            return true;
        }
        insists && is_full && self.displace_one_for(cx, newcomer)
    }

    /// Finds a place for a node that has accepted this node's request. Another node may have taken the last place in
    /// the meantime. Returns false if there is none.
    fn find_place_for_asked(
        &mut self,
        cx: &mut OverlayContext<'_>,
        need: Need,
        origin: Origin,
        newcomer: &NodeRecord,
    ) -> bool {
        let id = newcomer.node;
        if self.active.contains_key(&id) || self.active.len() < self.max_active {
            return true;
        }
        match origin {
            Origin::Chosen => self.has_room_for_outbound() || self.make_room(cx, newcomer),
            Origin::Known if need == Need::Low => false,
            Origin::Known => self.has_room_for_guest(id) || self.make_room(cx, newcomer),
            Origin::Named => false,
            // Anyone can announce nodes, and claim to be in another part of the network. So the node displaces no
            // more than its own request could.
            Origin::Walk | Origin::Repair => {
                let is_guest = self.are_settled(cx.now) && self.has_room_for_guest(id);
                is_guest || self.displace_one_for(cx, newcomer)
            }
        }
    }

    /// Makes room for a node that this node has not chosen. Returns false if its group of addresses has displaced
    /// too many neighbours already.
    fn displace_one_for(&mut self, cx: &mut OverlayContext<'_>, newcomer: &NodeRecord) -> bool {
        // The address that the node announces does not count, as the node chooses it.
        let group = self.group_of_link(newcomer.node);
        self.evictions.allow(cx.now, group) && self.make_room(cx, newcomer)
    }

    /// Makes room for a node: see [`Self::choose_victim`]. Returns false if there is no neighbour.
    fn make_room(&mut self, cx: &mut OverlayContext<'_>, newcomer: &NodeRecord) -> bool {
        let victim = self.choose_victim(cx, newcomer.node);
        if let Some(id) = victim {
            self.displace(cx, id, newcomer);
        }
        victim.is_some()
    }

    /// Drops a neighbour in favour of `newcomer`, and sends it the newcomer's record.
    fn displace(&mut self, cx: &mut OverlayContext<'_>, id: NodeId, newcomer: &NodeRecord) {
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
        let Neighbour { record, dialled, group, .. } = neighbour;
        if dialled {
            self.book.reached(cx, &record, group);
        }
        if dialled || self.book.is_tested(record.node) {
            let group = if dialled { group } else { self.book.group(record.node) };
            self.passive.add_reached(cx, record, group);
        } else if self.passive.is_news(&record) {
            self.passive.learn(cx, record);
        }
    }

    /// Returns the neighbour with which there is a link.
    fn neighbour(&self, cx: &OverlayContext<'_>, record: NodeRecord) -> Neighbour {
        let (dialled, group) = (is_outbound_link(cx, record.node), self.group_of_link(record.node));
        Neighbour { record, dialled, origin: None, group, since: cx.now, useful_at: None }
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

/// Returns whether there is a link with a node that this node has dialled.
pub(super) fn is_outbound_link(cx: &OverlayContext<'_>, id: NodeId) -> bool {
    cx.links.get(&id).is_some_and(|peer| peer.direction() == Direction::Outbound)
}
