//! Membership: how a node joins a network, finds neighbours, and keeps them.
//!
//! The protocol is based on HyParView (J. Leitão, J. Pereira, L. Rodrigues: HyParView: a membership protocol
//! for reliable gossip-based broadcast, 2007). A member has links with a few nodes, its *neighbours* or
//! *active view*. If A is a neighbour of B, B is a neighbour of A. A member also knows the addresses of some
//! more nodes, its *passive view*. A new node asks a member for a *place*: it asks to become the member's
//! neighbour. The member announces the new node on random walks. A node that loses a neighbour asks nodes of
//! its passive view for a place. *Shuffles* are random walks on which nodes exchange records, so that the
//! passive views are mixed.
//!
//! Additions to the paper:
//! - A full node that makes room for a new node drops a neighbour, and names the new node to it. The dropped
//!   neighbour then links to the new node. So the new node is spliced into an existing edge, and no node's
//!   degree drops.
//! - A node that has neighbours asks for a further place with a *probe* before it dials a link. A probe is
//!   sent on a short connection that no application sees. So no application sees a link that ends immediately
//!   because there was no place.
//! - From time to time a member probes a node of its passive view. This tests addresses before they are
//!   needed. The two nodes also exchange their latest beacons (see `partition`), so that separated parts of a
//!   network find each other again.
//! - Nodes that were reached by an own dial or probe are kept in an address book (see `book`), which is larger
//!   than the passive view. A member probes them slowly even while it has all its neighbours.
//! - The nodes that a new neighbour names are tested. A neighbour that names only nodes that do not exist counts for
//!   nothing (see `trial`).
//! - Each node record is signed by its node. Records are accepted at a bounded rate, and those of one group
//!   of addresses fill only a share of the passive view (see `passive`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::address::Address;
use crate::address_group::AddressGroups;
use crate::config::Config;
use crate::event::{LinkEnd, Reason};
use crate::frame::Frame;
use crate::frame::membership::{
    Disconnect, MAX_RECORDS, Need, NeighbourOutcome, NeighbourReply, Probe,
};
use crate::id::{Key, NodeId};
use crate::node_record::NodeRecord;
use crate::overlay::away::KeptAwayNodes;
use crate::overlay::{Effect, NodeSetup, OverlayContext};
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

mod book;
mod budget;
mod exchange;
mod neighbours;
pub(crate) mod outbound;
mod own_record;
mod partition;
mod passive;
mod seek;
#[cfg(test)]
mod tests;
mod trial;

use book::{AddressBook, FEEL_FIRST, MAX_FIRST_FEELERS};
use budget::RecordBudgets;
use neighbours::{Evictions, Neighbour, is_outbound_link};
use outbound::{Origin, OutboundSearch};
use partition::{PartitionCheck, Received};
use passive::PassiveView;
use trial::Trials;

/// Number of steps of the random walk that announces a new node: ARWL in the paper.
const JOIN_STEPS: u8 = 6;
/// Number of steps left at which a node on that walk adds the new node to its passive view: PRWL in the
/// paper.
const PASSIVE_STEPS: u8 = 3;
/// Number of steps of a shuffle: the same as for a new node.
const SHUFFLE_STEPS: u8 = 6;
/// Maximum numbers of neighbours and of nodes of the passive view whose records are sent in a shuffle: ka and
/// kp in the paper.
const SHUFFLE_ACTIVE: usize = 3;
const SHUFFLE_PASSIVE: usize = 4;
/// Maximum number of shuffles whose way back is remembered, and the time for which each is remembered.
const MAX_SHUFFLES: usize = 64;
const SHUFFLE_TIME: Duration = Duration::from_secs(30);

/// Time to wait for the answer of a node that was asked for a place. Also the time for which a place is
/// reserved. As long as a handshake may take.
const PLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which an overtaken dial has certainly ended: the time to connect, and for the handshake. A dial
/// is overtaken if the other node's dial has made the link first.
const OVERTAKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of requests for a place that a node with few neighbours has under way.
const MAX_REQUESTS: usize = 3;

/// Number of neighbours below which a node counts as having few, and looks for more without a pause.
const FEW_NEIGHBOURS: usize = 3;

/// Interval at which a node with some free places looks for neighbours.
const SEEK_EVERY: Duration = Duration::from_secs(10);
/// Interval at which a node looks for neighbours if it has few, or if other nodes were suggested to it.
const SEEK_SOON: Duration = Duration::from_secs(1);

/// Minimum and maximum wait before a node asks again for a place that is not free (see `may_splice`). The
/// wait doubles each time.
const SPLICE_MIN: Duration = Duration::from_secs(10);
const SPLICE_MAX: Duration = Duration::from_secs(600);

