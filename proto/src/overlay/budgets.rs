//! Budgets for the work that a peer's frames cause: a token bucket for each link and each kind of work.
//!
//! A part of the overlay charges the link that a frame came over before it does the work, and before it passes
//! anything on. If the budget is spent, the part drops the frame or does only a part of the work, and
//! [`BudgetDrops`] counts it.
//!
//! A relay's own frames and those that it passes on for others come over the same link. So the next node
//! charges the relay for both. If a relay passed on for a single stranger as much as the next node accepts from
//! the relay, that stranger would use up the relay's budget there, and the honest frames of the relay would be
//! refused. So links have one of two *standings*:
//!
//! - A [`Standing::Relay`] is a peer that this node has dialled, or its neighbour in the network. It has a large
//!   budget, because it passes on the work of many nodes.
//! - A [`Standing::Stranger`] is any other peer. It has a small budget of its own. Beyond that, it draws from a
//!   pool that all strangers share. So strangers that send much can't use up the own budgets of the others. What
//!   all strangers of a node cause together is at most a small part of what the next node accepts from this
//!   node.
//!
//! Identities are free, and so are links, so a budget outlives both. The strangers of one *source* share one
//! budget. The source is the group of addresses that the connection comes from, or the host if the address has no
//! group (see [`AddressGroups::prefixes`]). A peer that links again finds the budget as it has left it, whatever
//! its identity. The same holds for a relay: a new link starts with what the last links of its source have left.
//! Loopback addresses that are not limited have no source, so there each identity counts for itself.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::address_group::AddressGroups;
use crate::bucket::{Bucket, time_to_earn};
use crate::config::Config;
use crate::id::NodeId;
use crate::time::Instant;

/// Maximum number of sources without a link whose spent budgets are remembered. 1,024: about half a megabyte. The
/// source whose budgets fill up first is forgotten first, as it gains least.
const MAX_IDLE_SOURCES: usize = 1024;

/// Time for which a source counts as flooding after work of its strangers was refused.
const FLOOD_TIME: Duration = Duration::from_secs(10);

/// A kind of work, with the unit in which it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Queries that are passed on. A long one counts once for each 256 bytes.
    Query,
    /// Bytes of answers to the queries of a link.
    Answer,
    /// Bytes of relayed messages.
    Message,
    /// Bytes of broadcasts and of the frames about broadcasts.
    Broadcast,
    /// Signature checks of broadcasts and orders.
    Check,
    /// Requests for a place, shuffles, join walks and the records of suggested nodes. Each causes a signature
    /// check or a frame to another node.
    Record,
    /// Beacons, each with a signature check.
    Beacon,
    /// Entries of the roster of members that this node does not have, each with up to three signature checks.
    Roster,
}

/// Number of kinds of work.
const KINDS: usize = 8;

/// The standing of a link: see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Standing {
    /// This node has dialled the peer, or the peer is its neighbour.
    Relay,
    /// Any other peer.
    #[default]
    Stranger,
}

/// The amount of work that a bucket allows, in units of [`Work`].
#[derive(Debug, Clone, Copy)]
struct Rate {
    per_minute: u64,
    burst: u64,
}

/// The budgets for one kind of work.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For each relay.
    relay: Rate,
    /// For each stranger.
    stranger: Rate,
    /// For all strangers together, beyond their own budgets.
    pool: Rate,
}

/// Queries that are passed on. A query reaches every node of the network, so a relay brings those of the whole
/// network. In the time for which a query is remembered, a relay can bring 5,888: its share of the table of
/// queries is 8,192. 128 strangers, as many as there are inbound links, cause at most 36 a second together.
const QUERIES: Limits = Limits {
    relay: Rate::new(64, 2048),
    stranger: Rate::per_minute(15, 8),
    pool: Rate::new(4, 32),
};

/// Bytes of answers. A discovery of 10,000 nodes with 10 links each has about 8 MB of answers, so a relay may
/// bring eight discoveries in a row, and strangers two.
const ANSWERS: Limits = Limits {
    relay: Rate::new(8 << 20, 64 << 20),
    stranger: Rate::new(64 << 10, 1 << 20),
    pool: Rate::new(1 << 20, 16 << 20),
};

