//! The address book: nodes that this node has reached by a dial or a probe of its own, and nodes that it has
//! learned of. It is larger than the passive view and forgets slowly.
//!
//! The passive view of a node is filled by the nodes around it. If most nodes of a network vanish at one
//! moment, or if an attacker surrounds a node, the passive view soon holds only nodes of the same small part.
//! The address book still holds nodes of all parts. A member probes them at a low rate, even while it has all
//! its neighbours. Such a probe is called a *feeler*, as in Bitcoin Core. It finds separated parts of the
//! network, which [`partition`](super::partition) then joins.
//!
//! As in Bitcoin Core's address manager there are two tables: nodes that were reached (*tested*), and nodes
//! that are known only because other nodes have sent their records (*learned*). A node belongs to one of
//! [`BUCKETS`] buckets of a table. Which one depends on its group of addresses, on its identity and on a secret,
//! and for a learned node also on the sender of the record. The nodes of one group share [`BUCKETS_OF_GROUP`]
//! buckets, so one owner fills a small part of the book. In a full bucket, a tested node that still answers is
//! never replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::address::Address;
use crate::address_group::{AddressGroup, AddressGroups};
use crate::id::{Hash, NodeId};
use crate::node_record::NodeRecord;
use crate::overlay::OverlayContext;
use crate::time::Instant;

/// Number of buckets of a table, and of nodes in each: 1,024 nodes in a table. If 95 % of them vanish, 51 are left, and at
/// most a few of them are in the same part of the network. With up to [`MAX_ADDRESSES`] short addresses, the
/// full book takes about 300 KiB.
const BUCKETS: u8 = 64;
const BUCKET_SIZE: usize = 16;

/// Number of buckets that the nodes of one group of addresses share: a sixteenth of the book. Bitcoin Core has
/// a thirty-second (8 of 256 buckets), but knows far more groups.
const BUCKETS_OF_GROUP: u8 = 4;

/// Maximum number of addresses that are kept of each node.
const MAX_ADDRESSES: usize = 4;

/// Interval at which a member sends a feeler while the nodes of the book answer. A feeler is a TLS connection
/// and a probe with its answer: about 5 kB in all.
pub(super) const FEEL_EVERY: Duration = Duration::from_secs(60);
/// Interval at which feelers follow each other while the book is small (see [`SMALL_BOOK`]).
pub(super) const FEEL_FIRST: Duration = Duration::from_secs(5);
/// Number of reached nodes below which the book is small. A network that is two minutes old, and of which 95 %
/// vanish, is one component again only if its nodes know more than the nodes that came at the same time as
/// they did. Each feeler brings the records of up to seven further nodes.
const SMALL_BOOK: usize = 64;
/// Maximum number of feelers at that interval after a node has become a member. In a small network, or if most
/// nodes can't be dialled, the book stays small. 64: 320 kB in all.
pub(super) const MAX_FIRST_FEELERS: usize = 64;
/// Interval at which feelers follow each other during a sweep (see [`Sweep`]), or while this node has no
/// neighbour.
pub(super) const FEEL_SOON: Duration = Duration::from_secs(1);
/// Maximum number of feelers under way. Most feelers to vanished nodes wait for ten seconds, so a sweep
/// probes about one node a second.
pub(super) const MAX_FEELERS: usize = 8;
/// Minimum time between the beginnings of two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// Wait before a tested node is probed again. It doubles with each failure, up to [`MAX_WAIT`].
const MIN_WAIT: Duration = Duration::from_secs(60);
const MAX_WAIT: Duration = Duration::from_secs(6 * 60 * 60);

/// Number of failures in a row after which a tested node is forgotten: about two days.
const MAX_FAILURES: u32 = 16;

/// Age from which a learned node gives way to another one.
const LEARNED_AGE: Duration = Duration::from_secs(30 * 60);

/// The nodes that this node has reached, and others that it has learned of.
#[derive(Debug)]
pub(super) struct AddressBook {
    address_groups: AddressGroups,
    /// Chosen at random, so that no other node knows which nodes share a bucket.
    secret: Option<u64>,
    tested: BTreeMap<NodeId, BookEntry>,
    learned: BTreeMap<NodeId, BookEntry>,
    /// Time at which the last sweep began. A sweep probes each node of the book once: those that were not
    /// tried since.
    sweep_from: Option<Instant>,
    is_sweeping: bool,
    /// Another sweep follows as soon as [`SWEEP_EVERY`] has passed.
    sweeps_again: bool,
}

