//! Budgets for the work that a peer's frames cause: a token bucket for each link and each kind of work.
//!
//! A part of the overlay charges the link that a frame came over before it does the work, and before it passes
//! anything on. If the budget is spent, the part drops the frame or does only a part of the work, and
//! [`BudgetDrops`] counts it.
//!
//! A relay's own frames and those that it passes on for others come over the same link. So the next node
//! charges the relay for both. If a relay passed on for a single stranger as much as the next node accepts from
//! the relay, that stranger would use up the relay's budget there, and the honest frames of the relay would be
//! refused. So links have one of three *standings*:
//!
//! - A [`Standing::Relay`] is a peer that this node has dialled. It has a large budget, because it passes on the
//!   work of many nodes.
//! - A [`Standing::Neighbour`] is a neighbour in the network that has dialled this node. Any stranger can ask for a
//!   place, so it has about a third as many queries as a relay. Then two attackers that have become neighbours, each
//!   of another node, leave a part of the budgets of the relays behind those nodes to others.
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

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use crate::address_group::AddressGroups;
use crate::bucket::{Bucket, time_to_earn};
use crate::config::Config;
use crate::id::NodeId;
use crate::time::Instant;

mod pauses;

use pauses::ReadingPauses;

/// Maximum number of sources without a link whose spent budgets are remembered. 1,024: about half a megabyte. The
/// source whose budgets fill up first is forgotten first, as it gains least.
const MAX_IDLE_SOURCES: usize = 1024;

/// Time for which a source counts as flooding after work of its strangers was refused, and as late after one of them
/// was late.
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

impl Work {
    /// Returns the kind of work by which a flood is remembered: answers belong to queries, and checks to broadcasts.
    fn flood(self) -> Self {
        match self {
            Self::Answer => Self::Query,
            Self::Check => Self::Broadcast,
            work => work,
        }
    }
}

/// Number of kinds of work.
const KINDS: usize = 8;

/// The standing of a link: see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Standing {
    /// This node has dialled the peer.
    Relay,
    /// The peer is a neighbour, and has dialled this node.
    Neighbour,
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
    /// For each neighbour that is no relay.
    neighbour: Rate,
    /// For each stranger.
    stranger: Rate,
    /// For all strangers together, beyond their own budgets.
    pool: Rate,
}

/// Queries that are passed on. A query reaches every node of the network, so a relay brings those of the whole
/// network. In the time for which a query is remembered, a relay can bring 5,888: its share of the table of
/// queries is 8,192. 128 strangers of as many groups cause at most 17 a second together.
const QUERIES: Limits = Limits {
    relay: Rate::new(64, 2048),
    neighbour: Rate::new(24, 1536),
    stranger: Rate::per_minute(6, 8),
    pool: Rate::new(4, 32),
};

/// Bytes of answers. A discovery of 10,000 nodes with 10 links each has about 8 MB of answers, so a relay may
/// bring eight discoveries in a row, and strangers two.
const ANSWERS: Limits = Limits {
    relay: Rate::new(8 << 20, 64 << 20),
    neighbour: Rate::new(8 << 20, 64 << 20),
    stranger: Rate::new(64 << 10, 1 << 20),
    pool: Rate::new(1 << 20, 16 << 20),
};

/// Bytes of broadcasts. A relay may send as fast as a link of 1 Gbit/s carries.
const BROADCASTS: Limits = Limits {
    relay: Rate::new(128 << 20, 256 << 20),
    neighbour: Rate::new(128 << 20, 256 << 20),
    stranger: Rate::new(16 << 20, 64 << 20),
    pool: Rate::new(64 << 20, 128 << 20),
};

/// Signature checks. A processor core makes about 20,000 a second.
const CHECKS: Limits = Limits {
    relay: Rate::new(10_000, 40_000),
    neighbour: Rate::new(10_000, 40_000),
    stranger: Rate::new(1000, 10_000),
    pool: Rate::new(2000, 10_000),
};

/// Signature checks for strangers of a member of the network. An honest stranger has neighbours of its own, over
/// which its broadcasts come. A broadcast that is accepted costs a check at every node.
const CHECKS_OF_MEMBER: Limits =
    Limits { stranger: Rate::new(5, 100), pool: Rate::new(20, 200), ..CHECKS };

/// Frames about places and records. A neighbour sends a shuffle every 30 seconds, and passes on those of others and
/// the walks of new nodes. 512 in a burst: a fleet of nodes starts at one moment.
const RECORDS: Limits = Limits {
    relay: Rate::new(32, 512),
    neighbour: Rate::new(32, 512),
    stranger: Rate::new(2, 64),
    pool: Rate::new(16, 256),
};

/// Beacons. An honest node passes one on every ten seconds, and a few at once while two parts of a network
/// meet.
const BEACONS: Limits = Limits {
    relay: Rate::new(1, 16),
    neighbour: Rate::new(1, 16),
    stranger: Rate::new(1, 4),
    pool: Rate::new(1, 16),
};

