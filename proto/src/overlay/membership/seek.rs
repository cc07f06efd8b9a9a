//! The search for neighbours: a member with free places asks other nodes for one. The same probes find nodes
//! of another part of the network, to which the member then makes a link (partition repair).

use std::net::IpAddr;

use crate::address::Address;
use crate::event::{Direction, Peer};
use crate::frame::Frame;
use crate::frame::membership::{Need, NeighbourRequest, Probe};
use crate::id::NodeId;
use crate::overlay::away::KeptAwayNodes;
use crate::overlay::{Effect, OverlayContext};
use crate::peer::{Output, Purpose};
use crate::time::{Instant, earliest};

use super::book::{FEEL_EVERY, FEEL_FIRST, FEEL_SOON, MAX_FEELERS};
use super::{
    FEW_NEIGHBOURS, MAX_REQUESTS, Membership, NeighbourDial, Origin, PLACE_TIMEOUT, PlaceRequest,
    ProbePurpose, REPAIR_EVERY, SEEK_EVERY, SEEK_SOON, SPLICE_MAX,
};

impl Membership {
    /// Starts a search for neighbours, if there is a free place.
    pub(super) fn seek(&mut self, now: Instant) {
        if self.member && self.active.len() < self.max_active {
            self.seek_at = Some(now);
        }
    }

    /// Schedules a search for neighbours in [`SEEK_EVERY`]. With few neighbours, starts it immediately.
    pub(super) fn seek_later(&mut self, cx: &mut OverlayContext<'_>) {
        if self.active.len() < FEW_NEIGHBOURS {
            self.seek(cx.now);
        } else if self.member {
            self.seek_at.get_or_insert(cx.now + cx.around(SEEK_EVERY));
        }
    }

    pub(super) fn find_neighbours(&mut self, cx: &mut OverlayContext<'_>) {
        let (now, away) = (cx.now, cx.away);
        // Requests under way count as taken places. Otherwise more nodes could accept than there is room for.
        let asking = self.probes.values().filter(|purpose| **purpose == ProbePurpose::Place);
        let open = self.asked.len() + self.dials.len() + asking.count();
        let lacking = self.max_active.saturating_sub(self.active.len() + open);
        let at_once = if self.active.len() < FEW_NEIGHBOURS { MAX_REQUESTS } else { 1 };
        for _ in 0..lacking.min(at_once.saturating_sub(open)) {
            let need = if self.active.is_empty() { Need::High } else { Need::Low };
            // A suggested node usually has a free place: it is new, or has lost the same neighbour. So it is
            // dialled without a probe.
            if let Some(record) = self.suggested.pop_front() {
                let id = record.node;
                if self.is_candidate(now, away, id) {
                    let addresses = record.addresses.into_iter().map(|at| at.with_id(id));
                    self.ask_or_dial(cx, id, addresses.collect(), need, Origin::Named);
                }
                continue;
            }
            // Sometimes a node of the passive view is asked all the same: it may be the only one with a free place.
            if need == Need::Low
                && cx.below(2) == 0
                && let Some(id) = self.draw_outbound(cx)
            {
                self.ask_to_be_outbound(cx, id);
                continue;
            }
            let candidate = self.passive.draw_to_ask(cx, |id| self.is_candidate(now, away, id));
            let Some(id) = candidate else { break };
            // The probe avoids a link that the other node would refuse. It is not needed if there is a link
            // already, nor if this node has no neighbour: then the other node makes room in any case.
            match need {
                Need::Low if !cx.links.contains_key(&id) => {
                    self.probe(cx, id, ProbePurpose::Place);
                }
                _ => {
                    let addresses = self.passive.addresses(id);
                    self.ask_or_dial(cx, id, addresses, need, Origin::Known);
                }
            }
        }
        if self.active.len() < self.max_active {
            let suggested = !self.suggested.is_empty();
            let wait = if self.active.len() < FEW_NEIGHBOURS || suggested {
                SEEK_SOON
            } else {
                SEEK_EVERY
            };
            self.seek_at.get_or_insert(cx.now + cx.around(wait));
        }
    }