/// Bytes of broadcasts. A relay may send as fast as a link of 1 Gbit/s carries.
const BROADCASTS: Limits = Limits {
    relay: Rate::new(128 << 20, 256 << 20),
    stranger: Rate::new(16 << 20, 64 << 20),
    pool: Rate::new(64 << 20, 128 << 20),
};

/// Signature checks. A processor core makes about 20,000 a second.
const CHECKS: Limits = Limits {
    relay: Rate::new(10_000, 40_000),
    stranger: Rate::new(1000, 10_000),
    pool: Rate::new(2000, 10_000),
};

/// Frames about places and records. A neighbour sends a shuffle every 30 seconds, and passes on those of others and
/// the walks of new nodes. 512 in a burst: a fleet of nodes starts at one moment.
const RECORDS: Limits =
    Limits { relay: Rate::new(32, 512), stranger: Rate::new(2, 64), pool: Rate::new(16, 256) };

/// Beacons. An honest node passes one on every ten seconds, and a few at once while two parts of a network
/// meet.
const BEACONS: Limits =
    Limits { relay: Rate::new(1, 16), stranger: Rate::new(1, 4), pool: Rate::new(1, 16) };

/// Entries of the roster. A full one has 8,192 entries, which a new peer may send at once.
const ROSTER: Limits = Limits {
    relay: Rate::new(64, 16_384),
    stranger: Rate::new(4, 8192),
    pool: Rate::new(16, 8192),
};

/// Amounts of work that were refused because a budget was spent, since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BudgetDrops {
    /// Queries that were not passed on.
    pub queries: u64,
    /// Relayed messages.
    pub messages: u64,
    /// Broadcasts, and frames about broadcasts.
    pub broadcasts: u64,
    /// Frames with node records.
    pub records: u64,
    /// Beacons.
    pub beacons: u64,
    /// Entries of the roster of members.
    pub roster: u64,
}

/// The budgets of all links.
#[derive(Debug)]
pub(crate) struct Budgets {
    limits: [Limits; KINDS],
    groups: AddressGroups,
    links: BTreeMap<NodeId, LinkBudgets>,
    sources: BTreeMap<Source, SourceBudgets>,
    pool: [Bucket; KINDS],
    drops: BudgetDrops,
}

type Buckets = [Bucket; KINDS];

/// The budgets of one link.
#[derive(Debug)]
struct LinkBudgets {
    standing: Standing,
    source: Source,
    /// The budgets of a relay. `None` until the peer is one.
    as_relay: Option<Box<Buckets>>,
}

/// The origin of connections that share the budgets of strangers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The prefix of the addresses of a group or host.
    Prefix(IpAddr),
    /// One identity.
    Identity(NodeId),
}

/// The budgets of one source. They stay until they are full, even without a link.
#[derive(Debug, Default)]
struct SourceBudgets {
    links: usize,
    /// The budgets of all its strangers.
    strangers: Buckets,
    /// What its relays whose links have ended have left. A new relay starts with that.
    ended_relays: Buckets,
    /// Time of the last refusal of a stranger's work.
    refused_at: Option<Instant>,
}

impl LinkBudgets {
    fn new(source: Source) -> Self {
        Self { standing: Standing::default(), source, as_relay: None }
    }
}

impl SourceBudgets {
    /// Returns when the last budget will be full.
    fn full_at(&self) -> Instant {
        let all = self.strangers.iter().chain(&self.ended_relays);
        all.map(|bucket| bucket.full_at()).max().unwrap_or(Instant::ZERO)
    }
}

impl Rate {
    const fn new(per_second: u64, burst: u64) -> Self {
        Self::per_minute(per_second.saturating_mul(60), burst)
    }

    const fn per_minute(per_minute: u64, burst: u64) -> Self {
        Self { per_minute, burst }
    }

    fn times(self, factor: u64) -> Self {
        let Self { per_minute, burst } = self;
        Self { per_minute: per_minute.saturating_mul(factor), burst: burst.saturating_mul(factor) }
    }

    /// Returns the time in which the bucket earns `amount`, and the time in which it fills up.
    fn times_to_earn(self, amount: u64) -> (Duration, Duration) {
        let earn = |amount: u64| time_to_earn(amount.saturating_mul(60), self.per_minute);
        (earn(amount), earn(self.burst))
    }

