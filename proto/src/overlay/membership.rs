//! The neighbours of a member, and the other nodes that it knows.
//!
//! After HyParView (J. Leitão, J. Pereira, L. Rodrigues: HyParView: a membership protocol for reliable
//! gossip-based broadcast, 2007). A member keeps a few links, its *active view*, which is symmetric. It
//! also knows some more nodes, its *passive view*. A new node asks a member for a place, and the member
//! announces the new node on random walks. A node that loses a neighbour asks nodes of its passive
//! view. *Shuffles*, random walks that exchange records, mix the passive views.
//!
//! Additions to the paper:
//! - A full node that makes room for a new node names it to the neighbour that has to go, which then
//!   links to it. The new node is spliced into an existing edge, so no node's degree drops.
//! - A node is asked on a short connection of its own, a *probe*, before a link is made. So the
//!   application sees no link that comes to nothing.
//! - From time to time a member probes a node of its passive view, which tests addresses before they
//!   are needed. Both sides name the least identity that they have a beacon of (see `partition`), so
//!   that parts of a network that have come apart find each other again.
//! - Records are signed by their node, accepted at a bounded rate, and spread over groups of addresses
//!   (see `passive`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::address::Address;
use crate::config::Config;
use crate::event::{LinkEnd, Reason};
use crate::frame::Frame;
use crate::frame::membership::{
    Beacon, Disconnect, MAX_RECORDS, Need, NeighbourOutcome, NeighbourReply, Probe,
};
use crate::id::{Key, NodeId};
use crate::node_record::NodeRecord;
use crate::overlay::away::KeptAwayNodes;
use crate::overlay::{Effect, Identity, OverlayContext};
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

mod budget;
mod exchange;
mod neighbours;
mod partition;
mod passive;
mod seek;
#[cfg(test)]
mod tests;

use budget::RecordBudgets;
use neighbours::is_outbound_link;
use partition::PartitionCheck;
use passive::PassiveView;

/// Steps of the random walk that announces a new node: the paper's ARWL.
const JOIN_STEPS: u8 = 6;
/// Step of that walk at which nodes add the new node to their passive view: the paper's PRWL.
const PASSIVE_STEPS: u8 = 3;
/// Steps of a shuffle: as many as of a join.
const SHUFFLE_STEPS: u8 = 6;
/// Numbers of neighbours and of other nodes whose records go into a shuffle: the paper's ka and kp.
const SHUFFLE_ACTIVE: usize = 3;
const SHUFFLE_PASSIVE: usize = 4;
/// Shuffles whose way back is remembered, and for how long.
const MAX_SHUFFLES: usize = 64;
const SHUFFLE_TIME: Duration = Duration::from_secs(30);

/// Time for an answer, and for which a place is reserved: as long as a handshake may take.
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for a dial that a dial of the other node has overtaken: to connect, and the handshake.
const OVERTAKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Nodes asked for a place at once by a node with few neighbours.
const MAX_REQUESTS: usize = 3;

/// Number of neighbours below which a node looks for more without a pause.
const FEW_NEIGHBOURS: usize = 3;

/// Interval at which a node with a few neighbours looks for more.
const SEEK_EVERY: Duration = Duration::from_secs(10);
/// Interval at which a node with too few neighbours looks for a node to ask.
const SEEK_SOON: Duration = Duration::from_secs(1);

/// Wait before a place that is not free is asked for again. It doubles up to the longest.
const SPLICE_MIN: Duration = Duration::from_secs(10);
const SPLICE_MAX: Duration = Duration::from_secs(600);

/// Most suggested nodes that wait to be asked.
const MAX_SUGGESTED: usize = 16;

/// Shortest interval between links that are made to repair a partition.
const REPAIR_EVERY: Duration = Duration::from_secs(5);

/// Age up to which a record is valid, in milliseconds.
const MAX_RECORD_AGE: u64 = 24 * 60 * 60 * 1000;
/// Age at which this node signs its own record again, in milliseconds.
const RESIGN_RECORD_AGE: u64 = 60 * 60 * 1000;

/// The nodes that a node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Views {
    /// The node is a member: it finds and keeps its own neighbours.
    pub member: bool,
    /// The neighbours.
    pub active: Vec<NodeId>,
    /// Other nodes that it knows an address of.
    pub passive: Vec<NodeId>,
    /// Links that the application asked for.
    pub pinned: Vec<NodeId>,
}