    /// Returns whether a node may be asked for a place: it is not a neighbour, is not being asked, and is
    /// neither kept away nor avoided.
    pub(super) fn is_candidate(&self, now: Instant, away: &KeptAwayNodes, id: NodeId) -> bool {
        id != self.me
            && !away.contains(now, id)
            && !self.avoided.contains(now, id)
            && !self.active.contains_key(&id)
            && !self.asked.contains_key(&id)
            && !self.dials.contains_key(&id)
            && !self.probes.contains_key(&id)
    }

    /// Sends a feeler, unless none is due or too many are under way, and schedules the next one.
    pub(super) fn feel(&mut self, cx: &mut OverlayContext<'_>) {
        let (now, away) = (cx.now, cx.away);
        let sweeps = self.book.sweep_on(now);
        let mut due = self.book.due(now, |id| self.is_candidate(now, away, id));
        let [tested, learned] = &mut due;
        // A new member knows only the nodes that came at the same time. Nodes that it has not reached yet are
        // the way to others.
        let is_first =
            !sweeps && self.first_feelers > 0 && self.book.is_small() && !learned.is_empty();
        if is_first {
            tested.clear();
            // The nodes that the neighbours have named come first, as they show which neighbours lie.
            if learned.iter().any(|id| self.trials.needs(*id)) {
                learned.retain(|id| self.trials.needs(*id));
            }
        }
        let feelers = self.probes.values().filter(|purpose| **purpose == ProbePurpose::Feeler);
        if feelers.count() < MAX_FEELERS
            && let Some(id) = self.book.draw(cx, due)
        {
            self.first_feelers -= usize::from(is_first);
            self.probe(cx, id, ProbePurpose::Feeler);
        }
        let wait = if sweeps || self.active.is_empty() {
            FEEL_SOON
        } else if is_first {
            FEEL_FIRST
        } else {
            FEEL_EVERY
        };
        self.feel_at = Some(now + cx.around(wait));
    }

    /// Sends a feeler soon after the loss of a neighbour, as other nodes may have vanished at the same moment.
    pub(super) fn feel_after_loss(&mut self, now: Instant) {
        if !self.member {
            return;
        }
        // If most neighbours were lost, most other nodes may be lost too. A sweep finds those that are left.
        if self.active.len() < FEW_NEIGHBOURS {
            self.book.sweep(now);
        }
        self.feel_at = earliest(self.feel_at, Some(now + FEEL_SOON));
    }

    /// Notes that a node was not reached.
    pub(super) fn note_failure(&mut self, now: Instant, id: NodeId) {
        self.passive.note_failure(now, id);
        // A node without neighbours may have lost its own connection.
        let is_online = !self.active.is_empty();
        self.book.note_failure(now, id, is_online);
        if is_online {
            self.trials.note(id, false);
        }
    }

    /// Returns the addresses of a known node: those in the passive view, or else those in the address book.
    pub(super) fn addresses_of(&self, id: NodeId) -> Vec<Address> {
        let known = self.passive.addresses(id);
        if known.is_empty() { self.book.addresses(id) } else { known }
    }

    /// Sends a probe to a node.
    pub(super) fn probe(&mut self, cx: &mut OverlayContext<'_>, id: NodeId, purpose: ProbePurpose) {
        let addresses = self.addresses_of(id);
        // While this node has a free place, a probe that tests addresses asks for a place too. That saves a
        // second probe.
        let neighbour = purpose == ProbePurpose::Place || self.active.len() < self.max_active;
        let (record, beacon) = (self.record.clone(), self.partition.beacon());
        let records = self.draw_records(cx, id);
        let probe = Probe { neighbour, record, beacon, records };
        self.probes.insert(id, purpose);
        cx.put(Effect::Out(Output::Probe { addresses, id, probe }));
    }