/// Entries of the roster. A full one has 8,192 entries, which a new peer may send at once.
const ROSTER: Limits = Limits {
    relay: Rate::new(64, 16_384),
    neighbour: Rate::new(64, 16_384),
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
    /// The strangers of `links`, and the other peers. A node can have a thousand strangers, so what is done for its few
    /// neighbours must not look at all links.
    strangers: BTreeSet<NodeId>,
    others: BTreeSet<NodeId>,
    sources: BTreeMap<Source, SourceBudgets>,
    pool: [Bucket; KINDS],
    /// The stranger whose work was refused last, until its pause begins.
    refused: Option<NodeId>,
    is_member: bool,
    drops: BudgetDrops,
}

type Buckets = [Bucket; KINDS];

/// The budgets of one link.
#[derive(Debug)]
struct LinkBudgets {
    standing: Standing,
    source: Source,
    /// The budgets of a relay or neighbour. `None` until the peer is one.
    as_relay: Option<Box<Buckets>>,
    pauses: ReadingPauses,
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
    /// Times of the last refusals of the strangers' work, by kind.
    refused_at: [Option<Instant>; KINDS],
    /// Time at which a stranger was last late with the end of a query.
    late_at: Option<Instant>,
}

impl LinkBudgets {
    fn new(source: Source) -> Self {
        Self {
            standing: Standing::default(),
            source,
            as_relay: None,
            pauses: ReadingPauses::default(),
        }
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
        let relay = pool.times(8);
        let messages = Limits { relay, neighbour: relay, stranger, pool };
        Self {
            limits: [QUERIES, ANSWERS, messages, BROADCASTS, CHECKS, RECORDS, BEACONS, ROSTER],
            groups: config.address_groups(),
            links: BTreeMap::new(),
            strangers: BTreeSet::new(),
            others: BTreeSet::new(),
            sources: BTreeMap::new(),
            pool: [Bucket::default(); KINDS],
            refused: None,
            is_member: false,
            drops: BudgetDrops::default(),
        }
    }

    /// Notes a new link with a node at `ip`.
    pub(super) fn link_up(&mut self, link: NodeId, ip: IpAddr) {
        let [prefix, ..] = self.groups.prefixes(ip);
        let source = prefix.map_or(Source::Identity(link), Source::Prefix);
        self.sources.entry(source).or_default().links += 1;
        self.links.insert(link, LinkBudgets::new(source));
        self.strangers.insert(link);
    }

    /// Returns the budgets of a link. A link that was not noted counts for itself.
    fn link(&mut self, link: NodeId) -> &mut LinkBudgets {
        let (sources, strangers) = (&mut self.sources, &mut self.strangers);
        self.links.entry(link).or_insert_with(|| {
            strangers.insert(link);
            sources.entry(Source::Identity(link)).or_default().links += 1;
            LinkBudgets::new(Source::Identity(link))
        })
    }