#[derive(Debug)]
struct BookEntry {
    bucket: u8,
    addresses: Vec<Address>,
    /// The group by which a tested node counts. `None` for a learned node.
    group: Option<AddressGroup>,
    /// Time at which the node was reached last, or learned.
    added_at: Instant,
    /// Number of failures since.
    failures: u32,
    /// Time before which the node is not probed, except in a sweep.
    retry_at: Instant,
    /// Time at which the node was last drawn for a feeler, reached or learned.
    tried_at: Instant,
}

impl AddressBook {
    pub(super) fn new(address_groups: AddressGroups) -> Self {
        let (tested, learned) = (BTreeMap::new(), BTreeMap::new());
        Self {
            address_groups,
            secret: None,
            tested,
            learned,
            sweep_from: None,
            is_sweeping: false,
            sweeps_again: false,
        }
    }

    /// Notes that a node was reached by a dial of this node. `group` is the group of the IP address at which it
    /// was reached. The addresses in the record do not count, as the node chooses them itself.
    pub(super) fn reached(
        &mut self,
        cx: &mut OverlayContext<'_>,
        record: &NodeRecord,
        group: Option<AddressGroup>,
    ) {
        self.put_tested(cx, (record.node, group), &record.addresses, cx.now + MIN_WAIT);
    }

    /// Adds a node that an earlier run of this node has reached.
    pub(super) fn add_known(
        &mut self,
        cx: &mut OverlayContext<'_>,
        id: NodeId,
        addresses: &[Address],
    ) {
        if !self.tested.contains_key(&id) {
            let group = self.first_group(addresses);
            self.put_tested(cx, (id, group), addresses, cx.now);
        }
    }

    /// Adds a node whose record `source` has sent. `None` stands for all nodes that this node has no link
    /// with: identities are free, so they share the room of one source.
    pub(super) fn learn(
        &mut self,
        cx: &mut OverlayContext<'_>,
        source: Option<NodeId>,
        record: &NodeRecord,
    ) {
        let id = record.node;
        if record.addresses.is_empty() || self.tested.contains_key(&id) {
            return;
        }
        let source = source.map_or([0; 32], |source| *source.as_bytes());
        let group = self.first_group(&record.addresses);
        let bucket = self.bucket(cx, &source, id, group);
        if let Some(known) = self.learned.get_mut(&id) {
            known.addresses = kept_addresses(id, &record.addresses);
            return;
        }
        let in_bucket = || self.learned.iter().filter(|(_, entry)| entry.bucket == bucket);
        if in_bucket().count() >= BUCKET_SIZE {
            let oldest = in_bucket().min_by_key(|(_, entry)| entry.added_at);
            let old = oldest.filter(|(_, entry)| cx.now.since(entry.added_at) >= LEARNED_AGE);
            // Records that come later do not push out earlier ones, or a flood of them would.
            let Some(old) = old.map(|(id, _)| *id) else { return };
            self.learned.remove(&old);
        }
        let addresses = kept_addresses(id, &record.addresses);
        self.learned.insert(id, BookEntry::new(cx, (bucket, None), addresses, cx.now));
    }

    fn put_tested(
        &mut self,
        cx: &mut OverlayContext<'_>,
        (id, group): (NodeId, Option<AddressGroup>),
        addresses: &[Address],
        retry_at: Instant,
    ) {
        if addresses.is_empty() {
            return;
        }
        let bucket = self.bucket(cx, b"tested", id, group);
        let known = self.tested.remove(&id);
        let stays = known.is_some_and(|known| known.bucket == bucket);
        if stays || self.make_room(cx.now, bucket) {
            self.learned.remove(&id);
            let addresses = kept_addresses(id, addresses);
            self.tested.insert(id, BookEntry::new(cx, (bucket, group), addresses, retry_at));
        }
    }