/// The membership state: idle until the node joins.
#[derive(Debug)]
pub(super) struct Membership {
    key: Key,
    me: NodeId,
    network: String,
    verifier: Verifier,
    max_active: usize,
    max_skew: u64,
    shuffle_every: Duration,
    probe_every: Duration,
    beacon_every: Duration,
    /// The node may become a member: its links are not made by hand, and it has not left.
    may_join: bool,
    manual: bool,
    member: bool,
    record: NodeRecord,
    /// The neighbours, with their records.
    active: BTreeMap<NodeId, NodeRecord>,
    pinned: BTreeSet<NodeId>,
    passive: PassiveView,
    /// Nodes that were asked for a place over their link.
    asked: BTreeMap<NodeId, PlaceRequest>,
    dials: BTreeMap<NodeId, NeighbourDial>,
    /// Nodes that are being probed; true if the probe asks for a place.
    probes: BTreeMap<NodeId, bool>,
    /// Places that are reserved for nodes that have probed this one.
    reserved: BTreeMap<NodeId, Instant>,
    /// Nodes that dialled this one while it dialled them. The outcome of its own dial is no longer
    /// needed.
    overtaken: BTreeMap<NodeId, Instant>,
    /// Neighbours whose link is being replaced by another.
    being_replaced: BTreeMap<NodeId, Instant>,
    suggested: VecDeque<NodeRecord>,
    /// Nodes whose application has disconnected this one. They are not asked for a place.
    avoided: KeptAwayNodes,
    shuffles: VecDeque<(Instant, u64, Option<NodeId>)>,
    partition: PartitionCheck,
    budgets: RecordBudgets,
    seek_at: Option<Instant>,
    shuffle_at: Option<Instant>,
    probe_at: Option<Instant>,
    beacon_at: Option<Instant>,
    repair_at: Instant,
    splice_at: Instant,
    splice_wait: Duration,
}

#[derive(Debug, Clone, Copy)]
struct PlaceRequest {
    need: Need,
    /// This node drops a neighbour for it if it has no room.
    makes_room: bool,
    until: Instant,
}

#[derive(Debug)]
struct NeighbourDial {
    need: Need,
    makes_room: bool,
    /// The first of the dialled addresses.
    address: Address,
}

