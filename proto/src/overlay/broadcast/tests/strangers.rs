//! Floods of runs by strangers, who have any number of identities, and links with many strangers.

use super::*;
use crate::overlay::budgets::Standing;

/// Returns the first broadcasts of the run `epoch` of the `n`th author.
fn batch_of(n: u32, epoch: u64, first: u64, texts: &[&str]) -> Batch {
    let mut secret = [7; 32];
    secret[..4].copy_from_slice(&n.to_be_bytes());
    let items = texts.iter().map(|text| item(text)).collect();
    Batch::sign(&Key::from_secret(&secret), "net", epoch, (first, 1), items)
}

fn small_table(links: u8) -> TestBench {
    let config = Config { broadcast_runs: 256, ..Config::default() };
    TestBench::with(Key::from_secret(&[100; 32]), links, &config)
}

impl TestBench {
    /// Returns whether the node delivers a batch that link `from` brings.
    fn delivers(&mut self, from: u8, batch: Batch) -> bool {
        self.receive(from, batch);
        self.out().iter().any(|out| out.starts_with("delivered"))
    }

    fn announce_invented(&mut self, from: u8, n: u32) {
        let mut author = [from; 32];
        author[..4].copy_from_slice(&n.to_be_bytes());
        let run = RunId { author: NodeId::from_bytes(author), epoch: 1 };
        let haves = [Have { run, upto: 1 }];
        self.act(|broadcasts, cx| broadcasts.receive_haves(cx, link(from), &haves));
    }
}

#[test]
fn an_author_has_few_runs_and_earlier_ones_are_refused() {
    let mut node = TestBench::new(2);
    for epoch in 1..=200 {
        assert!(node.delivers(1, batch_of(1, epoch, 1, &["x"])));
    }
    assert_eq!(
        node.part.runs.keys().map(|run| run.epoch).collect::<Vec<_>>(),
        [197, 198, 199, 200]
    );
    for epoch in 1..=196 {
        assert!(!node.delivers(2, batch_of(1, epoch, 1, &["x"])), "replayed {epoch}");
    }
    let counters = node.part.counters();
    assert_eq!((counters.outdated, counters.retired_runs), (196, 196));
    assert!(node.delivers(2, batch_of(2, 1, 1, &["x"])), "another author");
}

#[test]
fn a_flood_of_runs_takes_only_the_room_of_its_link() {
    let mut node = small_table(3);
    let honest = |n: u32, first| batch_of(100_000 + n, 5, first, &["honest"]);
    for n in 0..50 {
        assert!(node.delivers(2, honest(n, 1)));
    }
    for n in 0..2560 {
        node.now = node.now + Duration::from_millis(10);
        assert!(node.delivers(1, batch_of(n, 5, 1, &["flood"])));
        assert!(node.part.runs.len() <= 256);
    }
    assert!(node.part.counters().retired_runs >= 2560 - 256);
    // Neither the flood nor the honest broadcasts are delivered again.
    for n in 0..2560 {
        assert!(!node.delivers(3, batch_of(n, 5, 1, &["flood"])));
    }
    for n in 0..50 {
        let known = node.part.runs.contains_key(&honest(n, 1).run);
        assert!(known && !node.delivers(1, honest(n, 1)) && node.delivers(3, honest(n, 2)));
    }
    // A newcomer gets in over each link, also over the one that brings the flood.
    for n in 50..60 {
        assert!(node.delivers(1 + u8::try_from(n % 3).unwrap(), honest(n, 1)));
    }
}

#[test]
fn a_run_that_came_over_the_link_of_a_flood_continues_where_it_was() {
    let mut node = small_table(2);
    assert!(node.delivers(1, batch_of(9000, 5, 1, &["a"])));
    for n in 0..600 {
        node.now = node.now + Duration::from_millis(10);
        assert!(node.delivers(1, batch_of(n, 5, 1, &["flood"])));
    }
    let run = batch_of(9000, 5, 1, &["a"]).run;
    assert!(!node.part.runs.contains_key(&run));
    // A summary of the replayed run does not bring its first broadcast back either.
    let have = Have { run, upto: 1 };
    node.act(|broadcasts, cx| broadcasts.receive_haves(cx, link(2), &[have]));
    assert!(!node.delivers(2, batch_of(9000, 5, 1, &["a"])));
    assert!(node.delivers(2, batch_of(9000, 5, 2, &["b"])));
    assert!(!node.delivers(1, batch_of(9000, 5, 1, &["a"])));
    assert_eq!(node.part.counters().missed, 0);
}