/// Maximum number of suggested nodes that wait to be asked.
const MAX_SUGGESTED: usize = 16;

/// Minimum interval between two links that are made to repair a partition.
const REPAIR_EVERY: Duration = Duration::from_secs(5);

/// Maximum age of a valid record, in milliseconds.
const MAX_RECORD_AGE: u64 = 24 * 60 * 60 * 1000;

/// The nodes that a node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Views {
    /// The node is a member: it finds its own neighbours.
    pub member: bool,
    /// The neighbours.
    pub active: Vec<NodeId>,
    /// Other nodes whose addresses are known.
    pub passive: Vec<NodeId>,
    /// Nodes whose links the application asked for.
    pub pinned: Vec<NodeId>,
}

/// The state of a node's membership. Nothing happens until the node joins a network.
#[derive(Debug)]
pub(super) struct Membership {
    key: Key,
    me: NodeId,
    network: String,
    verifier: Verifier,
    max_active: usize,
    /// See [`Config::outbound_groups`].
    outbound_groups: bool,
    max_passive: usize,
    max_skew: u64,
    shuffle_every: Duration,
    probe_every: Duration,
    beacon_every: Duration,
    /// The node may become a member: its links are not made by hand, and it has not left the network.
    may_join: bool,
    manual: bool,
    member: bool,
    record: NodeRecord,
    active: BTreeMap<NodeId, Neighbour>,
    /// The IP address at the other end of each link.
    link_ips: BTreeMap<NodeId, IpAddr>,
    outbound_search: OutboundSearch,
    pinned: BTreeSet<NodeId>,
    passive: PassiveView,
    book: AddressBook,
    trials: Trials,
    /// Nodes that were asked for a place over a link, and have not answered.
    asked: BTreeMap<NodeId, PlaceRequest>,
    dials: BTreeMap<NodeId, NeighbourDial>,
    /// Nodes that are being probed.
    probes: BTreeMap<NodeId, ProbePurpose>,
    /// Nodes that have probed this one and for which a place is reserved, until this time.
    reserved: BTreeMap<NodeId, Instant>,
    /// Nodes whose own dial has made the link while this node's dial of them is still under way. If this
    /// node's dial also makes a link later, that link is not needed.
    overtaken: BTreeMap<NodeId, Instant>,
    /// Neighbours whose link is being replaced by a new connection.
    being_replaced: BTreeMap<NodeId, Instant>,
    suggested: VecDeque<NodeRecord>,
    /// Nodes whose application has closed the link with this node. They are not asked for a place.
    avoided: KeptAwayNodes,
    shuffles: VecDeque<(Instant, u64, Option<NodeId>)>,
    partition: PartitionCheck,
    budgets: RecordBudgets,
    address_groups: AddressGroups,
    evictions: Evictions,
    seek_at: Option<Instant>,
    shuffle_at: Option<Instant>,
    probe_at: Option<Instant>,
    feel_at: Option<Instant>,
    /// Number of quick feelers that are left for the time while the address book is small.
    first_feelers: usize,
    beacon_at: Option<Instant>,
    repair_at: Instant,
    splice_at: Instant,
    splice_wait: Duration,
}

#[derive(Debug, Clone, Copy)]
struct PlaceRequest {
    need: Need,
    origin: Origin,
    until: Instant,
}

/// The purpose of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProbePurpose {
    /// The probe asks for a place.
    Place,
    /// The probe tests the addresses of a node of the passive view.
    Test,
    /// The probe tests the addresses of a node of the address book.
    Feeler,
}

#[derive(Debug)]
struct NeighbourDial {
    need: Need,
    origin: Origin,
    /// The first of the dialled addresses, by which the outcome is reported.
    address: Address,
}

impl Membership {
    pub(super) fn new(setup: &NodeSetup, config: &Config) -> Self {
        let key = setup.key.clone();
        let me = key.id();
        Self {
            me,
            network: setup.network.clone(),
            verifier: Verifier::default(),
            max_active: config.active_view.max(1),
            outbound_groups: config.outbound_groups,
            max_passive: config.passive_view,
            max_skew: u64::try_from(config.clock_skew.as_millis()).unwrap_or(u64::MAX),
            shuffle_every: config.shuffle_every,
            probe_every: config.probe_every,
            beacon_every: config.beacon_every,
            may_join: !setup.manual,
            manual: setup.manual,
            member: false,
            record: NodeRecord::sign(&key, &setup.network, setup.epoch, &[]),
            active: BTreeMap::new(),
            link_ips: BTreeMap::new(),
            outbound_search: OutboundSearch::default(),
            pinned: BTreeSet::new(),
            passive: PassiveView::new(config.passive_view, config.address_groups()),
            book: AddressBook::new(config.address_groups()),
            trials: Trials::default(),
            asked: BTreeMap::new(),
            dials: BTreeMap::new(),
            probes: BTreeMap::new(),
            reserved: BTreeMap::new(),
            overtaken: BTreeMap::new(),
            being_replaced: BTreeMap::new(),
            suggested: VecDeque::new(),
            avoided: KeptAwayNodes::default(),
            shuffles: VecDeque::new(),
            partition: PartitionCheck::new(setup, config),
            budgets: RecordBudgets::default(),
            address_groups: config.address_groups(),
            evictions: Evictions::default(),
            seek_at: None,
            shuffle_at: None,
            probe_at: None,
            feel_at: None,
            first_feelers: 0,
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

    /// Joins the network through a peer, which is asked for a place.
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
            self.ask_for_place(cx, through, Need::Join, Origin::Chosen);
        }
    }

