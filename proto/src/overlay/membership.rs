//! Which neighbours a member has, and whom it knows beside them.

use crate::address::Address;
use crate::config::Config;
use crate::event::{Direction, Parting};
use crate::frame::Frame;
use crate::frame::broadcast::Have;
use crate::frame::membership::{Beacon, Outcome, Probe};
use crate::id::NodeId;
use crate::overlay::{Identity, Output, Turn};
use crate::record::Record;
use crate::time::Instant;
use crate::verify::Verifier;

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

#[derive(Debug)]
pub(super) struct Membership {
    record: Record,
}

impl Membership {
    pub(super) fn new(identity: &Identity, _config: &Config) -> Self {
        Self { record: Record::sign(&identity.key, &identity.network, identity.epoch, &[]) }
    }
    pub(super) fn verify_with(&mut self, _verifier: Verifier) {}
    pub(super) fn link_up(&mut self, _turn: &mut Turn<'_>, _id: NodeId, _direction: Direction) {}
    pub(super) fn link_down(&mut self, _turn: &mut Turn<'_>, _id: NodeId, _parting: &Parting) {}
    pub(super) fn dialled(&mut self, _turn: &mut Turn<'_>, _address: &Address, _id: NodeId) {}
    pub(super) fn dial_failed(&mut self, _turn: &mut Turn<'_>, _address: &Address) {}
    pub(super) fn probed(&mut self, _: &mut Turn<'_>, _: NodeId, _: Option<Probe>, _: &[Have]) {}
    pub(super) fn is_to_probe(&self, _now: Instant) -> bool {
        false
    }
    pub(super) fn handle_timeout(&mut self, _turn: &mut Turn<'_>, _summary: Vec<Have>) {}
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    pub(super) fn answer_probe(
        &mut self,
        _turn: &mut Turn<'_>,
        _from: NodeId,
        _probe: Probe,
        summary: Vec<Have>,
    ) -> Probe {
        let record = self.record.clone();
        let beacon = Beacon { least: record.node, count: 0 };
        Probe { neighbour: false, record, beacon, haves: summary, records: Vec::new() }
    }
    pub(super) fn views(&self) -> Views {
        Views::default()
    }
    pub(super) fn receive(&mut self, _turn: &mut Turn<'_>, _from: NodeId, _frame: Frame) {}
    pub(super) fn addresses(&mut self, _turn: &mut Turn<'_>, _addresses: &[Address]) {}
    pub(super) fn join(&mut self, turn: &mut Turn<'_>, through: NodeId) {
        turn.out.push_back(match turn.links.contains_key(&through) {
            true => Output::Joined(through),
            false => Output::JoinRefused(through, Outcome::Full),
        });
    }
    pub(super) fn known(&mut self, _turn: &mut Turn<'_>, _nodes: Vec<(NodeId, Vec<Address>)>) {}
    pub(super) fn pin(&mut self, _id: NodeId) {}
    pub(super) fn leave(&mut self, _turn: &mut Turn<'_>) {}
}
