//! The neighbours of a member, and the other nodes that it knows.
//!
//! After HyParView (J. Leitão, J. Pereira, L. Rodrigues: HyParView: a membership protocol for
//! reliable gossip-based broadcast, 2007). A member keeps a few links, its *active view*, the same
//! on both sides, and knows some more nodes, its *passive view*. A new node asks one for a place,
//! which announces it to others on random walks. A node that loses a neighbour asks the nodes that it
//! knows. *Shuffles*, random walks that exchange records, mix the passive views.
//!
//! Additions to the paper:
//! - A full node that makes room for a new node names it to the neighbour that has to go, which then
//!   links to it. The new node is spliced into an existing edge, so no node's degree drops.
//! - Nodes are asked on a short connection of their own, a *probe*, before a link is made, so that
//!   the application sees no link that comes to nothing.
//! - Now and then a member probes a node that it knows, which tests addresses before they are needed.
//!   Both sides name the least node that they hear of (see `horizon`), so parts of a network that have
//!   come apart find each other again.
//! - Records are signed by their node, taken at a bounded rate, and spread over groups of addresses
//!   (see `passive`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::address::Address;
use crate::config::Config;
use crate::event::{LinkEnd, Reason};
use crate::frame::Frame;
use crate::frame::membership::{
    Beacon, Disconnect, MAX_RECORDS, Need, NeighbourReply, Outcome, Probe,
};
use crate::id::{Key, NodeId};
use crate::node_record::NodeRecord;
use crate::overlay::away::Away;
use crate::overlay::{Effect, Identity, Turn};
use crate::time::{Instant, earliest};
use crate::verify::Verifier;

mod budget;
mod exchange;
mod horizon;
mod passive;
mod places;
mod requests;
mod seek;
#[cfg(test)]
mod tests;

use budget::Budgets;
use horizon::Horizon;
use passive::Passive;
use places::is_ours;

/// Steps of the walk on which a new node is told of: the paper's ARWL.
const JOIN_STEPS: u8 = 6;
/// Where the nodes on that walk remember it: the paper's PRWL.
const PASSIVE_STEPS: u8 = 3;
/// Steps of a shuffle: as far as a join.
const SHUFFLE_STEPS: u8 = 6;
/// Records of neighbours and of others in a shuffle: the paper's ka and kp.
const SHUFFLE_ACTIVE: usize = 3;
const SHUFFLE_PASSIVE: usize = 4;
/// Shuffles whose way back is remembered, and how long.
const MAX_SHUFFLES: usize = 64;
const SHUFFLE_TIME: Duration = Duration::from_secs(30);

/// How long an answer is waited for, and a place kept: the time that a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a dial may take that another has crossed: to connect, and the handshake.
const CROSSED: Duration = Duration::from_secs(30);

/// Nodes asked at once by who lacks neighbours.
const AT_ONCE: usize = 3;

/// With fewer neighbours than this a node asks one after the other, else now and then.
const FEW: usize = 3;

/// How often who has a few neighbours looks for more.
const SEEK: Duration = Duration::from_secs(10);
/// How often who has too few looks again for somebody to ask.
const SEEK_SOON: Duration = Duration::from_secs(1);

/// The wait before a place that is not free is asked for again; doubles up to the longest.
const SPLIT_MIN: Duration = Duration::from_secs(10);
const SPLIT_MAX: Duration = Duration::from_secs(600);

/// Nodes that were named to take the place of a neighbour, and wait to be asked.
const MAX_NAMED: usize = 16;

/// How often the finding that a node is apart may lead to a link.
const MEND: Duration = Duration::from_secs(5);

/// How old a record may be.
const MAX_RECORD_AGE: u64 = 24 * 60 * 60 * 1000;
/// How old our own gets before it is signed again, in milliseconds.
const RECORD_AGE: u64 = 60 * 60 * 1000;