    /// Notes that a node was not reached. If this node is not `online`, that says nothing about the other
    /// node, so the failure does not count.
    pub(super) fn note_failure(&mut self, now: Instant, id: NodeId, online: bool) {
        // A learned node may not exist, so it is forgotten after one failure.
        if online {
            self.learned.remove(&id);
        } else if let Some(entry) = self.learned.get_mut(&id) {
            entry.retry_at = now + MIN_WAIT;
        }
        let Some(entry) = self.tested.get_mut(&id) else { return };
        entry.failures += u32::from(online);
        // The cap on the shift only keeps it from overflowing.
        let doubled = entry.failures.saturating_sub(1).min(16);
        entry.retry_at = now + (MIN_WAIT * (1 << doubled)).min(MAX_WAIT);
        if entry.failures >= MAX_FAILURES {
            self.tested.remove(&id);
        }
    }

    pub(super) fn remove(&mut self, id: NodeId) {
        self.tested.remove(&id);
        self.learned.remove(&id);
    }

    /// Returns whether this node has reached a node.
    pub(super) fn is_tested(&self, id: NodeId) -> bool {
        self.tested.contains_key(&id)
    }

    /// Returns the group by which a tested node counts.
    pub(super) fn group(&self, id: NodeId) -> Option<AddressGroup> {
        self.tested.get(&id)?.group
    }

    /// Returns whether tested nodes of at least two groups are known.
    pub(super) fn knows_several_groups(&self) -> bool {
        let mut groups = self.tested.values().filter_map(|entry| entry.group);
        let first = groups.next();
        groups.any(|group| Some(group) != first)
    }

    /// Draws a tested node that `fits` from a group that is not among `taken`: first a group, then one of its
    /// nodes. So an attacker is drawn no more often for having many nodes in a group.
    pub(super) fn draw_of_other_group(
        &self,
        cx: &mut OverlayContext<'_>,
        taken: &[Option<AddressGroup>],
        fits: impl Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let mut by_group = BTreeMap::<_, Vec<_>>::new();
        for (id, entry) in self.tested.iter().filter(|(_, entry)| entry.failures == 0) {
            if entry.group.is_some() && !taken.contains(&entry.group) && fits(*id) {
                by_group.entry(entry.group).or_default().push(*id);
            }
        }
        let of_group = cx.pick(by_group.into_values().collect())?;
        cx.pick(of_group)
    }

    /// Returns the addresses of a node, each with its identity.
    pub(super) fn addresses(&self, id: NodeId) -> Vec<Address> {
        let entry = self.tested.get(&id).or_else(|| self.learned.get(&id));
        entry.map(|entry| entry.addresses.clone()).unwrap_or_default()
    }

    /// Returns whether this node has reached so few nodes that it looks for more quickly.
    pub(super) fn is_small(&self) -> bool {
        self.tested.len() < SMALL_BOOK
    }