    fn take(self, bucket: &mut Bucket, now: Instant, amount: u64) -> bool {
        // Capped at a full bucket, as work that costs more could never be done.
        let (cost, fill_time) = self.times_to_earn(amount.min(self.burst));
        bucket.take(now, cost, fill_time)
    }
}

impl Budgets {
    pub(super) fn new(config: &Config) -> Self {
        let (forwarded, largest) = (config.forward_rate as u64, config.max_control as u64);
        // A burst holds at least one message of the largest size.
        let stranger = Rate::new(forwarded / 8, (forwarded / 8).max(largest));
        let pool_burst = forwarded.saturating_sub(stranger.burst).max(largest);
        let pool = Rate::new(forwarded - forwarded / 8, pool_burst);
        // The next node charges this node for all that it relays, so a relay may bring eight times as much as
        // all strangers together.
        let messages = Limits { relay: pool.times(8), stranger, pool };
        Self {
            limits: [QUERIES, ANSWERS, messages, BROADCASTS, CHECKS, RECORDS, BEACONS, ROSTER],
            groups: config.address_groups(),
            links: BTreeMap::new(),
            sources: BTreeMap::new(),
            pool: [Bucket::default(); KINDS],
            drops: BudgetDrops::default(),
        }
    }

    /// Notes a new link with a node at `ip`.
    pub(super) fn link_up(&mut self, link: NodeId, ip: IpAddr) {
        let [prefix, ..] = self.groups.prefixes(ip);
        let source = prefix.map_or(Source::Identity(link), Source::Prefix);
        self.sources.entry(source).or_default().links += 1;
        self.links.insert(link, LinkBudgets::new(source));
    }

    /// Returns the budgets of a link. A link that was not noted counts for itself.
    fn link(&mut self, link: NodeId) -> &mut LinkBudgets {
        let sources = &mut self.sources;
        self.links.entry(link).or_insert_with(|| {
            sources.entry(Source::Identity(link)).or_default().links += 1;
            LinkBudgets::new(Source::Identity(link))
        })
    }

    /// Sets the standing of a link, from which its next frames are charged.
    pub(super) fn set_standing(&mut self, link: NodeId, standing: Standing) {
        let budgets = self.link(link);
        budgets.standing = standing;
        if standing == Standing::Relay && budgets.as_relay.is_none() {
            let name = budgets.source;
            let left = self.sources.get(&name).map(|source| source.ended_relays);
            self.link(link).as_relay = Some(Box::new(left.unwrap_or_default()));
        }
    }

    /// Charges a link for work that it causes. Returns whether its budget allows the work. If not, nothing is
    /// charged, and the refusal is counted.
    #[must_use]
    pub(crate) fn take(&mut self, now: Instant, link: NodeId, work: Work, amount: usize) -> bool {
        let amount = amount as u64;
        let allowed =
            self.charged(now, link, work, |rate, bucket, _| rate.take(bucket, now, amount));
        if !allowed {
            self.count_many(work, if work == Work::Roster { amount } else { 1 });
        }
        allowed
    }

    /// Charges a link for work whose amount was not known before it was done. The budget may go into debt.
    pub(crate) fn charge(&mut self, now: Instant, link: NodeId, work: Work, amount: usize) {
        self.charged(now, link, work, |rate, bucket, is_last| {
            let (cost, fill_time) = rate.times_to_earn(amount as u64);
            let is_paid = !is_last && bucket.take(now, cost, fill_time);
            if is_last {
                let _ = bucket.take_with_debt(now, cost, fill_time);
            }
            is_paid || is_last
        });
    }

    /// Returns whether a link may cause work of this kind, although only the least amount is known yet. The caller
    /// [charges](Self::charge) the work later.
    pub(crate) fn may_begin(&mut self, now: Instant, link: NodeId, work: Work, least: u64) -> bool {
        self.charged(now, link, work, |rate, bucket, _| {
            let mut copy = *bucket;
            rate.take(&mut copy, now, least)
        })
    }