/// Whom a node knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Views {
    /// Whether it is a member: finds and keeps its own neighbours.
    pub member: bool,
    /// Its neighbours.
    pub active: Vec<NodeId>,
    /// Nodes that it knows beside them, and where they may be.
    pub passive: Vec<NodeId>,
    /// Links that the application asked for.
    pub pinned: Vec<NodeId>,
}

/// A member's view of the network, or the lack of it of a node that is none.
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
    /// Whether it may become a member: not where its links are made by hand, nor after it has left.
    open: bool,
    manual: bool,
    member: bool,
    record: NodeRecord,
    /// The neighbours, with what they say of themselves.
    active: BTreeMap<NodeId, NodeRecord>,
    pinned: BTreeSet<NodeId>,
    passive: Passive,
    /// Links whose other end was asked for a place.
    asked: BTreeMap<NodeId, Asked>,
    dials: BTreeMap<NodeId, Dialling>,
    /// Nodes that are probed, and whether to be neighbours.
    probes: BTreeMap<NodeId, bool>,
    /// Places kept for those who probed.
    kept: BTreeMap<NodeId, Instant>,
    /// Nodes that dialled us while we dialled them: what comes of our dial is not needed any more.
    crossed: BTreeMap<NodeId, Instant>,
    /// Neighbours whose link another is about to take the place of.
    replaced: BTreeMap<NodeId, Instant>,
    named: VecDeque<NodeRecord>,
    /// Nodes whose application has disconnected this one: they are not asked for a place.
    avoided: Away,
    shuffles: VecDeque<(Instant, u64, Option<NodeId>)>,
    horizon: Horizon,
    budgets: Budgets,
    seek_at: Option<Instant>,
    shuffle_at: Option<Instant>,
    probe_at: Option<Instant>,
    beacon_at: Option<Instant>,
    mend_at: Instant,
    split_at: Instant,
    split_wait: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    need: Need,
    /// Whether we make room for it where we have none.
    firmly: bool,
    until: Instant,
}

#[derive(Debug)]
struct Dialling {
    need: Need,
    firmly: bool,
    /// The first of the addresses that are being dialled.
    at: Address,
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
            open: !identity.manual,
            manual: identity.manual,
            member: false,
            record: NodeRecord::sign(&key, &identity.network, identity.epoch, &[]),
            active: BTreeMap::new(),
            pinned: BTreeSet::new(),
            passive: Passive::new(config.passive_view),
            asked: BTreeMap::new(),
            dials: BTreeMap::new(),
            probes: BTreeMap::new(),
            kept: BTreeMap::new(),
            crossed: BTreeMap::new(),
            replaced: BTreeMap::new(),
            named: VecDeque::new(),
            avoided: Away::default(),
            shuffles: VecDeque::new(),
            horizon: Horizon::new(me, config),
            budgets: Budgets::default(),
            seek_at: None,
            shuffle_at: None,
            probe_at: None,
            beacon_at: None,
            mend_at: Instant::ZERO,
            split_at: Instant::ZERO,
            split_wait: SPLIT_MIN,
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

    /// Becomes a member through the other end of a link.
    pub(super) fn join(&mut self, turn: &mut Turn<'_>, through: NodeId) {
        if self.manual || !turn.links.contains_key(&through) {
            let outcome = if self.manual { Outcome::Manual } else { Outcome::Full };
            turn.put(Effect::JoinRefused(through, outcome));
            return;
        }
        self.open = true;
        self.start(turn);
        match self.active.contains_key(&through) {
            true => turn.put(Effect::Joined(through)),
            false => self.ask(turn, through, Need::Join, true),
        }
    }