    /// Handles the outcome of a probe: the IP address at which the node was reached and its answer, or `None` if
    /// it did not answer.
    pub(in crate::overlay) fn probed(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        answer: Option<(IpAddr, Probe)>,
    ) {
        let Some(purpose) = self.probes.remove(&id) else { return };
        let for_place = purpose == ProbePurpose::Place;
        let is_own = |answer: &Probe| answer.record.node == id && self.is_valid(cx, &answer.record);
        let answer = answer.filter(|(_, answer)| is_own(answer));
        let Some((ip, Probe { neighbour, record, beacon, records })) = answer else {
            self.note_failure(cx.now, id);
            if for_place {
                self.seek(cx.now);
            }
            return;
        };
        let addresses: Vec<_> =
            record.addresses.iter().map(|address| address.clone().with_id(id)).collect();
        let group = self.address_groups.group(ip);
        self.book.reached(cx, &record, group);
        self.trials.note(id, true);
        self.passive.add_reached(cx, record, group);
        self.learn(cx, Some(id), records);
        if !self.member || !self.is_candidate(cx.now, cx.away, id) {
            return;
        }
        // Partition repair: one link is enough to join two parts, so both nodes make room for it if they are
        // full. The pause gives the beacon time to cross the new link. Until then, further probes would also
        // report a partition.
        let apart = self.partition.is_partitioned(cx, beacon);
        if apart && self.repair_at <= cx.now && self.partition.may_repair(cx.now) {
            self.repair_at = cx.now + REPAIR_EVERY;
            self.ask_or_dial(cx, id, addresses, Need::High, Origin::Repair);
        } else if neighbour && self.active.len() < self.max_active {
            self.ask_or_dial(cx, id, addresses, Need::Low, Origin::Known);
        } else if for_place && self.may_splice(cx) {
            self.ask_or_dial(cx, id, addresses, Need::High, Origin::Known);
        } else if for_place {
            self.passive.note_refusal(cx.now, id);
            self.seek_later(cx);
        }
    }

    /// Returns whether to ask a full node for a place, so that this node is spliced into an edge. The full
    /// node drops a neighbour and names this node to it. The dropped neighbour dials this node, so no node's
    /// degree drops. That works only if others can dial this node, so it needs to have an inbound link
    /// already. It is done rarely, as it moves links of other nodes.
    fn may_splice(&mut self, cx: &OverlayContext<'_>) -> bool {
        let lacking = self.max_active.saturating_sub(self.active.len());
        let inbound = |peer: &Peer| peer.direction() == Direction::Inbound;
        // Splicing takes two places of this node: for the node that makes room, and for the neighbour that it
        // drops. With a single free place, the dropped neighbour would find none.
        if lacking < 2 || self.splice_at > cx.now || !cx.links.values().any(inbound) {
            return false;
        }
        // The wait doubles, so that a node which never finds enough neighbours hardly moves the links of
        // others.
        self.splice_at = cx.now + self.splice_wait;
        self.splice_wait = (self.splice_wait * 2).min(SPLICE_MAX);
        true
    }

    /// Asks a node for a place over the link with it. If there is none, dials the node first.
    pub(super) fn ask_or_dial(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        addresses: Vec<Address>,
        need: Need,
        origin: Origin,
    ) {
        if cx.links.contains_key(&id) {
            self.ask_for_place(cx, id, need, origin);
            return;
        }
        let Some(address) = addresses.first().cloned() else { return };
        cx.put(Effect::Dial { addresses, purpose: Purpose::Overlay });
        self.dials.insert(id, NeighbourDial { need, origin, address });
    }

    /// Sends a peer a request for a place.
    pub(super) fn ask_for_place(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        need: Need,
        origin: Origin,
    ) {
        self.asked.insert(id, PlaceRequest { need, origin, until: cx.now + PLACE_TIMEOUT });
        let record = self.record.clone();
        cx.send(id, Frame::NeighbourRequest(NeighbourRequest { need, record }));
    }
}
