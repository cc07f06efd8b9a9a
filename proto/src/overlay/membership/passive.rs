//! The passive view: the nodes that a member knows in addition to its neighbours.
//!
//! As in Bitcoin's address manager there are two parts: nodes that were reached (*tested*), and nodes that
//! are known only because other nodes have sent their records (*learned*). Learned nodes never push out
//! tested ones. Nodes whose addresses are in one group fill only a share of the places, as one owner may have
//! many addresses of a group.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::address::Address;
use crate::address_group::{AddressGroup, AddressGroups};
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::OverlayContext;
use crate::time::Instant;

/// Divisor that gives the number of places for learned nodes: a third of all.
const LEARNED_SHARE: usize = 3;

/// Divisor that gives the number of places of each part that one group of addresses may fill: a fifth.
const GROUP_SHARE: usize = 5;

/// Wait after the first failure to reach a node, before it is tried again. It doubles with each failure.
pub(super) const RETRY_MIN: Duration = Duration::from_secs(30);
/// Maximum wait: the time in which nodes should notice that a split of the network is over.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(60);

/// Number of failures in a row after which a tested node is removed: about half an hour.
const MAX_FAILURES: u32 = 30;

/// Wait before a node that had no free place is asked for one again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The nodes of the passive view.
#[derive(Debug)]
pub(super) struct PassiveView {
    max: usize,
    address_groups: AddressGroups,
    entries: BTreeMap<NodeId, PassiveNode>,
}

#[derive(Debug, Clone)]
struct PassiveNode {
    /// `None` for a node that is known from an earlier run of this node. It can be dialled, but no record of
    /// it can be sent to others.
    record: Option<NodeRecord>,
    addresses: Vec<Address>,
    /// The node was reached at least once.
    tested: bool,
    /// The group of the IP address at which the node was reached. `None` if it was not reached in this run, or
    /// has no group.
    reached_group: Option<AddressGroup>,
    /// Time of the last failure, or of the entry's creation.
    changed_at: Instant,
    failures: u32,
    /// Time before which the node is neither probed nor asked for a place.
    retry_at: Instant,
    /// Time before which the node is not asked for a place.
    ask_at: Instant,
}

impl PassiveView {
    pub(super) fn new(max: usize, address_groups: AddressGroups) -> Self {
        Self { max, address_groups, entries: BTreeMap::new() }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.entries.keys().copied()
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        self.entries.remove(&id);
    }

    /// Returns whether a record is newer than the known one and has addresses. Otherwise its signature need
    /// not be checked.
    pub(super) fn is_news(&self, record: &NodeRecord) -> bool {
        let known = self.entries.get(&record.node).and_then(|entry| entry.record.as_ref());
        !record.addresses.is_empty() && known.is_none_or(|known| known.time < record.time)
    }

    /// Adds or updates a node from a record that another node has sent.
    pub(super) fn learn(&mut self, cx: &mut OverlayContext<'_>, record: NodeRecord) {
        if let Some(entry) = self.entries.get_mut(&record.node) {
            // The node has signed newer addresses. Whether it can be reached is still unknown, so the rest of
            // the entry stays.
            entry.addresses.clone_from(&record.addresses);
            entry.record = Some(record);
            return;
        }
        let entry = PassiveNode::new(record.addresses.clone(), Some(record), false, cx.now);
        self.insert(cx, entry);
    }

    /// Adds a node that was reached. An earlier failure no longer counts.
    ///
    /// `group` is the group of the IP address at which the node was reached. The addresses in the record do not
    /// count, as the node chooses them itself.
    pub(super) fn add_reached(
        &mut self,
        cx: &mut OverlayContext<'_>,
        record: NodeRecord,
        group: Option<AddressGroup>,
    ) {
        if record.addresses.is_empty() {
            return;
        }
        // The wait after a refusal stays: a node that was reached may still have no free place.
        let ask_at = self.entries.remove(&record.node).map(|entry| entry.ask_at);
        let mut entry = PassiveNode::new(record.addresses.clone(), Some(record), true, cx.now);
        entry.ask_at = ask_at.unwrap_or_default();
        entry.reached_group = group;
        self.insert(cx, entry);
    }

    /// Adds a node that is known from an earlier run of this node.
    pub(super) fn add_known(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        addresses: Vec<Address>,
    ) {
        if !addresses.is_empty() && !self.entries.contains_key(&id) {
            let addresses = addresses.into_iter().map(|address| address.with_id(id)).collect();
            self.insert(cx, PassiveNode::new(addresses, None, true, cx.now));
        }
    }

    /// Notes that a node was not reached. It is tried again later, or removed.
    pub(super) fn note_failure(&mut self, now: Instant, id: NodeId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.failures += 1;
        entry.changed_at = now;
        // The cap on `failures` only keeps the shift from overflowing.
        let doubled = entry.failures.min(8) - 1;
        entry.retry_at = now + (RETRY_MIN * (1 << doubled)).min(RETRY_MAX);
        // A learned node is removed after one failure, as any node can send records of nodes that do not
        // exist.
        if !entry.tested || entry.failures >= MAX_FAILURES {
            self.entries.remove(&id);
        }
    }

