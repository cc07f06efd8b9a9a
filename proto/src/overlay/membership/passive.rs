//! The passive view: the nodes that a member knows beside its neighbours.
//!
//! As in Bitcoin's address manager there are two parts: nodes that were reached (*tested*), and nodes
//! that are known from records of others. The latter never push out the former. Only a share of the
//! places goes to one group of addresses, as one owner may have many addresses of a group.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::address::Address;
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::OverlayContext;
use crate::time::Instant;

/// Divisor for the places of nodes that are known from records only: a third.
const LEARNED_SHARE: usize = 3;

/// Divisor for the places that one group of addresses may take of each part: a fifth.
const GROUP_SHARE: usize = 5;

/// Wait before a node that was not reached is tried again. It doubles up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(15);
/// The longest: the time after which a network that was split should notice that it is whole again.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Failures after which a tested node is forgotten: about half an hour.
const MAX_FAILURES: u32 = 30;

/// Wait before a node that had no place is asked for one again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The known nodes.
#[derive(Debug)]
pub(super) struct PassiveView {
    max: usize,
    entries: BTreeMap<NodeId, PassiveNode>,
}

#[derive(Debug, Clone)]
struct PassiveNode {
    /// `None` for a node that was met in an earlier run: it can be dialled, but not named to others.
    record: Option<NodeRecord>,
    addresses: Vec<Address>,
    /// The node was reached.
    tested: bool,
    /// Time of the last try, or of the record.
    changed_at: Instant,
    failures: u32,
    /// Time before which it is not tried.
    retry_at: Instant,
    /// Time before which it is not asked for a place.
    ask_at: Instant,
}

impl PassiveView {
    pub(super) fn new(max: usize) -> Self {
        Self { max, entries: BTreeMap::new() }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.entries.keys().copied()
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        self.entries.remove(&id);
    }

    /// Returns whether a record is newer than what is known. Only then its signature needs to be
    /// checked.
    pub(super) fn is_news(&self, record: &NodeRecord) -> bool {
        let known = self.entries.get(&record.node).and_then(|entry| entry.record.as_ref());
        !record.addresses.is_empty() && known.is_none_or(|known| known.time < record.time)
    }

    /// Adds a node that another node has named.
    pub(super) fn learn(&mut self, cx: &mut OverlayContext<'_>, record: NodeRecord) {
        if let Some(entry) = self.entries.get_mut(&record.node) {
            // The node has signed newer addresses. That says nothing about whether it can be reached,
            // so the rest of the entry stays.
            entry.addresses.clone_from(&record.addresses);
            entry.record = Some(record);
            return;
        }
        let entry = PassiveNode::new(record.addresses.clone(), Some(record), false, cx.now);
        self.insert(cx, entry);
    }

    /// Adds a node that was reached.
    pub(super) fn add_reached(&mut self, cx: &mut OverlayContext<'_>, record: NodeRecord) {
        if record.addresses.is_empty() {
            return;
        }
        // The wait after a refusal stays: a node that was reached may still have no place.
        let ask_at = self.entries.remove(&record.node).map(|entry| entry.ask_at);
        let mut entry = PassiveNode::new(record.addresses.clone(), Some(record), true, cx.now);
        entry.ask_at = ask_at.unwrap_or_default();
        self.insert(cx, entry);
    }

    /// Adds a node that was met in an earlier run.
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

    /// Notes that a node was not reached.
    pub(super) fn note_failure(&mut self, now: Instant, id: NodeId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.failures += 1;
        entry.changed_at = now;
        // The cap on `failures` only keeps the shift from overflowing.
        entry.retry_at = now + (RETRY_MIN * (1 << entry.failures.min(8))).min(RETRY_MAX);
        // A node that others have named gets one try, as anyone can make up nodes.
        if !entry.tested || entry.failures >= MAX_FAILURES {
            self.entries.remove(&id);
        }
    }

    /// Notes that a node has no place.
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