    /// Calls `take` with the buckets that pay for the work of a link, one after the other, until it returns true:
    /// a relay's own bucket, or for a stranger that of its source and then the pool. The last argument is true for
    /// the last bucket. Returns what `take` has returned last.
    fn charged(
        &mut self,
        now: Instant,
        link: NodeId,
        work: Work,
        mut take: impl FnMut(Rate, &mut Bucket, bool) -> bool,
    ) -> bool {
        let kind = work as usize;
        self.link(link);
        let (Some(limits), Some(budgets)) = (self.limits.get(kind), self.links.get_mut(&link))
        else {
            return false;
        };
        let (standing, name) = (budgets.standing, budgets.source);
        let as_relay = budgets.as_relay.as_mut().and_then(|buckets| buckets.get_mut(kind));
        if let (Standing::Relay, Some(own)) = (standing, as_relay) {
            return take(limits.relay, own, true);
        }
        let source = self.sources.entry(name).or_default();
        let (Some(of_source), Some(pool)) =
            (source.strangers.get_mut(kind), self.pool.get_mut(kind))
        else {
            return false;
        };
        let is_paid = take(limits.stranger, of_source, false) || take(limits.pool, pool, true);
        if !is_paid {
            source.refused_at = Some(now);
        }
        is_paid
    }

    /// Returns whether the peer is a stranger that floods this node, or has the source of one: work of these
    /// strangers was refused a short time ago.
    pub(crate) fn is_flooding(&self, now: Instant, link: NodeId) -> bool {
        let Some(link) = self.links.get(&link) else { return false };
        let refused = self.sources.get(&link.source).and_then(|source| source.refused_at);
        link.standing == Standing::Stranger && refused.is_some_and(|at| now.since(at) < FLOOD_TIME)
    }

    /// Counts work that was refused without [`take`](Self::take).
    pub(crate) fn count(&mut self, work: Work) {
        self.count_many(work, 1);
    }

    fn count_many(&mut self, work: Work, count: u64) {
        let counter = match work {
            Work::Query | Work::Answer => &mut self.drops.queries,
            Work::Message => &mut self.drops.messages,
            Work::Broadcast | Work::Check => &mut self.drops.broadcasts,
            Work::Record => &mut self.drops.records,
            Work::Beacon => &mut self.drops.beacons,
            Work::Roster => &mut self.drops.roster,
        };
        *counter += count;
    }

    /// Forgets a link that has ended, but not what it has spent.
    pub(super) fn link_down(&mut self, now: Instant, link: NodeId) {
        let Some(LinkBudgets { source: name, as_relay, .. }) = self.links.remove(&link) else {
            return;
        };
        let Some(source) = self.sources.get_mut(&name) else { return };
        source.links = source.links.saturating_sub(1);
        if let Some(buckets) = as_relay {
            // The least of what all of them have left. Otherwise a source could save full budgets in links that
            // it does not use.
            for (left, bucket) in source.ended_relays.iter_mut().zip(*buckets) {
                if bucket.full_at() > left.full_at() {
                    *left = bucket;
                }
            }
        }
        self.forget_idle_sources(now);
    }

    /// Forgets the sources without a link whose budgets are full, and those that are too many.
    fn forget_idle_sources(&mut self, now: Instant) {
        self.sources.retain(|_, source| source.links > 0 || source.full_at() > now);
        let idle = self.sources.iter().filter(|(_, source)| source.links == 0);
        if idle.clone().count() > MAX_IDLE_SOURCES
            && let Some(first) = idle.min_by_key(|(_, source)| source.full_at())
        {
            let name = *first.0;
            self.sources.remove(&name);
        }
    }

    /// Returns the standing of a link.
    pub(crate) fn standing(&self, link: NodeId) -> Standing {
        self.links.get(&link).map(|link| link.standing).unwrap_or_default()
    }

