//! The search of a member for neighbours.

use crate::address::Address;
use crate::event::{Direction, Peer};
use crate::frame::Frame;
use crate::frame::membership::{Need, NeighbourRequest, Probe};
use crate::id::NodeId;
use crate::overlay::away::Away;
use crate::overlay::{Effect, Turn};
use crate::peer::{Output, Purpose};
use crate::time::Instant;

use super::{
    FEW, MAX_ASKED, Membership, NeighbourDial, PATIENCE, PlaceRequest, REPAIR_EVERY, SEEK,
    SEEK_SOON, SPLICE_MAX,
};

impl Membership {
    /// Looks for neighbours now.
    pub(super) fn seek(&mut self, now: Instant) {
        if self.member && self.active.len() < self.max_active {
            self.seek_at = Some(now);
        }
    }

    /// Looks for neighbours soon; now if there are few.
    pub(super) fn seek_later(&mut self, turn: &mut Turn<'_>) {
        if self.active.len() < FEW {
            self.seek(turn.now);
        } else if self.member {
            self.seek_at.get_or_insert(turn.now + turn.around(SEEK));
        }
    }

    pub(super) fn find_neighbours(&mut self, turn: &mut Turn<'_>) {
        let (now, away) = (turn.now, turn.away);
        // Requests under way count as places, or more nodes could accept than there is room for.
        let asking = self.probes.values().filter(|to_ask| **to_ask).count();
        let open = self.asked.len() + self.dials.len() + asking;
        let lacking = self.max_active.saturating_sub(self.active.len() + open);
        let at_once = if self.active.len() < FEW { MAX_ASKED } else { 1 };
        for _ in 0..lacking.min(at_once.saturating_sub(open)) {
            let need = if self.active.is_empty() { Need::High } else { Need::Low };
            // A suggested node lacks a neighbour as well, so it is dialled without a probe.
            if let Some(record) = self.suggested.pop_front() {
                let id = record.node;
                if self.is_candidate(now, away, id) {
                    let addresses = record.addresses.into_iter().map(|at| at.with_id(id));
                    self.approach(turn, id, addresses.collect(), need, false);
                }
                continue;
            }
            let candidate = self.passive.to_ask(turn, |id| self.is_candidate(now, away, id));
            let Some(id) = candidate else { break };
            // The probe avoids links that come to nothing. With a link there is nothing to avoid, and
            // without any neighbour the answer does not matter: the other node makes room.
            match need {
                Need::Low if !turn.links.contains_key(&id) => {
                    self.probe(turn, id, true);
                }
                _ => {
                    let addresses = self.passive.addresses(id);
                    self.approach(turn, id, addresses, need, need == Need::High);
                }
            }
        }
        if self.active.len() < self.max_active {
            let suggested = !self.suggested.is_empty();
            let wait = if self.active.len() < FEW || suggested { SEEK_SOON } else { SEEK };
            self.seek_at.get_or_insert(turn.now + turn.around(wait));
        }
    }

    /// Returns whether a node may be asked for a place: it is no neighbour, is not being asked, and is
    /// not to stay away.
    pub(super) fn is_candidate(&self, now: Instant, away: &Away, id: NodeId) -> bool {
        id != self.me
            && !away.is_kept(now, id)
            && !self.avoided.is_kept(now, id)
            && !self.active.contains_key(&id)
            && !self.asked.contains_key(&id)
            && !self.dials.contains_key(&id)
            && !self.probes.contains_key(&id)
    }

    pub(super) fn probe(&mut self, turn: &mut Turn<'_>, id: NodeId, to_ask: bool) {
        let addresses = self.passive.addresses(id);
        // A probe that only tests an address also asks for a place while one is free here, which saves
        // a second probe.
        let neighbour = to_ask || self.active.len() < self.max_active;
        let (record, beacon) = (self.record.clone(), self.partition.beacon());
        let records = self.sample(turn, id);
        let probe = Probe { neighbour, record, beacon, records };
        self.probes.insert(id, to_ask);
        turn.put(Effect::Out(Output::Probe { addresses, id, probe }));
    }

    /// Takes the outcome of a probe: what the node answered, if it did.
    pub(in crate::overlay) fn probed(
        &mut self,
        turn: &mut Turn<'_>,
        id: NodeId,
        answer: Option<Probe>,
    ) {
        let Some(to_ask) = self.probes.remove(&id) else { return };
        let answer =
            answer.filter(|answer| answer.record.node == id && self.is_true(turn, &answer.record));
        let Some(Probe { neighbour, record, beacon, records }) = answer else {
            self.passive.failed(turn.now, id);
            if to_ask {
                self.seek(turn.now);
            }
            return;
        };
        let addresses: Vec<_> =
            record.addresses.iter().map(|address| address.clone().with_id(id)).collect();
        self.passive.add_reached(turn, record);
        self.learn(turn, id, records);
        if !self.member || !self.is_candidate(turn.now, turn.away, id) {
            return;
        }
        // Partition repair: one link is enough to join two parts, so the node gets a place even if both
        // sides are full. The pause lets the beacon cross the new link before the next probe is judged
        // by it.
        let apart = self.partition.is_partitioned(turn, beacon);
        if apart && self.repair_at <= turn.now {
            self.repair_at = turn.now + REPAIR_EVERY;
            self.approach(turn, id, addresses, Need::High, true);
        } else if neighbour && self.active.len() < self.max_active {
            self.approach(turn, id, addresses, Need::Low, false);
        } else if to_ask && self.may_splice(turn) {
            self.approach(turn, id, addresses, Need::High, true);
        } else if to_ask {
            self.passive.refused(turn.now, id);
            self.seek_later(turn);
        }
    }

    /// Returns whether to ask for a place that is not free, to be spliced into an edge. The neighbour
    /// that has to go learns of this node and dials it, so no node's degree drops. That works only if
    /// others can dial this node, so it needs an inbound link first. It is done rarely, as it moves
    /// links of others.
    fn may_splice(&mut self, turn: &Turn<'_>) -> bool {
        let lacking = self.max_active.saturating_sub(self.active.len());
        let inbound = |peer: &Peer| peer.direction() == Direction::Inbound;
        // Splicing fills two places: with the node that makes room, and with the neighbour that it
        // drops. With one free place, the dropped neighbour would find none here.
        if lacking < 2 || self.splice_at > turn.now || !turn.links.values().any(inbound) {
            return false;
        }
        // The wait doubles, so that a node which does not find enough neighbours stops moving the links
        // of others.
        self.splice_at = turn.now + self.splice_wait;
        self.splice_wait = (self.splice_wait * 2).min(SPLICE_MAX);
        true
    }

    /// Asks a node for a place over the link with it, or dials it first.
    pub(super) fn approach(
        &mut self,
        turn: &mut Turn<'_>,
        id: NodeId,
        addresses: Vec<Address>,
        need: Need,
        makes_room: bool,
    ) {
        if turn.links.contains_key(&id) {
            self.ask(turn, id, need, makes_room);
            return;
        }
        let Some(at) = addresses.first().cloned() else { return };
        turn.put(Effect::Dial { addresses, purpose: Purpose::Overlay });
        self.dials.insert(id, NeighbourDial { need, makes_room, at });
    }

    pub(super) fn ask(&mut self, turn: &mut Turn<'_>, id: NodeId, need: Need, makes_room: bool) {
        self.asked.insert(id, PlaceRequest { need, makes_room, until: turn.now + PATIENCE });
        let record = self.record.clone();
        turn.send(id, Frame::NeighbourRequest(NeighbourRequest { need, record }));
    }
}
