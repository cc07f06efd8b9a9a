//! Floods of queries from many strangers into a network of honest nodes.

use std::time::{Duration, Instant};

use peerkit::{Address, NodeId};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::query::{Query, QueryId, QueryKind, UNLIMITED};

use crate::attacker::{Conduct, STEP_TIMEOUT, SybilLink, Sybils, encoded, end_all};
use crate::honest::HonestNetwork;

const HONEST_NODES: usize = 4;

/// Returns `count` new queries of one attacker.
fn queries(attacker: NodeId, count: u32, what: &QueryKind) -> Vec<u8> {
    let query = |n: u32| {
        let mut id: [u8; 16] = attacker.as_bytes()[..16].try_into().unwrap();
        id[..4].copy_from_slice(&n.to_le_bytes());
        let what = what.clone();
        Frame::Query(Query {
            id: QueryId(id),
            depth: UNLIMITED,
            own: false,
            ttl: STEP_TIMEOUT,
            what,
        })
    };
    (0..count).flat_map(|n| encoded(&query(n))).collect()
}

/// A hundred strangers have links, and ask nothing. A third of them never end a query, and a third end each query as
/// incomplete.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_ask_nothing_do_not_make_queries_incomplete() {
    let mut network = HonestNetwork::start(HONEST_NODES, 3).await;
    let links = network.link_all(&Sybils::new(100, 8)).await;
    network.check("with the strangers").await;
    assert!(links.iter().all(SybilLink::is_up));
    end_all(links).await;
    network.stop().await;
}

