//! Floods of queries from many strangers into a network of honest nodes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use peerkit::{Address, Event, Node, NodeId, Reason};
use peerkit_proto::frame::Frame;
use peerkit_proto::frame::query::{Query, QueryId, QueryKind, UNLIMITED};
use tokio::sync::OwnedMutexGuard;

use crate::attacker::{
    STEP_TIMEOUT, SybilLink, Sybils, config, encoded, end_all, honest_address, until,
    wait_for_turn, within,
};

const HONEST_NODES: usize = 12;

/// The ends of links, each with the peer.
type LinkEnds = Arc<Mutex<Vec<(NodeId, Reason)>>>;

/// Honest nodes, each in a group of addresses of its own.
struct Network {
    nodes: Vec<Node>,
    ids: BTreeSet<NodeId>,
    ends: LinkEnds,
    _turn: OwnedMutexGuard<()>,
}

impl Network {
    async fn start() -> Self {
        let turn = wait_for_turn().await;
        let mut config = config();
        config.limit_loopback = true;
        // The machine may be busy. A query that an attack stops has no end before that.
        config.query_timeout = STEP_TIMEOUT;
        let ends = LinkEnds::default();
        let mut nodes: Vec<Node> = Vec::new();
        for n in 0..HONEST_NODES {
            let ends = ends.clone();
            let builder = Node::builder().name(format!("honest{n}")).listen(honest_address(n));
            let builder = builder.config(config.clone()).callback(move |_, event| {
                if let Event::InboundNodeDisconnected { peer, link_end }
                | Event::OutboundNodeDisconnected { peer, link_end } = event
                {
                    ends.lock().unwrap().push((peer.id(), link_end.reason));
                }
            });
            let node = builder.spawn().await.unwrap();
            if let Some(first) = nodes.first() {
                let places = [first.listening()[0].into()];
                within(STEP_TIMEOUT, "a join", node.join(&places)).await.unwrap();
            }
            nodes.push(node);
        }
        let ids = nodes.iter().map(Node::id).collect();
        let network = Self { nodes, ids, ends, _turn: turn };
        let settled = async {
            loop {
                let found = network.nodes[HONEST_NODES / 2].discover(-1).await.unwrap();
                let ids: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
                if ids == network.ids && found.complete {
                    break;
                }
            }
        };
        within(STEP_TIMEOUT, "the network", settled).await;
        network
    }

    /// Links the attackers with the honest nodes in turn.
    async fn link_all(&self, sybils: &Sybils) -> Vec<SybilLink> {
        let mut links = Vec::new();
        for (sybil, node) in sybils.all.iter().zip(self.nodes.iter().cycle()) {
            let link = sybil.link(node.listening()[0], |_| {}).await;
            links.push(SybilLink::new(link.expect("an attacker's link")));
        }
        links
    }

    /// Checks that a discovery of each honest node is complete and finds all of them.
    async fn check_discoveries(&self, when: &str) {
        for node in &self.nodes {
            let discovering = node.discover(-1);
            let found = within(2 * STEP_TIMEOUT, "a discovery", discovering).await.unwrap();
            let ids: BTreeSet<_> = found.nodes.iter().map(|node| node.id).collect();
            let missing = self.ids.difference(&ids).count();
            assert!(missing == 0, "{when}: {} misses {missing} nodes", node.name());
            // During a flood the queue of an attacker's link may be crowded, and then the query is left out there.
            let may_miss_attackers = when.starts_with("during");
            let is_complete = found.complete || may_miss_attackers;
            assert!(is_complete, "{when}: the discovery of {} is incomplete", node.name());
        }
    }

    /// Waits until the honest nodes have no links with attackers. A query to a link that is ending is incomplete.
    async fn wait_until_attackers_are_gone(&self) {
        let is_honest = |node: &Node| node.peers().iter().all(|peer| self.ids.contains(&peer.id()));
        let are_gone = || self.nodes.iter().all(is_honest);
        until("no links with attackers", are_gone, String::new).await;
    }

    /// Checks that no link between two honest nodes has ended, except those that the membership has replaced.
    fn check_links(&self) {
        let ends = self.ends.lock().unwrap();
        let of_honest = ends.iter().filter(|(peer, _)| self.ids.contains(peer));
        let broken = of_honest.filter(|(_, reason)| {
            matches!(reason, Reason::Slow | Reason::Fault(_) | Reason::Silent(_) | Reason::Lost(_))
        });
        let broken: Vec<_> = broken.collect();
        assert!(broken.is_empty(), "links between honest nodes have ended: {broken:?}");
    }