    /// Sets the standing of a link, by which its next frames are charged. Returns whether the peer has ceased to be a
    /// stranger.
    pub(super) fn set_standing(&mut self, link: NodeId, standing: Standing) -> bool {
        let budgets = self.link(link);
        // Called for each frame, and seldom a change.
        if budgets.standing == standing {
            return false;
        }
        let was_stranger = budgets.standing == Standing::Stranger;
        budgets.standing = standing;
        if standing != Standing::Stranger && budgets.as_relay.is_none() {
            let source = budgets.source;
            let left = self.sources.get(&source).map(|source| source.ended_relays);
            self.link(link).as_relay = Some(Box::new(left.unwrap_or_default()));
        }
        if standing == Standing::Stranger {
            self.others.remove(&link);
            self.strangers.insert(link);
        } else {
            self.strangers.remove(&link);
            self.others.insert(link);
        }
        was_stranger
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
        // The link may have ended during the work. To charge it would note it again, and nothing would forget it.
        if !self.links.contains_key(&link) {
            return;
        }
        self.charged(now, link, work, |rate, bucket, is_last| {
            let (cost, fill_time) = rate.times_to_earn(amount as u64);
            // The first bucket that has anything left pays. With what remains in a bucket that did not pay, a link
            // could always begin more.
            let is_paid = is_last || bucket.full_at() < now + fill_time;
            if is_paid {
                let _ = bucket.take_with_debt(now, cost, fill_time);
            }
            is_paid
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

    /// Returns whether at least half of the budget of a relay or neighbour is left. The other half is kept for work that
    /// comes from members of the network. Without it, strangers at many nodes could together use up what the nodes
    /// accept from each other. Always true for a stranger, whose budget is small enough.
    pub(crate) fn has_reserve(&mut self, now: Instant, link: NodeId, work: Work) -> bool {
        self.standing(link) == Standing::Stranger
            || self.charged(now, link, work, |rate, bucket, _| {
                let mut copy = *bucket;
                rate.take(&mut copy, now, rate.burst / 2)
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
        let (standing, source) = (budgets.standing, budgets.source);
        let as_relay = budgets.as_relay.as_mut().and_then(|buckets| buckets.get_mut(kind));
        match (standing, as_relay) {
            (Standing::Relay, Some(own)) => return take(limits.relay, own, true),
            (Standing::Neighbour, Some(own)) => return take(limits.neighbour, own, true),
            _ => {}
        }
        let source = self.sources.entry(source).or_default();
        let (Some(of_source), Some(pool)) =
            (source.strangers.get_mut(kind), self.pool.get_mut(kind))
        else {
            return false;
        };
        let is_paid = take(limits.stranger, of_source, false) || take(limits.pool, pool, true);
        if !is_paid {
            if let Some(refused_at) = source.refused_at.get_mut(work.flood() as usize) {
                *refused_at = Some(now);
            }
            self.refused = self.is_member.then_some(link);
        }
        is_paid
    }

    /// Returns the time for which a stranger is not to be read, if work of it was refused since the last call. Only a
    /// member of the network pauses strangers.
    pub(super) fn begin_pause(
        &mut self,
        now: Instant,
        link: NodeId,
        rng: &mut ChaCha8Rng,
    ) -> Option<Duration> {
        self.refused.take_if(|refused| *refused == link)?;
        self.links.get_mut(&link)?.pauses.begin(now, rng)
    }

    /// Sets whether this node is a member of the network, which has less work for strangers.
    pub(super) fn set_member(&mut self, is_member: bool) {
        // Called for each frame, and seldom a change.
        if self.is_member == is_member {
            return;
        }
        self.is_member = is_member;
        if let Some(checks) = self.limits.get_mut(Work::Check as usize) {
            *checks = if is_member { CHECKS_OF_MEMBER } else { CHECKS };
        }
    }

    /// Returns whether this node is a member of the network, and the peer is a stranger. In a network that is made by
    /// hand, every peer that has dialled this node is a stranger to it, so there the distinction is not made.
    pub(crate) fn is_stranger_to_member(&self, link: NodeId) -> bool {
        self.links.get(&link).is_some_and(|link| self.is_stranger_of_member(link))
    }

    /// Returns the strangers with which there is a link, also if this node is not a member of the network.
    pub(crate) fn strangers(&self) -> &BTreeSet<NodeId> {
        &self.strangers
    }

    /// Returns the peers that are no strangers if this node is a member of the network. Only a member makes this
    /// distinction.
    pub(crate) fn others_of_member(&self) -> Option<&BTreeSet<NodeId>> {
        self.is_member.then_some(&self.others)
    }

    fn is_stranger_of_member(&self, link: &LinkBudgets) -> bool {
        self.is_member && link.standing == Standing::Stranger
    }

    /// Returns whether the peer is a stranger that floods this node with work of this kind, or has the source of
    /// one: such work was refused a short time ago. Only a member of the network makes this distinction. In a
    /// network that is made by hand, every peer that has dialled this node is a stranger to it.
    pub(crate) fn is_flooding(&self, now: Instant, link: NodeId, work: Work) -> bool {
        let Some(link) = self.links.get(&link).filter(|link| self.is_stranger_of_member(link))
        else {
            return false;
        };
        let source = self.sources.get(&link.source);
        let refused = source.and_then(|source| *source.refused_at.get(work.flood() as usize)?);
        refused.is_some_and(|at| now.since(at) < FLOOD_TIME)
    }

    /// Notes that a stranger has not ended a query in time.
    pub(super) fn note_late(&mut self, now: Instant, link: NodeId) {
        let link = self.links.get(&link);
        if let Some(source) = link.and_then(|link| self.sources.get_mut(&link.source)) {
            source.late_at = Some(now);
        }
    }

    /// Returns whether queries are passed on to the peer. They are not passed on to a stranger if it, or another one
    /// of its source, floods this node with queries, or was late with the end of a query a short time ago.
    pub(super) fn may_be_asked(&self, now: Instant, link: NodeId) -> bool {
        let stranger = self.links.get(&link).filter(|link| self.is_stranger_of_member(link));
        let source = stranger.and_then(|link| self.sources.get(&link.source));
        let late_at = source.and_then(|source| source.late_at);
        let is_late = late_at.is_some_and(|at| now.since(at) < FLOOD_TIME);
        !is_late && !self.is_flooding(now, link, Work::Query)
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
        let Some(LinkBudgets { source, as_relay, .. }) = self.links.remove(&link) else { return };
        self.strangers.remove(&link);
        self.others.remove(&link);
        let Some(source) = self.sources.get_mut(&source) else { return };
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
            && let Some((first, _)) = idle.min_by_key(|(_, source)| source.full_at())
        {
            let first = *first;
            self.sources.remove(&first);
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
mod tests;