impl Membership {
    pub(super) fn new(identity: &Identity, config: &Config) -> Self {
        let key = identity.key.clone();
        let me = key.id();
        Self {
            me,
            network: identity.network.clone(),
            verifier: Verifier::default(),
            max_active: config.active_view.max(1),
            max_skew: u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX),
            shuffle_every: config.shuffle_every,
            probe_every: config.probe_every,
            beacon_every: config.beacon_every,
            may_join: !identity.manual,
            manual: identity.manual,
            member: false,
            record: NodeRecord::sign(&key, &identity.network, identity.epoch, &[]),
            active: BTreeMap::new(),
            pinned: BTreeSet::new(),
            passive: PassiveView::new(config.passive_view),
            asked: BTreeMap::new(),
            dials: BTreeMap::new(),
            probes: BTreeMap::new(),
            reserved: BTreeMap::new(),
            overtaken: BTreeMap::new(),
            being_replaced: BTreeMap::new(),
            suggested: VecDeque::new(),
            avoided: KeptAwayNodes::default(),
            shuffles: VecDeque::new(),
            partition: PartitionCheck::new(me, config),
            budgets: RecordBudgets::default(),
            seek_at: None,
            shuffle_at: None,
            probe_at: None,
            beacon_at: None,
            repair_at: Instant::ZERO,
            splice_at: Instant::ZERO,
            splice_wait: SPLICE_MIN,
            key,
        }
    }

    pub(super) fn verify_with(&mut self, verifier: Verifier) {
        self.verifier = verifier;
    }

    pub(super) fn views(&self) -> Views {
        Views {
            member: self.member,
            active: self.active.keys().copied().collect(),
            passive: self.passive.ids().collect(),
            pinned: self.pinned.iter().copied().collect(),
        }
    }

    /// Joins the network through the node at the other end of a link.
    pub(super) fn join(&mut self, cx: &mut OverlayContext<'_>, through: NodeId) {
        if self.manual || !cx.links.contains_key(&through) {
            let outcome =
                if self.manual { NeighbourOutcome::Manual } else { NeighbourOutcome::Full };
            cx.put(Effect::JoinRefused(through, outcome));
            return;
        }
        self.may_join = true;
        self.become_member(cx);
        if self.active.contains_key(&through) {
            cx.put(Effect::Joined(through));
        } else {
            self.ask_for_place(cx, through, Need::Join, true);
        }
    }

    /// Leaves the network. The neighbours learn of each other, so that they can link up.
    pub(super) fn leave(&mut self, cx: &mut OverlayContext<'_>) {
        let active = std::mem::take(&mut self.active);
        for id in active.keys() {
            let others = active.values().filter(|other| other.node != *id);
            let instead: Vec<_> = others.take(MAX_RECORDS).cloned().collect();
            cx.send(*id, Frame::Disconnect(Disconnect { instead, leaves: true }));
        }
        // `probes` stays: the outcomes still come, and a node that is no member only learns from them.
        (self.may_join, self.member) = (false, false);
        self.pinned.clear();
        self.asked.clear();
        self.dials.clear();
        self.reserved.clear();
        self.overtaken.clear();
        self.being_replaced.clear();
        self.suggested.clear();
        self.shuffles.clear();
        (self.seek_at, self.shuffle_at) = (None, None);
        (self.probe_at, self.beacon_at) = (None, None);
    }

    pub(super) fn pin(&mut self, id: NodeId) {
        self.pinned.insert(id);
    }

    pub(super) fn unpin(&mut self, id: NodeId) {
        self.pinned.remove(&id);
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    /// Notes that a node's application has disconnected this one. It is not asked for a place for a
    /// while, but may take one.
    pub(super) fn avoid(&mut self, now: Instant, id: NodeId) {
        self.avoided.add(now, id);
    }

    /// Lets a node be asked again.
    pub(super) fn stop_avoiding(&mut self, id: NodeId) {
        self.avoided.remove(id);
    }

    pub(super) fn add_known_nodes(
        &mut self,
        cx: &mut OverlayContext<'_>,
        nodes: Vec<(NodeId, Vec<Address>)>,
    ) {
        for (id, addresses) in nodes {
            self.passive.add_known(cx, id, addresses);
        }
    }

    pub(super) fn set_addresses(&mut self, cx: &mut OverlayContext<'_>, addresses: &[Address]) {
        self.record = NodeRecord::sign(&self.key, &self.network, cx.unix, addresses);
    }

    pub(super) fn link_up(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        if let Some(NeighbourDial { need, makes_room, .. }) = self.dials.remove(&id) {
            if !is_outbound_link(cx, id) {
                // Simultaneous open: the other node's dial has made the link. The outcome of this
                // node's dial still comes: see `dialled`.
                self.overtaken.retain(|_, until| *until > cx.now);
                self.overtaken.insert(id, cx.now + OVERTAKEN_TIMEOUT);
            }
            self.ask_for_place(cx, id, need, makes_room);
        } else if self.being_replaced.remove(&id).is_some_and(|until| until > cx.now) {
            // It was a neighbour until its link was replaced, so it gets its place back even if the
            // places are taken by now.
            self.ask_for_place(cx, id, Need::High, true);
        }
    }

    pub(super) fn link_down(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        link_end: &LinkEnd,
    ) {
        if let Some(PlaceRequest { need: Need::Join, .. }) = self.asked.remove(&id) {
            cx.put(Effect::JoinRefused(id, NeighbourOutcome::Full));
        }
        let Some(record) = self.active.remove(&id) else { return };
        match link_end.reason {
            Reason::Duplicate | Reason::Replaced => {
                self.being_replaced.retain(|_, until| *until > cx.now);
                self.being_replaced.insert(id, cx.now + PLACE_TIMEOUT);
            }
            Reason::Left | Reason::Fault(_) | Reason::Requested => self.passive.remove(id),
            // It may be back in a moment, or have lost its network as this node has.
            _ => {
                self.passive.add_reached(cx, record);
                self.passive.note_refusal(cx.now, id);
            }
        }
        self.seek(cx.now);
    }

    pub(super) fn dialled(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        // There was a link already, or the link has only now come up.
        if cx.links.contains_key(&id)
            && let Some(NeighbourDial { need, makes_room, .. }) = self.dials.remove(&id)
        {
            self.ask_for_place(cx, id, need, makes_room);
        }
        // The other node's dial was faster, and that link has already ended: neither side needs this
        // one.
        if self.overtaken.remove(&id).is_some()
            && !self.active.contains_key(&id)
            && !self.asked.contains_key(&id)
        {
            self.close(cx, id, Reason::NotNeeded);
        }
    }

    pub(super) fn dial_failed(&mut self, cx: &mut OverlayContext<'_>, address: &Address) {
        let Some(id) = address.id else { return };
        // The failed dial may be another one of that node, such as one for a message.
        if self.dials.get(&id).is_none_or(|dial| dial.address != *address) {
            return;
        }
        self.dials.remove(&id);
        self.passive.note_failure(cx.now, id);
        self.seek(cx.now);
    }

    /// Takes a frame of membership.
    pub(super) fn receive(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, frame: Frame) {
        // Also taken by a node that is no member yet: the request makes it one.
        if let Frame::NeighbourRequest(request) = frame {
            self.receive_request(cx, from, request);
            return;
        }
        if !self.member {
            return;
        }
        match frame {
            Frame::NeighbourReply(reply) => self.receive_reply(cx, from, reply),
            Frame::ForwardJoin(join) => self.receive_join(cx, from, join),
            Frame::Disconnect(disconnect) => self.receive_disconnect(cx, from, disconnect),
            Frame::Shuffle(shuffle) => self.receive_shuffle(cx, from, shuffle),
            Frame::ShuffleReply(reply) => self.receive_shuffle_reply(cx, reply, from),
            Frame::Beacon(beacon)
                if self.active.contains_key(&from) && self.partition.receive(cx.now, beacon) =>
            {
                self.send_beacon(cx, Some(from));
            }
            _ => {}
        }
    }

    /// Returns the answer to a probe of the node `from`, which its TLS key has proven.
    pub(super) fn answer_probe(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        probe: Probe,
    ) -> Probe {
        // `has_room` counts reserved places, so the last place is promised to one prober only.
        let room = self.member && self.may_join && self.has_room(cx.now);
        let neighbour =
            probe.neighbour && room && probe.record.node == from && !cx.away.contains(cx.now, from);
        if neighbour {
            self.reserved.insert(from, cx.now + PLACE_TIMEOUT);
        }
        let records = self.draw_records(cx, from);
        let mut learned = probe.records;
        learned.push(probe.record);
        self.learn(cx, from, learned);
        let (record, beacon) = (self.record.clone(), self.partition.beacon());
        Probe { neighbour, record, beacon, records }
    }

    pub(super) fn handle_timeout(&mut self, cx: &mut OverlayContext<'_>) {
        let now = cx.now;
        let silent = self.asked.iter().filter(|(_, asked)| asked.until <= now);
        for (id, need) in silent.map(|(id, asked)| (*id, asked.need)).collect::<Vec<_>>() {
            self.asked.remove(&id);
            self.close(cx, id, Reason::NotNeeded);
            if need == Need::Join {
                cx.put(Effect::JoinRefused(id, NeighbourOutcome::Full));
            }
            self.seek(now);
        }
        if self.beacon_at.is_some_and(|at| at <= now) {
            self.beacon_at = Some(now + cx.around(self.beacon_every));
            if self.partition.start_beacon(now, cx.unix) {
                self.send_beacon(cx, None);
            }
            if cx.unix.saturating_sub(self.record.time) > RESIGN_RECORD_AGE {
                let addresses = std::mem::take(&mut self.record.addresses);
                self.set_addresses(cx, &addresses);
            }
        }
        if self.shuffle_at.is_some_and(|at| at <= now) {
            self.shuffle_at = Some(now + cx.around(self.shuffle_every));
            self.shuffle(cx);
        }
        if self.seek_at.is_some_and(|at| at <= now) {
            self.seek_at = None;
            self.find_neighbours(cx);
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = Some(now + cx.around(self.probe_every));
            let away = cx.away;
            let to_probe = self.passive.draw_to_probe(cx, |id| self.is_candidate(now, away, id));
            if let Some(id) = to_probe {
                self.probe(cx, id, false);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked.values().map(|asked| asked.until).min();
        let soon = earliest(asked, self.seek_at);
        let regular = earliest(self.shuffle_at, self.probe_at);
        earliest(soon, earliest(regular, self.beacon_at))
    }

    /// Becomes a member, unless the node is one.
    fn become_member(&mut self, cx: &mut OverlayContext<'_>) {
        if self.member {
            return;
        }
        self.member = true;
        self.partition.reset(cx.now);
        self.splice_at = cx.now + SPLICE_MIN;
        // The first shuffle and beacon come early, as a new member knows few nodes.
        self.shuffle_at = Some(cx.now + cx.around(self.shuffle_every) / 4);
        self.probe_at = Some(cx.now + cx.around(self.probe_every));
        self.beacon_at = Some(cx.now + cx.around(self.beacon_every) / 4);
        self.seek_at = Some(cx.now + SEEK_SOON);
    }

    fn reply(
        &self,
        cx: &mut OverlayContext<'_>,
        to: NodeId,
        outcome: NeighbourOutcome,
        records: Vec<NodeRecord>,
    ) {
        let record = self.record.clone();
        cx.send(to, Frame::NeighbourReply(NeighbourReply { outcome, record, records }));
    }

    fn send_beacon(&mut self, cx: &mut OverlayContext<'_>, but: Option<NodeId>) {
        let beacon: Beacon = self.partition.beacon();
        for id in self.active.keys().filter(|id| Some(**id) != but) {
            cx.send(*id, Frame::Beacon(beacon));
        }
    }
}
