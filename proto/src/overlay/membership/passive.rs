//! The nodes that a member knows beside its neighbours.
//!
//! Two parts, as in Bitcoin's address manager: those that were reached (*tested*), and those that
//! others have told of (*told*). What is told never pushes out what was reached; and of one group of
//! addresses, which one owner may have many of, only so many get in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::address::Address;
use crate::id::NodeId;
use crate::node_record::NodeRecord;
use crate::overlay::Turn;
use crate::time::Instant;

/// Of the places the part for nodes that were told of: a third.
const TOLD_SHARE: usize = 3;

/// Of each part's places the share that one group of addresses may have: a fifth.
const GROUP_SHARE: usize = 5;

/// The wait before a node that was not reached is tried again; doubles up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(15);
/// The longest: as long as a network that was split may take to notice that it is not any more.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Failures after which a node that was reached once is forgotten: some half an hour.
const MAX_FAILURES: u32 = 30;

/// The wait before a node that had no place is asked for one again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The nodes that are known.
#[derive(Debug)]
pub(super) struct Passive {
    max: usize,
    entries: BTreeMap<NodeId, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// None where it was met in an earlier run: it can be dialled, and not told of.
    record: Option<NodeRecord>,
    addresses: Vec<Address>,
    /// Whether it was reached.
    tested: bool,
    /// When it was last tried or told of.
    at: Instant,
    failures: u32,
    /// Not tried before.
    retry: Instant,
    /// Not asked for a place before.
    ask: Instant,
}

impl Passive {
    pub(super) fn new(max: usize) -> Self {
        Self { max, entries: BTreeMap::new() }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.entries.keys().copied()
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        self.entries.remove(&id);
    }

    /// Whether a record says what is not known yet: only then its signature has to be checked.
    pub(super) fn is_news(&self, record: &NodeRecord) -> bool {
        let known = self.entries.get(&record.node).and_then(|entry| entry.record.as_ref());
        !record.addresses.is_empty() && known.is_none_or(|known| known.time < record.time)
    }

    /// Somebody has told of a node.
    pub(super) fn told(&mut self, turn: &mut Turn<'_>, record: NodeRecord) {
        if let Some(entry) = self.entries.get_mut(&record.node) {
            entry.addresses.clone_from(&record.addresses);
            entry.record = Some(record);
            return;
        }
        let entry = Entry::new(record.addresses.clone(), Some(record), false, turn.now);
        self.insert(turn, entry);
    }

    /// A node was reached.
    pub(super) fn reached(&mut self, turn: &mut Turn<'_>, record: NodeRecord) {
        if record.addresses.is_empty() {
            return;
        }
        let ask = self.entries.remove(&record.node).map(|entry| entry.ask);
        let mut entry = Entry::new(record.addresses.clone(), Some(record), true, turn.now);
        entry.ask = ask.unwrap_or_default();
        self.insert(turn, entry);
    }

    /// A node was met in an earlier run.
    pub(super) fn known(&mut self, turn: &mut Turn<'_>, id: NodeId, addresses: Vec<Address>) {
        if !addresses.is_empty() && !self.entries.contains_key(&id) {
            let addresses = addresses.into_iter().map(|address| address.with_id(id)).collect();
            self.insert(turn, Entry::new(addresses, None, true, turn.now));
        }
    }

    /// A node could not be reached.
    pub(super) fn failed(&mut self, now: Instant, id: NodeId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.failures += 1;
        entry.at = now;
        entry.retry = now + (RETRY_MIN * (1 << entry.failures.min(8))).min(RETRY_MAX);
        if !entry.tested || entry.failures >= MAX_FAILURES {
            self.entries.remove(&id);
        }
    }