#[test]
fn runs_of_links_that_have_ended_share_one_account() {
    let mut node = small_table(1);
    for n in 0..10 {
        node.receive(1, batch_of(100_000 + n, 5, 1, &["honest"]));
    }
    for n in 0..1000_u32 {
        node.now = node.now + Duration::from_millis(10);
        let id = 2 + u8::try_from(n % 50).unwrap();
        node.link(id);
        node.receive(id, batch_of(n, 5, 1, &["flood"]));
        node.links.remove(&link(id));
        node.act(|broadcasts, cx| broadcasts.link_down(cx, link(id)));
    }
    let honest = (0..10)
        .filter(|n| node.part.runs.contains_key(&batch_of(100_000 + n, 5, 1, &["honest"]).run));
    assert_eq!(honest.count(), 10);
}

#[test]
fn invented_summaries_leave_room_for_those_of_other_links() {
    let mut node = TestBench::new(3);
    node.receive(3, batch(1, &["a"]));
    node.out();
    for n in 0..40_960 {
        node.announce_invented(1, n);
    }
    assert_eq!((node.part.unverified, node.part.runs.len()), (4096, 4097));
    assert_eq!(node.part.counters().ignored_announcements, 40_960 - 4096);
    for n in 0..500 {
        node.announce_invented(2, n);
    }
    assert!(node.part.unverified <= 4096);
    assert_eq!(node.part.unverified_by_link[&Some(link(2))], 500);
    // The unsigned runs of one author are few, whoever the author is.
    for epoch in 10..100 {
        let have = Have { run: RunId { epoch, ..run() }, upto: 1 };
        node.act(|broadcasts, cx| broadcasts.receive_haves(cx, link(2), &[have]));
    }
    assert!(node.part.unverified_by_link[&Some(link(2))] <= 504);
    node.receive(3, batch(2, &["b"]));
    assert!(node.out().contains(&"delivered b".to_owned()));
    for id in [1, 2] {
        node.links.remove(&link(id));
        node.act(|broadcasts, cx| broadcasts.link_down(cx, link(id)));
    }
    while node.part.unverified > 0 {
        node.wait();
    }
    assert!(node.part.unverified_by_link.is_empty() && node.part.runs.len() == 1);
}

#[test]
fn signatures_of_a_link_are_checked_at_a_bounded_rate_and_the_rest_is_requested_again() {
    let mut node = TestBench::new(2);
    let batch = batch(1, &["a"]);
    let spent = |node: &mut TestBench, link: u8| {
        let taken =
            |node: &mut TestBench| node.budgets.take(node.now, self::link(link), Work::Check, 1000);
        while taken(node) {}
    };
    spent(&mut node, 1);
    node.receive(1, batch.clone());
    assert_eq!(node.out(), [""; 0], "neither checked nor passed on");
    assert!(node.budgets.drops().broadcasts > 0);
    // Another link brings it, or this one is asked for it later.
    node.wait();
    assert_eq!(node.out(), ["want 1 0"]);
    node.now = node.now + Duration::from_secs(1);
    node.receive(1, batch);
    assert_eq!(node.out(), ["push 2 a", "delivered a"]);
}

/// Returns a member of the network with three peers that it has dialled, and links with `strangers` others.
fn member(strangers: u8) -> TestBench {
    let mut node = TestBench::new(3 + strangers);
    node.budgets.set_member(true);
    for n in 1..=3 + strangers {
        node.budgets.link_up(link(n), std::net::Ipv4Addr::new(192, 0, 2, n).into());
    }
    for n in 1..=3 {
        node.budgets.set_standing(link(n), Standing::Relay);
    }
    node
}

#[test]
fn neighbours_get_a_broadcast_before_strangers_who_take_turns() {
    let mut node = member(40);
    // A stranger whose identity comes before that of a neighbour.
    node.budgets.set_standing(link(2), Standing::Stranger);
    node.receive(1, batch(1, &["a"]));
    let start = node.now;
    assert_eq!(node.out(), ["push 3 a", "delivered a"]);
    assert!(node.part.poll_timeout().unwrap() <= start);
    node.wait();
    let first: Vec<_> = [2].into_iter().chain(4..=10).map(|n| format!("push {n} a")).collect();
    assert_eq!(node.out(), first);
    // What arrives before the turn of a stranger is sent together.
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out(), ["push 3 b", "delivered b"]);
    let mut later = Vec::new();
    while node.part.later_pushes.poll_timeout().is_some() {
        node.wait();
        later.extend(node.out());
    }
    assert_eq!(node.now.since(start), Duration::from_millis(30), "six more turns");
    let both = (11..=43).flat_map(|n| [format!("push {n} a"), format!("push {n} b")]);
    let second = [2].into_iter().chain(4..=10).map(|n| format!("push {n} b"));
    assert_eq!(later, both.chain(second).collect::<Vec<_>>());
}

