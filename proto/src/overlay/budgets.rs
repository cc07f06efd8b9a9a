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

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bucket::{Bucket, time_to_earn};
use crate::config::Config;
use crate::id::NodeId;
use crate::time::Instant;

/// A kind of work, with the unit in which it is measured.
#[allow(dead_code, reason = "not all parts of the overlay charge their work yet")]
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
    /// Node records, each with a signature check.
    Record,
    /// Beacons, each with a signature check.
    Beacon,
}

/// Number of kinds of work.
const KINDS: usize = 7;

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

/// Node records. A shuffle has up to 16 of them, every 30 seconds, and is passed on by six nodes.
const RECORDS: Limits =
    Limits { relay: Rate::new(32, 512), stranger: Rate::new(2, 64), pool: Rate::new(16, 256) };

/// Beacons. An honest node passes one on every ten seconds, and a few at once while two parts of a network
/// meet.
const BEACONS: Limits =
    Limits { relay: Rate::new(1, 16), stranger: Rate::new(1, 4), pool: Rate::new(1, 16) };

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
}

/// The budgets of all links.
#[derive(Debug)]
pub(crate) struct Budgets {
    limits: [Limits; KINDS],
    links: BTreeMap<NodeId, LinkBudgets>,
    pool: [Bucket; KINDS],
    drops: BudgetDrops,
}

#[derive(Debug, Default)]
struct LinkBudgets {
    standing: Standing,
    buckets: [Bucket; KINDS],
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
            limits: [QUERIES, ANSWERS, messages, BROADCASTS, CHECKS, RECORDS, BEACONS],
            links: BTreeMap::new(),
            pool: [Bucket::default(); KINDS],
            drops: BudgetDrops::default(),
        }
    }

    /// Sets the standing of a link, from which its next frames are charged.
    pub(super) fn set_standing(&mut self, link: NodeId, standing: Standing) {
        if let Some(budgets) = self.links.get_mut(&link) {
            budgets.standing = standing;
        } else if standing == Standing::Relay {
            // A link without an entry is a stranger's.
            self.links.insert(link, LinkBudgets { standing, ..LinkBudgets::default() });
        }
    }

    /// Charges a link for work that it causes. Returns whether its budget allows the work. If not, nothing is
    /// charged, and the refusal is counted.
    #[must_use]
    pub(crate) fn take(&mut self, now: Instant, link: NodeId, work: Work, amount: usize) -> bool {
        let (kind, amount) = (work as usize, amount as u64);
        let budgets = self.links.entry(link).or_default();
        let (Some(limits), Some(own), Some(pool)) =
            (self.limits.get(kind), budgets.buckets.get_mut(kind), self.pool.get_mut(kind))
        else {
            return false;
        };
        let allowed = match budgets.standing {
            Standing::Relay => limits.relay.take(own, now, amount),
            Standing::Stranger => {
                limits.stranger.take(own, now, amount) || limits.pool.take(pool, now, amount)
            }
        };
        if !allowed {
            self.count(work);
        }
        allowed
    }

    /// Charges a link for work whose amount was not known before it was done. The budget may go into debt.
    pub(crate) fn charge(&mut self, now: Instant, link: NodeId, work: Work, amount: usize) {
        let kind = work as usize;
        let budgets = self.links.entry(link).or_default();
        let (Some(limits), Some(own), Some(pool)) =
            (self.limits.get(kind), budgets.buckets.get_mut(kind), self.pool.get_mut(kind))
        else {
            return;
        };
        let (rate, bucket) = match budgets.standing {
            Standing::Relay => (limits.relay, own),
            Standing::Stranger => {
                let (cost, fill_time) = limits.stranger.times_to_earn(amount as u64);
                if own.take(now, cost, fill_time) {
                    return;
                }
                (limits.pool, pool)
            }
        };
        let (cost, fill_time) = rate.times_to_earn(amount as u64);
        let _ = bucket.take_with_debt(now, cost, fill_time);
    }

    /// Returns whether a link may cause work of this kind, although only the least amount is known yet. The caller
    /// [charges](Self::charge) the work later.
    pub(crate) fn may_begin(&self, now: Instant, link: NodeId, work: Work, least: u64) -> bool {
        let kind = work as usize;
        let (Some(limits), Some(pool)) = (self.limits.get(kind), self.pool.get(kind)) else {
            return false;
        };
        let budgets = self.links.get(&link);
        let mut own = budgets.and_then(|link| link.buckets.get(kind)).copied().unwrap_or_default();
        match budgets.map(|link| link.standing).unwrap_or_default() {
            Standing::Relay => limits.relay.take(&mut own, now, least),
            Standing::Stranger => {
                limits.stranger.take(&mut own, now, least)
                    || limits.pool.take(&mut pool.clone(), now, least)
            }
        }
    }

    /// Counts work that was refused without [`take`](Self::take).
    pub(crate) fn count(&mut self, work: Work) {
        match work {
            Work::Query | Work::Answer => self.drops.queries += 1,
            Work::Message => self.drops.messages += 1,
            Work::Broadcast | Work::Check => self.drops.broadcasts += 1,
            Work::Record => self.drops.records += 1,
            Work::Beacon => self.drops.beacons += 1,
        }
    }

    /// Forgets a link that has ended.
    pub(super) fn link_down(&mut self, link: NodeId) {
        // A new link begins with a full budget of its own. The pool, which is larger, stays as it is.
        self.links.remove(&link);
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
        assert!(taken(&mut budgets, at(2), 1, Work::Query, 10_000) < 16);
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
        budgets.link_down(node(1));
        assert!(budgets.links.is_empty());
    }
}