    /// A node has no place.
    pub(super) fn refused(&mut self, now: Instant, id: NodeId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.ask = now + ASK_AGAIN;
        }
    }

    /// Where a node may be.
    pub(super) fn addresses(&self, id: NodeId) -> Vec<Address> {
        let addresses = self.entries.get(&id).map(|entry| entry.addresses.iter());
        addresses.into_iter().flatten().map(|address| address.clone().with_id(id)).collect()
    }

    /// One to ask for a place, by chance of those for whom it is time; those that were reached last
    /// time come before the others.
    pub(super) fn to_ask(
        &self,
        turn: &mut Turn<'_>,
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let now = turn.now;
        let able = |entry: &Entry| entry.retry <= now && entry.ask <= now;
        let able = self.entries.iter().filter(|(id, entry)| able(entry) && fits(**id));
        let (well, rest): (Vec<_>, Vec<_>) = able.partition(|(_, entry)| entry.failures == 0);
        let ids = if well.is_empty() { rest } else { well };
        turn.pick(ids).map(|(id, _)| *id)
    }

    /// One to try whether it is there, by chance of those for whom it is time.
    pub(super) fn to_try(
        &self,
        turn: &mut Turn<'_>,
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let now = turn.now;
        let able = self.entries.iter().filter(|(id, entry)| entry.retry <= now && fits(**id));
        let ids = able.map(|(id, _)| *id).collect();
        turn.pick(ids)
    }

    /// Up to `count` records to tell others of, by chance: of nodes that were reached, so that nobody
    /// passes on what was only told.
    pub(super) fn sample(&self, turn: &mut Turn<'_>, count: usize) -> Vec<NodeRecord> {
        let well = self.entries.values().filter(|entry| entry.tested && entry.failures == 0);
        let mut records: Vec<_> = well.filter_map(|entry| entry.record.as_ref()).collect();
        let mut sample = Vec::new();
        while sample.len() < count && !records.is_empty() {
            sample.push(records.swap_remove(turn.below(records.len())).clone());
        }
        sample
    }

    fn insert(&mut self, turn: &mut Turn<'_>, entry: Entry) {
        let Some(id) = entry.id() else { return };
        let told = (self.max / TOLD_SHARE).max(1);
        let places = if entry.tested { self.max.saturating_sub(told).max(1) } else { told };
        let part = || self.entries.iter().filter(|(_, other)| other.tested == entry.tested);
        let groups = entry.groups();
        let alike = |other: &Entry| other.groups().iter().any(|group| groups.contains(group));
        let of_group: Vec<_> = part().filter(|(_, other)| alike(other)).collect();
        let crowded = of_group.len() >= (places / GROUP_SHARE).max(1);
        let candidates: Vec<_> = match crowded {
            true => of_group,
            false if part().count() >= places => part().collect(),
            false => Vec::new(),
        };
        if !candidates.is_empty() {
            let out = match entry.tested {
                // Who fails most goes, then who was not heard of for the longest.
                true => candidates
                    .into_iter()
                    .max_by_key(|(id, other)| (other.failures, std::cmp::Reverse(other.at), **id))
                    .map(|(id, _)| *id),
                false => turn.pick(candidates.into_iter().map(|(id, _)| *id).collect()),
            };
            if let Some(out) = out {
                self.entries.remove(&out);
            }
        }
        self.entries.insert(id, entry);
    }
}

impl Entry {
    fn new(addresses: Vec<Address>, record: Option<NodeRecord>, tested: bool, at: Instant) -> Self {
        let (retry, ask) = (Instant::ZERO, Instant::ZERO);
        Self { record, addresses, tested, at, failures: 0, retry, ask }
    }

    fn id(&self) -> Option<NodeId> {
        let told = self.record.as_ref().map(|record| record.node);
        told.or_else(|| self.addresses.first().and_then(|address| address.id))
    }

    fn groups(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(group).collect()
    }
}

/// What the addresses that one owner may have many of have in common: the first 16 bits of an IPv4
/// address, the first 32 of an IPv6 one (as in Bitcoin's address manager). None for those that are
/// given out within a house, where one owner has them all, and for names.
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
