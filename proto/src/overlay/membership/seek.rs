//! How a member finds neighbours: whom it asks, when, and on which way.

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
    AT_ONCE, Asked, Dialling, FEW, MEND, Membership, PATIENCE, SEEK, SEEK_SOON, SPLIT_MAX,
};

impl Membership {
    /// Looks for neighbours now.
    pub(super) fn seek(&mut self, now: Instant) {
        if self.member && self.active.len() < self.max_active {
            self.seek_at = Some(now);
        }
    }

    /// Looks for neighbours soon, or now where there are few.
    pub(super) fn seek_later(&mut self, turn: &mut Turn<'_>) {
        if self.active.len() < FEW {
            self.seek(turn.now);
        } else if self.member {
            self.seek_at.get_or_insert(turn.now + turn.around(SEEK));
        }
    }

    pub(super) fn find_neighbours(&mut self, turn: &mut Turn<'_>) {
        let (now, away) = (turn.now, turn.away);
        let asking = self.probes.values().filter(|to_ask| **to_ask).count();
        let open = self.asked.len() + self.dials.len() + asking;
        let lacking = self.max_active.saturating_sub(self.active.len() + open);
        let at_once = if self.active.len() < FEW { AT_ONCE } else { 1 };
        for _ in 0..lacking.min(at_once.saturating_sub(open)) {
            let need = if self.active.is_empty() { Need::High } else { Need::Low };
            if let Some(record) = self.named.pop_front() {
                let id = record.node;
                if self.is_candidate(now, away, id) {
                    let addresses = record.addresses.into_iter().map(|at| at.with_id(id));
                    self.approach(turn, id, addresses.collect(), need, false);
                }
                continue;
            }
            let candidate = self.passive.to_ask(turn, |id| self.is_candidate(now, away, id));
            let Some(id) = candidate else { break };
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
            let named = !self.named.is_empty();
            let wait = if self.active.len() < FEW || named { SEEK_SOON } else { SEEK };
            self.seek_at.get_or_insert(turn.now + turn.around(wait));
        }
    }

    /// Returns whether a node may be asked: it is no neighbour, not being asked already, and not to
    /// stay away.
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
        let neighbour = to_ask || self.active.len() < self.max_active;
        let (record, beacon) = (self.record.clone(), self.horizon.heard());
        let records = self.sample(turn, id);
        let probe = Probe { neighbour, record, beacon, records };
        self.probes.insert(id, to_ask);
        turn.put(Effect::Out(Output::Probe { addresses, id, probe }));
    }

    /// What has come of a probe of ours.
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
        self.passive.reached(turn, record);
        self.learn(turn, id, records);
        if !self.member || !self.is_candidate(turn.now, turn.away, id) {
            return;
        }
        let apart = self.horizon.is_apart(turn, beacon);
        if apart && self.mend_at <= turn.now {
            self.mend_at = turn.now + MEND;
            self.approach(turn, id, addresses, Need::High, true);
        } else if neighbour && self.active.len() < self.max_active {
            self.approach(turn, id, addresses, Need::Low, false);
        } else if to_ask && self.is_to_split(turn) {
            self.approach(turn, id, addresses, Need::High, true);
        } else if to_ask {
            self.passive.refused(turn.now, id);
            self.seek_later(turn);
        }
    }

    /// Whether to ask for a place that is not free. Who lacks two neighbours comes to stand within an
    /// edge so, and nobody loses one: who has to go is told of who comes, and dials it. So only who was
    /// dialled by somebody may, and not often.
    fn is_to_split(&mut self, turn: &Turn<'_>) -> bool {
        let lacking = self.max_active.saturating_sub(self.active.len());
        let inbound = |peer: &Peer| peer.direction() == Direction::Inbound;
        if lacking < 2 || self.split_at > turn.now || !turn.links.values().any(inbound) {
            return false;
        }
        self.split_at = turn.now + self.split_wait;
        self.split_wait = (self.split_wait * 2).min(SPLIT_MAX);
        true
    }

    /// Asks a node for a place, over its link or by dialling it.
    pub(super) fn approach(
        &mut self,
        turn: &mut Turn<'_>,
        id: NodeId,
        addresses: Vec<Address>,
        need: Need,
        firmly: bool,
    ) {
        if turn.links.contains_key(&id) {
            self.ask(turn, id, need, firmly);
            return;
        }
        let Some(at) = addresses.first().cloned() else { return };
        turn.put(Effect::Dial { addresses, purpose: Purpose::Overlay });
        self.dials.insert(id, Dialling { need, firmly, at });
    }

    pub(super) fn ask(&mut self, turn: &mut Turn<'_>, id: NodeId, need: Need, firmly: bool) {
        self.asked.insert(id, Asked { need, firmly, until: turn.now + PATIENCE });
        let record = self.record.clone();
        turn.send(id, Frame::NeighbourRequest(NeighbourRequest { need, record }));
    }
}