    /// Begins a sweep. If one has begun in the last minute, this one follows later.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweeps_again = true;
        self.sweep_on(now);
    }

    /// Returns whether a sweep is under way or follows. Begins the one that follows, if it is due.
    pub(super) fn sweep_on(&mut self, now: Instant) -> bool {
        let is_due = self.sweep_from.is_none_or(|from| now.since(from) >= SWEEP_EVERY);
        if self.sweeps_again && is_due {
            (self.sweep_from, self.is_sweeping, self.sweeps_again) = (Some(now), true, false);
        }
        self.is_sweeping || self.sweeps_again
    }

    /// Returns the tested and the learned nodes that a feeler may be sent to: those that `fit`, and whose wait
    /// is over or that the sweep has not tried.
    pub(super) fn due(&self, now: Instant, fit: impl Fn(NodeId) -> bool) -> [Vec<NodeId>; 2] {
        let sweep_from = self.sweep_from.filter(|_| self.is_sweeping);
        let is_due = |entry: &BookEntry| match sweep_from {
            Some(from) => entry.tried_at < from,
            None => entry.retry_at <= now,
        };
        [&self.tested, &self.learned].map(|entries| {
            let due = entries.iter().filter(|(id, entry)| is_due(entry) && fit(**id));
            due.map(|(id, _)| *id).collect()
        })
    }

    /// Draws one of the nodes that are due. One half of them are tested nodes, the other half learned ones, as
    /// far as there are any. If none is due, a sweep is over.
    pub(super) fn draw(
        &mut self,
        cx: &mut OverlayContext<'_>,
        due: [Vec<NodeId>; 2],
    ) -> Option<NodeId> {
        let both = due.into_iter().filter_map(|ids| cx.pick(ids)).collect();
        let drawn = cx.pick(both);
        self.is_sweeping &= drawn.is_some();
        let id = drawn?;
        let entry = match self.tested.get_mut(&id) {
            None => self.learned.get_mut(&id),
            tested => tested,
        };
        if let Some(entry) = entry {
            entry.tried_at = cx.now;
        }
        drawn
    }

    /// Makes room for a tested node in a bucket. Returns false if all its nodes answered when they were last
    /// probed. Then the one that was reached longest ago is probed soon, and gives way later if it does not
    /// answer (test before evict).
    fn make_room(&mut self, now: Instant, bucket: u8) -> bool {
        let in_bucket = || self.tested.iter().filter(|(_, entry)| entry.bucket == bucket);
        if in_bucket().count() < BUCKET_SIZE {
            return true;
        }
        let worst = in_bucket()
            .max_by_key(|(_, entry)| (entry.failures, std::cmp::Reverse(entry.added_at)));
        let Some((id, failures)) = worst.map(|(id, entry)| (*id, entry.failures)) else {
            return true;
        };
        if failures > 0 {
            self.tested.remove(&id);
        } else if let Some(entry) = self.tested.get_mut(&id) {
            entry.retry_at = now;
        }
        failures > 0
    }

    /// Returns the group of the first address that has one.
    fn first_group(&self, addresses: &[Address]) -> Option<AddressGroup> {
        addresses.iter().find_map(|address| self.address_groups.group_of(address))
    }

    /// Returns the bucket of a node: one of [`BUCKETS_OF_GROUP`] for each group of addresses and each `table`.
    fn bucket(
        &mut self,
        cx: &mut OverlayContext<'_>,
        table: &[u8],
        id: NodeId,
        group: Option<AddressGroup>,
    ) -> u8 {
        let secret = *self.secret.get_or_insert_with(|| cx.rng_u64());
        let hash = |parts: [&[u8]; 2]| {
            let hash = Hash::of_parts(&[&secret.to_be_bytes(), table, parts[0], parts[1]]);
            hash.as_bytes()[0]
        };
        let of_node = hash([id.as_bytes(), &[]]);
        // A node without a group may be in any bucket: the nodes of a private network share all of the book.
        let Some(group) = group else { return of_node % BUCKETS };
        hash([&group.bits().to_be_bytes(), &[of_node % BUCKETS_OF_GROUP]]) % BUCKETS
    }
}

impl BookEntry {
    /// Returns the entry of a node that was reached or learned now.
    fn new(
        cx: &OverlayContext<'_>,
        (bucket, group): (u8, Option<AddressGroup>),
        addresses: Vec<Address>,
        retry_at: Instant,
    ) -> Self {
        let (added_at, tried_at) = (cx.now, cx.now);
        Self { bucket, addresses, group, added_at, failures: 0, retry_at, tried_at }
    }
}