    /// Leaves: neighbours are told of each other.
    pub(super) fn leave(&mut self, turn: &mut Turn<'_>) {
        let active = std::mem::take(&mut self.active);
        for id in active.keys() {
            let others = active.values().filter(|other| other.node != *id);
            let instead: Vec<_> = others.take(MAX_RECORDS).cloned().collect();
            turn.send(*id, Frame::Disconnect(Disconnect { instead, leaves: true }));
        }
        (self.open, self.member) = (false, false);
        self.pinned.clear();
        self.asked.clear();
        self.dials.clear();
        self.kept.clear();
        self.crossed.clear();
        self.replaced.clear();
        self.named.clear();
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

    /// A node's application has disconnected this one: it is not asked for a place for a while, but
    /// may have one.
    pub(super) fn avoid(&mut self, now: Instant, id: NodeId) {
        self.avoided.keep(now, id);
    }

    /// Ends that time.
    pub(super) fn lift(&mut self, id: NodeId) {
        self.avoided.lift(id);
    }

    pub(super) fn known(&mut self, turn: &mut Turn<'_>, nodes: Vec<(NodeId, Vec<Address>)>) {
        for (id, addresses) in nodes {
            self.passive.known(turn, id, addresses);
        }
    }

    pub(super) fn addresses(&mut self, turn: &mut Turn<'_>, addresses: &[Address]) {
        self.record = NodeRecord::sign(&self.key, &self.network, turn.unix, addresses);
    }

    pub(super) fn link_up(&mut self, turn: &mut Turn<'_>, id: NodeId) {
        if let Some(Dialling { need, firmly, .. }) = self.dials.remove(&id) {
            if !is_ours(turn, id) {
                self.crossed.retain(|_, until| *until > turn.now);
                self.crossed.insert(id, turn.now + CROSSED);
            }
            self.ask(turn, id, need, firmly);
        } else if self.replaced.remove(&id).is_some_and(|until| until > turn.now) {
            self.ask(turn, id, Need::High, true);
        }
    }

    pub(super) fn link_down(&mut self, turn: &mut Turn<'_>, id: NodeId, link_end: &LinkEnd) {
        if let Some(Asked { need: Need::Join, .. }) = self.asked.remove(&id) {
            turn.put(Effect::JoinRefused(id, Outcome::Full));
        }
        let Some(record) = self.active.remove(&id) else { return };
        match link_end.reason {
            Reason::Duplicate | Reason::Replaced => {
                self.replaced.retain(|_, until| *until > turn.now);
                self.replaced.insert(id, turn.now + PATIENCE);
            }
            Reason::Left | Reason::Fault(_) | Reason::Requested => self.passive.remove(id),
            // It may be back in a moment, or have lost its network as we have.
            _ => {
                self.passive.reached(turn, record);
                self.passive.refused(turn.now, id);
            }
        }
        self.seek(turn.now);
    }

    pub(super) fn dialled(&mut self, turn: &mut Turn<'_>, id: NodeId) {
        // There was a link already, or there is one only now.
        if turn.links.contains_key(&id)
            && let Some(Dialling { need, firmly, .. }) = self.dials.remove(&id)
        {
            self.ask(turn, id, need, firmly);
        }
        // The other side's dial was faster, and that link is over already: nobody wants ours.
        if self.crossed.remove(&id).is_some()
            && !self.active.contains_key(&id)
            && !self.asked.contains_key(&id)
        {
            self.close(turn, id, Reason::NotNeeded);
        }
    }

    pub(super) fn dial_failed(&mut self, turn: &mut Turn<'_>, address: &Address) {
        let Some(id) = address.id else { return };
        if self.dials.get(&id).is_none_or(|dial| dial.at != *address) {
            return;
        }
        self.dials.remove(&id);
        self.passive.failed(turn.now, id);
        self.seek(turn.now);
    }

    /// Takes a frame of membership.
    pub(super) fn receive(&mut self, turn: &mut Turn<'_>, from: NodeId, frame: Frame) {
        if let Frame::NeighbourRequest(request) = frame {
            self.receive_request(turn, from, request);
            return;
        }
        if !self.member {
            return;
        }
        match frame {
            Frame::NeighbourReply(reply) => self.receive_reply(turn, from, reply),
            Frame::ForwardJoin(join) => self.receive_join(turn, from, join),
            Frame::Disconnect(disconnect) => self.receive_disconnect(turn, from, disconnect),
            Frame::Shuffle(shuffle) => self.receive_shuffle(turn, from, shuffle),
            Frame::ShuffleReply(reply) => self.receive_shuffled(turn, reply, from),
            Frame::Beacon(beacon)
                if self.active.contains_key(&from) && self.horizon.receive(turn.now, beacon) =>
            {
                self.tell_beacon(turn, Some(from));
            }
            _ => {}
        }
    }

    /// Returns the answer to a probe of the node `from`, which its TLS key has proven.
    pub(super) fn answer_probe(
        &mut self,
        turn: &mut Turn<'_>,
        from: NodeId,
        probe: Probe,
    ) -> Probe {
        let room = self.member && self.open && self.has_room(turn.now);
        let neighbour = probe.neighbour
            && room
            && probe.record.node == from
            && !turn.away.is_kept(turn.now, from);
        if neighbour {
            self.kept.insert(from, turn.now + PATIENCE);
        }
        let records = self.sample(turn, from);
        let mut told = probe.records;
        told.push(probe.record);
        self.learn(turn, from, told);
        let (record, beacon) = (self.record.clone(), self.horizon.heard());
        Probe { neighbour, record, beacon, records }
    }

    pub(super) fn handle_timeout(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        let silent = self.asked.iter().filter(|(_, asked)| asked.until <= now);
        for (id, need) in silent.map(|(id, asked)| (*id, asked.need)).collect::<Vec<_>>() {
            self.asked.remove(&id);
            self.close(turn, id, Reason::NotNeeded);
            if need == Need::Join {
                turn.put(Effect::JoinRefused(id, Outcome::Full));
            }
            self.seek(now);
        }
        if self.beacon_at.is_some_and(|at| at <= now) {
            self.beacon_at = Some(now + turn.around(self.beacon_every));
            if self.horizon.beat(now, turn.unix).is_some() {
                self.tell_beacon(turn, None);
            }
            if turn.unix.saturating_sub(self.record.time) > RECORD_AGE {
                let addresses = std::mem::take(&mut self.record.addresses);
                self.addresses(turn, &addresses);
            }
        }
        if self.shuffle_at.is_some_and(|at| at <= now) {
            self.shuffle_at = Some(now + turn.around(self.shuffle_every));
            self.shuffle(turn);
        }
        if self.seek_at.is_some_and(|at| at <= now) {
            self.seek_at = None;
            self.find_neighbours(turn);
        }
        if self.probe_at.is_some_and(|at| at <= now) {
            self.probe_at = Some(now + turn.around(self.probe_every));
            let away = turn.away;
            let to_try = self.passive.to_try(turn, |id| self.is_candidate(now, away, id));
            if let Some(id) = to_try {
                self.probe(turn, id, false);
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.asked.values().map(|asked| asked.until).min();
        let soon = earliest(asked, self.seek_at);
        let regular = earliest(self.shuffle_at, self.probe_at);
        earliest(soon, earliest(regular, self.beacon_at))
    }

    /// Becomes a member, unless it is one.
    fn start(&mut self, turn: &mut Turn<'_>) {
        if self.member {
            return;
        }
        self.member = true;
        self.horizon.reset(turn.now);
        self.split_at = turn.now + SPLIT_MIN;
        self.shuffle_at = Some(turn.now + turn.around(self.shuffle_every) / 4);
        self.probe_at = Some(turn.now + turn.around(self.probe_every));
        self.beacon_at = Some(turn.now + turn.around(self.beacon_every) / 4);
        self.seek_at = Some(turn.now + SEEK_SOON);
    }

    fn reply(&self, turn: &mut Turn<'_>, to: NodeId, outcome: Outcome, records: Vec<NodeRecord>) {
        let record = self.record.clone();
        turn.send(to, Frame::NeighbourReply(NeighbourReply { outcome, record, records }));
    }

    fn tell_beacon(&mut self, turn: &mut Turn<'_>, but: Option<NodeId>) {
        let beacon: Beacon = self.horizon.heard();
        for id in self.active.keys().filter(|id| Some(**id) != but) {
            turn.send(*id, Frame::Beacon(beacon));
        }
    }
}