#[test]
fn a_stranger_gets_neither_what_it_has_brought_nor_what_its_summary_had() {
    let mut node = member(2);
    node.receive(4, batch(1, &["a"]));
    node.link(6);
    node.budgets.link_up(link(6), std::net::Ipv4Addr::new(192, 0, 2, 6).into());
    assert_eq!(node.out(), ["push 1 a", "push 2 a", "push 3 a", "delivered a", "have 6 [1]"],);
    node.wait();
    assert_eq!(node.out(), ["push 5 a"]);
}

#[test]
fn a_stranger_that_becomes_a_neighbour_before_its_turn_misses_nothing() {
    let mut node = member(2);
    node.receive(1, batch(1, &["a"]));
    node.out();
    assert!(node.budgets.set_standing(link(5), Standing::Neighbour));
    node.act(|broadcasts, cx| broadcasts.send_what_is_due(cx, link(5)));
    assert_eq!(node.out(), ["push 5 a"]);
    node.receive(1, batch(2, &["b"]));
    node.wait();
    assert_eq!(
        node.out(),
        ["push 2 b", "push 3 b", "push 5 b", "delivered b", "push 4 a", "push 4 b"],
    );
}

#[test]
fn pushes_are_discarded_when_all_strangers_have_had_a_turn_after_them() {
    let mut node = member(20);
    for first in 1..=100 {
        node.receive(1, batch(first, &["a"]));
        node.wait();
        node.out();
        assert!(node.part.later_pushes.pushes() <= 2 * 3, "{}", node.part.later_pushes.pushes());
    }
}

#[test]
fn the_number_of_pushes_that_wait_for_turns_is_bounded() {
    let mut node = member(1);
    for after in 0..40_000 {
        node.part.later_pushes.add(run(), after, None, node.budgets.strangers());
    }
    assert_eq!(node.part.later_pushes.pushes(), 16_384);
}

#[test]
fn a_stranger_gets_a_bounded_number_of_bytes_in_a_turn() {
    let mut node = member(1);
    let large = "x".repeat(60 << 10);
    for first in 1..=10 {
        node.receive(1, batch(first, &[&large]));
    }
    node.out.clear();
    let mut turns = Vec::new();
    while node.part.later_pushes.poll_timeout().is_some() {
        node.wait();
        turns.push(node.out.drain(..).count());
    }
    assert_eq!(turns, [5, 5]);
}

#[test]
fn a_stranger_whose_crowded_link_skips_a_batch_gets_the_summary_in_its_turn() {
    let mut node = member(1);
    let pushed = batch(1, &["a"]);
    node.receive(1, pushed.clone());
    node.wait();
    node.out();
    let skipped = node.now;
    node.act(|broadcasts, cx| broadcasts.batch_skipped(cx, link(4), &pushed));
    node.wait();
    assert_eq!(node.out(), ["have 4 [1]"]);
    assert_eq!(node.now.since(skipped), Duration::from_millis(5), "the next turn");
}

#[test]
fn strangers_with_pruned_links_get_summaries_in_turn() {
    let mut node = member(16);
    node.receive(1, batch(1, &["a"]));
    while node.part.later_pushes.poll_timeout().is_some() {
        node.wait();
    }
    for n in 1..=19 {
        node.prune_from(n);
    }
    node.out();
    node.receive(1, batch(2, &["b"]));
    assert_eq!(node.out(), ["delivered b"]);
    for strangers in [4..=11, 12..=19] {
        node.wait();
        let expected: Vec<_> = strangers.map(|n| format!("have {n} [2]")).collect();
        assert_eq!(node.out(), expected);
    }
    node.wait();
    assert_eq!(node.out(), ["have 2 [2]", "have 3 [2]"]);
}

/// Otherwise a thousand strangers could make a node keep a thousand notes for each run.
#[test]
fn a_run_remembers_few_strangers_and_all_neighbours() {
    let mut node = member(200);
    node.receive(1, batch(1, &["a"]));
    for n in (1..=203).rev() {
        node.announce(n, 1);
        node.prune_from(n);
    }
    let pruned = node.part.runs[&run()].lazy_peers();
    assert!((64..=64 + 3).contains(&pruned.len()), "{}", pruned.len());
    assert!((1..=3).all(|n| pruned.contains(&link(n))));
    // A stranger of which nothing is noted still gets what it asks for.
    while node.part.later_pushes.poll_timeout().is_some() {
        node.wait();
    }
    node.out();
    let unknown = (4..=203).find(|n| !pruned.contains(&link(*n))).unwrap();
    let want = Want { run: run(), after: 0 };
    node.act(|broadcasts, cx| broadcasts.receive_want(cx, link(unknown), want));
    assert_eq!(node.out(), [format!("push {unknown} a"), format!("given {unknown} 1")]);
}