fn kept_addresses(id: NodeId, addresses: &[Address]) -> Vec<Address> {
    let addresses = addresses.iter().take(MAX_ADDRESSES);
    addresses.map(|address| address.clone().with_id(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Key;
    use crate::overlay::tests::bench::TestBench;

    fn id(n: u32) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn reach(bench: &mut TestBench<AddressBook>, n: u32, ip: &str) {
        let address: Address = format!("{ip}:7117").parse().unwrap();
        let group = AddressGroups::default().group_of(&address);
        bench.act(|book, cx| book.put_tested(cx, (id(n), group), &[address], cx.now));
    }

    fn bench() -> TestBench<AddressBook> {
        TestBench::of(AddressBook::new(AddressGroups::default()))
    }

    fn draw(bench: &mut TestBench<AddressBook>) -> Option<NodeId> {
        bench.act(|book, cx| {
            let due = book.due(cx.now, |_| true);
            book.draw(cx, due)
        })
    }

    fn len(bench: &TestBench<AddressBook>) -> usize {
        bench.part.tested.len()
    }

    #[test]
    fn one_group_of_addresses_fills_at_most_a_sixteenth_of_the_book() {
        let mut bench = bench();
        for n in 0..4000 {
            reach(&mut bench, n, &format!("198.51.{}.{}", n / 250, n % 250 + 1));
        }
        let most = usize::from(BUCKETS_OF_GROUP) * BUCKET_SIZE;
        assert!((BUCKET_SIZE..=most).contains(&len(&bench)), "{}", len(&bench));
        // Other groups still find room, and a private network may fill all of the book.
        for n in 4000..4100 {
            reach(&mut bench, n, &format!("{}.7.0.1", n - 3980));
        }
        assert!(len(&bench) >= 140, "{}", len(&bench));
        for n in 5000..9000 {
            reach(&mut bench, n, "192.168.1.1");
        }
        assert_eq!(len(&bench), usize::from(BUCKETS) * BUCKET_SIZE);
    }

    #[test]
    fn a_node_that_answers_is_not_replaced() {
        let mut bench = bench();
        for n in 0..4000 {
            reach(&mut bench, n, "192.168.1.1");
        }
        let before: Vec<_> = bench.part.tested.keys().copied().collect();
        for n in 4000..8000 {
            reach(&mut bench, n, "192.168.1.1");
        }
        assert!(bench.part.tested.keys().eq(&before));
        // The nodes that would have given way are probed at once. Those that do not answer give way.
        let due = draw(&mut bench).expect("one is due");
        bench.part.note_failure(bench.now, due, true);
        assert!(bench.part.is_tested(due));
        for n in 8000..12_000 {
            reach(&mut bench, n, "192.168.1.1");
        }
        assert!(!bench.part.is_tested(due));
        assert_eq!(len(&bench), before.len());
        assert_eq!(before.iter().filter(|id| bench.part.is_tested(**id)).count(), before.len() - 1);
    }

    #[test]
    fn failures_count_only_while_this_node_is_online() {
        let mut bench = bench();
        reach(&mut bench, 1, "192.168.1.1");
        for _ in 0..1000 {
            bench.part.note_failure(bench.now, id(1), false);
        }
        assert_eq!(draw(&mut bench), None);
        bench.now = bench.now + MIN_WAIT;
        assert_eq!(draw(&mut bench), Some(id(1)));
        let start = bench.now;
        while bench.part.is_tested(id(1)) {
            bench.part.note_failure(bench.now, id(1), true);
            while bench.part.is_tested(id(1)) && draw(&mut bench).is_none() {
                bench.now = bench.now + MIN_WAIT;
            }
        }
        let hours = bench.now.since(start).as_secs() / 3600;
        assert!((24..=72).contains(&hours), "{hours}");
    }

    #[test]
    fn a_sweep_tries_each_node_once() {
        let mut bench = bench();
        for n in 0..10 {
            reach(&mut bench, n, &format!("{}.7.0.1", n + 20));
            bench.part.note_failure(bench.now, id(n), true);
        }
        assert_eq!(draw(&mut bench), None, "all wait");
        bench.now = bench.now + Duration::from_secs(1);
        bench.part.sweep(bench.now);
        let mut drawn: Vec<_> = std::iter::from_fn(|| draw(&mut bench)).collect();
        drawn.sort_unstable();
        assert_eq!(drawn, (0..10).map(id).collect::<Vec<_>>());
        assert!(!bench.part.sweep_on(bench.now));
        bench.part.sweep(bench.now + SWEEP_EVERY / 2);
        assert_eq!(draw(&mut bench), None, "not again so soon");
        bench.now = bench.now + SWEEP_EVERY;
        assert!(bench.part.sweep_on(bench.now));
        assert!(draw(&mut bench).is_some());
    }

    #[test]
    fn later_records_of_one_sender_do_not_push_out_earlier_ones() {
        let mut bench = bench();
        let learn = |bench: &mut TestBench<AddressBook>, source: Option<u32>, n: u8| {
            let address = format!("{n}.9.0.1:7117").parse().unwrap();
            let record = NodeRecord::sign(&Key::from_secret(&[n; 32]), "net", 1, &[address]);
            bench.act(|book, cx| book.learn(cx, source.map(id), &record));
            record.node
        };
        let early = learn(&mut bench, Some(1), 20);
        for n in 21..250 {
            learn(&mut bench, Some(2), n);
        }
        assert!(bench.part.learned.contains_key(&early));
        // A learned node that is not reached is forgotten.
        bench.part.note_failure(bench.now, early, true);
        assert!(!bench.part.learned.contains_key(&early));
    }
}