    /// Leaves the network. Sends the neighbours each other's records, so that they can link to each other.
    pub(super) fn leave(&mut self, cx: &mut OverlayContext<'_>) {
        let active = std::mem::take(&mut self.active);
        for id in active.keys() {
            let others = active.values().map(|other| &other.record);
            let others = others.filter(|other| other.node != *id);
            let instead: Vec<_> = others.take(MAX_RECORDS).cloned().collect();
            cx.send(*id, Frame::Disconnect(Disconnect { instead, leaves: true }));
        }
        // `probes` is not cleared: the outcomes are still reported, and a node that is not a member only
        // learns addresses from them.
        (self.may_join, self.member) = (false, false);
        self.pinned.clear();
        self.trials.clear();
        self.asked.clear();
        self.dials.clear();
        self.reserved.clear();
        self.overtaken.clear();
        self.being_replaced.clear();
        self.suggested.clear();
        self.shuffles.clear();
        (self.seek_at, self.shuffle_at) = (None, None);
        self.outbound_search.stop();
        (self.probe_at, self.feel_at, self.beacon_at) = (None, None, None);
    }

    pub(super) fn pin(&mut self, id: NodeId) {
        self.pinned.insert(id);
    }

    pub(super) fn unpin(&mut self, id: NodeId) {
        self.pinned.remove(&id);
    }

    /// Returns whether the node is in the active view.
    pub(super) fn is_neighbour(&self, id: NodeId) -> bool {
        self.active.contains_key(&id)
    }

    /// Returns whether a node is a neighbour, was reached by a dial of this node, or is linked because the
    /// application asked for it.
    pub(super) fn is_known(&self, id: NodeId) -> bool {
        self.active.contains_key(&id) || self.pinned.contains(&id) || self.book.is_tested(id)
    }

    pub(super) fn is_member(&self) -> bool {
        self.member
    }

    /// Notes that a node's application has closed the link with this node. For a while the node is not asked
    /// for a place, but it may ask this node for one.
    pub(super) fn avoid(&mut self, now: Instant, id: NodeId) {
        self.avoided.add(now, id);
    }

    /// Stops avoiding a node, so that it may be asked for a place again.
    pub(super) fn stop_avoiding(&mut self, id: NodeId) {
        self.avoided.remove(id);
    }

    pub(super) fn add_known_nodes(
        &mut self,
        cx: &mut OverlayContext<'_>,
        nodes: Vec<(NodeId, Vec<Address>)>,
    ) {
        // The passive view is for nodes that are likely to answer: the first ones were seen most recently.
        let first = self.max_passive;
        for (at, (id, addresses)) in nodes.into_iter().enumerate() {
            self.book.add_known(cx, id, &addresses);
            if at < first {
                self.passive.add_known(cx, id, addresses);
            }
        }
    }