    /// Draws a node to ask for a place, of those whose wait is over. Nodes that were reached at the
    /// last try come first.
    pub(super) fn draw_to_ask(
        &self,
        cx: &mut OverlayContext<'_>,
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let now = cx.now;
        let able = |entry: &PassiveNode| entry.retry_at <= now && entry.ask_at <= now;
        let able = self.entries.iter().filter(|(id, entry)| able(entry) && fits(**id));
        let (well, rest): (Vec<_>, Vec<_>) = able.partition(|(_, entry)| entry.failures == 0);
        let ids = if well.is_empty() { rest } else { well };
        cx.pick(ids).map(|(id, _)| *id)
    }

    /// Draws a node to probe, of those whose wait is over.
    pub(super) fn draw_to_probe(
        &self,
        cx: &mut OverlayContext<'_>,
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let now = cx.now;
        let able = self.entries.iter().filter(|(id, entry)| entry.retry_at <= now && fits(**id));
        let ids = able.map(|(id, _)| *id).collect();
        cx.pick(ids)
    }

    /// Draws up to `count` records for other nodes. Only nodes that were reached are named, so that
    /// nodes do not pass on what they have not tested.
    pub(super) fn draw_records(
        &self,
        cx: &mut OverlayContext<'_>,
        count: usize,
    ) -> Vec<NodeRecord> {
        let well = self.entries.values().filter(|entry| entry.tested && entry.failures == 0);
        let mut records: Vec<_> = well.filter_map(|entry| entry.record.as_ref()).collect();
        let mut sample = Vec::new();
        while sample.len() < count && !records.is_empty() {
            sample.push(records.swap_remove(cx.below(records.len())).clone());
        }
        sample
    }

    fn insert(&mut self, cx: &mut OverlayContext<'_>, entry: PassiveNode) {
        let Some(id) = entry.id() else { return };
        // Each part has places of its own. So records that an attacker makes up can't push out the nodes
        // that were reached (eclipse attack).
        let learned = (self.max / LEARNED_SHARE).max(1);
        let places = if entry.tested { self.max.saturating_sub(learned).max(1) } else { learned };
        let part = || self.entries.iter().filter(|(_, other)| other.tested == entry.tested);
        let groups = entry.groups();
        let alike = |other: &PassiveNode| other.groups().iter().any(|group| groups.contains(group));
        let of_group: Vec<_> = part().filter(|(_, other)| alike(other)).collect();
        // In a crowded group the new node replaces one of the same group, so an owner of many addresses
        // only competes with itself.
        let crowded = of_group.len() >= (places / GROUP_SHARE).max(1);
        let candidates: Vec<_> = if crowded {
            of_group
        } else if part().count() >= places {
            part().collect()
        } else {
            Vec::new()
        };
        let removed = if entry.tested {
            // The node with the most failures is removed; of several, the one that was not seen for the
            // longest time.
            candidates
                .into_iter()
                .max_by_key(|(id, other)| {
                    (other.failures, std::cmp::Reverse(other.changed_at), **id)
                })
                .map(|(id, _)| *id)
        } else {
            // A stranger who names many nodes can't foresee which of them stay.
            cx.pick(candidates.into_iter().map(|(id, _)| *id).collect())
        };
        if let Some(removed) = removed {
            self.entries.remove(&removed);
        }
        self.entries.insert(id, entry);
    }
}

impl PassiveNode {
    fn new(
        addresses: Vec<Address>,
        record: Option<NodeRecord>,
        tested: bool,
        changed_at: Instant,
    ) -> Self {
        let (retry_at, ask_at) = (Instant::ZERO, Instant::ZERO);
        Self { record, addresses, tested, changed_at, failures: 0, retry_at, ask_at }
    }

    fn id(&self) -> Option<NodeId> {
        let of_record = self.record.as_ref().map(|record| record.node);
        of_record.or_else(|| self.addresses.first().and_then(|address| address.id))
    }

    fn groups(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(group).collect()
    }
}

/// Returns what the addresses that one owner may have many of have in common: the first 16 bits of an
/// IPv4 address, the first 32 of an IPv6 address (as in Bitcoin's address manager). Private addresses
/// have no group, as one owner has all of them, and names have none either.
fn group(address: &Address) -> Option<IpAddr> {
    match address.socket()?.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_private() || ip.is_link_local() => None,
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            Some(IpAddr::from([a, b, 0, 0]))
        }
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unique_local() => None,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => None,
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            Some(IpAddr::from([a, b, 0, 0, 0, 0, 0, 0]))
        }
    }
}