/// Each query for all nodes causes an answer of each node. A hundred strangers send 4.6 MB of them, half of them
/// over one link.
async fn check_a_flood_of_discoveries(groups: usize) {
    let mut network = HonestNetwork::start(HONEST_NODES, 3).await;
    let links = network.link_all(&Sybils::new(100, groups)).await;
    for (n, link) in links.iter().enumerate() {
        // The drops of the measured node, which has the first link, can't be counted.
        let count = if n == 1 { 60_000 } else { 600 };
        link.send_raw(queries(link.id, count, &QueryKind::Discover));
    }
    network.check("during the flood").await;
    network.check("during the flood, again").await;
    end_all(links).await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the flood").await;
    let mut over_budget = 0;
    for honest in &network.nodes {
        over_budget += honest.node.status().await.drops.queries_over_budget;
    }
    assert!(over_budget > 50_000, "{over_budget} queries were not passed on");
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_discoveries_from_one_group_does_not_hurt_a_network() {
    check_a_flood_of_discoveries(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long, so .ci/long runs it"]
async fn a_flood_of_discoveries_from_eight_groups_does_not_hurt_a_network() {
    check_a_flood_of_discoveries(8).await;
}

/// A hundred strangers send queries of 8 KiB for a node that does not exist. Eight others fill the whole table of
/// queries of one honest node. The honest nodes keep little of the queries, and their own queries find room.
async fn check_full_tables_and_long_queries(groups: usize) {
    let mut network = HonestNetwork::start(HONEST_NODES, 3).await;
    let sybils = Sybils::new(108, groups);
    let links = network.link_all(&sybils).await;
    let far: Address = format!("{}:1", "a".repeat(250)).parse().unwrap();
    let target = NodeId::from_bytes([1; 32]);
    let long = QueryKind::CallBack { target, token: [1; 16], addresses: vec![far; 32] };
    // The attackers n, n + 5, n + 10 and so on have links with the same node.
    let (on_one, others): (Vec<_>, Vec<_>) =
        links.iter().enumerate().partition(|(n, _)| n % (HONEST_NODES + 1) == 3 && *n < 40);
    for (_, link) in &others {
        link.send_raw(queries(link.id, 45, &long));
    }
    for (_, link) in &on_one {
        link.send_raw(queries(link.id, 9000, &QueryKind::FindNode(target)));
    }
    network.check("during the flood").await;
    end_all(links).await;
    network.wait_until_attackers_are_gone().await;
    network.check("after the flood").await;
    network.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_tables_and_long_queries_of_one_group_do_not_hurt_a_network() {
    check_full_tables_and_long_queries(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes long, so .ci/long runs it"]
async fn full_tables_and_long_queries_of_eight_groups_do_not_hurt_a_network() {
    check_full_tables_and_long_queries(8).await;
}

/// A hundred strangers link with one honest node. They ask much, and read next to nothing of what it sends to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_strangers_that_barely_read_do_not_fill_the_memory_of_a_node() {
    let mut network = HonestNetwork::start(3, 2).await;
    let mut links = Vec::new();
    let measured = network.addresses()[0];
    for sybil in Sybils::new(100, 8).all {
        let link = sybil.link(measured, |_| {}).await.expect("an attacker's link");
        links.push(SybilLink::with_conduct(link, Conduct::BarelyReads));
    }
    for link in &links {
        link.send_raw(queries(link.id, 600, &QueryKind::Discover));
    }
    network.check("during the flood").await;
    network.check("during the flood, again").await;
    end_all(links).await;
    network.stop().await;
}

/// Sixty strangers of one group of addresses link with a node, one after the other, and each asks fifty times. All of
/// them together have the budget of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_one_group_that_link_again_and_again_share_one_budget() {
    let network = HonestNetwork::start(HONEST_NODES, 3).await;
    let started = Instant::now();
    let asked = QueryKind::FindNode(NodeId::from_bytes([1; 32]));
    let remembered = async || network.nodes[1].node.status().await.queries;
    let before = remembered().await;
    for sybil in &Sybils::new(60, 1).all {
        let link = sybil.link(network.nodes[0].address(), |_| {}).await;
        let link = SybilLink::new(link.expect("an attacker's link"));
        link.send_raw(queries(link.id, 50, &asked));
        link.end().await;
    }
    network.wait_until_attackers_are_gone().await;
    let passed_on = remembered().await.saturating_sub(before);
    // Eight of the group and 32 of the pool, and in each second four of the pool and less than one of the group.
    let allowed = 8 + 32 + 5 * (started.elapsed().as_secs() as usize + 1);
    // Honest nodes may have used a part of the pool before.
    assert!((20..=allowed).contains(&passed_on), "{passed_on} of {allowed}");
    network.check_discoveries("after the flood").await;
    network.check_links("after the flood");
    network.stop().await;
}

/// A stranger goes on with queries that are refused, and sends a ping behind each fifty of them. Its link is read ever
/// more rarely, so that the pongs come late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_whose_queries_are_refused_is_read_rarely() {
    let network = HonestNetwork::start(3, 2).await;
    let sybil = Sybils::new(1, 1).all.remove(0);
    let mut attacker = sybil.link(network.nodes[0].address(), |_| {}).await.unwrap();
    let asked = QueryKind::FindNode(NodeId::from_bytes([1; 32]));
    let begun = Instant::now();
    let mut waits = Vec::new();
    // The longest pauses take two to six seconds.
    while waits.iter().all(|wait| *wait < Duration::from_millis(1500)) {
        assert!(begun.elapsed() < STEP_TIMEOUT && waits.len() < 200, "{waits:?}");
        // Queries that are known would cost nothing, so the ids are made from another identity each time.
        let round = u8::try_from(waits.len()).unwrap_or_default();
        attacker.send_raw(&queries(NodeId::from_bytes([round; 32]), 50, &asked)).await;
        let sent = Instant::now();
        attacker.send(&Frame::Ping(round.into())).await;
        loop {
            match attacker.frame().await {
                Some(Frame::Pong(number)) if number == u64::from(round) => break,
                Some(_) => {}
                None => panic!("the link has ended"),
            }
        }
        waits.push(sent.elapsed());
    }
    drop(attacker);
    network.wait_until_attackers_are_gone().await;
    network.check_links("after the flood");
    network.stop().await;
}
