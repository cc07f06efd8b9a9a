//! The budgets alone.

use rand_core::SeedableRng as _;

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
    // In ten seconds, each stranger earns one, and all together as many as the pool holds.
    assert_eq!(taken(&mut budgets, at(10), 1, Work::Query, 100), 1 + 32);
    assert_eq!(taken(&mut budgets, at(10), 2, Work::Query, 100), 1);
    assert_eq!(budgets.drops().queries, 10_000 - 40 + 98 * 92 + 67 + 99);
}

/// A node passes on for all its strangers together less than the next node accepts from it.
#[test]
fn the_next_node_accepts_more_from_a_relay_than_many_strangers_can_cause() {
    for limits in &new().limits[..2] {
        let Limits { neighbour, stranger, pool, .. } = limits;
        assert!(pool.per_minute + 8 * stranger.per_minute < neighbour.per_minute, "{limits:?}");
        assert!(pool.burst + 8 * stranger.burst < neighbour.burst, "{limits:?}");
    }
    let mut first = new();
    let mut next = new();
    next.set_standing(node(200), Standing::Neighbour);
    for second in 0..300 {
        let mut passed_on = 0;
        for stranger in 0..128 {
            passed_on += taken(&mut first, at(second), stranger, Work::Query, 20);
        }
        assert_eq!(taken(&mut next, at(second), 200, Work::Query, passed_on), passed_on);
        // The relay's own queries, and those of its neighbours.
        assert_eq!(taken(&mut next, at(second), 200, Work::Query, 5), 5);
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
    budgets.charge(at(0), node(1), Work::Answer, 2 << 20);
    assert!(budgets.may_begin(at(0), node(1), Work::Answer, 4096), "the pool is left");
    budgets.charge(at(0), node(1), Work::Answer, 20 << 20);
    assert!(!budgets.may_begin(at(0), node(1), Work::Answer, 4096));
    assert!(budgets.may_begin(at(0), node(2), Work::Answer, 4096), "another stranger's");
    assert!(!budgets.may_begin(at(3), node(1), Work::Answer, 4096), "the debt of the pool");
    assert!(budgets.may_begin(at(5), node(1), Work::Answer, 4096));
}

/// The answer of this node is looked up, and the link may end before that is done.
#[test]
fn work_for_a_link_that_has_ended_does_not_bring_it_back() {
    let mut budgets = new();
    budgets.link_up(node(1), ip("203.0.113.1"));
    budgets.link_down(at(0), node(1));
    budgets.charge(at(0), node(1), Work::Answer, 4096);
    assert!(budgets.links.is_empty() && budgets.sources.is_empty());
}

/// Two attackers that have become neighbours of two nodes do not use up what the next node accepts over one
/// link. If they were dialled, they would.
#[test]
fn a_neighbour_that_was_not_dialled_causes_a_third_of_the_queries_of_a_relay() {
    for (standing, is_enough) in [(Standing::Neighbour, true), (Standing::Relay, false)] {
        let (mut first, mut second, mut next) = (new(), new(), new());
        first.set_standing(node(1), standing);
        second.set_standing(node(2), standing);
        next.set_standing(node(3), Standing::Relay);
        let mut honest = 0;
        for now in (0..600).map(at) {
            let by_first = taken(&mut first, now, 1, Work::Query, 100);
            let by_second = taken(&mut second, now, 2, Work::Query, 100);
            taken(&mut next, now, 3, Work::Query, by_first + by_second);
            honest += taken(&mut next, now, 3, Work::Query, 10);
        }
        assert_eq!(honest > 5900, is_enough, "{honest} of 6000");
    }
}

#[test]
fn a_member_checks_few_signatures_for_strangers() {
    let mut budgets = new();
    budgets.set_member(true);
    assert_eq!(taken(&mut budgets, at(0), 1, Work::Check, 10_000), 100 + 200);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    assert!(budgets.begin_pause(at(0), node(1), &mut rng).is_some());
    assert_eq!(budgets.begin_pause(at(1), node(1), &mut rng), None);
    budgets.set_standing(node(2), Standing::Neighbour);
    assert_eq!(taken(&mut budgets, at(0), 2, Work::Check, 10_000), 10_000);
    assert_eq!(budgets.begin_pause(at(0), node(2), &mut rng), None);
    budgets.set_member(false);
    assert!(taken(&mut budgets, at(1), 3, Work::Check, 20_000) >= 10_000);
    assert_eq!(budgets.begin_pause(at(1), node(3), &mut rng), None, "no member");
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
    budgets.link_down(at(100), node(201));
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
    budgets.set_member(true);
    budgets.link_up(node(1), ip("203.0.113.1"));
    budgets.link_up(node(2), ip("203.0.113.2"));
    budgets.link_up(node(3), ip("198.51.100.1"));
    assert_eq!(taken(&mut budgets, at(1), 1, Work::Query, 40), 40);
    assert!(!budgets.is_flooding(at(1), node(1), Work::Query));
    assert_eq!(taken(&mut budgets, at(1), 1, Work::Query, 1), 0);
    let flooding = |at: Instant| [1, 2, 3].map(|n| budgets.is_flooding(at, node(n), Work::Query));
    assert_eq!((flooding(at(10)), flooding(at(11))), ([true, true, false], [false; 3]));
    budgets.set_standing(node(2), Standing::Relay);
    assert!(!budgets.is_flooding(at(2), node(2), Work::Query), "a neighbour");
    assert!(!budgets.is_flooding(at(2), node(1), Work::Broadcast), "other work");
    budgets.set_member(false);
    assert!(!budgets.is_flooding(at(2), node(1), Work::Query), "no member");
}