    /// Returns the amounts of refused work.
    pub(super) fn drops(&self) -> BudgetDrops {
        self.drops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn new() -> Budgets {
        Budgets::new(&Config::default())
    }

    fn taken(budgets: &mut Budgets, now: Instant, from: u8, work: Work, wanted: usize) -> usize {
        (0..wanted).filter(|_| budgets.take(now, node(from), work, 1)).count()
    }

    #[test]
    fn a_stranger_that_sends_much_leaves_the_own_budgets_of_others() {
        let mut budgets = new();
        assert_eq!(taken(&mut budgets, at(0), 1, Work::Query, 10_000), 8 + 32);
        for other in 2..100 {
            assert_eq!(taken(&mut budgets, at(0), other, Work::Query, 100), 8, "{other}");
        }
        // In four seconds, each stranger earns one, and all together sixteen more.
        assert_eq!(taken(&mut budgets, at(4), 1, Work::Query, 100), 1 + 16);
        assert_eq!(taken(&mut budgets, at(4), 2, Work::Query, 100), 1);
        assert_eq!(budgets.drops().queries, 10_000 - 40 + 98 * 92 + 83 + 99);
    }

    /// A node passes on for all its strangers together less than the next node accepts from it.
    #[test]
    fn the_next_node_accepts_more_from_a_relay_than_many_strangers_can_cause() {
        for limits in &new().limits[..2] {
            let Limits { relay, stranger, pool } = limits;
            assert!(pool.per_minute + 8 * stranger.per_minute < relay.per_minute, "{limits:?}");
            assert!(pool.burst + 8 * stranger.burst < relay.burst, "{limits:?}");
        }
        let mut first = new();
        let mut next = new();
        next.set_standing(node(200), Standing::Relay);
        for second in 0..300 {
            let mut passed_on = 0;
            for stranger in 0..128 {
                passed_on += taken(&mut first, at(second), stranger, Work::Query, 20);
            }
            assert_eq!(taken(&mut next, at(second), 200, Work::Query, passed_on), passed_on);
            // The relay's own queries, and those of its neighbours.
            assert_eq!(taken(&mut next, at(second), 200, Work::Query, 20), 20);
        }
    }

    #[test]
    fn a_relay_has_a_large_budget_that_strangers_do_not_touch() {
        let mut budgets = new();
        budgets.set_standing(node(1), Standing::Relay);
        taken(&mut budgets, at(0), 2, Work::Query, 1000);
        assert_eq!(taken(&mut budgets, at(0), 1, Work::Query, 10_000), 2048);
        assert_eq!(taken(&mut budgets, at(1), 1, Work::Query, 10_000), 64);
        assert_eq!(budgets.standing(node(1)), Standing::Relay);
        // A peer that is no neighbour any more is a stranger.
        budgets.set_standing(node(1), Standing::Stranger);
        assert_eq!(taken(&mut budgets, at(2), 1, Work::Query, 10_000), 8 + 8);
    }

    #[test]
    fn each_kind_of_work_has_its_own_budget() {
        let kinds = [
            Work::Query,
            Work::Answer,
            Work::Message,
            Work::Broadcast,
            Work::Check,
            Work::Record,
            Work::Beacon,
            Work::Roster,
        ];
        let mut budgets = new();
        for work in kinds {
            while budgets.take(at(0), node(1), work, 1 << 20) {}
            assert!(!budgets.may_begin(at(0), node(1), work, 1), "{work:?}");
            let others = kinds.iter().filter(|other| **other as usize > work as usize);
            assert!(others.clone().all(|other| budgets.may_begin(at(0), node(1), *other, 1)));
        }
    }

    #[test]
    fn work_of_an_unknown_amount_is_paid_back_before_more_begins() {
        let mut budgets = new();
        assert!(budgets.may_begin(at(0), node(1), Work::Answer, 4096));
        budgets.charge(at(0), node(1), Work::Answer, 20 << 20);
        assert!(budgets.may_begin(at(0), node(1), Work::Answer, 4096), "its own budget is left");
        budgets.charge(at(0), node(1), Work::Answer, 1 << 20);
        assert!(!budgets.may_begin(at(0), node(1), Work::Answer, 4096));
        assert!(budgets.may_begin(at(0), node(2), Work::Answer, 4096), "another stranger's");
        assert!(budgets.may_begin(at(1), node(1), Work::Answer, 4096));
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Links 200 identities of one group, one after the other, each of which sends as much as it may.
    #[test]
    fn a_stranger_that_links_again_finds_the_budget_that_it_has_left() {
        let mut budgets = new();
        let mut sent = 0;
        for n in 0..200 {
            budgets.link_up(node(n), ip(&format!("203.0.113.{n}")));
            sent += taken(&mut budgets, at(0), n, Work::Query, 100);
            budgets.link_down(at(0), node(n));
        }
        assert_eq!(sent, 8 + 32);
        // Identities that have links at the same time share the budget too.
        for n in 0..200 {
            budgets.link_up(node(n), ip("203.0.113.1"));
            assert_eq!(taken(&mut budgets, at(0), n, Work::Query, 100), 0);
        }
        budgets.link_up(node(201), ip("198.51.100.1"));
        assert_eq!(taken(&mut budgets, at(0), 201, Work::Query, 100), 8, "another group");
        (0..200).for_each(|n| budgets.link_down(at(0), node(n)));
        budgets.link_down(at(60), node(201));
        assert!(budgets.links.is_empty() && budgets.sources.is_empty(), "full again");
    }

    #[test]
    fn an_identity_on_loopback_that_links_again_finds_its_budget_too() {
        let mut budgets = new();
        for _ in 0..10 {
            budgets.link_up(node(1), ip("127.0.0.1"));
            taken(&mut budgets, at(0), 1, Work::Query, 1000);
            budgets.link_down(at(0), node(1));
        }
        budgets.link_up(node(2), ip("127.0.0.1"));
        assert_eq!(taken(&mut budgets, at(0), 1, Work::Query, 100), 0);
        assert_eq!(taken(&mut budgets, at(0), 2, Work::Query, 100), 8);
    }

    #[test]
    fn a_relay_that_links_again_under_another_identity_finds_what_the_last_one_has_left() {
        let mut budgets = new();
        let mut sent = 0;
        for n in 0..10 {
            budgets.link_up(node(n), ip("203.0.113.1"));
            budgets.set_standing(node(n), Standing::Relay);
            sent += taken(&mut budgets, at(0), n, Work::Query, 10_000);
            budgets.link_down(at(0), node(n));
        }
        assert_eq!(sent, 2048);
        // Links at the same time do not share it.
        budgets.link_up(node(20), ip("203.0.113.1"));
        budgets.link_up(node(21), ip("203.0.113.1"));
        budgets.set_standing(node(20), Standing::Relay);
        budgets.set_standing(node(21), Standing::Relay);
        assert_eq!(taken(&mut budgets, at(1), 20, Work::Query, 10_000), 64);
        assert_eq!(taken(&mut budgets, at(1), 21, Work::Query, 10_000), 64);
    }

    #[test]
    fn the_number_of_sources_without_links_is_bounded() {
        let mut budgets = new();
        for n in 0..2000_u32 {
            let mut id = [7; 32];
            id[..4].copy_from_slice(&n.to_le_bytes());
            let id = NodeId::from_bytes(id);
            let [low, high, ..] = n.to_le_bytes();
            budgets.link_up(id, IpAddr::from([20 + high, low, 0, 1]));
            let spent = if n == 0 { 8 } else { 1 };
            (0..spent).for_each(|_| assert!(budgets.take(at(0), id, Work::Query, 1)));
            budgets.link_down(at(0), id);
        }
        assert_eq!(budgets.sources.len(), MAX_IDLE_SOURCES);
        budgets.link_up(node(1), ip("20.0.0.1"));
        assert_eq!(taken(&mut budgets, at(0), 1, Work::Query, 100), 32, "the pool alone");
    }

    #[test]
    fn a_stranger_whose_work_was_refused_counts_as_flooding_for_a_while() {
        let mut budgets = new();
        budgets.link_up(node(1), ip("203.0.113.1"));
        budgets.link_up(node(2), ip("203.0.113.2"));
        budgets.link_up(node(3), ip("198.51.100.1"));
        assert_eq!(taken(&mut budgets, at(1), 1, Work::Query, 40), 40);
        assert!(!budgets.is_flooding(at(1), node(1)));
        assert_eq!(taken(&mut budgets, at(1), 1, Work::Query, 1), 0);
        let flooding = |at: Instant| [1, 2, 3].map(|n| budgets.is_flooding(at, node(n)));
        assert_eq!((flooding(at(10)), flooding(at(11))), ([true, true, false], [false; 3]));
        budgets.set_standing(node(2), Standing::Relay);
        assert!(!budgets.is_flooding(at(2), node(2)), "a neighbour");
    }
}