    pub(super) fn link_up(&mut self, cx: &mut OverlayContext<'_>, id: NodeId, ip: IpAddr) {
        self.link_ips.insert(id, ip);
        if let Some(NeighbourDial { need, origin, .. }) = self.dials.remove(&id) {
            if !is_outbound_link(cx, id) {
                // Simultaneous open: the other node's dial has made the link. The outcome of this node's dial
                // comes later: see `dialled`.
                self.overtaken.retain(|_, until| *until > cx.now);
                self.overtaken.insert(id, cx.now + OVERTAKEN_TIMEOUT);
            }
            self.ask_for_place(cx, id, need, origin);
        } else if self.being_replaced.remove(&id).is_some_and(|until| until > cx.now) {
            // The node was a neighbour until its link was replaced. It gets its place back even if this node
            // is full by now.
            self.ask_for_place(cx, id, Need::High, Origin::Known);
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
        self.link_ips.remove(&id);
        let Some(neighbour) = self.active.remove(&id) else { return };
        match link_end.reason {
            Reason::Duplicate | Reason::Replaced => {
                self.being_replaced.retain(|_, until| *until > cx.now);
                self.being_replaced.insert(id, cx.now + PLACE_TIMEOUT);
            }
            Reason::Left | Reason::Fault(_) | Reason::Requested | Reason::Banned => self.forget(id),
            // The node may be back soon, or the connection between the two nodes may have failed. So it stays
            // known, but is not asked immediately.
            _ => {
                self.keep_known(cx, neighbour);
                self.passive.note_refusal(cx.now, id);
                if matches!(link_end.reason, Reason::Lost(_) | Reason::Silent(_)) {
                    self.feel_after_loss(cx.now);
                }
            }
        }
        self.seek(cx.now);
    }

    pub(super) fn dialled(&mut self, cx: &mut OverlayContext<'_>, id: NodeId) {
        // The dial has found a link that existed already. If it had made the link, `link_up` would have asked
        // for the place.
        if cx.links.contains_key(&id)
            && let Some(NeighbourDial { need, origin, .. }) = self.dials.remove(&id)
        {
            self.ask_for_place(cx, id, need, origin);
        }
        // The other node's dial was faster, and the link that it made has ended since then. Neither node
        // needs the link of this dial.
        if self.overtaken.remove(&id).is_some()
            && !self.active.contains_key(&id)
            && !self.asked.contains_key(&id)
        {
            self.close(cx, id, Reason::NotNeeded);
        }
    }

    pub(super) fn dial_failed(&mut self, cx: &mut OverlayContext<'_>, address: &Address) {
        let Some(id) = address.id else { return };
        // The failed dial may be another dial of that node, such as one for a message.
        if self.dials.get(&id).is_none_or(|dial| dial.address != *address) {
            return;
        }
        self.dials.remove(&id);
        self.note_failure(cx.now, id);
        self.seek(cx.now);
    }

    /// Handles a membership frame.
    pub(super) fn receive(&mut self, cx: &mut OverlayContext<'_>, from: NodeId, frame: Frame) {
        // Handled even if this node is not a member yet: the request makes it one.
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
            Frame::SignedBeacon(beacon) if self.active.contains_key(&from) => {
                match self.partition.receive(cx, from, beacon, &self.verifier) {
                    Received::New => self.send_beacon(cx, Some(from)),
                    Received::NotNew => {}
                    Received::Forged => {
                        // Honest nodes verify a beacon before they pass it on.
                        let reason = Reason::Fault("a wrongly signed beacon".into());
                        cx.put(Effect::CloseLink(from, reason));
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns the answer to a probe from the node `from`, whose identity the TLS handshake has proven.
    pub(super) fn answer_probe(
        &mut self,
        cx: &mut OverlayContext<'_>,
        from: NodeId,
        probe: Probe,
    ) -> Probe {
        // `has_room` counts reserved places, so the last place is promised to a single node.
        let room = self.member && self.may_join && self.has_room(cx.now);
        let neighbour =
            probe.neighbour && room && probe.record.node == from && !cx.away.contains(cx.now, from);
        if neighbour {
            self.reserved.insert(from, cx.now + PLACE_TIMEOUT);
        }
        let records = self.draw_records(cx, from);
        let mut learned = probe.records;
        learned.push(probe.record);
        self.learn(cx, None, learned);
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
            self.resign_record(cx);
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
                self.probe(cx, id, ProbePurpose::Test);
            }
        }
        if self.feel_at.is_some_and(|at| at <= now) {
            self.feel(cx);
        }
        if self.outbound_search.poll_timeout().is_some_and(|at| at <= now) {
            self.find_outbound(cx);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked.values().map(|asked| asked.until).min();
        let soon = earliest(asked, earliest(self.seek_at, self.outbound_search.poll_timeout()));
        let probe = earliest(self.probe_at, self.feel_at);
        let regular = earliest(self.shuffle_at, probe);
        earliest(soon, earliest(regular, self.beacon_at))
    }

    /// Makes this node a member, unless it is one.
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
        self.feel_at = Some(cx.now + cx.around(FEEL_FIRST));
        self.first_feelers = MAX_FIRST_FEELERS;
        self.beacon_at = Some(cx.now + cx.around(self.beacon_every) / 4);
        self.seek_at = Some(cx.now + SEEK_SOON);
        self.outbound_search.start(cx.now);
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

    fn send_beacon(&mut self, cx: &mut OverlayContext<'_>, except: Option<NodeId>) {
        let beacon = self.partition.signed_beacon();
        for id in self.active.keys().filter(|id| Some(**id) != except) {
            cx.send(*id, Frame::SignedBeacon(beacon));
        }
    }
}