    async fn stop(self) {
        for node in self.nodes {
            within(STEP_TIMEOUT, "a node's stop", node.shutdown()).await;
        }
    }
}

/// Returns `count` new queries of one attacker.
fn queries(attacker: &SybilLink, count: u32, what: &QueryKind) -> Vec<u8> {
    let query = |n: u32| {
        let mut id: [u8; 16] = attacker.id.as_bytes()[..16].try_into().unwrap();
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

/// Each query for all nodes causes an answer of each node. A hundred strangers send 4.6 MB of them, half of them
/// over one link. Neither the links between honest nodes nor their discoveries suffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_discoveries_ends_no_link_between_honest_nodes() {
    let network = Network::start().await;
    let links = network.link_all(&Sybils::new(100, 8)).await;
    links[0].send_raw(queries(&links[0], 60_000, &QueryKind::Discover));
    for link in &links[1..] {
        link.send_raw(queries(link, 600, &QueryKind::Discover));
    }
    network.check_discoveries("during the flood").await;
    end_all(links).await;
    network.wait_until_attackers_are_gone().await;
    network.check_discoveries("after the flood").await;
    network.check_links();
    let mut over_budget = 0;
    for node in &network.nodes {
        over_budget += node.status().await.drops.queries_over_budget;
    }
    assert!(over_budget > 50_000, "{over_budget} queries were not passed on");
    network.stop().await;
}

/// A hundred strangers send queries of 8 KiB for a node that does not exist. Eight others fill the whole table of
/// queries of one honest node. The honest nodes keep little of the queries, and their own queries find room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_tables_and_long_queries_do_not_stop_the_queries_of_honest_nodes() {
    let network = Network::start().await;
    let sybils = Sybils::new(108, 9);
    let links = network.link_all(&sybils).await;
    let before = resident_kib();
    let far: Address = format!("{}:1", "a".repeat(250)).parse().unwrap();
    let target = NodeId::from_bytes([1; 32]);
    let long = QueryKind::CallBack { target, token: [1; 16], addresses: vec![far; 32] };
    // The attackers n, n + 12, n + 24 and so on have links with the same node.
    let (on_one, others): (Vec<_>, Vec<_>) =
        links.iter().enumerate().partition(|(n, _)| n % 12 == 3);
    for (_, link) in &others {
        link.send_raw(queries(link, 45, &long));
    }
    for (_, link) in &on_one {
        link.send_raw(queries(link, 9000, &QueryKind::FindNode(target)));
    }
    network.check_discoveries("during the flood").await;
    end_all(links).await;
    network.wait_until_attackers_are_gone().await;
    network.check_discoveries("after the flood").await;
    network.check_links();
    let grown = resident_kib().saturating_sub(before) / 1024;
    assert!(grown < 200, "all nodes and attackers together have {grown} MiB more than before");
    network.stop().await;
}

/// Sixty strangers of one group of addresses link with a node, one after the other, and each asks fifty times. All of
/// them together have the budget of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_one_group_that_link_again_and_again_share_one_budget() {
    let network = Network::start().await;
    let started = std::time::Instant::now();
    let asked = QueryKind::FindNode(NodeId::from_bytes([1; 32]));
    let remembered = async || network.nodes[1].status().await.queries;
    let before = remembered().await;
    for sybil in &Sybils::new(60, 1).all {
        let link = sybil.link(network.nodes[0].listening()[0], |_| {}).await;
        let link = SybilLink::new(link.expect("an attacker's link"));
        link.send_raw(queries(&link, 50, &asked));
        link.end().await;
    }
    network.wait_until_attackers_are_gone().await;
    let passed_on = remembered().await.saturating_sub(before);
    // Eight of the group and 32 of the pool, and in each second four of the pool and less than one of the group.
    let allowed = 8 + 32 + 5 * (started.elapsed().as_secs() as usize + 1);
    // Honest nodes may have used a part of the pool before.
    assert!((20..=allowed).contains(&passed_on), "{passed_on} of {allowed}");
    network.check_discoveries("after the flood").await;
    network.check_links();
    network.stop().await;
}

/// Returns the resident memory of this process, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