    /// Notes that a node has no free place.
    pub(super) fn note_refusal(&mut self, now: Instant, id: NodeId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.ask_at = now + ASK_AGAIN;
        }
    }

    /// Returns the addresses of a node, each with its identity.
    pub(super) fn addresses(&self, id: NodeId) -> Vec<Address> {
        let addresses = self.entries.get(&id).map(|entry| entry.addresses.iter());
        addresses.into_iter().flatten().map(|address| address.clone().with_id(id)).collect()
    }

    /// Draws a node to ask for a place: one that `fits` and whose waits are over. Nodes that did not fail at
    /// the last try are preferred.
    pub(super) fn draw_to_ask(
        &self,
        cx: &mut OverlayContext<'_>,
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let now = cx.now;
        let is_due = |entry: &PassiveNode| entry.retry_at <= now && entry.ask_at <= now;
        let due = self.entries.iter().filter(|(id, entry)| is_due(entry) && fits(**id));
        let (reachable, rest): (Vec<_>, Vec<_>) = due.partition(|(_, entry)| entry.failures == 0);
        let ids = if reachable.is_empty() { rest } else { reachable };
        cx.pick(ids).map(|(id, _)| *id)
    }

    /// Draws a node to probe: one that `fits` and whose wait after a failure is over.
    pub(super) fn draw_to_probe(
        &self,
        cx: &mut OverlayContext<'_>,
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let now = cx.now;
        let due = self.entries.iter().filter(|(id, entry)| entry.retry_at <= now && fits(**id));
        let ids = due.map(|(id, _)| *id).collect();
        cx.pick(ids)
    }

    /// Draws up to `count` records to send to another node. They are records of nodes that were reached at
    /// the last try, so that no node passes on records of nodes that may not exist.
    pub(super) fn draw_records(
        &self,
        cx: &mut OverlayContext<'_>,
        count: usize,
    ) -> Vec<NodeRecord> {
        let reachable = self.entries.values().filter(|entry| entry.tested && entry.failures == 0);
        let mut records: Vec<_> = reachable.filter_map(|entry| entry.record.as_ref()).collect();
        let mut sample = Vec::new();
        while sample.len() < count && !records.is_empty() {
            sample.push(records.swap_remove(cx.below(records.len())).clone());
        }
        sample
    }

    fn insert(&mut self, cx: &mut OverlayContext<'_>, entry: PassiveNode) {
        let Some(id) = entry.id() else { return };
        // Each part has places of its own. So an attacker can't push out the tested nodes with invented
        // records (eclipse attack).
        let learned = (self.max / LEARNED_SHARE).max(1);
        let places = if entry.tested { self.max.saturating_sub(learned).max(1) } else { learned };
        let part = || self.entries.iter().filter(|(_, other)| other.tested == entry.tested);
        let groups_of = |node: &PassiveNode| node.groups(self.address_groups);
        let groups = groups_of(&entry);
        let shares_group =
            |other: &PassiveNode| groups_of(other).iter().any(|group| groups.contains(group));
        let of_group: Vec<_> = part().filter(|(_, other)| shares_group(other)).collect();
        // If the group has its full share, the new node replaces one of the same group. So the owner of many
        // addresses competes only with itself.
        let group_is_full = of_group.len() >= (places / GROUP_SHARE).max(1);
        let candidates: Vec<_> = if group_is_full {
            of_group
        } else if part().count() >= places {
            crowded(part().collect(), groups_of)
        } else {
            Vec::new()
        };
        let removed = if entry.tested {
            // The node with the most failures is removed. If several have as many, it is the one whose entry
            // is the oldest.
            candidates
                .into_iter()
                .max_by_key(|(id, other)| {
                    (other.failures, std::cmp::Reverse(other.changed_at), **id)
                })
                .map(|(id, _)| *id)
        } else {
            // Chosen at random, so that a node that sends many records can't foresee which of them stay.
            cx.pick(candidates.into_iter().map(|(id, _)| *id).collect())
        };
        if let Some(removed) = removed {
            self.entries.remove(&removed);
        }
        self.entries.insert(id, entry);
    }
}

/// Returns the nodes of the group that has most of them, or all nodes if no group has two. So the owner of many
/// nodes in a few groups displaces its own nodes, and the view stays mixed.
fn crowded<'n>(
    nodes: Vec<(&'n NodeId, &'n PassiveNode)>,
    groups_of: impl Fn(&PassiveNode) -> Vec<AddressGroup>,
) -> Vec<(&'n NodeId, &'n PassiveNode)> {
    let mut by_group = BTreeMap::<_, Vec<_>>::new();
    for node in &nodes {
        for group in groups_of(node.1) {
            by_group.entry(group).or_default().push(*node);
        }
    }
    let crowded = by_group.into_values().filter(|of_group| of_group.len() > 1);
    crowded.max_by_key(Vec::len).unwrap_or(nodes)
}

impl PassiveNode {
    fn new(
        addresses: Vec<Address>,
        record: Option<NodeRecord>,
        tested: bool,
        changed_at: Instant,
    ) -> Self {
        let (retry_at, ask_at) = (Instant::ZERO, Instant::ZERO);
        Self {
            record,
            addresses,
            tested,
            reached_group: None,
            changed_at,
            failures: 0,
            retry_at,
            ask_at,
        }
    }

    fn id(&self) -> Option<NodeId> {
        let of_record = self.record.as_ref().map(|record| record.node);
        of_record.or_else(|| self.addresses.first().and_then(|address| address.id))
    }

    fn groups(&self, groups: AddressGroups) -> Vec<AddressGroup> {
        match self.reached_group {
            Some(group) => vec![group],
            None => self.addresses.iter().filter_map(|address| groups.group_of(address)).collect(),
        }
    }
}
